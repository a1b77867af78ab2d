"""The two pages over real sockets, and what a bad client gets."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from essaim_agent.metrics.server import CONNECTIONS_MAX, HEAD_BYTES_MAX, MetricsServer
from essaim_shared.clock import SystemClock, wait_until


class Pages:
    trouble: str | None = None

    def metrics(self) -> str:
        return "a_total 1\n"


@pytest.fixture
async def served() -> AsyncIterator[tuple[int, Pages]]:
    pages = Pages()
    server = MetricsServer(pages.metrics, lambda: pages.trouble)
    port = await server.open("127.0.0.1", 0)
    yield port, pages
    await server.close()


async def hang_up(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def read_to_end(reader: asyncio.StreamReader) -> bytes:
    answer = b""
    async with asyncio.timeout(10):
        try:
            while received := await reader.read(65536):
                answer += received
        except ConnectionResetError:
            pass  # the server ended it without reading all that was sent
    return answer


async def exchange(port: int, *parts: bytes) -> bytes:
    """Everything the server says to these bytes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for part in parts:
        writer.write(part)
        await writer.drain()
    answer = await read_to_end(reader)
    await hang_up(writer)
    return answer


async def test_the_metrics_page_names_its_format(served: tuple[int, Pages]) -> None:
    port, _ = served
    answer = await exchange(port, b"GET /metrics?x=1 HTTP/1.1\r\nConnection: close\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"Content-Type: text/plain; version=0.0.4; charset=utf-8" in head
    assert b"Content-Length: 10" in head
    assert body == b"a_total 1\n"


async def test_health_tells_what_is_wrong(served: tuple[int, Pages]) -> None:
    port, pages = served
    request = b"GET /healthz HTTP/1.0\r\n\r\n"
    assert (await exchange(port, request)).endswith(b"\r\n\r\nok\n")
    pages.trouble = "no leader answers for 12 s"
    answer = await exchange(port, request)
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert answer.endswith(b"no leader answers for 12 s\n")


async def test_a_connection_serves_several_requests(served: tuple[int, Pages]) -> None:
    port, _ = served
    one = b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n"
    last = b"GET /healthz HTTP/1.1\r\nConnection: close\r\n\r\n"
    answer = await exchange(port, one + one[:10], one[10:] + last)
    assert answer.count(b"HTTP/1.1 200 OK") == 3


async def test_head_gets_no_body(served: tuple[int, Pages]) -> None:
    port, _ = served
    answer = await exchange(port, b"HEAD /metrics HTTP/1.0\r\n\r\n")
    assert b"Content-Length: 10\r\n" in answer
    assert answer.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n", 404),
        (b"GET /metrics/../etc HTTP/1.0\r\n\r\n", 404),
        (b"DELETE /metrics HTTP/1.0\r\n\r\n", 405),
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello", 405),
        (b"nonsense\r\n\r\n", 400),
        (b"GET /metrics HTTP/2.0\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.1\r\nX: " + b"y" * HEAD_BYTES_MAX + b"\r\n\r\n", 431),
        (b"z" * 30 * HEAD_BYTES_MAX, 431),
    ],
)
async def test_a_bad_request_is_answered_and_the_connection_ended(
    served: tuple[int, Pages], request_bytes: bytes, status: int
) -> None:
    port, _ = served
    answer = await exchange(port, request_bytes)
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert answer.count(b"HTTP/1.1 ") == 1, "a body is not taken for a second request"


async def test_one_connection_too_many_is_dropped_and_the_others_go_on(
    served: tuple[int, Pages],
) -> None:
    port, _ = served
    held = []
    for _ in range(CONNECTIONS_MAX):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /healthz HTTP/1.1\r\n\r\n")
        await reader.readuntil(b"ok\n")
        held.append((reader, writer))
    assert await exchange(port, b"GET /healthz HTTP/1.0\r\n\r\n") == b""
    reader, writer = held[0]
    writer.write(b"GET /healthz HTTP/1.0\r\n\r\n")
    assert (await reader.read()).endswith(b"ok\n")
    for _, writer in held:
        await hang_up(writer)


async def test_a_silent_client_does_not_keep_the_server_from_closing() -> None:
    server = MetricsServer(lambda: "", lambda: None)
    port = await server.open("127.0.0.1", 0)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /hea")
    await writer.drain()
    assert await wait_until(lambda: bool(server._connections), SystemClock(), timeout_s=5)
    async with asyncio.timeout(5):
        await server.close()
    assert await read_to_end(reader) == b""
    await hang_up(writer)


async def test_a_taken_port_is_an_error_that_says_so(served: tuple[int, Pages]) -> None:
    port, _ = served
    with pytest.raises(OSError, match="in use"):
        await MetricsServer(lambda: "", lambda: None).open("127.0.0.1", port)
