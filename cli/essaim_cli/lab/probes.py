"""Asking whether a part answers: small HTTP requests over a unix socket or TCP."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

ANSWER_BYTES_MAX = 8 * 1024 * 1024
PROBE_TIMEOUT_S = 2.0

Target = Path | tuple[str, int]
"""A unix socket, or an address and a port."""


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
            if isinstance(target, Path):
                reader, writer = await asyncio.open_unix_connection(str(target))
            else:
                reader, writer = await asyncio.open_connection(*target)
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
                writer.close()
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
