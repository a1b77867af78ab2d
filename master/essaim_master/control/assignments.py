"""What each node has to know: its own tasks, its networks, and the others' endpoints there. Pure.

Theory
------
A node needs every task assigned to it that has not ended, every network on which it has an
address, and of those networks every address that is on another node: tasks that have not ended,
and gateways. A task that ended by itself stays assigned, wanted stopped, for as long as it is
part of its slot's history, since a node keeps the containers of its tasks and nothing else: what
the container wrote is what tells why it failed. All of it follows from the state.

A change is only noted (`note`); `flush` then compares what each noted object contributes now with
what it contributed at the last flush. One task's change thus costs one entry for its own node and
one endpoint for each node of its network, however large the cluster is. Between two flushes any
number of changes collapse into one difference.

A task's endpoint and the task itself are in the same flush, so by the time an agent has prepared
a container the other nodes know where it is.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec

from essaim_master.state.cluster_state import AppliedChanges, ClusterState
from essaim_master.state.keys import Kind
from essaim_shared.ids import NetworkId, NodeId, TaskId
from essaim_shared.messages import Endpoint, NodeNetwork, SealedCredentials
from essaim_shared.objects import NodeStatus, Stored, Task
from essaim_shared.task_state import TaskState

Owner = str
"""Who has an address: a task's id, or `NETWORK/NODE` of a gateway."""


ENDED_BY_ITSELF = frozenset({TaskState.COMPLETE, TaskState.FAILED})
"""Ends that leave a container worth looking at (docs/adr/0012)."""


class _Place(msgspec.Struct, frozen=True):
    """An endpoint and the node it is on."""

    endpoint: Endpoint
    node_id: NodeId


class _Contribution(msgspec.Struct, frozen=True):
    """What one task put into the tables."""

    task: Task
    places: tuple[_Place, ...]


@dataclass(slots=True)
class Difference:
    """What one node is to be told. Removals come before additions."""

    removed_tasks: list[TaskId] = field(default_factory=list)
    tasks: list[Task] = field(default_factory=list)
    removed_networks: list[NetworkId] = field(default_factory=list)
    networks: list[NodeNetwork] = field(default_factory=list)
    removed_endpoints: list[Endpoint] = field(default_factory=list)
    endpoints: list[Endpoint] = field(default_factory=list)
    credentials: list[SealedCredentials] = field(default_factory=list)
    """Added by the dispatcher, which alone may seal."""


