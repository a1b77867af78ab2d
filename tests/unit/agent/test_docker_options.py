"""The container that Docker is asked for."""

from typing import Any

import msgspec
import pytest

from essaim_agent.docker_options import (
    create_body,
    extra_hosts,
    has_health_check,
    health_of,
    refusal_of,
    task_id_of,
)
from essaim_agent.engine_facts import EngineFacts, facts_of
from essaim_agent.executor import ExecutorError, Health, grace_period_s
from essaim_shared.container_spec import ContainerSpec, DnsConfig, HealthConfig
from essaim_shared.ids import HOST_NETWORK_ID, NetworkId, NodeId, ServiceId, TaskId
from essaim_shared.objects import Attachment, Task
from essaim_shared.spec import (
    DiscreteResource,
    GenericResource,
    Limits,
    NamedResource,
    NetworkAttachment,
    Resources,
    TaskSpec,
)
from essaim_shared.task_state import TaskState

OLD_ENGINE = EngineFacts(api_version=(1, 41), log_driver="json-file")
NEW_ENGINE = EngineFacts(api_version=(1, 48), log_driver="json-file")
TASK_ID = TaskId("0123456789abcdefghijklmno")


def make_task(container: ContainerSpec, limits: Limits | None = None) -> Task:
    return Task(
        id=TASK_ID,
        service_id=ServiceId("service"),
        service_name="web",
        slot=3,
        spec=TaskSpec(container=container, resources=Resources(limits=limits)),
        spec_version=1,
        node_id=NodeId("node"),
        desired_state=TaskState.RUNNING,
        attachments=(Attachment(network_id=NetworkId("n"), address="10.1.0.5"),),
        created_ns=1,
        updated_ns=1,
    )


def body_of(
    container: ContainerSpec, limits: Limits | None = None, engine: EngineFacts = OLD_ENGINE
) -> dict[str, Any]:
    return create_body(make_task(container, limits), "lab", True, "", engine)


def test_dockers_network_stands_aside_for_the_prepared_namespace() -> None:
    host = body_of(ContainerSpec(image="busybox"))["HostConfig"]
    assert (host["NetworkMode"], host["Runtime"]) == ("host", "essaim")


def test_a_task_without_a_namespace_never_lands_on_the_hosts_network() -> None:
    host = create_body(make_task(ContainerSpec(image="busybox")), "lab", False, "", OLD_ENGINE)[
        "HostConfig"
    ]
    assert host["NetworkMode"] == "none"
    assert "Runtime" not in host


def on_the_hosts_network(container: ContainerSpec) -> dict[str, Any]:
    task = make_task(container)
    spec = msgspec.structs.replace(task.spec, networks=(NetworkAttachment(target=HOST_NETWORK_ID),))
    task = msgspec.structs.replace(task, spec=spec, attachments=())
    return create_body(task, "lab", False, "", OLD_ENGINE)


def test_only_who_asks_for_the_hosts_network_gets_it_with_the_ordinary_runtime() -> None:
    body = on_the_hosts_network(ContainerSpec(image="busybox"))
    assert body["HostConfig"]["NetworkMode"] == "host"
    assert "Runtime" not in body["HostConfig"]
    assert body["Hostname"] == "", "the engine gives it the host's"
    assert body["HostConfig"]["ExtraHosts"] == []
    assert body["HostConfig"]["Dns"] == []
    named = on_the_hosts_network(ContainerSpec(image="busybox", hostname="db"))
    assert named["Hostname"] == "db"


def test_a_sysctl_of_the_hosts_network_is_left_to_the_engine_to_refuse() -> None:
    container = ContainerSpec(image="busybox", sysctls={"net.core.somaxconn": "1"})
    host = on_the_hosts_network(container)["HostConfig"]
    assert host["Sysctls"] == {"net.core.somaxconn": "1"}


@pytest.mark.parametrize(
    ("dns", "servers", "options"),
    [
        (None, ["10.1.0.1"], ["ndots:0"]),
        (DnsConfig(nameservers=("192.0.2.53",)), ["10.1.0.1"], ["ndots:0"]),
        (DnsConfig(options=("rotate",)), ["10.1.0.1"], ["rotate", "ndots:0"]),
        (DnsConfig(options=("ndots:3",)), ["10.1.0.1"], ["ndots:3"]),
    ],
)
def test_a_container_asks_only_the_name_server_that_knows_of_services(
    dns: DnsConfig | None, servers: list[str], options: list[str]
) -> None:
    task = make_task(ContainerSpec(image="busybox", dns_config=dns))
    host = create_body(task, "lab", True, "", OLD_ENGINE, "10.1.0.1")["HostConfig"]
    assert (host["Dns"], host["DnsOptions"]) == (servers, options)


