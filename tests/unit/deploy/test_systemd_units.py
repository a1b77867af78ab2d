"""The units of the daemons: what they shut the process into, and what that must leave alone."""

import shutil
import subprocess
from pathlib import Path

import pytest

from essaim_shared.capabilities import AGENT

UNITS = Path(__file__).parents[3] / "deploy/systemd"
MASTER_UNIT, AGENT_UNIT = UNITS / "essaim-master.service", UNITS / "essaim-agent.service"

OWN_MOUNTS = (
    "BindPaths",
    "BindReadOnlyPaths",
    "DynamicUser",
    "ExecPaths",
    "InaccessiblePaths",
    "MountFlags",
    "NoExecPaths",
    "PrivateDevices",
    "PrivateIPC",
    "PrivateMounts",
    "PrivateNetwork",
    "PrivateTmp",
    "PrivateUsers",
    "ProcSubset",
    "ProtectControlGroups",
    "ProtectHome",
    "ProtectHostname",
    "ProtectKernelLogs",
    "ProtectKernelModules",
    "ProtectKernelTunables",
    "ProtectProc",
    "ProtectSystem",
    "ReadOnlyPaths",
    "ReadWritePaths",
    "RootDirectory",
    "RootImage",
    "TemporaryFileSystem",
)
"""Options that give a service a mount namespace (systemd.exec(5)), or one of another kind."""


def service(unit: Path) -> dict[str, list[str]]:
    """The options of [Service], each with its values in their order."""
    found: dict[str, list[str]] = {}
    section = ""
    for line in unit.read_text().splitlines():
        if line.startswith("["):
            section = line
        elif section == "[Service]" and line and not line.startswith("#"):
            name, separator, value = line.partition("=")
            assert separator, line
            found.setdefault(name, []).append(value)
    return found


@pytest.mark.parametrize("unit", [MASTER_UNIT, AGENT_UNIT], ids=lambda unit: unit.stem)
def test_a_daemon_is_waited_for_started_again_and_gains_nothing(unit: Path) -> None:
    options = service(unit)
    for name, value in {
        "Type": "notify",
        "Restart": "always",
        "RestartPreventExitStatus": "78",
        "NoNewPrivileges": "yes",
        "LockPersonality": "yes",
        "RestrictRealtime": "yes",
        "RestrictSUIDSGID": "yes",
        "SystemCallArchitectures": "native",
        "LimitCORE": "0",
        "MemorySwapMax": "0",
    }.items():
        assert options[name] == [value], name
    assert options["SystemCallFilter"][0].startswith("@system-service")


def test_a_master_is_a_user_without_any_privilege_in_a_room_of_its_own() -> None:
    options = service(MASTER_UNIT)
    for name, value in {
        "User": "essaim",
        "CapabilityBoundingSet": "",
        "AmbientCapabilities": "",
        "ProtectSystem": "strict",
        "ProtectHome": "yes",
        "PrivateTmp": "yes",
        "PrivateDevices": "yes",
        "RestrictNamespaces": "yes",
        "RestrictAddressFamilies": "AF_INET AF_INET6 AF_UNIX",
        "KillMode": "mixed",
        "UMask": "0077",
    }.items():
        assert options[name] == [value], name


def test_an_agent_may_do_what_its_code_keeps_and_nothing_else() -> None:
    [bounding] = service(AGENT_UNIT)["CapabilityBoundingSet"]
    assert bounding.split() == sorted(f"CAP_{capability.name}" for capability in AGENT)


def test_an_agent_sees_the_mounts_that_the_engine_sees() -> None:
    assert not service(AGENT_UNIT).keys() & set(OWN_MOUNTS)


def test_the_name_server_and_the_files_of_tasks_outlive_the_agent() -> None:
    options = service(AGENT_UNIT)
    assert options["KillMode"] == ["process"]
    assert options["RuntimeDirectoryPreserve"] == ["yes"]


def test_the_agents_directories_are_not_in_one_of_the_masters_user() -> None:
    masters = {
        directory.split("/")[0]
        for name in ("StateDirectory", "RuntimeDirectory")
        for directory in service(MASTER_UNIT)[name]
    }
    for name in ("StateDirectory", "RuntimeDirectory"):
        [directory] = service(AGENT_UNIT)[name]
        assert directory.split("/")[0] not in masters


@pytest.mark.parametrize("unit", [MASTER_UNIT, AGENT_UNIT], ids=lambda unit: unit.stem)
def test_systemd_understands_every_word(unit: Path, tmp_path: Path) -> None:
    """Where there is a systemd to ask."""
    program = shutil.which("systemd-analyze")
    if program is None:
        return
    copy = tmp_path / unit.name
    [start] = service(unit)["ExecStart"]
    copy.write_text(unit.read_text().replace(start.split()[0], "/bin/true"))
    done = subprocess.run(
        [program, "verify", "--man=no", str(copy)], capture_output=True, text=True, check=False
    )
    complaints = [line for line in done.stderr.splitlines() if unit.name in line]
    assert complaints == []
    assert done.returncode == 0, done.stderr
