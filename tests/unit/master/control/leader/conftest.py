"""A leader on a bus in memory, and small agents that speak the real messages to it."""

import asyncio
import random

import msgspec
import pytest

from essaim_master.control.founding import ControlSettings
from essaim_master.control.leader import Leader
from essaim_master.state.cluster import LocalCluster, Member
from essaim_master.state.writes import Writes
from essaim_master.vault import Vault
from essaim_shared.clock import ManualClock
from essaim_shared.container_spec import ContainerSpec
from essaim_shared.errors import Unavailable
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
    TablesApplied,
    decode,
    encode,
)
from essaim_shared.objects import NodeDescription, Service, TaskStatus
from essaim_shared.sealing import DataKey
from essaim_shared.spec import ReplicatedMode, ServiceMode, ServiceSpec, TaskSpec
from essaim_shared.subjects import Subjects
from essaim_shared.task_state import TaskState

SEED = 7
CLUSTER = "test"
SUBJECTS = Subjects(CLUSTER)
SETTINGS = ControlSettings(cluster_id=CLUSTER, subnet="10.1.0.0/24", vni=70_001, mtu=1450)
VAULT = Vault(DataKey(bytes(32)))


class SmallAgent:
    """Registers, beats, believes what it is told, and runs every task in no time."""

    def __init__(self, bench, name, address, instance="boot", seal_key=""):
        self.bench = bench
        self.node_id = NodeId(name)
        self.transport = bench.bus.client(
            f"agent-{address}", inbox_prefix=SUBJECTS.inbox(self.node_id)
        )
        self.description = NodeDescription(
            hostname=name,
            address=address,
            architecture="x86_64",
            nano_cpus=4 * 10**9,
            memory_bytes=8 * 2**30,
            engine_version="20.10",
            instance=instance,
            seal_key=seal_key,
        )
        self.session = None
        self.term = self.sequence = 0
        self.tasks, self.networks, self.endpoints = {}, {}, {}
        self.messages = []
        self.refusals = []
        self.unreported = {}
        self.runs = True
        """False: it accepts tasks and gets no further."""
        self.answers_after_s = 0.0
        """Until its tables are as it was told; None: it never says so."""
        self.serving = {}
        """By address, the state of each endpoint."""
        self.services, self.nodes = set(), set()
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
        answer = await self.request(SUBJECTS.register(self.node_id), message, Registered)
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
        answer = await self.request(SUBJECTS.heartbeat(self.node_id), message, HeartbeatAck)
        if isinstance(answer, Refused) and answer.register_again:
            self.session = None
        elif isinstance(answer, HeartbeatAck) and answer.sequence > self.sequence:
            sync = SyncRequest(node_id=self.node_id, session=self.session)
            await self.request(SUBJECTS.sync(self.node_id), sync, SyncAck)

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
            self.networks, self.endpoints, self.serving = {}, {}, {}
            self.services, self.nodes = set(), set()
        for task_id in message.removed_tasks:
            self.tasks.pop(task_id, None)
        for endpoint in message.removed_endpoints:
            self.endpoints.pop(endpoint.address, None)
            self.serving.pop(endpoint.address, None)
        self.serving.update((e.address, e.state) for e in message.endpoints)
        self.services = self.services.difference(message.removed_services).union(message.services)
        self.nodes = self.nodes.difference(message.removed_nodes).union(message.nodes)
        self.endpoints.update((e.address, e.node_address) for e in message.endpoints)
        self.networks.update((n.network_id, n) for n in message.networks)
        for task in message.tasks:
            self.move(task)
        self.has_news.set()
        if message.wants_applied and self.answers_after_s is not None:
            self.bench.running.append(asyncio.create_task(self.answer(message)))

    async def answer(self, message):
        await self.bench.clock.sleep(self.answers_after_s)
        if self.session is None:
            return
        applied = TablesApplied(
            node_id=self.node_id,
            session=self.session,
            term=message.term,
            sequence=message.sequence,
        )
        await self.transport.publish(SUBJECTS.applied(self.node_id), encode(applied))

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
                answer = await self.request(SUBJECTS.status(self.node_id), message, StatusAck)
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

    def __init__(self, make_cluster=LocalCluster):
        self.clock = ManualClock()
        self.bus = MemoryBus(self.clock, random.Random(SEED))
        self.cluster = make_cluster(self.clock, Member(MemberId("m1"), "", ""))
        self.state = self.cluster.state
        self.agents = []
        self.running = []
        self.leader = self.start_leader(self.cluster)

    def start_leader(self, cluster, client="master"):
        rng = random.Random(f"{SEED} {client}")
        leader = Leader(cluster, self.bus.client(client), self.clock, rng, SETTINGS, VAULT)
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

    async def remove_node(self, node_id):
        writes = Writes()
        writes.delete_node(node_id)
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
async def make_bench():
    """Makes a Bench, with a LocalCluster of one's own if given, that is closed in the end."""
    made = []

    async def make(make_cluster=LocalCluster):
        bench = Bench(make_cluster)
        made.append(bench)
        await bench.until(lambda: bool(bench.state.networks))
        return bench

    yield make
    for bench in made:
        await bench.close()


@pytest.fixture
async def bench(make_bench):
    """One master that leads a newly founded cluster without nodes."""
    return await make_bench()
