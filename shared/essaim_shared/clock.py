"""Time, as an argument. The only file of the project that reads a clock.

`monotonic_s` measures durations; `wall_ns` dates things for people. They are never mixed: a
wall clock may be set back, a monotonic one means nothing on another machine.
"""

import asyncio
import heapq
import itertools
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, Protocol


class Clock(Protocol):
    def monotonic_s(self) -> float:
        """Seconds since some moment; never goes back; for durations on this machine only."""
        ...

    def wall_ns(self) -> int:
        """Nanoseconds since the Unix epoch; for dates shown to people."""
        ...

    async def sleep(self, duration_s: float) -> None:
        """Return once `duration_s` seconds have passed on this clock."""
        ...


BEAT_S: Final = 0.25


def to_beat_s(clock: Clock) -> float:
    """Seconds until the next beat, which is the same for all who sleep until it.

    Loops of one process that look for something now and then wake together: a daemon with nothing
    to do pays for each time that it wakes, and hardly for what it then does.
    """
    return BEAT_S - clock.monotonic_s() % BEAT_S


class SystemClock:
    def monotonic_s(self) -> float:
        return time.monotonic()

    def wall_ns(self) -> int:
        return time.time_ns()

    async def sleep(self, duration_s: float) -> None:
        await asyncio.sleep(duration_s)


class ManualClock:
    """A clock that stands still until a test moves it. Sleepers wake in order of their time."""

    def __init__(self, wall_ns: int = 1_700_000_000_000_000_000) -> None:
        self._now_s = 1000.0
        self._wall_start_ns = wall_ns
        self._order = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def monotonic_s(self) -> float:
        return self._now_s

    def wall_ns(self) -> int:
        return self._wall_start_ns + int((self._now_s - 1000.0) * 1e9)

    async def sleep(self, duration_s: float) -> None:
        if duration_s <= 0:
            await asyncio.sleep(0)
            return
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now_s + duration_s, next(self._order), woken))
        await woken

    async def advance(self, duration_s: float, settle_rounds: int = 20) -> None:
        """Move time on, waking each sleeper at its own moment and letting it run.

        `settle_rounds` is how many turns of the event loop the woken code is given.
        """
        end_s = self._now_s + duration_s
        while self._sleepers and self._sleepers[0][0] <= end_s:
            wake_s, _, woken = heapq.heappop(self._sleepers)
            self._now_s = max(self._now_s, wake_s)
            if not woken.done():
                woken.set_result(None)
            for _ in range(settle_rounds):
                await asyncio.sleep(0)
        self._now_s = end_s
        for _ in range(settle_rounds):
            await asyncio.sleep(0)


async def wait_until(
    condition: Callable[[], bool], clock: Clock, timeout_s: float, poll_s: float = 0.01
) -> bool:
    """Wait for a condition that nothing announces; False when it did not come in `timeout_s`."""
    deadline_s = clock.monotonic_s() + timeout_s
    while not condition():
        if clock.monotonic_s() >= deadline_s:
            return False
        await clock.sleep(poll_s)
    return True


async def pause(clock: Clock, duration_s: float, event: asyncio.Event) -> bool:
    """Sleep, unless the event comes meanwhile; whether it came."""
    sleep = asyncio.ensure_future(clock.sleep(duration_s))
    came = asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait({sleep, came}, return_when=asyncio.FIRST_COMPLETED)
        return came.done()
    finally:
        sleep.cancel()
        came.cancel()


def rfc3339(wall_ns: int) -> str:
    """A date as Docker's API writes it: RFC 3339, nanoseconds, UTC."""
    seconds, nanoseconds = divmod(wall_ns, 1_000_000_000)
    moment = datetime.fromtimestamp(seconds, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{nanoseconds:09d}Z"
