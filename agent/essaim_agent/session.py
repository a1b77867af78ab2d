"""The agent's side of its session with the leader: registers, beats, takes orders.

The decisions are in `session_machine` (what to ask next) and `assignment_stream` (which orders
to obey); this file sends the requests, reads the answers and hands the orders on.
"""

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable
from typing import Protocol

from essaim_agent.assignment_stream import AssignmentStream, Verdict
from essaim_agent.identity_keeper import nothing_noted
from essaim_agent.journal import HighestTerm, LastHeard
from essaim_agent.network_set import check_networks
from essaim_agent.reporter import Reporter
from essaim_agent.session_machine import Action, Event, SessionState, State, step
from essaim_shared.clock import Clock, pause
from essaim_shared.errors import MalformedMessage
from essaim_shared.ids import NodeId
from essaim_shared.limits import HEARTBEAT_PERIOD_S, HEARTBEAT_TIMEOUT_S
from essaim_shared.log import fields
from essaim_shared.messages import (
    Assignments,
    BusMessage,
    Heartbeat,
    HeartbeatAck,
    Refused,
    Register,
    Registered,
    SyncAck,
    SyncRequest,
    TablesApplied,
    decode,
    encode,
)
from essaim_shared.objects import NodeDescription
from essaim_shared.subjects import Subjects
from essaim_shared.task_state import DESIRED_STATES
from essaim_shared.transport import (
    BusDisconnected,
    Delivery,
    NoResponders,
    RequestTimeout,
    Transport,
)

_log = logging.getLogger(__name__)

REGISTER_TIMEOUT_S = 2.0
"""The answer comes after a commit."""
SYNC_TIMEOUT_S = 1.0
WAIT_SHORTLY_MIN_S = 0.1
WAIT_SHORTLY_MAX_S = 0.25
WAIT_REFUSED_S = 5.0
SYNCS_IN_VAIN_MAX = 5
"""Full sets that were promised, one a heartbeat, and of which nothing came."""
SYNC_GRACE_S = 0.1
"""An answer may overtake the order it speaks of, which comes on another subject."""
HEARTBEAT_PERIOD_MIN_S = 0.1
EARLY_ORDERS_MAX = 64
"""Orders kept that overtook the answer to the registration; 16 MiB of chunks."""


def check_orders(message: Assignments) -> None:
    """Raises MalformedMessage for what no master sends: a task's id becomes a file name here, a
    desired state outside of the known ones has no meaning, and addresses go to the kernel."""
    for task in message.tasks:
        if not (task.id.isascii() and task.id.isalnum()):
            raise MalformedMessage(f"{task.id[:80]!r} is no task id")
        if task.desired_state not in DESIRED_STATES:
            raise MalformedMessage(
                f"task {task.id} is wanted {task.desired_state.name}, which nobody can make true"
            )
    check_networks(message)


class AssignmentSink(Protocol):
    """What the session tells the worker."""

    def apply(self, message: Assignments) -> None:
        """Obey: `message` is whole, and the next in order."""
        ...

    async def in_force(self) -> bool:
        """Return once what was applied so far is in the node's tables; False: it cannot be."""
        ...

    def allow_starts(self, allowed: bool) -> None:
        """Whether a leader lets this node run new tasks; those that run are not touched."""
        ...

    def cut_off(self, silence_s: float) -> None:
        """No master was heard for so long."""
        ...


