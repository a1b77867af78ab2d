"""A whole agent on a bus in memory, against a leader that the test plays. Time stands still until
a test moves it.

bench   both, registered, before the first order
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest_asyncio

from essaim_agent.fake_executor import FakeEngine, FakeExecutor
from essaim_agent.fake_network import FakeFabric, FakeNetworks
from essaim_agent.journal import DataDirectory, HighestTerm, Journal, JournaledTask, LastHeard
from essaim_agent.payloads.fake_payloads import FakePayloads, FakeTaskFiles, GivenFiles
from essaim_agent.reporter import Reporter
from essaim_agent.session import Session
from essaim_agent.worker import Worker
from essaim_shared.clock import ManualClock
from essaim_shared.container_spec import ContainerSpec
from essaim_shared.ids import NetworkId, NodeId, ServiceId, TaskId
from essaim_shared.memory_transport import MemoryBus
from essaim_shared.messages import (
    Assignments,
    BusMessage,
    Endpoint,
    Heartbeat,
    HeartbeatAck,
    NodeNetwork,
    Refused,
    Register,
    Registered,
    ServiceEntry,
    StatusAck,
    StatusReport,
    SyncAck,
    SyncRequest,
    TablesApplied,
    decode,
    encode,
)
from essaim_shared.objects import Attachment, NodeDescription, Task, TaskStatus
from essaim_shared.spec import TaskSpec
from essaim_shared.subjects import Subjects
from essaim_shared.task_state import TaskState
from essaim_shared.transport import Delivery

SEED = 4711
PATIENCE_S = 30.0
"""Of the moved clock."""
NETWORK = NodeNetwork(
    network_id=NetworkId("net"),
    name="default",
    vni=7,
    subnet="10.1.0.0/24",
    mtu=1450,
    gateway="10.1.0.1",
    vip_subnet="10.2.0.0/24",
)
WEB = ServiceEntry(
    service_id=ServiceId("service"), network_id=NETWORK.network_id, name="web", vip="10.2.0.5"
)
REMOTE = Endpoint(network_id=NETWORK.network_id, address="10.1.0.9", node_address="192.0.2.2")
SUBJECTS = Subjects("test")


def make_task(
    name: str, desired: TaskState = TaskState.RUNNING, stop_when_cut_off_s: int | None = None
) -> Task:
    cut_off = msgspec.UNSET if stop_when_cut_off_s is None else stop_when_cut_off_s * 10**9
    return Task(
        id=TaskId(name),
        service_id=ServiceId("service"),
        service_name="web",
        slot=1,
        spec=TaskSpec(container=ContainerSpec(image="busybox"), stop_when_cut_off=cut_off),
        spec_version=1,
        desired_state=desired,
        attachments=(Attachment(network_id=NETWORK.network_id, address="10.1.0.2"),),
        created_ns=1,
        updated_ns=1,
    )


def endpoint_of(task: Task, state: Any = "starting") -> Endpoint:
    """Of a task on the agent's node, as the masters tell it."""
    return Endpoint(
        network_id=NETWORK.network_id,
        address=task.attachments[0].address,
        node_address="192.0.2.1",
        task_id=task.id,
        service_id=task.service_id,
        slot=str(task.slot_key),
        state=state,
    )


