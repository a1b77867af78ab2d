"""What the control loops look up for each decision, kept up to date change by change. Pure.

Everything here follows from the state and is rebuilt from it at the start of a term; `refresh`
is given each task that changed, so the two cannot drift apart: a task's share in all sums is
always removed as it was entered.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import msgspec

from essaim_master.control.claims import Claims
from essaim_master.state.cluster_state import ClusterState
from essaim_shared.ids import NetworkId, NodeId, ServiceId, TaskId
from essaim_shared.objects import Task
from essaim_shared.task_state import TaskState

GroupKey = tuple[ServiceId, int]
"""(service, spec version): tasks of one group are the same to the scheduler."""

SlotName = int | NodeId
"""`Task.slot_key`: the number of a slot, or the node of a global one."""

SlotKey = tuple[ServiceId, SlotName]

RunKey = tuple[ServiceId, int]
"""(service, iteration) of a job."""

GatewayKey = tuple[NetworkId, NodeId]


@dataclass(slots=True)
class NodeLoad:
    """What the tasks on one node add up to."""

    tasks: int = 0
    """Tasks that are wanted there (desired READY, RUNNING or COMPLETE) and have not ended."""
    nano_cpus: int = 0
    """Reserved by all tasks that have not ended, those being stopped included."""
    memory_bytes: int = 0
    by_service: dict[ServiceId, int] = field(default_factory=dict)
    """`tasks`, for each service that has any."""


@dataclass(slots=True)
class RunTally:
    """How far one iteration of a job is: for each slot the number of its tasks of a kind."""

    used: dict[SlotName, int] = field(default_factory=dict)
    """That are not to be removed."""
    at_work: dict[SlotName, int] = field(default_factory=dict)
    """That may run, those that are being stopped too, or that are wanted and have not completed:
    one that failed is among these until the orchestrator has seen to it."""
    complete: dict[SlotName, int] = field(default_factory=dict)

    @property
    def open_slots(self) -> set[SlotName]:
        """At work and not completed: a completed slot's stray task, on a node that is down, may
        be taken for running for long."""
        return self.at_work.keys() - self.complete.keys()


class _Share(msgspec.Struct, frozen=True):
    """One task's part in the sums."""

    service_id: ServiceId
    slot: SlotName
    pending: GroupKey | None
    node_id: NodeId | None
    """Set while the task may use something of the node: assigned and not ended."""
    is_wanted: bool
    is_leaving: bool
    """It is to be removed, so it does not occupy its slot."""
    nano_cpus: int
    memory_bytes: int
    networks: tuple[NetworkId, ...]
    iteration: int | None
    is_at_work: bool
    is_complete: bool


