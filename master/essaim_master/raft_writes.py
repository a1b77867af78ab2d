"""What is on its way to the disk, and what is to be said and done once it is there.

Everything that must be durable before it is said goes through the log writer in order; a `_Job`
holds what is to be said then. Without a write of its own a Ready still waits for those before it:
its messages may acknowledge entries that are only now on their way.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from essaim_master.raft.messages import HardState, Message, Ready
from essaim_master.wal.records import SnapshotRecord, WalBatch
from essaim_master.wal.writer import LogWriter


class Persisted(NamedTuple):
    """What became durable since the last look."""

    messages: list[Message]
    """Those that may be sent now, in order."""
    persist_term: int
    """With `persist_index`: for `core.persisted`; 0 if nothing became durable."""
    persist_index: int
    done: list[Callable[[], None]]


class _Job(NamedTuple):
    """What to do when the log is durable up to `ticket`."""

    ticket: int
    persist_term: int
    persist_index: int
    messages: Sequence[Message]
    done: Callable[[], None] | None = None


class PendingWrites:
    def __init__(self, writer: LogWriter) -> None:
        self._writer = writer
        self._jobs: deque[_Job] = deque()
        self._last_ticket = 0
        self._durable_ticket = 0
        self._hard_state: HardState | None = None
        """Only its commit is new: it goes with the next write (a lost one is learned again)."""
        self._reset: tuple[SnapshotRecord, Callable[[], None]] | None = None
        """Goes with the next Ready, which is the first that follows the snapshot."""

    def __len__(self) -> int:
        """Readies that wait for the disk."""
        return len(self._jobs)

    def submit(self, ready: Ready) -> Sequence[Message]:
        """Write what the Ready asks for; its messages that may go out at once."""
        hard_state = ready.hard_state or self._hard_state
        reset, self._reset = self._reset, None
        if ready.must_sync or reset is not None:
            record = None if reset is None else reset[0]
            self._write(WalBatch(ready.entries, hard_state, record))
        else:
            self._hard_state = hard_state
            if not self._jobs:
                return ready.messages_after_sync
        self._jobs.append(
            _Job(
                self._last_ticket,
                ready.persist_term,
                ready.persist_index,
                ready.messages_after_sync,
                None if reset is None else reset[1],
            )
        )
        return ()

    def record(self, record: SnapshotRecord, done: Callable[[], None]) -> None:
        """Write that a snapshot is durable: at once, or, if it resets the log, before all that
        follows it there."""
        if record.resets_log:
            self._reset = (record, done)
            return
        # The commit index goes with it: a recorded snapshot is never past a recorded commit.
        self._write(WalBatch(hard_state=self._hard_state, snapshot=record))
        self._jobs.append(_Job(self._last_ticket, 0, 0, (), done))

    def durable(self, ticket: int) -> None:
        """The writer says: durable up to this ticket."""
        self._durable_ticket = ticket

    def take(self) -> Persisted:
        """What may be said and done now."""
        messages: list[Message] = []
        done: list[Callable[[], None]] = []
        term = index = 0
        jobs = self._jobs
        while jobs and jobs[0].ticket <= self._durable_ticket:
            job = jobs.popleft()
            messages += job.messages
            if job.persist_term:
                term, index = job.persist_term, job.persist_index
            if job.done is not None:
                done.append(job.done)
        return Persisted(messages, term, index, done)

    def flush(self) -> None:
        """Before the end: submit what waited for a write to go with."""
        if self._hard_state is not None:
            self._write(WalBatch(hard_state=self._hard_state))

    def _write(self, batch: WalBatch) -> None:
        self._hard_state = None
        self._last_ticket = self._writer.submit(batch)
