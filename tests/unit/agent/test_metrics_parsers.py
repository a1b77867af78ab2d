"""cgroup and /proc texts as kernels write them → readings."""

import pytest

from essaim_agent.metrics import cgroups, processes, rates
from essaim_agent.metrics.cgroups import Mount
from essaim_agent.metrics.samples import BlockCounters, Limits

ID = "0123456789abcdef" * 4

HYBRID_MOUNTS = """\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
33 31 0:31 /docker/me /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
34 31 0:32 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
35 31 0:33 / /mnt/with\\040space rw - ext4 /dev/sda1 rw
nonsense
"""

UNIFIED_MOUNTS = "24 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"


def test_hybrid_hosts_are_measured_by_v1() -> None:
    mounts = cgroups.parse_mountinfo(HYBRID_MOUNTS)
    assert mounts.is_v1
    assert mounts.v1["cpuacct"] == mounts.v1["cpu"] == Mount("/sys/fs/cgroup/cpu,cpuacct", "/")
    assert mounts.v1["memory"] == Mount("/sys/fs/cgroup/memory", "/docker/me")
    assert mounts.v2 == Mount("/sys/fs/cgroup/unified", "/")


def test_unified_hosts_are_measured_by_v2() -> None:
    mounts = cgroups.parse_mountinfo(UNIFIED_MOUNTS)
    assert not mounts.is_v1
    assert mounts.v2 == Mount("/sys/fs/cgroup", "/")


def test_the_cgroup_of_a_process_is_read_by_controller() -> None:
    text = "12:cpu,cpuacct:/docker/a\n3:memory:/x:y\n1:name=systemd:/docker/a\n0::/unified\n"
    paths = cgroups.parse_proc_cgroup(text)
    assert paths["cpu"] == paths["cpuacct"] == "/docker/a"
    assert paths["memory"] == "/x:y", "a cgroup's name may hold a colon"
    assert paths[""] == "/unified"


@pytest.mark.parametrize(
    ("path", "own"),
    [
        (f"/docker/{ID}", f"/docker/{ID}"),
        (f"/lab-h1/{ID}", f"/lab-h1/{ID}"),
        (f"/system.slice/docker-{ID}.scope", f"/system.slice/docker-{ID}.scope"),
        (f"/docker/{ID}/init.scope", f"/docker/{ID}"),  # systemd inside moved down
        (f"/docker/{ID}/docker/{ID[::-1]}", f"/docker/{ID}"),  # an engine inside
        ("/", None),
        ("/user.slice", None),
    ],
)
def test_a_containers_own_cgroup_is_found_from_its_process(path: str, own: str | None) -> None:
    assert cgroups.own_path(path, ID) == own


def test_without_its_process_a_container_is_looked_for_under_each_parent() -> None:
    assert cgroups.candidate_paths(ID, ["lab-h1", "/system.slice/"]) == (
        f"/lab-h1/{ID}",
        f"/lab-h1/docker-{ID}.scope",
        f"/system.slice/{ID}",
        f"/system.slice/docker-{ID}.scope",
    )


def test_the_root_of_a_mount_is_taken_off_a_path() -> None:
    assert cgroups.directory(Mount("/cg", "/"), "/docker/a") == "/cg/docker/a"
    assert cgroups.directory(Mount("/cg", "/docker/me"), "/docker/me/in") == "/cg/in"
    assert cgroups.directory(Mount("/cg", "/docker/me"), "/docker/me") == "/cg"
    assert cgroups.directory(Mount("/cg", "/docker/me"), "/docker/men") == "/cg/docker/men"


V1 = {
    "cpuacct.usage": "2500000000\n",
    "cpuacct.stat": "user 150\nsystem 75\n",
    "cpu.stat": "nr_periods 40\nnr_throttled 4\nthrottled_time 1500000000\n",
    "memory.usage_in_bytes": "1000000\n",
    "memory.stat": (
        "cache 1\nrss 2\ntotal_cache 300000\ntotal_rss 600000\ntotal_mapped_file 8192\n"
        "total_swap 4096\ntotal_pgfault 77\ntotal_pgmajfault 3\ntotal_inactive_file 250000\n"
    ),
    "memory.max_usage_in_bytes": "1200000\n",
    "memory.failcnt": "5\n",
    "pids.current": "9\n",
    "blkio.throttle.io_service_bytes_recursive": (
        "8:0 Read 4096\n8:0 Write 8192\n8:0 Sync 8192\n8:0 Async 4096\n8:0 Total 12288\n"
        "253:1 Read 1\n253:1 Write 0\nTotal 12289\n"
    ),
    "blkio.throttle.io_serviced_recursive": "8:0 Read 1\n8:0 Write 2\nTotal 3\n",
}


