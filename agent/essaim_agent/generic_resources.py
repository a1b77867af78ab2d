"""What the configuration says the node has beside CPU and memory. Pure.

As dockerd's `--node-generic-resource`: `gpu=GPU-2f3a` names one unit, `ssd=3` counts units; each
name is written on its own line. A kind is either named or counted.
"""

from collections.abc import Iterable

from essaim_shared.errors import ConfigError
from essaim_shared.spec import DiscreteResource, GenericResource, NamedResource

UNITS_MAX = 1024
"""Lines; the description that carries them is sent with each registration."""


def parse_generic_resources(lines: Iterable[str]) -> tuple[GenericResource, ...]:
    """Raises ConfigError with the line that cannot be read."""
    named: dict[str, list[str]] = {}
    counted: dict[str, int] = {}
    for line in lines:
        kind, separator, value = (part.strip() for part in line.partition("="))
        if not (separator and kind and value):
            raise ConfigError(f"{line!r}: write KIND=NAME or KIND=NUMBER")
        if value.lstrip("-").isdecimal():
            if kind in counted:
                raise ConfigError(f"{line!r}: {kind} was counted before")
            if int(value) < 1:
                raise ConfigError(f"{line!r}: the number must be at least 1")
            counted[kind] = int(value)
        elif value in named.setdefault(kind, []):
            raise ConfigError(f"{line!r}: this unit was named before")
        else:
            named[kind].append(value)
    for kind in named.keys() & counted.keys():
        raise ConfigError(f"{kind}: mixes named and counted units")
    if sum(map(len, named.values())) + len(counted) > UNITS_MAX:
        raise ConfigError(f"more than {UNITS_MAX} entries")
    return (
        *(
            GenericResource(named=NamedResource(kind=kind, resource_value=name))
            for kind, names in named.items()
            for name in names
        ),
        *(
            GenericResource(discrete=DiscreteResource(kind=kind, resource_value=number))
            for kind, number in counted.items()
        ),
    )
