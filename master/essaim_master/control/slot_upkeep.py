"""What is done for one slot, whatever the mode of its service. Pure.

Rules
-----
* A slot has at most one *current* task: wanted, not ended, on a node that keeps it. Without one,
  the youngest task of the slot tells whether and when the next is made (`restart`).
* A task is never moved or restarted. It is ordered to stop, and another is made.
"""

from collections.abc import Sequence

from essaim_master.control.conditions import LOST, UNREACHABLE, condition_of, has_stopped
from essaim_master.control.dirty import template_of
from essaim_master.control.effects import Effects
from essaim_master.control.reaper import expired_tasks
from essaim_master.control.restart import Replacement, ended_early, is_due, replacement_of
from essaim_master.control.slots import FRESH, Slot
from essaim_master.control.updater import Rollout
from essaim_master.state.cluster_state import ClusterState
from essaim_shared.objects import Service, Task
from essaim_shared.task_state import TaskState


def maintain_slot(
    state: ClusterState,
    service: Service,
    slot: Slot,
    effects: Effects,
    rollout: Rollout | None = None,
) -> None:
    """Start a delayed task whose time has come, replace an ended or lost one, trim history.
    `rollout` is the service's, if it is in an update."""
    if slot.is_quiet:
        return
    held = None if rollout is None else rollout.held_template(slot)
    version = service.spec_version if held is None else held.spec_version
    kept = slot.current
    if kept is None and _waits_for_its_time(state, version, slot.youngest, effects.now_ns):
        kept = slot.youngest
    companion = None if rollout is None else rollout.companion(slot)
    tasks = shut_down_all_but(kept, slot.tasks, effects, companion)
    if slot.current is not None:
        start_if_due(slot.current, effects)
    elif kept is None:
        replacement = _replacement(state, version, slot.youngest, effects.now_ns)
        if replacement is None and held is not None and _was_stopped(state, slot.youngest):
            replacement = FRESH  # the update had stopped it, and then did not come back to it
        if replacement is not None:
            has_update_failed = rollout is not None and rollout.has_failed(slot.youngest)
            created = effects.create(
                service,
                slot.key,
                replacement,
                tasks[-1],
                template=held,
                has_update_failed=has_update_failed,
            )
            tasks.append(created)
    forget_expired(state, tasks, effects)


def hold_slot(state: ClusterState, slot: Slot, effects: Effects) -> None:
    """Let the slot's task run on, but make none."""
    if slot.current is not None:
        shut_down_all_but(slot.current, slot.tasks, effects)
        start_if_due(slot.current, effects)
    forget_expired(state, slot.tasks, effects)


def shut_slot_down(state: ClusterState, tasks: Sequence[Task], effects: Effects) -> None:
    """Order everything in a slot to stop, and keep its history."""
    forget_expired(state, shut_down_all_but(None, tasks, effects), effects)


def maintain_job_slot(
    state: ClusterState, service: Service, slot: Slot, iteration: int, effects: Effects
) -> bool:
    """As `maintain_slot`, for one iteration's tasks of a job's slot. Whether the slot is still at
    work; else it has completed or was given up."""
    done = next((t for t in slot.tasks if state.observed(t.id) is TaskState.COMPLETE), None)
    kept = done or slot.current
    youngest = slot.youngest
    if kept is None and ended_early(youngest, state.task_status.get(youngest.id), effects.now_ns):
        kept = youngest
    tasks = shut_down_all_but(kept, slot.tasks, effects)
    is_alive = any(t.node_id and not state.observed(t.id).is_terminal for t in tasks)
    is_at_work = done is None and (is_alive or kept is not None)
    if kept is not None:
        start_if_due(kept, effects)
    else:
        replacement = _replacement_of_same(state, youngest, effects.now_ns)
        if replacement is not None:
            template = template_of(service, youngest)
            created = effects.create(
                service, slot.key, replacement, tasks[-1], iteration=iteration, template=template
            )
            tasks.append(created)
            is_at_work = True
    forget_expired(state, tasks, effects)
    return is_at_work


def settle_job_slot(state: ClusterState, tasks: Sequence[Task], effects: Effects) -> None:
    """Stop what still runs of an ended run, and keep its history."""
    settled = [
        effects.desire(task, TaskState.SHUTDOWN)
        if task.is_wanted and state.observed(task.id) is not TaskState.COMPLETE
        else task
        for task in tasks
    ]
    forget_expired(state, settled, effects)


def shut_down_all_but(
    kept: Task | None, tasks: Sequence[Task], effects: Effects, companion: Task | None = None
) -> list[Task]:
    """Order the others that are wanted to stop; the tasks as they then are."""
    return [
        effects.desire(task, TaskState.SHUTDOWN)
        if task.is_wanted and task is not kept and task is not companion
        else task
        for task in tasks
    ]


def start_if_due(task: Task, effects: Effects) -> None:
    if task.desired_state is TaskState.READY and is_due(task, effects.now_ns):
        effects.start(task)


def remove_tasks(state: ClusterState, tasks: Sequence[Task], effects: Effects) -> None:
    """Order tasks to stop and be forgotten; those that have stopped are forgotten now."""
    for task in tasks:
        if has_stopped(state, task):
            effects.delete(task.id)
        elif task.desired_state is not TaskState.REMOVE:
            effects.desire(task, TaskState.REMOVE)


def forget_expired(state: ClusterState, tasks: Sequence[Task], effects: Effects) -> None:
    for task_id in expired_tasks(state, tasks):
        effects.delete(task_id)


def _waits_for_its_time(state: ClusterState, version: int, youngest: Task, now_ns: int) -> bool:
    """Whether the slot is left alone until the delay of its ended task has passed (which the
    worklist's timer tells). A new template does not wait."""
    return youngest.spec_version == version and ended_early(
        youngest, state.task_status.get(youngest.id), now_ns
    )


def _replacement(
    state: ClusterState, version: int, youngest: Task, now_ns: int
) -> Replacement | None:
    """What follows the youngest task of a slot without a current one; None: nothing, or not yet."""
    if youngest.spec_version == version:
        return _replacement_of_same(state, youngest, now_ns)
    is_stopping = not youngest.is_wanted and not has_stopped(state, youngest)
    if is_stopping and condition_of(state, youngest.node_id) not in UNREACHABLE:
        return None
    return FRESH


def _was_stopped(state: ClusterState, task: Task) -> bool:
    """Whether a task ended by the masters' order, and not for its node's sake."""
    is_stopped = not task.is_wanted and state.observed(task.id) is TaskState.SHUTDOWN
    return is_stopped and condition_of(state, task.node_id) not in LOST


def _replacement_of_same(state: ClusterState, youngest: Task, now_ns: int) -> Replacement | None:
    """As above, the template being the same."""
    is_on_lost_node = condition_of(state, youngest.node_id) in LOST
    is_stopping = not youngest.is_wanted and not has_stopped(state, youngest)
    if is_stopping and not is_on_lost_node:
        return None
    is_lost = is_on_lost_node and not state.observed(youngest.id).is_terminal
    return replacement_of(youngest, state.task_status.get(youngest.id), is_lost, now_ns)
