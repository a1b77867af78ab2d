"""The whole leader: services run, nodes come and go, messages get lost, leaders change."""

import asyncio
from contextlib import suppress

import pytest
from msgspec.structs import replace
from support.trusted_state import identity_of

from essaim_master.kv.commands import Transaction, TransactionResult
from essaim_master.state.cluster import LocalCluster, Member
from essaim_master.state.keys import LEADER_KEY, ingress_port_key, service_key
from essaim_master.state.service_changes import changed_service
from essaim_master.state.writes import Writes
from essaim_shared.container_spec import ContainerSpec
from essaim_shared.errors import InvalidRequest, OutcomeUnknown
from essaim_shared.ids import MemberId, NodeId
from essaim_shared.messages import (
    Heartbeat,
    Refused,
    Register,
    StatusAck,
    StatusReport,
    SyncRequest,
    encode,
)
from essaim_shared.objects import IngressPort, LeaderEpoch
from essaim_shared.spec import EndpointSpec, PortConfig, RestartPolicy, UpdateConfig
from essaim_shared.subjects import Subjects
from essaim_shared.task_state import TaskState
from essaim_shared.trust.roles import Role
from essaim_shared.trust_objects import TrustAnchors

CLUSTER = "test"
SUBJECTS = Subjects(CLUSTER)


async def test_first_leader_founds_the_cluster(bench):
    assert bench.state.leader_epoch == LeaderEpoch(member_id=MemberId("m1"), term=1)
    assert bench.state.cluster.id == CLUSTER
    default, host = bench.state.networks.values()
    assert (default.name, default.subnet, default.vni) == ("default", "10.1.0.0/24", 70_001)
    assert default.vip_subnet == "10.160.0.0/20"
    assert (host.name, host.driver, host.subnet) == ("host", "host", "")


async def test_service_runs_on_the_agents_without_any_time_passing(bench):
    await bench.start_agents()
    await bench.run(1)
    web = await bench.create(6)
    await bench.clock.advance(0)  # the clock stands still; only the event loop turns
    for _ in range(50):
        await asyncio.sleep(0)
    assert bench.is_in_order(web)
    assert [len(agent.running()) for agent in bench.agents] == [2, 2, 2]


async def test_agents_know_everything_on_their_networks(bench):
    await bench.start_agents()
    web = await bench.create(6)
    await bench.until(lambda: bench.is_in_order(web))
    everything = set(bench.state.addresses(next(iter(bench.state.networks))))
    for agent in bench.agents:
        assert set(agent.endpoints) == everything
        assert list(agent.serving.values()).count("serving") == 6
        assert [service.name for service in agent.services] == ["web"]
        assert agent.nodes == {"192.168.0.1", "192.168.0.2", "192.168.0.3"}


async def test_scaling_down_and_up(bench):
    await bench.start_agents()
    web = await bench.create(9)
    await bench.until(lambda: bench.is_in_order(web))
    await bench.scale(web, 2)
    await bench.until(lambda: bench.is_in_order(web))
    await bench.until(lambda: len(bench.state.tasks) == 2)
    await bench.scale(web, 5)
    await bench.until(lambda: bench.is_in_order(web))


async def test_cut_off_node_is_replaced_within_the_silence_and_heals(bench):
    await bench.start_agents()
    web = await bench.create(6)
    await bench.until(lambda: bench.is_in_order(web))
    bench.bus.cut_client("agent-192.168.0.3")
    took_s = await bench.until(
        lambda: (
            {t.node_id for t in bench.seen_running(web)} == {"n1", "n2"}
            and len(bench.seen_running(web)) == 6
        )
    )
    assert took_s <= 5.0
    assert len(bench.agents[2].running()) == 2, "a cut-off node keeps its tasks"
    bench.bus.heal_client("agent-192.168.0.3")
    await bench.until(lambda: not bench.agents[2].running() and bench.is_in_order(web))
    assert bench.state.node_status[NodeId("n3")].state == "ready"
    assert len(bench.state.gateways) == 2


