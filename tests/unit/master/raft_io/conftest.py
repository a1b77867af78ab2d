"""A cluster of three real RaftNodes in one process, and how a test moves it."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import NamedTuple

import msgspec
import pytest

from essaim_master.kv.commands import AppliedProposal, ProposalId, TransactionResult
from essaim_master.memory_peer_transport import MemoryPeerNetwork
from essaim_master.raft.core import RaftConfig
from essaim_master.raft.messages import Configuration
from essaim_master.raft_driver import RaftNode
from essaim_master.raft_metrics import SyncFigures
from essaim_master.snapshot.settings import SnapshotSettings
from essaim_master.wal.log import Wal
from essaim_master.wal.memory_files import MemoryLogFiles
from essaim_master.wal.records import Identity, WalBatch
from essaim_shared.clock import Clock, ManualClock
from essaim_shared.ids import MemberId

MEMBERS = tuple(MemberId(name) for name in ("m1", "m2", "m3"))
SEGMENT_BYTES = 64 * 1024
STEP_S = 0.02
STEPS_MAX = 2000


class ScribeCommand(msgspec.Struct, array_like=True):
    proposal: ProposalId
    word: str


class FrozenScribe(NamedTuple):
    words: tuple[str, ...]
    positions: dict[ProposalId, int]

    def chunks(self) -> Iterator[bytes]:
        for proposal, position in self.positions.items():
            yield msgspec.msgpack.encode((proposal, self.words[position - 1]))


class Scribe:
    """A state machine that writes words down, each proposal once."""

    def __init__(self) -> None:
        self.words: list[str] = []
        self.positions: dict[ProposalId, int] = {}
        self.applied_commands = 0

    def freeze(self) -> "FrozenScribe":
        return FrozenScribe(tuple(self.words), dict(self.positions))

    def restore(self, chunks: Iterable[bytes]) -> None:
        self.words, self.positions = [], {}
        for chunk in chunks:
            proposal, word = msgspec.msgpack.decode(chunk, type=tuple[ProposalId, str])
            self.words.append(word)
            self.positions[proposal] = len(self.words)

    def apply(self, index: int, term: int, command: bytes) -> object:
        decoded = msgspec.msgpack.decode(command, type=ScribeCommand)
        self.applied_commands += 1
        if decoded.proposal not in self.positions:
            self.words.append(decoded.word)
            self.positions[decoded.proposal] = len(self.words)
        return AppliedProposal(
            decoded.proposal, TransactionResult(True, self.positions[decoded.proposal])
        )


class UnthreadedWriter:
    """Writes in the loop's next turn: with a ManualClock nothing depends on threads."""

    def __init__(
        self,
        wal: Wal,
        loop: asyncio.AbstractEventLoop,
        on_durable: Callable[[int], None],
        fatal: Callable[[BaseException], None],
        clock: Clock,
    ) -> None:
        self._wal, self._loop, self._on_durable, self._fatal = wal, loop, on_durable, fatal
        self._waiting: list[WalBatch] = []
        self._submitted = self._durable = 0
        self.age_s = 0.0
        self.is_held = False

    def submit(self, batch: WalBatch) -> int:
        self._waiting.append(batch)
        self._submitted += 1
        self._loop.call_soon(self.flush)
        return self._submitted

    def flush(self) -> None:
        if not self._waiting or self.is_held:
            return
        batches, self._waiting = self._waiting, []
        try:
            self._wal.append(batches)
        except OSError as error:
            self._fatal(error)
            return
        self._durable += len(batches)
        self._on_durable(self._durable)

    def sync_age_s(self) -> float:
        return self.age_s

    def sync_figures(self) -> SyncFigures:
        return SyncFigures(count=self._durable)

    async def close(self) -> None:
        self.flush()
        self._wal.close()


async def at_once(function, /, *arguments):
    """In place of a thread."""
    await asyncio.sleep(0)
    return function(*arguments)


