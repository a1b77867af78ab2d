"""Asking the leader over its HTTP API what only it knows, on behalf of a client of this master."""

import asyncio

from essaim_shared.errors import NoLeader, OutcomeUnknown

FORWARDED_HEADER = "Essaim-Forwarded"
"""Marks such a request: it is answered where it arrives, or not at all."""
TIMEOUT_S = 5.0
ANSWER_BYTES_MAX = 1024 * 1024


async def ask_leader(address: str, method: str, target: str) -> tuple[int, bytes]:
    """Status and body of the answer at `HOST:PORT`; the request has no body.

    Raises NoLeader (nobody is there), OutcomeUnknown (it may have happened).
    """
    host, _, port = address.rpartition(":")
    try:
        async with asyncio.timeout(TIMEOUT_S):
            reader, writer = await asyncio.open_connection(
                host.strip("[]"), int(port), limit=ANSWER_BYTES_MAX
            )
    except (OSError, TimeoutError) as error:
        raise NoLeader(f"the leader at {address} cannot be reached: try again") from error
    try:
        async with asyncio.timeout(TIMEOUT_S):
            writer.write(
                f"{method} {target} HTTP/1.1\r\nHost: {address}\r\n{FORWARDED_HEADER}: 1\r\n"
                "Content-Length: 0\r\nConnection: close\r\n\r\n".encode("ascii")
            )
            head = await reader.readuntil(b"\r\n\r\n")
            length = _content_length(head)
            return int(head.split(b" ", 2)[1]), await reader.readexactly(length)
    except (OSError, TimeoutError, EOFError, ValueError, asyncio.LimitOverrunError) as error:
        raise OutcomeUnknown(
            f"the leader at {address} did not answer: look before you repeat it"
        ) from error
    finally:
        writer.close()


def _content_length(head: bytes) -> int:
    """Raises ValueError for an answer that our own server would not give."""
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            length = int(value)
            if 0 <= length <= ANSWER_BYTES_MAX:
                return length
    raise ValueError("no usable Content-Length")
