"""With what one process shows the bus servers who it is."""

import ssl
from collections.abc import Callable
from pathlib import Path

import msgspec

from essaim_shared.errors import ConfigError
from essaim_shared.trust.identity import read_identity
from essaim_shared.trust.tls import Tls


class BusLogin(msgspec.Struct, frozen=True):
    """Its repr shows no key."""

    tls: Callable[[], ssl.SSLContext]
    """The context for the next connection. The bus servers have the certificates of masters."""
    seed: str
    """`trust.bus_keys`: signs what the server has drawn for this login."""
    name: str
    """Whose identity it is."""

    def __repr__(self) -> str:
        return f"BusLogin(name={self.name!r})"


def bus_login(identity_dir: str, tls: Tls | None) -> BusLogin | None:
    """None without an identity. Raises ConfigError for one without a key for the bus."""
    if tls is None:
        return None
    identity = read_identity(Path(identity_dir))
    if not identity.bus_seed:
        raise ConfigError(f"{identity_dir} holds no key for the bus: join the cluster again")
    return BusLogin(lambda: tls.client, identity.bus_seed, identity.about.name)
