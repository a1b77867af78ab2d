"""A bus inside the process: named servers, clients at them, and faults on demand.

For tests and simulations of whole clusters. It passes the contract tests of the real transport
and behaves like it where it matters: at most once, in order for one publisher and one subject, a
message goes over one route at most (servers do not pass on what came from another server), a
frozen server accepts clients' data and answers nothing, and a client leaves it by itself only
after PING_TIMEOUT_S. All time is the clock's and all chance the generator's, so that a run can be
repeated from its seed.
"""

import asyncio
import itertools
import random
from collections import deque
from collections.abc import Sequence
from typing import Final

from essaim_shared.bus_subjects import (
    check_pattern,
    check_size,
    check_subject,
    is_pattern,
    matches,
)
from essaim_shared.clock import Clock
from essaim_shared.delivery_queue import DeliveryQueue
from essaim_shared.server_pool import ServerPool
from essaim_shared.transport import (
    BusDisconnected,
    Handler,
    NoResponders,
    RequestTimeout,
    Subscription,
)

PING_TIMEOUT_S: Final = 3.0
"""A client leaves a server that was frozen for so long (nats_transport: interval + time-out)."""

RECONNECT_WAIT_MIN_S: Final = 0.1
RECONNECT_WAIT_MAX_S: Final = 0.25
CLOSE_TIMEOUT_S: Final = 1.0

IN_FLIGHT_MAX: Final = 100_000
"""Delayed messages from one client to another; what comes on top is lost."""


class MemoryBus:
    """The servers and the wires between them. Every server has a route to every other."""

    def __init__(
        self, clock: Clock, rng: random.Random, servers: Sequence[str] = ("bus-1",)
    ) -> None:
        self.clock = clock
        self.rng = rng
        self.loss = 0.0
        """Probability, 0 to 1, that a message gets lost on its way to one receiver."""
        self.delay_s: tuple[float, float] = (0.0, 0.0)
        """Least and greatest delay of a message; (0, 0): handed over at once."""
        self.lost_count = 0
        self._running = dict.fromkeys(servers, True)
        self._frozen: set[str] = set()
        self._cut_routes: set[frozenset[str]] = set()
        self._cut_clients: set[str] = set()
        self.subscribed = _Subscribed()
        self._clients: list[MemoryTransport] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def client(
        self, name: str, servers: Sequence[str] | None = None, inbox_prefix: str | None = None
    ) -> "MemoryTransport":
        """A client, connected if it can be; it tries `servers` (default: all) in that order. Its
        answers arrive under `inbox_prefix` (default: `_INBOX.NAME`)."""
        transport = MemoryTransport(
            self,
            name,
            tuple(self._running) if servers is None else servers,
            f"_INBOX.{name}" if inbox_prefix is None else inbox_prefix,
        )
        self._clients.append(transport)
        transport.attach()
        return transport

    # Faults.

    def stop(self, server: str) -> None:
        """The server's process ends: its clients notice at once and go elsewhere."""
        self._running[server] = False
        self._frozen.discard(server)
        for client in self._at(server):
            client.lose()

    def start(self, server: str) -> None:
        self._running[server] = True

    def freeze(self, server: str) -> None:
        """As SIGSTOP: nothing passes, nobody is told; clients notice after PING_TIMEOUT_S."""
        self._frozen.add(server)
        for client in self._at(server):
            self.spawn(self._leave_frozen(client, server))

    def thaw(self, server: str) -> None:
        self._frozen.discard(server)

    def cut_route(self, one: str, other: str) -> None:
        """The two servers no longer pass messages to each other; no detour is made by others."""
        self._cut_routes.add(frozenset((one, other)))

    def heal_route(self, one: str, other: str) -> None:
        self._cut_routes.discard(frozenset((one, other)))

    def cut_client(self, name: str) -> None:
        """The host of all clients of this name is cut off: no server can be reached from it."""
        self._cut_clients.add(name)
        for client in self._clients:
            if client.name == name:
                client.lose()

    def heal_client(self, name: str) -> None:
        self._cut_clients.discard(name)

    async def close(self) -> None:
        """Close all clients and end what is still on its way."""
        for client in tuple(self._clients):
            await client.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    # For the clients.

    def accepts(self, client_name: str, server: str) -> bool:
        """Whether a handshake would succeed."""
        return (
            client_name not in self._cut_clients
            and self._running.get(server, False)
            and server not in self._frozen
        )

    def forget(self, client: "MemoryTransport") -> None:
        self._clients.remove(client)

    def route(self, sender: "MemoryTransport", subject: str, payload: bytes, reply: str) -> bool:
        """Pass a message to all who subscribed where it can get; False when nobody did."""
        server = sender.server
        if server is None:
            raise BusDisconnected("no bus server can be reached; trying again")
        if server in self._frozen:
            return True  # swallowed; the sender cannot tell
        found = False
        for queue, client in self.subscribed.matching(subject):
            if self._connects(server, client.server):
                found = True
                delivery = MemoryDelivery(client, subject, payload, reply)
                self._transmit(sender, client, queue, delivery)
        return found

    def spawn(self, coroutine: "asyncio._CoroutineLike[None]") -> "asyncio.Task[None]":
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _at(self, server: str) -> list["MemoryTransport"]:
        return [client for client in self._clients if client.server == server]

    def _connects(self, one: str, other: str | None) -> bool:
        if other is None or other in self._frozen:
            return False
        return one == other or frozenset((one, other)) not in self._cut_routes

    def _transmit(
        self,
        sender: "MemoryTransport",
        receiver: "MemoryTransport",
        queue: DeliveryQueue,
        delivery: "MemoryDelivery",
    ) -> None:
        if self.loss > 0 and self.rng.random() < self.loss:
            self.lost_count += 1
            return
        wire = sender.wire_to(receiver)
        if self.delay_s[1] <= 0 and not wire.is_busy:
            queue.put(delivery)
        elif not wire.send(self.rng.uniform(*self.delay_s), queue, delivery):
            self.lost_count += 1

    async def _leave_frozen(self, client: "MemoryTransport", server: str) -> None:
        await self.clock.sleep(PING_TIMEOUT_S)
        if client.server == server and server in self._frozen:
            client.lose()


