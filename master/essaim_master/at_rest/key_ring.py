"""`DATA_DIR/data_keys`: the keys with which a master seals what it writes.

The order of effects: a new key is durable in the file before anything is sealed with it, and an
old one is dropped after the last file that it sealed is gone, durably. So whatever a crash leaves
can be read. The file is replaced whole, by a rename; a change counts once its directory is synced.

Who writes takes a key and gives it back, so that none is dropped between the look at what is on
the disk and a first record under it.
"""

import logging
import secrets
import threading
from collections import Counter
from pathlib import Path
from typing import Final

from essaim_master.at_rest.errors import DataKeyMissing
from essaim_master.at_rest.ring import RING_KEYS_MAX, RingKey, decode_ring, encode_ring
from essaim_master.wal.files import DiskLogFiles, LogFiles
from essaim_shared.clock import Clock, SystemClock
from essaim_shared.errors import ConfigError, Conflict
from essaim_shared.sealing import KEY_BYTES, READ_BY_OTHERS, DataKey
from essaim_shared.trust.record_cipher import Entropy

RING_FILE: Final = "data_keys"
_NEW_FILE: Final = "data_keys.new"
LOG_DIRECTORY: Final = "wal"

_log = logging.getLogger(__name__)


class KeyRing:
    """For several threads at once. All of it may take as long as the disk does, but what only
    looks (`newest_id`) does not once the file was read."""

    def __init__(
        self, files: LogFiles, place: str, clock: Clock, entropy: Entropy = secrets.token_bytes
    ) -> None:
        """`place` names the file in errors. It is read when it is first needed."""
        self._files = files
        self._place = place
        self._clock = clock
        self._entropy = entropy
        self._lock = threading.Lock()
        self._keys: tuple[RingKey, ...] | None = None
        """Oldest first; None until the file was read."""
        self._taken: Counter[bytes] = Counter()

    @property
    def entropy(self) -> Entropy:
        return self._entropy

    @property
    def keys(self) -> tuple[RingKey, ...]:
        """Oldest first. Raises ConfigError for a file that cannot be used."""
        keys = self._keys
        if keys is None:
            with self._lock:
                keys = self._keys = self._read()
        return keys

    @property
    def newest_id(self) -> bytes | None:
        keys = self.keys
        return keys[-1].key.id if keys else None

    def find(self, key_id: bytes, what: str) -> DataKey:
        for one in self.keys:
            if one.key.id == key_id:
                return one.key
        raise DataKeyMissing(key_id, what, self._place)

    def ensure(self) -> None:
        if not self.keys:
            self.rotate()

    def take(self) -> DataKey:
        self.ensure()
        with self._lock:
            key = (self._keys or ())[-1].key
            self._taken[key.id] += 1
        return key

    def release(self, key_id: bytes) -> None:
        with self._lock:
            self._taken[key_id] -= 1

    def rotate(self) -> bytes:
        """Make a new key; its id. What is written from now on is sealed with it. Raises OSError,
        and Conflict while there are RING_KEYS_MAX."""
        known = self.keys
        with self._lock:
            keys = self._keys or known
            if len(keys) >= RING_KEYS_MAX:
                raise Conflict(
                    f"{self._place} has {len(keys)} keys, which is all that it may have, since the "
                    "log needs the old ones: wait until snapshots have replaced it, then ask again"
                )
            key = self._draw(keys)
            self._write((*keys, key))
        _log.info("data key %s is written with from now on", key.key.id.hex())
        return key.key.id

    def droppable(self) -> frozenset[bytes]:
        with self._lock:
            older = (self._keys or ())[:-1]
            return frozenset(one.key.id for one in older if not self._taken[one.key.id])

    def drop(self, key_ids: frozenset[bytes]) -> None:
        with self._lock:
            keys = self._keys or ()
            dropped = [one for one in keys[:-1] if one.key.id in key_ids]
            if not dropped:
                return
            self._write(tuple(one for one in keys if one not in dropped))
        for one in dropped:
            _log.info("data key %s is dropped: nothing here needs it any more", one.key.id.hex())

    def _draw(self, keys: tuple[RingKey, ...]) -> RingKey:
        known = {one.key.id for one in keys}
        while True:
            secret = self._entropy(KEY_BYTES)
            key = DataKey(secret)
            if key.id not in known:  # Once in 2**32 draws; then two keys had one name.
                return RingKey(key, secret, self._clock.wall_ns())

    def _read(self) -> tuple[RingKey, ...]:
        if RING_FILE not in self._files.names():
            return ()
        return decode_ring(self._files.read(RING_FILE), self._place)

    def _write(self, keys: tuple[RingKey, ...]) -> None:
        files = self._files
        if _NEW_FILE in files.names():
            files.remove(_NEW_FILE)  # Of an attempt that a crash cut.
        file = files.create(_NEW_FILE, 0)
        try:
            file.write_at((encode_ring(keys),), 0)
            file.sync_data()
        finally:
            file.close()
        files.rename(_NEW_FILE, RING_FILE)
        files.sync_directory()
        self._keys = keys


def open_ring(data_dir: Path) -> KeyRing:
    """The keys of a master's disk. Raises ConfigError for a file of them that others may read."""
    path = data_dir / RING_FILE
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        mode = 0
    if mode & READ_BY_OTHERS:
        raise ConfigError(f"{path}: others may read these keys: run chmod 600 {path}")
    return KeyRing(DiskLogFiles(data_dir), str(path), SystemClock())


def open_log_files(data_dir: Path) -> DiskLogFiles:
    """The directory of a master's log, with its keys beside it. Raises ConfigError."""
    return DiskLogFiles(data_dir / LOG_DIRECTORY, open_ring(data_dir))
