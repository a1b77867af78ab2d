"""A backup as a file: a snapshot's bytes, sealed with the key that all masters share.

It is a sealed stream, and behind it a trailer in the clear: a magic and the SHA-256 of every byte
before. So whoever keeps backups can see that one is whole without being able to read it. That
nobody changed it on purpose, only the seal proves.
"""

import hashlib
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from essaim_master.at_rest.sealed_stream import (
    FRONT_BYTES_MAX,
    Purpose,
    SealedHeader,
    StreamOpener,
    StreamSealer,
    is_sealed,
    read_header,
)
from essaim_master.snapshot.errors import SnapshotDamaged
from essaim_master.snapshot.format import PIECE_BYTES
from essaim_shared.errors import ConfigError, NotSupported
from essaim_shared.sealing import DataKey
from essaim_shared.trust.record_cipher import Entropy

TRAILER_MAGIC: Final = b"ESSEALND"
TRAILER_BYTES: Final = len(TRAILER_MAGIC) + hashlib.sha256().digest_size


class SealedBackup(NamedTuple):
    """What is seen of one without its key."""

    cluster_id: str
    key_id: bytes
    size_bytes: int


class BackupSeal(NamedTuple):
    """With what a master seals the backups that it is asked for."""

    key: DataKey | None
    """The cluster's; None: it has none."""
    cluster_id: str

    def sealed(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        """Raises NotSupported without a key."""
        if self.key is None:
            raise NotSupported(
                "the backup is not made, since this master has no key to seal it: set "
                "seal_key_file on all masters, or ask for an open one with --unencrypted"
            )
        return sealed_backup(self.key, self.cluster_id, pieces, secrets.token_bytes)


def sealed_backup(
    key: DataKey, cluster_id: str, pieces: Iterator[bytes], entropy: Entropy
) -> Iterator[bytes]:
    """The bytes of the file, piece by piece."""
    sealer = StreamSealer(key, Purpose.BACKUP, cluster_id, entropy)
    digest = hashlib.sha256(sealer.begin())
    yield sealer.begin()
    for piece in pieces:
        blocks = sealer.add(piece)
        if blocks:
            digest.update(blocks)
            yield blocks
    last = sealer.finish()
    digest.update(last)
    yield last
    yield TRAILER_MAGIC + digest.digest()


def sealed_look(path: Path) -> SealedBackup | None:
    """Whether a sealed backup is whole, without its key; None for one that is not sealed. Raises
    SnapshotDamaged and OSError."""
    beginning = read_at(path, 0, FRONT_BYTES_MAX)
    if not is_sealed(beginning):
        return None
    header = _checked_header(path, beginning)
    left = path.stat().st_size - TRAILER_BYTES
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while left > 0 and (piece := file.read(min(left, PIECE_BYTES))):
            digest.update(piece)
            left -= len(piece)
        trailer = file.read(TRAILER_BYTES)
    if trailer[: len(TRAILER_MAGIC)] != TRAILER_MAGIC:
        raise SnapshotDamaged(str(path), path.stat().st_size, "its end is missing")
    if trailer[len(TRAILER_MAGIC) :] != digest.digest():
        raise SnapshotDamaged(str(path), 0, "it does not pass its SHA-256")
    return SealedBackup(header.cluster_id, header.key_id, path.stat().st_size)


def backup_pieces(path: Path, key: DataKey | None) -> Iterator[bytes]:
    """The snapshot that is inside. Raises SnapshotDamaged, OSError, and ConfigError when it is
    sealed and `key` is not the one."""
    if not is_sealed(read_at(path, 0, FRONT_BYTES_MAX)):
        with path.open("rb") as file:
            while piece := file.read(PIECE_BYTES):
                yield piece
        return

    def find(header: SealedHeader) -> DataKey:
        sealed = f"{path}: backup of cluster {header.cluster_id}, sealed with the key "
        if key is None:
            raise ConfigError(f"{sealed}{header.key_id.hex()}: name its file with --seal-key-file")
        if key.id != header.key_id:
            raise ConfigError(
                f"{sealed}{header.key_id.hex()}, and the key given is {key.id.hex()}: name the "
                "right file with --seal-key-file"
            )
        return key

    _checked_header(path, read_at(path, 0, FRONT_BYTES_MAX))
    size_bytes = max(0, path.stat().st_size - TRAILER_BYTES)
    with path.open("rb") as file:

        def read(offset: int, count: int) -> bytes:
            file.seek(offset)
            return file.read(max(0, min(count, size_bytes - offset)))

        yield from StreamOpener(str(path), size_bytes, read, find).pieces(PIECE_BYTES)


def read_at(path: Path, offset: int, size_bytes: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(size_bytes)


def _checked_header(path: Path, beginning: bytes) -> SealedHeader:
    header = read_header(str(path), beginning)[1]
    if header.purpose is not Purpose.BACKUP:
        raise ConfigError(
            f"{path}: is a {header.purpose} from a master's disk, no backup: make one with "
            "`essaim cluster backup`"
        )
    return header
