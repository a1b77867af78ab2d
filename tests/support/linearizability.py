"""Whether a history, as its clients saw it, could have come from one single store.

The algorithm is that of Wing and Gong ("Testing and verifying concurrent objects", 1993) with
Lowe's cache ("Testing for linearizability", 2017): walk through the history in order of time,
take any operation that has begun and not been overtaken by an end of another, and step back when
nothing fits. What has been tried (which operations, and the state they lead to) is not tried
again; the operations are a bit set.

A history of several keys is linearizable exactly when that of each key is (Herlihy and Wing, 1990,
"locality"), so keys are checked one by one.

An operation whose outcome nobody knows (a lost answer) may take effect at any later time or never:
it returns at infinity. One whose effect nobody can have seen is left out: at the very end of time
it disturbs nobody.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, auto

STEPS_MAX = 5_000_000
"""Of one key. A history that needs more has too many operations at once for any checker."""


class Kind(Enum):
    GET = auto()
    PUT = auto()
    DELETE = auto()
    SWAP = auto()
    """Put `value` if the key's value is `expected`."""


class Undecided(Exception):
    """The bound on steps was reached."""


@dataclass(frozen=True, slots=True)
class Operation:
    """What one client asked, and when. Times are those of one clock, in seconds."""

    key: str
    kind: Kind
    call_s: float
    return_s: float
    """Infinity: nobody knows whether and when it took effect."""
    value: str | None = None
    """Written by PUT and SWAP; seen by GET, None if there was no such key."""
    expected: str | None = None
    succeeded: bool = True
    """Of SWAP, if its outcome is known: whether the value was the expected one."""

    @property
    def is_known(self) -> bool:
        return self.return_s < math.inf


@dataclass(frozen=True, slots=True)
class Violation:
    """No order of this key's operations explains what was seen."""

    key: str
    explained: int
    """How many operations at most can be put into an order."""
    total: int
    stuck_at: tuple[Operation, ...]
    """Those that none of the longest orders could go on with."""


def check(history: Iterable[Operation], steps_max: int = STEPS_MAX) -> Violation | None:
    """The first violation, or None. Raises Undecided."""
    of_key: dict[str, list[Operation]] = defaultdict(list)
    for operation in history:
        of_key[operation.key].append(operation)
    for key in sorted(of_key):
        violation = _check_key(key, _relevant(of_key[key]), steps_max)
        if violation is not None:
            return violation
    return None


def step(state: str | None, operation: Operation) -> tuple[bool, str | None]:
    """(possible in this state, the state after it)."""
    match operation.kind:
        case Kind.GET:
            return operation.value == state, state
        case Kind.PUT:
            return True, operation.value
        case Kind.DELETE:
            return True, None
        case Kind.SWAP:
            holds = state == operation.expected
            possible = not operation.is_known or holds == operation.succeeded
            return possible, operation.value if holds else state


def _relevant(operations: Sequence[Operation]) -> list[Operation]:
    seen = {one.value for one in operations if one.kind is Kind.GET and one.is_known}
    seen |= {one.expected for one in operations if one.kind is Kind.SWAP}
    # A swap that failed has seen something without telling what.
    is_blurred = any(one.kind is Kind.SWAP and not one.succeeded for one in operations)
    return [
        one
        for one in operations
        if one.is_known
        or is_blurred
        or (one.kind is Kind.DELETE and None in seen)
        or (one.kind in (Kind.PUT, Kind.SWAP) and one.value in seen)
    ]


class _Timeline:
    """Beginnings and ends in order of time, as a linked list from which operations are taken.

    Event 2 i is the beginning of operation i and 2 i + 1 its end. Of events at the same instant
    beginnings come first: what is not known to be ordered may overlap.
    """

    def __init__(self, operations: Sequence[Operation]) -> None:
        times = [(one.call_s, 0, 2 * i) for i, one in enumerate(operations)]
        times += [(one.return_s, 1, 2 * i + 1) for i, one in enumerate(operations)]
        order = [event for _, _, event in sorted(times)]
        self.head = 2 * len(operations)
        ring = [self.head, *order]
        self._after = [0] * len(ring)
        self._before = [0] * len(ring)
        for left, right in zip(ring, [*order, self.head], strict=True):
            self._after[left] = right
            self._before[right] = left

    def after(self, event: int) -> int:
        return self._after[event]

    @property
    def first(self) -> int:
        return self._after[self.head]

    def take(self, index: int) -> None:
        for event in (2 * index, 2 * index + 1):
            before, after = self._before[event], self._after[event]
            self._after[before], self._before[after] = after, before

    def put_back(self, index: int) -> None:
        """In reverse order of the taking: the neighbours of then are the neighbours again."""
        for event in (2 * index + 1, 2 * index):
            before, after = self._before[event], self._after[event]
            self._after[before] = self._before[after] = event


def _check_key(key: str, operations: Sequence[Operation], steps_max: int) -> Violation | None:
    timeline = _Timeline(operations)
    taken_bits = 0
    state: str | None = None
    tried: set[tuple[int, str | None]] = set()
    path: list[tuple[int, str | None]] = []
    longest, stuck_at = 0, tuple(operations)
    event = timeline.first
    for _ in range(steps_max):
        if timeline.first == timeline.head:
            return None
        index, is_end = divmod(event, 2)
        if not is_end:
            possible, next_state = step(state, operations[index])
            bits = taken_bits | 1 << index
            if possible and (bits, next_state) not in tried:
                tried.add((bits, next_state))
                path.append((index, state))
                taken_bits, state = bits, next_state
                timeline.take(index)
                event = timeline.first
            else:
                event = timeline.after(event)
            continue
        # Somebody's end is reached before its operation could be placed.
        if len(path) >= longest:
            longest = len(path)
            stuck_at = _begun(timeline, operations)
        if not path:
            return Violation(key, longest, len(operations), stuck_at)
        index, state = path.pop()
        taken_bits &= ~(1 << index)
        timeline.put_back(index)
        event = timeline.after(2 * index)
    raise Undecided(f"{len(operations)} operations on {key!r} need more than {steps_max} steps")


def _begun(timeline: _Timeline, operations: Sequence[Operation]) -> tuple[Operation, ...]:
    """What is left and has begun before the first end."""
    found = []
    event = timeline.first
    while event % 2 == 0 and event != timeline.head:
        found.append(operations[event // 2])
        event = timeline.after(event)
    return tuple(found)
