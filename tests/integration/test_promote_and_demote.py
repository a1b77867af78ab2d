"""Nodes become managers and workers: real processes, by our command line and docker's."""

import asyncio
import json
import os
from collections.abc import Iterator

import pytest
from support.docker_clients import docker_commands
from support.lab_cluster import Cluster
from support.labs import raised_lab

from essaim_master.node_roles import QUORUM_LOSS
from essaim_master.standby.app import NOT_A_MANAGER

pytestmark = [pytest.mark.lab, pytest.mark.timeout(180)]


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Masters on h1 to h3, one that stands by on h4, and an agent alone on h5; on loopback."""
    name = f"r{os.getpid()}"
    with raised_lab(name, 5, 3, standby_count=1, executor="process") as topology:
        yield Cluster(topology)


async def roles(cluster: Cluster, at: str = "h1") -> dict[str, str]:
    """What each host's master is, by the host."""
    done = await cluster.essaim("cluster", "members", "ls", "-o", "json", at=at)
    rows = json.loads(done.stdout) if done.code == 0 else []
    return {row["ID"].partition("-")[0]: row["Role"] for row in rows}


async def until_roles(cluster: Cluster, wanted: dict[str, str], at: str = "h1") -> None:
    async def is_so() -> bool:
        return await roles(cluster, at) == wanted

    await cluster.until(is_so, f"the masters are {wanted}")


def stands(**changed: str) -> dict[str, str]:
    return {"h1": "voter", "h2": "voter", "h3": "voter", "h4": "standby", **changed}


async def managers(cluster: Cluster, at: str) -> set[str]:
    nodes = await cluster.api("/nodes", at)
    return {node["Description"]["Hostname"] for node in nodes if "ManagerStatus" in node}


async def test_a_node_is_promoted_leads_and_is_demoted_again(cluster: Cluster) -> None:
    await until_roles(cluster, stands())
    await cluster.ok("service", "create", "--name", "web", "--replicas", "5", "any", "sleep", "600")
    before = {task["ID"] for task in await cluster.running("web")}

    listed = await cluster.essaim("node", "ls", "-q", at="h4")
    assert len(listed.lines) == 5, "the command line turns to the masters that it is told of"
    promoted = await cluster.ok("node", "promote", "h4", at="h2")
    assert promoted.stdout == "Node h4 promoted to a manager in the swarm.\n"
    await until_roles(cluster, stands(h4="voter"))
    again = await cluster.ok("node", "promote", "h4")
    assert again.stdout.endswith(" is already a manager.\n")

    # A leader goes that is asked itself: one of the first, and the one that came.
    first = await leader_of(cluster)
    if first == "h4":
        await cluster.ok("cluster", "transfer-leadership", "h2")
        first = "h2"
    demoted = await cluster.ok("node", "demote", first, at=first)
    assert demoted.stdout == f"Manager {first} demoted in the swarm.\n"
    await until_roles(cluster, stands(h4="voter", **{first: "standby"}), at="h4")
    await cluster.ok("node", "promote", first, at="h4")
    if await leader_of(cluster) != "h4":
        await cluster.ok("cluster", "transfer-leadership", await member_of(cluster, "h4"), at="h4")
    assert await leader_of(cluster) == "h4"
    await cluster.ok("node", "demote", "h4", at="h4")
    await until_roles(cluster, stands())
    demoted = await cluster.ok("node", "demote", "h4")
    assert demoted.stdout.endswith(" is already a worker.\n")
    assert await managers(cluster, "h1") == {"h1", "h2", "h3"}
    assert {task["ID"] for task in await cluster.running("web")} == before


async def leader_of(cluster: Cluster) -> str:
    """Asked at h4, which stays a master while it is."""
    led: list[str] = []

    async def is_led() -> bool:
        nodes = await cluster.api("/nodes", "h4") or ()
        led[:] = [
            node["Description"]["Hostname"]
            for node in nodes
            if (node.get("ManagerStatus") or {}).get("Leader")
        ]
        return bool(led)

    await cluster.until(is_led, "h4 knows a leader")
    return led[0]


async def member_of(cluster: Cluster, host: str) -> str:
    done = await cluster.ok("cluster", "members", "ls", "-o", "json", at=host)
    return next(row["ID"] for row in json.loads(done.stdout) if row["ID"].startswith(host))


@pytest.mark.slow
async def test_every_docker_command_promotes_and_demotes(cluster: Cluster) -> None:
    for client in docker_commands():
        await until_roles(cluster, stands(), at="h2")
        await promote_and_demote(cluster, client)
        await cluster.ok("node", "update", "--role", "manager", "--label-rm", "a", "h1", at="h2")


