"""Jobs: slots that end well once, and then stay as they are. Pure.

Rules (SwarmKit, manager/orchestrator/jobs)
-----
* A job runs in *iterations*; every update begins another. Of earlier ones nothing stays. Of a cron
  job each run is an iteration, several may be under way, and ended ones stay while its history
  holds them (`cron`).
* A replicated job has slots 0 … total - 1. A slot is *used* once it has a task, *at work* while a
  task of it runs, stops or is to run, and has *completed* with the first task that has. No more
  than `max_concurrent` slots are at work. The desired state of a task is COMPLETE.
* A task that fails is followed by another in its slot as the restart policy says; the condition
  `any` means `on-failure`. A slot whose policy has given up stays used, so it is never begun anew
  (unlike SwarmKit's, which then makes tasks without end), and the other slots go on.
* A global job has one slot for each node that fits (`eligibility`); a node that joins later runs it
  too, and one that comes back goes on unless it has completed.
"""

from collections.abc import Collection

from essaim_master.control.cron import Run, advance, has_ended, runs_under_way, schedule_of
from essaim_master.control.dirty import template_of
from essaim_master.control.effects import Effects, Template
from essaim_master.control.eligibility import Eligibility, Fit
from essaim_master.control.index import ControlIndex, SlotName
from essaim_master.control.slot_upkeep import (
    forget_expired,
    hold_slot,
    maintain_job_slot,
    remove_tasks,
    settle_job_slot,
    shut_slot_down,
)
from essaim_master.control.slots import FRESH, Progress, examine_slot
from essaim_master.state.cluster_state import ClusterState
from essaim_shared.objects import CronStatus, Service, Task
from essaim_shared.task_state import TaskState


class _Iterations:
    """Which iterations of a job matter, and what was found of their slots."""

    def __init__(self, service: Service, status: CronStatus | None) -> None:
        self.service = service
        runs = [run_of(service)] if status is None else runs_under_way(status)
        self.under_way = {run.number: run for run in runs}
        kept = () if status is None else status.runs
        self.kept = frozenset(run.number for run in kept)
        self.used: dict[int, set[SlotName]] = {number: set() for number in self.under_way}
        self.at_work: dict[int, int] = dict.fromkeys(self.under_way, 0)


def run_of(service: Service) -> Run:
    """The present iteration of a job that is not a cron job."""
    total, concurrent = completions_of(service)
    return Run(service.job_iteration, total, concurrent)


def completions_of(service: Service) -> tuple[int, int]:
    """How many a replicated job is to complete, and how many slots may be at work."""
    mode = service.spec.mode.replicated_job
    if mode is None:
        return 0, 0
    total = mode.total_completions
    if total is None:
        total = mode.max_concurrent or 1
    return total, mode.max_concurrent or total


def reconcile_job(
    state: ClusterState,
    index: ControlIndex,
    eligibility: Eligibility,
    service: Service,
    effects: Effects,
) -> Progress:
    status = None
    if schedule_of(service) is not None:
        status = advance(state, index, service, completions_of(service), effects)
    iterations = _Iterations(service, status)
    for key in index.slots.get(service.id, ()):
        if effects.is_full:
            return Progress.INTERRUPTED
        _tend_slot(state, index, eligibility, iterations, key, effects)
    if service.spec.mode.global_job is not None:
        for node_id in state.nodes:
            if effects.is_full:
                return Progress.INTERRUPTED
            _begin_on_node(eligibility, iterations, node_id, effects)
        return Progress.DONE
    for run in iterations.under_way.values():
        at_work = iterations.at_work[run.number]
        if not _fill(index, service, run, iterations.used[run.number], at_work, effects):
            return Progress.FILLING
    return Progress.DONE


def reconcile_job_slot(
    state: ClusterState,
    index: ControlIndex,
    eligibility: Eligibility,
    service: Service,
    key: SlotName,
    effects: Effects,
) -> Progress:
    """The slot of all iterations; a replicated job is filled in a later slice, which sees what
    became of its slots in this one."""
    status = None
    if schedule_of(service) is not None:
        status = state.cron_status.get(service.id)
        if status is None:
            return Progress.INTERRUPTED
    iterations = _Iterations(service, status)
    _tend_slot(state, index, eligibility, iterations, key, effects)
    if service.spec.mode.global_job is None:
        return Progress.FILLING
    _begin_on_node(eligibility, iterations, key, effects)
    return Progress.DONE


