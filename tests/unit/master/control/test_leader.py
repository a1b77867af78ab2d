"""The whole leader over a bus in memory, with small agents that speak the real messages."""

import asyncio
import random

import msgspec
import pytest

from essaim_master.control.leader import ControlSettings, Leader
from essaim_master.kv.commands import Transaction, TransactionResult
from essaim_master.state.cluster import LocalCluster, Member
from essaim_master.state.keys import LEADER_KEY
from essaim_master.state.writes import Writes
from essaim_shared.clock import ManualClock
from essaim_shared.errors import OutcomeUnknown, Unavailable
from essaim_shared.ids import MemberId, NodeId, ServiceId
from essaim_shared.limits import HEARTBEAT_PERIOD_S
from essaim_shared.memory_transport import MemoryBus
from essaim_shared.messages import (
    Assignments,
    Heartbeat,
    HeartbeatAck,
    Refused,
    Register,
    Registered,
    ReportedStatus,
    StatusAck,
    StatusReport,
    SyncAck,
    SyncRequest,
    decode,
    encode,
)
from essaim_shared.objects import LeaderEpoch, NodeDescription, Service, TaskStatus
from essaim_shared.spec import (
    ContainerSpec,
    ReplicatedMode,
    RestartPolicy,
    ServiceMode,
    ServiceSpec,
    TaskSpec,
)
from essaim_shared.subjects import Subjects
from essaim_shared.task_state import TaskState

SEED = 7
CLUSTER = "test"
SUBJECTS = Subjects(CLUSTER)
SETTINGS = ControlSettings(cluster_id=CLUSTER, subnet="10.1.0.0/24", vni=70_001, mtu=1450)


class SmallAgent:
    """Registers, beats, believes what it is told, and runs every task in no time."""

    def __init__(self, bench, name, address, instance="boot"):
        self.bench = bench
        self.node_id = NodeId(name)
        self.transport = bench.bus.client(f"agent-{address}")
        self.description = NodeDescription(
            hostname=name,
            address=address,
            architecture="x86_64",
            nano_cpus=4 * 10**9,
            memory_bytes=8 * 2**30,
            engine_version="20.10",
            instance=instance,
        )
        self.session = None
        self.term = self.sequence = 0
        self.tasks, self.networks, self.endpoints = {}, {}, {}
        self.messages = []
        self.refusals = []
        self.unreported = {}
        self.runs = True
        """False: it accepts tasks and gets no further."""
        self.has_news = asyncio.Event()

    async def run(self):
        await self.transport.subscribe(SUBJECTS.assignments(self.node_id), self.receive)
        async with asyncio.TaskGroup() as loops:
            loops.create_task(self.beat_loop())
            loops.create_task(self.report_loop())

    async def request(self, subject, message, *answers):
        try:
            payload = await self.transport.request(subject, encode(message), 0.6)
        except Unavailable:
            return None
        return decode(payload, Refused, *answers)

    async def beat_loop(self):
        while True:
            if self.session is None:
                await self.register()
            else:
                await self.beat()
            await self.bench.clock.sleep(HEARTBEAT_PERIOD_S)

    async def register(self):
        message = Register(node_id=self.node_id, description=self.description)
        answer = await self.request(SUBJECTS.register, message, Registered)
        if isinstance(answer, Registered):
            self.session = answer.session
            self.unreported |= {t: s for t, s in self.statuses().items() if t in self.tasks}
            self.has_news.set()
        elif isinstance(answer, Refused):
            self.refusals.append(answer.reason)

    def statuses(self):
        return {task_id: status for task_id, (_, status) in self.tasks.items()}

    async def beat(self):
        message = Heartbeat(
            node_id=self.node_id, session=self.session, term=self.term, sequence=self.sequence
        )
        answer = await self.request(SUBJECTS.heartbeat, message, HeartbeatAck)
        if isinstance(answer, Refused) and answer.register_again:
            self.session = None
        elif isinstance(answer, HeartbeatAck) and answer.sequence > self.sequence:
            sync = SyncRequest(node_id=self.node_id, session=self.session)
            await self.request(SUBJECTS.sync, sync, SyncAck)

    async def receive(self, delivery):
        message = decode(delivery.payload, Assignments)
        self.messages.append(message)
        if message.term < self.term:
            return
        if not message.full and (message.term, message.sequence) != (self.term, self.sequence + 1):
            return
        self.term, self.sequence = message.term, message.sequence
        if message.full:
            kept = {task.id for task in message.tasks}
            self.tasks = {t: entry for t, entry in self.tasks.items() if t in kept}
            self.networks, self.endpoints = {}, {}
        for task_id in message.removed_tasks:
            self.tasks.pop(task_id, None)
        for endpoint in message.removed_endpoints:
            self.endpoints.pop(endpoint.address, None)
        self.endpoints.update((e.address, e.node_address) for e in message.endpoints)
        self.networks.update((n.network_id, n) for n in message.networks)
        for task in message.tasks:
            self.move(task)
        self.has_news.set()

    def move(self, task):
        old = self.tasks.get(task.id)
        wanted = min(task.desired_state, TaskState.SHUTDOWN)
        if not self.runs and wanted <= TaskState.RUNNING:
            wanted = TaskState.ACCEPTED
        status = TaskStatus(state=wanted, timestamp_ns=self.bench.clock.wall_ns())
        if old is not None and old[1].state >= wanted:
            status = old[1]
        self.tasks[task.id] = (task, status)
        self.unreported[task.id] = status

    def end(self, task_id, state=TaskState.FAILED):
        status = TaskStatus(state=state, timestamp_ns=self.bench.clock.wall_ns(), err="exit 1")
        self.tasks[task_id] = (self.tasks[task_id][0], status)
        self.unreported[task_id] = status
        self.has_news.set()

    async def report_loop(self):
        while True:
            await self.has_news.wait()
            self.has_news.clear()
            while self.unreported and self.session is not None:
                sent = dict(self.unreported)
                statuses = tuple(ReportedStatus(task_id=t, status=s) for t, s in sent.items())
                message = StatusReport(
                    node_id=self.node_id, session=self.session, statuses=statuses
                )
                answer = await self.request(SUBJECTS.status, message, StatusAck)
                if not isinstance(answer, StatusAck):
                    self.has_news.set()
                    await self.bench.clock.sleep(0.2)
                    break
                for task_id, status in sent.items():
                    if self.unreported.get(task_id) is status:
                        del self.unreported[task_id]

    def running(self):
        return {
            task_id
            for task_id, (_, status) in self.tasks.items()
            if status.state is TaskState.RUNNING
        }


