"""The leader's side of a snapshot's way to a follower: reads, sends, waits, gives up.

One stream for each follower at a time. What is sent next is decided in `transfer`.
"""

import asyncio
import logging
from collections.abc import Callable

from essaim_master.peer_transport import PeerTransport
from essaim_master.raft.messages import SnapshotMetadata
from essaim_master.snapshot.errors import SnapshotDamaged
from essaim_master.snapshot.files import SnapshotFiles
from essaim_master.snapshot.tasks import Fatal, RunBlocking, spawn
from essaim_master.snapshot.transfer import (
    CHUNK_BYTES_MAX,
    ChunkAnswer,
    ChunkVerdict,
    OutgoingSnapshot,
    make_chunk,
)
from essaim_shared.clock import Clock
from essaim_shared.ids import MemberId

_log = logging.getLogger(__name__)


Report = Callable[[MemberId, bool], None]
"""Told once for each stream how it ended."""


class _Stream:
    def __init__(self, outgoing: OutgoingSnapshot) -> None:
        self.outgoing = outgoing
        self.news: asyncio.Future[None] | None = None

    def wake(self) -> None:
        if self.news is not None and not self.news.done():
            self.news.set_result(None)


class SnapshotSender:
    def __init__(
        self,
        files: SnapshotFiles,
        peers: PeerTransport,
        clock: Clock,
        run_blocking: RunBlocking,
        report: Report,
        fatal: Fatal,
    ) -> None:
        self._files = files
        self._peers = peers
        self._clock = clock
        self._run_blocking = run_blocking
        self._report = report
        self._fatal = fatal
        self._streams: dict[MemberId, _Stream] = {}
        self._tasks: dict[MemberId, asyncio.Task[None]] = {}
        self.sent = 0
        """Streams that succeeded."""

    @property
    def needed(self) -> set[SnapshotMetadata]:
        """Whose files must stay while they are read."""
        return {stream.outgoing.snapshot for stream in self._streams.values()}

    def begin(self, to: MemberId, snapshot: SnapshotMetadata) -> None:
        """Stream a durable snapshot; one that is under way to the same member goes on."""
        if to in self._streams:
            return
        stream = _Stream(OutgoingSnapshot(snapshot, 0, self._clock.monotonic_s()))
        self._streams[to] = stream
        self._tasks[to] = spawn(self._run(to, stream), self._fatal)

    def answered(self, sender: MemberId, answer: ChunkAnswer) -> None:
        stream = self._streams.get(sender)
        if stream is not None:
            stream.outgoing.answered(answer, self._clock.monotonic_s())
            stream.wake()

    def pass_time(self, now_s: float) -> None:
        for stream in self._streams.values():
            stream.outgoing.pass_time(now_s)
            stream.wake()

    async def close(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _run(self, to: MemberId, stream: _Stream) -> None:
        is_held = False
        try:
            is_held = await self._send_all(to, stream)
        except (OSError, SnapshotDamaged) as error:
            _log.error("the snapshot for master %s can not be read: %s", to, error)
        finally:
            del self._streams[to], self._tasks[to]
        snapshot = stream.outgoing.snapshot
        if is_held:
            self.sent += 1
            _log.info("master %s has the snapshot of entry %d", to, snapshot.index)
        else:
            _log.warning("the snapshot of entry %d did not reach master %s", snapshot.index, to)
        self._report(to, is_held)

    async def _send_all(self, to: MemberId, stream: _Stream) -> bool:
        outgoing = stream.outgoing
        outgoing.total_bytes = await self._run_blocking(self._files.size_bytes, outgoing.snapshot)
        read = await self._run_blocking(self._files.reader, outgoing.snapshot)
        _log.info(
            "sending master %s the snapshot of entry %d, %d bytes",
            to,
            outgoing.snapshot.index,
            outgoing.total_bytes,
        )
        while not outgoing.is_over:
            stream.news = asyncio.get_running_loop().create_future()
            while (offset := outgoing.next_offset()) is not None:
                data = await self._run_blocking(read, offset, CHUNK_BYTES_MAX)
                if offset != outgoing.next_offset():
                    continue  # An answer came in between.
                if not data:
                    return False
                chunk = make_chunk(outgoing.snapshot, outgoing.total_bytes, offset, data)
                if not self._peers.send_chunk(to, chunk):
                    break
                outgoing.sent(len(data))
            if not outgoing.is_over:
                await stream.news
        return outgoing.verdict is ChunkVerdict.HELD
