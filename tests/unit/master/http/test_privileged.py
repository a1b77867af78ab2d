"""What of a service takes an admin, complete against everything that a service can ask for."""

import msgspec
import pytest

from essaim_master.http.privileged import DEFAULT_CAPABILITIES, privileged_options
from essaim_shared.container_spec import (
    AppArmorOptions,
    BindOptions,
    ConfigReference,
    ContainerSpec,
    Device,
    DnsConfig,
    ExecAction,
    HealthConfig,
    ImageOptions,
    Mount,
    MountDriver,
    Privileges,
    Probe,
    Probes,
    ReferencedFile,
    SeccompOptions,
    SecretReference,
    SelinuxContext,
    TcpAction,
    TmpfsOptions,
    Ulimit,
    VolumeOptions,
)
from essaim_shared.spec import (
    EndpointSpec,
    LogDriver,
    NetworkAttachment,
    Placement,
    PortConfig,
    Resources,
    RestartPolicy,
    ServiceSpec,
    TaskSpec,
)

LOCAL_WITH_OPTIONS = VolumeOptions(
    driver_config=MountDriver(name="local", driver_options={"type": "none", "device": "/etc"})
)
NO_OPTIONS = VolumeOptions(labels={"a": "b"}, no_copy=True, driver_config=MountDriver(name="local"))

HARMLESS_CONTAINER = {
    "labels": {"a": "b"},
    "command": ("sh",),
    "args": ("-c", "true"),
    "hostname": "web",
    "env": ("A=b",),
    "dir": "/",
    "user": "0",
    "groups": ("docker",),
    "stop_signal": "TERM",
    "stop_grace_period": 1,
    "init": True,
    "tty": True,
    "open_stdin": True,
    "read_only": True,
    "secrets": (SecretReference(secret_name="s", file=ReferencedFile(name="/etc/shadow")),),
    "configs": (ConfigReference(config_name="c"),),
    "healthcheck": HealthConfig(test=("CMD", "true")),
    "hosts": ("10.0.0.1 db",),
    "dns_config": DnsConfig(nameservers=("10.0.0.1",)),
    "capability_drop": ("ALL",),
    "ulimits": (Ulimit(name="nofile", soft=1, hard=1),),
    "isolation": "default",
    "shm_size": 1,
    "pull_policy": "always",
    "probes": Probes(liveness=Probe(tcp=TcpAction(port=1))),
    "pre_stop": ExecAction(command=("true",)),
    # Of these some values are harmless and others are not.
    "privileges": Privileges(no_new_privileges=True, seccomp=SeccompOptions(mode="default")),
    "mounts": (
        Mount(type="volume", source="data", target="/d", volume_options=NO_OPTIONS),
        Mount(type="tmpfs", target="/t", tmpfs_options=TmpfsOptions(size_bytes=1)),
        Mount(type="image", source="busybox", target="/i", image_options=ImageOptions()),
    ),
    "sysctls": {"net.core.somaxconn": "1", "kernel.shmmax": "1", "fs.mqueue.msg_max": "1"},
    "capability_add": tuple(sorted(DEFAULT_CAPABILITIES)),
    "oom_score_adj": 500,
    "devices": (),
    "privileged": False,
    "security_options": ("no-new-privileges", "no-new-privileges:true"),
    "pid_mode": "",
    "ipc_mode": "private",
    "cgroup_parent": "",
}