async def test_nothing_is_moved_when_the_bus_is_gone_for_most(bench):
    await bench.start_agents()
    web = await bench.create(3)
    await bench.until(lambda: bench.is_in_order(web))
    before = dict(bench.state.tasks)
    for number in (2, 3):
        bench.bus.cut_client(f"agent-192.168.0.{number}")
    await bench.run(15)
    assert dict(bench.state.tasks) == before
    assert [s.state for s in bench.state.node_status.values()].count("unknown") == 2
    for number in (2, 3):
        bench.bus.heal_client(f"agent-192.168.0.{number}")
    await bench.until(lambda: all(s.state == "ready" for s in bench.state.node_status.values()))
    assert bench.is_in_order(web)


async def test_deaf_leader_moves_nothing(bench):
    await bench.start_agents()
    web = await bench.create(3)
    await bench.until(lambda: bench.is_in_order(web))
    before = dict(bench.state.tasks)
    bench.bus.cut_client("master")
    await bench.run(30)
    bench.bus.heal_client("master")
    await bench.run(5)
    assert dict(bench.state.tasks) == before
    assert {s.state for s in bench.state.node_status.values()} == {"ready"}


async def test_lost_difference_is_noticed_from_the_heartbeat(bench):
    await bench.start_agents()
    await bench.run(1)
    bench.bus.loss = 1.0
    web = await bench.create(3)
    for _ in range(30):
        await asyncio.sleep(0)
    bench.bus.loss = 0.0
    assert not any(agent.tasks for agent in bench.agents)
    await bench.until(lambda: bench.is_in_order(web), limit_s=3)


async def test_everything_arrives_over_a_lossy_bus(bench):
    await bench.start_agents()
    bench.bus.loss = 0.05
    web = await bench.create(12)
    await bench.until(lambda: len(bench.seen_running(web)) == 12, limit_s=60)
    await bench.scale(web, 4)
    await bench.until(lambda: len(bench.state.tasks) == 4, limit_s=60)
    bench.bus.loss = 0.0
    await bench.until(lambda: bench.is_in_order(web), limit_s=30)


async def test_failed_task_is_replaced_after_its_delay(bench):
    await bench.start_agents()
    web = await bench.create(1)
    await bench.until(lambda: bench.is_in_order(web))
    (task,) = bench.seen_running(web)
    agent = next(a for a in bench.agents if a.node_id == task.node_id)
    agent.end(task.id)
    await bench.until(lambda: len(bench.state.tasks) == 2)
    took_s = await bench.until(lambda: len(bench.seen_running(web)) == 1)
    assert 4.8 <= took_s <= 5.3
    (replacement,) = bench.seen_running(web)
    assert replacement.failures == 1


async def test_removed_node_must_register_again(bench):
    await bench.start_agents()
    await bench.remove_node(NodeId("n1"))
    assert NodeId("n1") not in bench.state.nodes
    await bench.until(lambda: NodeId("n1") in bench.state.nodes)


async def test_clone_is_refused_and_both_addresses_are_named(bench):
    await bench.start_agents()
    clone = bench.add_agent("n1", "192.168.0.99", instance="other boot")
    await bench.until(lambda: bool(clone.refusals))
    assert "192.168.0.1" in clone.refusals[0]
    assert "192.168.0.99" in clone.refusals[0]
    await bench.run(10)
    assert clone.session is None
    assert bench.state.node_status[NodeId("n1")].description.address == "192.168.0.1"


async def test_new_leader_refuses_the_clone_as_well(bench):
    await bench.start_agents()
    web = await bench.create(3)
    await bench.until(lambda: bench.is_in_order(web))
    bench.bus.cut_client("agent-192.168.0.1")
    bench.cluster.lead(False, 1)
    bench.cluster.lead(True, 2)
    clone = bench.add_agent("n1", "192.168.0.99", instance="other boot")
    await bench.until(lambda: bool(clone.refusals))
    assert clone.session is None
    # The silence of the real one ends its claim.
    await bench.until(lambda: clone.session is not None)


