"""How far each slot of a service has come in its update, read from its tasks alone. Pure.

Phases
------
    FRESH      the slot was made with the present template: no update has to come here
    IDLE       has the older template and does not run
    RUNNING    has the older template and runs
    CHANGING   a worker is on it: the old task is being stopped, or the new one is not ready yet,
               or the delay after it has not passed
    CHANGED    the new task runs and is ready
    FAILED     the new task ended before it ran, or within the monitor period

Nothing of it is kept in memory, so a new leader sees what the last one saw. A slot moves from
RUNNING to CHANGING by an order of the updater, and out of CHANGING by what agents report.
"""

from dataclasses import dataclass
from enum import Enum

from essaim_master.control.conditions import LOST, condition_of, has_stopped
from essaim_master.control.restart import replacement_of
from essaim_master.control.slots import Slot
from essaim_master.control.update_policy import UpdatePolicy
from essaim_master.state.cluster_state import ClusterState
from essaim_shared.objects import Service, Task, TaskStatus
from essaim_shared.task_state import TaskState

FAILURES = frozenset({TaskState.COMPLETE, TaskState.FAILED, TaskState.REJECTED})
"""Ends of a task by itself. One that its node or the masters ended is no failure of it."""

FINISHED = frozenset({TaskState.COMPLETE, TaskState.SHUTDOWN, TaskState.ORPHANED})
"""Ends after which a slot that stays empty is done. After a failure it is not: a template that
its restart policy has given up must not reach the remaining slots."""


class Phase(Enum):
    FRESH = "fresh"
    IDLE = "idle"
    RUNNING = "running"
    CHANGING = "changing"
    CHANGED = "changed"
    FAILED = "failed"


@dataclass(slots=True)
class SlotProgress:
    """One slot as the updater sees it."""

    slot: Slot
    phase: Phase
    task: Task
    """That the phase is about."""
    is_counted: bool = False
    """Whether the slot was changed by the update of the present generation, so that it counts
    among its successes or failures; those before were judged then."""
    changed_ns: int = 0
    """CHANGED, or CHANGING in its delay: when the new task was there."""
    is_blocked: bool = False
    """CHANGING, and waits for a report."""


def progress_of(
    state: ClusterState, service: Service, slot: Slot, policy: UpdatePolicy, now_ns: int
) -> SlotProgress:
    """What has become of one slot."""
    current, newest = slot.current, slot.youngest
    version = service.spec_version
    if current is not None:
        if current.spec_version == version:
            return _new_task(state, service, slot, current, policy, now_ns)
        beside = None
        if newest.spec_version == version:
            beside = _start_first(state, service, slot, newest, policy)
        return beside or SlotProgress(
            slot, Phase.RUNNING if slot.is_running else Phase.IDLE, current
        )
    if newest.spec_version == version:
        return _ended(state, service, slot, policy, now_ns)
    is_stopping = not newest.is_wanted and not has_stopped(state, newest)
    if is_stopping and condition_of(state, newest.node_id) not in LOST:
        return SlotProgress(slot, Phase.CHANGING, newest, is_blocked=True)
    return SlotProgress(slot, Phase.IDLE, newest)


def ended_early(task: Task, status: TaskStatus | None, monitor_ns: int) -> bool:
    """Whether a task ended by itself before it ran, or so soon after that its template is to
    blame. Both times are of the task's own node, so clocks that differ do not matter."""
    if status is None or status.state not in FAILURES:
        return False
    since_ns = max(status.started_ns, task.adopted_ns)
    return not status.started_ns or status.timestamp_ns - since_ns <= monitor_ns


def is_settled(state: ClusterState, task: Task) -> bool:
    """Whether the task runs and is ready for its work."""
    status = state.task_status.get(task.id)
    return status is not None and status.state is TaskState.RUNNING and status.is_ready


def _new_task(
    state: ClusterState,
    service: Service,
    slot: Slot,
    task: Task,
    policy: UpdatePolicy,
    now_ns: int,
) -> SlotProgress:
    if not task.update_generation:
        return SlotProgress(slot, Phase.FRESH, task)
    is_counted = task.update_generation == service.generation
    if is_counted and task.has_update_failed:
        return SlotProgress(slot, Phase.FAILED, task, is_counted)
    if not is_settled(state, task):
        return SlotProgress(slot, Phase.CHANGING, task, is_counted, is_blocked=True)
    changed_ns = _changed_ns(state, task, policy, now_ns)
    is_resting = now_ns < changed_ns + policy.delay_ns
    phase = Phase.CHANGING if is_resting else Phase.CHANGED
    return SlotProgress(slot, phase, task, is_counted, changed_ns)


def _changed_ns(state: ClusterState, task: Task, policy: UpdatePolicy, now_ns: int) -> int:
    """When the task was there: since then it runs and is ready, or has adopted the template.

    The node's clock tells the first, so it is held between the masters' last order and now. A
    time too far ahead was told by a clock that is wrong (a node's, an earlier leader's, or this
    one's before it was set back) and is passed over: waiting for it could take for ever. 0: none
    is left, and it was long ago.
    """
    believed_ns = now_ns + max(policy.delay_ns, policy.monitor_ns)
    told_ns = (state.task_status[task.id].timestamp_ns, task.updated_ns)
    return min(now_ns, max((at_ns for at_ns in told_ns if at_ns <= believed_ns), default=0))


def _ended(
    state: ClusterState, service: Service, slot: Slot, policy: UpdatePolicy, now_ns: int
) -> SlotProgress:
    """A slot whose task of the new template is no more."""
    task = slot.youngest
    if not task.update_generation:
        return SlotProgress(slot, Phase.FRESH, task)
    is_counted = task.update_generation == service.generation
    status = state.task_status.get(task.id)
    if is_counted and (task.has_update_failed or ended_early(task, status, policy.monitor_ns)):
        return SlotProgress(slot, Phase.FAILED, task, is_counted)
    has_finished = state.observed(task.id) in FINISHED
    if has_finished and replacement_of(task, status, False, now_ns) is None:
        return SlotProgress(slot, Phase.CHANGED, task, is_counted)
    return SlotProgress(slot, Phase.CHANGING, task, is_counted, is_blocked=True)


def _start_first(
    state: ClusterState, service: Service, slot: Slot, newest: Task, policy: UpdatePolicy
) -> SlotProgress | None:
    """A slot whose old task still runs beside the new one; None when the new one is no more and
    was no failure of this update, so that the slot is where it was before."""
    is_counted = newest.update_generation == service.generation
    if is_counted and (
        newest.has_update_failed
        or ended_early(newest, state.task_status.get(newest.id), policy.monitor_ns)
    ):
        return SlotProgress(slot, Phase.FAILED, newest, is_counted)
    if slot.successor is newest:
        return SlotProgress(slot, Phase.CHANGING, newest, is_counted, is_blocked=True)
    return None
