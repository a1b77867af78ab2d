"""Values and files that the tests of the write-ahead log share."""

import random

import pytest

from essaim_master.raft.messages import Configuration, Entry, EntryKind
from essaim_master.wal.log import Wal
from essaim_master.wal.memory_files import MemoryLogFiles
from essaim_master.wal.records import Identity
from essaim_shared.ids import MemberId

IDENTITY = Identity(
    "cluster-1", MemberId("m1"), Configuration((MemberId("m1"), MemberId("m2"), MemberId("m3")))
)
SEGMENT_BYTES = 16 * 1024


class WalBench:
    """A log on a memory disk: write, look at the bytes, spoil them, open again."""

    identity = IDENTITY

    def __init__(self) -> None:
        self.files = MemoryLogFiles(random.Random(3).randbytes)
        self.acknowledged = 0
        self._noise = random.Random(1)

    def entries(self, first: int, last: int, term: int = 1, size_bytes: int = 40) -> list[Entry]:
        """Entries whose data has no zero byte, so that a lost sector can be told from data."""
        return [
            Entry(
                term,
                index,
                EntryKind.NORMAL,
                bytes(self._noise.randrange(1, 256) for _ in range(size_bytes)),
            )
            for index in range(first, last + 1)
        ]

    def open(self, files: MemoryLogFiles | None = None, segment_bytes: int = SEGMENT_BYTES):
        return Wal.open(self.files if files is None else files, self.identity, segment_bytes)

    def recover(self, files: MemoryLogFiles | None = None):
        wal, recovered = self.open(files)
        wal.close()
        return recovered

    def segments(self) -> list[str]:
        return [name for name in self.files.names() if name.endswith(".wal")]


@pytest.fixture
def bench() -> WalBench:
    return WalBench()
