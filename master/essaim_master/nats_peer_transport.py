"""Masters talk over the bus: for sites where only the bus port is open. TCP is the default.

It costs what the bus costs: an outage of the bus is then one of the quorum too, and a message
passes two more processes. So elections take longer with it (`config.py`), and the connection is
one of its own, that orders to agents do not wait behind a burst of log entries.

* A link is open while the other master answers greetings; only an open one takes messages. As
  with TCP, what cannot be sent now is dropped and reported, never kept for later.
* Nothing waits in `send`: pieces go to a queue bounded by bytes, and one task publishes them.
  Chunks of snapshots have a queue of their own, which is served when the other one is empty.
"""

import asyncio
import logging
import random
from collections import deque
from collections.abc import Iterable, Mapping, Sequence

from essaim_master.bus_pieces import (
    BusGreeting,
    BusGreetingAnswer,
    Piece,
    PieceReader,
    cut,
    decode_answer,
    decode_greeting,
    decode_piece,
    encode_answer,
    encode_greeting,
    encode_piece,
)
from essaim_master.peer_frames import (
    OLDEST_PEER_PROTOCOL_VERSION,
    PEER_PROTOCOL_VERSION,
    SNAPSHOT_PROTOCOL_VERSION,
    Frame,
    FrameKind,
    Greeting,
    GreetingAnswer,
    decode_chunk,
    decode_chunk_answer,
    decode_message,
    decode_proposals,
    encode_chunk,
    encode_chunk_answer,
    encode_message,
    encode_proposals,
)
from essaim_master.peer_transport import PeerReceiver
from essaim_master.raft.messages import Message
from essaim_master.snapshot.transfer import ChunkAnswer, SnapshotChunk
from essaim_master.tcp_peer_transport import PeerAddress
from essaim_shared.clock import Clock
from essaim_shared.errors import ConfigError, MalformedMessage
from essaim_shared.ids import MemberId
from essaim_shared.subjects import Subjects
from essaim_shared.transport import (
    BusDisconnected,
    Delivery,
    NoResponders,
    RequestTimeout,
    Subscription,
    Transport,
)

GREETING_PERIOD_S = 0.5
GREETING_TIMEOUT_S = 1.0
"""A greeting that is not answered in this time closes the link."""
GREETING_RETRY_S = 0.1
QUEUE_BYTES_MAX = 8 * 1024 * 1024
SNAPSHOT_QUEUE_BYTES_MAX = 2 * 1024 * 1024
SESSION_BITS = 53
LOGGED_REFUSALS_MAX = 64

_log = logging.getLogger(__name__)


class _Link:
    """What is known of one other master."""

    def __init__(self, greeter: asyncio.Task[None]) -> None:
        self.greeter = greeter
        self.session: int | None = None
        """Of the other one, while the link is open."""
        self.version = OLDEST_PEER_PROTOCOL_VERSION
        self.next_number = 0
        self.incoming_session: int | None = None
        """The life of the other one that greeted us."""
        self.reader = PieceReader()


