"""The bus over NATS.

Rules

* One `Connection` (`nats_connection`) is one TCP connection to one server, from its handshake to
  its loss, and is never used again. Reconnecting is done here, not in nats-py: its own way keeps
  what was waiting to be sent and sends it after the reconnection (a stale order or vote), waits
  for ever for a stopped server to take the rest of a socket's buffer, and gives up for good after
  some answers of the server. A fresh client has nothing old to send.
* Subscriptions and the inbox for answers belong to the transport: each new connection subscribes
  to all of them again before it is used. Messages sent in between are lost, as the contract says.
* Servers are tried in the order of `ServerPool`.

A lost connection does not end the requests that are under way: an answer may still arrive over
the next connection, since the inbox is the same; otherwise they time out, and whether they had
arrived is unknown, which is what RequestTimeout says.

Servers that the bus itself announces are not used: what it announces behind NAT or in a lab is
often not reachable. The configured list counts.
"""

import asyncio
import itertools
import logging
import random
from collections.abc import Sequence
from typing import Any, Final

from nats.aio.msg import Msg

from essaim_shared.bus_login import BusLogin
from essaim_shared.bus_subjects import check_pattern, check_size, check_subject
from essaim_shared.clock import Clock
from essaim_shared.delivery_queue import WAITING_BYTES_MAX, WAITING_MESSAGES_MAX, DeliveryQueue
from essaim_shared.errors import InvalidRequest
from essaim_shared.log import fields
from essaim_shared.nats_connection import (
    CONNECT_TIMEOUT_S,
    CONNECTION_ERRORS,
    Connection,
    in_words,
    is_refusal,
)
from essaim_shared.server_pool import ServerPool
from essaim_shared.transport import (
    BusDisconnected,
    Handler,
    NoResponders,
    RequestTimeout,
    Subscription,
)

_log = logging.getLogger(__name__)

PING_INTERVAL_S: Final = 1.0
PING_TIMEOUT_S: Final = 2.0
"""A server that has not answered a ping for so long is left."""

RECONNECT_WAIT_MIN_S: Final = 0.1
RECONNECT_WAIT_MAX_S: Final = 0.25
"""Drawn between two attempts; the first one after a loss is made at once."""
REFUSALS_AT_ONCE_MAX: Final = 5
REFUSED_WAIT_MIN_S: Final = 1.0
REFUSED_WAIT_MAX_S: Final = 2.0
"""Instead, for a process that servers know and do not let in, so many times in a row."""

SHORT_CONNECTION_S: Final = 1.0
"""After a connection that was lost sooner than this, even the first attempt waits."""

PENDING_BYTES_MAX: Final = 8 * 1024 * 1024
"""With more than this unsent the server is as good as gone: publishing raises BusDisconnected."""

TOLD_MAX: Final = 64
"""Reasons for having no connection that are logged aloud."""

REQUESTS_MAX: Final = 65_536
"""Requests under way at once; one more raises BusDisconnected."""

CLOSE_TIMEOUT_S: Final = 1.0
CANCEL_AGAIN_S: Final = 0.1

_NO_RESPONDERS_STATUS: Final = "503"


class _NatsDelivery:
    __slots__ = ("_transport", "payload", "reply", "subject")

    def __init__(self, transport: "NatsTransport", message: Msg) -> None:
        self._transport = transport
        self.reply: str = message.reply
        self.subject: str = message.subject
        self.payload: bytes = message.data

    async def respond(self, payload: bytes) -> None:
        if not self.reply:
            return  # published, not asked
        try:
            await self._transport.publish(self.reply, payload)
        except BusDisconnected:
            _log.debug("an answer was dropped: no bus %s", fields(subject=self.subject))
        except InvalidRequest as error:
            # The asker wrote it, and can write what it wants; it must not stop who answers.
            _log.warning("an answer was dropped %s", fields(subject=self.subject, error=error))


class _NatsSubscription:
    def __init__(self, transport: "NatsTransport", queue: DeliveryQueue) -> None:
        self._transport = transport
        self.queue = queue
        self.registered: object | None = None
        """nats-py's subscription on `connection`."""
        self.connection: Connection | None = None

    async def receive(self, message: Msg) -> None:
        self.queue.put(_NatsDelivery(self._transport, message))

    async def unsubscribe(self) -> None:
        await self._transport._unsubscribe(self)


