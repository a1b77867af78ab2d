"""The API's TCP port over TLS: who is at the other end, who is turned away, and how it hurts."""

import asyncio
import random
import ssl

import pytest
from starlette.responses import PlainTextResponse
from support.identities import Identities

from essaim_master.http.peer_requests import PeerRequests
from essaim_master.http.protocol import PEER_EXTENSION
from essaim_master.http.server import HttpServer
from essaim_master.refusals import Refusals
from essaim_shared.clock import SystemClock, wait_until
from essaim_shared.errors import Unavailable
from essaim_shared.http_call import call
from essaim_shared.trust.roles import Role
from essaim_shared.trust.tls import MASTER_NAME, Tls
from essaim_shared.trust.tls_server import (
    HANDSHAKES_BURST,
    HANDSHAKES_MAX,
    HANDSHAKES_PER_ADDRESS_MAX,
)

CLOCK = SystemClock()
WAIT_S = 10.0


class Port:
    """A master's port, and whom it saw."""

    def __init__(self, root) -> None:
        self.identities = Identities(root, CLOCK.wall_ns())
        self.refusals = Refusals()
        self.peers = []
        self.server = HttpServer(
            self,
            lambda broken: None,
            root / "master.sock",
            "127.0.0.1:0",
            tls=self.identities.tls("m1"),
            refusals=self.refusals,
        )

    async def __call__(self, scope, receive, send) -> None:
        self.peers.append(scope["extensions"][PEER_EXTENSION])
        await PlainTextResponse(scope["scheme"])(scope, receive, send)

    def close(self) -> None:
        return

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server.tcp_port}"

    async def ask(self, tls: ssl.SSLContext | None) -> bytes:
        return (await call(self.address, "GET", "/", timeout_s=WAIT_S, tls=tls)).body

    def believing(self) -> ssl.SSLContext:
        """A client without a certificate of its own."""
        return ssl.create_default_context(cadata=self.identities.authority.certificate_pem.decode())


@pytest.fixture
async def port(tmp_path):
    made = Port(tmp_path)
    await made.server.start()
    yield made
    await made.server.stop()


async def test_the_application_is_told_whose_certificate_was_shown(port) -> None:
    user = port.identities.tls("ann", Role.USER)
    assert await port.ask(user.client) == b"https"
    assert await port.ask(port.believing()) == b"https"
    shown, none = (peer.certificate for peer in port.peers)
    assert (shown.name, shown.role, shown.cluster_id) == ("ann", "essaim-user", "lab")
    assert none is None
    assert port.peers[0].address.startswith("127.0.0.1:")


async def test_a_master_shows_its_own_certificate_to_the_one_it_asks(port) -> None:
    ask = PeerRequests(port.identities.tls("m2")).ask
    answer = await ask(port.address, "GET", "/", hops=1, timeout_s=WAIT_S)
    assert answer.status == 200
    assert port.peers[0].certificate.name == "m2"


async def test_the_socket_of_the_master_itself_stays_plain(port, tmp_path) -> None:
    reader, writer = await asyncio.open_unix_connection(tmp_path / "master.sock")
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert (await asyncio.wait_for(reader.read(), WAIT_S)).endswith(b"http")
    writer.close()
    assert port.peers[0].certificate is None
    assert port.peers[0].uid is not None


@pytest.mark.parametrize(
    ("how", "client_hears", "master_says"),
    [
        ({"is_foreign": True}, "our certificate is of another cluster", "not to be believed"),
        ({"lifetime_s": -1}, "our certificate has expired", "certificate has expired"),
    ],
)
async def test_a_certificate_that_is_not_to_be_believed_is_refused_on_both_sides_in_words(
    port, caplog, how, client_hears, master_says
) -> None:
    bad: Tls = port.identities.tls("ann", Role.USER, **how)
    with pytest.raises(Unavailable, match=client_hears):
        await port.ask(bad.client)
    assert await wait_until(lambda: port.refusals.count == 1, CLOCK, WAIT_S)
    [line] = caplog.messages
    assert line.startswith("refused the HTTPS connection of 127.0.0.1: ")
    assert master_says in line
    assert port.peers == []


async def test_who_speaks_no_tls_is_told_nothing_and_the_master_says_so_once(port, caplog) -> None:
    for _ in range(3):
        reader, writer = await asyncio.open_connection("127.0.0.1", port.server.tcp_port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"HTTP" not in await asyncio.wait_for(reader.read(), WAIT_S)
        writer.close()
    assert await wait_until(lambda: port.refusals.count == 3, CLOCK, WAIT_S)
    [line] = caplog.messages
    assert "does not speak TLS" in line


async def test_older_tls_is_not_spoken(port) -> None:
    old = port.believing()
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(Unavailable):
        await port.ask(old)
    assert port.peers == []


async def test_those_who_connect_and_say_nothing_leave_room_for_those_who_speak(port) -> None:
    silent = [
        await asyncio.open_connection("127.0.0.1", port.server.tcp_port)
        for _ in range(HANDSHAKES_MAX + 5)
    ]
    refused = HANDSHAKES_MAX + 5 - HANDSHAKES_PER_ADDRESS_MAX
    assert await wait_until(lambda: port.refusals.count >= refused, CLOCK, WAIT_S)
    _, other = await asyncio.open_connection(
        "127.0.0.1",
        port.server.tcp_port,
        ssl=port.believing(),
        server_hostname=MASTER_NAME,
        local_addr=("127.0.0.2", 0),
    )
    other.transport.abort()
    for _, writer in silent:
        writer.transport.abort()
    context = port.believing()

    async def is_answered() -> bool:
        try:
            return await port.ask(context) == b"https"
        except Unavailable:
            return False

    for _ in range(100):
        if await is_answered():
            break
    else:
        raise AssertionError("nobody is let in any more")


async def test_one_address_cannot_keep_the_master_busy_with_handshakes(port, caplog) -> None:
    for _ in range(2 * int(HANDSHAKES_BURST)):
        _, writer = await asyncio.open_connection("127.0.0.1", port.server.tcp_port)
        writer.transport.abort()
    told = "refused the HTTPS connection of 127.0.0.1: it begins more than 50 handshakes a second"
    assert await wait_until(lambda: told in caplog.messages, CLOCK, WAIT_S)


async def test_a_handshake_that_breaks_off_anywhere_hurts_nobody(port) -> None:
    seed = 41
    print(f"seed {seed}")
    rng = random.Random(seed)
    loose: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: loose.append(context))
    user = port.identities.tls("ann", Role.USER).client
    for _ in range(40):
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = user.wrap_bio(incoming, outgoing, server_hostname="essaim-master")
        reader, writer = await asyncio.open_connection("127.0.0.1", port.server.tcp_port)
        for _ in range(rng.randrange(4)):
            try:
                client.do_handshake()
                client.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * rng.randrange(5))
            except ssl.SSLWantReadError:
                pass
            sent = outgoing.read()
            writer.write(sent[: rng.randrange(len(sent) + 1)] if rng.random() < 0.5 else sent)
            if rng.random() < 0.3:
                writer.write_eof()
                break
            try:
                incoming.write(await asyncio.wait_for(reader.read(65536), 0.05))
            except TimeoutError:
                break
        writer.transport.abort()
    assert await port.ask(user) == b"https"
    assert not loose
