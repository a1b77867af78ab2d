"""The authority in the shapes of Docker's API: `TLSInfo` of the swarm and of its nodes, from which
clients read how far a rotation is (docker/cli, swarm/progress/root_rotation.go).

The swarm shows the authority that it has, or is going to have. A node shows the same once it
believes nobody else and has a certificate by it.
"""

import base64
from functools import lru_cache
from typing import Any, Final

from essaim_master.authority.rotation import STEPS_PER_ROTATION, Step, step_of
from essaim_master.http.network_objects import DockerObject
from essaim_shared.trust_objects import NodeIdentity, TrustAnchors

AUTHORITIES_REMEMBERED_MAX: Final = 8


def swarm_tls(anchors: TrustAnchors | None) -> DockerObject:
    """Of the swarm."""
    if anchors is None:
        return {}
    return _info(anchors.next_signing or anchors.signing)


def node_tls(anchors: TrustAnchors | None, identity: NodeIdentity | None) -> DockerObject:
    """Of a node; empty for one that never joined by a token."""
    if anchors is None or identity is None:
        return {}
    wanted = _info(anchors.next_signing or anchors.signing)
    has_confirmed = identity.generation >= anchors.generation
    match step_of(anchors):
        case Step.SETTLED if has_confirmed:
            return wanted
        case Step.RENEWING if has_confirmed:
            return {**wanted, "TrustRoot": _both(anchors)}
        case Step.SETTLED:
            return {**wanted, "TrustRoot": ""}  # believes the one before too
        case _:
            return _info(anchors.believed[0])


def rotations_begun(anchors: TrustAnchors) -> int:
    """Docker's `ForceRotate`: a client asks for another rotation with a greater number."""
    return (anchors.generation + STEPS_PER_ROTATION - 2) // STEPS_PER_ROTATION


def is_rotating(anchors: TrustAnchors | None) -> bool:
    return anchors is not None and step_of(anchors) is not Step.SETTLED


def _info(certificate_pem: bytes) -> dict[str, Any]:
    subject, public_key = _issuer(certificate_pem)
    return {
        "TrustRoot": certificate_pem.decode(),
        "CertIssuerSubject": subject,
        "CertIssuerPublicKey": public_key,
    }


def _both(anchors: TrustAnchors) -> str:
    return b"".join(anchors.believed).decode()


@lru_cache(maxsize=AUTHORITIES_REMEMBERED_MAX)
def _issuer(certificate_pem: bytes) -> tuple[str, str]:
    from essaim_shared.trust.certificates import issuer_of

    subject, public_key = issuer_of(certificate_pem)
    return base64.b64encode(subject).decode(), base64.b64encode(public_key).decode()
