"""One simulated master: real driver, core, log and store; its lives, crashes and pauses."""

import asyncio
import contextlib
import random
from collections.abc import Callable, Iterable, Sequence
from enum import Enum

from sim.disk import OPERATIONS_OF_AN_APPEND_MAX, DiskSpeed, SimulatedFiles, SimulatedWriter
from sim.invariants import ClusterInvariants
from sim.network import SimulatedNetwork, SimulatedTransport
from sim.virtual_time import MachineClock, MachineLoop, PowerCut, WorkAtOnce, World
from sim.witness import Witness
from support.nonces import NonceWatch

from essaim_master.at_rest.ring import RING_KEYS_MAX
from essaim_master.kv.commands import AppliedProposal
from essaim_master.kv.history import Event
from essaim_master.kv.store import KeyValueStore
from essaim_master.raft.core import RaftConfig
from essaim_master.raft.messages import Configuration
from essaim_master.raft_driver import RaftNode
from essaim_master.snapshot.files import name_of
from essaim_master.snapshot.settings import SnapshotSettings
from essaim_master.wal.errors import ForeignWal, WalCorrupt
from essaim_master.wal.files import LogFiles
from essaim_master.wal.log import Wal
from essaim_master.wal.records import Identity, WalBatch
from essaim_master.wal.recovery import Recovered
from essaim_shared.clock import Clock
from essaim_shared.ids import MemberId

SEGMENT_BYTES = 8 * 1024
"""Small, so that segments change often."""
CLUSTER_ID = "simulated"
WALL_NS = 1_700_000_000_000_000_000
WALL_SKEW_NS = 600_000_000_000
ROTATION_PROBABILITY = 0.3
"""That a life begins with a new data key."""


class Health(Enum):
    DOWN = "down"
    RUNNING = "running"
    CORRUPT = "corrupt"
    """It refused to start on a damaged disk, as it must."""


class WitnessedStore(KeyValueStore):
    """The real store; each apply and each revision is shown to the witness."""

    def __init__(self, member: MemberId, witness: Witness) -> None:
        super().__init__()
        self._member = member
        self._witness = witness
        self.applied_index = 0
        self.revisions: list[tuple[int, tuple[Event, ...]]] = []
        self.watch(lambda revision, events: self.revisions.append((revision, events)))

    def restore(self, chunks: Iterable[bytes]) -> None:
        """A snapshot is told as one step; what is told from here on is checked again."""
        super().restore(chunks)
        self._witness.restores += 1
        self.revisions.clear()

    def apply(self, index: int, term: int, command: bytes) -> AppliedProposal:
        if index <= self.applied_index:
            self._witness.accuse(f"{self._member} applies entry {index} after {self.applied_index}")
        applied = super().apply(index, term, command)
        self.applied_index = index
        self._witness.applied(self._member, index, term, command, applied)
        return applied


