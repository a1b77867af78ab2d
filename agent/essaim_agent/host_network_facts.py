"""What a node says of its own network when it registers, read from the kernel's text files. Pure.

Formats: proc_net(5), and the kernel's net/ipv4/fib_trie.c (fib_route_seq_show), tcp_ipv4.c and
udp.c (…_seq_show). Lines that do not look as expected are passed over: a node that says less of
itself is better than one that does not register.
"""

import ipaddress
import struct
from collections.abc import Iterable
from typing import Final

import msgspec

from essaim_agent.overlay.tables import BRIDGE_PREFIX

ROUTES_MAX: Final = 256
LISTENING_MAX: Final = 1_024
"""Of either the first ones are told; nobody has so many by intention."""

_TCP_LISTEN, _UNCONNECTED = "0A", "07"
_HALF_OF_ALL_BITS: Final = 1
"""Two routes of this length are how VPN clients write a default route."""


class RouteLine(msgspec.Struct, frozen=True):
    interface: str
    network: ipaddress.IPv4Network
    has_gateway: bool


def read_routes(text: str) -> list[RouteLine]:
    """From /proc/net/route: the main table."""
    routes = []
    for line in text.splitlines()[1:]:
        columns = line.split()
        try:
            interface, destination, gateway, mask = columns[0], columns[1], columns[2], columns[7]
            network = ipaddress.IPv4Network((_address(destination), _address(mask)))
        except (IndexError, ValueError, struct.error):
            continue
        routes.append(RouteLine(interface, network, int(gateway, 16) != 0))
    return routes


def _address(text: str) -> str:
    """An address as the kernel prints it there: a number in the order of this machine's bytes."""
    return str(ipaddress.IPv4Address(struct.pack("=I", int(text, 16))))


def reserved_subnets(routes: Iterable[RouteLine]) -> tuple[str, ...]:
    """Where the node's packets go already: no network may take those addresses. Not the default
    route, and not the overlay's own."""
    found = {
        route.network
        for route in routes
        if route.network.prefixlen > _HALF_OF_ALL_BITS
        and not route.interface.startswith(BRIDGE_PREFIX)
    }
    return tuple(str(network) for network in sorted(found)[:ROUTES_MAX])


def interface_of(address: str, routes: Iterable[RouteLine]) -> str:
    """The interface on whose subnet an address is; empty when none is."""
    wanted = ipaddress.IPv4Address(address)
    on = [route for route in routes if not route.has_gateway and wanted in route.network]
    return max(on, key=lambda route: route.network.prefixlen).interface if on else ""


def read_port_range(text: str) -> range:
    """From net.ipv4.ip_local_port_range; empty when it is not as expected."""
    columns = text.split()
    if len(columns) != 2 or not all(column.isdigit() for column in columns):
        return range(0)
    return range(int(columns[0]), int(columns[1]) + 1)


def tcp_ports(lines: Iterable[str]) -> set[int]:
    """Those listened on, from /proc/net/tcp or tcp6.

    Such sockets come first there, so the reading ends with them: a busy node has a hundred
    thousand connections.
    """
    found = set()
    for state, port in _sockets(lines):
        if state != _TCP_LISTEN:
            break
        found.add(port)
    return found


def udp_ports(lines: Iterable[str], chosen_by_kernel: range) -> set[int]:
    """From /proc/net/udp or udp6. A port that the kernel chose is most likely a client's."""
    return {
        port
        for state, port in _sockets(lines)
        if state == _UNCONNECTED and port not in chosen_by_kernel
    }


def _sockets(lines: Iterable[str]) -> Iterable[tuple[str, int]]:
    """(state, local port) of each."""
    for line in lines:
        columns = line.split()
        if len(columns) < 4 or not columns[0].rstrip(":").isdigit():
            continue  # the heading
        port = columns[1].rpartition(":")[2]
        try:
            yield columns[3], int(port, 16)
        except ValueError:
            continue


def listening(tcp: Iterable[int], udp: Iterable[int]) -> tuple[str, ...]:
    """As `NodeDescription.listening`."""
    ports = [*(("tcp", port) for port in sorted(tcp)), *(("udp", port) for port in sorted(udp))]
    return tuple(f"{protocol}/{port}" for protocol, port in ports[:LISTENING_MAX])