async def test_new_term_finds_everything_as_it_was(bench):
    await bench.start_agents()
    web = await bench.create(6)
    await bench.until(lambda: bench.is_in_order(web))
    before = dict(bench.state.tasks)
    bench.cluster.lead(False, 1)
    await bench.run(2)
    bench.cluster.lead(True, 5)
    await bench.until(lambda: all(agent.term == 5 for agent in bench.agents))
    await bench.run(10)
    assert dict(bench.state.tasks) == before
    assert bench.is_in_order(web)


async def test_no_leader_serves_no_requests(bench):
    await bench.start_agents()
    bench.cluster.lead(False, 1)
    await bench.run(1)
    registered = [client.queues for client in bench.bus._clients if client.name == "master"]
    assert registered == [{}]


class SecondMaster(LocalCluster):
    """Another master over the same state: what it commits, everybody has."""

    def __init__(self, clock, first):
        super().__init__(clock, Member(MemberId("m2"), "", ""))
        self.state = first.state
        self._first = first

    async def commit(self, transaction: Transaction, timeout_s: float) -> TransactionResult:
        return await self._first.commit(transaction, timeout_s)


async def test_deposed_leader_changes_nothing_and_commands_nobody(bench, caplog):
    await bench.start_agents()
    web = await bench.create(3)
    await bench.until(lambda: bench.is_in_order(web))
    # A second master is elected, and the first one does not hear of it.
    second = SecondMaster(bench.clock, bench.cluster)
    second.lead(True, 9)
    bench.start_leader(second, "master-2")
    await bench.until(lambda: bench.state.leader_epoch.term == 9)
    epoch_revision = bench.state.modified(LEADER_KEY)
    await bench.scale(web, 9)
    await bench.until(lambda: len(bench.seen_running(web)) == 9)
    await bench.run(10)
    assert len(bench.state.tasks) == 9, "both leaders saw the change, one of them acted"
    assert bench.state.leader_epoch.member_id == "m2"
    assert bench.state.modified(LEADER_KEY) == epoch_revision, "the first one does not come back"
    for agent in bench.agents:
        assert agent.term == 9
        terms = [message.term for message in agent.messages]
        assert terms == sorted(terms), "after the first word of the new leader none of the old one"
    assert len([r for r in caplog.records if "interrupted" in r.message]) == 1


class DoubtfulCluster(LocalCluster):
    """Applies a transaction and then says that the outcome is unknown, `doubts` times."""

    doubts = 0

    async def commit(self, transaction: Transaction, timeout_s: float) -> TransactionResult:
        result = await super().commit(transaction, timeout_s)
        if self.doubts > 0 and any(each.key.startswith(b"/tasks") for each in transaction.then):
            self.doubts -= 1
            raise OutcomeUnknown("the answer was lost")
        return result


class RivalCluster(LocalCluster):
    """Somebody else's claim of the port comes just before the first rollback that wants it."""

    rivals = 1

    async def commit(self, transaction: Transaction, timeout_s: float) -> TransactionResult:
        keys = {each.key for each in transaction.then}
        if self.rivals and {ingress_port_key("tcp", 80), service_key("web")} <= keys:
            self.rivals -= 1
            writes = Writes()
            writes.put(IngressPort(protocol="tcp", number=80, service_id="gone"))
            (rival,) = writes.transactions()
            assert (await super().commit(rival, timeout_s)).succeeded
        return await super().commit(transaction, timeout_s)


