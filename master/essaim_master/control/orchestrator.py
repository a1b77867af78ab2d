"""From a replicated service to its tasks: how many slots, and what stands in each. Pure.

Rules
-----
* A slot is *occupied* while it has a task that is not to be removed; a service wants as many
  occupied slots as replicas. Which numbers they bear does not matter.
* A slot has at most one *current* task: wanted (READY or RUNNING), not ended, on a node that keeps
  it. Without one, the youngest task of the slot tells whether and when the next is made.
* A task is never moved or restarted. It is ordered to stop, and another is made.
* Removing goes before repairing: a slot that is surplus is not given a new task first.

A change of the task template replaces the slots one after another, each old task being stopped
before the new one is made; the next follows once the new one runs. Tasks that do not run anyway
are replaced at once: that costs no availability, and it is how a broken template is repaired.
"""

from collections.abc import Collection, Sequence

from essaim_master.control.conditions import LOST, UNREACHABLE, condition_of, has_stopped
from essaim_master.control.effects import Effects
from essaim_master.control.index import ControlIndex, SlotName
from essaim_master.control.reaper import expired_tasks
from essaim_master.control.restart import Replacement, ended_early, is_due, replacement_of
from essaim_master.control.slots import FRESH, Progress, Slot, examine_slot, surplus_slots
from essaim_master.control.updater import update_service
from essaim_master.state.cluster_state import ClusterState
from essaim_shared.ids import ServiceId
from essaim_shared.objects import Service, Task
from essaim_shared.task_state import TaskState

FINISHED = frozenset({TaskState.COMPLETE, TaskState.SHUTDOWN, TaskState.ORPHANED})
"""Ends after which a slot may stay empty while an update goes on; after a failure it may not:
a template that its restart policy has given up must not reach the remaining slots."""


def reconcile_service(
    state: ClusterState, index: ControlIndex, service_id: ServiceId, effects: Effects
) -> Progress:
    """Everything there is to do for one service now."""
    service = state.services.get(service_id)
    if service is None:
        for number in index.slots.get(service_id, ()):
            if effects.is_full:
                return Progress.INTERRUPTED
            _remove_tasks(state, index.slot_tasks(service_id, number), effects)
        return Progress.DONE
    slots, leaving = [], []
    for number in index.slots.get(service_id, ()):
        slot = examine_slot(state, number, index.slot_tasks(service_id, number))
        if slot is None:
            leaving.append(number)
        else:
            slots.append(slot)
    for number in leaving:
        _forget_expired(state, index.slot_tasks(service_id, number), effects)
    surplus = surplus_slots(slots, len(slots) - service.spec.replicas)
    for slot in surplus:
        if effects.is_full:
            return Progress.INTERRUPTED
        _remove_tasks(state, slot.tasks, effects)
    if surplus:
        removed = {slot.key for slot in surplus}
        slots = [slot for slot in slots if slot.key not in removed]
    for slot in slots:
        if effects.is_full:
            return Progress.INTERRUPTED
        _maintain(state, service, slot, effects)
    if not _fill(service, {slot.key for slot in slots}, effects):
        return Progress.FILLING
    return update_service(service, slots, effects)


def reconcile_slot(
    state: ClusterState,
    index: ControlIndex,
    service_id: ServiceId,
    number: SlotName,
    effects: Effects,
) -> None:
    """What one slot needs, its service being otherwise in order."""
    tasks = index.slot_tasks(service_id, number)
    service = state.services.get(service_id)
    if service is None:
        _remove_tasks(state, tasks, effects)
        return
    slot = examine_slot(state, number, tasks)
    if slot is None:
        _forget_expired(state, tasks, effects)
    else:
        _maintain(state, service, slot, effects)


def _maintain(state: ClusterState, service: Service, slot: Slot, effects: Effects) -> None:
    """Start a delayed task whose time has come, replace an ended or lost one, trim history."""
    current = slot.current
    kept = current
    if current is None and _waits_for_its_time(state, service, slot.youngest, effects.now_ns):
        kept = slot.youngest
    tasks = slot.tasks
    if any(_is_wanted(task) and task is not kept for task in tasks):
        tasks = [
            effects.desire(task, TaskState.SHUTDOWN)
            if _is_wanted(task) and task is not kept
            else task
            for task in tasks
        ]
    if current is not None:
        is_delayed = current.desired_state is TaskState.READY
        if is_delayed and is_due(current, effects.now_ns):
            effects.desire(current, TaskState.RUNNING)
    elif kept is None:
        youngest = slot.youngest
        replacement = _replacement(state, service, youngest, effects.now_ns)
        if replacement is not None:
            effects.create(service, slot.key, replacement, tasks[-1])
        else:
            slot.is_finished = state.observed(youngest.id) in FINISHED
    _forget_expired(state, tasks, effects)


def _waits_for_its_time(state: ClusterState, service: Service, youngest: Task, now_ns: int) -> bool:
    """Whether the slot is left alone until the delay of its ended task has passed (which the
    worklist's timer tells). A new template does not wait."""
    return youngest.spec_version == service.spec_version and ended_early(
        youngest, state.task_status.get(youngest.id), now_ns
    )


def _is_wanted(task: Task) -> bool:
    return task.desired_state <= TaskState.RUNNING


def _replacement(
    state: ClusterState, service: Service, youngest: Task, now_ns: int
) -> Replacement | None:
    """What follows the youngest task of a slot without a current one; None: nothing, or not yet."""
    condition = condition_of(state, youngest.node_id)
    stops_by_order = not _is_wanted(youngest) and not has_stopped(state, youngest)
    if stops_by_order and condition not in LOST:
        return None
    if youngest.spec_version != service.spec_version:
        if stops_by_order and condition not in UNREACHABLE:
            return None
        return FRESH
    status = state.task_status.get(youngest.id)
    return replacement_of(
        youngest, status, condition in LOST and _is_alive(state, youngest), now_ns
    )


def _is_alive(state: ClusterState, task: Task) -> bool:
    return not state.observed(task.id).is_terminal


def fill_service(
    state: ClusterState, index: ControlIndex, service_id: ServiceId, effects: Effects
) -> bool:
    """Go on making the tasks of a large service without looking at those that exist; what
    happens to them meanwhile comes up slot by slot. False when the slice is full again."""
    service = state.services.get(service_id)
    return service is None or _fill(service, index.occupied.get(service_id, {}), effects)


def _fill(service: Service, taken: Collection[SlotName], effects: Effects) -> bool:
    """Occupy the lowest free numbers until there are enough slots; False when interrupted."""
    missing = service.spec.replicas - len(taken)
    number = 0
    while missing > 0:
        if effects.is_full:
            return False
        number += 1
        if number not in taken:
            effects.create(service, number, FRESH, None)
            missing -= 1
    return True


def _remove_tasks(state: ClusterState, tasks: Sequence[Task], effects: Effects) -> None:
    """Order tasks to stop and be forgotten; those that have stopped are forgotten now."""
    for task in tasks:
        if has_stopped(state, task):
            effects.delete(task.id)
        elif task.desired_state is not TaskState.REMOVE:
            effects.desire(task, TaskState.REMOVE)


def _forget_expired(state: ClusterState, tasks: Sequence[Task], effects: Effects) -> None:
    for task_id in expired_tasks(state, tasks):
        effects.delete(task_id)
