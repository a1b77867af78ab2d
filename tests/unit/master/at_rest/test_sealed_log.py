"""The log on a disk with keys: what it tells, how it goes on from a plain one, how a key goes."""

import random

import pytest
from support.nonces import NonceWatch

from essaim_master.at_rest.errors import DataKeyMissing
from essaim_master.at_rest.key_ring import RING_FILE
from essaim_master.raft.messages import (
    Configuration,
    Entry,
    EntryKind,
    HardState,
    SnapshotMetadata,
)
from essaim_master.snapshot.files import SnapshotFiles, name_of
from essaim_master.snapshot.format import new_header
from essaim_master.wal.errors import WalCorrupt
from essaim_master.wal.log import Wal
from essaim_master.wal.memory_files import MemoryLogFiles
from essaim_master.wal.reading import read_identity, read_log
from essaim_master.wal.records import (
    BATCH_END_MAGIC,
    HEADER_BYTES,
    Identity,
    SnapshotRecord,
    WalBatch,
    encode_record,
)
from essaim_shared.ids import MemberId

VOTERS = Configuration((MemberId("m1"),))
IDENTITY = Identity("cluster-1", MemberId("m1"), VOTERS)
SEGMENT_BYTES = 4096
MARKER = b"planted-marker"


class PowerCut(BaseException):
    pass


class WatchedFiles(MemoryLogFiles):
    """Every seal that is ever written is looked at."""

    def __init__(self, entropy, nonces: NonceWatch | None = None) -> None:
        super().__init__(entropy)
        self.nonces = nonces or NonceWatch()
        self.randomness = entropy

    def _written(self, name: str, data: bytes, offset: int) -> None:
        self.nonces.written(name, data)

    def after(self, found: MemoryLogFiles) -> "WatchedFiles":
        next_life = WatchedFiles(self.randomness, self.nonces)
        next_life._files, next_life._durable_names = found._files, found._durable_names
        return next_life


@pytest.fixture
def files() -> WatchedFiles:
    return WatchedFiles(random.Random(1).randbytes)


def opened(files: MemoryLogFiles) -> Wal:
    return Wal.open(files, IDENTITY, SEGMENT_BYTES)[0]


def batch(index: int, size: int = 50) -> WalBatch:
    entry = Entry(1, index, EntryKind.NORMAL, (MARKER * size)[:size])
    return WalBatch((entry,), HardState(1, MemberId("m1"), index))


def write(files: MemoryLogFiles, first: int, last: int) -> None:
    wal = opened(files)
    for index in range(first, last + 1):
        wal.append([batch(index)])
    wal.close()


def snapshot(files: MemoryLogFiles, wal: Wal, index: int) -> SnapshotMetadata:
    """Made, recorded and cleaned up after, as the driver does it."""
    metadata = SnapshotMetadata(index, 1, VOTERS)
    kept = SnapshotFiles(files)
    kept.write(new_header(IDENTITY, metadata), [MARKER * 100])
    wal.append([WalBatch(snapshot=SnapshotRecord(metadata))])
    kept.remove_older(wal.snapshots)
    kept.drop_unused_keys(lambda: wal.key_ids)
    return metadata


def indexes(files: MemoryLogFiles) -> list[int]:
    wal, recovered = Wal.open(files, IDENTITY, SEGMENT_BYTES)
    wal.close()
    return [entry.index for entry in recovered.entries]


def segments(files: MemoryLogFiles) -> list[str]:
    return [name for name in files.names() if name.endswith(".wal")]


def ring(files: MemoryLogFiles) -> list[bytes]:
    return [one.key.id for one in files.twin().keys.keys]


def everything(files: MemoryLogFiles) -> bytes:
    return b"".join(files.read(name) for name in files.names())


def test_no_byte_of_an_entry_or_of_the_state_is_in_any_file(files) -> None:
    wal = opened(files)
    for index in range(1, 100):
        wal.append([batch(index)])
    snapshot(files, wal, 60)
    wal.close()
    assert MARKER not in everything(files)
    assert indexes(files.twin()) == list(range(61, 100))


def test_whose_log_it_is_can_be_told_without_a_key(files) -> None:
    write(files, 1, 3)
    files.remove(RING_FILE)
    assert read_identity(files.twin()) == IDENTITY


