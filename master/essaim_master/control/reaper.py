"""Which stopped tasks are forgotten. Pure."""

from collections.abc import Sequence

from essaim_master.control.conditions import has_stopped
from essaim_master.state.cluster_state import ClusterState
from essaim_shared.ids import TaskId
from essaim_shared.objects import Task
from essaim_shared.task_state import TaskState


def expired_tasks(state: ClusterState, slot_tasks: Sequence[Task]) -> list[TaskId]:
    """Of one slot's tasks, oldest first, those to delete.

    A task that is to be removed goes once it has stopped. Of those that were shut down, the
    newest stay as the slot's history, as many as the cluster's settings say (as in Swarm, a
    negative limit means all); one that never ran anywhere or whose node was removed has no
    history to tell. Unlike Swarm's, the limit is not raised for a policy with `max_attempts`: the
    attempts are remembered in the newest task (`Task.restarts_ns`).

    The newest of all stays in any case if it was ever on a node: it alone tells that the slot was
    given up or is done.
    """
    limit = state.settings.task_history_limit
    expired: list[TaskId] = []
    history: list[TaskId] = []
    for task in slot_tasks:
        if task.desired_state is TaskState.REMOVE:
            if has_stopped(state, task):
                expired.append(task.id)
        elif not task.is_wanted:
            if state.observed(task.id).is_terminal:
                history.append(task.id)
            elif has_stopped(state, task) and not (task.node_id and task is slot_tasks[-1]):
                expired.append(task.id)
    if limit < 0:
        return expired
    surplus = history[: max(len(history) - limit, 0)]
    if surplus and surplus[-1] == slot_tasks[-1].id:
        surplus.pop()
    return expired + surplus
