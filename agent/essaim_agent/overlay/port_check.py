"""Whether some process of the host has a port already. Run it in the host's network namespace."""

import contextlib
import errno
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path

from essaim_agent.host_network_facts import read_port_range, tcp_ports, udp_ports
from essaim_agent.network import NetworkError
from essaim_agent.overlay.host_ports import PortKey

_LISTEN = "0A"

_SOCKETS = {
    "tcp": (socket.SOCK_STREAM, socket.IPPROTO_TCP),
    "udp": (socket.SOCK_DGRAM, socket.IPPROTO_UDP),
    "sctp": (socket.SOCK_STREAM, socket.IPPROTO_SCTP),
}


def taken_ports(keys: Iterable[PortKey]) -> frozenset[PortKey]:
    """Those on which a process listens. Raises NetworkError when it cannot be found out."""
    return frozenset(key for key in keys if _is_taken(*key))


def check_ports_free(keys: Iterable[PortKey]) -> None:
    """Raises NetworkError for a port on which a process listens: published, it would be cut off
    from its clients without a word."""
    for protocol, number in keys:
        if _is_taken(protocol, number):
            raise NetworkError(
                f"port {number}/{protocol} of this node is in use by another process: "
                "publish another port, or stop that process"
            )


def listened_ports() -> frozenset[PortKey]:
    """On which processes listen now. Unlike `taken_ports` it looks only, and so keeps no process
    from a port; it cannot tell a UDP server from a client whose port lies where servers' do."""
    chosen = read_port_range(_text(Path("/proc/sys/net/ipv4/ip_local_port_range")))
    found: set[PortKey] = set()
    for name in ("tcp", "tcp6"):
        found.update(("tcp", port) for port in tcp_ports(_lines(name)))
    for name in ("udp", "udp6"):
        found.update(("udp", port) for port in udp_ports(_lines(name), chosen))
    return frozenset(found)


def _lines(name: str) -> Iterator[str]:
    with contextlib.suppress(OSError), Path("/proc/thread-self/net", name).open() as lines:
        yield from lines


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _is_taken(protocol: str, number: int) -> bool:
    kind, number_of_protocol = _SOCKETS[protocol]
    try:
        with socket.socket(socket.AF_INET, kind, number_of_protocol) as probe:
            if protocol != "udp":
                # Connections that linger in TIME_WAIT are nobody's.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("", number))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return protocol != "tcp" or _is_listened_on(number)
        if protocol == "sctp" and error.errno in (errno.EPROTONOSUPPORT, errno.ESOCKTNOSUPPORT):
            return False  # without SCTP in the kernel nobody listens, and forwarding still works
        raise NetworkError(f"port {number}/{protocol}: {error.strerror}") from error
    return False


def _is_listened_on(number: int) -> bool:
    """Not when the port is only the near end of a connection that this host opened."""
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(FileNotFoundError):
            for line in Path("/proc/thread-self/net", table).read_text().splitlines()[1:]:
                _, local, _, state = line.split()[:4]
                if state == _LISTEN and int(local.rpartition(":")[2], 16) == number:
                    return True
    return False
