"""How far a service is from what was asked: Swarm's converge display, without the drawing. Pure.

The rules are those of docker/cli's cli/command/service/progress/progress.go: of each slot the task
with the lowest desired state counts, ties go to the lowest observed state; tasks on nodes that
are down do not count; once all run, the service must stay so for its monitor period. Unlike
Swarm's, the reason of a failure stays in view while the task's replacement is on its way, and a
task whose readiness probe fails does not count as running.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from essaim_cli.formatting import natural_key, short_id

Json = Mapping[str, Any]

STATE_NUMBERS = {
    "new": 1,
    "allocated": 2,
    "pending": 3,
    "assigned": 4,
    "accepted": 5,
    "preparing": 6,
    "ready": 7,
    "starting": 8,
    "running": 9,
    "complete": 10,
    "shutdown": 11,
    "failed": 12,
    "rejected": 13,
}
RUNNING = STATE_NUMBERS["running"]
COMPLETE = STATE_NUMBERS["complete"]
STATE_CHARS = 10
"""The bars begin in one column."""
PROGRESS_BARS_MAX = 20
ERROR_CHARS_MAX = 75
MONITOR_DEFAULT_NS = 5_000_000_000

Key = int | str
"""What tells the tasks of a service apart: the slot, or the node of a global one."""


@dataclasses.dataclass(frozen=True, slots=True)
class Bar:
    """One slot's line: a label, and how far its task is or what went wrong."""

    label: str
    state: str
    step: int
    """0 to `steps`, which is full."""
    error: str = ""
    steps: int = RUNNING

    def __str__(self) -> str:
        if self.error:
            return f"{self.label}: {self.error}"
        drawn = ("=" * self.step + ">").ljust(self.steps + 1)
        return f"{self.label}: {self.state:<{STATE_CHARS}}[{drawn}]"


@dataclasses.dataclass(frozen=True, slots=True)
class Progress:
    """One look at a service."""

    running: int
    """Of a job: completed."""
    wanted: int
    bars: tuple[Bar, ...]
    blockers: tuple[str, ...]
    """Distinct errors of slots that do not run: why a wait may never end."""
    headline: str
    detail: str = ""
    """A second line below the headline."""
    is_converged: bool = False
    is_job: bool = False

    @property
    def summary(self) -> str:
        """For the message of a time-out."""
        words = "completed" if self.is_job else "running"
        return f"{self.running} out of {self.wanted} tasks {words}"


def measure(service: Json, tasks: Sequence[Json], down_nodes: frozenset[str]) -> Progress:
    """The progress of a service; `tasks` are those of its present spec."""
    mode = service["Spec"]["Mode"]
    if "ReplicatedJob" in mode:
        return _replicated_job(service, tasks)
    if "GlobalJob" in mode:
        return _global_job(service, tasks)
    is_global = "Global" in mode
    latest = _latest(tasks, _node_of if is_global else _slot_of, down_nodes)
    wanted = len(latest.of) if is_global else int((mode.get("Replicated") or {}).get("Replicas", 1))
    running = sum(1 for task in latest.of.values() if _runs(task))
    if is_global:
        labels = [(key, short_id(str(key), no_trunc=False)) for key in _sorted(latest.of)]
    else:
        slots = _shown_slots([int(key) for key in latest.of], wanted)
        labels = [(slot, f"{place}/{wanted}") for place, slot in enumerate(slots, start=1)]
    if is_global and not latest.of:
        return Progress(0, 0, (), (), "overall progress: waiting for new tasks")
    return Progress(
        running=min(running, wanted),
        wanted=wanted,
        bars=_bars(labels, latest, wanted, RUNNING),
        blockers=latest.blockers,
        headline=_headline(service, min(running, wanted), wanted, latest.not_ready),
        is_converged=running == wanted,
    )


def waiting_step(service: Json) -> str:
    """What to say of a stepped update that waits to be promoted; empty when none does."""
    status = service.get("UpdateStatus") or {}
    steps = (service["Spec"].get("UpdateConfig") or {}).get("Steps") or ()
    done = int(status.get("StepsDone", 0))
    if not status.get("WaitsForPromotion") or not 1 <= done <= len(steps):
        return ""
    return (
        f"update step {done} of {len(steps)} ({steps[done - 1]}%) done: "
        f"run `essaim service promote {service['Spec']['Name']}`"
    )


@dataclasses.dataclass(frozen=True, slots=True)
class _Latest:
    """The task that stands for each slot or node, and what is wrong with it."""

    of: Mapping[Key, Json]
    errors: Mapping[Key, str]

    @property
    def blockers(self) -> tuple[str, ...]:
        return tuple(sorted(set(self.errors.values()) - {""}))

    @property
    def not_ready(self) -> int:
        return sum(1 for task in self.of.values() if _is_up(task) and not _runs(task))


def _latest(
    tasks: Sequence[Json], key_of: Callable[[Json], Key], down_nodes: frozenset[str]
) -> _Latest:
    standing: dict[Key, Json] = {}
    failed: dict[Key, Json] = {}
    for task in tasks:
        key = key_of(task)
        if _has_ended(task) and task["CreatedAt"] >= failed.get(key, task)["CreatedAt"]:
            failed[key] = task
        if _counts(task, down_nodes):
            present = standing.get(key)
            if present is None or _rank(task) < _rank(present):
                standing[key] = task
    errors = {key: _standing_error(task, failed.get(key)) for key, task in standing.items()}
    return _Latest(standing, errors)


def _headline(service: Json, running: int, wanted: int, not_ready: int) -> str:
    state = (service.get("UpdateStatus") or {}).get("State", "")
    rolling_back = "rolling back update: " if state.startswith("rollback_") else ""
    waiting = f" ({not_ready} not ready)" if not_ready else ""
    return f"overall progress: {rolling_back}{running} out of {wanted} tasks{waiting}"


