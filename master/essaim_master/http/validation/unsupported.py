"""What Docker's clients can say and Essaim does not do: refused by name, with the reason.

Looked at before the request becomes a spec, since a spec has no place for it.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from essaim_master.http.json_edge import field_of, says_nothing
from essaim_shared.errors import NotSupported

_GPUS = (
    "nodes do not hand out GPUs yet: name them as generic resources of the nodes, and give the "
    "container their devices"
)

UNSUPPORTED: dict[str, str] = {
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


class _Place(msgspec.Struct):
    """A field that something is refused in, itself or deeper."""

    path: str
    reason: str = ""
    """Why the field is refused whatever it says; empty when it is not."""
    values: dict[str, str] = {}
    inner: dict[str, "_Place"] = {}
    """By the folded names of its fields."""


def _tree() -> _Place:
    """All of the above as one tree, so that a request is walked once."""
    root = _Place("")
    for path in (*UNSUPPORTED, *UNSUPPORTED_VALUES):
        place, names = root, path.split(".")
        for depth, name in enumerate(names, 1):
            place = place.inner.setdefault(name.casefold(), _Place(".".join(names[:depth])))
        place.reason = UNSUPPORTED.get(path, "")
        place.values = UNSUPPORTED_VALUES.get(path, {})
    return root


_TREE = _tree()


def refuse_what_is_not_there_yet(fields: Mapping[str, Any]) -> None:
    """Raises NotSupported for a field or a value of the request that says something."""
    _refuse_below(_TREE, fields)
    container = field_of(_object(field_of(fields, "TaskTemplate")), "ContainerSpec")
    mounts = field_of(_object(container), "Mounts")
    for mount in mounts if isinstance(mounts, list) else ():
        type_ = field_of(_object(mount), "Type")
        if isinstance(type_, str) and type_ in UNSUPPORTED_MOUNTS:
            raise NotSupported(
                f'invalid mount config for type "{type_}": {UNSUPPORTED_MOUNTS[type_]}'
            )


def _refuse_below(place: _Place, fields: Mapping[str, Any]) -> None:
    for name, value in fields.items():
        found = place.inner.get(name.casefold())
        if found is None:
            continue
        if found.reason and not says_nothing(value):
            raise NotSupported(f'the field "{found.path}" is not supported: {found.reason}')
        if isinstance(value, str) and value in found.values:
            raise NotSupported(f'"{found.path}": {value} is not supported: {found.values[value]}')
        if isinstance(value, dict) and found.inner:
            _refuse_below(found, value)


def _object(value: Any) -> dict[str, Any]:
    """The value if it is an object, else one without fields."""
    return value if isinstance(value, dict) else {}
