"""A whole agent on a bus in memory, against a leader that the test plays. Time stands still until
a test moves it."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio

from essaim_agent.fake_executor import FakeEngine, FakeExecutor, Script
from essaim_agent.fake_network import FakeFabric, FakeNetworks
from essaim_agent.journal import DataDirectory, HighestTerm, Journal, LastHeard
from essaim_agent.reporter import Reporter
from essaim_agent.session import Session
from essaim_agent.session_machine import State
from essaim_agent.worker import Worker
from essaim_shared.clock import ManualClock
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
    StatusAck,
    StatusReport,
    SyncAck,
    SyncRequest,
    decode,
    encode,
)
from essaim_shared.objects import Attachment, NodeDescription, Task, TaskStatus
from essaim_shared.spec import ContainerSpec, TaskSpec
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
        self.refusal: Refused | None = None
        self.acknowledges_statuses = True
        self._node_id = NodeId("")
        self._subscriptions = []  # type: ignore[var-annotated]

    async def lead(self) -> None:
        for subject, handler in (
            (SUBJECTS.register, self._on_register),
            (SUBJECTS.heartbeat, self._on_heartbeat),
            (SUBJECTS.status, self._on_status),
            (SUBJECTS.sync, self._on_sync),
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
                endpoints=(REMOTE,),
            )
        )

    async def order(
        self, *tasks: Task, removed: tuple[TaskId, ...] = (), lose: bool = False
    ) -> None:
        """New or changed tasks, and those to be forgotten."""
        self.sequence += 1
        self.tasks.update({task.id: task for task in tasks})
        for task_id in removed:
            self.tasks.pop(task_id, None)
        if not lose:
            await self.publish(
                Assignments(
                    term=self.term,
                    sequence=self.sequence,
                    full=False,
                    tasks=tasks,
                    removed_tasks=removed,
                )
            )

    async def publish(self, message: Assignments) -> None:
        await self.publish_bytes(encode(message))

    async def publish_bytes(self, payload: bytes) -> None:
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
        self.executor = FakeExecutor(bench.engine, clock, uses_namespaces=True)
        self.networks = FakeNetworks(bench.fabric, "192.0.2.1")
        self.reporter = Reporter(
            self.transport, SUBJECTS.status, NodeId("node"), clock, rng, term.admits
        )
        self.worker = Worker(self.executor, self.networks, self.journal, self.reporter, clock, rng)
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
    def __init__(self, directory: Path) -> None:
        print(f"seed {SEED}")
        self.directory = directory
        self.clock = ManualClock()
        self.bus = MemoryBus(self.clock, random.Random(SEED), ("bus-1", "bus-2"))
        self.engine = FakeEngine()
        self.fabric = FakeFabric()
        self.leader = Leader(self.bus, "leader", term=5)
        self.agent = Agent(self)

    async def until(self, condition: Callable[[], object]) -> None:
        """Move the clock in small steps until the condition holds."""
        end_s = self.clock.monotonic_s() + PATIENCE_S
        while not condition():
            assert self.clock.monotonic_s() < end_s, "it did not come"
            await self.clock.advance(0.05)

    async def restart_agent(self, writes_journal: bool = True) -> None:
        await self.agent.end(writes_journal)
        self.agent = Agent(self)
        await self.agent.start()

    async def running(self, *tasks: Task) -> None:
        """These tasks run, and the leader knows."""
        await self.leader.order(*tasks)
        await self.until(
            lambda: all(self.leader.state_of(t.id) is TaskState.RUNNING for t in tasks)
        )

    async def successor(self) -> Leader:
        """The leader's lease is over; another one leads the next term, with the same tasks."""
        await self.leader.step_down()
        successor = Leader(self.bus, "successor", self.leader.term + 1)
        successor.tasks = dict(self.leader.tasks)
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


async def test_a_task_runs_in_its_namespace_and_the_leader_hears_of_it(bench: Bench) -> None:
    task = make_task("a")
    await bench.running(task)
    assert bench.engine.starts == {"a": 1}
    assert bench.engine.containers[task.id].namespace
    status = bench.leader.statuses[task.id]
    assert status.container_id == bench.engine.containers[task.id].container_id
    assert status.started_ns > 0


