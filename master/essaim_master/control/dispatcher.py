"""The leader's side of the bus: sessions, assignments out, statuses in.

Runs while this master leads; only then are the request subjects subscribed, so an agent that
finds no leader learns it at once. Three loops: registrations and statuses are committed in
batches, and everything sent to agents leaves through one loop, which alone numbers it. A fourth
keeps the time of orders to stop that wait for other nodes (`drain_barrier`).
"""

import asyncio
import logging
from contextlib import AsyncExitStack, suppress
from typing import Final, TypeVar

from essaim_master.control.assignments import AssignmentBook
from essaim_master.control.chunks import assignment_payloads
from essaim_master.control.difference import Difference
from essaim_master.control.drain_barrier import DrainBarrier
from essaim_master.control.guarded import GuardedWriter
from essaim_master.control.inbox import Inbox
from essaim_master.control.liveness import SUSPECT_AFTER_S, FailureDetector
from essaim_master.control.monitor import NodeMonitor
from essaim_master.control.node_logins import NodeLogins
from essaim_master.control.registration import (
    check_registration,
    crowd_refusal,
    is_admitted,
    write_registration,
)
from essaim_master.control.reports import StatusBatch
from essaim_master.control.sessions import Session, SessionTable, clone_refusal
from essaim_master.control.surroundings import Surroundings
from essaim_master.state.cluster_state import AppliedChanges, Change
from essaim_master.state.keys import Kind
from essaim_master.state.writes import Writes
from essaim_shared.errors import MalformedMessage
from essaim_shared.ids import NodeId, new_id
from essaim_shared.limits import HEARTBEAT_PERIOD_S, NODE_SILENCE_MAX_S
from essaim_shared.log import fields
from essaim_shared.messages import (
    BusMessage,
    Heartbeat,
    HeartbeatAck,
    Refused,
    Register,
    Registered,
    StatusAck,
    StatusReport,
    SyncAck,
    SyncRequest,
    TablesApplied,
    decode,
    encode,
)
from essaim_shared.objects import NodeStatus
from essaim_shared.transport import BusDisconnected, Delivery
from essaim_shared.trust.roles import Role

_log = logging.getLogger(__name__)

REGISTRATIONS_WAITING_MAX: Final = 5_000
REPORTS_WAITING_MAX: Final = 20_000
REGISTRATIONS_PER_BATCH: Final = 64
REPORTS_PER_BATCH: Final = 256
NODES_PER_TURN: Final = 16
"""So many nodes are sent differences before the event loop gets a turn; a full set, which may be
large, takes a turn of its own."""

M = TypeVar("M", Register, Heartbeat, StatusReport, SyncRequest, TablesApplied)

UNKNOWN_SESSION: Final = encode(Refused(reason="unknown session", register_again=True))