class Session:
    """One per agent; `run` until cancelled."""

    def __init__(
        self,
        *,
        transport: Transport,
        subjects: Subjects,
        node_id: NodeId,
        description: Callable[[], NodeDescription],
        sink: AssignmentSink,
        reporter: Reporter,
        highest_term: HighestTerm,
        last_heard: LastHeard,
        clock: Clock,
        rng: random.Random,
        on_trust: Callable[[int, tuple[str, ...]], None] = nothing_noted,
    ) -> None:
        """`on_trust` is told what a leader says of the cluster's trust anchors and masters."""
        self._on_trust = on_trust
        self._transport = transport
        self._subjects = subjects
        self._node_id = node_id
        self._description = description
        self._sink = sink
        self._reporter = reporter
        self._highest_term = highest_term
        self._last_heard = last_heard
        self._clock = clock
        self._rng = rng
        self._stream = AssignmentStream(highest_term.value)
        self._machine = SessionState()
        self._session = ""
        self._period_s = HEARTBEAT_PERIOD_S
        self._heard_s = clock.monotonic_s() - last_heard.silence_s(clock.wall_ns())
        self._early: deque[Assignments] = deque(maxlen=EARLY_ORDERS_MAX)
        self._kick = asyncio.Event()
        self._sync_wanted = asyncio.Event()
        self._syncs_in_vain = 0
        self._awaited: TablesApplied | None = None
        """What a leader waits to hear, once it is true."""
        self._answer_wanted = asyncio.Event()
        self._last_refusal = ""
        self.malformed_count = 0
        self.deposed_count = 0
        """Orders and answers of leaders that lead no more."""
        reporter.on_register_again = self._on_register_again

    @property
    def state(self) -> State:
        return self._machine.state

    @property
    def held(self) -> tuple[int, int]:
        """(term, sequence) of the assignments held."""
        return self._stream.term, self._stream.sequence

    async def run(self) -> None:
        subscription = await self._transport.subscribe(
            self._subjects.assignments(self._node_id), self._on_assignments
        )
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._beat_for_ever())
                group.create_task(self._sync_on_demand())
                group.create_task(self._tell_what_is_in_force())
        finally:
            await subscription.unsubscribe()

    async def _beat_for_ever(self) -> None:
        while True:
            asked_s = self._clock.monotonic_s()
            event = await self._ask()
            if event in (Event.REGISTERED, Event.ACKNOWLEDGED):
                # Counted from the question: the leader counts this node's silence from there.
                self._heard_s = asked_s
                self._last_heard.mark(self._clock.wall_ns())
            else:
                self._sink.cut_off(self._clock.monotonic_s() - self._heard_s)
            before = self._machine.state
            self._machine, action = step(self._machine, event)
            self._entered(before)
            await self._carry_out(action, asked_s)

    def _entered(self, before: State) -> None:
        state = self._machine.state
        if state is before:
            return
        if state is State.IN_SESSION:
            self._last_refusal = ""
            self._sink.allow_starts(True)
            self._reporter.use_session(self._session)
            self._take_early_orders()
            return
        self._reporter.use_session(None)
        if state is State.REFUSED:
            self._early.clear()
            self._sink.allow_starts(False)

    async def _carry_out(self, action: Action, asked_s: float) -> None:
        match action:
            case Action.WAIT_PERIOD:
                await self._pause(asked_s + self._period_s - self._clock.monotonic_s())
            case Action.WAIT_SHORTLY:
                await self._pause(self._rng.uniform(WAIT_SHORTLY_MIN_S, WAIT_SHORTLY_MAX_S))
            case Action.WAIT_REFUSED:
                await self._pause(WAIT_REFUSED_S)
            case Action.RECONNECT:
                _log.warning(
                    "no answer over this bus server, changing %s",
                    fields(server=self._transport.server),
                )
                await self._transport.reconnect()
            case Action.GO_ON:
                pass

    async def _pause(self, duration_s: float) -> None:
        """Sleep, unless somebody has learnt that the session is gone."""
        if duration_s <= 0 or self._kick.is_set():
            return
        await pause(self._clock, duration_s, self._kick)

    # Requests.

    async def _ask(self) -> Event:
        """One request of the kind that the state asks for, and what its answer means."""
        if self._kick.is_set():
            self._kick.clear()
            if self._machine.state is State.IN_SESSION:
                return Event.REGISTER_AGAIN
        try:
            if self._machine.state is State.IN_SESSION:
                return await self._heartbeat()
            return await self._register()
        except RequestTimeout:
            return Event.MISSED
        except NoResponders:
            return Event.NO_LEADER
        except BusDisconnected:
            return Event.DISCONNECTED
        except MalformedMessage as error:
            self._malformed(error)
            return Event.NO_LEADER

    async def _register(self) -> Event:
        self._early.clear()
        request = Register(node_id=self._node_id, description=self._description())
        answer: Registered | Refused = decode(
            await self._request(self._subjects.register, request, REGISTER_TIMEOUT_S),
            Registered,
            Refused,
        )
        if isinstance(answer, Refused):
            return self._refused(answer)
        if not self._admit(answer.term):
            return Event.NO_LEADER
        self._session = answer.session
        self._period_s = max(HEARTBEAT_PERIOD_MIN_S, answer.heartbeat_period_s)
        self._stream.registered(answer.term)
        self._on_trust(answer.trust_generation, answer.masters)
        _log.info(
            "registered %s",
            fields(term=answer.term, session=answer.session, server=self._transport.server),
        )
        return Event.REGISTERED

    async def _heartbeat(self) -> Event:
        term, sequence = self.held
        request = Heartbeat(
            node_id=self._node_id, session=self._session, term=term, sequence=sequence
        )
        answer: HeartbeatAck | Refused = decode(
            await self._request(self._subjects.heartbeat, request, HEARTBEAT_TIMEOUT_S),
            HeartbeatAck,
            Refused,
        )
        if isinstance(answer, Refused):
            return self._refused(answer)
        if not self._admit(answer.term):
            return Event.NO_LEADER
        self._on_trust(answer.trust_generation, ())
        if self._stream.lags_behind(answer.term, answer.sequence):
            await self._clock.sleep(SYNC_GRACE_S)
            if self._stream.lags_behind(answer.term, answer.sequence):
                self._sync_wanted.set()
        return Event.ACKNOWLEDGED

    async def _request(
        self, subject: Callable[[NodeId], str], message: BusMessage, timeout_s: float
    ) -> bytes:
        own = subject(self._node_id)
        return await self._transport.request(own, encode(message), timeout_s)

    def _refused(self, answer: Refused) -> Event:
        if answer.reason != self._last_refusal:
            self._last_refusal = answer.reason
            # The leader's reason names both addresses when another machine has this node's id.
            level = logging.INFO if answer.register_again else logging.ERROR
            _log.log(level, "refused by the leader: %s", answer.reason)
        return Event.REGISTER_AGAIN if answer.register_again else Event.REFUSED

    def _admit(self, term: int) -> bool:
        if self._highest_term.admits(term):
            return True
        self.deposed_count += 1
        _log.warning(
            "a deposed leader spoke, not obeyed %s",
            fields(term=term, highest=self._highest_term.value),
        )
        return False

    def _on_register_again(self) -> None:
        self._kick.set()

    # Full sets.

    async def _sync_on_demand(self) -> None:
        """Ask for a full set when one is missed. A lost request is repeated after the next
        heartbeat, whose answer shows the gap again."""
        while True:
            await self._sync_wanted.wait()
            self._sync_wanted.clear()
            if self._machine.state is not State.IN_SESSION:
                continue
            _log.info("asking for a full set %s", fields(held=self.held))
            self._stream.expect_full()
            request = SyncRequest(node_id=self._node_id, session=self._session)
            try:
                answer: SyncAck | Refused = decode(
                    await self._request(self._subjects.sync, request, SYNC_TIMEOUT_S),
                    SyncAck,
                    Refused,
                )
            except (RequestTimeout, NoResponders, BusDisconnected):
                continue
            except MalformedMessage as error:
                self._malformed(error)
                continue
            if isinstance(answer, Refused):
                if answer.register_again:
                    self._kick.set()
                continue
            await self._change_server_if_in_vain()

    async def _change_server_if_in_vain(self) -> None:
        """A bus server can pass on answers and yet no orders: nats-server 2.9.10 that cut a
        client off, since its key was taken away, never again tells the other servers of the
        subjects that it had subscribed to there (record 0041)."""
        self._syncs_in_vain += 1
        if self._syncs_in_vain <= SYNCS_IN_VAIN_MAX:
            return
        self._syncs_in_vain = 0
        _log.warning(
            "no orders come over this bus server, changing %s",
            fields(server=self._transport.server),
        )
        await self._transport.reconnect()

    # Orders.

    async def _on_assignments(self, delivery: Delivery) -> None:
        try:
            message = decode(delivery.payload, Assignments)
            check_orders(message)
        except MalformedMessage as error:
            self._malformed(error)
            return
        if self._machine.state is State.IN_SESSION:
            self._obey(message)
        else:
            # Perhaps the first orders of a session whose answer is still on its way; perhaps
            # those of another machine with this node's id. The answer will tell.
            self._early.append(message)

    def _take_early_orders(self) -> None:
        early = tuple(self._early)
        self._early.clear()
        for message in early:
            self._obey(message)

    def _obey(self, message: Assignments) -> None:
        if not self._admit(message.term):
            return
        self._syncs_in_vain = 0
        offer = self._stream.offer(message)
        if offer.message is not None:
            self._sink.apply(offer.message)
            if offer.message.wants_applied:
                self._awaited = TablesApplied(
                    node_id=self._node_id,
                    session=self._session,
                    term=offer.message.term,
                    sequence=offer.message.sequence,
                )
                self._answer_wanted.set()
        elif offer.verdict is Verdict.GAP:
            if not self._stream.awaits_full:
                self._sync_wanted.set()
        elif offer.verdict is Verdict.MALFORMED:
            self._malformed(
                MalformedMessage(f"chunk {message.chunk} of {message.chunks} of assignments")
            )

    async def _tell_what_is_in_force(self) -> None:
        """One answer holds for all orders before it. Where the tables cannot be as ordered there
        is none: the leader waits no longer than it is ready to."""
        while True:
            await self._answer_wanted.wait()
            self._answer_wanted.clear()
            answer = self._awaited
            if answer is None or not await self._sink.in_force():
                continue
            if answer.session != self._session or self._machine.state is not State.IN_SESSION:
                continue
            try:
                await self._transport.publish(self._subjects.applied(self._node_id), encode(answer))
            except BusDisconnected as error:
                _log.info("nobody was told that the tables are as ordered: %s", error)

    def _malformed(self, error: MalformedMessage) -> None:
        self.malformed_count += 1
        _log.warning("malformed message ignored %s", fields(reason=error))
