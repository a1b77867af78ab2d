"""Users and their tokens: what may be asked for, what is shown, and which writes make it so. Pure.

Of a token the state holds a digest; the token itself is in one answer, once.
"""

import re
from collections.abc import Mapping
from typing import Any, Final, TypeVar

import msgspec

from essaim_master.state.cluster_state import ClusterState
from essaim_master.state.keys import user_key
from essaim_master.state.writes import Writes
from essaim_shared.clock import rfc3339
from essaim_shared.errors import Conflict, InvalidRequest, NotFound
from essaim_shared.limits import NAME_LENGTH_MAX, USER_TOKENS_MAX, USERS_MAX
from essaim_shared.trust.tokens import UserToken
from essaim_shared.trust_objects import User, UserRole, UserTokenDigest
from essaim_shared.undecodable import UNDECODABLE

S_NS: Final = 1_000_000_000
VALID_S_MAX: Final = 10 * 365 * 86_400

T = TypeVar("T")

_NAME: Final = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{NAME_LENGTH_MAX - 1}}}")


class NewUser(msgspec.Struct, frozen=True, rename="pascal", forbid_unknown_fields=True):
    name: str
    role: UserRole
    stack: str = ""


class NewToken(msgspec.Struct, frozen=True, rename="pascal", forbid_unknown_fields=True):
    valid_s: int = msgspec.field(default=0, name="ValidSeconds")
    """0: until it is removed."""


class NewCertificate(msgspec.Struct, frozen=True, rename="pascal", forbid_unknown_fields=True):
    request: str
    """PKCS #10, PEM."""


def decode_new_user(body: bytes) -> NewUser:
    """Raises InvalidRequest."""
    wanted = _decoded(body, NewUser)
    if _NAME.fullmatch(wanted.name) is None:
        raise InvalidRequest(
            f"{wanted.name[:80]!r} is no name of a user: letters, digits, dots, - and _, at most "
            f"{NAME_LENGTH_MAX}, the first a letter or digit"
        )
    if wanted.stack and _NAME.fullmatch(wanted.stack) is None:
        raise InvalidRequest(f"{wanted.stack[:80]!r} is no name of a stack")
    if wanted.stack and wanted.role == "admin":
        raise InvalidRequest(
            "an admin is not bound to a stack, since he could make himself another user: give the "
            "role deployer"
        )
    return wanted


def decode_new_token(body: bytes) -> NewToken:
    """Raises InvalidRequest."""
    wanted = _decoded(body or b"{}", NewToken)
    if not 0 <= wanted.valid_s <= VALID_S_MAX:
        raise InvalidRequest(
            f"invalid ValidSeconds {wanted.valid_s}: 0 for a token without an end, to {VALID_S_MAX}"
        )
    return wanted


def decode_new_certificate(body: bytes) -> NewCertificate:
    """Raises InvalidRequest."""
    return _decoded(body, NewCertificate)


def find_user(state: ClusterState, name: str) -> User:
    """Raises NotFound."""
    user = state.users.get(name)
    if user is None:
        raise NotFound(f"user {name} not found")
    return user


def creation_of(state: ClusterState, wanted: NewUser, now_ns: int) -> Writes:
    """A user of that name who was removed is another one: his certificates are not taken.

    Raises Conflict when the name is taken or there are too many.
    """
    if wanted.name in state.users:
        raise Conflict(f"user {wanted.name} already exists")
    if len(state.users) >= USERS_MAX:
        raise Conflict(f"there are {USERS_MAX} users, which is the limit: remove some")
    user = User(
        name=wanted.name,
        role=wanted.role,
        stack=wanted.stack,
        certificates_since_ns=now_ns // S_NS * S_NS,
        created_ns=now_ns,
    )
    writes = Writes()
    writes.expect(user_key(user.name), 0)
    writes.put(user)
    return writes


def removal_of(state: ClusterState, name: str) -> Writes:
    """Raises NotFound, and Conflict for the last admin. Two admins who remove each other at the
    same moment do not both succeed."""
    user = find_user(state, name)
    writes = _change(state, name)
    if user.role == "admin":
        others = [one.name for one in state.users.values() if one.role == "admin"]
        others.remove(name)
        if not others:
            raise Conflict(f"user {name} is the last admin: make another one first")
        writes.expect(user_key(others[0]), state.modified(user_key(others[0])))
    writes.delete_user(name)
    return writes


def new_digest(token: UserToken, valid_s: int, now_ns: int) -> UserTokenDigest:
    return UserTokenDigest(
        id=token.id,
        digest=token.digest,
        created_ns=now_ns,
        expires_ns=now_ns + valid_s * S_NS if valid_s else 0,
    )


def with_token(state: ClusterState, name: str, digest: UserTokenDigest, now_ns: int) -> Writes:
    """Tokens that have expired make room. Raises NotFound, Conflict when there are too many."""
    user = find_user(state, name)
    kept = [one for one in user.tokens if not one.expires_ns or one.expires_ns > now_ns]
    if len(kept) >= USER_TOKENS_MAX:
        raise Conflict(
            f"user {name} has {USER_TOKENS_MAX} tokens, which is the limit: remove one "
            f"(essaim user token rm {name} ID)"
        )
    writes = _change(state, name)
    writes.put(msgspec.structs.replace(user, tokens=(*kept, digest)))
    return writes


def without_token(state: ClusterState, name: str, token_id: str) -> Writes:
    """Raises NotFound."""
    user = find_user(state, name)
    kept = tuple(one for one in user.tokens if one.id != token_id)
    if len(kept) == len(user.tokens):
        raise NotFound(f"user {name} has no token {token_id}")
    writes = _change(state, name)
    writes.put(msgspec.structs.replace(user, tokens=kept))
    return writes


def without_certificates(state: ClusterState, name: str, now_ns: int) -> Writes:
    """Those made up to now are taken no more; the second counts, as in a certificate. Raises
    NotFound."""
    user = find_user(state, name)
    writes = _change(state, name)
    since_ns = max((now_ns // S_NS + 1) * S_NS, user.certificates_since_ns)
    writes.put(msgspec.structs.replace(user, certificates_since_ns=since_ns))
    return writes


def user_object(user: User) -> Mapping[str, Any]:
    return {
        "Name": user.name,
        "Role": user.role,
        "Stack": user.stack,
        "CreatedAt": rfc3339(user.created_ns),
        "Tokens": [token_object(token) for token in user.tokens],
    }


def token_object(token: UserTokenDigest) -> dict[str, Any]:
    return {
        "ID": token.id,
        "CreatedAt": rfc3339(token.created_ns),
        "ExpiresAt": rfc3339(token.expires_ns) if token.expires_ns else None,
    }


def _change(state: ClusterState, name: str) -> Writes:
    """Holds only while the user is as he was."""
    writes = Writes()
    writes.expect(user_key(name), state.modified(user_key(name)))
    return writes


def _decoded(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except UNDECODABLE as error:
        raise InvalidRequest(f"invalid request body: {error}") from error
