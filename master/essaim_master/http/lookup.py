"""Finding an object by what a user typed: its full id, else its name, else an id's unique prefix.

The order and the sentences are Docker's (moby daemon/cluster/helpers.go). What the caller is not
shown is not found: handlers pass `Api.seen`.
"""

from collections.abc import Iterable, Mapping
from typing import TypeVar

from essaim_master.http.scope import SeenState
from essaim_master.state.payload_data import payload_named
from essaim_shared.errors import AmbiguousName, NotFound
from essaim_shared.ids import NetworkId, NodeId, PayloadId, ServiceId, TaskId
from essaim_shared.objects import Network, NodeObject, Service, Task
from essaim_shared.payload_objects import Payload, PayloadKind

K = TypeVar("K", bound=str)
V = TypeVar("V")


def find_service(state: SeenState, reference: str) -> Service:
    """Raises NotFound, AmbiguousName."""
    service = state.services.get(ServiceId(reference)) or state.service_named(reference)
    return service or _by_prefix("service", state.services, reference)


def find_node(state: SeenState, reference: str) -> NodeObject:
    """By id, host name or prefix. Raises NotFound, AmbiguousName."""
    node = state.nodes.get(NodeId(reference))
    if node is not None:
        return node
    named = [
        state.nodes[node_id]
        for node_id, status in state.node_status.items()
        if status.description.hostname == reference and node_id in state.nodes
    ]
    return _only("node", named, reference) or _by_prefix("node", state.nodes, reference)


def find_task(state: SeenState, reference: str) -> Task:
    """By id, by `SERVICE.SLOT.ID` or by prefix. Raises NotFound, AmbiguousName."""
    task = state.tasks.get(TaskId(reference))
    if task is not None:
        return task
    task = state.tasks.get(TaskId(reference.rpartition(".")[2]))
    if task is not None and f"{task.name}.{task.id}" == reference:
        return task
    return _by_prefix("task", state.tasks, reference)


def find_network(state: SeenState, reference: str) -> Network:
    """Raises NotFound, AmbiguousName."""
    network = state.networks.get(NetworkId(reference))
    if network is not None:
        return network
    named = [network for network in state.networks.values() if network.name == reference]
    return _only("network", named, reference) or _by_prefix("network", state.networks, reference)


def find_payload(state: SeenState, kind: PayloadKind, reference: str) -> Payload:
    """A secret or config. Raises NotFound, AmbiguousName."""
    payloads = state.payloads(kind)
    found = payloads.get(PayloadId(reference)) or payload_named(state, kind, reference)
    return found or _by_prefix(kind, payloads, reference)


def _by_prefix(what: str, objects: Mapping[K, V], reference: str) -> V:
    found = [value for key, value in objects.items() if key.startswith(reference)]
    match = _only(what, found if reference else [], reference)
    if match is None:
        raise NotFound(f"{what} {reference} not found")
    return match


def _only(what: str, found: Iterable[V], reference: str) -> V | None:
    matches = list(found)
    if len(matches) > 1:
        raise AmbiguousName(f"{what} {reference} is ambiguous ({len(matches)} matches found)")
    return matches[0] if matches else None
