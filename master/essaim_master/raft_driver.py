"""The only place where Raft's core, the disk, the links and the state machine meet.

Everything that happens (messages, proposals, readers, a finished sync, a tick) is noted and asks
for a *turn*; a turn runs once for all of it, as the next callback of the event loop, without a
timer. So the load makes the batches: all proposals of a turn become one `core.propose`, one
write of the log, one append for each follower, one pass of applying, one burst of results.

The order inside a turn is rule 3: messages that wait are delivered before a tick counts the
silence, and after a pause of the process there is one tick, not one for each that was missed.
What must be durable before it is said goes through `WalWriter` in order; `_Job` holds what is
to be said then.
"""

import asyncio
import logging
import random
import sys
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from essaim_master.kv.commands import AppliedProposal, ProposalId
from essaim_master.peer_transport import PeerTransport
from essaim_master.raft.core import RaftConfig, RaftCore, RaftStatus
from essaim_master.raft.errors import ProposalDropped
from essaim_master.raft.messages import Entry, EntryKind, HardState, Message, Ready
from essaim_master.raft_waiters import Proposals, Readers, Transfers, Waiter
from essaim_master.wal.files import LogFiles
from essaim_master.wal.log import SEGMENT_BYTES, Wal
from essaim_master.wal.records import Identity, WalBatch
from essaim_master.wal.recovery import Recovered
from essaim_master.wal.writer import Fatal, LogWriter, StartWriter, WalWriter
from essaim_shared.clock import Clock
from essaim_shared.errors import MalformedMessage, Unavailable
from essaim_shared.ids import MemberId

TICK_S = 0.1
PROPOSALS_PER_TURN_MAX = 2048
PROPOSAL_BYTES_PER_TURN_MAX = 4 * 1024 * 1024
FOREIGN_PROPOSALS_MAX = 20_000
"""Forwarded to us and not yet proposed; more are dropped, their masters send them again."""
INBOX_MESSAGES_MAX = 16_384
"""Received and not yet stepped; more are dropped, as on a full wire."""
READIES_PER_TURN_MAX = 8
APPLY_SLICE_S = 0.005
"""Applying goes on in the next turn after that, so that heartbeats and clients are not kept."""
APPLIES_PER_CLOCK_READ = 32
PASSES_AFTER_PAUSE = 3
"""Turns of the event loop that are given to the sockets when a tick came late."""
DISK_STALL_S = 1.0
"""A leader whose disk does not answer for so long falls silent, so that another one is elected
(hashicorp/raft issue 503: a hung disk kept a dead leader in office)."""
TRANSFER_TIMEOUT_S = 3.0

LeadershipCallback = Callable[[bool, int], None]
OpenLog = Callable[[LogFiles, Identity, int], tuple[Wal, Recovered]]

_log = logging.getLogger(__name__)


class StateMachine(Protocol):
    def apply(self, index: int, term: int, command: bytes) -> object:
        """Apply one committed command; the same on every master, so no clock, no chance. An
        AppliedProposal, also for a repeated proposal, reaches whoever waits for it. Indexes
        grow, with gaps: Raft has entries of its own. Raising stops the process."""
        ...


