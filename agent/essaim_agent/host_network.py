"""Looks at the node's own network, in the namespace of this process.

Interfaces are asked for by ioctl (netdevice(7)): /sys/class/net shows those of whoever mounted it.
"""

import fcntl
import socket
import struct
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import msgspec

from essaim_agent.host_network_facts import (
    interface_of,
    listening,
    read_port_range,
    read_routes,
    reserved_subnets,
    tcp_ports,
    udp_ports,
)

PROC: Final = Path("/proc")

_SIOCGIFADDR: Final = 0x8915
_SIOCGIFMTU: Final = 0x8921
_REQUEST: Final = struct.Struct("16s24x")
"""struct ifreq: a name, and a union of 24 bytes."""


class HostNetwork(msgspec.Struct, frozen=True):
    """As the fields of the same names in `NodeDescription`."""

    mtu: int
    routes: tuple[str, ...]
    listening: tuple[str, ...]


def look_at_host_network(address: str, proc: Path = PROC) -> HostNetwork:
    """What the kernel does not tell, such as anything of IPv6 where there is none, is left out."""
    routes = read_routes(_text(proc / "net/route"))
    interface = _interface_with(address) or interface_of(address, routes)
    chosen = read_port_range(_text(proc / "sys/net/ipv4/ip_local_port_range"))
    tcp = [_of_lines(proc / "net" / name, tcp_ports) for name in ("tcp", "tcp6")]
    udp = [
        _of_lines(proc / "net" / name, lambda lines: udp_ports(lines, chosen))
        for name in ("udp", "udp6")
    ]
    return HostNetwork(
        mtu=_mtu(interface),
        routes=reserved_subnets(routes),
        listening=listening(set().union(*tcp), set().union(*udp)),
    )


def _ask(request: int, interface: str) -> bytes | None:
    """The union of the answer; None for an interface that is not there or has none."""
    with socket.socket(type=socket.SOCK_DGRAM) as asking:
        try:
            answer = fcntl.ioctl(asking, request, _REQUEST.pack(interface.encode()))
        except OSError:
            return None
    return answer[16:]


def _interface_with(address: str) -> str:
    """That has the address as its first; empty when none has."""
    wanted = socket.inet_aton(address)
    for _, interface in socket.if_nameindex():
        answer = _ask(_SIOCGIFADDR, interface)
        if answer is not None and answer[4:8] == wanted:
            return interface
    return ""


def _mtu(interface: str) -> int:
    answer = _ask(_SIOCGIFMTU, interface) if interface else None
    return 0 if answer is None else int(struct.unpack_from("=i", answer)[0])


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _of_lines(path: Path, read: Callable[[Iterable[str]], set[int]]) -> set[int]:
    """Reads no further than it is asked for."""
    try:
        with path.open() as lines:
            return read(lines)
    except OSError:
        return set()
