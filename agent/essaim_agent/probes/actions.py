"""Asking a task over the network: a GET, or a connection that is accepted.

Of an HTTP answer only the status counts, so its first line is all that is parsed (RFC 9112,
section 4). The rest is read up to a bound and thrown away, for a server that is cut off in the
middle of its answer writes an error to its log at each probe.
"""

import asyncio
import contextlib
import os
import re
from typing import Final

from essaim_agent.probes.prober import Answer
from essaim_shared.container_spec import HttpAction

LINE_BYTES_MAX: Final = 4096
"""Of a status or header line."""
INTERIM_ANSWERS_MAX: Final = 8
"""Answers with a status 1xx before the final one (RFC 9110, section 15.2)."""
HEADER_LINES_MAX: Final = 256
BODY_BYTES_MAX: Final = 10 * 1024
"""Read of the body; as Kubernetes (pkg/probe/http)."""
USER_AGENT: Final = "essaim-probe"

_STATUS_LINE: Final = re.compile(rb"HTTP/1\.[01] ([1-9][0-9]{2})(?: [^\r\n]*)?\r?\n\Z")
_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_UNSAFE: Final = re.compile(r"[\x00-\x1f\x7f]")
_UNSAFE_IN_PATH: Final = re.compile(r"[\x00-\x20\x7f]")

Reply = tuple[Answer, str]
"""The answer, and for a failure why, in one line."""


def request_bytes(action: HttpAction, address: str) -> bytes:
    """The request of an HTTP probe. Raises ValueError for what would not be one request."""
    path = action.path if action.path.startswith("/") else f"/{action.path}"
    if _UNSAFE_IN_PATH.search(path):
        raise ValueError(f"path {path!r} holds a blank or a control character")
    headers = {"host": f"{address}:{action.port}", "user-agent": USER_AGENT, "accept": "*/*"}
    for name, value in action.headers.items():
        if not _NAME.match(name) or _UNSAFE.search(value):
            raise ValueError(f"header {name!r} cannot be sent")
        headers[name.lower()] = value
    headers["connection"] = "close"
    lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join((*lines, "", "")).encode()


async def ask_http(action: HttpAction, address: str) -> Reply:
    """Without a time limit of its own: cancel it."""
    try:
        request = request_bytes(action, address)
        reader, writer = await asyncio.open_connection(address, action.port, limit=LINE_BYTES_MAX)
    except (OSError, ValueError) as error:
        return Answer.FAILURE, f"GET {action.path}: {_words(error)}"
    try:
        writer.write(request)
        await writer.drain()
        status = await _final_status(reader)
        with contextlib.suppress(OSError):
            await _discard(reader)
    except (OSError, ValueError, EOFError) as error:
        return Answer.FAILURE, f"GET {action.path}: {_words(error)}"
    finally:
        writer.close()
    if 200 <= status <= 399:
        return Answer.SUCCESS, ""
    return Answer.FAILURE, f"GET {action.path}: HTTP status {status}"


async def _final_status(reader: asyncio.StreamReader) -> int:
    """Raises EOFError, ValueError, OSError."""
    for _ in range(INTERIM_ANSWERS_MAX + 1):
        line = await reader.readline()
        if not line:
            raise EOFError("connection closed without an answer")
        found = _STATUS_LINE.match(line)
        if found is None:
            raise ValueError("the answer is not HTTP/1")
        status = int(found.group(1))
        if status >= 200:
            return status
        for _ in range(HEADER_LINES_MAX):
            if (await reader.readline()).strip() == b"":
                break
    raise ValueError(f"more than {INTERIM_ANSWERS_MAX} interim answers")


async def _discard(reader: asyncio.StreamReader) -> None:
    left = BODY_BYTES_MAX
    while left > 0 and (piece := await reader.read(left)):
        left -= len(piece)


async def ask_tcp(port: int, address: str) -> Reply:
    """Without a time limit of its own: cancel it."""
    try:
        _, writer = await asyncio.open_connection(address, port)
    except OSError as error:
        return Answer.FAILURE, f"port {port}: {_words(error)}"
    writer.close()
    return Answer.SUCCESS, ""


def _words(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno:
        # asyncio puts words of its own in the place of the system's.
        return os.strerror(error.errno)
    return str(error) or type(error).__name__
