"""What each node has to know: its own tasks, and what `network_book` says of networks. Pure.

Theory
------
A node needs every task assigned to it that has not ended. A task that ended by itself stays
assigned, wanted stopped, for as long as it is part of its slot's history, since a node keeps the
containers of its tasks and nothing else: what the container wrote is what tells why it failed.
All of it follows from the state.

A change is only noted (`note`); `flush` then compares what each noted object contributes now with
what it contributed at the last flush. One task's change thus costs one entry for its own node and
one endpoint for each node of its network, however large the cluster is. Between two flushes any
number of changes collapse into one difference.

A task's endpoint and the task itself are in the same flush, so by the time an agent has prepared
a container the other nodes know where it is. The order to stop a task that serves is the one
exception: its endpoint is told as draining, and its own node is told of the task what it was told
before, until `release` (docs/adr/0035). Who has to know of it first, `take_held` says.
"""

from collections.abc import Iterable

import msgspec

from essaim_master.control.difference import Difference
from essaim_master.control.network_book import Differences, NetworkBook, difference_of
from essaim_master.control.network_records import (
    Endpoints,
    Entries,
    NodeOnNetwork,
    endpoints_of,
    entries_of,
    facets,
    node_on_network,
)
from essaim_master.control.service_networks import ServiceNetworks
from essaim_master.state.cluster_state import AppliedChanges, Change, ClusterState
from essaim_master.state.keys import Kind
from essaim_shared.ids import NetworkId, NodeId, ServiceId, TaskId
from essaim_shared.objects import NodeStatus, ServiceAddresses, Stored, Task
from essaim_shared.task_state import TaskState

ENDED_BY_ITSELF = frozenset({TaskState.COMPLETE, TaskState.FAILED})
"""Ends that leave a container worth looking at (docs/adr/0012)."""


class _Contribution(msgspec.Struct, frozen=True):
    """What one task put into the tables."""

    task: Task
    """As its node was told of it."""
    endpoints: Endpoints

    def has_endpoint(self, state: str) -> bool:
        return any(record.value.state == state for record in self.endpoints)


class Held(msgspec.Struct, frozen=True):
    """Tasks whose order to stop is withheld, and the nodes which are told that they drain."""

    tasks: tuple[TaskId, ...]
    audience: frozenset[NodeId]


