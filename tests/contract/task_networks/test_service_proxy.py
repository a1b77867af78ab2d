"""Service addresses and published ports in a real kernel: who answers whom, and as whom."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
from support.overlay_cluster import BLUE, INNER, Cluster, listening

from essaim_shared.ids import TaskId
from essaim_shared.spec import PortConfig

pytestmark = pytest.mark.lab

A, B = "10.97.0.1", "10.97.0.2"
A_OUTSIDE, OUTSIDE = "192.0.2.1", "192.0.2.9"
RED_A = "10.244.0.1"
CHI_SQUARE_999 = {2: 10.83, 3: 13.82, 4: 16.27}
"""Upper bounds for so many categories at the level 0.1 % (NIST/SEMATECH e-Handbook, 1.3.6.7.4)."""


@pytest.fixture
async def cluster(lab: Any) -> AsyncIterator[Cluster]:
    made = Cluster(lab)
    for host in ("a", "b"):
        await made.start(host)
    try:
        yield made
    finally:
        await made.close()


class TestServiceAddresses:
    @pytest.mark.parametrize("protocol", ["tcp", "udp"])
    async def test_lead_to_tasks_on_this_node_and_on_others(
        self, cluster: Cluster, protocol: str
    ) -> None:
        vip = cluster.service()
        await cluster.task("a", "web-1", 11)
        await cluster.task("b", "web-2", 12)
        await cluster.task("a", "client", 20, service="client", serves=())
        port = 80 if protocol == "tcp" else 53
        heard = await cluster.ask("client", vip, port, protocol, count=40)
        assert heard.keys() == {"web-1 10.244.0.20", "web-2 10.244.0.20"}, "with their address"

    async def test_lead_a_task_to_itself_too(self, cluster: Cluster) -> None:
        vip = cluster.service()
        await cluster.task("a", "web-1", 11)
        assert await cluster.hear("web-1", vip) == f"web-1 {RED_A}"

    async def test_are_spread_evenly_over_all_tasks(self, cluster: Cluster) -> None:
        vip = cluster.service()
        for host, name, last in (("a", "web-1", 11), ("a", "web-2", 12), ("b", "web-3", 13)):
            await cluster.task(host, name, last)
        await cluster.task("a", "client", 20, service="client", serves=())
        heard = await cluster.ask("client", vip, 53, "udp", count=10_000, source=20_000)
        assert chi_square(heard, 3) < CHI_SQUARE_999[3], heard

    async def test_refuse_at_once_when_nobody_serves(self, cluster: Cluster) -> None:
        vip = cluster.service()
        await cluster.task("a", "client", 20, service="client", serves=())
        assert await cluster.hear("client", vip) == "refused"
        assert await cluster.hear("client", vip, 53, "udp") == "refused"

    async def test_count_only_on_their_own_network(self, cluster: Cluster) -> None:
        vip = cluster.service()
        await cluster.task("a", "web-1", 11)
        await cluster.task("a", "stranger", 20, [BLUE], service="other", serves=())
        assert await cluster.hear("stranger", vip) == "refused"
        assert (await cluster.hear("a", vip)) not in ("web-1 10.97.0.1", "web-1 10.244.0.1")

    async def test_lead_one_client_to_one_task_with_affinity(self, cluster: Cluster) -> None:
        vip = cluster.service(has_affinity=True)
        for host, name, last in (("a", "web-1", 11), ("b", "web-2", 12), ("b", "web-3", 13)):
            await cluster.task(host, name, last)
        answering = set()
        for i in range(6):
            client = await cluster.task("b", f"c-{i}", 20 + i, service="client", serves=())
            heard = await cluster.ask(client, vip, count=20)
            assert len(heard) == 1, heard
            answering |= {name.split()[0] for name in heard}
        assert len(answering) > 1

    async def test_work_on_internal_networks(self, cluster: Cluster) -> None:
        vip = cluster.service(network=INNER)
        await cluster.task("b", "web-1", 11, [INNER])
        await cluster.task("a", "client", 20, [INNER], service="client", serves=())
        assert await cluster.hear("client", vip) == "web-1 10.244.32.20"


class TestPublishedPorts:
    @pytest.mark.parametrize("protocol", ["tcp", "udp"])
    async def test_lead_to_local_tasks_with_the_client_s_address(
        self, cluster: Cluster, protocol: str
    ) -> None:
        target = 80 if protocol == "tcp" else 53
        cluster.service(ports=[(protocol, 8080, target)])
        await cluster.task("a", "web-1", 11)
        await cluster.task("b", "web-2", 12)
        heard = await cluster.ask("outside", A_OUTSIDE, 8080, protocol, count=20)
        assert heard == {f"web-1 {OUTSIDE}": 20}

    @pytest.mark.parametrize("protocol", ["tcp", "udp"])
    async def test_lead_through_a_node_without_a_task_as_that_node(
        self, cluster: Cluster, protocol: str
    ) -> None:
        target = 80 if protocol == "tcp" else 53
        cluster.service(ports=[(protocol, 8080, target)])
        await cluster.task("b", "web-1", 11)
        assert await cluster.hear("outside", A_OUTSIDE, 8080, protocol) == f"web-1 {A}"
        assert cluster.networks["a"] == set(), "the node is on no network"

    @pytest.mark.parametrize("protocol", ["tcp", "udp"])
    @pytest.mark.parametrize("host", ["a", "b"])
    async def test_answer_on_localhost_and_the_node_s_address_everywhere(
        self, cluster: Cluster, host: str, protocol: str
    ) -> None:
        target = 80 if protocol == "tcp" else 53
        cluster.service(ports=[(protocol, 8080, target)])
        await cluster.task("b", "web-1", 11)
        own = cluster.lab.underlay[host]
        for address in ("127.0.0.1", own):
            heard = await cluster.hear(host, address, 8080, protocol)
            assert heard.startswith("web-1 "), (address, heard)

    async def test_are_spread_evenly_over_the_local_tasks(self, cluster: Cluster) -> None:
        cluster.service(ports=[("udp", 5353, 53)])
        for name, last in (("web-1", 11), ("web-2", 12), ("web-3", 13)):
            await cluster.task("a", name, last)
        await cluster.task("b", "web-4", 14)
        heard = await cluster.ask("outside", A_OUTSIDE, 5353, "udp", count=10_000, source=20_000)
        assert chi_square(heard, 3) < CHI_SQUARE_999[3], heard

    @pytest.mark.parametrize("caller", ["web-1", "neighbour", "stranger", "remote"])
    async def test_are_reached_by_tasks_too(self, cluster: Cluster, caller: str) -> None:
        cluster.service(ports=[("tcp", 8080, 80)])
        await cluster.task("a", "web-1", 11)
        await cluster.task("a", "neighbour", 20, service="client", serves=())
        await cluster.task("a", "stranger", 21, [BLUE], service="client", serves=())
        await cluster.task("b", "remote", 22, [BLUE], service="client", serves=())
        for address in (A, B):
            heard = await cluster.hear(caller, address, 8080)
            assert heard.startswith("web-1 "), (address, heard)

    async def test_of_a_service_on_an_internal_network_answer(self, cluster: Cluster) -> None:
        cluster.service(network=INNER, ports=[("tcp", 8080, 80)])
        await cluster.task("a", "web-1", 11, [INNER])
        assert (await cluster.hear("outside", A_OUTSIDE, 8080)).startswith("web-1 ")
        assert (await cluster.hear("b", B, 8080)).startswith("web-1 ")

    async def test_refuse_when_nobody_serves(self, cluster: Cluster) -> None:
        cluster.service(ports=[("tcp", 8080, 80)])
        await cluster.task("a", "client", 20, service="client", serves=())
        assert await cluster.hear("outside", A_OUTSIDE, 8080) == "refused"
        assert await cluster.hear("a", "127.0.0.1", 8080) == "refused"
        assert await cluster.hear("client", A, 8080) == "refused"

    async def test_follow_their_tasks_from_node_to_node(self, cluster: Cluster) -> None:
        cluster.service(ports=[("tcp", 8080, 80)])
        await cluster.task("b", "web-1", 11)
        assert await cluster.hear("outside", A_OUTSIDE, 8080) == f"web-1 {A}"
        await cluster.task("a", "web-2", 12)
        assert await cluster.hear("outside", A_OUTSIDE, 8080) == f"web-2 {OUTSIDE}"
        cluster.mark(TaskId("web-2"), "draining")
        await cluster.tell()
        assert await cluster.hear("outside", A_OUTSIDE, 8080) == f"web-1 {A}"


class TestPortsThatSomebodyHas:
    @pytest.mark.parametrize("protocol", ["tcp", "udp"])
    async def test_are_left_to_the_process_that_has_them_until_it_ends(
        self, cluster: Cluster, protocol: str
    ) -> None:
        target = 80 if protocol == "tcp" else 53
        await cluster.task("a", "web-1", 11)
        with listening(cluster, "a", f"{protocol}/8080"):
            cluster.service(ports=[(protocol, 8080, target), ("tcp", 8081, 80)])
            await cluster.tell()
            assert await cluster.hear("outside", A_OUTSIDE, 8080, protocol) == f"a {OUTSIDE}"
            assert await cluster.hear("outside", A_OUTSIDE, 8081) == f"web-1 {OUTSIDE}"
            [problem] = (await cluster.nodes["a"].check()).problems
            assert problem.startswith(f"port 8080/{protocol} of service web is in use by another")
        checked = await cluster.nodes["a"].check()
        assert (checked.problems, checked.mended) == ((), ())
        assert await cluster.hear("outside", A_OUTSIDE, 8080, protocol) == f"web-1 {OUTSIDE}"

    async def test_cut_off_who_comes_later_and_that_is_said(self, cluster: Cluster) -> None:
        await cluster.task("a", "web-1", 11)
        cluster.service(ports=[("tcp", 8080, 80)])
        await cluster.tell()
        with listening(cluster, "a", "tcp/8080"):
            assert await cluster.hear("outside", A_OUTSIDE, 8080) == f"web-1 {OUTSIDE}"
            [problem] = (await cluster.nodes["a"].check()).problems
            assert problem.startswith("a process of this node listens on port 8080/tcp, which")
        assert (await cluster.nodes["a"].check()).problems == ()

    async def test_are_taken_all_the_same_when_they_are_forced(self, cluster: Cluster) -> None:
        await cluster.task("a", "web-1", 11)
        with listening(cluster, "a", "tcp/8080"):
            cluster.service(ports=[("tcp", 8080, 80)], is_forced=True)
            await cluster.tell()
            assert await cluster.hear("outside", A_OUTSIDE, 8080) == f"web-1 {OUTSIDE}"
            assert (await cluster.nodes["a"].check()).problems == ()

    async def test_are_the_task_s_that_has_them_on_this_node_alone(self, cluster: Cluster) -> None:
        cluster.service(ports=[("tcp", 8080, 80)])
        await cluster.task("b", "web-1", 11)
        own = PortConfig(target_port=80, published_port=8080, publish_mode="host")
        await cluster.task("a", "own", 12, service="own", ports=[own])
        assert await cluster.hear("outside", A_OUTSIDE, 8080) == f"own {OUTSIDE}"
        assert (await cluster.hear("b", B, 8080)).startswith("web-1 ")


class TestInForce:
    async def test_increments_leave_what_loading_anew_leaves(self, cluster: Cluster) -> None:
        """As the kernel lists it, of a history in which everything happens once."""
        for i in range(4):
            cluster.service(f"s{i}", vip=i + 1, ports=[("tcp", 8000 + i, 80)], has_affinity=i == 3)
        for i in range(4):
            await cluster.task("ab"[i % 2], f"t{i}", 11 + i, service=f"s{i}", serves=())
            await cluster.task("a", f"u{i}", 21 + i, service=f"s{i}", serves=())
        cluster.mark(TaskId("t0"), "draining")
        await cluster.tell()
        cluster.forget(TaskId("u1"))
        cluster.services = {s for s in cluster.services if s.name != "s2"}
        await cluster.tell()
        await cluster.task("a", "inner", 30, [INNER], service="inner", serves=())
        listed = rules(cluster)
        await cluster.nodes["a"].close()
        cluster.lab.in_host("a", "nft", "delete", "table", "ip", "essaim-proxy")
        cluster.lab.in_host("a", "nft", "delete", "table", "ip", "essaim")
        await cluster.start("a")
        await cluster.tell("a")
        assert rules(cluster) == listed
        assert (await cluster.nodes["a"].check()).mended == ()

    async def test_damage_is_told_and_mended(self, cluster: Cluster) -> None:
        vip = cluster.service(ports=[("tcp", 8080, 80)])
        await cluster.task("a", "web-1", 11)
        await cluster.nodes["a"].check()
        before = rules(cluster)
        for command, sentence in (
            (
                f"add rule ip essaim-proxy vip-{vip} drop",
                f"nft table essaim-proxy had besides: chain vip-{vip}: drop: loaded again",
            ),
            (
                "delete element ip essaim-proxy ports { tcp . 8080 }",
                "nft table essaim-proxy lacked: map ports: tcp . 8080 : goto port-tcp-8080: "
                "loaded again",
            ),
            ("flush chain ip essaim input", "nft table essaim lacked: chain input:"),
            ("delete table ip essaim-proxy", "nft table essaim-proxy was gone: loaded again"),
        ):
            cluster.lab.in_host("a", "nft", *command.split(" "))
            mended = (await cluster.nodes["a"].check()).mended
            assert any(told.startswith(sentence) for told in mended), (command, mended)
            assert rules(cluster) == before
            assert (await cluster.nodes["a"].check()).mended == ()
            assert await cluster.hear("outside", A_OUTSIDE, 8080) == f"web-1 {OUTSIDE}"

    async def test_a_change_finds_its_way_into_tables_that_somebody_flushed(
        self, cluster: Cluster
    ) -> None:
        cluster.service(ports=[("tcp", 8080, 80)])
        await cluster.task("a", "web-1", 11)
        cluster.lab.in_host("a", "nft", "flush", "ruleset")
        cluster.forget(TaskId("web-1"))
        await cluster.task("a", "web-2", 12)
        assert await cluster.hear("outside", A_OUTSIDE, 8080) == f"web-2 {OUTSIDE}"

    async def test_what_others_do_in_their_own_tables_mends_nothing(self, cluster: Cluster) -> None:
        cluster.service(ports=[("tcp", 8080, 80)])
        await cluster.task("a", "web-1", 11)
        cluster.lab.in_host("a", "nft", "add", "table", "ip", "theirs")
        cluster.lab.in_host("a", "iptables", "-A", "INPUT", "-p", "tcp", "-j", "ACCEPT")
        assert (await cluster.nodes["a"].check()).mended == ()

    async def test_no_client_notices_how_those_who_serve_come_and_go(
        self, cluster: Cluster
    ) -> None:
        """Through both nodes, with tables changed in part and loaded anew all the time."""
        cluster.service(ports=[("tcp", 8080, 80)])
        for host, name, last in (("a", "web-1", 11), ("a", "web-2", 12), ("b", "web-3", 13)):
            await cluster.task(host, name, last)
        names = [TaskId("web-1"), TaskId("web-2"), TaskId("web-3")]

        async def change(drained: TaskId) -> None:
            cluster.mark(drained, "draining")
            await cluster.tell()
            cluster.lab.in_host("a", "nft", "add", "chain", "ip", "essaim-proxy", "strange")
            assert (await cluster.nodes["a"].check()).mended
            cluster.mark(drained, "serving")
            await cluster.tell()

        for drained in [*names, *names]:
            *heard, _ = await asyncio.gather(
                cluster.ask("outside", A_OUTSIDE, 8080, count=400, timeout_s=3),
                cluster.ask("b", B, 8080, count=400, timeout_s=3),
                change(drained),
            )
            for counts in heard:
                assert {name.split()[0] for name in counts} <= set(names), counts
                assert sum(counts.values()) == 400


@pytest.mark.parametrize("underlay_mtu", [1500, 9000])
class TestLargePackets:
    async def test_pass_through_service_addresses_and_ports(
        self, lab: Any, underlay_mtu: int
    ) -> None:
        lab.in_host("a", "ip", "link", "set", "under0", "mtu", str(underlay_mtu))
        lab.in_host("b", "ip", "link", "set", "under0", "mtu", str(underlay_mtu))
        cluster = Cluster(lab, mtu=underlay_mtu - 50)
        for host in ("a", "b"):
            await cluster.start(host)
        try:
            vip = cluster.service(ports=[("tcp", 8080, 80), ("udp", 5353, 53)])
            await cluster.task("b", "web-1", 11)
            await cluster.task("a", "client", 20, service="client", serves=())
            for place, address, port in (("client", vip, 80), ("outside", A_OUTSIDE, 8080)):
                assert await fetch(cluster, place, address, port) == 5_000_000
            for place, address, port in (("client", vip, 53), ("outside", A_OUTSIDE, 5353)):
                assert (await echo(cluster, place, address, port)).startswith("web-1 "), place
        finally:
            await cluster.close()


async def fetch(cluster: Cluster, place: str, address: str, port: int) -> int:
    """How many of five million bytes arrive over TCP."""
    script = (
        f"import socket; c = socket.create_connection(({address!r}, {port}), timeout=5);"
        "c.recv(200); c.send(b'send 5000000\\n'); c.shutdown(socket.SHUT_WR); n = 0\n"
        "while d := c.recv(1 << 16): n += len(d)\n"
        "print(n)"
    )
    return int(await python(cluster, place, script))


async def echo(cluster: Cluster, place: str, address: str, port: int) -> str:
    """The answer to a datagram of many packets, which the network has to take apart."""
    script = (
        "import socket; c = socket.socket(type=socket.SOCK_DGRAM); c.settimeout(5);"
        f"c.connect(({address!r}, {port})); c.send(b'x' * 20_000); print(c.recv(200).decode())"
    )
    return await python(cluster, place, script)


async def python(cluster: Cluster, place: str, script: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *["nsenter", f"--net={cluster.namespace(place)}", sys.executable, "-c", script],
        stdout=asyncio.subprocess.PIPE,
    )
    said, _ = await process.communicate()
    return said.decode().strip()


def rules(cluster: Cluster) -> list[str]:
    """Of our tables, whatever order they were made in."""
    return sorted(
        line.strip()
        for table in ("essaim", "essaim-proxy")
        for line in cluster.lab.in_host("a", "nft", "-s", "list", "table", "ip", table).splitlines()
        if "elements" not in line and not line.strip().startswith('"')
    ) + sorted(elements(cluster))


def elements(cluster: Cluster) -> list[str]:
    found = json.loads(cluster.lab.in_host("a", "nft", "-j", "list", "ruleset"))["nftables"]
    return [
        f"{item[kind]['name']} {json.dumps(element)}"
        for item in found
        for kind in ("set", "map")
        if kind in item
        for element in item[kind].get("elem", ())
    ]


def chi_square(heard: dict[str, int], categories: int) -> float:
    assert len(heard) == categories, heard
    expected = sum(heard.values()) / categories
    return sum((count - expected) ** 2 / expected for count in heard.values())
