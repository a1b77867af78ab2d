"""What a container may do and see, as the engine takes it: pure.

Sources: moby, daemon/cluster/executor/container/container.go (applyPrivileges); docker/cli,
cli/command/container/opts.go (parseSystemPaths); docker run's reference, "Security options".
"""

import base64
import binascii
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from essaim_agent.executor import ExecutorError
from essaim_shared.container_spec import ContainerSpec, Device, Privileges, SelinuxContext
from essaim_shared.undecodable import UNDECODABLE

PID_MODES: Final = ("host",)
IPC_MODES: Final = ("private", "shareable", "host", "none")
_SELINUX_FIELDS: Final = ("user", "role", "type", "level")
_UNCONFINED_PATHS: Final = "systempaths=unconfined"
"""A word of the client's: the engine takes two empty lists instead."""


def security_config(container: ContainerSpec) -> dict[str, Any]:
    """The part of the HostConfig. Raises ExecutorError."""
    words = [*_of_privileges(container.privileges), *(container.security_options or ())]
    config: dict[str, Any] = {
        "ReadonlyRootfs": container.read_only,
        "CapAdd": list(container.capability_add),
        "CapDrop": list(container.capability_drop),
        "GroupAdd": list(container.groups),
        "Privileged": bool(container.privileged),
        "SecurityOpt": [_checked(word) for word in words if word != _UNCONFINED_PATHS],
        "Devices": _devices(container.devices or ()),
    }
    if _UNCONFINED_PATHS in words:
        config["MaskedPaths"] = []
        config["ReadonlyPaths"] = []
    if container.isolation:
        config["Isolation"] = container.isolation
    # What is not asked for is left to the engine's own configuration.
    if container.pid_mode:
        config["PidMode"] = _one_of("PID", container.pid_mode, PID_MODES)
    if container.ipc_mode:
        config["IpcMode"] = _one_of("IPC", container.ipc_mode, IPC_MODES)
    return config


def _one_of(kind: str, mode: str, modes: Sequence[str]) -> str:
    """An engine takes a PID mode that it does not know for none. The modes of other containers
    (`container:ID`) would tie a task to what runs beside it by chance."""
    if mode not in modes:
        raise ExecutorError(f'invalid {kind} mode "{mode}": want {", ".join(modes)}')
    return mode


def _of_privileges(privileges: Privileges | None) -> list[str]:
    if privileges is None:
        return []
    words = _of_selinux(privileges.selinux_context)
    seccomp = privileges.seccomp
    if seccomp is not None and seccomp.mode == "unconfined":
        words.append("seccomp=unconfined")
    elif seccomp is not None and seccomp.mode == "custom":
        words.append(f"seccomp={_seccomp_profile(seccomp.profile)}")
    if privileges.app_armor is not None and privileges.app_armor.mode == "disabled":
        words.append("apparmor=unconfined")
    if privileges.no_new_privileges:
        words.append("no-new-privileges=true")
    return words


def _of_selinux(context: SelinuxContext | None) -> list[str]:
    if context is None:
        return []
    words = ["label=disable"] if context.disable else []
    for field in _SELINUX_FIELDS:
        value = getattr(context, field)
        if value:
            words.append(f"label={field}:{value}")
    return words


def _seccomp_profile(encoded: str) -> str:
    """The profile's own text."""
    try:
        profile = base64.b64decode(encoded, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError) as error:
        raise ExecutorError("the seccomp profile is not Base64 of a text") from error
    if not profile:
        raise ExecutorError("the seccomp mode custom needs a profile")
    return profile


def _checked(word: str) -> str:
    """An engine takes the text of a seccomp profile only, and would show all of it when wrong."""
    name, _, value = word.partition("=" if "=" in word else ":")  # as the engine cuts it
    if name != "seccomp" or value in ("unconfined", "builtin"):
        return word
    try:
        msgspec.json.decode(value.encode(), type=dict[str, Any])
    except UNDECODABLE as error:
        raise ExecutorError(f"seccomp: the profile is no JSON object: {error}") from error
    return word


def _devices(devices: Sequence[Device]) -> list[dict[str, str]]:
    return [
        {
            "PathOnHost": device.path_on_host,
            "PathInContainer": device.path_in_container or device.path_on_host,
            "CgroupPermissions": device.cgroup_permissions,
        }
        for device in devices
    ]
