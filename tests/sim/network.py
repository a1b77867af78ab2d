"""The wires between masters: datagrams with loss, doubling, delay, reordering, cuts and clogs."""

import random
from collections.abc import Callable, Sequence

from sim.virtual_time import MachineLoop, World

from essaim_master.peer_transport import PeerReceiver
from essaim_master.raft.messages import Message
from essaim_master.snapshot.transfer import ChunkAnswer, SnapshotChunk
from essaim_shared.ids import MemberId

TYPICAL_DELAY_S = 0.0005
Link = tuple[MemberId, MemberId]


class SimulatedNetwork:
    """Faults hold for all links until they are changed."""

    def __init__(self, world: World, rng: random.Random) -> None:
        self._world = world
        self._rng = rng
        self._ends: dict[MemberId, SimulatedTransport] = {}
        self.loss_probability = 0.0
        self.duplicate_probability = 0.0
        self.replay_max_s = 0.0
        """A second copy may come so much later: long after its sender's term."""
        self.delay_max_s = 0.0
        self.cut: set[Link] = set()
        self.clogged_until_s: dict[Link, float] = {}
        """Nothing arrives before that moment, then all of it at once."""
        self.sent: Callable[[MemberId, Sequence[Message]], None] = lambda sender, messages: None
        """Sees every message as it leaves."""
        self.tampered: Callable[[Message], Message | None] = lambda message: message
        """For targeted stories: another message in its place, or none."""
        self.delivered = 0

    def join(self, end: "SimulatedTransport") -> None:
        self._ends[end.member_id] = end

    def leave(self, end: "SimulatedTransport") -> None:
        if self._ends.get(end.member_id) is end:
            del self._ends[end.member_id]

    def can_reach(self, sender: MemberId, receiver: MemberId) -> bool:
        """False where a real connection would be known to be gone."""
        return receiver in self._ends and (sender, receiver) not in self.cut

    def heal(self) -> None:
        self.loss_probability = self.duplicate_probability = 0.0
        self.delay_max_s = self.replay_max_s = 0.0
        self.cut.clear()
        self.clogged_until_s.clear()

    def deliver(
        self, sender: MemberId, receiver: MemberId, hand_over: str, *arguments: object
    ) -> None:
        rng = self._rng
        if self.loss_probability and rng.random() < self.loss_probability:
            return
        copies = 1 + (rng.random() < self.duplicate_probability)
        for copy in range(copies):
            delay_s = TYPICAL_DELAY_S * (0.5 + rng.random())
            if copy and self.replay_max_s:
                delay_s += rng.random() * self.replay_max_s
            if self.delay_max_s:
                delay_s += rng.random() * rng.random() * self.delay_max_s
            clogged_until_s = self.clogged_until_s.get((sender, receiver), 0.0)
            delay_s = max(delay_s, clogged_until_s - self._world.now_s)
            self._world.after(delay_s, self._arrive, sender, receiver, hand_over, arguments)

    def _arrive(
        self, sender: MemberId, receiver: MemberId, hand_over: str, arguments: tuple[object, ...]
    ) -> None:
        end = self._ends.get(receiver)
        if end is None or end.receiver is None or (sender, receiver) in self.cut:
            return
        self.delivered += 1
        end.loop.arrive(getattr(end.receiver, hand_over), *arguments)


class SimulatedTransport:
    """One life's end of the wires. See `peer_transport.PeerTransport` for the contract."""

    def __init__(self, network: SimulatedNetwork, member_id: MemberId, loop: MachineLoop) -> None:
        self._network = network
        self.member_id = member_id
        self.loop = loop
        self.receiver: PeerReceiver | None = None

    async def start(self, receiver: PeerReceiver) -> None:
        self.receiver = receiver
        self._network.join(self)

    def send(self, messages: Sequence[Message]) -> None:
        network = self._network
        network.sent(self.member_id, messages)
        unreachable: list[MemberId] = []
        for original in messages:
            message = network.tampered(original)
            if message is None:
                continue
            if network.can_reach(self.member_id, message.receiver):
                network.deliver(self.member_id, message.receiver, "messages_arrived", (message,))
            elif message.receiver not in unreachable:
                unreachable.append(message.receiver)
        if self.receiver is not None:
            for member in unreachable:
                self.receiver.peer_unreachable(member)

    def forward(self, to: MemberId, commands: Sequence[bytes]) -> bool:
        if not self._network.can_reach(self.member_id, to):
            return False
        self._network.deliver(
            self.member_id, to, "proposals_arrived", self.member_id, tuple(commands)
        )
        return True

    def send_chunk(self, to: MemberId, chunk: SnapshotChunk) -> bool:
        if not self._network.can_reach(self.member_id, to):
            return False
        self._network.deliver(self.member_id, to, "chunk_arrived", self.member_id, chunk)
        return True

    def answer_chunk(self, to: MemberId, answer: ChunkAnswer) -> None:
        self._network.deliver(self.member_id, to, "chunk_answered", self.member_id, answer)

    def unplug(self) -> None:
        """The machine is gone."""
        self.receiver = None
        self._network.leave(self)

    async def close(self) -> None:
        self.unplug()
