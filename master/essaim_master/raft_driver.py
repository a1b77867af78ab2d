"""The only place where Raft's core, the disk, the links and the state machine meet.

Everything that happens (messages, proposals, readers, a finished sync, a tick) is noted and asks
for a *turn*; a turn runs once for all of it, as the next callback of the event loop, without a
timer. So the load makes the batches: all proposals of a turn become one `core.propose`, one
write of the log, one append for each follower, one pass of applying, one burst of results.

The order inside a turn is rule 3: messages that wait are delivered before a tick counts the
silence, and after a pause of the process there is one tick, not one for each that was missed.
What must be durable before it is said goes through `WalWriter` in order (`raft_writes`); committed
entries reach the state machine in slices (`raft_machine`); snapshots are `snapshot.keeper`'s.
"""

import asyncio
import logging
import random
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from essaim_master.kv.commands import ProposalId
from essaim_master.peer_transport import PeerTransport
from essaim_master.raft.core import RaftConfig, RaftCore, RaftStatus
from essaim_master.raft.errors import ProposalDropped
from essaim_master.raft.log import RaftLog
from essaim_master.raft.membership import ConfigurationChange
from essaim_master.raft.messages import Message, Ready
from essaim_master.raft_machine import Applier, StateMachine
from essaim_master.raft_metrics import RaftMetrics
from essaim_master.raft_ticker import Leadership, LeadershipCallback, Ticker
from essaim_master.raft_waiters import Proposals, Readers, Transfers, Waiter
from essaim_master.raft_writes import PendingWrites
from essaim_master.snapshot.files import SnapshotFiles
from essaim_master.snapshot.keeper import SnapshotKeeper, collect_metrics, recover_state
from essaim_master.snapshot.settings import SnapshotSettings
from essaim_master.snapshot.tasks import RunBlocking
from essaim_master.snapshot.transfer import ChunkAnswer, SnapshotChunk
from essaim_master.wal.files import LogFiles
from essaim_master.wal.log import SEGMENT_BYTES, Wal
from essaim_master.wal.records import Identity, SnapshotRecord
from essaim_master.wal.recovery import Recovered
from essaim_master.wal.writer import Fatal, LogWriter, StartWriter, WalWriter
from essaim_shared.clock import Clock
from essaim_shared.errors import MalformedMessage, Unavailable
from essaim_shared.ids import MemberId

PROPOSALS_PER_TURN_MAX = 2048
PROPOSAL_BYTES_PER_TURN_MAX = 4 * 1024 * 1024
FOREIGN_PROPOSALS_MAX = 20_000
"""Forwarded to us and not yet proposed; more are dropped, their masters send them again."""
INBOX_MESSAGES_MAX = 16_384
"""Received and not yet stepped; more are dropped, as on a full wire."""
READIES_PER_TURN_MAX = 8
DISK_STALL_S = 1.0
"""A leader whose disk does not answer for so long falls silent, so that another one is elected
(hashicorp/raft issue 503: a hung disk kept a dead leader in office)."""
TRANSFER_TIMEOUT_S = 3.0

DEFAULT_SNAPSHOTS = SnapshotSettings()
OpenLog = Callable[[LogFiles, Identity, int], tuple[Wal, Recovered]]

_log = logging.getLogger(__name__)


