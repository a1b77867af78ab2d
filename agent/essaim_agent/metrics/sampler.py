"""Reads what the node and its containers use. The only file that imports psutil.

Cost matters: it runs on every node every few seconds, with a hundred containers. So cgroup files
are opened by plain system calls, limits (which hardly ever change) are read every
LIMITS_EVERY_SAMPLES-th time only, and a container's directories are looked for once. The event
loop gets a turn after every CONTAINERS_PER_TURN containers.

A container may end at any moment between two reads; it is then left out, without an error.
"""

import asyncio
import errno
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, Literal

import msgspec
import psutil

from essaim_agent.metrics import cgroups, processes, rates
from essaim_agent.metrics.samples import (
    BlockCounters,
    ContainerSample,
    HostSample,
    Limits,
    Machine,
    MeasuredContainer,
    Reading,
    TrafficCounters,
)
from essaim_agent.network import InterfaceCounters
from essaim_shared.clock import Clock
from essaim_shared.errors import BrokenInvariant, EssaimError
from essaim_shared.figures import ContainerFigures, NodeFigures

ExecutorKind = Literal["docker", "process"]

CGROUP_PARENTS_DEFAULT: Final = ("docker", "system.slice", "")

LIMITS_EVERY_SAMPLES: Final = 12
CONTAINERS_PER_TURN: Final = 20
_SECOND_READ_BYTES: Final = 2048
"""A shorter answer is the whole file: no record in question is as long as half a page."""

FILE_BYTES_MAX: Final = 64 * 1024
"""Of one cgroup or /proc file; io.stat on a machine with hundreds of disks fits."""

_GONE: Final = (FileNotFoundError, ProcessLookupError)

_ABSENT: Final = frozenset({errno.ENOENT, errno.ESRCH, errno.ENODEV, errno.EOPNOTSUPP})
"""No such file; or its cgroup went away while it was open; or the kernel was built without."""


class MetricsError(EssaimError):
    """This host cannot be measured; the sentence says what is missing."""


class _Tracked(msgspec.Struct):
    """What is remembered about one container between samples."""

    directories: dict[str, str]
    """By v1 controller, or under "" for v2."""
    block_files: tuple[tuple[str, str], ...]
    limits: Limits
    sample_count: int = 0
    cpu_usage_s: float | None = None


