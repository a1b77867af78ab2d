"""`--mount type=bind,source=/a,target=/b,readonly`. Pure; docker/cli's opts/mount.go.

A relative source is made absolute by the caller's directory, which is passed in.
"""

import posixpath
from collections.abc import Callable
from functools import partial
from typing import Any

from essaim_cli.grammar.fields import boolean, comma_fields
from essaim_cli.units import parse_size

Json = dict[str, Any]
Setter = Callable[[Json, str, str | None], None]

KEYS_WITHOUT_VALUE = ("readonly", "ro", "volume-nocopy", "bind-create-src")
PERMISSION_BITS_MAX = 0o7777

_RECURSION = {
    "enabled": "",
    "disabled": "NonRecursive",
    "writable": "ReadOnlyNonRecursive",
    "readonly": "ReadOnlyForceRecursive",
}
_READ_ONLY_RECURSION = {word: _RECURSION[word] for word in ("writable", "readonly")}
_OPTIONS_OF_TYPE = {
    "bind": "BindOptions",
    "volume": "VolumeOptions",
    "tmpfs": "TmpfsOptions",
    "image": "ImageOptions",
}


def parse_mount(text: str, directory: str = "/") -> list[Json]:
    mount: Json = {"Type": "volume"}
    for field in comma_fields(text):
        key, value = _key_and_value(field)
        setter = _SETTERS.get(key)
        if setter is None:
            if key == "bind-nonrecursive":
                raise ValueError(
                    "bind-nonrecursive is deprecated, use bind-recursive=disabled instead"
                )
            raise ValueError(f"unknown option '{key}' in '{field}'")
        setter(mount, key, value)
    source = mount.get("Source", "")
    if source.startswith("."):
        mount["Source"] = posixpath.normpath(posixpath.join(directory, source))
    _check(mount)
    return [mount]


def _key_and_value(field: str) -> tuple[str, str | None]:
    key, separator, value = field.partition("=")
    if key.strip() != key:
        raise ValueError(
            f"invalid option '{key.strip()}' in '{field}': option should not have whitespace"
        )
    key = key.lower()
    if not separator:
        if key not in KEYS_WITHOUT_VALUE:
            raise ValueError(f"invalid field '{field}' must be a key=value pair")
        return key, None
    if not value.strip():
        raise ValueError(f"invalid value for '{key}': value is empty")
    if value.strip() != value:
        raise ValueError(
            f"invalid value for '{key}' in '{field}': value should not have whitespace"
        )
    return key, value


def _text(name: str, mount: Json, key: str, value: str | None) -> None:
    mount[name] = value


def _word(name: str, mount: Json, key: str, value: str | None) -> None:
    mount[name] = (value or "").lower()


def _read_only(mount: Json, key: str, value: str | None) -> None:
    mount["ReadOnly"] = boolean(key, value)


def _option(group: str, name: str, mount: Json, key: str, value: str | None) -> None:
    mount.setdefault(group, {})[name] = value


def _switch(group: str, name: str, mount: Json, key: str, value: str | None) -> None:
    mount.setdefault(group, {})[name] = boolean(key, value)


def _propagation(mount: Json, key: str, value: str | None) -> None:
    mount.setdefault("BindOptions", {})["Propagation"] = (value or "").lower()


def _recursion(mount: Json, key: str, value: str | None) -> None:
    if value not in _RECURSION:
        raise ValueError(
            f"invalid value for {key}: {value} "
            '(must be "enabled", "disabled", "writable", or "readonly")'
        )
    if name := _RECURSION[value]:
        mount.setdefault("BindOptions", {})[name] = True


def _label(mount: Json, key: str, value: str | None) -> None:
    name, _, text = (value or "").partition("=")
    mount.setdefault("VolumeOptions", {}).setdefault("Labels", {})[name] = text


def _driver(mount: Json) -> Json:
    options: Json = mount.setdefault("VolumeOptions", {})
    driver: Json = options.setdefault("DriverConfig", {})
    return driver


def _driver_name(mount: Json, key: str, value: str | None) -> None:
    _driver(mount)["Name"] = value


def _driver_option(mount: Json, key: str, value: str | None) -> None:
    name, _, text = (value or "").partition("=")
    _driver(mount).setdefault("Options", {})[name] = text


def _tmpfs_size(mount: Json, key: str, value: str | None) -> None:
    try:
        size_bytes = parse_size(value or "")
    except ValueError as error:
        raise ValueError(f"invalid value for {key}: {error}") from error
    mount.setdefault("TmpfsOptions", {})["SizeBytes"] = size_bytes


def _tmpfs_mode(mount: Json, key: str, value: str | None) -> None:
    try:
        mode = int(value or "", 8)
    except ValueError:
        mode = -1
    if not 0 <= mode <= PERMISSION_BITS_MAX:
        raise ValueError(f"invalid value for {key}: {value}: write octal digits, as 1777")
    mount.setdefault("TmpfsOptions", {})["Mode"] = mode


_SETTERS: dict[str, Setter] = {
    "type": partial(_word, "Type"),
    "source": partial(_text, "Source"),
    "src": partial(_text, "Source"),
    "target": partial(_text, "Target"),
    "dst": partial(_text, "Target"),
    "destination": partial(_text, "Target"),
    "readonly": _read_only,
    "ro": _read_only,
    "consistency": partial(_word, "Consistency"),
    "bind-propagation": _propagation,
    "bind-recursive": _recursion,
    "bind-create-src": partial(_switch, "BindOptions", "CreateMountpoint"),
    "volume-subpath": partial(_option, "VolumeOptions", "Subpath"),
    "volume-nocopy": partial(_switch, "VolumeOptions", "NoCopy"),
    "volume-label": _label,
    "volume-driver": _driver_name,
    "volume-opt": _driver_option,
    "image-subpath": partial(_option, "ImageOptions", "Subpath"),
    "tmpfs-size": _tmpfs_size,
    "tmpfs-mode": _tmpfs_mode,
}


def _check(mount: Json) -> None:
    """What can be known without the cluster; the masters check the rest."""
    kind = mount["Type"]
    if kind not in ("bind", "volume", "tmpfs", "image", "npipe", "cluster"):
        raise ValueError(f"unknown mount type '{kind}': use bind, volume, tmpfs or image")
    for option_kind, group in _OPTIONS_OF_TYPE.items():
        if group in mount and kind != option_kind:
            raise ValueError(f"cannot mix '{option_kind}-*' options with mount type '{kind}'")
    if not mount.get("Target"):
        raise ValueError("target is required: write target=PATH")
    bind = mount.get("BindOptions", {})
    for name, word in (
        ("ReadOnlyNonRecursive", "writable"),
        ("ReadOnlyForceRecursive", "readonly"),
    ):
        if bind.get(name) and not mount.get("ReadOnly"):
            raise ValueError(
                f"option 'bind-recursive={word}' requires 'readonly' to be specified in conjunction"
            )
    if bind.get("ReadOnlyForceRecursive") and bind.get("Propagation") != "rprivate":
        raise ValueError(
            "option 'bind-recursive=readonly' requires 'bind-propagation=rprivate' "
            "to be specified in conjunction"
        )
