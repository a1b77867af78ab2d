"""What must not be obeyed on a real bus: noise, cut-off messages, and a leader of yesterday."""

import random

import msgspec
import pytest
from support.lab_bus import GHOST, agent_metrics, master_metrics, node_ids, on_the_bus
from support.lab_cluster import WEB, Cluster, addresses

from essaim_shared.ids import NodeId
from essaim_shared.messages import Assignments, Heartbeat, Register, StatusReport, encode
from essaim_shared.objects import NodeDescription

pytestmark = [pytest.mark.lab, pytest.mark.timeout(180)]

REJECTED = "malformed message ignored"


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
    order = encode(Assignments(term=1, sequence=1, full=True))
    async with on_the_bus(cluster.topology) as (bus, subjects):
        kinds = (subjects.register, subjects.heartbeat, subjects.status, subjects.sync)
        asked = [kind(GHOST) for kind in kinds]
        for payload in noise(rng, beat):
            for subject in (*asked, subjects.figures(NodeId(victims["h1"]))):
                await bus.publish(subject, payload)
        # Every one is well-formed, and stands where another kind is expected.
        for subject in asked:
            await bus.publish(subject, order)
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


async def test_requests_of_a_stranger_are_refused_without_a_trace_in_the_state(
    cluster: Cluster,
) -> None:
    async with on_the_bus(cluster.topology) as (bus, subjects):
        beat = encode(Heartbeat(node_id=GHOST, session="x", term=0, sequence=0))
        report = encode(StatusReport(node_id=GHOST, session="x", statuses=()))
        for subject, payload in (
            (subjects.heartbeat(GHOST), beat),
            (subjects.status(GHOST), report),
        ):
            answer = await bus.request(subject, payload, 5.0)
            assert b"refused" in answer
        described = NodeDescription(
            hostname="ghost",
            address="",
            architecture="x86_64",
            nano_cpus=1,
            memory_bytes=1,
            engine_version="",
        )
        await bus.publish(
            subjects.register(GHOST), encode(Register(node_id=GHOST, description=described))
        )
        await bus.publish(
            subjects.register(GHOST),
            encode(Register(node_id=NodeId("a.b c/../*"), description=described)),
        )
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
    async with on_the_bus(cluster.topology) as (bus, subjects):
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
