"""TCP sockets that masters listen on, and what their connections are told."""

import asyncio
import ipaddress
import socket
from typing import NamedTuple

from essaim_shared.errors import ConfigError


class Patience(NamedTuple):
    """How soon the kernel ends a connection whose other end is gone without a word."""

    unacknowledged_ms: int
    """TCP_USER_TIMEOUT (RFC 5482): how long sent bytes may stay unacknowledged."""
    keepalive_s: int
    """Of silence before the other end is asked, and between two questions."""
    probes: int


def check_listen_host(what: str, host: str, *, is_open: bool) -> None:
    """`what` is listened on there; `is_open`: nobody has to prove there who he is. Raises
    ConfigError."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError as error:
        raise ConfigError(f"{what}: {host!r} is not an IP address: give one") from error
    if not is_open:
        return
    if address.is_unspecified or not (address.is_loopback or address.is_private):
        raise ConfigError(
            f"{what}: {host} is not on loopback or in a private network: without an identity_dir "
            "its connections are not encrypted, so choose such an address"
        )


def set_options(transport: asyncio.Transport, patience: Patience) -> None:
    """Of a connection, accepted or made."""
    connection: socket.socket = transport.get_extra_info("socket")
    tcp = socket.IPPROTO_TCP
    connection.setsockopt(tcp, socket.TCP_NODELAY, 1)
    connection.setsockopt(tcp, socket.TCP_USER_TIMEOUT, patience.unacknowledged_ms)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(tcp, socket.TCP_KEEPIDLE, patience.keepalive_s)
    connection.setsockopt(tcp, socket.TCP_KEEPINTVL, patience.keepalive_s)
    connection.setsockopt(tcp, socket.TCP_KEEPCNT, patience.probes)


def bound_socket(host: str, port: int) -> socket.socket:
    """Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Named as TCP, not left to the default 0: asyncio turns Nagle's algorithm off only then, and
    # without that each answer would wait 40 ms for the client's delayed acknowledgement.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except OSError:
        bound.close()
        raise
    return bound
