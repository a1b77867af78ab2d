"""The follower's side: chunks are written in order, the whole is checked, then installed.

Whatever goes wrong on the way (a full disk, bytes that do not pass) ends this stream with a word
to the sender, and nothing else: the state here is still what it was.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from essaim_master.peer_transport import PeerTransport
from essaim_master.raft.messages import SnapshotMetadata
from essaim_master.snapshot.errors import SnapshotDamaged
from essaim_master.snapshot.files import SnapshotFile, SnapshotFiles
from essaim_master.snapshot.tasks import Fatal, RunBlocking, spawn
from essaim_master.snapshot.transfer import (
    WINDOW_CHUNKS_MAX,
    ChunkAnswer,
    ChunkVerdict,
    IncomingSnapshot,
    Placement,
    SnapshotChunk,
)
from essaim_shared.ids import MemberId

CHUNKS_WAITING_MAX = 2 * WINDOW_CHUNKS_MAX
"""Received and not yet written; more are dropped, their sender sends them again."""

Install = Callable[[SnapshotMetadata], Awaitable[None]]
"""Called with a snapshot that is durable under its name."""

_log = logging.getLogger(__name__)


class _Work(NamedTuple):
    sender: MemberId
    snapshot: SnapshotMetadata
    placement: Placement
    is_last: bool


class SnapshotReceiver:
    def __init__(
        self,
        files: SnapshotFiles,
        peers: PeerTransport,
        run_blocking: RunBlocking,
        is_needed: Callable[[SnapshotMetadata], bool],
        install: Install,
        fatal: Fatal,
    ) -> None:
        self._files = files
        self._peers = peers
        self._run_blocking = run_blocking
        self._is_needed = is_needed
        self._install = install
        self._fatal = fatal
        self._incoming = IncomingSnapshot()
        self._work: deque[_Work] = deque()
        self._task: asyncio.Task[None] | None = None
        self._file: SnapshotFile | None = None
        self.installing: SnapshotMetadata | None = None
        self.received = 0
        """Snapshots that were installed."""
        self.problem: str | None = None
        """Why the last one could not be taken, until one is."""

    def chunk_arrived(self, sender: MemberId, chunk: SnapshotChunk) -> None:
        if self.installing is not None or len(self._work) >= CHUNKS_WAITING_MAX:
            return
        if not self._is_needed(chunk.snapshot):
            self._answer(sender, chunk.snapshot, 0, ChunkVerdict.HELD)
            return
        placement = self._incoming.place(sender, chunk)
        if placement is None:
            return
        is_last = bool(placement.data) and self._incoming.is_whole
        self._work.append(_Work(sender, chunk.snapshot, placement, is_last))
        if self._task is None:
            self._task = spawn(self._write_all(), self._fatal)

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None
        self._close_file()

    async def _write_all(self) -> None:
        try:
            while self._work:
                await self._carry_out(self._work.popleft())
        finally:
            self._task = None

    async def _carry_out(self, work: _Work) -> None:
        try:
            await self._run_blocking(self._write, work.placement)
            if work.is_last:
                self.installing = work.snapshot
                await self._run_blocking(self._finish, work.snapshot)
        except (OSError, SnapshotDamaged) as error:
            self._fail(work, error)
            return
        if not work.is_last:
            wanted = work.placement.offset + len(work.placement.data)
            self._answer(work.sender, work.snapshot, wanted, ChunkVerdict.GO_ON)
            return
        self._incoming.forget()
        await self._install(work.snapshot)
        self.installing = None
        self.received += 1
        self.problem = None
        self._answer(work.sender, work.snapshot, 0, ChunkVerdict.HELD)

    def _write(self, placement: Placement) -> None:
        if placement.begins or self._file is None:
            self._close_file()
            self._file = self._files.receive()
        if placement.data:
            self._file.add(placement.data)

    def _finish(self, snapshot: SnapshotMetadata) -> None:
        if self._file is not None:
            self._file.finish()
        self._files.adopt(snapshot)
        self._close_file()

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _fail(self, work: _Work, error: OSError | SnapshotDamaged) -> None:
        self.problem = f"the snapshot of entry {work.snapshot.index} can not be taken: {error}"
        _log.error("ALARM: %s", self.problem)
        self._close_file()
        self._incoming.forget()
        self._work.clear()
        self.installing = None
        self._answer(work.sender, work.snapshot, 0, ChunkVerdict.FAILED)

    def _answer(
        self, to: MemberId, snapshot: SnapshotMetadata, wanted: int, verdict: ChunkVerdict
    ) -> None:
        self._peers.answer_chunk(to, ChunkAnswer(snapshot.index, snapshot.term, wanted, verdict))
