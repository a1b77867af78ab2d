"""The driver's part of snapshots: when they are made, what is recorded, what is removed.

The order of effects stands here once. Making: freeze in the loop, write the file in a thread,
record it in the log; when the record is durable let the core compact, and remove older files.
Installing: the received file is durable; the core begins anew from it; the record that resets the
log is written before anything that follows; the state machine is restored; older files go.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from essaim_master.peer_transport import PeerTransport
from essaim_master.raft.core import RaftCore
from essaim_master.raft.messages import SnapshotMetadata
from essaim_master.raft_machine import Applier, FrozenMachine
from essaim_master.raft_metrics import RaftMetrics, SyncFigures
from essaim_master.snapshot.files import SnapshotFiles
from essaim_master.snapshot.format import new_header, snapshot_bytes
from essaim_master.snapshot.receiving import SnapshotReceiver
from essaim_master.snapshot.sending import SnapshotSender
from essaim_master.snapshot.settings import SnapshotSettings
from essaim_master.snapshot.tasks import RunBlocking, spawn
from essaim_master.wal.log import Wal
from essaim_master.wal.records import SnapshotRecord
from essaim_master.wal.recovery import Recovered
from essaim_shared.clock import Clock
from essaim_shared.ids import MemberId

_log = logging.getLogger(__name__)


class Recorder(Protocol):
    """The rest of the driver, as far as snapshots need it."""

    def record_snapshot(self, record: SnapshotRecord, done: Callable[[], None]) -> None:
        """Write it to the log, in order; `done` is called in the loop once it is durable."""
        ...

    def ask_for_turn(self) -> None: ...

    def fatal(self, error: BaseException) -> None: ...


class SnapshotKeeper:
    def __init__(
        self,
        wal: Wal,
        files: SnapshotFiles,
        core: RaftCore,
        applier: Applier,
        peers: PeerTransport,
        recorder: Recorder,
        clock: Clock,
        run_blocking: RunBlocking,
        settings: SnapshotSettings,
    ) -> None:
        self._wal = wal
        self._files = files
        self._core = core
        self._applier = applier
        self._recorder = recorder
        self._clock = clock
        self._run_blocking = run_blocking
        self._settings = settings
        self.sender = SnapshotSender(
            files, peers, clock, run_blocking, self._report, recorder.fatal
        )
        self.receiver = SnapshotReceiver(
            files, peers, run_blocking, core.needs_snapshot, self._install, recorder.fatal
        )
        self._making: asyncio.Task[None] | None = None
        self._cleaning: asyncio.Task[None] | None = None
        self.newest = wal.snapshots[-1] if wal.snapshots else None
        self.last_bytes = 0 if self.newest is None else files.size_bytes(self.newest)
        self.last_duration_s = 0.0
        """From freezing the state to its durable file."""
        self.made = 0
        self.problem: str | None = None
        """Why the last one could not be made, until one is."""

    # Making

    def consider(self) -> None:
        """Begin a snapshot if one is due; one at a time."""
        applier = self._applier
        if (
            self._making is not None
            or applier.is_restoring
            or not self._settings.is_due(
                applier.entries_since_snapshot, applier.bytes_since_snapshot, self.last_bytes
            )
        ):
            return
        metadata = SnapshotMetadata(
            applier.index, applier.term, self._core.configuration_at(applier.index)
        )
        frozen = applier.freeze()
        self._making = spawn(self._make(metadata, frozen), self._recorder.fatal)

    async def _make(self, metadata: SnapshotMetadata, frozen: FrozenMachine) -> None:
        started_s = self._clock.monotonic_s()
        identity = self._wal.identity
        header = new_header(identity, metadata)
        try:
            written = await self._run_blocking(self._files.write, header, frozen.chunks())
        except OSError as error:
            # Nothing is lost: the log has it all. It only grows, until a later one succeeds.
            self.problem = f"a snapshot can not be written: {error}"
            _log.error("ALARM: %s; the log grows until one can: free some space", self.problem)
            self._making = None
            return
        self.problem = None
        self.last_bytes = written.file_bytes
        self.last_duration_s = self._clock.monotonic_s() - started_s
        self._making = None
        if self.newest is not None and self.newest.index >= metadata.index:
            return  # The leader's was installed meanwhile.
        self.made += 1
        self.newest = metadata
        self._recorder.record_snapshot(SnapshotRecord(metadata), lambda: self._recorded(metadata))

    def _recorded(self, metadata: SnapshotMetadata) -> None:
        """The log knows a snapshot of our own: what came long before it can go."""
        if self.newest == metadata:
            kept = max(1, metadata.index + 1 - self._settings.trailing_entries)
            self._core.compacted(metadata, max(kept, self._core.log.first_index))
        self._clean()

    # Installing

    async def _install(self, metadata: SnapshotMetadata) -> None:
        """The leader's snapshot is durable here: begin anew from it, if it is still needed."""
        if not self._core.install_snapshot(metadata):
            self._clean()
            return
        self.newest = metadata
        self._applier.begin_restore()
        recorded: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._recorder.record_snapshot(
            SnapshotRecord(metadata, resets_log=True), lambda: recorded.set_result(None)
        )
        chunks = await self._run_blocking(list, self._files.chunks(metadata))
        self._applier.restore(metadata, chunks)
        self.last_bytes = sum(map(len, chunks))
        _log.info("went on from the leader's snapshot of entry %d", metadata.index)
        self._recorder.ask_for_turn()
        await recorded
        self._clean()

    # Everything else

    def backup(self) -> Iterator[bytes]:
        """The bytes of a snapshot file of what is applied now, for `essaim cluster backup`. The
        state is frozen at once; the iterator may be used in any thread."""
        applier = self._applier
        metadata = SnapshotMetadata(
            applier.index, applier.term, self._core.configuration_at(applier.index)
        )
        header = new_header(self._wal.identity, metadata)
        return snapshot_bytes(header, applier.freeze_for_backup().chunks())

    def _report(self, member: MemberId, ok: bool) -> None:
        self._core.report_snapshot(member, ok)
        self._recorder.ask_for_turn()

    @property
    def alarms(self) -> list[str]:
        return [text for text in (self.problem, self.receiver.problem) if text is not None]

    def pass_time(self, now_s: float) -> None:
        self.sender.pass_time(now_s)

    async def close(self) -> None:
        await self.sender.close()
        await self.receiver.close()
        for task in (self._making, self._cleaning):
            if task is not None:
                await asyncio.wait([task])

    def _clean(self) -> None:
        """Remove the files that nobody needs any more, in a thread."""
        if self._cleaning is not None:
            return
        kept = (*self._wal.snapshots, *self.sender.needed)
        self._cleaning = spawn(self._remove_older(kept), self._recorder.fatal)

    async def _remove_older(self, kept: Sequence[SnapshotMetadata]) -> None:
        await self._run_blocking(self._files.remove_older, kept)
        try:
            await self._run_blocking(self._files.drop_unused_keys, lambda: self._wal.key_ids)
        except OSError as error:
            # They are only superfluous, and their file may be on another disk than the log.
            _log.warning("old data keys cannot be dropped (%s): again at the next snapshot", error)
        self._cleaning = None


