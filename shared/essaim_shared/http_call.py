"""One HTTP request of one process to another, on a connection of its own.

For what is rare between masters, and between agents and masters: joining, renewing, asking for a
secret. A server that is down must cost no more than a timeout.
"""

import asyncio
import ssl
from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from essaim_shared.errors import ConfigError, OutcomeUnknown, Unavailable
from essaim_shared.trust.tls import MASTER_NAME, reason_in_words
from essaim_shared.undecodable import UNDECODABLE

ANSWER_BYTES_MAX = 8 * 1024 * 1024
READ_BYTES = 65_536
PORT_MAX = 65_535
PORT_DIGITS_MAX = 5
STATUS_DIGITS = 3


class Answer(NamedTuple):
    status: int
    body: bytes


class _ErrorBody(msgspec.Struct, frozen=True):
    """Docker's form of every error."""

    message: str


def reason_of(answer: Answer) -> str:
    """What the sentence of a refusal says."""
    try:
        return msgspec.json.decode(answer.body, type=_ErrorBody).message
    except UNDECODABLE:
        return f"the answer {answer.status} says no reason"


async def call(
    address: str,
    method: str,
    target: str,
    *,
    timeout_s: float,
    body: bytes = b"",
    headers: Mapping[str, str] | None = None,
    tls: ssl.SSLContext | None = None,
) -> Answer:
    """Ask the master at `HOST:PORT`, over TLS if there is a context for it.

    Raises Unavailable (nobody is there, or not one of ours: nothing happened) or OutcomeUnknown
    (no whole answer within the time).
    """
    host, port = split_address(address)
    lines = [
        f"{method} {target} HTTP/1.1",
        f"Host: {address}",
        "Connection: close",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        *(f"{name}: {value}" for name, value in (headers or {}).items()),
    ]
    writer: asyncio.StreamWriter | None = None
    content = b""
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_connection(
                host, port, ssl=tls, server_hostname=MASTER_NAME if tls is not None else None
            )
            writer.write("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body)
            while len(content) < ANSWER_BYTES_MAX and (part := await reader.read(READ_BYTES)):
                content += part
    except ssl.SSLError as error:
        # Also a verdict on our own certificate, which in TLS 1.3 comes after the handshake.
        raise Unavailable(f"the master at {address}: {reason_in_words(error)}") from error
    except OSError as error:  # TimeoutError is one of them
        reason = error.strerror or f"no answer in {timeout_s:g} s"
        if writer is None:
            raise Unavailable(f"the master at {address} cannot be reached: {reason}") from error
        raise OutcomeUnknown(
            f"the master at {address} did not answer ({reason}): look before you repeat it"
        ) from error
    finally:
        if writer is not None:
            writer.transport.abort()
    return _parsed(address, content)


def split_address(address: str) -> tuple[str, int]:
    """`HOST:PORT` → (host, port). Raises ConfigError."""
    host, separator, port = address.rpartition(":")
    is_number = port.isascii() and port.isdigit() and len(port) <= PORT_DIGITS_MAX
    if not (separator and host and is_number and int(port) <= PORT_MAX):
        raise ConfigError(f"{address!r} is no address: write HOST:PORT")
    return host.strip("[]"), int(port)


def _parsed(address: str, content: bytes) -> Answer:
    head, separator, body = content.partition(b"\r\n\r\n")
    parts = head.split(b"\r\n", 1)[0].split(b" ", 2)
    status = parts[1] if separator and len(parts) > 1 else b""
    if len(status) != STATUS_DIGITS or not status.isdigit():
        raise OutcomeUnknown(f"the master at {address} broke off its answer")
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length" and value.strip() != b"%d" % len(body):
            raise OutcomeUnknown(f"the master at {address} broke off its answer")
    return Answer(int(status), body)
