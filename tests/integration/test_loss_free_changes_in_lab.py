"""What users of a published port notice of an update, a scale-down and a drain: nothing."""

import pytest
from support.connection_load import ConnectionLoad
from support.lab_cluster import Cluster
from support.lab_networks import create_echo

pytestmark = [pytest.mark.lab, pytest.mark.timeout(180)]

PORT = 18_080
CONNECTIONS_PER_S = 500
"""Through each of the three nodes."""


async def test_no_request_fails_while_tasks_are_replaced_removed_and_moved(
    cluster: Cluster,
) -> None:
    await create_echo(cluster, "echo", "--publish", f"{PORT}:8080", replicas=6)
    targets = [(host.address, PORT) for host in cluster.hosts]
    async with ConnectionLoad(targets, CONNECTIONS_PER_S, cluster.clock) as load:
        await cluster.ok(
            "service", "update", "-q", "--force", "--update-parallelism", "2",
            "--update-monitor", "0s", "echo",
        )  # fmt: skip
        assert load.failures == [], "rolling update"
        await cluster.ok("service", "scale", "-d", "echo=3")
        await cluster.until_running("echo", 3)
        assert load.failures == [], "scale-down"
        await cluster.ok("node", "update", "--availability", "drain", "h2")

        async def moved() -> bool:
            return "h2" not in set((await cluster.containers("echo")).values())

        await cluster.until(moved, "h2 is empty")
        await cluster.until_running("echo", 3)
        assert load.failures == [], "drain"
    assert load.failures == []
    assert load.count > CONNECTIONS_PER_S