def test_v1_files_become_a_reading() -> None:
    reading = cgroups.read_v1(V1)
    assert (reading.cpu_usage_s, reading.cpu_user_s, reading.cpu_system_s) == (2.5, 1.5, 0.75)
    assert reading.memory_usage_bytes == 1_000_000
    assert reading.memory_working_set_bytes == 750_000
    assert (reading.memory_rss_bytes, reading.memory_cache_bytes) == (600_000, 300_000)
    assert (reading.memory_mapped_file_bytes, reading.memory_swap_bytes) == (8192, 4096)
    assert (reading.memory_peak_bytes, reading.memory_limit_hits) == (1_200_000, 5)
    assert (reading.page_faults, reading.major_page_faults) == (77, 3)
    assert reading.process_count == 9
    assert reading.block == {
        "8:0": BlockCounters(read_bytes=4096, write_bytes=8192, reads=1, writes=2),
        "253:1": BlockCounters(read_bytes=1),
    }
    assert (reading.cpu_periods, reading.cpu_throttled_periods, reading.cpu_throttled_s) == (
        40,
        4,
        1.5,
    )


def test_what_a_kernel_was_built_without_counts_nothing() -> None:
    required = {name: text for name, text in V1.items() if name in cgroups.V1_REQUIRED}
    reading = cgroups.read_v1(required)
    assert reading.cpu_usage_s == 2.5
    assert reading.block == {}
    assert reading.process_count == 0
    assert reading.memory_peak_bytes is None


def test_the_block_counters_of_the_scheduler_in_use_count() -> None:
    files = V1 | {"blkio.bfq.io_service_bytes_recursive": "Total 0\n"}
    assert cgroups.read_v1(files).block["8:0"].read_bytes == 4096
    files["blkio.bfq.io_service_bytes_recursive"] = "8:0 Read 7\nTotal 7\n"
    assert cgroups.read_v1(files).block == {"8:0": BlockCounters(read_bytes=7)}


V2 = {
    "cpu.stat": (
        "usage_usec 2500000\nuser_usec 1500000\nsystem_usec 1000000\n"
        "nr_periods 40\nnr_throttled 4\nthrottled_usec 1500000\nnr_bursts 0\nburst_usec 0\n"
    ),
    "memory.current": "1000000\n",
    "memory.stat": (
        "anon 600000\nfile 300000\nkernel 1\nfile_mapped 8192\ninactive_file 250000\n"
        "pgfault 77\npgmajfault 3\n"
    ),
    "memory.peak": "1200000\n",
    "memory.swap.current": "4096\n",
    "memory.events": "low 0\nhigh 0\nmax 5\noom 0\noom_kill 0\n",
    "io.stat": (
        "8:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n"
        "7:0 \n253:1 rbytes=1 wbytes=0 rios=1 wios=0 cost.usage=12\n"
    ),
    "pids.current": "9\n",
}


def test_v2_files_become_the_same_reading() -> None:
    v1, v2 = cgroups.read_v1(V1), cgroups.read_v2(V2)
    assert v2.cpu_system_s == 1.0
    assert v2.block == {
        "8:0": BlockCounters(read_bytes=4096, write_bytes=8192, reads=1, writes=2),
        "253:1": BlockCounters(read_bytes=1, reads=1),
    }
    for field in v1.__struct_fields__:
        if field not in ("cpu_system_s", "block"):
            assert getattr(v1, field) == getattr(v2, field), field


def test_a_working_set_is_never_negative() -> None:
    assert cgroups.read_v2(V2 | {"memory.current": "1000\n"}).memory_working_set_bytes == 0
    assert cgroups.read_v1(V1 | {"memory.usage_in_bytes": "1\n"}).memory_working_set_bytes == 0


def test_limits_are_the_same_in_both_versions() -> None:
    v1 = cgroups.limits_v1(
        {
            "memory.limit_in_bytes": "104857600\n",
            "memory.memsw.limit_in_bytes": "9223372036854771712\n",
            "memory.soft_limit_in_bytes": "9223372036854771712\n",
            "cpu.shares": "1024\n",
            "cpu.cfs_quota_us": "50000\n",
            "cpu.cfs_period_us": "100000\n",
        }
    )
    v2 = cgroups.limits_v2(
        {
            "memory.max": "104857600\n",
            "memory.swap.max": "max\n",
            "memory.low": "0\n",
            "cpu.weight": "39\n",
            "cpu.max": "50000 100000\n",
        }
    )
    assert v1 == Limits(
        memory_bytes=104_857_600, cpu_shares=1024, cpu_quota_us=50_000, cpu_period_us=100_000
    )
    # 1024 shares become weight 39, which reads as 998 shares; cAdvisor shows the same.
    assert v2 == Limits(
        memory_bytes=104_857_600, cpu_shares=998, cpu_quota_us=50_000, cpu_period_us=100_000
    )


