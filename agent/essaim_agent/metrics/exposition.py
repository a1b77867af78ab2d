"""Samples → Prometheus' text format, under the names of cAdvisor and node_exporter. Pure.

Names, units and labels are those of cAdvisor's metrics/prometheus.go and node_exporter, so that
existing dashboards work. Three habits of theirs matter:

* every container has `id="/docker/<64 hex>"`, whatever its cgroup is called, since dashboards
  select on `id=~"/docker/.*"`, and there is a series `id="/"` for the whole machine;
* every series has the union of all containers' label keys, empty where a container has none
  (Prometheus treats an empty label as absent);
* there are no timestamps, or series of ended containers would linger.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from essaim_agent.metrics import rates
from essaim_agent.metrics.host_exposition import add_machine, add_node
from essaim_agent.metrics.prometheus_text import add_metric, escaped, label_text
from essaim_agent.metrics.samples import ContainerSample, HostSample, Machine

Number = int | float
Point = tuple[str, Number]
"""(further labels, `,key="value"` each; value)."""


class ContainerMetric(NamedTuple):
    name: str
    kind: str
    help: str
    points: Callable[[ContainerSample, Mapping[str, str]], Iterable[Point]]
    """Of one container, given the names of devices by number; none when it does not apply."""


def _one(value: Callable[[ContainerSample], Number | None]) -> Callable[..., Iterable[Point]]:
    def points(sample: ContainerSample, _: Mapping[str, str]) -> Iterable[Point]:
        number = value(sample)
        return () if number is None else (("", number),)

    return points


def _device(attribute: str) -> Callable[..., Iterable[Point]]:
    def points(sample: ContainerSample, device_names: Mapping[str, str]) -> Iterable[Point]:
        for device, counters in sample.reading.block.items():
            name = device_names.get(device)
            label = f',device="{escaped(f"/dev/{name}" if name else device)}"'
            yield label, getattr(counters, attribute)

    return points


def _network(attribute: str) -> Callable[..., Iterable[Point]]:
    def points(sample: ContainerSample, _: Mapping[str, str]) -> Iterable[Point]:
        if sample.network is None:
            return ()
        return ((_INTERFACE, getattr(sample.network, attribute)),)

    return points


def _throttling(value: Callable[[ContainerSample], Number]) -> Callable[..., Iterable[Point]]:
    """Only for containers with a CPU limit, as cAdvisor."""
    return _one(lambda sample: value(sample) if sample.limits.cpu_quota_us else None)


_INTERFACE: Final = ',interface="eth0"'
"""The counters are a task's sum over its interfaces."""

_CPU_TOTAL: Final = ',cpu="total"'

