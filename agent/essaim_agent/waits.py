"""Two ways of not waiting to the end for something."""

import asyncio
from collections.abc import Awaitable

from essaim_shared.clock import Clock


async def unless(event: asyncio.Event, work: Awaitable[None]) -> None:
    """Do `work`, but leave it when the event comes meanwhile."""
    working = asyncio.ensure_future(work)
    waiting = asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait({working, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
    finally:
        waiting.cancel()
        await _leave(working)


async def within(clock: Clock, limit_s: float, work: Awaitable[None]) -> bool:
    """Do `work`, but leave it after so long; whether it was done."""
    working = asyncio.ensure_future(work)
    limit = asyncio.ensure_future(clock.sleep(limit_s))
    try:
        await asyncio.wait({working, limit}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
            return True
        return False
    finally:
        limit.cancel()
        await _leave(working)


async def _leave(working: "asyncio.Future[None]") -> None:
    if not working.done():
        working.cancel()
        await asyncio.wait({working})
