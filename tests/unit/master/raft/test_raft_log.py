"""The log in memory: matching, truncation, the four marks, cuts by bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from essaim_master.raft.log import ENTRY_OVERHEAD_BYTES, RaftLog
from essaim_master.raft.messages import Entry, EntryKind
from essaim_shared.errors import BrokenInvariant

EVERYTHING = 1 << 40


def entries_of(*terms: int, first: int = 1, data: bytes = b"x") -> tuple[Entry, ...]:
    return tuple(
        Entry(term, index, EntryKind.NORMAL, data) for index, term in enumerate(terms, first)
    )


def terms_of(log: RaftLog) -> list[int]:
    return [entry.term for entry in log.slice(log.first_index, log.last_index, EVERYTHING)]


def test_an_empty_log_ends_at_zero():
    log = RaftLog(())
    assert (log.first_index, log.last_index, log.last_term) == (1, 0, 0)
    assert log.term_at(0) == 0
    assert log.term_at(1) is None


def test_a_compacted_log_knows_the_term_below_its_first_entry():
    log = RaftLog(entries_of(3, 4, first=11), compacted_index=10, compacted_term=2)
    assert (log.first_index, log.last_index, log.last_term) == (11, 12, 4)
    assert [log.term_at(index) for index in (9, 10, 11, 12, 13)] == [None, 2, 3, 4, None]
    assert log.commit == log.applied == 10


def test_entries_must_follow_each_other():
    with pytest.raises(BrokenInvariant, match="entry 3 appended to a log that ends at 1"):
        RaftLog(entries_of(1)).append(entries_of(1, first=3))


@pytest.mark.parametrize(
    ("candidate", "is_up_to_date"),
    [((5, 2), True), ((1, 3), True), ((3, 2), True), ((2, 2), False), ((9, 1), False)],
)
def test_the_later_term_wins_and_then_the_longer_log(candidate, is_up_to_date):
    """Paper 5.4.1."""
    assert RaftLog(entries_of(1, 2, 2)).is_up_to_date(*candidate) is is_up_to_date


@pytest.mark.parametrize(
    ("previous", "entries", "agreed", "terms"),
    [
        pytest.param((3, 2), (), 3, [1, 2, 2], id="nothing new"),
        pytest.param((3, 2), entries_of(2, first=4), 4, [1, 2, 2, 2], id="at the end"),
        pytest.param((1, 1), entries_of(2, first=2), 2, [1, 2, 2], id="late, agrees"),
        pytest.param((1, 1), entries_of(2, 2, 3, first=2), 4, [1, 2, 2, 3], id="overlaps"),
        pytest.param((1, 1), entries_of(3, first=2), 2, [1, 3], id="conflict cuts the rest"),
        pytest.param((2, 2), entries_of(3, 3, first=3), 4, [1, 2, 3, 3], id="conflict at the end"),
        pytest.param((2, 1), entries_of(3, first=3), None, [1, 2, 2], id="other term before"),
        pytest.param((7, 2), entries_of(2, first=8), None, [1, 2, 2], id="gap"),
        pytest.param((0, 0), entries_of(1, 2, 2), 3, [1, 2, 2], id="from the start"),
    ],
)
def test_an_append_is_taken_where_it_fits(previous, entries, agreed, terms):
    log = RaftLog(entries_of(1, 2, 2))
    log.take_unstable()
    assert log.try_append(*previous, entries) == agreed
    assert terms_of(log) == terms


def test_what_is_committed_is_never_cut():
    log = RaftLog(entries_of(1, 1, 1))
    log.commit_to(2)
    with pytest.raises(BrokenInvariant, match=r"entry 2 conflicts.*commit 2"):
        log.try_append(1, 1, entries_of(2, first=2))


def test_entries_are_handed_out_once_and_again_after_a_conflict():
    log = RaftLog(entries_of(1))
    assert log.take_unstable() == ()
    log.append(entries_of(1, 1, first=2))
    assert [entry.index for entry in log.take_unstable()] == [2, 3]
    assert log.take_unstable() == ()
    log.try_append(1, 1, entries_of(2, first=2))
    assert log.take_unstable() == entries_of(2, first=2)


def test_the_commit_mark_never_goes_back_nor_beyond_the_end():
    log = RaftLog(entries_of(1, 1))
    assert log.commit_to(2)
    assert not log.commit_to(1)
    assert log.commit == 2
    with pytest.raises(BrokenInvariant, match="commit 3 is beyond the last entry 2"):
        log.commit_to(3)


def test_committed_entries_come_once_and_in_order():
    log = RaftLog(entries_of(1, 1, 1))
    log.commit_to(2)
    assert [entry.index for entry in log.take_committed(EVERYTHING)] == [1, 2]
    assert log.take_committed(EVERYTHING) == ()
    log.commit_to(3)
    assert [entry.index for entry in log.take_committed(EVERYTHING)] == [3]


def test_only_what_was_handed_out_can_be_applied():
    log = RaftLog(entries_of(1, 1))
    log.commit_to(2)
    with pytest.raises(BrokenInvariant, match="applied 1 reported"):
        log.applied_to(1)
    log.take_committed(EVERYTHING)
    log.applied_to(2)
    with pytest.raises(BrokenInvariant, match="applied 1 reported"):
        log.applied_to(1)


@pytest.mark.parametrize("applied", [4, 9])
def test_a_start_with_impossible_marks_is_refused(applied):
    log = RaftLog(entries_of(1, 1, first=6), compacted_index=5, compacted_term=1)
    with pytest.raises(BrokenInvariant, match=f"applied {applied} at start"):
        log.restore_marks(7, applied)


def test_entries_that_are_not_held_cannot_be_sliced():
    log = RaftLog(entries_of(1, 1, first=6), compacted_index=5, compacted_term=1)
    for low, high in ((5, 6), (6, 8)):
        with pytest.raises(BrokenInvariant, match=r"6\.\.7 held"):
            log.slice(low, high, EVERYTHING)


def test_a_slice_holds_at_least_one_entry():
    log = RaftLog(entries_of(1, 1, data=b"x" * 1000))
    assert len(log.slice(1, 2, 1)) == 1


@given(
    sizes=st.lists(st.integers(0, 50), min_size=1, max_size=20),
    offset=st.integers(0, 5),
    limit=st.integers(1, 400),
    data=st.data(),
)
def test_a_slice_is_the_longest_that_fits(sizes, offset, limit, data):
    entries = [
        Entry(1, offset + number, EntryKind.NORMAL, b"x" * size)
        for number, size in enumerate(sizes, 1)
    ]
    log = RaftLog(entries, offset, 1)
    low = data.draw(st.integers(offset + 1, log.last_index))
    high = data.draw(st.integers(low, log.last_index))
    taken = log.slice(low, high, limit)

    def total(count: int) -> int:
        sizes_taken = sizes[low - offset - 1 :][:count]
        return sum(size + ENTRY_OVERHEAD_BYTES for size in sizes_taken)

    assert taken == tuple(entries[low - offset - 1 :][: len(taken)])
    assert len(taken) == 1 or total(len(taken)) <= limit
    assert taken[-1].index == high or total(len(taken) + 1) > limit
    assert log.size_bytes(low, taken[-1].index) == total(len(taken))


@given(
    terms=st.lists(st.integers(1, 6), max_size=15).map(sorted),
    offset=st.integers(0, 3),
    index=st.integers(0, 25),
    term=st.integers(0, 7),
)
def test_the_search_for_a_conflict_agrees_with_a_walk(terms, offset, index, term):
    log = RaftLog(entries_of(*terms, first=offset + 1), offset, 1 if offset else 0)
    walk = min(index, log.last_index)
    while walk > offset and log.term_at(walk) > term:
        walk -= 1
    found, found_term = log.find_conflict_by_term(index, term)
    assert found == walk
    known = log.term_at(walk)
    assert found_term == (known if known is not None and known <= term else 0)


@given(
    mine=st.lists(st.integers(1, 4), max_size=12).map(sorted),
    theirs=st.lists(st.integers(1, 4), max_size=12).map(sorted),
    previous=st.integers(0, 12),
)
def test_after_an_append_the_logs_agree_up_to_what_is_said(mine, theirs, previous):
    """As long as the tail that goes is not committed, whatever the two logs are."""
    leader = RaftLog(entries_of(*theirs))
    follower = RaftLog(entries_of(*mine))
    previous = min(previous, leader.last_index)
    entries = leader.slice(previous + 1, leader.last_index, EVERYTHING)
    agreed = follower.try_append(previous, leader.term_at(previous), entries)
    if agreed is None:
        assert terms_of(follower) == mine
    else:
        assert agreed == leader.last_index
        assert terms_of(follower)[previous:agreed] == theirs[previous:]
        assert follower.handed_out <= follower.last_index
