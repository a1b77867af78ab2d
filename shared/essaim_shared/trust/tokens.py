"""Join tokens, which let a machine into the cluster, and tokens with which users show who they are.

A join token is `ESMTKN-1-DIGEST-SECRET`, as Swarm's `SWMTKN-…`: DIGEST is that of the authority's
certificate, so that whoever joins knows the cluster before he tells it the secret; SECRET says for
what he may join. Of a user's token the state keeps only a digest. Pure, but for the drawing.
"""

import hashlib
import hmac
import re
import secrets
import string
from typing import Final

import msgspec

from essaim_shared.errors import InvalidRequest

TOKEN_PREFIX: Final = "ESMTKN-1"
SECRET_CHARS: Final = 25
"""Of base 36: 129 bits."""
DIGEST_CHARS: Final = 50
"""A SHA-256 digest in base 36."""
USER_TOKEN_PREFIX: Final = "esmusr"
TOKEN_CHARS_MAX: Final = 200

_DIGITS = string.digits + string.ascii_lowercase
_JOIN_TOKEN = re.compile(
    rf"{TOKEN_PREFIX}-([0-9a-z]{{{DIGEST_CHARS}}})-([0-9a-z]{{{SECRET_CHARS}}})"
)
_USER_TOKEN = re.compile(
    rf"{USER_TOKEN_PREFIX}_([0-9a-z]{{{SECRET_CHARS}}})_([0-9a-z]{{{SECRET_CHARS}}})"
)


class JoinToken(msgspec.Struct, frozen=True):
    """Its repr does not show the secret."""

    authority_digest: str
    """Hexadecimal (`certificates.authority_digest`)."""
    secret: str

    def __repr__(self) -> str:
        return f"JoinToken(authority_digest={self.authority_digest!r})"

    @property
    def text(self) -> str:
        return (
            f"{TOKEN_PREFIX}-{_base36(int(self.authority_digest, 16), DIGEST_CHARS)}-{self.secret}"
        )


class UserToken(msgspec.Struct, frozen=True):
    """`id` finds the user, `secret` proves him; the state holds `digest` of the whole."""

    id: str
    secret: str

    def __repr__(self) -> str:
        return f"UserToken(id={self.id!r})"

    @property
    def text(self) -> str:
        return f"{USER_TOKEN_PREFIX}_{self.id}_{self.secret}"

    @property
    def digest(self) -> bytes:
        """The secret has 129 random bits: a plain hash is not to be turned round."""
        return hashlib.sha256(self.text.encode()).digest()


def new_secret() -> str:
    return _base36(secrets.randbits(128), SECRET_CHARS)


def new_user_token() -> UserToken:
    return UserToken(new_secret(), new_secret())


def parse_join_token(text: str) -> JoinToken:
    """Raises InvalidRequest, which does not repeat what was given."""
    found = _JOIN_TOKEN.fullmatch(text.strip()) if len(text) <= TOKEN_CHARS_MAX else None
    digest = "" if found is None else f"{int(found[1], 36):064x}"
    if found is None or len(digest) > 64:
        raise InvalidRequest(
            f"this is no join token: it looks like {TOKEN_PREFIX}-…-…; "
            "ask a master for it: essaim cluster join-token worker"
        )
    return JoinToken(digest, found[2])


def parse_user_token(text: str) -> UserToken | None:
    """None for what is none."""
    found = _USER_TOKEN.fullmatch(text.strip()) if len(text) <= TOKEN_CHARS_MAX else None
    return None if found is None else UserToken(found[1], found[2])


def is_same_secret(one: str | bytes, other: str | bytes) -> bool:
    """In a time that tells nothing of where they differ."""
    left = one.encode() if isinstance(one, str) else one
    right = other.encode() if isinstance(other, str) else other
    return hmac.compare_digest(left, right)


def _base36(number: int, length: int) -> str:
    digits = []
    for _ in range(length):
        number, digit = divmod(number, 36)
        digits.append(_DIGITS[digit])
    return "".join(reversed(digits))
