"""The outgoing half of a connection between two masters: made, greeted, kept, made again.

A link is in one of the states of `LinkState`; only an OPEN one takes messages. Its purpose decides
what it carries: messages, or the chunks of snapshots, so that a large state has its own queue.
"""

import asyncio
import logging
import random
import ssl
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import NamedTuple, Protocol, cast

from essaim_master.link_trust import LinkTrust
from essaim_master.listening import Patience, set_options
from essaim_master.peer_frames import (
    OLDEST_PEER_PROTOCOL_VERSION,
    PEER_PROTOCOL_VERSION,
    SNAPSHOT_PROTOCOL_VERSION,
    FrameReader,
    Greeting,
    GreetingAnswer,
    LinkPurpose,
    decode_answer,
    encode_chunk,
    encode_chunk_answer,
    encode_greeting,
    encode_message,
    encode_proposals,
)
from essaim_master.raft.messages import Message, MessageType
from essaim_master.snapshot.transfer import ChunkAnswer, SnapshotChunk
from essaim_shared.clock import Clock
from essaim_shared.errors import BrokenInvariant, MalformedMessage
from essaim_shared.ids import MemberId
from essaim_shared.trust.tls import peer_certificate, reason_in_words
from essaim_shared.trust.tls_protocol import connect_to_master

CONNECT_TIMEOUT_S = 1.0
"""For the connection and the greeting together."""
RECONNECT_DELAY_MIN_S = 0.05
RECONNECT_DELAY_MAX_S = 0.5
LINK_PATIENCE = Patience(unacknowledged_ms=2000, keepalive_s=1, probes=2)
KERNEL_BACKLOG_BYTES = 1024 * 1024
"""Bytes asyncio may hold for a connection before messages go to the link's own queue."""
QUEUE_BYTES_MAX = 16 * 1024 * 1024

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


class LinkOwner(Protocol):
    """Whose links these are."""

    cluster_id: str
    member_id: MemberId
    clock: Clock
    rng: random.Random
    trust: LinkTrust | None

    def log_refusal(self, text: str) -> None: ...


class Link(asyncio.Protocol):
    """The outgoing connection to one peer, made again and again until `close`."""

    def __init__(
        self, owner: LinkOwner, member: MemberId, address: PeerAddress, purpose: LinkPurpose
    ) -> None:
        self.address = address
        self.state = LinkState.WAITING
        self.version = 0
        """Of the protocol, agreed on with the greeting; 0 before the first."""
        self._purpose = purpose
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
            # Joined here: over TLS each piece would be a record of its own.
            self._transport.write(b"".join([encode_message(message) for message in messages]))
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
            self._transport.write(b"".join(encode_proposals(commands)))
            return True
        return self.state is LinkState.CONGESTED and self._enqueue(encode_proposals(commands))

    def send_chunk(self, chunk: SnapshotChunk) -> bool:
        """False if it was not sent: the other side is away, or behind with reading."""
        if self.state is not LinkState.OPEN or self._transport is None:
            return False
        self._transport.write(encode_chunk(chunk))
        return True

    def answer_chunk(self, answer: ChunkAnswer) -> None:
        if self.state is LinkState.OPEN and self._transport is not None:
            self._transport.write(encode_chunk_answer(answer))

    @property
    def takes_snapshots(self) -> bool:
        """The other side speaks a version that knows them."""
        return self.version >= SNAPSHOT_PROTOCOL_VERSION

    def close(self) -> None:
        self._task.cancel()
        if self._transport is not None:
            self._transport.abort()

    def recheck(self) -> None:
        """Whom this master admits has changed."""
        if self._transport is not None and not self._is_believed():
            self._abort()

    async def ended(self) -> None:
        await asyncio.wait([self._task])

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        set_options(self._transport, LINK_PATIENCE)
        self._transport.set_write_buffer_limits(high=KERNEL_BACKLOG_BYTES)
        self._reader = FrameReader()
        self._change(LinkState.GREETING)
        if not self._is_believed():
            self._abort()
            return
        owner = self._owner
        greeting = Greeting(
            OLDEST_PEER_PROTOCOL_VERSION,
            owner.cluster_id,
            owner.member_id,
            self._member,
            PEER_PROTOCOL_VERSION,
            self._purpose,
        )
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
        was_open = self.state is not LinkState.GREETING
        self._change(LinkState.WAITING)
        if isinstance(exc, ssl.SSLError) and not was_open:
            # In TLS 1.3 the other side's verdict on our certificate comes after our handshake.
            self._refused(reason_in_words(exc))
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
        self._transport.write(b"".join(waiting))

    def _answer_received(self, answer: GreetingAnswer) -> None:
        if self.state is not LinkState.GREETING:
            raise MalformedMessage("a second answer to one greeting")
        if answer.refusal is not None:
            self._refused(f"it refuses this master: {answer.refusal}")
            self._abort()
            return
        self.version = answer.version
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
        loop, trust = asyncio.get_running_loop(), self._owner.trust
        self._answered = loop.create_future()
        self._lost = loop.create_future()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                context = None if trust is None else trust.client
                await connect_to_master(self, self.address.host, self.address.port, context)
                return await self._answered
        except ssl.SSLError as error:
            self._refused(reason_in_words(error))
            return False
        except OSError:  # TimeoutError is one of them
            self._abort()
            return False

    def _is_believed(self) -> bool:
        """Whether the other end has proved to be the member that this link leads to."""
        trust, transport = self._owner.trust, self._transport
        connection = None if transport is None else transport.get_extra_info("ssl_object")
        if trust is None:
            return True
        certificate = None if connection is None else peer_certificate(connection)
        refusal = trust.refusal(certificate, self._member)
        if refusal is not None:
            self._refused(refusal)
        return refusal is None

    def _refused(self, reason: str) -> None:
        where = f"{self.address.host}:{self.address.port}"
        self._owner.log_refusal(f"no link to master {self._member} at {where}: {reason}")

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
