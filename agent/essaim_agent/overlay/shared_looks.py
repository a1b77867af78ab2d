"""One look at the kernel's flows for all tasks that ask at the same time.

When a service is removed, all its tasks on a node ask at once how many connections they still
serve. A look costs the more the more flows there are, however many tasks it is for.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from essaim_shared.clock import Clock
from essaim_shared.ids import TaskId

AGE_MAX_S: Final = 0.1
"""So long what was seen counts as seen now."""

Look = Callable[[frozenset[TaskId]], Awaitable[Mapping[TaskId, int]]]
"""For each of these tasks its TCP connections."""


class SharedLooks:
    def __init__(self, look: Look, clock: Clock) -> None:
        self._look = look
        self._clock = clock
        self._one_at_a_time = asyncio.Lock()
        self._seen: Mapping[TaskId, int] = {}
        self._seen_s = float("-inf")
        self._waiting: set[TaskId] = set()
        """Whoever is first in the queue looks for all who stand in it."""
        self._answered: set[TaskId] = set()
        """Since the last look. They ask again: a task that ends is looked at until it has."""

    async def connections(self, task_id: TaskId) -> int:
        """What the look raises, this raises."""
        self._waiting.add(task_id)
        try:
            async with self._one_at_a_time:
                age_s = self._clock.monotonic_s() - self._seen_s
                if age_s > AGE_MAX_S or task_id not in self._seen:
                    asked = frozenset((task_id, *self._waiting, *self._answered))
                    self._seen = await self._look(asked)
                    self._seen_s = self._clock.monotonic_s()
                    self._answered.clear()
                self._answered.add(task_id)
                return self._seen[task_id]
        finally:
            self._waiting.discard(task_id)
