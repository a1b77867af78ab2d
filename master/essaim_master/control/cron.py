"""Cron jobs: which runs there are, and what becomes of them. Pure.

| from | to | when |
|---|---|---|
| (none) | running | its time has come |
| (none) | skipped | an earlier run is under way and the schedule forbids two; too many are; or no
leader was there in time and the schedule skips what was missed |
| running | complete | all its slots have completed |
| running | failed | all its slots were begun, none is at work, and some have not completed |
| running | replaced | the next run takes its place |

Rules
-----
* A time is decided once: all up to `CronStatus.considered_ns` were. The decision is written before
  the run's tasks and under the leader's epoch, so no change of leader runs a time twice.
* A run that is late by no more than `LATE_NS_MAX` is on time, which bridges a change of leader.
  Of several times that passed, only the last counts.
* A clock set back by less than `SET_BACK_NS_MAX` runs nothing twice; one set back further is a
  correction, and the new time holds at once (cron(8) does the same).
* A change of expression, zone or suspension counts from the moment at which the leader sees it.
  What passed while a schedule was suspended was not missed.
"""

import msgspec
from msgspec.structs import replace

from essaim_master.control.cron_expression import (
    latest_until,
    next_after,
    parse_expression,
    zone_named,
)
from essaim_master.control.effects import Effects
from essaim_master.control.index import ControlIndex
from essaim_master.state.cluster_state import ClusterState
from essaim_shared.errors import InvalidRequest
from essaim_shared.objects import CronRun, CronStatus, Service
from essaim_shared.spec import Schedule

LATE_NS_MAX = 30 * 1_000_000_000

SET_BACK_NS_MAX = 3 * 3600 * 1_000_000_000

RUNS_UNDER_WAY_MAX = 20
"""Of one service: a schedule that allows runs beside each other must not fill the cluster."""

LOOK_AGAIN_NS_MAX = 3600 * 1_000_000_000
"""A schedule is looked at this often even if nothing is due."""


class Run(msgspec.Struct, frozen=True):
    """One iteration of a replicated job."""

    number: int
    total_completions: int
    max_concurrent: int


def schedule_of(service: Service) -> Schedule | None:
    """Only a replicated job has one."""
    schedule = service.spec.schedule
    is_cron = isinstance(schedule, Schedule) and service.spec.mode.replicated_job is not None
    return schedule if is_cron and isinstance(schedule, Schedule) else None


def runs_under_way(status: CronStatus) -> list[Run]:
    return [
        Run(run.number, run.total_completions, run.max_concurrent)
        for run in status.runs
        if run.outcome == "running"
    ]


def has_ended(index: ControlIndex, service: Service, run: Run) -> bool:
    """Whether nothing more will come of a run."""
    tally = index.tally(service.id, run.number)
    if len(tally.complete) >= run.total_completions:
        return True
    return len(tally.used) >= run.total_completions and not tally.open_slots


def advance(
    state: ClusterState,
    index: ControlIndex,
    service: Service,
    completions: tuple[int, int],
    effects: Effects,
) -> CronStatus:
    """Where the schedule stands now; noted in the effects if that is new."""
    schedule = schedule_of(service)
    if schedule is None:
        raise ValueError(f"service {service.id} has no schedule")
    now_ns = effects.now_ns
    present = state.cron_status.get(service.id)
    status = _brought_up(present, service, schedule, now_ns)
    status = replace(
        status, runs=tuple(_judged(state, index, service, run, now_ns) for run in status.runs)
    )
    try:
        expression = parse_expression(schedule.expression)
        zone = zone_named(schedule.time_zone)
    except InvalidRequest as refusal:
        status = replace(status, problem=str(refusal))
        effects.wake(service.id, now_ns + LOOK_AGAIN_NS_MAX)
    else:
        status = replace(status, problem="")
        if not schedule.is_suspended:
            due_ns = latest_until(expression, zone, status.considered_ns, now_ns)
            if due_ns is not None:
                status = _decided(status, schedule, due_ns, completions, now_ns)
            next_ns = next_after(expression, zone, max(status.considered_ns, now_ns))
            again_ns = now_ns + LOOK_AGAIN_NS_MAX
            effects.wake(service.id, again_ns if next_ns is None else min(next_ns, again_ns))
    status = replace(status, runs=_kept(status.runs, schedule.history))
    if status != present:
        effects.cron_status[service.id] = status
    return status