async def test_what_is_on_its_way_to_running_costs_the_leader_few_reports(bench: Bench) -> None:
    await bench.running(*(make_task(f"t{number}") for number in range(100)))
    assert len(bench.leader.reports) <= 10


async def test_a_stopped_task_leaves_nothing_on_the_node(bench: Bench) -> None:
    task = make_task("a")
    await bench.running(task)
    await bench.leader.order(msgspec.structs.replace(task, desired_state=TaskState.SHUTDOWN))
    await bench.until(lambda: bench.leader.state_of("a") is TaskState.SHUTDOWN)
    await bench.until(lambda: not bench.engine.containers)
    assert not await bench.agent.networks.attached()


async def test_a_forgotten_task_is_stopped_and_forgotten(bench: Bench) -> None:
    task = make_task("a")
    await bench.running(task)
    await bench.leader.order(removed=(task.id,))
    await bench.until(lambda: not bench.agent.worker.managers)
    assert not bench.engine.containers
    assert not await bench.agent.networks.attached()


async def test_an_image_that_does_not_exist_rejects_the_task_with_the_reason(
    bench: Bench,
) -> None:
    bench.engine.images = set()
    await bench.leader.order(make_task("a"))
    await bench.until(lambda: bench.leader.state_of("a") is TaskState.REJECTED)
    assert bench.leader.statuses[TaskId("a")].err == "No such image: busybox"
    assert not await bench.agent.networks.attached()


async def test_a_namespace_that_the_kernel_refuses_rejects_the_task(bench: Bench) -> None:
    bench.agent.networks.refusals[TaskId("a")] = "no buffer space"
    await bench.leader.order(make_task("a"))
    await bench.until(lambda: bench.leader.state_of("a") is TaskState.REJECTED)
    assert "no buffer space" in bench.leader.statuses[TaskId("a")].err


async def test_a_failure_at_the_start_fails_the_task(bench: Bench) -> None:
    bench.engine.script(TaskId("a"), Script(start_error='exec: "nope": not found'))
    await bench.leader.order(make_task("a"))
    await bench.until(lambda: bench.leader.state_of("a") is TaskState.FAILED)
    assert "not found" in bench.leader.statuses[TaskId("a")].err


async def test_a_crash_is_reported_with_its_exit_code_and_not_repaired_here(bench: Bench) -> None:
    task = make_task("a")
    await bench.running(task)
    bench.engine.exit(task.id, 3)
    await bench.until(lambda: bench.leader.state_of("a") is TaskState.FAILED)
    assert bench.leader.statuses[task.id].exit_code == 3
    await bench.clock.advance(5)
    assert bench.engine.starts == {"a": 1}


async def test_a_task_held_ready_starts_when_it_is_wanted(bench: Bench) -> None:
    task = make_task("a", TaskState.READY)
    await bench.leader.order(task)
    await bench.until(lambda: bench.leader.state_of("a") is TaskState.READY)
    await bench.clock.advance(5)
    assert not bench.engine.starts
    await bench.running(msgspec.structs.replace(task, desired_state=TaskState.RUNNING))


async def test_a_pull_that_takes_for_ever_does_not_keep_a_task_from_being_stopped(
    bench: Bench,
) -> None:
    task = make_task("a")
    bench.engine.script(task.id, Script(prepare_takes_for_ever=True))
    await bench.leader.order(task)
    await bench.until(lambda: bench.leader.state_of("a") is TaskState.PREPARING)
    await bench.leader.order(msgspec.structs.replace(task, desired_state=TaskState.SHUTDOWN))
    await bench.until(lambda: bench.leader.state_of("a") is TaskState.SHUTDOWN)


