"""One sample of a node and of its containers, as read; units stand in the names."""

import msgspec

from essaim_agent.network import InterfaceCounters


class MeasuredContainer(msgspec.Struct, frozen=True, kw_only=True):
    """A running container, as the worker knows it."""

    task_id: str
    container_id: str
    """64 hexadecimal digits under Docker; under the process executor whatever it chose."""
    pid: int
    """Of its first process, in the host's numbering."""
    started_ns: int
    """Wall time of its start."""
    labels: dict[str, str] = {}
    """Docker's labels, `com.docker.swarm.service.name` and others."""
    image: str = ""
    name: str = ""
    """Docker's name, without a slash."""


class BlockCounters(msgspec.Struct, frozen=True, gc=False):
    """Traffic with one block device since the container started."""

    read_bytes: int = 0
    write_bytes: int = 0
    reads: int = 0
    writes: int = 0


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """What the kernel says about one container. Counters run since its start."""

    cpu_usage_s: float
    cpu_user_s: float
    cpu_system_s: float
    memory_usage_bytes: int
    """With page cache."""
    memory_working_set_bytes: int
    """Usage minus inactive file pages, not below 0: cAdvisor's and `docker stats`' definition."""
    memory_rss_bytes: int = 0
    """Anonymous memory."""
    memory_cache_bytes: int = 0
    memory_mapped_file_bytes: int = 0
    memory_swap_bytes: int = 0
    memory_peak_bytes: int | None = None
    """None where the kernel does not keep it (cgroup v2 before Linux 5.19)."""
    memory_limit_hits: int = 0
    page_faults: int = 0
    major_page_faults: int = 0
    process_count: int = 0
    """Threads are counted one by one in a cgroup (pids.current), as `docker stats` does."""
    block: dict[str, BlockCounters] = {}
    """By device number, `MAJOR:MINOR`."""
    cpu_periods: int = 0
    cpu_throttled_periods: int = 0
    cpu_throttled_s: float = 0.0


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What was set on the container's cgroup; 0 stands for no limit, as cAdvisor writes it."""

    memory_bytes: int = 0
    memory_swap_bytes: int = 0
    memory_reservation_bytes: int = 0
    cpu_shares: int = 0
    cpu_quota_us: int = 0
    cpu_period_us: int = 0


class ContainerSample(msgspec.Struct, frozen=True, kw_only=True):
    container: MeasuredContainer
    reading: Reading
    limits: Limits
    network: InterfaceCounters | None
    """None when the container has no network of its own."""


class TrafficCounters(msgspec.Struct, frozen=True, gc=False):
    """An interface of the host since it was made."""

    receive_bytes: int
    transmit_bytes: int
    receive_packets: int
    transmit_packets: int
    receive_errors: int = 0
    transmit_errors: int = 0
    receive_drops: int = 0
    transmit_drops: int = 0


class HostSample(msgspec.Struct, frozen=True, kw_only=True):
    taken_ns: int
    """Wall time."""
    boot_s: float
    """Wall time, seconds since the Unix epoch."""
    cpus: tuple[dict[str, float], ...]
    """Per CPU: seconds since boot by mode (`user`, `nice`, `system`, `idle`, `iowait`, …)."""
    load: tuple[float, float, float]
    memory_bytes: dict[str, int]
    """/proc/meminfo by its own names."""
    disk_total_bytes: int
    disk_used_bytes: int
    disk_available_bytes: int
    """To users other than root; total = used + available + what is reserved for root."""
    disk_path: str
    interfaces: dict[str, TrafficCounters]
    """Without those that belong to containers or overlays (`rates.is_host_interface`)."""
    disks: dict[str, BlockCounters]
    """By device name."""


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """What does not change while the agent runs."""

    cpu_count: int
    machine_id: str = ""
    boot_id: str = ""
    system_uuid: str = ""
    kernel_release: str = ""
    kernel_version: str = ""
    architecture: str = ""
    host_name: str = ""
    engine_version: str = ""
