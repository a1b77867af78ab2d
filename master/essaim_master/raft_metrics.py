"""What a RaftNode tells about itself beside its status: figures for metrics, and alarms."""

from collections import deque
from collections.abc import Iterable

import msgspec

SYNC_WINDOW = 1024
"""Syncs over which percentiles are computed."""

SYNC_BUCKETS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)
"""Upper bounds of the histogram's buckets; longer ones count in the total only."""


class SyncFigures(msgspec.Struct, frozen=True):
    """How long a write with its sync took."""

    count: int = 0
    sum_s: float = 0.0
    buckets: tuple[int, ...] = (0,) * len(SYNC_BUCKETS_S)
    """Syncs of at most the bound in SYNC_BUCKETS_S, cumulative as in Prometheus."""
    p50_s: float = 0.0
    """Of the last SYNC_WINDOW syncs, as the two below."""
    p99_s: float = 0.0
    max_s: float = 0.0


class SyncTimes:
    """Written by the log's thread, read by any other: each field is replaced, never half done."""

    def __init__(self) -> None:
        self._window: deque[float] = deque(maxlen=SYNC_WINDOW)
        self._buckets = [0] * len(SYNC_BUCKETS_S)
        self._count = 0
        self._sum_s = 0.0

    def add(self, duration_s: float) -> None:
        self._window.append(duration_s)
        self._count += 1
        self._sum_s += duration_s
        for position, bound_s in enumerate(SYNC_BUCKETS_S):
            if duration_s <= bound_s:
                self._buckets[position] += 1
                break

    def figures(self) -> SyncFigures:
        window = sorted(self._window.copy())
        return SyncFigures(
            count=self._count,
            sum_s=self._sum_s,
            buckets=_cumulative(self._buckets),
            p50_s=_quantile(window, 0.5),
            p99_s=_quantile(window, 0.99),
            max_s=window[-1] if window else 0.0,
        )


class RaftMetrics(msgspec.Struct, frozen=True):
    """All of one moment. Counters count from the start of the process."""

    sync: SyncFigures
    writes_waiting: int
    """Readies whose writes are not durable yet."""
    inbox_messages: int
    """Received and not yet looked at."""
    proposals_pending: int
    """Of this master's clients, without a result yet."""
    proposals_foreign: int
    """Forwarded to this master and not yet proposed."""
    applies_waiting: int
    """Committed entries that the state machine has not seen yet."""
    leader_changes: int
    """How often this master saw another leader, or the same in a new term."""
    snapshot_index: int
    """Of the newest snapshot on this master's disk; 0 without one."""
    snapshots_made: int
    snapshots_sent: int
    snapshots_received: int
    snapshot_last_s: float
    """From freezing the state to its durable file, the last time."""
    snapshot_last_bytes: int
    log_bytes_since_snapshot: int
    log_disk_bytes: int
    """What the segments take."""
    loop_lag_max_s: float
    """The longest that a tick came late since the last reading of `take_loop_lag_max_s`."""
    alarms: tuple[str, ...]
    """Sentences; empty when all is well."""


def _cumulative(counts: Iterable[int]) -> tuple[int, ...]:
    total, totals = 0, []
    for count in counts:
        total += count
        totals.append(total)
    return tuple(totals)


def _quantile(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0