async def test_a_stopped_task_does_not_run_again_on_a_late_order(bench: Bench) -> None:
    task = make_task("a")
    await bench.running(task)
    await bench.leader.order(msgspec.structs.replace(task, desired_state=TaskState.SHUTDOWN))
    await bench.leader.order(task)
    await bench.until(lambda: bench.leader.state_of("a") is TaskState.SHUTDOWN)
    await bench.clock.advance(5)
    assert bench.engine.starts == {"a": 1}


async def test_duplicated_orders_start_nothing_twice(bench: Bench) -> None:
    task = make_task("a")
    await bench.leader.order(task)
    message = Assignments(term=5, sequence=bench.leader.sequence, full=False, tasks=(task,))
    for _ in range(3):
        await bench.leader.publish(message)
    await bench.until(lambda: bench.leader.state_of("a") is TaskState.RUNNING)
    assert bench.engine.starts == {"a": 1}
    assert bench.leader.syncs == 0


# A leader that is gone, or is not the leader any more.


async def test_late_orders_of_a_deposed_leader_are_refused(bench: Bench) -> None:
    task = make_task("a")
    await bench.running(task)
    deposed = bench.leader
    successor = await bench.successor()
    await bench.until(lambda: bench.agent.session.held == (6, 1))
    for full in (True, False):
        await deposed.publish(
            Assignments(
                term=5, sequence=99, full=full, tasks=(make_task("b"),), removed_tasks=(task.id,)
            )
        )
    await bench.clock.advance(3)
    assert bench.engine.starts == {"a": 1}
    assert bench.engine.containers[task.id].running
    assert bench.agent.session.deposed_count >= 2
    assert successor.registrations == 1


async def test_a_restarted_agent_refuses_them_too(bench: Bench) -> None:
    deposed = bench.leader
    successor = await bench.successor()
    await bench.until(lambda: bench.agent.session.held == (6, 1))
    await successor.step_down()
    await bench.restart_agent(writes_journal=False)
    await deposed.lead()  # it believes that it still leads
    await bench.clock.advance(5)
    assert bench.agent.session.state is State.REGISTERING
    assert bench.agent.session.deposed_count > 0


async def test_a_deposed_leaders_answers_do_not_count_as_a_leader_heard(bench: Bench) -> None:
    task = make_task("once", stop_when_cut_off_s=10)
    await bench.running(task)
    HighestTerm(bench.directory).admits(9)
    await bench.restart_agent()
    await bench.until(lambda: not bench.engine.containers[task.id].running)


async def test_statuses_reach_the_next_leader(bench: Bench) -> None:
    task = make_task("a")
    await bench.running(task)
    bench.leader.acknowledges_statuses = False
    bench.engine.exit(task.id, 1)
    await bench.clock.advance(1)
    successor = await bench.successor()
    await bench.until(lambda: successor.state_of("a") is TaskState.FAILED)


async def test_without_a_leader_the_server_is_kept_and_tasks_run_on(bench: Bench) -> None:
    await bench.running(make_task("a"))
    await bench.leader.step_down()
    await bench.clock.advance(20)
    assert bench.agent.transport.reconnection_count == 0
    assert bench.engine.containers[TaskId("a")].running
    await bench.leader.lead()
    heard = bench.leader.heartbeats
    await bench.until(lambda: bench.leader.heartbeats > heard)


# What the bus loses.


async def test_a_lost_order_is_noticed_from_the_next_heartbeat(bench: Bench) -> None:
    await bench.leader.order(make_task("a"), lose=True)
    await bench.until(lambda: bench.leader.state_of("a") is TaskState.RUNNING)
    assert bench.leader.syncs == 1


async def test_an_order_after_a_lost_one_asks_for_a_full_set_at_once(bench: Bench) -> None:
    await bench.leader.order(make_task("a"), lose=True)
    await bench.leader.order(make_task("b"))
    await bench.clock.advance(0.2)
    assert bench.leader.syncs == 1
    assert bench.engine.starts == {"a": 1, "b": 1}


async def test_orders_that_arrive_in_order_ask_for_nothing(bench: Bench) -> None:
    for number in range(20):
        await bench.leader.order(make_task(f"t{number}"))
    await bench.clock.advance(5)
    assert bench.leader.syncs == 0


