"""Gives the tasks of one slice their nodes, addresses and ports. Pure."""

from collections.abc import Iterable

import msgspec

from essaim_master.control.allocator import AddressPool, Cursors, Grant, pool_name
from essaim_master.control.effects import Effects
from essaim_master.control.index import GroupKey
from essaim_master.control.scheduler.filters import Candidate, Demand, demand_of
from essaim_master.control.scheduler.ranking import Ranking
from essaim_master.control.scheduler.scheduler import Place, candidates_of, place, place_on
from essaim_master.control.service_addresses import ServiceAllocator
from essaim_master.control.worklist import Worklist
from essaim_master.state.cluster_state import ClusterState
from essaim_master.state.writes import Writes
from essaim_shared.errors import InvalidRequest
from essaim_shared.ids import NetworkId, NodeId, TaskId
from essaim_shared.limits import BUS_MESSAGE_BYTES_MAX
from essaim_shared.objects import Attachment, Gateway, Network, Task, TaskStatus
from essaim_shared.task_state import TaskState

TASK_BYTES_MAX = BUS_MESSAGE_BYTES_MAX // 2
"""A larger task could not be sent to its agent: it stays pending and says so."""

PENDING_MESSAGE = "pending task scheduling"
ASSIGNED_MESSAGE = "scheduler assigned task to node"

_encoder = msgspec.msgpack.Encoder()


