"""cgroup files → readings, for cgroup v1 (hybrid hosts included) and v2. Pure: text in, values out.

Sources: the kernel's Documentation/admin-guide/cgroup-v1/{cpuacct,memory,blkio-controller,pids}
and cgroup-v2; which file stands for which metric follows cAdvisor's metrics/prometheus.go and
opencontainers/cgroups (`fs`, `fs2`).
"""

import posixpath
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from essaim_agent.metrics.samples import BlockCounters, Limits, Reading

TICKS_PER_S: Final = 100
"""USER_HZ, the unit of cpuacct.stat: 100 on every architecture that Docker supports."""

_UNLIMITED_BYTES: Final = 1 << 62
"""v1 writes "no limit" as the largest multiple of the page size; cAdvisor draws the line here."""

File = tuple[str, str]
"""(v1 controller or "" for v2, file name)."""

V1_FILES: Final[tuple[File, ...]] = (
    ("cpuacct", "cpuacct.usage"),
    ("cpuacct", "cpuacct.stat"),
    ("cpu", "cpu.stat"),
    ("memory", "memory.usage_in_bytes"),
    ("memory", "memory.stat"),
    ("memory", "memory.max_usage_in_bytes"),
    ("memory", "memory.failcnt"),
    ("pids", "pids.current"),
)
V1_BLOCK_FILES: Final = (
    ("blkio.bfq.io_service_bytes_recursive", "blkio.bfq.io_serviced_recursive"),
    ("blkio.io_service_bytes_recursive", "blkio.io_serviced_recursive"),
    ("blkio.throttle.io_service_bytes_recursive", "blkio.throttle.io_serviced_recursive"),
    ("blkio.throttle.io_service_bytes", "blkio.throttle.io_serviced"),
)
"""(bytes, operations), all of controller blkio. The first pair with a line in it counts: which one
the kernel fills depends on the I/O scheduler of the disks."""

V1_LIMIT_FILES: Final[tuple[File, ...]] = (
    ("memory", "memory.limit_in_bytes"),
    ("memory", "memory.memsw.limit_in_bytes"),
    ("memory", "memory.soft_limit_in_bytes"),
    ("cpu", "cpu.shares"),
    ("cpu", "cpu.cfs_quota_us"),
    ("cpu", "cpu.cfs_period_us"),
)

V2_FILES: Final[tuple[File, ...]] = (
    ("", "cpu.stat"),
    ("", "memory.current"),
    ("", "memory.stat"),
    ("", "memory.peak"),
    ("", "memory.swap.current"),
    ("", "memory.events"),
    ("", "io.stat"),
    ("", "pids.current"),
)
V2_LIMIT_FILES: Final[tuple[File, ...]] = (
    ("", "memory.max"),
    ("", "memory.swap.max"),
    ("", "memory.low"),
    ("", "cpu.weight"),
    ("", "cpu.max"),
)

V1_REQUIRED: Final = frozenset({"cpuacct.usage", "memory.usage_in_bytes", "memory.stat"})
V2_REQUIRED: Final = frozenset({"cpu.stat", "memory.current", "memory.stat"})
"""Without these the container is gone. The others depend on the kernel's configuration."""


class Mount(msgspec.Struct, frozen=True):
    point: str
    root: str
    """The cgroup that stands at the mount point: `/`, but for an agent in a container."""


class Mounts(msgspec.Struct, frozen=True):
    v1: dict[str, Mount]
    """By controller. Not empty on hybrid hosts, where v2 has no controllers."""
    v2: Mount | None

    @property
    def is_v1(self) -> bool:
        return "cpuacct" in self.v1 and "memory" in self.v1


def parse_mountinfo(text: str) -> Mounts:
    """/proc/self/mountinfo, proc(5): `… ROOT POINT OPTIONS [FIELDS] - TYPE SOURCE SUPER_OPTIONS`

    Lines of other form are other file systems' and are passed over."""
    v1: dict[str, Mount] = {}
    v2: Mount | None = None
    for line in text.splitlines():
        front, separator, back = line.partition(" - ")
        fields, kind = front.split(), back.split()
        if not separator or len(fields) < 6 or len(kind) < 3:
            continue
        mount = Mount(point=_unescaped(fields[4]), root=_unescaped(fields[3]))
        if kind[0] == "cgroup2":
            v2 = v2 or mount
        elif kind[0] == "cgroup":
            for option in kind[2].split(","):
                v1.setdefault(option, mount)
    return Mounts(v1=v1, v2=v2)


