"""What every executor promises, asked of each: in memory, plain processes, a real Docker Engine."""

import asyncio
import contextlib
import io
import os
import random
import secrets
import select
import shutil
import signal
import socket
import subprocess
import tarfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Protocol

import docker
import msgspec
import pytest
import pytest_asyncio

from essaim_agent.docker_executor import DockerExecutor
from essaim_agent.executor import (
    ContainerExit,
    Executor,
    ExecutorError,
    FoundContainer,
    RunningContainer,
    Temporary,
)
from essaim_agent.fake_executor import FakeEngine, FakeExecutor, Script
from essaim_agent.process_executor import ProcessExecutor
from essaim_agent.shim import install
from essaim_shared.clock import SystemClock, wait_until
from essaim_shared.ids import NodeId, ServiceId, TaskId, new_id
from essaim_shared.objects import Task
from essaim_shared.spec import ContainerSpec, TaskSpec
from essaim_shared.task_state import TaskState

PATIENCE_S = 30.0
CONTAINERD_PID = "exec/containerd/containerd.pid"
SECOND_NS = 1_000_000_000


def make_task(
    shell: str, grace_ns: int | None = None, image: str = "busybox", stop_signal: str = ""
) -> Task:
    """A task that runs a line of shell."""
    return Task(
        id=TaskId(new_id(random.SystemRandom())),
        service_id=ServiceId("s" * 25),
        service_name="web",
        slot=1,
        spec=TaskSpec(
            container=ContainerSpec(
                image=image,
                command=("/bin/sh", "-c"),
                args=(shell,),
                stop_grace_period=grace_ns,
                stop_signal=stop_signal,
            )
        ),
        spec_version=1,
        node_id=NodeId("n" * 25),
        desired_state=TaskState.RUNNING,
        created_ns=1,
        updated_ns=1,
    )


class Bench(Protocol):
    """An executor, and what the tests must know of it."""

    executor: Executor
    knows_exit_codes_of_adopted: bool
    engine_can_restart: bool

    def sleeper(self) -> Task:
        """Runs on; ends on its stop signal once it is `ready`, with `polite_exit_code`."""
        ...

    polite_exit_code: int

    async def ready(self, task: Task) -> None:
        """Return once a sleeper would handle its stop signal."""
        ...

    def stubborn(self) -> Task:
        """Ignores its stop signal; its grace period is short."""
        ...

    def exiter(self, code: int) -> Task: ...

    def impossible(self) -> Task:
        """Can never be prepared, and why stands in `impossible_text`."""
        ...

    impossible_text: str

    def namespace(self) -> str | None: ...
    async def new_agent(self) -> None:
        """The agent's process ends and a new one starts."""
        ...

    async def restart_engine(self) -> None: ...
    async def close(self) -> None: ...


