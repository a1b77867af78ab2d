"""What a registry answers, as values of ours. Pure.

Sources: OCI distribution spec v1.1; the token authentication of distribution
(docs/spec/auth/token.md); RFC 9110, 11.6.1 (challenges).
"""

import base64
import binascii
import hashlib
import re
from typing import Any

import msgspec

from essaim_shared.errors import InvalidRequest
from essaim_shared.spec import Platform
from essaim_shared.undecodable import UNDECODABLE

MANIFEST_TYPES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
"""Lists first: their digest stands for the image on every platform."""

CREDENTIALS_BYTES_MAX = 16 * 1024
"""Of a decoded X-Registry-Auth; the tokens of cloud registries have some thousand bytes."""

NO_CREDENTIALS = ("", "e30", "e30=", "bnVsbA==", "bnVsbA")
"""What clients send in X-Registry-Auth when they have none: nothing, {} and null in base64."""

PLATFORMS_MAX = 64
"""Of one image; more are not believed."""

DIGEST = re.compile(r"[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,128}")


class UnreadableAnswer(ValueError):
    """A registry answered something that its protocol does not know. One line."""


class Credentials(msgspec.Struct, frozen=True):
    """Docker's AuthConfig, as X-Registry-Auth carries it. Its repr is that of no secret."""

    username: str = ""
    password: str = ""
    identitytoken: str = ""
    registrytoken: str = ""

    def __repr__(self) -> str:
        return "Credentials(…)"

    def __bool__(self) -> bool:
        return bool(self.username or self.identitytoken or self.registrytoken)


class Challenge(msgspec.Struct, frozen=True):
    """How a registry wants to be asked."""

    scheme: str
    """Lower case: `basic`, `bearer`."""
    parameters: dict[str, str]


class Descriptor(msgspec.Struct, frozen=True):
    media_type: str
    digest: str
    size: int


class Distribution(msgspec.Struct, frozen=True):
    """What `GET /distribution/NAME/json` tells."""

    descriptor: Descriptor
    platforms: tuple[Platform, ...]
    config_digest: str = ""
    """Of an image for one platform: the blob that names it."""


def decode_credentials(header: str) -> bytes:
    """The JSON in an X-Registry-Auth header; empty when there are none. Raises InvalidRequest,
    which never quotes the header."""
    if header in NO_CREDENTIALS:
        return b""
    padded = header + "=" * (-len(header) % 4)
    try:
        plain = base64.b64decode(padded, altchars=b"-_", validate=True)
        credentials = parse_credentials(plain)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest(
            "invalid X-Registry-Auth header: it must be an AuthConfig as JSON in URL-safe base64"
        ) from error
    if len(plain) > CREDENTIALS_BYTES_MAX:
        raise InvalidRequest(
            f"invalid X-Registry-Auth header: longer than {CREDENTIALS_BYTES_MAX} bytes"
        )
    return plain if credentials else b""


def parse_credentials(plain: bytes) -> Credentials:
    """Raises ValueError, without the text that was no AuthConfig."""
    if not plain:
        return Credentials()
    try:
        return msgspec.json.decode(plain, type=Credentials)
    except UNDECODABLE:
        raise ValueError("no AuthConfig") from None


_PARAMETER = re.compile(r'([A-Za-z0-9_-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')


def parse_challenge(header: str) -> Challenge | None:
    """The first challenge of a WWW-Authenticate header."""
    scheme, _, rest = header.strip().partition(" ")
    if not scheme:
        return None
    parameters = {
        match[1].lower(): re.sub(r"\\(.)", r"\1", match[2]) if match[2] is not None else match[3]
        for match in _PARAMETER.finditer(rest)
    }
    return Challenge(scheme.lower(), parameters)


def parse_token(body: bytes) -> str:
    """The token of an authorization server's answer. Raises UnreadableAnswer."""
    answer = _object(body, "the authorization server's answer")
    token = answer.get("token") or answer.get("access_token")
    if not isinstance(token, str) or not token.isascii() or "\r" in token or "\n" in token:
        raise UnreadableAnswer("the authorization server's answer holds no token")
    return token


def parse_manifest(body: bytes, content_type: str, claimed_digest: str) -> Distribution:
    """Raises UnreadableAnswer, also when the digest that is claimed is not that of the body."""
    digest = claimed_digest or f"sha256:{hashlib.sha256(body).hexdigest()}"
    if not DIGEST.fullmatch(digest):
        raise UnreadableAnswer(f"{digest[:100]!r} is no digest")
    algorithm, _, value = digest.partition(":")
    if algorithm in ("sha256", "sha512") and hashlib.new(algorithm, body).hexdigest() != value:
        raise UnreadableAnswer("the manifest does not have the digest that the registry names")
    manifest = _object(body, "the manifest")
    media_type = manifest.get("mediaType") or content_type.partition(";")[0].strip()
    if not isinstance(media_type, str) or media_type not in MANIFEST_TYPES:
        raise UnreadableAnswer(f"manifests of the type {str(media_type)[:100]!r} are not known")
    listed = manifest.get("manifests")
    config = manifest.get("config")
    config_digest = config.get("digest") if isinstance(config, dict) else None
    return Distribution(
        Descriptor(media_type, digest, len(body)),
        _platforms(listed) if isinstance(listed, list) else (),
        config_digest if isinstance(config_digest, str) and DIGEST.fullmatch(config_digest) else "",
    )


def parse_image_platform(body: bytes) -> tuple[Platform, ...]:
    """Of an image's configuration. Raises UnreadableAnswer."""
    return _platforms([{"platform": _object(body, "the image's configuration")}])


def parse_refusal(body: bytes) -> str:
    """The first error of a registry's answer, in its own words; empty when there is none."""
    try:
        errors = _object(body, "an error").get("errors")
    except UnreadableAnswer:
        return ""
    first = errors[0] if isinstance(errors, list) and errors else None
    if not isinstance(first, dict):
        return ""
    return " ".join(str(first.get("message") or first.get("code") or "").split())[:200]


def _platforms(listed: list[Any]) -> tuple[Platform, ...]:
    """Each once; attestations stand among them as `unknown`."""
    found: dict[tuple[str, str], None] = {}
    for entry in listed:
        platform = entry.get("platform") if isinstance(entry, dict) else None
        if not isinstance(platform, dict):
            continue
        architecture, system = platform.get("architecture"), platform.get("os")
        if not isinstance(architecture, str) or not isinstance(system, str):
            continue
        if system and "unknown" not in (architecture, system):
            found[architecture, system] = None
    return tuple(
        Platform(architecture=architecture, os=system)
        for architecture, system in tuple(found)[:PLATFORMS_MAX]
    )


def _object(body: bytes, what: str) -> dict[str, Any]:
    try:
        decoded = msgspec.json.decode(body, type=dict[str, Any])
    except UNDECODABLE as error:
        raise UnreadableAnswer(f"{what} is no JSON object") from error
    return decoded
