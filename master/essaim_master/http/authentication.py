"""Who sends a request: from what its connection and headers prove to a `Caller`. Pure.

    a master's own socket          `local`: the file's mode decided who may connect
    Authorization: Bearer TOKEN    the user whose token it is
    a certificate                  the user, agent or master whose name it holds
    nothing                        NOBODY, who may join, and little else

A certificate or token proves a name. What the name is worth stands in the state: without its user
or identity there, whatever was shown is refused, and so is what was made before the user's
`certificates_since_ns`. What is shown and proves nothing is refused even where nothing is asked
for: its holder is to learn of it.
"""

import json
from typing import Final, Literal

import msgspec

from essaim_master.authority.standing import made_ns, refusal
from essaim_master.http.caller import Caller
from essaim_master.http.errors import NotAuthenticated
from essaim_master.state.cluster_state import ClusterState
from essaim_shared.trust.roles import Role
from essaim_shared.trust.tls import PeerCertificate
from essaim_shared.trust.tokens import is_same_secret, parse_user_token
from essaim_shared.trust_objects import User
from essaim_shared.undecodable import UNDECODABLE

BEHALF_HEADER: Final = "Essaim-On-Behalf-Of"
"""A master that hands a request on says for whom: a `Caller` in JSON."""
BEHALF_BYTES_MAX: Final = 1024

_BEARER: Final = "bearer "
_KINDS: Final[dict[str, Literal["agent", "master"]]] = {
    Role.AGENT.value: "agent",
    Role.MASTER.value: "master",
}


class Shown(msgspec.Struct, frozen=True):
    """What came with a request. Its repr shows no token."""

    uid: int | None = None
    """Of the process at the other end of a master's own socket."""
    address: str = ""
    """`HOST:PORT` of the other end; empty on a socket."""
    certificate: PeerCertificate | None = None
    authorization: str | None = None
    behalf: bytes | None = None
    """Of BEHALF_HEADER."""

    def __repr__(self) -> str:
        return f"Shown(address={self.address!r}, certificate={self.certificate!r})"


def authenticate(shown: Shown, state: ClusterState, cluster_id: str | None, now_ns: int) -> Caller:
    """`cluster_id`: None for a master without an identity, on which everybody counts as local.

    Raises NotAuthenticated: one line that says what is wrong with what was shown.
    """
    caller = _proved(shown, state, cluster_id, now_ns)
    if shown.behalf is not None and (caller.kind == "master" or cluster_id is None):
        return _on_behalf(shown.behalf)
    return caller


def encode_behalf(caller: Caller) -> bytes:
    """For BEHALF_HEADER: ASCII, as headers are."""
    return json.dumps(msgspec.to_builtins(caller)).encode()


def _proved(shown: Shown, state: ClusterState, cluster_id: str | None, now_ns: int) -> Caller:
    address, certificate = shown.address, shown.certificate
    if shown.uid is not None:
        return Caller("local", f"uid {shown.uid}", "admin")
    if cluster_id is None:
        return Caller("local", "anybody", "admin", address=address)
    if shown.authorization is not None:
        return _user_caller(_user_of_token(shown.authorization, state, now_ns), address)
    if certificate is None:
        return Caller("nobody", address=address)
    if certificate.role == Role.USER.value:
        return _user_caller(_user_of_certificate(certificate, state, cluster_id), address)
    why = refusal(state, cluster_id, certificate)
    if why is not None:
        raise NotAuthenticated(why)
    kind = _KINDS[certificate.role]
    return Caller(kind, certificate.name, address=address)


def _user_of_token(authorization: str, state: ClusterState, now_ns: int) -> User:
    """Its id finds the user; the rest is compared in a time that tells nothing."""
    if not authorization.lower().startswith(_BEARER):
        raise NotAuthenticated("the Authorization header is not `Bearer TOKEN`")
    token = parse_user_token(authorization[len(_BEARER) :])
    if token is None:
        raise NotAuthenticated("this is no token of a user: it looks like esmusr_…_…")
    user = state.user_of_token(token.id)
    known = next((one for one in user.tokens if one.id == token.id), None) if user else None
    if user is None or known is None or not is_same_secret(known.digest, token.digest):
        raise NotAuthenticated(
            "the token is not known here: it was revoked, its user was removed, or it is of "
            "another cluster"
        )
    if known.expires_ns and known.expires_ns <= now_ns:
        raise NotAuthenticated(
            f"the token of user {user.name} has expired: ask an admin for another one "
            f"(essaim user token {user.name})"
        )
    return user


def _user_of_certificate(
    certificate: PeerCertificate, state: ClusterState, cluster_id: str
) -> User:
    if certificate.cluster_id != cluster_id:
        raise NotAuthenticated(
            f"the certificate is one of cluster {certificate.cluster_id!r}, this is {cluster_id!r}"
        )
    user = state.users.get(certificate.name)
    if user is None:
        raise NotAuthenticated(f"there is no user {certificate.name} here, or no more")
    if made_ns(certificate) < user.certificates_since_ns:
        raise NotAuthenticated(
            f"the certificate of user {user.name} was revoked: ask an admin for another one "
            f"(essaim user certificate {user.name} DIR)"
        )
    return user


def _user_caller(user: User, address: str) -> Caller:
    return Caller("user", user.name, user.role, user.stack, address)


def _on_behalf(encoded: bytes) -> Caller:
    if len(encoded) > BEHALF_BYTES_MAX:
        raise NotAuthenticated(f"{BEHALF_HEADER} is over {BEHALF_BYTES_MAX} bytes")
    try:
        return msgspec.json.decode(encoded, type=Caller)
    except UNDECODABLE as error:
        raise NotAuthenticated(f"{BEHALF_HEADER} is damaged: {error}") from error