class Leader:
    """What a leader does on the bus, and knobs for what goes wrong."""

    def __init__(self, bus: MemoryBus, name: str, term: int) -> None:
        self.transport = bus.client(name)
        self.term = term
        self.sequence = 0
        self.session = ""
        self.tasks: dict[TaskId, Task] = {}
        self.statuses: dict[TaskId, TaskStatus] = {}
        self.states: list[tuple[str, str]] = []
        """(task, state) in the order of their arrival."""
        self.reports: list[StatusReport] = []
        self.registrations = 0
        self.syncs = 0
        self.heartbeats = 0
        self.endpoints: set[Endpoint] = {REMOTE}
        self.services: set[ServiceEntry] = set()
        self.applied: list[TablesApplied] = []
        self.refusal: Refused | None = None
        self.acknowledges_statuses = True
        self.are_orders_lost: Callable[[], bool] = lambda: False
        """On their way: a bus server does not pass them on."""
        self._node_id = NodeId("")
        self._subscriptions = []  # type: ignore[var-annotated]

    async def lead(self) -> None:
        for subject, handler in (
            (SUBJECTS.all_registers, self._on_register),
            (SUBJECTS.all_heartbeats, self._on_heartbeat),
            (SUBJECTS.all_statuses, self._on_status),
            (SUBJECTS.all_syncs, self._on_sync),
            (SUBJECTS.all_applied, self._on_applied),
        ):
            self._subscriptions.append(await self.transport.subscribe(subject, handler))

    async def step_down(self) -> None:
        for subscription in self._subscriptions:
            await subscription.unsubscribe()
        self._subscriptions.clear()

    async def _on_register(self, delivery: Delivery) -> None:
        message = decode(delivery.payload, Register)
        if self.refusal is not None:
            await self._answer(delivery, self.refusal)
            return
        self.registrations += 1
        self._node_id = message.node_id
        self.session = f"session-{self.term}-{self.registrations}"
        await self._answer(
            delivery, Registered(session=self.session, term=self.term, heartbeat_period_s=1.0)
        )
        await self.send_full()

    async def _on_heartbeat(self, delivery: Delivery) -> None:
        self.heartbeats += 1
        if decode(delivery.payload, Heartbeat).session != self.session:
            await self._answer(delivery, Refused(reason="who are you?", register_again=True))
            return
        await self._answer(delivery, HeartbeatAck(term=self.term, sequence=self.sequence))

    async def _on_status(self, delivery: Delivery) -> None:
        report = decode(delivery.payload, StatusReport)
        self.reports.append(report)
        if report.session != self.session:
            await self._answer(delivery, Refused(reason="who are you?", register_again=True))
            return
        if not self.acknowledges_statuses:
            return
        for item in report.statuses:
            self.statuses[item.task_id] = item.status
            self.states.append((item.task_id, item.status.state.name))
        await self._answer(delivery, StatusAck(term=self.term))

    async def _on_sync(self, delivery: Delivery) -> None:
        decode(delivery.payload, SyncRequest)
        self.syncs += 1
        await self._answer(delivery, SyncAck(term=self.term))
        await self.send_full()

    async def _on_applied(self, delivery: Delivery) -> None:
        self.applied.append(decode(delivery.payload, TablesApplied))

    async def _answer(self, delivery: Delivery, message: BusMessage) -> None:
        await delivery.respond(encode(message))

    async def send_full(self) -> None:
        self.sequence += 1
        await self.publish(
            Assignments(
                term=self.term,
                sequence=self.sequence,
                full=True,
                tasks=tuple(self.tasks.values()),
                networks=(NETWORK,),
                endpoints=tuple(self.endpoints),
                services=tuple(self.services),
            )
        )

    async def order(
        self, *tasks: Task, removed: tuple[TaskId, ...] = (), lose: bool = False, **parts: Any
    ) -> None:
        """New or changed tasks, those to be forgotten, and other parts of `Assignments`."""
        self.sequence += 1
        self.tasks.update({task.id: task for task in tasks})
        for task_id in removed:
            self.tasks.pop(task_id, None)
        self.endpoints.difference_update(parts.get("removed_endpoints", ()))
        self.endpoints.update(parts.get("endpoints", ()))
        self.services.update(parts.get("services", ()))
        if not lose:
            await self.publish(
                Assignments(
                    term=self.term,
                    sequence=self.sequence,
                    full=False,
                    tasks=tasks,
                    removed_tasks=removed,
                    **parts,
                )
            )

    async def publish(self, message: Assignments) -> None:
        await self.publish_bytes(encode(message))

    async def publish_bytes(self, payload: bytes) -> None:
        if self.are_orders_lost():
            return
        await self.transport.publish(SUBJECTS.assignments(NodeId("node")), payload)

    def state_of(self, task_id: str) -> TaskState | None:
        status = self.statuses.get(TaskId(task_id))
        return None if status is None else status.state