class Dispatcher:
    def __init__(
        self,
        surroundings: Surroundings,
        writer: GuardedWriter,
        term: int,
        monitor: NodeMonitor,
        detector: FailureDetector,
        sessions: SessionTable,
    ) -> None:
        self._cluster = surroundings.cluster
        self._state = surroundings.cluster.state
        self._writer = writer
        self._transport = surroundings.transport
        self._subjects = surroundings.subjects
        self._clock = surroundings.clock
        self._rng = surroundings.rng
        self._rejects = surroundings.rejects
        self._term = term
        self._monitor = monitor
        self._detector = detector
        self._sessions = sessions
        self._logins = NodeLogins(self._state, surroundings.vault)
        self._book = AssignmentBook(self._state)
        self._wants_full: dict[NodeId, None] = {}
        self._wake = asyncio.Event()
        self._registrations: Inbox[tuple[Delivery, Register]] = Inbox(REGISTRATIONS_WAITING_MAX)
        self._reports: Inbox[tuple[Delivery, StatusReport]] = Inbox(REPORTS_WAITING_MAX)
        self._barrier = DrainBarrier()
        self._holding = asyncio.Event()
        self._hold_back()  # what an earlier leader was about to order

    async def run(self) -> None:
        """Serve until cancelled. Raises Deposed, NoLeader or OutcomeUnknown when a write tells
        that this leadership is over or in doubt."""
        async with AsyncExitStack() as cleanup:
            for subject, handler in (
                (self._subjects.all_registers, self._receive_register),
                (self._subjects.all_heartbeats, self._receive_heartbeat),
                (self._subjects.all_statuses, self._receive_status),
                (self._subjects.all_syncs, self._receive_sync),
                (self._subjects.all_applied, self._receive_applied),
            ):
                subscription = await self._transport.subscribe(subject, handler)
                cleanup.push_async_callback(subscription.unsubscribe)
            async with asyncio.TaskGroup() as loops:
                loops.create_task(self._register_loop())
                loops.create_task(self._status_loop())
                loops.create_task(self._send_loop())
                loops.create_task(self._release_loop())

    def note(self, applied: AppliedChanges) -> None:
        """Take a transaction's changes over, from within its apply. To be called for each one
        from the moment of construction on."""
        self._book.note(applied)
        if self._book:
            self._wake.set()
        for change in applied.changes:
            if change.kind is Kind.NODE and change.after is None:
                self._sessions.close(NodeId(change.id))
                self._detector.forget(NodeId(change.id))
                self._barrier.node_gone(NodeId(change.id))
            elif isinstance(change.after, NodeStatus) and change.after.state != "ready":
                self._barrier.node_gone(NodeId(change.id))
            elif change.kind is Kind.IDENTITY:
                self._note_identity(change)
        self._release_due()

    def _note_identity(self, change: Change) -> None:
        """A node that may not speak any more is sent nothing, either; it is down when it has been
        silent for long enough."""
        role, _, name = change.id.partition("/")
        if role == Role.AGENT.value and not is_admitted(self._state, NodeId(name)):
            self._sessions.close(NodeId(name))

    # Requests.

    def _decode_own(self, delivery: Delivery, kind: type[M]) -> M:
        """The message, which must be of the node that its subject names. Raises
        MalformedMessage."""
        message = decode(delivery.payload, kind)
        if not self._subjects.is_own(message.node_id, delivery.subject, delivery.reply):
            raise MalformedMessage(
                f"it names node {message.node_id[:80]!r}; an answer would go to "
                f"{delivery.reply[:200]!r}"
            )
        if not is_admitted(self._state, message.node_id):
            # A bus server whose master is dead still knows who was removed meanwhile.
            raise MalformedMessage(f"node {message.node_id[:80]!r} was removed or suspended")
        return message

    async def _receive_heartbeat(self, delivery: Delivery) -> None:
        try:
            beat = self._decode_own(delivery, Heartbeat)
        except MalformedMessage as error:
            self._rejects.note(delivery.subject, error)
            return
        session = self._sessions.find(beat.node_id, beat.session)
        if session is None:
            await delivery.respond(UNKNOWN_SESSION)
            return
        self._detector.signal(beat.node_id)
        await _answer(
            delivery,
            HeartbeatAck(
                term=self._term,
                sequence=session.sequence,
                trust_generation=self._trust_generation,
            ),
        )

    async def _receive_sync(self, delivery: Delivery) -> None:
        try:
            request = self._decode_own(delivery, SyncRequest)
        except MalformedMessage as error:
            self._rejects.note(delivery.subject, error)
            return
        if self._sessions.find(request.node_id, request.session) is None:
            await delivery.respond(UNKNOWN_SESSION)
            return
        await _answer(delivery, SyncAck(term=self._term))
        self._send_full(request.node_id)

    async def _receive_applied(self, delivery: Delivery) -> None:
        try:
            applied = self._decode_own(delivery, TablesApplied)
        except MalformedMessage as error:
            self._rejects.note(delivery.subject, error)
            return
        session = self._sessions.find(applied.node_id, applied.session)
        if session is None or applied.term != self._term:
            return  # of an earlier session, whose sequences mean nothing now
        if applied.sequence > session.sequence:
            reason = f"sequence {applied.sequence} applied, {session.sequence} sent"
            self._rejects.note(delivery.subject, reason)
            return
        self._detector.signal(applied.node_id)
        self._barrier.applied(applied.node_id, applied.sequence)
        self._release_due()

    async def _receive_register(self, delivery: Delivery) -> None:
        try:
            request = self._decode_own(delivery, Register)
            check_registration(request)
        except MalformedMessage as error:
            self._rejects.note(delivery.subject, error)
            return
        self._registrations.put((delivery, request))

    async def _receive_status(self, delivery: Delivery) -> None:
        try:
            report = self._decode_own(delivery, StatusReport)
        except MalformedMessage as error:
            self._rejects.note(delivery.subject, error)
            return
        self._reports.put((delivery, report))

    # Registrations.

    async def _register_loop(self) -> None:
        while True:
            waiting = await self._registrations.take(REGISTRATIONS_PER_BATCH)
            while waiting:
                batch: dict[NodeId, tuple[Delivery, Register]] = {}
                later = []
                for delivery, request in waiting:
                    # Two requests of one node id are looked at one after the other: they may be
                    # two machines.
                    if request.node_id in batch:
                        later.append((delivery, request))
                    else:
                        batch[request.node_id] = (delivery, request)
                await self._register(list(batch.values()))
                waiting = later

    async def _register(self, batch: list[tuple[Delivery, Register]]) -> None:
        async with self._monitor.writing:
            writes = Writes()
            accepted = []
            for delivery, request in batch:
                refusal = self._refusal(request)
                if refusal is not None:
                    await _answer(delivery, Refused(reason=refusal))
                    continue
                accepted.append((delivery, request))
                write_registration(
                    self._state,
                    request.node_id,
                    request.description,
                    self._clock.wall_ns(),
                    writes,
                )
            if not await self._writer.write(writes):
                return  # unanswered: the agents ask again
            for delivery, request in accepted:
                await self._open_session(delivery, request)

    def _refusal(self, request: Register) -> str | None:
        node_id = request.node_id
        if not is_admitted(self._state, node_id):
            return f"node {node_id} was removed from the cluster or suspended in this moment"
        return crowd_refusal(self._state, node_id) or clone_refusal(
            node_id,
            request.description,
            self._sessions.of(node_id),
            self._state.node_status.get(node_id),
            is_alive=self._detector.silence_s(node_id) < NODE_SILENCE_MAX_S,
        )

    async def _open_session(self, delivery: Delivery, request: Register) -> None:
        token = new_id(self._rng)
        self._sessions.open(request.node_id, token, request.description)
        self._detector.watch(request.node_id)
        await _answer(
            delivery,
            Registered(
                session=token,
                term=self._term,
                heartbeat_period_s=HEARTBEAT_PERIOD_S,
                trust_generation=self._trust_generation,
                masters=tuple(member.http for member in self._cluster.members),
            ),
        )
        self._send_full(request.node_id)

    @property
    def _trust_generation(self) -> int:
        anchors = self._state.trust_anchors
        return 0 if anchors is None else anchors.generation

    # Statuses.

    async def _status_loop(self) -> None:
        while True:
            batch = await self._reports.take(REPORTS_PER_BATCH)
            statuses = StatusBatch(self._state)
            known = []
            for delivery, report in batch:
                if self._sessions.find(report.node_id, report.session) is None:
                    await delivery.respond(UNKNOWN_SESSION)
                    continue
                self._detector.signal(report.node_id)
                known.append(delivery)
                for reported in report.statuses:
                    statuses.add(report.node_id, reported)
            writes = Writes()
            for task_id, status in statuses.accepted.items():
                writes.put_task_status(task_id, status)
            if not await self._writer.write(writes):
                continue  # unacknowledged: the agents repeat them
            acknowledgement = encode(StatusAck(term=self._term))
            for delivery in known:
                await delivery.respond(acknowledgement)

    # Assignments.

    def _send_full(self, node_id: NodeId) -> None:
        self._barrier.again(node_id)
        self._wants_full[node_id] = None
        self._wake.set()

    async def _send_loop(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            differences = self._book.flush()
            self._hold_back()
            wants_full, self._wants_full = self._wants_full, {}
            for number, node_id in enumerate(wants_full.keys() | differences.keys()):
                session = self._sessions.of(node_id)
                if session is None:
                    continue  # it will register, and get a full set
                if node_id in wants_full:
                    await self._send(session, self._book.full_set(node_id), full=True)
                elif node_id not in self._wants_full:
                    await self._send(session, differences[node_id], full=False)
                if node_id in wants_full or number % NODES_PER_TURN == NODES_PER_TURN - 1:
                    await self._clock.sleep(0)

    async def _send(self, session: Session, difference: Difference, full: bool) -> None:
        """Number and publish. What is lost is noticed by the agent from its next heartbeat."""
        session.sequence += 1
        difference.credentials = self._logins.for_tasks(session.node_id, difference.tasks)
        subject = self._subjects.assignments(session.node_id)
        wants_applied = self._barrier.wants_answer(session.node_id)
        if wants_applied:
            self._barrier.sent(session.node_id, session.sequence)
        payloads = assignment_payloads(
            difference, self._term, session.sequence, full, wants_applied
        )
        with suppress(BusDisconnected):
            for payload in payloads:
                await self._transport.publish(subject, payload)

    # Orders to stop.

    def _hold_back(self) -> None:
        """Withhold what the last flush left out, until the nodes that listen know of it. At the
        start of a term no node has a session yet, and all that were not down have full grace."""
        now_s = self._clock.monotonic_s()
        for held in self._book.take_held():
            live = [n for n in held.audience if self._detector.silence_s(n) < SUSPECT_AFTER_S]
            self._barrier.hold(held.tasks, live, now_s)
            self._holding.set()
        self._release_due()

    def _release_due(self) -> None:
        now_s = self._clock.monotonic_s()
        unheard = self._barrier.unheard(now_s)
        if unheard:
            _log.warning(
                "tasks stop while nodes may still lead to them %s",
                fields(nodes=len(unheard), first=unheard[0]),
            )
        released = self._barrier.due(now_s)
        if released:
            self._book.release(released)
            self._wake.set()

    async def _release_loop(self) -> None:
        """All waits are equally long, so the oldest ends first."""
        while True:
            due_s = self._barrier.next_due_s()
            if due_s is None:
                self._holding.clear()
                await self._holding.wait()
                continue
            await self._clock.sleep(max(due_s - self._clock.monotonic_s(), 0.0))
            self._release_due()


async def _answer(delivery: Delivery, message: BusMessage) -> None:
    await delivery.respond(encode(message))