class NatsPeerTransport:
    """See `peer_transport.PeerTransport` for the contract."""

    def __init__(
        self,
        bus: Transport,
        subjects: Subjects,
        cluster_name: str,
        member_id: MemberId,
        clock: Clock,
        rng: random.Random,
    ) -> None:
        """`bus` is this transport's own connection: `close` closes it. `cluster_name` is what the
        masters of this life of the cluster call it (`Identity.links_name`)."""
        self._bus = bus
        self._cluster_name = cluster_name
        self._member_id = member_id
        self._clock = clock
        self._subjects = subjects
        self._session = rng.getrandbits(SESSION_BITS)
        self._links: dict[MemberId, _Link] = {}
        self._members: frozenset[MemberId] = frozenset()
        self._receiver: PeerReceiver | None = None
        self._subscriptions: list[Subscription] = []
        self._queue = _PieceQueue(QUEUE_BYTES_MAX)
        self._snapshot_queue = _PieceQueue(SNAPSHOT_QUEUE_BYTES_MAX)
        self._has_work = asyncio.Event()
        self._publisher: asyncio.Task[None] | None = None
        self._logged_refusals: set[str] = set()

    @property
    def receiver(self) -> PeerReceiver:
        if self._receiver is None:
            raise ConfigError("the peer transport was not started")
        return self._receiver

    async def start(self, receiver: PeerReceiver) -> None:
        self._receiver = receiver
        own_id = self._member_id
        self._subscriptions = [
            await self._bus.subscribe(self._subjects.raft_greeting(own_id), self._on_greeting),
            await self._bus.subscribe(self._subjects.raft(own_id), self._on_piece),
        ]
        self._publisher = asyncio.get_running_loop().create_task(self._publish())
        self._open_links()

    def set_peers(self, addresses: Mapping[MemberId, PeerAddress]) -> None:
        """Who the other members are, from now on; the bus knows where."""
        self._members = frozenset(addresses) - {self._member_id}
        for member in self._links.keys() - self._members:
            self._links.pop(member).greeter.cancel()
        if self._publisher is not None:
            self._open_links()

    def send(self, messages: Sequence[Message]) -> None:
        by_receiver: dict[MemberId, list[bytes]] = {}
        for message in messages:
            by_receiver.setdefault(message.receiver, []).append(encode_message(message))
        for member, frames in by_receiver.items():
            if not self._enqueue(self._queue, member, frames):
                self.receiver.peer_unreachable(member)

    def forward(self, to: MemberId, commands: Sequence[bytes]) -> bool:
        return self._enqueue(self._queue, to, encode_proposals(commands))

    def send_chunk(self, to: MemberId, chunk: SnapshotChunk) -> bool:
        link = self._links.get(to)
        if link is None or link.version < SNAPSHOT_PROTOCOL_VERSION:
            return False
        return self._enqueue(self._snapshot_queue, to, [encode_chunk(chunk)])

    def answer_chunk(self, to: MemberId, answer: ChunkAnswer) -> None:
        self._enqueue(self._queue, to, [encode_chunk_answer(answer)])

    def is_open(self, member: MemberId) -> bool:
        """Whether the link towards that member takes messages."""
        link = self._links.get(member)
        return link is not None and link.session is not None

    async def close(self) -> None:
        tasks = [link.greeter for link in self._links.values()]
        self._links.clear()
        self._members = frozenset()
        if self._publisher is not None:
            tasks.append(self._publisher)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for subscription in self._subscriptions:
            await subscription.unsubscribe()
        await self._bus.close()

    # Sending

    def _enqueue(self, queue: "_PieceQueue", to: MemberId, frames: Iterable[bytes]) -> bool:
        """All of the frames or none; False: the link is closed, or too much waits already."""
        link = self._links.get(to)
        if link is None or link.session is None or queue.is_full or self._bus.server is None:
            return False
        for begins, data in cut(frames):
            queue.put(to, link.session, begins, data)
        self._has_work.set()
        return True

    async def _publish(self) -> None:
        while True:
            await self._has_work.wait()
            self._has_work.clear()
            while (queue := self._waiting_queue()) is not None:
                to, session, begins, data = queue.take()
                link = self._links.get(to)
                if link is None or link.session != session:
                    continue  # It was meant for a life of the other one that is over.
                piece = Piece(
                    self._member_id, self._session, session, link.next_number, begins, data
                )
                link.next_number += 1
                try:
                    await self._bus.publish(self._subjects.raft(to), encode_piece(piece))
                except BusDisconnected:
                    self._close_link(to, link)

    def _waiting_queue(self) -> "_PieceQueue | None":
        """Messages first. A frame that was begun is finished first of all: the pieces of one
        link are a stream."""
        for queue in (self._queue, self._snapshot_queue):
            if queue.is_inside_frame:
                return queue
        for queue in (self._queue, self._snapshot_queue):
            if queue:
                return queue
        return None

    def _close_link(self, member: MemberId, link: _Link) -> None:
        if link.session is not None:
            link.session = None
            _log.warning("lost the link to master %s", member)
            self.receiver.peer_unreachable(member)

    # Greeting

    def _open_links(self) -> None:
        for member in sorted(self._members - self._links.keys()):
            greeter = asyncio.get_running_loop().create_task(self._keep_greeting(member))
            self._links[member] = _Link(greeter)

    async def _keep_greeting(self, member: MemberId) -> None:
        while True:
            link = self._links[member]
            answer = await self._greet(member)
            if answer is None or answer.answer.refusal is not None:
                self._close_link(member, link)
                if answer is not None:
                    self._log_refusal(
                        f"master {member} refuses this master: {answer.answer.refusal}"
                    )
                await self._clock.sleep(GREETING_RETRY_S)
                continue
            if link.session != answer.session:
                self._close_link(member, link)
                link.session, link.version = answer.session, answer.answer.version
                _log.info("linked to master %s over the bus", member)
            await self._clock.sleep(GREETING_PERIOD_S)

    async def _greet(self, member: MemberId) -> BusGreetingAnswer | None:
        greeting = Greeting(
            OLDEST_PEER_PROTOCOL_VERSION,
            self._cluster_name,
            self._member_id,
            member,
            PEER_PROTOCOL_VERSION,
        )
        payload = encode_greeting(BusGreeting(greeting, self._session))
        subject = self._subjects.raft_greeting(member)
        try:
            return decode_answer(await self._bus.request(subject, payload, GREETING_TIMEOUT_S))
        except (NoResponders, RequestTimeout, BusDisconnected):
            return None
        except MalformedMessage as error:
            _log.warning("master %s answers a greeting with noise: %s", member, error)
            return None

    async def _on_greeting(self, delivery: Delivery) -> None:
        try:
            greeting = decode_greeting(delivery.payload)
        except MalformedMessage as error:
            _log.warning("dropped from the bus: %s", error)
            return
        asked = greeting.greeting
        refusal = self._refusal(asked)
        if refusal is None:
            link = self._links[asked.sender]
            if link.incoming_session != greeting.session:
                link.incoming_session, link.reader = greeting.session, PieceReader()
        else:
            self._log_refusal(f"refused the greeting of another master: {refusal}")
        version = asked.common_version or OLDEST_PEER_PROTOCOL_VERSION
        answer = BusGreetingAnswer(GreetingAnswer(refusal, version), self._session)
        await delivery.respond(encode_answer(answer))

    def _refusal(self, greeting: Greeting) -> str | None:
        own_id = self._member_id
        if (greeting.cluster_id, greeting.receiver) != (self._cluster_name, own_id):
            return f"{greeting.sender} looks for {greeting.receiver} of {greeting.cluster_id!r}"
        if greeting.common_version is None:
            return (
                f"{greeting.sender} speaks peer protocol {greeting.oldest_version} and up, {own_id}"
                f" speaks {OLDEST_PEER_PROTOCOL_VERSION} to {PEER_PROTOCOL_VERSION}: bring the "
                "older one to the next version first"
            )
        if greeting.sender not in self._links:
            return f"{greeting.sender} is no member that {own_id} knows"
        return None

    def _log_refusal(self, text: str) -> None:
        if text not in self._logged_refusals and len(self._logged_refusals) < LOGGED_REFUSALS_MAX:
            self._logged_refusals.add(text)
            _log.error("%s", text)

    # Receiving

    async def _on_piece(self, delivery: Delivery) -> None:
        try:
            piece = decode_piece(delivery.payload)
            link = self._links.get(piece.sender)
            if (
                link is None
                or piece.receiver_session != self._session
                or piece.sender_session != link.incoming_session
            ):
                return
            messages: list[Message] = []
            for frame in link.reader.feed(piece):
                self._take(piece.sender, frame, messages)
        except MalformedMessage as error:
            _log.warning("dropped from the bus: %s", error)
            return
        if messages:
            self.receiver.messages_arrived(messages)

    def _take(self, sender: MemberId, frame: Frame, messages: list[Message]) -> None:
        match frame.kind:
            case FrameKind.MESSAGE:
                message = decode_message(frame)
                if message.sender != sender or message.receiver != self._member_id:
                    raise MalformedMessage(
                        f"a message from {message.sender} to {message.receiver} "
                        f"on the link from {sender} to {self._member_id}"
                    )
                messages.append(message)
            case FrameKind.PROPOSALS:
                self.receiver.proposals_arrived(sender, decode_proposals(frame))
            case FrameKind.CHUNK:
                self.receiver.chunk_arrived(sender, decode_chunk(frame))
            case FrameKind.CHUNK_ANSWER:
                self.receiver.chunk_answered(sender, decode_chunk_answer(frame))
            case _:
                raise MalformedMessage(f"a frame of kind {frame.kind}")


class _PieceQueue:
    """Pieces that wait to be published, bounded by their bytes."""

    def __init__(self, size_bytes_max: int) -> None:
        self._size_bytes_max = size_bytes_max
        self._size_bytes = 0
        self._waiting: deque[tuple[MemberId, int, bool, bytes]] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def is_full(self) -> bool:
        return self._size_bytes >= self._size_bytes_max

    @property
    def is_inside_frame(self) -> bool:
        """The next piece goes on with the frame that the last one began."""
        return bool(self._waiting) and not self._waiting[0][2]

    def put(self, to: MemberId, session: int, begins: bool, data: bytes) -> None:
        self._waiting.append((to, session, begins, data))
        self._size_bytes += len(data)

    def take(self) -> tuple[MemberId, int, bool, bytes]:
        piece = self._waiting.popleft()
        self._size_bytes -= len(piece[3])
        return piece
