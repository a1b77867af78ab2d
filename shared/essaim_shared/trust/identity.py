"""Where one process keeps who it is: a directory that nobody else reads.

    identity.json   whose identity it is, and where the cluster was when it was written
    authorities.pem whom it believes: the certificates of the cluster's authorities
    own.pem         its private key and its certificate, in one file so that both change together
    bus.seed        the key with which it logs in to the bus (masters and agents)

Each file is written whole, with mode 0600. A renewed certificate replaces `own.pem`, another set of
authorities `authorities.pem`; `tls.Tls` of a running process takes either over.
"""

from pathlib import Path
from typing import Final

import msgspec

from essaim_shared.errors import ConfigError
from essaim_shared.sealing import READ_BY_OTHERS, write_private
from essaim_shared.trust.roles import Role
from essaim_shared.undecodable import UNDECODABLE

ABOUT_FILE: Final = "identity.json"
AUTHORITIES_FILE: Final = "authorities.pem"
OWN_FILE: Final = "own.pem"
BUS_SEED_FILE: Final = "bus.seed"
FILE_BYTES_MAX: Final = 256 * 1024
DIRECTORY_MODE: Final = 0o700


class About(msgspec.Struct, frozen=True):
    cluster_id: str
    name: str
    """Of a node its id, of a master its name (`member_id`), of a user his."""
    role: Role
    masters: tuple[str, ...] = ()
    """`HOST:PORT` of the masters' API, as far as they were known."""
    bus_servers: tuple[str, ...] = ()
    """`nats://HOST:PORT`."""
    generation: int = 1
    """Of the cluster's trust anchors that `authorities.pem` holds (`renewal`)."""


class Identity(msgspec.Struct, frozen=True):
    """Its repr shows no key."""

    about: About
    authorities_pem: bytes
    own_pem: bytes
    """Private key, certificate, and what leads from there to an older authority."""
    bus_seed: str = ""

    def __repr__(self) -> str:
        return f"Identity(about={self.about!r})"


def read_identity(directory: Path) -> Identity:
    """Raises ConfigError: what is missing or wrong, and what to do."""
    about = _read(directory / ABOUT_FILE)
    try:
        known = msgspec.json.decode(about, type=About)
    except UNDECODABLE as error:
        raise ConfigError(f"{directory / ABOUT_FILE}: damaged: join the cluster again") from error
    seed_file = directory / BUS_SEED_FILE
    return Identity(
        about=known,
        authorities_pem=_read(directory / AUTHORITIES_FILE),
        own_pem=_read(directory / OWN_FILE),
        bus_seed=_read(seed_file).decode("ascii", "replace").strip() if seed_file.exists() else "",
    )


def checked_about(directory: Path, role: Role, cluster_id: str) -> About:
    """Whose directory it is. Raises ConfigError when that is not a process of this role in this
    cluster."""
    about = read_identity(directory).about
    if about.role is not role:
        wanted = role.value.removeprefix("essaim-")
        raise ConfigError(f"identity_dir: {directory} holds an {about.role.value}, no {wanted}")
    if about.cluster_id != cluster_id:
        raise ConfigError(
            f"identity_dir: {directory} is of cluster {about.cluster_id!r}, this process is to be "
            f"one of {cluster_id!r}"
        )
    return about


def write_identity(directory: Path, identity: Identity) -> None:
    """`identity.json` comes last: without it there is no identity yet."""
    directory.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
    directory.chmod(DIRECTORY_MODE)
    if identity.bus_seed:
        write_private(directory / BUS_SEED_FILE, identity.bus_seed.encode() + b"\n")
    write_authorities(directory, identity.authorities_pem)
    write_own(directory, identity.own_pem)
    write_about(directory, identity.about)


def write_about(directory: Path, about: About) -> None:
    write_private(directory / ABOUT_FILE, msgspec.json.encode(about) + b"\n")


def write_authorities(directory: Path, authorities_pem: bytes) -> None:
    write_private(directory / AUTHORITIES_FILE, authorities_pem)


def write_own(directory: Path, own_pem: bytes) -> None:
    write_private(directory / OWN_FILE, own_pem)


def has_identity(directory: Path) -> bool:
    return (directory / ABOUT_FILE).exists()


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_mode & READ_BY_OTHERS:
            raise ConfigError(f"{path}: others may read it: run chmod 600 {path}")
        with path.open("rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
    except FileNotFoundError as error:
        raise ConfigError(
            f"{path}: is missing: this machine has not joined the cluster (essaim cluster join)"
        ) from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from error
    if len(content) > FILE_BYTES_MAX:
        raise ConfigError(f"{path}: larger than {FILE_BYTES_MAX} bytes; is this the right file?")
    return content