def test_no_limit_is_written_zero() -> None:
    v1 = cgroups.limits_v1(
        {"memory.limit_in_bytes": "9223372036854771712\n", "cpu.cfs_quota_us": "-1\n"}
    )
    v2 = cgroups.limits_v2({"memory.max": "max\n", "cpu.max": "max 100000\n"})
    assert (v1.memory_bytes, v1.cpu_quota_us) == (0, 0)
    assert (v2.memory_bytes, v2.cpu_quota_us, v2.cpu_period_us) == (0, 0, 100_000)


@pytest.mark.parametrize("text", ["", "x\n", "12 13\n"])
def test_a_file_that_should_be_one_number_and_is_not_raises(text: str) -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        cgroups.read_v2(V2 | {"memory.current": text})


# /proc

STAT = (
    "4242 (a (very) odd) name) S 1 4242 4000 0 -1 4194560 100 900 7 70 "
    "250 50 10 5 20 0 1 0 123456 10000000 2560 18446744073709551615 1 1 0 0 0 0 0\n"
)


def test_a_process_is_read_though_its_name_holds_parentheses() -> None:
    stat = processes.parse_stat(STAT)
    assert (stat.pid, stat.session, stat.state) == (4242, 4000, "S")
    assert stat.user_s == 2.6, "its own 2.5 s and 0.1 s of children that ended"
    assert stat.system_s == 0.55
    assert stat.resident_pages == 2560
    assert (stat.minor_faults, stat.major_faults) == (100, 7)


def test_the_processes_of_a_session_are_added_up() -> None:
    one = processes.parse_stat(STAT)
    ended = processes.parse_stat(STAT.replace(" S ", " Z "))
    io = processes.parse_io("rchar: 9\nread_bytes: 4096\nwrite_bytes: 10\n")
    reading = processes.reading_of_session([one, one, ended], [io, io], page_bytes=4096)
    assert reading is not None
    assert reading.cpu_usage_s == pytest.approx(6.3)
    assert reading.memory_working_set_bytes == 2 * 2560 * 4096
    assert reading.process_count == 2
    assert reading.block == {"": BlockCounters(read_bytes=8192, write_bytes=20)}
    assert processes.reading_of_session([ended], [], 4096) is None


def test_memory_and_disks_of_the_host_are_read() -> None:
    memory = processes.parse_meminfo("MemTotal:  2048 kB\nHugePages_Total:   3\nActive(anon): 1 kB")
    assert memory == {"MemTotal": 2_097_152, "HugePages_Total": 3, "Active(anon)": 1024}
    partitions = "major minor  #blocks  name\n\n   8        0   1024 sda\n 253   1 77 dm-1\n"
    assert processes.parse_partitions(partitions) == {"8:0": "sda", "253:1": "dm-1"}


# rates


def test_the_hosts_cpu_percent_is_of_all_cpus_together() -> None:
    before = rates.total_of([{"user": 10.0, "idle": 50.0}, {"user": 0.0, "idle": 60.0}])
    now = rates.total_of(
        [{"user": 11.0, "idle": 50.0, "steal": 0.5}, {"user": 0.5, "idle": 61.0, "iowait": 1.0}]
    )
    assert rates.host_cpu_percent(before, now) == pytest.approx(100 * 2 / 4)
    assert rates.host_cpu_percent(now, now) == 0.0
    backwards = now | {"iowait": 0.9, "idle": 110.0}
    assert rates.host_cpu_percent(now, backwards) == 0.0


def test_a_containers_cpu_percent_is_that_of_docker_stats() -> None:
    # 4 CPUs, 5 s: 20 CPU seconds went by, of which the container used 7.5.
    assert rates.container_cpu_percent(1.0, 8.5, 100.0, 120.0, 4) == 150.0
    assert rates.container_cpu_percent(8.5, 1.0, 100.0, 120.0, 4) == 0.0, "a counter went back"
    assert rates.container_cpu_percent(1.0, 2.0, 100.0, 100.0, 4) == 0.0, "no time passed"


def test_guest_time_is_not_counted_twice() -> None:
    times = {"user": 5.0, "guest": 3.0, "nice": 1.0, "guest_nice": 1.0, "idle": 4.0}
    assert rates.busy_s(times) == 6.0
    assert rates.docker_system_s(times) == 10.0


@pytest.mark.parametrize(
    ("name", "is_own"),
    [
        ("eth0", True),
        ("enp3s0", True),
        ("bond0", True),
        ("wlan0", True),
        ("lo", False),
        ("docker0", False),
        ("docker_gwbridge", False),
        ("veth12ab", False),
        ("br-0a1b", False),
        ("es-b3f2a", False),
        ("br0", True),
    ],
)
def test_only_the_hosts_own_interfaces_count(name: str, is_own: bool) -> None:
    assert rates.is_host_interface(name) is is_own
