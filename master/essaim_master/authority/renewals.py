"""Another certificate for an identity that is known, and its first use. Pure.

The answer with a new certificate may be lost, so the one before is good until the new one has
shown itself: it is *pending* until its holder confirms that it is in use, over a connection made
with it. That also says which trust anchors the holder has taken over (`rotation` waits for it).
"""

import msgspec

from essaim_master.authority.admission import IssuedFacts
from essaim_master.authority.errors import NotAdmitted
from essaim_master.state.cluster_state import ClusterState
from essaim_master.state.keys import TRUST_ANCHORS_KEY, identity_key
from essaim_master.state.writes import Writes
from essaim_shared.errors import Conflict
from essaim_shared.trust_objects import NodeIdentity


def check_renewal(identity: NodeIdentity, key_digest: str) -> None:
    """Raises Conflict for a request whose key has a certificate already: a new certificate is
    for a new key."""
    if key_digest in (identity.key_digest, identity.pending_key_digest):
        raise Conflict(
            f"{identity.role.value} {identity.name} asks again with a key that has its "
            "certificate: make a new key"
        )


def renewal_writes(
    state: ClusterState, identity: NodeIdentity, shown: str, issued: IssuedFacts
) -> Writes:
    """They hold only while identity and anchors are the ones that were looked at. `shown` is the
    serial of the certificate that asks: one that was pending has shown itself with that."""
    writes = _guarded(state, identity)
    writes.expect(TRUST_ANCHORS_KEY, state.modified(TRUST_ANCHORS_KEY))
    writes.put(
        msgspec.structs.replace(
            _in_use(identity, shown),
            pending_serial=issued.serial,
            pending_key_digest=issued.key_digest,
            issued_ns=issued.issued_ns,
            expires_ns=issued.expires_ns,
        )
    )
    return writes


def confirmation_writes(
    state: ClusterState, identity: NodeIdentity, serial: str, generation: int
) -> Writes:
    """The certificate of that serial is in use: an earlier one is refused from here on. Empty
    when the state says so already. Raises NotAdmitted for a serial that is none of the
    identity's."""
    anchors = state.trust_anchors
    newest = 0 if anchors is None else anchors.generation
    if serial not in (identity.serial, identity.pending_serial):
        raise NotAdmitted(f"{identity.role.value} {identity.name} has another certificate by now")
    confirmed = msgspec.structs.replace(
        _in_use(identity, serial), generation=max(identity.generation, min(generation, newest))
    )
    if confirmed == identity:
        return Writes()
    writes = _guarded(state, identity)
    writes.put(confirmed)
    return writes


def _in_use(identity: NodeIdentity, serial: str) -> NodeIdentity:
    """With the certificate of that serial as the present one."""
    if serial != identity.pending_serial:
        return identity
    return msgspec.structs.replace(
        identity,
        serial=serial,
        key_digest=identity.pending_key_digest,
        pending_serial="",
        pending_key_digest="",
    )


def _guarded(state: ClusterState, identity: NodeIdentity) -> Writes:
    key = identity_key(identity.role, identity.name)
    writes = Writes()
    writes.expect(key, state.modified(key))
    return writes
