"""The machine's own figures → Prometheus text, under cAdvisor's and node_exporter's names. Pure."""

import re

from essaim_agent.metrics.prometheus_text import add_metric, escaped, label_text
from essaim_agent.metrics.samples import HostSample, Machine


def add_machine(lines: list[str], machine: Machine, host: HostSample) -> None:
    own = label_text(
        [
            ("boot_id", machine.boot_id),
            ("machine_id", machine.machine_id),
            ("system_uuid", machine.system_uuid),
        ]
    )
    for name, help_text, value in (
        ("machine_cpu_cores", "Number of logical CPU cores.", machine.cpu_count),
        ("machine_memory_bytes", "Amount of memory installed.", host.memory_bytes["MemTotal"]),
        ("machine_swap_bytes", "Amount of swap memory available.", host.memory_bytes["SwapTotal"]),
    ):
        add_metric(lines, name, "gauge", help_text, [f"{name}{{{own}}} {value}"])
    versions = label_text(
        [
            ("cadvisorRevision", ""),
            ("cadvisorVersion", ""),
            ("dockerVersion", machine.engine_version),
            ("kernelVersion", machine.kernel_release),
            ("osVersion", ""),
        ]
    )
    help_text = "Versions of the kernel and the engine; this exporter is not cAdvisor itself."
    add_metric(
        lines,
        "cadvisor_version_info",
        "gauge",
        help_text,
        [f"cadvisor_version_info{{{versions}}} 1"],
    )


def add_node(lines: list[str], machine: Machine, host: HostSample) -> None:
    rows = [
        f'node_cpu_seconds_total{{cpu="{number}",mode="{mode}"}} {seconds}'
        for number, cpu in enumerate(host.cpus)
        for mode, seconds in cpu.items()
        if not mode.startswith("guest")  # contained in user and nice
    ]
    help_text = "Seconds the CPUs spent in each mode."
    add_metric(lines, "node_cpu_seconds_total", "counter", help_text, rows)
    for name, value in host.memory_bytes.items():
        is_count = name.startswith("HugePages_")
        metric = "node_memory_" + _memory_name(name) + ("" if is_count else "_bytes")
        add_metric(
            lines, metric, "gauge", f"Memory information field {name}.", [f"{metric} {value}"]
        )
    for name, help_text, number in (
        ("node_load1", "1m load average.", host.load[0]),
        ("node_load5", "5m load average.", host.load[1]),
        ("node_load15", "15m load average.", host.load[2]),
        ("node_boot_time_seconds", "Node boot time, in unixtime.", host.boot_s),
        ("node_time_seconds", "System time in seconds since epoch.", host.taken_ns / 1e9),
    ):
        add_metric(lines, name, "gauge", help_text, [f"{name} {number}"])
    place = f'mountpoint="{escaped(host.disk_path)}"'
    for name, help_text, number in (
        ("size", "Filesystem size in bytes.", host.disk_total_bytes),
        ("free", "Filesystem free space in bytes.", host.disk_total_bytes - host.disk_used_bytes),
        ("avail", "Space available to non-root users in bytes.", host.disk_available_bytes),
    ):
        metric = f"node_filesystem_{name}_bytes"
        add_metric(lines, metric, "gauge", help_text, [f"{metric}{{{place}}} {number}"])
    _add_node_devices(lines, host)
    uname = label_text(
        [
            ("domainname", "(none)"),
            ("machine", machine.architecture),
            ("nodename", machine.host_name),
            ("release", machine.kernel_release),
            ("sysname", "Linux"),
            ("version", machine.kernel_version),
        ]
    )
    help_text = "Labeled system information as provided by the uname system call."
    add_metric(lines, "node_uname_info", "gauge", help_text, [f"node_uname_info{{{uname}}} 1"])


def _add_node_devices(lines: list[str], host: HostSample) -> None:
    for name, attribute in (
        ("receive_bytes", "receive_bytes"),
        ("receive_packets", "receive_packets"),
        ("receive_errs", "receive_errors"),
        ("receive_drop", "receive_drops"),
        ("transmit_bytes", "transmit_bytes"),
        ("transmit_packets", "transmit_packets"),
        ("transmit_errs", "transmit_errors"),
        ("transmit_drop", "transmit_drops"),
    ):
        metric = f"node_network_{name}_total"
        rows = [
            f'{metric}{{device="{escaped(device)}"}} {getattr(counters, attribute)}'
            for device, counters in host.interfaces.items()
        ]
        add_metric(lines, metric, "counter", f"Network device statistic {name}.", rows)
    for name, attribute in (
        ("read_bytes", "read_bytes"),
        ("written_bytes", "write_bytes"),
        ("reads_completed", "reads"),
        ("writes_completed", "writes"),
    ):
        metric = f"node_disk_{name}_total"
        rows = [
            f'{metric}{{device="{escaped(device)}"}} {getattr(counters, attribute)}'
            for device, counters in host.disks.items()
        ]
        add_metric(lines, metric, "counter", f"Disk statistic {name}.", rows)


def _memory_name(name: str) -> str:
    """`Active(anon)` → `Active_anon`, as node_exporter."""
    return re.sub(r"[()]", "_", name).rstrip("_")
