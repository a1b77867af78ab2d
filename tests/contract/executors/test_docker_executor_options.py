"""Each option of a container on a real engine, seen from inside or by what the engine says of it.

The runtime shim stands in between: what changes the container's namespaces, devices or rights must
work with the prepared network namespace too, so that is looked at each time.
"""

import base64
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from essaim_agent.executor import ExecutorError, Refused, Temporary
from essaim_shared.container_spec import (
    BindOptions,
    Device,
    DnsConfig,
    HealthConfig,
    ImageOptions,
    Mount,
    MountDriver,
    Privileges,
    SeccompOptions,
    TmpfsOptions,
    Ulimit,
    VolumeOptions,
)
from essaim_shared.objects import Task
from essaim_shared.spec import (
    GenericResource,
    Limits,
    LogDriver,
    NamedResource,
    Resources,
)

pytestmark = pytest.mark.lab

MIB = 2**20
NO_CHMOD = base64.b64encode(
    b'{"defaultAction":"SCMP_ACT_ALLOW","syscalls":'
    b'[{"names":["chmod","fchmod","fchmodat"],"action":"SCMP_ACT_ERRNO"}]}'
).decode()


@pytest.fixture
def bench(docker_bench: Any) -> Any:
    return docker_bench


def asking(task: Task, container: dict[str, Any], **spec: Any) -> Task:
    """The task with other fields of its container and of its spec."""
    changed = msgspec.structs.replace(task.spec.container, **container)
    return msgspec.structs.replace(
        task, spec=msgspec.structs.replace(task.spec, container=changed, **spec)
    )


async def seen_inside(bench: Any, task: Task) -> str:
    """What the task's shell prints; it ends with `ready`."""
    container = await bench.executor.start(task, bench.namespace())
    await bench.ready(task)
    pid = await bench.executor.pid_of(container.container_id)
    inside, prepared = os.stat(f"/proc/{pid}/ns/net"), os.stat(bench.namespace())
    assert inside.st_ino == prepared.st_ino, "not in the prepared network namespace"
    output: str = bench.output(task).decode().replace("\r\n", "\n")
    return output.replace("ready\n", "").strip()


def inspected(bench: Any, container_id: str) -> dict[str, Any]:
    client = bench.engine.client()
    try:
        state: dict[str, Any] = client.inspect_container(container_id)
        return state
    finally:
        client.close()


