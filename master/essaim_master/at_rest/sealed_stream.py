"""A whole file, sealed: a snapshot, a backup. Pure: bytes in, bytes out.

    magic     8 bytes
    length    u32 of the header; checksum u32 of it (CRC-32)
    header    msgpack: SealedHeader
    blocks    AES-256-GCM of BLOCK_BYTES each, the last one of what is left

It is the STREAM construction (Hoang et al., "Online Authenticated-Encryption and its
Nonce-Reuse Misuse-Resistance", CRYPTO 2015) in the form of the age file format (C2SP): each file
has a key of its own, derived from the data key and a salt of the file; a block's nonce is its
number and whether it is the last. So blocks can be neither left out, nor exchanged, nor taken from
another file, and the end cannot be cut off. The header is bound to every block.

The checksum of the header tells a damaged one from one that names a key which is not here. What
stands inside is as it was before there were seals, so another master, with keys of its own, gets
the same bytes.
"""

import struct
import zlib
from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import Final

import msgspec

from essaim_master.snapshot.errors import SnapshotDamaged
from essaim_shared.sealing import KEY_ID_BYTES, DataKey, SealError
from essaim_shared.trust.record_cipher import NONCE_BYTES, TAG_BYTES, Entropy, RecordCipher
from essaim_shared.undecodable import UNDECODABLE

MAGIC: Final = b"\x89ESSEAL\n"
"""The first byte is no text and the last one a line's end, as in PNG's: what spoils either shows.
A plain snapshot begins with a length, whose bytes 2 to 6 are zero."""
SEALED_VERSION: Final = 1
BLOCK_BYTES: Final = 256 * 1024
"""As much as one message between masters carries of it."""
SEALED_BLOCK_BYTES: Final = BLOCK_BYTES + TAG_BYTES
SALT_BYTES: Final = 32
HEADER_BYTES_MAX: Final = 4096
"""Of the msgpack; a cluster's id is the only long thing in it."""

_FRONT = struct.Struct("<8sII")
FRONT_BYTES_MAX: Final = _FRONT.size + HEADER_BYTES_MAX
"""What stands before the first block is not longer."""


class Purpose(StrEnum):
    SNAPSHOT = "snapshot"
    BACKUP = "backup"


class SealedHeader(msgspec.Struct, frozen=True, array_like=True):
    version: int
    purpose: Purpose
    cluster_id: str
    """In the clear, so that a file that lies around can be told from others; empty for a
    snapshot, which lies beside a log that names it."""
    key_id: bytes
    salt: bytes


