"""How many connections one address, and all together, may keep open without having proved who
they are, and how many the holder of a certificate: it may have been revoked. Pure."""

from collections import Counter
from collections.abc import Mapping
from typing import Final

from essaim_shared.trust.roles import Role

STRANGERS_PER_ADDRESS_MAX: Final = 64
"""A fraction of `server.CONNECTIONS_MAX`, and more than health checks and joining need."""
STRANGERS_MAX: Final = 450
"""Half of it: many addresses together leave the other half to who shows a certificate."""
HOLDERS_MAX: Final[Mapping[str, int]] = {Role.AGENT.value: 32, Role.USER.value: 300}
"""By the role in the certificate. A node fetches eight secrets at once; masters are not bounded."""


class Strangers:
    """Counts connections by whom they are of: the address, or the name in the certificate."""

    def __init__(
        self, per_address_max: int = STRANGERS_PER_ADDRESS_MAX, total_max: int = STRANGERS_MAX
    ) -> None:
        self._per_address_max = per_address_max
        self._total_max = total_max
        self._counts: Counter[str] = Counter()

    def __len__(self) -> int:
        return self._counts.total()

    def come(self, host: str) -> bool:
        """Whether there is room for one more from there; if so it is counted until it goes."""
        if self._counts.get(host, 0) >= self._per_address_max or len(self) >= self._total_max:
            return False
        self._counts[host] += 1
        return True

    def go(self, host: str) -> None:
        """It has left, or is none any more."""
        self._counts[host] -= 1
        if self._counts[host] <= 0:
            del self._counts[host]
