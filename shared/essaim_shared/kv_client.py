"""A client of the native key-value protocol: many requests in flight on one connection.

It keeps one connection, to the leader if it finds it, and moves to another master when that one
is lost, refuses, or falls silent. Requests without an answer are sent again there, with the same
session and number: a write happens once. A caller gets one answer or one error, and the error says
whether the write may have happened (`OutcomeUnknown`) or did not (any other).
"""

import asyncio
import logging
import random
import ssl
from collections import deque
from collections.abc import Iterable, Sequence
from typing import cast

from essaim_shared.backoff import backoff_s
from essaim_shared.clock import Clock
from essaim_shared.errors import (
    ConfigError,
    EssaimError,
    InvalidRequest,
    MalformedMessage,
    NoLeader,
    NotFound,
    OutcomeUnknown,
    Unavailable,
)
from essaim_shared.kv_link import KvLink
from essaim_shared.kv_protocol import (
    KV_PROTOCOL_VERSION,
    Compare,
    Delete,
    Failure,
    FailureCode,
    Greeting,
    KeyValue,
    MasterFrame,
    OpenSession,
    Operation,
    Pong,
    Put,
    Range,
    RangeAnswer,
    RangeRequest,
    SessionOpened,
    TransactionAnswer,
    TransactionRequest,
    Welcome,
    encode_frame,
)
from essaim_shared.limits import KV_IN_FLIGHT_MAX
from essaim_shared.trust.tls import Tls, reason_in_words
from essaim_shared.trust.tls_protocol import connect_to_master

TIMEOUT_S = 10.0
CONNECT_TIMEOUT_S = 1.0
"""For the connection and the greeting together."""
TICK_S = 0.1
RECONNECT_DELAY_MIN_S = 0.02
RECONNECT_DELAY_MAX_S = 0.5
WAITING_MAX = 100_000
"""Requests that were not sent yet; more are refused at once."""

_log = logging.getLogger(__name__)


class StoreFull(EssaimError):
    http_status = 507


class LeaseNotFound(NotFound):
    pass


_ERRORS: dict[FailureCode, type[EssaimError]] = {
    FailureCode.INVALID_REQUEST: InvalidRequest,
    FailureCode.UNAVAILABLE: Unavailable,
    FailureCode.NO_LEADER: NoLeader,
    FailureCode.OUTCOME_UNKNOWN: OutcomeUnknown,
    FailureCode.NO_SPACE: StoreFull,
    FailureCode.LEASE_NOT_FOUND: LeaseNotFound,
}
_NOT_TRIED = frozenset(
    {FailureCode.UNAVAILABLE, FailureCode.NO_LEADER, FailureCode.SESSION_FORGOTTEN}
)
"""True of this copy. If others were sent before it, nobody knows."""

Answer = TransactionAnswer | RangeAnswer


class _Request:
    __slots__ = ("deadline_s", "frame", "future", "is_write", "number", "sendings", "session")

    def __init__(
        self,
        number: int,
        frame: bytes,
        future: "asyncio.Future[Answer]",
        deadline_s: float,
        is_write: bool,
    ) -> None:
        self.number = number
        self.frame = frame
        self.future = future
        self.deadline_s = deadline_s
        self.is_write = is_write
        self.sendings = 0
        self.session = 0
        """In which it was sent: in another one it would be a new write."""


