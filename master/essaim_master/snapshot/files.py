"""The snapshots of one master, in the directory of its log.

Every method may take as long as the disk does: call them in a thread. A file gets its name only
when all of it is synced, so a name stands for a whole snapshot; what the checksums say then can
only be a damaged disk.

Where the directory has keys, a file is sealed (`at_rest.sealed_stream`), and this is the only place
that knows: what is read here, also to be sent to another master, is what was sealed, and what
another master sent is sealed with this one's key as it comes in.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

from essaim_master.at_rest.cipher import DataKeys, find_key
from essaim_master.at_rest.sealed_stream import (
    FRONT_BYTES_MAX,
    Purpose,
    StreamOpener,
    StreamSealer,
    is_sealed,
    read_header,
)
from essaim_master.raft.messages import SnapshotMetadata
from essaim_master.snapshot.errors import SnapshotDamaged
from essaim_master.snapshot.format import (
    PIECE_BYTES,
    SnapshotFooter,
    SnapshotHeader,
    SnapshotReader,
    SnapshotWriter,
)
from essaim_master.wal.files import LogFile, LogFiles

MAKING_FILE = "snapshot.tmp"
RECEIVING_FILE = "received.tmp"

_SUFFIX = ".snapshot"


class SnapshotName(NamedTuple):
    last_index: int
    last_term: int

    def __str__(self) -> str:
        return f"{self.last_index:016x}-{self.last_term:016x}{_SUFFIX}"


class WrittenSnapshot(NamedTuple):
    metadata: SnapshotMetadata
    footer: SnapshotFooter
    file_bytes: int


def name_of(metadata: SnapshotMetadata) -> str:
    return str(SnapshotName(metadata.index, metadata.term))


def parse_snapshot_name(name: str) -> SnapshotName | None:
    """None for files that are not snapshots."""
    stem = name.removesuffix(_SUFFIX)
    index, dash, term = stem.partition("-")
    if stem == name or not dash or len(index) != 16 or len(term) != 16:
        return None
    if set(index + term) - set("0123456789abcdef"):
        return None
    return SnapshotName(int(index, 16), int(term, 16))


class SnapshotFile:
    """A snapshot that is being written, from its beginning to its end."""

    def __init__(self, file: LogFile, keys: DataKeys | None) -> None:
        """Raises OSError."""
        self._file = file
        self._keys = keys
        self._sealer: StreamSealer | None = None
        self._key_id = b""
        self._position = 0
        self.size_bytes = 0
        """Of what was added."""
        if keys is not None:
            key = keys.take()
            self._key_id = key.id
            self._sealer = StreamSealer(key, Purpose.SNAPSHOT, "", keys.entropy)
            self._write(self._sealer.begin())

    def add(self, data: bytes) -> None:
        """Raises OSError."""
        self.size_bytes += len(data)
        self._write(data if self._sealer is None else self._sealer.add(data))

    def finish(self) -> None:
        """Nothing follows: make it durable. Raises OSError."""
        if self._sealer is not None:
            self._write(self._sealer.finish())
        self._file.sync_data()

    def close(self) -> None:
        """Once it has its name, or is given up: its key may be dropped with it from here on.
        Closing again does nothing."""
        self._file.close()
        if self._keys is not None and self._key_id:
            self._keys.release(self._key_id)
            self._key_id = b""

    def _write(self, data: bytes) -> None:
        if data:
            self._file.write_at((data,), self._position)
            self._position += len(data)


class SnapshotFiles:
    def __init__(self, files: LogFiles) -> None:
        self._files = files

    def write(self, header: SnapshotHeader, chunks: Iterable[bytes]) -> WrittenSnapshot:
        """Make a snapshot durable under its name. Raises OSError; then nothing has the name."""
        writer = SnapshotWriter()
        file = self._begin(MAKING_FILE)
        try:
            file.add(writer.begin(header))
            for chunk in chunks:
                file.add(writer.add(chunk))
            last, footer = writer.finish()
            file.add(last)
            file.finish()
            self._files.rename(MAKING_FILE, name_of(header.metadata))
            self._files.sync_directory()
        finally:
            file.close()
        return WrittenSnapshot(header.metadata, footer, file.size_bytes)

    def receive(self) -> SnapshotFile:
        """A file for a snapshot on its way; what an earlier attempt left is thrown away. Close it
        after `adopt`."""
        return self._begin(RECEIVING_FILE)

    def adopt(self, metadata: SnapshotMetadata) -> None:
        """Give the received, finished file its name, once its bytes were checked.

        Raises SnapshotDamaged if they are not a whole snapshot with that metadata.
        """
        found = self._check(RECEIVING_FILE)
        if found.metadata != metadata:
            raise SnapshotDamaged(
                RECEIVING_FILE, 0, f"it is of {found.metadata}, announced was {metadata}"
            )
        self._files.rename(RECEIVING_FILE, name_of(metadata))
        self._files.sync_directory()

    def is_there(self, metadata: SnapshotMetadata) -> bool:
        """Whether the file is there, whatever its bytes say."""
        return name_of(metadata) in self._files.names()

    def is_intact(self, metadata: SnapshotMetadata) -> bool:
        """Whether the file is there and every byte of it passes. Raises DataKeyMissing."""
        if not self.is_there(metadata):
            return False
        try:
            return self._check(name_of(metadata)).metadata == metadata
        except SnapshotDamaged:
            return False

    def header(self, metadata: SnapshotMetadata) -> SnapshotHeader:
        """Raises SnapshotDamaged, DataKeyMissing and OSError, as all do that read."""
        name = name_of(metadata)
        piece = next(self._pieces(name), b"")
        part = next(SnapshotReader(name).feed(piece), None)
        if part is None or part.header is None:
            raise SnapshotDamaged(name, 0, "it has no header")
        return part.header

    def chunks(self, metadata: SnapshotMetadata) -> Iterator[bytes]:
        """The state's chunks, in order. Raises SnapshotDamaged as far as it comes."""
        name = name_of(metadata)
        reader = SnapshotReader(name)
        for piece in self._pieces(name):
            for part in reader.feed(piece):
                if part.chunk is not None:
                    yield part.chunk
        reader.check_complete()

    def footer(self, metadata: SnapshotMetadata) -> SnapshotFooter:
        """Reads the whole file. Raises SnapshotDamaged."""
        return self._check_footer(name_of(metadata))

    def size_bytes(self, metadata: SnapshotMetadata) -> int:
        """Of what it holds, however that is sealed."""
        name = name_of(metadata)
        opener = self._opener(name)
        return self._files.size_bytes(name) if opener is None else opener.size_bytes

    def reader(self, metadata: SnapshotMetadata) -> Callable[[int, int], bytes]:
        """Offset, size → a part of what it holds, for sending."""
        name = name_of(metadata)
        opener = self._opener(name)
        return partial(self._files.read_at, name) if opener is None else opener.read

    def key_ids(self) -> frozenset[bytes]:
        """The data keys that the snapshots here need."""
        found = set()
        for name in self._files.names():
            if parse_snapshot_name(name) is not None:
                beginning = self._files.read_at(name, 0, FRONT_BYTES_MAX)
                if is_sealed(beginning):
                    try:
                        found.add(read_header(name, beginning)[1].key_id)
                    except SnapshotDamaged:
                        continue  # No key opens it any more.
        return frozenset(found)

    def drop_unused_keys(self, in_log: Callable[[], frozenset[bytes]]) -> None:
        """Forget the data keys that neither the log nor a snapshot needs any more. Raises
        OSError."""
        keys = self._files.keys
        if keys is None:
            return
        # First who may be dropped, then who is needed: a file that is begun in between is sealed
        # with a newer key.
        droppable = keys.droppable()
        if droppable:
            keys.drop(droppable - in_log() - self.key_ids())

    def remove_all_but(self, kept: Iterable[SnapshotMetadata]) -> None:
        """At a start: remove the snapshots of which no record of the log tells."""
        self._remove(set(map(name_of, kept)), before_index=sys.maxsize)

    def remove_older(self, kept: Sequence[SnapshotMetadata]) -> None:
        """Remove what is older than the newest of `kept` and not among them. A newer one may
        have just got its name, and not have been recorded yet."""
        newest = max((metadata.index for metadata in kept), default=0)
        self._remove(set(map(name_of, kept)), before_index=newest)

    def _remove(self, wanted: set[str], before_index: int) -> None:
        superfluous = [
            name
            for name in self._files.names()
            if (parsed := parse_snapshot_name(name)) is not None
            and name not in wanted
            and parsed.last_index < before_index
        ]
        for name in superfluous:
            self._files.remove(name)
        if superfluous:
            self._files.sync_directory()

    def _begin(self, name: str) -> SnapshotFile:
        file = self._files.create(name, 0)
        is_begun = False
        try:
            begun = SnapshotFile(file, self._files.keys)
            is_begun = True
        finally:
            if not is_begun:
                file.close()
        return begun

    def _opener(self, name: str) -> StreamOpener | None:
        """None for a file that is not sealed."""
        if not is_sealed(self._files.read_at(name, 0, FRONT_BYTES_MAX)):
            return None
        return StreamOpener(
            name,
            self._files.size_bytes(name),
            partial(self._files.read_at, name),
            lambda header: find_key(self._files.keys, header.key_id, f"snapshot {name}"),
        )

    def _pieces(self, name: str) -> Iterator[bytes]:
        opener = self._opener(name)
        if opener is not None:
            yield from opener.pieces(PIECE_BYTES)
            return
        offset = 0
        while piece := self._files.read_at(name, offset, PIECE_BYTES):
            yield piece
            offset += len(piece)

    def _check(self, name: str) -> SnapshotHeader:
        header: SnapshotHeader | None = None
        reader = SnapshotReader(name)
        for piece in self._pieces(name):
            for part in reader.feed(piece):
                header = part.header or header
        reader.check_complete()
        if header is None:
            raise SnapshotDamaged(name, 0, "it has no header")
        return header

    def _check_footer(self, name: str) -> SnapshotFooter:
        reader = SnapshotReader(name)
        footer: SnapshotFooter | None = None
        for piece in self._pieces(name):
            for part in reader.feed(piece):
                footer = part.footer or footer
        reader.check_complete()
        if footer is None:
            raise SnapshotDamaged(name, 0, "it has no footer")
        return footer