async def test_lost_statuses_are_repeated_until_acknowledged(bench: Bench) -> None:
    bench.leader.acknowledges_statuses = False
    await bench.leader.order(make_task("a"))
    await bench.clock.advance(10)
    assert len(bench.leader.reports) >= 3
    assert bench.agent.reporter.pending == 1
    bench.leader.acknowledges_statuses = True
    await bench.until(lambda: bench.leader.state_of("a") is TaskState.RUNNING)
    await bench.until(lambda: bench.agent.reporter.pending == 0)


async def test_everything_arrives_over_a_bus_that_loses_a_third(bench: Bench) -> None:
    bench.bus.loss = 0.33
    tasks = [make_task(f"t{number}") for number in range(10)]
    for task in tasks:
        await bench.leader.order(task)
    await bench.until(
        lambda: all(bench.leader.state_of(task.id) is TaskState.RUNNING for task in tasks)
    )
    assert set(bench.engine.starts.values()) == {1}


async def test_malformed_frames_are_counted_and_change_nothing(bench: Bench) -> None:
    task = make_task("a")
    await bench.running(task)
    frames = (
        b"",
        b"\xff" * 100,
        encode(StatusAck(term=5)),
        encode(Assignments(term=5, sequence=99, full=True, chunk=3, chunks=2)),
    )
    for frame in frames:
        await bench.leader.publish_bytes(frame)
    await bench.clock.advance(3)
    assert bench.agent.session.malformed_count == len(frames)
    assert bench.engine.containers[task.id].running


async def test_a_frozen_bus_server_is_left_after_two_missed_beats(bench: Bench) -> None:
    await bench.running(make_task("a"))
    bench.agent.transport.bus.freeze("bus-1")
    await bench.leader.transport.reconnect()
    await bench.clock.advance(2.6)
    assert bench.agent.transport.server == "bus-2"
    heard = bench.leader.heartbeats
    await bench.until(lambda: bench.leader.heartbeats > heard)
    assert bench.engine.starts == {"a": 1}


# Cut off.


async def test_a_node_that_is_cut_off_keeps_its_tasks_but_those_that_must_not_run_twice(
    bench: Bench,
) -> None:
    await bench.running(make_task("stays"), make_task("stops", stop_when_cut_off_s=5))
    bench.bus.cut_client("agent")
    await bench.clock.advance(3.5)
    assert bench.engine.containers[TaskId("stops")].running
    await bench.clock.advance(3)
    assert not bench.engine.containers[TaskId("stops")].running
    await bench.clock.advance(600)
    assert bench.engine.containers[TaskId("stays")].running
    bench.bus.heal_client("agent")
    await bench.until(lambda: bench.leader.state_of("stops") is TaskState.FAILED)
    assert "no master heard for 5 s" in bench.leader.statuses[TaskId("stops")].err
    assert bench.leader.state_of("stays") is TaskState.RUNNING


async def test_a_restart_of_the_agent_does_not_restart_the_clock_of_a_cut_off_task(
    bench: Bench,
) -> None:
    await bench.running(make_task("stops", stop_when_cut_off_s=10))
    bench.bus.cut_client("agent")
    await bench.clock.advance(6)
    await bench.restart_agent()
    await bench.clock.advance(5)
    assert not bench.engine.containers[TaskId("stops")].running


# Restarts.


@pytest.mark.parametrize("writes_journal", [True, False])
async def test_a_restarted_agent_adopts_and_restarts_nothing(
    bench: Bench, writes_journal: bool
) -> None:
    tasks = [make_task(f"t{number}") for number in range(5)]
    await bench.running(*tasks)
    await bench.restart_agent(writes_journal)
    await bench.until(lambda: bench.leader.registrations == 2)
    await bench.clock.advance(5)
    assert set(bench.engine.starts.values()) == {1}
    assert all(container.running for container in bench.engine.containers.values())
    assert len(bench.agent.worker.running) == 5