def test_without_its_key_the_log_is_refused_and_left_as_it_is(files) -> None:
    write(files, 1, 3)
    key_id = ring(files)[0].hex()
    files.remove(RING_FILE)
    before = everything(files)
    for read in (opened, read_log):
        found = files.twin()
        with pytest.raises(DataKeyMissing, match=rf"\.wal is sealed with the data key {key_id}"):
            read(found)
        assert RING_FILE not in found.names()
    assert everything(files) == before


def test_with_another_masters_keys_it_is_refused_too(files) -> None:
    write(files, 1, 3)
    other = MemoryLogFiles(random.Random(99).randbytes)
    other.keys.ensure()
    files.remove(RING_FILE)
    files.create(RING_FILE, 0).write_at((other.read(RING_FILE),), 0)
    with pytest.raises(DataKeyMissing, match="put back the file of keys that belongs to this disk"):
        opened(files.twin())


def test_a_snapshot_without_its_key_is_no_damaged_one(files) -> None:
    """A damaged one would be passed over, and removed."""
    metadata = SnapshotMetadata(3, 1, VOTERS)
    SnapshotFiles(files).write(new_header(IDENTITY, metadata), [b"state"])
    files.remove(RING_FILE)
    found = files.twin()
    with pytest.raises(DataKeyMissing, match=f"snapshot {name_of(metadata)} is sealed with"):
        SnapshotFiles(found).is_intact(metadata)


def test_a_plain_log_goes_on_sealed_in_a_segment_of_its_own() -> None:
    plain = MemoryLogFiles()
    write(plain, 1, 5)
    assert MARKER in everything(plain)
    files = WatchedFiles(random.Random(1).randbytes).after(plain.twin())
    assert indexes(files) == [1, 2, 3, 4, 5]
    write(files, 6, 9)
    assert len(segments(files)) == len(segments(plain)) + 1
    assert MARKER not in files.read(segments(files)[-1])
    assert indexes(files.after(files.twin())) == list(range(1, 10))


def test_a_record_that_was_moved_does_not_open(files) -> None:
    """Its checksums can be made right by anybody; its seal cannot."""
    write(files, 1, 1)
    name = segments(files)[0]
    moved = files.twin()
    moved.rename(name, name.replace("0000000000000000-", "0000000000000001-"))
    with pytest.raises(WalCorrupt):
        opened(moved)
    data = bytearray(files.read(name))
    sealed_at = data.index(ring(files)[0])
    data[sealed_at + 20] ^= 1
    spoilt = files.twin()
    spoilt.overwrite(name, 0, bytes(with_checksums(data)))
    with pytest.raises(WalCorrupt, match="the seal of a record does not open: it was changed"):
        opened(spoilt)


def with_checksums(data: bytearray) -> bytearray:
    """The whole chain anew."""
    offset, checksum = 0, 0
    while length := int.from_bytes(data[offset : offset + 7], "little"):
        record_type, codec = data[offset + 8], data[offset + 9]
        start = offset + HEADER_BYTES
        payload = bytes(data[start : start + length])
        if payload.startswith(BATCH_END_MAGIC):
            payload = payload[:16] + checksum.to_bytes(4, "little") + payload[20:]
            data[start : start + length] = payload
        header, padding, checksum = encode_record(record_type, payload, checksum, codec)
        data[offset:start] = header
        offset = start + length + len(padding)
    return data


# A torn tail


def test_what_a_crash_tore_is_written_again_under_another_nonce(files) -> None:
    write(files, 1, 3)
    lives = 40
    for seed in range(lives):
        rng = random.Random(seed)
        wal = opened(files)
        left = 2

        def cut() -> None:
            nonlocal left
            left -= 1
            if left == 0:
                raise PowerCut

        files.before_call = cut
        with pytest.raises(PowerCut):
            wal.append([WalBatch(batch(4, 600).entries)])  # written, and not synced
        files = files.after(files.crash(rng))
    assert len(files.nonces.seen) > lives
    assert files.nonces.twice == []


# Rotation


