"""What every peer transport promises: the same tests over TCP on loopback, with TLS and without,
over a real bus, over a bus in memory, and in memory."""

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Protocol

import pytest
from support.identities import Identities

from essaim_master.link_trust import LinkTrust
from essaim_master.memory_peer_transport import MemoryPeerNetwork
from essaim_master.nats_peer_transport import NatsPeerTransport
from essaim_master.peer_transport import PeerTransport
from essaim_master.raft.messages import (
    Configuration,
    Entry,
    EntryKind,
    Message,
    MessageType,
    SnapshotMetadata,
)
from essaim_master.snapshot.transfer import (
    CHUNK_BYTES_MAX,
    ChunkAnswer,
    ChunkVerdict,
    SnapshotChunk,
    make_chunk,
)
from essaim_master.tcp_peer_transport import PeerAddress, TcpPeerTransport
from essaim_shared.clock import SystemClock, wait_until
from essaim_shared.ids import MemberId
from essaim_shared.memory_transport import MemoryBus
from essaim_shared.subjects import Subjects
from essaim_shared.transport import Transport

ONE, TWO, THREE = MemberId("m1"), MemberId("m2"), MemberId("m3")
CLOCK = SystemClock()
WAIT_S = 10.0


class RealNats(Protocol):
    """Of this directory's conftest."""

    async def client(self, name: str) -> Transport: ...


