"""What a row of the table of flags is (`flag_rows`), and whether what is seen matches it.

A value stands under its path (`A.B.C`); nothing, null, zero and empty are the same.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Client = Literal["essaim", "20.10", "newer"]
EVERY_CLIENT: tuple[Client, ...] = ("essaim", "20.10", "newer")
SINCE_28: tuple[Client, ...] = ("essaim", "newer")
ESSAIM: tuple[Client, ...] = ("essaim",)


@dataclass(frozen=True, slots=True)
class Holds:
    """Matches a list that has these among its items, and none of the others."""

    items: tuple[str, ...]
    but_not: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Asked:
    """A flag or a few, and what becomes of it."""

    flags: str
    """As in a shell."""
    spec: Mapping[str, Any] = field(default_factory=dict)
    """Below the service's `Spec`; `C.` stands for the ContainerSpec and `T.` for the
    TaskTemplate."""
    engine: Mapping[str, Any] = field(default_factory=dict)
    """In `docker inspect` of the container, at its node's engine."""
    inside: Mapping[str, str] = field(default_factory=dict)
    """What a shell line prints in the container."""
    by: tuple[Client, ...] = EVERY_CLIENT


@dataclass(frozen=True, slots=True)
class MatrixService:
    name: str
    words: tuple[str, ...]
    """After the image."""
    created: tuple[Asked, ...]
    updated: tuple[Asked, ...] = ()
    by: tuple[Client, ...] = EVERY_CLIENT


def differences(wanted: Mapping[str, Any], seen: Any) -> list[str]:
    """One line for each path at which something else is seen."""
    found = []
    for path, value in wanted.items():
        there = _at(
            seen, path.replace("C.", "T.ContainerSpec.", 1).replace("T.", "TaskTemplate.", 1)
        )
        if not _matches(value, there):
            found.append(f"{path}: {there!r} instead of {value!r}")
    return found


def _at(value: Any, path: str) -> Any:
    for step in path.split("."):
        if isinstance(value, list):
            value = value[int(step)] if int(step) < len(value) else None
        else:
            value = (value or {}).get(step)
    return value


def _matches(wanted: Any, seen: Any) -> bool:
    if isinstance(wanted, Holds):
        have = seen or []
        return set(wanted.items) <= set(have) and not set(wanted.but_not) & set(have)
    if isinstance(wanted, Mapping) and isinstance(seen, Mapping):
        names: set[str] = {*wanted, *seen}
        return all(_matches(wanted.get(name), seen.get(name)) for name in names)
    if isinstance(wanted, Sequence) and not isinstance(wanted, str) and isinstance(seen, list):
        return len(wanted) == len(seen) and all(map(_matches, wanted, seen))
    return bool(wanted == seen or not (wanted or seen))
