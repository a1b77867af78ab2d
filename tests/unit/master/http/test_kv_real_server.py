"""Keys over real sockets: readers that do not read, readers that leave, and two masters."""

import asyncio
import json
import random

import msgspec
import pytest

from essaim_master.http.api import Api
from essaim_master.http.app import App
from essaim_master.http.host_facts import read_host_facts
from essaim_master.http.server import HttpServer
from essaim_master.kv.commands import GrantLease, Put, Transaction
from essaim_master.kv.watch import LAG_REVISIONS_MAX
from essaim_master.state.cluster import LocalCluster, Member
from essaim_shared.clock import SystemClock

TIMEOUT_S = 20.0
VALUE = b"x" * 1000


class NoFigures:
    def nodes(self):
        return {}

    def containers(self):
        return {}


class Following(LocalCluster):
    """A master that follows another one, which is all that it knows of the consensus."""

    following = None

    def leadership(self):
        found = super().leadership()
        return msgspec.structs.replace(found, leader=self.following) if self.following else found


class Master:
    def __init__(self, name="m1", others=()):
        self.clock = SystemClock()
        self.cluster = Following(self.clock, Member(name, "127.0.0.1:1", ""), others)
        self.api = Api(self.cluster, self.clock, random.Random(1), NoFigures(), read_host_facts())
        self.broken = []
        self.server = HttpServer(App(self.api), self.broken.append, listen="127.0.0.1:0")

    async def __aenter__(self):
        await self.server.start()
        return self

    async def __aexit__(self, *_):
        await self.server.stop()
        assert not self.broken

    async def write(self, *operations):
        return (await self.cluster.commit(Transaction(then=operations), 1.0)).revision

    @property
    def address(self):
        return f"127.0.0.1:{self.server.tcp_port}"

    async def watches(self):
        _, body = await ask(self, "GET", "/essaim/kv")
        return body["Watches"]


async def ask(master, method, target):
    reader, writer = await asyncio.open_connection("127.0.0.1", master.server.tcp_port)
    writer.write(
        f"{method} {target} HTTP/1.1\r\nHost: m\r\nConnection: close\r\n".encode()
        + b"Content-Length: 0\r\n\r\n"
    )
    answer = await asyncio.wait_for(reader.read(), TIMEOUT_S)
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


async def open_watch(master):
    reader, writer = await asyncio.open_connection("127.0.0.1", master.server.tcp_port)
    writer.write(b"GET /essaim/kv/watch?prefix=a HTTP/1.1\r\nHost: m\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")
    assert (await next_line(reader))["Events"] == []
    return reader, writer


async def next_line(reader):
    """One chunk holds whole lines; None at the end."""
    lines = await next_lines(reader)
    assert len(lines) == 1
    return lines[0]


async def next_lines(reader):
    size = int(await asyncio.wait_for(reader.readline(), TIMEOUT_S), 16)
    chunk = await asyncio.wait_for(reader.readexactly(size + 2), TIMEOUT_S)
    return [json.loads(line) for line in chunk.splitlines() if line]


async def test_a_reader_that_does_not_read_is_told_where_to_go_on_and_misses_nothing_before():
    async with Master() as master:
        reader, writer = await open_watch(master)
        first = master.cluster.state.revision + 1
        for number in range(3 * LAG_REVISIONS_MAX):
            await master.write(Put(b"/kv/a", VALUE))
            if number % 100 == 0:
                await asyncio.sleep(0)
        told = []
        while lines := await next_lines(reader):
            told += lines
        assert "Resume" in told[-1]
        revisions = [line["Revision"] for line in told[:-1]]
        assert revisions == list(range(first, told[-1]["Resume"]))
        assert told[-1]["Resume"] <= master.cluster.state.revision
        assert await master.watches() == 0
        writer.close()


async def test_a_reader_that_leaves_frees_its_place():
    async with Master() as master:
        _, writer = await open_watch(master)
        assert await master.watches() == 1
        writer.close()
        async with asyncio.timeout(TIMEOUT_S):
            while await master.watches():
                pass


async def test_a_master_that_stops_ends_its_watches_in_order():
    async with Master() as master:
        reader, writer = await open_watch(master)
        stopping = asyncio.create_task(master.server.stop())
        assert await next_lines(reader) == []
        writer.close()
        await asyncio.wait_for(stopping, TIMEOUT_S)


@pytest.mark.parametrize("does_leader_answer", [True, False])
async def test_a_follower_asks_the_leader_for_what_only_it_knows(does_leader_answer):
    async with Master("m2") as leader:
        others = (Member("m2", "127.0.0.1:1", leader.address),)
        async with Master("m1", others) as follower:
            follower.cluster.lead(False, 1)
            follower.cluster.following = "m2"
            await leader.write(GrantLease(0x7F, 60))
            if not does_leader_answer:
                leader.cluster.lead(False, 2)
            status, body = await ask(follower, "POST", "/essaim/kv/leases/7f/keepalive")
            if does_leader_answer:
                assert (status, body) == (200, {"ID": "7f", "TTL": 60})
                status, body = await ask(follower, "GET", "/essaim/kv/leases/7f")
                assert (status, body["Keys"]) == (200, [])
                assert (await ask(follower, "GET", "/essaim/kv/leases/8"))[0] == 404
            else:
                assert status == 503
                assert "try again" in body["message"]


async def test_a_leader_that_is_gone_is_an_answer_too():
    others = (Member("m2", "127.0.0.1:1", "127.0.0.1:1"),)
    async with Master("m1", others) as follower:
        follower.cluster.lead(False, 1)
        follower.cluster.following = "m2"
        status, body = await ask(follower, "POST", "/essaim/kv/leases/7f/keepalive")
        assert status == 503
        assert "reached" in body["message"]
