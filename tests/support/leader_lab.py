"""The real leader and real agents together, on a bus, engines and an overlay in memory."""

import asyncio
import random
from collections.abc import Callable
from pathlib import Path

import msgspec

from essaim_agent.fake_executor import FakeEngine, FakeExecutor
from essaim_agent.fake_network import FakeFabric, FakeNetworks
from essaim_agent.journal import DataDirectory, HighestTerm, Journal, LastHeard
from essaim_agent.reporter import Reporter
from essaim_agent.session import Session
from essaim_agent.worker import Worker
from essaim_master.control.leader import ControlSettings, Leader
from essaim_master.state.cluster import LocalCluster, Member
from essaim_master.state.service_changes import changed_service, service_writes
from essaim_master.state.writes import Writes
from essaim_shared.clock import ManualClock
from essaim_shared.container_spec import ContainerSpec
from essaim_shared.ids import MemberId, NodeId, ServiceId, TaskId
from essaim_shared.memory_transport import MemoryBus
from essaim_shared.objects import NodeDescription, Service, Task
from essaim_shared.spec import ReplicatedMode, ServiceMode, ServiceSpec, TaskSpec
from essaim_shared.subjects import Subjects
from essaim_shared.task_state import TaskState

SEED = 20_261
SUBJECTS = Subjects("test")
STEP_S = 0.05
PATIENCE_S = 40.0
"""Of the moved clock."""


class Agent:
    """One agent process; its engine, its disk and its kernel outlive it."""

    def __init__(self, lab: "Lab", name: str) -> None:
        self.name = name
        self.address = f"192.0.2.{name.removeprefix('h')}"
        self.engine = lab.engines.setdefault(name, FakeEngine())
        rng = random.Random(f"{SEED} {name}")
        self._data = DataDirectory(lab.directory / name)
        term = HighestTerm(self._data.path)
        node_id = NodeId(name)
        self._transport = lab.bus.client(name, inbox_prefix=SUBJECTS.inbox(node_id))
        self._journal = Journal(self._data.path, lab.clock)
        self._executor = FakeExecutor(self.engine, lab.clock, uses_namespaces=True)
        self.networks = FakeNetworks(lab.fabric, self.address)
        self._reporter = Reporter(
            self._transport, SUBJECTS.status(node_id), node_id, lab.clock, rng, term.admits
        )
        self._worker = Worker(
            self._executor, self.networks, self._journal, self._reporter, lab.clock, rng
        )
        self._session = Session(
            transport=self._transport,
            subjects=SUBJECTS,
            node_id=node_id,
            description=self._describe,
            sink=self._worker,
            reporter=self._reporter,
            highest_term=term,
            last_heard=LastHeard(self._data.path),
            clock=lab.clock,
            rng=rng,
        )
        self.running: asyncio.Task[None] | None = None

    def _describe(self) -> NodeDescription:
        return NodeDescription(
            hostname=self.name,
            address=self.address,
            architecture="x86_64",
            nano_cpus=4 * 10**9,
            memory_bytes=8 * 2**30,
            engine_version="fake",
            instance=self.name,
        )

    async def start(self) -> None:
        await self._worker.start()
        self.running = asyncio.create_task(self._run())

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for part in (self._worker, self._journal, self._reporter, self._session):
                group.create_task(part.run())

    @property
    def term(self) -> int:
        """Of the assignments it holds."""
        return self._session.held[0]

    def runs(self, task_id: str) -> bool:
        """Whether the engine runs the task's container."""
        container = self.engine.containers.get(TaskId(task_id))
        return container is not None and container.running

    async def kill(self) -> None:
        """As kill -9: the journal is not written on the way out."""
        if self.running is None:
            return
        self.running.cancel()
        await asyncio.wait({self.running})
        if not self.running.cancelled():
            self.running.result()
        self.running = None
        await self._transport.close()
        await self.networks.close()
        await self._executor.close()
        self._data.close()


