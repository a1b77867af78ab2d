"""What the cluster stores of who is who: its authority, its members' identities, its users, and
who changed what. As `objects`: each class names its key and its writer.
"""

from typing import Literal

from essaim_shared.objects import Stored
from essaim_shared.trust.roles import Role

UserRole = Literal["admin", "deployer", "viewer"]


class TrustAnchors(Stored, frozen=True, kw_only=True):
    """`/cluster/authority`, written first by the first leader from what `cluster init` left it,
    later by the leader's rotation of the authority.

    A rotation goes through three generations of this object: both are believed and the old one
    signs; both are believed and the new one signs; only the new one is believed. The leader takes
    a step when every identity in the state has taken the one before over.
    """

    generation: int = 1
    """Grows with every change of who is believed or who signs."""
    believed: tuple[bytes, ...]
    """Certificates (PEM) of the authorities that are believed."""
    signing: bytes
    """The certificate of the one that signs: one of `believed`."""
    sealed_key: bytes
    """Its private key (PEM), sealed with the masters' data key."""
    leading: bytes = b""
    """The signing authority, signed by the one before (PEM): sent along with each certificate, so
    that who knows only the old one follows."""
    next_signing: bytes = b""
    """In the first step of a rotation: the certificate of the one that will sign."""
    next_sealed_key: bytes = b""
    next_leading: bytes = b""
    """What will be `leading`."""


class JoinSecrets(Stored, frozen=True, kw_only=True):
    """`/cluster/join_secrets`, written by the API: what join tokens hold, sealed with the masters'
    data key."""

    worker: bytes
    master: bytes
    rotated_ns: int = 0


class NodeIdentity(Stored, frozen=True, kw_only=True):
    """`/identities/ROLE/NAME`, written by the API when a process joins and when it renews its
    certificate. Without it a certificate is worth nothing: deleting it shuts its holder out."""

    role: Role
    """AGENT or MASTER."""
    name: str
    """Of an agent the id of its node, of a master its name (`member_id`)."""
    bus_key: str
    """Its public key on the bus (`trust.bus_keys`)."""
    key_digest: str
    """Of the public key in its present certificate: a request that is repeated shows the same."""
    serial: str
    """Of its present certificate. An earlier one is refused once this one was used."""
    generation: int
    """Of the `TrustAnchors` that it has taken over."""
    issued_ns: int
    expires_ns: int
    joined_ns: int
    joined_from: str = ""
    """Address from which it joined."""
    pending_serial: str = ""
    """Of a newer certificate that it has not used yet; perhaps the answer with it was lost."""
    pending_key_digest: str = ""
    node_id: str = ""
    """Of a master that joined together with a node, or was founded with it: that node's id."""
    is_to_vote: bool = False
    """Of a master that joined with a token for masters: it is made a voter once it stands by."""
    suspended: str = ""
    """Why its key on the bus is not accepted now; empty: it is."""


class UserTokenDigest(Stored, frozen=True, kw_only=True):
    id: str
    digest: bytes
    """`UserToken.digest`."""
    created_ns: int
    expires_ns: int = 0
    """0: never."""


class User(Stored, frozen=True, kw_only=True):
    """`/users/NAME`, written by the API."""

    name: str
    role: UserRole
    stack: str = ""
    """The one stack that the user may see and change; empty: everything that the role allows."""
    tokens: tuple[UserTokenDigest, ...] = ()
    certificates_since_ns: int = 0
    """Certificates of this user that were made before are refused."""
    created_ns: int


class AuditRecord(Stored, frozen=True, kw_only=True):
    """`/audit/NUMBER`, written in the transaction of the change that it tells of. The revision of
    the change is that of the key. The oldest are deleted by the leader."""

    number: str
    """Wall time in nanoseconds as 20 digits, then what tells records of one moment apart: sorts by
    time."""
    who: str
    """`user NAME`, `agent NODE`, `master NAME`, `uid N` on a master's own socket, `nobody` for who
    joins with a token, `anybody` on a master without an identity."""
    source: str
    """Address from which the request came; empty on a master's own socket."""
    action: str
    """What was asked: `service create`, `node rm`, …"""
    target: str
    """The object's name or id."""
    at_ns: int
    master: str
    """Which master took the request."""
    detail: str = ""
    """What more there is to say of it in words; never any data."""
