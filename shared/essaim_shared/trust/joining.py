"""What a machine says to a master to become a part of the cluster, and what it is told. Pure.

GET  /essaim/authority           the authorities that are believed, PEM; open to everybody
POST /essaim/join                JoinRequest → JoinAnswer; whoever has a join token
POST /essaim/identity/renew      RenewRequest → RenewAnswer; with the present certificate
POST /essaim/identity/confirm    ConfirmRequest; with the newest certificate, once it is in use
"""

from typing import Final

import msgspec

from essaim_shared.trust.roles import Role

AUTHORITY_TARGET: Final = "/essaim/authority"
JOIN_TARGET: Final = "/essaim/join"
RENEW_TARGET: Final = "/essaim/identity/renew"
CONFIRM_TARGET: Final = "/essaim/identity/confirm"

ADDRESSES_MAX: Final = 16
"""Addresses and names in one master's certificate."""


class RoleRequest(msgspec.Struct, frozen=True):
    """One process of the machine that joins."""

    role: Role
    request_pem: str
    bus_key: str
    """The public half (`bus_keys`)."""


class JoinRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Its repr does not show the secret."""

    secret: str
    """Of the join token."""
    hostname: str
    requests: tuple[RoleRequest, ...]
    master_name: str = ""
    """Under which a master is to take part: `member_id` in its configuration."""
    addresses: tuple[str, ...] = ()
    """At which the master is reached: IP addresses and host names."""

    def __repr__(self) -> str:
        return f"JoinRequest(hostname={self.hostname!r})"


class IssuedCertificate(msgspec.Struct, frozen=True):
    role: Role
    name: str
    """Of an agent its node's id."""
    certificate_pem: str
    """With what leads from its authority to the one before."""


class MasterAddress(msgspec.Struct, frozen=True):
    id: str
    raft: str
    http: str


class ClusterNetworks(msgspec.Struct, frozen=True):
    """What stands in `[overlay]` of every master's configuration, and must be the same."""

    udp_port: int
    pools: tuple[str, ...] = ()
    vip_pools: tuple[str, ...] = ()
    pool_prefix_length: int = 0


class JoinAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Its repr shows nothing of it: a new master's has the seal key."""

    cluster_id: str
    issued: tuple[IssuedCertificate, ...]
    authorities_pem: str
    masters: tuple[MasterAddress, ...]
    bus_servers: tuple[str, ...]
    networks: ClusterNetworks
    generation: int
    """Of the trust anchors."""
    seal_key: str = ""
    """For masters only: the content of `seal_key_file`."""

    def __repr__(self) -> str:
        return f"JoinAnswer(cluster_id={self.cluster_id!r})"


class RenewRequest(msgspec.Struct, frozen=True, kw_only=True):
    request_pem: str
    addresses: tuple[str, ...] = ()
    """Of a master: at which it is reached now."""


class RenewAnswer(msgspec.Struct, frozen=True, kw_only=True):
    certificate_pem: str
    authorities_pem: str
    generation: int
    """Of the trust anchors: to be confirmed."""
    masters: tuple[str, ...] = ()
    """`HOST:PORT` of their API."""


class ConfirmRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The certificate that the connection shows, and these anchors, are in use."""

    generation: int