class Cluster:
    def __init__(self, seed: int) -> None:
        print(f"seed {seed}")
        self.rng = random.Random(seed)
        self.clock = ManualClock()
        self.network = MemoryPeerNetwork(self.clock, self.rng)
        self.memory_files: dict[MemberId, MemoryLogFiles] = {
            m: MemoryLogFiles(random.Random(m).randbytes) for m in MEMBERS
        }
        self.nodes: dict[MemberId, RaftNode] = {}
        self.scribes: dict[MemberId, Scribe] = {}
        self.fatal_errors: list[BaseException] = []
        self.sequence = 0
        self.writers: dict[MemberId, UnthreadedWriter] = {}
        self.configurations: dict[MemberId, Configuration] = {}
        """Of members that join; the others are founders."""
        self.snapshots = SnapshotSettings()
        """Of the members that are started from now on."""

    async def start(self, *members: MemberId) -> None:
        for member in members or MEMBERS:
            self.scribes[member] = Scribe()

            def start_writer(*arguments, member=member):
                self.writers[member] = UnthreadedWriter(*arguments)
                return self.writers[member]

            node = RaftNode(
                RaftConfig(member),
                Identity(
                    "cluster-1", member, self.configurations.get(member, Configuration(MEMBERS))
                ),
                self.memory_files[member],
                self.network.transport(member),
                self.scribes[member],
                self.clock,
                random.Random(self.rng.getrandbits(64)),
                self.fatal_errors.append,
                SEGMENT_BYTES,
                start_writer,
                snapshots=self.snapshots,
                run_blocking=at_once,
            )
            await node.start()
            self.nodes[member] = node

    async def stop(self, *members: MemberId) -> None:
        for member in members or tuple(self.nodes):
            await self.nodes.pop(member).stop()

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        for _ in range(STEPS_MAX):
            if condition():
                return
            await self.clock.advance(STEP_S)
        raise AssertionError(f"in {STEPS_MAX * STEP_S:.0f} s this did not come about: {what}")

    async def run(self, duration_s: float) -> None:
        for _ in range(round(duration_s / STEP_S)):
            await self.clock.advance(STEP_S)

    async def result(self, awaitable):
        """Move the clock until the call returns or raises."""
        task = asyncio.ensure_future(awaitable)
        await self.until(task.done, "the call returns")
        return await task

    async def leader(self, among: tuple[MemberId, ...] = MEMBERS) -> MemberId:
        await self.until(lambda: len(self.leaders(among)) == 1, "one leader that all follow")
        return self.leaders(among).pop()

    def leaders(self, among: tuple[MemberId, ...]) -> set[MemberId]:
        """The one leader whom all of `among` follow, if there is one."""
        seen = {self.nodes[member].leader for member in among}
        if len(seen) == 1 and None not in seen:
            (name,) = seen
            if name in among and self.nodes[name].is_leader:
                return {name}
        return set()

    def proposal(self, word: str, client: str = "test") -> tuple[bytes, ProposalId]:
        self.sequence += 1
        proposal_id = ProposalId(client, self.sequence)
        return msgspec.msgpack.encode(ScribeCommand(proposal_id, word)), proposal_id

    async def put(self, member: MemberId, word: str, timeout_s: float = 10.0) -> int:
        command, proposal_id = self.proposal(word)
        node = self.nodes[member]
        applied = await self.result(node.propose(command, proposal_id, timeout_s))
        assert isinstance(applied, TransactionResult)
        return applied.revision

    def others(self, member: MemberId) -> tuple[MemberId, ...]:
        return tuple(other for other in MEMBERS if other != member)


@pytest.fixture
async def new_cluster() -> AsyncIterator[Callable[[int], Cluster]]:
    """Makes clusters of three members on memory disks, not started."""
    made: list[Cluster] = []

    def make(seed: int) -> Cluster:
        made.append(Cluster(seed))
        return made[-1]

    yield make
    for cluster in made:
        await cluster.stop()
        await cluster.network.close()
        assert cluster.fatal_errors == []


@pytest.fixture
def cluster(new_cluster: Callable[[int], Cluster]) -> Cluster:
    return new_cluster(7)
