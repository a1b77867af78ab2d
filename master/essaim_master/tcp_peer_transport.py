"""Masters talk over TCP: every member opens one connection to every other and sends on it.

Raft does not go over the bus, so an outage of the bus costs neither the quorum nor a write.

* The outgoing half is `tcp_link`. A message for a
  peer without an open link is dropped at once: an old message that arrives after a reconnection
  is worth less than none, and Raft sends again.
* Chunks of snapshots have a connection of their own, opened with the first of them.
* While the kernel takes no more bytes, messages wait in a queue bounded by bytes; of waiting
  heartbeats only the newest is kept. What does not fit is dropped and reported.
* With TLS both ends show a certificate, and it has to be that of the member they say they are
  (`link_trust`).
* A link that is half open (the other machine is gone without a word) is ended by the kernel:
  TCP_USER_TIMEOUT if something was sent, keep-alive probes if nothing was.
"""

import asyncio
import logging
import random
from collections.abc import Mapping, Sequence
from typing import cast

from essaim_master.link_trust import LinkTrust
from essaim_master.listening import bound_socket, check_listen_host, set_options
from essaim_master.peer_frames import (
    OLDEST_PEER_PROTOCOL_VERSION,
    PEER_PROTOCOL_VERSION,
    FrameKind,
    FrameReader,
    Greeting,
    GreetingAnswer,
    LinkPurpose,
    decode_chunk,
    decode_chunk_answer,
    decode_greeting,
    decode_message,
    decode_proposals,
    encode_answer,
)
from essaim_master.peer_transport import PeerReceiver
from essaim_master.raft.messages import Message
from essaim_master.refusals import Refusals
from essaim_master.snapshot.transfer import ChunkAnswer, SnapshotChunk
from essaim_master.tcp_link import LINK_PATIENCE, Link, LinkState, PeerAddress
from essaim_shared.clock import Clock
from essaim_shared.errors import ConfigError, MalformedMessage
from essaim_shared.ids import MemberId
from essaim_shared.trust.tls import PeerCertificate, peer_certificate
from essaim_shared.trust.tls_server import listen as listen_on

__all__ = ["PeerAddress", "TcpPeerTransport"]

GREETING_TIMEOUT_S = 2.0
"""A caller that has not greeted by then is shown the door."""
INCOMING_CONNECTIONS_MAX = 64
CLOSING_PASSES = 4
"""Turns of the event loop that connections are given to report their end."""
BACKLOG = 64

_log = logging.getLogger(__name__)


