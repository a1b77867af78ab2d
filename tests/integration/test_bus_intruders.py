"""What must not be obeyed on a real bus: noise, cut-off messages, and a leader of yesterday.

Whoever has no credential does not get there; so it is done with those of the cluster's own: a
node's, and of a master that has lost its mind.
"""

import asyncio
import random
import sys
from pathlib import Path

import msgspec
import pytest
from support.identities import Identities
from support.lab_bus import agent_metrics, master_metrics, node_ids, on_the_bus
from support.lab_cluster import WEB, Cluster, addresses

from essaim_shared.clock import SystemClock
from essaim_shared.ids import NodeId
from essaim_shared.messages import Assignments, Heartbeat, Register, StatusReport, encode
from essaim_shared.nats_transport import NatsTransport
from essaim_shared.objects import NodeDescription
from essaim_shared.subjects import Subjects
from essaim_shared.trust.roles import Role

pytestmark = [pytest.mark.lab, pytest.mark.timeout(180)]

REJECTED = "malformed message ignored"
STOP_ALL = Assignments(term=1, sequence=1, full=True)


def noise(rng: random.Random, sample: bytes) -> list[bytes]:
    """Bytes that are no message, though some begin like one."""
    return [
        b"",
        rng.randbytes(200),
        sample[:-1],
        b"\x92\x63" + sample[2:],  # wire version 99
        msgspec.msgpack.encode([1, {"type": "nosuch"}]),
        msgspec.msgpack.encode([1, {"type": "assignments", "term": "high"}]),
        b"\xdd\xff\xff\xff\xff",  # an array of 4 thousand million items, none of which follows
        b"\x81" * 5000,  # a map within a map within a map …
    ]


