"""How late the event loop is: the time by which a sleeper wakes later than it asked for.

Elections and heartbeats assume that no callback takes more than 50 ms (design, times). This
gauge shows when one does.
"""

import asyncio
import logging
from typing import Final

from essaim_shared.clock import Clock, to_beat_s
from essaim_shared.log import fields

_log = logging.getLogger(__name__)

LAG_MAX_S: Final = 0.05
"""A longer lag is counted and logged."""


class LoopLag:
    """`run` measures until it is cancelled; the numbers may be read at any time."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.last_s = 0.0
        self.max_s = 0.0
        """Since the start of the process, or since `take_max_s` was called."""
        self.late_count = 0
        """How often the lag exceeded LAG_MAX_S: a counter, never reset."""

    async def run(self) -> None:
        while True:
            asked_s, wait_s = self._clock.monotonic_s(), to_beat_s(self._clock)
            await self._clock.sleep(wait_s)
            self.record(self._clock.monotonic_s() - asked_s - wait_s)

    def record(self, lag_s: float) -> None:
        self.last_s = max(0.0, lag_s)
        self.max_s = max(self.max_s, self.last_s)
        if self.last_s > LAG_MAX_S:
            self.late_count += 1
            _log.warning("the event loop was late %s", fields(lag_ms=round(self.last_s * 1000)))

    def take_max_s(self) -> float:
        """The greatest lag since the last call."""
        taken_s, self.max_s = self.max_s, 0.0
        return taken_s

    def start(self) -> "asyncio.Task[None]":
        """Run in the background; the caller keeps the task and cancels it."""
        return asyncio.get_running_loop().create_task(self.run(), name="loop lag")
