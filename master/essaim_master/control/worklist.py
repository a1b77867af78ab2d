"""What the control loops have to look at, collected from the state's changes. Pure.

A change that cannot lead to a decision puts nothing on the list: most reports of ten thousand
starting tasks must cost nothing here.
"""

import heapq

from essaim_master.control.conditions import LOST, condition_of
from essaim_master.control.index import ControlIndex, GatewayKey, GroupKey, SlotKey
from essaim_master.state.cluster_state import AppliedChanges, Change, ClusterState
from essaim_master.state.keys import Kind
from essaim_shared.ids import NodeId, ServiceId, TaskId
from essaim_shared.objects import NodeObject, NodeStatus, Task, TaskStatus
from essaim_shared.task_state import TaskState


class Worklist:
    """Ordered sets: the first come is the first looked at, and nothing stands in line twice.

    Bounded by the number of objects in the state.
    """

    def __init__(self, state: ClusterState) -> None:
        self._state = state
        self.index = ControlIndex(state)
        self.services: dict[ServiceId, None] = {}
        self.filling: dict[ServiceId, None] = {}
        """Services that were looked at and only lack further tasks."""
        self.slots: dict[SlotKey, None] = {}
        self.groups: dict[GroupKey, None] = {}
        """Groups with tasks that wait for a node and may now get one."""
        self.gateways: dict[GatewayKey, None] = {}
        """That may have lost their last user."""
        self.orphaned_statuses: dict[TaskId, None] = {}
        """A report that was committed just after its task was deleted."""
        self.updating: set[ServiceId] = set()
        """Services whose tasks are being replaced one after another."""
        self._timers: list[tuple[int, TaskId]] = []
        self.add_everything()

    def __bool__(self) -> bool:
        return bool(
            self.services
            or self.filling
            or self.slots
            or self.groups
            or self.gateways
            or self.orphaned_statuses
        )

    def add_everything(self) -> None:
        """One full pass over the state: at the start of a term, and after a failed write."""
        state = self._state
        self.services.update(dict.fromkeys(state.services))
        self.services.update(dict.fromkeys(self.index.slots))
        self.retry_pending()
        for gateway in state.gateways.values():
            self.gateways[gateway.network_id, gateway.node_id] = None
        for task_id in state.task_status:
            if task_id not in state.tasks:
                self.orphaned_statuses[task_id] = None
        self._timers = [
            (task.not_before_ns, task.id) for task in state.tasks.values() if _is_delayed(task)
        ]
        heapq.heapify(self._timers)

    def retry_pending(self) -> None:
        self.groups.update(dict.fromkeys(self.index.pending))

    def note(self, applied: AppliedChanges) -> None:
        """Take a transaction's changes over, from within its apply."""
        for change in applied.changes:
            match change.kind:
                case Kind.TASK:
                    self._note_task(change)
                case Kind.TASK_STATUS:
                    self._note_task_status(change)
                case Kind.SERVICE:
                    self.services[ServiceId(change.id)] = None
                case Kind.NODE | Kind.NODE_STATUS:
                    self._note_node(change)
                case Kind.NETWORK | Kind.MEMBER:
                    self.retry_pending()
                case _:
                    pass

    def add_due(self, now_ns: int) -> None:
        """Put the slots on the list whose delayed task may run by now."""
        while self._timers and self._timers[0][0] <= now_ns:
            _, task_id = heapq.heappop(self._timers)
            task = self._state.tasks.get(task_id)
            if task is not None and _is_delayed(task):
                self.slots[task.service_id, task.slot] = None

    def next_due_ns(self) -> int | None:
        """Wall time of the next delayed start."""
        return self._timers[0][0] if self._timers else None

    def _note_task(self, change: Change) -> None:
        task_id = TaskId(change.id)
        self._refresh(task_id)
        if isinstance(change.after, Task) and _is_delayed(change.after):
            heapq.heappush(self._timers, (change.after.not_before_ns, task_id))
        if change.after is None and task_id in self._state.task_status:
            self.orphaned_statuses[task_id] = None

    def _note_task_status(self, change: Change) -> None:
        task_id = TaskId(change.id)
        task = self._state.tasks.get(task_id)
        if task is None:
            if change.after is not None:
                self.orphaned_statuses[task_id] = None
            return
        if not isinstance(change.after, TaskStatus):
            return
        state = change.after.state
        if state.is_terminal:
            self._refresh(task_id)
            self.slots[task.service_id, task.slot] = None
        if state >= TaskState.RUNNING and task.service_id in self.updating:
            self.services[task.service_id] = None

    def _note_node(self, change: Change) -> None:
        if not _matters(change):
            return
        node_id = NodeId(change.id)
        if condition_of(self._state, node_id) in LOST:
            for task in self._state.tasks_on_node(node_id).values():
                self.slots[task.service_id, task.slot] = None
            if node_id not in self._state.nodes:
                for gateway in self._state.gateways.values():
                    if gateway.node_id == node_id:
                        self.gateways[gateway.network_id, node_id] = None
        self.retry_pending()

    def _refresh(self, task_id: TaskId) -> None:
        held = self.index.is_holding(task_id)
        self.gateways.update(dict.fromkeys(self.index.refresh(task_id)))
        if held and not self.index.is_holding(task_id):
            self.retry_pending()


def _is_delayed(task: Task) -> bool:
    return task.desired_state is TaskState.READY


def _matters(change: Change) -> bool:
    """Whether a node's change can change a decision; descriptions are renewed often."""
    before, after = change.before, change.after
    if isinstance(before, NodeObject) and isinstance(after, NodeObject):
        return before.spec != after.spec
    if isinstance(before, NodeStatus) and isinstance(after, NodeStatus):
        return before.state != after.state or before.description != after.description
    return True
