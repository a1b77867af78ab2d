"""The driver's sense of time, and who is told when this master leads."""

import asyncio
import logging
from collections.abc import Callable

from essaim_shared.clock import Clock

TICK_S = 0.1
PASSES_AFTER_PAUSE = 3
"""Turns of the event loop that are given to the sockets when a tick came late."""

LeadershipCallback = Callable[[bool, int], None]

_log = logging.getLogger(__name__)


class Ticker:
    """Calls every TICK_S, but after a pause of the process once, not once for each that was missed
    (rule 3)."""

    def __init__(self, clock: Clock, tick: Callable[[], None]) -> None:
        self._clock = clock
        self._tick = tick
        self._task: asyncio.Task[None] | None = None
        self.lag_max_s = 0.0

    @property
    def is_ticking(self) -> bool:
        return self._task is not None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._keep_ticking())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None

    def take_lag_max_s(self) -> float:
        """The longest that a tick came late since the last call."""
        lag_s, self.lag_max_s = self.lag_max_s, 0.0
        return lag_s

    async def _keep_ticking(self) -> None:
        next_s = self._clock.monotonic_s() + TICK_S
        while True:
            await self._clock.sleep(next_s - self._clock.monotonic_s())
            lag_s = self._clock.monotonic_s() - next_s
            self.lag_max_s = max(self.lag_max_s, lag_s)
            if lag_s > TICK_S:
                # The process was paused. What the leader sent meanwhile is in the sockets: read
                # it first. The ticks that were missed stay missed.
                for _ in range(PASSES_AFTER_PAUSE):
                    await self._clock.sleep(0)
                next_s = self._clock.monotonic_s()
            next_s += TICK_S
            self._tick()


class Leadership:
    """Tells its subscribers of each change, once."""

    def __init__(self) -> None:
        self._announced: tuple[bool, int] = (False, 0)
        self._callbacks: list[LeadershipCallback] = []

    def subscribe(self, callback: LeadershipCallback) -> None:
        self._callbacks.append(callback)

    def announce(self, leads: bool, term: int) -> None:
        if leads == self._announced[0] and (not leads or self._announced[1] == term):
            return
        self._announced = (leads, term)
        _log.info("this master %s, term %d", "leads" if leads else "follows", term)
        for callback in self._callbacks:
            callback(leads, term)
