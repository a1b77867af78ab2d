"""How a snapshot travels between masters. Pure: what to send next, what to keep, when to give up.

The leader reads its file in chunks and keeps a small window of them under way; the follower
takes them strictly in order and answers each with the offset that it wants next. Whatever is
lost, doubled or reordered only leads to that offset being asked for again (go-back-N, as TCP
may do). Nothing is assumed of the transport but that some chunks arrive, so TCP and the bus
carry the same values.

A chunk is at most CHUNK_BYTES_MAX and carries its own checksum; the whole file is checked again
before it gets its name. A stream that breaks off goes on where the follower stands, as long as
the same sender offers the same file; any other one starts from the beginning.
"""

import zlib
from enum import IntEnum
from typing import NamedTuple

import msgspec

from essaim_master.raft.messages import SnapshotMetadata
from essaim_shared.ids import MemberId

CHUNK_BYTES_MAX = 256 * 1024
"""Also what one message of the bus carries."""

WINDOW_CHUNKS_MAX = 4
"""Under way at a time: 1 MiB fills any link between masters, and costs heartbeats nothing."""

RESEND_S = 1.0
"""Without an answer for so long, what is under way counts as lost."""

STALL_S_MAX = 15.0
"""Without progress for so long the stream has failed; the core has another one begun later."""

INSTALL_S_MAX = 120.0
"""How long the follower may take to check and install what it received in full."""


class ChunkVerdict(IntEnum):
    GO_ON = 0
    HELD = 1
    """The follower has the snapshot, or no need of it: the stream succeeded."""
    FAILED = 2
    """The follower cannot take it (its disk is full, the bytes do not pass): give up."""


class SnapshotChunk(msgspec.Struct, frozen=True, array_like=True, gc=False):
    snapshot: SnapshotMetadata
    total_bytes: int
    """Of the whole file."""
    offset: int
    checksum: int
    """CRC-32 of `data`."""
    data: bytes


class ChunkAnswer(msgspec.Struct, frozen=True, array_like=True, gc=False):
    index: int
    term: int
    """Of the snapshot."""
    wanted: int
    """Everything before this offset is written; its chunk is wanted next."""
    verdict: ChunkVerdict = ChunkVerdict.GO_ON


def make_chunk(
    snapshot: SnapshotMetadata, total_bytes: int, offset: int, data: bytes
) -> SnapshotChunk:
    return SnapshotChunk(snapshot, total_bytes, offset, zlib.crc32(data), data)


class OutgoingSnapshot:
    """The sender's view of one stream. Times are of any clock that does not go back."""

    def __init__(self, snapshot: SnapshotMetadata, total_bytes: int, now_s: float) -> None:
        self.snapshot = snapshot
        self.total_bytes = total_bytes
        self.acknowledged = 0
        self._sent = 0
        self._heard_s = self._progress_s = now_s
        self.verdict = ChunkVerdict.GO_ON

    @property
    def is_over(self) -> bool:
        return self.verdict is not ChunkVerdict.GO_ON

    def next_offset(self) -> int | None:
        """Where the next chunk to send begins; None while the window is full or all is sent."""
        if self.is_over or self._sent >= self.total_bytes:
            return None
        if self._sent - self.acknowledged >= WINDOW_CHUNKS_MAX * CHUNK_BYTES_MAX:
            return None
        return self._sent

    def sent(self, size_bytes: int) -> None:
        self._sent += size_bytes

    def answered(self, answer: ChunkAnswer, now_s: float) -> None:
        """The follower said what it wants next. Late answers change nothing."""
        if (answer.index, answer.term) != (self.snapshot.index, self.snapshot.term):
            return
        if answer.verdict is not ChunkVerdict.GO_ON:
            self.verdict = answer.verdict
            return
        self._heard_s = now_s
        if answer.wanted > self.acknowledged:
            self._progress_s = now_s
            self.acknowledged = min(answer.wanted, self.total_bytes)
            self._sent = max(self._sent, self.acknowledged)
        elif answer.wanted == 0 and self.acknowledged > 0:
            self.acknowledged = self._sent = 0  # It was started anew: so is the stream.

    def pass_time(self, now_s: float) -> None:
        """Send again what seems lost; give up when nothing helps."""
        is_whole = 0 < self.total_bytes == self.acknowledged
        if now_s - self._progress_s > (INSTALL_S_MAX if is_whole else STALL_S_MAX):
            self.verdict = ChunkVerdict.FAILED
        elif now_s - self._heard_s > RESEND_S:
            self._heard_s = now_s
            # When all is written, the last byte once more asks how the installation goes.
            self._sent = self.acknowledged - is_whole


class Placement(NamedTuple):
    """What a received chunk means."""

    data: bytes
    """To be written at `offset`; empty: nothing is."""
    offset: int
    begins: bool = False
    """A file is to be begun for it; the one before is void."""


class IncomingSnapshot:
    """The receiver's view: one stream at a time, the newest one offered."""

    def __init__(self) -> None:
        self.snapshot: SnapshotMetadata | None = None
        self.sender: MemberId | None = None
        self.total_bytes = 0
        self.received = 0

    @property
    def is_whole(self) -> bool:
        return self.snapshot is not None and self.received == self.total_bytes

    def place(self, sender: MemberId, chunk: SnapshotChunk) -> Placement | None:
        """What to write; None for a chunk that belongs to an older stream or is damaged."""
        if zlib.crc32(chunk.data) != chunk.checksum or not _is_sane(chunk):
            return None
        is_same = (
            sender == self.sender
            and chunk.snapshot == self.snapshot
            and chunk.total_bytes == self.total_bytes
        )
        if not is_same:
            if self.snapshot is not None and chunk.snapshot.index < self.snapshot.index:
                return None
            self.snapshot, self.sender = chunk.snapshot, sender
            self.total_bytes, self.received = chunk.total_bytes, 0
        if chunk.offset != self.received:
            return Placement(b"", self.received, begins=not is_same)
        self.received += len(chunk.data)
        return Placement(chunk.data, chunk.offset, begins=not is_same)

    def forget(self) -> None:
        """The stream is over, or its bytes were no good."""
        self.snapshot = self.sender = None
        self.total_bytes = self.received = 0


def _is_sane(chunk: SnapshotChunk) -> bool:
    return (
        0 < len(chunk.data) <= CHUNK_BYTES_MAX
        and chunk.offset >= 0
        and chunk.offset + len(chunk.data) <= chunk.total_bytes
    )
