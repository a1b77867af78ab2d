"""The one spelling of an image's name, as docker's clients rewrite it.

They read a service, complete its image (`busybox` → `busybox:latest`) and write it back, even to
scale it. Were the name stored as it was typed, their scale would look like a new image and
replace every task.
"""

_DEFAULT_DOMAIN = "docker.io"
_LEGACY_DOMAIN = "index.docker.io"
_OFFICIAL = "library"


def familiar_image(image: str) -> str:
    """Docker Hub's domain and `library/` left out, `:latest` added where there is neither tag nor
    digest (distribution/reference: ParseNormalizedNamed, TagNameOnly, FamiliarString).

    `image` fits the reference grammar (`validation`).
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
