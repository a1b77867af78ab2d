"""Connections of those who have not said who they are: few from each address."""

import asyncio
import ssl

import pytest
from starlette.responses import PlainTextResponse
from support.identities import Identities

from essaim_master.http.protocol import PROVED_EXTENSION
from essaim_master.http.server import CONNECTIONS_MAX, HttpServer
from essaim_master.http.strangers import (
    HOLDERS_MAX,
    STRANGERS_MAX,
    STRANGERS_PER_ADDRESS_MAX,
    Strangers,
)
from essaim_shared.clock import SystemClock, wait_until
from essaim_shared.trust.roles import Role
from essaim_shared.trust.tls import MASTER_NAME

CLOCK = SystemClock()
WAIT_S = 10.0
REQUEST = b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n"


def test_an_address_has_its_own_share_and_gets_it_back():
    strangers = Strangers(per_address_max=2)
    assert [strangers.come(host) for host in ("a", "a", "a", "b")] == [True, True, False, True]
    strangers.go("a")
    assert strangers.come("a")
    for host in ("a", "a", "b"):
        strangers.go(host)
    assert len(strangers) == 0


def test_many_addresses_together_leave_room_for_those_who_are_known():
    assert STRANGERS_MAX < CONNECTIONS_MAX
    strangers = Strangers(per_address_max=2, total_max=3)
    assert [strangers.come(host) for host in "abcd"] == [True, True, True, False]
    strangers.go("b")
    assert strangers.come("d")


class Port:
    """A master's port. Whoever asks for /known has proved who he is."""

    def __init__(self, root):
        self.identities = Identities(root, CLOCK.wall_ns())
        tls = self.identities.tls("m1")
        self.server = HttpServer(self, lambda broken: None, None, "127.0.0.1:0", tls=tls)
        self.open = []

    async def __call__(self, scope, receive, send):
        if scope["path"] == "/known":
            scope["extensions"][PROVED_EXTENSION]()
        await PlainTextResponse("ok")(scope, receive, send)

    def close(self):
        return

    async def connect(self, tls):
        """The first line of the answer to whoever is turned away, or a connection."""
        pair = await asyncio.open_connection(
            "127.0.0.1", self.server.tcp_port, ssl=tls, server_hostname=MASTER_NAME
        )
        self.open.append(pair)
        return pair

    async def ask(self, pair, path=b"/"):
        reader, writer = pair
        writer.write(REQUEST % path)
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), WAIT_S)
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        return head.split(b"\r\n")[0], await asyncio.wait_for(reader.readexactly(length), WAIT_S)

    @property
    def stranger(self):
        pem = self.identities.authority.certificate_pem.decode()
        return ssl.create_default_context(cadata=pem)


@pytest.fixture
async def port(tmp_path):
    made = Port(tmp_path)
    await made.server.start()
    yield made
    for _, writer in made.open:
        writer.transport.abort()
    await made.server.stop()


async def test_a_crowd_of_strangers_from_one_address_is_cut_short(port):
    first = [await port.connect(port.stranger) for _ in range(STRANGERS_PER_ADDRESS_MAX)]
    assert (await port.ask(first[0]))[0] == b"HTTP/1.1 200 OK"
    status, body = await port.ask(await port.connect(port.stranger))
    assert status == b"HTTP/1.1 429 Too Many Requests"
    assert b"have not said who they are" in body
    # Who shows a certificate is none of them, and who proves himself makes room.
    user = port.identities.tls("ann", Role.USER).client
    assert (await port.ask(await port.connect(user)))[0] == b"HTTP/1.1 200 OK"
    assert (await port.ask(first[1], b"/known"))[0] == b"HTTP/1.1 200 OK"
    assert (await port.ask(await port.connect(port.stranger)))[0] == b"HTTP/1.1 200 OK"
    assert (await port.ask(await port.connect(port.stranger)))[0].startswith(b"HTTP/1.1 429")


async def test_one_certificate_does_not_take_the_connections_of_the_others(port):
    """It may be a node's that was stolen, or a user's who was removed."""
    assert max(HOLDERS_MAX.values()) < CONNECTIONS_MAX / 2
    node = port.identities.tls("node1", Role.AGENT).client
    first = [await port.connect(node) for _ in range(HOLDERS_MAX[Role.AGENT.value])]
    status, body = await port.ask(await port.connect(node))
    assert (status, b"use fewer" in body) == (b"HTTP/1.1 429 Too Many Requests", True)
    for name, role in (("node2", Role.AGENT), ("node1", Role.USER), ("m2", Role.MASTER)):
        other = port.identities.tls(name, role).client
        assert (await port.ask(await port.connect(other)))[0] == b"HTTP/1.1 200 OK"
    before = len(port.server.connections)
    first[0][1].close()
    assert await wait_until(lambda: len(port.server.connections) < before, CLOCK, WAIT_S)
    assert (await port.ask(await port.connect(node)))[0] == b"HTTP/1.1 200 OK"


async def test_whoever_leaves_makes_room(port):
    first = [await port.connect(port.stranger) for _ in range(STRANGERS_PER_ADDRESS_MAX)]
    for _, writer in first:
        writer.close()
    assert await wait_until(lambda: not port.server.connections, CLOCK, WAIT_S)
    assert (await port.ask(await port.connect(port.stranger)))[0] == b"HTTP/1.1 200 OK"
