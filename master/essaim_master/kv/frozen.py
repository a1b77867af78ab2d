"""The whole state at one moment, as a snapshot stores it and as masters compare it.

Freezing copies references only, since everything that is referred to is immutable; encoding may
then take its time, in another thread too. The chunks are a function of the applied log: two
masters that applied the same entries get the same bytes, and so the same hash.

    header · values in order of keys · leases · answers by client · history by revision
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import msgspec

from essaim_master.kv.answers import ClientRecord, KeptAnswer
from essaim_master.kv.commands import KeyValue, TransactionResult
from essaim_master.kv.history import RevisionEvents
from essaim_master.kv.leases import LeaseRecord
from essaim_shared.errors import MalformedMessage
from essaim_shared.undecodable import UNDECODABLE

FORMAT = 1
CHUNK_RECORDS_MAX = 256
CHUNK_BYTES_WANTED = 256 * 1024
"""A chunk ends with the record that passes this size."""
HASH_BYTES = 16

T = TypeVar("T")


class Header(msgspec.Struct, frozen=True, array_like=True, tag="header"):
    format: int
    revision: int
    compacted: int
    quota_bytes: int
    is_full: bool


class Values(msgspec.Struct, frozen=True, array_like=True, tag="values"):
    items: tuple[KeyValue, ...]


class LeaseRecords(msgspec.Struct, frozen=True, array_like=True, tag="leases"):
    items: tuple[LeaseRecord, ...]


class Clients(msgspec.Struct, frozen=True, array_like=True, tag="clients"):
    items: tuple[ClientRecord, ...]


class Revisions(msgspec.Struct, frozen=True, array_like=True, tag="revisions"):
    items: tuple[RevisionEvents, ...]


class End(msgspec.Struct, frozen=True, array_like=True, tag="end"):
    """The last chunk: without it something is missing."""

    chunks: int
    """How many came before."""


Chunk = Header | Values | LeaseRecords | Clients | Revisions | End

_decoder: msgspec.msgpack.Decoder[Chunk] = msgspec.msgpack.Decoder(Chunk)


class FrozenState:
    """One moment of a KeyValueStore. Never changes, and may be read from any thread."""

    def __init__(
        self,
        header: Header,
        keys: Sequence[bytes],
        values: dict[bytes, KeyValue],
        leases: tuple[LeaseRecord, ...],
        answers: list[tuple[str, int, list[tuple[int, TransactionResult]]]],
        history: tuple[RevisionEvents, ...],
    ) -> None:
        self.header = header
        self._keys = keys
        self._values = values
        self._leases = leases
        self._answers = answers
        self._history = history

    @property
    def revision(self) -> int:
        return self.header.revision

    def __len__(self) -> int:
        """Keys."""
        return len(self._keys)

    def chunks(self) -> Iterator[bytes]:
        """The state in pieces of some 256 KiB (more where one value is larger), for
        `KeyValueStore.restore`."""
        encode = msgspec.msgpack.Encoder().encode
        count = 0
        for chunk in self._chunks():
            count += 1
            yield encode(chunk)
        yield encode(End(count))

    def state_hash(self) -> str:
        """A hash of everything that is replicated. It takes about as long as a snapshot: not for
        the event loop when the state is large."""
        digest = hashlib.blake2b(digest_size=HASH_BYTES)
        for chunk in self.chunks():
            digest.update(chunk)
        return digest.hexdigest()

    def _chunks(self) -> Iterator[Chunk]:
        yield self.header
        values = (self._values[key] for key in self._keys)
        yield from map(Values, _cut(values, lambda value: len(value.key) + len(value.value)))
        yield from map(LeaseRecords, _cut(self._leases, lambda _: 16))
        for client_id, forgotten, answers in self._answers:
            kept = tuple(KeptAnswer(sequence, result) for sequence, result in answers)
            yield Clients((ClientRecord(client_id, forgotten, kept),))
        yield from map(Revisions, _cut(self._history, lambda kept: kept.size_bytes))


def decode_chunks(chunks: Iterable[bytes]) -> Iterator[Chunk]:
    """Raises MalformedMessage for bytes that no `FrozenState.chunks` made, or not all of them."""
    count = 0
    last: Chunk | None = None
    for data in chunks:
        if isinstance(last, End):
            raise MalformedMessage("a snapshot goes on after its end")
        try:
            last = _decoder.decode(data)
        except UNDECODABLE as error:
            raise MalformedMessage(f"chunk {count} of a snapshot: {error}") from error
        if isinstance(last, Header) != (count == 0):
            raise MalformedMessage(f"chunk {count} of a snapshot is out of its place")
        if isinstance(last, Header) and last.format != FORMAT:
            raise MalformedMessage(
                f"a snapshot of format {last.format}, this build reads format {FORMAT}"
            )
        count += 1
        yield last
    if not isinstance(last, End) or last.chunks != count - 1:
        raise MalformedMessage(f"a snapshot ends after {count} chunks, before its end")


def _cut(records: Iterable[T], size_of: Callable[[T], int]) -> Iterator[tuple[T, ...]]:
    """In pieces bounded by count and, up to the last record of each, by bytes."""
    piece: list[T] = []
    size_bytes = 0
    for record in records:
        piece.append(record)
        size_bytes += size_of(record)
        if len(piece) == CHUNK_RECORDS_MAX or size_bytes >= CHUNK_BYTES_WANTED:
            yield tuple(piece)
            piece, size_bytes = [], 0
    if piece:
        yield tuple(piece)
