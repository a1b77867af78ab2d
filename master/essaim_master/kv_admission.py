"""Who may use the native key-value protocol, and from where."""

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Callable

from essaim_shared.errors import ConfigError
from essaim_shared.trust.roles import Role
from essaim_shared.trust.tls import PeerCertificate, Tls

UNACKNOWLEDGED_MS_MAX = 10_000
"""TCP_USER_TIMEOUT (RFC 5482): how long sent bytes may stay unacknowledged."""
KEEPALIVE_S = 10
KEEPALIVE_PROBES_MAX = 3

_CLIENT_ROLES = frozenset({Role.USER.value, Role.MASTER.value})


class ClientTrust:
    """Every client shows a certificate of this cluster, as a user or as a master."""

    def __init__(
        self,
        tls: Tls,
        cluster_id: str,
        why_not: Callable[[PeerCertificate], str | None] = lambda certificate: None,
    ) -> None:
        """`why_not`: what the cluster's state has against the holder of a certificate, one
        sentence; asked with each connection."""
        self._tls = tls
        self._cluster_id = cluster_id
        self._why_not = why_not

    @property
    def server(self) -> ssl.SSLContext:
        return self._tls.server(wants_certificate=True)

    def refusal(self, certificate: PeerCertificate | None) -> str | None:
        """Why this client may not use the store, or None."""
        if certificate is None:
            return "it shows no certificate"
        if certificate.cluster_id != self._cluster_id:
            return (
                f"it shows a certificate of cluster {certificate.cluster_id!r}, "
                f"this is cluster {self._cluster_id!r}"
            )
        if certificate.role not in _CLIENT_ROLES:
            return (
                f"it shows the certificate of {certificate.role} {certificate.name!r}: only users "
                "and masters may use the key-value store"
            )
        return self._why_not(certificate)


def set_options(transport: asyncio.Transport) -> None:
    connection: socket.socket = transport.get_extra_info("socket")
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED_MS_MAX)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES_MAX)


def check_address(host: str, *, is_open: bool) -> None:
    """`is_open`: whoever reaches the address may use the store. Raises ConfigError."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError as error:
        raise ConfigError(f"kv_listen: {host!r} is not an IP address: give one") from error
    if not is_open:
        return
    if address.is_unspecified or not (address.is_loopback or address.is_private):
        raise ConfigError(
            f"kv_listen: {host} is not on loopback or in a private network: without an "
            "identity_dir key-value connections are not encrypted, so choose such an address"
        )
