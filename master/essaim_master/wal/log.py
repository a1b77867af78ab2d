"""`Wal`: opens the log, appends synced batches, moves on from segment to segment.

A segment is made as `.tmp`, filled with zeros and synced; when it is needed its first batch
(segment start, hard state, batch end) is written and synced, then it gets its real name, then
the directory is synced. Only then entries go into it. A spare is always prepared in the
background, so that neither the zeros nor a full disk stand in the way of a write: when the disk
is full there is a whole segment of room left, and an alarm.

Once a snapshot is recorded, segments that it makes superfluous are removed, oldest first, each
removal durable before the next one, so that those which are left always follow one another. The
log keeps what follows the snapshot *before* the newest, in case that one turns out damaged.

Where the directory has keys, records are sealed with the newest. A segment is written with one
key: when the ring has a newer one, the next write begins another segment.
"""

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor

import msgspec

from essaim_master.at_rest.cipher import Place, RecordSealer
from essaim_master.raft.messages import HardState, SnapshotMetadata
from essaim_master.snapshot.files import SnapshotFiles
from essaim_master.wal.errors import WalCorrupt
from essaim_master.wal.files import LogFile, LogFiles
from essaim_master.wal.records import (
    FORMAT_VERSION,
    BatchEncoder,
    Identity,
    Seal,
    SegmentStart,
    SnapshotRecord,
    WalBatch,
)
from essaim_master.wal.recovery import (
    Recovered,
    SegmentName,
    Tail,
    choose_snapshot,
    parse_segment_name,
    recover,
)

SEGMENT_BYTES = 16 * 1024 * 1024
SPARE_FILE = "spare.tmp"
SPARE_ATTEMPT_EVERY_BATCHES = 1024
"""After a failure to prepare the spare (a full disk) it is tried again after so many batches."""

SNAPSHOTS_KEPT = 2


_log = logging.getLogger(__name__)