class FakeBench:
    knows_exit_codes_of_adopted = True
    engine_can_restart = True
    impossible_text = "No such image: nowhere"
    polite_exit_code = 143

    def __init__(self) -> None:
        self.engine = FakeEngine()
        self.engine.images = {"busybox"}
        self.executor: Executor = FakeExecutor(self.engine, SystemClock())

    def sleeper(self) -> Task:
        return make_task("sleep")

    async def ready(self, task: Task) -> None:
        return

    def stubborn(self) -> Task:
        task = make_task("sleep", SECOND_NS // 20)
        self.engine.script(task.id, Script(ignores_stop=True))
        return task

    def exiter(self, code: int) -> Task:
        task = make_task("exit")
        self.engine.script(task.id, Script(exit_code=code))
        return task

    def impossible(self) -> Task:
        return make_task("true", image="nowhere")

    def namespace(self) -> str | None:
        return None

    async def new_agent(self) -> None:
        await self.executor.close()
        self.executor = FakeExecutor(self.engine, SystemClock())

    async def restart_engine(self) -> None:
        self.engine.go_away()
        self.engine.come_back()

    async def close(self) -> None:
        await self.executor.close()


class ShellBench:
    """Tasks that are real shells."""

    image = "busybox"
    polite_exit_code = 7

    def sleeper(self) -> Task:
        return make_task(
            "trap 'exit 7' TERM; echo ready; while :; do sleep 1 & wait; done", image=self.image
        )

    def stubborn(self) -> Task:
        # Ignored by default, so it makes no difference how far the shell has come.
        return make_task(
            "while :; do sleep 1; done", SECOND_NS // 5, self.image, stop_signal="SIGURG"
        )

    def output(self, task: Task) -> bytes:
        raise AssertionError("each kind has its own")

    async def ready(self, task: Task) -> None:
        assert await wait_until(lambda: b"ready" in self.output(task), SystemClock(), PATIENCE_S)

    def exiter(self, code: int) -> Task:
        return make_task(f"exit {code}", image=self.image)


class ProcessBench(ShellBench):
    knows_exit_codes_of_adopted = False
    engine_can_restart = False
    impossible_text = "needs a command"

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.executor: Executor = ProcessExecutor(run_dir, SystemClock())

    def impossible(self) -> Task:
        nothing = TaskSpec(container=ContainerSpec(image="any"))
        return msgspec.structs.replace(make_task("true"), spec=nothing)

    def output(self, task: Task) -> bytes:
        return (self.run_dir / "tasks" / task.id / "output").read_bytes()

    def namespace(self) -> str | None:
        return None

    async def new_agent(self) -> None:
        await self.executor.close()
        self.executor = ProcessExecutor(self.run_dir, SystemClock())

    async def restart_engine(self) -> None:
        raise AssertionError("there is no engine")

    async def close(self) -> None:
        for found in await self.executor.found():
            await self.executor.remove(found.task_id)
        await self.executor.close()


class LabEngine:
    """A Docker Engine of our own, in a network namespace of its own; nothing of it stays."""

    def __init__(self, directory: Path) -> None:
        self.image = "essaim-test"
        self.name = f"essaim-t{secrets.token_hex(4)}"
        self.task_namespace = f"/run/netns/{self.name}-task"
        self.directory = directory
        self.run_dir = directory / "run"
        self.socket = directory / "docker.sock"
        self._shim = install(directory, self.run_dir)
        self._process: subprocess.Popen[bytes] | None = None
        for namespace in (self.name, f"{self.name}-task"):
            subprocess.run(["ip", "netns", "add", namespace], check=True)

    def start(self) -> None:
        """A restart within a second of a kill can fail, since containerd is still ending."""
        for _ in range(5):
            with (self.directory / "dockerd.log").open("ab") as log:
                self._process = subprocess.Popen(
                    [
                        *("nsenter", f"--net=/run/netns/{self.name}", "dockerd", "--bridge=none"),
                        *("--iptables=false", "--live-restore", "--userland-proxy=false"),
                        *(f"--add-runtime=essaim={self._shim}", f"--cgroup-parent=/{self.name}"),
                        *(f"--data-root={self.directory}/data", f"--host=unix://{self.socket}"),
                        *(f"--exec-root={self.directory}/exec",),
                        *(f"--pidfile={self.directory}/docker.pid",),
                    ],
                    stdout=log,
                    stderr=log,
                )
            if self._answers():
                return
        raise AssertionError((self.directory / "dockerd.log").read_text()[-2000:])

    def _answers(self) -> bool:
        assert self._process is not None
        for _ in range(600):
            # Not with a client of docker's: it leaves its socket open when nobody listens.
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
                probe.connect(str(self.socket))
                # It listens long before it serves, and may give up in between.
                probe.settimeout(20)
                probe.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
                if probe.recv(64).startswith(b"HTTP/1.0 200"):
                    return True
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(0.05)
                return False
        return False

    def client(self) -> docker.APIClient:
        return docker.APIClient(f"unix://{self.socket}", version="auto", timeout=20)

    def import_busybox(self) -> None:
        """An image of nothing but a static busybox, with a link for each of its commands."""
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as tar:
            tar.add("/bin/busybox", "bin/busybox")
            for command in ("sh", "sleep", "true"):
                link = tarfile.TarInfo(f"bin/{command}")
                link.type, link.linkname = tarfile.SYMTYPE, "busybox"
                tar.addfile(link)
        client = self.client()
        client.import_image_from_data(packed.getvalue(), repository=self.image)
        client.close()

    def restart(self) -> None:
        """kill -9. Its containerd dies with it; a new engine that believes it alive (a zombie is
        enough) waits 15 s for it and then gives up."""
        assert self._process is not None
        containerd = os.pidfd_open(int((self.directory / CONTAINERD_PID).read_text()))
        self._process.kill()
        self._process.wait(20)
        select.select([containerd], [], [], 20)
        os.close(containerd)
        (self.directory / CONTAINERD_PID).unlink()
        self.start()

    def end(self) -> None:
        if self.socket.exists() and self._answers():
            client = self.client()
            for container in client.containers(all=True):
                client.remove_container(container["Id"], force=True)
            client.close()
        if self._process is not None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(20)
            self._process.kill()
            self._process.wait(20)
        for process in Path("/proc").glob("[0-9]*/cmdline"):
            # containerd and the shims of containers that could not be removed.
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                if str(self.directory).encode() in process.read_bytes():
                    os.kill(int(process.parent.name), signal.SIGKILL)
        mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        for mount in reversed([path for path in mounts if path.startswith(str(self.directory))]):
            subprocess.run(["umount", "--lazy", mount], check=False)
        for namespace in (f"{self.name}-task", self.name):
            subprocess.run(["ip", "netns", "delete", namespace], check=False)
        for controller in Path("/sys/fs/cgroup").glob(f"**/{self.name}"):
            with contextlib.suppress(OSError):
                controller.rmdir()
        shutil.rmtree(self.directory, ignore_errors=True)


@pytest.fixture(scope="module")
def lab_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabEngine]:
    engine = LabEngine(tmp_path_factory.mktemp("engine"))
    try:
        engine.start()
        engine.import_busybox()
        yield engine
    finally:
        engine.end()


