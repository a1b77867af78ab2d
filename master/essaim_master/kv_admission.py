"""Who may use the native key-value protocol."""

import ssl
from collections.abc import Callable

from essaim_shared.trust.roles import Role
from essaim_shared.trust.tls import PeerCertificate, Tls

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
