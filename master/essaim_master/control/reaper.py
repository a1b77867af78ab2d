"""Which stopped tasks are forgotten. Pure."""

from collections.abc import Sequence

from essaim_master.control.conditions import has_stopped
from essaim_master.state.cluster_state import ClusterState
from essaim_shared.ids import TaskId
from essaim_shared.limits import TASK_HISTORY_PER_SLOT
from essaim_shared.objects import Task
from essaim_shared.task_state import TaskState


def expired_tasks(state: ClusterState, slot_tasks: Sequence[Task]) -> list[TaskId]:
    """Of one slot's tasks, oldest first, those to delete.

    A task that is to be removed goes once it has stopped. Of those that were shut down, the
    newest `TASK_HISTORY_PER_SLOT` stay as the slot's history; one that never ran anywhere or
    whose node was removed has no history to tell.
    """
    expired: list[TaskId] = []
    history: list[TaskId] = []
    for task in slot_tasks:
        if task.desired_state is TaskState.REMOVE:
            if has_stopped(state, task):
                expired.append(task.id)
        elif task.desired_state > TaskState.RUNNING:
            if state.observed(task.id).is_terminal:
                history.append(task.id)
            elif has_stopped(state, task):
                expired.append(task.id)
    surplus = len(history) - TASK_HISTORY_PER_SLOT
    return expired + history[: max(surplus, 0)]