class _Subscribed:
    """All queues of all clients, found by subject without looking at each: a simulated cluster
    has thousands, and nearly all of them are for one exact subject."""

    def __init__(self) -> None:
        self._exact: dict[str, dict[DeliveryQueue, MemoryTransport]] = {}
        self._patterns: dict[DeliveryQueue, MemoryTransport] = {}
        self._inboxes: dict[str, tuple[DeliveryQueue, MemoryTransport]] = {}
        """By the inbox's subject up to its last dot."""

    def add(self, queue: DeliveryQueue, client: "MemoryTransport") -> None:
        if is_pattern(queue.pattern):
            self._patterns[queue] = client
        else:
            self._exact.setdefault(queue.pattern, {})[queue] = client

    def add_inbox(self, queue: DeliveryQueue, client: "MemoryTransport") -> None:
        self._inboxes[queue.pattern.removesuffix("*")] = (queue, client)

    def discard(self, queue: DeliveryQueue) -> None:
        self._patterns.pop(queue, None)
        self._inboxes.pop(queue.pattern.removesuffix("*"), None)
        queues = self._exact.get(queue.pattern, {})
        queues.pop(queue, None)
        if not queues:
            self._exact.pop(queue.pattern, None)

    def matching(self, subject: str) -> list[tuple[DeliveryQueue, "MemoryTransport"]]:
        found = list(self._exact.get(subject, {}).items())
        found += [
            (queue, client)
            for queue, client in self._patterns.items()
            if matches(queue.pattern, subject)
        ]
        inbox = self._inboxes.get(subject[: subject.rfind(".") + 1])
        return found if inbox is None else [*found, inbox]


class _Wire:
    """From one client to another: delayed messages keep their order."""

    def __init__(self, bus: MemoryBus, receiver: "MemoryTransport") -> None:
        self._bus = bus
        self._receiver = receiver
        self._in_flight: deque[tuple[float, str | None, DeliveryQueue, MemoryDelivery]] = deque()

    @property
    def is_busy(self) -> bool:
        return bool(self._in_flight)

    def send(self, delay_s: float, queue: DeliveryQueue, delivery: "MemoryDelivery") -> bool:
        if len(self._in_flight) >= IN_FLIGHT_MAX:
            return False
        due_s = self._bus.clock.monotonic_s() + delay_s
        self._in_flight.append((due_s, self._receiver.server, queue, delivery))
        if len(self._in_flight) == 1:
            self._bus.spawn(self._carry())
        return True

    async def _carry(self) -> None:
        while self._in_flight:
            due_s, server, queue, delivery = self._in_flight[0]
            await self._bus.clock.sleep(due_s - self._bus.clock.monotonic_s())
            self._in_flight.popleft()
            if self._receiver.server == server:  # else its connection was lost meanwhile
                queue.put(delivery)


class MemoryDelivery:
    __slots__ = ("_receiver", "payload", "reply", "subject")

    def __init__(
        self, receiver: "MemoryTransport", subject: str, payload: bytes, reply: str
    ) -> None:
        self._receiver = receiver
        self.reply = reply
        self.subject = subject
        self.payload = payload

    async def respond(self, payload: bytes) -> None:
        check_size(payload)
        if self.reply and self._receiver.server is not None:
            self._receiver.bus.route(self._receiver, self.reply, payload, "")


