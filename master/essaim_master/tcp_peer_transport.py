"""Masters talk over TCP: every member opens one connection to every other and sends on it.

Raft does not go over the bus, so an outage of the bus costs neither the quorum nor a write.

* A link is in one of the states of `LinkState`; only an OPEN one takes messages. A message for a
  peer without an open link is dropped at once: an old message that arrives after a reconnection
  is worth less than none, and Raft sends again.
* While the kernel takes no more bytes, messages wait in a queue bounded by bytes; of waiting
  heartbeats only the newest is kept. What does not fit is dropped and reported.
* A link that is half open (the other machine is gone without a word) is ended by the kernel:
  TCP_USER_TIMEOUT if something was sent, keep-alive probes if nothing was.
"""

import asyncio
import ipaddress
import logging
import random
import socket
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import NamedTuple, cast

from essaim_master.peer_frames import (
    PEER_PROTOCOL_VERSION,
    FrameKind,
    FrameReader,
    Greeting,
    GreetingAnswer,
    decode_answer,
    decode_greeting,
    decode_message,
    decode_proposals,
    encode_answer,
    encode_greeting,
    encode_message,
    encode_proposals,
)
from essaim_master.peer_transport import PeerReceiver
from essaim_master.raft.messages import Message, MessageType
from essaim_shared.clock import Clock
from essaim_shared.errors import BrokenInvariant, ConfigError, MalformedMessage
from essaim_shared.ids import MemberId

CONNECT_TIMEOUT_S = 1.0
"""For the connection and the greeting together."""
GREETING_TIMEOUT_S = 2.0
"""A caller that has not greeted by then is shown the door."""
RECONNECT_DELAY_MIN_S = 0.05
RECONNECT_DELAY_MAX_S = 0.5
UNACKNOWLEDGED_MS_MAX = 2000
"""TCP_USER_TIMEOUT (RFC 5482): how long sent bytes may stay unacknowledged."""
KEEPALIVE_IDLE_S = 1
KEEPALIVE_PROBES_MAX = 2
KERNEL_BACKLOG_BYTES = 1024 * 1024
"""Bytes asyncio may hold for a connection before messages go to the link's own queue."""
QUEUE_BYTES_MAX = 16 * 1024 * 1024
INCOMING_CONNECTIONS_MAX = 64
CLOSING_PASSES = 4
"""Turns of the event loop that connections are given to report their end."""
LOGGED_REFUSALS_MAX = 64
"""Each distinct refusal is logged once, up to so many, so that a wrong address floods no log."""

_NEWEST_WINS = frozenset({MessageType.HEARTBEAT_REQUEST, MessageType.HEARTBEAT_RESPONSE})

_log = logging.getLogger(__name__)


class PeerAddress(NamedTuple):
    host: str
    port: int


class LinkState(Enum):
    WAITING = "waiting"
    """No connection; the next attempt comes after a delay."""
    GREETING = "greeting"
    """Connected; the other side has not answered yet."""
    OPEN = "open"
    CONGESTED = "congested"
    """Open, but the kernel takes no more bytes just now."""


LINK_TRANSITIONS: Mapping[LinkState, frozenset[LinkState]] = {
    LinkState.WAITING: frozenset({LinkState.GREETING}),
    LinkState.GREETING: frozenset({LinkState.OPEN, LinkState.WAITING}),
    LinkState.OPEN: frozenset({LinkState.CONGESTED, LinkState.WAITING}),
    LinkState.CONGESTED: frozenset({LinkState.OPEN, LinkState.WAITING}),
}