def _replicated_job(service: Json, tasks: Sequence[Json]) -> Progress:
    mode = service["Spec"]["Mode"]["ReplicatedJob"] or {}
    total = int(mode.get("TotalCompletions") or 1)
    concurrent = int(mode.get("MaxConcurrent") or total)
    latest = _latest_of_run(service, tasks, _slot_of)
    completed = sum(1 for task in latest.of.values() if _is_complete(task))
    active = sum(1 for task in latest.of.values() if _number(task) <= RUNNING)
    active_wanted = min(total - completed, concurrent)
    digits = len(str(concurrent))
    labels = [(slot, f"{slot + 1}/{total}") for slot in range(total)]
    return Progress(
        running=completed,
        wanted=total,
        bars=_bars(labels, latest, total, COMPLETE),
        blockers=latest.blockers,
        headline=_job_headline(completed, total),
        detail=f"active tasks: {active:>{digits}} out of {active_wanted:>{digits}} tasks",
        is_converged=completed >= total,
        is_job=True,
    )


def _global_job(service: Json, tasks: Sequence[Json]) -> Progress:
    latest = _latest_of_run(service, tasks, _node_of)
    if not latest.of:
        return Progress(0, 0, (), (), "job progress: waiting for tasks", is_job=True)
    completed = sum(1 for task in latest.of.values() if _is_complete(task))
    labels = [(node, short_id(str(node), no_trunc=False)) for node in _sorted(latest.of)]
    return Progress(
        running=completed,
        wanted=len(latest.of),
        bars=_bars(labels, latest, len(latest.of), COMPLETE),
        blockers=latest.blockers,
        headline=_job_headline(completed, len(latest.of)),
        is_converged=completed == len(latest.of),
        is_job=True,
    )


def _latest_of_run(service: Json, tasks: Sequence[Json], key_of: Callable[[Json], Key]) -> _Latest:
    """Of each slot or node the task of the present run that has come furthest: its completion
    counts, however often it failed before; else the one that was made last."""
    run = ((service.get("JobStatus") or {}).get("JobIteration") or {}).get("Index", 0)
    standing: dict[Key, Json] = {}
    for task in tasks:
        if (task.get("JobIteration") or {}).get("Index", 0) != run or not _number(task):
            continue
        present = standing.get(key_of(task))
        if present is None or _job_rank(task) > _job_rank(present):
            standing[key_of(task)] = task
    return _Latest(standing, {key: _error(task) for key, task in standing.items()})


def _job_rank(task: Json) -> tuple[bool, str]:
    return _is_complete(task), task["CreatedAt"]


def _job_headline(completed: int, total: int) -> str:
    return f"job progress: {completed:>{len(str(total))}} out of {total} complete"


def _bars(
    labels: Iterable[tuple[Key, str]], latest: _Latest, wanted: int, steps: int
) -> tuple[Bar, ...]:
    if wanted > PROGRESS_BARS_MAX:
        return ()
    return tuple(
        _bar(label, latest.of.get(key), latest.errors.get(key, ""), steps) for key, label in labels
    )


def _bar(label: str, task: Json | None, error: str, steps: int) -> Bar:
    if task is None:
        return Bar(label, "", 0, steps=steps)
    state = "not ready" if _is_up(task) and not _runs(task) else str(task["Status"]["State"])
    return Bar(label, state, min(_number(task), steps), error, steps)


def _slot_of(task: Json) -> Key:
    return int(task.get("Slot", 0))


def _node_of(task: Json) -> Key:
    return str(task.get("NodeID", ""))


def _sorted(keys: Iterable[Key]) -> list[Key]:
    return sorted(keys, key=lambda key: natural_key(str(key)))


def _number(task: Json) -> int:
    return STATE_NUMBERS.get(task["Status"]["State"], 0)


def _counts(task: Json, down_nodes: frozenset[str]) -> bool:
    if task["DesiredState"] not in STATE_NUMBERS or task["Status"]["State"] not in STATE_NUMBERS:
        return False
    if task["DesiredState"] == "shutdown":
        return False
    return task.get("NodeID", "") not in down_nodes


def _has_ended(task: Json) -> bool:
    return _number(task) > RUNNING


def _rank(task: Json) -> tuple[int, int]:
    return STATE_NUMBERS[task["DesiredState"]], _number(task)


def _is_up(task: Json) -> bool:
    return bool(task["DesiredState"] == "running" and task["Status"]["State"] == "running")


def _runs(task: Json) -> bool:
    return _is_up(task) and task["Status"].get("Ready", True) is not False


def _is_complete(task: Json) -> bool:
    return bool(task["Status"]["State"] == "complete")


def _shown_slots(slots: Sequence[int], wanted: int) -> list[int]:
    if wanted > PROGRESS_BARS_MAX:
        return []
    missing = [slot for slot in range(1, wanted + 1) if slot not in slots]
    return sorted([*slots, *missing])[:wanted]


def _error(task: Json) -> str:
    error = str(task["Status"].get("Err", "")).replace("\n", " ")
    return error if len(error) <= ERROR_CHARS_MAX else error[: ERROR_CHARS_MAX - 1] + "…"


def _standing_error(task: Json, last_ended: Json | None) -> str:
    """What keeps the slot from running: its task's own error, or how the attempt before ended.

    A failed task counts only until it is replaced, a few milliseconds later, and the replacement
    waits for its delay without an error: what failed must outlast both.
    """
    if _runs(task):
        return ""
    return _error(task) or ("" if last_ended is None else _error(last_ended))
