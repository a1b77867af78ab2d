"""Agents that are alone in some way: on a host without a master, or with another's identity."""

import asyncio
import os
import shutil
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from support.lab_cluster import WEB, Cluster, addresses
from support.labs import raised_lab
from support.packet_drop import dropped

from essaim_cli.lab.config_files import agent_config, bus_servers
from essaim_cli.lab.topology import Host

pytestmark = [pytest.mark.lab, pytest.mark.timeout(180)]

SILENCE_S = 8.0
"""Longer than the time after which a silent node is down, by a factor of two."""


# A cloned disk.


@asynccontextmanager
async def agent_with_disk_of(
    cluster: Cluster, original: Host, at: Host, directory: Path
) -> AsyncIterator[Path]:
    """A second agent on host `at`, started on a copy of another's disk, its identity included;
    yields its log."""
    shutil.copytree(original.data_dir / "agent", directory / "data")
    shutil.copytree(original.agent_identity_dir, directory / "identity")
    own = ("data_dir", "run_dir", "identity_dir", "node_name", "executor", "metrics_listen")
    lines = [
        line for line in agent_config(cluster.topology, at).splitlines() if not line.startswith(own)
    ]
    config = directory / "agent.toml"
    config.write_text(
        f'node_name = "clone"\nexecutor = "fake"\n'
        f'data_dir = "{directory / "data"}"\nrun_dir = "{directory / "run"}"\n'
        f'identity_dir = "{directory / "identity"}"\n' + "\n".join(lines)
    )
    log = directory / "agent.log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            "nsenter",
            f"--net={at.namespace_path}",
            sys.executable,
            "-m",
            "essaim_agent",
            "--config",
            str(config),
            stdout=output,
            stderr=output,
        )
    try:
        yield log
        assert process.returncode is None, "the clone goes on asking, it does not end"
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_a_second_machine_with_a_cloned_disk_is_refused_with_both_addresses(
    cluster: Cluster, tmp_path: Path
) -> None:
    await cluster.ok("service", "create", "--name", "web", "--replicas", "3", WEB)
    containers = await cluster.containers()
    original, at = cluster.topology.host("h2"), cluster.topology.host("h3")
    async with agent_with_disk_of(cluster, original, at, tmp_path) as log:

        async def refused() -> bool:
            return "refused by the leader" in log.read_text()

        await cluster.until(refused, "the clone is refused")
        (told, *_) = [line for line in log.read_text().splitlines() if "refused by the" in line]
        assert f"h2 at {original.address}" in told
        assert f"clone at {at.address}" in told
        assert "remove the agent's data directory" in told
        # Orders for the node reach both machines. The original obeys, the clone does not.
        await cluster.ok("service", "scale", "web=6")
        assert (await cluster.containers()).items() >= containers.items()
        assert "registered" not in log.read_text()
    nodes = await cluster.api("/nodes")
    assert {node["Description"]["Hostname"] for node in nodes} == {"h1", "h2", "h3"}
    assert [node["Status"]["State"] for node in nodes] == ["ready"] * 3
    assert {node["Status"]["Addr"] for node in nodes} == {host.address for host in cluster.hosts}


# A host with an agent only.


@pytest.fixture
def four_hosts() -> Iterator[Cluster]:
    """Three masters; h4 has an agent only, which begins with the bus server of h1."""
    with raised_lab(f"f{os.getpid()}", host_count=4, master_count=3) as topology:
        yield Cluster(topology)


@pytest.mark.slow
async def test_a_host_without_a_bus_server_loses_no_task_when_the_one_it_uses_is_cut_off_or_hangs(
    four_hosts: Cluster,
) -> None:
    cluster, clock = four_hosts, four_hosts.clock
    used = cluster.topology.host("h1")
    assert bus_servers(cluster.topology, cluster.topology.host("h4"))[0] == used.bus_url
    await cluster.ok("service", "create", "--name", "web", "--replicas", "8", WEB)
    tasks, containers = addresses(await cluster.running("web")), await cluster.containers()
    assert "h4" in containers.values()

    async def watch_for_losses() -> None:
        """The node never goes down, and nobody's task moves, for longer than it takes."""
        end_s = clock.monotonic_s() + SILENCE_S

        async def enough() -> bool:
            states = {
                node["Description"]["Hostname"]: node["Status"]["State"]
                for node in await cluster.api("/nodes") or ()
            }
            assert states["h4"] == "ready", "its agent is heard over another server"
            return clock.monotonic_s() > end_s

        await cluster.until(enough, "time has passed")
        assert addresses(await cluster.running("web")) == tasks
        assert await cluster.containers() == containers

    # The server answers its clients still, but no other server.
    async with dropped(used, [used.bus_route_port]):
        await watch_for_losses()
    await cluster.lab("kill", "h1", "bus", "--signal", "STOP")
    await watch_for_losses()
    # An order that it can only have received over another server.
    await cluster.ok("service", "scale", "web=12")
    assert list((await cluster.containers()).values()).count("h4") > list(
        containers.values()
    ).count("h4")
    await cluster.lab("start", "h1", "bus")
