"""The bytes of the log: what is written is read back, and nothing else passes for it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from essaim_master.raft.messages import Entry, EntryKind, HardState
from essaim_master.wal.records import (
    BATCH_END_RECORD_BYTES,
    BatchEncoder,
    RecordType,
    WalBatch,
    decode_batch_end,
    decode_entries,
    decode_hard_state,
    encode_record,
    expected_batch_end,
    find_batch_end,
    read_record,
)
from essaim_shared.ids import MemberId

GOLDEN_BATCH = WalBatch(
    [Entry(3, 7, EntryKind.NORMAL, b"put"), Entry(3, 8, EntryKind.NO_OP, b"")],
    HardState(3, MemberId("m2"), 6),
)

GOLDEN = bytes.fromhex(
    "1000000000000000030000006afa6f1e"
    "9294030700c40370757494030801c400"
    "0600000000000002020000002ac6324d"
    "9303a26d320600001800000000000000"
    "04000000b94793b5e54241544348e55e"
    "40000000000000002ac6324d00000000"
)


def encode(batch: WalBatch, start: int = 0, checksum: int = 0) -> tuple[bytes, int]:
    encoder = BatchEncoder(start, checksum)
    encoder.add(batch)
    encoder.finish()
    data = b"".join(encoder.buffers)
    assert len(data) == encoder.size_bytes
    return data, encoder.checksum


def read_all(data: bytes, checksum: int = 0):
    view, offset, records = memoryview(data), 0, []
    while offset < len(data):
        record = read_record(view, offset, checksum)
        if record is None:
            break
        records.append(record)
        offset, checksum = record.next_offset, record.checksum
    return records, offset


entry_lists = st.lists(st.binary(max_size=300), min_size=1, max_size=8).map(
    lambda datas: [Entry(5, 10 + i, EntryKind.NORMAL, data) for i, data in enumerate(datas)]
)
hard_states = st.none() | st.builds(
    HardState, st.integers(0, 2**40), st.none() | st.text(max_size=20), st.integers(0, 2**40)
)


def test_the_format_of_version_1_stays_readable():
    """These bytes were written by version 1; a change of them needs a new format version."""
    data, checksum = encode(GOLDEN_BATCH, start=0x40, checksum=0x12345678)
    assert data == GOLDEN
    records, end = read_all(data, 0x12345678)
    assert end == len(data)
    assert [record.type for record in records] == [
        RecordType.ENTRIES,
        RecordType.HARD_STATE,
        RecordType.BATCH_END,
    ]
    assert decode_entries(records[0].payload) == list(GOLDEN_BATCH.entries)
    assert decode_hard_state(records[1].payload) == GOLDEN_BATCH.hard_state
    assert decode_batch_end(records[2].payload) == (0x40, records[1].checksum)
    assert records[2].checksum == checksum


@given(entry_lists, hard_states, st.integers(0, 2**32 - 1))
def test_a_batch_is_read_back_as_it_was_written(entries, hard_state, checksum):
    data, last_checksum = encode(WalBatch(entries, hard_state), checksum=checksum)
    records, end = read_all(data, checksum)
    assert end == len(data)
    assert len(data) % 8 == 0
    assert decode_entries(records[0].payload) == entries
    if hard_state is not None:
        assert decode_hard_state(records[1].payload) == hard_state
    assert records[-1].type == RecordType.BATCH_END
    assert records[-1].checksum == last_checksum


@given(entry_lists, st.data())
def test_no_flipped_bit_passes(entries, data):
    written, _ = encode(WalBatch(entries))
    bit = data.draw(st.integers(0, len(written) * 8 - 1))
    spoiled = bytearray(written)
    spoiled[bit // 8] ^= 1 << bit % 8
    records, end = read_all(bytes(spoiled))
    assert end <= bit // 8
    assert len(records) < len(read_all(written)[0])


@given(entry_lists)
def test_a_record_does_not_follow_another_chain(entries):
    """Old bytes of the same form, at the same place, must not be taken for new ones."""
    data, _ = encode(WalBatch(entries), checksum=1)
    assert read_record(memoryview(data), 0, 2) is None


@pytest.mark.parametrize("length", [1, 15, 16, 23])
def test_a_record_that_ends_past_the_file_is_none(length):
    header, padding, _ = encode_record(RecordType.ENTRIES, b"12345", 0)
    whole = header + b"12345" + padding
    assert len(whole) == 24
    assert read_record(memoryview(whole), 0, 0) is not None
    assert read_record(memoryview(whole[:length]), 0, 0) is None


def test_zeros_are_no_record():
    assert read_record(memoryview(bytes(64)), 0, 0) is None


def test_a_batch_end_is_found_and_verified_behind_bytes_that_can_not_be_read():
    data, _ = encode(WalBatch([Entry(1, 1, EntryKind.NORMAL, b"x" * 50)]))
    spoiled = b"\xff" * 24 + data[24:]
    found = find_batch_end(memoryview(spoiled), spoiled, 0)
    assert found is not None
    offset, batch_end = found
    assert offset == len(data) - BATCH_END_RECORD_BYTES
    assert batch_end.batch_start == 0
    assert data[offset:] == expected_batch_end(0, batch_end.previous_checksum)


def test_a_value_that_looks_like_a_batch_end_is_not_taken_for_one():
    """Users choose the bytes of values; a batch end names its place and the checksum before."""
    forged = expected_batch_end(2**40, 77)
    data = bytes(8) + forged + bytes(8)
    assert find_batch_end(memoryview(data), data, 0) is None
    shifted = b"abc" + expected_batch_end(0, 77)
    assert find_batch_end(memoryview(shifted), shifted, 0) is None
