"""The decisions on a snapshot's way: what is sent next, what is kept, when it is given up."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from essaim_master.raft.messages import Configuration, SnapshotMetadata
from essaim_master.snapshot.settings import SnapshotSettings
from essaim_master.snapshot.transfer import (
    CHUNK_BYTES_MAX,
    INSTALL_S_MAX,
    RESEND_S,
    STALL_S_MAX,
    WINDOW_CHUNKS_MAX,
    ChunkAnswer,
    ChunkVerdict,
    IncomingSnapshot,
    OutgoingSnapshot,
    SnapshotChunk,
    make_chunk,
)
from essaim_shared.ids import MemberId

LEADER, OTHER = MemberId("m1"), MemberId("m2")
SNAPSHOT = SnapshotMetadata(100, 3, Configuration((LEADER, OTHER)))
DATA = bytes(range(256)) * 8192  # 2 MiB: eight chunks


def chunk(offset: int, snapshot: SnapshotMetadata = SNAPSHOT) -> SnapshotChunk:
    return make_chunk(snapshot, len(DATA), offset, DATA[offset : offset + CHUNK_BYTES_MAX])


def wanted(offset: int, verdict: ChunkVerdict = ChunkVerdict.GO_ON) -> ChunkAnswer:
    return ChunkAnswer(SNAPSHOT.index, SNAPSHOT.term, offset, verdict)


def send_all(outgoing: OutgoingSnapshot) -> list[int]:
    offsets = []
    while (offset := outgoing.next_offset()) is not None:
        offsets.append(offset)
        outgoing.sent(min(CHUNK_BYTES_MAX, outgoing.total_bytes - offset))
    return offsets


@pytest.fixture
def outgoing() -> OutgoingSnapshot:
    return OutgoingSnapshot(SNAPSHOT, len(DATA), now_s=0.0)


def test_a_window_is_under_way_and_each_answer_lets_one_more_follow(outgoing):
    assert send_all(outgoing) == [n * CHUNK_BYTES_MAX for n in range(WINDOW_CHUNKS_MAX)]
    outgoing.answered(wanted(CHUNK_BYTES_MAX), 0.1)
    assert send_all(outgoing) == [WINDOW_CHUNKS_MAX * CHUNK_BYTES_MAX]


def test_without_an_answer_it_sends_again_from_where_the_other_stands(outgoing):
    send_all(outgoing)
    outgoing.answered(wanted(2 * CHUNK_BYTES_MAX), 0.1)
    send_all(outgoing)
    outgoing.pass_time(0.1 + RESEND_S + 0.01)
    assert send_all(outgoing)[0] == 2 * CHUNK_BYTES_MAX


def test_without_progress_it_gives_up(outgoing):
    send_all(outgoing)
    for second in range(1, int(STALL_S_MAX)):
        outgoing.answered(wanted(0), second)
        outgoing.pass_time(second)
        assert not outgoing.is_over
    outgoing.pass_time(STALL_S_MAX + 0.1)
    assert outgoing.verdict is ChunkVerdict.FAILED


def test_when_all_is_written_it_asks_with_one_byte_and_waits_longer(outgoing):
    send_all(outgoing)
    outgoing.answered(wanted(len(DATA)), 1.0)
    assert outgoing.next_offset() is None
    outgoing.pass_time(STALL_S_MAX + 5)
    assert not outgoing.is_over
    assert outgoing.next_offset() == len(DATA) - 1
    outgoing.pass_time(1.0 + INSTALL_S_MAX + 1)
    assert outgoing.verdict is ChunkVerdict.FAILED


def test_a_follower_that_started_anew_gets_it_from_the_beginning(outgoing):
    send_all(outgoing)
    outgoing.answered(wanted(3 * CHUNK_BYTES_MAX), 0.1)
    outgoing.answered(wanted(0), 0.2)
    assert outgoing.next_offset() == 0


def test_answers_about_another_snapshot_are_not_for_this_stream(outgoing):
    outgoing.answered(ChunkAnswer(99, 3, 0, ChunkVerdict.HELD), 0.1)
    assert not outgoing.is_over
    outgoing.answered(wanted(0, ChunkVerdict.HELD), 0.1)
    assert outgoing.verdict is ChunkVerdict.HELD


def test_a_damaged_or_impossible_chunk_is_dropped():
    incoming = IncomingSnapshot()
    good = chunk(0)
    assert incoming.place(LEADER, SnapshotChunk(SNAPSHOT, len(DATA), 0, 1, good.data)) is None
    assert incoming.place(LEADER, make_chunk(SNAPSHOT, 10, 5, b"123456")) is None
    assert incoming.place(LEADER, make_chunk(SNAPSHOT, 10, 0, b"")) is None
    assert incoming.place(LEADER, make_chunk(SNAPSHOT, 10, -1, b"1")) is None
    assert incoming.snapshot is None


def test_chunks_out_of_order_are_answered_and_not_written():
    incoming = IncomingSnapshot()
    placed = incoming.place(LEADER, chunk(CHUNK_BYTES_MAX))
    assert placed == (b"", 0, True)
    placed = incoming.place(LEADER, chunk(0))
    assert placed is not None
    assert (placed.offset, placed.begins) == (0, False)
    assert incoming.place(LEADER, chunk(0)) == (b"", CHUNK_BYTES_MAX, False)


def test_another_sender_or_a_newer_snapshot_begins_anew_and_an_older_one_does_not():
    incoming = IncomingSnapshot()
    incoming.place(LEADER, chunk(0))
    placed = incoming.place(OTHER, chunk(0))
    assert placed is not None
    assert placed.begins
    newer = SnapshotMetadata(200, 4, SNAPSHOT.configuration)
    placed = incoming.place(OTHER, chunk(0, newer))
    assert placed is not None
    assert placed.begins
    assert incoming.place(LEADER, chunk(CHUNK_BYTES_MAX)) is None
    assert incoming.snapshot == newer


@given(st.integers(0, 2**32), st.integers(1, 6 * CHUNK_BYTES_MAX))
def test_over_any_bad_line_all_bytes_arrive_in_order(seed, size_bytes):
    rng = random.Random(seed)
    data = rng.randbytes(size_bytes)
    outgoing = OutgoingSnapshot(SNAPSHOT, size_bytes, 0.0)
    incoming = IncomingSnapshot()
    written = bytearray()
    line: list[SnapshotChunk] = []
    now_s = 0.0
    for _ in range(2000):
        if incoming.is_whole:
            break
        while (offset := outgoing.next_offset()) is not None:
            piece = data[offset : offset + CHUNK_BYTES_MAX]
            outgoing.sent(len(piece))
            line += [make_chunk(SNAPSHOT, size_bytes, offset, piece)] * rng.choice((0, 1, 1, 1, 2))
        rng.shuffle(line)
        while line:
            placed = incoming.place(LEADER, line.pop())
            assert placed is not None
            if placed.data:
                assert placed.offset == len(written)
                written += placed.data
            if rng.random() < 0.8:
                outgoing.answered(wanted(len(written)), now_s)
        now_s += 0.3
        outgoing.pass_time(now_s)
        assert outgoing.verdict is ChunkVerdict.GO_ON
    assert bytes(written) == data


@pytest.mark.parametrize(
    ("entries", "size_bytes", "last_bytes", "is_due"),
    [
        (9_999, 10**6, 0, False),
        (10_000, 1, 0, True),
        (10_000, 10**6, 2 * 10**6, False),
        (20_000, 2 * 10**6, 2 * 10**6, True),
        (10, 64 * 1024 * 1024, 10**9, True),
        (100_000, 10**6, 10**9, True),
    ],
    ids=["few", "enough", "small log, large state", "as large", "large entries", "many entries"],
)
def test_when_a_snapshot_pays(entries, size_bytes, last_bytes, is_due):
    assert SnapshotSettings().is_due(entries, size_bytes, last_bytes) == is_due
