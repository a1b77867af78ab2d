"""The Prometheus page, read back by a parser that knows only the format's grammar."""

import re
from typing import NamedTuple

import pytest

from essaim_agent.metrics.exposition import label_name, render
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

ID = "ab" * 32
SERVICE = "com.docker.swarm.service.name"

_SAMPLE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)")
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"(?:,|$)')


class Series(NamedTuple):
    name: str
    labels: dict[str, str]
    value: float


def parse(text: str) -> list[Series]:
    """Raises AssertionError where the page breaks the format's rules."""
    assert text.endswith("\n")
    kinds: dict[str, str] = {}
    closed: set[str] = set()
    current = ""
    found: list[Series] = []
    seen: set[tuple[str, str]] = set()
    for line in text.splitlines():
        if line.startswith("# HELP "):
            continue
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert kind in ("counter", "gauge")
            assert name not in kinds, f"{name} is declared twice"
            closed.add(current)
            kinds[name], current = kind, name
            continue
        match = _SAMPLE.fullmatch(line)
        assert match, line
        name, inside, value = match.groups()
        assert name == current, f"{name} stands outside its group"
        assert name not in closed
        labels: dict[str, str] = {}
        rest = inside or ""
        while rest:
            label = _LABEL.match(rest)
            assert label, line
            assert label[1] not in labels, f"label {label[1]} twice in {line}"
            labels[label[1]] = re.sub(r"\\(.)", lambda m: {"n": "\n"}.get(m[1], m[1]), label[2])
            rest = rest[label.end() :]
        key = (name, str(sorted(labels.items())))
        assert key not in seen, f"{line} is there twice"
        seen.add(key)
        found.append(Series(name, labels, float(value)))
    for name, kind in kinds.items():
        assert name.endswith("_total") <= (kind == "counter"), f"{name} is a {kind}"
    return found


HOST = HostSample(
    taken_ns=1_700_000_000_500_000_000,
    boot_s=1_600_000_000.0,
    cpus=(
        {"user": 10.0, "nice": 1.0, "system": 5.0, "idle": 100.0, "guest": 3.0},
        {"user": 20.0, "nice": 0.0, "system": 5.0, "idle": 90.0, "guest": 0.0},
    ),
    load=(0.5, 0.25, 0.125),
    memory_bytes={
        "MemTotal": 1000,
        "MemFree": 400,
        "MemAvailable": 600,
        "Inactive(file)": 100,
        "Cached": 70,
        "AnonPages": 300,
        "SwapTotal": 50,
        "SwapFree": 40,
        "HugePages_Total": 3,
    },
    disk_total_bytes=900,
    disk_used_bytes=300,
    disk_available_bytes=500,
    disk_path="/var/lib/docker",
    interfaces={"eth0": TrafficCounters(1, 2, 3, 4, 5, 6, 7, 8)},
    disks={"sda": BlockCounters(11, 12, 13, 14)},
)
TRAFFIC = InterfaceCounters(101, 102, 103, 104)
LIMITS = Limits(memory_bytes=5000, cpu_shares=1024, cpu_period_us=100_000)
MACHINE = Machine(cpu_count=2, machine_id="m", kernel_release="6.1", engine_version="20.10.24")


def sample(
    container_id: str = ID,
    labels: dict[str, str] | None = None,
    network: InterfaceCounters | None = TRAFFIC,
    limits: Limits = LIMITS,
    name: str = "web.1.x",
) -> ContainerSample:
    return ContainerSample(
        container=MeasuredContainer(
            task_id="t",
            container_id=container_id,
            pid=7,
            started_ns=1_650_000_000_900_000_000,
            labels={SERVICE: "web"} if labels is None else labels,
            image="nginx:1",
            name=name,
        ),
        reading=Reading(
            cpu_usage_s=2.5,
            cpu_user_s=1.5,
            cpu_system_s=1.0,
            memory_usage_bytes=1000,
            memory_working_set_bytes=750,
            memory_rss_bytes=600,
            memory_cache_bytes=300,
            memory_peak_bytes=1200,
            process_count=9,
            block={"8:0": BlockCounters(21, 22, 23, 24), "9:9": BlockCounters(1, 1, 1, 1)},
            cpu_periods=40,
            cpu_throttled_periods=4,
            cpu_throttled_s=1.5,
        ),
        limits=limits,
        network=network,
    )


def page(*containers: ContainerSample) -> list[Series]:
    return parse(render(MACHINE, HOST, containers, {"8:0": "sda"}))