PASSED = [
    ("user", {"user": "1000:1001"}, "id -u; id -g", "1000\n1001"),
    ("groups", {"user": "1000", "groups": ("77",)}, "id -G", "0 77"),
    ("dir", {"dir": "/some/where"}, "pwd", "/some/where"),
    ("env", {"env": ("A=b c",)}, 'echo "$A"', "b c"),
    ("hostname", {"hostname": "db1"}, "cat /etc/hostname", "db1"),
    (
        "hosts",
        {"hosts": ("192.0.2.9 a b",)},
        "busybox tail -n 2 /etc/hosts",
        "192.0.2.9\ta\n192.0.2.9\tb",
    ),
    ("tty", {"tty": True}, "[ -t 1 ] && echo yes", "yes"),
    (
        "open_stdin",
        {"open_stdin": True},
        "busybox readlink /proc/self/fd/0 | busybox cut -c -5",
        "pipe:",
    ),
    ("read_only", {"read_only": True}, "busybox touch /x 2>/dev/null || echo no", "no"),
    (
        "read_only_but_tmpfs",
        {"read_only": True, "mounts": (Mount(type="tmpfs", target="/t"),)},
        "busybox touch /t/x && echo yes",
        "yes",
    ),
    (
        "tmpfs_size_and_mode",
        {
            "mounts": (
                Mount(
                    type="tmpfs",
                    target="/t",
                    tmpfs_options=TmpfsOptions(size_bytes=2 * MIB, file_mode=0o700),
                ),
            )
        },
        "busybox stat -c %a /t; busybox df -k /t | busybox awk 'END{print $2}'",
        "700\n2048",
    ),
    (
        "ulimits",
        {"ulimits": (Ulimit(name="nofile", soft=100, hard=200),)},
        "ulimit -Sn; ulimit -Hn",
        "100\n200",
    ),
    (
        "shm_size",
        {"shm_size": 3 * MIB},
        "busybox df -k /dev/shm | busybox awk 'END{print $2}'",
        "3072",
    ),
    ("oom_score_adj", {"oom_score_adj": 77}, "cat /proc/self/oom_score_adj", "77"),
    ("sysctls", {"sysctls": {"kernel.msgmax": "4242"}}, "cat /proc/sys/kernel/msgmax", "4242"),
    (
        "no_new_privileges",
        {"privileges": Privileges(no_new_privileges=True)},
        "busybox awk '/NoNewPrivs/{print $2}' /proc/self/status",
        "1",
    ),
    (
        "seccomp_unconfined",
        {"privileges": Privileges(seccomp=SeccompOptions(mode="unconfined"))},
        "busybox awk '/^Seccomp:/{print $2}' /proc/self/status",
        "0",
    ),
    (
        "seccomp_custom",
        {"privileges": Privileges(seccomp=SeccompOptions(mode="custom", profile=NO_CHMOD))},
        "busybox touch /x; busybox chmod 1 /x 2>/dev/null || echo no",
        "no",
    ),
    (
        "security_opt_seccomp",
        {"security_options": ("seccomp=unconfined",)},
        "busybox awk '/^Seccomp:/{print $2}' /proc/self/status",
        "0",
    ),
    (
        "security_opt_systempaths",
        {"security_options": ("systempaths=unconfined",)},
        "busybox grep -c ' /proc/' /proc/self/mounts",
        "0",
    ),
    (
        "devices",
        {"devices": (Device(path_on_host="/dev/null", path_in_container="/dev/mine"),)},
        "[ -c /dev/mine ] && echo >/dev/mine && echo yes",
        "yes",
    ),
    (
        "capability_drop",
        {"capability_drop": ("ALL",), "capability_add": ("CAP_CHOWN",)},
        "busybox awk '/CapEff/{print $2}' /proc/self/status",
        "0000000000000001",
    ),
    (
        "dns_config",
        {
            "dns_config": DnsConfig(
                nameservers=("192.0.2.53",), search=("lan",), options=("ndots:2",)
            )
        },
        "busybox grep -v '^#' /etc/resolv.conf | busybox sort",
        "nameserver 192.0.2.53\noptions ndots:2\nsearch lan",
    ),
    (
        "templates",
        {
            "hostname": "{{.Service.Name}}-{{.Task.Slot}}",
            "env": ("WHERE={{.Node.Hostname}}/{{.Node.Platform.OS}}",),
            "mounts": (Mount(type="tmpfs", target="/at/{{.Task.Slot}}"),),
        },
        'cat /etc/hostname; echo "$WHERE"; [ -d /at/1 ] && echo mounted',
        "web-1\nhost7/linux\nmounted",
    ),
]


@pytest.mark.parametrize(
    ("asked", "shell", "expected"),
    [case[1:] for case in PASSED],
    ids=[case[0] for case in PASSED],
)
async def test_an_option_reaches_the_container(
    bench: Any, asked: dict[str, Any], shell: str, expected: str
) -> None:
    task = asking(bench.make_task(f"{shell}; echo ready; exec sleep 1000"), asked)
    assert await seen_inside(bench, task) == expected


@pytest.mark.parametrize(
    ("asked", "namespace", "is_the_hosts"),
    [
        ({"pid_mode": "host"}, "pid", True),
        ({}, "pid", False),
        ({"ipc_mode": "host"}, "ipc", True),
        ({"ipc_mode": "private"}, "ipc", False),
        ({"ipc_mode": "shareable"}, "ipc", False),
        ({"ipc_mode": "none"}, "ipc", False),
    ],
)
async def test_namespaces_are_shared_only_when_asked(
    bench: Any, asked: dict[str, Any], namespace: str, is_the_hosts: bool
) -> None:
    link = f"/proc/self/ns/{namespace}"
    task = bench.make_task(f"busybox readlink {link}; echo ready; exec sleep 1000")
    inside = await seen_inside(bench, asking(task, asked))
    assert (inside == os.readlink(link)) is is_the_hosts


