"""What a service's spec says of secrets and configs. Pure.

A reference names a number of data. It *follows* unless it is pinned: when there is newer data, the
leader changes the service to it (`payload_uses.caught_up`). `Service.followed` holds up to which
number that was done where the service has an older one, because it was rolled back: it stays there
until the next new data.
"""

from collections.abc import Iterator

from essaim_shared.container_spec import ConfigReference, ContainerSpec, SecretReference
from essaim_shared.ids import PayloadId
from essaim_shared.objects import Service
from essaim_shared.payload_objects import PayloadKind
from essaim_shared.spec import ServiceSpec, TaskSpec

Reference = SecretReference | ConfigReference

Use = tuple[PayloadKind, PayloadId, int]
"""Data that is referred to."""

_NOTHING: frozenset[Use] = frozenset()


def references_of(container: ContainerSpec) -> tuple[Reference, ...]:
    return (*container.secrets, *container.configs)


def use_of(reference: Reference) -> Use:
    """Of a reference that the masters have filled in."""
    number = reference.data_version if isinstance(reference.data_version, int) else 0
    if isinstance(reference, SecretReference):
        return "secret", PayloadId(reference.secret_id), number
    return "config", PayloadId(reference.config_id), number


def name_of(reference: Reference) -> str:
    if isinstance(reference, SecretReference):
        return reference.secret_name
    return reference.config_name


def uses_of(task: TaskSpec) -> frozenset[Use]:
    container = task.container
    if not (container.secrets or container.configs):
        return _NOTHING
    return frozenset(use_of(reference) for reference in references_of(container))


def _following(spec: ServiceSpec) -> Iterator[tuple[PayloadId, int]]:
    for reference in references_of(spec.task.container):
        if reference.is_pinned is not True:
            _, payload_id, number = use_of(reference)
            yield payload_id, number


def newest_seen(service: Service, payload_id: PayloadId) -> int:
    """The newest number that the service was brought to, or went back from; 0: it does not
    follow."""
    kept = service.followed.get(payload_id)
    if kept is not None:
        return kept
    numbers = [number for other, number in _following(service.spec) if other == payload_id]
    return max(numbers, default=0)


def followed_after(service: Service, spec: ServiceSpec) -> dict[str, int]:
    """`Service.followed` once the service has this spec."""
    followed = {}
    for payload_id, number in _following(spec):
        seen = newest_seen(service, payload_id)
        if seen > number:
            followed[str(payload_id)] = seen
    return followed
