"""The bytes of the links between masters when they go over the bus. Pure.

The frames are those of `peer_frames`; the bus limits a message, so a run of frames is cut into
pieces of BUS_CHUNK_BYTES_MAX. Each piece names the two lives that it passes between: a session is
drawn at the start of a master, so nothing that was meant for its former life, or came from one,
is taken for present. Pieces of one link are numbered; behind a lost one nothing is used until a
piece begins a frame again.
"""

from collections.abc import Iterable, Iterator

import msgspec

from essaim_master.peer_frames import FRAME_BYTES_MAX, Frame, FrameReader, Greeting, GreetingAnswer
from essaim_shared.errors import MalformedMessage
from essaim_shared.ids import MemberId
from essaim_shared.limits import BUS_CHUNK_BYTES_MAX
from essaim_shared.undecodable import UNDECODABLE

PIECES_PER_FRAME_MAX = FRAME_BYTES_MAX // BUS_CHUNK_BYTES_MAX + 1


class BusGreeting(msgspec.Struct, frozen=True, array_like=True):
    """A request, repeated while the link is wanted: it also tells that the sender is there."""

    greeting: Greeting
    session: int
    """Of the sender's present life."""


class BusGreetingAnswer(msgspec.Struct, frozen=True, array_like=True):
    answer: GreetingAnswer
    session: int


class Piece(msgspec.Struct, frozen=True, array_like=True, gc=False):
    sender: MemberId
    sender_session: int
    receiver_session: int
    number: int
    """Counts the pieces of this link."""
    begins: bool
    """The data begin with a new frame."""
    data: bytes


_encode = msgspec.msgpack.Encoder().encode
_decode_piece = msgspec.msgpack.Decoder(Piece).decode
_decode_greeting = msgspec.msgpack.Decoder(BusGreeting).decode
_decode_answer = msgspec.msgpack.Decoder(BusGreetingAnswer).decode

encode_piece = encode_greeting = encode_answer = _encode


def decode_piece(payload: bytes) -> Piece:
    """Raises MalformedMessage, as the two below do."""
    try:
        return _decode_piece(payload)
    except UNDECODABLE as error:
        raise MalformedMessage(f"{len(payload)} bytes are no piece of frames: {error}") from error


def decode_greeting(payload: bytes) -> BusGreeting:
    try:
        return _decode_greeting(payload)
    except UNDECODABLE as error:
        raise MalformedMessage(f"a greeting that does not decode: {error}") from error


def decode_answer(payload: bytes) -> BusGreetingAnswer:
    try:
        return _decode_answer(payload)
    except UNDECODABLE as error:
        raise MalformedMessage(f"an answer that does not decode: {error}") from error


def cut(frames: Iterable[bytes]) -> Iterator[tuple[bool, bytes]]:
    """(begins a frame, data): small frames together, a large one in several pieces."""
    gathered: list[bytes] = []
    size_bytes = 0
    for frame in frames:
        if gathered and size_bytes + len(frame) > BUS_CHUNK_BYTES_MAX:
            yield True, b"".join(gathered)
            gathered, size_bytes = [], 0
        if len(frame) > BUS_CHUNK_BYTES_MAX:
            for start in range(0, len(frame), BUS_CHUNK_BYTES_MAX):
                yield start == 0, frame[start : start + BUS_CHUNK_BYTES_MAX]
        else:
            gathered.append(frame)
            size_bytes += len(frame)
    if gathered:
        yield True, b"".join(gathered)


class PieceReader:
    """Puts the pieces of one sender's life together again."""

    def __init__(self) -> None:
        self._frames = FrameReader()
        self._next_number = 0
        self._is_broken = True

    def feed(self, piece: Piece) -> Iterator[Frame]:
        """Whole frames. Raises MalformedMessage: what follows is dropped up to the next frame."""
        if piece.begins:
            self._frames = FrameReader()
            self._is_broken = False
        elif piece.number != self._next_number:
            self._is_broken = True
        self._next_number = piece.number + 1
        if self._is_broken:
            return
        is_whole = False
        try:
            yield from self._frames.feed(piece.data)
            is_whole = True
        finally:
            self._is_broken = not is_whole