class TcpPeerTransport:
    """See `peer_transport.PeerTransport` for the contract."""

    def __init__(
        self,
        cluster_id: str,
        member_id: MemberId,
        listen: PeerAddress,
        clock: Clock,
        rng: random.Random,
    ) -> None:
        """Raises ConfigError for a listening address outside loopback and private networks: the
        links are neither encrypted nor authenticated yet."""
        _check_is_private(listen.host)
        self.cluster_id = cluster_id
        self.member_id = member_id
        self.clock = clock
        self.rng = rng
        self._listen = listen
        self._links: dict[MemberId, _Link] = {}
        self._addresses: dict[MemberId, PeerAddress] = {}
        self._incoming: set[_Incoming] = set()
        self._server: asyncio.Server | None = None
        self._receiver: PeerReceiver | None = None
        self._logged_refusals: set[str] = set()
        self._is_closing = False

    @property
    def receiver(self) -> PeerReceiver:
        if self._receiver is None:
            raise ConfigError("the peer transport was not started")
        return self._receiver

    @property
    def listening(self) -> PeerAddress:
        """Where it listens; tells the port when 0 was asked for."""
        if self._server is None:
            return self._listen
        host, port = self._server.sockets[0].getsockname()[:2]
        return PeerAddress(host, port)

    async def start(self, receiver: PeerReceiver) -> None:
        self._receiver = receiver
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(
                lambda: _Incoming(self), self._listen.host, self._listen.port
            )
        except OSError as error:
            raise ConfigError(
                f"cannot listen for other masters on {self._listen.host}:{self._listen.port}: "
                f"{error.strerror or error}; choose another peer address or stop who uses it"
            ) from error
        self._open_links()

    def set_peers(self, addresses: Mapping[MemberId, PeerAddress]) -> None:
        """Who the other members are and where, from now on. Own address is ignored."""
        wanted = {member: at for member, at in addresses.items() if member != self.member_id}
        for member, link in list(self._links.items()):
            if wanted.get(member) != link.address:
                link.close()
                del self._links[member]
        self._addresses = wanted
        for connection in list(self._incoming):
            if connection.sender is not None and connection.sender not in wanted:
                connection.abort()
        if self._server is not None:
            self._open_links()

    def send(self, messages: Sequence[Message]) -> None:
        by_receiver: dict[MemberId, list[Message]] = {}
        for message in messages:
            by_receiver.setdefault(message.receiver, []).append(message)
        for member, part in by_receiver.items():
            link = self._links.get(member)
            if link is None or not link.send(part):
                self.receiver.peer_unreachable(member)

    def forward(self, to: MemberId, commands: Sequence[bytes]) -> bool:
        link = self._links.get(to)
        return link is not None and link.forward(commands)

    def is_open(self, member: MemberId) -> bool:
        """Whether the link towards that member takes messages."""
        link = self._links.get(member)
        return link is not None and link.state in (LinkState.OPEN, LinkState.CONGESTED)

    async def close(self) -> None:
        self._is_closing = True
        links = list(self._links.values())
        self._links.clear()
        for link in links:
            link.close()
        if self._server is not None:
            for listening in self._server.sockets:
                asyncio.get_running_loop().remove_reader(listening.fileno())
        for connection in list(self._incoming):
            connection.abort()
        await asyncio.gather(*(link.ended() for link in links))
        # asyncio forgets, unclosed, what it accepted in the very turn of `Server.close`. So
        # first let that come up, be turned away, and report its end.
        for _ in range(CLOSING_PASSES):
            await asyncio.sleep(0)
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    def admit(self, connection: "_Incoming", greeting: Greeting) -> str | None:
        """Why the greeting is refused, or None. A new connection replaces the sender's old one,
        which is half open if it is there at all."""
        refusal = self._refusal(greeting)
        if refusal is not None:
            self.log_refusal(f"refused the connection of another master: {refusal}")
            return refusal
        for other in list(self._incoming):
            if other is not connection and other.sender == greeting.sender:
                other.abort()
        return None

    def connected(self, connection: "_Incoming") -> bool:
        """Whether there is room for one more connection."""
        if self._is_closing:
            return False
        if len(self._incoming) >= INCOMING_CONNECTIONS_MAX:
            self.log_refusal(
                f"more than {INCOMING_CONNECTIONS_MAX} connections to the peer address"
            )
            return False
        self._incoming.add(connection)
        return True

    def disconnected(self, connection: "_Incoming") -> None:
        self._incoming.discard(connection)

    def log_refusal(self, text: str) -> None:
        if text not in self._logged_refusals and len(self._logged_refusals) < LOGGED_REFUSALS_MAX:
            self._logged_refusals.add(text)
            _log.error("%s", text)

    def _refusal(self, greeting: Greeting) -> str | None:
        if greeting.cluster_id != self.cluster_id:
            return (
                f"{greeting.sender} belongs to cluster {greeting.cluster_id!r}, "
                f"{self.member_id} to cluster {self.cluster_id!r}"
            )
        if greeting.protocol_version != PEER_PROTOCOL_VERSION:
            return (
                f"{greeting.sender} speaks peer protocol {greeting.protocol_version}, "
                f"{self.member_id} speaks {PEER_PROTOCOL_VERSION}"
            )
        if greeting.receiver != self.member_id:
            return f"{greeting.sender} looks for {greeting.receiver}, this is {self.member_id}"
        if greeting.sender not in self._addresses:
            return f"{greeting.sender} is no member that {self.member_id} knows"
        return None

    def _open_links(self) -> None:
        for member, address in self._addresses.items():
            if member not in self._links:
                self._links[member] = _Link(self, member, address)