def fill_job(
    state: ClusterState, index: ControlIndex, service: Service, effects: Effects
) -> Progress:
    """Begin further slots of a replicated job, by the index's counts alone."""
    if service.spec.mode.global_job is not None:
        return Progress.DONE
    runs = [run_of(service)]
    if schedule_of(service) is not None:
        status = state.cron_status.get(service.id)
        if status is None:
            return Progress.INTERRUPTED
        runs = runs_under_way(status)
        if any(has_ended(index, service, run) for run in runs):
            return Progress.INTERRUPTED
    for run in runs:
        tally = index.tally(service.id, run.number)
        if not _fill(index, service, run, tally.used, len(tally.open_slots), effects):
            return Progress.FILLING
    return Progress.DONE


def _tend_slot(
    state: ClusterState,
    index: ControlIndex,
    eligibility: Eligibility,
    iterations: _Iterations,
    key: SlotName,
    effects: Effects,
) -> None:
    by_iteration: dict[int, list[Task]] = {}
    for task in index.slot_tasks(iterations.service.id, key):
        by_iteration.setdefault(-1 if task.iteration is None else task.iteration, []).append(task)
    for number, tasks in by_iteration.items():
        if number in iterations.under_way:
            _tend_tasks(state, eligibility, iterations, key, number, tasks, effects)
        elif number in iterations.kept:
            settle_job_slot(state, tasks, effects)
        else:
            remove_tasks(state, tasks, effects)


def _tend_tasks(
    state: ClusterState,
    eligibility: Eligibility,
    iterations: _Iterations,
    key: SlotName,
    number: int,
    tasks: list[Task],
    effects: Effects,
) -> None:
    """The tasks that one iteration under way has in one slot."""
    service = iterations.service
    slot = examine_slot(state, key, tasks)
    if slot is None:
        forget_expired(state, tasks, effects)
        return
    iterations.used[number].add(key)
    if not isinstance(key, int):
        if key not in state.nodes:
            remove_tasks(state, tasks, effects)
            return
        is_done = any(state.observed(task.id) is TaskState.COMPLETE for task in tasks)
        fit = Fit.OPEN if is_done else eligibility.fit(service, key)
        if fit is Fit.CLOSED:
            shut_slot_down(state, tasks, effects)
            return
        if fit is Fit.HELD:
            hold_slot(state, slot, effects)
            return
    if maintain_job_slot(state, service, slot, number, effects):
        iterations.at_work[number] += 1


def _begin_on_node(
    eligibility: Eligibility, iterations: _Iterations, key: SlotName, effects: Effects
) -> None:
    """Begin a global job on a node that it has not been on in this iteration."""
    if isinstance(key, int):
        return
    service = iterations.service
    number = service.job_iteration
    if key not in iterations.used[number] and eligibility.is_open(service, key):
        effects.create(service, key, FRESH, None, iteration=number)


def _fill(
    index: ControlIndex,
    service: Service,
    run: Run,
    used: Collection[SlotName],
    at_work: int,
    effects: Effects,
) -> bool:
    """Begin the lowest unused slots; False when interrupted."""
    missing = min(run.max_concurrent - at_work, run.total_completions - len(used))
    if missing <= 0:
        return True
    template = _template_of(index, service, run)
    number = -1
    while missing > 0:
        number += 1
        if number in used:
            continue
        if effects.is_full:
            return False
        effects.create(service, number, FRESH, None, iteration=run.number, template=template)
        missing -= 1
    return True


def _template_of(index: ControlIndex, service: Service, run: Run) -> Template | None:
    """What the run's first task was made from; None: it has none yet."""
    tally = index.tally(service.id, run.number)
    key = next(iter(tally.used), None)
    if key is None:
        return None
    task = next(t for t in index.slot_tasks(service.id, key) if t.iteration == run.number)
    return template_of(service, task)