def _brought_up(
    present: CronStatus | None, service: Service, schedule: Schedule, now_ns: int
) -> CronStatus:
    """The status under the present schedule and clock, before anything is decided."""
    if present is None:
        considered_ns = min(service.created_ns, now_ns)
        return CronStatus(service_id=service.id, considered_ns=considered_ns, schedule=schedule)
    considered_ns = present.considered_ns
    if considered_ns > now_ns + SET_BACK_NS_MAX:
        considered_ns = now_ns
    if present.schedule is None or _times_of(present.schedule) != _times_of(schedule):
        considered_ns = max(considered_ns, now_ns)
    return replace(present, considered_ns=considered_ns, schedule=schedule)


def _times_of(schedule: Schedule) -> tuple[str, str, bool]:
    return schedule.expression, schedule.time_zone, schedule.is_suspended


def _judged(
    state: ClusterState, index: ControlIndex, service: Service, run: CronRun, now_ns: int
) -> CronRun:
    """The run with its outcome, once it has one."""
    if run.outcome != "running":
        return run
    if not has_ended(index, service, Run(run.number, run.total_completions, run.max_concurrent)):
        return run
    if len(index.tally(service.id, run.number).complete) >= run.total_completions:
        return replace(run, outcome="complete", finished_ns=now_ns)
    reason = _failure_of(state, index, service, run)
    return replace(run, outcome="failed", finished_ns=now_ns, reason=reason)


def _failure_of(state: ClusterState, index: ControlIndex, service: Service, run: CronRun) -> str:
    """What its lowest slot that has not completed last said."""
    tally = index.tally(service.id, run.number)
    failed = [key for key in tally.used if key not in tally.complete and isinstance(key, int)]
    if not failed:
        return ""
    slot = min(failed)
    tasks = [t for t in index.slot_tasks(service.id, slot) if t.iteration == run.number]
    status = state.task_status.get(tasks[-1].id) if tasks else None
    why = "" if status is None else status.err or status.state.docker_name
    return f"slot {slot}: {why or 'given up'}"


def _decided(
    status: CronStatus,
    schedule: Schedule,
    due_ns: int,
    completions: tuple[int, int],
    now_ns: int,
) -> CronStatus:
    """One more run, or the reason why there is none."""
    under_way = runs_under_way(status)
    runs = status.runs
    reason = ""
    if now_ns - due_ns > LATE_NS_MAX and schedule.missed == "skip":
        reason = "no leader was there to start it in time"
    elif under_way and schedule.concurrency == "forbid":
        reason = f"run {under_way[0].number} is under way"
    elif under_way and schedule.concurrency == "replace":
        runs = tuple(_replaced(run, status.next_number, now_ns) for run in runs)
    elif len(under_way) >= RUNS_UNDER_WAY_MAX:
        reason = f"{len(under_way)} runs are under way"
    run = CronRun(
        number=status.next_number,
        scheduled_ns=due_ns,
        started_ns=0 if reason else now_ns,
        finished_ns=now_ns if reason else 0,
        outcome="skipped" if reason else "running",
        reason=reason,
        total_completions=completions[0],
        max_concurrent=completions[1],
    )
    return replace(
        status, considered_ns=due_ns, runs=(*runs, run), next_number=status.next_number + 1
    )


def _replaced(run: CronRun, successor: int, now_ns: int) -> CronRun:
    if run.outcome != "running":
        return run
    reason = f"run {successor} has taken its place"
    return replace(run, outcome="replaced", finished_ns=now_ns, reason=reason)


def _kept(runs: tuple[CronRun, ...], history: int) -> tuple[CronRun, ...]:
    """Those under way, and the newest of the others. The skipped ones are counted apart: a long
    run that forbids others must not push out the history of those that ran."""
    ended = [run for run in runs if run.outcome not in ("running", "skipped")]
    skipped = [run for run in runs if run.outcome == "skipped"]
    dropped = {
        run.number for kind in (ended, skipped) for run in kind[: max(len(kind) - history, 0)]
    }
    return tuple(run for run in runs if run.number not in dropped)