class AssignmentBook:
    """What every node was told last, and what has changed since."""

    def __init__(self, state: ClusterState) -> None:
        self._state = state
        self._networks = NetworkBook()
        self._tasks: dict[TaskId, _Contribution] = {}
        self._tasks_on: dict[NodeId, dict[TaskId, None]] = {}
        self._members: dict[str, NodeOnNetwork] = {}
        """By `NETWORK/NODE`, as the gateways."""
        self._entries: dict[ServiceId, Entries] = {}
        self._held: set[TaskId] = set()
        self._newly_held: list[TaskId] = []
        self._noted_tasks: dict[TaskId, None] = dict.fromkeys(state.tasks)
        self._noted_gateways: dict[str, None] = dict.fromkeys(state.gateways)
        self._noted_services: dict[ServiceId, None] = dict.fromkeys(state.services)
        self._noted_nodes: dict[NodeId, None] = dict.fromkeys(state.node_status)
        self._is_new = True
        """What was told by an earlier leader is not known."""
        self._absorb({})
        self._networks.settle()  # nobody has been told anything: there is nothing to compare with
        self._is_new = False

    def __bool__(self) -> bool:
        """Whether anything is to be flushed."""
        return bool(
            self._noted_tasks or self._noted_gateways or self._noted_services or self._noted_nodes
        )

    def note(self, applied: AppliedChanges) -> None:
        for change in applied.changes:
            match change.kind:
                case Kind.TASK:
                    self._noted_tasks[TaskId(change.id)] = None
                case Kind.TASK_STATUS:
                    if facets(change.before) != facets(change.after):
                        self._noted_tasks[TaskId(change.id)] = None
                case Kind.GATEWAY:
                    self._noted_gateways[change.id] = None
                case Kind.NODE_STATUS:
                    self._note_node(change)
                case Kind.NETWORK:
                    self._note_network(NetworkId(change.id))
                case Kind.SERVICE:
                    self._noted_services[ServiceId(change.id)] = None
                case Kind.SERVICE_ADDRESSES:
                    self._note_addresses(change)
                case _:
                    pass

    def flush(self) -> Differences:
        """The differences since the last flush, for the nodes that have any."""
        differences: Differences = {}
        self._absorb(differences)
        self._networks.flush(differences)
        return differences

    def full_set(self, node_id: NodeId) -> Difference:
        """Everything a node has to know, as of the last flush."""
        full = Difference()
        full.tasks = [self._tasks[task_id].task for task_id in self._tasks_on.get(node_id, ())]
        self._networks.add_full(node_id, full)
        return full

    # Orders to stop.

    def take_held(self) -> list[Held]:
        """The tasks that are held since the last flush, by those who are told; each once."""
        by_audience: dict[frozenset[NodeId], list[TaskId]] = {}
        audiences: dict[tuple[object, ...], frozenset[NodeId]] = {}
        for task_id in self._newly_held:
            if task_id not in self._held:
                continue  # it has ended since
            endpoints = self._tasks[task_id].endpoints
            key = tuple((record.value.network_id, record.is_for_all) for record in endpoints)
            audience = audiences.get(key)
            if audience is None:
                audience = audiences[key] = self._networks.audience(endpoints)
            by_audience.setdefault(audience, []).append(task_id)
        self._newly_held.clear()
        return [Held(tuple(tasks), audience) for audience, tasks in by_audience.items()]

    def release(self, task_ids: Iterable[TaskId]) -> None:
        """Let the next flush tell these tasks' nodes what is wanted of them now."""
        for task_id in task_ids:
            if task_id in self._held:
                self._held.discard(task_id)
                self._noted_tasks[task_id] = None

    def _hold(self, task_id: TaskId, old: _Contribution | None, new: _Contribution) -> Task:
        """The task as its node is to be told of it for now."""
        if task_id not in self._held:
            was_serving = self._may_serve(task_id) if old is None else old.has_endpoint("serving")
            if not was_serving or not new.has_endpoint("draining"):
                return new.task
            self._held.add(task_id)
            self._newly_held.append(task_id)
        elif not new.has_endpoint("draining"):
            self._held.discard(task_id)
            return new.task
        if old is not None:
            return old.task
        # As another leader's word; a node that has the order to stop does not take it back.
        is_job = new.task.iteration is not None
        before = TaskState.COMPLETE if is_job else TaskState.RUNNING
        return msgspec.structs.replace(new.task, desired_state=before)

    def _may_serve(self, task_id: TaskId) -> bool:
        """Whether an earlier leader may have told the nodes that a task serves."""
        status = self._state.task_status.get(task_id)
        return self._is_new and status is not None and status.is_ready

    # What changes touch.

    def _note_node(self, change: Change) -> None:
        """A node's address stands in every endpoint on it, and whether it is down counts too."""
        node_id = NodeId(change.id)
        if _node_facets(change.before) == _node_facets(change.after):
            return
        self._noted_tasks.update(dict.fromkeys(self._state.tasks_on_node(node_id)))
        if _address(change.before) == _address(change.after):
            return
        self._noted_nodes[node_id] = None
        for key, gateway in self._state.gateways.items():
            if gateway.node_id == node_id:
                self._noted_gateways[key] = None

    def _note_network(self, network_id: NetworkId) -> None:
        for key, gateway in self._state.gateways.items():
            if gateway.network_id == network_id:
                self._noted_gateways[key] = None
        for service in self._state.services.values():
            asked = service.spec.task.networks
            known = self._entries.get(service.id, ())
            if (
                not asked
                or any(item.target == network_id for item in asked)
                or any(record.value.network_id == network_id for record in known)
            ):
                self._noted_services[service.id] = None

    def _note_addresses(self, change: Change) -> None:
        service_id = ServiceId(change.id)
        self._noted_services[service_id] = None
        if _has_ports(change.before) != _has_ports(change.after):
            tasks = self._state.tasks_of_service(service_id)
            self._noted_tasks.update(dict.fromkeys(tasks))

    def _absorb(self, differences: Differences) -> None:
        """Take everything noted over into the tables."""
        for node_id in self._noted_nodes:
            self._networks.set_node(node_id, _address(self._state.node_status.get(node_id)))
        for key in self._noted_gateways:
            self._absorb_gateway(key, differences)
        self._absorb_services()
        for task_id in self._noted_tasks:
            self._absorb_task(task_id, differences)
        self._noted_nodes.clear()
        self._noted_gateways.clear()
        self._noted_services.clear()
        self._noted_tasks.clear()

    def _absorb_task(self, task_id: TaskId, differences: Differences) -> None:
        old = self._tasks.get(task_id)
        new = self._contribution(task_id)
        if new is None:
            self._held.discard(task_id)
        else:
            told = self._hold(task_id, old, new)
            if told is not new.task:
                new = _Contribution(told, new.endpoints)
        if old == new:
            return
        was_on = None if old is None else old.task.node_id
        is_on = None if new is None else new.task.node_id
        if was_on is not None and is_on != was_on:
            del self._tasks[task_id], self._tasks_on[was_on][task_id]
            if not self._tasks_on[was_on]:
                del self._tasks_on[was_on]
            difference_of(differences, was_on).removed_tasks.append(task_id)
        if new is not None and is_on is not None:
            self._tasks[task_id] = new
            self._tasks_on.setdefault(is_on, {})[task_id] = None
            if old is None or old.task != new.task:
                difference_of(differences, is_on).tasks.append(new.task)
        before, after = (old.endpoints if old else ()), (new.endpoints if new else ())
        if before != after:
            self._networks.replace_endpoints(task_id, before, after)

    def _absorb_gateway(self, key: str, differences: Differences) -> None:
        old = self._members.pop(key, None)
        new = node_on_network(self._state, self._state.gateways.get(key))
        if new is not None:
            self._members[key] = new
        if old != new:
            self._networks.replace_member(key, old, new, differences)

    def _absorb_services(self) -> None:
        if not self._noted_services:
            return
        networks = ServiceNetworks(self._state)
        for service_id in self._noted_services:
            old = self._entries.pop(service_id, ())
            new = entries_of(self._state, service_id, networks)
            if new:
                self._entries[service_id] = new
            if old != new:
                self._networks.replace_entries(service_id, old, new)

    def _contribution(self, task_id: TaskId) -> _Contribution | None:
        task = self._state.tasks.get(task_id)
        if task is None or task.node_id is None:
            return None
        if self._state.observed(task_id).is_terminal:
            return self._remains(task)
        return _Contribution(task, endpoints_of(self._state, task))

    def _remains(self, task: Task) -> _Contribution | None:
        """Of an ended task: what keeps its container. It is never asked to run, also by those who
        do not know that it ended and hear of it before the orchestrator has replaced it."""
        status = self._state.task_status[task.id]
        if status.state not in ENDED_BY_ITSELF or not status.container_id:
            return None
        if task.desired_state < TaskState.SHUTDOWN:
            task = msgspec.structs.replace(task, desired_state=TaskState.SHUTDOWN)
        return _Contribution(task, ())


def _address(status: Stored | None) -> str | None:
    return status.description.address if isinstance(status, NodeStatus) else None


def _node_facets(status: Stored | None) -> tuple[object, ...] | None:
    """What of a node stands in its tasks' endpoints: templates can name all but the state."""
    if not isinstance(status, NodeStatus):
        return None
    about = status.description
    return about.address, about.hostname, about.architecture, about.os, status.state == "down"


def _has_ports(addresses: Stored | None) -> bool:
    return isinstance(addresses, ServiceAddresses) and bool(addresses.ports)
