"""Minutes of cuts, deaths and changes at random; at the end the doctor finds no difference.

make soak                    # ten minutes
SOAK_S=60 SOAK_SEED=7 make soak
"""

import os
import random
from collections.abc import Awaitable, Callable

import pytest
from support.lab_cluster import Cluster
from support.lab_networks import (
    asked_from_machine,
    changed_on_host,
    create_echo,
    is_answering_ping,
    remove_networks,
    replicas_of,
    resolved,
    until_well,
)

SOAK_S = float(os.environ.get("SOAK_S", "600"))
SEED = int(os.environ.get("SOAK_SEED", "0")) or random.SystemRandom().randrange(1 << 32)
PORT = 18_080
REPLICAS_MAX = 9
SETTLE_S = 60.0

pytestmark = [pytest.mark.soak, pytest.mark.lab, pytest.mark.timeout(SOAK_S + 300)]


class Trouble:
    """What can happen to a cluster, each of it ending by itself."""

    def __init__(self, cluster: Cluster, rng: random.Random) -> None:
        self._cluster = cluster
        self._rng = rng
        self.done: list[str] = []

    async def next(self) -> None:
        choices: list[Callable[[], Awaitable[str]]] = [
            self._cut, self._kill_agent, self._kill_engine, self._kill_master, self._kill_bus,
            self._scale, self._scale, self._update, self._flush_rules, self._drain,
        ]  # fmt: skip
        self.done.append(await self._rng.choice(choices)())

    def _host(self) -> str:
        return self._rng.choice(self._cluster.hosts).name

    async def _cut(self) -> str:
        host, length_s = self._host(), self._rng.choice((1.0, 3.0, 7.0))
        await self._cluster.lab("cut", host)
        await self._cluster.clock.sleep(length_s)
        await self._cluster.lab("heal", host)
        return f"{host} cut off for {length_s:g} s"

    async def _restart(self, part: str) -> str:
        host = self._host()
        await self._cluster.lab("kill", host, part)
        await self._cluster.clock.sleep(self._rng.uniform(0, 2))
        await self._cluster.lab("start", host, part)
        return f"{part} of {host} killed and started"

    async def _kill_agent(self) -> str:
        return await self._restart("agent")

    async def _kill_engine(self) -> str:
        return await self._restart("engine")

    async def _kill_master(self) -> str:
        return await self._restart("master")

    async def _kill_bus(self) -> str:
        return await self._restart("bus")

    async def _scale(self) -> str:
        service, count = self._rng.choice(("one", "two")), self._rng.randint(1, REPLICAS_MAX)
        await self._cluster.essaim("service", "scale", "-d", f"{service}={count}")
        return f"{service} scaled to {count}"

    async def _update(self) -> str:
        service = self._rng.choice(("one", "two"))
        await self._cluster.essaim("service", "update", "-d", "--force", service)
        return f"{service} updated"

    async def _flush_rules(self) -> str:
        host = self._host()
        await changed_on_host(self._cluster, host, "nft", "flush", "ruleset")
        return f"rules of {host} flushed"

    async def _drain(self) -> str:
        host = self._host()
        await self._cluster.essaim("node", "update", "--availability", "drain", host)
        await self._cluster.clock.sleep(self._rng.uniform(0, 3))
        await self._cluster.essaim("node", "update", "--availability", "active", host)
        return f"{host} drained for a moment"


async def test_random_trouble_leaves_no_difference(cluster: Cluster) -> None:
    print(f"SOAK_SEED={SEED}")
    rng = random.Random(SEED)
    await cluster.ok("network", "create", "soak")
    update = ("--update-parallelism", "2", "--update-monitor", "0s")
    await create_echo(cluster, "one", "--publish", f"{PORT}:8080", *update)
    await create_echo(cluster, "two", "--network", "soak", "--network", "default", *update)
    trouble = Trouble(cluster, rng)
    end_s = cluster.clock.monotonic_s() + SOAK_S
    while cluster.clock.monotonic_s() < end_s:
        await trouble.next()
        await cluster.clock.sleep(rng.uniform(0, 2))
    print("\n".join(trouble.done))
    await cluster.lab("heal", *(host.name for host in cluster.hosts))
    for service in ("one", "two"):
        await cluster.ok("service", "scale", "-d", f"{service}=6")

        async def settled(service: str = service) -> bool:
            running = len(await cluster.running(service)) == 6
            return running and len(await cluster.containers(service)) == 6

        await cluster.until(settled, f"six tasks of {service} run", timeout_s=SETTLE_S)
    report = await until_well(cluster)
    assert [node["Differences"] for node in report["Nodes"]] == [[]] * len(cluster.hosts)
    await _everything_reaches_everything(cluster)
    await cluster.ok("service", "rm", "one", "two")
    await remove_networks(cluster, "soak")


async def _everything_reaches_everything(cluster: Cluster) -> None:
    two = await replicas_of(cluster, "two")
    for replica in two:
        assert await resolved(cluster, replica, "two")
        assert await resolved(cluster, replica, "one")
        for other in two:
            for address in other.addresses:
                assert await is_answering_ping(cluster, replica, address), (replica, address)
    for host in cluster.hosts:
        assert await asked_from_machine(cluster, host.name, PORT, 20)
