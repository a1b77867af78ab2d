"""What a container may do, as Docker is asked for it."""

import base64
from typing import Any

import pytest

from essaim_agent.docker_security import security_config
from essaim_agent.executor import ExecutorError
from essaim_shared.container_spec import (
    AppArmorOptions,
    ContainerSpec,
    Device,
    Privileges,
    SeccompOptions,
    SelinuxContext,
)

PROFILE = '{"defaultAction":"SCMP_ACT_ALLOW"}'


def config_of(**asked: Any) -> dict[str, Any]:
    return security_config(ContainerSpec(image="busybox", **asked))


def custom_profile(encoded: str) -> Privileges:
    return Privileges(seccomp=SeccompOptions(mode="custom", profile=encoded))


@pytest.mark.parametrize(
    ("privileges", "words"),
    [
        (Privileges(), []),
        (Privileges(selinux_context=SelinuxContext(disable=True)), ["label=disable"]),
        (
            Privileges(selinux_context=SelinuxContext(user="u", role="r", type="t", level="l")),
            ["label=user:u", "label=role:r", "label=type:t", "label=level:l"],
        ),
        (Privileges(seccomp=SeccompOptions(mode="default")), []),
        (Privileges(seccomp=SeccompOptions(mode="unconfined")), ["seccomp=unconfined"]),
        (custom_profile(base64.b64encode(PROFILE.encode()).decode()), [f"seccomp={PROFILE}"]),
        (Privileges(app_armor=AppArmorOptions(mode="default")), []),
        (Privileges(app_armor=AppArmorOptions(mode="disabled")), ["apparmor=unconfined"]),
        (Privileges(no_new_privileges=True), ["no-new-privileges=true"]),
    ],
)
def test_privileges_become_the_engines_security_options(
    privileges: Privileges, words: list[str]
) -> None:
    assert config_of(privileges=privileges)["SecurityOpt"] == words


@pytest.mark.parametrize(
    ("encoded", "reason"),
    [
        ("", "needs a profile"),
        ("%%%", "not Base64"),
        (base64.b64encode(b"\xff\xfe").decode(), "not Base64"),
        (base64.b64encode(b"[1]").decode(), "no JSON object"),
        (base64.b64encode(b"{" * 9_000).decode(), "no JSON object"),
    ],
)
def test_a_broken_seccomp_profile_is_refused_in_one_line(encoded: str, reason: str) -> None:
    with pytest.raises(ExecutorError, match=reason) as refusal:
        config_of(privileges=custom_profile(encoded))
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 200


@pytest.mark.parametrize("word", ["seccomp=/etc/shadow", "seccomp:/etc/shadow"])
def test_a_path_of_a_seccomp_profile_is_not_for_the_node_to_read(word: str) -> None:
    with pytest.raises(ExecutorError, match="no JSON object"):
        config_of(security_options=(word,))


def test_security_options_are_passed_on_in_the_words_of_docker_run() -> None:
    words = ("apparmor=mine", "label=level:s0", "seccomp=unconfined", f"seccomp={PROFILE}")
    assert config_of(security_options=words)["SecurityOpt"] == list(words)


def test_unconfined_system_paths_are_two_empty_lists() -> None:
    """It is a word of docker's client, that no engine knows."""
    assert "MaskedPaths" not in config_of()
    config = config_of(security_options=("systempaths=unconfined", "label=disable"))
    assert (config["MaskedPaths"], config["ReadonlyPaths"]) == ([], [])
    assert config["SecurityOpt"] == ["label=disable"]


def test_a_device_has_the_same_path_inside_unless_told_otherwise() -> None:
    devices = (
        Device(path_on_host="/dev/kvm"),
        Device(path_on_host="/dev/sda", path_in_container="/dev/x", cgroup_permissions="r"),
    )
    assert config_of(devices=devices)["Devices"] == [
        {"PathOnHost": "/dev/kvm", "PathInContainer": "/dev/kvm", "CgroupPermissions": "rwm"},
        {"PathOnHost": "/dev/sda", "PathInContainer": "/dev/x", "CgroupPermissions": "r"},
    ]


def test_what_nobody_asked_for_is_left_to_the_engine() -> None:
    config = config_of(privileged=None, devices=None, security_options=None, pid_mode=None)
    assert not config["Privileged"]
    assert config["Devices"] == config["SecurityOpt"] == []
    assert not {"PidMode", "IpcMode", "Isolation"} & config.keys()


def test_modes_and_groups_are_passed_on() -> None:
    config = config_of(privileged=True, pid_mode="host", ipc_mode="none", groups=("audio", "9"))
    wanted = {"Privileged": True, "PidMode": "host", "IpcMode": "none", "GroupAdd": ["audio", "9"]}
    assert {name: config[name] for name in wanted} == wanted


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"pid_mode": "container:db"}, 'invalid PID mode "container:db": want host'),
        ({"ipc_mode": "x"}, 'invalid IPC mode "x": want private, shareable, host, none'),
    ],
)
def test_a_mode_that_an_engine_would_take_for_none_is_refused(
    asked: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ExecutorError) as refusal:
        config_of(**asked)
    assert str(refusal.value) == reason