class Lab:
    """Hosts h1 … hN, and one master on a host of its own."""

    def __init__(self, directory: Path) -> None:
        print(f"seed {SEED}")
        self.directory = directory
        self.clock = ManualClock()
        self.bus = MemoryBus(self.clock, random.Random(SEED))
        self.fabric = FakeFabric()
        self.engines: dict[str, FakeEngine] = {}
        self.agents: dict[str, Agent] = {}
        self.cluster = LocalCluster(self.clock, Member(MemberId("m1"), "", ""))
        self.state = self.cluster.state
        leader = Leader(
            self.cluster,
            self.bus.client("master"),
            self.clock,
            random.Random(SEED),
            ControlSettings(cluster_id="test", subnet="10.1.0.0/24", vni=7, mtu=1450),
        )
        self._leading = asyncio.create_task(leader.run())

    async def start(self, hosts: int = 3) -> None:
        for number in range(1, hosts + 1):
            await self.start_agent(f"h{number}")
        await self.until(lambda: len(self.state.node_status) == hosts)

    async def start_agent(self, name: str) -> None:
        (self.directory / name).mkdir(exist_ok=True)
        self.agents[name] = Agent(self, name)
        await self.agents[name].start()

    async def close(self) -> None:
        for agent in self.agents.values():
            await agent.kill()
        self._leading.cancel()
        await asyncio.wait({self._leading})
        await self.bus.close()

    async def run(self, seconds: float) -> None:
        end_s = self.clock.monotonic_s() + seconds
        while self.clock.monotonic_s() < end_s:
            await self.clock.advance(STEP_S)
            for task in (self._leading, *(a.running for a in self.agents.values())):
                if task is not None and task.done():
                    task.result()

    def led_astray(self) -> list[str]:
        """Live nodes that lead new connections to a task that does not run, in words."""
        by_address = {agent.address: agent for agent in self.agents.values()}
        return [
            f"{agent.name} leads to {endpoint.task_id} on {by_address[endpoint.node_address].name}"
            for agent in self.agents.values()
            if agent.running is not None
            for endpoint in self.fabric.kernel(agent.address).endpoints
            if endpoint.state == "serving"
            and not by_address[endpoint.node_address].runs(endpoint.task_id)
        ]

    async def until(self, condition: Callable[[], object]) -> float:
        """Let time pass until the condition holds; how long it took."""
        started_s = self.clock.monotonic_s()
        while not condition():
            assert self.clock.monotonic_s() - started_s < PATIENCE_S, f"it did not come ({SEED=})"
            await self.run(STEP_S)
        return self.clock.monotonic_s() - started_s

    async def write(self, writes: Writes) -> None:
        for transaction in writes.transactions():
            await self.cluster.commit(transaction, 1.0)

    async def create(
        self, replicas: int, name: str = "web", container: ContainerSpec | None = None
    ) -> ServiceId:
        spec = ServiceSpec(
            name=name,
            task=TaskSpec(container=container or ContainerSpec(image="img")),
            mode=ServiceMode(replicated=ReplicatedMode(replicas=replicas)),
        )
        service = Service(id=ServiceId(name), spec=spec, created_ns=1, updated_ns=1)
        writes = Writes()
        writes.put(service)
        writes.claim_name(service)
        await self.write(writes)
        return service.id

    async def scale(self, service_id: ServiceId, replicas: int) -> None:
        service = self.state.services[service_id]
        mode = ServiceMode(replicated=ReplicatedMode(replicas=replicas))
        spec = msgspec.structs.replace(service.spec, mode=mode)
        writes = Writes()
        writes.put(msgspec.structs.replace(service, spec=spec))
        await self.write(writes)

    async def change(self, service_id: ServiceId, **spec: object) -> None:
        """Give the service another spec, as the API does."""
        service = self.state.services[service_id]
        changed = msgspec.structs.replace(service.spec, **spec)
        after = changed_service(service, changed, self.clock.wall_ns())
        await self.write(service_writes(self.state.revisions_of(service_id), service, after))

    def update_state(self, service_id: ServiceId) -> str:
        status = self.state.update_status.get(service_id)
        return "" if status is None else status.state

    async def remove(self, service_id: ServiceId) -> None:
        writes = Writes()
        writes.delete_service(self.state.services[service_id])
        await self.write(writes)

    def ready(self, service_id: ServiceId) -> int:
        """How many of the running tasks are ready, by what the state says."""
        return sum(self.state.task_status[task.id].is_ready for task in self.running(service_id))

    def every_command(self, command: tuple[str, ...], exit_code: int) -> None:
        """What it gives from now on, in any container."""
        for engine in self.engines.values():
            engine.commands[command] = exit_code

    def running(self, service_id: ServiceId) -> list[Task]:
        """What the state says."""
        return [
            task
            for task in self.state.tasks_of_service(service_id).values()
            if self.state.observed(task.id) is TaskState.RUNNING
            and task.desired_state is TaskState.RUNNING
        ]

    def containers(self) -> set[str]:
        """What the engines say."""
        return {
            task_id
            for engine in self.engines.values()
            for task_id, container in engine.containers.items()
            if container.running
        }

    def is_in_order(self, *service_ids: ServiceId) -> bool:
        wanted: set[str] = set()
        for service_id in service_ids:
            running = self.running(service_id)
            if len(running) != self.state.services[service_id].spec.replicas:
                return False
            wanted |= {task.id for task in running}
        return self.containers() == wanted

    def check(self, *service_ids: ServiceId) -> None:
        """The story's end."""
        assert self.is_in_order(*service_ids)
        tasks = [task for service_id in service_ids for task in self.running(service_id)]
        for task in tasks:
            assert task.node_id is not None
            source = self.agents[task.node_id].address
            for other in tasks:
                target = other.attachments[0].address
                assert self.fabric.reaches(source, task.id, target), f"{task.name} → {other.name}"
        for engine in self.engines.values():
            assert all(count == 1 for count in engine.starts.values())
        for agent in self.agents.values():
            namespaces = set(self.fabric.kernel(agent.address).namespaces)
            assert namespaces == {task.id for task in tasks if task.node_id == agent.name}
