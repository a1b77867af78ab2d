"""Who may be at the other end of a link between masters."""

import ssl
from collections.abc import Callable

from essaim_master.own_tls import names_that_prove
from essaim_shared.ids import MemberId
from essaim_shared.trust.roles import Role
from essaim_shared.trust.tls import PeerCertificate, Tls


class LinkTrust:
    """Both ends show a certificate, and each has to be the member that it says it is."""

    def __init__(
        self,
        tls: Tls,
        cluster_id: str,
        is_admitted: Callable[[PeerCertificate], bool] = lambda certificate: True,
    ) -> None:
        """`is_admitted`: whether a certificate still counts; asked with each connection."""
        self._tls = tls
        self._cluster_id = cluster_id
        self._is_admitted = is_admitted

    @property
    def client(self) -> ssl.SSLContext:
        return self._tls.client

    @property
    def server(self) -> ssl.SSLContext:
        return self._tls.server(wants_certificate=True)

    def refusal(self, certificate: PeerCertificate | None, member_id: MemberId) -> str | None:
        """Why this certificate does not prove that member, or None."""
        if certificate is None:
            return f"{member_id} shows no certificate"
        if certificate.role != Role.MASTER.value:
            return (
                f"{member_id} shows the certificate of {certificate.role} {certificate.name!r}, "
                "which is no master"
            )
        if certificate.cluster_id != self._cluster_id:
            return (
                f"{member_id} shows a certificate of cluster {certificate.cluster_id!r}, "
                f"this is cluster {self._cluster_id!r}"
            )
        if certificate.name not in names_that_prove(member_id):
            return f"{member_id} shows the certificate of master {certificate.name!r}"
        if not self._is_admitted(certificate):
            return (
                f"the certificate of {member_id} does not count any more: it was removed from the "
                "cluster, or has renewed it since"
            )
        return None
