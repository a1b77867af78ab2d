"""How masters reach one another: the contract of every peer transport.

Chunks of snapshots go on a way of their own, so that a large state never delays a heartbeat.

Datagrams, not streams: whatever is sent may be lost, doubled, delayed or overtaken, and Raft
lives with it. Nothing here ever waits: a peer that does not take its messages loses them, and
the receiver is told that it is unreachable.

Implementations, which pass the same contract tests: `tcp_peer_transport` (direct connections,
the default) and `memory_peer_transport` (for tests and simulation, with faults).
"""

from collections.abc import Sequence
from typing import Protocol

from essaim_master.raft.messages import Message
from essaim_master.snapshot.transfer import ChunkAnswer, SnapshotChunk
from essaim_shared.ids import MemberId


class PeerReceiver(Protocol):
    """Who gets what arrives. Called in the event loop; must return at once and not raise."""

    def messages_arrived(self, messages: Sequence[Message]) -> None:
        """Raft messages; `receiver` is this member and `sender` was verified."""
        ...

    def proposals_arrived(self, sender: MemberId, commands: Sequence[bytes]) -> None:
        """Commands that another master wants proposed here, since it takes us for the leader."""
        ...

    def peer_unreachable(self, member: MemberId) -> None:
        """Something for that member was dropped."""
        ...

    def chunk_arrived(self, sender: MemberId, chunk: SnapshotChunk) -> None:
        """A piece of a snapshot."""
        ...

    def chunk_answered(self, sender: MemberId, answer: ChunkAnswer) -> None:
        """What the receiver of our chunks wants next."""
        ...


class PeerTransport(Protocol):
    async def start(self, receiver: PeerReceiver) -> None:
        """Begin to receive and to connect. Raises ConfigError if the address can not be had."""
        ...

    def send(self, messages: Sequence[Message]) -> None:
        """Send each message to its `receiver`. One call per turn of the driver, with all of
        them. Messages to members without an address are dropped."""
        ...

    def forward(self, to: MemberId, commands: Sequence[bytes]) -> bool:
        """Hand commands to the leader. False: surely none of them was sent, try again later.
        True says no more than that they may arrive."""
        ...

    def send_chunk(self, to: MemberId, chunk: SnapshotChunk) -> bool:
        """Send a piece of a snapshot, apart from messages. False: surely not sent, try later."""
        ...

    def answer_chunk(self, to: MemberId, answer: ChunkAnswer) -> None:
        """Tell the sender of a chunk what is wanted next. May be lost like everything else."""
        ...

    async def close(self) -> None: ...