async def test_without_any_master_a_restarted_agent_still_knows_its_tasks(bench: Bench) -> None:
    task = make_task("a")
    await bench.running(task)
    await bench.leader.step_down()
    await bench.restart_agent()
    await bench.clock.advance(5)
    assert [manager.task.id for manager in bench.agent.worker.running] == ["a"]
    bench.engine.exit(task.id, 4)
    await bench.clock.advance(1)
    await bench.leader.lead()
    await bench.until(lambda: bench.leader.state_of("a") is TaskState.FAILED)
    assert bench.leader.statuses[task.id].exit_code == 4


async def test_what_ended_while_no_agent_watched_is_reported_not_restarted(bench: Bench) -> None:
    task = make_task("a")
    await bench.running(task)
    await bench.agent.end()
    bench.engine.exit(task.id, 7)
    bench.agent = Agent(bench)
    await bench.agent.start()
    await bench.until(lambda: bench.leader.state_of("a") is TaskState.FAILED)
    assert bench.leader.statuses[task.id].exit_code == 7
    assert bench.engine.starts == {"a": 1}


async def test_containers_that_no_assignment_explains_are_removed_after_the_full_set(
    bench: Bench,
) -> None:
    kept, stray = make_task("kept"), make_task("stray")
    await bench.running(kept, stray)
    await bench.agent.end()
    (bench.directory / "assignments").unlink()
    del bench.leader.tasks[stray.id]
    await bench.leader.step_down()
    bench.agent = Agent(bench)
    await bench.agent.start()
    await bench.clock.advance(5)
    assert set(bench.engine.containers) == {"kept", "stray"}  # nobody has said anything yet
    await bench.leader.lead()
    await bench.until(lambda: set(bench.engine.containers) == {"kept"})
    await bench.until(lambda: bench.leader.state_of("kept") is TaskState.RUNNING)
    assert bench.engine.starts["kept"] == 1
    assert await bench.agent.networks.attached() == {"kept"}


async def test_an_engine_that_restarts_fails_no_task(bench: Bench) -> None:
    running, ended = make_task("running"), make_task("ended")
    await bench.running(running, ended)
    bench.engine.go_away()
    bench.engine.exit(ended.id, 9)  # nobody hears it
    await bench.leader.order(make_task("new"))
    await bench.clock.advance(30)
    assert bench.leader.state_of("running") is TaskState.RUNNING
    bench.engine.come_back()
    await bench.until(lambda: bench.leader.state_of("new") is TaskState.RUNNING)
    await bench.until(lambda: bench.leader.state_of("ended") is TaskState.FAILED)
    assert bench.leader.state_of("running") is TaskState.RUNNING
    assert bench.engine.starts["running"] == 1


async def test_a_container_that_somebody_else_removed_fails_its_task(bench: Bench) -> None:
    task = make_task("a")
    await bench.running(task)
    bench.engine.go_away()
    del bench.engine.containers[task.id]
    bench.engine.come_back()
    await bench.until(lambda: bench.leader.state_of("a") is TaskState.FAILED)
    assert "gone" in bench.leader.statuses[task.id].err


# Another machine with this node's id.


async def test_a_refused_node_starts_nothing_new_and_obeys_nobody(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    task = make_task("a")
    await bench.running(task)
    reason = "node id node is in use at 192.0.2.7; this is 192.0.2.1"
    bench.leader.refusal = Refused(reason=reason)
    bench.leader.session = "of another machine"
    await bench.until(lambda: bench.agent.session.state is State.REFUSED)
    await bench.leader.publish(Assignments(term=5, sequence=50, full=True, tasks=(make_task("b"),)))
    await bench.clock.advance(60)
    assert bench.engine.starts == {"a": 1}
    assert bench.engine.containers[task.id].running
    assert [record.message for record in caplog.records if reason in record.message] == [
        f"refused by the leader: {reason}"
    ]
    bench.leader.refusal = None
    await bench.until(lambda: bench.agent.session.state is State.IN_SESSION)
    await bench.running(make_task("c"))
