"""In which order a bus client tries its servers."""

from collections import deque
from collections.abc import Sequence

from essaim_shared.errors import ConfigError


class ServerPool:
    """The configured servers, the one to try next in front.

    At first that is the configured order: the server of the client's own host stands there in
    front. Afterwards the server left longest ago comes first. Going back to the configured order
    each time would be wrong: of three servers, with the first two cut off from the rest, a client
    would go to and fro between those two and never try the third. A stopped process still accepts
    TCP connections, so a server that was just left must not be chosen again at once either.
    """

    def __init__(self, servers: Sequence[str]) -> None:
        """Raises ConfigError when there is no server; a server named twice counts once."""
        if not servers:
            raise ConfigError("no bus server is configured: name at least one")
        self._servers = deque(dict.fromkeys(servers))

    @property
    def next(self) -> str:
        return self._servers[0]

    def leave(self, server: str) -> None:
        """It failed, or was left on purpose: all others are tried before it."""
        self._servers.remove(server)
        self._servers.append(server)

    def in_order(self) -> tuple[str, ...]:
        return tuple(self._servers)