def test_a_new_key_begins_a_new_segment_at_the_next_write(files) -> None:
    wal = opened(files)
    wal.append([batch(1)])
    before = len(segments(files))
    old, new = wal.key_ids, files.keys.rotate()
    assert len(segments(files)) == before
    wal.append([batch(2)])
    assert len(segments(files)) == before + 1
    assert wal.key_ids == old | {new}
    wal.append([batch(3)])
    assert len(segments(files)) == before + 1
    wal.close()
    assert indexes(files.after(files.twin())) == [1, 2, 3]


def test_the_next_snapshot_has_the_new_key_and_the_old_key_goes_with_its_last_user(files) -> None:
    wal = opened(files)
    wal.append([batch(1)])
    snapshot(files, wal, 1)
    (old,) = ring(files)
    new = files.keys.rotate()
    wal.append([batch(2)])
    snapshot(files, wal, 2)
    assert ring(files) == [old, new], "the first snapshot is kept, in case the second is damaged"
    assert SnapshotFiles(files).key_ids() == {old, new}
    wal.append([batch(3)])
    snapshot(files, wal, 3)
    assert ring(files) == [new]
    wal.close()
    assert indexes(files.after(files.twin())) == []


def test_a_key_that_a_file_in_the_making_was_begun_with_is_kept(files) -> None:
    wal = opened(files)
    receiving = SnapshotFiles(files).receive()
    (old,) = ring(files)
    files.keys.rotate()
    wal.append([batch(1)])
    for index in (1, 2, 3):
        snapshot(files, wal, index)
        wal.append([batch(index + 1)])
    assert old in ring(files)
    receiving.close()
    snapshot(files, wal, 4)
    assert old not in ring(files)
    wal.close()


def test_a_power_cut_at_any_step_of_a_rotation_leaves_a_log_that_can_be_read() -> None:
    """From the order to rotate, over the new segment and the next snapshots, to the end of the
    old key: whatever was acknowledged is read again, and the ring has every key for it."""
    step = acknowledged = 0
    was_cut = True
    while was_cut:
        step += 1
        files = WatchedFiles(random.Random(1).randbytes)
        acknowledged = 0
        left = step

        def cut() -> None:
            nonlocal left
            left -= 1
            if left == 0:
                raise PowerCut

        wal = opened(files)
        wal.append([batch(1)])
        acknowledged = 1
        files.before_call = cut
        was_cut = False
        try:
            files.keys.rotate()
            for index in (2, 3, 4):
                wal.append([batch(index)])
                acknowledged = index
                snapshot(files, wal, index)
        except PowerCut:
            was_cut = True
        for seed in range(6):
            found = files.after(files.crash(random.Random(seed)))
            log = read_log(found)
            assert log.last_index >= acknowledged, f"cut at step {step}, seed {seed}"
            again = opened(found)
            again.append([batch(log.last_index + 1)])
            snapshot(found, again, log.last_index + 1)
            again.close()
            assert found.nonces.twice == []
    assert step > 40
    assert len(ring(files)) == 1, "at its end the rotation has dropped the old key"


# What another master is sent


def test_what_is_sent_is_the_same_whatever_it_is_sealed_with(files) -> None:
    plain = MemoryLogFiles()
    metadata = SnapshotMetadata(7, 1, VOTERS)
    sent = []
    for one in (files, plain):
        sender = SnapshotFiles(one)
        written = sender.write(new_header(IDENTITY, metadata), [b"state"] * 1000)
        size = sender.size_bytes(metadata)
        assert written.file_bytes == size
        read = sender.reader(metadata)
        sent.append(b"".join(read(offset, 700) for offset in range(0, size, 700)))
    assert sent[0] == sent[1] == plain.read(name_of(metadata))
    receiver = MemoryLogFiles(random.Random(5).randbytes)
    taken = SnapshotFiles(receiver)
    file = taken.receive()
    for start in range(0, len(sent[0]), 900):
        file.add(sent[0][start : start + 900])
    file.finish()
    taken.adopt(metadata)
    file.close()
    assert b"statestate" not in receiver.read(name_of(metadata))
    assert list(taken.chunks(metadata)) == [b"state"] * 1000
    assert taken.footer(metadata) == SnapshotFiles(files).footer(metadata)
