"""A very small HTTP/1.1 server for /metrics and /healthz: GET and HEAD, nothing else.

An agent must not carry a web framework for two pages. Everything is bounded: connections at a
time, bytes of a request's head, seconds of waiting, requests per connection.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from essaim_agent.metrics.prometheus_text import CONTENT_TYPE
from essaim_shared.log import fields

_log = logging.getLogger(__name__)

CONNECTIONS_MAX: Final = 32
HEAD_BYTES_MAX: Final = 8 * 1024
WAIT_S_MAX: Final = 30.0
"""For a request, and for the client to take the answer."""
REQUESTS_PER_CONNECTION_MAX: Final = 1000
LEAVE_S_MAX: Final = 2.0
LEAVE_READS_MAX: Final = 64
"""What a client whose connection is ended may still send; beyond either it gets a reset."""

_PLAIN: Final = "text/plain; charset=utf-8"
_REASONS: Final = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}


class MetricsServer:
    """`metrics()` gives the page; `trouble()` says in a line what is wrong, None when nothing."""

    def __init__(self, metrics: Callable[[], str], trouble: Callable[[], str | None]) -> None:
        self._metrics = metrics
        self._trouble = trouble
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def open(self, host: str, port: int) -> int:
        """Listen; returns the port (that the kernel chose for 0). Raises OSError when taken."""
        self._server = await asyncio.start_server(
            self._accept, host, port, limit=HEAD_BYTES_MAX, backlog=CONNECTIONS_MAX
        )
        chosen: int = self._server.sockets[0].getsockname()[1]
        return chosen

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for connection in self._connections:
            connection.cancel()
        if self._connections:
            await asyncio.wait(self._connections)
        if self._server is not None:
            await self._server.wait_closed()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._connections) >= CONNECTIONS_MAX:
            writer.transport.abort()
            _log.warning("too many connections for metrics %s", fields(most=CONNECTIONS_MAX))
            return
        connection = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._connections.add(connection)

        def end(task: asyncio.Task[None]) -> None:
            # Here rather than in `_serve`, which a cancellation may keep from ever starting.
            self._connections.discard(task)
            if not writer.is_closing():
                writer.transport.abort()

        connection.add_done_callback(end)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            for _ in range(REQUESTS_PER_CONNECTION_MAX):
                async with asyncio.timeout(WAIT_S_MAX):
                    goes_on = await self._answer_one(reader, writer)
                if not goes_on:
                    break
            await _take_leave(reader, writer)
        except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            _log.debug("a metrics client went away %s", fields(error=repr(error)))

    async def _answer_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Whether the connection goes on."""
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            writer.write(_response(431, _PLAIN, "the request's head is too long\n", False, True))
            await writer.drain()
            return False
        lines = head.decode("latin-1").split("\r\n")
        words = lines[0].split(" ")
        if len(words) != 3 or words[2] not in ("HTTP/1.1", "HTTP/1.0"):
            writer.write(_response(400, _PLAIN, "not an HTTP/1 request\n", False, True))
            await writer.drain()
            return False
        method, target, version = words
        headers = {
            name.strip().lower(): value.strip().lower()
            for name, _, value in (line.partition(":") for line in lines[1:])
        }
        # A body would be taken for the next request, so whoever sends one is let go.
        has_body = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
        keeps = headers.get("connection", "keep-alive" if version == "HTTP/1.1" else "close")
        goes_on = keeps != "close" and not has_body
        status, kind, text = self._page(method, target.partition("?")[0])
        writer.write(_response(status, kind, text, goes_on, method != "HEAD"))
        await writer.drain()
        return goes_on

    def _page(self, method: str, path: str) -> tuple[int, str, str]:
        if path not in ("/metrics", "/healthz"):
            return 404, _PLAIN, "there are /metrics and /healthz\n"
        if method not in ("GET", "HEAD"):
            return 405, _PLAIN, "only GET and HEAD\n"
        if path == "/metrics":
            return 200, CONTENT_TYPE, self._metrics()
        trouble = self._trouble()
        return (200, _PLAIN, "ok\n") if trouble is None else (503, _PLAIN, trouble + "\n")


async def _take_leave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Let the client read the answer before the connection ends: closing with its bytes unread
    would make the kernel send a reset, which discards the answer on its way (RFC 9112, 9.6)."""
    async with asyncio.timeout(LEAVE_S_MAX):
        writer.write_eof()
        for _ in range(LEAVE_READS_MAX):
            if not await reader.read(HEAD_BYTES_MAX):
                break
    writer.close()


def _response(status: int, kind: str, text: str, goes_on: bool, with_body: bool) -> bytes:
    body = text.encode()
    head = (
        f"HTTP/1.1 {status} {_REASONS[status]}\r\n"
        f"Content-Type: {kind}\r\n"
        f"Content-Length: {len(body)}\r\n"
        + ("Allow: GET, HEAD\r\n" if status == 405 else "")
        + ("" if goes_on else "Connection: close\r\n")
        + "\r\n"
    )
    return head.encode() + body if with_body else head.encode()
