"""Every executor behind the same handles: in memory, plain processes, a real Docker Engine.

bench        what the contract tests run on; made anew for each test
lab_engine   an engine of our own, for the tests of one module
"""

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
    Executor,
    Health,
)
from essaim_agent.fake_executor import NEVER_ENDS, FakeEngine, FakeExecutor, Script
from essaim_agent.payloads.fake_payloads import FakePayloads, FakeTaskFiles
from essaim_agent.payloads.files import MemoryFiles, NoTaskFiles, TaskFiles
from essaim_agent.payloads.references import PayloadKey
from essaim_agent.payloads.store import PayloadStore
from essaim_agent.process_executor import ProcessExecutor
from essaim_agent.shim import install
from essaim_shared.clock import SystemClock, wait_until
from essaim_shared.container_spec import (
    ConfigReference,
    ContainerSpec,
    HealthConfig,
    ReferencedFile,
    SecretReference,
)
from essaim_shared.ids import NodeId, ServiceId, TaskId, new_id
from essaim_shared.objects import Task
from essaim_shared.spec import TaskSpec
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


def payload_id(name: str) -> str:
    """The same for the same name."""
    return (name.encode().hex() + "0" * 25)[:25]


def with_files(task: Task, payloads: FakePayloads, **data: bytes) -> Task:
    """With a secret or config for each word, which begins with the one or the other; the masters
    hold its data."""
    file = ReferencedFile(name="", uid="1000", gid="2000", mode=0o440)
    secrets: list[SecretReference] = []
    configs: list[ConfigReference] = []
    for name, content in data.items():
        named = msgspec.structs.replace(file, name=name)
        own_id = payload_id(name)
        if name.startswith("secret"):
            payloads.put(PayloadKey("secret", own_id, 1), content)
            secrets.append(
                SecretReference(file=named, secret_id=own_id, secret_name=name, data_version=1)
            )
        else:
            payloads.put(PayloadKey("config", own_id, 1), content)
            configs.append(
                ConfigReference(file=named, config_id=own_id, config_name=name, data_version=1)
            )
    container = msgspec.structs.replace(
        task.spec.container, secrets=tuple(secrets), configs=tuple(configs)
    )
    return msgspec.structs.replace(
        task, spec=msgspec.structs.replace(task.spec, container=container)
    )


class FileBench:
    """Tasks with secrets."""

    payloads: FakePayloads

    def with_files(self, task: Task, **data: bytes) -> Task:
        return with_files(task, self.payloads, **data)


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

    def make_task(self, shell: str) -> Task: ...

    has_health_checks: bool
    changes_limits: bool

    def checked(self) -> Task:
        """Runs on; its health check comes to a verdict when the test says so."""
        ...

    async def set_health(self, task: Task, health: Health) -> None:
        """HEALTHY once, then UNHEALTHY."""
        ...

    def command(self, exit_code: int) -> tuple[str, ...]: ...

    def endless_command(self) -> tuple[str, ...]: ...

    async def command_is_gone(self, command: tuple[str, ...]) -> bool:
        """Whether no process of an endless command is left, or comes to be so soon."""
        ...

    def missing_command(self) -> tuple[str, ...]: ...

    payloads: FakePayloads
    """What the masters hold."""
    files: TaskFiles
    gives_files: bool

    def with_files(self, task: Task, **data: bytes) -> Task: ...

    def file_in(self, task: Task, target: str) -> tuple[bytes, int, int, int]:
        """As the task sees it: data, uid, gid, mode."""
        ...

    def namespace(self) -> str | None: ...
    async def new_agent(self) -> None:
        """The agent's process ends and a new one starts."""
        ...

    async def restart_engine(self) -> None: ...
    async def close(self) -> None: ...


class FakeBench(FileBench):
    make_task = staticmethod(make_task)
    knows_exit_codes_of_adopted = True
    engine_can_restart = True
    impossible_text = "No such image: nowhere"
    polite_exit_code = 143
    has_health_checks = True
    changes_limits = True
    gives_files = True

    def __init__(self) -> None:
        self.engine = FakeEngine()
        self.engine.images = {"busybox"}
        self.payloads = FakePayloads()
        self.files = FakeTaskFiles(self.payloads)
        self.executor: Executor = self._new_executor()

    def _new_executor(self) -> FakeExecutor:
        return FakeExecutor(self.engine, SystemClock(), files=self.files)

    def file_in(self, task: Task, target: str) -> tuple[bytes, int, int, int]:
        [(file, data)] = [
            item for item in self.engine.containers[task.id].files if item[0].target == target
        ]
        return data, file.uid, file.gid, file.mode

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

    def checked(self) -> Task:
        task = make_task("sleep")
        self.engine.script(task.id, Script(has_health_check=True))
        return task

    async def set_health(self, task: Task, health: Health) -> None:
        self.engine.set_health(task.id, health)

    def command(self, exit_code: int) -> tuple[str, ...]:
        command = ("exit", str(exit_code))
        self.engine.commands[command] = exit_code
        return command

    def endless_command(self) -> tuple[str, ...]:
        command = ("sleep",)
        self.engine.commands[command] = NEVER_ENDS
        return command

    async def command_is_gone(self, command: tuple[str, ...]) -> bool:
        return True

    def missing_command(self) -> tuple[str, ...]:
        command = ("no-such-program",)
        self.engine.commands[command] = "no-such-program: not found"
        return command

    def namespace(self) -> str | None:
        return None

    async def new_agent(self) -> None:
        await self.executor.close()
        self.files = FakeTaskFiles(self.payloads, self.files.given)
        self.executor = self._new_executor()

    async def restart_engine(self) -> None:
        self.engine.go_away()
        self.engine.come_back()

    async def close(self) -> None:
        await self.executor.close()


