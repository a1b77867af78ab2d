"""Masters that hold secrets and configs, in memory, with failures on demand."""

import asyncio
from collections import Counter
from collections.abc import Iterable

from essaim_agent.executor import Refused, Temporary
from essaim_agent.payloads.references import (
    PayloadKey,
    WantedFile,
    wanted_files,
)
from essaim_agent.payloads.store import PayloadStore
from essaim_shared.ids import TaskId
from essaim_shared.objects import Task


class FakePayloads:
    """A `PayloadSource`."""

    def __init__(self) -> None:
        self.held: dict[PayloadKey, bytes] = {}
        self.is_away = False
        self.asked: Counter[PayloadKey] = Counter()
        self.may_answer = asyncio.Event()
        """Cleared: questions wait."""
        self.may_answer.set()
        self.was_asked = asyncio.Event()

    def put(self, key: PayloadKey, data: bytes) -> None:
        self.held[key] = data

    async def fetch(self, key: PayloadKey, title: str) -> bytes:
        self.asked[key] += 1
        self.was_asked.set()
        await self.may_answer.wait()
        if self.is_away:
            raise Temporary(f"no master answers for {title}")
        if key not in self.held:
            raise Refused(f"{title}: no task of this node uses it")
        return self.held[key]


GivenFiles = dict[TaskId, tuple[tuple[WantedFile, bytes], ...]]


class FakeTaskFiles:
    """`TaskFiles` that lie nowhere: what each task was given is in `given`."""

    def __init__(self, source: FakePayloads, given: GivenFiles | None = None) -> None:
        """`given` by an earlier agent, as a tmpfs outlives one."""
        self.source = source
        self._store = PayloadStore(source)
        self.given: GivenFiles = {} if given is None else given

    def open(self) -> None:
        return

    async def prepare(self, task: Task) -> None:
        wanted = wanted_files(task.spec.container)
        if wanted and task.id not in self.given:
            files = [(file, await self._store.data_for(task.id, file)) for file in wanted]
            self.given[task.id] = tuple(files)

    def release(self, task_id: TaskId) -> None:
        self._store.release(task_id)
        self.given.pop(task_id, None)

    def keep_only(self, task_ids: Iterable[TaskId]) -> None:
        kept = set(task_ids)
        self._store.keep_only(kept)
        for task_id in self.given.keys() - kept:
            del self.given[task_id]

    async def close(self) -> None:
        await self._store.close()
