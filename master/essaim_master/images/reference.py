"""An image's name taken apart: which registry, which repository, which version. Pure.

Source: distribution/reference (ParseNormalizedNamed); the default registry of Docker Hub is
reached at another host than its name (moby, registry/config.go).
"""

import msgspec

DEFAULT_DOMAIN = "docker.io"
LEGACY_DOMAIN = "index.docker.io"
HUB_HOST = "registry-1.docker.io"
OFFICIAL = "library/"
DEFAULT_TAG = "latest"


class ImageReference(msgspec.Struct, frozen=True):
    domain: str
    """As it stands in the name: `docker.io`, `registry.example.org:5000`."""
    repository: str
    tag: str
    digest: str
    """Empty, or `ALGORITHM:HEX`."""

    @property
    def host(self) -> str:
        """Where the registry's API is: `HOST` or `HOST:PORT`."""
        return HUB_HOST if self.domain == DEFAULT_DOMAIN else self.domain

    @property
    def version(self) -> str:
        """What stands at the end of a manifest's path."""
        return self.digest or self.tag


def split_reference(image: str) -> ImageReference:
    """`image` fits the reference grammar; a part before the first slash is a domain when it has a
    dot or a port, or is `localhost`."""
    name, _, digest = image.partition("@")
    first, slash, rest = name.partition("/")
    is_domain = slash and ("." in first or ":" in first or first == "localhost")
    domain, path = (first, rest) if is_domain else (DEFAULT_DOMAIN, name)
    if domain == LEGACY_DOMAIN:
        domain = DEFAULT_DOMAIN
    head, separator, last = path.rpartition("/")
    last, colon, tag = last.partition(":")
    repository = f"{head}{separator}{last}"
    if domain == DEFAULT_DOMAIN and "/" not in repository:
        repository = OFFICIAL + repository
    if not colon and not digest:
        tag = DEFAULT_TAG
    return ImageReference(domain, repository, tag, digest)


def is_pinned(image: str) -> bool:
    return "@" in image


def without_digest(image: str) -> str:
    return image.partition("@")[0]
