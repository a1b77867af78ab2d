"""A service's slots as they stand, and which of them to give up. Pure."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from essaim_master.control.conditions import LOST, condition_of
from essaim_master.control.index import SlotName
from essaim_master.control.restart import Replacement
from essaim_master.state.cluster_state import ClusterState
from essaim_shared.ids import NodeId
from essaim_shared.objects import Task
from essaim_shared.task_state import TaskState

FRESH = Replacement(failures=0, not_before_ns=0)


class Progress(Enum):
    """How far one look at a service came."""

    DONE = "done"
    UPDATING = "updating"
    """Tasks of an older template remain: look again when one of the service's tasks runs."""
    INTERRUPTED = "interrupted"
    """The slice is full: look again after it is written."""
    FILLING = "filling"
    """The slice is full, and all that is left is to make tasks: `fill_service` goes on."""


@dataclass(slots=True)
class Slot:
    """One occupied slot as it stands."""

    key: SlotName
    tasks: list[Task]
    """All of the slot's, oldest first; those to be removed included."""
    current: Task | None
    observed: TaskState
    """Of the current task; NEW when there is none."""
    successor: Task | None = None
    """The youngest task that is wanted and alive, where that is not the current one: it starts
    beside it, and becomes the current one when it is as far."""

    @property
    def is_running(self) -> bool:
        return self.observed is TaskState.RUNNING

    @property
    def is_quiet(self) -> bool:
        """Whether nothing is to be done for it, as for most slots of a large service: its only
        task is wanted, has not ended and waits for no time."""
        current = self.current
        return (
            current is not None
            and len(self.tasks) == 1
            and current.desired_state is not TaskState.READY
        )

    @property
    def youngest(self) -> Task:
        return next(t for t in reversed(self.tasks) if t.desired_state is not TaskState.REMOVE)


def examine_slot(state: ClusterState, key: SlotName, tasks: list[Task]) -> Slot | None:
    """The slot with its current task; None when it is not occupied."""
    is_occupied = False
    current, observed, is_ready = None, TaskState.NEW, False
    youngest = None
    for task in tasks:
        if task.desired_state is TaskState.REMOVE:
            continue
        is_occupied = True
        if not task.is_wanted:
            continue
        status = state.task_status.get(task.id)
        seen = TaskState.NEW if status is None else status.state
        if seen.is_terminal or condition_of(state, task.node_id) in LOST:
            continue
        youngest = task
        seems_ready = status is None or status.is_ready
        if current is None or (seen, seems_ready) >= (observed, is_ready):
            current, observed, is_ready = task, seen, seems_ready
    if not is_occupied:
        return None
    successor = None if youngest is current else youngest
    return Slot(key, tasks, current, observed, successor=successor)


def surplus_slots(slots: Sequence[Slot], count: int) -> list[Slot]:
    """Which slots to give up: those that do not run, the least advanced first; then always one
    from the node with the most; of equals the highest number."""
    if count <= 0:
        return []
    idle = [slot for slot in slots if not slot.is_running]
    idle.sort(key=lambda slot: (slot.current is not None, slot.observed, -_number(slot)))
    chosen = idle[:count]
    by_node: dict[NodeId | None, list[Slot]] = {}
    for slot in sorted(slots, key=_number):
        if slot.is_running and slot.current is not None:
            by_node.setdefault(slot.current.node_id, []).append(slot)
    heap = [(-len(found), -_number(found[-1]), node_id) for node_id, found in by_node.items()]
    heapq.heapify(heap)
    while heap and len(chosen) < count:
        _, _, node_id = heapq.heappop(heap)
        found = by_node[node_id]
        chosen.append(found.pop())
        if found:
            heapq.heappush(heap, (-len(found), -_number(found[-1]), node_id))
    return chosen


def _number(slot: Slot) -> int:
    """Of a replicated service's slot, for only these are ever surplus."""
    return slot.key if isinstance(slot.key, int) else 0