class FiguresSampler:
    """`await sample(containers)`; then `host`, `containers` hold the samples in full, for
    /metrics. Not to be called twice at a time."""

    def __init__(
        self,
        executor_kind: ExecutorKind,
        data_root: Path,
        clock: Clock,
        counters: Callable[[str], InterfaceCounters | None],
        cgroup_parents: Sequence[str] = CGROUP_PARENTS_DEFAULT,
        engine_version: str = "",
        proc: Path = Path("/proc"),
    ) -> None:
        """`data_root`: the engine's, whose file system is watched. `counters`: a task's traffic
        (`TaskNetworks.counters`). Raises MetricsError where there is no usable cgroup."""
        self._executor_kind = executor_kind
        self._data_root = data_root
        self._clock = clock
        self._counters = counters
        self._parents = tuple(cgroup_parents)
        self._proc = str(proc)
        self._mounts = cgroups.parse_mountinfo((proc / "self/mountinfo").read_text())
        if executor_kind == "docker" and not self._mounts.is_v1 and self._mounts.v2 is None:
            raise MetricsError("no cgroup file system is mounted; containers cannot be measured")
        self._tracked: dict[str, _Tracked] = {}
        self._cpu_total: dict[str, float] = {}
        self._page_bytes = os.sysconf("SC_PAGE_SIZE")
        self.machine = _machine(self._proc, engine_version)
        self.host: HostSample | None = None
        self.containers: tuple[ContainerSample, ...] = ()
        self.device_names: dict[str, str] = {}

    async def sample(
        self, containers: Sequence[MeasuredContainer]
    ) -> tuple[NodeFigures, tuple[ContainerFigures, ...]]:
        """Measure now. Percentages are over the time since the last call, 0 at the first."""
        # A file system over the network may keep statfs waiting, so not in the event loop.
        disk = await asyncio.to_thread(psutil.disk_usage, str(self._data_root))
        host = self._sample_host(disk)
        before, now = self._cpu_total, rates.total_of(host.cpus)
        self.device_names = processes.parse_partitions(_read(f"{self._proc}/partitions"))
        sessions = self._sessions() if self._executor_kind == "process" else {}

        samples: list[ContainerSample] = []
        figures: list[ContainerFigures] = []
        tracked_now: dict[str, _Tracked] = {}
        for number, container in enumerate(containers, start=1):
            if number % CONTAINERS_PER_TURN == 0:
                await asyncio.sleep(0)
            measured = self._measure(container, sessions)
            if measured is None:
                continue
            reading, tracked = measured
            cpu_percent = self._container_percent(tracked, reading, before, now)
            tracked_now[container.container_id] = tracked
            sample = ContainerSample(
                container=container,
                reading=reading,
                limits=tracked.limits,
                network=self._counters(container.task_id),
            )
            samples.append(sample)
            figures.append(_container_figures(sample, cpu_percent, host.memory_bytes["MemTotal"]))
        self._tracked, self._cpu_total = tracked_now, now
        self.host, self.containers = host, tuple(samples)
        host_percent = rates.host_cpu_percent(before, now) if before else 0.0
        return _node_figures(host, self.machine.cpu_count, host_percent), tuple(figures)

    def _container_percent(
        self,
        tracked: _Tracked,
        reading: Reading,
        before: Mapping[str, float],
        now: Mapping[str, float],
    ) -> float:
        used_before_s, tracked.cpu_usage_s = tracked.cpu_usage_s, reading.cpu_usage_s
        if used_before_s is None:
            return 0.0
        return rates.container_cpu_percent(
            used_before_s,
            reading.cpu_usage_s,
            rates.docker_system_s(before),
            rates.docker_system_s(now),
            self.machine.cpu_count,
        )

    def _sample_host(self, disk: "psutil._ntuples.sdiskusage") -> HostSample:
        interfaces = {
            name: TrafficCounters(
                receive_bytes=counters.bytes_recv,
                transmit_bytes=counters.bytes_sent,
                receive_packets=counters.packets_recv,
                transmit_packets=counters.packets_sent,
                receive_errors=counters.errin,
                transmit_errors=counters.errout,
                receive_drops=counters.dropin,
                transmit_drops=counters.dropout,
            )
            # nowrap: psutil would otherwise add up over wraps of 32-bit counters, at a cost.
            for name, counters in psutil.net_io_counters(pernic=True, nowrap=False).items()
            if rates.is_host_interface(name)
        }
        disks = {
            name: BlockCounters(
                read_bytes=counters.read_bytes,
                write_bytes=counters.write_bytes,
                reads=counters.read_count,
                writes=counters.write_count,
            )
            for name, counters in (
                psutil.disk_io_counters(perdisk=True, nowrap=False) or {}
            ).items()
        }
        return HostSample(
            taken_ns=self._clock.wall_ns(),
            boot_s=psutil.boot_time(),
            cpus=tuple(cpu._asdict() for cpu in psutil.cpu_times(percpu=True)),
            load=os.getloadavg(),
            memory_bytes=processes.parse_meminfo(_read(f"{self._proc}/meminfo")),
            disk_total_bytes=disk.total,
            disk_used_bytes=disk.used,
            disk_available_bytes=disk.free,
            disk_path=str(self._data_root),
            interfaces=interfaces,
            disks=disks,
        )

    def _measure(
        self,
        container: MeasuredContainer,
        sessions: Mapping[int, list[processes.ProcessStat]],
    ) -> tuple[Reading, _Tracked] | None:
        """None when the container is gone."""
        tracked = self._tracked.get(container.container_id)
        if self._executor_kind == "process":
            reading = self._read_session(sessions.get(container.pid, []))
            if reading is None:
                return None
            return reading, tracked or _Tracked({}, (), Limits())
        try:
            if tracked is None:
                tracked = self._find(container)
            if tracked is None:
                return None
            if tracked.sample_count % LIMITS_EVERY_SAMPLES == 0:
                tracked.limits = self._read_limits(tracked)
            tracked.sample_count += 1
            return self._read_cgroup(tracked), tracked
        except _GONE:
            return None

    # cgroups

    def _find(self, container: MeasuredContainer) -> _Tracked | None:
        """The container's cgroup: where its process is; else where Docker would have put it."""
        is_v1 = self._mounts.is_v1
        mounts = self._mounts.v1 if is_v1 else {"": self._mounts.v2}
        try:
            text = _read(f"{self._proc}/{container.pid}/cgroup")
            of_process = cgroups.parse_proc_cgroup(text)
        except _GONE:
            of_process = {}
        directories: dict[str, str] = {}
        for controller in ("cpuacct", "cpu", "memory", "blkio", "pids") if is_v1 else ("",):
            mount = mounts.get(controller)
            if mount is None:
                continue
            own = cgroups.own_path(of_process.get(controller, ""), container.container_id)
            candidates = cgroups.candidate_paths(container.container_id, self._parents)
            for path in (own,) if own is not None else candidates:
                directory = cgroups.directory(mount, path)
                if Path(directory).is_dir():
                    directories[controller] = directory
                    break
        required = ("cpuacct", "memory") if is_v1 else ("",)
        if any(controller not in directories for controller in required):
            return None
        return _Tracked(directories, self._block_files(directories), Limits())

    def _block_files(self, directories: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
        """Those of v1's that this kernel has; which of them has numbers may change."""
        if "blkio" not in directories:
            return ()
        present = {entry.name for entry in Path(directories["blkio"]).iterdir()}
        return tuple(pair for pair in cgroups.V1_BLOCK_FILES if pair[0] in present)

    def _read_cgroup(self, tracked: _Tracked) -> Reading:
        if not self._mounts.is_v1:
            return cgroups.read_v2(_read_all(tracked, cgroups.V2_FILES, cgroups.V2_REQUIRED))
        files = _read_all(tracked, cgroups.V1_FILES, cgroups.V1_REQUIRED)
        for bytes_file, operations_file in tracked.block_files:
            sizes = _read_all(tracked, [("blkio", bytes_file)], frozenset())
            # "Total 0" alone: this scheduler's file is not the one that is filled.
            if sizes.get(bytes_file, "").count("\n") > 1:
                files |= sizes | _read_all(tracked, [("blkio", operations_file)], frozenset())
                break
        return cgroups.read_v1(files)

    def _read_limits(self, tracked: _Tracked) -> Limits:
        if self._mounts.is_v1:
            return cgroups.limits_v1(_read_all(tracked, cgroups.V1_LIMIT_FILES, frozenset()))
        return cgroups.limits_v2(_read_all(tracked, cgroups.V2_LIMIT_FILES, frozenset()))

    # Plain processes

    def _sessions(self) -> dict[int, list[processes.ProcessStat]]:
        """All processes of the machine by session: one pass, however many tasks there are."""
        sessions: dict[int, list[processes.ProcessStat]] = {}
        for pid in psutil.pids():
            try:
                stat = processes.parse_stat(_read(f"{self._proc}/{pid}/stat"))
            except _GONE:
                continue
            sessions.setdefault(stat.session, []).append(stat)
        return sessions

    def _read_session(self, stats: Sequence[processes.ProcessStat]) -> Reading | None:
        io = []
        for stat in stats:
            try:
                io.append(processes.parse_io(_read(f"{self._proc}/{stat.pid}/io")))
            except (*_GONE, PermissionError):
                continue  # ended, or another user's: the rest counts
        return processes.reading_of_session(stats, io, self._page_bytes)


def _read(path: str) -> str:
    """Three system calls instead of the eight of `open`. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        content = os.read(descriptor, FILE_BYTES_MAX)
        # A file of many records (/proc/partitions) ends a read at the last record that fits into
        # a page; one that is a single record (all of cgroups) comes whole.
        while len(content) > _SECOND_READ_BYTES and (more := os.read(descriptor, FILE_BYTES_MAX)):
            content += more
            if len(content) > FILE_BYTES_MAX:
                raise BrokenInvariant(f"{path} holds more than {FILE_BYTES_MAX} bytes")
        return content.decode("utf-8", "surrogateescape")
    finally:
        os.close(descriptor)


def _read_all(
    tracked: _Tracked, files: Sequence[cgroups.File], required: frozenset[str]
) -> dict[str, str]:
    """Text by file name. A missing file is left out, unless it is required: FileNotFoundError."""
    texts: dict[str, str] = {}
    for controller, name in files:
        directory = tracked.directories.get(controller)
        if directory is None:
            continue
        try:
            texts[name] = _read(f"{directory}/{name}")
        except OSError as error:
            if error.errno not in _ABSENT:
                raise
            if name in required:
                raise FileNotFoundError(error.errno, "the container is gone", name) from error
    return texts


def _machine(proc: str, engine_version: str) -> Machine:
    def first_line(path: str) -> str:
        try:
            return _read(path).strip()
        except OSError:
            return ""  # not every machine has one, or shows it

    names = platform.uname()
    return Machine(
        cpu_count=psutil.cpu_count() or 1,
        machine_id=first_line("/etc/machine-id"),
        boot_id=first_line(f"{proc}/sys/kernel/random/boot_id"),
        system_uuid=first_line("/sys/class/dmi/id/product_uuid"),
        kernel_release=names.release,
        kernel_version=names.version,
        architecture=names.machine,
        host_name=names.node,
        engine_version=engine_version,
    )


def _node_figures(host: HostSample, cpu_count: int, cpu_percent: float) -> NodeFigures:
    memory = host.memory_bytes
    return NodeFigures(
        taken_ns=host.taken_ns,
        cpu_count=cpu_count,
        cpu_percent=cpu_percent,
        load_1=host.load[0],
        load_5=host.load[1],
        load_15=host.load[2],
        memory_total_bytes=memory["MemTotal"],
        memory_used_bytes=memory["MemTotal"] - memory["MemAvailable"],
        disk_total_bytes=host.disk_total_bytes,
        disk_used_bytes=host.disk_used_bytes,
        network_receive_bytes=sum(i.receive_bytes for i in host.interfaces.values()),
        network_transmit_bytes=sum(i.transmit_bytes for i in host.interfaces.values()),
    )


def _container_figures(
    sample: ContainerSample, cpu_percent: float, host_memory_bytes: int
) -> ContainerFigures:
    reading, network = sample.reading, sample.network
    limit = sample.limits.memory_bytes
    return ContainerFigures(
        task_id=sample.container.task_id,
        container_id=sample.container.container_id,
        cpu_seconds=reading.cpu_usage_s,
        cpu_percent=cpu_percent,
        memory_working_set_bytes=reading.memory_working_set_bytes,
        memory_usage_bytes=reading.memory_usage_bytes,
        memory_limit_bytes=min(limit, host_memory_bytes) if limit else host_memory_bytes,
        network_receive_bytes=network.receive_bytes if network else 0,
        network_transmit_bytes=network.transmit_bytes if network else 0,
        block_read_bytes=sum(device.read_bytes for device in reading.block.values()),
        block_write_bytes=sum(device.write_bytes for device in reading.block.values()),
        process_count=reading.process_count,
    )
