"""The sampler on this machine's real cgroups and processes, and on a v2 tree made of files."""

import asyncio
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from essaim_agent.metrics import cgroups
from essaim_agent.metrics.exposition import render
from essaim_agent.metrics.sampler import ExecutorKind, FiguresSampler, MetricsError
from essaim_agent.metrics.samples import MeasuredContainer
from essaim_agent.network import InterfaceCounters
from essaim_shared.clock import SystemClock

ALLOCATED_BYTES = 64 * 1024 * 1024
BUSY = f"block = bytearray(b'x') * {ALLOCATED_BYTES}\nprint('up', flush=True)\nwhile True: pass"
IDLE = "print('up', flush=True)\ninput()"
TRAFFIC = InterfaceCounters(1, 2, 3, 4)


def new_id() -> str:
    return f"{random.Random().getrandbits(256):064x}"


def new_sampler(kind: ExecutorKind, **options: object) -> FiguresSampler:
    return FiguresSampler(
        kind,
        data_root=Path("/"),
        clock=SystemClock(),
        counters=lambda task_id: TRAFFIC if task_id == "t1" else None,
        **options,  # type: ignore[arg-type]
    )


def container(container_id: str, pid: int, task_id: str = "t1") -> MeasuredContainer:
    return MeasuredContainer(task_id=task_id, container_id=container_id, pid=pid, started_ns=10**18)


Start = Callable[[str], subprocess.Popen[str]]


