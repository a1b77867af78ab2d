"""The data of secrets and configs in memory, for as long as a task of this node uses it.

Each is fetched once for all tasks that ask meanwhile. The bounds are of what is kept: data beyond
them is fetched again for the next task, which costs a question and refuses nobody.
"""

import asyncio
from collections.abc import Iterable
from typing import Final

from essaim_agent.executor import Refused
from essaim_agent.payloads.references import PayloadKey, WantedFile
from essaim_agent.payloads.source import PAYLOAD_BYTES_MAX, PayloadSource
from essaim_shared.ids import TaskId

KEPT_MAX: Final = 4096
KEPT_BYTES_MAX: Final = 64 * 1024 * 1024
FETCHES_MAX: Final = 8
"""Questions to masters under way."""


class PayloadStore:
    """`data_for` until `release` of the same task."""

    def __init__(
        self,
        source: PayloadSource,
        kept_max: int = KEPT_MAX,
        kept_bytes_max: int = KEPT_BYTES_MAX,
    ) -> None:
        self._source = source
        self._kept_max, self._kept_bytes_max = kept_max, kept_bytes_max
        self._kept: dict[PayloadKey, bytes] = {}
        self._users: dict[PayloadKey, set[TaskId]] = {}
        self._fetches: dict[PayloadKey, asyncio.Task[bytes]] = {}
        self._slots = asyncio.Semaphore(FETCHES_MAX)
        self.kept_bytes = 0

    @property
    def kept(self) -> frozenset[PayloadKey]:
        return frozenset(self._kept)

    async def data_for(self, task_id: TaskId, wanted: WantedFile) -> bytes:
        """Raises Temporary and Refused, as the source does."""
        key = wanted.key
        self._users.setdefault(key, set()).add(task_id)
        kept = self._kept.get(key)
        if kept is not None:
            return kept
        fetch = self._fetches.get(key)
        if fetch is None:
            fetch = asyncio.create_task(self._fetch(key, wanted.title), name=f"fetch {key.id}")
            self._fetches[key] = fetch
            fetch.add_done_callback(lambda done: self._fetched(key, done))
        # One who does not wait any more leaves the others theirs; its time is bounded.
        return await asyncio.shield(fetch)

    async def _fetch(self, key: PayloadKey, title: str) -> bytes:
        async with self._slots:
            data = await self._source.fetch(key, title)
        if len(data) > PAYLOAD_BYTES_MAX:
            raise Refused(f"{title}: {len(data)} bytes are more than {PAYLOAD_BYTES_MAX}")
        return data

    def _fetched(self, key: PayloadKey, done: "asyncio.Task[bytes]") -> None:
        del self._fetches[key]
        if done.cancelled() or done.exception() is not None:
            return
        data = done.result()
        has_room = (
            len(self._kept) < self._kept_max and self.kept_bytes + len(data) <= self._kept_bytes_max
        )
        if has_room and key in self._users:
            self._kept[key] = data
            self.kept_bytes += len(data)

    def release(self, task_id: TaskId) -> None:
        """The task uses none any more; the last one's data is forgotten."""
        for key in [key for key, users in self._users.items() if task_id in users]:
            self._users[key].discard(task_id)
            if not self._users[key]:
                del self._users[key]
                self.kept_bytes -= len(self._kept.pop(key, b""))

    def keep_only(self, task_ids: Iterable[TaskId]) -> None:
        alive = set(task_ids)
        for task_id in {user for users in self._users.values() for user in users} - alive:
            self.release(task_id)

    async def close(self) -> None:
        """End the questions under way and forget everything."""
        fetches = tuple(self._fetches.values())
        for fetch in fetches:
            fetch.cancel()
        if fetches:
            await asyncio.wait(fetches)
        self._users.clear()
        self._kept.clear()
        self.kept_bytes = 0
