"""Tasks as plain processes, for machines that have no container engine.

A task's process leads a session of its own, so signals reach all of its children and it outlives
the agent. It is given PORT, a free TCP port on the loopback interface to serve on.

    RUN_DIR/tasks/TASK_ID/pid      pid and start time, written by the process itself
    RUN_DIR/tasks/TASK_ID/output   its standard output and error
    RUN_DIR/tasks/TASK_ID/exit     its exit code, once it has ended while an agent watched

The process writes its own pid file before it becomes the user's program, so there is no moment
in which a crash of the agent leaves a process that the next agent does not find. A pid means
nothing without the start time: the kernel uses pids again.

Ends are noticed through pidfd_open(2), which works for processes that another agent started too;
but the exit code is told to the parent alone. Of an adopted process it is therefore unknown.
"""

import asyncio
import logging
import os
import platform
import shutil
import signal
import socket
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

from essaim_agent.executor import (
    CommandTimeout,
    ContainerEvent,
    ContainerExit,
    ExecutorError,
    FoundContainer,
    NodeResources,
    RunningContainer,
    grace_period_s,
)
from essaim_agent.process_options import check, command_of, environment_of
from essaim_agent.task_templates import NodeFacts, expanded
from essaim_shared import __version__
from essaim_shared.clock import Clock
from essaim_shared.ids import TaskId
from essaim_shared.objects import Task

_log = logging.getLogger(__name__)

UNKNOWN_EXIT_CODE = 255
UNKNOWN_EXIT = "exit code unknown: the process outlived the agent that started it"
KILL_WAIT_S = 5.0
PID_FILE_WAIT_S = 5.0
PID_FILE_POLL_S = 0.002
EVENTS_MAX = 10_000

_LAUNCHER = 'read -r stat </proc/$$/stat && echo "$stat" >"$0.new" && mv "$0.new" "$0" && exec "$@"'
"""Writes its own line of /proc (proc(5): field 1 the pid, field 22 the start time), then becomes
the program."""


def start_time_of(stat_line: str) -> tuple[int, int]:
    """(pid, start time in clock ticks since boot) of a line of /proc/PID/stat. Raises ValueError.

    The second field, the name, may hold spaces and parentheses: count from the last one.
    """
    pid, _, rest = stat_line.partition(" ")
    fields = rest.rpartition(")")[2].split()
    if len(fields) < 20:
        raise ValueError(f"no line of /proc/PID/stat: {stat_line[:80]!r}")
    return int(pid), int(fields[19])


class _Process:
    """A process of a task, ours or adopted, watched through its pidfd."""

    def __init__(self, task_id: TaskId, pid: int, pidfd: int) -> None:
        self.task_id = task_id
        self.pid = pid
        self.pidfd = pidfd
        self.child: subprocess.Popen[bytes] | None = None
        self.ended = asyncio.Event()
        self.exit_code = 0


