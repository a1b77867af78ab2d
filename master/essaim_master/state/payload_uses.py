"""Who refers to the data of secrets and configs, who may read it, and who is behind. Pure.

As with networks (`network_uses`), a reference to data and the end of that data must not both
succeed: a service's transaction compares that what it comes to refer to exists, and writes the
mark of the secret or config; whoever deletes compares the mark's revision.
"""

from collections.abc import Iterator
from typing import TypeVar

import msgspec

from essaim_master.state.cluster_state import ClusterState
from essaim_master.state.errors import UnknownPayload
from essaim_master.state.keys import service_key
from essaim_master.state.payload_data import has_data
from essaim_master.state.payload_references import (
    Use,
    name_of,
    newest_seen,
    references_of,
    use_of,
    uses_of,
)
from essaim_master.state.service_changes import changed_service, is_run_by_updates, service_writes
from essaim_master.state.writes import Writes
from essaim_shared.container_spec import ConfigReference, SecretReference
from essaim_shared.ids import NodeId, PayloadId
from essaim_shared.objects import Service
from essaim_shared.payload_objects import Payload, PayloadKind
from essaim_shared.spec import ServiceSpec, TaskSpec

R = TypeVar("R", SecretReference, ConfigReference)


def services_with(state: ClusterState, payload: Payload) -> Iterator[Service]:
    """The services whose present spec refers to any of its data."""
    for service in state.services.values():
        if any(use[:2] == (payload.kind, payload.id) for use in uses_of(service.spec.task)):
            yield service


def needed_numbers(state: ClusterState, payload: Payload) -> set[int]:
    """The numbers that a service's present or previous spec, its history or a task refers to."""
    return {
        number
        for task in _templates(state)
        for kind, payload_id, number in uses_of(task)
        if (kind, payload_id) == (payload.kind, payload.id)
    }


def _templates(state: ClusterState) -> Iterator[TaskSpec]:
    for service in state.services.values():
        yield service.spec.task
        if service.previous_spec is not None:
            yield service.previous_spec.task
        for revision in state.revisions_of(service.id).values():
            yield revision.spec.task
    for task in state.tasks.values():
        yield task.spec


def mark_payloads(
    writes: Writes, state: ClusterState, before: Service | None, after: Service
) -> None:
    """Of a change of a service: guard the data that it refers to from now on. Raises
    UnknownPayload for what is gone."""
    known = frozenset[Use]() if before is None else uses_of(before.spec.task)
    for kind, payload_id, number in sorted(uses_of(after.spec.task) - known):
        _check_there(state, after.spec, (kind, payload_id, number))
        writes.use_payload(kind, payload_id, number, after.id)


def _check_there(state: ClusterState, spec: ServiceSpec, use: Use) -> None:
    kind, payload_id, number = use
    payload = state.payloads(kind).get(payload_id)
    if payload is None:
        names = {use_of(one)[:2]: name_of(one) for one in references_of(spec.task.container)}
        raise UnknownPayload(f"{kind} not found: {names[kind, payload_id]}")
    if not has_data(state, kind, payload_id, number):
        raise UnknownPayload(
            f"the data number {number} of {kind} {payload.name} is no longer kept: "
            "update the service instead, so that it gets what is there now"
        )


def may_read_payload(
    state: ClusterState, node_id: NodeId, kind: PayloadKind, payload_id: PayloadId, number: int
) -> bool:
    """Whether a node has a task that is to run, or runs, with this data."""
    use = (kind, payload_id, number)
    return any(
        task.is_wanted and not state.observed(task.id).is_terminal and use in uses_of(task.spec)
        for task in state.tasks_on_node(node_id).values()
    )


# Following.


def staying_behind(state: ClusterState, service: Service) -> Service:
    """A service that was just rolled back: the data that there is now does not come to it by
    itself, only what is newer."""
    followed = {}
    for reference in references_of(service.spec.task.container):
        kind, payload_id, number = use_of(reference)
        payload = state.payloads(kind).get(payload_id)
        if payload is not None and payload.latest > number and reference.is_pinned is not True:
            followed[str(payload_id)] = payload.latest
    return msgspec.structs.replace(service, followed={**service.followed, **followed})


def caught_up(state: ClusterState, service: Service, now_ns: int) -> Service | None:
    """The service with the newest data of all that it follows; None when it has that. A job that
    its updates run is left alone: new data is no reason to run it again."""
    container = service.spec.task.container
    if not (container.secrets or container.configs) or is_run_by_updates(service.spec):
        return None
    secrets = tuple(_newest(state, service, one) for one in container.secrets)
    configs = tuple(_newest(state, service, one) for one in container.configs)
    if secrets == container.secrets and configs == container.configs:
        return None
    changed = msgspec.structs.replace(container, secrets=secrets, configs=configs)
    task = msgspec.structs.replace(service.spec.task, container=changed)
    return changed_service(service, msgspec.structs.replace(service.spec, task=task), now_ns)


def _newest(state: ClusterState, service: Service, reference: R) -> R:
    kind, payload_id, _ = use_of(reference)
    payload = state.payloads(kind).get(payload_id)
    if payload is None or reference.is_pinned is True:
        return reference
    if payload.latest <= newest_seen(service, payload_id):
        return reference
    return msgspec.structs.replace(reference, data_version=payload.latest)


def catching_up_writes(state: ClusterState, service: Service, after: Service) -> Writes:
    """Those of a user's update, if the service is still the one that was looked at."""
    writes = service_writes(state.revisions_of(service.id), service, after)
    mark_payloads(writes, state, service, after)
    writes.expect(service_key(service.id), state.modified(service_key(service.id)))
    return writes
