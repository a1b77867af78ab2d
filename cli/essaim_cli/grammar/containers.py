"""Flags of the container itself: hosts, ulimits, devices, capabilities, shell words. Pure."""

import ipaddress
import shlex
from typing import Any

from essaim_cli.grammar.fields import whole_number

Json = dict[str, Any]

ULIMIT_MAX = 2**63 - 1
UNLIMITED = -1
CGROUP_PERMISSIONS = frozenset("rwm")


def parse_words(text: str) -> list[str]:
    """A line split as a shell would."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ValueError(f"{error}: quotes must come in pairs") from error


def parse_command(text: str) -> Json:
    """The command of a hook, which runs without a shell of its own."""
    words = parse_words(text)
    if not words:
        raise ValueError("the command is empty")
    return {"Command": words}


def parse_address(text: str) -> list[str]:
    try:
        return [str(ipaddress.ip_address(text.strip()))]
    except ValueError as error:
        raise ValueError(f"IP address is not correctly formatted: {text}") from error


def parse_host_line(text: str) -> list[str]:
    """`HOST:IP` → `IP HOST`, a line of /etc/hosts in its own order."""
    name, separator, address = text.partition(":")
    if not (name and separator and address):
        raise ValueError(f'bad format for add-host: "{text}": write HOST:IP')
    try:
        return [f"{ipaddress.ip_address(address.strip('[]'))} {name}"]
    except ValueError as error:
        raise ValueError(f'invalid IP address in add-host: "{address}"') from error


def without_host(lines: list[str], removal: str) -> list[str]:
    """`HOST` leaves every line, `HOST:IP` those of the address; empty lines go."""
    name, _, address = removal.partition(":")
    kept = []
    for line in lines:
        ip, *names = line.split()
        if not address or address == ip:
            names = [present for present in names if present != name]
        if names:
            kept.append(" ".join((ip, *names)))
    return kept


def parse_ulimit(text: str) -> list[Json]:
    """`nofile=1024:2048`; one number is both the soft and the hard limit, -1 is none."""
    name, separator, limits = text.partition("=")
    if not (separator and name and limits):
        raise ValueError(f"invalid ulimit argument: {text}: write NAME=SOFT[:HARD]")
    soft, has_hard, hard = limits.partition(":")
    low = whole_number(soft, UNLIMITED, ULIMIT_MAX)
    high = whole_number(hard, UNLIMITED, ULIMIT_MAX) if has_hard else low
    if high != UNLIMITED and (low == UNLIMITED or low > high):
        raise ValueError(
            f"ulimit soft limit must be less than or equal to hard limit: {soft} > {hard or soft}"
        )
    return [{"Name": name, "Soft": low, "Hard": high}]


def parse_device(text: str) -> list[Json]:
    """`/dev/fuse`, `/dev/a:/dev/b`, `/dev/a:rw`, `/dev/a:/dev/b:rwm`, as `docker run --device`."""
    parts = text.split(":")
    permissions = "rwm"
    if len(parts) > 1 and not parts[-1].startswith("/"):
        permissions = parts.pop()
    if not permissions or not CGROUP_PERMISSIONS.issuperset(permissions):
        raise ValueError(f"invalid device mode: {permissions}: use letters of r, w and m")
    if len(parts) > 2 or not all(part.startswith("/") for part in parts):
        raise ValueError(f"bad device specification: {text}: write /dev/HOST[:/dev/INSIDE][:rwm]")
    inside = parts[1] if len(parts) == 2 else parts[0]
    return [{"PathOnHost": parts[0], "PathInContainer": inside, "CgroupPermissions": permissions}]


def device_identity(device: Json) -> str:
    return str(device.get("PathInContainer") or device["PathOnHost"])


def parse_capability(text: str) -> list[str]:
    capability = text.strip().upper()
    if not capability or not capability.replace("_", "").isalnum():
        raise ValueError(f"invalid capability: {text!r}: write for example NET_ADMIN")
    if capability in ("ALL", "RESET") or capability.startswith("CAP_"):
        return [capability]
    return [f"CAP_{capability}"]


def change_capabilities(container: Json, added: list[str], dropped: list[str]) -> None:
    """Adding wins over dropping. Against what the service has, either first takes the opposite
    back, and only counts anew when there was none (docker/cli's updateCapabilities); `RESET`
    forgets what was added, or dropped, before."""
    add, drop = (
        set(container.get("CapabilityAdd") or ()),
        set(container.get("CapabilityDrop") or ()),
    )
    to_add, to_drop = set(added), set(dropped)
    if "RESET" in to_add:
        add.clear()
    if "RESET" in to_drop:
        drop.clear()
    to_add.discard("RESET")
    to_drop.discard("RESET")
    for capability in to_drop - to_add:
        if capability in add:
            add.discard(capability)
        else:
            drop.add(capability)
    for capability in to_add:
        if capability in drop:
            drop.discard(capability)
        else:
            add.add(capability)
    container["CapabilityAdd"] = ["ALL"] if "ALL" in add else sorted(add)
    container["CapabilityDrop"] = ["ALL"] if "ALL" in drop else sorted(drop)