class _Link(asyncio.Protocol):
    """The outgoing connection to one peer, made again and again until `close`."""

    def __init__(self, owner: TcpPeerTransport, member: MemberId, address: PeerAddress) -> None:
        self.address = address
        self.state = LinkState.WAITING
        self._owner = owner
        self._member = member
        self._transport: asyncio.Transport | None = None
        self._reader = FrameReader()
        self._answered: asyncio.Future[bool] | None = None
        self._lost: asyncio.Future[None] | None = None
        self._queue: list[bytes] = []
        self._queue_bytes = 0
        self._heartbeats: dict[MessageType, bytes] = {}
        self._task = asyncio.get_running_loop().create_task(self._keep_connected())

    def send(self, messages: Sequence[Message]) -> bool:
        """False if any of them was dropped."""
        if self.state is LinkState.OPEN and self._transport is not None:
            self._transport.writelines([encode_message(message) for message in messages])
            return True
        if self.state is not LinkState.CONGESTED:
            return False
        is_whole = True
        for message in messages:
            if message.type in _NEWEST_WINS:
                self._heartbeats[message.type] = encode_message(message)
            elif not self._enqueue([encode_message(message)]):
                is_whole = False
        return is_whole

    def forward(self, commands: Sequence[bytes]) -> bool:
        if self.state is LinkState.OPEN and self._transport is not None:
            self._transport.writelines(encode_proposals(commands))
            return True
        return self.state is LinkState.CONGESTED and self._enqueue(encode_proposals(commands))

    def close(self) -> None:
        self._task.cancel()
        if self._transport is not None:
            self._transport.abort()

    async def ended(self) -> None:
        await asyncio.wait([self._task])

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        _set_options(self._transport)
        self._transport.set_write_buffer_limits(high=KERNEL_BACKLOG_BYTES)
        self._reader = FrameReader()
        self._change(LinkState.GREETING)
        owner = self._owner
        greeting = Greeting(PEER_PROTOCOL_VERSION, owner.cluster_id, owner.member_id, self._member)
        self._transport.write(encode_greeting(greeting))

    def data_received(self, data: bytes) -> None:
        try:
            for frame in self._reader.feed(data):
                self._answer_received(decode_answer(frame))
        except MalformedMessage as error:
            _log.warning("closing the link to master %s: %s", self._member, error)
            self._abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._queue.clear()
        self._queue_bytes = 0
        self._heartbeats.clear()
        self._change(LinkState.WAITING)
        if self._answered is not None and not self._answered.done():
            self._answered.set_result(False)
        if self._lost is not None and not self._lost.done():
            self._lost.set_result(None)

    def pause_writing(self) -> None:
        if self.state is LinkState.OPEN:
            self._change(LinkState.CONGESTED)

    def resume_writing(self) -> None:
        if self.state is not LinkState.CONGESTED or self._transport is None:
            return
        self._change(LinkState.OPEN)
        waiting = [*self._heartbeats.values(), *self._queue]
        self._heartbeats.clear()
        self._queue.clear()
        self._queue_bytes = 0
        self._transport.writelines(waiting)

    def _answer_received(self, answer: GreetingAnswer) -> None:
        if self.state is not LinkState.GREETING:
            raise MalformedMessage("a second answer to one greeting")
        if answer.refusal is not None:
            self._owner.log_refusal(
                f"master {self._member} at {self.address.host}:{self.address.port} "
                f"refuses this master: {answer.refusal}"
            )
            self._abort()
            return
        self._change(LinkState.OPEN)
        if self._answered is not None and not self._answered.done():
            self._answered.set_result(True)

    async def _keep_connected(self) -> None:
        delay_s = RECONNECT_DELAY_MIN_S
        while True:
            if await self._connect() and self._lost is not None:
                delay_s = RECONNECT_DELAY_MIN_S
                _log.info("linked to master %s", self._member)
                await self._lost
                _log.warning("lost the link to master %s", self._member)
            # Jitter, so that two masters do not find one another absent again and again.
            await self._owner.clock.sleep(delay_s * self._owner.rng.uniform(0.5, 1.0))
            delay_s = min(2 * delay_s, RECONNECT_DELAY_MAX_S)

    async def _connect(self) -> bool:
        loop = asyncio.get_running_loop()
        self._answered = loop.create_future()
        self._lost = loop.create_future()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await loop.create_connection(lambda: self, self.address.host, self.address.port)
                return await self._answered
        except OSError:  # TimeoutError is one of them
            self._abort()
            return False

    def _enqueue(self, frames: Sequence[bytes]) -> bool:
        size_bytes = sum(map(len, frames))
        if self._queue_bytes + size_bytes > QUEUE_BYTES_MAX:
            return False
        self._queue += frames
        self._queue_bytes += size_bytes
        return True

    def _abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _change(self, to: LinkState) -> None:
        if to is not self.state and to not in LINK_TRANSITIONS[self.state]:
            raise BrokenInvariant(f"link to {self._member}: {self.state.value} → {to.value}")
        self.state = to


