"""The bytes of a snapshot file. Pure: pieces in, records out, and back.

A file is a sequence of the log's records (see `wal.records`: length, type, codec, chained
checksum, padding): one HEADER, chunks of the state in order, one FOOTER with their number, their
total size and their SHA-256. A chunk larger than a record is several PARTs and a CHUNK. Because
each checksum includes the one before, chunks can be neither left out nor exchanged; because of
the footer, none can be missing at the end. The hash is that of the state alone: two masters that
snapshot the same index have the same, and a backup is checked by it.

The state is opaque here: its bytes, and the codec that packed them, belong to the state machine.
"""

import hashlib
from collections.abc import Iterable, Iterator
from enum import IntEnum
from typing import NamedTuple

import msgspec

from essaim_master.raft.messages import SnapshotMetadata
from essaim_master.snapshot.errors import SnapshotDamaged
from essaim_master.wal.records import (
    CODEC_MSGPACK,
    HEADER_BYTES,
    Identity,
    encode_record,
    read_record,
)
from essaim_shared.ids import MemberId
from essaim_shared.undecodable import UNDECODABLE

SNAPSHOT_FORMAT_VERSION = 2
"""Counted together with the log's format: 1 was the time before snapshots."""
OLDEST_SNAPSHOT_FORMAT_VERSION = 2
"""Becomes version - 1 as soon as there is a version 3."""

CHUNK_BYTES_MAX = 256 * 1024
"""Of state in one record."""

RECORD_BYTES_MAX = 2 * CHUNK_BYTES_MAX
"""Nothing in a snapshot is larger, whatever the bytes say."""

JOINED_BYTES_MAX = 256 * 1024 * 1024
"""Of one chunk of the state machine's, put together again: it cuts where it likes below that."""

PIECE_BYTES = 1024 * 1024
"""How much of a file is read at a time."""


class SnapshotRecordType(IntEnum):
    """Apart from the log's own record types: neither file can be taken for the other."""

    HEADER = 16
    CHUNK = 17
    FOOTER = 18
    PART = 19
    """The beginning of a chunk that goes on in the next record."""


class SnapshotHeader(msgspec.Struct, frozen=True, array_like=True):
    format_version: int
    cluster_id: str
    incarnation: str
    member_id: MemberId
    """Who made it."""
    metadata: SnapshotMetadata


class SnapshotFooter(msgspec.Struct, frozen=True, array_like=True):
    chunks: int
    size_bytes: int
    """Of all chunks together."""
    state_hash: bytes
    """SHA-256 of all chunks, one after another."""


class SnapshotPart(NamedTuple):
    """What a reader hands out: exactly one of the three."""

    header: SnapshotHeader | None = None
    chunk: bytes | None = None
    footer: SnapshotFooter | None = None


_encode = msgspec.msgpack.Encoder().encode
_decode_header = msgspec.msgpack.Decoder(SnapshotHeader).decode
_decode_footer = msgspec.msgpack.Decoder(SnapshotFooter).decode


class SnapshotWriter:
    """Makes the bytes of one snapshot: `begin`, then `add` for each chunk, then `finish`."""

    def __init__(self) -> None:
        self._checksum = 0
        self._hash = hashlib.sha256()
        self._chunks = 0
        self._size_bytes = 0

    def begin(self, header: SnapshotHeader) -> bytes:
        return self._record(SnapshotRecordType.HEADER, _encode(header))

    def add(self, chunk: bytes) -> bytes:
        self._hash.update(chunk)
        self._chunks += 1
        self._size_bytes += len(chunk)
        if len(chunk) <= CHUNK_BYTES_MAX:
            return self._record(SnapshotRecordType.CHUNK, chunk)
        last = (len(chunk) - 1) // CHUNK_BYTES_MAX * CHUNK_BYTES_MAX
        records = [
            self._record(SnapshotRecordType.PART, chunk[start : start + CHUNK_BYTES_MAX])
            for start in range(0, last, CHUNK_BYTES_MAX)
        ]
        return b"".join((*records, self._record(SnapshotRecordType.CHUNK, chunk[last:])))

    def finish(self) -> tuple[bytes, SnapshotFooter]:
        footer = SnapshotFooter(self._chunks, self._size_bytes, self._hash.digest())
        return self._record(SnapshotRecordType.FOOTER, _encode(footer)), footer

    def _record(self, record_type: SnapshotRecordType, payload: bytes) -> bytes:
        header, padding, self._checksum = encode_record(record_type, payload, self._checksum)
        return b"".join((header, payload, padding))


