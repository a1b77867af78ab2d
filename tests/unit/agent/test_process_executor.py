"""What only the process executor has to get right: pids, ports, files."""

import os
import signal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from essaim_agent.executor import ExecutorError
from essaim_agent.process_executor import (
    UNKNOWN_EXIT_CODE,
    ProcessExecutor,
    signal_number,
    start_time_of,
)
from essaim_agent.process_options import REFUSED, REFUSED_RESOURCES, check, command_of
from essaim_shared.clock import SystemClock, wait_until
from essaim_shared.container_spec import (
    ContainerSpec,
    Device,
    DnsConfig,
    HealthConfig,
    Mount,
    Privileges,
)
from essaim_shared.ids import ServiceId, TaskId
from essaim_shared.objects import Task
from essaim_shared.spec import (
    GenericResource,
    Limits,
    LogDriver,
    NamedResource,
    PortConfig,
    Reservations,
    Resources,
    TaskSpec,
)
from essaim_shared.task_state import TaskState

PATIENCE_S = 20.0


def make_task(container: ContainerSpec, name: str = "task") -> Task:
    return Task(
        id=TaskId(name),
        service_id=ServiceId("service"),
        service_name="web",
        slot=1,
        spec=TaskSpec(container=container),
        spec_version=1,
        desired_state=TaskState.RUNNING,
        created_ns=1,
        updated_ns=1,
    )


def shell(line: str, name: str = "task", env: tuple[str, ...] = ()) -> Task:
    return make_task(
        ContainerSpec(image="any", command=("/bin/sh", "-c"), args=(line,), env=env), name
    )


def test_the_start_time_is_read_past_names_with_spaces_and_parentheses() -> None:
    fields = ["S", *(str(number) for number in range(4, 30))]
    assert start_time_of(f"42 (a) b) {' '.join(fields)}") == (42, 22)


@pytest.mark.parametrize("line", ["", "42", "42 (sh) S 1 2", "x (sh) " + "1 " * 30])
def test_what_is_no_line_of_proc_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        start_time_of(line)


@pytest.mark.parametrize(
    ("name", "number"),
    [("", 15), ("SIGINT", 2), ("int", 2), ("9", 9), ("SIGUSR1", signal.SIGUSR1)],
)
def test_stop_signals_are_named_as_docker_takes_them(name: str, number: int) -> None:
    assert signal_number(name) == number


@pytest.mark.parametrize("name", ["SIGNOTHING", "0", "999"])
async def test_an_unknown_signal_is_refused_before_the_start(tmp_path: Path, name: str) -> None:
    executor = ProcessExecutor(tmp_path, SystemClock())
    task = make_task(ContainerSpec(image="any", command=("true",), stop_signal=name))
    with pytest.raises(ExecutorError, match="no such signal"):
        await executor.prepare(task)


@pytest.mark.parametrize(("published", "is_refused"), [(8080, True), (80, False)])
async def test_a_process_can_publish_a_port_only_as_itself(
    tmp_path: Path, published: int, is_refused: bool
) -> None:
    executor = ProcessExecutor(tmp_path, SystemClock())
    port = PortConfig(target_port=80, published_port=published, publish_mode="host")
    task = make_task(ContainerSpec(image="any", command=("true",)))
    task = msgspec.structs.replace(task, ports=(port,))
    if is_refused:
        with pytest.raises(ExecutorError, match="only be published as itself"):
            await executor.prepare(task)
    else:
        await executor.prepare(task)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"user": "nobody"}, "another user"),
        ({"hostname": "web"}, "a host name"),
        ({"init": True}, "an init"),
        ({"open_stdin": True}, "an open standard input"),
        ({"oom_score_adj": -500}, "an OOM score"),
        ({"mounts": (Mount(target="/a"),)}, "have mounts"),
        ({"privileges": Privileges(no_new_privileges=True)}, "be confined"),
        ({"privileged": True}, "be privileged"),
        ({"devices": (Device(path_on_host="/dev/kvm"),)}, "be given devices"),
        ({"healthcheck": HealthConfig(test=("CMD", "true"))}, "give it probes"),
        ({"healthcheck": HealthConfig(retries=2)}, "give it probes"),
    ],
)
def test_what_a_process_cannot_have_is_refused_by_name(asked: dict[str, Any], words: str) -> None:
    with pytest.raises(ExecutorError, match=words):
        check(make_task(ContainerSpec(image="any", command=("true",), **asked)))


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"resources": Resources(limits=Limits(pids=1))}, "be limited"),
        ({"resources": Resources(swap_bytes=0)}, "a limit of swap"),
        ({"resources": Resources(limits=Limits())}, None),
        ({"resources": Resources(swap_bytes=-1)}, "a limit of swap"),
        ({"resources": Resources(memory_swappiness=50)}, "a swappiness"),
        ({"resources": Resources(reservations=Reservations(nano_cpus=1))}, None),
        ({"log_driver": LogDriver(name="journald")}, "a log driver"),
        ({"log_driver": LogDriver(driver_options={"max-size": "1m"})}, "a log driver"),
        ({"log_driver": LogDriver()}, None),
    ],
)
def test_what_a_process_cannot_use_is_refused_by_name(
    asked: dict[str, Any], words: str | None
) -> None:
    task = make_task(ContainerSpec(image="any", command=("true",)))
    task = msgspec.structs.replace(task, spec=msgspec.structs.replace(task.spec, **asked))
    if words is None:
        check(task)
        return
    with pytest.raises(ExecutorError, match=words):
        check(task)