def test_docker_never_restarts_a_task() -> None:
    host = body_of(ContainerSpec(image="busybox"))["HostConfig"]
    assert host["RestartPolicy"] == {"Name": "no"}


def test_containers_carry_the_labels_that_tools_of_swarm_look_for() -> None:
    labels = body_of(ContainerSpec(image="busybox", labels={"mine": "1"}))["Labels"]
    assert labels == {
        "mine": "1",
        "com.docker.swarm.service.id": "service",
        "com.docker.swarm.service.name": "web",
        "com.docker.swarm.task": "",
        "com.docker.swarm.task.id": TASK_ID,
        "com.docker.swarm.task.name": f"web.3.{TASK_ID}",
        "com.docker.swarm.node.id": "node",
        "io.essaim.cluster": "lab",
        "io.essaim.task": TASK_ID,
    }
    assert task_id_of(labels) == TASK_ID


def test_a_user_cannot_forge_the_labels_by_which_containers_are_found() -> None:
    labels = body_of(ContainerSpec(image="busybox", labels={"io.essaim.task": "other"}))["Labels"]
    assert task_id_of(labels) == TASK_ID


def test_command_replaces_the_entry_point_and_args_the_command() -> None:
    bare = body_of(ContainerSpec(image="busybox"))
    assert "Entrypoint" not in bare
    assert "Cmd" not in bare
    full = body_of(ContainerSpec(image="busybox", command=("a", "b"), args=("c",)))
    assert (full["Entrypoint"], full["Cmd"]) == (["a", "b"], ["c"])


def test_the_hosts_name_never_leaks_into_a_container() -> None:
    assert body_of(ContainerSpec(image="busybox"))["Hostname"] == TASK_ID[:12]
    named = body_of(ContainerSpec(image="busybox", hostname="db", hosts=("192.0.2.1 a b",)))
    assert named["Hostname"] == "db"
    assert named["HostConfig"]["ExtraHosts"] == ["db:10.1.0.5", "a:192.0.2.1", "b:192.0.2.1"]


def test_a_host_entry_without_a_name_is_refused() -> None:
    with pytest.raises(ExecutorError, match=r"192\.0\.2\.1"):
        extra_hosts(ContainerSpec(image="busybox", hosts=("192.0.2.1",)), "h", "")


def test_an_empty_host_entry_is_refused() -> None:
    with pytest.raises(ExecutorError, match="invalid host entry"):
        extra_hosts(ContainerSpec(image="busybox", hosts=("  ",)), "h", "")


def test_net_sysctls_belong_to_the_namespace_and_the_others_to_docker() -> None:
    container = ContainerSpec(
        image="busybox", sysctls={"net.core.somaxconn": "1", "kernel.msgmax": "2"}
    )
    assert body_of(container)["HostConfig"]["Sysctls"] == {"kernel.msgmax": "2"}


def test_limits_and_rights_are_passed_on() -> None:
    host = body_of(
        ContainerSpec(
            image="busybox",
            read_only=True,
            init=True,
            capability_add=("NET_ADMIN",),
            capability_drop=("ALL",),
            oom_score_adj=7,
            dns_config=DnsConfig(
                nameservers=("192.0.2.53",), search=("lan",), options=("ndots:1",)
            ),
        ),
        Limits(nano_cpus=500_000_000, memory_bytes=64 * 2**20, pids=99),
    )["HostConfig"]
    wanted = {
        "ReadonlyRootfs": True,
        "Init": True,
        "CapAdd": ["NET_ADMIN"],
        "CapDrop": ["ALL"],
        "OomScoreAdj": 7,
        "Dns": ["192.0.2.53"],
        "DnsSearch": ["lan"],
        "DnsOptions": ["ndots:1"],
        "NanoCpus": 500_000_000,
        "Memory": 64 * 2**20,
        "PidsLimit": 99,
    }
    assert {name: host[name] for name in wanted} == wanted


def test_the_stop_signal_is_the_specs_then_the_images_then_sigterm() -> None:
    plain = make_task(ContainerSpec(image="busybox"))
    own = make_task(ContainerSpec(image="busybox", stop_signal="SIGINT"))
    assert create_body(own, "lab", True, "SIGQUIT", OLD_ENGINE)["StopSignal"] == "SIGINT"
    assert create_body(plain, "lab", True, "SIGQUIT", OLD_ENGINE)["StopSignal"] == "SIGQUIT"
    assert create_body(plain, "lab", True, "", OLD_ENGINE)["StopSignal"] == "SIGTERM"


def test_no_grace_and_the_default_grace_are_different_things() -> None:
    container = ContainerSpec(image="busybox")
    assert grace_period_s(container) == 10.0
    assert grace_period_s(msgspec.structs.replace(container, stop_grace_period=0)) == 0.0