class ControlIndex:
    """Sums and groupings over all tasks."""

    def __init__(self, state: ClusterState) -> None:
        self._state = state
        self._shares: dict[TaskId, _Share] = {}
        self.slots: dict[ServiceId, dict[SlotName, dict[TaskId, Task]]] = {}
        """All tasks of each slot, as they stand in the state."""
        self.occupied: dict[ServiceId, dict[SlotName, int]] = {}
        """For each slot how many of its tasks are not to be removed; slots without any are left
        out."""
        self.runs: dict[RunKey, RunTally] = {}
        """Of jobs, those with any task."""
        self.loads: dict[NodeId, NodeLoad] = {}
        self.pending: dict[GroupKey, dict[TaskId, None]] = {}
        """Tasks without a node that are to run, oldest first."""
        self.attached: dict[GatewayKey, int] = {}
        """How many tasks on a node may use a network."""
        self.claims = Claims(state)
        for task_id in state.tasks:
            self.refresh(task_id)

    def refresh(self, task_id: TaskId) -> tuple[GatewayKey, ...]:
        """Take a task's present state over. Returns the gateways that lost their last user."""
        self.claims.refresh(task_id)
        before = self._shares.get(task_id)
        after = self._share_of(task_id)
        if before == after:
            if after is not None:
                self._keep_task(task_id)
            return ()
        left: tuple[GatewayKey, ...] = ()
        if before is not None:
            left = self._remove(task_id, before)
        if after is not None:
            self._shares[task_id] = after
            self._add(task_id, after)
        return tuple(key for key in left if key not in self.attached)

    def is_holding(self, task_id: TaskId) -> bool:
        """Whether the task may be using something of a node."""
        share = self._shares.get(task_id)
        return share is not None and share.node_id is not None

    def tally(self, service_id: ServiceId, iteration: int) -> RunTally:
        return self.runs.get((service_id, iteration)) or RunTally()

    def slot_tasks(self, service_id: ServiceId, slot: SlotName) -> list[Task]:
        """Of one slot, oldest first."""
        found = list(self.slots.get(service_id, {}).get(slot, {}).values())
        if len(found) > 1:
            found.sort(key=_age)
        return found

    def _keep_task(self, task_id: TaskId) -> None:
        task = self._state.tasks[task_id]
        self.slots.setdefault(task.service_id, {}).setdefault(task.slot_key, {})[task_id] = task

    def _share_of(self, task_id: TaskId) -> _Share | None:
        task = self._state.tasks.get(task_id)
        if task is None:
            return None
        observed = self._state.observed(task_id)
        has_ended = observed.is_terminal
        is_complete = observed is TaskState.COMPLETE
        is_wanted = task.is_wanted and not has_ended
        holds = task.node_id is not None and not has_ended
        resources = task.spec.resources
        reservations = None if resources is None else resources.reservations
        is_pending = is_wanted and task.node_id is None
        return _Share(
            service_id=task.service_id,
            slot=task.slot_key,
            pending=(task.service_id, task.spec_version) if is_pending else None,
            node_id=task.node_id if holds else None,
            is_wanted=is_wanted,
            is_leaving=task.desired_state is TaskState.REMOVE,
            nano_cpus=0 if reservations is None else reservations.nano_cpus,
            memory_bytes=0 if reservations is None else reservations.memory_bytes,
            networks=tuple(attachment.network_id for attachment in task.attachments),
            iteration=task.iteration,
            is_at_work=(task.is_wanted and not is_complete) or holds,
            is_complete=is_complete,
        )

    def _add(self, task_id: TaskId, share: _Share) -> None:
        self._keep_task(task_id)
        if not share.is_leaving:
            occupied = self.occupied.setdefault(share.service_id, {})
            occupied[share.slot] = occupied.get(share.slot, 0) + 1
        if share.iteration is not None and not share.is_leaving:
            tally = self.runs.setdefault((share.service_id, share.iteration), RunTally())
            for slots in _counted(tally, share):
                slots[share.slot] = slots.get(share.slot, 0) + 1
        if share.pending is not None:
            self.pending.setdefault(share.pending, {})[task_id] = None
        if share.node_id is None:
            return
        load = self.loads.get(share.node_id)
        if load is None:
            load = self.loads[share.node_id] = NodeLoad()
        load.nano_cpus += share.nano_cpus
        load.memory_bytes += share.memory_bytes
        if share.is_wanted:
            load.tasks += 1
            load.by_service[share.service_id] = load.by_service.get(share.service_id, 0) + 1
        for network_id in share.networks:
            key = (network_id, share.node_id)
            self.attached[key] = self.attached.get(key, 0) + 1

    def _remove(self, task_id: TaskId, share: _Share) -> tuple[GatewayKey, ...]:
        del self._shares[task_id]
        slots = self.slots[share.service_id]
        del slots[share.slot][task_id]
        if not slots[share.slot]:
            del slots[share.slot]
            if not slots:
                del self.slots[share.service_id]
        if not share.is_leaving:
            occupied = self.occupied[share.service_id]
            occupied[share.slot] -= 1
            if not occupied[share.slot]:
                del occupied[share.slot]
                if not occupied:
                    del self.occupied[share.service_id]
        if share.iteration is not None and not share.is_leaving:
            self._leave_run((share.service_id, share.iteration), share)
        if share.pending is not None:
            group = self.pending[share.pending]
            del group[task_id]
            if not group:
                del self.pending[share.pending]
        if share.node_id is None:
            return ()
        load = self.loads[share.node_id]
        load.nano_cpus -= share.nano_cpus
        load.memory_bytes -= share.memory_bytes
        if share.is_wanted:
            load.tasks -= 1
            load.by_service[share.service_id] -= 1
            if not load.by_service[share.service_id]:
                del load.by_service[share.service_id]
        return self._detach(share.node_id, share.networks)

    def _leave_run(self, key: RunKey, share: _Share) -> None:
        tally = self.runs[key]
        for slots in _counted(tally, share):
            slots[share.slot] -= 1
            if not slots[share.slot]:
                del slots[share.slot]
        if not tally.used:
            del self.runs[key]

    def _detach(self, node_id: NodeId, networks: tuple[NetworkId, ...]) -> tuple[GatewayKey, ...]:
        left = []
        for network_id in networks:
            key = (network_id, node_id)
            self.attached[key] -= 1
            if not self.attached[key]:
                del self.attached[key]
                left.append(key)
        return tuple(left)


def _counted(tally: RunTally, share: _Share) -> Iterator[dict[SlotName, int]]:
    """The counts of a run in which a task stands that is not to be removed."""
    yield tally.used
    if share.is_at_work:
        yield tally.at_work
    if share.is_complete:
        yield tally.complete


def _age(task: Task) -> tuple[int, str]:
    return task.created_ns, task.id
