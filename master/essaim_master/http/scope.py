"""A stack as the bound of what a user may see and change. Pure.

A user with a scope sees the objects of his stack, by the label that Docker's clients give them, and
what the cluster shares: its own networks, and networks that carry `SHARED_LABEL`. The rest is not
there for him, whatever he asks.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from essaim_master.state.cluster_state import ClusterState
from essaim_master.state.network_uses import PREDEFINED_NETWORKS
from essaim_shared.ids import NetworkId, NodeId, PayloadId, ServiceId, TaskId
from essaim_shared.objects import Network, NodeObject, NodeStatus, Service, Task
from essaim_shared.payload_objects import Payload, PayloadKind

STACK_LABEL = "com.docker.stack.namespace"
SHARED_LABEL = "essaim.shared"
"""On a network: services of every stack may be on it. Its value says nothing."""


class SeenState(Protocol):
    """What lists and lookups read: all of the state, or what a scope leaves of it."""

    @property
    def services(self) -> Mapping[ServiceId, Service]: ...

    @property
    def tasks(self) -> Mapping[TaskId, Task]: ...

    @property
    def nodes(self) -> Mapping[NodeId, NodeObject]: ...

    @property
    def node_status(self) -> Mapping[NodeId, NodeStatus]: ...

    @property
    def networks(self) -> Mapping[NetworkId, Network]: ...

    def payloads(self, kind: PayloadKind) -> Mapping[PayloadId, Payload]: ...

    def service_named(self, name: str) -> Service | None: ...

    def network_named(self, name: str) -> Network | None: ...

    def tasks_of_service(self, service_id: ServiceId) -> Mapping[TaskId, Task]: ...

    def tasks_on_node(self, node_id: NodeId) -> Mapping[TaskId, Task]: ...


class StackState:
    """What of the state belongs to one stack. Made for one request, of a state that may change
    while it waits: nothing is kept."""

    def __init__(self, state: ClusterState, stack: str) -> None:
        self._state = state
        self._stack = stack

    @property
    def services(self) -> Mapping[ServiceId, Service]:
        return {
            service.id: service
            for service in self._state.services.values()
            if is_of(self._stack, service.spec.labels)
        }

    @property
    def tasks(self) -> Mapping[TaskId, Task]:
        return self._own_tasks(self._state.tasks.values())

    @property
    def nodes(self) -> Mapping[NodeId, NodeObject]:
        return self._state.nodes

    @property
    def node_status(self) -> Mapping[NodeId, NodeStatus]:
        return self._state.node_status

    @property
    def networks(self) -> Mapping[NetworkId, Network]:
        return {
            network.id: network
            for network in self._state.networks.values()
            if may_join(self._stack, network)
        }

    def payloads(self, kind: PayloadKind) -> Mapping[PayloadId, Payload]:
        return {
            payload.id: payload
            for payload in self._state.payloads(kind).values()
            if is_of(self._stack, payload.labels)
        }

    def service_named(self, name: str) -> Service | None:
        found = self._state.service_named(name)
        return found if found is not None and is_of(self._stack, found.spec.labels) else None

    def network_named(self, name: str) -> Network | None:
        found = self._state.network_named(name)
        return found if found is not None and may_join(self._stack, found) else None

    def tasks_of_service(self, service_id: ServiceId) -> Mapping[TaskId, Task]:
        return self._own_tasks(self._state.tasks_of_service(service_id).values())

    def tasks_on_node(self, node_id: NodeId) -> Mapping[TaskId, Task]:
        return self._own_tasks(self._state.tasks_on_node(node_id).values())

    def _own_tasks(self, tasks: Iterable[Task]) -> Mapping[TaskId, Task]:
        return {task.id: task for task in tasks if is_of(self._stack, task.service_labels)}


def is_of(stack: str, labels: Mapping[str, Any]) -> bool:
    return labels.get(STACK_LABEL) == stack


def may_join(stack: str, network: Network) -> bool:
    """Whether the stack's services may be on the network; who may be on it may see it."""
    return (
        is_of(stack, network.labels)
        or network.name in PREDEFINED_NETWORKS
        or SHARED_LABEL in network.labels
    )


def is_own_volume(stack: str, name: str) -> bool:
    """Volumes are the engines', which know nothing of stacks but the names that stacks give them;
    one without a name is the task's own."""
    return not name or name.startswith(f"{stack}_")