class SimulatedMaster:
    def __init__(
        self,
        member: MemberId,
        configuration: Configuration,
        world: World,
        network: SimulatedNetwork,
        witness: Witness,
        invariants: ClusterInvariants,
        rng: random.Random,
        clock_skew_max: float,
        config: RaftConfig,
        snapshots: SnapshotSettings,
    ) -> None:
        self.member = member
        self._configuration = configuration
        self._config = config
        self._snapshots = snapshots
        self._world = world
        self._network = network
        self._witness = witness
        self._invariants = invariants
        self._rng = rng
        self._clock_skew_max = clock_skew_max
        self.health = Health.DOWN
        self.nonces = NonceWatch()
        entropy = random.Random(f"entropy of {member}").randbytes
        self.files = SimulatedFiles(entropy, self.nonces)
        self.speed = DiskSpeed(random.Random(rng.getrandbits(64)), typical_s=0.0004)
        self.life = 0
        self.is_flipped = False
        """A bit of its disk was changed: from the next start on it may refuse to run."""
        self.expected_errors: tuple[type[BaseException], ...] = ()
        """What may end the process now, because the disk was told to fail."""
        self.ended: Callable[[SimulatedMaster], None] = lambda master: None
        """Told whenever a life ends by itself."""
        self.crashes = 0

    # Lives

    def start(self) -> None:
        """Begin a life. What it finds on its disk is compared with what it had promised."""
        self.life += 1
        rate = 1.0 + self._rng.uniform(-1, 1) * self._clock_skew_max
        self.loop = MachineLoop(  # type: ignore[abstract] # only what the driver uses is there
            self._world, rate, self._failed
        )
        self.loop.on_crash = self.cut_power
        self.loop.turn_ended = lambda: self._invariants.turn_ended(self.member)
        wall_ns = WALL_NS + self._rng.randrange(WALL_SKEW_NS)
        self.clock = MachineClock(self._world, rate, wall_ns)
        self.transport = SimulatedTransport(self._network, self.member, self.loop)
        self.store = WitnessedStore(self.member, self._witness)
        self.writer: SimulatedWriter | None = None
        self.is_ready = False
        self.files.on_power_cut = self._power_is_gone
        self.node = RaftNode(
            self._config,
            Identity(CLUSTER_ID, self.member, self._configuration),
            self.files,
            self.transport,
            self.store,
            self.clock,
            random.Random(self._rng.getrandbits(64)),
            self._fatal,
            segment_bytes=SEGMENT_BYTES,
            start_writer=self._start_writer,
            open_log=self._open_log,
            snapshots=self._snapshots,
        )
        self.health = Health.RUNNING
        self.loop.spawn(self._begin())

    async def _begin(self) -> None:
        try:
            await self.node.start()
        except (WalCorrupt, ForeignWal) as error:
            if not self.is_flipped:
                self._witness.accuse(f"{self.member} takes an intact disk for damaged: {error}")
            self._end_life(Health.CORRUPT)
            return
        except OSError as error:
            self._fatal(error)
            return
        self._invariants.life_began(self)
        self.is_ready = True

    def kill(self) -> None:
        """SIGKILL: the process ends, the page cache stays."""
        if self.health is not Health.RUNNING:
            return
        self._end_life(Health.DOWN)
        if self._rng.random() < 0.5:
            self._write_without_sync()
        self.files = self.files.after_kill()

    def _write_without_sync(self) -> None:
        """The batch under way had reached the page cache when the process ended."""
        if self.writer is None:
            return
        self.files.on_power_cut = lambda: None
        self.files.cut_after_operations = 2
        with contextlib.suppress(PowerCut, OSError):
            self.writer.lose_power()

    def cut_power(self) -> None:
        """The write under way gets as far as it gets; what was not synced may be lost."""
        if self.health is not Health.RUNNING:
            return
        self._power_is_gone(self._rng.choice((1, 2, 2, 3, OPERATIONS_OF_AN_APPEND_MAX)))

    def _power_is_gone(self, operations_left: int = 0) -> None:
        self._end_life(Health.DOWN)
        files, writer = self.files, self.writer
        if operations_left and writer is not None:
            files.on_power_cut = lambda: None
            files.cut_after_operations = operations_left
            with contextlib.suppress(PowerCut, OSError):  # The disk may be broken as well.
                writer.lose_power()
        self.files = files.after_power_cut(self._rng)

    def crash_after(self, callbacks: int) -> None:
        """Lose power at a point of the program, rather than at a moment of time."""
        self.loop.crash_after_callbacks = callbacks

    def crash_at_file_operation(self, operations: int) -> None:
        self.files.cut_after_operations = operations

    def pause(self) -> None:
        self.loop.pause()

    def resume(self) -> None:
        self.loop.resume()

    def _end_life(self, health: Health) -> None:
        if self.health is Health.RUNNING:
            self.crashes += 1
        self.health = health
        self.is_ready = False
        self.loop.kill()
        self._invariants.life_ended(self.member)
        self.transport.unplug()
        self.ended(self)

    def _fatal(self, error: BaseException) -> None:
        if self.loop.is_dead or isinstance(error, PowerCut):
            return
        if not isinstance(error, self.expected_errors):
            self._witness.accuse(f"{self.member} stops: {type(error).__name__}: {error}")
        self.kill()

    def _failed(self, error: BaseException) -> None:
        self._witness.accuse(f"a callback of {self.member} raises {type(error).__name__}: {error}")

    # Its disk

    def _open_log(
        self, files: LogFiles, identity: Identity, segment_bytes: int
    ) -> tuple[Wal, Recovered]:
        wal, recovered = Wal.open(files, identity, segment_bytes, WorkAtOnce())
        # Whatever a start counts on must be there again, even if the power goes right now.
        second, found_again = Wal.open(
            self.files.after_power_cut(self._rng), identity, segment_bytes, WorkAtOnce()
        )
        second.close()
        if found_again != recovered:
            self._witness.accuse(f"{self.member} would find something else at a second start")
        is_rotating = self._rng.random() < ROTATION_PROBABILITY
        if is_rotating and len(self.files.keys.keys) < RING_KEYS_MAX:
            self.files.keys.rotate()
        self._witness.recovered_on(
            self.member, recovered.hard_state, recovered.snapshot, recovered.entries
        )
        return wal, recovered

    def _start_writer(
        self,
        wal: Wal,
        loop: asyncio.AbstractEventLoop,
        on_durable: Callable[[int], None],
        fatal: Callable[[BaseException], None],
        clock: Clock,
    ) -> SimulatedWriter:
        self.writer = SimulatedWriter(
            wal, self.loop, on_durable, fatal, clock, self._world, self.speed, self
        )
        return self.writer

    def batch_submitted(self, batch: WalBatch) -> None:
        self._witness.submitted_by(self.member, batch)

    def batches_durable(self, batches: Sequence[WalBatch]) -> None:
        self._witness.durable_on(self.member, batches)
        if self.nonces.twice:
            self._witness.accuse(f"{self.member} sealed two things alike: {self.nonces.twice[0]}")
        for batch in batches:
            if batch.snapshot is None:
                continue
            name = name_of(batch.snapshot.metadata)
            if self.files.may_lose_name(name):
                self._witness.accuse(
                    f"the log of {self.member} counts on {name}, whose name is not durable yet"
                )