def _unescaped(path: str) -> str:
    return path.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")


def parse_proc_cgroup(text: str) -> dict[str, str]:
    """/proc/PID/cgroup, cgroups(7): path by v1 controller, under "" that of v2."""
    paths: dict[str, str] = {}
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            paths[controller] = path
    return paths


def own_path(path: str, container_id: str) -> str | None:
    """The container's own cgroup: `path` down to the component with its id; None without one.

    A process inside may have moved further down (systemd as PID 1 does); the figures wanted are
    those of the whole container. Works for both of Docker's drivers: `/docker/ID`, any
    `--cgroup-parent`, `/system.slice/docker-ID.scope`.
    """
    components = path.split("/")
    for index, component in enumerate(components):
        if container_id in component:
            return "/".join(components[: index + 1])
    return None


def candidate_paths(container_id: str, parents: Sequence[str]) -> tuple[str, ...]:
    """Where a container's cgroup can be, when its process does not tell: under each parent in
    the forms of Docker's two drivers."""
    paths = []
    for parent in parents:
        parent = "/" + parent.strip("/")
        paths += [f"{parent}/{container_id}", f"{parent}/docker-{container_id}.scope"]
    return tuple(paths)


def directory(mount: Mount, path: str) -> str:
    """The directory of a cgroup under a mount point."""
    if mount.root != "/" and (path == mount.root or path.startswith(mount.root + "/")):
        path = path[len(mount.root) :]
    return posixpath.normpath(f"{mount.point}/{path}")


# Readings. `files` holds the text by file name; files that the kernel does not have are left out.


def read_v1(files: Mapping[str, str]) -> Reading:
    memory = _flat(files["memory.stat"])
    cpu = _flat(files.get("cpuacct.stat", ""))
    throttling = _flat(files.get("cpu.stat", ""))
    usage = _number(files["memory.usage_in_bytes"])
    return Reading(
        cpu_usage_s=_number(files["cpuacct.usage"]) / 1e9,
        cpu_user_s=cpu.get("user", 0) / TICKS_PER_S,
        cpu_system_s=cpu.get("system", 0) / TICKS_PER_S,
        memory_usage_bytes=usage,
        memory_working_set_bytes=max(0, usage - memory.get("total_inactive_file", 0)),
        memory_rss_bytes=memory.get("total_rss", 0),
        memory_cache_bytes=memory.get("total_cache", 0),
        memory_mapped_file_bytes=memory.get("total_mapped_file", 0),
        memory_swap_bytes=memory.get("total_swap", 0),
        memory_peak_bytes=_optional(files.get("memory.max_usage_in_bytes")),
        memory_limit_hits=_number(files.get("memory.failcnt", "0")),
        page_faults=memory.get("total_pgfault", 0),
        major_page_faults=memory.get("total_pgmajfault", 0),
        process_count=_number(files.get("pids.current", "0")),
        block=_block_v1(files),
        cpu_periods=throttling.get("nr_periods", 0),
        cpu_throttled_periods=throttling.get("nr_throttled", 0),
        cpu_throttled_s=throttling.get("throttled_time", 0) / 1e9,
    )


def read_v2(files: Mapping[str, str]) -> Reading:
    memory = _flat(files["memory.stat"])
    cpu = _flat(files["cpu.stat"])
    events = _flat(files.get("memory.events", ""))
    usage = _number(files["memory.current"])
    return Reading(
        cpu_usage_s=cpu["usage_usec"] / 1e6,
        cpu_user_s=cpu.get("user_usec", 0) / 1e6,
        cpu_system_s=cpu.get("system_usec", 0) / 1e6,
        memory_usage_bytes=usage,
        memory_working_set_bytes=max(0, usage - memory.get("inactive_file", 0)),
        memory_rss_bytes=memory.get("anon", 0),
        memory_cache_bytes=memory.get("file", 0),
        memory_mapped_file_bytes=memory.get("file_mapped", 0),
        memory_swap_bytes=_number(files.get("memory.swap.current", "0")),
        memory_peak_bytes=_optional(files.get("memory.peak")),
        memory_limit_hits=events.get("max", 0),
        page_faults=memory.get("pgfault", 0),
        major_page_faults=memory.get("pgmajfault", 0),
        process_count=_number(files.get("pids.current", "0")),
        block=_block_v2(files.get("io.stat", "")),
        cpu_periods=cpu.get("nr_periods", 0),
        cpu_throttled_periods=cpu.get("nr_throttled", 0),
        cpu_throttled_s=cpu.get("throttled_usec", 0) / 1e6,
    )


