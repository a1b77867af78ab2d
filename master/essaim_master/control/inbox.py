"""A bounded line of messages between a bus handler and the loop that answers them in batches.

One round of Raft costs the same for one status and for five hundred: whatever came in while the
last batch was being committed forms the next one, so nothing waits when there is little to do.
"""

import asyncio
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Inbox(Generic[T]):
    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._waiting: deque[T] = deque()
        self._wake = asyncio.Event()
        self.dropped_count = 0
        """Messages for which there was no room; their senders repeat them."""

    def put(self, item: T) -> None:
        if len(self._waiting) >= self._limit:
            self.dropped_count += 1
            return
        self._waiting.append(item)
        self._wake.set()

    async def take(self, count_max: int) -> list[T]:
        """What waits, at least one, at most `count_max`, in order of arrival."""
        while not self._waiting:
            self._wake.clear()
            await self._wake.wait()
        return [self._waiting.popleft() for _ in range(min(count_max, len(self._waiting)))]
