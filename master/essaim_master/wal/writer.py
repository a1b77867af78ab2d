"""The one thread that writes the log, and group commit without a timer.

Work is taken in order. While one sync runs, everything that is submitted waits and becomes the
next batch, so the load itself sets the size of a batch (the dissertation's 10.2.1 lets the
leader send to its followers meanwhile).

An error of a write or a sync is never retried: `fatal` is called in this thread, and nothing is
acknowledged any more. In a daemon it ends the process at once, before any message that the
write should have preceded can leave.
"""

import asyncio
import logging
import queue
import sys
import threading
from collections.abc import Callable
from typing import Protocol

from essaim_master.raft_metrics import SyncFigures, SyncTimes
from essaim_master.wal.log import Wal
from essaim_master.wal.records import WalBatch
from essaim_shared.clock import Clock

SUBMISSIONS_PER_SYNC_MAX = 1024
"""Bounds the batch that has to be durable before the first of its submitters hears of it."""

SLOW_SYNC_S = 1.0

Fatal = Callable[[BaseException], None]
"""Ends the process with one clear line; in tests it records."""

_log = logging.getLogger(__name__)


class LogWriter(Protocol):
    """What the Raft driver needs; a simulator brings one without a thread."""

    def submit(self, batch: WalBatch) -> int: ...

    def sync_age_s(self) -> float: ...

    def sync_figures(self) -> SyncFigures:
        """How long syncs took so far."""
        ...

    async def close(self) -> None: ...


StartWriter = Callable[
    [Wal, asyncio.AbstractEventLoop, Callable[[int], None], Fatal, Clock], LogWriter
]


class WalWriter:
    def __init__(
        self,
        wal: Wal,
        loop: asyncio.AbstractEventLoop,
        on_durable: Callable[[int], None],
        fatal: Fatal,
        clock: Clock,
    ) -> None:
        """`on_durable(ticket)` is called in the loop: all submissions up to that are durable."""
        self._wal = wal
        self._loop = loop
        self._on_durable = on_durable
        self._fatal = fatal
        self._clock = clock
        self._queue: queue.SimpleQueue[WalBatch | None] = queue.SimpleQueue()
        self._submitted = 0
        self._sync_started_s: float | None = None
        self._sync_times = SyncTimes()
        self._thread = threading.Thread(target=self._run, name="wal-writer", daemon=True)
        self._thread.start()

    def submit(self, batch: WalBatch) -> int:
        """Queue a batch; returns its ticket: 1, 2, 3… Never blocks. The queue is bounded by the
        core's limit on uncommitted bytes and by its windows towards the followers."""
        self._submitted += 1
        self._queue.put(batch)
        return self._submitted

    def sync_age_s(self) -> float:
        """How long the sync that runs now has been running; 0 if there is none."""
        started_s = self._sync_started_s
        return 0.0 if started_s is None else self._clock.monotonic_s() - started_s

    def sync_figures(self) -> SyncFigures:
        return self._sync_times.figures()

    async def close(self) -> None:
        """Write what was submitted, then close the log."""
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)
        await asyncio.to_thread(self._wal.close)

    def _run(self) -> None:
        has_ended = False
        try:
            self._write_until_closed()
            has_ended = True
        finally:
            # Whatever it was, a writer that ended early must take the process with it.
            error = sys.exception()
            if not has_ended and error is not None:
                self._fatal(error)

    def _write_until_closed(self) -> None:
        durable = 0
        is_open = True
        while is_open:
            batches, is_open = self._take()
            if not batches:
                continue
            started_s = self._sync_started_s = self._clock.monotonic_s()
            try:
                self._wal.append(batches)
            except OSError as error:
                # Not raised on: a test's `fatal` returns, and must see one clean end.
                self._fatal(error)
                return
            self._sync_started_s = None
            duration_s = self._clock.monotonic_s() - started_s
            self._sync_times.add(duration_s)
            if duration_s > SLOW_SYNC_S:
                _log.warning("a sync of the write-ahead log took %.1f s: slow disk", duration_s)
            durable += len(batches)
            self._loop.call_soon_threadsafe(self._on_durable, durable)

    def _take(self) -> tuple[list[WalBatch], bool]:
        """Wait for work, then take all there is. False when the writer is to end after it."""
        batches: list[WalBatch] = []
        item = self._queue.get()
        while item is not None:
            batches.append(item)
            if len(batches) == SUBMISSIONS_PER_SYNC_MAX:
                return batches, True
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                return batches, True
        return batches, False
