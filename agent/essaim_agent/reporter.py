"""Tells the leader what became of the tasks: coalesced, repeated until it is committed.

Of two statuses of a task the greater state is right, so only the newest is kept and an older one
that was never sent is no loss. One request is under way at a time: what changes meanwhile is in
the next one, so a busy leader gets fewer and fuller reports by itself.

States on the way to RUNNING are news for people only; they wait a moment for company. Those that
somebody waits for (RUNNING, READY of a task held ready, every end) leave at once.
"""

import asyncio
import logging
import random
from collections.abc import Callable

from essaim_shared.clock import Clock
from essaim_shared.errors import MalformedMessage
from essaim_shared.ids import NodeId, TaskId
from essaim_shared.limits import BUS_CHUNK_BYTES_MAX
from essaim_shared.messages import (
    Refused,
    ReportedStatus,
    StatusAck,
    StatusReport,
    decode,
    encode,
)
from essaim_shared.objects import TaskStatus
from essaim_shared.transport import BusDisconnected, NoResponders, RequestTimeout, Transport

_log = logging.getLogger(__name__)

REPORT_TIMEOUT_S = 2.0
"""The answer comes after a commit; a leader without a quorum gives none."""
COMPANY_WAIT_S = 0.2
RETRY_WAIT_MIN_S = 0.1
RETRY_WAIT_MAX_S = 0.25
REFUSED_WAIT_S = 1.0
STATUS_BYTES_FIXED = 256
"""Upper bound of a status on the wire without its two texts: ids, numbers, field names."""
UTF8_BYTES_PER_CHAR_MAX = 4


def status_bytes_max(status: TaskStatus) -> int:
    """An upper bound of what a status takes on the wire, without encoding it."""
    chars = len(status.err) + len(status.message) + len(status.container_id)
    return STATUS_BYTES_FIXED + UTF8_BYTES_PER_CHAR_MAX * chars


class Reporter:
    """`put` is called by the tasks, `use_session` by the session, `run` by the agent."""

    def __init__(
        self,
        transport: Transport,
        subject: str,
        node_id: NodeId,
        clock: Clock,
        rng: random.Random,
        admits_term: Callable[[int], bool],
    ) -> None:
        self._transport = transport
        self._subject = subject
        self._node_id = node_id
        self._clock = clock
        self._rng = rng
        self._admits_term = admits_term
        self._session: str | None = None
        self._pending: dict[TaskId, TaskStatus] = {}
        self._work = asyncio.Event()
        self._hurry = asyncio.Event()
        self.on_register_again: Callable[[], None] = lambda: None
        self.reports_sent = 0

    @property
    def pending(self) -> int:
        """Statuses that no leader has acknowledged yet."""
        return len(self._pending)

    def put(self, task_id: TaskId, status: TaskStatus, urgent: bool = True) -> None:
        """Have `status` told; it takes the place of an earlier one of the task."""
        self._pending[task_id] = status
        if urgent:
            self._hurry.set()
        self._work.set()

    def forget(self, task_id: TaskId) -> None:
        """The masters have dropped the task: nobody waits for its status."""
        self._pending.pop(task_id, None)

    def use_session(self, session: str | None) -> None:
        """Report in this session from now on; None: hold everything back."""
        self._session = session
        if self._pending:
            self._hurry.set()
            self._work.set()

    async def run(self) -> None:
        while True:
            await self._work.wait()
            if self._session is None or not self._pending:
                self._work.clear()
                continue
            await self._gather_company()
            await self._report()

    async def _gather_company(self) -> None:
        """Return at once when something urgent is pending, else after a moment."""
        if not self._hurry.is_set():
            pause = asyncio.ensure_future(self._clock.sleep(COMPANY_WAIT_S))
            hurry = asyncio.ensure_future(self._hurry.wait())
            try:
                await asyncio.wait({pause, hurry}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                pause.cancel()
                hurry.cancel()
        self._hurry.clear()

    def _next_batch(self) -> dict[TaskId, TaskStatus]:
        batch: dict[TaskId, TaskStatus] = {}
        room = BUS_CHUNK_BYTES_MAX
        for task_id, status in self._pending.items():
            room -= status_bytes_max(status)
            if room < 0 and batch:
                break
            batch[task_id] = status
        return batch

    async def _report(self) -> None:
        """One request and what its answer means. What is not acknowledged stays pending."""
        session = self._session
        if session is None:
            return
        batch = self._next_batch()
        if not batch:
            return
        is_partial = len(batch) < len(self._pending)
        payload = encode(
            StatusReport(
                node_id=self._node_id,
                session=session,
                statuses=tuple(
                    ReportedStatus(task_id=task_id, status=status)
                    for task_id, status in batch.items()
                ),
            )
        )
        self.reports_sent += 1
        try:
            answer: StatusAck | Refused = decode(
                await self._transport.request(self._subject, payload, REPORT_TIMEOUT_S),
                StatusAck,
                Refused,
            )
        except RequestTimeout:
            self._hurry.set()
            return
        except (NoResponders, BusDisconnected):
            await self._wait(self._rng.uniform(RETRY_WAIT_MIN_S, RETRY_WAIT_MAX_S))
            return
        except MalformedMessage as error:
            _log.warning("answer to a status report is malformed: %s", error)
            await self._wait(REFUSED_WAIT_S)
            return
        if isinstance(answer, Refused):
            await self._refused(answer, session)
        elif not self._admits_term(answer.term):
            _log.warning("status acknowledged by a deposed leader term=%d: repeating", answer.term)
            await self._wait(self._rng.uniform(RETRY_WAIT_MIN_S, RETRY_WAIT_MAX_S))
        else:
            self._acknowledged(batch)
            if is_partial:
                self._hurry.set()

    async def _refused(self, answer: Refused, session: str) -> None:
        if not answer.register_again:
            _log.warning("status report refused: %s", answer.reason)
            await self._wait(REFUSED_WAIT_S)
        elif session == self._session:
            self.use_session(None)
            self.on_register_again()

    def _acknowledged(self, batch: dict[TaskId, TaskStatus]) -> None:
        for task_id, status in batch.items():
            if self._pending.get(task_id) is status:
                del self._pending[task_id]

    async def _wait(self, duration_s: float) -> None:
        await self._clock.sleep(duration_s)
        self._hurry.set()