class RaftNode:
    """One master's member of the cluster. All methods belong to one event loop."""

    def __init__(
        self,
        config: RaftConfig,
        identity: Identity,
        files: LogFiles,
        peers: PeerTransport,
        state_machine: StateMachine,
        clock: Clock,
        rng: random.Random,
        fatal: Fatal,
        segment_bytes: int = SEGMENT_BYTES,
        start_writer: StartWriter = WalWriter,
        open_log: OpenLog = Wal.open,
        snapshots: SnapshotSettings = DEFAULT_SNAPSHOTS,
        run_blocking: RunBlocking = asyncio.to_thread,
    ) -> None:
        """`fatal` ends the process: it is called when the disk fails or an invariant is broken,
        from any thread, and nothing is sent or acknowledged after it."""
        self._config = config
        self._identity = identity
        self._files = files
        self._peers = peers
        self._applier = Applier(state_machine, clock)
        self._clock = clock
        self._rng = rng
        self._fatal = fatal
        self._segment_bytes = segment_bytes
        self._start_writer = start_writer
        self._open_log = open_log
        self._snapshot_settings = snapshots
        self._run_blocking = run_blocking

        self._inbox: deque[Message] = deque()
        self._foreign: deque[bytes] = deque()
        self._unreachable: set[MemberId] = set()
        self._proposals = Proposals()
        self._readers = Readers(rng.getrandbits(48))
        self._is_send_allowed = True
        """False from a failed attempt until the next tick or leader: no busy waiting."""
        self._is_ask_allowed = True
        self._is_running = False
        self._is_turn_scheduled = False
        self._is_tick_due = False
        self._ticker = Ticker(clock, self._tick_is_due)
        self._seen_leader: tuple[int, MemberId | None] = (0, None)
        self._leader_changes = 0
        self._leadership = Leadership()
        self._transfers = Transfers()

    # Life

    async def start(self) -> None:
        """Recover from the newest snapshot and the log, then take part.

        Raises WalCorrupt, ForeignWal, ConfigError, OSError: the master can not start.
        """
        self._config.validate()
        self._loop = asyncio.get_running_loop()
        wal, recovered = await self._run_blocking(
            recover_state,
            lambda: self._open_log(self._files, self._identity, self._segment_bytes),
            SnapshotFiles(self._files),
            self._applier,
        )
        self._core = RaftCore(
            self._config,
            self._rng,
            recovered.hard_state,
            self._identity.first_configuration,
            recovered.entries,
            recovered.snapshot,
        )
        self._wal = wal
        self._writer: LogWriter = self._start_writer(
            wal, self._loop, self._on_durable, self._fatal, self._clock
        )
        self._writes = PendingWrites(self._writer)
        self._snapshots = SnapshotKeeper(
            wal,
            SnapshotFiles(self._files),
            self._core,
            self._applier,
            self._peers,
            self,
            self._clock,
            self._run_blocking,
            self._snapshot_settings,
        )
        self._is_running = True
        has_started = False
        try:
            await self._peers.start(self)
            has_started = True
        finally:
            if not has_started:
                self._is_running = False
                await self._writer.close()
        self._ticker.start()
        self._schedule_turn()

    async def stop(self) -> None:
        """Leave in order: what was submitted becomes durable, whoever waits gets an error."""
        if not self._is_running and not self._ticker.is_ticking:
            return
        self._is_running = False
        await self._ticker.stop()
        await self._snapshots.close()
        await self._peers.close()
        self._writes.flush()
        await self._writer.close()
        self._proposals.close()
        self._readers.close()
        self._transfers.close()

    # What callers ask

    async def propose(self, command: bytes, proposal_id: ProposalId, timeout_s: float) -> object:
        """Have a command applied; its result, once it is applied on this master.

        Works on every master. The same command is sent again across lost messages and changes
        of the leader until the deadline (in steps of a tick). Raises NoLeader (it was never
        sent: nothing happened), OutcomeUnknown (it may have happened), Unavailable (too many
        wait) and InvalidRequest (too large).
        """
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self.submit(command, proposal_id, timeout_s, future)
        return await future

    def submit(
        self, command: bytes, proposal_id: ProposalId, timeout_s: float, waiter: Waiter
    ) -> None:
        """As `propose`, but the waiter is told, within the turn that applies the command: many
        commands need no task and no future each. What is refused at once is raised here."""
        self._check_running()
        deadline_s = self._clock.monotonic_s() + timeout_s
        self._proposals.add_waiter(proposal_id, command, deadline_s, waiter)
        self._schedule_turn()

    async def read_barrier(self, timeout_s: float) -> int:
        """Return when this master has applied all that was committed when it was called, so that
        a read of its state is linearizable; the applied index. Raises NoLeader."""
        return await self.begin_read(timeout_s)

    def begin_read(self, timeout_s: float) -> asyncio.Future[int]:
        """As `read_barrier`, without a task."""
        self._check_running()
        future = self._readers.add(self._clock.monotonic_s() + timeout_s)
        self._schedule_turn()
        return future

    async def transfer_leadership(self, to: MemberId) -> None:
        """Hand leadership over; returns once this master sees the other one lead. Raises
        NotLeader, TransferRefused, or Unavailable when it did not come about."""
        self._check_running()
        self._core.transfer_leadership(to)
        done = self._transfers.add(to, self._clock.monotonic_s() + TRANSFER_TIMEOUT_S)
        self._schedule_turn()
        await done

    def propose_configuration(self, change: ConfigurationChange) -> int:
        """Change the members by one; the index of the change, which is done once that is applied.
        Raises NotLeader, ProposalDropped and MembershipRefused."""
        self._check_running()
        index = self._core.propose_configuration(change)
        self._schedule_turn()
        return index

    def subscribe_leadership(self, callback: LeadershipCallback) -> None:
        """`callback(leads, term)` is called in the loop at every change. `leads` is true once this
        master is the leader *and* has applied the first entry of its term: its state then has
        all that earlier leaders acknowledged. It must not raise."""
        self._leadership.subscribe(callback)

    def status(self) -> RaftStatus:
        return self._core.status()

    @property
    def log(self) -> RaftLog:
        """The entries held here, to look at."""
        return self._core.log

    @property
    def is_leader(self) -> bool:
        """This member leads its term; see `subscribe_leadership` for when it may act on that."""
        return self._core.is_leader

    @property
    def leader(self) -> MemberId | None:
        return self._core.leader

    @property
    def applied(self) -> int:
        """Index of the last entry that the state machine has seen (or skipped, as Raft's own)."""
        return self._applier.index

    def take_loop_lag_max_s(self) -> float:
        """The longest that a tick came late since the last call: what a callback took at most."""
        return self._ticker.take_lag_max_s()

    def backup(self) -> Iterator[bytes]:
        """The state applied now as the bytes of a snapshot file, hash included. Ask for a
        `read_barrier` first; iterate in a thread."""
        self._check_running()
        return self._snapshots.backup()

    def metrics(self) -> RaftMetrics:
        """Figures of this moment."""
        return collect_metrics(
            self._writer.sync_figures(),
            self._wal,
            self._applier,
            self._snapshots,
            writes_waiting=len(self._writes),
            inbox_messages=len(self._inbox),
            proposals_pending=len(self._proposals),
            proposals_foreign=len(self._foreign),
            leader_changes=self._leader_changes,
            loop_lag_max_s=self._ticker.lag_max_s,
        )

    # What the links bring (PeerReceiver)

    def messages_arrived(self, messages: Sequence[Message]) -> None:
        if len(self._inbox) < INBOX_MESSAGES_MAX:
            self._inbox.extend(messages)
        self._schedule_turn()

    def proposals_arrived(self, sender: MemberId, commands: Sequence[bytes]) -> None:
        if len(self._foreign) < FOREIGN_PROPOSALS_MAX:
            self._foreign.extend(commands)
        self._schedule_turn()

    def peer_unreachable(self, member: MemberId) -> None:
        self._unreachable.add(member)
        self._schedule_turn()

    def chunk_arrived(self, sender: MemberId, chunk: SnapshotChunk) -> None:
        if self._is_running:
            self._snapshots.receiver.chunk_arrived(sender, chunk)

    def chunk_answered(self, sender: MemberId, answer: ChunkAnswer) -> None:
        if self._is_running:
            self._snapshots.sender.answered(sender, answer)

    # What snapshots ask (snapshot.keeper.Recorder)

    def record_snapshot(self, record: SnapshotRecord, done: Callable[[], None]) -> None:
        self._writes.record(record, done)
        self._schedule_turn()

    def ask_for_turn(self) -> None:
        self._schedule_turn()

    def fatal(self, error: BaseException) -> None:
        self._is_running = False
        self._fatal(error)

    # The turn

    def _schedule_turn(self) -> None:
        if not self._is_turn_scheduled and self._is_running:
            self._is_turn_scheduled = True
            self._loop.call_soon(self._scheduled_turn)

    def _scheduled_turn(self) -> None:
        self._is_turn_scheduled = False
        self._run_turn()

    def _run_turn(self) -> None:
        if not self._is_running:
            return
        is_whole = False
        try:
            self._turn()
            is_whole = True
        finally:
            # asyncio would log what a callback raises and go on; half a turn must end it all.
            error = sys.exception()
            if not is_whole and error is not None:
                self._is_running = False
                self._fatal(error)

    def _turn(self) -> None:
        self._finish_writes()
        self._step_inbox()
        if self._is_tick_due:
            self._is_tick_due = False
            self._tick()
        self._note_leader()
        self._propose_waiting()
        if self._is_ask_allowed and self._readers.can_ask:
            self._core.read_index(self._readers.ask())
        for _ in range(READIES_PER_TURN_MAX):
            if not self._core.has_ready():
                break
            self._carry_out(self._core.ready())
        self._apply_slice()
        self._note_leader()
        self._leadership.announce(
            self._core.is_leader and self._applier.term == self._core.term, self._core.term
        )
        self._snapshots.consider()
        if self._applier.has_work or self._core.has_ready() or self._can_propose():
            self._schedule_turn()

    def _step_inbox(self) -> None:
        core = self._core
        inbox, self._inbox = self._inbox, deque()
        for message in inbox:
            try:
                core.step(message)
            except MalformedMessage as error:
                _log.warning("dropped a message of master %s: %s", message.sender, error)
        if self._unreachable:
            for member in self._unreachable:
                core.report_unreachable(member)
            self._unreachable.clear()

    def _tick(self) -> None:
        now_s = self._clock.monotonic_s()
        self._proposals.pass_time(now_s)
        self._readers.pass_time(now_s)
        self._transfers.pass_time(now_s)
        self._snapshots.pass_time(now_s)
        self._is_send_allowed = self._is_ask_allowed = True
        if self._core.is_leader and self._writer.sync_age_s() > DISK_STALL_S:
            _log.warning("the disk does not answer: this leader sends no heartbeats")
            return
        self._core.tick()

    def _note_leader(self) -> None:
        """What was sent to another leader may be lost: send it to this one."""
        leader = (self._core.term, self._core.leader)
        if leader == self._seen_leader:
            return
        self._seen_leader = leader
        self._leader_changes += leader[1] is not None
        if leader[1] is not None:
            self._is_send_allowed = self._is_ask_allowed = True
            self._proposals.requeue_all()
            self._transfers.leader_seen(leader[1])

    def _can_propose(self) -> bool:
        return (
            self._is_send_allowed
            and self._core.leader is not None
            and (self._proposals.has_unsent or bool(self._foreign))
        )

    def _propose_waiting(self) -> None:
        core = self._core
        if not core.is_leader:
            self._foreign.clear()  # Their masters will learn who leads, and send them there.
        if not self._can_propose() or core.leader is None:
            return
        taken = self._proposals.take(PROPOSALS_PER_TURN_MAX, PROPOSAL_BYTES_PER_TURN_MAX)
        commands = [pending.command for pending in taken]
        if not core.is_leader:
            if not commands:
                return
            if self._peers.forward(core.leader, commands):
                self._proposals.forwarded(taken, self._clock.monotonic_s())
            else:
                self._proposals.put_back(taken)
                self._is_send_allowed = False
            return
        size_bytes = sum(map(len, commands))
        while (
            self._foreign
            and len(commands) < PROPOSALS_PER_TURN_MAX
            and size_bytes < PROPOSAL_BYTES_PER_TURN_MAX
        ):
            size_bytes += len(self._foreign[0])
            commands.append(self._foreign.popleft())
        if not commands:
            return
        try:
            core.propose(commands)
        except ProposalDropped as error:
            _log.info("proposals wait: %s", error.reason)
            self._proposals.put_back(taken)
            self._is_send_allowed = False
        else:
            self._proposals.proposed_here(taken)

    # The work that the core hands out

    def _carry_out(self, ready: Ready) -> None:
        if ready.messages_now:
            self._peers.send(ready.messages_now)
        sayable = self._writes.submit(ready)
        if sayable:
            self._peers.send(sayable)
        self._applier.extend(ready.committed)
        for member, snapshot in ready.snapshot_to_send:
            self._snapshots.sender.begin(member, snapshot)
        for read in ready.reads:
            self._readers.confirmed(read.context, read.index)
        for context in ready.reads_refused:
            self._readers.refused(context)
            self._is_ask_allowed = False

    def _on_durable(self, ticket: int) -> None:
        """Called in the loop when the log is durable up to `ticket`."""
        self._writes.durable(ticket)
        self._run_turn()

    def _finish_writes(self) -> None:
        """Say and do what may be said and done now that more of the log is durable."""
        persisted = self._writes.take()
        if persisted.messages:
            self._peers.send(persisted.messages)
        if persisted.persist_term:
            self._core.persisted(persisted.persist_term, persisted.persist_index)
        for done in persisted.done:
            done()

    def _apply_slice(self) -> None:
        if self._applier.run(self._proposals.applied):
            self._core.applied_to(self._applier.index)
        self._readers.applied(self._applier.index)

    def _tick_is_due(self) -> None:
        self._is_tick_due = True
        self._schedule_turn()

    def _check_running(self) -> None:
        if not self._is_running:
            raise Unavailable("this master is not running: ask another one")
