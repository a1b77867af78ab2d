"""Who waits for what in the Raft driver: proposals for their result, readers for an index.

A proposal is kept, under its id, from the call until its result or its deadline. It is sent
again, the same bytes with the same id, when the leader changed or a forwarded copy may be lost;
the state machine applies it once (dissertation 6.3). So a caller sees one result, or one error
that says whether it may have happened.
"""

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import Any, Protocol

from essaim_master.kv.commands import AppliedProposal, ProposalId
from essaim_shared.errors import (
    EssaimError,
    InvalidRequest,
    NoLeader,
    OutcomeUnknown,
    Unavailable,
)
from essaim_shared.ids import MemberId
from essaim_shared.limits import TRANSACTION_BYTES_MAX

COMMAND_BYTES_MAX = TRANSACTION_BYTES_MAX

PROPOSALS_MAX = 10_000
"""Waiting at one master. Beyond that it is asked to do more than it can: refused at once.

It must stay below the number of answers that the state machine keeps for each client: between
two copies of one proposal in the log there are at most so many others of the same master.
"""

READERS_MAX = 10_000

FORWARD_RETRY_MIN_S = 0.5
FORWARD_RETRY_MAX_S = 2.0
"""When a forwarded proposal had no result it is sent again, later each time: under load a slow
answer is more likely than a lost frame."""

READ_ROUNDS_MAX = 4
"""Rounds under way at a time. Readers that come meanwhile share the next one."""

_NEVER = float("inf")


class Waiter(Protocol):
    """Who is told the outcome of a proposal, once. A future is one; so is anything that wants to
    be called within the turn instead of being scheduled for a later one. It must not raise."""

    def done(self) -> bool:
        """Nobody wants to know any more."""
        ...

    def set_result(self, result: object, /) -> None: ...

    def set_exception(self, error: EssaimError, /) -> None: ...


class PendingProposal:
    __slots__ = ("command", "deadline_s", "id", "is_queued", "retry_s", "waiters", "was_sent")

    def __init__(self, proposal_id: ProposalId, command: bytes, deadline_s: float) -> None:
        self.id = proposal_id
        self.command = command
        self.deadline_s = deadline_s
        self.waiters: list[Waiter] = []
        self.is_queued = True
        """It stands in the queue of what is to be sent."""
        self.was_sent = False
        """A leader may have it: from now on its outcome can be unknown."""
        self.retry_s = FORWARD_RETRY_MIN_S
        """How long the next forwarding is given."""


class Proposals:
    def __init__(self) -> None:
        self._pending: dict[ProposalId, PendingProposal] = {}
        self._queue: deque[PendingProposal] = deque()
        self._forwarded: dict[ProposalId, float] = {}
        """When each forwarded proposal is sent again."""

    def __len__(self) -> int:
        return len(self._pending)

    @property
    def has_unsent(self) -> bool:
        return bool(self._queue)

    def add(
        self, proposal_id: ProposalId, command: bytes, deadline_s: float
    ) -> asyncio.Future[object]:
        """As `add_waiter`, with a future as the waiter."""
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self.add_waiter(proposal_id, command, deadline_s, future)
        return future

    def add_waiter(
        self, proposal_id: ProposalId, command: bytes, deadline_s: float, waiter: Waiter
    ) -> None:
        """Queue a proposal; whoever asks for the same id again shares its outcome. Raises
        InvalidRequest when it is too large, Unavailable when too many wait."""
        if len(command) > COMMAND_BYTES_MAX:
            raise InvalidRequest(
                f"a command of {len(command)} bytes is over the limit of {COMMAND_BYTES_MAX}: "
                "split the request"
            )
        pending = self._pending.get(proposal_id)
        if pending is None:
            if len(self._pending) >= PROPOSALS_MAX:
                raise Unavailable(
                    f"{PROPOSALS_MAX} writes are waiting on this master: nothing was changed, "
                    "try again in a moment"
                )
            pending = self._pending[proposal_id] = PendingProposal(proposal_id, command, deadline_s)
            self._queue.append(pending)
        else:
            pending.deadline_s = max(pending.deadline_s, deadline_s)
        pending.waiters.append(waiter)

    def take(self, count_max: int, size_bytes_max: int) -> list[PendingProposal]:
        """The next proposals to send, in order, within the bounds (at least one)."""
        taken: list[PendingProposal] = []
        size_bytes = 0
        while self._queue and len(taken) < count_max and size_bytes < size_bytes_max:
            pending = self._queue.popleft()
            pending.is_queued = False
            if pending.id in self._pending:
                taken.append(pending)
                size_bytes += len(pending.command)
        return taken

    def proposed_here(self, taken: Iterable[PendingProposal]) -> None:
        """They are in this leader's log, which loses none of them within its term."""
        for pending in taken:
            pending.was_sent = True
            self._forwarded.pop(pending.id, None)

    def forwarded(self, taken: Iterable[PendingProposal], now_s: float) -> None:
        for pending in taken:
            pending.was_sent = True
            self._forwarded[pending.id] = now_s + pending.retry_s
            pending.retry_s = min(2 * pending.retry_s, FORWARD_RETRY_MAX_S)

    def put_back(self, taken: list[PendingProposal]) -> None:
        """They were not sent: first in the queue again."""
        for pending in taken:
            pending.is_queued = True
        self._queue.extendleft(reversed(taken))

    def requeue_all(self) -> None:
        """The leader changed: what was sent to the old one may be lost."""
        self._forwarded.clear()
        self._queue = deque(self._pending.values())
        for pending in self._queue:
            pending.is_queued = True
            pending.retry_s = FORWARD_RETRY_MIN_S

    def pass_time(self, now_s: float) -> None:
        """Give up what is past its deadline, queue again what may have been lost."""
        overdue = [pending for pending in self._pending.values() if pending.deadline_s <= now_s]
        for pending in overdue:
            del self._pending[pending.id]
            self._forwarded.pop(pending.id, None)
            _fail(pending.waiters, _deadline_error(pending.was_sent))
        for proposal_id, retry_at_s in list(self._forwarded.items()):
            if retry_at_s <= now_s:
                pending = self._pending[proposal_id]
                self._forwarded[proposal_id] = _NEVER
                if not pending.is_queued:
                    pending.is_queued = True
                    self._queue.append(pending)

    def applied(self, applied: AppliedProposal) -> None:
        """The state machine applied this proposal, ours or another master's."""
        pending = self._pending.pop(applied.proposal, None)
        if pending is None:
            return
        if self._forwarded:
            self._forwarded.pop(applied.proposal, None)
        for waiter in pending.waiters:
            if not waiter.done():
                waiter.set_result(applied.result)

    def close(self) -> None:
        """The master stops."""
        for pending in self._pending.values():
            _fail(pending.waiters, _deadline_error(pending.was_sent))
        self._pending.clear()
        self._queue.clear()
        self._forwarded.clear()


