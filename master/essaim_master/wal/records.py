"""The bytes of the write-ahead log. Pure: values in, bytes out, and back.

A record is a header of 16 bytes, a payload, and zeros up to a multiple of 8:

    length    u64   bits 0..55 payload bytes, bits 56..63 padding bytes
    type      u8    RecordType
    codec     u8    how the payload is packed: 0 is plain msgpack, 1 is that sealed (`at_rest`)
    reserved  u16   0
    checksum  u32   CRC-32 (zlib) of the 12 bytes above and the payload, begun with the
                    checksum of the record before

Numbers are little-endian. Records start at multiples of 8, so the length lies in one disk
sector and is never torn (as in etcd's WAL). A length of zero where a record should start means
that nothing was written there: segments are filled with zeros when they are made, and never
used twice.

A segment begins with SEGMENT_START, whose checksum begins with 0 and whose payload names the
last checksum of the segment before it: the chain crosses segments, yet each can be read alone.
BATCH_END repeats the checksum before it in its payload, so that it can be verified on its own
behind damaged bytes. That is what tells a torn write from a damaged disk. Those two are never
sealed, and checksums are those of the bytes on the disk, so all of this needs no key.
"""

import struct
import zlib
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import NamedTuple

import msgspec

from essaim_master.raft.messages import Configuration, Entry, HardState, SnapshotMetadata
from essaim_shared.ids import MemberId

FORMAT_VERSION = 3
"""2 added SNAPSHOT records, the incarnation, and logs whose oldest segments are gone; 3 added
sealed records."""
OLDEST_FORMAT_VERSION = FORMAT_VERSION - 1
"""Read, so that a master can be brought to the next version with its disk; never written."""
ALIGNMENT_BYTES = 8
CODEC_MSGPACK = 0
CODEC_SEALED = 1

_HEADER = struct.Struct("<QBBHI")
_CHECKED_PART_OF_HEADER = struct.Struct("<QBBH")
HEADER_BYTES = _HEADER.size
_LENGTH_MASK = (1 << 56) - 1
_ZEROS = bytes(ALIGNMENT_BYTES)

BATCH_END_MAGIC = b"\xe5BATCH\xe5\x5e"
"""Eight bytes that a search for batch ends looks for."""
_BATCH_END = struct.Struct("<8sQII")
BATCH_END_RECORD_BYTES = HEADER_BYTES + _BATCH_END.size


class RecordType(IntEnum):
    SEGMENT_START = 1
    HARD_STATE = 2
    ENTRIES = 3
    """Consecutive entries; the first one replaces what the log held from its index on."""
    BATCH_END = 4
    SNAPSHOT = 5
    """A snapshot is durable in a file of its own: a SnapshotRecord."""


class Identity(msgspec.Struct, frozen=True, array_like=True):
    """Whose log this is. Another cluster's disk must never vote in this one."""

    cluster_id: str
    member_id: MemberId
    first_configuration: Configuration
    """The voters of the static list with which the cluster was formed."""
    incarnation: str = ""
    """Names the life of the cluster since its last restore from a backup or recovery of its
    quorum; empty before the first. Masters of another life are not listened to. The log alone
    knows it: see `recovery.Replayed.incarnation`."""

    @property
    def links_name(self) -> str:
        """What masters call their cluster when they greet each other."""
        return f"{self.cluster_id}-{self.incarnation}" if self.incarnation else self.cluster_id


class SegmentStart(msgspec.Struct, frozen=True, array_like=True):
    format_version: int
    identity: Identity
    sequence: int
    previous_checksum: int
    """Last checksum of the segment before; 0 in the first segment."""


class SnapshotRecord(msgspec.Struct, frozen=True, array_like=True):
    metadata: SnapshotMetadata
    resets_log: bool = False
    """It came from the leader: what the log held is void, and goes on after the snapshot."""


class BatchEnd(NamedTuple):
    batch_start: int
    """Offset of the batch's first record; every byte before it was durable by then."""
    previous_checksum: int


class Record(NamedTuple):
    type: int
    """A RecordType, unless a newer version wrote it."""
    codec: int
    payload: memoryview
    checksum: int
    next_offset: int


class WalBatch(msgspec.Struct, frozen=True):
    """What one turn of the driver asks to make durable; several may share one sync."""

    entries: Sequence[Entry] = ()
    hard_state: HardState | None = None
    snapshot: SnapshotRecord | None = None
    """Written before the entries: they follow it where it resets the log."""


_encode = msgspec.msgpack.Encoder().encode
_decode_segment_start = msgspec.msgpack.Decoder(SegmentStart).decode
_decode_hard_state = msgspec.msgpack.Decoder(HardState).decode
_decode_entries = msgspec.msgpack.Decoder(list[Entry]).decode
_decode_snapshot = msgspec.msgpack.Decoder(SnapshotRecord).decode


Seal = Callable[[int, int, bytes], tuple[bytes, bytes]]
"""Record type, its offset in the segment, payload → the two parts of the sealed payload."""


def encode_record(
    record_type: int,
    payload: bytes,
    previous_checksum: int,
    codec: int = CODEC_MSGPACK,
    prefix: bytes = b"",
) -> tuple[bytes, bytes, int]:
    """Header, padding and checksum of a record. The payload is not copied: the caller writes
    header, prefix, payload and padding one after another."""
    size_bytes = len(prefix) + len(payload)
    padding = -size_bytes % ALIGNMENT_BYTES
    length = size_bytes | padding << 56
    checked = _CHECKED_PART_OF_HEADER.pack(length, record_type, codec, 0)
    checksum = zlib.crc32(payload, zlib.crc32(prefix, zlib.crc32(checked, previous_checksum)))
    return checked + checksum.to_bytes(4, "little"), _ZEROS[:padding], checksum


