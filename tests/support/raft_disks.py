"""One member with its disk, for tests that decide what reaches the disk before a crash."""

import random
from collections import deque

from essaim_master.raft.config import RaftConfig
from essaim_master.raft.core import RaftCore
from essaim_master.raft.messages import (
    Configuration,
    Entry,
    EntryKind,
    HardState,
    Ready,
    SnapshotMetadata,
)


class Disk:
    """What a crash leaves: the hard state, a snapshot, and the entries from some index on."""

    def __init__(self) -> None:
        self.hard_state = HardState()
        self.snapshot: SnapshotMetadata | None = None
        self.before: tuple[int, int] = (0, 0)
        """Index and term of the last entry that is not held any more."""
        self.entries: list[Entry] = []

    @property
    def first_index(self) -> int:
        return self.before[0] + 1

    @property
    def last_index(self) -> int:
        return self.before[0] + len(self.entries)

    def term_at(self, index: int) -> int | None:
        if index == self.before[0]:
            return self.before[1]
        position = index - self.first_index
        return self.entries[position].term if 0 <= position < len(self.entries) else None

    def write(self, ready: Ready) -> None:
        if ready.entries:
            assert ready.entries[0].index <= self.last_index + 1, "a gap in the log on disk"
            del self.entries[ready.entries[0].index - self.first_index :]
            self.entries += ready.entries
        if ready.hard_state is not None:
            self.hard_state = ready.hard_state

    def compact(self, snapshot: SnapshotMetadata, first_kept_index: int) -> None:
        self.snapshot = snapshot
        last = first_kept_index - 1
        if last > self.before[0]:
            term = self.term_at(last)
            assert term is not None
            del self.entries[: last - self.before[0]]
            self.before = (last, term)

    def begin_anew(self, snapshot: SnapshotMetadata) -> None:
        self.snapshot = snapshot
        self.before, self.entries = (snapshot.index, snapshot.term), []

    def log_to_start_from(self) -> list[Entry]:
        """With the last entry that was compacted, if the snapshot reaches beyond it."""
        index, term = self.before
        if self.snapshot is None or index >= self.snapshot.index or index == 0:
            return self.entries
        return [Entry(term, index, EntryKind.NO_OP, b""), *self.entries]


class Machine:
    """One member, its disk, and the writes that the disk has not finished."""

    def __init__(self, config: RaftConfig, configuration: Configuration) -> None:
        self.config = config
        self.configuration = configuration
        """Of the founders; without voters for who joined later."""
        self.disk = Disk()
        self.writes: deque[Ready] = deque()
        self.core: RaftCore
        self.applied = 0
        self.reads: dict[int, int] = {}
        """What each read that waits here must at least see."""
        self.starts = 0

    def start(self, rng: random.Random) -> None:
        """Begin a life with what the disk holds."""
        self.starts += 1
        self.writes.clear()
        self.reads.clear()
        disk = self.disk
        self.core = RaftCore(
            self.config,
            rng,
            disk.hard_state,
            self.configuration,
            disk.log_to_start_from(),
            disk.snapshot,
        )
        if disk.snapshot is not None and disk.term_at(disk.snapshot.index) != disk.snapshot.term:
            disk.begin_anew(disk.snapshot)  # The core did the same, and this makes it durable.
        self.applied = self.core.status().applied
