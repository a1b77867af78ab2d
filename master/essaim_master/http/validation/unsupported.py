"""What Docker's clients can say and Essaim does not do: refused by name, with the reason.

Looked at before the request becomes a spec, since a spec has no place for it.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from essaim_master.http.json_edge import field_of, says_nothing
from essaim_shared.errors import NotSupported

_NETWORKS = (
    "every service is on the one default network, networks of your own are not there yet: "
    "leave --network out"
)
_GPUS = (
    "nodes do not hand out GPUs yet: name them as generic resources of the nodes, and give the "
    "container their devices"
)

UNSUPPORTED: dict[str, str] = {
    "Networks": _NETWORKS,
    "TaskTemplate.Networks": _NETWORKS,
    "TaskTemplate.ContainerSpec.Secrets": "Essaim does not keep secrets yet: use a mount",
    "TaskTemplate.ContainerSpec.Configs": "Essaim does not keep configs yet: use a mount",
    "TaskTemplate.ContainerSpec.Privileges.CredentialSpec": (
        "credential specs are for Windows containers, the nodes run Linux"
    ),
    "TaskTemplate.ContainerSpec.DeviceRequests": _GPUS,
    "TaskTemplate.Resources.Reservations.Devices": _GPUS,
    "TaskTemplate.Resources.DeviceRequests": _GPUS,
    "TaskTemplate.PluginSpec": "services run containers: install plugins on the nodes themselves",
    "TaskTemplate.NetworkAttachmentSpec": "services run containers, not network attachments",
}
"""By the path of the field."""

UNSUPPORTED_VALUES: dict[str, dict[str, str]] = {
    "TaskTemplate.Runtime": {
        "plugin": "services run containers: install plugins on the nodes themselves",
        "attachment": "services run containers, not network attachments",
    },
    "TaskTemplate.ContainerSpec.Isolation": {
        "process": "isolation is a matter of Windows, on Linux there is only the default",
        "hyperv": "isolation is a matter of Windows, on Linux there is only the default",
    },
}

UNSUPPORTED_MOUNTS: dict[str, str] = {
    "npipe": "named pipes are for Windows containers, the nodes run Linux",
    "cluster": "there are no cluster volumes (CSI): use a volume driver or a bind mount",
}
"""By the type of the mount."""


def refuse_what_is_not_there_yet(fields: Mapping[str, Any]) -> None:
    """Raises NotSupported for a field or a value of the request that says something."""
    for path, reason in UNSUPPORTED.items():
        if not says_nothing(_at(fields, path)):
            raise NotSupported(f'the field "{path}" is not supported: {reason}')
    for path, reasons in UNSUPPORTED_VALUES.items():
        value = _at(fields, path)
        if isinstance(value, str) and value in reasons:
            raise NotSupported(f'"{path}": {value} is not supported: {reasons[value]}')
    for mount in _mounts(fields):
        type_ = field_of(mount, "Type")
        if isinstance(type_, str) and type_ in UNSUPPORTED_MOUNTS:
            raise NotSupported(
                f'invalid mount config for type "{type_}": {UNSUPPORTED_MOUNTS[type_]}'
            )


def _mounts(fields: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    mounts = _at(fields, "TaskTemplate.ContainerSpec.Mounts")
    if isinstance(mounts, list):
        yield from (mount for mount in mounts if isinstance(mount, Mapping))


def _at(fields: Mapping[str, Any], path: str) -> Any:
    """The value at a path of field names; None where there is none."""
    value: Any = fields
    for name in path.split("."):
        if not isinstance(value, Mapping):
            return None
        value = field_of(value, name)
    return value