class KvClient:
    """All methods belong to one event loop."""

    def __init__(
        self,
        addresses: Sequence[tuple[str, int]],
        clock: Clock,
        rng: random.Random,
        cluster_id: str = "",
        tls: Tls | None = None,
    ) -> None:
        """`addresses` are (host, port) of the masters' kv_listen, at least one. Without a
        `cluster_id` the first master that answers decides which cluster is meant. `tls` is of a
        user's identity: masters that have one of their own speak to nobody without."""
        if not addresses:
            raise ConfigError("a key-value client needs the address of at least one master")
        self._addresses = list(addresses)
        self._clock = clock
        self._rng = rng
        self._cluster_id = cluster_id
        self._tls = tls
        self._next_number = 1
        self._session = 0
        self._opening = 0
        """Number of the request that opens a session; 0 if there is none."""
        self._is_opening_allowed = True
        """False from a failed attempt until the next tick: no busy asking."""
        self._waiting: deque[_Request] = deque()
        """To be sent, oldest first."""
        self._outstanding: dict[int, _Request] = {}
        """Sent, in order of numbers."""
        self._oldest = 0
        """No outstanding number is less."""
        self._links: set[KvLink] = set()
        self._link: KvLink | None = None
        self._lost_member = ""
        self._flush_scheduled = False
        self._tasks: list[asyncio.Task[None]] = []
        self._is_closed = False

    async def open(self) -> None:
        """Begin to connect; requests may be made at once and wait for it."""
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._keep_connected()), loop.create_task(self._tick())]

    async def close(self) -> None:
        """Requests without an answer fail."""
        self._is_closed = True
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._link = None
        links = list(self._links)
        for link in links:
            link.abort()
        if links:
            await asyncio.wait([link.lost for link in links])
        for request in [*self._waiting, *self._outstanding.values()]:
            self._give_up(request, "the client was closed")
        self._waiting.clear()
        self._outstanding.clear()

    @property
    def connected_to(self) -> str | None:
        """Id of the master."""
        return None if self._link is None else self._link.member_id

    # Requests

    def submit(
        self,
        then: Iterable[Operation],
        compares: Iterable[Compare] = (),
        otherwise: Iterable[Operation] = (),
        timeout_s: float = TIMEOUT_S,
    ) -> "asyncio.Future[Answer]":
        """Have a transaction executed; the future's result is a TransactionAnswer.

        The future raises InvalidRequest, StoreFull, LeaseNotFound, Unavailable (NoLeader): nothing
        was changed; OutcomeUnknown: it may have been executed, once.
        """
        number = self._number()
        frame = TransactionRequest(
            number, round(timeout_s * 1000), tuple(compares), tuple(then), tuple(otherwise)
        )
        return self._submit(number, encode_frame(frame), timeout_s, is_write=True)

    async def transact(
        self,
        then: Iterable[Operation],
        compares: Iterable[Compare] = (),
        otherwise: Iterable[Operation] = (),
        timeout_s: float = TIMEOUT_S,
    ) -> TransactionAnswer:
        """See `submit`."""
        return cast(
            TransactionAnswer, await self.submit(then, compares, otherwise, timeout_s=timeout_s)
        )

    async def put(self, key: bytes, value: bytes, timeout_s: float = TIMEOUT_S) -> int:
        """The revision that the write made. Raises as `submit`."""
        return (await self.transact((Put(key, value),), timeout_s=timeout_s)).revision

    async def delete(self, key: bytes, timeout_s: float = TIMEOUT_S) -> int:
        """The revision afterwards. Raises as `submit`."""
        return (await self.transact((Delete(key),), timeout_s=timeout_s)).revision

    async def get(
        self, key: bytes, local: bool = False, timeout_s: float = TIMEOUT_S
    ) -> KeyValue | None:
        """What the key holds: linearizable, or what one master has, which may be old. Raises
        Unavailable (NoLeader)."""
        answer = await self.range(key, key + b"\0", 1, local, timeout_s)
        return answer.result.found[0] if answer.result.found else None

    async def range(
        self,
        start: bytes,
        end: bytes,
        limit: int = 0,
        local: bool = False,
        timeout_s: float = TIMEOUT_S,
    ) -> RangeAnswer:
        """Keys in [start, end), in order, as many as an answer holds; see `get`."""
        return cast(RangeAnswer, await self.submit_range(start, end, limit, local, timeout_s))

    def submit_range(
        self,
        start: bytes,
        end: bytes,
        limit: int = 0,
        local: bool = False,
        timeout_s: float = TIMEOUT_S,
    ) -> "asyncio.Future[Answer]":
        """As `range`; the future's result is a RangeAnswer."""
        number = self._number()
        frame = RangeRequest(number, round(timeout_s * 1000), Range(start, end, limit), local)
        return self._submit(number, encode_frame(frame), timeout_s, is_write=False)

    def _number(self) -> int:
        number = self._next_number
        self._next_number = number + 1
        return number

    def _submit(
        self, number: int, frame: bytes, timeout_s: float, is_write: bool
    ) -> "asyncio.Future[Answer]":
        if self._is_closed:
            raise Unavailable("this key-value client is closed")
        if len(self._waiting) >= WAITING_MAX:
            raise Unavailable(f"{WAITING_MAX} requests wait to be sent: wait for their answers")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()
        deadline_s = self._clock.monotonic_s() + timeout_s
        self._waiting.append(_Request(number, frame, future, deadline_s, is_write))
        if not self._flush_scheduled:
            self._flush_scheduled = True
            loop.call_soon(self._flush)
        return future

    # Sending

    def _flush(self) -> None:
        """Send what may be sent, in one write."""
        self._flush_scheduled = False
        link, waiting, outstanding = self._link, self._waiting, self._outstanding
        if link is None or not waiting:
            return
        frames = []
        if not self._session:
            self._open_session(link)
            return
        while waiting and not link.is_congested:
            request = waiting[0]
            if len(outstanding) >= KV_IN_FLIGHT_MAX or not self._is_in_window(request.number):
                break
            waiting.popleft()
            if request.future.done():
                continue
            if request.sendings and request.session != self._session and request.is_write:
                self._give_up(request, "the masters have forgotten the session")
                continue
            request.sendings += 1
            request.session = self._session
            outstanding[request.number] = request
            frames.append(request.frame)
        if frames:
            link.send(b"".join(frames))

    def _is_in_window(self, number: int) -> bool:
        if number - self._oldest < KV_IN_FLIGHT_MAX:
            return True
        self._oldest = min(self._outstanding, default=number)
        return number - self._oldest < KV_IN_FLIGHT_MAX

    def _open_session(self, link: KvLink) -> None:
        if not self._opening and self._is_opening_allowed:
            self._opening = self._number()
            link.send(encode_frame(OpenSession(self._opening, round(TIMEOUT_S * 1000))))

    # What the connection tells

    def linked(self, link: KvLink) -> None:
        self._links.add(link)

    def unlinked(self, link: KvLink) -> None:
        self._links.discard(link)

    def answered(self, frame: MasterFrame) -> None:
        match frame:
            case TransactionAnswer(number) | RangeAnswer(number):
                request = self._outstanding.pop(number, None)
                if request is not None and not request.future.done():
                    request.future.set_result(frame)
            case Failure():
                self._failed(frame)
            case SessionOpened(number, session):
                if number == self._opening:
                    self._session, self._opening = session, 0
            case Pong():
                pass
            case Welcome():
                raise MalformedMessage("a second welcome")

    def answers_arrived(self) -> None:
        """There may be room for more requests."""
        if self._waiting:
            self._flush()

    def _failed(self, failure: Failure) -> None:
        if failure.number == self._opening:
            # Whoever waits for the session has a deadline.
            self._opening = 0
            self._is_opening_allowed = False
            return
        request = self._outstanding.pop(failure.number, None)
        if failure.code is FailureCode.SESSION_FORGOTTEN:
            self._session = 0
        if request is None or request.future.done():
            return
        if failure.code in _NOT_TRIED and request.is_write and request.sendings > 1:
            request.future.set_exception(
                OutcomeUnknown(
                    f"{failure.message}; an earlier copy of the write may have been executed: "
                    "look before you repeat it"
                )
            )
        elif failure.code is FailureCode.SESSION_FORGOTTEN:
            request.sendings = 0
            self._put_back([request])
        else:
            request.future.set_exception(_ERRORS.get(failure.code, Unavailable)(failure.message))

    def _put_back(self, requests: Iterable[_Request]) -> None:
        """To be sent again, before what waits, in order of numbers."""
        again = sorted([*requests, *self._waiting], key=lambda request: request.number)
        self._waiting = deque(again)

    def _give_up(self, request: _Request, why: str) -> None:
        if request.future.done():
            return
        if request.is_write and request.sendings:
            error: EssaimError = OutcomeUnknown(
                f"{why}; the write may or may not have happened: look before you repeat it"
            )
        else:
            error = Unavailable(f"{why}; nothing was changed, try again")
        request.future.set_exception(error)

    # The connection

    async def _keep_connected(self) -> None:
        attempt = 0
        while True:
            link = await self._connect()
            if link is None:
                attempt += 1
                await self._clock.sleep(
                    backoff_s(attempt, self._rng, RECONNECT_DELAY_MIN_S, RECONNECT_DELAY_MAX_S)
                )
                continue
            attempt = 0
            self._link = link
            self._flush()
            await asyncio.wait([link.lost])
            _log.info("lost master %s", link.member_id)
            self._link = None
            self._lost_member = link.member_id
            self._opening = 0
            self._put_back(self._outstanding.values())
            self._outstanding.clear()

    async def _connect(self) -> KvLink | None:
        """A welcome of the leader if it is among the addresses, else of any master."""
        self._addresses = [*self._addresses[1:], self._addresses[0]]
        best: KvLink | None = None
        for address in list(self._addresses):
            link = await self._greet(address)
            if link is None:
                continue
            if best is not None:
                best.abort()
            best = link
            if link.leader in (None, link.member_id, self._lost_member):
                break  # There is no better one, or not yet.
        return None if best is None or best.is_lost else best

    async def _greet(self, address: tuple[str, int]) -> KvLink | None:
        link = KvLink(self, self._clock)
        greeting = Greeting(KV_PROTOCOL_VERSION, self._cluster_id, self._session)
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                context = None if self._tls is None else self._tls.client
                await connect_to_master(link, *address, context)
                link.send(encode_frame(greeting))
                welcome = await link.welcome
        except ssl.SSLError as error:
            _log.warning("%s:%d is of no use to this client: %s", *address, reason_in_words(error))
            link.abort()
            return None
        except OSError as error:  # TimeoutError is one of them
            _log.info("no key-value service at %s:%d: %s", *address, str(error) or "no answer")
            link.abort()
            return None
        if isinstance(welcome, Failure):
            _log.warning("%s:%d refuses this client: %s", *address, welcome.message)
            link.abort()
            return None
        self._cluster_id = welcome.cluster_id
        return link

    async def _tick(self) -> None:
        while True:
            await self._clock.sleep(TICK_S)
            now_s = self._clock.monotonic_s()
            self._pass_deadlines(now_s)
            self._is_opening_allowed = True
            link = self._link
            if link is not None and (self._outstanding or self._opening):
                link.check(now_s)
            self._flush()

    def _pass_deadlines(self, now_s: float) -> None:
        overdue = [
            request
            for request in (*self._outstanding.values(), *self._waiting)
            if request.deadline_s <= now_s
        ]
        for request in overdue:
            self._give_up(request, "no master answered in time")
            self._outstanding.pop(request.number, None)
        if overdue:
            self._waiting = deque(r for r in self._waiting if not r.future.done())