def value_of(series: list[Series], name: str, **labels: str) -> float:
    found = [s for s in series if s.name == name and labels.items() <= s.labels.items()]
    assert len(found) == 1, (name, labels, found)
    return found[0].value


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("container_cpu_usage_seconds_total", 2.5),
        ("container_cpu_user_seconds_total", 1.5),
        ("container_cpu_system_seconds_total", 1.0),
        ("container_memory_usage_bytes", 1000),
        ("container_memory_working_set_bytes", 750),
        ("container_memory_rss", 600),
        ("container_memory_cache", 300),
        ("container_memory_max_usage_bytes", 1200),
        ("container_network_receive_bytes_total", 101),
        ("container_network_transmit_bytes_total", 102),
        ("container_network_receive_packets_total", 103),
        ("container_network_transmit_packets_total", 104),
        ("container_spec_memory_limit_bytes", 5000),
        ("container_spec_cpu_shares", 1024),
        ("container_spec_cpu_period", 100_000),
        ("container_start_time_seconds", 1_650_000_000),
        ("container_last_seen", 1_700_000_000),
        ("container_threads", 9),
    ],
)
def test_a_containers_figures_stand_under_cadvisors_names(name: str, value: float) -> None:
    assert value_of(page(sample()), name, id=f"/docker/{ID}") == value


def test_block_traffic_is_labelled_by_device() -> None:
    series = page(sample())
    own = f"/docker/{ID}"
    assert value_of(series, "container_fs_reads_bytes_total", id=own, device="/dev/sda") == 21
    assert value_of(series, "container_fs_writes_bytes_total", id=own, device="/dev/sda") == 22
    assert value_of(series, "container_fs_writes_total", id=own, device="9:9") == 1


def test_dashboards_find_containers_by_their_labels() -> None:
    labels = next(s.labels for s in page(sample()) if s.labels.get("name"))
    assert labels["id"] == f"/docker/{ID}"
    assert labels["name"] == "web.1.x"
    assert labels["image"] == "nginx:1"
    assert labels["container_label_com_docker_swarm_service_name"] == "web"


def test_every_container_carries_the_union_of_label_keys() -> None:
    series = page(sample(labels={"a": "1"}), sample("cd" * 32, labels={"b.c": "2"}))
    one, other = (s.labels for s in series if s.name == "container_memory_rss" and s.labels["name"])
    assert (one["container_label_a"], one["container_label_b_c"]) == ("1", "")
    assert (other["container_label_a"], other["container_label_b_c"]) == ("", "2")


def test_labels_that_differ_only_in_forbidden_characters_do_not_break_the_page() -> None:
    series = page(sample(labels={"a.b": "dot", "a-b": "dash"}), sample("cd" * 32, {"a-b": "dash"}))
    found = [s.labels for s in series if s.name == "container_memory_rss" and s.labels["name"]]
    assert [labels["container_label_a_b"] for labels in found] == ["dot", "dash"]


def test_hostile_label_values_stay_values() -> None:
    evil = 'x"} 1\nfake_metric{a="\\'
    series = page(sample(labels={"evil": evil}, name=evil))
    labels = next(s.labels for s in series if s.labels.get("name"))
    assert labels["container_label_evil"] == evil
    assert labels["name"] == evil
    assert not [s for s in series if s.name == "fake_metric"]
    assert label_name("é/{}\n") == "container_label______"


def test_the_machine_is_a_container_called_slash() -> None:
    series = page()
    assert value_of(series, "container_cpu_usage_seconds_total", id="/") == 41.0
    assert value_of(series, "container_memory_usage_bytes", id="/") == 600
    assert value_of(series, "container_memory_working_set_bytes", id="/") == 500
    assert value_of(series, "container_network_receive_bytes_total", interface="eth0") == 1
    assert value_of(series, "container_last_seen", id="/") == 1_700_000_000


def test_the_machine_and_node_figures_are_there() -> None:
    series = page()
    assert value_of(series, "machine_cpu_cores", machine_id="m") == 2
    assert value_of(series, "machine_memory_bytes") == 1000
    assert value_of(series, "cadvisor_version_info", dockerVersion="20.10.24") == 1
    assert value_of(series, "node_cpu_seconds_total", cpu="1", mode="user") == 20
    assert not [s for s in series if s.labels.get("mode") == "guest"]
    assert value_of(series, "node_memory_MemAvailable_bytes") == 600
    assert value_of(series, "node_memory_Inactive_file_bytes") == 100
    assert value_of(series, "node_memory_HugePages_Total") == 3
    assert value_of(series, "node_load15") == 0.125
    assert value_of(series, "node_filesystem_avail_bytes", mountpoint="/var/lib/docker") == 500
    assert value_of(series, "node_filesystem_free_bytes") == 600
    assert value_of(series, "node_network_transmit_drop_total", device="eth0") == 8
    assert value_of(series, "node_disk_written_bytes_total", device="sda") == 12
    assert value_of(series, "node_time_seconds") == 1_700_000_000.5
    assert value_of(series, "node_uname_info", release="6.1") == 1


def test_what_does_not_apply_is_absent() -> None:
    series = page(sample(network=None))
    names = {s.name for s in series if s.labels.get("name")}
    assert not {name for name in names if "network" in name}
    assert not {name for name in names if "cfs" in name}
    assert "container_spec_cpu_quota" not in names
    limited = page(sample(limits=Limits(cpu_quota_us=50_000, cpu_period_us=100_000)))
    assert value_of(limited, "container_spec_cpu_quota") == 50_000
    assert value_of(limited, "container_cpu_cfs_throttled_seconds_total") == 1.5
