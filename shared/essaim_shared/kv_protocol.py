"""The native protocol of keys and values: what stands in the bytes. Pure.

A connection carries frames both ways: a length (u32, big-endian, of what follows) and a msgpack
array whose first element says what it is. The client greets, the master welcomes; then requests
go one way and answers the other, in any order, matched by number. `docs/reference/kv-protocol.md`
is the whole of it on one page.

These types are not those of the log: a client of today must be understood by masters whose log
has moved on. New fields come last and have defaults; a tag never changes its meaning.
"""

from collections.abc import Iterator
from enum import IntEnum
from typing import TypeVar

import msgspec

from essaim_shared.errors import MalformedMessage
from essaim_shared.limits import TRANSACTION_BYTES_MAX
from essaim_shared.undecodable import UNDECODABLE

KV_PROTOCOL_VERSION = 1

REQUEST_FRAME_BYTES_MAX = 2 * TRANSACTION_BYTES_MAX
"""The largest transaction fits, with room for what surrounds it."""
ANSWER_FRAME_BYTES_MAX = 8 * 1024 * 1024
"""The largest answer of a transaction (4 MiB of keys and values) fits."""

REQUEST_TIMEOUT_S_MAX = 30.0
"""A master does not try longer, whatever the client asks for."""

_LENGTH_BYTES = 4


class Relation(IntEnum):
    EQUAL = 0
    NOT_EQUAL = 1
    LESS = 2
    GREATER = 3


class Attribute(IntEnum):
    """Of a key; each is 0 for a key that does not exist."""

    VERSION = 0
    CREATED = 1
    MODIFIED = 2
    LEASE = 3


class CompareNumber(msgspec.Struct, frozen=True, array_like=True, tag="number", gc=False):
    key: bytes
    attribute: Attribute
    relation: Relation
    number: int


class CompareValue(msgspec.Struct, frozen=True, array_like=True, tag="value", gc=False):
    """Never holds for a key that does not exist."""

    key: bytes
    relation: Relation
    value: bytes


Compare = CompareNumber | CompareValue


class Put(msgspec.Struct, frozen=True, array_like=True, tag="put", gc=False):
    key: bytes
    value: bytes
    lease: int = 0
    """The key goes when this lease does; 0 for a key that stays."""
    prev_kv: bool = False
    """Answer with a WriteResult."""


class Get(msgspec.Struct, frozen=True, array_like=True, tag="get", gc=False):
    key: bytes


class Range(msgspec.Struct, frozen=True, array_like=True, tag="range", gc=False):
    """All keys in [start, end); an empty `end` means without end."""

    start: bytes
    end: bytes
    limit: int = 0
    """0: as many as one answer may hold."""


class Delete(msgspec.Struct, frozen=True, array_like=True, tag="delete", gc=False):
    key: bytes


class DeleteRange(msgspec.Struct, frozen=True, array_like=True, tag="delete_range", gc=False):
    start: bytes
    end: bytes
    prev_kv: bool = False


Operation = Put | Get | Range | Delete | DeleteRange


class KeyValue(msgspec.Struct, frozen=True, array_like=True, gc=False):
    key: bytes
    value: bytes
    created: int
    """Revision of the transaction that created the key."""
    modified: int
    version: int
    """How often it was written since it was created."""
    lease: int = 0


class RangeResult(msgspec.Struct, frozen=True, array_like=True, tag="range", gc=False):
    found: tuple[KeyValue, ...]
    count: int
    """Keys in the whole range, also those beyond the limit."""


class WriteResult(msgspec.Struct, frozen=True, array_like=True, tag="write", gc=False):
    """Of a DeleteRange, and of a Put with `prev_kv`."""

    count: int
    before: tuple[KeyValue, ...] = ()


# From the client


