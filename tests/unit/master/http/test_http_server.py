"""The sockets: who may connect, who the peer is, what hostile bytes do, how it stops."""

import asyncio
import os
import socket
import stat

import pytest
from starlette.responses import PlainTextResponse

from essaim_master.http.protocol import HEADER_BYTES_MAX, PEER_EXTENSION, Peer
from essaim_master.http.server import HttpServer
from essaim_shared.errors import BrokenInvariant, ConfigError
from essaim_shared.limits import HTTP_BODY_BYTES_MAX


class Echo:
    """An application that tells its caller who it is, and can be slow or broken."""

    def __init__(self):
        self.gate = asyncio.Event()
        self.gate.set()
        self.entered = asyncio.Event()
        self.closed = asyncio.Event()
        self.peers = []
        self.error = None

    async def __call__(self, scope, receive, send):
        self.peers.append(scope["extensions"][PEER_EXTENSION])
        self.entered.set()
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        await PlainTextResponse("here")(scope, receive, send)

    def close(self):
        self.closed.set()


@pytest.fixture
async def echo():
    return Echo()


@pytest.fixture
async def start():
    started = []

    async def start_one(app, on_broken=None, **where):
        server = HttpServer(app, on_broken or (lambda broken: None), **where)
        await server.start()
        started.append(server)
        return server

    yield start_one
    for server in started:
        await server.stop()


async def exchange(request, port=None, path=None):
    """Send bytes, read until the server closes or has answered."""
    if path is not None:
        reader, writer = await asyncio.open_unix_connection(path)
    else:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    try:
        return await asyncio.wait_for(reader.read(), 10)
    finally:
        writer.close()
        await asyncio.wait_for(writer.wait_closed(), 10)


GET = b"GET /_ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


async def test_a_unix_peer_is_known_by_its_credentials(tmp_path, echo, start) -> None:
    path = tmp_path / "master.sock"
    await start(echo, socket_path=path)
    assert (await exchange(GET, path=path)).startswith(b"HTTP/1.1 200")
    assert echo.peers == [Peer(pid=os.getpid(), uid=os.getuid(), gid=os.getgid())]
    assert stat.S_IMODE(path.stat().st_mode) == 0o660


async def test_a_tcp_peer_is_known_by_its_address(echo, start) -> None:
    server = await start(echo, listen="127.0.0.1:0")
    await exchange(GET, port=server.tcp_port)
    (peer,) = echo.peers
    assert peer.address.startswith("127.0.0.1:")
    assert peer.uid is None


async def test_no_answer_waits_for_a_delayed_acknowledgement(echo, start) -> None:
    """Head and body leave in two writes; with Nagle's algorithm the second would wait 40 ms."""
    server = await start(echo, listen="127.0.0.1:0")
    echo.gate.clear()
    asking = asyncio.create_task(exchange(GET, port=server.tcp_port))
    await echo.entered.wait()
    (connection,) = server.connections
    accepted = connection.transport.get_extra_info("socket")
    assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    echo.gate.set()
    await asking


async def test_both_sockets_serve_the_same_application(tmp_path, world, start) -> None:
    path = tmp_path / "master.sock"
    server = await start(world.app, socket_path=path, listen="127.0.0.1:0")
    for where in ({"path": path}, {"port": server.tcp_port}):
        answer = await exchange(GET, **where)
        assert b"api-version: 1.47" in answer
        assert answer.endswith(b"\r\n\r\nOK")


@pytest.mark.parametrize(
    ("listen", "sentence"),
    [
        ("0.0.0.0:7400", "refused: without TLS"),
        ("8.8.8.8:7400", "refused: without TLS"),
        ("172.32.0.1:7400", "refused: without TLS"),
        ("[::]:7400", "refused: without TLS"),
        ("localhost:7400", "'localhost' is not an IP address"),
        (":7400", "'' is not an IP address"),
        ("127.0.0.1", "is not ADDRESS:PORT"),
        ("127.0.0.1:http", "is not ADDRESS:PORT"),
        ("127.0.0.1:65536", "is not ADDRESS:PORT"),
        ("", "is not ADDRESS:PORT"),
    ],
)
async def test_addresses_that_others_could_reach_are_refused(echo, listen, sentence) -> None:
    with pytest.raises(ConfigError) as caught:
        HttpServer(echo, lambda broken: None, listen=listen)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    "listen",
    ["127.0.0.1:1", "10.98.0.1:7400", "172.31.255.1:1", "192.168.1.1:1", "[::1]:7400"],
)
async def test_loopback_and_private_addresses_are_allowed(echo, listen) -> None:
    HttpServer(echo, lambda broken: None, listen=listen)


async def test_a_stale_socket_is_replaced_and_a_living_one_is_not(tmp_path, echo, start) -> None:
    path = tmp_path / "master.sock"
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(path))
    stale.close()
    await start(echo, socket_path=path)
    second = HttpServer(echo, lambda broken: None, socket_path=path)
    with pytest.raises(ConfigError, match="another process already does"):
        await second.start()
    assert (await exchange(GET, path=path)).startswith(b"HTTP/1.1 200")


