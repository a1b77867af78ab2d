"""Service addresses and published ports in a real kernel: who answers whom, and as whom."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from support.overlay_cluster import BLUE, INNER, Cluster

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
        cluster.mark("web-2", "draining")  # type: ignore[arg-type]
        await cluster.tell()
        assert await cluster.hear("outside", A_OUTSIDE, 8080) == f"web-1 {A}"


def chi_square(heard: dict[str, int], categories: int) -> float:
    assert len(heard) == categories, heard
    expected = sum(heard.values()) / categories
    return sum((count - expected) ** 2 / expected for count in heard.values())
