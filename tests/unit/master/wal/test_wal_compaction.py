"""A log that begins in the midst of history: removed segments, snapshots, and the former format."""

import base64
import json
import random
import zlib
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from essaim_master.raft.messages import (
    Configuration,
    Entry,
    EntryKind,
    HardState,
    SnapshotMetadata,
)
from essaim_master.snapshot.files import SnapshotFiles, name_of
from essaim_master.snapshot.format import new_header
from essaim_master.wal.errors import ForeignWal, WalCorrupt
from essaim_master.wal.log import Wal
from essaim_master.wal.memory_files import MemoryLogFiles
from essaim_master.wal.reading import read_identity, read_log
from essaim_master.wal.records import (
    FORMAT_VERSION,
    OLDEST_FORMAT_VERSION,
    BatchEncoder,
    Identity,
    SegmentStart,
    SnapshotRecord,
    WalBatch,
)
from essaim_shared.ids import MemberId

VOTERS = Configuration((MemberId("m1"), MemberId("m2"), MemberId("m3")))
FORMER_FORMAT = Path(__file__).with_name("samples") / "format_2.json"


def written(bench, batches: int = 60):
    """A log of several segments, all of it committed; the log and its last index."""
    wal, _ = bench.open()
    for first in range(1, 5 * batches, 5):
        entries = bench.entries(first, first + 4, size_bytes=300)
        wal.append([WalBatch(entries, HardState(1, None, first + 4))])
    return wal, 5 * batches


def snapshot(bench, wal, index: int) -> SnapshotMetadata:
    """Made and recorded as the driver does."""
    metadata = SnapshotMetadata(index, 1, VOTERS)
    header = new_header(bench.identity, metadata)
    SnapshotFiles(bench.files).write(header, [b"state at", str(index).encode()])
    wal.append([WalBatch(snapshot=SnapshotRecord(metadata))])
    return metadata


def started(bench) -> Wal:
    """The log of a start that cleans up, as the driver does it."""
    wal, _ = bench.open()
    SnapshotFiles(bench.files).remove_all_but(wal.snapshots)
    return wal


def test_segments_go_only_when_two_snapshots_cover_them(bench):
    wal, _ = written(bench)
    before = bench.segments()
    snapshot(bench, wal, 150)
    assert bench.segments() == before
    snapshot(bench, wal, 250)
    wal.close()
    assert before[0] not in bench.segments()
    recovered = bench.recover()
    assert recovered.snapshot == SnapshotMetadata(250, 1, VOTERS)
    assert [entry.index for entry in recovered.entries] == list(range(251, 301))