async def test_an_init_is_the_first_process(bench: Any) -> None:
    shell = "cat /proc/1/comm; echo ready; exec sleep 1000"
    assert await seen_inside(bench, asking(bench.make_task(shell), {"init": True})) == "docker-init"


async def test_a_privileged_container_is_asked_for(bench: Any) -> None:
    """Where the engine itself lacks a right it cannot give all of them: then it says so."""
    task = asking(bench.make_task("exec sleep 1000"), {"privileged": True})
    refusal = ""
    try:
        await bench.executor.start(task, bench.namespace())
    except ExecutorError as error:
        refusal = str(error)
    assert not refusal or "operation not permitted" in refusal
    client = bench.engine.client()
    [made] = client.containers(all=True, filters={"label": [f"io.essaim.task={task.id}"]})
    assert client.inspect_container(made["Id"])["HostConfig"]["Privileged"]
    client.close()


async def test_bounds_are_the_engines_to_hold(bench: Any) -> None:
    limits = Limits(nano_cpus=500_000_000, memory_bytes=64 * MIB, pids=33)
    resources = Resources(limits=limits, swap_bytes=0, memory_swappiness=10)
    task = asking(bench.make_task("exec sleep 1000"), {}, resources=resources)
    container = await bench.executor.start(task, bench.namespace())
    host = inspected(bench, container.container_id)["HostConfig"]
    wanted = {"NanoCpus": 500_000_000, "Memory": 64 * MIB, "PidsLimit": 33}
    assert {name: host[name] for name in wanted} == wanted
    # Both are -1 or None where the kernel cannot count swap; the engine then warns.
    assert host["MemorySwap"] in (64 * MIB, -1)
    assert host["MemorySwappiness"] in (10, None, -1)


async def test_a_cgroup_parent_takes_the_place_of_the_engines_own(bench: Any) -> None:
    """It is not put below the engine's `--cgroup-parent`."""
    parent = f"{bench.engine.name}-other"
    task = asking(bench.make_task("exec sleep 1000"), {"cgroup_parent": f"/{parent}"})
    container = await bench.executor.start(task, bench.namespace())
    pid = await bench.executor.pid_of(container.container_id)
    try:
        assert f":/{parent}/{container.container_id}" in Path(f"/proc/{pid}/cgroup").read_text()
    finally:
        await bench.executor.remove(task.id)
        for group in Path("/sys/fs/cgroup").glob(f"*/{parent}"):
            group.rmdir()


async def test_units_of_generic_resources_are_in_the_environment(bench: Any) -> None:
    units = tuple(
        GenericResource(named=NamedResource(kind="gpu", resource_value=value)) for value in "ab"
    )
    task = bench.make_task('echo "$DOCKER_RESOURCE_GPU"; echo ready; exec sleep 1000')
    task = msgspec.structs.replace(task, generic_resources=units)
    assert await seen_inside(bench, task) == "a,b"


@pytest.mark.parametrize(
    ("driver", "asked"),
    [
        (None, {"Type": "json-file", "Config": {"max-file": "3", "max-size": "10m"}}),
        (
            LogDriver(name="local"),
            {"Type": "local", "Config": {"max-file": "3", "max-size": "10m"}},
        ),
        (LogDriver(name="none"), {"Type": "none", "Config": {}}),
        (
            LogDriver(driver_options={"max-size": "1m"}),
            {"Type": "json-file", "Config": {"max-size": "1m"}},
        ),
    ],
)
async def test_logs_are_rotated_unless_the_service_says_otherwise(
    bench: Any, driver: LogDriver | None, asked: dict[str, Any]
) -> None:
    task = asking(bench.make_task("exec sleep 1000"), {}, log_driver=driver)
    container = await bench.executor.start(task, bench.namespace())
    assert inspected(bench, container.container_id)["HostConfig"]["LogConfig"] == asked


