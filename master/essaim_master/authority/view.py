"""How the authority stands, as the API shows it."""

from typing import Any, Final

from essaim_master.authority.rotation import LAGGARDS_SHOWN_MAX, laggards, step_of
from essaim_master.state.cluster_state import ClusterState
from essaim_shared.clock import rfc3339
from essaim_shared.ids import NodeId
from essaim_shared.trust.roles import Role
from essaim_shared.trust_objects import NodeIdentity, TrustAnchors

ROLE_NAMES: Final = {Role.AGENT: "node", Role.MASTER: "master"}


def authority_view(state: ClusterState, anchors: TrustAnchors, now_ns: int) -> dict[str, Any]:
    """`Waiting` are those who have yet to confirm the present step of a rotation."""
    from essaim_shared.trust.certificates import authority_digest

    late = laggards(anchors, state.identities.values(), now_ns)
    return {
        "Digest": authority_digest(anchors.signing),
        "Step": step_of(anchors).value,
        "Generation": anchors.generation,
        "Believed": [authority_digest(one) for one in anchors.believed],
        "Certificates": b"".join(anchors.believed).decode(),
        "Identities": len(state.identities),
        "WaitingCount": len(late),
        "Waiting": [_row(state, one) for one in late[:LAGGARDS_SHOWN_MAX]],
    }


def _row(state: ClusterState, identity: NodeIdentity) -> dict[str, Any]:
    status = None
    if identity.role is Role.AGENT:
        status = state.node_status.get(NodeId(identity.name))
    return {
        "Role": ROLE_NAMES[identity.role],
        "Name": identity.name,
        "Hostname": "" if status is None else status.description.hostname,
        "State": "" if status is None else status.state,
        "Generation": identity.generation,
        "ExpiresAt": rfc3339(identity.expires_ns),
    }