@pytest.mark.parametrize(
    "asked",
    [
        {"dns_config": DnsConfig()},
        {"healthcheck": HealthConfig(test=("NONE",))},
        {"privileges": Privileges()},
        {"privileged": None},
        {"privileged": False},
        {"devices": None},
        {"isolation": "default"},
    ],
)
def test_asking_for_nothing_is_no_reason_to_refuse(asked: dict[str, Any]) -> None:
    check(make_task(ContainerSpec(image="any", command=("true",), **asked)))


def test_every_field_of_a_container_is_honoured_or_refused() -> None:
    """A field that is added to the spec must be thought of here: none is dropped silently."""
    honoured = {"command", "args", "env", "dir", "stop_signal", "stop_grace_period"}
    by_the_agent = {"probes", "pre_stop"}
    meaningless = {"image", "pull_policy", "labels", "isolation"}
    """A process has no image; labels are the masters' to show; `default` is the only isolation."""
    known = honoured | by_the_agent | meaningless | REFUSED.keys()
    assert known == set(ContainerSpec.__struct_fields__)
    reserved = {"reservations"}
    """The scheduler's alone."""
    assert reserved | REFUSED_RESOURCES.keys() == set(Resources.__struct_fields__)


async def test_a_process_is_told_its_units_and_its_templates_are_filled_in(tmp_path: Path) -> None:
    executor = ProcessExecutor(tmp_path, SystemClock(), "host7")
    await executor.open()
    task = shell('echo "$DOCKER_RESOURCE_GPU $WHERE"', env=("WHERE={{.Node.Hostname}}",))
    gpus = (GenericResource(named=NamedResource(kind="gpu", resource_value="uuid1")),)
    await executor.start(msgspec.structs.replace(task, generic_resources=gpus), None)
    async for ended in executor.events():
        assert ended.exit_code == 0
        break
    assert (tmp_path / "tasks/task/output").read_text() == "uuid1 host7\n"
    await executor.close()


async def test_a_task_is_told_its_port_and_who_it_is(tmp_path: Path) -> None:
    executor = ProcessExecutor(tmp_path, SystemClock())
    await executor.open()
    await executor.start(shell('echo "$PORT $ESSAIM_TASK_NAME $MINE"', env=("MINE=é =x",)), None)
    async for ended in executor.events():
        assert ended.exit_code == 0
        break
    port, name, mine = (tmp_path / "tasks/task/output").read_text().split(maxsplit=2)
    assert 1024 < int(port) < 65536
    assert (name, mine.strip()) == ("web.1", "é =x")
    await executor.close()


async def test_a_command_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    executor = ProcessExecutor(tmp_path, SystemClock())
    await executor.open()
    task = make_task(ContainerSpec(image="any", command=("no-such-command",)))
    with pytest.raises(ExecutorError, match="No such command: no-such-command"):
        await executor.start(task, None)
    await executor.close()


async def test_a_command_with_a_nul_is_refused(tmp_path: Path) -> None:
    executor = ProcessExecutor(tmp_path, SystemClock())
    await executor.open()
    with pytest.raises(ExecutorError, match="cannot start"):
        await executor.start(shell("a\0b"), None)
    await executor.close()


@pytest.mark.parametrize("content", ["", "\0\0\0", "-1"])
async def test_a_damaged_exit_file_keeps_no_agent_from_starting(
    tmp_path: Path, content: str
) -> None:
    directory = tmp_path / "tasks" / "task"
    directory.mkdir(parents=True)
    (directory / "exit").write_text(content)
    executor = ProcessExecutor(tmp_path, SystemClock())
    await executor.open()
    [found] = await executor.found()
    assert (found.running, found.started, found.exit_code) == (False, True, UNKNOWN_EXIT_CODE)
    await executor.close()


async def test_a_pid_that_now_belongs_to_another_process_is_not_touched(tmp_path: Path) -> None:
    """The pid file names this test's own process, with another start time."""
    line = Path("/proc/self/stat").read_text()
    pid, started = start_time_of(line)
    assert pid == os.getpid()
    directory = tmp_path / "tasks" / "task"
    directory.mkdir(parents=True)
    (directory / "pid").write_text(line.replace(f" {started} ", f" {started + 1} "))
    executor = ProcessExecutor(tmp_path, SystemClock())
    await executor.open()
    [found] = await executor.found()
    assert (found.running, found.started, found.exit_code) == (False, True, UNKNOWN_EXIT_CODE)
    await executor.remove(TaskId("task"))  # would end the test, if it killed
    assert await executor.found() == []
    await executor.close()


async def test_a_damaged_pid_file_is_no_running_task(tmp_path: Path) -> None:
    directory = tmp_path / "tasks" / "task"
    directory.mkdir(parents=True)
    (directory / "pid").write_text("rubbish")
    executor = ProcessExecutor(tmp_path, SystemClock())
    await executor.open()
    [found] = await executor.found()
    assert not found.running
    await executor.close()


async def test_a_stop_ends_the_children_of_the_task_too(tmp_path: Path) -> None:
    executor = ProcessExecutor(tmp_path, SystemClock())
    await executor.open()
    task = shell("sleep 1000 & echo $!; wait")
    await executor.start(task, None)
    output = tmp_path / "tasks/task/output"
    clock = SystemClock()
    assert await wait_until(lambda: output.read_text().strip() != "", clock, PATIENCE_S)
    child = int(output.read_text())
    await executor.stop(task)

    def is_gone() -> bool:
        try:
            state = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        return state == "Z"

    assert await wait_until(is_gone, clock, PATIENCE_S)
    await executor.remove(task.id)
    await executor.close()


def test_an_empty_dns_config_as_docker_sends_it_asks_for_nothing() -> None:
    container = ContainerSpec(image="any", command=("true",), dns_config=DnsConfig())
    assert command_of(container) == ("true",)