async def test_a_rollback_that_another_change_of_its_port_overtook_is_made_after_all(make_bench):
    bench = await make_bench(RivalCluster)
    await bench.start_agents(1)
    await bench.create(1)
    service = bench.state.services["web"]
    published = EndpointSpec(ports=(PortConfig(target_port=80, published_port=80),))
    former = replace(service.spec, endpoint=published)
    update = UpdateConfig(parallelism=1, failure_action="rollback", monitor=10**10)
    bad = replace(service.spec.task, container=ContainerSpec(image="bad"))
    spec = replace(service.spec, update_config=update, task=bad)
    changed = changed_service(replace(service, spec=former), spec, bench.clock.wall_ns())
    await bench.until(lambda: bench.is_in_order("web"))
    (old,) = bench.seen_running("web")
    await bench.write(changed)
    await bench.until(lambda: any(t.id != old.id for t in bench.seen_running("web")))
    (new,) = bench.seen_running("web")
    bench.agents[0].end(new.id)
    took_s = await bench.until(lambda: bench.state.services["web"].spec.endpoint == published)
    assert (bench.cluster.rivals, took_s < 1) == (0, True), "it does not wait for what comes next"
    await bench.until(lambda: bench.is_in_order("web"))
    assert bench.state.ingress_ports["tcp/80"].service_id == "web"


async def test_unknown_outcome_makes_no_doubles(make_bench):
    bench = await make_bench(DoubtfulCluster)
    await bench.start_agents()
    bench.cluster.doubts = 1
    first_epoch = bench.state.modified(LEADER_KEY)
    web = await bench.create(6)
    await bench.until(lambda: bench.is_in_order(web))
    assert bench.cluster.doubts == 0
    assert bench.state.modified(LEADER_KEY) > first_epoch, "an epoch anew fences what was under way"
    assert len(bench.state.tasks) == 6


async def test_without_quorum_nothing_is_acknowledged_and_later_all_is_well(bench):
    await bench.start_agents()
    web = await bench.create(3)
    await bench.until(lambda: bench.is_in_order(web))
    bench.cluster.available = False
    agent = bench.agents[0]
    (task_id,) = agent.running()
    agent.end(task_id)
    await bench.run(5)
    assert task_id in agent.unreported
    bench.cluster.available = True
    await bench.until(lambda: bench.is_in_order(web), limit_s=30)
    assert bench.state.observed(task_id) is TaskState.FAILED


@pytest.mark.parametrize(
    "payload", [b"", b"\xc1", b"\x92\x01\x80", b"hello", b"\x92\x63\x81\xa4type\xa4echo"]
)
async def test_malformed_frames_are_counted_and_harm_nobody(bench, payload, caplog):
    await bench.start_agents()
    stranger = bench.bus.client("stranger")
    for subject in (
        SUBJECTS.register(NodeId("n1")),
        SUBJECTS.heartbeat(NodeId("n1")),
        SUBJECTS.status(NodeId("n1")),
        SUBJECTS.sync(NodeId("n1")),
        SUBJECTS.applied(NodeId("n1")),
    ):
        await stranger.publish(subject, payload)
    await stranger.publish(SUBJECTS.echo(MemberId("m1")), payload)
    await bench.run(0.1)
    assert bench.leader.rejects.count == 5
    assert len([r for r in caplog.records if "malformed" in r.message]) == 1
    web = await bench.create(3)
    await bench.until(lambda: bench.is_in_order(web))


@pytest.mark.parametrize("node_id", ["", "a/b", "a.b", "*", "x" * 65, "n 1"])
async def test_ids_that_would_break_keys_or_subjects_are_refused(bench, node_id):
    description = bench.add_agent("n9", "192.168.0.9").description
    stranger = bench.bus.client("stranger")
    payload = encode(Register(node_id=NodeId(node_id), description=description))
    await stranger.publish(SUBJECTS.register(NodeId("n9")), payload)
    with suppress(InvalidRequest):  # some of them no subject can name
        await stranger.publish(SUBJECTS.register(NodeId(node_id)), payload)
    await bench.run(0.1)
    assert bench.leader.rejects.count == (2 if node_id in ("a/b", "x" * 65) else 1)
    assert set(bench.state.nodes) <= {"n9"}


