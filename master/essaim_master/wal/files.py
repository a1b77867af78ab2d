"""The file operations that the log and its snapshots need, and their form on a Linux file system.

`memory_files` is the twin for tests, with crashes and faults. All of them raise OSError.
"""

import fcntl
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from essaim_master.at_rest.cipher import DataKeys
from essaim_shared.errors import ConfigError

ZERO_CHUNK_BYTES = 1024 * 1024
"""A new segment is filled in pieces of this size, so that a sync of the log may come between."""

BUFFERS_PER_WRITE_MAX = 1024
"""IOV_MAX of Linux: pwritev(2) takes no more."""

LOCK_FILE = "wal.lock"


class LogFile(Protocol):
    """An open segment or snapshot."""

    def write_at(self, buffers: Sequence[bytes], offset: int) -> None:
        """Write all buffers one after another from `offset` on, or raise."""
        ...

    def sync_data(self) -> None:
        """Return once the bytes (and the size) are durable: fdatasync(2)."""
        ...

    def close(self) -> None: ...


class LogFiles(Protocol):
    """One directory, and the keys of what is sealed in it. Names have no slash. A created, renamed
    or removed name is durable only after `sync_directory`: without it a crash may bring back the
    old directory with the new file's entries lost (etcd issue 6368)."""

    @property
    def keys(self) -> DataKeys | None:
        """None: what is written is not sealed, and what is sealed cannot be read."""
        ...

    def names(self) -> list[str]: ...

    def read(self, name: str) -> bytes: ...

    def size_bytes(self, name: str) -> int: ...

    def read_at(self, name: str, offset: int, size_bytes: int) -> bytes:
        """Up to `size_bytes` from `offset` on; fewer only at the end of the file."""
        ...

    def create(self, name: str, size_bytes: int) -> LogFile:
        """A new file, filled with zeros and synced. Replaces a file of that name."""
        ...

    def open(self, name: str) -> LogFile: ...

    def copy(self, name: str, to: str) -> None: ...

    def rename(self, name: str, to: str) -> None: ...

    def remove(self, name: str) -> None: ...

    def sync_directory(self) -> None: ...

    def lock(self) -> None:
        """Keep other processes out until `unlock`. Raises ConfigError if one is in."""
        ...

    def unlock(self) -> None: ...


class DiskLogFile:
    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write_at(self, buffers: Sequence[bytes], offset: int) -> None:
        if len(buffers) > BUFFERS_PER_WRITE_MAX:
            buffers = (b"".join(buffers),)
        written = os.pwritev(self._descriptor, buffers, offset)
        size_bytes = sum(map(len, buffers))
        if written == size_bytes:
            return
        # A signal or a full disk cut the call short; the next one finishes it or says why not.
        rest = memoryview(b"".join(buffers))[written:]
        while rest:
            written = os.pwrite(self._descriptor, rest, offset + size_bytes - len(rest))
            rest = rest[written:]

    def sync_data(self) -> None:
        os.fdatasync(self._descriptor)

    def close(self) -> None:
        os.close(self._descriptor)


class DiskLogFiles:
    """A directory of its own for one log; made (mode 0700) if it is not there. A master's comes
    from `at_rest.key_ring.open_log_files`, with its keys."""

    def __init__(self, directory: Path, keys: DataKeys | None = None) -> None:
        self._directory = directory
        self._keys = keys
        self._lock_descriptor: int | None = None
        if not directory.is_dir():
            directory.mkdir(mode=0o700, parents=True)
            _sync_path(directory.parent)

    @property
    def keys(self) -> DataKeys | None:
        return self._keys

    def names(self) -> list[str]:
        return sorted(path.name for path in self._directory.iterdir())

    def read(self, name: str) -> bytes:
        return (self._directory / name).read_bytes()

    def size_bytes(self, name: str) -> int:
        return (self._directory / name).stat().st_size

    def read_at(self, name: str, offset: int, size_bytes: int) -> bytes:
        with (self._directory / name).open("rb", buffering=0) as file:
            file.seek(offset)
            return file.read(size_bytes)

    def create(self, name: str, size_bytes: int) -> LogFile:
        path = self._directory / name
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            # Written zeros, not only reserved blocks: the first write into a reserved extent
            # changes the file system's metadata, and each fdatasync would pay for that.
            zeros = bytes(min(size_bytes, ZERO_CHUNK_BYTES))
            offset = 0
            while offset < size_bytes:
                offset += os.pwrite(descriptor, zeros[: size_bytes - offset], offset)
            os.fsync(descriptor)
        except OSError:
            os.close(descriptor)
            raise
        return DiskLogFile(descriptor)

    def open(self, name: str) -> LogFile:
        return DiskLogFile(os.open(self._directory / name, os.O_RDWR | os.O_CLOEXEC))

    def copy(self, name: str, to: str) -> None:
        (self._directory / to).write_bytes(self.read(name))
        _sync_path(self._directory / to)

    def rename(self, name: str, to: str) -> None:
        (self._directory / name).rename(self._directory / to)

    def remove(self, name: str) -> None:
        (self._directory / name).unlink()

    def sync_directory(self) -> None:
        _sync_path(self._directory)

    def lock(self) -> None:
        descriptor = os.open(
            self._directory / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
        )
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise ConfigError(
                f"another master is running on {self._directory}: stop it, "
                "or give this one a data directory of its own"
            ) from error
        self._lock_descriptor = descriptor

    def unlock(self) -> None:
        if self._lock_descriptor is not None:
            os.close(self._lock_descriptor)
            self._lock_descriptor = None


def _sync_path(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
