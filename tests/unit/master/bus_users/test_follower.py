"""The bus server beside a master that stands by has the users that a member's has."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from support.fake_bus_server import FakeBusServer

from essaim_master.bus_users.connections import Connection
from essaim_master.bus_users.follower import BusUsersFollower
from essaim_shared.clock import ManualClock

FIRST = 'write_deadline: "2000000001ns"\nfirst'
SECOND = 'write_deadline: "2000000002ns"\nsecond'


class Member:
    """Answers as a member's API does, on loopback."""

    def __init__(self) -> None:
        self.file = FIRST
        self.requests: list[str] = []
        self.bodies: list[bytes] = []
        self.address = ""

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = int(head.partition("Content-Length: ")[2].partition("\r\n")[0])
        self.bodies.append(await reader.readexactly(length))
        self.requests.append(head.partition(" HTTP")[0])
        mark = self.file.partition('"')[2].partition("ns")[0]
        if "floods" in head:
            answer = "202 Accepted\r\nContent-Length: 0\r\n\r\n"
        elif f"loaded={mark} " in head:
            answer = "204 No Content\r\n\r\n"
        else:
            answer = f"200 OK\r\nContent-Length: {len(self.file)}\r\n\r\n{self.file}"
        writer.write(f"HTTP/1.1 {answer}".encode())
        await writer.drain()
        writer.close()


@pytest.fixture
async def member() -> AsyncIterator[Member]:
    made = Member()
    server = await asyncio.start_server(made, "127.0.0.1", 0)
    made.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    yield made
    server.close()
    await server.wait_closed()


def follower(server: FakeBusServer, clock: ManualClock, *members: str) -> BusUsersFollower:
    return BusUsersFollower(server, lambda: members, None, clock)


async def test_it_takes_over_what_the_first_member_that_answers_says(member) -> None:
    server = FakeBusServer()
    one = follower(server, ManualClock(), "127.0.0.1:1", member.address)
    await one.turn()
    assert server.loads == [FIRST]
    await one.turn()
    assert server.loads == [FIRST], "nothing is new"
    member.file = SECOND
    await one.turn()
    assert server.loads == [FIRST, SECOND]


async def test_while_no_member_answers_the_users_stay(member) -> None:
    server = FakeBusServer()
    await follower(server, ManualClock(), member.address).turn()
    await follower(server, ManualClock(), "127.0.0.1:1").turn()
    assert server.loaded == FIRST


async def test_a_server_that_is_down_finds_the_file_when_it_starts(member) -> None:
    server = FakeBusServer()
    server.is_running = False
    await follower(server, ManualClock(), member.address).turn()
    assert (server.file, server.loads) == (FIRST, [])


async def test_renewed_certificates_are_read_though_the_users_are_the_same(member) -> None:
    server = FakeBusServer()
    one = follower(server, ManualClock(), member.address)
    await one.turn()
    server.has_old_certificates = True
    await one.turn()
    assert server.loads == [FIRST, FIRST]


async def test_a_flood_is_told_to_a_member(member) -> None:
    server, clock = FakeBusServer(), ManualClock()
    one = follower(server, clock, member.address)
    for sent in (0, 50_000, 100_000):
        server.clients = (Connection(1, sent, 0, "UFLOODER"),)
        await one.turn()
        await clock.advance(0.5)
    told = [
        body
        for request, body in zip(member.requests, member.bodies, strict=True)
        if request == "POST /essaim/bus/floods"
    ]
    assert len(told) == 1
    assert b"UFLOODER" in told[0]
