"""The state machine behind the log, and how committed entries reach it.

Applying goes on in slices, so that heartbeats and clients are not kept waiting. While a snapshot
from the leader is being restored nothing is applied: what is committed meanwhile waits its turn.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

from essaim_master.kv.commands import AppliedProposal
from essaim_master.raft.messages import Entry, EntryKind, SnapshotMetadata
from essaim_shared.clock import Clock
from essaim_shared.errors import BrokenInvariant

APPLY_SLICE_S = 0.005
"""Applying goes on in the next turn after that."""
APPLIES_PER_CLOCK_READ = 32
ENTRY_OVERHEAD_BYTES = 32
"""What an entry takes in the log beside its data, rounded up."""


class FrozenMachine(Protocol):
    """The state of one moment; never changes, and may be read from any thread."""

    def chunks(self) -> Iterator[bytes]:
        """The state in pieces; the same bytes on every master that applied the same entries."""
        ...


class StateMachine(Protocol):
    def apply(self, index: int, term: int, command: bytes) -> object:
        """Apply one committed command; the same on every master, so no clock, no chance. An
        AppliedProposal, also for a repeated proposal, reaches whoever waits for it. Indexes
        grow, with gaps: Raft has entries of its own. Raising stops the process."""
        ...

    def freeze(self) -> FrozenMachine:
        """The state as it is now. Called in the event loop: it must copy references only."""
        ...

    def restore(self, chunks: Iterable[bytes]) -> None:
        """Become the state that these chunks of a `FrozenMachine` are. Raising stops the process:
        the bytes were checked before."""
        ...


class Applier:
    def __init__(self, machine: StateMachine, clock: Clock) -> None:
        self._machine = machine
        self._clock = clock
        self._committed: deque[Entry] = deque()
        self.index = 0
        """Of the last entry that the state machine has seen (or skipped, as Raft's own)."""
        self.term = 0
        """Of that entry."""
        self.bytes_since_snapshot = 0
        self.entries_since_snapshot = 0
        self.is_restoring = False

    @property
    def waiting(self) -> int:
        """Committed entries that are not applied yet."""
        return len(self._committed)

    @property
    def has_work(self) -> bool:
        return bool(self._committed) and not self.is_restoring

    def extend(self, committed: Sequence[Entry]) -> None:
        self._committed.extend(committed)

    def run(self, resolve: Callable[[AppliedProposal], None]) -> bool:
        """Apply for a slice of time; whether anything was applied."""
        if not self.has_work:
            return False
        committed = self._committed
        end_s = self._clock.monotonic_s() + APPLY_SLICE_S
        apply = self._machine.apply
        countdown = APPLIES_PER_CLOCK_READ
        size_bytes = count = 0
        while committed:
            entry = committed.popleft()
            size_bytes += len(entry.data) + ENTRY_OVERHEAD_BYTES
            count += 1
            if entry.kind is EntryKind.NORMAL:
                result = apply(entry.index, entry.term, entry.data)
                if isinstance(result, AppliedProposal):
                    resolve(result)
            countdown -= 1
            if countdown == 0:
                countdown = APPLIES_PER_CLOCK_READ
                if self._clock.monotonic_s() >= end_s:
                    break
        self.index, self.term = entry.index, entry.term
        self.bytes_since_snapshot += size_bytes
        self.entries_since_snapshot += count
        return True

    def freeze(self) -> FrozenMachine:
        """The state at `index`; what is applied from now on counts towards the next snapshot."""
        self.bytes_since_snapshot = self.entries_since_snapshot = 0
        return self._machine.freeze()

    def freeze_for_backup(self) -> FrozenMachine:
        """The state at `index`, for somebody else."""
        return self._machine.freeze()

    def begin_restore(self) -> None:
        """A snapshot replaces the state: what waits is part of it."""
        self._committed.clear()
        self.is_restoring = True

    def restore(self, snapshot: SnapshotMetadata, chunks: Iterable[bytes]) -> None:
        """Take over the snapshot's state, and go on behind it."""
        if snapshot.index < self.index:
            raise BrokenInvariant(
                f"snapshot of entry {snapshot.index} restored over entry {self.index}"
            )
        self._machine.restore(chunks)
        self.index, self.term = snapshot.index, snapshot.term
        self.bytes_since_snapshot = self.entries_since_snapshot = 0
        self.is_restoring = False
