"""A directory in memory that can lose its power and have faults: the twin of `files`.

Each file has the bytes that a reader sees and those that are durable. `crash` gives back the
directory as it may look after a power cut: of what was not synced, any set of disk sectors may
have been written, in any order; names changed since the last directory sync are as they were.
The ring of keys, if there are any, is a file among the others, and lost and torn like them.
"""

import errno
import os
import random
from collections.abc import Callable, Sequence

from essaim_master.at_rest.key_ring import RING_FILE, KeyRing
from essaim_master.wal.files import LogFile
from essaim_master.wal.recovery import SECTOR_BYTES
from essaim_shared.clock import ManualClock
from essaim_shared.errors import ConfigError
from essaim_shared.trust.record_cipher import Entropy


class _Content:
    def __init__(self, name: str, seen: bytearray) -> None:
        self.name = name
        self.seen = seen
        self.durable = bytearray()

    def after_crash(self, rng: random.Random) -> bytearray:
        result = self.durable.ljust(len(self.seen), b"\0")
        for start in range(0, len(self.seen), SECTOR_BYTES):
            end = start + SECTOR_BYTES
            if self.seen[start:end] != result[start:end] and rng.random() < 0.5:
                result[start:end] = self.seen[start:end]
        return result


class MemoryLogFiles:
    def __init__(self, entropy: Entropy | None = None) -> None:
        """With `entropy` what is written is sealed."""
        self._entropy = entropy
        self._keys = None if entropy is None else KeyRing(self, RING_FILE, ManualClock(), entropy)
        self._files: dict[str, _Content] = {}
        self._durable_names: dict[str, _Content] = {}
        self._is_locked = False
        self._faults: dict[str, list[int | None]] = {}
        self._broken_names: dict[str, int] = {}
        self.before_call: Callable[[], None] = lambda: None
        """Told before each operation takes effect: a test cuts the power at the very one."""
        self.calls: list[str] = []
        """Every operation in order, as 'operation name': tests check the order of syncs."""

    def fail(self, operation: str, number: int, after: int = 0, times: int = 1) -> None:
        """Let `operation` ("write_at", "sync_data", "create", "rename", "sync_directory") raise
        OSError(number) so many `times`, after succeeding `after` times."""
        self._faults[operation] = [None] * after + [number] * times

    def fail_writes_of(self, name: str, number: int | None) -> None:
        """Let every write to the file of that name raise OSError(number), until None is given."""
        if number is None:
            self._broken_names.pop(name, None)
        else:
            self._broken_names[name] = number

    def crash(self, rng: random.Random) -> "MemoryLogFiles":
        """The directory that the next start finds. This one must not be used any more."""
        found = MemoryLogFiles(self._entropy)
        for name, content in self._durable_names.items():
            survivor = _Content(name, content.after_crash(rng))
            survivor.durable = bytearray(survivor.seen)
            found._files[name] = survivor
            found._durable_names[name] = survivor
        return found

    def overwrite(self, name: str, offset: int, data: bytes) -> None:
        """Change durable bytes behind the log's back."""
        content = self._files[name]
        content.seen[offset : offset + len(data)] = data
        content.durable = bytearray(content.seen)

    def cut(self, name: str, size_bytes: int) -> None:
        content = self._files[name]
        del content.seen[size_bytes:]
        content.durable = bytearray(content.seen)

    def twin(self) -> "MemoryLogFiles":
        """An independent copy of what a reader sees, all of it durable."""
        found = MemoryLogFiles(self._entropy)
        for name, content in self._files.items():
            copied = _Content(name, bytearray(content.seen))
            copied.durable = bytearray(content.seen)
            found._files[name] = found._durable_names[name] = copied
        return found

    @property
    def keys(self) -> KeyRing | None:
        return self._keys

    def names(self) -> list[str]:
        return sorted(self._files)

    def read(self, name: str) -> bytes:
        return bytes(self._files[name].seen)

    def size_bytes(self, name: str) -> int:
        return len(self._files[name].seen)

    def read_at(self, name: str, offset: int, size_bytes: int) -> bytes:
        return bytes(self._files[name].seen[offset : offset + size_bytes])

    def create(self, name: str, size_bytes: int) -> LogFile:
        self._call("create", name)
        content = _Content(name, bytearray(size_bytes))
        content.durable = bytearray(size_bytes)
        self._files[name] = content
        return _MemoryLogFile(self, content)

    def open(self, name: str) -> LogFile:
        return _MemoryLogFile(self, self._files[name])

    def copy(self, name: str, to: str) -> None:
        content = _Content(to, bytearray(self._files[name].seen))
        content.durable = bytearray(content.seen)
        self._files[to] = content

    def rename(self, name: str, to: str) -> None:
        self._call("rename", f"{name} {to}")
        content = self._files[to] = self._files.pop(name)
        content.name = to

    def remove(self, name: str) -> None:
        self._call("remove", name)
        del self._files[name]

    def sync_directory(self) -> None:
        self._call("sync_directory", "")
        self._durable_names = dict(self._files)

    def lock(self) -> None:
        if self._is_locked:
            raise ConfigError("another master is running on this directory")
        self._is_locked = True

    def unlock(self) -> None:
        self._is_locked = False

    def _written(self, name: str, data: bytes, offset: int) -> None:
        """For those who check all that is ever written."""

    def _call(self, operation: str, subject: str) -> None:
        self.before_call()
        self.calls.append(f"{operation} {subject}".rstrip())
        faults = self._faults.get(operation)
        if faults:
            number = faults.pop(0)
            if number is not None:
                raise OSError(number, os.strerror(number))


class _MemoryLogFile:
    def __init__(self, files: MemoryLogFiles, content: _Content) -> None:
        self._files = files
        self._content = content

    def write_at(self, buffers: Sequence[bytes], offset: int) -> None:
        self._files._call("write_at", self._content.name)
        number = self._files._broken_names.get(self._content.name)
        if number is not None:
            raise OSError(number, os.strerror(number))
        data = b"".join(buffers)
        self._files._written(self._content.name, data, offset)
        seen = self._content.seen
        if len(seen) < offset:
            raise OSError(errno.EINVAL, f"write at {offset} leaves a hole after {len(seen)}")
        seen[offset : offset + len(data)] = data

    def sync_data(self) -> None:
        self._files._call("sync_data", self._content.name)
        self._content.durable = bytearray(self._content.seen)

    def close(self) -> None:
        self._files.calls.append(f"close {self._content.name}")
