"""One record of the log, sealed and bound to its place. Pure.

A sealed record's payload is

    key id      4 bytes     which data key of the ring
    nonce      12 bytes     never twice under one key: see `trust.record_cipher.NonceSequence`
    ciphertext              AES-256-GCM of what the payload would be, and its tag of 16 bytes

What is bound along is where it stands: the record's type, the sequence of its segment, and its
offset there. A record that somebody copies to another place does not open. The cipher's key is
derived from the data key, since snapshots are sealed with that one too.
"""

import struct
from typing import Final, NamedTuple, Protocol

from essaim_master.at_rest.errors import DataKeyMissing
from essaim_shared.sealing import KEY_ID_BYTES, DataKey, SealError
from essaim_shared.trust.record_cipher import (
    NONCE_BYTES,
    TAG_BYTES,
    Entropy,
    NonceSequence,
    RecordCipher,
)

PREFIX_BYTES: Final = KEY_ID_BYTES + NONCE_BYTES
SEALED_BYTES_MIN: Final = PREFIX_BYTES + TAG_BYTES
RECORDS_PURPOSE: Final = b"essaim write-ahead log"

_PLACE = struct.Struct("<BQQ")


class DataKeys(Protocol):
    """Whoever has the keys of a disk. For several threads at once."""

    @property
    def entropy(self) -> Entropy: ...

    @property
    def newest_id(self) -> bytes | None:
        """Of the key that is written with; None while there is none."""
        ...

    def find(self, key_id: bytes, what: str) -> DataKey:
        """To read with. Raises DataKeyMissing, which names `what`."""
        ...

    def ensure(self) -> None:
        """Make the first key, durably, if there is none. Raises OSError."""
        ...

    def take(self) -> DataKey:
        """The newest key, to write with; it is not dropped until `release`."""
        ...

    def release(self, key_id: bytes) -> None: ...

    def droppable(self) -> frozenset[bytes]:
        """Keys that nobody will write with any more."""
        ...

    def drop(self, key_ids: frozenset[bytes]) -> None:
        """Forget these of them, durably. Raises OSError."""
        ...


class Place(NamedTuple):
    record_type: int
    sequence: int
    """Of the segment."""
    offset: int
    """Of the record in it."""


class RecordSealer:
    """One writer's: its nonces are its own."""

    def __init__(self, key: DataKey, entropy: Entropy) -> None:
        self.key_id = key.id
        self._cipher = _cipher_of(key)
        self._nonces = NonceSequence(entropy)

    def seal(self, place: Place, payload: bytes) -> tuple[bytes, bytes]:
        """What stands in front of the ciphertext, and the ciphertext."""
        nonce = self._nonces.next()
        return self.key_id + nonce, self._cipher.seal(nonce, payload, _PLACE.pack(*place))


class RecordOpener:
    """Reads records of any key of the ring; it remembers the ciphers."""

    def __init__(self, keys: DataKeys | None) -> None:
        self._keys = keys
        self._ciphers: dict[bytes, RecordCipher] = {}

    def open(self, place: Place, payload: memoryview, what: str) -> bytes:
        """Raises SealError, and DataKeyMissing, which names `what`."""
        if len(payload) < SEALED_BYTES_MIN:
            raise SealError("it is too short for what is sealed")
        key_id = bytes(payload[:KEY_ID_BYTES])
        cipher = self._ciphers.get(key_id)
        if cipher is None:
            cipher = self._ciphers[key_id] = _cipher_of(find_key(self._keys, key_id, what))
        nonce = bytes(payload[KEY_ID_BYTES:PREFIX_BYTES])
        return cipher.open(nonce, payload[PREFIX_BYTES:], _PLACE.pack(*place))


def find_key(keys: DataKeys | None, key_id: bytes, what: str) -> DataKey:
    """Raises DataKeyMissing."""
    if keys is None:
        raise DataKeyMissing(key_id, what, "what this process was given")
    return keys.find(key_id, what)


def _cipher_of(key: DataKey) -> RecordCipher:
    return RecordCipher(key.derived(b"", RECORDS_PURPOSE))