class NatsTransport:
    """A client of the bus; see `transport.Transport` for the contract.

    `open` starts it. While no server can be reached it keeps trying in the background, and
    `server` is None.
    """

    def __init__(
        self,
        servers: Sequence[str],
        name: str,
        clock: Clock,
        rng: random.Random,
        inbox_prefix: str | None = None,
        login: BusLogin | None = None,
    ) -> None:
        """`servers`: `nats://HOST:PORT`, the nearest first. `name` is shown by the server's
        monitoring. `inbox_prefix` (default `_INBOX.NAME`) is where answers arrive: each client
        has its own, so that permissions can keep it from reading another's. Without `login` there
        is neither TLS nor a key. Raises ConfigError without a server, InvalidRequest for a prefix
        that cannot be part of a subject."""
        prefix = f"_INBOX.{name}" if inbox_prefix is None else inbox_prefix
        check_subject(prefix)
        self._inbox = f"{prefix}.{rng.getrandbits(64):016x}."
        self._pool = ServerPool(servers)
        self._name = name
        self._clock = clock
        self._rng = rng
        self._login = login
        self._told: set[tuple[str, str]] = set()
        """Server, and why it did not take us: told once until there is a connection again."""
        self._connection: Connection | None = None
        self._connected = asyncio.Event()
        self._subscriptions: set[_NatsSubscription] = set()
        self._requests: dict[str, asyncio.Future[bytes]] = {}
        self._tokens = itertools.count()
        self._keeper: asyncio.Task[None] | None = None
        self._is_closed = False
        self.reconnection_count = 0
        """Connections made after the first one."""
        self.dropped_count = 0
        """Messages dropped because a handler was too slow."""
        self._forbidden_before = 0
        """On connections that are over."""

    async def open(self, wait_s: float = CONNECT_TIMEOUT_S) -> None:
        """Begin connecting, and wait up to `wait_s` for the first connection; none is no error."""
        self._keeper = asyncio.get_running_loop().create_task(self._keep_connected(), name="bus")
        self._keeper.add_done_callback(_report_end)
        await self.wait_connected(wait_s)

    async def wait_connected(self, timeout_s: float) -> bool:
        try:
            async with asyncio.timeout(timeout_s):
                await self._connected.wait()
        except TimeoutError:
            return False
        return True

    @property
    def server(self) -> str | None:
        connection = self._connection
        return None if connection is None or connection.lost.done() else connection.server

    @property
    def forbidden_count(self) -> int:
        """How often a server refused a subject to this client."""
        connection = self._connection
        return self._forbidden_before + (0 if connection is None else connection.forbidden_count)

    async def publish(self, subject: str, payload: bytes) -> None:
        check_subject(subject)
        check_size(payload)
        await self._send(subject, payload, "")

    async def request(self, subject: str, payload: bytes, timeout_s: float) -> bytes:
        check_subject(subject)
        check_size(payload)
        if len(self._requests) >= REQUESTS_MAX:
            raise BusDisconnected(f"{REQUESTS_MAX} requests are under way: the bus is stuck")
        loop = asyncio.get_running_loop()
        token = str(next(self._tokens))
        answer: asyncio.Future[bytes] = loop.create_future()
        self._requests[token] = answer
        # A timer of the loop costs a fraction of wait_for, and this is the hottest path.
        timer = loop.call_later(timeout_s, _expire, answer, subject, timeout_s)
        try:
            await self._send(subject, payload, self._inbox + token)
            return await answer
        finally:
            timer.cancel()
            del self._requests[token]
            if answer.done() and not answer.cancelled():
                answer.exception()  # retrieved: it may have expired while `_send` waited

    async def subscribe(self, subject: str, handler: Handler) -> Subscription:
        check_pattern(subject)
        self._check_open()
        subscription = _NatsSubscription(self, DeliveryQueue(subject, handler, self._count_drop))
        self._subscriptions.add(subscription)
        is_done = False
        try:
            connection = self._connection
            if connection is not None:
                await self._register_now(connection, subscription)
            is_done = True
        finally:
            if not is_done:  # cancelled: nobody holds the subscription, so nobody could end it
                await self._unsubscribe(subscription)
        return subscription

    async def reconnect(self) -> None:
        connection = self._connection
        if connection is not None:
            connection.lose("left on request")

    async def close(self) -> None:
        """Send what is waiting to be sent, end the handlers, disconnect. Repeating it is free."""
        if self._is_closed:
            return
        self._is_closed = True
        connection, self._connection = self._connection, None
        if connection is not None and not connection.lost.done():
            try:
                await connection.rtt(CLOSE_TIMEOUT_S)  # type: ignore[arg-type]
            except CONNECTION_ERRORS as error:
                _log.info("the bus was left unflushed %s", fields(error=repr(error)))
        # Again until it ends: a cancellation that meets nats-py in the midst of a handshake that
        # fails is swallowed there.
        while self._keeper is not None and not self._keeper.done():
            self._keeper.cancel()
            await asyncio.wait({self._keeper}, timeout=CANCEL_AGAIN_S)
        for answer in self._requests.values():
            if not answer.done():
                answer.set_exception(BusDisconnected("the connection to the bus was closed"))
        for subscription in self._subscriptions:
            subscription.queue.close()
        await asyncio.gather(*(s.queue.join(CLOSE_TIMEOUT_S) for s in self._subscriptions))
        self._subscriptions.clear()

    # Sending and receiving.

    async def _send(self, subject: str, payload: bytes, reply: str) -> None:
        connection = self._connection
        if connection is None or connection.lost.done():
            raise BusDisconnected("no bus server can be reached; trying again")
        if connection.pending_data_size > PENDING_BYTES_MAX:
            raise BusDisconnected(f"bus server {connection.server} takes no more data")
        try:
            await connection.publish(subject, payload, reply)
        except CONNECTION_ERRORS as error:
            raise BusDisconnected(f"bus server {connection.server}: {error}") from error

    async def _receive_answer(self, message: Msg) -> None:
        answer = self._requests.get(message.subject[len(self._inbox) :])
        if answer is None or answer.done():
            return  # too late
        headers = message.headers
        if headers and headers.get("Status") == _NO_RESPONDERS_STATUS:
            answer.set_exception(NoResponders("nobody on the bus answers this subject"))
        else:
            answer.set_result(message.data)

    async def _register(self, connection: Connection, subscription: _NatsSubscription) -> None:
        subscription.connection, subscription.registered = connection, None
        registered = await connection.subscribe(
            subscription.queue.pattern,
            cb=subscription.receive,
            pending_msgs_limit=WAITING_MESSAGES_MAX,
            pending_bytes_limit=WAITING_BYTES_MAX,
        )
        if subscription.connection is connection:
            subscription.registered = registered

    async def _register_now(self, connection: Connection, subscription: _NatsSubscription) -> None:
        """The server has it when this returns: what it passes on from then arrives."""
        try:
            await self._register(connection, subscription)
            await connection.rtt(PING_TIMEOUT_S)  # type: ignore[arg-type]
        except CONNECTION_ERRORS as error:
            connection.lose(f"while subscribing: {error}")  # the next one subscribes to all

    async def _unsubscribe(self, subscription: _NatsSubscription) -> None:
        self._subscriptions.discard(subscription)
        subscription.queue.close()
        connection, registered = subscription.connection, subscription.registered
        if registered is None or connection is None or connection.lost.done():
            return
        subscription.registered = None
        try:
            await registered.unsubscribe()  # type: ignore[attr-defined]
        except CONNECTION_ERRORS as error:
            connection.lose(f"while unsubscribing: {error}")

    def _count_drop(self) -> None:
        self.dropped_count += 1
        if self.dropped_count.bit_count() == 1:  # the 1st, 2nd, 4th, 8th …: a flood is one line
            _log.warning("slow handler: messages dropped %s", fields(total=self.dropped_count))

    def _check_open(self) -> None:
        if self._is_closed:
            raise BusDisconnected("the connection to the bus was closed")

    # Staying connected.

    async def _keep_connected(self) -> None:
        wait_first = False
        while True:
            connection = await self._connect(wait_first)
            since_s = self._clock.monotonic_s()
            try:
                self._connection = connection
                self._connected.set()
                self._told.clear()
                _log.info("connected to the bus %s", fields(server=connection.server))
                reason = await _until_lost(connection)
            finally:
                self._connection = None
                self._connected.clear()
                connection.abandon()
                self.dropped_count += connection.dropped_count
                self._forbidden_before += connection.forbidden_count
            _log.warning("bus connection lost %s", fields(server=connection.server, reason=reason))
            self._pool.leave(connection.server)
            wait_first = self._clock.monotonic_s() - since_s < SHORT_CONNECTION_S
            self.reconnection_count += 1

    async def _connect(self, wait_first: bool) -> Connection:
        """Try one server after the other until one takes us and all subscriptions."""
        refusals = 0
        for attempt in itertools.count():
            if attempt > 0 or wait_first:
                least_s, most_s = RECONNECT_WAIT_MIN_S, RECONNECT_WAIT_MAX_S
                if refusals >= REFUSALS_AT_ONCE_MAX:
                    least_s, most_s = REFUSED_WAIT_MIN_S, REFUSED_WAIT_MAX_S
                await self._clock.sleep(self._rng.uniform(least_s, most_s))
            server = self._pool.next
            try:
                return await self._connect_to(server)
            except (*CONNECTION_ERRORS, ValueError) as error:  # ValueError: not a NATS server
                refusals = refusals + 1 if is_refusal(error) else 0
                self._pool.leave(server)
                self._tell(server, in_words(error))
        raise AssertionError("unreachable: the attempts are unlimited")

    def _tell(self, server: str, reason: str) -> None:
        is_news = (server, reason) not in self._told and len(self._told) < TOLD_MAX
        if is_news:
            self._told.add((server, reason))
        _log.log(
            logging.WARNING if is_news else logging.DEBUG,
            "no connection to the bus %s",
            fields(server=server, reason=reason),
        )

    async def _connect_to(self, server: str) -> Connection:
        connection = Connection(server, self._login)
        is_ready = False
        try:
            await connection.open(self._name)
            await connection.subscribe(f"{self._inbox}*", cb=self._receive_answer)
            # Others may subscribe while this waits: go on until none is left out.
            while missing := [s for s in self._subscriptions if s.connection is not connection]:
                for subscription in missing:
                    await self._register(connection, subscription)
            # From here `subscribe` registers at this connection itself. A request cannot get
            # ahead of the subscriptions, for the server reads a connection in order.
            self._connection = connection
            await connection.rtt(CONNECT_TIMEOUT_S)  # type: ignore[arg-type]
            is_ready = True
        finally:
            if not is_ready:
                self._connection = None
                connection.abandon()
        return connection


async def _until_lost(connection: Connection) -> str:
    """Ping until the server does not answer, or the connection reports its loss."""
    while True:
        await asyncio.wait({connection.lost}, timeout=PING_INTERVAL_S)
        if connection.lost.done():
            return connection.lost.result()
        ping = asyncio.get_running_loop().create_task(_ping(connection), name="bus ping")
        events: tuple[asyncio.Future[Any], ...] = (ping, connection.lost)
        try:
            await asyncio.wait(events, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ping.cancel()


async def _ping(connection: Connection) -> None:
    try:
        await connection.rtt(PING_TIMEOUT_S)  # type: ignore[arg-type]
    except CONNECTION_ERRORS as error:
        connection.lose(f"no answer to a ping: {error}")


def _expire(answer: asyncio.Future[bytes], subject: str, timeout_s: float) -> None:
    if not answer.done():
        answer.set_exception(RequestTimeout(f"no answer on {subject} within {timeout_s:g} s"))


def _report_end(task: asyncio.Task[None]) -> None:
    """The keeper ends by cancellation only; anything else is a broken assumption."""
    if not task.cancelled() and (error := task.exception()) is not None:
        task.get_loop().call_exception_handler(
            {"message": "keeping the bus connection failed", "exception": error, "task": task}
        )