class Bench:
    """One master, its leader, and agents."""

    def __init__(self):
        self.clock = ManualClock()
        self.bus = MemoryBus(self.clock, random.Random(SEED))
        self.cluster = LocalCluster(self.clock, Member(MemberId("m1"), "", ""))
        self.state = self.cluster.state
        self.agents = []
        self.running = []
        self.leader = self.start_leader(self.cluster)

    def start_leader(self, cluster, client="master"):
        rng = random.Random(f"{SEED} {client}")
        leader = Leader(cluster, self.bus.client(client), self.clock, rng, SETTINGS)
        self.running.append(asyncio.create_task(leader.run()))
        return leader

    async def start_agents(self, count=3):
        for number in range(1, count + 1):
            self.add_agent(f"n{number}", f"192.168.0.{number}")
        await self.until(lambda: len(self.state.nodes) == count)

    def add_agent(self, name, address, **options):
        agent = SmallAgent(self, name, address, **options)
        self.agents.append(agent)
        self.running.append(asyncio.create_task(agent.run()))
        return agent

    async def run(self, seconds):
        steps = round(seconds / 0.05)
        for _ in range(steps):
            await self.clock.advance(0.05)
            for task in self.running:
                if task.done() and not task.cancelled():
                    task.result()

    async def until(self, condition, limit_s=20.0):
        """Let time pass until the condition holds; how long it took."""
        started_s = self.clock.monotonic_s()
        while not condition():
            took_s = self.clock.monotonic_s() - started_s
            assert took_s < limit_s, f"not within {limit_s} s (seed {SEED})"
            await self.run(0.05)
        return self.clock.monotonic_s() - started_s

    async def close(self):
        for task in self.running:
            task.cancel()
        await asyncio.gather(*self.running, return_exceptions=True)
        await self.bus.close()

    async def write(self, stored):
        writes = Writes()
        writes.put(stored)
        for transaction in writes.transactions():
            await self.cluster.commit(transaction, 1.0)

    async def create(self, replicas, name="web", restart=None):
        spec = ServiceSpec(
            name=name,
            task=TaskSpec(container=ContainerSpec(image="img"), restart_policy=restart),
            mode=ServiceMode(replicated=ReplicatedMode(replicas=replicas)),
        )
        service = Service(id=ServiceId(name), spec=spec, created_ns=1, updated_ns=1)
        await self.write(service)
        return service.id

    async def scale(self, service_id, replicas):
        service = self.state.services[service_id]
        mode = ServiceMode(replicated=ReplicatedMode(replicas=replicas))
        spec = msgspec.structs.replace(service.spec, mode=mode)
        await self.write(msgspec.structs.replace(service, spec=spec))

    def seen_running(self, service_id):
        tasks = self.state.tasks_of_service(service_id)
        return [
            task
            for task in tasks.values()
            if self.state.observed(task.id) is TaskState.RUNNING
            and task.desired_state is TaskState.RUNNING
        ]

    def is_in_order(self, service_id):
        """The state says that all replicas run, and the agents run exactly those."""
        running = {task.id for task in self.seen_running(service_id)}
        really = set().union(*(a.running() for a in self.agents if a.session))
        return len(running) == self.state.services[service_id].spec.replicas and running == really


