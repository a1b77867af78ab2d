"""A hash of the whole state at moments that the log itself names, so that masters can compare.

The leader writes a HashCheck; applying it, every master takes its state at that very entry (the
references are copied, nothing is encoded yet) and hashes it in a thread. Equal logs must give
equal hashes; a difference means that a master's memory, disk or program is not what it should be.
The way is that of CockroachDB's consistency checks (docs/RFCS/20150806_consistency_check.md).
"""

import asyncio
import logging
from collections.abc import Callable

import msgspec

from essaim_master.kv.store import KeyValueStore
from essaim_master.state.cluster_state import AppliedChanges, ClusterState
from essaim_master.state.keys import Kind

HASHES_KEPT_MAX = 16

_log = logging.getLogger(__name__)


class StateHash(msgspec.Struct, frozen=True):
    revision: int
    hash: str


class StateHashes:
    """Belongs to one event loop."""

    def __init__(self, store: KeyValueStore, state: ClusterState) -> None:
        self._store = store
        self._state = state
        self._hashes: dict[int, str] = {}
        self._working: asyncio.Task[None] | None = None
        self._unsubscribe: Callable[[], None] | None = None

    def start(self) -> None:
        self._unsubscribe = self._state.subscribe(self._on_changes)

    async def stop(self) -> None:
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None
        if self._working is not None:
            await asyncio.wait([self._working])

    @property
    def latest(self) -> StateHash | None:
        for revision, value in reversed(self._hashes.items()):
            return StateHash(revision, value)
        return None

    def at(self, revision: int) -> StateHash | None:
        """None: not hashed (yet)."""
        value = self._hashes.get(revision)
        return None if value is None else StateHash(revision, value)

    def _on_changes(self, applied: AppliedChanges) -> None:
        if not any(change.kind is Kind.HASH_CHECK for change in applied.changes):
            return
        if self._working is not None and not self._working.done():
            _log.info("a hash of the state is left out: the one before is still being made")
            return
        frozen = self._store.freeze()
        self._working = asyncio.get_running_loop().create_task(
            self._hash(applied.revision, frozen.state_hash), name="state hash"
        )

    async def _hash(self, revision: int, compute: Callable[[], str]) -> None:
        self._hashes[revision] = await asyncio.to_thread(compute)
        while len(self._hashes) > HASHES_KEPT_MAX:
            del self._hashes[next(iter(self._hashes))]
