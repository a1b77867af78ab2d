"""Masters are killed, stopped, cut off and half cut off while clients write to all of them.

In each story no acknowledged write may be lost, the clients' history must be linearizable (judged
by a checker that knows nothing of Raft), in the end all masters must hold the same, and one who
watched all the time must have been told each change once, in order.
"""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from support.kv_client import KvClient, NoAnswer
from support.kv_load import LEDGER, Load, under_load
from support.kv_watcher import Watcher
from support.lab_cluster import Cluster
from support.packet_drop import Direction, dropped
from support.small_disk import fill, on_a_small_disk

from essaim_cli.lab.parts import is_running

pytestmark = [pytest.mark.lab, pytest.mark.timeout(180)]

WRITES = 60
"""Acknowledged between two faults: enough to overwrite every key, few enough to be fast."""
PROBES = 12
PROBE_TIMEOUT_S = 10.0


@asynccontextmanager
async def judged_load(cluster: Cluster) -> AsyncIterator[Load]:
    seed = random.SystemRandom().getrandbits(32)
    print(f"seed {seed}")
    masters = cluster.topology.masters
    watcher = Watcher(masters, LEDGER, cluster.clock)
    await watcher.begin()
    watching = asyncio.create_task(watcher.run())
    try:
        async with under_load(masters, cluster.clock, random.Random(seed)) as load:
            yield load
            await load.until_writes(WRITES)
        load.check()
        kept = await load.check_masters_agree()
        assert not watching.done(), watching.exception()
        written = [one for one in kept if one["Key"].startswith(LEDGER)]
        await watcher.until_told({one["Key"] for one in written})
        watcher.check(written)
    finally:
        watching.cancel()


async def followers(cluster: Cluster) -> list[str]:
    leader = await cluster.leader()
    return [host.name for host in cluster.topology.masters if host.name != leader]


async def stop(cluster: Cluster, host: str) -> None:
    await cluster.lab("kill", host, "master", "--signal", "STOP")


async def go_on(cluster: Cluster, host: str) -> None:
    await cluster.lab("kill", host, "master", "--signal", "CONT")


async def test_killing_the_leader_and_then_a_follower(cluster: Cluster) -> None:
    async with judged_load(cluster) as load:
        leader = await cluster.leader()
        await cluster.lab("kill", leader, "master")
        took_s = await load.until_writes(WRITES)
        print(f"leader killed -> {WRITES} writes: {took_s:.2f} s")
        await cluster.lab("start", leader, "master")
        follower = (await followers(cluster))[0]
        await cluster.lab("kill", follower, "master")
        await load.until_writes(WRITES)
        await cluster.lab("start", follower, "master")


async def test_a_leader_that_was_stopped_does_not_answer_from_its_memory(
    cluster: Cluster,
) -> None:
    """The classic stale read: asked while it sleeps, it wakes and believes to lead still, for
    nobody can tell it otherwise."""
    async with judged_load(cluster) as load:
        leader = await cluster.leader()
        host = cluster.topology.host(leader)
        probes = [KvClient(host, PROBE_TIMEOUT_S) for _ in range(PROBES)]
        for probe in probes:
            await probe.get("k0")  # each has its connection now
        await stop(cluster, leader)
        # At once, so that not even the news of a next term waits in its sockets.
        async with dropped(host, [host.raft_port]):
            took_s = await load.until_writes(WRITES)
            print(f"leader stopped -> {WRITES} writes: {took_s:.2f} s")
            newest = next(reversed(load.acknowledged))
            asked = [asyncio.create_task(probe.get(newest)) for probe in probes]
            await load.until_writes(1)
            await go_on(cluster, leader)
            answers = await asyncio.gather(*asked)
        for probe in probes:
            probe.close()
        # 404 would deny a write that was acknowledged before anybody asked.
        assert {answer.status for answer in answers} <= {200, 503}, answers


async def test_cutting_the_leaders_cable(cluster: Cluster) -> None:
    async with judged_load(cluster) as load:
        leader = await cluster.leader()
        await cluster.lab("cut", leader)
        took_s = await load.until_writes(WRITES)
        print(f"leader cut off -> {WRITES} writes: {took_s:.2f} s")
        await cluster.lab("heal", leader)