class Mailbox:
    """A receiver that keeps what it gets."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.proposals: list[tuple[MemberId, bytes]] = []
        self.unreachable: list[MemberId] = []
        self.chunks: list[tuple[MemberId, SnapshotChunk]] = []
        self.answers: list[tuple[MemberId, ChunkAnswer]] = []

    def messages_arrived(self, messages: Sequence[Message]) -> None:
        self.messages += messages

    def proposals_arrived(self, sender: MemberId, commands: Sequence[bytes]) -> None:
        self.proposals += [(sender, command) for command in commands]

    def peer_unreachable(self, member: MemberId) -> None:
        self.unreachable.append(member)

    def chunk_arrived(self, sender: MemberId, chunk: SnapshotChunk) -> None:
        self.chunks.append((sender, chunk))

    def chunk_answered(self, sender: MemberId, answer: ChunkAnswer) -> None:
        self.answers.append((sender, answer))


class Group:
    """Some members that can be started one by one and stopped."""

    def __init__(self) -> None:
        self.transports: dict[MemberId, PeerTransport] = {}
        self.boxes: dict[MemberId, Mailbox] = {}

    async def start(self, *members: MemberId) -> None:
        raise AssertionError("each kind of group starts its own transports")

    async def stop(self, member: MemberId) -> None:
        await self.transports.pop(member).close()

    async def close(self) -> None:
        for member in list(self.transports):
            await self.stop(member)

    async def linked(self, one: MemberId, other: MemberId) -> None:
        """Return once datagrams pass from one to the other."""

        def arrives() -> bool:
            self.transports[one].send([heartbeat(one, other, term=0)])
            return any(m.term == 0 and m.sender == one for m in self.boxes[other].messages)

        await eventually(arrives, f"{one} reaches {other}")


class TcpGroup(Group):
    def __init__(self, identities: Identities | None = None) -> None:
        """Over TLS, if there are identities to be had."""
        super().__init__()
        self._identities = identities
        self.addresses: dict[MemberId, PeerAddress] = {}

    async def start(self, *members: MemberId) -> None:
        for member in members:
            listen = self.addresses.get(member, PeerAddress("127.0.0.1", 0))
            trust = None
            if self._identities is not None:
                trust = LinkTrust(self._identities.tls(member), "lab")
            transport = TcpPeerTransport(
                "cluster-1", member, listen, CLOCK, random.Random(1), trust
            )
            self.boxes[member] = Mailbox()
            await transport.start(self.boxes[member])
            self.transports[member] = transport
            self.addresses[member] = transport.listening
        for transport in self.transports.values():
            assert isinstance(transport, TcpPeerTransport)
            transport.set_peers(self.addresses)


class MemoryGroup(Group):
    def __init__(self) -> None:
        super().__init__()
        self.network = MemoryPeerNetwork(CLOCK, random.Random(1))

    async def start(self, *members: MemberId) -> None:
        for member in members:
            self.boxes[member] = Mailbox()
            self.transports[member] = self.network.transport(member)
            await self.transports[member].start(self.boxes[member])


class BusGroup(Group):
    """Over the bus: each member has a connection of its own."""

    def __init__(self, new_client: Callable[[str], Awaitable[Transport]]) -> None:
        super().__init__()
        self._new_client = new_client
        self._rng = random.Random(1)

    async def start(self, *members: MemberId) -> None:
        for member in members:
            client = await self._new_client(f"raft-{member}")
            self.boxes[member] = Mailbox()
            transport = NatsPeerTransport(
                client, Subjects("cluster-1"), "cluster-1", member, CLOCK, self._rng
            )
            await transport.start(self.boxes[member])
            self.transports[member] = transport
        everybody = {member: PeerAddress("by-the-bus", 0) for member in self.boxes}
        for transport in self.transports.values():
            assert isinstance(transport, NatsPeerTransport)
            transport.set_peers(everybody)


@pytest.fixture(params=["tcp", "tls", "memory", "memory-bus", "nats"])
async def group(
    request: pytest.FixtureRequest,
    make_nats: Callable[[int], Awaitable[RealNats]],
    tmp_path: Path,
) -> AsyncIterator[Group]:
    bus: MemoryBus | None = None
    made: Group
    if request.param == "nats":
        made = BusGroup((await make_nats(1)).client)
    elif request.param == "memory-bus":
        bus = MemoryBus(CLOCK, random.Random(1))

        async def new_client(name: str) -> Transport:
            assert bus is not None
            return bus.client(name)

        made = BusGroup(new_client)
    elif request.param == "tls":
        made = TcpGroup(Identities(tmp_path, CLOCK.wall_ns()))
    else:
        made = TcpGroup() if request.param == "tcp" else MemoryGroup()
    yield made
    await made.close()
    if bus is not None:
        await bus.close()


async def eventually(condition: Callable[[], bool], what: str) -> None:
    assert await wait_until(condition, CLOCK, WAIT_S), f"in {WAIT_S} s did not come about: {what}"


def heartbeat(sender: MemberId, receiver: MemberId, term: int = 1) -> Message:
    return Message(MessageType.HEARTBEAT_REQUEST, sender, receiver, term)


def append(sender: MemberId, receiver: MemberId, index: int, size_bytes: int = 10) -> Message:
    entry = Entry(1, index, EntryKind.NORMAL, bytes([index % 256]) * size_bytes)
    return Message(
        MessageType.APPEND_REQUEST, sender, receiver, 1, index=index - 1, entries=(entry,)
    )


async def test_messages_reach_their_receiver_whole_and_no_one_else(group):
    await group.start(ONE, TWO, THREE)
    await group.linked(ONE, TWO)
    await group.linked(ONE, THREE)
    to_two, to_three = append(ONE, TWO, 7), append(ONE, THREE, 8)
    group.transports[ONE].send([to_two, to_three])
    await eventually(lambda: to_two in group.boxes[TWO].messages, "m2 has its message")
    await eventually(lambda: to_three in group.boxes[THREE].messages, "m3 has its message")
    assert to_three not in group.boxes[TWO].messages
    assert to_two not in group.boxes[THREE].messages


async def test_it_goes_both_ways(group):
    await group.start(ONE, TWO)
    await group.linked(ONE, TWO)
    await group.linked(TWO, ONE)


async def test_many_messages_of_one_turn_arrive_in_order(group):
    await group.start(ONE, TWO)
    await group.linked(ONE, TWO)
    sent = [append(ONE, TWO, index, size_bytes=1000) for index in range(1, 1001)]
    group.transports[ONE].send(sent)
    await eventually(lambda: sent[-1] in group.boxes[TWO].messages, "the last one is there")
    assert [m for m in group.boxes[TWO].messages if m.term == 1] == sent


async def test_the_largest_command_passes(group):
    await group.start(ONE, TWO)
    await group.linked(ONE, TWO)
    message = append(ONE, TWO, 1, size_bytes=1536 * 1024)
    group.transports[ONE].send([message])
    await eventually(lambda: message in group.boxes[TWO].messages, "the message is there")


async def test_proposals_are_forwarded_with_their_sender(group):
    await group.start(ONE, TWO)
    await group.linked(ONE, TWO)
    commands = [bytes([number % 256]) * (number * 100) for number in range(200)]
    assert group.transports[ONE].forward(TWO, commands)
    await eventually(lambda: len(group.boxes[TWO].proposals) == 200, "all are there")
    assert group.boxes[TWO].proposals == [(ONE, command) for command in commands]


async def test_who_can_not_be_reached_is_reported_and_nothing_waits(group):
    await group.start(ONE)
    group.transports[ONE].send([heartbeat(ONE, TWO)])
    assert group.boxes[ONE].unreachable == [TWO]
    assert not group.transports[ONE].forward(TWO, [b"command"])


async def test_a_peer_that_went_away_is_reported_and_found_again(group):
    await group.start(ONE, TWO)
    await group.linked(ONE, TWO)
    await group.stop(TWO)

    def is_reported() -> bool:
        group.transports[ONE].send([heartbeat(ONE, TWO)])
        return TWO in group.boxes[ONE].unreachable

    await eventually(is_reported, "m2 is reported as unreachable")
    await group.start(TWO)
    await group.linked(ONE, TWO)


async def test_after_a_restart_nothing_of_before_arrives(group):
    """A message for a peer that is away is lost, not kept for its return."""
    await group.start(ONE, TWO)
    await group.linked(ONE, TWO)
    await group.stop(TWO)

    def is_reported() -> bool:
        group.transports[ONE].send([heartbeat(ONE, TWO, term=5)])
        return TWO in group.boxes[ONE].unreachable

    await eventually(is_reported, "m2 is reported as unreachable")
    await group.start(TWO)
    await group.linked(ONE, TWO)
    assert [m for m in group.boxes[TWO].messages if m.term == 5] == []


async def test_a_closed_transport_delivers_nothing_more(group):
    await group.start(ONE, TWO)
    await group.linked(ONE, TWO)
    box = group.boxes[TWO]
    group.transports[ONE].send([heartbeat(ONE, TWO, term=9)])
    await group.stop(TWO)
    await group.start(THREE)
    await group.linked(ONE, THREE)
    assert [m for m in box.messages if m.term == 9] == []


SNAPSHOT = SnapshotMetadata(1000, 3, Configuration((ONE, TWO)))


async def test_chunks_of_snapshots_and_their_answers_pass(group):
    await group.start(ONE, TWO)
    await group.linked(ONE, TWO)
    await group.linked(TWO, ONE)
    chunk = make_chunk(SNAPSHOT, 2 * CHUNK_BYTES_MAX, 0, b"s" * CHUNK_BYTES_MAX)
    answer = ChunkAnswer(SNAPSHOT.index, SNAPSHOT.term, CHUNK_BYTES_MAX, ChunkVerdict.GO_ON)

    def has_arrived() -> bool:
        if not group.boxes[TWO].chunks:
            group.transports[ONE].send_chunk(TWO, chunk)
        return (ONE, chunk) in group.boxes[TWO].chunks

    await eventually(has_arrived, "m2 has the chunk")
    group.transports[TWO].answer_chunk(ONE, answer)
    await eventually(lambda: (TWO, answer) in group.boxes[ONE].answers, "m1 has the answer")


async def test_a_chunk_for_nobody_is_not_sent(group):
    await group.start(ONE)
    assert not group.transports[ONE].send_chunk(TWO, make_chunk(SNAPSHOT, 4, 0, b"good"))