def recover_state(
    open_log: Callable[[], tuple[Wal, Recovered]], files: SnapshotFiles, applier: Applier
) -> tuple[Wal, Recovered]:
    """Open the log and restore the state of its snapshot. In a thread: both read much."""
    wal, recovered = open_log()
    is_whole = False
    try:
        files.remove_all_but(wal.snapshots)
        if recovered.snapshot is not None:
            applier.restore(recovered.snapshot, files.chunks(recovered.snapshot))
        is_whole = True
    finally:
        if not is_whole:
            wal.close()
    return wal, recovered


def collect_metrics(
    sync: SyncFigures, wal: Wal, applier: Applier, keeper: SnapshotKeeper, **others: float
) -> RaftMetrics:
    """The figures of one moment; `others` are those fields that only the driver knows."""
    return RaftMetrics(
        sync=sync,
        applies_waiting=applier.waiting,
        snapshot_index=0 if keeper.newest is None else keeper.newest.index,
        snapshots_made=keeper.made,
        snapshots_sent=keeper.sender.sent,
        snapshots_received=keeper.receiver.received,
        snapshot_last_s=keeper.last_duration_s,
        snapshot_last_bytes=keeper.last_bytes,
        log_bytes_since_snapshot=applier.bytes_since_snapshot,
        log_disk_bytes=wal.size_bytes,
        alarms=(*([] if wal.alarm is None else [wal.alarm]), *keeper.alarms),
        **others,  # type: ignore[arg-type]
    )