class SnapshotReader:
    """Takes a file's bytes in pieces of any size and hands out its parts, each checked."""

    def __init__(self, name: str) -> None:
        """`name` is told in errors."""
        self._name = name
        self._rest = b""
        self._offset = 0
        self._checksum = 0
        self._hash = hashlib.sha256()
        self._chunks = 0
        self._size_bytes = 0
        self._has_header = False
        self._parts: list[bytes] = []
        self._parts_bytes = 0
        self.is_complete = False
        """The footer was seen, and agrees with all that came before."""

    def feed(self, piece: bytes) -> Iterator[SnapshotPart]:
        """The parts that are whole by now. Raises SnapshotDamaged."""
        data = self._rest + piece if self._rest else piece
        view = memoryview(data)
        position = 0
        while len(data) - position >= HEADER_BYTES:
            length = int.from_bytes(view[position : position + 7], "little")
            end = position + HEADER_BYTES + length + view[position + 7]
            if length > RECORD_BYTES_MAX:
                raise self._damaged(position, f"a record of {length} bytes")
            if end > len(data):
                break
            record = read_record(view, position, self._checksum)
            if record is None:
                raise self._damaged(position, "a record does not pass its checksum")
            if record.codec != CODEC_MSGPACK:
                raise self._damaged(position, f"codec {record.codec} is unknown to this version")
            if record.type == SnapshotRecordType.PART:
                self._join(position, record.payload)
            else:
                yield self._part(position, record.type, record.payload)
            position, self._checksum = record.next_offset, record.checksum
        self._offset += position
        self._rest = data[position:]

    def check_complete(self) -> None:
        """Raises SnapshotDamaged if the bytes ended too early."""
        if not self.is_complete or self._rest:
            raise self._damaged(0, "it ends before its footer")

    def _part(self, position: int, record_type: int, payload: memoryview) -> SnapshotPart:
        if self.is_complete:
            raise self._damaged(position, "bytes follow its footer")
        try:
            if record_type == SnapshotRecordType.HEADER and not self._has_header:
                return self._header(position, _decode_header(payload))
            if record_type == SnapshotRecordType.CHUNK and self._has_header:
                self._join(position, payload)
                chunk = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
                self._parts, self._parts_bytes = [], 0
                self._chunks += 1
                return SnapshotPart(chunk=chunk)
            if record_type == SnapshotRecordType.FOOTER and self._has_header:
                return self._footer(position, _decode_footer(payload))
        except UNDECODABLE as error:
            raise self._damaged(position, f"a record does not decode: {error}") from error
        raise self._damaged(position, f"a record of type {record_type} out of place")

    def _join(self, position: int, payload: memoryview) -> None:
        self._parts.append(bytes(payload))
        self._parts_bytes += len(payload)
        if self._parts_bytes > JOINED_BYTES_MAX:
            raise self._damaged(position, f"a chunk of more than {JOINED_BYTES_MAX} bytes")
        self._hash.update(payload)
        self._size_bytes += len(payload)

    def _header(self, position: int, header: SnapshotHeader) -> SnapshotPart:
        version = header.format_version
        if not OLDEST_SNAPSHOT_FORMAT_VERSION <= version <= SNAPSHOT_FORMAT_VERSION:
            raise self._damaged(
                position, f"format {version}, this version reads {SNAPSHOT_FORMAT_VERSION}"
            )
        self._has_header = True
        return SnapshotPart(header=header)

    def _footer(self, position: int, footer: SnapshotFooter) -> SnapshotPart:
        found = SnapshotFooter(self._chunks, self._size_bytes, self._hash.digest())
        if footer != found:
            raise self._damaged(position, f"its footer says {footer}, its chunks are {found}")
        self.is_complete = True
        return SnapshotPart(footer=footer)

    def _damaged(self, position: int, reason: str) -> SnapshotDamaged:
        return SnapshotDamaged(self._name, self._offset + position, reason)


def new_header(identity: Identity, metadata: SnapshotMetadata) -> SnapshotHeader:
    return SnapshotHeader(
        SNAPSHOT_FORMAT_VERSION,
        identity.cluster_id,
        identity.incarnation,
        identity.member_id,
        metadata,
    )


def snapshot_bytes(header: SnapshotHeader, chunks: Iterable[bytes]) -> Iterator[bytes]:
    """A whole snapshot file, piece by piece."""
    writer = SnapshotWriter()
    yield writer.begin(header)
    yield from map(writer.add, chunks)
    yield writer.finish()[0]
