"""Files on a disk that went bad, or that somebody else wrote: what opens them says so."""

import random
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.fuzz_damage import hostile, spoilt
from support.fuzz_decoders import DEADLINE, ENTRY, EXAMPLES, MEMBERS, SNAPSHOT

from essaim_agent.journal import DataDirectory, HighestTerm, Journal, Journaled
from essaim_master.at_rest.cipher import Place, RecordSealer
from essaim_master.raft.messages import Configuration, Entry, EntryKind, HardState
from essaim_master.wal.errors import WalCorrupt
from essaim_master.wal.log import Wal
from essaim_master.wal.memory_files import MemoryLogFiles
from essaim_master.wal.records import (
    CODEC_MSGPACK,
    CODEC_SEALED,
    FORMAT_VERSION,
    BatchEncoder,
    Identity,
    RecordType,
    SegmentStart,
    SnapshotRecord,
    WalBatch,
    encode_record,
    expected_batch_end,
)
from essaim_shared.clock import SystemClock
from essaim_shared.errors import ConfigError

IDENTITY = Identity("cluster", MEMBERS[0], Configuration(MEMBERS))
SEGMENT_BYTES = 4096
BATCHES = 12

fuzzed = settings(
    max_examples=EXAMPLES,
    deadline=DEADLINE,
    database=None,
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.function_scoped_fixture,
    ],
)


class Inline(Executor):
    """Does at once what it is given: a thread for each of thousands of logs takes too long."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


def written_log() -> MemoryLogFiles:
    files = MemoryLogFiles(random.Random(1).randbytes)
    wal, _ = Wal.open(files, IDENTITY, SEGMENT_BYTES, Inline())
    for index in range(1, BATCHES + 1):
        entry = Entry(1, index, EntryKind.NORMAL, b"x" * 100 * (index % 5 + 1))
        wal.append([WalBatch((entry,), HardState(1, MEMBERS[0], index - 1))])
    wal.close()
    return files


WRITTEN = written_log()
SEGMENTS = [name for name in WRITTEN.names() if name.endswith(".wal")]


def opened(files: MemoryLogFiles) -> list[Entry]:
    """The entries that a start would work with."""
    wal, recovered = Wal.open(files, IDENTITY, SEGMENT_BYTES, Inline())
    wal.close()
    return list(recovered.entries)


def test_the_log_is_good_before_it_is_spoilt() -> None:
    assert [entry.index for entry in opened(WRITTEN.twin())] == list(range(1, BATCHES + 1))
    assert len(SEGMENTS) > 1


@fuzzed
@given(
    places=st.lists(
        st.tuples(
            st.sampled_from(SEGMENTS), st.integers(0, SEGMENT_BYTES - 1), st.binary(max_size=600)
        ),
        min_size=1,
        max_size=3,
    ),
    cut=st.none() | st.tuples(st.sampled_from(SEGMENTS), st.integers(0, SEGMENT_BYTES)),
)
def test_a_log_with_foreign_bytes_is_refused_or_gives_a_beginning_of_what_was_written(
    places: list[tuple[str, int, bytes]], cut: tuple[str, int] | None
) -> None:
    files = WRITTEN.twin()
    for name, offset, data in places:
        files.overwrite(name, offset, data)
    if cut is not None:
        files.cut(*cut)
    with suppress(WalCorrupt, ConfigError):
        found = opened(files)
        assert found == opened(WRITTEN.twin())[: len(found)], "never a changed or a missing entry"


def batch(data: bytes, start: int, checksum: int, records: list[tuple[int, int, bytes]]) -> bytes:
    """`data` with one more batch, its checksums right."""
    parts = []
    for record_type, codec, payload in records:
        header, padding, checksum = encode_record(record_type, payload, checksum, codec)
        parts += [header, payload, padding]
    return data + b"".join(parts) + expected_batch_end(start, checksum)


def good_payloads() -> tuple[bytes, ...]:
    """Of each type of record, as the log writes them, plain and sealed."""
    content = WalBatch((ENTRY,), HardState(2, MEMBERS[1], 1), SnapshotRecord(SNAPSHOT))
    plain, sealed = BatchEncoder(0, 0), BatchEncoder(0, 0, seal)
    plain.add(content)
    sealed.add(content)
    payloads = [buffer for buffer in plain.buffers if len(buffer) > 16]
    parts = sealed.buffers  # header, prefix, ciphertext, padding
    payloads += [parts[at] + parts[at + 1] for at in range(1, len(parts), 4)]
    return tuple(payloads)


def seal(record_type: int, offset: int, payload: bytes) -> tuple[bytes, bytes]:
    """With the key of the written log, for where the fuzzed batch stands."""
    key = WRITTEN.keys.keys[0].key
    return RecordSealer(key, random.Random(2).randbytes).seal(
        Place(record_type, 0, offset), payload
    )


@fuzzed
@given(
    records=st.lists(
        st.tuples(
            st.sampled_from([*RecordType, 0, 99]),
            st.sampled_from([CODEC_MSGPACK, CODEC_SEALED, 2]),
            hostile(good_payloads()),
        ),
        min_size=1,
        max_size=3,
    )
)
def test_records_with_right_checksums_and_wrong_contents_are_refused(
    records: list[tuple[int, int, bytes]],
) -> None:
    """A checksum proves that the bytes are those that were written, not that they make sense."""
    encoder = BatchEncoder(0, 0)
    encoder.add_segment_start(SegmentStart(FORMAT_VERSION, IDENTITY, 0, 0))
    encoder.add(WalBatch(hard_state=HardState()))
    encoder.finish()
    first = b"".join(encoder.buffers)
    content = batch(first, len(first), encoder.checksum, records)
    files = WRITTEN.twin()
    for name in SEGMENTS[1:]:
        files.remove(name)
    files.overwrite(SEGMENTS[0], 0, content + bytes(SEGMENT_BYTES))
    with suppress(WalCorrupt, ConfigError):
        indexes = [entry.index for entry in opened(files)]
        assert indexes == list(range(indexes[0], indexes[0] + len(indexes))) if indexes else True


# The agent's.


@fuzzed
@given(data=hostile((b"\x84\xa7version\x01\xa5tasks\x90\xa8networks\x90\xa9endpoints\x90",)))
def test_a_spoilt_journal_is_put_aside_or_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "assignments").write_bytes(data)
    with suppress(ConfigError):
        assert isinstance(Journal(tmp_path, SystemClock()).load(), Journaled)


@fuzzed
@given(data=spoilt((b"12\n", b"9" * 5000)) | st.binary(max_size=50))
def test_a_spoilt_term_or_node_id_is_refused(tmp_path: Path, data: bytes) -> None:
    """An agent that took the wrong one would obey a deposed leader, or be somebody else."""
    (tmp_path / "term").write_bytes(data)
    (tmp_path / "node_id").write_bytes(data)
    with suppress(ConfigError):
        assert HighestTerm(tmp_path).value >= 0
    directory = DataDirectory(tmp_path)
    try:
        with pytest.raises(ConfigError, match="node id"):
            directory.node_id(random.Random(1))
    finally:
        directory.close()
