"""HTTP and TCP probes against real sockets that answer well, badly, late or not at all."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest

from essaim_agent.probes.actions import (
    BODY_BYTES_MAX,
    INTERIM_ANSWERS_MAX,
    LINE_BYTES_MAX,
    ask_http,
    ask_tcp,
    request_bytes,
)
from essaim_agent.probes.prober import Answer
from essaim_shared.container_spec import HttpAction

HOST = "127.0.0.1"


@contextlib.asynccontextmanager
async def serving(answer: bytes) -> AsyncIterator[tuple[int, list[bytes]]]:
    """A server that gives one answer and closes; its port, and the requests it gets."""
    requests: list[bytes] = []
    handling: set[asyncio.Task[None] | None] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handling.add(asyncio.current_task())
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            requests.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(answer)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(handle, HOST, 0)
    try:
        yield server.sockets[0].getsockname()[1], requests
    finally:
        server.close()
        await server.wait_closed()
        await asyncio.gather(*(task for task in handling if task is not None))


async def asked(answer: bytes) -> tuple[Answer, str]:
    async with serving(answer) as (port, _):
        return await ask_http(HttpAction(port=port, path="/healthz"), HOST)


def closed_port() -> int:
    with socket.socket() as bound:
        bound.bind((HOST, 0))
        port: int = bound.getsockname()[1]
        return port


@pytest.mark.parametrize("status", [200, 204, 299, 301, 399])
async def test_statuses_from_200_to_399_are_success(status: int) -> None:
    assert await asked(b"HTTP/1.1 %d Fine\r\nContent-Length: 0\r\n\r\n" % status) == (
        Answer.SUCCESS,
        "",
    )


@pytest.mark.parametrize("status", [400, 404, 500, 503, 999])
async def test_other_statuses_are_failures_and_are_named(status: int) -> None:
    answer, reason = await asked(b"HTTP/1.0 %d\r\n\r\n" % status)
    assert (answer, reason) == (Answer.FAILURE, f"GET /healthz: HTTP status {status}")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"", "closed without an answer"),
        (b"HTTP/2 200\r\n\r\n", "not HTTP/1"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "not HTTP/1"),
        (b"HTTP/1.1 20\r\n", "not HTTP/1"),
        (b"HTTP/1.1 2000 x\r\n", "not HTTP/1"),
        (b"HTTP/1.1 200", "not HTTP/1"),
        (b"\x16\x03\x01\x00\x00\n", "not HTTP/1"),
        (b"x" * (LINE_BYTES_MAX * 3), "limit"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", "closed without an answer"),
        (b"HTTP/1.1 103 Hints\r\n\r\n" * (INTERIM_ANSWERS_MAX + 2), "interim"),
    ],
)
async def test_what_is_no_answer_is_a_failure_with_a_reason(answer: bytes, words: str) -> None:
    verdict, reason = await asked(answer)
    assert verdict is Answer.FAILURE
    assert words in reason


async def test_interim_answers_are_passed_over() -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    assert (await asked(hints * 2 + b"HTTP/1.1 200 OK\r\n\r\n"))[0] is Answer.SUCCESS


async def test_of_a_long_body_only_the_beginning_is_read() -> None:
    body = b"x" * (BODY_BYTES_MAX * 100)
    assert (await asked(b"HTTP/1.1 200 OK\r\n\r\n" + body))[0] is Answer.SUCCESS


async def test_a_request_says_whom_it_means_and_what_was_asked_for() -> None:
    async with serving(b"HTTP/1.1 200 OK\r\n\r\n") as (port, requests):
        action = HttpAction(port=port, path="ready?full=1", headers={"X-Probe": "yes"})
        await ask_http(action, HOST)
    lines = requests[0].decode().splitlines()
    assert lines[0] == "GET /ready?full=1 HTTP/1.1"
    assert set(lines[1:-1]) == {
        f"host: {HOST}:{port}",
        "user-agent: essaim-probe",
        "accept: */*",
        "x-probe: yes",
        "connection: close",
    }


def test_a_header_may_name_another_host() -> None:
    request = request_bytes(HttpAction(port=80, headers={"Host": "shop.example"}), HOST)
    assert b"host: shop.example\r\n" in request
    assert request.count(b"host:") == 1


@pytest.mark.parametrize(
    "action",
    [
        HttpAction(port=80, path="/a b"),
        HttpAction(port=80, path="/\r\nX: y"),
        HttpAction(port=80, headers={"X": "a\r\nY: b"}),
        HttpAction(port=80, headers={"X: a\r\nY": "b"}),
        HttpAction(port=80, headers={"": "b"}),
    ],
)
async def test_what_would_be_more_than_one_request_is_not_sent(action: HttpAction) -> None:
    with pytest.raises(ValueError, match=r"path|header"):
        request_bytes(action, HOST)
    assert (await ask_http(action, HOST))[0] is Answer.FAILURE


async def test_a_port_that_nobody_listens_on_is_a_failure() -> None:
    port = closed_port()
    assert await ask_tcp(port, HOST) == (Answer.FAILURE, f"port {port}: Connection refused")
    answer, reason = await ask_http(HttpAction(port=port), HOST)
    assert (answer, reason) == (Answer.FAILURE, "GET /: Connection refused")


async def test_an_accepted_connection_is_success() -> None:
    async with serving(b"") as (port, _):
        assert await ask_tcp(port, HOST) == (Answer.SUCCESS, "")


async def test_a_server_that_never_answers_can_be_given_up() -> None:
    with socket.create_server((HOST, 0)) as silent:
        port = silent.getsockname()[1]
        asking = asyncio.ensure_future(ask_http(HttpAction(port=port), HOST))
        connection, _ = await asyncio.to_thread(silent.accept)
        assert (await asyncio.to_thread(connection.recv, 65_536)).startswith(b"GET / HTTP/1.1")
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert await asyncio.to_thread(connection.recv, 1) == b"", "it has not hung up"
        connection.close()