@pytest.fixture
async def bench():
    bench = Bench()
    await bench.until(lambda: bool(bench.state.networks))
    yield bench
    await bench.close()


async def test_first_leader_founds_the_cluster(bench):
    assert bench.state.leader_epoch == LeaderEpoch(member_id=MemberId("m1"), term=1)
    assert bench.state.cluster.id == CLUSTER
    (network,) = bench.state.networks.values()
    assert (network.name, network.subnet, network.vni) == ("default", "10.1.0.0/24", 70_001)


async def test_service_runs_on_the_agents_without_any_time_passing(bench):
    await bench.start_agents()
    await bench.run(1)
    web = await bench.create(6)
    await bench.clock.advance(0)  # the clock stands still; only the event loop turns
    for _ in range(50):
        await asyncio.sleep(0)
    assert bench.is_in_order(web)
    assert [len(agent.running()) for agent in bench.agents] == [2, 2, 2]


async def test_agents_know_each_others_endpoints_and_not_their_own(bench):
    await bench.start_agents()
    web = await bench.create(6)
    await bench.until(lambda: bench.is_in_order(web))
    everything = set(bench.state.addresses(next(iter(bench.state.networks))))
    for agent in bench.agents:
        own = {a.address for task, _ in agent.tasks.values() for a in task.attachments}
        own |= {network.gateway for network in agent.networks.values()}
        assert set(agent.endpoints) == everything - own


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
    writes = Writes()
    writes.delete_node(NodeId("n1"))
    for transaction in writes.transactions():
        await bench.cluster.commit(transaction, 1.0)
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
        if self.doubts > 0 and transaction.then[0].key.startswith(b"/gateways"):
            self.doubts -= 1
            raise OutcomeUnknown("the answer was lost")
        return result


async def test_unknown_outcome_makes_no_doubles():
    bench = Bench.__new__(Bench)
    bench.clock = ManualClock()
    bench.bus = MemoryBus(bench.clock, random.Random(SEED))
    bench.cluster = DoubtfulCluster(bench.clock, Member(MemberId("m1"), "", ""))
    bench.state = bench.cluster.state
    bench.agents, bench.running = [], []
    bench.leader = bench.start_leader(bench.cluster)
    await bench.start_agents()
    bench.cluster.doubts = 1
    first_epoch = bench.state.modified(LEADER_KEY)
    web = await bench.create(6)
    await bench.until(lambda: bench.is_in_order(web))
    assert bench.cluster.doubts == 0
    assert bench.state.modified(LEADER_KEY) > first_epoch, "an epoch anew fences what was under way"
    assert len(bench.state.tasks) == 6
    await bench.close()


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
    for subject in (SUBJECTS.register, SUBJECTS.heartbeat, SUBJECTS.status, SUBJECTS.sync):
        await stranger.publish(subject, payload)
    await stranger.publish(SUBJECTS.echo(MemberId("m1")), payload)
    await bench.run(0.1)
    assert bench.leader.rejects.count == 4
    assert len([r for r in caplog.records if "malformed" in r.message]) == 1
    web = await bench.create(3)
    await bench.until(lambda: bench.is_in_order(web))


@pytest.mark.parametrize("node_id", ["", "a/b", "a.b", "*", "x" * 65, "n 1"])
async def test_ids_that_would_break_keys_or_subjects_are_refused(bench, node_id):
    description = SmallAgent(bench, "n9", "192.168.0.9").description
    stranger = bench.bus.client("stranger")
    await stranger.publish(
        SUBJECTS.register, encode(Register(node_id=NodeId(node_id), description=description))
    )
    await bench.run(0.1)
    assert bench.leader.rejects.count == 1
    assert not bench.state.nodes


async def test_reports_under_an_old_session_are_refused(bench):
    await bench.start_agents(1)
    agent = bench.agents[0]
    report = StatusReport(node_id=agent.node_id, session="old", statuses=())
    answer = await agent.request(SUBJECTS.status, report, StatusAck)
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
