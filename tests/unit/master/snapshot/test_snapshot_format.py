"""The bytes of a snapshot: read in pieces of any size, refused when anything is amiss."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from essaim_master.raft.messages import Configuration, SnapshotMetadata
from essaim_master.snapshot.errors import SnapshotDamaged
from essaim_master.snapshot.files import SnapshotName, parse_snapshot_name
from essaim_master.snapshot.format import (
    CHUNK_BYTES_MAX,
    SnapshotReader,
    new_header,
    snapshot_bytes,
)
from essaim_master.wal.records import Identity
from essaim_shared.ids import MemberId

IDENTITY = Identity("c", MemberId("m1"), Configuration((MemberId("m1"),)), "life")
METADATA = SnapshotMetadata(7, 2, Configuration((MemberId("m1"),)))
HEADER = new_header(IDENTITY, METADATA)

FILE = bytes.fromhex(
    "160000000000000210000000bfd640809502a163a46c696665a26d3193070293"
    "91a26d3190900000030000000000000511000000256bdad26162630000000000"
    "2500000000000003120000003685f444930103c420ba7816bf8f01cfea414140"
    "de5dae2223b00361a396177a9cb410ff61f20015ad000000"
)
"""Written by format 2; a change of it needs a new version."""


def written(*chunks: bytes) -> bytes:
    return b"".join(snapshot_bytes(HEADER, chunks))


def read(data: bytes, step: int = 1000) -> list[bytes]:
    reader = SnapshotReader("test")
    chunks = []
    for start in range(0, len(data), step):
        for part in reader.feed(data[start : start + step]):
            if part.header is not None:
                assert part.header == HEADER
            if part.chunk is not None:
                chunks.append(part.chunk)
    reader.check_complete()
    return chunks


def test_the_format_stays_readable():
    assert written(b"abc") == FILE
    assert read(FILE) == [b"abc"]


@given(st.lists(st.binary(max_size=300), max_size=8), st.integers(1, 400))
def test_what_is_written_is_read_back_in_pieces_of_any_size(chunks, step):
    assert read(written(*chunks), step) == chunks


def test_a_chunk_larger_than_a_record_comes_back_whole():
    chunks = [b"a", bytes(range(256)) * 4096, b"b" * CHUNK_BYTES_MAX, b"c" * (CHUNK_BYTES_MAX + 1)]
    assert read(written(*chunks), 100_000) == chunks


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_no_changed_byte_passes(position, change):
    data = bytearray(written(b"one" * 30, b"two" * 20))
    data[position % len(data)] ^= change
    with pytest.raises(SnapshotDamaged, match="snapshot test is damaged at byte"):
        read(bytes(data))


@given(st.integers(0, 10_000))
def test_a_file_that_ends_early_does_not_pass(size_bytes):
    data = written(b"one" * 30, b"two" * 20)
    with pytest.raises(SnapshotDamaged):
        read(data[: size_bytes % len(data)])


@given(st.binary(max_size=500))
def test_noise_is_damage_and_nothing_worse(noise):
    with pytest.raises(SnapshotDamaged):
        read(noise)


def test_what_follows_the_footer_is_damage():
    with pytest.raises(SnapshotDamaged):
        read(written(b"x") + bytes(32))


@pytest.mark.parametrize(
    ("name", "parsed"),
    [
        ("000000000000001f-0000000000000002.snapshot", SnapshotName(31, 2)),
        ("000000000000001F-0000000000000002.snapshot", None),
        ("000000000000001f-0000000000000002.wal", None),
        ("snapshot.tmp", None),
        ("1f-2.snapshot", None),
    ],
)
def test_only_whole_names_are_snapshots(name, parsed):
    assert parse_snapshot_name(name) == parsed
    assert parsed is None or str(parsed) == name