class DockerBench(ShellBench):
    knows_exit_codes_of_adopted = True
    engine_can_restart = True
    impossible_text = "No such image: nowhere.invalid/nothing:1"

    def __init__(self, engine: LabEngine) -> None:
        self.engine = engine
        self.image = engine.image
        self.executor: Executor = self._new_executor()

    def _new_executor(self) -> DockerExecutor:
        return DockerExecutor(
            self.engine.socket, "contract", self.engine.run_dir, SystemClock(), True
        )

    def impossible(self) -> Task:
        return make_task("true", image="nowhere.invalid/nothing:1")

    def output(self, task: Task) -> bytes:
        client = self.engine.client()
        try:
            written: bytes = client.logs(f"{task.name}.{task.id}")
            return written
        finally:
            client.close()

    def namespace(self) -> str | None:
        return self.engine.task_namespace

    async def new_agent(self) -> None:
        await self.executor.close()
        self.executor = self._new_executor()

    async def restart_engine(self) -> None:
        await asyncio.to_thread(self.engine.restart)

    async def close(self) -> None:
        for found in await self.executor.found():
            await self.executor.remove(found.task_id)
        await self.executor.close()


@pytest_asyncio.fixture(params=["fake", "process", pytest.param("docker", marks=pytest.mark.lab)])
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    kind = request.param
    made: Bench
    if kind == "fake":
        made = FakeBench()
    elif kind == "process":
        made = ProcessBench(tmp_path)
    else:
        made = DockerBench(request.getfixturevalue("lab_engine"))
    await made.executor.open()
    try:
        yield made
    finally:
        await made.close()


async def run(bench: Bench, task: Task) -> RunningContainer:
    await bench.executor.prepare(task)
    return await bench.executor.start(task, bench.namespace())


async def next_exit(bench: Bench, task: Task) -> ContainerExit:
    async with asyncio.timeout(PATIENCE_S):
        async for ended in bench.executor.exits():
            if ended.task_id == task.id:
                return ended
    raise AssertionError("the exits ended")


async def found(bench: Bench, task: Task) -> FoundContainer | None:
    containers = {container.task_id: container for container in await bench.executor.found()}
    return containers.get(task.id)


async def found_ended(bench: Bench, task: Task) -> FoundContainer:
    """An engine may show an end a moment after it has told it."""
    async with asyncio.timeout(PATIENCE_S):
        while (seen := await found(bench, task)) is None or seen.running:
            pass
    return seen


async def test_the_node_has_processors_and_memory(bench: Bench) -> None:
    resources = await bench.executor.open()
    assert resources.nano_cpus >= 1_000_000_000
    assert resources.memory_bytes > 2**20
    assert resources.architecture
    assert resources.engine_version


async def test_a_started_task_is_found_running(bench: Bench) -> None:
    task = bench.sleeper()
    container = await run(bench, task)
    seen = await found(bench, task)
    assert seen is not None
    assert (seen.container_id, seen.running, seen.started) == (container.container_id, True, True)


async def test_starting_twice_starts_one_container(bench: Bench) -> None:
    task = bench.sleeper()
    first = await run(bench, task)
    second = await run(bench, task)
    assert first.container_id == second.container_id
    assert len(await bench.executor.found()) == 1


@pytest.mark.parametrize("code", [0, 3])
async def test_an_exit_is_told_with_its_code(bench: Bench, code: int) -> None:
    task = bench.exiter(code)
    await run(bench, task)
    ended = await next_exit(bench, task)
    assert (ended.task_id, ended.exit_code) == (task.id, code)
    seen = await found_ended(bench, task)
    assert (seen.running, seen.started, seen.exit_code) == (False, True, code)


