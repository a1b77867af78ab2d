"""Refusals and the small checks that all parts of a spec share."""

import ipaddress
from collections.abc import Iterable

from msgspec import UnsetType

from essaim_shared.errors import InvalidRequest

PORT_MAX = 65_535
TEMPLATE_OPENING = "{{"
"""A value that holds it is known only on the node, so that its form cannot be checked here."""


def refusal(sentence: str) -> InvalidRequest:
    """In the words in which Docker passes on SwarmKit's."""
    return InvalidRequest(f"rpc error: code = InvalidArgument desc = {sentence}")


def check_labels(where: str, labels: dict[str, str]) -> None:
    if "" in labels:
        raise refusal(f"{where}: the name of a label cannot be empty")


def check_no_nul(where: str, values: Iterable[str]) -> None:
    """A NUL ends a string in execve(2): what follows would be lost without a word."""
    for value in values:
        if "\0" in value:
            raise refusal(f"{where} holds a NUL character: {value!r}")


def check_not_negative(what: str, value: int | UnsetType | None) -> None:
    if isinstance(value, int) and value < 0:
        raise refusal(f"{what} cannot be negative")


def check_port(what: str, port: int, least: int = 1) -> None:
    if not least <= port <= PORT_MAX:
        raise refusal(f"{what}: invalid port {port}: must be from {least} to {PORT_MAX}")


def check_distinct(what: str, values: Iterable[str]) -> None:
    seen: set[str] = set()
    for value in values:
        if value in seen:
            raise refusal(f"{what}: {value} is given twice")
        seen.add(value)


def is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
