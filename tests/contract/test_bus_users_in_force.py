"""A real bus server follows the state: who joins gets in, who is removed is cut off, and a node
that floods it is out before the others feel it."""

import asyncio
import logging
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from support.bus_server import SecuredBus

from essaim_master.bus_users.flood_guard import FloodGuard
from essaim_master.bus_users.keeper import BusUsersKeeper
from essaim_master.bus_users.local_server import BusServerError, LocalBusServer
from essaim_master.state.cluster import LocalCluster, Member
from essaim_master.state.writes import Writes
from essaim_shared.clock import SystemClock, wait_until
from essaim_shared.errors import Unavailable
from essaim_shared.ids import MemberId, NodeId
from essaim_shared.limits import HEARTBEAT_PERIOD_S, HEARTBEAT_TIMEOUT_S, NODE_SILENCE_MAX_S
from essaim_shared.nats_transport import NatsTransport
from essaim_shared.subjects import Subjects
from essaim_shared.transport import Delivery
from essaim_shared.trust.roles import Role

CLOCK = SystemClock()
SUBJECTS = Subjects("lab")
CUT_OFF_WITHIN_S = 2.0
OTHERS = 60


class Master:
    """Its state in memory, and the real bus server beside it."""

    def __init__(self, bus: SecuredBus) -> None:
        self.bus = bus
        self.cluster = LocalCluster(CLOCK, Member(MemberId("m1"), "", ""))
        self.state = self.cluster.state
        self.server = LocalBusServer(
            bus.users_path, bus.pid_file, bus.monitor, bus.directory_of(Role.MASTER, "server")
        )
        self.keeper = BusUsersKeeper(self.cluster, "lab", self.server, CLOCK)
        self.guard = FloodGuard(self.cluster, self.server, self.keeper, CLOCK)

    async def admit(self, role: Role, name: str) -> int:
        """A fresh identity, written into the state; its revision."""
        identity = self.bus.admit(role, name)
        return await self.write(lambda writes: writes.put(identity))

    async def write(self, add: Callable[[Writes], object]) -> int:
        writes = Writes()
        add(writes)
        (transaction,) = writes.transactions()
        await self.cluster.commit(transaction, 1.0)
        return self.state.revision


@pytest.fixture
async def master(tmp_path: Path) -> AsyncIterator[Master]:
    bus = SecuredBus(tmp_path)
    bus.admit(Role.MASTER, "m1")
    await bus.start()
    made = Master(bus)
    identity = bus.known[Role.MASTER, "m1"]
    await made.write(lambda writes: writes.put(identity))
    loops = [asyncio.create_task(made.keeper.run()), asyncio.create_task(made.guard.run())]
    yield made
    for loop in loops:
        loop.cancel()
    await asyncio.wait(loops)
    await bus.stop()


