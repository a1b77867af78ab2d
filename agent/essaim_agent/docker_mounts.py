"""The mounts of a container, as the engine takes them: pure.

A spec is checked here too, after its templates were filled in: the engine takes an absolute path
for a bind and any other word for a volume, so a slip would mount something else (moby,
daemon/cluster/executor/container/validate.go).
"""

from collections.abc import Sequence
from typing import Any, Final

from essaim_agent.engine_facts import EngineFacts
from essaim_agent.executor import ExecutorError
from essaim_shared.container_spec import BindOptions, Mount, TmpfsOptions, VolumeOptions

NON_RECURSIVE_SINCE: Final = (1, 40)
CREATE_MOUNTPOINT_SINCE: Final = (1, 42)
READ_ONLY_RECURSION_SINCE: Final = (1, 44)
VOLUME_SUBPATH_SINCE: Final = (1, 45)
IMAGE_MOUNTS_SINCE: Final = (1, 48)

_OPTIONS: Final = (
    ("bind_options", "BindOptions", "bind"),
    ("volume_options", "VolumeOptions", "volume"),
    ("tmpfs_options", "TmpfsOptions", "tmpfs"),
    ("image_options", "ImageOptions", "image"),
)
"""Field, its name in the API, and the one type of mounts it belongs to."""


def engine_mounts(mounts: Sequence[Mount], engine: EngineFacts) -> list[dict[str, Any]]:
    """`HostConfig.Mounts`. Raises ExecutorError."""
    return [_engine_mount(mount, engine) for mount in mounts]


def _engine_mount(mount: Mount, engine: EngineFacts) -> dict[str, Any]:
    _check(mount)
    asked: dict[str, Any] = {
        "Type": mount.type,
        "Source": mount.source,
        "Target": mount.target,
        "ReadOnly": mount.read_only,
    }
    if mount.consistency:
        asked["Consistency"] = mount.consistency
    if mount.bind_options is not None:
        asked["BindOptions"] = _bind_options(mount.bind_options, engine)
    if mount.volume_options is not None:
        asked["VolumeOptions"] = _volume_options(mount.volume_options, engine)
    if mount.tmpfs_options is not None:
        asked["TmpfsOptions"] = _tmpfs_options(mount.tmpfs_options)
    if mount.type == "image":
        engine.require(IMAGE_MOUNTS_SINCE, "a mount of the type image")
        if mount.image_options is not None:
            asked["ImageOptions"] = {"Subpath": mount.image_options.subpath}
    return asked


def _check(mount: Mount) -> None:
    if not mount.target.startswith("/"):
        raise ExecutorError(f"invalid mount target, must be an absolute path: {mount.target}")
    is_path = mount.source.startswith("/")
    if mount.type == "bind" and not is_path:
        raise ExecutorError(f"invalid bind mount source, must be an absolute path: {mount.source}")
    if mount.type == "volume" and is_path:
        raise ExecutorError(
            f"invalid volume mount source, must not be an absolute path: {mount.source}"
        )
    if mount.type == "tmpfs" and mount.source:
        raise ExecutorError("invalid tmpfs source, source must be empty")
    if mount.type == "image" and not mount.source:
        raise ExecutorError("invalid image source, source must not be empty")
    for field, name, mount_type in _OPTIONS:
        if getattr(mount, field) is not None and mount.type != mount_type:
            raise ExecutorError(f'{name} must not be specified on mount type "{mount.type}"')


def _bind_options(options: BindOptions, engine: EngineFacts) -> dict[str, Any]:
    asked: dict[str, Any] = {}
    if options.propagation:
        asked["Propagation"] = options.propagation
    if options.non_recursive:
        engine.require(NON_RECURSIVE_SINCE, "bind-recursive=disabled")
        asked["NonRecursive"] = True
    if options.create_mountpoint:
        engine.require(CREATE_MOUNTPOINT_SINCE, "bind-create-src")
        asked["CreateMountpoint"] = True
    if options.read_only_non_recursive:
        engine.require(READ_ONLY_RECURSION_SINCE, "bind-recursive=writable")
        asked["ReadOnlyNonRecursive"] = True
    if options.read_only_force_recursive:
        engine.require(READ_ONLY_RECURSION_SINCE, "bind-recursive=readonly")
        asked["ReadOnlyForceRecursive"] = True
    return asked


def _volume_options(options: VolumeOptions, engine: EngineFacts) -> dict[str, Any]:
    asked: dict[str, Any] = {"NoCopy": options.no_copy, "Labels": options.labels}
    driver = options.driver_config
    if driver is not None:
        asked["DriverConfig"] = {"Name": driver.name, "Options": driver.driver_options}
    if options.subpath:
        engine.require(VOLUME_SUBPATH_SINCE, "volume-subpath")
        asked["Subpath"] = options.subpath
    return asked


def _tmpfs_options(options: TmpfsOptions) -> dict[str, Any]:
    return {"SizeBytes": options.size_bytes, "Mode": options.file_mode}
