"""Client, protocol and three real RaftNodes: a write happens once, whoever leads."""

import asyncio

from support.kv_native import CLOCK, MEMBERS, WAIT_S, until

from essaim_shared.clock import wait_until
from essaim_shared.errors import OutcomeUnknown

WRITERS = 16
COUNTERS = 8


async def test_what_one_master_took_all_masters_have_and_any_of_them_reads_it(trio, new_client):
    leader = await trio.leader()
    for number, member in enumerate(MEMBERS):
        client = await new_client(trio.servers[member])
        await client.put(b"a", b"%d" % number)
        found = await client.get(b"a")
        assert (found.value, found.version) == (b"%d" % number, number + 1)
    assert leader in MEMBERS


class Writers:
    """Put to a few keys without end; count what was acknowledged and what nobody knows."""

    def __init__(self, client) -> None:
        self.client = client
        self.acknowledged = [0] * COUNTERS
        self.unknown = [0] * COUNTERS
        self._is_ending = False
        self._tasks = [asyncio.ensure_future(self._write(n % COUNTERS)) for n in range(WRITERS)]

    @property
    def count(self) -> int:
        return sum(self.acknowledged)

    async def go_on(self, more: int) -> None:
        wanted = self.count + more
        await until(lambda: self.count >= wanted, f"{more} more writes are acknowledged")

    async def end(self) -> None:
        self._is_ending = True
        await asyncio.wait_for(asyncio.gather(*self._tasks), WAIT_S)

    async def _write(self, counter: int) -> None:
        while not self._is_ending:
            try:
                await self.client.put(b"counter%d" % counter, b"", timeout_s=WAIT_S)
            except OutcomeUnknown:
                self.unknown[counter] += 1
            else:
                self.acknowledged[counter] += 1

    async def check(self) -> None:
        for counter in range(COUNTERS):
            found = await self.client.get(b"counter%d" % counter)
            least = self.acknowledged[counter]
            assert least <= found.version <= least + self.unknown[counter]


async def test_writes_happen_once_while_connections_break(trio, new_client):
    await trio.leader()
    writers = Writers(await new_client(*trio.servers.values()))
    for _ in range(10):
        await writers.go_on(200)
        for server in trio.servers.values():
            server.abort_connections()
    await writers.end()
    assert sum(writers.unknown) == 0, "nothing but connections was lost"
    await writers.check()


async def test_writes_happen_once_while_the_leader_changes(trio, new_client):
    await trio.leader()
    writers = Writers(await new_client(*trio.servers.values()))
    for _ in range(3):
        await writers.go_on(100)
        leader = await trio.leader()
        target = MEMBERS[(MEMBERS.index(leader) + 1) % 3]
        await trio.nodes[leader].transfer_leadership(target)
    await writers.go_on(100)
    await writers.end()
    await writers.check()


async def test_writes_happen_once_when_the_leader_stops_and_comes_back(trio, new_client):
    await trio.leader()
    writers = Writers(await new_client(*trio.servers.values()))
    for _ in range(2):
        await writers.go_on(100)
        leader = await trio.leader()
        await trio.stop(leader)
        await writers.go_on(100)
        await trio.start(leader)
    await writers.end()
    assert sum(writers.acknowledged) > 400
    await writers.check()


async def test_a_client_of_a_cut_off_leader_gets_no_stale_linearizable_read(trio, new_client):
    leader = await trio.leader()
    inside = await new_client(trio.servers[leader])
    await inside.put(b"a", b"old")
    trio.network.isolate(leader)
    others = [trio.servers[member] for member in MEMBERS if member != leader]
    outside = await new_client(*others)
    await outside.put(b"a", b"new", timeout_s=WAIT_S)
    read = asyncio.ensure_future(inside.get(b"a", timeout_s=WAIT_S))
    assert (await inside.get(b"a", local=True)).value == b"old"
    trio.network.heal()
    assert await wait_until(read.done, CLOCK, WAIT_S)
    assert read.result().value == b"new"