async def test_a_task_that_has_ended_is_not_started_again(bench: Bench) -> None:
    task = bench.exiter(3)
    await run(bench, task)
    await next_exit(bench, task)
    with pytest.raises(ExecutorError, match="ended already") as refusal:
        await bench.executor.start(task, bench.namespace())
    assert not isinstance(refusal.value, Temporary)


async def test_exits_between_the_opening_and_the_listening_are_not_lost(bench: Bench) -> None:
    quick = bench.exiter(0)
    await run(bench, quick)
    other = bench.sleeper()
    await run(bench, other)  # time passes before anybody listens
    assert (await next_exit(bench, quick)).task_id == quick.id


async def test_a_stop_is_told_to_the_caller_and_to_the_listener(bench: Bench) -> None:
    task = bench.sleeper()
    await run(bench, task)
    await bench.ready(task)
    assert await bench.executor.stop(task) == bench.polite_exit_code
    assert (await next_exit(bench, task)).exit_code == bench.polite_exit_code


async def test_a_task_that_ignores_the_stop_signal_is_killed_after_its_grace(
    bench: Bench,
) -> None:
    task = bench.stubborn()
    await run(bench, task)
    assert await bench.executor.stop(task) == 137


async def test_stops_do_not_wait_for_one_another(bench: Bench) -> None:
    """All signals are sent before the first grace period is over."""
    tasks = [bench.stubborn() for _ in range(4)]
    await asyncio.gather(*(run(bench, task) for task in tasks))
    codes = await asyncio.gather(*(bench.executor.stop(task) for task in tasks))
    assert codes == [137] * 4


async def test_stopping_what_is_not_there_finds_nothing(bench: Bench) -> None:
    assert await bench.executor.stop(bench.sleeper()) is None


async def test_stopping_what_has_ended_gives_its_exit_code(bench: Bench) -> None:
    task = bench.exiter(3)
    await run(bench, task)
    await next_exit(bench, task)
    assert await bench.executor.stop(task) == 3


async def test_a_removed_task_is_found_no_more(bench: Bench) -> None:
    task = bench.sleeper()
    await run(bench, task)
    await bench.executor.remove(task.id)
    assert await found(bench, task) is None
    await bench.executor.remove(task.id)  # and again, which is no error


async def test_what_can_never_run_is_refused_before_the_start(bench: Bench) -> None:
    with pytest.raises(ExecutorError) as refusal:
        await bench.executor.prepare(bench.impossible())
    assert bench.impossible_text in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert not isinstance(refusal.value, Temporary)


async def test_tasks_outlive_the_agent_and_are_found_by_the_next(bench: Bench) -> None:
    task = bench.sleeper()
    container = await run(bench, task)
    await bench.new_agent()
    await bench.executor.open()
    seen = await found(bench, task)
    assert seen is not None
    assert (seen.container_id, seen.running) == (container.container_id, True)
    assert (await run(bench, task)).container_id == container.container_id
    await bench.ready(task)
    code = await bench.executor.stop(task)
    assert code == (bench.polite_exit_code if bench.knows_exit_codes_of_adopted else 255)
    ended = await next_exit(bench, task)
    assert (ended.task_id, ended.exit_code) == (task.id, code)
    await bench.executor.remove(task.id)
    assert await found(bench, task) is None


async def test_a_task_that_ended_while_no_agent_watched_is_found_ended(bench: Bench) -> None:
    task = bench.exiter(3)
    await run(bench, task)
    await next_exit(bench, task)
    await bench.new_agent()
    await bench.executor.open()
    seen = await found_ended(bench, task)
    assert (seen.running, seen.started, seen.exit_code) == (False, True, 3)


async def test_an_engine_that_restarts_ends_the_exits_and_keeps_the_tasks(bench: Bench) -> None:
    if not bench.engine_can_restart:
        return  # processes have no engine that could go away
    task = bench.sleeper()
    container = await run(bench, task)
    listening = asyncio.ensure_future(_drain(bench))
    await bench.restart_engine()
    async with asyncio.timeout(PATIENCE_S):
        await listening
        while True:
            try:
                await bench.executor.open()
                break
            except Temporary:
                await asyncio.sleep(0)
    seen = await found(bench, task)
    assert seen is not None
    assert (seen.container_id, seen.running) == (container.container_id, True)


async def _drain(bench: Bench) -> list[ContainerExit]:
    return [ended async for ended in bench.executor.exits()]