PRIVILEGED_CONTAINER = [
    ({"privileged": True}, "--privileged"),
    ({"capability_add": ("SYS_ADMIN",)}, "--cap-add SYS_ADMIN"),
    ({"capability_add": ("cap_net_admin",)}, "--cap-add cap_net_admin"),
    ({"capability_add": ("ALL",)}, "--cap-add ALL"),
    (
        {"mounts": (Mount(type="bind", source="/etc", target="/e", bind_options=BindOptions()),)},
        "--mount type=bind,source=/etc",
    ),
    (
        {"mounts": (Mount(source="v", target="/e", volume_options=LOCAL_WITH_OPTIONS),)},
        "--mount with a volume driver or its options (/e)",
    ),
    (
        {
            "mounts": (
                Mount(
                    source="v",
                    target="/e",
                    volume_options=VolumeOptions(driver_config=MountDriver(name="nfs")),
                ),
            )
        },
        "--mount with a volume driver or its options (/e)",
    ),
    ({"devices": (Device(path_on_host="/dev/kvm"),)}, "--device /dev/kvm"),
    ({"pid_mode": "host"}, "--pid host"),
    ({"ipc_mode": "host"}, "--ipc host"),
    ({"security_options": ("seccomp=unconfined",)}, "--security-opt seccomp"),
    ({"security_options": ("apparmor=unconfined",)}, "--security-opt apparmor"),
    ({"security_options": ("no-new-privileges=false",)}, "--security-opt no-new-privileges"),
    ({"security_options": ("systempaths=unconfined",)}, "--security-opt systempaths"),
    ({"privileges": Privileges(selinux_context=SelinuxContext(disable=True))}, "SELinuxContext"),
    ({"privileges": Privileges(selinux_context=SelinuxContext(type="spc_t"))}, "SELinuxContext"),
    ({"privileges": Privileges(seccomp=SeccompOptions(mode="unconfined"))}, "Seccomp unconfined"),
    ({"privileges": Privileges(seccomp=SeccompOptions(mode="custom"))}, "Seccomp custom"),
    ({"privileges": Privileges(app_armor=AppArmorOptions(mode="disabled"))}, "AppArmor disabled"),
    ({"cgroup_parent": "/other"}, "--cgroup-parent"),
    ({"sysctls": {"kernel.panic": "1"}}, "--sysctl kernel.panic"),
    ({"sysctls": {"vm.overcommit_memory": "1"}}, "--sysctl vm.overcommit_memory"),
    ({"oom_score_adj": -1}, "--oom-score-adj below 0"),
]

HARMLESS_TASK = {
    "resources": Resources(),
    "restart_policy": RestartPolicy(),
    "placement": Placement(constraints=("node.role==manager",)),
    "log_driver": LogDriver(name="json-file", driver_options={"max-size": "1m"}),
    "networks": (NetworkAttachment(target="abc"),),
    "force_update": 1,
    "runtime": "container",
    "stop_when_cut_off": 1,
}


def service(container=None, endpoint=None, **task):
    made = ContainerSpec(image="busybox", **(container or {}))
    return ServiceSpec(name="web", task=TaskSpec(container=made, **task), endpoint=endpoint)


def test_what_stays_within_the_container_takes_no_admin():
    ports = EndpointSpec(ports=(PortConfig(target_port=80, published_port=80),), force_ports=False)
    spec = service(HARMLESS_CONTAINER, ports, **HARMLESS_TASK)
    assert privileged_options(spec, host_networks=("xyz",)) == []


@pytest.mark.parametrize(("container", "words"), PRIVILEGED_CONTAINER)
def test_what_reaches_into_the_node_is_named(container, words):
    [option] = privileged_options(service(container))
    assert words in option


def test_the_network_of_the_node_its_ports_and_its_log_drivers_are_named():
    for target in ("host", "xyz"):
        spec = service(networks=(NetworkAttachment(target=target),))
        assert privileged_options(spec, host_networks=("xyz",)) == ["--network host"]
    assert privileged_options(service(endpoint=EndpointSpec(force_ports=True))) == [
        "--publish-force"
    ]
    assert privileged_options(service(log_driver=LogDriver(name="syslog"))) == [
        "--log-driver syslog"
    ]


def test_all_of_them_are_named_at_once():
    container = {"privileged": True, "devices": (Device(path_on_host="/dev/kvm"),)}
    assert privileged_options(service(container)) == ["--privileged", "--device /dev/kvm"]


@pytest.mark.parametrize(
    ("kind", "known"),
    [
        (ContainerSpec, {"image", *HARMLESS_CONTAINER}),
        (TaskSpec, {"container", *HARMLESS_TASK}),
        (EndpointSpec, {"mode", "ports", "affinity", "force_ports"}),
        (
            ServiceSpec,
            {"name", "labels", "task", "mode", "update_config", "rollback_config", "endpoint"}
            | {"schedule"},
        ),
        (
            Mount,
            {"type", "source", "target", "read_only", "consistency", "bind_options"}
            | {"volume_options", "tmpfs_options", "image_options"},
        ),
        (VolumeOptions, {"no_copy", "labels", "driver_config", "subpath"}),
        (Privileges, {"selinux_context", "seccomp", "app_armor", "no_new_privileges"}),
    ],
)
def test_a_new_field_is_thought_about(kind, known):
    """Decide in `privileged` whether it reaches into the node, then name it here."""
    assert {field.name for field in msgspec.structs.fields(kind)} == known
