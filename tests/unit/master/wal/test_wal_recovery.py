"""What a log remembers, and what it makes of bytes that are torn or damaged."""

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from essaim_master.raft.messages import Configuration, Entry, EntryKind, HardState
from essaim_master.wal.errors import ForeignWal, WalCorrupt
from essaim_master.wal.log import Wal
from essaim_master.wal.memory_files import MemoryLogFiles
from essaim_master.wal.records import Identity, WalBatch
from essaim_master.wal.recovery import SegmentName, parse_segment_name
from essaim_shared.errors import ConfigError
from essaim_shared.ids import MemberId


def test_an_empty_directory_is_a_new_log(bench):
    recovered = bench.recover()
    assert recovered == (HardState(), [], None)
    assert bench.segments() == ["0000000000000000-0000000000000001.wal"]


def test_what_was_appended_is_there_after_a_restart(bench):
    entries = bench.entries(1, 5)
    wal, _ = bench.open()
    wal.append([WalBatch(entries[:3], HardState(1, MemberId("m2"), 0))])
    wal.append([WalBatch(entries[3:]), WalBatch(hard_state=HardState(1, MemberId("m2"), 4))])
    wal.close()
    assert bench.recover() == (HardState(1, MemberId("m2"), 4), entries, None)


def test_a_restart_goes_on_where_the_last_one_ended(bench):
    entries = bench.entries(1, 30)
    for start in range(0, 30, 3):
        wal, recovered = bench.open()
        assert recovered.entries == entries[:start]
        wal.append([WalBatch(entries[start : start + 3])])
        wal.close()
    assert bench.recover().entries == entries


def test_entries_of_a_new_leader_replace_the_tail(bench):
    old, new = bench.entries(1, 6), bench.entries(4, 5, term=2)
    wal, _ = bench.open()
    wal.append([WalBatch(old)])
    wal.append([WalBatch(new, HardState(2, None, 3))])
    wal.close()
    assert bench.recover().entries == old[:3] + new


def test_segments_follow_one_another_and_names_tell_their_first_index(bench):
    entries = bench.entries(1, 200, size_bytes=500)
    wal, _ = bench.open()
    for start in range(0, 200, 5):
        wal.append([WalBatch(entries[start : start + 5], HardState(1, None, start))])
    wal.close()
    names = [parse_segment_name(name) for name in bench.segments()]
    assert len(names) > 5
    assert [name.sequence for name in names] == list(range(len(names)))
    assert all(
        later.first_index > earlier.first_index for earlier, later in itertools.pairwise(names)
    )
    assert bench.recover() == (HardState(1, None, 195), entries, None)


def test_a_batch_larger_than_a_segment_has_one_to_itself(bench):
    entries = bench.entries(1, 3, size_bytes=20_000)
    wal, _ = bench.open()
    wal.append([WalBatch(bench.entries(1, 1))])
    wal.append([WalBatch(entries)])
    wal.append([WalBatch(bench.entries(4, 4))])
    wal.close()
    assert bench.recover().entries[:3] == entries


def written_log(bench) -> tuple[MemoryLogFiles, str, int, int, list[Entry]]:
    """A log whose last batch is of several sectors: files, segment, batch start and end."""
    entries = bench.entries(1, 30, size_bytes=50)
    wal, _ = bench.open()
    wal.append([WalBatch(entries[:5], HardState(1, MemberId("m1"), 0))])
    wal.append([WalBatch(entries[5:10])])
    start = wal._offset
    wal.append([WalBatch(entries[10:], HardState(1, MemberId("m1"), 10))])
    end = wal._offset
    wal.close()
    (segment,) = bench.segments()
    assert end - start > 2 * 512
    return bench.files, segment, start, end, entries


