"""When a master makes itself a new data key: every 90 days, and when it is told to.

What is sealed with the key before stays as it is; it goes as the log goes on, and the key with it.
"""

import asyncio
import logging
from typing import Final

from essaim_master.at_rest.key_ring import KeyRing
from essaim_master.snapshot.tasks import RunBlocking
from essaim_shared.clock import Clock
from essaim_shared.errors import Conflict, Unavailable

DATA_KEY_AGE_S_MAX: Final = 90 * 24 * 3600
LOOK_EVERY_S: Final = 3600.0
NS_PER_S: Final = 1_000_000_000

_log = logging.getLogger(__name__)


def is_due(created_ns: int, now_ns: int) -> bool:
    """Whether a key made then is to be replaced now. A clock that went back changes nothing."""
    return now_ns - created_ns > DATA_KEY_AGE_S_MAX * NS_PER_S


class KeyRotation:
    def __init__(
        self, ring: KeyRing, clock: Clock, run_blocking: RunBlocking = asyncio.to_thread
    ) -> None:
        self._ring = ring
        self._clock = clock
        self._run_blocking = run_blocking
        self._turn = asyncio.Lock()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            async with self._turn:
                keys = self._ring.keys
                if keys and is_due(keys[-1].created_ns, self._clock.wall_ns()):
                    try:
                        await self._run_blocking(self._ring.rotate)
                    except (OSError, Conflict) as error:
                        _log.error("no new data key can be written: %s; trying again later", error)
            await self._clock.sleep(LOOK_EVERY_S)

    async def rotate(self) -> str:
        """A new key now; its id. The log goes on with it at the next write. Raises Unavailable,
        and Conflict when too many are still needed."""
        try:
            async with self._turn:
                key_id: bytes = await self._run_blocking(self._ring.rotate)
        except OSError as error:
            raise Unavailable(
                f"no new data key can be written: {error.strerror or error}; the old one is used on"
            ) from error
        return key_id.hex()