class Placer:
    """Gives nodes and addresses to the tasks of one slice."""

    def __init__(
        self,
        state: ClusterState,
        worklist: Worklist,
        cursors: Cursors,
        effects: Effects,
        addresses: ServiceAllocator,
    ) -> None:
        self._state = state
        self._worklist = worklist
        self._cursors = cursors
        self._effects = effects
        self._addresses = addresses
        self._tasks: dict[TaskId, Task] = {**effects.created, **effects.updated}
        self._statuses: dict[TaskId, TaskStatus] = dict(effects.statuses)
        self._gateways: dict[tuple[NetworkId, NodeId], Gateway] = {}
        self._released: list[tuple[NetworkId, NodeId]] = []
        self._pools: dict[NetworkId, AddressPool] = {}
        self._placed = 0
        self._candidates: dict[NodeId, Candidate] | None = None
        self._ranking: Ranking | None = None

    def place_groups(self) -> None:
        """Place this slice's new tasks, and those waiting ones which may now get a node."""
        groups: dict[GroupKey, list[Task]] = {}
        for key in self._worklist.groups:
            groups[key] = self._waiting_tasks(key)
        self._worklist.groups.clear()
        for task in self._effects.created.values():
            groups.setdefault((task.service_id, task.spec_version), []).append(task)
        groups = {key: tasks for key, tasks in groups.items() if tasks}
        for service_id, _ in groups:
            self._addresses.look(service_id)
        for key, tasks in groups.items():
            room = max(self._effects.limit - self._placed, 0)
            is_new = tasks[-1].id in self._effects.created
            if (room == 0 and not is_new) or not self._place_group(key, tasks, room):
                self._worklist.groups[key] = None

    def _waiting_tasks(self, key: GroupKey) -> list[Task]:
        """The group's tasks without a node, as this slice leaves them, oldest first."""
        found = []
        for task_id in self._worklist.index.pending.get(key, ()):
            if task_id in self._effects.deleted:
                continue
            task = self._effects.updated.get(task_id) or self._state.tasks[task_id]
            if task.is_wanted:
                found.append(task)
        return found

    def _place_group(self, key: GroupKey, tasks: list[Task], room: int) -> bool:
        """Place the group's tasks, at most `room` of those that wait; False when some of them
        were not looked at."""
        lacks = self._addresses.look(key[0])
        if lacks is None:
            return False
        networks, missing = self._addresses.networks.of(tasks[0].spec)
        if lacks or missing:
            return self._leave_pending(tasks, lacks or missing)
        size_bytes = len(_encoder.encode(tasks[0]))
        if size_bytes > TASK_BYTES_MAX:
            return self._leave_pending(
                tasks, f"a task of {size_bytes} bytes is over the bus' limit of {TASK_BYTES_MAX}"
            )
        try:
            demand = demand_of(
                key[0],
                tasks[0].spec,
                tasks[0].ports,
                self._worklist.index.claims.failures(*key, self._effects.now_ns),
                self._addresses.reserved_ports() if tasks[0].ports else frozenset(),
            )
        except InvalidRequest as refusal:
            return self._leave_pending(tasks, str(refusal))
        new_count = sum(1 for task in tasks if task.id in self._effects.created)
        count = min(len(tasks), max(room, new_count))
        if tasks[0].target_node is not None:
            return self._place_targeted(demand, networks, tasks, count)
        nodes = self._nodes()
        placement = place(demand, count, nodes, self._ranking)
        for done, (task, chosen) in enumerate(zip(tasks, placement.places, strict=False)):
            reason = self._assign(task, networks, chosen)
            if reason:
                return self._leave_pending(tasks[done:], reason)
        if placement.reason:
            return self._leave_pending(tasks[len(placement.places) :], placement.reason)
        for task in tasks[count:]:
            self._tasks.setdefault(task.id, task)
        return count == len(tasks)

    def _place_targeted(
        self, demand: Demand, networks: tuple[Network, ...], tasks: list[Task], count: int
    ) -> bool:
        """Tasks of a global service: each has its node, which is asked like any other."""
        are_all_looked_at = True
        for task in tasks[:count]:
            assert task.target_node is not None
            placement = place_on(demand, self._nodes().get(task.target_node))
            reason = placement.reason or self._assign(task, networks, placement.places[0])
            if reason and not self._leave_pending([task], reason):
                are_all_looked_at = False
        for task in tasks[count:]:
            self._tasks.setdefault(task.id, task)
        return are_all_looked_at and count == len(tasks)

    def _nodes(self) -> dict[NodeId, Candidate]:
        if self._candidates is None:
            index = self._worklist.index
            self._candidates = candidates_of(self._state, index.loads, index.claims)
            self._ranking = Ranking(self._candidates)
        return self._candidates

    def _assign(self, task: Task, networks: tuple[Network, ...], chosen: Place) -> str:
        """Give a task its node and addresses; the reason why it got none, else nothing."""
        attachments = self._attach(networks, chosen.node_id)
        if isinstance(attachments, str):
            return attachments
        self._placed += 1
        self._tasks[task.id] = msgspec.structs.replace(
            task,
            node_id=chosen.node_id,
            attachments=attachments,
            ports=chosen.ports,
            generic_resources=chosen.generic_resources,
            updated_ns=self._effects.now_ns,
        )
        if task.id in self._state.task_status:
            self._statuses[task.id] = TaskStatus(
                state=TaskState.ASSIGNED,
                timestamp_ns=self._effects.now_ns,
                message=ASSIGNED_MESSAGE,
            )
        return ""

    def _attach(
        self, networks: tuple[Network, ...], node_id: NodeId
    ) -> tuple[Attachment, ...] | str:
        """An address on each network for a task and, where it is the node's first task, one for
        the node. All of them or none: then the reason."""
        grants: list[tuple[Network, Grant]] = []
        gateways: list[Gateway] = []
        attachments = []
        for network in networks:
            grant = self._take(network, grants)
            if grant is None:
                return self._give_back(grants, network)
            attachments.append(Attachment(network_id=network.id, address=grant.address))
            key = (network.id, node_id)
            if key in self._gateways or self._state.gateway(*key) is not None:
                continue
            grant = self._take(network, grants)
            if grant is None:
                return self._give_back(grants, network)
            gateways.append(Gateway(network_id=network.id, node_id=node_id, address=grant.address))
        for network, grant in grants:
            if grant.taken_from is not None:
                self._strip(network.id, grant.taken_from)
        for gateway in gateways:
            self._gateways[gateway.network_id, node_id] = gateway
        return tuple(attachments)

    def _take(self, network: Network, grants: list[tuple[Network, Grant]]) -> Grant | None:
        """The next address of a network, noted among the grants."""
        grant = self._pool(network).take()
        if grant is not None:
            grants.append((network, grant))
        return grant

    def _give_back(self, grants: list[tuple[Network, Grant]], full: Network) -> str:
        """Undo what a task got while another of its networks was full; the reason."""
        for network, grant in grants:
            self._pool(network).give_back(grant)
        return f"no free address on network {pool_name(full)}"

    def _pool(self, network: Network) -> AddressPool:
        pool = self._pools.get(network.id)
        if pool is None:
            pool = self._pools[network.id] = AddressPool(self._state, network, self._cursors)
        return pool

    def _strip(self, network_id: NetworkId, owner: TaskId) -> None:
        """Take the address on a network from the ended task that still shows it."""
        if owner in self._effects.deleted:
            return
        task = self._tasks.get(owner) or self._state.tasks[owner]
        kept = tuple(each for each in task.attachments if each.network_id != network_id)
        self._tasks[owner] = msgspec.structs.replace(task, attachments=kept)

    def _leave_pending(self, tasks: Iterable[Task], reason: str) -> bool:
        """Write why tasks have no node, unless exactly that is written already. False when the
        slice has no room for all of them."""
        for task in tasks:
            self._tasks.setdefault(task.id, task)
            known = self._state.task_status.get(task.id)
            if known is not None and known.err == reason and known.state is TaskState.PENDING:
                continue
            if len(self._statuses) >= 2 * self._effects.limit:
                return False
            self._statuses[task.id] = TaskStatus(
                state=TaskState.PENDING,
                timestamp_ns=self._effects.now_ns,
                message=PENDING_MESSAGE,
                err=reason,
            )
        return True

    def release_gateways(self) -> None:
        """Free the node's own address on networks that its last task left."""
        used = {
            (attachment.network_id, task.node_id)
            for task in self._tasks.values()
            if task.id not in self._state.tasks or self._state.tasks[task.id].node_id is None
            for attachment in task.attachments
        }
        for key in list(self._worklist.gateways):
            del self._worklist.gateways[key]
            is_idle = key not in self._worklist.index.attached and key not in used
            if is_idle and self._state.gateway(*key) is not None:
                self._released.append(key)

    def add_writes(self, writes: Writes) -> None:
        """In the order in which they are to be applied when they need several transactions:
        addresses before those who use them."""
        for gateway in self._gateways.values():
            writes.put(gateway)
        deleted = self._effects.deleted
        for task_id, task in self._tasks.items():
            if task_id not in deleted and task is not self._state.tasks.get(task_id):
                writes.put(task)
        for task_id, status in self._statuses.items():
            if task_id not in deleted:
                writes.put_task_status(task_id, status)
        for task_id in deleted:
            writes.delete_task(task_id)
        for network_id, node_id in self._released:
            writes.delete_gateway(network_id, node_id)
        for task_id in self._worklist.orphaned_statuses:
            if task_id not in self._state.tasks and task_id in self._state.task_status:
                writes.delete_task(task_id)
        self._worklist.orphaned_statuses.clear()