class _Incoming(asyncio.Protocol):
    """A connection that another member opened to us; we only read from it."""

    def __init__(self, owner: TcpPeerTransport) -> None:
        self.sender: MemberId | None = None
        self._owner = owner
        self._reader = FrameReader()
        self._transport: asyncio.Transport | None = None
        self._greeting_timeout: asyncio.TimerHandle | None = None

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if not self._owner.connected(self):
            self._transport.abort()
            return
        _set_options(self._transport)
        self._greeting_timeout = asyncio.get_running_loop().call_later(
            GREETING_TIMEOUT_S, self._transport.abort
        )

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_timeout()
        self._owner.disconnected(self)

    def data_received(self, data: bytes) -> None:
        messages: list[Message] = []
        try:
            for frame in self._reader.feed(data):
                if self.sender is None:
                    if not self._greeted(decode_greeting(frame)):
                        return
                elif frame.kind == FrameKind.MESSAGE:
                    messages.append(self._checked(decode_message(frame)))
                elif frame.kind == FrameKind.PROPOSALS:
                    self._owner.receiver.proposals_arrived(self.sender, decode_proposals(frame))
                else:
                    raise MalformedMessage(f"a frame of kind {frame.kind}")
        except MalformedMessage as error:
            peer = self._transport.get_extra_info("peername") if self._transport else None
            _log.warning("closing the connection of %s: %s", self.sender or peer, error)
            self.abort()
        if messages:
            self._owner.receiver.messages_arrived(messages)

    def _greeted(self, greeting: Greeting) -> bool:
        self._cancel_timeout()
        refusal = self._owner.admit(self, greeting)
        if self._transport is not None:
            self._transport.write(encode_answer(GreetingAnswer(refusal)))
            if refusal is not None:
                self._transport.close()
        if refusal is None:
            self.sender = greeting.sender
        return refusal is None

    def _checked(self, message: Message) -> Message:
        if message.sender != self.sender or message.receiver != self._owner.member_id:
            raise MalformedMessage(
                f"a message from {message.sender} to {message.receiver} "
                f"on the connection from {self.sender} to {self._owner.member_id}"
            )
        return message

    def _cancel_timeout(self) -> None:
        if self._greeting_timeout is not None:
            self._greeting_timeout.cancel()
            self._greeting_timeout = None


def _set_options(transport: asyncio.Transport) -> None:
    connection: socket.socket = transport.get_extra_info("socket")
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED_MS_MAX)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_IDLE_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES_MAX)


def _check_is_private(host: str) -> None:
    try:
        address = ipaddress.ip_address(host)
    except ValueError as error:
        raise ConfigError(f"the peer address {host!r} is not an IP address: give one") from error
    if address.is_unspecified or not (address.is_loopback or address.is_private):
        raise ConfigError(
            f"the peer address {host} is not on loopback or in a private network: the links "
            "between masters are not encrypted yet, so choose such an address"
        )
