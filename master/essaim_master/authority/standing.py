"""What a certificate is worth, by the state. Pure.

TLS has proved by then that one of the believed authorities signed it and that it has not expired.
What is left: the identity must stand in the state (it is deleted to shut its holder out), and the
certificate must be its present one, or the one that was issued last and is now used first, or one
that was made later: then this master's state is behind, and the log that would tell it may come
over this very connection.
"""

from typing import Final

from essaim_master.state.cluster_state import ClusterState
from essaim_shared.trust.roles import Role
from essaim_shared.trust.tls import PeerCertificate
from essaim_shared.trust_objects import NodeIdentity

NODE_ROLES: Final = (Role.AGENT, Role.MASTER)
"""Those whose identities stand under `/identities`; users stand under `/users`."""

BACKDATED_NS: Final = 3600 * 1_000_000_000
"""`certificates.BACKDATED_S`, whose library this module does without."""


def role_of(certificate: PeerCertificate) -> Role | None:
    """None for a text that is no role of ours."""
    return next((role for role in Role if role.value == certificate.role), None)


def identity_of(state: ClusterState, certificate: PeerCertificate) -> NodeIdentity | None:
    """The identity that the certificate names, whatever it is worth."""
    role = role_of(certificate)
    return None if role is None else state.identity(role, certificate.name)


def made_ns(certificate: PeerCertificate) -> int:
    """Wall time, in whole seconds; 0 when that is not known."""
    return certificate.not_before_ns + BACKDATED_NS if certificate.not_before_ns else 0


def refusal(state: ClusterState, cluster_id: str, certificate: PeerCertificate) -> str | None:
    """Why the certificate of an agent or master is not accepted, in one line; None: it is."""
    if certificate.cluster_id != cluster_id:
        return (
            f"the certificate is one of cluster {certificate.cluster_id!r}, this is {cluster_id!r}"
        )
    role = role_of(certificate)
    if role not in NODE_ROLES:
        return f"{certificate.name!r} shows a certificate of role {certificate.role!r}: it is none"
    identity = state.identity(role, certificate.name)
    who = f"{role.value} {certificate.name}"
    if identity is None:
        return (
            f"{who} was removed from the cluster, so its certificate is not accepted any more: "
            "join again (essaim cluster join)"
        )
    is_known = certificate.serial in (identity.serial, identity.pending_serial)
    if not is_known and made_ns(certificate) <= identity.issued_ns:
        return (
            f"{who} has renewed its certificate, so this earlier one is not accepted any more: "
            "if it was restored from a copy, join again (essaim cluster join)"
        )
    return None
