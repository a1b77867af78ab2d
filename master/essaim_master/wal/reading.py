"""Reading a log without changing anything: for tools, and to know whose log it is beforehand.

`Wal.open` cuts what is torn, removes leftovers and prepares a spare. Nothing of that happens
here, so the files of a stopped master can be looked at again and again.
"""

from typing import NamedTuple

import msgspec

from essaim_master.snapshot.files import SnapshotFiles
from essaim_master.wal.errors import WalCorrupt
from essaim_master.wal.files import LogFiles
from essaim_master.wal.records import (
    Identity,
    RecordType,
    SegmentStart,
    decode_segment_start,
    read_record,
)
from essaim_master.wal.recovery import (
    Recovered,
    SegmentName,
    choose_snapshot,
    parse_segment_name,
    recover,
)

SEGMENT_START_BYTES_MAX = 64 * 1024
"""More than the record of a segment's start can take."""


class ReadLog(NamedTuple):
    identity: Identity
    recovered: Recovered
    torn_bytes: int
    """At the end; the next start of the master cuts them away."""

    @property
    def last_index(self) -> int:
        entries, snapshot = self.recovered.entries, self.recovered.snapshot
        if entries:
            return entries[-1].index
        return 0 if snapshot is None else snapshot.index

    @property
    def last_term(self) -> int:
        entries, snapshot = self.recovered.entries, self.recovered.snapshot
        if entries:
            return entries[-1].term
        return 0 if snapshot is None else snapshot.term


def read_identity(files: LogFiles) -> Identity | None:
    """Whose log this is, as its newest segment says; None for an empty directory. Raises
    WalCorrupt."""
    names = _segments(files)
    if not names:
        return None
    name = names[-1]
    data = memoryview(files.read_at(str(name), 0, SEGMENT_START_BYTES_MAX))
    return _start(name, data).identity


def read_log(files: LogFiles) -> ReadLog:
    """All that a start would recover. Raises DataKeyMissing, and WalCorrupt, also for an empty
    directory."""
    identity = read_identity(files)
    names = _segments(files)
    if identity is None:
        raise WalCorrupt("directory", 0, "it holds no segment of a log")
    segments = ((name, files.read(str(name))) for name in names)
    replayed, tail = recover(segments, names[-1], identity, files.keys)
    recovered = choose_snapshot(replayed, SnapshotFiles(files).is_intact, names[0])
    return ReadLog(identity, recovered, tail.torn_bytes)


def _segments(files: LogFiles) -> list[SegmentName]:
    parsed = map(parse_segment_name, files.names())
    return sorted(name for name in parsed if name is not None)


def _start(name: SegmentName, data: memoryview) -> SegmentStart:
    record = read_record(data, 0, 0)
    if record is None or record.type != RecordType.SEGMENT_START:
        raise WalCorrupt(str(name), 0, "the segment does not begin with a segment start")
    try:
        return decode_segment_start(record.payload)
    except msgspec.DecodeError as error:
        raise WalCorrupt(str(name), 0, f"the segment start does not decode: {error}") from error