@pytest.mark.parametrize("direction", ["input", "output"])
async def test_a_leader_that_is_deaf_or_mute(cluster: Cluster, direction: Direction) -> None:
    """A partition in one direction only, between masters; clients reach every one of them."""
    async with judged_load(cluster) as load:
        leader = cluster.topology.host(await cluster.leader())
        async with dropped(leader, [leader.raft_port], [direction]):

            async def another_leads() -> bool:
                return await cluster.leader() != leader.name

            took_s = await cluster.until(another_leads, "another master leads")
            print(f"leader without {direction} -> another leads: {took_s:.2f} s")
            await load.until_writes(WRITES)


async def test_two_sleep_and_one_dies_in_turns(cluster: Cluster) -> None:
    """Jepsen's script for NATS: what two hold while the third is down must not be forgotten when
    the third comes back beside one of them only."""
    async with judged_load(cluster) as load:
        one, two = await followers(cluster)
        three = await cluster.leader()
        await stop(cluster, one)
        await stop(cluster, two)
        await cluster.lab("kill", three, "master")
        await go_on(cluster, one)
        await cluster.lab("start", three, "master")
        await load.until_writes(WRITES)  # by one and three
        await stop(cluster, one)
        await go_on(cluster, two)
        await load.until_writes(WRITES)  # by two and three
        await cluster.lab("kill", three, "master")
        await go_on(cluster, one)
        await load.until_writes(WRITES)  # by one and two
        await cluster.lab("start", three, "master")


async def test_killing_all_masters_at_once_again_and_again(cluster: Cluster) -> None:
    async with judged_load(cluster) as load:
        for _ in range(3):
            names = [host.name for host in cluster.topology.masters]
            await asyncio.gather(*(cluster.lab("kill", name, "master") for name in names))
            await asyncio.gather(*(cluster.lab("start", name, "master") for name in names))
            await load.until_writes(WRITES)


# A full disk.

ROOM_BYTES = 20 * 1024 * 1024
"""For one more segment of the log, and for little else."""
BIG_VALUE = "x" * 128 * 1024
BIG_WRITES_MAX = 800
"""Three times what is left in both segments."""
BIG_KEYS = 4


@pytest.mark.parametrize("role", ["follower", "leader"])
async def test_a_master_whose_disk_is_full_ends_with_a_clear_line_and_costs_nothing(
    cluster: Cluster, role: str
) -> None:
    async with judged_load(cluster) as load:
        victim = cluster.topology.host((await followers(cluster))[0])
        log = victim.log_file("master")
        async with on_a_small_disk(cluster, victim, ROOM_BYTES) as directory:
            await load.until_writes(WRITES)
            if role == "leader":
                await lead(cluster, victim.name)
            said_before = len(log.read_text())
            fill(directory)
            other = next(host for host in cluster.topology.masters if host != victim)
            client = KvClient(other, PROBE_TIMEOUT_S)
            for number in range(BIG_WRITES_MAX):
                if not is_running(victim, "master"):
                    break
                with suppress(NoAnswer):  # its leader may just have ended
                    await client.put(f"big{number % BIG_KEYS}", BIG_VALUE)
            client.close()
            said = log.read_text()[said_before:]
            assert not is_running(victim, "master"), said
            assert "ALARM: no room" in said
            (last,) = [line for line in said.splitlines() if " critical " in line]
            assert "No space left on device" in last
            await load.until_writes(WRITES)


async def lead(cluster: Cluster, wanted: str) -> None:
    """Let one master lead: whoever else does sleeps for a moment."""

    async def leads() -> bool:
        leader = await cluster.leader()
        if leader == wanted:
            return True
        await stop(cluster, leader)
        await cluster.until(lambda: _other_than(cluster, leader), "another master leads")
        await go_on(cluster, leader)
        return False

    await cluster.until(leads, f"{wanted} leads")


async def _other_than(cluster: Cluster, leader: str) -> bool:
    return await cluster.leader() != leader