async def test_what_is_not_a_socket_is_not_removed(tmp_path, echo) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(ConfigError, match="it exists and is not a socket"):
        await HttpServer(echo, lambda broken: None, socket_path=path).start()
    assert path.read_text() == "data"


async def test_a_place_that_cannot_be_bound_is_a_config_error(tmp_path, echo, start) -> None:
    with pytest.raises(ConfigError, match="cannot listen on"):
        await HttpServer(
            echo, lambda broken: None, socket_path=tmp_path / "missing" / "s.sock"
        ).start()
    server = await start(echo, listen="127.0.0.1:0")
    path = tmp_path / "s.sock"
    taken = HttpServer(
        echo, lambda broken: None, socket_path=path, listen=f"127.0.0.1:{server.tcp_port}"
    )
    with pytest.raises(ConfigError, match="Address already in use"):
        await taken.start()
    assert not path.exists()


async def test_stop_lets_requests_end_and_removes_the_socket(tmp_path, echo, start) -> None:
    path = tmp_path / "master.sock"
    server = await start(echo, socket_path=path)
    echo.gate.clear()
    waiting = asyncio.create_task(exchange(GET, path=path))
    await echo.entered.wait()
    stopping = asyncio.create_task(server.stop())
    await asyncio.wait_for(echo.closed.wait(), 10)
    echo.gate.set()
    assert (await waiting).endswith(b"here")
    await stopping
    assert not path.exists()
    with pytest.raises(OSError, match=r"."):
        await exchange(GET, path=path)


async def test_stop_leaves_the_socket_of_a_successor(tmp_path, echo, start) -> None:
    path = tmp_path / "master.sock"
    server = await start(echo, socket_path=path)
    path.unlink()
    await start(Echo(), socket_path=path)
    await server.stop()
    assert (await exchange(GET, path=path)).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "hostile",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"not http at all\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /" + b"a" * (HEADER_BYTES_MAX + 1000),
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * (HEADER_BYTES_MAX // 6 + 100),
        b"POST /services/create HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
async def test_hostile_bytes_are_answered_and_cut_off(world, start, hostile) -> None:
    server = await start(world.app, listen="127.0.0.1:0")
    answer = await exchange(hostile, port=server.tcp_port)
    assert answer.startswith(b"HTTP/1.1 4")
    assert (await exchange(GET, port=server.tcp_port)).startswith(b"HTTP/1.1 200")


async def test_an_oversized_body_is_answered_with_a_message(world, start) -> None:
    server = await start(world.app, listen="127.0.0.1:0")
    body = b"x" * (HTTP_BODY_BYTES_MAX + 1)
    head = b"POST /services/create HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
    answer = await exchange(head + body, port=server.tcp_port)
    assert answer.startswith(b"HTTP/1.1 413")
    assert b'{"message":"request body is larger than the limit' in answer


async def test_a_client_that_goes_away_in_its_body_harms_nobody(world, start, caplog) -> None:
    server = await start(world.app, listen="127.0.0.1:0")
    _, writer = await asyncio.open_connection("127.0.0.1", server.tcp_port)
    writer.write(b"POST /services/create HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    assert (await exchange(GET, port=server.tcp_port)).startswith(b"HTTP/1.1 200")
    assert not world.state.services
    assert not caplog.records


@pytest.mark.parametrize(
    "unfinished",
    [
        b"",
        b"GET /_ping HT",
        b"GET /_ping HTTP/1.1\r\nHost:",
        b"POST /services/create HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{",
    ],
)
async def test_a_request_that_never_ends_loses_its_connection(world, start, unfinished) -> None:
    server = await start(world.app, listen="127.0.0.1:0", request_timeout_s=0.02)
    assert await exchange(unfinished, port=server.tcp_port) == b""


async def test_a_slow_answer_is_not_a_slow_request(echo, start) -> None:
    server = await start(echo, listen="127.0.0.1:0", request_timeout_s=0.5)
    echo.gate.clear()
    asking = asyncio.create_task(exchange(GET, port=server.tcp_port))
    await echo.entered.wait()
    # A second client is cut off meanwhile: so the time of the first is up as well.
    assert await exchange(b"GET", port=server.tcp_port) == b""
    echo.gate.set()
    assert (await asking).endswith(b"here")


async def test_a_broken_invariant_is_reported_to_the_process(echo, start) -> None:
    broken = []
    server = await start(echo, on_broken=broken.append, listen="127.0.0.1:0")
    echo.error = BrokenInvariant("applied 7 over committed 6")
    answer = await exchange(GET, port=server.tcp_port)
    assert answer.startswith(b"HTTP/1.1 500")
    assert broken == [echo.error]
