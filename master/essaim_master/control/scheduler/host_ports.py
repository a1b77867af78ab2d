"""Ports of a node that lead to one of its tasks (publish mode `host`). Pure.

A node's port belongs to one task at a time, the ones being stopped included. A port that the
user leaves open is chosen here, from the range that Swarm uses too; the search goes on behind the
last choice, so that a port on which some process of the host turns out to listen is not tried
again at once.
"""

from collections.abc import Iterable, Sequence

import msgspec

from essaim_shared.spec import PortConfig

DYNAMIC_PORT_FIRST = 30_000
DYNAMIC_PORT_LAST = 32_767
"""Below the kernel's own range for connections (ip_local_port_range: 32768 and up)."""

DYNAMIC_PORTS = DYNAMIC_PORT_LAST - DYNAMIC_PORT_FIRST + 1

PortKey = tuple[str, int]
"""(protocol, port of the node)."""


def keys_of(ports: Iterable[PortConfig]) -> list[PortKey]:
    return [(port.protocol, port.published_port) for port in ports if port.published_port]


def has_ports(
    used: set[PortKey], ports: Sequence[PortConfig], reserved: frozenset[PortKey] = frozenset()
) -> bool:
    """Whether all of them are free on a node, those to be chosen included. `reserved` are ports of
    the whole cluster."""
    if any(key in used or key in reserved for key in keys_of(ports)):
        return False
    if len(used) + len(reserved) + len(ports) <= DYNAMIC_PORTS:
        return True
    for protocol in {port.protocol for port in ports if not port.published_port}:
        wanted = sum(1 for port in ports if port.protocol == protocol)
        taken = sum(1 for key in used | reserved if key[0] == protocol and is_dynamic(key[1]))
        if taken + wanted > DYNAMIC_PORTS:
            return False
    return True


def claim_ports(
    used: set[PortKey],
    ports: Sequence[PortConfig],
    newest: int,
    reserved: frozenset[PortKey] = frozenset(),
) -> tuple[PortConfig, ...]:
    """Take ports that are free (`has_ports`), each with its number; `newest` is the one that was
    chosen last on the node, 0 if none."""
    used.update(keys_of(ports))
    claimed = []
    for port in ports:
        if not port.published_port:
            newest = _next_free(used, reserved, port.protocol, newest)
            port = msgspec.structs.replace(port, published_port=newest)
            used.add((port.protocol, newest))
        claimed.append(port)
    return tuple(claimed)


def newest_dynamic(ports: Iterable[PortConfig]) -> int:
    """The last chosen one among a task's ports, as far as their numbers tell; 0 if none."""
    numbers = [port.published_port for port in ports if is_dynamic(port.published_port)]
    return numbers[-1] if numbers else 0


def is_dynamic(number: int) -> bool:
    return DYNAMIC_PORT_FIRST <= number <= DYNAMIC_PORT_LAST


def _next_free(used: set[PortKey], reserved: frozenset[PortKey], protocol: str, newest: int) -> int:
    start = newest + 1 - DYNAMIC_PORT_FIRST if is_dynamic(newest) else 0
    for step in range(DYNAMIC_PORTS):
        number = DYNAMIC_PORT_FIRST + (start + step) % DYNAMIC_PORTS
        if (protocol, number) not in used and (protocol, number) not in reserved:
            return number
    raise AssertionError(f"{len(used)} ports in use, none of {DYNAMIC_PORTS} left for {protocol}")