def test_engines_that_cannot_join_namespaces_are_refused_with_the_reason() -> None:
    usable = {"SecurityOptions": ["name=seccomp,profile=default"], "Runtimes": {"essaim": {}}}
    assert refusal_of(usable, needs_runtime=True) is None
    rootless = {**usable, "SecurityOptions": ["name=rootless"]}
    assert "rootless" in str(refusal_of(rootless, needs_runtime=True))
    remapped = {**usable, "SecurityOptions": ["name=userns"]}
    assert "userns-remap" in str(refusal_of(remapped, needs_runtime=True))
    unregistered = {**usable, "Runtimes": {"runc": {}}}
    assert "daemon.json" in str(refusal_of(unregistered, needs_runtime=True))
    assert refusal_of(unregistered, needs_runtime=False) is None
    assert refusal_of({"SecurityOptions": None, "Runtimes": None}, needs_runtime=False) is None


def test_units_of_generic_resources_are_told_in_the_environment() -> None:
    """As SwarmKit's genericresource.EnvFormat: a kind in capitals, its values with commas."""
    task = msgspec.structs.replace(
        make_task(ContainerSpec(image="busybox", env=("A=1",))),
        generic_resources=(
            GenericResource(named=NamedResource(kind="gpu", resource_value="uuid1")),
            GenericResource(discrete=DiscreteResource(kind="ssd", resource_value=3)),
            GenericResource(named=NamedResource(kind="gpu", resource_value="uuid2")),
        ),
    )
    body = create_body(task, "lab", True, "", OLD_ENGINE)
    assert body["Env"] == ["A=1", "DOCKER_RESOURCE_GPU=uuid1,uuid2", "DOCKER_RESOURCE_SSD=3"]


def test_a_health_check_is_the_engines_to_run() -> None:
    assert "Healthcheck" not in body_of(ContainerSpec(image="busybox"))
    check = HealthConfig(
        test=("CMD", "true"), interval=1, timeout=2, retries=3, start_period=4, start_interval=5
    )
    body = body_of(ContainerSpec(image="busybox", healthcheck=check), engine=NEW_ENGINE)
    assert body["Healthcheck"] == {
        "Test": ["CMD", "true"],
        "Interval": 1,
        "Timeout": 2,
        "Retries": 3,
        "StartPeriod": 4,
        "StartInterval": 5,
    }


def test_a_health_check_of_the_image_can_be_turned_off() -> None:
    container = ContainerSpec(image="busybox", healthcheck=HealthConfig(test=("NONE",)))
    assert body_of(container)["Healthcheck"]["Test"] == ["NONE"]


def test_an_option_that_the_engine_is_too_old_for_is_refused_with_both_versions() -> None:
    """An old engine drops a field it does not know without a word."""
    container = ContainerSpec(image="busybox", healthcheck=HealthConfig(start_interval=5))
    with pytest.raises(ExecutorError) as refusal:
        body_of(container, engine=OLD_ENGINE)
    assert str(refusal.value) == (
        "health-start-interval needs Engine API 1.44 or newer; this node's engine speaks 1.41"
    )


def test_what_is_to_know_of_an_engine_is_in_its_info() -> None:
    assert facts_of({"LoggingDriver": "local"}, "1.44") == EngineFacts(
        api_version=(1, 44), log_driver="local"
    )
    assert facts_of({}, "1.9").api_version < (1, 41)


@pytest.mark.parametrize("version", ["", "1", "1.x", "v1.41", "1.41.2"])
def test_an_engine_of_no_known_version_is_refused(version: str) -> None:
    with pytest.raises(ExecutorError, match="no known version"):
        facts_of({}, version)


@pytest.mark.parametrize(
    ("status", "health"),
    [
        ("Up 5 minutes", Health.NONE),
        ("Up 2 seconds (health: starting)", Health.STARTING),
        ("Up 5 minutes (healthy)", Health.HEALTHY),
        ("Up About an hour (unhealthy)", Health.UNHEALTHY),
        ("Up 3 hours (Paused)", Health.NONE),
        ("", Health.NONE),
    ],
)
def test_the_health_of_a_container_stands_in_the_list(status: str, health: Health) -> None:
    assert health_of(status) is health


@pytest.mark.parametrize("image_has", [False, True])
def test_a_task_has_its_own_health_check_or_none_or_its_images(image_has: bool) -> None:
    container = ContainerSpec(image="img")
    for check, expected in (
        (None, image_has),
        (HealthConfig(interval=5), image_has),
        (HealthConfig(test=("NONE",)), False),
        (HealthConfig(test=("CMD", "true")), True),
    ):
        checked = msgspec.structs.replace(container, healthcheck=check)
        assert has_health_check(checked, image_has) is expected