def test_each_removal_is_durable_before_the_next(bench):
    wal, _ = written(bench, 100)
    snapshot(bench, wal, 400)
    bench.files.calls.clear()
    snapshot(bench, wal, 450)
    removals = [
        call for call in bench.files.calls if call.split()[0] in ("remove", "sync_directory")
    ]
    assert len(removals) > 6
    after_naming = removals[1:] if removals[0] == "sync_directory" else removals
    kinds = [call.split()[0] for call in after_naming]
    assert kinds == ["remove", "sync_directory"] * (len(kinds) // 2)
    wal.close()


def test_a_damaged_newest_snapshot_falls_back_to_the_one_before(bench):
    wal, last = written(bench)
    older = snapshot(bench, wal, 150)
    newer = snapshot(bench, wal, 250)
    wal.close()
    bench.files.overwrite(name_of(newer), 30, b"\xff")
    recovered = bench.recover()
    assert recovered.snapshot == older
    assert [entry.index for entry in recovered.entries] == list(range(151, last + 1))


def test_a_snapshot_once_found_damaged_does_not_displace_the_intact_one_before_it(bench):
    """Its record stays in the log, its file does not: the two that are kept are the two that
    are there, also after one more restart."""
    wal, last = written(bench, 80)
    snapshot(bench, wal, 100)
    older = snapshot(bench, wal, 150)
    spoiled = snapshot(bench, wal, 250)
    wal.close()
    bench.files.overwrite(name_of(spoiled), 30, b"\xff")
    started(bench).close()
    wal = started(bench)
    newest = snapshot(bench, wal, 350)
    wal.close()
    wal = started(bench)
    assert wal.snapshots == (older, newest)
    wal.close()
    bench.files.overwrite(name_of(newest), 30, b"\xff")
    recovered = bench.recover()
    assert recovered.snapshot == older
    assert [entry.index for entry in recovered.entries] == list(range(151, last + 1))


def test_no_intact_snapshot_and_a_log_without_its_beginning_is_damage(bench):
    wal, _ = written(bench)
    for index in (150, 250):
        bench.files.overwrite(name_of(snapshot(bench, wal, index)), 30, b"\xff")
    wal.close()
    with pytest.raises(WalCorrupt, match=r"no intact snapshot holds them.*join again under a new"):
        bench.open()


def test_a_snapshot_that_no_record_names_does_not_count(bench):
    wal, last = written(bench)
    metadata = SnapshotMetadata(last, 1, VOTERS)
    SnapshotFiles(bench.files).write(new_header(bench.identity, metadata), [b"state"])
    wal.close()
    assert bench.recover().snapshot is None


def test_a_snapshot_from_the_leader_voids_the_log_before_it(bench):
    wal, last = written(bench)
    metadata = SnapshotMetadata(last + 1000, 7, VOTERS)
    SnapshotFiles(bench.files).write(new_header(bench.identity, metadata), [b"state"])
    later = [Entry(7, last + 1001, EntryKind.NORMAL, b"after")]
    record = SnapshotRecord(metadata, resets_log=True)
    wal.append([WalBatch(later, HardState(7, None, last + 1000), record)])
    wal.close()
    assert bench.recover() == (HardState(7, None, last + 1000), later, metadata)


def test_every_flipped_bit_of_a_snapshot_is_noticed(bench):
    metadata = SnapshotMetadata(5, 1, VOTERS)
    files = SnapshotFiles(bench.files)
    files.write(new_header(bench.identity, metadata), [b"one" * 20, b"two" * 30])
    assert files.is_intact(metadata)
    for offset in range(files.size_bytes(metadata)):
        spoiled = bench.files.twin()
        old = spoiled.read(name_of(metadata))[offset]
        spoiled.overwrite(name_of(metadata), offset, bytes([old ^ 1 << offset % 8]))
        assert not SnapshotFiles(spoiled).is_intact(metadata), offset
        cut = bench.files.twin()
        cut.cut(name_of(metadata), offset)
        assert not SnapshotFiles(cut).is_intact(metadata), offset


def test_reading_changes_nothing_and_finds_the_same(bench):
    wal, last = written(bench)
    snapshot(bench, wal, 150)
    wal.close()
    bench.files.calls.clear()
    log = read_log(bench.files)
    assert bench.files.calls == []
    assert log.recovered == bench.recover()
    assert (log.identity, log.last_index, log.last_term) == (bench.identity, last, 1)


# The former format


@pytest.fixture
def former() -> MemoryLogFiles:
    """A log as the last build of format 2 wrote it."""
    files = MemoryLogFiles()
    for name, packed in json.loads(FORMER_FORMAT.read_text()).items():
        data = zlib.decompress(base64.b64decode(packed))
        files.create(name, len(data)).write_at((data,), 0)
    files.sync_directory()
    return files


def test_a_log_of_the_former_format_is_read_and_continued_in_a_segment_of_this_one(former, bench):
    assert OLDEST_FORMAT_VERSION == FORMAT_VERSION - 1 == 2
    wal, recovered = bench.open(former)
    assert recovered.hard_state == HardState(2, MemberId("m2"), 36)
    assert [entry.data for entry in recovered.entries] == [
        b"entry %d " % index * 20 for index in range(1, 41)
    ]
    segments = len([name for name in former.names() if name.endswith(".wal")])
    wal.append([WalBatch([Entry(3, 41, EntryKind.NORMAL, b"new")])])
    wal.close()
    assert len([name for name in former.names() if name.endswith(".wal")]) == segments + 1
    assert len(bench.recover(former).entries) == 41
    identity = read_identity(former)
    assert identity is not None
    assert identity.incarnation == ""


@pytest.mark.parametrize("version", [OLDEST_FORMAT_VERSION - 1, FORMAT_VERSION + 1])
def test_a_format_further_away_is_refused_with_what_to_do(bench, version):
    encoder = BatchEncoder(0, 0)
    encoder.add_segment_start(SegmentStart(version, bench.identity, 0, 0))
    encoder.finish()
    data = b"".join(encoder.buffers).ljust(4096, b"\0")
    name = "0000000000000000-0000000000000001.wal"
    bench.files.create(name, len(data)).write_at((data,), 0)
    with pytest.raises(ForeignWal, match=f"has format {version}.*start the version that wrote it"):
        bench.open()


# Any history


class LogHistory(RuleBasedStateMachine):
    """Appends, new leaders, snapshots of both kinds, restarts and power cuts in any order; a model
    says what must be remembered."""

    @initialize(seed=st.integers(0, 2**32))
    def begin(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.identity = Identity("c", MemberId("m1"), VOTERS)
        self.files = MemoryLogFiles(self.rng.randbytes)
        self.state = HardState()
        self.entries: dict[int, Entry] = {}
        self.last = 0
        self.snapshots: list[SnapshotMetadata] = []
        self.floor = 0
        self.wal, _ = Wal.open(self.files, self.identity, 2048)

    def teardown(self) -> None:
        if hasattr(self, "wal"):
            self.wal.close()

    @rule(count=st.integers(1, 6), size=st.integers(0, 400), back=st.integers(0, 4))
    def append(self, count: int, size: int, back: int) -> None:
        term = self.state.term + (back > 0)
        first = max(self.state.commit, self.last - back) + 1
        added = [
            Entry(max(1, term), index, EntryKind.NORMAL, self.rng.randbytes(size))
            for index in range(first, first + count)
        ]
        self.last = added[-1].index
        self.entries = {i: one for i, one in self.entries.items() if i < first}
        self.entries |= {one.index: one for one in added}
        commit = self.rng.randint(self.state.commit, self.last)
        self.state = HardState(max(1, term), None, commit)
        self.wal.append([WalBatch(added, self.state)])

    @precondition(lambda self: self.state.commit > self.newest)
    @rule()
    def snapshot(self) -> None:
        index = self.rng.randint(self.newest + 1, self.state.commit)
        metadata = SnapshotMetadata(index, self.entries[index].term, VOTERS)
        SnapshotFiles(self.files).write(new_header(self.identity, metadata), [b"state"])
        self.wal.append([WalBatch(hard_state=self.state, snapshot=SnapshotRecord(metadata))])
        self.snapshots.append(metadata)
        SnapshotFiles(self.files).remove_older(self.wal.snapshots)

    @rule(ahead=st.integers(1, 50))
    def install(self, ahead: int) -> None:
        index = self.last + ahead
        term = self.state.term + 1
        metadata = SnapshotMetadata(index, term, VOTERS)
        SnapshotFiles(self.files).write(new_header(self.identity, metadata), [b"state"])
        self.state = HardState(term, None, index)
        record = SnapshotRecord(metadata, resets_log=True)
        self.wal.append([WalBatch(hard_state=self.state, snapshot=record)])
        self.entries, self.last = {}, index
        self.snapshots = [metadata]
        SnapshotFiles(self.files).remove_older(self.wal.snapshots)

    @rule(has_power=st.booleans())
    def restart(self, has_power: bool) -> None:
        self.wal.close()
        self.files = self.files.twin() if has_power else self.files.crash(self.rng)
        self.wal, recovered = Wal.open(self.files, self.identity, 2048)
        SnapshotFiles(self.files).remove_all_but(self.wal.snapshots)
        self.check(recovered)

    @precondition(lambda self: len(self.snapshots) >= 2)
    @rule()
    def damage_newest(self) -> None:
        """The one before serves; the history goes on from there."""
        self.wal.close()
        self.files = self.files.twin()
        self.files.overwrite(name_of(self.snapshots.pop()), 20, b"\xff\xff")
        self.snapshots = self.snapshots[-1:]
        self.wal, recovered = Wal.open(self.files, self.identity, 2048)
        SnapshotFiles(self.files).remove_all_but(self.wal.snapshots)
        self.check(recovered)

    @rule()
    def rotate(self) -> None:
        self.files.keys.rotate()

    @rule()
    def drop_keys(self) -> None:
        """What is needed is kept, whatever came between: every later start reads it."""
        SnapshotFiles(self.files).drop_unused_keys(lambda: self.wal.key_ids)
        needed = self.wal.key_ids | SnapshotFiles(self.files).key_ids()
        ring = {one.key.id for one in self.files.keys.keys}
        assert needed <= ring
        assert len(ring) <= len(needed) + 1, "only the newest is kept without need"

    @property
    def newest(self) -> int:
        return self.snapshots[-1].index if self.snapshots else 0

    def check(self, recovered) -> None:
        assert recovered.hard_state == self.state
        assert recovered.snapshot == (self.snapshots[-1] if self.snapshots else None)
        expected = [self.entries[index] for index in range(self.newest + 1, self.last + 1)]
        assert recovered.entries == expected

    @invariant()
    def two_snapshots_at_most(self) -> None:
        if hasattr(self, "wal"):
            names = [name for name in self.files.names() if name.endswith(".snapshot")]
            assert len(names) <= 2

    @invariant()
    def the_log_counts_on_those_that_are_there(self) -> None:
        if hasattr(self, "wal"):
            assert self.wal.snapshots == tuple(self.snapshots[-2:])
            assert all(name_of(one) in self.files.names() for one in self.wal.snapshots)


TestLogHistory = LogHistory.TestCase
TestLogHistory.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
