"""The one spelling of an image's name, as docker's clients rewrite it.

They read a service, complete its image (`busybox` → `busybox:latest`) and write it back, even to
scale it. Were the name stored as it was typed, their scale would look like a new image and
replace every task.
"""

import re

IMAGE_LENGTH_MAX = 255

_DEFAULT_DOMAIN = "docker.io"
_LEGACY_DOMAIN = "index.docker.io"
_OFFICIAL = "library"

_PATH = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_DOMAIN = r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?|\[[a-fA-F0-9:]+\])(?::[0-9]+)?"
_IMAGE = re.compile(
    rf"(?:{_DOMAIN}/)?{_PATH}(?:/{_PATH})*"
    r"(?::\w[\w.-]{0,127})?"
    r"(?:@[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,})?",
    re.ASCII,
)
"""The reference grammar (distribution/reference): [domain/]path[:tag][@digest]."""


def is_image(text: str) -> bool:
    return len(text) <= IMAGE_LENGTH_MAX and _IMAGE.fullmatch(text) is not None


def familiar_image(image: str) -> str:
    """Docker Hub's domain and `library/` left out, `:latest` added where there is neither tag nor
    digest (distribution/reference: ParseNormalizedNamed, TagNameOnly, FamiliarString).

    `image` fits the reference grammar (`is_image`).
    """
    name, at, digest = image.partition("@")
    domain, slash, path = name.partition("/")
    if slash and domain in (_DEFAULT_DOMAIN, _LEGACY_DOMAIN):
        name = path
    official, slash, repository = name.partition("/")
    if slash and official == _OFFICIAL and "/" not in repository:
        name = repository
    has_tag = ":" in name.rpartition("/")[2]
    if not has_tag and not at:
        name += ":latest"
    return f"{name}{at}{digest}"
