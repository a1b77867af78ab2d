"""Placement constraints, `KEY==VALUE` and `KEY!=VALUE`, as SwarmKit's manager/constraint. Pure.

Keys: node.id, node.hostname, node.ip (an address or a CIDR block), node.role, node.platform.os,
node.platform.arch, node.labels.NAME, engine.labels.NAME. Values compare without regard to case.
"""

import ipaddress
import re
from collections.abc import Iterable

import msgspec

from essaim_master.state.manager_nodes import NodeRole
from essaim_shared.errors import InvalidRequest
from essaim_shared.objects import NodeObject, NodeStatus

_KEY = re.compile(r"[a-z_][a-z0-9\-_.]+", re.IGNORECASE)
_VALUE = re.compile(r"[a-z0-9:\-_\s.*()?+\[\]\\^$|/]+", re.IGNORECASE)

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}
"""What the kernel calls them, to what images and users call them."""


class Constraint(msgspec.Struct, frozen=True):
    key: str
    """Lower case, but for the NAME of a label."""
    value: str
    wants_equal: bool


def parse_constraints(texts: Iterable[str]) -> tuple[Constraint, ...]:
    """Raises InvalidRequest with SwarmKit's words."""
    return tuple(_parse(text) for text in texts)


def _parse(text: str) -> Constraint:
    for operator in ("==", "!="):
        key, found, value = text.partition(operator)
        if not found:
            continue
        key, value = key.strip(), value.strip()
        if not _KEY.fullmatch(key):
            raise InvalidRequest(f"constraint key '{key}' is invalid")
        if not _VALUE.fullmatch(value):
            raise InvalidRequest(f"constraint value '{value}' is invalid")
        return Constraint(fold_key(key), value, operator == "==")
    raise InvalidRequest("constraint expected one operator from ==, !=")


def fold_key(key: str) -> str:
    """Keys are read without regard to case, but for the name of a label."""
    for prefix in ("node.labels.", "engine.labels."):
        if key.lower().startswith(prefix):
            return prefix + key[len(prefix) :]
    return key.lower()


def is_satisfied(
    constraint: Constraint, node: NodeObject, status: NodeStatus, role: NodeRole
) -> bool:
    """Whether a node satisfies one constraint. A label that it lacks is empty; an unknown key
    is satisfied by no node, so that a slip of the pen places nothing."""
    key = constraint.key
    if key == "node.ip":
        return _is_in(status.description.address, constraint.value) is constraint.wants_equal
    fact = fact_of(key, node, status, role)
    if fact is None:
        return False
    wanted, actual = constraint.value.lower(), fact.lower()
    if key == "node.platform.arch":
        wanted, actual = normal_architecture(wanted), normal_architecture(actual)
    return (actual == wanted) is constraint.wants_equal


def fact_of(key: str, node: NodeObject, status: NodeStatus, role: NodeRole) -> str | None:
    """What a node says to a key; None for a key that nothing is known by."""
    description = status.description
    if key.startswith("node.labels."):
        return node.spec.labels.get(key.removeprefix("node.labels."), "")
    if key.startswith("engine.labels."):
        return description.engine_labels.get(key.removeprefix("engine.labels."), "")
    facts: dict[str, str] = {
        "node.id": node.id,
        "node.hostname": description.hostname,
        "node.ip": description.address,
        "node.role": role,
        "node.platform.os": description.os,
        "node.platform.arch": description.architecture,
    }
    return facts.get(key)


def normal_architecture(name: str) -> str:
    return ARCHITECTURES.get(name.lower(), name.lower())


def _is_in(address: str, block: str) -> bool:
    try:
        return ipaddress.ip_address(address) in ipaddress.ip_network(block, strict=False)
    except ValueError:
        return False