class _Job(NamedTuple):
    """What to do when the log is durable up to `ticket`."""

    ticket: int
    persist_term: int
    persist_index: int
    messages: Sequence[Message]


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
    ) -> None:
        """`fatal` ends the process: it is called when the disk fails or an invariant is broken,
        from any thread, and nothing is sent or acknowledged after it."""
        self._config = config
        self._identity = identity
        self._files = files
        self._peers = peers
        self._state_machine = state_machine
        self._clock = clock
        self._rng = rng
        self._fatal = fatal
        self._segment_bytes = segment_bytes
        self._start_writer = start_writer
        self._open_log = open_log

        self._inbox: deque[Message] = deque()
        self._foreign: deque[bytes] = deque()
        self._unreachable: set[MemberId] = set()
        self._proposals = Proposals()
        self._readers = Readers(rng.getrandbits(48))
        self._is_send_allowed = True
        """False from a failed attempt until the next tick or leader: no busy waiting."""
        self._is_ask_allowed = True
        self._jobs: deque[_Job] = deque()
        self._last_ticket = 0
        self._durable_ticket = 0
        self._waiting_hard_state: HardState | None = None
        """Only its commit is new: it goes with the next write (a lost one is learned again)."""
        self._committed: deque[Entry] = deque()
        self._applied = 0
        self._applied_term = 0

        self._is_running = False
        self._is_turn_scheduled = False
        self._is_tick_due = False
        self._tick_task: asyncio.Task[None] | None = None
        self._lag_max_s = 0.0
        self._seen_leader: tuple[int, MemberId | None] = (0, None)
        self._announced: tuple[bool, int] = (False, 0)
        self._leadership_callbacks: list[LeadershipCallback] = []
        self._transfers = Transfers()

    # Life

    async def start(self) -> None:
        """Recover from the log, then take part. Applied state is rebuilt from the log.

        Raises WalCorrupt, ForeignWal, ConfigError, OSError: the master can not start.
        """
        self._config.validate()
        wal, recovered = await asyncio.to_thread(
            self._open_log, self._files, self._identity, self._segment_bytes
        )
        self._loop = asyncio.get_running_loop()
        self._core = RaftCore(
            self._config,
            self._rng,
            recovered.hard_state,
            self._identity.first_configuration,
            recovered.entries,
        )
        self._writer: LogWriter = self._start_writer(
            wal, self._loop, self._on_durable, self._fatal, self._clock
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
        self._tick_task = self._loop.create_task(self._keep_ticking())
        self._schedule_turn()

    async def stop(self) -> None:
        """Leave in order: what was submitted becomes durable, whoever waits gets an error."""
        if not self._is_running and self._tick_task is None:
            return
        self._is_running = False
        if self._tick_task is not None:
            self._tick_task.cancel()
            await asyncio.wait([self._tick_task])
            self._tick_task = None
        await self._peers.close()
        if self._waiting_hard_state is not None:
            self._writer.submit(WalBatch(hard_state=self._waiting_hard_state))
            self._waiting_hard_state = None
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

    def subscribe_leadership(self, callback: LeadershipCallback) -> None:
        """`callback(leads, term)` is called in the loop at every change. `leads` is true once this
        master is the leader *and* has applied the first entry of its term: its state then has
        all that earlier leaders acknowledged. It must not raise."""
        self._leadership_callbacks.append(callback)

    def status(self) -> RaftStatus:
        return self._core.status()

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
        return self._applied

    def take_loop_lag_max_s(self) -> float:
        """The longest that a tick came late since the last call: what a callback took at most."""
        lag_s, self._lag_max_s = self._lag_max_s, 0.0
        return lag_s

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
        self._finish_jobs()
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
        self._announce_leadership()
        if self._committed or self._core.has_ready() or self._can_propose():
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
        hard_state = ready.hard_state or self._waiting_hard_state
        if ready.must_sync:
            self._waiting_hard_state = None
            self._last_ticket = self._writer.submit(WalBatch(ready.entries, hard_state))
        else:
            self._waiting_hard_state = hard_state
        if ready.must_sync or self._jobs:
            # Without a write of its own it still waits for those before it: its messages may
            # acknowledge entries that are only now on their way to the disk.
            self._jobs.append(
                _Job(
                    self._last_ticket,
                    ready.persist_term,
                    ready.persist_index,
                    ready.messages_after_sync,
                )
            )
        elif ready.messages_after_sync:
            self._peers.send(ready.messages_after_sync)
        self._committed.extend(ready.committed)
        for read in ready.reads:
            self._readers.confirmed(read.context, read.index)
        for context in ready.reads_refused:
            self._readers.refused(context)
            self._is_ask_allowed = False

    def _on_durable(self, ticket: int) -> None:
        """Called in the loop when the log is durable up to `ticket`."""
        self._durable_ticket = ticket
        self._run_turn()

    def _finish_jobs(self) -> None:
        """Say what may be said now that the log is durable up to `_durable_ticket`."""
        messages: list[Message] = []
        last: _Job | None = None
        while self._jobs and self._jobs[0].ticket <= self._durable_ticket:
            last = self._jobs.popleft()
            messages += last.messages
        if messages:
            self._peers.send(messages)
        if last is not None:
            self._core.persisted(last.persist_term, last.persist_index)

    def _apply_slice(self) -> None:
        committed = self._committed
        if committed:
            end_s = self._clock.monotonic_s() + APPLY_SLICE_S
            apply, resolve = self._state_machine.apply, self._proposals.applied
            countdown = APPLIES_PER_CLOCK_READ
            while committed:
                entry = committed.popleft()
                if entry.kind is EntryKind.NORMAL:
                    result = apply(entry.index, entry.term, entry.data)
                    if isinstance(result, AppliedProposal):
                        resolve(result)
                countdown -= 1
                if countdown == 0:
                    countdown = APPLIES_PER_CLOCK_READ
                    if self._clock.monotonic_s() >= end_s:
                        break
            self._applied, self._applied_term = entry.index, entry.term
            self._core.applied_to(entry.index)
        self._readers.applied(self._applied)

    def _announce_leadership(self) -> None:
        core = self._core
        leads = core.is_leader and self._applied_term == core.term
        if leads == self._announced[0] and (not leads or self._announced[1] == core.term):
            return
        self._announced = (leads, core.term)
        _log.info("this master %s, term %d", "leads" if leads else "follows", core.term)
        for callback in self._leadership_callbacks:
            callback(leads, core.term)

    async def _keep_ticking(self) -> None:
        next_s = self._clock.monotonic_s() + TICK_S
        while True:
            await self._clock.sleep(next_s - self._clock.monotonic_s())
            lag_s = self._clock.monotonic_s() - next_s
            self._lag_max_s = max(self._lag_max_s, lag_s)
            if lag_s > TICK_S:
                # The process was paused. What the leader sent meanwhile is in the sockets: read
                # it first. The ticks that were missed stay missed.
                for _ in range(PASSES_AFTER_PAUSE):
                    await self._clock.sleep(0)
                next_s = self._clock.monotonic_s()
            next_s += TICK_S
            self._is_tick_due = True
            self._schedule_turn()

    def _check_running(self) -> None:
        if not self._is_running:
            raise Unavailable("this master is not running: ask another one")