class Reader:
    __slots__ = ("deadline_s", "future")

    def __init__(self, deadline_s: float) -> None:
        self.deadline_s = deadline_s
        self.future: asyncio.Future[int] = asyncio.get_running_loop().create_future()


class Readers:
    def __init__(self, first_context: int) -> None:
        """`first_context` must differ between starts of a member: an answer to a question of
        its former life must not be taken for one of this life."""
        self._next_context = first_context
        self._waiting: list[Reader] = []
        self._rounds: dict[int, list[Reader]] = {}
        self._confirmed: list[tuple[int, list[Reader]]] = []
        """Index that must be applied first, and who waits for that."""

    def add(self, deadline_s: float) -> asyncio.Future[int]:
        waiting = len(self._waiting) + sum(map(len, self._rounds.values()))
        if waiting >= READERS_MAX:
            raise Unavailable(
                f"{READERS_MAX} reads are waiting on this master: try again in a moment"
            )
        reader = Reader(deadline_s)
        self._waiting.append(reader)
        return reader.future

    @property
    def can_ask(self) -> bool:
        return bool(self._waiting) and len(self._rounds) < READ_ROUNDS_MAX

    def ask(self) -> int:
        """Begin a round for all who wait; its context."""
        context = self._next_context
        self._next_context += 1
        self._rounds[context] = self._waiting
        self._waiting = []
        return context

    def confirmed(self, context: int, index: int) -> None:
        readers = self._rounds.pop(context, None)
        if readers is not None:
            self._confirmed.append((index, readers))

    def refused(self, context: int) -> None:
        """They wait for another round."""
        self._waiting = self._rounds.pop(context, []) + self._waiting

    def applied(self, index: int) -> None:
        if not self._confirmed:
            return
        still_waiting = []
        for wanted, readers in self._confirmed:
            if wanted > index:
                still_waiting.append((wanted, readers))
                continue
            for reader in readers:
                if not reader.future.done():
                    reader.future.set_result(index)
        self._confirmed = still_waiting

    def pass_time(self, now_s: float) -> None:
        self._waiting = _without_overdue(self._waiting, now_s)
        for context, readers in list(self._rounds.items()):
            self._rounds[context] = left = _without_overdue(readers, now_s)
            if not left:
                del self._rounds[context]
        self._confirmed = [
            (index, left)
            for index, readers in self._confirmed
            if (left := _without_overdue(readers, now_s))
        ]

    def close(self) -> None:
        self.pass_time(_NEVER)


class Transfers:
    """Who waits for another master to take over leadership. A handful at most."""

    def __init__(self) -> None:
        self._waiting: list[tuple[MemberId, float, asyncio.Future[None]]] = []

    def add(self, to: MemberId, deadline_s: float) -> asyncio.Future[None]:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((to, deadline_s, done))
        return done

    def leader_seen(self, leader: MemberId) -> None:
        for to, _, done in self._waiting:
            if to == leader and not done.done():
                done.set_result(None)
        self._forget_done()

    def pass_time(self, now_s: float) -> None:
        for to, deadline_s, done in self._waiting:
            if deadline_s <= now_s:
                _fail((done,), Unavailable(f"leadership did not pass to {to} in time"))
        self._forget_done()

    def close(self) -> None:
        self.pass_time(_NEVER)

    def _forget_done(self) -> None:
        self._waiting = [waiting for waiting in self._waiting if not waiting[2].done()]


def _without_overdue(readers: list[Reader], now_s: float) -> list[Reader]:
    left = []
    for reader in readers:
        if reader.deadline_s > now_s and not reader.future.done():
            left.append(reader)
        else:
            _fail(
                (reader.future,),
                NoLeader(
                    "no quorum of masters confirmed the read in time: "
                    "try again when more masters are up"
                ),
            )
    return left


def _deadline_error(was_sent: bool) -> EssaimError:
    if was_sent:
        return OutcomeUnknown(
            "the write was not confirmed in time and may or may not have happened: "
            "look before you repeat it"
        )
    return NoLeader(
        "no leader: a quorum of masters does not answer; nothing was changed, "
        "try again when more masters are up"
    )


def _fail(waiters: Iterable[Waiter | asyncio.Future[Any]], error: EssaimError) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_exception(error)
