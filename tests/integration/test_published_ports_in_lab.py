"""Published ports on real engines: every node answers, near tasks first, clients known by name."""

import pytest
from support.lab_cluster import WEB, Cluster
from support.lab_networks import (
    asked_from_machine,
    asked_on_host,
    create_echo,
    create_web,
    spread,
)

pytestmark = [pytest.mark.lab, pytest.mark.timeout(180)]

PORT = 18_080
ON_H1_AND_H2 = ("--constraint", "node.hostname!=h3")
BOTH = ("--publish", f"{PORT}:8080", "--publish", f"{PORT}:8080/udp")


async def test_every_node_answers_and_near_tasks_see_who_asks(cluster: Cluster) -> None:
    replicas = await create_echo(cluster, "echo", *BOTH, *ON_H1_AND_H2, replicas=4)
    near = {
        host: {one.task_id[:12] for one in replicas if one.host == host} for host in ("h1", "h2")
    }
    assert all(len(found) == 2 for found in near.values())
    for kind in ("STREAM", "DGRAM"):
        for host in ("h1", "h2"):
            answers = await asked_from_machine(cluster, host, PORT, 40, kind)
            assert {one.by for one in answers} == near[host], "only the host's own tasks answer"
            assert {one.seen_from for one in answers} == {cluster.topology.machine_address}
        answers = await asked_from_machine(cluster, "h3", PORT, 80, kind)
        assert {one.by for one in answers} == near["h1"] | near["h2"], "h3 has none of its own"


async def test_a_node_answers_itself_on_localhost_and_by_its_address(cluster: Cluster) -> None:
    await create_echo(cluster, "echo", *BOTH, *ON_H1_AND_H2, replicas=2)
    for host in cluster.hosts:
        for address in ("127.0.0.1", host.address):
            for kind in ("STREAM", "DGRAM"):
                assert await asked_on_host(cluster, host.name, address, PORT, 4, kind)
    other = cluster.topology.host("h2").address
    assert await asked_on_host(cluster, "h1", other, PORT, 4)


async def test_local_tasks_share_connections_evenly(cluster: Cluster) -> None:
    await create_echo(
        cluster, "echo", "--publish", f"{PORT}:8080", "--constraint", "node.hostname==h1",
        replicas=4,
    )  # fmt: skip
    counts = spread(await asked_from_machine(cluster, "h1", PORT, 10_000))
    expected = 10_000 / 4
    assert len(counts) == 4
    # Chi-square with 3 degrees of freedom: 16.3 is passed once in a thousand times.
    assert sum((count - expected) ** 2 / expected for count in counts.values()) < 16.3, counts


async def test_a_client_can_be_kept_at_one_task(cluster: Cluster) -> None:
    await create_echo(
        cluster, "echo", "--publish", f"{PORT}:8080", "--session-affinity", "client-ip",
        "--constraint", "node.hostname==h1", replicas=3,
    )  # fmt: skip
    assert len(spread(await asked_from_machine(cluster, "h1", PORT, 100))) == 1


async def test_a_port_is_taken_once_and_free_again_with_its_service(cluster: Cluster) -> None:
    await create_web(cluster, "first", "--publish", f"{PORT}:80")
    second = ("service", "create", "-d", "--name", "second", "--publish", f"{PORT}:80", WEB)
    refused = await cluster.essaim(*second)
    assert refused.code == 1
    assert f"port '{PORT}' is already in use by service 'first'" in refused.stderr
    await cluster.ok("service", "rm", "first")
    await cluster.ok(*second)
    await cluster.until_running("second", 1)


async def test_ports_of_the_cluster_itself_are_refused(cluster: Cluster) -> None:
    for port in (cluster.hosts[0].bus_port, cluster.hosts[0].http_port):
        refused = await cluster.essaim(
            "service", "create", "-d", "--name", "bad", "--publish", f"{port}:80", WEB
        )
        assert refused.code == 1, port
        assert str(port) in refused.stderr


async def test_the_cluster_chooses_a_port_and_says_which(cluster: Cluster) -> None:
    await create_echo(cluster, "echo", "--publish", "8080", replicas=1)
    [service] = await cluster.api("/services")
    [port] = service["Endpoint"]["Ports"]
    assert 30_000 <= port["PublishedPort"] <= 32_767
    assert f"*:{port['PublishedPort']}->8080/tcp" in (await cluster.ok("service", "ls")).stdout
    for host in cluster.hosts:
        assert await asked_from_machine(cluster, host.name, port["PublishedPort"])
