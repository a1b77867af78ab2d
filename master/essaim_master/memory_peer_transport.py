"""Peer transports inside one process, with loss, doubling, delay and cuts.

The twin of `tcp_peer_transport`: it passes the same contract tests. With a ManualClock and a
seeded generator a whole cluster runs the same way every time.
"""

import asyncio
import random
from collections.abc import Callable, Sequence

from essaim_master.peer_transport import PeerReceiver
from essaim_master.raft.messages import Message
from essaim_master.snapshot.transfer import ChunkAnswer, SnapshotChunk
from essaim_shared.clock import Clock
from essaim_shared.ids import MemberId

DELAYED_DELIVERIES_MAX = 10_000
"""More than so many deliveries under way: the rest is lost, as on a real network."""


class MemoryPeerNetwork:
    """The wires. Faults hold for all links until they are changed."""

    def __init__(self, clock: Clock, rng: random.Random) -> None:
        self._clock = clock
        self._rng = rng
        self._members: dict[MemberId, MemoryPeerTransport] = {}
        self._cut: set[tuple[MemberId, MemberId]] = set()
        self._delayed: set[asyncio.Task[None]] = set()
        self.loss_probability = 0.0
        self.duplicate_probability = 0.0
        self.delay_max_s = 0.0
        """Each delivery is delayed by up to this; different delays let messages overtake."""

    def transport(self, member_id: MemberId) -> "MemoryPeerTransport":
        return MemoryPeerTransport(self, member_id)

    def cut(self, one: MemberId, other: MemberId) -> None:
        """Nothing passes between the two any more, in either direction."""
        self._cut |= {(one, other), (other, one)}

    def cut_one_way(self, sender: MemberId, receiver: MemberId) -> None:
        self._cut.add((sender, receiver))

    def isolate(self, member: MemberId) -> None:
        for other in self._members:
            if other != member:
                self.cut(member, other)

    def heal(self) -> None:
        self._cut.clear()

    def join(self, member: MemberId, transport: "MemoryPeerTransport") -> None:
        self._members[member] = transport

    def leave(self, member: MemberId) -> None:
        self._members.pop(member, None)

    def can_reach(self, sender: MemberId, receiver: MemberId) -> bool:
        """False where a real connection would be known to be gone."""
        return receiver in self._members and (sender, receiver) not in self._cut

    def deliver(
        self,
        sender: MemberId,
        receiver: MemberId,
        hand_over: Callable[[PeerReceiver], None],
    ) -> None:
        """Bring one datagram across, with the faults that are set."""
        copies = 1 + (self._rng.random() < self.duplicate_probability)
        for _ in range(copies):
            if self._rng.random() < self.loss_probability:
                continue
            if self.delay_max_s == 0:
                asyncio.get_running_loop().call_soon(self._arrive, sender, receiver, hand_over)
            elif len(self._delayed) < DELAYED_DELIVERIES_MAX:
                delay_s = self._rng.uniform(0, self.delay_max_s)
                task = asyncio.get_running_loop().create_task(
                    self._arrive_later(delay_s, sender, receiver, hand_over)
                )
                self._delayed.add(task)
                task.add_done_callback(self._delayed.discard)

    async def close(self) -> None:
        """Drop what is still under way."""
        tasks = list(self._delayed)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _arrive_later(
        self,
        delay_s: float,
        sender: MemberId,
        receiver: MemberId,
        hand_over: Callable[[PeerReceiver], None],
    ) -> None:
        await self._clock.sleep(delay_s)
        self._arrive(sender, receiver, hand_over)

    def _arrive(
        self,
        sender: MemberId,
        receiver: MemberId,
        hand_over: Callable[[PeerReceiver], None],
    ) -> None:
        member = self._members.get(receiver)
        if member is not None and member.receiver is not None and self.can_reach(sender, receiver):
            hand_over(member.receiver)


class MemoryPeerTransport:
    """One member's end. See `peer_transport.PeerTransport` for the contract."""

    def __init__(self, network: MemoryPeerNetwork, member_id: MemberId) -> None:
        self._network = network
        self._member_id = member_id
        self.receiver: PeerReceiver | None = None

    async def start(self, receiver: PeerReceiver) -> None:
        self.receiver = receiver
        self._network.join(self._member_id, self)

    def send(self, messages: Sequence[Message]) -> None:
        unreachable: set[MemberId] = set()
        for message in messages:
            if self._network.can_reach(self._member_id, message.receiver):
                self._deliver_message(message)
            else:
                unreachable.add(message.receiver)
        if self.receiver is not None:
            for member in sorted(unreachable):
                self.receiver.peer_unreachable(member)

    def forward(self, to: MemberId, commands: Sequence[bytes]) -> bool:
        if not self._network.can_reach(self._member_id, to):
            return False
        sender, kept = self._member_id, tuple(commands)
        self._network.deliver(sender, to, lambda receiver: receiver.proposals_arrived(sender, kept))
        return True

    def send_chunk(self, to: MemberId, chunk: SnapshotChunk) -> bool:
        if not self._network.can_reach(self._member_id, to):
            return False
        sender = self._member_id
        self._network.deliver(sender, to, lambda receiver: receiver.chunk_arrived(sender, chunk))
        return True

    def answer_chunk(self, to: MemberId, answer: ChunkAnswer) -> None:
        sender = self._member_id
        if self._network.can_reach(sender, to):
            self._network.deliver(
                sender, to, lambda receiver: receiver.chunk_answered(sender, answer)
            )

    async def close(self) -> None:
        self.receiver = None
        self._network.leave(self._member_id)

    def _deliver_message(self, message: Message) -> None:
        self._network.deliver(
            self._member_id,
            message.receiver,
            lambda receiver: receiver.messages_arrived((message,)),
        )