class TcpPeerTransport:
    """See `peer_transport.PeerTransport` for the contract."""

    def __init__(
        self,
        cluster_id: str,
        member_id: MemberId,
        listen: PeerAddress,
        clock: Clock,
        rng: random.Random,
        trust: LinkTrust | None = None,
        refusals: Refusals | None = None,
    ) -> None:
        """Without `trust` links are neither encrypted nor authenticated: then it raises
        ConfigError for a listening address outside loopback and private networks."""
        check_listen_host("the peer address", listen.host, is_open=trust is None)
        self.cluster_id = cluster_id
        self.member_id = member_id
        self.clock = clock
        self.rng = rng
        self._listen = listen
        self._links: dict[MemberId, Link] = {}
        self._snapshot_links: dict[MemberId, Link] = {}
        self._addresses: dict[MemberId, PeerAddress] = {}
        self._incoming: set[_Incoming] = set()
        self._server: asyncio.Server | None = None
        self._receiver: PeerReceiver | None = None
        self.trust = trust
        self._refusals = refusals or Refusals()
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
        context = None if self.trust is None else self.trust.server
        try:
            bound = bound_socket(*self._listen)
            self._server = await listen_on(
                lambda: _Incoming(self), bound, context, BACKLOG, self._handshake_refused
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
        for links in (self._links, self._snapshot_links):
            for member, link in list(links.items()):
                if wanted.get(member) != link.address:
                    link.close()
                    del links[member]
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

    def send_chunk(self, to: MemberId, chunk: SnapshotChunk) -> bool:
        messages = self._links.get(to)
        if messages is None or not messages.takes_snapshots:
            return False
        link = self._snapshot_links.get(to)
        if link is None:
            link = Link(self, to, messages.address, LinkPurpose.SNAPSHOTS)
            self._snapshot_links[to] = link
        return link.send_chunk(chunk)

    def answer_chunk(self, to: MemberId, answer: ChunkAnswer) -> None:
        link = self._links.get(to)
        if link is not None:
            link.answer_chunk(answer)

    def is_open(self, member: MemberId) -> bool:
        """Whether the link towards that member takes messages."""
        link = self._links.get(member)
        return link is not None and link.state in (LinkState.OPEN, LinkState.CONGESTED)

    async def close(self) -> None:
        self._is_closing = True
        links = [*self._links.values(), *self._snapshot_links.values()]
        self._links.clear()
        self._snapshot_links.clear()
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

    def recheck(self) -> None:
        """Whom this master admits has changed: cut off who is not among them."""
        if self.trust is None:
            return
        for connection in list(self._incoming):
            if connection.sender is not None and self.trust.refusal(
                connection.certificate, connection.sender
            ):
                connection.abort()
        for links in (self._links, self._snapshot_links):
            for link in links.values():
                link.recheck()

    def admit(self, connection: "_Incoming", greeting: Greeting) -> str | None:
        """Why the greeting is refused, or None. A new connection replaces the sender's old one,
        which is half open if it is there at all."""
        refusal = self._refusal(greeting, connection.certificate)
        if refusal is not None:
            self.log_refusal(f"refused the connection of another master: {refusal}")
            return refusal
        for other in list(self._incoming):
            if other is not connection and (other.sender, other.purpose) == (
                greeting.sender,
                greeting.purpose,
            ):
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
        self._refusals.tell(text)

    def _handshake_refused(self, host: str, reason: str) -> None:
        self.log_refusal(f"refused the connection of {host} to the peer address: {reason}")

    def _refusal(self, greeting: Greeting, certificate: PeerCertificate | None) -> str | None:
        if greeting.cluster_id != self.cluster_id:
            return (
                f"{greeting.sender} belongs to cluster {greeting.cluster_id!r}, "
                f"{self.member_id} to cluster {self.cluster_id!r}"
            )
        if greeting.common_version is None:
            return (
                f"{greeting.sender} speaks peer protocol {greeting.oldest_version} and up, "
                f"{self.member_id} speaks {OLDEST_PEER_PROTOCOL_VERSION} to "
                f"{PEER_PROTOCOL_VERSION}"
            )
        if greeting.receiver != self.member_id:
            return f"{greeting.sender} looks for {greeting.receiver}, this is {self.member_id}"
        if greeting.sender not in self._addresses:
            return f"{greeting.sender} is no member that {self.member_id} knows"
        return None if self.trust is None else self.trust.refusal(certificate, greeting.sender)

    def _open_links(self) -> None:
        for member, address in self._addresses.items():
            if member not in self._links:
                self._links[member] = Link(self, member, address, LinkPurpose.MESSAGES)


class _Incoming(asyncio.Protocol):
    """A connection that another member opened to us; we only read from it."""

    def __init__(self, owner: TcpPeerTransport) -> None:
        self.sender: MemberId | None = None
        self.certificate: PeerCertificate | None = None
        self.purpose = LinkPurpose.MESSAGES
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
        set_options(self._transport, LINK_PATIENCE)
        connection = self._transport.get_extra_info("ssl_object")
        if connection is not None:
            self.certificate = peer_certificate(connection)
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
                elif frame.kind == FrameKind.CHUNK:
                    self._owner.receiver.chunk_arrived(self.sender, decode_chunk(frame))
                elif frame.kind == FrameKind.CHUNK_ANSWER:
                    self._owner.receiver.chunk_answered(self.sender, decode_chunk_answer(frame))
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
        self.purpose = greeting.purpose
        if self._transport is not None:
            version = greeting.common_version or OLDEST_PEER_PROTOCOL_VERSION
            self._transport.write(encode_answer(GreetingAnswer(refusal, version)))
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