class Wal:
    """Not for several threads at once. Every OSError is final: the caller ends the process."""

    def __init__(
        self,
        files: LogFiles,
        identity: Identity,
        segment_bytes: int = SEGMENT_BYTES,
        preparer: Executor | None = None,
    ) -> None:
        """Use `Wal.open`."""
        self._files = files
        self._keys = files.keys
        self._sealer: RecordSealer | None = None
        self._key_ids: dict[int, frozenset[bytes]] = {}
        """Which data keys each segment on disk needs, by its sequence."""
        self._identity = identity
        self._segment_bytes = segment_bytes
        self._hard_state = HardState()
        self._last_index = 0
        self._snapshots: tuple[SnapshotMetadata, ...] = ()
        """The newest ones recorded; each segment repeats them at its beginning."""
        self._segments: list[SegmentName] = []
        """Those on disk, oldest first; the last is the current one."""
        self._format_version = FORMAT_VERSION
        """Of the current segment."""
        self._preparer = preparer or ThreadPoolExecutor(1, thread_name_prefix="wal-spare")
        self._spare: Future[LogFile] | None = None
        self._is_spare_new = False
        """Its making was ordered, and how that ended was not looked at yet."""
        self._batches_without_spare = 0
        self._segment: SegmentName | None = None
        self._file: LogFile | None = None
        self._offset = 0
        self._checksum = 0
        self._first_batch_bytes = -1
        """Size of the current segment's first batch, if this process began the segment."""
        self.is_short_of_space = False
        """The spare segment could not be made: the disk is full, or nearly."""

    @classmethod
    def open(
        cls,
        files: LogFiles,
        identity: Identity,
        segment_bytes: int = SEGMENT_BYTES,
        preparer: Executor | None = None,
    ) -> tuple["Wal", Recovered]:
        """Open the log of `identity`, or begin it in an empty directory.

        `preparer` makes the spare segments; by default a thread of the log's own (a simulator
        brings one without). It is shut down with the log.

        Raises WalCorrupt, ForeignWal, ConfigError (the directory is in use, a key is missing) and
        OSError.
        """
        files.lock()
        wal = cls(files, identity, segment_bytes, preparer)
        is_open = False
        try:
            recovered = wal._recover()
            is_open = True
        finally:
            if not is_open:
                wal.close()
        return wal, recovered

    def append(self, batches: Sequence[WalBatch]) -> None:
        """Make all batches durable together with one write and one sync."""
        if self._file is None:
            raise OSError("the write-ahead log is closed")
        if self._is_of_another_time():
            self._begin_segment(self._first_index(batches))
        # The encoder must know where the batch starts before the segment is chosen by its size.
        encoder = self._encode(batches)
        is_full = self._offset + encoder.size_bytes > self._segment_bytes
        if is_full and not self._is_fresh():
            self._begin_segment(self._first_index(batches))
            encoder = self._encode(batches)
        self._file.write_at(encoder.buffers, self._offset)
        self._file.sync_data()
        self._offset += encoder.size_bytes
        self._checksum = encoder.checksum
        can_remove = False
        for batch in batches:
            if batch.snapshot is not None:
                can_remove |= self._note_snapshot(batch.snapshot)
            if batch.entries:
                self._last_index = batch.entries[-1].index
            if batch.hard_state is not None:
                self._hard_state = batch.hard_state
        if can_remove:
            self._remove_covered_segments()
        self._keep_spare()

    @property
    def identity(self) -> Identity:
        """Whose log this is, with the incarnation that it was found or begun with."""
        return self._identity

    @property
    def snapshots(self) -> tuple[SnapshotMetadata, ...]:
        """Those whose files must be kept, oldest first. Remove all others after a start, before a
        snapshot is recorded: what a start found damaged must not be there for the next one."""
        return self._snapshots

    @property
    def key_ids(self) -> frozenset[bytes]:
        """The data keys that its segments need. From any thread."""
        return frozenset().union(*self._key_ids.values())

    @property
    def size_bytes(self) -> int:
        """What the segments take on the disk, the spare not counted."""
        return len(self._segments) * self._segment_bytes

    @property
    def alarm(self) -> str | None:
        """What somebody must do about the disk, while there is still time."""
        if not self.is_short_of_space:
            return None
        return (
            "no room on the disk to prepare the next segment of the write-ahead log: free some "
            f"space before the last {max(0, self._segment_bytes - self._offset)} bytes are used, "
            "then this master stops"
        )

    def begin_incarnation(self, incarnation: str) -> None:
        """Go on as another life of the cluster: for offline tools only. Durable on return."""
        self._identity = msgspec.structs.replace(self._identity, incarnation=incarnation)
        self._begin_segment(self._last_index + 1)

    def close(self) -> None:
        """Close the files. What was appended is durable already."""
        self._preparer.shutdown(wait=True)
        if self._file is not None:
            self._file.close()
            self._file = None
        if self._spare is not None and self._spare.exception() is None:
            self._spare.result().close()
        self._spare = None
        self._change_sealer(None)
        self._files.unlock()

    def _encode(self, batches: Sequence[WalBatch]) -> BatchEncoder:
        sequence = 0 if self._segment is None else self._segment.sequence
        encoder = BatchEncoder(self._offset, self._checksum, self._seal_of(sequence))
        for batch in batches:
            encoder.add(batch)
        encoder.finish()
        return encoder

    def _recover(self) -> Recovered:
        names = []
        for file_name in self._files.names():
            if file_name.endswith(".tmp"):
                # A segment that never got its name holds nothing that anybody was told of.
                self._files.remove(file_name)
            elif (name := parse_segment_name(file_name)) is not None:
                names.append(name)
        if not names:
            self._begin_segment(first_index=1)
            self._keep_spare()
            return Recovered(HardState(), [], None)
        names.sort()
        segments = ((name, self._files.read(str(name))) for name in names)
        replayed, tail = recover(segments, names[-1], self._identity, self._keys)
        snapshots = SnapshotFiles(self._files)
        recovered = choose_snapshot(replayed, snapshots.is_intact, names[0])
        self._file = self._files.open(str(tail.segment))
        # A process that was killed leaves writes and names in the kernel's memory, where we just
        # read them. From here on they count as durable, so they must be.
        self._file.sync_data()
        self._files.sync_directory()
        if tail.torn_bytes:
            self._cut_torn(tail)
        self._identity = msgspec.structs.replace(self._identity, incarnation=replayed.incarnation)
        self._format_version = replayed.format_version
        self._snapshots = _kept(replayed.snapshots, recovered.snapshot, snapshots.is_there)
        self._segments = names
        self._segment = tail.segment
        self._offset = tail.offset
        self._checksum = tail.checksum
        self._hard_state = recovered.hard_state
        self._last_index = replayed.base + len(replayed.entries)
        self._key_ids = dict(replayed.key_ids)
        self._go_on_sealing(tail.segment)
        self._keep_spare()
        return recovered

    def _go_on_sealing(self, segment: SegmentName) -> None:
        """After a start: in the same segment if it is sealed with the newest key, and no other."""
        if self._keys is None:
            return
        self._keys.ensure()
        newest = self._keys.newest_id
        if newest is not None and self._key_ids.get(segment.sequence) == frozenset((newest,)):
            self._change_sealer(RecordSealer(self._keys.take(), self._keys.entropy))

    def _is_of_another_time(self) -> bool:
        """The current segment has another format, or is not sealed with the newest key."""
        if self._format_version != FORMAT_VERSION:
            return True
        return self._keys is not None and (
            self._sealer is None or self._sealer.key_id != self._keys.newest_id
        )

    def _change_sealer(self, sealer: RecordSealer | None) -> None:
        if self._keys is not None and self._sealer is not None:
            self._keys.release(self._sealer.key_id)
        self._sealer = sealer

    def _seal_of(self, sequence: int) -> Seal | None:
        sealer = self._sealer
        if sealer is None:
            return None
        return lambda record_type, offset, payload: sealer.seal(
            Place(record_type, sequence, offset), payload
        )

    def _cut_torn(self, tail: Tail) -> None:
        """Keep a copy of the torn segment for inspection, then zero the torn batch."""
        if self._file is None:
            raise WalCorrupt(str(tail.segment), tail.offset, "the torn segment is not open")
        _log.warning(
            "write-ahead log %s: the last batch was cut by a crash, %d bytes at offset %d dropped "
            "(nobody was told of them); a copy is kept as .broken",
            tail.segment,
            tail.torn_bytes,
            tail.offset,
        )
        self._files.copy(str(tail.segment), f"{tail.segment}.broken")
        self._files.sync_directory()
        self._file.write_at((bytes(tail.torn_bytes),), tail.offset)
        self._file.sync_data()

    def _is_fresh(self) -> bool:
        """Whether the segment holds nothing yet but its first batch: a batch that is larger than
        a whole segment then extends the file."""
        return self._offset == self._first_batch_bytes

    def _begin_segment(self, first_index: int) -> None:
        """Make the spare the current segment."""
        sequence = 0 if self._segment is None else self._segment.sequence + 1
        name = SegmentName(sequence, first_index)
        if self._keys is not None and self._is_of_another_time():
            self._change_sealer(RecordSealer(self._keys.take(), self._keys.entropy))
        if self._sealer is not None:
            self._key_ids = {**self._key_ids, sequence: frozenset((self._sealer.key_id,))}
        file = self._take_spare()
        encoder = BatchEncoder(0, self._checksum, self._seal_of(sequence))
        encoder.add_segment_start(
            SegmentStart(FORMAT_VERSION, self._identity, sequence, self._checksum)
        )
        for snapshot in self._snapshots:
            encoder.add(WalBatch(snapshot=SnapshotRecord(snapshot)))
        encoder.add(WalBatch(hard_state=self._hard_state))
        encoder.finish()
        file.write_at(encoder.buffers, 0)
        file.sync_data()
        self._files.rename(SPARE_FILE, str(name))
        self._files.sync_directory()
        if self._file is not None:
            self._file.close()
        self._file = file
        self._segment = name
        self._segments.append(name)
        self._format_version = FORMAT_VERSION
        self._offset = self._first_batch_bytes = encoder.size_bytes
        self._checksum = encoder.checksum

    def _first_index(self, batches: Sequence[WalBatch]) -> int:
        indexes = [batch.entries[0].index for batch in batches if batch.entries]
        return min([self._last_index + 1, *indexes])

    def _note_snapshot(self, record: SnapshotRecord) -> bool:
        """Whether segments may have become superfluous."""
        if record.resets_log:
            self._snapshots = (record.metadata,)
            self._last_index = record.metadata.index
            return True
        if record.metadata not in self._snapshots:
            self._snapshots = (*self._snapshots, record.metadata)[-SNAPSHOTS_KEPT:]
        return len(self._snapshots) == SNAPSHOTS_KEPT

    def _remove_covered_segments(self) -> None:
        """Remove the segments that hold nothing behind the oldest snapshot that is kept."""
        first_needed = self._snapshots[0].index + 1
        while len(self._segments) > 1 and self._segments[1].first_index <= first_needed:
            segment = self._segments.pop(0)
            covered = str(segment)
            if f"{covered}.broken" in self._files.names():
                self._files.remove(f"{covered}.broken")
            self._files.remove(covered)
            self._files.sync_directory()
            self._key_ids = {
                sequence: ids
                for sequence, ids in self._key_ids.items()
                if sequence != segment.sequence
            }

    def _take_spare(self) -> LogFile:
        """The spare segment, made now if there is none. Raises OSError (a full disk)."""
        spare, self._spare = self._spare, None
        if spare is not None:
            error = spare.exception()
            if error is None:
                return spare.result()
            self._note_failed_spare(error)
        return self._files.create(SPARE_FILE, self._segment_bytes)

    def _keep_spare(self) -> None:
        """Have the next segment prepared in the background, and notice when that failed."""
        if self._spare is None:
            self._batches_without_spare += 1
            if not self.is_short_of_space or (
                self._batches_without_spare % SPARE_ATTEMPT_EVERY_BATCHES == 0
            ):
                self._is_spare_new = True
                self._spare = self._preparer.submit(
                    self._files.create, SPARE_FILE, self._segment_bytes
                )
        elif self._spare.done() and self._is_spare_new:
            self._is_spare_new = False
            error = self._spare.exception()
            if error is None:
                self.is_short_of_space = False
            else:
                self._spare = None
                self._note_failed_spare(error)

    def _note_failed_spare(self, error: BaseException) -> None:
        if not isinstance(error, OSError):
            raise error
        self.is_short_of_space = True
        _log.error(
            "ALARM: no room to prepare the next segment of the write-ahead log (%s); %d bytes of "
            "the present one are left, then this master stops: free some space",
            error,
            max(0, self._segment_bytes - self._offset),
        )


def _kept(
    recorded: Sequence[SnapshotMetadata],
    chosen: SnapshotMetadata | None,
    is_there: Callable[[SnapshotMetadata], bool],
) -> tuple[SnapshotMetadata, ...]:
    """What counts as kept after a start: newer ones than the chosen one were damaged.

    One that an earlier start found damaged still has its record, but no file any more: if it
    counted, the intact one before it would be removed in its stead.
    """
    if chosen is None:
        return ()
    usable = [one for one in recorded if one.index <= chosen.index and is_there(one)]
    return tuple(usable[-SNAPSHOTS_KEPT:])