@pytest.fixture
def start() -> Iterator[Start]:
    """`start(program)`: a Python process in a session of its own, up and running."""
    started: list[subprocess.Popen[str]] = []

    def run(program: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-S", "-E", "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


class RealCgroups:
    """cgroups of this machine, in all hierarchies that count, below a parent of our own."""

    def __init__(self) -> None:
        self.parent = f"essaim-test-{os.getpid()}"
        mounts = cgroups.parse_mountinfo(Path("/proc/self/mountinfo").read_text())
        points = mounts.v1 if mounts.is_v1 else {"": mounts.v2}
        wanted = {"cpuacct", "cpu", "memory", "blkio", "pids", ""}
        self.roots = {Path(m.point) for name, m in points.items() if m and name in wanted}
        self._made: list[Path] = []

    def make(self, container_id: str) -> None:
        for root in self.roots:
            for directory in (root / self.parent, root / self.parent / container_id):
                if not directory.exists():
                    directory.mkdir()
                    self._made.append(directory)

    def add(self, container_id: str, pid: int) -> None:
        for root in self.roots:
            (root / self.parent / container_id / "cgroup.procs").write_text(str(pid))

    def remove(self) -> None:
        for directory in reversed(self._made):
            directory.rmdir()


@pytest.fixture
def groups(start: Start) -> Iterator[RealCgroups]:
    made = RealCgroups()
    yield made
    for root in made.roots:  # the processes must leave before their cgroup can go
        for procs in (root / made.parent).glob("*/cgroup.procs"):
            for pid in procs.read_text().split():
                (root / "cgroup.procs").write_text(pid)
    made.remove()


async def until_used(watch: FiguresSampler, one: MeasuredContainer, cpu_s: float) -> None:
    """With a sampler of its own, so that the one under test sees a period long enough to rate."""
    async with asyncio.timeout(20):
        while True:
            _, (figures,) = await watch.sample([one])
            if figures.cpu_seconds >= cpu_s:
                return


async def test_a_busy_container_is_measured_by_its_cgroup(
    start: Start, groups: RealCgroups
) -> None:
    container_id = new_id()
    process = start(IDLE.replace("input()", "input()\n" + BUSY))
    groups.make(container_id)
    groups.add(container_id, process.pid)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout.readline() == "up\n"  # memory is charged where it is first touched

    sampler = new_sampler("docker")
    measured = [container(container_id, process.pid)]
    node, (first,) = await sampler.sample(measured)
    assert (first.task_id, first.container_id) == ("t1", container_id)
    assert first.cpu_percent == 0.0, "one sample has no rate"
    assert first.memory_usage_bytes >= ALLOCATED_BYTES
    assert ALLOCATED_BYTES <= first.memory_working_set_bytes <= 2 * ALLOCATED_BYTES
    assert first.memory_limit_bytes == node.memory_total_bytes, "it has no limit of its own"
    assert first.process_count == 1
    assert (first.network_receive_bytes, first.network_transmit_bytes) == (1, 2)

    await until_used(new_sampler("docker"), measured[0], first.cpu_seconds + 0.3)
    node, (last,) = await sampler.sample(measured)
    assert 0 < last.cpu_percent <= 100.0 * node.cpu_count
    assert 0 <= node.cpu_percent <= 100.0
    assert 0 < node.memory_used_bytes < node.memory_total_bytes
    assert 0 < node.disk_used_bytes <= node.disk_total_bytes

    assert sampler.host is not None
    page = render(sampler.machine, sampler.host, sampler.containers, sampler.device_names)
    assert f'container_memory_rss{{id="/docker/{container_id}"' in page


async def test_a_container_is_found_by_its_parent_when_its_process_does_not_tell(
    start: Start, groups: RealCgroups
) -> None:
    container_id = new_id()
    process = start(IDLE)
    groups.make(container_id)
    groups.add(container_id, process.pid)
    wrong_pid = [container(container_id, os.getpid())]
    assert (await new_sampler("docker").sample(wrong_pid))[1] == ()
    sampler = new_sampler("docker", cgroup_parents=["docker", groups.parent])
    _, (found,) = await sampler.sample(wrong_pid)
    assert found.process_count == 1


async def test_a_limit_is_shown_and_a_container_that_ended_is_left_out(
    start: Start, groups: RealCgroups
) -> None:
    stays, ends = new_id(), new_id()
    process = start(IDLE)
    for container_id in (stays, ends):
        groups.make(container_id)
    groups.add(stays, process.pid)
    for root in groups.roots:
        for name in ("memory.limit_in_bytes", "memory.max"):
            limit = root / groups.parent / stays / name
            if limit.exists():
                limit.write_text(str(100 * 1024 * 1024))
    sampler = new_sampler("docker", cgroup_parents=[groups.parent])
    measured = [container(stays, process.pid), container(ends, 2**22 + 1, "t2")]
    _, figures = await sampler.sample(measured)
    assert [f.container_id for f in figures] == [stays, ends]
    assert figures[0].memory_limit_bytes == 100 * 1024 * 1024
    assert figures[1].network_receive_bytes == 0, "it has no network of its own"
    for root in groups.roots:
        (root / groups.parent / ends).rmdir()
    groups._made = [made for made in groups._made if made.name != ends]
    _, figures = await sampler.sample(measured)
    assert [f.container_id for f in figures] == [stays]
    assert len(sampler.containers) == 1


async def test_a_task_that_is_a_plain_process_is_measured_with_its_children(start: Start) -> None:
    parent = start(f"import os\nif not os.fork():\n    input()\n{BUSY}")
    sampler = new_sampler("process")
    measured = [container("process-1", parent.pid)]
    _, (first,) = await sampler.sample(measured)
    assert first.process_count == 2
    assert first.memory_working_set_bytes >= ALLOCATED_BYTES
    await until_used(new_sampler("process"), measured[0], first.cpu_seconds + 0.3)
    node, (last,) = await sampler.sample(measured)
    assert 0 < last.cpu_percent <= 100.0 * node.cpu_count
    assert last.memory_limit_bytes == node.memory_total_bytes
    os.killpg(parent.pid, 9)
    parent.wait()
    assert (await sampler.sample(measured))[1] == ()


V2_FILES = {
    "cpu.stat": "usage_usec 2500000\nuser_usec 1500000\nsystem_usec 1000000\n",
    "memory.current": "1000000\n",
    "memory.stat": "anon 600000\nfile 300000\ninactive_file 250000\n",
    "memory.max": "2000000\n",
    "cpu.max": "50000 100000\n",
    "io.stat": "8:0 rbytes=4096 wbytes=8192 rios=1 wios=2\n",
    "pids.current": "9\n",
}


@pytest.fixture
def unified(tmp_path: Path) -> Path:
    """A /proc and a cgroup v2 tree as a host without v1 shows them; returns the /proc."""
    proc = tmp_path / "proc"
    (proc / "self").mkdir(parents=True)
    (proc / "self/mountinfo").write_text(
        f"24 23 0:26 / {tmp_path}/cgroup rw - cgroup2 cgroup2 rw\n"
    )
    for name in ("meminfo", "partitions"):
        (proc / name).write_text(Path(f"/proc/{name}").read_text())
    return proc


def write_v2_container(proc: Path, container_id: str, pid: int) -> None:
    path = f"system.slice/docker-{container_id}.scope"
    directory = proc.parent / "cgroup" / path
    directory.mkdir(parents=True)
    for name, text in V2_FILES.items():
        (directory / name).write_text(text)
    (proc / str(pid)).mkdir()
    (proc / str(pid) / "cgroup").write_text(f"0::/{path}/init.scope\n")


async def test_on_a_unified_host_containers_are_measured_by_v2(unified: Path) -> None:
    container_id = new_id()
    write_v2_container(unified, container_id, 77)
    sampler = new_sampler("docker", proc=unified)
    _, (figures,) = await sampler.sample([container(container_id, 77)])
    assert figures.cpu_seconds == 2.5
    assert figures.memory_working_set_bytes == 750_000
    assert figures.memory_limit_bytes == 2_000_000
    assert (figures.block_read_bytes, figures.block_write_bytes) == (4096, 8192)
    assert figures.process_count == 9
    assert sampler.containers[0].limits.cpu_quota_us == 50_000


async def test_limits_are_read_again_after_some_samples(unified: Path) -> None:
    container_id = new_id()
    write_v2_container(unified, container_id, 77)
    sampler = new_sampler("docker", proc=unified)
    measured = [container(container_id, 77)]
    await sampler.sample(measured)
    (limit,) = (unified.parent / "cgroup").glob("*/*/memory.max")
    limit.write_text("3000000\n")
    for _ in range(12):
        _, (figures,) = await sampler.sample(measured)
    assert figures.memory_limit_bytes == 3_000_000


def test_a_host_without_cgroups_is_refused_with_the_reason(unified: Path) -> None:
    (unified / "self/mountinfo").write_text("1 1 0:1 / / rw - ext4 /dev/sda1 rw\n")
    with pytest.raises(MetricsError, match="no cgroup file system"):
        new_sampler("docker", proc=unified)
    new_sampler("process", proc=unified)  # which needs none
