"""Asking whether a part answers: small HTTP requests over a unix socket, TCP or TLS."""

import asyncio
import json
import ssl
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from essaim_cli.client_tls import MASTER_NAME, tls_context_of
from essaim_cli.lab.topology import Host

ANSWER_BYTES_MAX = 8 * 1024 * 1024
PROBE_TIMEOUT_S = 2.0

BUS_GREETING = b"INFO {"
"""How every bus server begins, before anything is encrypted (NATS client protocol)."""
BUS_GREETING_BYTES_MAX = 64 * 1024
CONTEXTS_MAX = 16


class ApiTarget(NamedTuple):
    """The API of a master over TLS."""

    address: str
    port: int
    identity: Path
    """The directory of who asks."""


Target = Path | tuple[str, int] | ApiTarget
"""A unix socket, an address and a port, or the API of a master from outside."""


def api_of(host: Host) -> ApiTarget:
    """As the lab's user asks it."""
    return ApiTarget(host.address, host.http_port, host.admin_identity_dir)


async def open_target(
    target: Target, limit_bytes: int = ANSWER_BYTES_MAX
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Raises OSError (ssl.SSLError is one)."""
    if isinstance(target, Path):
        return await asyncio.open_unix_connection(str(target), limit=limit_bytes)
    if isinstance(target, ApiTarget):
        return await asyncio.open_connection(
            target.address,
            target.port,
            limit=limit_bytes,
            ssl=context_of(target.identity),
            server_hostname=MASTER_NAME,
        )
    return await asyncio.open_connection(*target, limit=limit_bytes)


def context_of(identity: Path) -> ssl.SSLContext:
    """Made once for each certificate."""
    return _context(identity, (identity / "own.pem").stat().st_mtime_ns)


@lru_cache(maxsize=CONTEXTS_MAX)
def _context(identity: Path, written_ns: int) -> ssl.SSLContext:
    return tls_context_of(identity)


async def introduces_itself(address: str, port: int) -> bool:
    """Whether a bus server is there, and not frozen."""
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(
                address, port, limit=BUS_GREETING_BYTES_MAX
            )
            try:
                return (await reader.readuntil(b"\r\n")).startswith(BUS_GREETING)
            finally:
                writer.close()
    except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        return False


async def http_request(
    target: Target,
    path: str,
    *,
    method: str = "GET",
    body: bytes = b"",
    content_type: str = "application/json",
    timeout_s: float = PROBE_TIMEOUT_S,
) -> tuple[int, bytes] | None:
    """(status, body); None when nobody answers in time. HTTP/1.0: answers are never chunked."""
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await open_target(target)
            try:
                writer.write(
                    f"{method} {path} HTTP/1.0\r\nHost: lab\r\nContent-Type: {content_type}\r\n"
                    f"Content-Length: {len(body)}\r\n\r\n".encode()
                )
                writer.write(body)
                await writer.drain()
                answer = await reader.read(ANSWER_BYTES_MAX)
                while chunk := await reader.read(ANSWER_BYTES_MAX):
                    answer += chunk
                    if len(answer) > ANSWER_BYTES_MAX:
                        return None
            finally:
                writer.transport.abort()
    except (OSError, TimeoutError):
        return None
    head, _, rest = answer.partition(b"\r\n\r\n")
    words = head.split(maxsplit=2)
    if len(words) < 2 or not words[1].isdigit():
        return None
    return int(words[1]), rest


async def answers(target: Target, path: str) -> bool:
    answer = await http_request(target, path)
    return answer is not None and answer[0] == 200


async def json_of(target: Target, path: str) -> Any | None:
    """The decoded answer; None unless it is a 200 with JSON in it."""
    answer = await http_request(target, path)
    if answer is None or answer[0] != 200:
        return None
    try:
        return json.loads(answer[1])
    except ValueError:
        return None


def count_where(items: Any, is_wanted: Callable[[Any], bool]) -> int:
    """How many of a JSON list are wanted; 0 for anything that is no list."""
    return sum(1 for item in items if is_wanted(item)) if isinstance(items, list) else 0
