"""Counting out what a node has beside CPU and memory: GPUs, SSDs, licences. Pure.

A node's units of one kind are either named, so that each task is told which ones are its own, or
only counted. A reservation is always a number (SwarmKit, api/genericresource).
"""

from collections.abc import Iterable

from essaim_shared.spec import DiscreteResource, GenericResource, NamedResource

FreeUnits = dict[str, list[str] | int]
"""By kind: the names that nobody has, in the order in which the node announced them; or how many
are left. Negative when tasks hold more than the node has any more."""

WantedUnits = tuple[tuple[str, int], ...]
"""(kind, number), each kind once."""


def wanted_units(reserved: Iterable[GenericResource]) -> WantedUnits:
    """Two reservations of one kind add up."""
    wanted: dict[str, int] = {}
    for resource in reserved:
        if resource.discrete is not None:
            kind = resource.discrete.kind
            wanted[kind] = wanted.get(kind, 0) + resource.discrete.resource_value
        elif resource.named is not None:
            wanted[resource.named.kind] = wanted.get(resource.named.kind, 0) + 1
    return tuple((kind, number) for kind, number in wanted.items() if number > 0)


def free_units(announced: Iterable[GenericResource], taken: Iterable[GenericResource]) -> FreeUnits:
    """What is left of a node's units."""
    free: FreeUnits = {}
    for resource in announced:
        if resource.named is not None:
            names = free.setdefault(resource.named.kind, [])
            if isinstance(names, list):
                names.append(resource.named.resource_value)
        elif resource.discrete is not None:
            free[resource.discrete.kind] = resource.discrete.resource_value
    for resource in taken:
        _take(free, resource)
    return free


def _take(free: FreeUnits, resource: GenericResource) -> None:
    """One claim; of a unit that the node does not have any more nothing is left to take."""
    if resource.named is not None:
        names = free.get(resource.named.kind)
        if isinstance(names, list) and resource.named.resource_value in names:
            names.remove(resource.named.resource_value)
    elif resource.discrete is not None:
        left = free.get(resource.discrete.kind)
        if isinstance(left, int):
            free[resource.discrete.kind] = left - resource.discrete.resource_value


def has_units(free: FreeUnits, wanted: WantedUnits) -> bool:
    for kind, number in wanted:
        left = free.get(kind, 0)
        if (len(left) if isinstance(left, list) else left) < number:
            return False
    return True


def claim_units(free: FreeUnits, wanted: WantedUnits) -> tuple[GenericResource, ...]:
    """Take units that are there (`has_units`) from `free`; which ones they are."""
    claimed: list[GenericResource] = []
    for kind, number in wanted:
        left = free[kind]
        if isinstance(left, list):
            claimed += [
                GenericResource(named=NamedResource(kind=kind, resource_value=name))
                for name in left[:number]
            ]
            del left[:number]
        else:
            claimed.append(
                GenericResource(discrete=DiscreteResource(kind=kind, resource_value=number))
            )
            free[kind] = left - number
    return tuple(claimed)


def are_announced(claimed: Iterable[GenericResource], announced: Iterable[GenericResource]) -> bool:
    """Whether a node still has all the units that a task was given, whoever else has them."""
    free = free_units(announced, ())
    for resource in claimed:
        if resource.named is not None:
            names = free.get(resource.named.kind)
            if not isinstance(names, list) or resource.named.resource_value not in names:
                return False
        elif resource.discrete is not None:
            left = free.get(resource.discrete.kind)
            if not isinstance(left, int) or left < resource.discrete.resource_value:
                return False
    return True
