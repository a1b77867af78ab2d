"""The names by which Docker's clients look for a certificate (DOCKER_CERT_PATH), beside our own."""

from pathlib import Path
from typing import Final

_AUTHORITIES: Final = "authorities.pem"
_OWN: Final = "own.pem"
"""As in `essaim_shared.trust.identity`, which would take longer to import."""

DOCKER_NAMES: Final = (
    ("ca.pem", _AUTHORITIES),
    # Docker's clients take from a file what they need: the certificate here, the key there.
    ("cert.pem", _OWN),
    ("key.pem", _OWN),
)


def add_docker_names(directory: Path) -> None:
    """Links, so that they lead to the new certificate too once it is renewed. Raises OSError."""
    for name, own in DOCKER_NAMES:
        link = directory / name
        link.unlink(missing_ok=True)
        link.symlink_to(own)
