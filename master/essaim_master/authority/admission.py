"""Who joins the cluster: what is written for him, or a refusal in words. Pure."""

import re
from collections.abc import Mapping
from typing import Final

import msgspec

from essaim_master.authority.errors import NotAdmitted
from essaim_master.standby.names import base_name, check_base_name
from essaim_master.state.cluster_state import ClusterState
from essaim_master.state.keys import JOIN_SECRETS_KEY, TRUST_ANCHORS_KEY, identity_key
from essaim_master.state.writes import Writes
from essaim_shared.errors import ConfigError, Conflict, InvalidRequest, Unavailable
from essaim_shared.ids import NodeId
from essaim_shared.trust.bus_keys import is_public_key
from essaim_shared.trust.joining import ADDRESSES_MAX, JoinRequest
from essaim_shared.trust.roles import Role
from essaim_shared.trust.tokens import is_same_secret
from essaim_shared.trust_objects import NodeIdentity

IDENTITIES_MAX: Final = 10_000
"""Of agents and masters together: several times the nodes of the largest cluster."""

_HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")

ALLOWED_ROLES: Final[Mapping[Role, frozenset[Role]]] = {
    Role.AGENT: frozenset({Role.AGENT}),
    Role.MASTER: frozenset({Role.AGENT, Role.MASTER}),
}
"""By the role that a token is for: what may be asked for with it."""


class JoinSecretTexts(msgspec.Struct, frozen=True):
    """Opened. Its repr shows nothing."""

    worker: str
    master: str

    def __repr__(self) -> str:
        return "JoinSecretTexts(…)"


class IssuedFacts(msgspec.Struct, frozen=True):
    """Of a certificate that is about to be handed out."""

    key_digest: str
    serial: str
    issued_ns: int
    expires_ns: int


class Admission(msgspec.Struct, frozen=True):
    """Somebody who may join: names for his certificates."""

    token_role: Role
    node_id: NodeId
    names: dict[Role, str]


def token_role(secrets: JoinSecretTexts, secret: str) -> Role | None:
    """What a join secret is for; both are compared in any case, so that time tells nothing."""
    is_worker = is_same_secret(secret, secrets.worker)
    is_master = is_same_secret(secret, secrets.master)
    if is_master:
        return Role.MASTER
    return Role.AGENT if is_worker else None


def admit(
    state: ClusterState,
    held_for: Role,
    request: JoinRequest,
    key_digests: Mapping[Role, str],
    node_id: NodeId,
) -> Admission:
    """Who may join, and under which names. `key_digests` are those of the keys that ask.

    Raises NotAdmitted (the token is for something else), InvalidRequest, Conflict (a repeated
    request, a name that is taken), Unavailable (too many).
    """
    roles = [one.role for one in request.requests]
    if not roles or len(set(roles)) != len(roles) or Role.USER in roles:
        raise InvalidRequest("a machine joins with an agent, a master, or one of each")
    if not set(roles) <= ALLOWED_ROLES[held_for]:
        raise NotAdmitted(
            "this token is one for workers and lets no master in: ask a master for the other one "
            "(essaim cluster join-token master)"
        )
    _check_words(request)
    _check_is_new(state, request, key_digests)
    if len(state.identities) + len(roles) > IDENTITIES_MAX:
        raise Unavailable(
            f"the cluster has {len(state.identities)} identities, {IDENTITIES_MAX} are the most: "
            "remove nodes that are gone (essaim node rm)"
        )
    names = {}
    if Role.AGENT in roles:
        names[Role.AGENT] = str(node_id)
    if Role.MASTER in roles:
        _check_master_name(state, request.master_name)
        names[Role.MASTER] = request.master_name
    return Admission(held_for, node_id, names)


def admission_writes(
    state: ClusterState,
    admission: Admission,
    request: JoinRequest,
    issued: Mapping[Role, IssuedFacts],
    now_ns: int,
    joined_from: str,
) -> Writes:
    """They hold only while the anchors and the tokens are the ones that were looked at."""
    anchors = state.trust_anchors
    generation = 1 if anchors is None else anchors.generation
    writes = Writes()
    for key in (TRUST_ANCHORS_KEY, JOIN_SECRETS_KEY):
        writes.expect(key, state.modified(key))
    has_agent = Role.AGENT in admission.names
    for one in request.requests:
        name, facts = admission.names[one.role], issued[one.role]
        is_master = one.role is Role.MASTER
        writes.expect(identity_key(one.role, name), 0)
        writes.put(
            NodeIdentity(
                role=one.role,
                name=name,
                bus_key=one.bus_key,
                key_digest=facts.key_digest,
                serial=facts.serial,
                generation=generation,
                issued_ns=facts.issued_ns,
                expires_ns=facts.expires_ns,
                joined_ns=now_ns,
                joined_from=joined_from,
                node_id=str(admission.node_id) if is_master and has_agent else "",
                is_to_vote=is_master,
            )
        )
    return writes


def _check_words(request: JoinRequest) -> None:
    if _HOST_NAME.fullmatch(request.hostname) is None:
        raise InvalidRequest(f"{request.hostname[:80]!r} is no host name")
    if len(request.addresses) > ADDRESSES_MAX:
        raise InvalidRequest(f"{len(request.addresses)} addresses, over {ADDRESSES_MAX}")
    for one in request.requests:
        if not is_public_key(one.bus_key):
            raise InvalidRequest("the bus key is no public key of a user (U…)")


def _check_is_new(
    state: ClusterState, request: JoinRequest, key_digests: Mapping[Role, str]
) -> None:
    """A request that was answered before is not answered again: who repeats it has not got its
    key, or has its certificate already."""
    digests = set(key_digests.values())
    bus_keys = {one.bus_key for one in request.requests}
    if len(digests) < len(request.requests) or len(bus_keys) < len(request.requests):
        raise InvalidRequest("each process that joins has keys of its own")
    for known in state.identities.values():
        if known.bus_key in bus_keys or digests & {known.key_digest, known.pending_key_digest}:
            raise Conflict(
                "this join request was answered already and is not answered twice: "
                "run essaim cluster join again, which makes a new one"
            )


def _check_master_name(state: ClusterState, name: str) -> None:
    try:
        check_base_name(name)
    except ConfigError as error:
        raise InvalidRequest(str(error)) from error
    taken = {base_name(one.id) for one in state.members.values() if not one.removed_ns}
    if state.identity(Role.MASTER, name) is not None or name in taken:
        raise Conflict(
            f"a master of the name {name!r} is in the cluster already: give this one another "
            "(essaim cluster join --master-name NAME)"
        )
