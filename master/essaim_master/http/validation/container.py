"""The container of a task."""

import base64
import binascii
import re
import signal
from collections.abc import Iterable, Sequence

import msgspec
from msgspec import UnsetType

from essaim_master.http.validation.mounts import check_mounts
from essaim_master.http.validation.payloads import check_payloads
from essaim_master.http.validation.probes import check_health, check_pre_stop, check_probes
from essaim_master.http.validation.words import (
    TEMPLATE_OPENING,
    check_distinct,
    check_labels,
    check_no_nul,
    check_not_negative,
    is_address,
    refusal,
)
from essaim_shared.container_spec import ContainerSpec, Device, Privileges, SeccompOptions, Ulimit
from essaim_shared.undecodable import UNDECODABLE

IMAGE_LENGTH_MAX = 255
HOSTNAME_LENGTH_MAX = 63
OOM_SCORE_ADJ_MAX = 1000
"""Either way from 0 (proc(5), oom_score_adj)."""
SIGNAL_NUMBER_MAX = 64
"""signal(7): real-time signals end here."""
UNLIMITED = -1

CAPABILITIES = frozenset(
    [
        "AUDIT_CONTROL",
        "AUDIT_READ",
        "AUDIT_WRITE",
        "BLOCK_SUSPEND",
        "BPF",
        "CHECKPOINT_RESTORE",
        "CHOWN",
        "DAC_OVERRIDE",
        "DAC_READ_SEARCH",
        "FOWNER",
        "FSETID",
        "IPC_LOCK",
        "IPC_OWNER",
        "KILL",
        "LEASE",
        "LINUX_IMMUTABLE",
        "MAC_ADMIN",
        "MAC_OVERRIDE",
        "MKNOD",
        "NET_ADMIN",
        "NET_BIND_SERVICE",
        "NET_BROADCAST",
        "NET_RAW",
        "PERFMON",
        "SETFCAP",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYSLOG",
        "SYS_ADMIN",
        "SYS_BOOT",
        "SYS_CHROOT",
        "SYS_MODULE",
        "SYS_NICE",
        "SYS_PACCT",
        "SYS_PTRACE",
        "SYS_RAWIO",
        "SYS_RESOURCE",
        "SYS_TIME",
        "SYS_TTY_CONFIG",
        "WAKE_ALARM",
    ]
)
"""capabilities(7)."""
ALL_CAPABILITIES = "ALL"

ULIMITS = frozenset(
    [
        "core",
        "cpu",
        "data",
        "fsize",
        "locks",
        "memlock",
        "msgqueue",
        "nice",
        "nofile",
        "nproc",
        "rss",
        "rtprio",
        "rttime",
        "sigpending",
        "stack",
    ]
)
"""getrlimit(2), as docker/go-units names them."""

SECURITY_OPTIONS = frozenset(
    {"apparmor", "label", "no-new-privileges", "seccomp", "systempaths", "writable-cgroups"}
)
"""What stands before `=` or `:` in `docker run --security-opt`."""

PID_MODES = frozenset({"", "host"})
IPC_MODES = frozenset({"", "private", "shareable", "host", "none"})
SHARED_IPC_MODES = frozenset({"host", "none"})
"""In which the container has no /dev/shm of its own."""

_HOSTNAME = re.compile(r"[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?")
_SIGNALS = frozenset(one.name.removeprefix("SIG") for one in signal.Signals)
_REALTIME_SIGNAL = re.compile(r"RTM(?:IN\+|AX-)(?:[0-9]|[12][0-9]|30)")

_PATH = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_DOMAIN = r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?|\[[a-fA-F0-9:]+\])(?::[0-9]+)?"
_IMAGE = re.compile(
    rf"(?:{_DOMAIN}/)?{_PATH}(?:/{_PATH})*"
    r"(?::\w[\w.-]{0,127})?"
    r"(?:@[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,})?",
    re.ASCII,
)
"""The reference grammar (distribution/reference): [domain/]path[:tag][@digest]."""


