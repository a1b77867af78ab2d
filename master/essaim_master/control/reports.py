"""Which reported statuses are taken over into the state. Pure."""

import msgspec

from essaim_master.state.cluster_state import ClusterState
from essaim_shared.ids import NodeId, TaskId
from essaim_shared.limits import STATUS_ERROR_CHARS_MAX
from essaim_shared.messages import ReportedStatus
from essaim_shared.objects import TaskStatus
from essaim_shared.task_state import TaskState, may_move


def accepted_status(
    state: ClusterState,
    node_id: NodeId,
    reported: ReportedStatus,
    known: TaskStatus | None,
) -> TaskStatus | None:
    """The status to write, or None for a report that says nothing new.

    Only the task's own node may speak of it, and only from ACCEPTED on. The state grows; of two
    words in one state the one with more `readiness_changes` is right, and of two with as many the
    later one. `known` is what the state holds, or what an earlier report of the same batch is
    about to write.
    """
    task = state.tasks.get(reported.task_id)
    if task is None or task.node_id != node_id:
        return None
    status = reported.status
    if status.state < TaskState.ASSIGNED or status.state is TaskState.REMOVE:
        return None
    before = TaskState.NEW if known is None else known.state
    if status.state is not before and not may_move(before, status.state):
        return None
    taken = msgspec.structs.replace(
        status,
        started_ns=_started_ns(status, known),
        err=status.err[:STATUS_ERROR_CHARS_MAX],
        message=status.message[:STATUS_ERROR_CHARS_MAX],
        container_id=status.container_id[:STATUS_ERROR_CHARS_MAX],
    )
    if status.state is before and known is not None and not _is_news(taken, known):
        return None
    return taken


def _is_news(taken: TaskStatus, known: TaskStatus) -> bool:
    """Of two words in one state. Clocks of nodes are set; the count of readiness never goes back,
    not even with the agent's journal."""
    if taken.readiness_changes != known.readiness_changes:
        return taken.readiness_changes > known.readiness_changes
    if taken.timestamp_ns < known.timestamp_ns:
        return False
    return msgspec.structs.replace(taken, timestamp_ns=known.timestamp_ns) != known


def _started_ns(status: TaskStatus, known: TaskStatus | None) -> int:
    if known is not None and known.started_ns:
        return known.started_ns
    if status.started_ns:
        return status.started_ns
    return status.timestamp_ns if status.state is TaskState.RUNNING else 0


class StatusBatch:
    """Several reports taken together: of one task only the last status is written."""

    def __init__(self, state: ClusterState) -> None:
        self._state = state
        self.accepted: dict[TaskId, TaskStatus] = {}

    def add(self, node_id: NodeId, reported: ReportedStatus) -> None:
        known = self.accepted.get(reported.task_id)
        if known is None:
            known = self._state.task_status.get(reported.task_id)
        status = accepted_status(self._state, node_id, reported, known)
        if status is not None:
            self.accepted[reported.task_id] = status