class AssignmentBook:
    """What every node was told last, and what has changed since."""

    def __init__(self, state: ClusterState) -> None:
        self._state = state
        self._tasks: dict[TaskId, _Contribution] = {}
        self._gateways: dict[str, tuple[NodeNetwork, _Place]] = {}
        """By `NETWORK/NODE`: what the node is told of the network, and the others of the node."""
        self._endpoints: dict[NetworkId, dict[Owner, _Place]] = {}
        self._noted_tasks: dict[TaskId, None] = dict.fromkeys(state.tasks)
        self._noted_gateways: dict[str, None] = dict.fromkeys(state.gateways)
        self._absorb({}, {})  # nobody has been told anything: there is nothing to compare with

    def __bool__(self) -> bool:
        """Whether anything is to be flushed."""
        return bool(self._noted_tasks or self._noted_gateways)

    def note(self, applied: AppliedChanges) -> None:
        for change in applied.changes:
            match change.kind:
                case Kind.TASK:
                    self._noted_tasks[TaskId(change.id)] = None
                case Kind.TASK_STATUS:
                    task_id = TaskId(change.id)
                    if task_id in self._tasks and self._state.observed(task_id).is_terminal:
                        self._noted_tasks[task_id] = None
                case Kind.GATEWAY:
                    self._noted_gateways[change.id] = None
                case Kind.NODE_STATUS:
                    if _address(change.before) != _address(change.after):
                        self._note_node(NodeId(change.id))
                case Kind.NETWORK:
                    self._note_network(NetworkId(change.id))
                case _:
                    pass

    def flush(self) -> dict[NodeId, Difference]:
        """The differences since the last flush, for the nodes that have any."""
        differences: dict[NodeId, Difference] = {}
        before: dict[NetworkId, dict[Owner, _Place | None]] = {}
        members_before = {
            network_id: self._members(network_id) for network_id in self._networks_noted()
        }
        self._absorb(differences, before)
        for network_id in before.keys() | members_before.keys():
            changed = before.get(network_id, {})
            members = members_before.get(network_id)
            self._tell_members(network_id, changed, members, differences)
        return differences

    def full_set(self, node_id: NodeId) -> Difference:
        """Everything a node has to know, as of the last flush."""
        full = Difference()
        for task_id in self._state.tasks_on_node(node_id):
            contribution = self._tasks.get(task_id)
            if contribution is not None:
                full.tasks.append(contribution.task)
        for network, place in self._gateways.values():
            if place.node_id == node_id:
                full.networks.append(network)
                places = self._endpoints.get(network.network_id, {}).values()
                full.endpoints.extend(_of_others(places, node_id))
        return full

    def _networks_noted(self) -> set[NetworkId]:
        return {NetworkId(key.split("/", 1)[0]) for key in self._noted_gateways}

    def _members(self, network_id: NetworkId) -> set[NodeId]:
        return {
            place.node_id
            for network, place in self._gateways.values()
            if network.network_id == network_id
        }

    def _note_node(self, node_id: NodeId) -> None:
        """Its address changed, and with it every endpoint on it."""
        self._noted_tasks.update(dict.fromkeys(self._state.tasks_on_node(node_id)))
        for key, gateway in self._state.gateways.items():
            if gateway.node_id == node_id:
                self._noted_gateways[key] = None

    def _note_network(self, network_id: NetworkId) -> None:
        for key, gateway in self._state.gateways.items():
            if gateway.network_id == network_id:
                self._noted_gateways[key] = None

    def _absorb(
        self,
        differences: dict[NodeId, Difference],
        before: dict[NetworkId, dict[Owner, _Place | None]],
    ) -> None:
        """Take everything noted over into the tables; `before` gets what stood there."""
        for task_id in self._noted_tasks:
            self._absorb_task(task_id, differences, before)
        for key in self._noted_gateways:
            self._absorb_gateway(key, differences, before)
        self._noted_tasks.clear()
        self._noted_gateways.clear()

    def _absorb_task(
        self,
        task_id: TaskId,
        differences: dict[NodeId, Difference],
        before: dict[NetworkId, dict[Owner, _Place | None]],
    ) -> None:
        old = self._tasks.get(task_id)
        new = self._contribution(task_id)
        if old == new:
            return
        if new is None:
            del self._tasks[task_id]
        else:
            self._tasks[task_id] = new
            if new.task.node_id is not None and (old is None or old.task != new.task):
                _difference(differences, new.task.node_id).tasks.append(new.task)
        left = None if old is None else old.task.node_id
        if left is not None and (new is None or new.task.node_id != left):
            _difference(differences, left).removed_tasks.append(task_id)
        self._replace(task_id, old.places if old else (), new.places if new else (), before)

    def _absorb_gateway(
        self,
        key: str,
        differences: dict[NodeId, Difference],
        before: dict[NetworkId, dict[Owner, _Place | None]],
    ) -> None:
        old = self._gateways.get(key)
        new = self._gateway(key)
        if old == new:
            return
        if new is None:
            del self._gateways[key]
        else:
            self._gateways[key] = new
            if old is None or old[0] != new[0]:
                _difference(differences, new[1].node_id).networks.append(new[0])
        if old is not None and new is None:
            left = _difference(differences, old[1].node_id)
            left.removed_networks.append(old[0].network_id)
        self._replace(key, (old[1],) if old else (), (new[1],) if new else (), before)

    def _replace(
        self,
        owner: Owner,
        old: tuple[_Place, ...],
        new: tuple[_Place, ...],
        before: dict[NetworkId, dict[Owner, _Place | None]],
    ) -> None:
        """Change the endpoint tables, and remember what stood there at the last flush."""
        for place in old:
            network_id = place.endpoint.network_id
            table = self._endpoints[network_id]
            before.setdefault(network_id, {}).setdefault(owner, table.pop(owner, None))
        for place in new:
            network_id = place.endpoint.network_id
            table = self._endpoints.setdefault(network_id, {})
            before.setdefault(network_id, {}).setdefault(owner, table.get(owner))
            table[owner] = place

    def _tell_members(
        self,
        network_id: NetworkId,
        changed: dict[Owner, _Place | None],
        members_before: set[NodeId] | None,
        differences: dict[NodeId, Difference],
    ) -> None:
        """Tell those who stay on a network what changed there, those who come everything, and
        let those who leave forget everything."""
        table = self._endpoints.get(network_id, {})
        members = self._members(network_id)
        staying = members if members_before is None else members & members_before
        removed, added = [], []
        for owner, old in changed.items():
            new = table.get(owner)
            if old == new:
                continue
            if old is not None:
                removed.append(old)
            if new is not None:
                added.append(new)
        if removed or added:
            _tell_changes(staying, removed, added, differences)
        if members_before is None:
            return
        for node_id in members - members_before:
            come = list(_of_others(table.values(), node_id))
            _difference(differences, node_id).endpoints.extend(come)
        former: dict[Owner, _Place | None] = {**table, **changed}
        for node_id in members_before - members:
            places = (place for place in former.values() if place is not None)
            gone = list(_of_others(places, node_id))
            _difference(differences, node_id).removed_endpoints.extend(gone)

    def _contribution(self, task_id: TaskId) -> _Contribution | None:
        task = self._state.tasks.get(task_id)
        if task is None or task.node_id is None:
            return None
        if self._state.observed(task_id).is_terminal:
            return self._remains(task)
        status = self._state.node_status.get(task.node_id)
        if status is None:
            return _Contribution(task, ())
        places = tuple(
            _Place(
                Endpoint(
                    network_id=attachment.network_id,
                    address=attachment.address,
                    node_address=status.description.address,
                ),
                task.node_id,
            )
            for attachment in task.attachments
        )
        return _Contribution(task, places)

    def _remains(self, task: Task) -> _Contribution | None:
        """Of an ended task: what keeps its container. It is never asked to run, also by those who
        do not know that it ended and hear of it before the orchestrator has replaced it."""
        status = self._state.task_status[task.id]
        if status.state not in ENDED_BY_ITSELF or not status.container_id:
            return None
        if task.desired_state < TaskState.SHUTDOWN:
            task = msgspec.structs.replace(task, desired_state=TaskState.SHUTDOWN)
        return _Contribution(task, ())

    def _gateway(self, key: str) -> tuple[NodeNetwork, _Place] | None:
        gateway = self._state.gateways.get(key)
        if gateway is None:
            return None
        network = self._state.networks.get(gateway.network_id)
        status = self._state.node_status.get(gateway.node_id)
        if network is None or status is None:
            return None
        known = NodeNetwork(
            network_id=network.id,
            name=network.name,
            vni=network.vni,
            subnet=network.subnet,
            mtu=network.mtu,
            gateway=gateway.address,
        )
        endpoint = Endpoint(
            network_id=network.id,
            address=gateway.address,
            node_address=status.description.address,
        )
        return known, _Place(endpoint, gateway.node_id)


def _tell_changes(
    members: set[NodeId],
    removed: list[_Place],
    added: list[_Place],
    differences: dict[NodeId, Difference],
) -> None:
    """Each member gets the changed endpoints of the others. Most have none of their own among
    them, and copying one list is much cheaper than filtering it a thousand times."""
    owners = {place.node_id for place in (*removed, *added)}
    all_gone = [place.endpoint for place in removed]
    all_come = [place.endpoint for place in added]
    for node_id in members:
        gone, come = all_gone, all_come
        if node_id in owners:
            gone, come = list(_of_others(removed, node_id)), list(_of_others(added, node_id))
        if gone or come:
            difference = _difference(differences, node_id)
            difference.removed_endpoints.extend(gone)
            difference.endpoints.extend(come)


def _difference(differences: dict[NodeId, Difference], node_id: NodeId) -> Difference:
    found = differences.get(node_id)
    if found is None:
        found = differences[node_id] = Difference()
    return found


def _of_others(places: Iterable[_Place], node_id: NodeId) -> Iterable[Endpoint]:
    return (place.endpoint for place in places if place.node_id != node_id)


def _address(status: Stored | None) -> str | None:
    return status.description.address if isinstance(status, NodeStatus) else None