def test_the_last_batch_may_be_cut_at_every_byte(bench):
    """Zeros behind the cut (a preallocated file): the batch is whole or it never was."""
    files, segment, start, end, entries = written_log(bench)
    for cut in range(start, end - 4):  # The last four bytes of a batch are zeros anyway.
        torn = files.twin()
        torn.overwrite(segment, cut, bytes(end - cut))
        assert bench.recover(torn).entries == entries[:10], f"cut at {cut}"
        assert bench.recover(torn).entries == entries[:10], f"second start, cut at {cut}"


def test_the_file_may_end_at_every_byte_of_the_last_batch(bench):
    files, segment, start, end, entries = written_log(bench)
    for cut in range(start, end, 7):
        torn = files.twin()
        torn.cut(segment, cut)
        assert bench.recover(torn).entries == entries[:10], f"cut at {cut}"
        wal, _ = bench.open(torn)
        wal.append([WalBatch(entries[10:])])
        wal.close()
        assert bench.recover(torn).entries == entries, f"went on after a cut at {cut}"


def test_sectors_of_the_last_batch_may_be_missing_in_any_combination(bench):
    files, segment, start, end, entries = written_log(bench)
    sectors = list(range(start // 512, (end - 1) // 512 + 1))
    for missing in range(1, 2 ** len(sectors)):
        torn = files.twin()
        for position, sector in enumerate(sectors):
            if missing >> position & 1:
                low, high = max(start, sector * 512), min(end, (sector + 1) * 512)
                torn.overwrite(segment, low, bytes(high - low))
        assert bench.recover(torn).entries == entries[:10], f"missing sectors {missing:b}"


def test_a_torn_segment_is_kept_for_inspection(bench):
    files, segment, start, end, _ = written_log(bench)
    files.overwrite(segment, end - 20, bytes(20))
    before = files.read(segment)
    bench.recover()
    assert files.read(f"{segment}.broken") == before
    assert files.read(segment)[start:end] == bytes(end - start)


def test_a_flipped_bit_before_the_last_batch_end_is_damage(bench):
    """Every byte counts; for the batch end itself see the next test."""
    files, segment, _, end, _ = written_log(bench)
    print("seed 3")
    rng = random.Random(3)
    for offset in range(end - 40):
        damaged = files.twin()
        old = damaged.read(segment)[offset]
        damaged.overwrite(segment, offset, bytes([old ^ 1 << rng.randrange(8)]))
        with pytest.raises(WalCorrupt) as caught:
            bench.open(damaged)
        assert caught.value.file == segment
        assert caught.value.offset <= offset
        damaged.lock()  # The failed open released the directory.


def test_a_flipped_bit_in_the_last_batch_end_is_damage_unless_it_looks_cut(bench):
    """A byte that becomes 0 at the very edge can not be told from a torn write."""
    files, segment, _, end, entries = written_log(bench)
    refused = 0
    for bit in range((end - 40) * 8, end * 8):
        damaged = files.twin()
        old = damaged.read(segment)[bit // 8]
        damaged.overwrite(segment, bit // 8, bytes([old ^ 1 << bit % 8]))
        try:
            assert bench.recover(damaged).entries == entries[:10]
        except WalCorrupt:
            refused += 1
    assert refused >= 40 * 8 - 4


def test_noise_behind_the_last_batch_end_is_cut_away(bench):
    files, segment, _, end, entries = written_log(bench)
    files.overwrite(segment, end + 64, b"\x07" * 100)
    assert bench.recover().entries == entries


def test_the_message_of_damage_says_where_and_what_next(bench):
    files, segment, _, _, _ = written_log(bench)
    files.overwrite(segment, 200, b"\xff")
    with pytest.raises(
        WalCorrupt, match=r"damaged at byte \d+: .*join again under a new member id"
    ):
        bench.open()


def test_damage_in_an_earlier_segment_is_never_torn(bench):
    wal, _ = bench.open()
    for start in range(1, 200, 5):
        wal.append([WalBatch(bench.entries(start, start + 4, size_bytes=500))])
    wal.close()
    first = bench.segments()[0]
    tail = len(bench.files.read(first).rstrip(b"\0"))
    for size_bytes in (8, 100, 5000):
        cut = bench.files.twin()
        cut.overwrite(first, tail - size_bytes, bytes(size_bytes))
        with pytest.raises(WalCorrupt):
            bench.open(cut)


def test_a_lost_sector_before_a_later_batch_is_never_torn(bench):
    """It was synced before the later batch was written: the disk lost what was acknowledged."""
    wal, _ = bench.open()
    wal.append([WalBatch(bench.entries(1, 40, size_bytes=100))])
    wal.append([WalBatch(bench.entries(41, 41))])
    wal.close()
    (segment,) = bench.segments()
    for sector in range(1, 7):
        damaged = bench.files.twin()
        damaged.overwrite(segment, sector * 512, bytes(512))
        with pytest.raises(WalCorrupt, match="before the batch at"):
            bench.open(damaged)


def test_a_missing_segment_is_noticed(bench):
    wal, _ = bench.open()
    for start in range(1, 400, 5):
        wal.append([WalBatch(bench.entries(start, start + 4, size_bytes=500))])
    wal.close()
    for missing in bench.segments()[:-1]:
        without = bench.files.twin()
        without.remove(missing)
        with pytest.raises(WalCorrupt, match="missing"):
            bench.open(without)


@pytest.mark.parametrize(
    ("identity", "words"),
    [
        (Identity("other", MemberId("m1"), Configuration((MemberId("m1"),))), "belongs to cluster"),
        (Identity("cluster-1", MemberId("m9"), Configuration(())), "belongs to member"),
        (
            Identity("cluster-1", MemberId("m1"), Configuration((MemberId("m1"),))),
            "formed by m1, m2, m3",
        ),
    ],
)
def test_the_log_of_another_is_refused(bench, identity, words):
    bench.recover()
    with pytest.raises(ForeignWal, match=words) as caught:
        Wal.open(bench.files, identity)
    assert isinstance(caught.value, ConfigError)


def test_a_log_in_use_is_refused(bench):
    wal, _ = bench.open()
    with pytest.raises(ConfigError, match="another master"):
        bench.open()
    wal.close()


@pytest.mark.parametrize(
    ("name", "parsed"),
    [
        ("0000000000000002-000000000000001f.wal", SegmentName(2, 31)),
        ("0000000000000002-000000000000001f.wal.broken", None),
        ("0000000000000002-000000000000001F.wal", None),
        ("2-1f.wal", None),
        ("spare.tmp", None),
        ("wal.lock", None),
    ],
)
def test_only_whole_names_are_segments(name, parsed):
    assert parse_segment_name(name) == parsed
    assert parsed is None or str(parsed) == name


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32))
def test_whatever_the_power_cut_leaves_what_was_synced_is_there(seed):
    """Random batches, replaced tails and segment changes; a crash in the midst of an append
    leaves any set of its sectors. All acknowledged batches are recovered, and the one under way
    as a whole or not at all."""
    rng = random.Random(seed)
    identity = Identity("c", MemberId("m1"), Configuration((MemberId("m1"),)))
    files = MemoryLogFiles()
    wal, _ = Wal.open(files, identity, segment_bytes=4096)
    entries: list[Entry] = []
    state = HardState()
    for term in range(1, 15):
        kept = rng.randint(state.commit, len(entries))
        added = [
            Entry(term, kept + 1 + i, EntryKind.NORMAL, rng.randbytes(rng.randrange(300)))
            for i in range(rng.randint(1, 6))
        ]
        following = entries[:kept] + added
        next_state = HardState(term, None, rng.randint(state.commit, len(following)))
        is_last = term == 14
        if is_last:
            files.fail("sync_data", 5)
        try:
            wal.append([WalBatch(added, next_state)])
        except OSError:
            assert is_last
            break
        entries, state = following, next_state
    wal.close()
    wal, recovered = Wal.open(files.crash(rng), identity, segment_bytes=4096)
    wal.close()
    assert (recovered.entries, recovered.hard_state) in (
        (entries, state),
        (following, next_state),
    )