async def promote_and_demote(cluster: Cluster, client: str) -> None:
    at_standby = await cluster.docker_at_master("node", "ls", client=client, at="h4")
    assert at_standby.code == 1
    assert NOT_A_MANAGER in at_standby.stderr

    for words, sentence in (
        (("promote", "h4"), "Node h4 promoted to a manager in the swarm.\n"),
        (("demote", "h1", "h4"), "Manager h1 demoted in the swarm.\nManager h4 demoted in"),
        (("update", "--role", "manager", "h1"), "h1\n"),
        (("update", "--role", "worker", "--label-add", "a=b", "h1"), "h1\n"),
    ):
        done = await cluster.docker_at_master("node", *words, client=client, at="h2")
        assert (done.code, done.stderr) == (0, ""), words
        assert done.stdout.startswith(sentence)
    await until_roles(cluster, stands(h1="standby"), at="h2")
    node = await cluster.api("/nodes/" + await node_id(cluster, "h1"), "h2")
    assert (node["Spec"]["Role"], node["Spec"]["Labels"]) == ("worker", {"a": "b"})

    refused = await cluster.docker_at_master("node", "promote", "h5", client=client, at="h2")
    assert refused.code == 1
    assert "no essaim-master stands by on h5 (127.0.0.1)" in refused.stderr
    assert refused.stdout == ""


async def node_id(cluster: Cluster, host: str) -> str:
    nodes = await cluster.api("/nodes", "h2")
    return str(next(n["ID"] for n in nodes if n["Description"]["Hostname"] == host))


async def test_the_leader_dies_in_the_middle_and_the_next_one_finishes(cluster: Cluster) -> None:
    await until_roles(cluster, stands())
    leader = await cluster.leader()
    other = next(host for host in ("h1", "h2", "h3") if host != leader)
    await cluster.lab("kill", "h4", "master", "--signal", "STOP")  # it does not learn
    promoting = asyncio.create_task(cluster.essaim("node", "promote", "h4", at=leader))
    await until_roles(cluster, stands(h4="learner"), at=other)
    await cluster.lab("kill", leader, "master")
    assert (await promoting).code == 1
    await cluster.lab("kill", "h4", "master", "--signal", "CONT")
    await until_roles(cluster, stands(h4="voter"), at=other)
    await cluster.lab("start", leader, "master")
    again = await cluster.ok("node", "promote", "h4", at=leader)
    assert again.stdout.endswith(" is already a manager.\n")


@pytest.mark.slow
async def test_the_new_master_dies_as_it_begins_and_takes_part_later(cluster: Cluster) -> None:
    await until_roles(cluster, stands())
    record = cluster.topology.host("h4").data_dir / "master" / "standby.json"
    promoting = asyncio.create_task(cluster.essaim("node", "promote", "h4"))

    async def is_told() -> bool:
        return bool(json.loads(record.read_text())["takes_part"])

    await cluster.until(is_told, "it knows that it takes part")
    name = json.loads(record.read_text())["member_id"]
    await cluster.lab("kill", "h4", "master")
    await promoting  # it may have voted by then, or not
    await cluster.lab("start", "h4", "master")
    await until_roles(cluster, stands(h4="voter"))
    assert await member_of(cluster, "h4") == name
    await cluster.ok("service", "create", "--name", "web", "any", "sleep", "600", at="h4")


async def test_a_quorum_is_not_given_away_and_who_was_away_comes_back_standing_by(
    cluster: Cluster,
) -> None:
    await until_roles(cluster, stands())
    leader = await cluster.leader()
    silent, other = (host for host in ("h1", "h2", "h3") if host != leader)
    await cluster.lab("kill", silent, "master")

    async def is_refused() -> bool:
        done = await cluster.essaim("node", "demote", other, at=leader)
        assert done.code == 1, done.stdout
        return QUORUM_LOSS in done.stderr

    await cluster.until(is_refused, "the silence is noticed")
    assert await cluster.leader() == leader
    await cluster.ok("node", "demote", silent, at=leader)
    await cluster.lab("start", silent, "master")
    await until_roles(cluster, stands(**{silent: "standby"}), at=leader)
    kept = cluster.topology.host(silent).data_dir / "master" / "removed"
    assert [path.name for path in kept.iterdir()] == [f"1-{silent}"]
    await cluster.ok("node", "promote", silent, at=leader)
    await until_roles(cluster, stands(), at=leader)
