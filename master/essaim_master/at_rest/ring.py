"""The data keys of one master, as the bytes of a file and back. Pure.

    {"version": 1, "keys": [{"id": "1f2e3d4c", "key": base64, "created_ns": 1764…}, …]}

Oldest first; the last one is written with.
"""

import base64
import binascii
from collections.abc import Iterable
from typing import Final, NamedTuple

import msgspec

from essaim_shared.errors import ConfigError
from essaim_shared.sealing import DataKey
from essaim_shared.undecodable import UNDECODABLE

RING_VERSION: Final = 1
RING_KEYS_MAX: Final = 64
"""Each key of a log that is written to has a segment of its own, of 16 MiB."""


class RingKey(NamedTuple):
    """Its repr is that of no secret."""

    key: DataKey
    secret: bytes
    created_ns: int

    def __repr__(self) -> str:
        return f"RingKey({self.key.id.hex()}, created_ns={self.created_ns})"


class _Stored(msgspec.Struct, frozen=True):
    id: str
    key: str
    created_ns: int


class _Ring(msgspec.Struct, frozen=True):
    version: int
    keys: list[_Stored]


def encode_ring(keys: Iterable[RingKey]) -> bytes:
    stored = [
        _Stored(one.key.id.hex(), base64.b64encode(one.secret).decode(), one.created_ns)
        for one in keys
    ]
    return msgspec.json.format(msgspec.json.encode(_Ring(RING_VERSION, stored))) + b"\n"


def decode_ring(content: bytes, place: str) -> tuple[RingKey, ...]:
    """Raises ConfigError, which names `place` and tells nothing of what is inside."""
    try:
        ring = msgspec.json.decode(content, type=_Ring)
    except UNDECODABLE as error:
        raise _damaged(place) from error
    if ring.version != RING_VERSION:
        raise ConfigError(
            f"{place}: has format {ring.version}, this version reads {RING_VERSION}: start the "
            "version that wrote it"
        )
    try:
        keys = tuple(_key(stored) for stored in ring.keys)
    except (binascii.Error, ConfigError) as error:
        raise _damaged(place) from error
    if any(one.key.id.hex() != stored.id for one, stored in zip(keys, ring.keys, strict=True)):
        raise _damaged(place)
    return keys


def _key(stored: _Stored) -> RingKey:
    secret = base64.b64decode(stored.key, validate=True)
    return RingKey(DataKey(secret), secret, stored.created_ns)


def _damaged(place: str) -> ConfigError:
    return ConfigError(
        f"{place}: the data keys in it are damaged: put back a copy of the file; if there is none, "
        "let this master join again under a new member id with an empty data directory"
    )