async def eventually(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    assert await wait_until(condition, CLOCK, timeout_s)


async def test_who_has_just_joined_gets_in_at_the_first_attempt(master: Master) -> None:
    for number in range(5):
        revision = await master.admit(Role.AGENT, f"n{number}")
        assert await master.keeper.wait(revision, 5)
        client = await master.bus.client(Role.AGENT, f"n{number}")
        assert client.server == master.bus.url


async def test_who_is_removed_is_cut_off(master: Master) -> None:
    await master.admit(Role.AGENT, "n1")
    assert await master.keeper.wait(await master.admit(Role.AGENT, "n2"), 5)
    removed, stays = [await master.bus.client(Role.AGENT, name) for name in ("n1", "n2")]
    revision = await master.write(lambda writes: writes.delete_identity(Role.AGENT, "n1"))
    assert await master.keeper.wait(revision, 5)
    await eventually(lambda: removed.server is None)
    assert stays.reconnection_count == 0


async def test_a_thousand_at_once_are_a_few_reloads_and_all_get_in(master: Master) -> None:
    before = master.keeper.reload_count
    identity = master.bus.admit(Role.AGENT, "n0")
    for number in range(1000):
        one = master.bus.like(identity, f"n{number}")
        revision = await master.write(lambda writes, one=one: writes.put(one))
    assert await master.keeper.wait(revision, 10)
    assert master.keeper.reload_count - before <= 10
    assert master.bus.users_path.read_text().count("nkey:") == 1001


async def test_a_server_that_comes_back_with_an_old_file_is_put_right(master: Master) -> None:
    revision = await master.admit(Role.AGENT, "n1")
    assert await master.keeper.wait(revision, 5)
    earlier = master.bus.users_path.read_text()
    revision = await master.write(lambda writes: writes.delete_identity(Role.AGENT, "n1"))
    assert await master.keeper.wait(revision, 5)
    newer = master.bus.users_path.read_text()
    master.bus.users_path.write_text(earlier)
    master.server.reload()
    await eventually_async(lambda: loaded(master, earlier))
    master.bus.users_path.write_text(newer)
    await eventually_async(lambda: loaded(master, newer))


async def loaded(master: Master, text: str) -> bool:
    return f'write_deadline: "{await master.server.loaded_ns()}ns"' in text


async def eventually_async(condition: Callable[[], Awaitable[bool]]) -> None:
    deadline_s = CLOCK.monotonic_s() + 10
    while not await condition():
        assert CLOCK.monotonic_s() < deadline_s
        await CLOCK.sleep(0.02)


async def test_a_pid_that_is_somebody_elses_now_gets_no_signal(master: Master) -> None:
    sleeper = await asyncio.create_subprocess_exec("sleep", "60")
    master.bus.pid_file.write_text(f"{sleeper.pid}\n")
    with pytest.raises(BusServerError, match="names sleep, which is no nats-server"):
        master.server.reload()
    assert sleeper.returncode is None
    sleeper.kill()
    await sleeper.wait()
    for nonsense in ("", "x", "99999999999999999"):
        master.bus.pid_file.write_text(nonsense)
        with pytest.raises(BusServerError, match="names no process"):
            master.server.reload()


async def test_without_a_server_there_is_nothing_to_load(master: Master) -> None:
    await master.bus.stop()
    assert await master.server.loaded_ns() is None
    assert await master.server.connections() == ()


class Node:
    """Beats as an agent does, and keeps how long it was not answered at most."""

    def __init__(self, transport: NatsTransport, name: str) -> None:
        self._transport = transport
        self._subject = SUBJECTS.heartbeat(NodeId(name))
        self._heard_s = CLOCK.monotonic_s()
        self.silence_max_s = 0.0
        self.answers = 0

    async def run(self) -> None:
        while True:
            asked_s = CLOCK.monotonic_s()
            try:
                await self._transport.request(self._subject, b"beat", HEARTBEAT_TIMEOUT_S)
            except Unavailable:
                pass
            else:
                self.silence_max_s = max(self.silence_max_s, asked_s - self._heard_s)
                self._heard_s, self.answers = asked_s, self.answers + 1
            await CLOCK.sleep(HEARTBEAT_PERIOD_S + asked_s - CLOCK.monotonic_s())


@pytest.mark.parametrize("size_bytes", [16, 200_000])
async def test_a_node_that_floods_the_bus_is_out_within_two_seconds_and_the_others_are_heard(
    master: Master, size_bytes: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for number in range(OTHERS):
        await master.admit(Role.AGENT, f"n{number}")
    assert await master.keeper.wait(await master.admit(Role.AGENT, "flooder"), 5)
    leader = await master.bus.client(Role.MASTER, "m1")

    async def answer(delivery: Delivery) -> None:
        await delivery.respond(b"heard")

    await leader.subscribe(SUBJECTS.all_heartbeats, answer)
    nodes = [
        Node(await master.bus.client(Role.AGENT, f"n{number}"), f"n{number}")
        for number in range(OTHERS)
    ]
    beating = [asyncio.create_task(node.run()) for node in nodes]
    await eventually(lambda: all(node.answers >= 2 for node in nodes))
    flooder = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "support.flooder",
        master.bus.url,
        str(master.bus.directory_of(Role.AGENT, "flooder")),
        SUBJECTS.heartbeat(NodeId("flooder")),
        str(size_bytes),
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[1],
    )
    assert flooder.stdout is not None
    try:
        assert await flooder.stdout.readline() == b"flooding\n"
        began_s = CLOCK.monotonic_s()
        assert b"cut off" in await asyncio.wait_for(flooder.stdout.readline(), 20)
        took_s = CLOCK.monotonic_s() - began_s
    finally:
        if flooder.returncode is None:
            flooder.kill()
        await flooder.wait()
    before = [node.answers for node in nodes]
    await eventually(lambda: all(n.answers > b for n, b in zip(nodes, before, strict=True)))
    for task in beating:
        task.cancel()
    await asyncio.wait(beating)
    silence_s = max(node.silence_max_s for node in nodes)
    print(f"cut off after {took_s:.2f} s; the longest silence of others: {silence_s:.2f} s")
    assert took_s <= CUT_OFF_WITHIN_S
    assert silence_s < NODE_SILENCE_MAX_S
    assert "a node is cut off node=flooder" in caplog.text
    await eventually(lambda: bool(master.state.identity(Role.AGENT, "flooder").suspended))
    assert not [one for one in master.state.identities.values() if one.suspended][1:]
