"""An agent's identity while it runs: renewed, and known to be worth nothing once the node was
removed. The work is done by `essaim_shared.trust.renewal`; this is how an agent uses it."""

import logging
import random
from collections.abc import Callable
from pathlib import Path

from essaim_agent.config import AgentConfig
from essaim_shared.clock import Clock
from essaim_shared.errors import EssaimError
from essaim_shared.trust.renewal import IdentityRenewal, Refused
from essaim_shared.trust.tls import Tls

LOOK_PERIOD_S = 30.0
"""While no leader talks to this node: how often the masters are asked whether they know it."""

_log = logging.getLogger(__name__)


class IdentityKeeper:
    """One per agent that has an identity."""

    def __init__(self, renewal: IdentityRenewal, clock: Clock) -> None:
        self._renewal = renewal
        self._clock = clock
        self._said = ""

    @property
    def masters(self) -> tuple[str, ...]:
        """`HOST:PORT` of the masters' API, as far as they are known."""
        return self._renewal.masters

    def note(self, generation: int, masters: tuple[str, ...] = ()) -> None:
        """What a leader said of the cluster's trust anchors and masters."""
        self._renewal.note(generation, masters)

    async def run(self) -> None:
        """Until cancelled."""
        await self._renewal.run()

    async def look(self, is_in_session: Callable[[], bool]) -> None:
        """Until cancelled: say so in the log when this node was removed. It hears that from no
        leader, since the bus does not let it in any more."""
        while True:
            await self._clock.sleep(LOOK_PERIOD_S)
            if is_in_session():
                self._said = ""
                continue
            try:
                await self._renewal.confirm()
            except Refused as error:
                if str(error) != self._said:
                    self._said = str(error)
                    _log.error("the masters refuse this node: %s", error)
            except (EssaimError, OSError):
                continue  # no master is there either: that is told by others


def identity_keeper(
    config: AgentConfig, tls: Tls | None, clock: Clock, rng: random.Random
) -> IdentityKeeper | None:
    """None without an identity. Raises ConfigError."""
    if tls is None:
        return None
    renewal = IdentityRenewal(Path(config.identity_dir), tls, clock, rng)
    return IdentityKeeper(renewal, clock)


def nothing_noted(generation: int, masters: tuple[str, ...]) -> None:
    """For an agent without an identity."""