class _MemorySubscription:
    def __init__(self, transport: "MemoryTransport", queue: DeliveryQueue) -> None:
        self._transport = transport
        self._queue = queue

    async def unsubscribe(self) -> None:
        self._queue.close()
        self._transport.bus.subscribed.discard(self._queue)
        self._transport.queues.pop(self._queue, None)


class MemoryTransport:
    """A client of the bus; see `transport.Transport` for the contract."""

    def __init__(
        self, bus: MemoryBus, name: str, servers: Sequence[str], inbox_prefix: str
    ) -> None:
        self.bus = bus
        self.name = name
        self.queues: dict[DeliveryQueue, None] = {}
        """In order of subscription: a set's order would differ from run to run."""
        self.dropped_count = 0
        self.reconnection_count = 0
        self._pool = ServerPool(servers)
        self._server: str | None = None
        self._is_closed = False
        self._was_connected = False
        self._wires: dict[int, _Wire] = {}
        self._inbox = f"{inbox_prefix}.{bus.rng.getrandbits(64):016x}."
        self._requests: dict[str, asyncio.Future[bytes]] = {}
        self._tokens = itertools.count()
        self._inbox_queue = DeliveryQueue(f"{self._inbox}*", self._receive_answer, self._count_drop)
        bus.subscribed.add_inbox(self._inbox_queue, self)

    @property
    def server(self) -> str | None:
        return self._server

    async def publish(self, subject: str, payload: bytes) -> None:
        check_subject(subject)
        check_size(payload)
        self.bus.route(self, subject, payload, "")

    async def request(self, subject: str, payload: bytes, timeout_s: float) -> bytes:
        check_subject(subject)
        check_size(payload)
        token = str(next(self._tokens))
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._requests[token] = answer
        timer: asyncio.Task[None] | None = None
        try:
            if not self.bus.route(self, subject, payload, self._inbox + token):
                raise NoResponders("nobody on the bus answers this subject")
            timer = self.bus.spawn(self._expire(answer, subject, timeout_s))
            return await answer
        finally:
            del self._requests[token]
            if timer is not None:
                timer.cancel()

    async def subscribe(self, subject: str, handler: Handler) -> Subscription:
        check_pattern(subject)
        if self._is_closed:
            raise BusDisconnected("the connection to the bus was closed")
        queue = DeliveryQueue(subject, handler, self._count_drop)
        self.queues[queue] = None
        self.bus.subscribed.add(queue, self)
        return _MemorySubscription(self, queue)

    async def reconnect(self) -> None:
        self.lose()

    async def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        self._server = None
        self.bus.forget(self)
        for answer in self._requests.values():
            if not answer.done():
                answer.set_exception(BusDisconnected("the connection to the bus was closed"))
        queues = (self._inbox_queue, *self.queues)
        for queue in queues:
            self.bus.subscribed.discard(queue)
            queue.close()
        await asyncio.gather(*(queue.join(CLOSE_TIMEOUT_S) for queue in queues))
        self.queues.clear()

    # For the bus.

    def attach(self) -> bool:
        """Try each server once, in order."""
        for server in self._pool.in_order():
            if self.bus.accepts(self.name, server):
                self._server = server
                self.reconnection_count += self._was_connected
                self._was_connected = True
                return True
            self._pool.leave(server)
        self.bus.spawn(self._reattach())
        return False

    def lose(self) -> None:
        """The connection is gone: no server, until the way to another one was made."""
        if self._server is None or self._is_closed:
            return
        self._pool.leave(self._server)
        self._server = None
        self.bus.spawn(self._reattach())

    def wire_to(self, receiver: "MemoryTransport") -> _Wire:
        wire = self._wires.get(id(receiver))
        if wire is None:
            wire = self._wires[id(receiver)] = _Wire(self.bus, receiver)
        return wire

    async def _reattach(self) -> None:
        await self.bus.clock.sleep(self.bus.rng.uniform(RECONNECT_WAIT_MIN_S, RECONNECT_WAIT_MAX_S))
        if not self._is_closed and self._server is None:
            self.attach()

    async def _receive_answer(self, delivery: object) -> None:
        assert isinstance(delivery, MemoryDelivery)
        answer = self._requests.get(delivery.subject[len(self._inbox) :])
        if answer is not None and not answer.done():
            answer.set_result(delivery.payload)

    async def _expire(self, answer: asyncio.Future[bytes], subject: str, timeout_s: float) -> None:
        await self.bus.clock.sleep(timeout_s)
        if not answer.done():
            answer.set_exception(RequestTimeout(f"no answer on {subject} within {timeout_s:g} s"))

    def _count_drop(self) -> None:
        self.dropped_count += 1
