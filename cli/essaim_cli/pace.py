"""The command line's own clock: the pace of a screen, the age of a task.

Daemons take `essaim_shared.clock`; importing it here would import asyncio, which costs a command
as long as everything else together. Nothing that is shown to a person needs to be replayed.
"""

import time
from datetime import UTC, datetime


def now_s() -> float:
    """Seconds since some moment, never going back."""
    return time.monotonic()


def utc_now() -> datetime:
    return datetime.now(UTC)


def pause(duration_s: float) -> None:
    time.sleep(duration_s)
