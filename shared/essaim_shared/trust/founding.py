"""The first hour of a cluster: its authority, join secrets, first identities and users.

`essaim cluster init` and the lab make them before any master runs. They stand in a private file in
the identity directory of each first master; the first leader writes them into the state, and each
master deletes its file once the state holds them.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from essaim_shared.errors import ConfigError
from essaim_shared.sealing import write_private
from essaim_shared.trust.bus_keys import new_seed, public_key_of
from essaim_shared.trust.certificates import (
    CERTIFICATE_LIFETIME_S,
    Authority,
    authority_digest,
    facts_of,
    new_request,
)
from essaim_shared.trust.identity import About, Identity
from essaim_shared.trust.roles import Role, Subject
from essaim_shared.trust.tokens import JoinToken, new_secret
from essaim_shared.trust_objects import NodeIdentity, User, UserRole
from essaim_shared.undecodable import UNDECODABLE

FOUNDING_FILE: Final = "founding.msgpack"
FIRST_USER: Final = "admin"


class Founding(msgspec.Struct, frozen=True):
    """Its repr shows nothing of it."""

    cluster_id: str
    authority_pem: bytes
    authority_key_pem: bytes
    worker_secret: str
    master_secret: str
    identities: tuple[NodeIdentity, ...] = ()
    users: tuple[User, ...] = ()

    def __repr__(self) -> str:
        return f"Founding(cluster_id={self.cluster_id!r})"

    @property
    def worker_token(self) -> JoinToken:
        return JoinToken(authority_digest(self.authority_pem), self.worker_secret)

    @property
    def master_token(self) -> JoinToken:
        return JoinToken(authority_digest(self.authority_pem), self.master_secret)


class Founder:
    """Makes a cluster's authority and admits its first processes."""

    def __init__(self, cluster_id: str, now_ns: int) -> None:
        self._cluster_id = cluster_id
        self._now_ns = now_ns
        self._authority = Authority.new(cluster_id, now_ns)
        self._secrets = (new_secret(), new_secret())
        self._identities: list[NodeIdentity] = []
        self._users: list[User] = []

    def admit(
        self,
        role: Role,
        name: str,
        *,
        addresses: Iterable[str] = (),
        masters: Iterable[str] = (),
        bus_servers: Iterable[str] = (),
        user_role: UserRole = "admin",
        node_id: str = "",
    ) -> Identity:
        """The identity of a node (its id), master (its name) or user, who is known from the first
        moment on. `addresses` are those at which a master is reached, `node_id` is the node on
        its machine."""
        asked = new_request(name)
        subject = Subject(name, role, self._cluster_id)
        issued = self._authority.issue(asked.request_pem, subject, self._now_ns, addresses)
        seed = "" if role is Role.USER else new_seed()
        if role is Role.USER:
            self._users.append(User(name=name, role=user_role, created_ns=self._now_ns))
        else:
            known = self._known(role, name, issued, public_key_of(seed))
            self._identities.append(msgspec.structs.replace(known, node_id=node_id))
        return Identity(
            about=About(
                cluster_id=self._cluster_id,
                name=name,
                role=role,
                masters=tuple(masters),
                bus_servers=tuple(bus_servers),
            ),
            authorities_pem=self._authority.certificate_pem,
            own_pem=asked.key_pem + issued,
            bus_seed=seed,
        )

    def _known(self, role: Role, name: str, issued: bytes, bus_key: str) -> NodeIdentity:
        facts = facts_of(issued)
        return NodeIdentity(
            role=role,
            name=name,
            bus_key=bus_key,
            key_digest=facts.key_digest,
            serial=facts.serial,
            generation=1,
            issued_ns=self._now_ns,
            expires_ns=self._now_ns + CERTIFICATE_LIFETIME_S * 1_000_000_000,
            joined_ns=self._now_ns,
        )

    @property
    def founding(self) -> Founding:
        worker, master = self._secrets
        return Founding(
            cluster_id=self._cluster_id,
            authority_pem=self._authority.certificate_pem,
            authority_key_pem=self._authority.key_pem,
            worker_secret=worker,
            master_secret=master,
            identities=tuple(self._identities),
            users=tuple(self._users),
        )


def write_founding(directory: Path, founding: Founding) -> None:
    write_private(directory / FOUNDING_FILE, msgspec.msgpack.encode(founding))


def read_founding(directory: Path) -> Founding | None:
    """None where there is none, or none any more. Raises ConfigError for a damaged one."""
    path = directory / FOUNDING_FILE
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        return msgspec.msgpack.decode(content, type=Founding)
    except UNDECODABLE as error:
        raise ConfigError(f"{path}: damaged: found the cluster anew") from error