def check_container(container: ContainerSpec) -> None:
    _check_image(container.image)
    _check_process(container)
    _check_names(container)
    check_mounts(container.mounts)
    check_payloads(container)
    check_health(container.healthcheck)
    check_probes(container.probes)
    check_pre_stop(container.pre_stop)
    _check_capabilities("CapabilityAdd", container.capability_add)
    _check_capabilities("CapabilityDrop", container.capability_drop)
    _check_ulimits(container.ulimits)
    _check_devices(container.devices)
    _check_namespaces(container)
    _check_security(container)


def is_image(reference: str) -> bool:
    """Whether a text fits the reference grammar."""
    return len(reference) <= IMAGE_LENGTH_MAX and _IMAGE.fullmatch(reference) is not None


def _check_image(image: str) -> None:
    if not image:
        raise refusal("ContainerSpec: image reference must be provided")
    if not is_image(image):
        raise refusal(f'ContainerSpec: "{image}" is not a valid repository/tag')


def _check_process(container: ContainerSpec) -> None:
    check_not_negative("ContainerSpec: stop-grace-period", container.stop_grace_period)
    for variable in container.env:
        if not variable or variable.startswith("="):
            raise refusal(f"ContainerSpec: invalid environment variable: {variable!r}")
    check_no_nul("ContainerSpec: Env", container.env)
    check_no_nul("ContainerSpec: Command", container.command)
    check_no_nul("ContainerSpec: Args", container.args)
    check_no_nul("ContainerSpec: Dir", (container.dir,))
    check_no_nul("ContainerSpec: User", (container.user,))
    check_no_nul("ContainerSpec: Groups", container.groups)
    if "" in container.groups:
        raise refusal("ContainerSpec: Groups: the name of a group cannot be empty")
    if abs(container.oom_score_adj) > OOM_SCORE_ADJ_MAX:
        raise refusal(
            f"ContainerSpec: invalid oom-score-adj {container.oom_score_adj}: "
            f"must be from -{OOM_SCORE_ADJ_MAX} to {OOM_SCORE_ADJ_MAX}"
        )
    if container.stop_signal and not _is_signal(container.stop_signal):
        raise refusal(f"ContainerSpec: invalid signal: {container.stop_signal}")


def _is_signal(text: str) -> bool:
    if text.isascii() and text.isdigit():
        return len(text) <= 2 and 1 <= int(text) <= SIGNAL_NUMBER_MAX
    name = text.upper().removeprefix("SIG")
    return name in _SIGNALS or _REALTIME_SIGNAL.fullmatch(name) is not None


def _check_names(container: ContainerSpec) -> None:
    """What the container is called, and how it finds others."""
    hostname = container.hostname
    if (
        hostname
        and TEMPLATE_OPENING not in hostname
        and (len(hostname) > HOSTNAME_LENGTH_MAX or not _HOSTNAME.fullmatch(hostname))
    ):
        raise refusal(f'ContainerSpec: "{hostname}" is not a valid hostname')
    check_labels("ContainerSpec: Labels", container.labels)
    check_labels("ContainerSpec: Sysctls", container.sysctls)
    check_no_nul("ContainerSpec: Sysctls", (*container.sysctls, *container.sysctls.values()))
    for line in container.hosts:
        words = line.split()
        if len(words) < 2 or not is_address(words[0]) or "\n" in line:
            raise refusal(f"ContainerSpec: invalid host entry {line!r}: it must be ADDRESS NAME")
    if container.dns_config is not None:
        for address in container.dns_config.nameservers:
            if not is_address(address):
                raise refusal(f"ContainerSpec: DNS nameserver {address!r} is not an IP address")


def _check_capabilities(where: str, names: Iterable[str]) -> None:
    for name in names:
        plain = name.upper().removeprefix("CAP_")
        if plain not in CAPABILITIES and plain != ALL_CAPABILITIES:
            raise refusal(f'ContainerSpec: {where}: invalid capability: "{name}"')


