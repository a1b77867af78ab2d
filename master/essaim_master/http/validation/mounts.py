"""Mounts, with the sentences of moby's volume/mounts/validate.go."""

import re
from collections.abc import Sequence

from essaim_master.http.validation.words import TEMPLATE_OPENING, check_no_nul, refusal
from essaim_shared.container_spec import Mount
from essaim_shared.errors import InvalidRequest

_VOLUME_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")

_OPTIONS = {
    "bind_options": ("BindOptions", "bind"),
    "volume_options": ("VolumeOptions", "volume"),
    "tmpfs_options": ("TmpfsOptions", "tmpfs"),
    "image_options": ("ImageOptions", "image"),
}
"""Fields of a mount, and the one type that each belongs to."""

FILE_MODE_MAX = 0o7777


def check_mounts(mounts: Sequence[Mount]) -> None:
    seen: set[str] = set()
    for mount in mounts:
        _check_mount(mount)
        if mount.target in seen:
            raise refusal(f"ContainerSpec: duplicate mount point: {mount.target}")
        seen.add(mount.target)


def _check_mount(mount: Mount) -> None:
    check_no_nul("ContainerSpec: Mounts", (mount.source, mount.target))
    _check_target(mount)
    for field, (name, type_) in _OPTIONS.items():
        if mount.type != type_ and getattr(mount, field) is not None:
            raise _mount_refusal(mount, f"field {name} must not be specified")
    match mount.type:
        case "bind":
            if not mount.source:
                raise _mount_refusal(mount, "field Source must not be empty")
            _check_absolute(mount, mount.source)
        case "image":
            if not mount.source:
                raise _mount_refusal(mount, "field Source must not be empty")
        case "tmpfs":
            _check_tmpfs(mount)
        case "volume":
            _check_volume(mount)


def _check_target(mount: Mount) -> None:
    if not mount.target:
        raise _mount_refusal(mount, "field Target must not be empty")
    if mount.target.rstrip("/") == "":
        raise _mount_refusal(mount, "invalid specification: destination can't be '/'")
    _check_absolute(mount, mount.target)


def _check_absolute(mount: Mount, path: str) -> None:
    if not path.startswith(("/", TEMPLATE_OPENING)):
        raise _mount_refusal(mount, f"invalid mount path: '{path}' mount path must be absolute")


def _check_tmpfs(mount: Mount) -> None:
    if mount.source:
        raise _mount_refusal(mount, "field Source must not be specified")
    options = mount.tmpfs_options
    if options is None:
        return
    if options.size_bytes < 0:
        raise _mount_refusal(mount, f"invalid size {options.size_bytes}: it cannot be negative")
    if not 0 <= options.file_mode <= FILE_MODE_MAX:
        raise _mount_refusal(mount, f"invalid mode {options.file_mode}: must be from 0 to 0o7777")


def _check_volume(mount: Mount) -> None:
    options = mount.volume_options
    if not mount.source:
        if mount.read_only:
            raise _mount_refusal(mount, "must not set ReadOnly mode when using anonymous volumes")
        if options is not None and options.subpath:
            raise _mount_refusal(mount, "must not set Subpath when using anonymous volumes")
    elif TEMPLATE_OPENING not in mount.source and not _VOLUME_NAME.fullmatch(mount.source):
        raise _mount_refusal(
            mount,
            f'"{mount.source}" includes invalid characters for a local volume name, only '
            '"[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. If you intended to pass a host directory, '
            "use absolute path and the type bind",
        )
    if options is not None and (options.subpath.startswith("/") or ".." in options.subpath):
        raise _mount_refusal(mount, f"Subpath '{options.subpath}' must stay inside the volume")


def _mount_refusal(mount: Mount, sentence: str) -> InvalidRequest:
    return refusal(f'invalid mount config for type "{mount.type}": {sentence}')
