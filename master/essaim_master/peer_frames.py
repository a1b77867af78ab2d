"""The bytes between masters. Pure.

A connection carries frames in one direction, from the member that opened it; only the answer to
the greeting goes back. A frame is a length (u32, big-endian: of kind and body), a kind (u8) and
a body of msgpack. Frames are bounded before they are read: a peer can not make us hold more
than FRAME_BYTES_MAX.
"""

from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import NamedTuple

import msgspec

from essaim_master.raft.messages import Message
from essaim_master.snapshot.transfer import ChunkAnswer, SnapshotChunk
from essaim_shared.errors import MalformedMessage
from essaim_shared.ids import MemberId
from essaim_shared.limits import TRANSACTION_BYTES_MAX
from essaim_shared.undecodable import UNDECODABLE

PEER_PROTOCOL_VERSION = 2
"""2 added the snapshot stream. Masters of two versions that follow one another work together."""
OLDEST_PEER_PROTOCOL_VERSION = PEER_PROTOCOL_VERSION - 1
SNAPSHOT_PROTOCOL_VERSION = 2
"""From here on a master takes chunks of snapshots."""

FRAME_BYTES_MAX = 2 * TRANSACTION_BYTES_MAX
"""One append with the largest command fits, with room for what surrounds it."""

PROPOSALS_FRAME_BYTES = 256 * 1024
"""Forwarded commands are gathered in frames of about this size; a larger one goes alone."""

_LENGTH_BYTES = 4
_PREFIX_BYTES = _LENGTH_BYTES + 1


class FrameKind(IntEnum):
    GREETING = 1
    GREETING_ANSWER = 2
    MESSAGE = 3
    PROPOSALS = 4
    CHUNK = 5
    CHUNK_ANSWER = 6


class LinkPurpose(IntEnum):
    """What a connection carries; a member opens one of each kind."""

    MESSAGES = 0
    SNAPSHOTS = 1


class Greeting(msgspec.Struct, frozen=True, array_like=True):
    """The first frame of a connection, from the member that opened it.

    The versions that it speaks are a range, of which the highest that both know is used: so a new
    master finds an old one, and the old one it. Version 1 knew one number only, in the place of
    `oldest_version`, and no purposes.
    """

    oldest_version: int
    cluster_id: str
    sender: MemberId
    receiver: MemberId
    """Whom the sender believes to have reached: a wrong address is noticed here."""
    newest_version: int = 0
    """0, from version 1: the same as the oldest."""
    purpose: LinkPurpose = LinkPurpose.MESSAGES

    @property
    def common_version(self) -> int | None:
        """The version to speak with the sender; None if there is none that both know."""
        newest = min(self.newest_version or self.oldest_version, PEER_PROTOCOL_VERSION)
        oldest = max(self.oldest_version, OLDEST_PEER_PROTOCOL_VERSION)
        return newest if newest >= oldest else None


class GreetingAnswer(msgspec.Struct, frozen=True, array_like=True):
    refusal: str | None
    """Why the connection is closed now; None if it is welcome."""
    version: int = 1
    """Which of the offered versions is spoken from now on."""


class Frame(NamedTuple):
    kind: int
    body: memoryview


_encode = msgspec.msgpack.Encoder().encode
_decode_greeting = msgspec.msgpack.Decoder(Greeting).decode
_decode_answer = msgspec.msgpack.Decoder(GreetingAnswer).decode
_decode_message = msgspec.msgpack.Decoder(Message).decode
_decode_proposals = msgspec.msgpack.Decoder(list[bytes]).decode
_decode_chunk = msgspec.msgpack.Decoder(SnapshotChunk).decode
_decode_chunk_answer = msgspec.msgpack.Decoder(ChunkAnswer).decode


def _frame(kind: FrameKind, body: bytes) -> bytes:
    return (len(body) + 1).to_bytes(_LENGTH_BYTES, "big") + bytes((kind,)) + body


