"""Mounts as Docker is asked for them."""

from typing import Any

import pytest

from essaim_agent.docker_mounts import engine_mounts
from essaim_agent.engine_facts import EngineFacts
from essaim_agent.executor import ExecutorError
from essaim_shared.container_spec import (
    BindOptions,
    ImageOptions,
    Mount,
    MountDriver,
    TmpfsOptions,
    VolumeOptions,
)

OLD_ENGINE = EngineFacts(api_version=(1, 41))
NEW_ENGINE = EngineFacts(api_version=(1, 48))


@pytest.mark.parametrize(
    ("mount", "asked"),
    [
        (
            Mount(source="data", target="/data"),
            {"Type": "volume", "Source": "data", "Target": "/data", "ReadOnly": False},
        ),
        (
            Mount(target="/data", read_only=True, consistency="cached"),
            {
                "Type": "volume",
                "Source": "",
                "Target": "/data",
                "ReadOnly": True,
                "Consistency": "cached",
            },
        ),
        (
            Mount(
                source="data",
                target="/data",
                volume_options=VolumeOptions(
                    no_copy=True,
                    labels={"a": "1"},
                    driver_config=MountDriver(name="local", driver_options={"type": "tmpfs"}),
                    subpath="part",
                ),
            ),
            {
                "Type": "volume",
                "Source": "data",
                "Target": "/data",
                "ReadOnly": False,
                "VolumeOptions": {
                    "NoCopy": True,
                    "Labels": {"a": "1"},
                    "DriverConfig": {"Name": "local", "Options": {"type": "tmpfs"}},
                    "Subpath": "part",
                },
            },
        ),
        (
            Mount(
                type="bind",
                source="/srv",
                target="/srv",
                bind_options=BindOptions(
                    propagation="rshared",
                    non_recursive=True,
                    create_mountpoint=True,
                    read_only_non_recursive=True,
                    read_only_force_recursive=True,
                ),
            ),
            {
                "Type": "bind",
                "Source": "/srv",
                "Target": "/srv",
                "ReadOnly": False,
                "BindOptions": {
                    "Propagation": "rshared",
                    "NonRecursive": True,
                    "CreateMountpoint": True,
                    "ReadOnlyNonRecursive": True,
                    "ReadOnlyForceRecursive": True,
                },
            },
        ),
        (
            Mount(
                type="tmpfs",
                target="/t",
                tmpfs_options=TmpfsOptions(size_bytes=4096, file_mode=0o700),
            ),
            {
                "Type": "tmpfs",
                "Source": "",
                "Target": "/t",
                "ReadOnly": False,
                "TmpfsOptions": {"SizeBytes": 4096, "Mode": 0o700},
            },
        ),
        (
            Mount(
                type="image", source="data:1", target="/i", image_options=ImageOptions(subpath="p")
            ),
            {
                "Type": "image",
                "Source": "data:1",
                "Target": "/i",
                "ReadOnly": False,
                "ImageOptions": {"Subpath": "p"},
            },
        ),
    ],
)
def test_a_mount_is_passed_on_whole(mount: Mount, asked: dict[str, Any]) -> None:
    assert engine_mounts((mount,), NEW_ENGINE) == [asked]


@pytest.mark.parametrize(
    ("mount", "since"),
    [
        (Mount(type="image", source="i", target="/i"), "image needs Engine API 1.48"),
        (
            Mount(target="/v", volume_options=VolumeOptions(subpath="p")),
            "volume-subpath needs Engine API 1.45",
        ),
        (
            Mount(
                type="bind",
                source="/s",
                target="/s",
                bind_options=BindOptions(create_mountpoint=True),
            ),
            "bind-create-src needs Engine API 1.42",
        ),
        (
            Mount(
                type="bind",
                source="/s",
                target="/s",
                bind_options=BindOptions(read_only_force_recursive=True),
            ),
            "bind-recursive=readonly needs Engine API 1.44",
        ),
        (
            Mount(
                type="bind",
                source="/s",
                target="/s",
                bind_options=BindOptions(read_only_non_recursive=True),
            ),
            "bind-recursive=writable needs Engine API 1.44",
        ),
    ],
)
def test_what_an_old_engine_would_drop_is_refused(mount: Mount, since: str) -> None:
    assert engine_mounts((mount,), NEW_ENGINE)
    with pytest.raises(ExecutorError, match=since):
        engine_mounts((mount,), OLD_ENGINE)


@pytest.mark.parametrize(
    ("mount", "reason"),
    [
        (
            Mount(target="data"),
            "invalid mount target, must be an absolute path: data",
        ),
        (
            Mount(type="bind", source="data", target="/data"),
            "invalid bind mount source, must be an absolute path: data",
        ),
        (
            Mount(source="/data", target="/data"),
            "invalid volume mount source, must not be an absolute path: /data",
        ),
        (
            Mount(type="tmpfs", source="x", target="/data"),
            "invalid tmpfs source, source must be empty",
        ),
        (
            Mount(type="image", target="/data"),
            "invalid image source, source must not be empty",
        ),
        (
            Mount(type="bind", source="/s", target="/data", volume_options=VolumeOptions()),
            'VolumeOptions must not be specified on mount type "bind"',
        ),
        (
            Mount(target="/data", bind_options=BindOptions()),
            'BindOptions must not be specified on mount type "volume"',
        ),
    ],
)
def test_a_mount_that_would_become_another_is_refused_in_swarms_words(
    mount: Mount, reason: str
) -> None:
    with pytest.raises(ExecutorError) as refusal:
        engine_mounts((mount,), NEW_ENGINE)
    assert str(refusal.value) == reason
