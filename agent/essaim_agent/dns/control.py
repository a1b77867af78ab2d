"""What an agent and its name server say to each other, and its wire form. Pure.

Each message is msgpack behind its length in four bytes. The first one is the server's greeting.
An agent that does not find its own build in it knows no more of the other one than to end it.
"""

from typing import Final

import msgspec

from essaim_agent.dns.table import Change
from essaim_shared.errors import MalformedMessage
from essaim_shared.undecodable import UNDECODABLE

LENGTH_BYTES: Final = 4
MESSAGE_BYTES_MAX: Final = 8 * 1024 * 1024
"""A change of CHANGE_FACTS_MAX services with all the aliases that they may have."""


class Hello(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """With it come the sockets on which the server hears the tasks: UDP, TCP."""

    build: str
    port: int


class Tell(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Part of the table. The first part begins a new one, which counts from its last part on."""

    change: Change
    is_first: bool = False
    is_last: bool = True
    revision: int = 0
    """Of the last part: what the server says when it is in force."""


class Applied(msgspec.Struct, frozen=True, tag=True, array_like=True):
    revision: int


class Ask(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """How are you?"""


class Counts(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Since the server started, but for `facts`, which are those of the table now."""

    answered: int = 0
    forwarded: int = 0
    refused: int = 0
    dropped: int = 0
    failed: int = 0
    """Names of the world outside that nobody answered for."""
    facts: int = 0


class End(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """No more questions are taken; those under way are not waited for."""


FromAgent = Tell | Ask | End
FromServer = Hello | Applied | Counts

_encoder = msgspec.msgpack.Encoder()
_from_agent: msgspec.msgpack.Decoder[FromAgent] = msgspec.msgpack.Decoder(FromAgent)
_from_server: msgspec.msgpack.Decoder[FromServer] = msgspec.msgpack.Decoder(FromServer)


def encode(message: FromAgent | FromServer) -> bytes:
    """With its length. Raises MalformedMessage when it is longer than the other end takes."""
    body = _encoder.encode(message)
    if len(body) > MESSAGE_BYTES_MAX:
        raise MalformedMessage(f"a message of {len(body)} bytes")
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


def length_of(head: bytes) -> int:
    """From the first bytes of a message. Raises MalformedMessage."""
    length = int.from_bytes(head, "big")
    if not 0 < length <= MESSAGE_BYTES_MAX:
        raise MalformedMessage(f"a message of {length} bytes")
    return length


def from_agent(body: bytes) -> FromAgent:
    """Raises MalformedMessage."""
    try:
        return _from_agent.decode(body)
    except UNDECODABLE as error:
        raise MalformedMessage(f"not of an agent: {error}") from error


def from_server(body: bytes) -> FromServer:
    """Raises MalformedMessage."""
    try:
        return _from_server.decode(body)
    except UNDECODABLE as error:
        raise MalformedMessage(f"not of a name server: {error}") from error
