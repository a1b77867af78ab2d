"""A machine's disk: real log code over files in memory, with faults that a seed draws.

What survives a power cut is `MemoryLogFiles.crash`: the synced bytes, and any set of the sectors
that were written and not synced; names as of the last directory sync.
"""

import errno
import os
import random
from collections import deque
from collections.abc import Callable
from typing import Protocol

from sim.virtual_time import MachineLoop, PowerCut, World
from support.nonces import NonceWatch

from essaim_master.raft_metrics import SyncFigures, SyncTimes
from essaim_master.wal.log import Wal
from essaim_master.wal.memory_files import MemoryLogFiles
from essaim_master.wal.records import WalBatch
from essaim_master.wal.recovery import parse_segment_name
from essaim_shared.clock import Clock
from essaim_shared.trust.record_cipher import Entropy

BATCHES_PER_SYNC_MAX = 1024
OPERATIONS_OF_AN_APPEND_MAX = 8
"""write, sync; with a new segment also create, write, sync, rename, directory, close…"""
FLIP_NEAR_DATA_BYTES = 64


class SimulatedFiles(MemoryLogFiles):
    """Counts down to a power cut, and refuses what a full disk would."""

    def __init__(self, entropy: Entropy, nonces: NonceWatch) -> None:
        super().__init__(entropy)
        self.randomness = entropy
        self.nonces = nonces
        """Of all lives, and of copies that are only looked at: those could be the next life."""
        self.cut_after_operations: int | None = None
        self.on_power_cut: Callable[[], None] = lambda: None
        self.is_full = False
        """No room for new segments (ENOSPC)."""
        self.is_broken = False
        """Writes and syncs fail (EIO)."""

    def _written(self, name: str, data: bytes, offset: int) -> None:
        self.nonces.written(name, data)

    def _call(self, operation: str, subject: str) -> None:
        if self.cut_after_operations is not None:
            self.cut_after_operations -= 1
            if self.cut_after_operations <= 0:
                self.cut_after_operations = None
                self.on_power_cut()
                raise PowerCut
        if self.is_full and operation == "create":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if self.is_broken and operation in ("write_at", "sync_data"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def after_power_cut(self, rng: random.Random) -> "SimulatedFiles":
        """The directory that the next life finds."""
        found = SimulatedFiles(self.randomness, self.nonces)
        crashed = self.crash(rng)
        found._files, found._durable_names = crashed._files, crashed._durable_names
        return found

    def after_kill(self) -> "SimulatedFiles":
        """The same directory for the next process: the kernel keeps what was written, and may
        still lose it when the power goes."""
        found = SimulatedFiles(self.randomness, self.nonces)
        found._files, found._durable_names = self._files, self._durable_names
        found.is_full, found.is_broken = self.is_full, self.is_broken
        return found

    def may_lose_name(self, name: str) -> bool:
        """The file is there, and a power cut now could take its name away."""
        return name in self._files and name not in self._durable_names

    def independent_copy(self) -> "SimulatedFiles":
        found = SimulatedFiles(self.randomness, self.nonces)
        copied = self.twin()
        found._files, found._durable_names = copied._files, copied._durable_names
        return found

    def flip_bit(self, rng: random.Random) -> str | None:
        """Flip one bit of the written part of some segment; where, or None without segments."""
        segments = [name for name in self.names() if parse_segment_name(name) is not None]
        if not segments:
            return None
        name = rng.choice(segments)
        data = self.read(name)
        written_bytes = len(data.rstrip(b"\0"))
        position = rng.randrange(min(len(data), written_bytes + FLIP_NEAR_DATA_BYTES))
        bit = 1 << rng.randrange(8)
        self.overwrite(name, position, bytes((data[position] ^ bit,)))
        return f"{name} byte {position} bit {bit}"


class DiskObserver(Protocol):
    def batch_submitted(self, batch: WalBatch) -> None: ...

    def batches_durable(self, batches: list[WalBatch]) -> None: ...


class DiskSpeed:
    """How long a sync takes, on the world's clock."""

    def __init__(self, rng: random.Random, typical_s: float) -> None:
        self._rng = rng
        self.typical_s = typical_s
        self.slow_probability = 0.0
        self.slow_max_s = 0.0

    def draw_s(self) -> float:
        if self.slow_probability and self._rng.random() < self.slow_probability:
            return self._rng.uniform(0, self.slow_max_s)
        return self.typical_s * (0.5 + self._rng.random())


class SimulatedWriter:
    """`WalWriter` without its thread: one sync at a time, the rest waits and is the next batch."""

    def __init__(
        self,
        wal: Wal,
        loop: MachineLoop,
        on_durable: Callable[[int], None],
        fatal: Callable[[BaseException], None],
        clock: Clock,
        world: World,
        speed: DiskSpeed,
        observer: DiskObserver,
    ) -> None:
        self.wal = wal
        self._loop = loop
        self._on_durable = on_durable
        self._fatal = fatal
        self._clock = clock
        self._world = world
        self._speed = speed
        self._observer = observer
        self._queue: deque[WalBatch] = deque()
        self._writing: list[WalBatch] = []
        self._submitted = self._durable = 0
        self._sync_started_s: float | None = None
        self._sync_times = SyncTimes()
        self._is_closed = False

    def submit(self, batch: WalBatch) -> int:
        self._observer.batch_submitted(batch)
        self._queue.append(batch)
        self._submitted += 1
        if not self._writing:
            self._begin()
        return self._submitted

    def sync_age_s(self) -> float:
        started_s = self._sync_started_s
        return 0.0 if started_s is None else self._clock.monotonic_s() - started_s

    def sync_figures(self) -> SyncFigures:
        return self._sync_times.figures()

    async def close(self) -> None:
        while self._writing:
            await self._clock.sleep(self._speed.typical_s)
        self._is_closed = True
        self.wal.close()

    def lose_power(self) -> None:
        """The batch under way gets as far as the files' countdown lets it."""
        if self._writing:
            self.wal.append(self._writing)

    def _begin(self) -> None:
        count = min(len(self._queue), BATCHES_PER_SYNC_MAX)
        self._writing = [self._queue.popleft() for _ in range(count)]
        self._sync_started_s = self._clock.monotonic_s()
        self._world.after(self._speed.draw_s(), self._end)

    def _end(self) -> None:
        if self._loop.is_dead or self._is_closed:
            return
        try:
            self.wal.append(self._writing)
        except PowerCut:
            return
        except OSError as error:
            self._fatal(error)
            return
        self._durable += len(self._writing)
        self._observer.batches_durable(self._writing)
        self._writing = []
        self._sync_started_s = None
        self._loop.arrive(self._on_durable, self._durable)
        if self._queue:
            self._begin()