async def test_noise_on_every_subject_changes_nothing_and_is_counted(cluster: Cluster) -> None:
    seed = random.SystemRandom().getrandbits(32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    await cluster.ok("service", "create", "--name", "web", "--replicas", "3", WEB)
    tasks, containers = addresses(await cluster.running("web")), await cluster.containers()
    leader = cluster.topology.host(await cluster.leader())
    log = leader.log_file("master")
    logged_before = log.read_text().count(REJECTED)
    before = await master_metrics(leader)
    victims = await node_ids(cluster)
    heard_before = {host.name: await agent_metrics(host) for host in cluster.hosts}
    beat = encode(Heartbeat(node_id=NodeId("nobody"), session="", term=0, sequence=0))
    order = encode(STOP_ALL)
    thief, insane = cluster.hosts[0].agent_identity_dir, cluster.hosts[0].master_identity_dir
    async with on_the_bus(cluster.topology, thief) as (bus, subjects):
        own = NodeId(victims["h1"])
        kinds = (subjects.register, subjects.heartbeat, subjects.status, subjects.sync)
        asked = [kind(own) for kind in kinds]
        for payload in noise(rng, beat):
            for subject in (*asked, subjects.figures(own), subjects.network_report(own)):
                await bus.publish(subject, payload)
        # Every one is well-formed, and stands where another kind is expected.
        for subject in asked:
            await bus.publish(subject, order)
    async with on_the_bus(cluster.topology, insane) as (bus, subjects):
        wrong = [*noise(rng, order), beat]
        for node_id in victims.values():
            for payload in wrong:
                await bus.publish(subjects.assignments(NodeId(node_id)), payload)

        async def agents_counted() -> bool:
            for host in cluster.hosts:
                metric = "essaim_agent_malformed_messages_total"
                counted = (await agent_metrics(host))[metric] - heard_before[host.name][metric]
                assert counted <= len(wrong)
                if counted < len(wrong):
                    return False
            return True

        await cluster.until(agents_counted, f"each agent has counted {len(wrong)} messages")

        async def master_said_so() -> bool:
            return log.read_text().count(REJECTED) > logged_before

        await cluster.until(master_said_so, "the leader's log tells of the noise")
    await cluster.ok("service", "scale", "web=4")
    assert addresses(await cluster.running("web")).items() >= tasks.items()
    assert (await cluster.containers()).items() >= containers.items()
    after = await master_metrics(leader)
    assert after["essaim_master_raft_term"] == before["essaim_master_raft_term"]
    assert set(await node_ids(cluster)) == {"h1", "h2", "h3"}


async def test_who_has_no_credential_does_not_get_there_and_who_has_one_is_himself(
    cluster: Cluster, tmp_path: Path
) -> None:
    servers = [host.bus_url for host in cluster.topology.bus_hosts]
    stranger = NatsTransport(servers, "stranger", SystemClock(), random.Random())
    await stranger.open()
    assert stranger.server is None
    await stranger.close()
    clock = SystemClock()
    forged = Identities(tmp_path, clock.wall_ns())
    forged.tls("h1", Role.MASTER, cluster_id=cluster.topology.name)
    with pytest.raises(AssertionError, match="no bus server"):
        async with on_the_bus(cluster.topology, tmp_path / "essaim-master-h1"):
            pass
    ids = await node_ids(cluster)
    ghost = NodeId("ghost")
    described = NodeDescription(
        hostname="ghost",
        address="10.9.8.7",
        architecture="x86_64",
        nano_cpus=1,
        memory_bytes=1,
        engine_version="",
    )
    thief = cluster.hosts[0].agent_identity_dir
    async with on_the_bus(cluster.topology, thief) as (bus, subjects):
        own = NodeId(ids["h1"])
        request = encode(Register(node_id=ghost, description=described))
        await bus.publish(subjects.register(ghost), request)
        await bus.publish(subjects.register(own), request)
        await bus.publish(subjects.assignments(NodeId(ids["h2"])), encode(STOP_ALL))
        report = StatusReport(node_id=own, session="x", statuses=())
        assert b"refused" in await bus.request(subjects.status(own), encode(report), 5.0)
    assert bus.forbidden_count == 2
    logs = "".join(host.log_file("bus").read_text() for host in cluster.topology.bus_hosts)
    assert "Publish Violation" in logs
    await cluster.ok("service", "create", "--name", "web", WEB)
    assert set(await node_ids(cluster)) == {"h1", "h2", "h3"}


async def test_the_late_orders_of_a_deposed_leader_are_refused(cluster: Cluster) -> None:
    """It would have had every task stopped: a full set in which there is none."""
    await cluster.ok("service", "create", "--name", "web", "--replicas", "3", WEB)
    deposed = await cluster.leader()
    yesterday = int(
        (await master_metrics(cluster.topology.host(deposed)))["essaim_master_raft_term"]
    )
    await cluster.lab("kill", deposed, "master")

    async def another_leads() -> bool:
        return await cluster.leader() != deposed

    await cluster.until(another_leads, "another master leads")
    ids = await node_ids(cluster)
    leader = cluster.topology.host(await cluster.leader())
    # An order that only the new leader can have given: every agent has heard the new term.
    await cluster.ok("service", "scale", "web=9", at=leader.name)
    tasks = addresses(await cluster.running("web", leader.name))
    containers = await cluster.containers()
    assert set(containers.values()) == set(ids)
    before = {host.name: await agent_metrics(host) for host in cluster.hosts}
    deposed_dir = cluster.topology.host(deposed).master_identity_dir
    async with on_the_bus(cluster.topology, deposed_dir) as (bus, subjects):
        for sequence, node_id in enumerate(ids.values(), start=1_000_000):
            late = Assignments(term=yesterday, sequence=sequence, full=True)
            await bus.publish(subjects.assignments(NodeId(node_id)), encode(late))

        async def refused() -> bool:
            metric = "essaim_agent_deposed_messages_total"
            for host in cluster.hosts:
                if (await agent_metrics(host))[metric] != before[host.name][metric] + 1:
                    return False
            return True

        await cluster.until(refused, "every agent has refused the order, and counted it")
    # An order of the present leader comes later than that one, and is obeyed.
    await cluster.ok("service", "scale", "web=10", at=leader.name)
    assert (await cluster.containers()).items() >= containers.items()
    assert addresses(await cluster.running("web", leader.name)).items() >= tasks.items()


async def test_a_node_that_floods_is_off_the_whole_bus_until_it_is_let_in_again(
    cluster: Cluster,
) -> None:
    ids = await node_ids(cluster)
    before = judged_down(cluster, ids)
    thief = cluster.topology.host("h3").agent_identity_dir
    subject = Subjects(cluster.topology.name).heartbeat(NodeId(ids["h3"]))
    # Not by the server of its own host: each master looks at the one beside it.
    url = cluster.topology.host("h2").bus_url
    flooder = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "support.flooder", url, str(thief), subject, "16"),
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[1],
    )
    assert flooder.stdout is not None
    try:
        assert await flooder.stdout.readline() == b"flooding\n"
        began_s = cluster.clock.monotonic_s()
        assert b"cut off" in await asyncio.wait_for(flooder.stdout.readline(), 20)
        took_s = cluster.clock.monotonic_s() - began_s
    finally:
        if flooder.returncode is None:
            flooder.kill()
        await flooder.wait()
    print(f"cut off after {took_s:.2f} s")
    assert took_s <= 2.0

    async def is_out() -> bool:
        return await statuses(cluster) == {"h1": "Ready", "h2": "Ready", "h3": "Down (suspended)"}

    await cluster.until(is_out, "h3 is down and suspended, and the others are not")
    after = judged_down(cluster, ids)
    assert {host: after[host] - before[host] for host in ids} == {"h1": 0, "h2": 0, "h3": 1}
    await cluster.ok("node", "readmit", "h3")

    async def is_in() -> bool:
        return set((await statuses(cluster)).values()) == {"Ready"}

    await cluster.until(is_in, "h3 is ready again")


def judged_down(cluster: Cluster, ids: dict[str, str]) -> dict[str, int]:
    """How often the masters say that they have found each host's node to be down."""
    logs = "".join(host.log_file("master").read_text() for host in cluster.topology.masters)
    return {host: logs.count(f"node is down node={node_id}") for host, node_id in ids.items()}


async def statuses(cluster: Cluster) -> dict[str, str]:
    listed = await cluster.ok("node", "ls", "--format", "{{.Hostname}} {{.Status}}")
    return dict(line.split(" ", 1) for line in listed.lines)