def limits_v1(files: Mapping[str, str]) -> Limits:
    def limit(name: str) -> int:
        value = _number(files.get(name, "0"))
        return 0 if value >= _UNLIMITED_BYTES else value

    return Limits(
        memory_bytes=limit("memory.limit_in_bytes"),
        memory_swap_bytes=limit("memory.memsw.limit_in_bytes"),
        memory_reservation_bytes=limit("memory.soft_limit_in_bytes"),
        cpu_shares=_number(files.get("cpu.shares", "0")),
        cpu_quota_us=max(0, _number(files.get("cpu.cfs_quota_us", "0"))),  # -1: none
        cpu_period_us=_number(files.get("cpu.cfs_period_us", "0")),
    )


def limits_v2(files: Mapping[str, str]) -> Limits:
    quota, _, period = files.get("cpu.max", "max 0").strip().partition(" ")
    weight = _number(files.get("cpu.weight", "0"))
    return Limits(
        memory_bytes=_number(files.get("memory.max", "max")),
        memory_swap_bytes=_number(files.get("memory.swap.max", "max")),
        memory_reservation_bytes=_number(files.get("memory.low", "0")),
        # The inverse of the mapping of shares to weight in opencontainers/cgroups, as cAdvisor.
        cpu_shares=2 + (weight - 1) * 262_142 // 9_999 if weight else 0,
        cpu_quota_us=_number(quota),
        cpu_period_us=_number(period or "0"),
    )


def _number(text: str) -> int:
    """A file of one number; `max` is no limit, which is written 0."""
    text = text.strip()
    return 0 if text == "max" else int(text)


def _optional(text: str | None) -> int | None:
    return None if text is None else _number(text)


def _flat(text: str) -> dict[str, int]:
    """A file of lines `KEY NUMBER`."""
    words = text.split()
    return dict(zip(words[::2], map(int, words[1::2]), strict=True))


def _block_v1(files: Mapping[str, str]) -> dict[str, BlockCounters]:
    for bytes_file, operations_file in V1_BLOCK_FILES:
        sizes = _by_device(files.get(bytes_file, ""))
        if sizes:
            counts = _by_device(files.get(operations_file, ""))
            return {
                device: BlockCounters(
                    read_bytes=size.get("Read", 0),
                    write_bytes=size.get("Write", 0),
                    reads=counts.get(device, {}).get("Read", 0),
                    writes=counts.get(device, {}).get("Write", 0),
                )
                for device, size in sizes.items()
            }
    return {}


def _by_device(text: str) -> dict[str, dict[str, int]]:
    """Lines `MAJOR:MINOR OPERATION NUMBER`; the closing line `Total NUMBER` is no device."""
    devices: dict[str, dict[str, int]] = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) == 3:
            devices.setdefault(words[0], {})[words[1]] = int(words[2])
    return devices


def _block_v2(text: str) -> dict[str, BlockCounters]:
    """io.stat: lines `MAJOR:MINOR rbytes=N wbytes=N rios=N wios=N …`; a device without traffic
    may stand there without numbers."""
    devices: dict[str, BlockCounters] = {}
    for line in text.splitlines():
        device, *pairs = line.split()
        values = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
        if "rbytes" in values:
            devices[device] = BlockCounters(
                read_bytes=int(values["rbytes"]),
                write_bytes=int(values.get("wbytes", 0)),
                reads=int(values.get("rios", 0)),
                writes=int(values.get("wios", 0)),
            )
    return devices
