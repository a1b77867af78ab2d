"""A real master's API on a unix socket, with a hand that runs whatever is asked for at once."""

import asyncio
import os
import random
import sys

import msgspec
import pytest
from support.scripted_master import ScriptedMaster

from essaim_master.control.network_reports import ReceivedReport
from essaim_master.http.api import Api
from essaim_master.http.app import App
from essaim_master.http.host_facts import read_host_facts
from essaim_master.http.server import HttpServer
from essaim_master.state.cluster import LocalCluster, Member
from essaim_master.state.keys import Kind
from essaim_master.state.writes import Writes
from essaim_shared.clock import SystemClock
from essaim_shared.figures import ContainerFigures, NodeFigures
from essaim_shared.objects import (
    NodeDescription,
    NodeObject,
    NodeStatus,
    Task,
    TaskStatus,
)
from essaim_shared.spec import NodeSpec
from essaim_shared.task_state import TaskState

SEED = 7
COMMAND_TIMEOUT_S = 20.0
NODES = ("h1", "h2", "h10")


class Figures:
    def __init__(self, state) -> None:
        self._state = state

    def nodes(self):
        return {
            node_id: NodeFigures(
                taken_ns=1,
                cpu_count=2,
                cpu_percent=12.5,
                load_1=0.5,
                load_5=0.4,
                load_15=0.3,
                memory_total_bytes=4 << 30,
                memory_used_bytes=1 << 30,
                disk_total_bytes=100 << 30,
                disk_used_bytes=50 << 30,
                network_receive_bytes=1 << 20,
                network_transmit_bytes=2 << 20,
            )
            for node_id in self._state.nodes
        }

    def containers(self):
        return {
            task_id: ContainerFigures(
                task_id=task_id,
                container_id="c",
                cpu_seconds=1.0,
                cpu_percent=3.0,
                memory_working_set_bytes=10 << 20,
                memory_usage_bytes=11 << 20,
                memory_limit_bytes=4 << 30,
                network_receive_bytes=1,
                network_transmit_bytes=2,
                block_read_bytes=3,
                block_write_bytes=4,
                process_count=5,
            )
            for task_id in self._state.tasks
        }


class Reports:
    """What nodes told of their networks; with `is_renewed` they tell it again all the time."""

    def __init__(self, clock) -> None:
        self._clock = clock
        self._heard = {}
        self.is_renewed = False
        self.asked = 0

    def hear(self, report, age_s=0.0) -> None:
        heard = ReceivedReport(report, self._clock.monotonic_s() - age_s)
        self._heard[report.node_id] = heard

    def received(self):
        self.asked += 1
        if self.is_renewed:
            for heard in list(self._heard.values()):
                self.hear(heard.report)
        return self._heard


class Done:
    def __init__(self, code: int, out: bytes, err: bytes) -> None:
        self.code, self.out, self.err = code, out.decode(), err.decode()

    def __repr__(self) -> str:
        return f"exit {self.code}\n--- out\n{self.out}--- err\n{self.err}"


class Master:
    """The cluster behind the socket. `fails` makes every new task fail with that text."""

    def __init__(self, socket) -> None:
        print(f"seed {SEED}")
        self.socket = socket
        self.clock = SystemClock()
        self.rng = random.Random(SEED)
        self.cluster = LocalCluster(self.clock, Member("h1", "10.98.0.1:7401", "10.98.0.1:7400"))
        self.state = self.cluster.state
        self.reports = Reports(self.clock)
        self.app = App(
            Api(
                self.cluster,
                self.clock,
                self.rng,
                Figures(self.state),
                read_host_facts(),
                network_reports=self.reports,
            )
        )
        self.broken: list[BaseException] = []
        self.server = HttpServer(self.app, self.broken.append, socket)
        self.fails = ""
        self._changed = asyncio.Event()
        self.state.subscribe(self._note)

    async def start(self) -> None:
        writes = Writes()
        for number, host in enumerate(NODES, start=1):
            node = NodeObject(
                id=f"node{number}", spec=NodeSpec(name=host), created_ns=1, updated_ns=1
            )
            writes.put(node)
            description = NodeDescription(
                hostname=host,
                address=f"10.98.0.{number}",
                architecture="amd64",
                nano_cpus=2_000_000_000,
                memory_bytes=4 << 30,
                engine_version="20.10.24",
            )
            writes.put_node_status(
                node.id, NodeStatus(state="ready", description=description, changed_ns=1)
            )
        await self.write(writes)
        await self.server.start()
        self._hand = asyncio.create_task(self._run_services())

    async def stop(self) -> None:
        self._hand.cancel()
        await asyncio.wait([self._hand])
        await self.server.stop()
        assert not self.broken

    async def write(self, writes: Writes) -> None:
        for transaction in writes.transactions():
            assert (await self.cluster.commit(transaction, 1.0)).succeeded

    async def start_command(self, *arguments: str, **environment: str):
        variables = {**os.environ, "ESSAIM_HOST": f"unix://{self.socket}", **environment}
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "essaim_cli",
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=variables,
        )

    async def run(self, *arguments: str, **environment: str) -> Done:
        process = await self.start_command(*arguments, **environment)
        out, err = await asyncio.wait_for(process.communicate(), COMMAND_TIMEOUT_S)
        return Done(process.returncode, out, err)

    async def ok(self, *arguments: str) -> str:
        done = await self.run(*arguments)
        assert done.code == 0, done
        return done.out

    def _note(self, applied) -> None:
        if any(change.kind is Kind.SERVICE for change in applied.changes):
            self._changed.set()

    async def _run_services(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            writes = Writes()
            for service in list(self.state.services.values()):
                self._fill_slots(writes, service)
            for task in self.state.tasks.values():
                if task.service_id not in self.state.services:
                    writes.delete_task(task.id)
            await self.write(writes)

    def _fill_slots(self, writes: Writes, service) -> None:
        tasks = {task.slot: task for task in self.state.tasks_of_service(service.id).values()}
        for slot in range(1, service.spec.replicas + 1):
            if slot in tasks:
                continue
            now_ns = self.clock.wall_ns()
            task = Task(
                id=f"{service.id[:20]}t{slot:04d}",
                service_id=service.id,
                service_name=service.spec.name,
                service_labels=service.spec.labels,
                slot=slot,
                spec=service.spec.task,
                spec_version=service.spec_version,
                node_id=f"node{slot % 3 + 1}",
                desired_state=TaskState.RUNNING,
                created_ns=now_ns,
                updated_ns=now_ns,
            )
            writes.put(task)
            state = TaskState.PENDING if self.fails else TaskState.RUNNING
            writes.put_task_status(
                task.id, TaskStatus(state=state, timestamp_ns=now_ns, err=self.fails)
            )
        for slot, task in tasks.items():
            if slot > service.spec.replicas:
                writes.delete_task(task.id)
            elif task.spec_version != service.spec_version:
                writes.put(
                    msgspec.structs.replace(
                        task, spec=service.spec.task, spec_version=service.spec_version
                    )
                )


@pytest.fixture
async def master(tmp_path):
    master = Master(tmp_path / "master.sock")
    await master.start()
    yield master
    await master.stop()


@pytest.fixture
def masters(tmp_path):
    """Starts masters, each from its script; gives the client's --host and the masters."""
    started = []

    def start(*scripts):
        for number, script in enumerate(scripts):
            started.append(ScriptedMaster(tmp_path / f"m{number}", script))
        return ",".join(master.url for master in started), *started

    yield start
    for master in started:
        master.stop()