async def test_a_node_that_speaks_in_anothers_name_is_not_heard(bench):
    await bench.start_agents(2)
    thief, victim = bench.agents
    before = bench.leader.rejects.count
    for message, subject in (
        (Register(node_id=victim.node_id, description=thief.description), SUBJECTS.register),
        (StatusReport(node_id=victim.node_id, session="", statuses=()), SUBJECTS.status),
        (SyncRequest(node_id=victim.node_id, session=""), SUBJECTS.sync),
    ):
        asked = thief.request(subject(thief.node_id), message, StatusAck)
        answer, _ = await asyncio.gather(asked, bench.run(1))
        assert answer is None
    assert bench.leader.rejects.count == before + 3


async def test_an_answer_goes_to_the_inbox_of_who_asked_and_nowhere_else(bench):
    """Else a node could have the leader say something on any subject that masters may use."""
    await bench.start_agents(2)
    thief, victim = bench.agents
    heard = []

    async def hear(delivery):
        heard.append(delivery.subject)

    beat = Heartbeat(node_id=thief.node_id, session="", term=0, sequence=0)
    own = f"{SUBJECTS.inbox(thief.node_id)}.x"
    places = SUBJECTS.assignments(victim.node_id), f"{SUBJECTS.inbox(victim.node_id)}.x", own
    for place in places:
        await victim.transport.subscribe(place, hear)
        subject = SUBJECTS.heartbeat(thief.node_id)
        assert bench.bus.route(thief.transport, subject, encode(beat), place)
    await bench.run(1)
    assert heard == [own]


async def commit(bench, writes):
    for transaction in writes.transactions():
        await bench.cluster.commit(transaction, 1.0)


@pytest.mark.parametrize("how", ["removed", "suspended"])
async def test_who_was_shut_out_is_not_heard_though_a_bus_server_still_lets_it_in(bench, how):
    await bench.start_agents(2)
    await bench.run(1)
    writes = Writes()
    writes.put(TrustAnchors(believed=(), signing=b"", sealed_key=b""))
    for agent in bench.agents:
        writes.put(identity_of(Role.AGENT, agent.node_id))
    await commit(bench, writes)
    await bench.run(5)
    assert {status.state for status in bench.state.node_status.values()} == {"ready"}
    out, stays = bench.agents
    writes = Writes()
    if how == "removed":
        writes.delete_identity(Role.AGENT, out.node_id)
    else:
        writes.put(identity_of(Role.AGENT, out.node_id, suspended="it floods the bus"))
    await commit(bench, writes)
    await bench.until(lambda: bench.state.node_status[out.node_id].state == "down", limit_s=8)
    assert bench.state.node_status[stays.node_id].state == "ready"
    writes = Writes()
    writes.put(identity_of(Role.AGENT, out.node_id))
    await commit(bench, writes)
    await bench.until(lambda: bench.state.node_status[out.node_id].state == "ready", limit_s=8)


async def test_reports_under_an_old_session_are_refused(bench):
    await bench.start_agents(1)
    agent = bench.agents[0]
    report = StatusReport(node_id=agent.node_id, session="old", statuses=())
    answer = await agent.request(SUBJECTS.status(agent.node_id), report, StatusAck)
    assert isinstance(answer, Refused)
    assert answer.register_again


async def test_service_that_crashes_at_once_backs_off(bench):
    await bench.start_agents()
    web = await bench.create(1, restart=RestartPolicy(delay=1_000_000_000))
    for delay_s in (1, 2, 4):
        await bench.until(lambda: len(bench.seen_running(web)) == 1)
        (task,) = bench.seen_running(web)
        next(a for a in bench.agents if a.node_id == task.node_id).end(task.id)
        await bench.until(lambda: not bench.seen_running(web))
        took_s = await bench.until(lambda: len(bench.seen_running(web)) == 1)
        assert delay_s - 0.2 <= took_s <= delay_s + 0.3