class Greeting(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """The first frame of a connection."""

    protocol_version: int
    cluster_id: str
    """Empty if the client does not care; else another cluster refuses it."""
    session: int = 0
    """The session to go on with; 0 if there is none yet."""


class OpenSession(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Before the first transaction, and when a session was forgotten. Transactions of this
    connection belong to the new session from its answer on."""

    number: int
    timeout_ms: int


class TransactionRequest(msgspec.Struct, frozen=True, array_like=True, tag=3, gc=False):
    """Executed once for each (session, number), whichever masters it is sent to."""

    number: int
    """Grows; less than KV_IN_FLIGHT_MAX above the least number without an answer."""
    timeout_ms: int
    compares: tuple[Compare, ...]
    then: tuple[Operation, ...]
    otherwise: tuple[Operation, ...]


class RangeRequest(msgspec.Struct, frozen=True, array_like=True, tag=4, gc=False):
    """A read outside the log."""

    number: int
    timeout_ms: int
    range: Range
    local: bool = False
    """True: what this master has, which may be old. False: linearizable."""


class Ping(msgspec.Struct, frozen=True, array_like=True, tag=5, gc=False):
    """Answered at once: tells a dead connection from a slow answer."""

    number: int


# From the master


class Welcome(msgspec.Struct, frozen=True, array_like=True, tag=1):
    protocol_version: int
    cluster_id: str
    member_id: str
    leader: str | None
    """The member that leads, as far as this one knows: requests are served fastest there."""
    in_flight_max: int
    """Requests of this connection without an answer; one more is refused."""


class SessionOpened(msgspec.Struct, frozen=True, array_like=True, tag=2):
    number: int
    session: int


class TransactionAnswer(msgspec.Struct, frozen=True, array_like=True, tag=3, gc=False):
    number: int
    succeeded: bool
    """Whether the compares held."""
    revision: int
    """The global revision after the transaction (unchanged if nothing was written)."""
    values: tuple[KeyValue | None, ...] = ()
    """One for each Get, in order."""
    results: tuple[RangeResult | WriteResult, ...] = ()
    """One for each Range, DeleteRange and Put with `prev_kv`, in order."""


class RangeAnswer(msgspec.Struct, frozen=True, array_like=True, tag=4, gc=False):
    number: int
    revision: int
    """Of the state that was read."""
    result: RangeResult


class Pong(msgspec.Struct, frozen=True, array_like=True, tag=5, gc=False):
    number: int


class FailureCode(IntEnum):
    """What went wrong; beside each how the client tells its caller."""

    INVALID_REQUEST = 1
    UNAVAILABLE = 2
    """Not even tried: the same request may succeed later."""
    NO_LEADER = 3
    """Not tried: no quorum."""
    OUTCOME_UNKNOWN = 4
    NO_SPACE = 5
    LEASE_NOT_FOUND = 6
    SESSION_FORGOTTEN = 7
    """This copy was not executed; an earlier one may have been."""
    REFUSED = 8
    """Of the greeting; the connection is closed."""


class Failure(msgspec.Struct, frozen=True, array_like=True, tag=6, gc=False):
    number: int
    """Of the request; 0 for the greeting."""
    code: FailureCode
    message: str
    """One line for a person."""


ClientFrame = Greeting | OpenSession | TransactionRequest | RangeRequest | Ping
MasterFrame = Welcome | SessionOpened | TransactionAnswer | RangeAnswer | Pong | Failure

F = TypeVar("F")

_encode = msgspec.msgpack.Encoder().encode
_decode_client = msgspec.msgpack.Decoder(ClientFrame)
_decode_master = msgspec.msgpack.Decoder(MasterFrame)


def encode_frame(frame: ClientFrame | MasterFrame) -> bytes:
    body = _encode(frame)
    return len(body).to_bytes(_LENGTH_BYTES, "big") + body


class FrameReader:
    """Cuts the byte stream of one direction into frames, and decodes them."""

    def __init__(self, frame_bytes_max: int) -> None:
        self._rest = bytearray()
        self._needed_bytes = 0
        """Length of `_rest` before which no further frame can be complete."""
        self._frame_bytes_max = frame_bytes_max

    def _feed(self, data: bytes, decoder: "msgspec.msgpack.Decoder[F]") -> Iterator[F]:
        rest = self._rest
        if rest:
            # A large frame comes in many pieces: they are gathered, not looked at each time.
            rest += data
            if len(rest) < self._needed_bytes:
                return
            data = bytes(rest)
            rest.clear()
        view, decode = memoryview(data), decoder.decode
        offset, size_bytes = 0, len(data)
        self._needed_bytes = _LENGTH_BYTES
        while size_bytes - offset >= _LENGTH_BYTES:
            start = offset + _LENGTH_BYTES
            length = int.from_bytes(view[offset:start], "big")
            if not 1 <= length <= self._frame_bytes_max:
                raise MalformedMessage(
                    f"a frame of {length} bytes; the limit is {self._frame_bytes_max}, the least 1"
                )
            if start + length > size_bytes:
                self._needed_bytes = _LENGTH_BYTES + length
                break
            offset = start + length
            try:
                frame = decode(view[start:offset])
            except UNDECODABLE as error:
                raise MalformedMessage(f"a frame that does not decode: {error}") from error
            yield frame
        rest += view[offset:]


class ClientFrameReader(FrameReader):
    """What a master reads."""

    def __init__(self) -> None:
        super().__init__(REQUEST_FRAME_BYTES_MAX)

    def feed(self, data: bytes) -> Iterator[ClientFrame]:
        """Whole frames; what is left waits for more. Raises MalformedMessage: the stream is
        useless from there on."""
        return self._feed(data, _decode_client)


class MasterFrameReader(FrameReader):
    """What a client reads."""

    def __init__(self) -> None:
        super().__init__(ANSWER_FRAME_BYTES_MAX)

    def feed(self, data: bytes) -> Iterator[MasterFrame]:
        """As `ClientFrameReader.feed`."""
        return self._feed(data, _decode_master)