_CONTAINER_METRICS: Final = (
    ContainerMetric(
        "container_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed in seconds.",
        lambda s, _: ((_CPU_TOTAL, s.reading.cpu_usage_s),),
    ),
    ContainerMetric(
        "container_cpu_user_seconds_total",
        "counter",
        "Cumulative user cpu time consumed in seconds.",
        _one(lambda s: s.reading.cpu_user_s),
    ),
    ContainerMetric(
        "container_cpu_system_seconds_total",
        "counter",
        "Cumulative system cpu time consumed in seconds.",
        _one(lambda s: s.reading.cpu_system_s),
    ),
    ContainerMetric(
        "container_cpu_cfs_periods_total",
        "counter",
        "Number of elapsed enforcement period intervals.",
        _throttling(lambda s: s.reading.cpu_periods),
    ),
    ContainerMetric(
        "container_cpu_cfs_throttled_periods_total",
        "counter",
        "Number of throttled period intervals.",
        _throttling(lambda s: s.reading.cpu_throttled_periods),
    ),
    ContainerMetric(
        "container_cpu_cfs_throttled_seconds_total",
        "counter",
        "Total time duration the container has been throttled.",
        _throttling(lambda s: s.reading.cpu_throttled_s),
    ),
    ContainerMetric(
        "container_memory_usage_bytes",
        "gauge",
        "Current memory usage in bytes, including all memory regardless of when it was accessed.",
        _one(lambda s: s.reading.memory_usage_bytes),
    ),
    ContainerMetric(
        "container_memory_working_set_bytes",
        "gauge",
        "Current working set in bytes.",
        _one(lambda s: s.reading.memory_working_set_bytes),
    ),
    ContainerMetric(
        "container_memory_rss",
        "gauge",
        "Size of RSS in bytes.",
        _one(lambda s: s.reading.memory_rss_bytes),
    ),
    ContainerMetric(
        "container_memory_cache",
        "gauge",
        "Number of bytes of page cache memory.",
        _one(lambda s: s.reading.memory_cache_bytes),
    ),
    ContainerMetric(
        "container_memory_mapped_file",
        "gauge",
        "Size of memory mapped files in bytes.",
        _one(lambda s: s.reading.memory_mapped_file_bytes),
    ),
    ContainerMetric(
        "container_memory_swap",
        "gauge",
        "Container swap usage in bytes.",
        _one(lambda s: s.reading.memory_swap_bytes),
    ),
    ContainerMetric(
        "container_memory_max_usage_bytes",
        "gauge",
        "Maximum memory usage recorded in bytes.",
        _one(lambda s: s.reading.memory_peak_bytes),
    ),
    ContainerMetric(
        "container_memory_failcnt",
        "counter",
        "Number of memory usage hits limits.",
        _one(lambda s: s.reading.memory_limit_hits),
    ),
    ContainerMetric(
        "container_memory_failures_total",
        "counter",
        "Cumulative count of memory allocation failures.",
        lambda s, _: (
            (',failure_type="pgfault",scope="hierarchy"', s.reading.page_faults),
            (',failure_type="pgmajfault",scope="hierarchy"', s.reading.major_page_faults),
        ),
    ),
    ContainerMetric(
        "container_threads",
        "gauge",
        "Number of threads running inside the container.",
        _one(lambda s: s.reading.process_count),
    ),
    ContainerMetric(
        "container_fs_reads_bytes_total",
        "counter",
        "Cumulative count of bytes read",
        _device("read_bytes"),
    ),
    ContainerMetric(
        "container_fs_writes_bytes_total",
        "counter",
        "Cumulative count of bytes written",
        _device("write_bytes"),
    ),
    ContainerMetric(
        "container_fs_reads_total",
        "counter",
        "Cumulative count of reads completed",
        _device("reads"),
    ),
    ContainerMetric(
        "container_fs_writes_total",
        "counter",
        "Cumulative count of writes completed",
        _device("writes"),
    ),
    ContainerMetric(
        "container_network_receive_bytes_total",
        "counter",
        "Cumulative count of bytes received",
        _network("receive_bytes"),
    ),
    ContainerMetric(
        "container_network_receive_packets_total",
        "counter",
        "Cumulative count of packets received",
        _network("receive_packets"),
    ),
    ContainerMetric(
        "container_network_transmit_bytes_total",
        "counter",
        "Cumulative count of bytes transmitted",
        _network("transmit_bytes"),
    ),
    ContainerMetric(
        "container_network_transmit_packets_total",
        "counter",
        "Cumulative count of packets transmitted",
        _network("transmit_packets"),
    ),
    ContainerMetric(
        "container_spec_cpu_period",
        "gauge",
        "CPU period of the container.",
        _one(lambda s: s.limits.cpu_period_us),
    ),
    ContainerMetric(
        "container_spec_cpu_quota",
        "gauge",
        "CPU quota of the container.",
        _one(lambda s: s.limits.cpu_quota_us or None),
    ),
    ContainerMetric(
        "container_spec_cpu_shares",
        "gauge",
        "CPU share of the container.",
        _one(lambda s: s.limits.cpu_shares),
    ),
    ContainerMetric(
        "container_spec_memory_limit_bytes",
        "gauge",
        "Memory limit for the container.",
        _one(lambda s: s.limits.memory_bytes),
    ),
    ContainerMetric(
        "container_spec_memory_reservation_limit_bytes",
        "gauge",
        "Memory reservation limit for the container.",
        _one(lambda s: s.limits.memory_reservation_bytes),
    ),
    ContainerMetric(
        "container_spec_memory_swap_limit_bytes",
        "gauge",
        "Memory swap limit for the container.",
        _one(lambda s: s.limits.memory_swap_bytes),
    ),
    ContainerMetric(
        "container_start_time_seconds",
        "gauge",
        "Start time of the container since unix epoch in seconds.",
        _one(lambda s: s.container.started_ns // 10**9),
    ),
)


def render(
    machine: Machine,
    host: HostSample,
    containers: Sequence[ContainerSample],
    device_names: Mapping[str, str],
) -> str:
    """The whole page. `device_names`: of block devices by `MAJOR:MINOR`."""
    keys = sorted({key for sample in containers for key in sample.container.labels})
    root_labels = label_text([("id", "/"), ("image", ""), ("name", "")])
    own_labels = [_container_labels(sample, keys) for sample in containers]
    root = _root_points(host)
    seen_s = host.taken_ns // 10**9
    lines: list[str] = []
    for metric in _CONTAINER_METRICS:
        rows = [
            f"{metric.name}{{{own}{further}}} {value}"
            for own, sample in zip(own_labels, containers, strict=True)
            for further, value in metric.points(sample, device_names)
        ]
        rows += [
            f"{metric.name}{{{root_labels}{further}}} {value}"
            for further, value in root.get(metric.name, ())
        ]
        add_metric(lines, metric.name, metric.kind, metric.help, rows)
    rows = [f"container_last_seen{{{own}}} {seen_s}" for own in (*own_labels, root_labels)]
    help_text = "Last time a container was seen by the exporter"
    add_metric(lines, "container_last_seen", "gauge", help_text, rows)
    help_text = "1 if there was an error while getting container metrics, 0 otherwise"
    add_metric(lines, "container_scrape_error", "gauge", help_text, ["container_scrape_error 0"])
    add_machine(lines, machine, host)
    add_node(lines, machine, host)
    return "\n".join(lines) + "\n"


def _root_points(host: HostSample) -> dict[str, list[Point]]:
    """The machine as a container of its own, `id="/"`."""
    memory = host.memory_bytes
    total = rates.total_of(host.cpus)
    used = memory["MemTotal"] - memory["MemFree"]
    points: dict[str, list[Point]] = {
        "container_cpu_usage_seconds_total": [(_CPU_TOTAL, rates.busy_s(total))],
        "container_cpu_user_seconds_total": [("", total["user"] + total["nice"])],
        "container_cpu_system_seconds_total": [("", total["system"])],
        "container_memory_usage_bytes": [("", used)],
        "container_memory_working_set_bytes": [
            ("", max(0, used - memory.get("Inactive(file)", 0)))
        ],
        "container_memory_rss": [("", memory.get("AnonPages", 0))],
        "container_memory_cache": [("", memory.get("Cached", 0) + memory.get("Buffers", 0))],
        "container_memory_swap": [("", memory["SwapTotal"] - memory["SwapFree"])],
        "container_spec_memory_limit_bytes": [("", memory["MemTotal"])],
        "container_start_time_seconds": [("", int(host.boot_s))],
    }
    for attribute in ("receive_bytes", "receive_packets", "transmit_bytes", "transmit_packets"):
        points[f"container_network_{attribute}_total"] = [
            (f',interface="{escaped(name)}"', getattr(counters, attribute))
            for name, counters in host.interfaces.items()
        ]
    for attribute, name in (("read_bytes", "reads_bytes"), ("write_bytes", "writes_bytes")):
        points[f"container_fs_{name}_total"] = [
            (f',device="/dev/{escaped(device)}"', getattr(counters, attribute))
            for device, counters in host.disks.items()
        ]
    return points


def _container_labels(sample: ContainerSample, keys: Sequence[str]) -> str:
    container = sample.container
    pairs = {"id": f"/docker/{container.container_id}"}
    for key in keys:
        # Keys that differ only in what a label name cannot hold fall together; the last one that
        # this container has wins, since a label may stand in a series once only.
        name = label_name(key)
        if key in container.labels or name not in pairs:
            pairs[name] = container.labels.get(key, "")
    pairs["image"] = container.image
    pairs["name"] = container.name
    return label_text(pairs.items())


def label_name(key: str) -> str:
    """The label of a container's label, as cAdvisor writes it."""
    return "container_label_" + re.sub(r"[^a-zA-Z0-9_]", "_", key)
