"""How far a service is from what was asked: Swarm's converge display, without the drawing. Pure.

The rules are those of docker/cli's cli/command/service/progress/progress.go: of each slot the task
with the lowest desired state counts, ties go to the lowest observed state; tasks on nodes that
are down do not count; once all run, the service must stay so for its monitor period. Unlike
Swarm's, the reason of a failure stays in view while the task's replacement is on its way.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

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
PROGRESS_BARS_MAX = 20
ERROR_CHARS_MAX = 75
MONITOR_DEFAULT_NS = 5_000_000_000


@dataclasses.dataclass(frozen=True, slots=True)
class Bar:
    """One slot's line: a label, and how far its task is or what went wrong."""

    label: str
    state: str
    step: int
    """0–9; RUNNING is full."""
    error: str = ""

    def __str__(self) -> str:
        if self.error:
            return f"{self.label}: {self.error}"
        return f"{self.label}: {self.state:<10}[{('=' * self.step + '>').ljust(RUNNING + 1)}]"


@dataclasses.dataclass(frozen=True, slots=True)
class Progress:
    """One look at a service."""

    running: int
    wanted: int
    bars: tuple[Bar, ...]
    blockers: tuple[str, ...]
    """Distinct errors of slots that do not run: why a wait may never end."""

    @property
    def is_converged(self) -> bool:
        return self.running == self.wanted

    @property
    def headline(self) -> str:
        return f"overall progress: {self.running} out of {self.wanted} tasks"


def measure(service: Json, tasks: Sequence[Json], down_nodes: frozenset[str]) -> Progress:
    """The progress of a replicated service; `tasks` are those of its present spec."""
    wanted = int(service["Spec"]["Mode"]["Replicated"]["Replicas"])
    slots: dict[int, Json] = {}
    failed: dict[int, Json] = {}
    for task in tasks:
        slot = int(task["Slot"])
        if _has_ended(task) and task["CreatedAt"] >= failed.get(slot, task)["CreatedAt"]:
            failed[slot] = task
        if _counts(task, down_nodes):
            present = slots.get(slot)
            if present is None or _rank(task) < _rank(present):
                slots[slot] = task
    running = sum(1 for task in slots.values() if _runs(task))
    errors = {slot: _slot_error(task, failed.get(slot)) for slot, task in slots.items()}
    bars = tuple(
        _bar(f"{place}/{wanted}", slots.get(slot), errors.get(slot, ""))
        for place, slot in enumerate(_shown_slots(slots, wanted), start=1)
    )
    blockers = sorted(set(errors.values()) - {""})
    return Progress(min(running, wanted), wanted, bars, tuple(blockers))


def _counts(task: Json, down_nodes: frozenset[str]) -> bool:
    if task["DesiredState"] not in STATE_NUMBERS or task["Status"]["State"] not in STATE_NUMBERS:
        return False
    if task["DesiredState"] == "shutdown":
        return False
    return task.get("NodeID", "") not in down_nodes


def _has_ended(task: Json) -> bool:
    return STATE_NUMBERS.get(task["Status"]["State"], 0) > RUNNING


def _rank(task: Json) -> tuple[int, int]:
    return STATE_NUMBERS[task["DesiredState"]], STATE_NUMBERS[task["Status"]["State"]]


def _runs(task: Json) -> bool:
    return bool(task["DesiredState"] == "running" and task["Status"]["State"] == "running")


def _shown_slots(slots: Mapping[int, Json], wanted: int) -> list[int]:
    if wanted > PROGRESS_BARS_MAX:
        return []
    missing = [slot for slot in range(1, wanted + 1) if slot not in slots]
    return sorted([*slots, *missing])[:wanted]


def _error(task: Json) -> str:
    error = str(task["Status"].get("Err", "")).replace("\n", " ")
    return error if len(error) <= ERROR_CHARS_MAX else error[: ERROR_CHARS_MAX - 1] + "…"


def _slot_error(task: Json, last_ended: Json | None) -> str:
    """What keeps the slot from running: its task's own error, or how the attempt before ended.

    A failed task counts only until it is replaced, a few milliseconds later, and the replacement
    waits for its delay without an error: what failed must outlast both.
    """
    if _runs(task):
        return ""
    return _error(task) or ("" if last_ended is None else _error(last_ended))


def _bar(label: str, task: Json | None, error: str) -> Bar:
    if task is None:
        return Bar(label, "", 0)
    state = str(task["Status"]["State"])
    return Bar(label, state, min(STATE_NUMBERS[state], RUNNING), error)
