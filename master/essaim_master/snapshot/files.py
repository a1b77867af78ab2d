"""The snapshots of one master, in the directory of its log.

Every method may take as long as the disk does: call them in a thread. A file gets its name only
when all of it is synced, so a name stands for a whole snapshot; what the checksums say then can
only be a damaged disk.
"""

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

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


class SnapshotFiles:
    def __init__(self, files: LogFiles) -> None:
        self._files = files

    def write(self, header: SnapshotHeader, chunks: Iterable[bytes]) -> WrittenSnapshot:
        """Make a snapshot durable under its name. Raises OSError; then nothing has the name."""
        writer = SnapshotWriter()
        file = self._files.create(MAKING_FILE, 0)
        try:
            written = self._write(file, writer.begin(header), 0)
            for chunk in chunks:
                written += self._write(file, writer.add(chunk), written)
            last, footer = writer.finish()
            written += self._write(file, last, written)
            file.sync_data()
        finally:
            file.close()
        self._files.rename(MAKING_FILE, name_of(header.metadata))
        self._files.sync_directory()
        return WrittenSnapshot(header.metadata, footer, written)

    def receive(self) -> LogFile:
        """A file for a snapshot on its way; what an earlier attempt left is thrown away."""
        return self._files.create(RECEIVING_FILE, 0)

    def adopt(self, metadata: SnapshotMetadata) -> None:
        """Give the received, synced file its name, once its bytes were checked.

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
        """Whether the file is there and every byte of it passes."""
        if not self.is_there(metadata):
            return False
        try:
            return self._check(name_of(metadata)).metadata == metadata
        except SnapshotDamaged:
            return False

    def header(self, metadata: SnapshotMetadata) -> SnapshotHeader:
        """Raises SnapshotDamaged and OSError."""
        name = name_of(metadata)
        piece = self._files.read_at(name, 0, PIECE_BYTES)
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
        return self._files.size_bytes(name_of(metadata))

    def read_at(self, metadata: SnapshotMetadata, offset: int, size_bytes: int) -> bytes:
        """A part of the file as it is, for sending."""
        return self._files.read_at(name_of(metadata), offset, size_bytes)

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

    def _write(self, file: LogFile, data: bytes, offset: int) -> int:
        file.write_at((data,), offset)
        return len(data)

    def _pieces(self, name: str) -> Iterator[bytes]:
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