class ShellBench(FileBench):
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

    def make_task(self, shell: str) -> Task:
        return make_task(shell, image=self.image)

    def output(self, task: Task) -> bytes:
        raise AssertionError("each kind has its own")

    async def ready(self, task: Task) -> None:
        assert await wait_until(lambda: b"ready" in self.output(task), SystemClock(), PATIENCE_S)

    def exiter(self, code: int) -> Task:
        return make_task(f"exit {code}", image=self.image)

    def command(self, exit_code: int) -> tuple[str, ...]:
        return ("/bin/sh", "-c", f"exit {exit_code}")

    def endless_command(self) -> tuple[str, ...]:
        return ("sleep", str(100_000 + secrets.randbelow(900_000)))

    async def command_is_gone(self, command: tuple[str, ...]) -> bool:
        line = "\0".join(command).encode()

        def is_gone() -> bool:
            for process in Path("/proc").glob("[0-9]*/cmdline"):
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                    if line in process.read_bytes():
                        return False
            return True

        return await wait_until(is_gone, SystemClock(), PATIENCE_S)

    def missing_command(self) -> tuple[str, ...]:
        return ("no-such-program",)


class ProcessBench(ShellBench):
    knows_exit_codes_of_adopted = False
    engine_can_restart = False
    has_health_checks = False
    changes_limits = False
    gives_files = False
    impossible_text = "needs a command"

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.payloads = FakePayloads()
        self.files: TaskFiles = NoTaskFiles()
        self.executor: Executor = ProcessExecutor(run_dir, SystemClock())

    def file_in(self, task: Task, target: str) -> tuple[bytes, int, int, int]:
        raise AssertionError("a process has no mounts")

    def checked(self) -> Task:
        raise AssertionError("a process has no health check")

    async def set_health(self, task: Task, health: Health) -> None:
        raise AssertionError("a process has no health check")

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
            for command in ("sh", "sleep", "true", "cat"):
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
        self._empty_cgroups()
        mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        for mount in reversed([path for path in mounts if path.startswith(str(self.directory))]):
            subprocess.run(["umount", "--lazy", mount], check=False)
        for namespace in (f"{self.name}-task", self.name):
            subprocess.run(["ip", "netns", "delete", namespace], check=False)
        shutil.rmtree(self.directory, ignore_errors=True)

    def _empty_cgroups(self) -> None:
        """Containers outlive an engine that was killed, and their shims too."""
        groups = [
            group
            for top in Path("/sys/fs/cgroup").glob(f"*/{self.name}")
            for group in (*top.glob("*/"), top)
        ]
        for group in groups:
            for pid in (group / "cgroup.procs").read_text().split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
        for group in groups:
            with contextlib.suppress(OSError):
                group.rmdir()


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
    has_health_checks = True
    changes_limits = True
    gives_files = True
    impossible_text = "No such image: nowhere.invalid/nothing:1"

    def __init__(self, engine: LabEngine) -> None:
        self.engine = engine
        self.image = engine.image
        self.payloads = FakePayloads()
        self.files = self._new_files()
        self.executor: Executor = self._new_executor()

    def _new_executor(self) -> DockerExecutor:
        return DockerExecutor(
            self.engine.socket, "contract", self.engine.run_dir, SystemClock(), True, "host7"
        )

    def _new_files(self) -> MemoryFiles:
        return MemoryFiles(self.engine.run_dir, PayloadStore(self.payloads))

    def run_in(self, task: Task, *command: str) -> tuple[int, bytes]:
        """The exit code of a command in the task's container, and what it printed."""
        client = self.engine.client()
        try:
            made = client.exec_create(f"{task.name}.{task.id}", ["/bin/busybox", *command])
            output: bytes = client.exec_start(made["Id"])
            return int(client.exec_inspect(made["Id"])["ExitCode"]), output
        finally:
            client.close()

    def file_in(self, task: Task, target: str) -> tuple[bytes, int, int, int]:
        code, data = self.run_in(task, "cat", target)
        assert code == 0, data
        code, seen = self.run_in(task, "stat", "-c", "%u %g %a", target)
        assert code == 0, seen
        uid, gid, mode = seen.decode().split()
        return data, int(uid), int(gid), int(mode, 8)

    def impossible(self) -> Task:
        return make_task("true", image="nowhere.invalid/nothing:1")

    def checked(self) -> Task:
        # Failures in the start period do not count, which the first success ends.
        check = HealthConfig(
            test=("CMD-SHELL", "[ -e /well ]"),
            interval=SECOND_NS // 10,
            timeout=SECOND_NS * 10,
            retries=1,
            start_period=600 * SECOND_NS,
        )
        task = self.sleeper()
        container = msgspec.structs.replace(task.spec.container, healthcheck=check)
        return msgspec.structs.replace(
            task, spec=msgspec.structs.replace(task.spec, container=container)
        )

    async def set_health(self, task: Task, health: Health) -> None:
        change = ": >/well" if health is Health.HEALTHY else "/bin/busybox rm /well"
        assert await self.executor.run_command(task, ("/bin/sh", "-c", change), PATIENCE_S) == 0

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
        self.executor, self.files = self._new_executor(), self._new_files()

    async def restart_engine(self) -> None:
        await asyncio.to_thread(self.engine.restart)

    async def close(self) -> None:
        for found in await self.executor.found():
            await self.executor.remove(found.task_id)
        await self.executor.close()
        self.files.remove()


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


@pytest_asyncio.fixture
async def docker_bench(lab_engine: LabEngine) -> AsyncIterator[DockerBench]:
    made = DockerBench(lab_engine)
    await made.executor.open()
    try:
        yield made
    finally:
        await made.close()
