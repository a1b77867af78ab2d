"""Whether some process of the host has a port already. Run it in the host's network namespace."""

import errno
import socket
from collections.abc import Iterable

from essaim_agent.network import NetworkError
from essaim_agent.overlay.host_ports import PortKey

_SOCKETS = {
    "tcp": (socket.SOCK_STREAM, socket.IPPROTO_TCP),
    "udp": (socket.SOCK_DGRAM, socket.IPPROTO_UDP),
    "sctp": (socket.SOCK_STREAM, socket.IPPROTO_SCTP),
}


def check_ports_free(keys: Iterable[PortKey]) -> None:
    """Raises NetworkError for a port on which a process listens: published, it would be cut off
    from its clients without a word."""
    for protocol, number in keys:
        kind, number_of_protocol = _SOCKETS[protocol]
        try:
            with socket.socket(socket.AF_INET, kind, number_of_protocol) as probe:
                if protocol != "udp":
                    # Connections that linger in TIME_WAIT are nobody's.
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("", number))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise NetworkError(
                    f"port {number}/{protocol} of this node is in use by another process: "
                    "publish another port, or stop that process"
                ) from error
            if protocol == "sctp" and error.errno in (errno.EPROTONOSUPPORT, errno.ESOCKTNOSUPPORT):
                continue  # without SCTP in the kernel nobody listens, and forwarding still works
            raise NetworkError(f"port {number}/{protocol}: {error.strerror}") from error