class ProcessExecutor:
    uses_namespaces = False

    def __init__(self, run_dir: Path, clock: Clock, node_name: str = "") -> None:
        self._node = NodeFacts(hostname=node_name, architecture=platform.machine())
        self._directory = run_dir / "tasks"
        self._clock = clock
        self._processes: dict[TaskId, _Process] = {}
        self._events: asyncio.Queue[ContainerEvent | None] = asyncio.Queue(EVENTS_MAX)

    async def open(self) -> NodeResources:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return NodeResources(
            nano_cpus=(os.cpu_count() or 1) * 1_000_000_000,
            memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            architecture=platform.machine(),
            engine_version=f"processes {__version__}",
        )

    async def prepare(self, task: Task) -> None:
        """There is no image: its name is not looked at."""
        signal_number(task.spec.container.stop_signal)
        check(expanded(task, self._node))
        if any(port.published_port != port.target_port for port in task.ports):
            raise ExecutorError(
                "a process listens on the node itself, so a port can only be published as itself: "
                "give target and published the same number"
            )

    async def start(
        self, task: Task, namespace: str | None, nameserver: str = ""
    ) -> RunningContainer:
        directory = self._directory / task.id
        if (directory / "exit").exists():
            raise ExecutorError("the process has ended already")
        process = self._processes.get(task.id) or self._adopt(task.id)
        if process is None and (directory / "pid").exists():
            raise ExecutorError("the process has ended already")
        if process is None:
            process = await self._launch(task, directory)
        return RunningContainer(task.id, process.pid)

    async def _launch(self, task: Task, directory: Path) -> _Process:
        task = expanded(task, self._node)
        container = task.spec.container
        command = command_of(container)
        environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "PORT": str(_free_port()),
            "ESSAIM_TASK_ID": task.id,
            "ESSAIM_TASK_NAME": task.name,
            **environment_of(task),
        }
        if shutil.which(command[0], path=environment["PATH"]) is None:
            raise ExecutorError(f"No such command: {command[0]}")
        child = _spawn(directory, command, container.dir or "/", environment)
        # Ours to wait for until waited for: the pid cannot be another's.
        process = self._watch(task.id, child.pid, os.pidfd_open(child.pid))
        process.child = child
        # Its file is there a moment later, unless it ended first.
        deadline_s = self._clock.monotonic_s() + PID_FILE_WAIT_S
        while not (directory / "pid").exists() and not process.ended.is_set():
            if self._clock.monotonic_s() > deadline_s:
                raise ExecutorError(f"{command[0]} did not start within {PID_FILE_WAIT_S:g} s")
            await self._clock.sleep(PID_FILE_POLL_S)
        return process

    def _adopt(self, task_id: TaskId) -> _Process | None:
        """The running process of a task by its pid file, or None."""
        try:
            line = (self._directory / task_id / "pid").read_text()
            pid, started = start_time_of(line)
            pidfd = os.pidfd_open(pid)
        except (FileNotFoundError, ProcessLookupError):
            return None
        except ValueError as error:
            _log.error("pid file of task %s is damaged: %s", task_id, error)
            return None
        # Only now: a pidfd never comes to mean another process.
        if _start_time_now(pid) != started:
            os.close(pidfd)
            return None
        return self._watch(task_id, pid, pidfd)

    def _watch(self, task_id: TaskId, pid: int, pidfd: int) -> _Process:
        process = _Process(task_id, pid, pidfd)
        self._processes[task_id] = process
        asyncio.get_running_loop().add_reader(pidfd, self._on_end, process)
        return process

    def _on_end(self, process: _Process) -> None:
        self._unwatch(process)
        error = ""
        if process.child is not None:
            code = process.child.wait()
            # As a shell counts: 128 + N for signal N.
            process.exit_code = 128 - code if code < 0 else code
        else:
            process.exit_code, error = UNKNOWN_EXIT_CODE, UNKNOWN_EXIT
        directory = self._directory / process.task_id
        if directory.exists():
            # Whole or not at all, should the agent be killed meanwhile.
            new = directory / "exit.new"
            new.write_text(f"{process.exit_code}\n")
            new.replace(directory / "exit")
        self._processes.pop(process.task_id, None)
        process.ended.set()
        self._events.put_nowait(
            ContainerExit(process.task_id, process.task_id, process.exit_code, error)
        )

    def _unwatch(self, process: _Process) -> None:
        asyncio.get_running_loop().remove_reader(process.pidfd)
        os.close(process.pidfd)

    async def stop(self, task: Task, grace_s: float | None = None) -> int | None:
        process = self._processes.get(task.id) or self._adopt(task.id)
        if process is None:
            return self._exit_code_of(task.id)
        container = task.spec.container
        if grace_s is None:
            grace_s = grace_period_s(container)
        _signal_group(process.pid, signal_number(container.stop_signal))
        if not await self._ended_within(process.ended, grace_s):
            _signal_group(process.pid, signal.SIGKILL)
            await self._ended_within(process.ended, KILL_WAIT_S)
        # Children that outlived the leader of their group.
        _signal_group(process.pid, signal.SIGKILL)
        return process.exit_code

    async def run_command(self, task: Task, command: tuple[str, ...], limit_s: float) -> int:
        """Beside the task's process, with the environment that it was given (and so its PORT)."""
        process = self._processes.get(task.id) or self._adopt(task.id)
        if process is None:
            raise ExecutorError("the task has no running process")
        child = _spawn_beside(process.pid, command, task.spec.container.dir or "/")
        pidfd = os.pidfd_open(child.pid)
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(pidfd, ended.set)
        try:
            in_time = await self._ended_within(ended, limit_s)
        finally:
            loop.remove_reader(pidfd)
            os.close(pidfd)
            # Itself, and what it left behind. Not waited for yet, so its id is still its own.
            _signal_group(child.pid, signal.SIGKILL)
            code = child.wait()
        if not in_time:
            raise CommandTimeout(f"{command[0]} did not end within {limit_s:g} s and was killed")
        return 128 - code if code < 0 else code

    async def update_limits(self, task: Task) -> None:
        check(task)

    async def _ended_within(self, end: asyncio.Event, limit_s: float) -> bool:
        ended = asyncio.ensure_future(end.wait())
        limit = asyncio.ensure_future(self._clock.sleep(limit_s))
        try:
            await asyncio.wait({ended, limit}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ended.cancel()
            limit.cancel()
        return end.is_set()

    async def remove(self, task_id: TaskId) -> None:
        process = self._processes.get(task_id) or self._adopt(task_id)
        if process is not None:
            _signal_group(process.pid, signal.SIGKILL)
            await self._ended_within(process.ended, KILL_WAIT_S)
        shutil.rmtree(self._directory / task_id, ignore_errors=True)

    async def found(self) -> list[FoundContainer]:
        return [self._found(TaskId(path.name)) for path in sorted(self._directory.iterdir())]

    def _found(self, task_id: TaskId) -> FoundContainer:
        process = self._processes.get(task_id) or self._adopt(task_id)
        if process is not None:
            return FoundContainer(task_id, task_id, process.pid, True, True, 0)
        exit_code = self._exit_code_of(task_id)
        if exit_code is not None:
            return FoundContainer(task_id, task_id, 0, False, True, exit_code)
        started = (self._directory / task_id / "pid").exists()
        return FoundContainer(
            task_id,
            task_id,
            0,
            running=False,
            started=started,
            exit_code=UNKNOWN_EXIT_CODE if started else 0,
            error=UNKNOWN_EXIT if started else "",
        )

    def _exit_code_of(self, task_id: TaskId) -> int | None:
        path = self._directory / task_id / "exit"
        if not path.exists():
            return None
        text = path.read_text().strip()
        if not (text.isascii() and text.isdigit()):  # the machine lost power while it was written
            _log.error("exit file of task %s is damaged: %r", task_id, text[:40])
            return UNKNOWN_EXIT_CODE
        return int(text)

    async def events(self) -> AsyncIterator[ContainerEvent]:
        while (event := await self._events.get()) is not None:
            yield event

    async def close(self) -> None:
        for process in self._processes.values():
            self._unwatch(process)
            if process.child is not None:
                # It runs on without us; the next agent adopts it. Say so to `subprocess`, which
                # would warn of a child that was never waited for.
                process.child.returncode = 0
        self._processes.clear()
        self._events.put_nowait(None)


def _spawn(
    directory: Path, command: tuple[str, ...], cwd: str, environment: dict[str, str]
) -> "subprocess.Popen[bytes]":
    """Start a task's process. On the loop's thread: it takes a millisecond or two."""
    directory.mkdir(mode=0o700, exist_ok=True)
    try:
        with (directory / "output").open("ab") as output:
            return subprocess.Popen(
                ["/bin/sh", "-c", _LAUNCHER, str(directory / "pid"), *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=cwd,
                env=environment,
                start_new_session=True,
            )
    except (OSError, ValueError) as error:  # ValueError: a NUL in an argument
        raise ExecutorError(f"cannot start {command[0]}: {error}") from error


def _spawn_beside(pid: int, command: tuple[str, ...], cwd: str) -> "subprocess.Popen[bytes]":
    """A process of its own session, with the environment that process `pid` began with."""
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=cwd,
            env=dict(item.partition(b"=")[::2] for item in environment if item),
            start_new_session=True,
        )
    except (OSError, ValueError) as error:  # ValueError: a NUL in an argument
        raise ExecutorError(f"cannot run {command[0]}: {error}") from error


def signal_number(name: str) -> signal.Signals:
    """Of a stop signal as Docker takes it: `SIGINT`, `INT`, `2`; SIGTERM when empty."""
    if not name:
        return signal.SIGTERM
    try:
        if name.isdigit():
            return signal.Signals(int(name))
        return signal.Signals[
            name.upper() if name.upper().startswith("SIG") else f"SIG{name.upper()}"
        ]
    except (ValueError, KeyError) as error:
        raise ExecutorError(f"no such signal: {name}") from error


def _signal_group(pid: int, number: signal.Signals) -> None:
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        return


def _start_time_now(pid: int) -> int | None:
    try:
        return start_time_of(Path(f"/proc/{pid}/stat").read_text())[1]
    except (FileNotFoundError, ProcessLookupError):
        return None


def _free_port() -> int:
    """A port that nobody listens on now. The process binds it in a moment; nothing reserves it."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
