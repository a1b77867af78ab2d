"""A sealed file: what was written is read, from anywhere in it; a spoilt one says what is wrong."""

import random

import pytest

from essaim_master.at_rest.sealed_stream import (
    BLOCK_BYTES,
    SEALED_BLOCK_BYTES,
    Purpose,
    SealedHeader,
    StreamOpener,
    StreamSealer,
    is_sealed,
    read_header,
)
from essaim_master.snapshot.errors import SnapshotDamaged
from essaim_shared.sealing import DataKey

KEY = DataKey(bytes(range(32)))
SIZES = (0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 3 * BLOCK_BYTES)


def seal(plain: bytes, step: int = 100_000, key: DataKey = KEY) -> bytes:
    sealer = StreamSealer(key, Purpose.BACKUP, "lab", random.Random(len(plain)).randbytes)
    parts = [sealer.begin()]
    parts += [sealer.add(plain[start : start + step]) for start in range(0, len(plain), step)]
    return b"".join((*parts, sealer.finish()))


def opener(file: bytes) -> StreamOpener:
    return StreamOpener("it", len(file), lambda at, size: file[at : at + size], lambda _: KEY)


def read(file: bytes) -> bytes:
    return b"".join(opener(file).pieces(1024 * 1024))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("step", [70_000, BLOCK_BYTES, 5 * BLOCK_BYTES])
def test_what_was_sealed_is_read_however_it_came(size, step) -> None:
    plain = random.Random(size).randbytes(size)
    file = seal(plain, step)
    assert read(file) == plain
    assert opener(file).size_bytes == size
    assert is_sealed(file)


def test_any_part_of_it_is_read_alone() -> None:
    rng = random.Random(5)
    plain = rng.randbytes(3 * BLOCK_BYTES + 777)
    found = opener(seal(plain))
    for _ in range(50):
        start, size = rng.randrange(len(plain) + 10), rng.randrange(2 * BLOCK_BYTES)
        assert found.read(start, size) == plain[start : start + size]


def test_the_header_is_seen_without_the_key() -> None:
    header = read_header("it", seal(b"secret"))[1]
    assert header == SealedHeader(1, Purpose.BACKUP, "lab", KEY.id, header.salt)
    assert b"lab" in seal(b"secret")
    assert b"secret" not in seal(b"secret")


def test_two_files_of_the_same_content_have_nothing_in_common() -> None:
    rng = random.Random(1)
    one, other = (StreamSealer(KEY, Purpose.SNAPSHOT, "", rng.randbytes).finish() for _ in range(2))
    assert one != other


@pytest.mark.parametrize("size", SIZES)
def test_a_file_that_is_cut_anywhere_is_damaged(size) -> None:
    file = seal(random.Random(size).randbytes(size))
    front = len(read_header("it", file)[0])
    cuts = {0, 5, front - 1, front, front + 3, len(file) - SEALED_BLOCK_BYTES}
    cuts |= {len(file) - left for left in range(1, 40)}
    for cut in sorted(one for one in cuts if 0 <= one < len(file)):
        with pytest.raises(SnapshotDamaged, match="it is damaged at byte"):
            read(file[:cut])


def test_what_is_wrong_is_told_as_far_as_it_can_be_known() -> None:
    file = seal(random.Random(1).randbytes(3 * BLOCK_BYTES))
    front = len(read_header("it", file)[0])
    blocks = [
        file[at : at + SEALED_BLOCK_BYTES] for at in range(front, len(file), SEALED_BLOCK_BYTES)
    ]
    with pytest.raises(SnapshotDamaged, match="block 1: what followed it is missing"):
        read(file[:front] + blocks[0] + blocks[1])
    with pytest.raises(SnapshotDamaged, match="block 2: it was the last, and bytes follow it"):
        read(file + b"more" * 10)
    with pytest.raises(SnapshotDamaged, match="block 0: it was changed, or was moved"):
        read(file[:front] + blocks[1] + blocks[0] + blocks[2])
    with pytest.raises(SnapshotDamaged, match="block 0: it was changed"):
        read(seal(b"x" * 100)[:front] + file[front:])  # another file's header


def test_a_flipped_bit_is_found_wherever_it_is() -> None:
    file = seal(random.Random(1).randbytes(1000))
    for at in range(0, len(file), 7):
        spoilt = bytearray(file)
        spoilt[at] ^= 1 << at % 8
        with pytest.raises(SnapshotDamaged):
            read(bytes(spoilt))