async def test_a_health_check_is_the_engines(bench: Any) -> None:
    check = HealthConfig(
        test=("CMD", "true"),
        interval=3_000_000_000,
        timeout=2_000_000_000,
        retries=4,
        start_period=5_000_000_000,
    )
    task = asking(bench.make_task("exec sleep 1000"), {"healthcheck": check})
    container = await bench.executor.start(task, bench.namespace())
    assert inspected(bench, container.container_id)["Config"]["Healthcheck"] == {
        "Test": ["CMD", "true"],
        "Interval": 3_000_000_000,
        "Timeout": 2_000_000_000,
        "Retries": 4,
        "StartPeriod": 5_000_000_000,
    }


# Mounts.


async def test_a_bind_shows_the_nodes_directory(bench: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content\n")
    mount = Mount(
        type="bind",
        source=str(tmp_path),
        target="/mine",
        read_only=True,
        bind_options=BindOptions(propagation="private"),
    )
    shell = "cat /mine/file; busybox touch /mine/x 2>/dev/null || echo no; echo ready; sleep 1000"
    task = asking(bench.make_task(shell), {"mounts": (mount,)})
    assert await seen_inside(bench, task) == "content\nno"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def volume_names(bench: Any) -> set[str]:
    client = bench.engine.client()
    try:
        return {volume["Name"] for volume in client.volumes()["Volumes"] or ()}
    finally:
        client.close()


async def test_a_named_volume_outlives_its_task_and_an_anonymous_one_does_not(bench: Any) -> None:
    before = volume_names(bench)
    options = VolumeOptions(
        labels={"task": "{{.Task.Slot}}"},
        driver_config=MountDriver(
            name="local", driver_options={"type": "tmpfs", "device": "tmpfs", "o": "size=1m"}
        ),
    )
    mounts = (
        Mount(source="kept-{{.Task.Slot}}", target="/kept", volume_options=options),
        Mount(target="/lost"),
    )
    shell = "busybox df -k /kept | busybox awk 'END{print $2}'; echo ready; exec sleep 1000"
    task = asking(bench.make_task(shell), {"mounts": mounts})
    assert await seen_inside(bench, task) == "1024"
    assert len(volume_names(bench) - before) == 2
    client = bench.engine.client()
    assert client.inspect_volume("kept-1")["Labels"] == {"task": "1"}
    await bench.executor.remove(task.id)
    assert volume_names(bench) - before == {"kept-1"}
    client.remove_volume("kept-1")
    client.close()


BIND = "/no/such/directory"
REFUSED = [
    (
        {"mounts": (Mount(type="bind", source=BIND, target="/x"),)},
        f'invalid mount config for type "bind": bind source path does not exist: {BIND}',
    ),
    (
        {
            "mounts": (
                Mount(
                    type="bind",
                    source=BIND,
                    target="/x",
                    bind_options=BindOptions(create_mountpoint=True),
                ),
            )
        },
        "bind-create-src needs Engine API 1.42",
    ),
    (
        {
            "mounts": (
                Mount(
                    type="image", source="i", target="/x", image_options=ImageOptions(subpath="a")
                ),
            )
        },
        "needs Engine API 1.48",
    ),
    (
        {"mounts": (Mount(target="/x", volume_options=VolumeOptions(subpath="a")),)},
        "needs Engine API 1.45",
    ),
    (
        {"mounts": (Mount(source="v1", target="/x"), Mount(source="v2", target="/x"))},
        "Duplicate mount point: /x",
    ),
    ({"mounts": (Mount(source="v!", target="/x"),)}, "invalid characters"),
    ({"mounts": (Mount(target="/"),)}, "destination can't be '/'"),
    ({"healthcheck": HealthConfig(start_interval=10**9)}, "needs Engine API 1.44"),
    ({"healthcheck": HealthConfig(test=("CMD", "true"), interval=5)}, "less than 1ms"),
    ({"capability_add": ("CAP_NOTHING",)}, "CAP_NOTHING"),
    ({"ulimits": (Ulimit(name="nothing", soft=1, hard=1),)}, "RLIMIT_NOTHING"),
    ({"ulimits": (Ulimit(name="nofile", soft=2, hard=1),)}, "setting rlimit"),
    ({"devices": (Device(path_on_host="/dev/no-such"),)}, "/dev/no-such"),
    ({"security_options": ("nothing=1",)}, "nothing=1"),
    ({"security_options": ("seccomp=/etc/profile.json",)}, "no JSON object"),
    ({"pid_mode": "nothing"}, "invalid PID mode"),
    ({"ipc_mode": "nothing"}, "invalid IPC mode"),
    ({"user": "nobody-here"}, "nobody-here"),
    ({"sysctls": {"kernel.nothing": "1"}}, "kernel.nothing"),
    ({"env": ("A={{.Nothing}}",)}, "can't evaluate field Nothing in type *template.Context"),
    ({"hostname": "{{"}, "expanding hostname failed: template: expansion:1: unclosed action"),
    ({"oom_score_adj": 5000}, "oom"),
    ({"stop_signal": "SIGNOTHING"}, "SIGNOTHING"),
    ({"shm_size": -1}, "SHM"),
]


@pytest.mark.parametrize(("asked", "reason"), REFUSED, ids=[reason for _, reason in REFUSED])
async def test_a_wrong_option_is_refused_in_one_line(
    bench: Any, asked: dict[str, Any], reason: str
) -> None:
    task = asking(bench.make_task("exec sleep 1000"), asked)
    with pytest.raises(ExecutorError) as refusal:
        await bench.executor.start(task, bench.namespace())
    assert reason in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert not isinstance(refusal.value, Temporary), "asking again would change nothing"
    await bench.executor.remove(task.id)


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ({"log_driver": LogDriver(name="nothing")}, "nothing"),
        ({"log_driver": LogDriver(driver_options={"nothing": "1"})}, "unknown log opt 'nothing'"),
        ({"resources": Resources(limits=Limits(memory_bytes=1000))}, "memory limit"),
        ({"resources": Resources(limits=Limits(nano_cpus=10**15))}, "CPUs"),
        ({"resources": Resources(memory_swappiness=1000)}, "swappiness"),
    ],
)
async def test_a_wrong_bound_is_refused_in_one_line(
    bench: Any, spec: dict[str, Any], reason: str
) -> None:
    task = asking(bench.make_task("exec sleep 1000"), {}, **spec)
    with pytest.raises(ExecutorError) as refusal:
        await bench.executor.start(task, bench.namespace())
    assert reason in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert not isinstance(refusal.value, Temporary)
    await bench.executor.remove(task.id)


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"hostname": "{{.Nothing}}"}, "expanding hostname failed"),
        ({"mounts": (Mount(type="image", source="i", target="/x"),)}, "needs Engine API 1.48"),
    ],
)
async def test_what_cannot_be_asked_is_refused_before_an_image_is_pulled(
    bench: Any, asked: dict[str, Any], reason: str
) -> None:
    task = asking(bench.impossible(), asked)
    with pytest.raises(ExecutorError, match=reason):
        await bench.executor.prepare(task)


async def test_a_container_that_cannot_be_made_is_told_from_one_that_cannot_start(
    bench: Any,
) -> None:
    """The first rejects its task, the second fails it."""
    unmade = Mount(type="bind", source=BIND, target="/x")
    with pytest.raises(Refused):
        await bench.executor.start(
            asking(bench.make_task("true"), {"mounts": (unmade,)}), bench.namespace()
        )
    unstarted = asking(bench.make_task("true"), {"command": ("/no/such/thing",)})
    with pytest.raises(ExecutorError) as failure:
        await bench.executor.start(unstarted, bench.namespace())
    assert not isinstance(failure.value, Refused)
