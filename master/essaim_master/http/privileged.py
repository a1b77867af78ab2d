"""What of a service reaches beyond its containers, into its nodes: that takes an admin. Pure.

Each option is named as the command line spells it, since whoever is refused looks for it there.
"""

from collections.abc import Collection, Iterator

from msgspec import UNSET

from essaim_shared.container_spec import ContainerSpec, Mount, Privileges, VolumeOptions
from essaim_shared.spec import ServiceSpec, TaskSpec

DEFAULT_CAPABILITIES = frozenset(
    {"AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD"}
    | {"NET_BIND_SERVICE", "NET_RAW", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT"}
)
"""What a container has unasked (moby oci/caps/defaults.go)."""

NAMESPACED_SYSCTLS = ("net.", "kernel.msg", "kernel.sem", "kernel.shm", "fs.mqueue.")
"""Beginnings of the names of those that belong to the container (docker run --sysctl)."""

OWN_LOG_DRIVERS = frozenset({"", "json-file", "local", "none"})
"""The engine runs a log driver outside of the container: others connect to where they are told
from the node's own network, and read certificates from its files."""

HARMLESS_SECURITY_OPTIONS = frozenset({"no-new-privileges", "no-new-privileges=true"})


def privileged_options(spec: ServiceSpec, host_networks: Collection[str] = ()) -> list[str]:
    """`host_networks`: ids of the network that is the node's own."""
    found = [*_of_container(spec.task.container), *_of_task(spec.task, host_networks)]
    if spec.endpoint is not None and spec.endpoint.force_ports is True:
        found.append("--publish-force")
    return found


def _of_task(task: TaskSpec, host_networks: Collection[str]) -> Iterator[str]:
    if any(one.target == "host" or one.target in host_networks for one in task.networks):
        yield "--network host"
    if task.log_driver is not None and task.log_driver.name not in OWN_LOG_DRIVERS:
        yield f"--log-driver {task.log_driver.name}"


def _of_container(container: ContainerSpec) -> Iterator[str]:
    if container.privileged is True:
        yield "--privileged"
    for name in container.capability_add:
        if name.upper().removeprefix("CAP_") not in DEFAULT_CAPABILITIES:
            yield f"--cap-add {name}"
    for mount in container.mounts:
        yield from _of_mount(mount)
    if container.devices is not UNSET and container.devices:
        yield from (f"--device {device.path_on_host}" for device in container.devices)
    for option, mode in (("--pid", container.pid_mode), ("--ipc", container.ipc_mode)):
        if mode == "host":
            yield f"{option} host"
    if container.security_options is not UNSET and container.security_options:
        for word in container.security_options:
            if word.replace(":", "=") not in HARMLESS_SECURITY_OPTIONS:
                yield f"--security-opt {word.partition('=')[0]}"
    if container.privileges is not None:
        yield from _of_privileges(container.privileges)
    if container.cgroup_parent is not UNSET and container.cgroup_parent:
        yield "--cgroup-parent"
    for name in container.sysctls:
        if not name.startswith(NAMESPACED_SYSCTLS):
            yield f"--sysctl {name}"
    if container.oom_score_adj < 0:
        yield "--oom-score-adj below 0"


def _of_mount(mount: Mount) -> Iterator[str]:
    if mount.type == "bind":
        yield f"--mount type=bind,source={mount.source}"
    elif mount.volume_options is not None and _has_driver(mount.volume_options):
        yield f"--mount with a volume driver or its options ({mount.target})"


def _has_driver(options: VolumeOptions) -> bool:
    """The driver `local` with options mounts whatever it is told, as mount(8) does."""
    driver = options.driver_config
    return driver is not None and (driver.name not in ("", "local") or bool(driver.driver_options))


def _of_privileges(privileges: Privileges) -> Iterator[str]:
    if privileges.selinux_context is not None:
        yield "Privileges.SELinuxContext"
    if privileges.seccomp is not None and privileges.seccomp.mode not in ("", "default"):
        yield f"Privileges.Seccomp {privileges.seccomp.mode}"
    if privileges.app_armor is not None and privileges.app_armor.mode == "disabled":
        yield "Privileges.AppArmor disabled"