class Agent:
    """An agent's process: everything but what survives its end."""

    def __init__(self, bench: "Bench") -> None:
        rng = random.Random(SEED)
        clock = bench.clock
        self.transport = bench.bus.client("agent")
        self.data = DataDirectory(bench.directory)
        term = HighestTerm(bench.directory)
        self.journal = Journal(bench.directory, clock)
        self.files = FakeTaskFiles(bench.payloads, bench.given_files)
        self.executor = FakeExecutor(bench.engine, clock, uses_namespaces=True, files=self.files)
        self.networks = FakeNetworks(bench.fabric, "192.0.2.1")
        self.reporter = Reporter(
            self.transport, SUBJECTS.status(NodeId("node")), NodeId("node"), clock, rng, term.admits
        )
        self.worker = Worker(
            self.executor,
            self.networks,
            self.journal,
            self.reporter,
            clock,
            rng,
            files=self.files,
        )
        self.session = Session(
            transport=self.transport,
            subjects=SUBJECTS,
            node_id=NodeId("node"),
            description=lambda: NodeDescription(
                hostname="h1",
                address="192.0.2.1",
                architecture="x86_64",
                nano_cpus=1,
                memory_bytes=1,
                engine_version="fake",
            ),
            sink=self.worker,
            reporter=self.reporter,
            highest_term=term,
            last_heard=LastHeard(bench.directory),
            clock=clock,
            rng=rng,
        )
        self._running: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self.worker.start()
        self._running = asyncio.create_task(self._run())

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for part in (self.worker, self.journal, self.reporter, self.session):
                group.create_task(part.run())

    async def end(self, writes_journal: bool = True) -> None:
        """As a signal ends it; without writing the journal, as kill -9 does."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait({self._running})
            if not self._running.cancelled():
                self._running.result()
            self._running = None
            if writes_journal:
                await self.journal.close()
            await self.transport.close()
            await self.networks.close()
            await self.executor.close()
            self.data.close()


class Bench:
    make_task = staticmethod(make_task)
    endpoint_of = staticmethod(endpoint_of)
    web = WEB
    address = "192.0.2.1"
    """Of the agent's node on the underlay."""

    def __init__(self, directory: Path) -> None:
        print(f"seed {SEED}")
        self.directory = directory
        self.clock = ManualClock()
        self.bus = MemoryBus(self.clock, random.Random(SEED), ("bus-1", "bus-2"))
        self.engine = FakeEngine()
        self.fabric = FakeFabric()
        self.payloads = FakePayloads()
        self.given_files: GivenFiles = {}
        self.leader = Leader(self.bus, "leader", term=5)
        self.agent = Agent(self)

    async def until(self, condition: Callable[[], object]) -> None:
        """Move the clock in small steps until the condition holds."""
        end_s = self.clock.monotonic_s() + PATIENCE_S
        while not condition():
            assert self.clock.monotonic_s() < end_s, "it did not come"
            await self.clock.advance(0.05)

    async def journal_shows(self, task: Task, wanted: Callable[[JournaledTask], bool]) -> None:
        """Return once the disk holds the task as wanted: a thread of its own writes it."""
        async with asyncio.timeout(PATIENCE_S):
            while not any(
                wanted(entry)
                for entry in Journal(self.directory, self.clock).load().tasks
                if entry.task.id == task.id
            ):
                await self.clock.advance(0.05)

    async def start_agent(self) -> None:
        self.agent = Agent(self)
        await self.agent.start()

    async def restart_agent(self, writes_journal: bool = True) -> None:
        await self.agent.end(writes_journal)
        await self.start_agent()

    async def running(self, *tasks: Task) -> None:
        """These tasks run, and the leader knows."""
        await self.leader.order(*tasks, endpoints=tuple(map(endpoint_of, tasks)), services=(WEB,))
        await self.until(
            lambda: all(self.leader.state_of(t.id) is TaskState.RUNNING for t in tasks)
        )

    async def successor(self) -> Leader:
        """The leader's lease is over; another one leads the next term, with the same tasks."""
        await self.leader.step_down()
        successor = Leader(self.bus, "successor", self.leader.term + 1)
        successor.tasks = dict(self.leader.tasks)
        successor.endpoints = set(self.leader.endpoints)
        successor.services = set(self.leader.services)
        await successor.lead()
        return successor


@pytest_asyncio.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(tmp_path)
    await made.leader.lead()
    await made.agent.start()
    await made.until(lambda: made.agent.session.held == (5, 1))
    try:
        yield made
    finally:
        await made.agent.end()
        await made.bus.close()