def _check_ulimits(ulimits: Sequence[Ulimit]) -> None:
    for ulimit in ulimits:
        if ulimit.name not in ULIMITS:
            raise refusal(f"ContainerSpec: invalid ulimit type: {ulimit.name}")
        if min(ulimit.soft, ulimit.hard) < UNLIMITED:
            raise refusal(
                f"ContainerSpec: ulimit {ulimit.name}: a limit must be {UNLIMITED} (none) or more"
            )
        if ulimit.hard != UNLIMITED and (ulimit.soft == UNLIMITED or ulimit.soft > ulimit.hard):
            raise refusal(
                f"ContainerSpec: ulimit {ulimit.name}: soft limit must be less than or equal to "
                f"hard limit: {ulimit.soft} > {ulimit.hard}"
            )
    check_distinct("ContainerSpec: ulimit", (ulimit.name for ulimit in ulimits))


def _check_devices(devices: Sequence[Device] | UnsetType | None) -> None:
    if not isinstance(devices, tuple):
        return
    for device in devices:
        check_no_nul("ContainerSpec: Devices", (device.path_on_host, device.path_in_container))
        inside = device.path_in_container or device.path_on_host
        for path in (device.path_on_host, inside):
            if not path.startswith("/"):
                raise refusal(f"ContainerSpec: device path '{path}' must be absolute")
        permissions = device.cgroup_permissions
        if not permissions or set(permissions) - set("rwm") or _has_repeats(permissions):
            raise refusal(
                f"ContainerSpec: device {device.path_on_host}: invalid permissions "
                f"'{permissions}': they are some of r, w and m"
            )
    check_distinct(
        "ContainerSpec: device in the container",
        (device.path_in_container or device.path_on_host for device in devices),
    )


def _has_repeats(letters: str) -> bool:
    return len(set(letters)) != len(letters)


def _check_namespaces(container: ContainerSpec) -> None:
    pid_mode = container.pid_mode or ""
    if pid_mode not in PID_MODES:
        raise refusal(
            f"ContainerSpec: invalid PidMode '{pid_mode}': it can only be host, tasks do not "
            "share the namespace of another container"
        )
    ipc_mode = container.ipc_mode or ""
    if ipc_mode not in IPC_MODES:
        raise refusal(
            f"ContainerSpec: invalid IpcMode '{ipc_mode}': it is private, shareable, host or none"
        )
    if isinstance(container.shm_size, int):
        if container.shm_size < 1:
            raise refusal("ContainerSpec: ShmSize must be greater than 0")
        if ipc_mode in SHARED_IPC_MODES:
            raise refusal(
                f"ContainerSpec: ShmSize has no effect with IpcMode {ipc_mode}: leave one out"
            )
    cgroup_parent = container.cgroup_parent or ""
    if "\0" in cgroup_parent or ".." in cgroup_parent.split("/"):
        raise refusal(f"ContainerSpec: invalid CgroupParent {cgroup_parent!r}")


def _check_security(container: ContainerSpec) -> None:
    if container.privileged and container.capability_drop:
        raise refusal(
            "ContainerSpec: a privileged container has every capability, CapabilityDrop would "
            "have no effect: leave one out"
        )
    privileges = container.privileges or Privileges()
    _check_seccomp(privileges.seccomp or SeccompOptions())
    options = container.security_options or ()
    names = [re.split("[=:]", option, maxsplit=1)[0] for option in options]
    for option, name in zip(options, names, strict=True):
        if name not in SECURITY_OPTIONS or "\0" in option:
            raise refusal(f'ContainerSpec: invalid --security-opt: "{option}"')
    said_twice = {
        "seccomp": privileges.seccomp is not None,
        "apparmor": privileges.app_armor is not None,
        "no-new-privileges": privileges.no_new_privileges,
        "label": privileges.selinux_context is not None,
    }
    for name in names:
        if said_twice.get(name, False):
            raise refusal(f"ContainerSpec: {name} is given both in Privileges and in SecurityOpt")


def _check_seccomp(seccomp: SeccompOptions) -> None:
    if seccomp.mode == "custom" and not seccomp.profile:
        raise refusal("ContainerSpec: Seccomp: the mode custom needs a Profile")
    if not seccomp.profile:
        return
    if seccomp.mode != "custom":
        raise refusal("ContainerSpec: Seccomp: a Profile needs the mode custom")
    try:
        msgspec.json.decode(base64.b64decode(seccomp.profile, validate=True))
    except (binascii.Error, *UNDECODABLE) as error:
        raise refusal("ContainerSpec: Seccomp: Profile is not JSON in base64") from error
