"""From the bytes of the segments back to the hard state and the entries. Pure.

The question at the first unreadable byte is: torn, or damaged? The rules, in order:

1. not in the last segment: damaged (a segment is left only after its last sync);
2. an intact batch end lies behind it whose batch *starts* behind it: damaged (that batch was
   written after the sync of everything before it);
3. an intact batch end lies behind it in the same batch: the disk wrote the batch's sectors in
   some order. Torn if one of its sectors still holds only zeros, damaged otherwise;
4. nothing intact behind it: torn, unless the bytes are nearly the batch end expected there.
   A torn batch end is cut short with zeros; a flipped bit in the middle is not.

Torn bytes were never acknowledged to anybody and are cut away. Damage raises WalCorrupt.

The log may begin in the midst of history: segments that a snapshot covers are removed, oldest
first. Then `choose_snapshot` finds the newest intact one that the log reaches back to.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeVar

from essaim_master.at_rest.cipher import DataKeys, Place, RecordOpener
from essaim_master.raft.messages import Entry, HardState, SnapshotMetadata
from essaim_master.wal.errors import ForeignWal, WalCorrupt
from essaim_master.wal.records import (
    BATCH_END_RECORD_BYTES,
    CODEC_MSGPACK,
    CODEC_SEALED,
    FORMAT_VERSION,
    OLDEST_FORMAT_VERSION,
    Identity,
    Record,
    RecordType,
    SnapshotRecord,
    decode_batch_end,
    decode_entries,
    decode_hard_state,
    decode_segment_start,
    decode_snapshot,
    expected_batch_end,
    find_batch_end,
    read_record,
)
from essaim_shared.sealing import KEY_ID_BYTES, SealError
from essaim_shared.undecodable import UNDECODABLE

_Decoded = TypeVar("_Decoded")

SECTOR_BYTES = 512
"""The least that a disk writes whole."""

FLIPPED_BITS_MAX = 16
"""Up to so many wrong bits in 320, a record is taken for a damaged batch end."""


class Recovered(NamedTuple):
    """What a master remembers."""

    hard_state: HardState
    entries: list[Entry]
    """All that follow the snapshot, or all there ever were."""
    snapshot: SnapshotMetadata | None


class Replayed(NamedTuple):
    """What the segments say, before a snapshot is chosen."""

    hard_state: HardState
    entries: list[Entry]
    base: int
    """Index of the entry before the first of `entries`; 0 if the log reaches to the beginning."""
    snapshots: tuple[SnapshotMetadata, ...]
    """Of which the log knows that they were made, oldest first. Their files may be gone."""
    format_version: int
    """Of the last segment."""
    incarnation: str
    key_ids: dict[int, frozenset[bytes]]
    """With which data keys each segment is sealed, by its sequence."""


class SegmentName(NamedTuple):
    sequence: int
    first_index: int
    """Lowest index an entry of this segment may have that no earlier segment holds."""

    def __str__(self) -> str:
        return f"{self.sequence:016x}-{self.first_index:016x}.wal"


class Tail(NamedTuple):
    """Where writing goes on."""

    segment: SegmentName
    offset: int
    checksum: int
    torn_bytes: int
    """Bytes of a torn batch from `offset` on that must be zeroed before anything is written."""


def parse_segment_name(name: str) -> SegmentName | None:
    """None for files that are not segments."""
    stem, dot, suffix = name.partition(".")
    sequence, dash, first_index = stem.partition("-")
    if not (dot and dash) or suffix != "wal" or len(sequence) != 16 or len(first_index) != 16:
        return None
    if set(sequence + first_index) - set("0123456789abcdef"):
        return None
    return SegmentName(int(sequence, 16), int(first_index, 16))


def recover(
    segments: Iterable[tuple[SegmentName, bytes]],
    last: SegmentName,
    identity: Identity,
    keys: DataKeys | None = None,
) -> tuple[Replayed, Tail]:
    """Replay the segments in order. Raises WalCorrupt, ForeignWal and DataKeyMissing.

    The incarnation is told, not checked: nobody but the log knows it.
    """
    replay = _Replay(identity, RecordOpener(keys))
    tail = None
    for name, data in segments:
        tail = _Reader(name, data, replay, is_last=name == last).read()
    if tail is None:
        raise WalCorrupt(str(last), 0, "there is no such segment")
    return replay.result(), tail


def choose_snapshot(
    replayed: Replayed, is_intact: Callable[[SnapshotMetadata], bool], where: SegmentName
) -> Recovered:
    """Join the log to the newest intact snapshot that it reaches back to.

    A damaged one falls back to the one before, or to the log alone where it is whole. Raises
    WalCorrupt when entries between the two are missing.
    """
    chosen = next((one for one in reversed(replayed.snapshots) if is_intact(one)), None)
    reached = 0 if chosen is None else chosen.index
    if reached < replayed.base:
        raise WalCorrupt(
            str(where),
            0,
            f"entries {reached + 1} to {replayed.base} are missing: their segments are gone, and "
            "no intact snapshot holds them",
        )
    hard_state, entries = replayed.hard_state, replayed.entries
    if chosen is None:
        return Recovered(hard_state, entries, None)
    position = chosen.index - replayed.base
    if position > len(entries) or chosen.index > hard_state.commit:
        raise WalCorrupt(
            str(where),
            0,
            f"the snapshot of entry {chosen.index} is past the log, which ends at entry "
            f"{replayed.base + len(entries)} and is committed up to {hard_state.commit}",
        )
    if position > 0 and entries[position - 1].term != chosen.term:
        raise WalCorrupt(
            str(where),
            0,
            f"the snapshot of entry {chosen.index} is of term {chosen.term}, the log has that "
            f"entry from term {entries[position - 1].term}",
        )
    return Recovered(hard_state, entries[position:], chosen)


class _Replay:
    """What the records said so far."""

    def __init__(self, identity: Identity, opener: RecordOpener) -> None:
        self.identity = identity
        self.opener = opener
        self.key_ids: dict[int, set[bytes]] = {}
        self.hard_state = HardState()
        self.entries: list[Entry] = []
        self.base = 0
        self.snapshots: dict[SnapshotMetadata, None] = {}
        self.sequence: int | None = None
        self.checksum = 0
        self.format_version = FORMAT_VERSION
        self.incarnation = ""

    def result(self) -> Replayed:
        return Replayed(
            self.hard_state,
            self.entries,
            self.base,
            tuple(sorted(self.snapshots, key=lambda one: one.index)),
            self.format_version,
            self.incarnation,
            {sequence: frozenset(ids) for sequence, ids in self.key_ids.items()},
        )

    @property
    def last_index(self) -> int:
        return self.base + len(self.entries)

    def add_entries(self, added: list[Entry]) -> str | None:
        """Append, replacing what was there from the first index on. Returns what is wrong."""
        if not added:
            return "a record of entries holds none"
        first_index = added[0].index
        for position, entry in enumerate(added):
            if entry.index != first_index + position:
                return f"entry {entry.index} stands where {first_index + position} should"
        kept = first_index - 1
        if not 0 <= kept <= self.last_index:
            return f"entry {first_index} does not follow entry {self.last_index}"
        if kept < self.hard_state.commit:
            return f"entry {first_index} replaces committed entry {self.hard_state.commit}"
        if kept < self.base:
            # A new leader replaced a tail that began in a segment which is gone by now.
            self.base = kept
        del self.entries[kept - self.base :]
        self.entries += added
        return None

    def add_snapshot(self, record: SnapshotRecord) -> str | None:
        snapshot = record.metadata
        if record.resets_log:
            if snapshot.index < self.hard_state.commit:
                return (
                    f"the snapshot of entry {snapshot.index} takes back committed entry "
                    f"{self.hard_state.commit}"
                )
            self.entries = []
            self.base = snapshot.index
            self.snapshots.clear()
        self.snapshots[snapshot] = None
        return None

    def set_hard_state(self, state: HardState) -> str | None:
        before = self.hard_state
        if state.term < before.term or state.commit < before.commit:
            return f"hard state goes back from {before} to {state}"
        if state.commit > self.last_index:
            return f"commit {state.commit} is past the last entry {self.last_index}"
        self.hard_state = state
        return None


class _Reader:
    """Reads one segment, batch by batch: nothing of a batch counts before its end was seen."""

    def __init__(self, name: SegmentName, data: bytes, replay: _Replay, is_last: bool) -> None:
        self._name = name
        self._raw = data
        self._data = memoryview(data)
        self._replay = replay
        self._is_last = is_last

    def read(self) -> Tail:
        written_bytes = len(self._raw.rstrip(b"\0"))
        offset = batch_start = self._read_start()
        checksum = batch_checksum = self._replay.checksum
        batch: list[tuple[int, Record]] = []
        while offset < written_bytes:
            record = read_record(self._data, offset, checksum)
            if record is None:
                break
            batch.append((offset, record))
            offset, checksum = record.next_offset, record.checksum
            if record.type == RecordType.BATCH_END:
                self._check_batch_end(record, batch_start, batch[-1][0])
                for record_offset, part in batch[:-1]:
                    self._replay_record(record_offset, part)
                batch.clear()
                batch_start, batch_checksum = offset, checksum
        # What follows the last whole batch is one of: nothing, torn, damaged.
        torn_bytes = max(0, written_bytes - batch_start)
        if torn_bytes:
            self._check_torn(offset, batch_start, checksum)
        elif batch_start == 0:
            raise self._corrupt(0, "the segment holds no batch")
        self._replay.checksum = batch_checksum
        return Tail(self._name, batch_start, batch_checksum, torn_bytes)

    def _read_start(self) -> int:
        """Check the first record; return the offset at which the first batch is read again."""
        record = read_record(self._data, 0, 0)
        if record is None or record.type != RecordType.SEGMENT_START:
            raise self._corrupt(0, "the segment does not begin with a segment start")
        start = self._decode(0, decode_segment_start, record)
        if not OLDEST_FORMAT_VERSION <= start.format_version <= FORMAT_VERSION:
            raise ForeignWal(
                f"write-ahead log {self._name} has format {start.format_version}, this version "
                f"reads {OLDEST_FORMAT_VERSION} and {FORMAT_VERSION}: start the version that "
                "wrote it"
            )
        _check_identity(start.identity, self._replay.identity)
        replay = self._replay
        replay.format_version = start.format_version
        replay.incarnation = start.identity.incarnation
        if start.sequence != self._name.sequence:
            raise self._corrupt(0, f"it was written as segment {start.sequence}")
        if replay.sequence is None:
            # Those before it may be gone because a snapshot covers them: `choose_snapshot` asks.
            replay.base = self._name.first_index - 1
        elif start.sequence != replay.sequence + 1:
            raise self._corrupt(0, f"it follows segment {replay.sequence}: one is missing")
        elif start.previous_checksum != replay.checksum:
            raise self._corrupt(0, "it does not continue the segment before it")
        replay.sequence = start.sequence
        replay.checksum = 0
        return 0

    def _check_batch_end(self, record: Record, batch_start: int, offset: int) -> None:
        batch_end = decode_batch_end(record.payload)
        if batch_end is None or batch_end.batch_start != batch_start:
            raise self._corrupt(offset, f"a batch end is not that of the batch at {batch_start}")

    def _replay_record(self, offset: int, record: Record) -> None:
        if record.codec == CODEC_SEALED:
            record = record._replace(payload=self._opened(offset, record))
        elif record.codec != CODEC_MSGPACK:
            raise self._corrupt(offset, f"codec {record.codec} is unknown to this version")
        if record.type == RecordType.ENTRIES:
            problem = self._replay.add_entries(self._decode(offset, decode_entries, record))
        elif record.type == RecordType.HARD_STATE:
            problem = self._replay.set_hard_state(self._decode(offset, decode_hard_state, record))
        elif record.type == RecordType.SNAPSHOT:
            problem = self._replay.add_snapshot(self._decode(offset, decode_snapshot, record))
        elif record.type == RecordType.SEGMENT_START and offset == 0:
            problem = None
        else:
            problem = f"record type {record.type} is unknown to this version"
        if problem is not None:
            raise self._corrupt(offset, problem)

    def _opened(self, offset: int, record: Record) -> memoryview:
        sequence = self._name.sequence
        self._replay.key_ids.setdefault(sequence, set()).add(bytes(record.payload[:KEY_ID_BYTES]))
        try:
            return memoryview(
                self._replay.opener.open(
                    Place(record.type, sequence, offset),
                    record.payload,
                    f"write-ahead log {self._name}",
                )
            )
        except SealError as error:
            raise self._corrupt(offset, f"the seal of a record does not open: {error}") from error

    def _check_torn(self, damage: int, batch_start: int, checksum: int) -> None:
        """Return if the bytes from `batch_start` on are a torn batch; raise WalCorrupt if not.

        `damage` is the first unreadable byte, `checksum` the last good one before it.
        """
        if not self._is_last:
            raise self._corrupt(damage, "an unreadable record in a segment that was finished")
        if batch_start == 0:
            raise self._corrupt(damage, "the segment's first batch, synced before use, is cut")
        found = find_batch_end(self._data, self._raw, damage)
        while found is not None:
            offset, batch_end = found
            if batch_end.batch_start > damage:
                raise self._corrupt(damage, f"an unreadable record before the batch at {offset}")
            if not self._has_empty_sector(damage, offset):
                raise self._corrupt(damage, f"an unreadable record in the batch up to {offset}")
            found = find_batch_end(self._data, self._raw, offset + BATCH_END_RECORD_BYTES)
        expected = expected_batch_end(batch_start, checksum)
        actual = self._raw[damage : damage + BATCH_END_RECORD_BYTES]
        if _is_flipped(actual.ljust(BATCH_END_RECORD_BYTES, b"\0"), expected):
            raise self._corrupt(damage, "the batch end there has flipped bits")

    def _has_empty_sector(self, start: int, end: int) -> bool:
        """Whether the part of some sector inside [start, end) holds only zeros."""
        while start < end:
            sector_end = min(end, (start // SECTOR_BYTES + 1) * SECTOR_BYTES)
            if not self._raw[start:sector_end].strip(b"\0"):
                return True
            start = sector_end
        return False

    def _decode(
        self, offset: int, decode: Callable[[memoryview], _Decoded], record: Record
    ) -> _Decoded:
        try:
            return decode(record.payload)
        except UNDECODABLE as error:
            raise self._corrupt(offset, f"the payload does not decode: {error}") from error

    def _corrupt(self, offset: int, reason: str) -> WalCorrupt:
        return WalCorrupt(str(self._name), offset, reason)


def _is_flipped(actual: bytes, expected: bytes) -> bool:
    """Whether `actual` is `expected` with a few bits changed, rather than cut off by zeros."""
    body = actual.strip(b"\0")
    if not body or expected.startswith(actual.rstrip(b"\0")):
        return False
    if expected.endswith(actual.lstrip(b"\0")):
        return False
    difference = int.from_bytes(actual, "big") ^ int.from_bytes(expected, "big")
    return difference.bit_count() <= FLIPPED_BITS_MAX


def _check_identity(found: Identity, wanted: Identity) -> None:
    for what, is_value, should_value in (
        ("cluster", found.cluster_id, wanted.cluster_id),
        ("member", found.member_id, wanted.member_id),
    ):
        if is_value != should_value:
            raise ForeignWal(
                f"the write-ahead log belongs to {what} {is_value!r}, this master is configured as "
                f"{what} {should_value!r}: correct the configuration or use another data directory"
            )
    if found.first_configuration != wanted.first_configuration:
        raise ForeignWal(
            f"the cluster was formed by {', '.join(found.first_configuration.voters)}, the "
            f"configuration says {', '.join(wanted.first_configuration.voters)}: the static list "
            "of first masters must not be edited; members are added and removed by commands"
        )
