"""One master asks another over HTTP: status, hashes, and what only the leader may do.

A connection for each question, closed by the one that answers: these are rare, and a master that
is down must cost no more than a timeout.
"""

import asyncio
from typing import NamedTuple

from essaim_master.config import split_address
from essaim_shared.errors import OutcomeUnknown, Unavailable

ANSWER_BYTES_MAX = 8 * 1024 * 1024
READ_BYTES = 65_536
FORWARDED_HEADER = "Essaim-Forwarded"
"""How often a request was handed on between masters, so that it does not go in circles."""


class PeerAnswer(NamedTuple):
    status: int
    body: bytes


async def ask_master(
    address: str,
    method: str,
    target: str,
    *,
    hops: int,
    timeout_s: float,
    body: bytes = b"",
) -> PeerAnswer:
    """Raises Unavailable (nobody is there: nothing happened) or OutcomeUnknown (no whole answer
    within the time)."""
    host, port = split_address(address)
    head = (
        f"{method} {target} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n"
        f"{FORWARDED_HEADER}: {hops}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    writer: asyncio.StreamWriter | None = None
    content = b""
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(head.encode("latin-1") + body)
            while len(content) < ANSWER_BYTES_MAX and (part := await reader.read(READ_BYTES)):
                content += part
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


def _parsed(address: str, content: bytes) -> PeerAnswer:
    head, separator, body = content.partition(b"\r\n\r\n")
    parts = head.split(b"\r\n", 1)[0].split(b" ", 2)
    if not separator or len(parts) < 2 or not parts[1].isdigit():
        raise OutcomeUnknown(f"the master at {address} broke off its answer")
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length" and int(value) != len(body):
            raise OutcomeUnknown(f"the master at {address} broke off its answer")
    return PeerAnswer(int(parts[1]), body)