FindKey = Callable[[SealedHeader], DataKey]
"""Raises ConfigError when there is none."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(SealedHeader).decode


class StreamSealer:
    """Makes the bytes of one file: `begin`, then `add` for whatever comes, then `finish`."""

    def __init__(self, key: DataKey, purpose: Purpose, cluster_id: str, entropy: Entropy) -> None:
        salt = entropy(SALT_BYTES)
        header = _encode(SealedHeader(SEALED_VERSION, purpose, cluster_id, key.id, salt))
        self._front = _FRONT.pack(MAGIC, len(header), zlib.crc32(header)) + header
        self._cipher = _cipher_of(key, salt, purpose)
        self._number = 0
        self._rest = bytearray()

    def begin(self) -> bytes:
        return self._front

    def add(self, data: bytes) -> bytes:
        """The blocks that are whole by now. One stays back: it may be the last."""
        rest = self._rest
        rest += data
        if len(rest) <= BLOCK_BYTES:
            return b""
        blocks = []
        with memoryview(rest) as view:
            start = 0
            while len(rest) - start > BLOCK_BYTES:
                blocks.append(self._seal(view[start : start + BLOCK_BYTES], is_last=False))
                start += BLOCK_BYTES
        del rest[:start]
        return blocks[0] if len(blocks) == 1 else b"".join(blocks)

    def finish(self) -> bytes:
        return self._seal(self._rest, is_last=True)

    def _seal(self, block: memoryview | bytearray, is_last: bool) -> bytes:
        nonce = _nonce(self._number, is_last)
        self._number += 1
        return self._cipher.seal(nonce, block, self._front)


class StreamOpener:
    """Reads a sealed file from any place on."""

    def __init__(
        self,
        name: str,
        size_bytes: int,
        read_at: Callable[[int, int], bytes],
        find_key: FindKey,
    ) -> None:
        """`name` is told in errors. Raises SnapshotDamaged, and what `find_key` raises."""
        self._name = name
        self._read_at = read_at
        self._front, self.header = read_header(name, read_at(0, FRONT_BYTES_MAX))
        self._cipher = _cipher_of(find_key(self.header), self.header.salt, self.header.purpose)
        body_bytes = size_bytes - len(self._front)
        self._blocks = -(-body_bytes // SEALED_BLOCK_BYTES)
        self.size_bytes = body_bytes - self._blocks * TAG_BYTES
        """Of what is inside."""
        # Only a file with nothing inside has an empty block. What ends inside a tag must be noticed
        # here: no reader would come to that block.
        last_bytes = body_bytes - (self._blocks - 1) * SEALED_BLOCK_BYTES
        if last_bytes < TAG_BYTES + (self._blocks > 1):
            raise SnapshotDamaged(name, size_bytes, "it ends in the midst of a block")

    def read(self, offset: int, size_bytes: int) -> bytes:
        """Up to so many bytes of what is inside; fewer only at its end. Raises SnapshotDamaged."""
        parts = []
        end = min(offset + size_bytes, self.size_bytes)
        while offset < end:
            number, skipped = divmod(offset, BLOCK_BYTES)
            part = self._block(number)[skipped : skipped + end - offset]
            parts.append(part)
            offset += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def pieces(self, piece_bytes: int) -> Iterator[bytes]:
        """All that is inside. Raises SnapshotDamaged as far as it comes."""
        if not self.size_bytes:
            self._block(0)  # The only one: that nothing is inside must be true as well.
        for offset in range(0, self.size_bytes, piece_bytes):
            yield self.read(offset, piece_bytes)

    def _block(self, number: int) -> bytes:
        start = len(self._front) + number * SEALED_BLOCK_BYTES
        data = self._read_at(start, SEALED_BLOCK_BYTES)
        is_last = number == self._blocks - 1
        try:
            return self._cipher.open(_nonce(number, is_last), data, self._front)
        except SealError as error:
            raise SnapshotDamaged(
                self._name, start, f"block {number}: {self._reason(number, is_last, data, error)}"
            ) from error

    def _reason(self, number: int, is_last: bool, data: bytes, error: SealError) -> str:
        try:
            self._cipher.open(_nonce(number, not is_last), data, self._front)
        except SealError:
            return str(error)
        return "what followed it is missing" if is_last else "it was the last, and bytes follow it"


def is_sealed(beginning: bytes) -> bool:
    """Whether a file that begins so is sealed."""
    return beginning.startswith(MAGIC)


def read_header(name: str, beginning: bytes) -> tuple[bytes, SealedHeader]:
    """With all bytes that stand before the first block. Raises SnapshotDamaged."""
    if len(beginning) < _FRONT.size:
        raise SnapshotDamaged(name, 0, "it ends before its header")
    magic, length, checksum = _FRONT.unpack_from(beginning)
    header = beginning[_FRONT.size : _FRONT.size + length]
    if magic != MAGIC or len(header) != length or zlib.crc32(header) != checksum:
        raise SnapshotDamaged(name, 0, "the header of its seal does not pass its checksum")
    try:
        found = _decode(header)
    except UNDECODABLE as error:
        raise SnapshotDamaged(name, 0, f"the header of its seal: {error}") from error
    if found.version != SEALED_VERSION or len(found.key_id) != KEY_ID_BYTES:
        raise SnapshotDamaged(
            name, 0, f"its seal has format {found.version}, this version reads {SEALED_VERSION}"
        )
    return beginning[: _FRONT.size + length], found


def _cipher_of(key: DataKey, salt: bytes, purpose: Purpose) -> RecordCipher:
    return RecordCipher(key.derived(salt, b"essaim sealed " + purpose.encode()))


def _nonce(number: int, is_last: bool) -> bytes:
    return number.to_bytes(NONCE_BYTES - 1, "big") + bytes((is_last,))