def encode_greeting(greeting: Greeting) -> bytes:
    return _frame(FrameKind.GREETING, _encode(greeting))


def encode_answer(answer: GreetingAnswer) -> bytes:
    return _frame(FrameKind.GREETING_ANSWER, _encode(answer))


def encode_message(message: Message) -> bytes:
    return _frame(FrameKind.MESSAGE, _encode(message))


def encode_proposals(commands: Sequence[bytes]) -> list[bytes]:
    """Frames that carry all commands, in order."""
    frames = []
    start = size_bytes = 0
    for position, command in enumerate(commands):
        if position > start and size_bytes + len(command) > PROPOSALS_FRAME_BYTES:
            frames.append(_frame(FrameKind.PROPOSALS, _encode(commands[start:position])))
            start, size_bytes = position, 0
        size_bytes += len(command)
    if start < len(commands):
        frames.append(_frame(FrameKind.PROPOSALS, _encode(commands[start:])))
    return frames


def encode_chunk(chunk: SnapshotChunk) -> bytes:
    return _frame(FrameKind.CHUNK, _encode(chunk))


def encode_chunk_answer(answer: ChunkAnswer) -> bytes:
    return _frame(FrameKind.CHUNK_ANSWER, _encode(answer))


class FrameReader:
    """Cuts the byte stream of one connection into frames."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Whole frames; what is left waits for more. Frames must be used before the next feed.
        Raises MalformedMessage: the stream is useless from there on."""
        if self._rest:
            data = self._rest + data
        view = memoryview(data)
        offset, size_bytes = 0, len(data)
        while size_bytes - offset >= _PREFIX_BYTES:
            length = int.from_bytes(view[offset : offset + _LENGTH_BYTES], "big")
            if not 1 <= length <= FRAME_BYTES_MAX:
                raise MalformedMessage(
                    f"a frame of {length} bytes; the limit is {FRAME_BYTES_MAX}, the least 1"
                )
            end = offset + _LENGTH_BYTES + length
            if end > size_bytes:
                break
            yield Frame(view[offset + _LENGTH_BYTES], view[offset + _PREFIX_BYTES : end])
            offset = end
        self._rest = data[offset:] if offset < size_bytes else b""


def decode_greeting(frame: Frame) -> Greeting:
    """Raises MalformedMessage, as all below do."""
    if frame.kind != FrameKind.GREETING:
        raise MalformedMessage(f"a frame of kind {frame.kind} before the greeting")
    try:
        return _decode_greeting(frame.body)
    except UNDECODABLE as error:
        raise MalformedMessage(f"a greeting that does not decode: {error}") from error


def decode_answer(frame: Frame) -> GreetingAnswer:
    if frame.kind != FrameKind.GREETING_ANSWER:
        raise MalformedMessage(f"a frame of kind {frame.kind} as the answer to a greeting")
    try:
        return _decode_answer(frame.body)
    except UNDECODABLE as error:
        raise MalformedMessage(f"an answer that does not decode: {error}") from error


def decode_message(frame: Frame) -> Message:
    try:
        return _decode_message(frame.body)
    except UNDECODABLE as error:
        raise MalformedMessage(f"a Raft message that does not decode: {error}") from error


def decode_proposals(frame: Frame) -> list[bytes]:
    try:
        return _decode_proposals(frame.body)
    except UNDECODABLE as error:
        raise MalformedMessage(f"forwarded proposals that do not decode: {error}") from error


def decode_chunk(frame: Frame) -> SnapshotChunk:
    try:
        return _decode_chunk(frame.body)
    except UNDECODABLE as error:
        raise MalformedMessage(f"a chunk of a snapshot that does not decode: {error}") from error


def decode_chunk_answer(frame: Frame) -> ChunkAnswer:
    try:
        return _decode_chunk_answer(frame.body)
    except UNDECODABLE as error:
        raise MalformedMessage(f"an answer to a chunk that does not decode: {error}") from error
