"""Connections and flows that are under way while those who serve come and go, in a real kernel."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
from support.overlay_cluster import BLUE, Cluster

from essaim_agent.overlay.traffic import LINGERING_CHECKS
from essaim_shared.ids import TaskId

pytestmark = pytest.mark.lab

A = "10.97.0.1"
A_OUTSIDE, OUTSIDE = "192.0.2.1", "192.0.2.9"
ASKED_MAX = 100

TALK = """
import socket, sys
protocol, address, port = sys.argv[1:]
with socket.socket(type=socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM) as client:
    client.settimeout(2)
    client.connect((address, int(port)))
    if protocol == "tcp":
        print(client.recv(200).decode().strip(), flush=True)
    for line in sys.stdin:
        try:
            client.send(line.encode())
            print(client.recv(200).decode().strip() or "end", flush=True)
        except TimeoutError:
            print("silence", flush=True)
        except OSError as error:
            print(error.strerror, flush=True)
"""


class Talk:
    """One client with one socket, that is asked to speak again and again."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def hear(self) -> str:
        assert self._process.stdout is not None
        return (await self._process.stdout.readline()).decode().strip()

    async def say(self) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(b"hello\n")
        return await self.hear()


@contextlib.asynccontextmanager
async def talk(
    cluster: Cluster, place: str, protocol: str, address: str, port: int
) -> AsyncIterator[Talk]:
    process = await asyncio.create_subprocess_exec(
        *["nsenter", f"--net={cluster.namespace(place)}", sys.executable, "-c", TALK],
        *[protocol, address, str(port)],
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield Talk(process)
    finally:
        process.kill()
        await process.wait()


def flows(cluster: Cluster, host: str, *words: str) -> list[str]:
    return str(cluster.lab.in_host(host, "conntrack", "-L", *words)).splitlines()


@pytest.fixture
async def cluster(lab: Any) -> AsyncIterator[Cluster]:
    made = Cluster(lab)
    for host in ("a", "b"):
        await made.start(host)
    made.service(ports=[("tcp", 8080, 80), ("udp", 5353, 53)])
    try:
        yield made
    finally:
        await made.close()


VIP = "10.245.0.1"


class TestDraining:
    async def test_new_connections_go_elsewhere_while_old_ones_go_on(
        self, cluster: Cluster
    ) -> None:
        one = await cluster.task("a", "web-1", 11)
        await cluster.task("a", "client", 20, service="client", serves=())
        async with (
            talk(cluster, "outside", "tcp", A_OUTSIDE, 8080) as by_port,
            talk(cluster, "client", "tcp", VIP, 80) as by_vip,
        ):
            assert (await by_port.hear(), await by_vip.hear()) == (
                f"web-1 {OUTSIDE}",
                "web-1 10.244.0.20",
            )
            await cluster.task("b", "web-2", 12)
            cluster.mark(one, "draining")
            await cluster.tell()
            assert await cluster.ask("client", VIP, count=30) == {"web-2 10.244.0.20": 30}
            assert await cluster.ask("outside", A_OUTSIDE, 8080, count=30) == {f"web-2 {A}": 30}
            assert await by_port.say() == f"web-1 {OUTSIDE}"
            assert await by_vip.say() == "web-1 10.244.0.20"

    async def test_connections_are_counted_until_they_end(self, cluster: Cluster) -> None:
        one = await cluster.task("a", "web-1", 11)
        two = await cluster.task("b", "web-2", 12, service="other")
        node = cluster.nodes["a"]
        assert await node.connections(one) == 0
        async with (
            talk(cluster, "outside", "tcp", A_OUTSIDE, 8080) as by_port,
            talk(cluster, "web-2", "tcp", VIP, 80) as from_afar,
            talk(cluster, "web-1", "tcp", "10.244.0.12", 80) as its_own,
        ):
            for each in (by_port, from_afar, its_own):
                await each.hear()
            await cluster.clock.advance(0.11)
            assert await node.connections(one) == 2, "those it serves, not those it makes"
            assert await cluster.nodes["b"].connections(two) == 1

        for _ in range(ASKED_MAX):
            await cluster.clock.advance(0.11)
            if await node.connections(one) == 0:
                return
        raise AssertionError(await node.connections(one))

    async def test_many_tasks_that_drain_are_looked_at_together(self, cluster: Cluster) -> None:
        tasks = [await cluster.task("a", f"web-{i}", 30 + i, serves=["tcp/80"]) for i in range(7)]
        async with contextlib.AsyncExitStack() as stack:
            for i in range(7):
                address = f"10.244.0.{30 + i}"
                client = await stack.enter_async_context(talk(cluster, "a", "tcp", address, 80))
                await client.hear()
            counts = await asyncio.gather(*(cluster.nodes["a"].connections(t) for t in tasks))
            await cluster.clock.advance(0.11)
            again = await asyncio.gather(*(cluster.nodes["a"].connections(t) for t in tasks))
        assert counts == again == [1] * 7

    async def test_a_task_that_nobody_knows_has_none(self, cluster: Cluster) -> None:
        assert await cluster.nodes["a"].connections(TaskId("nobody")) == 0


class TestRemovedServices:
    async def test_tasks_that_drain_keep_their_connections(self, cluster: Cluster) -> None:
        one = await cluster.task("a", "web-1", 11)
        await cluster.task("a", "client", 20, service="client", serves=())
        async with (
            talk(cluster, "outside", "tcp", A_OUTSIDE, 8080) as by_port,
            talk(cluster, "client", "tcp", VIP, 80) as by_vip,
        ):
            await by_port.hear()
            await by_vip.hear()
            cluster.services.clear()
            await cluster.tell()
            cluster.mark(one, "draining")
            await cluster.tell()
            assert await by_vip.say() == "web-1 10.244.0.20"
            assert await by_port.say() == f"web-1 {OUTSIDE}"
            assert await cluster.ask("outside", A_OUTSIDE, 8080) == {"refused": 1}
            cluster.forget(one)
            await cluster.tell()
            assert await by_port.say() == "Connection reset by peer"

    async def test_so_do_those_elsewhere_of_which_no_more_is_told(self, cluster: Cluster) -> None:
        one = await cluster.task("b", "far", 12)
        async with talk(cluster, "outside", "tcp", A_OUTSIDE, 8080) as client:
            assert await client.hear() == f"far {A}"
            everything = cluster.endpoints
            cluster.services.clear()
            cluster.endpoints = set()
            await cluster.tell("a")
            cluster.endpoints = everything
            cluster.mark(one, "draining")
            await cluster.tell("b")
            assert await client.say() == f"far {A}"


class TestFlows:
    @pytest.mark.parametrize("end", ["draining", "gone"])
    async def test_a_udp_client_that_never_pauses_comes_to_another_task(
        self, cluster: Cluster, end: str
    ) -> None:
        one = await cluster.task("a", "web-1", 11)
        await cluster.task("a", "client", 20, service="client", serves=())
        async with (
            talk(cluster, "outside", "udp", A_OUTSIDE, 5353) as by_port,
            talk(cluster, "client", "udp", VIP, 53) as by_vip,
        ):
            for each in (by_port, by_vip):
                assert (await each.say()).startswith("web-1 ")
            await cluster.task("a", "web-2", 12)
            assert (await by_port.say()).startswith("web-1 "), "one more disturbs nobody"
            if end == "gone":
                cluster.forget(one)
                await cluster.end(one)
            else:
                cluster.mark(one, "draining")
            await cluster.tell()
            for each in (by_port, by_vip):
                assert (await each.say()).startswith("web-2 ")

    async def test_one_that_was_sent_on_comes_to_another_node_s_task(
        self, cluster: Cluster
    ) -> None:
        far = await cluster.task("b", "far", 12)
        async with talk(cluster, "outside", "udp", A_OUTSIDE, 5353) as client:
            assert await client.say() == f"far {A}"
            await cluster.task("a", "near", 11)
            assert await client.say() == f"far {A}", "it is served, so it stays"
            cluster.forget(far)
            await cluster.tell()
            assert await client.say() == f"near {OUTSIDE}"

    @pytest.mark.parametrize("place", ["outside", "client"])
    async def test_one_that_called_when_nobody_was_there_comes_to_the_first(
        self, cluster: Cluster, place: str
    ) -> None:
        await cluster.task("a", "client", 20, [BLUE], service="client", serves=())
        async with talk(cluster, place, "udp", A_OUTSIDE, 5353) as client:
            assert await client.say() == "Connection refused"
            await cluster.task("a", "web-1", 11)
            assert (await client.say()).startswith("web-1 ")

    async def test_a_connection_to_a_dead_task_ends_at_once(self, cluster: Cluster) -> None:
        """Its node is gone without a word: nobody there would ever refuse it."""
        far = await cluster.task("b", "far", 12)
        await cluster.task("a", "client", 20, service="client", serves=())
        async with talk(cluster, "client", "tcp", VIP, 80) as client:
            assert await client.hear() == "far 10.244.0.20"
            cluster.lab.in_host("a", "ip", "link", "set", "under0", "down")
            await cluster.task("a", "near", 11)
            cluster.forget(far)
            await cluster.tell("a")
            assert await client.say() == "Connection reset by peer"
            assert await cluster.hear("client", VIP) == "near 10.244.0.20"

    async def test_those_of_others_are_left_alone(self, cluster: Cluster) -> None:
        one = await cluster.task("a", "web-1", 11)
        await cluster.task("a", "client", 20, service="client", serves=())
        async with (
            talk(cluster, "client", "udp", "10.244.0.11", 53) as straight,
            talk(cluster, "outside", "tcp", A_OUTSIDE, 8080) as other,
        ):
            await straight.say()
            await other.hear()
            await cluster.task("a", "web-2", 12)
            before = flows(cluster, "a", "-p", "udp", "--orig-dst", "10.244.0.11")
            cluster.mark(one, "draining")
            await cluster.tell()
            after = flows(cluster, "a", "-p", "udp", "--orig-dst", "10.244.0.11")
            assert len(before) == len(after) == 1
            assert await other.say() == f"web-1 {OUTSIDE}"

    async def test_what_an_earlier_run_left_astray_is_found_by_the_next(
        self, cluster: Cluster
    ) -> None:
        one = await cluster.task("a", "web-1", 11)
        await cluster.task("a", "web-2", 12)
        cluster.forget(one)
        async with talk(cluster, "outside", "udp", A_OUTSIDE, 5353) as client:
            while not (await client.say()).startswith("web-1 "):
                cluster.lab.in_host("a", "conntrack", "-F")
            await cluster.nodes["a"].close()
            await cluster.start("a")
            assert (await client.say()).startswith("web-1 "), "nothing is changed on suspicion"
            await cluster.tell("a")
            assert (await client.say()).startswith("web-2 ")


class TestRestarts:
    async def test_connections_live_through_a_restart_of_the_agent(self, cluster: Cluster) -> None:
        await cluster.task("a", "web-1", 11)
        await cluster.task("a", "client", 20, service="client", serves=())
        async with (
            talk(cluster, "outside", "tcp", A_OUTSIDE, 8080) as by_port,
            talk(cluster, "client", "tcp", VIP, 80) as by_vip,
        ):
            await by_port.hear()
            await by_vip.hear()
            await cluster.nodes["a"].close()
            assert await cluster.hear("outside", A_OUTSIDE, 8080) == f"web-1 {OUTSIDE}"
            await cluster.start("a")
            assert await by_vip.say() == "web-1 10.244.0.20"
            await cluster.tell("a")
            assert await by_vip.say() == "web-1 10.244.0.20"
            assert await by_port.say() == f"web-1 {OUTSIDE}"

    async def test_tables_of_an_earlier_version_are_replaced(self, cluster: Cluster) -> None:
        await cluster.nodes["a"].close()
        old = """
        table ip essaim {
          chain postrouting { type nat hook postrouting priority 99; }
        }
        table ip essaim-proxy {
          map vips { type ipv4_addr : ipv4_addr; elements = { 10.245.0.1 : 10.9.9.9 }; }
          chain prerouting {
            type nat hook prerouting priority -105;
            tcp dport 8080 dnat to 10.9.9.9;
          }
        }
        """
        cluster.lab.in_host("a", "nft", "-f", "-", given=old)
        await cluster.start("a")
        await cluster.task("a", "web-1", 11)
        assert await cluster.hear("outside", A_OUTSIDE, 8080) == f"web-1 {OUTSIDE}"
        assert "10.9.9.9" not in cluster.lab.in_host("a", "nft", "list", "ruleset")

    async def test_everything_goes_with_the_last_service_and_network(
        self, cluster: Cluster
    ) -> None:
        one = await cluster.task("a", "web-1", 11)
        underlay = "/proc/sys/net/ipv4/conf/under0/route_localnet"
        assert cluster.lab.in_host("a", "cat", underlay).strip() == "1"
        await cluster.end(one)
        await cluster.nodes["a"].detach(one)
        cluster.forget(one)
        cluster.services.clear()
        cluster.networks["a"].clear()
        await cluster.tell()
        assert cluster.lab.in_host("a", "cat", underlay).strip() == "0"
        for _ in range(LINGERING_CHECKS):
            assert (await cluster.nodes["a"].check()).mended == ()
        assert cluster.lab.traces("a") == []