class BatchEncoder:
    """Gathers the buffers of one batch, carrying the checksum along."""

    def __init__(self, batch_start: int, previous_checksum: int, seal: Seal | None = None) -> None:
        """With `seal` the records are sealed, but those that tell where a log or a batch is."""
        self._seal = seal
        self.buffers: list[bytes] = []
        self.size_bytes = 0
        self.checksum = previous_checksum
        self._batch_start = batch_start

    def add_segment_start(self, start: SegmentStart) -> None:
        self.checksum = 0
        self._add(RecordType.SEGMENT_START, _encode(start))

    def add(self, batch: WalBatch) -> None:
        if batch.snapshot is not None:
            self._add_content(RecordType.SNAPSHOT, _encode(batch.snapshot))
        # Entries first: a recovered commit index never passes the recovered entries.
        if batch.entries:
            self._add_content(RecordType.ENTRIES, _encode(batch.entries))
        if batch.hard_state is not None:
            self._add_content(RecordType.HARD_STATE, _encode(batch.hard_state))

    def finish(self) -> None:
        payload = _BATCH_END.pack(BATCH_END_MAGIC, self._batch_start, self.checksum, 0)
        self._add(RecordType.BATCH_END, payload)

    def _add_content(self, record_type: RecordType, payload: bytes) -> None:
        if self._seal is None:
            self._add(record_type, payload)
            return
        prefix, sealed = self._seal(record_type, self._batch_start + self.size_bytes, payload)
        header, padding, self.checksum = encode_record(
            record_type, sealed, self.checksum, CODEC_SEALED, prefix
        )
        self.buffers += (header, prefix, sealed, padding)
        self.size_bytes += len(header) + len(prefix) + len(sealed) + len(padding)

    def _add(self, record_type: RecordType, payload: bytes) -> None:
        header, padding, self.checksum = encode_record(record_type, payload, self.checksum)
        self.buffers += (header, payload, padding) if padding else (header, payload)
        self.size_bytes += len(header) + len(payload) + len(padding)


def read_record(data: memoryview, offset: int, previous_checksum: int) -> Record | None:
    """The record at `offset`, or None if there is no intact one that follows the chain."""
    if offset + HEADER_BYTES > len(data):
        return None
    length_field, record_type, codec, reserved, checksum = _HEADER.unpack_from(data, offset)
    length = length_field & _LENGTH_MASK
    padding = length_field >> 56
    payload_offset = offset + HEADER_BYTES
    next_offset = payload_offset + length + padding
    if record_type == 0 or padding != -length % ALIGNMENT_BYTES or next_offset > len(data):
        return None
    payload = data[payload_offset : payload_offset + length]
    checked = _CHECKED_PART_OF_HEADER.pack(length_field, record_type, codec, reserved)
    if zlib.crc32(payload, zlib.crc32(checked, previous_checksum)) != checksum:
        return None
    if data[payload_offset + length : next_offset] != _ZEROS[:padding]:
        return None
    return Record(record_type, codec, payload, checksum, next_offset)


def expected_batch_end(batch_start: int, previous_checksum: int) -> bytes:
    """The very bytes that end a batch: everything in them is known beforehand."""
    encoder = BatchEncoder(batch_start, previous_checksum)
    encoder.finish()
    return b"".join(encoder.buffers)


def find_batch_end(data: memoryview, raw: bytes, offset: int) -> tuple[int, BatchEnd] | None:
    """The first intact batch end that starts at or after `offset`, verified by itself, and its
    own offset. `raw` are the same bytes as `data`."""
    magic_offset = raw.find(BATCH_END_MAGIC, offset)
    while magic_offset >= 0:
        start = magic_offset - HEADER_BYTES
        if start >= offset and start % ALIGNMENT_BYTES == 0:
            batch_end = _batch_end_at(data, start)
            if batch_end is not None:
                return start, batch_end
        magic_offset = raw.find(BATCH_END_MAGIC, magic_offset + 1)
    return None


def _batch_end_at(data: memoryview, offset: int) -> BatchEnd | None:
    if offset + BATCH_END_RECORD_BYTES > len(data):
        return None
    _, batch_start, previous_checksum, _ = _BATCH_END.unpack_from(data, offset + HEADER_BYTES)
    record = read_record(data, offset, previous_checksum)
    if record is None or record.type != RecordType.BATCH_END or batch_start > offset:
        return None
    return BatchEnd(batch_start, previous_checksum)


def decode_segment_start(payload: memoryview | bytes) -> SegmentStart:
    """Raises msgspec.ValidationError or msgspec.DecodeError, as the three below do."""
    return _decode_segment_start(payload)


def decode_hard_state(payload: memoryview | bytes) -> HardState:
    return _decode_hard_state(payload)


def decode_entries(payload: memoryview | bytes) -> list[Entry]:
    return _decode_entries(payload)


def decode_snapshot(payload: memoryview | bytes) -> SnapshotRecord:
    return _decode_snapshot(payload)


def decode_batch_end(payload: memoryview) -> BatchEnd | None:
    if len(payload) != _BATCH_END.size:
        return None
    magic, batch_start, previous_checksum, _ = _BATCH_END.unpack(payload)
    return BatchEnd(batch_start, previous_checksum) if magic == BATCH_END_MAGIC else None
