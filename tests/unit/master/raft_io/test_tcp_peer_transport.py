"""What only TCP can do wrong: foreign clusters, bad bytes, peers that take nothing."""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Sequence

import pytest

from essaim_master.peer_frames import (
    FRAME_BYTES_MAX,
    FrameReader,
    Greeting,
    GreetingAnswer,
    decode_answer,
    encode_answer,
    encode_greeting,
    encode_message,
    encode_proposals,
)
from essaim_master.raft.messages import Entry, EntryKind, Message, MessageType
from essaim_master.tcp_peer_transport import (
    INCOMING_CONNECTIONS_MAX,
    PeerAddress,
    TcpPeerTransport,
)
from essaim_shared.clock import SystemClock, wait_until
from essaim_shared.errors import ConfigError
from essaim_shared.ids import MemberId

ME, PEER = MemberId("m1"), MemberId("m2")
CLOCK = SystemClock()
WAIT_S = 10.0


class Mailbox:
    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.proposals: list[bytes] = []
        self.unreachable = 0

    def messages_arrived(self, messages: Sequence[Message]) -> None:
        self.messages += messages

    def proposals_arrived(self, sender: MemberId, commands: Sequence[bytes]) -> None:
        self.proposals += commands

    def peer_unreachable(self, member: MemberId) -> None:
        self.unreachable += 1


def new_transport(cluster_id: str = "cluster-1", port: int = 0) -> TcpPeerTransport:
    return TcpPeerTransport(cluster_id, ME, PeerAddress("127.0.0.1", port), CLOCK, random.Random(1))


@pytest.fixture
async def started() -> AsyncIterator[tuple[TcpPeerTransport, Mailbox]]:
    """A listening member m1 that knows of m2 (at an address where nobody listens)."""
    transport, box = new_transport(), Mailbox()
    await transport.start(box)
    transport.set_peers({PEER: PeerAddress("127.0.0.1", 1)})
    yield transport, box
    await transport.close()


class RawPeer:
    """A connection to a transport, byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def connect(cls, transport: TcpPeerTransport) -> "RawPeer":
        return cls(*await asyncio.open_connection(*transport.listening))

    async def greet(
        self, cluster: str = "cluster-1", sender: str = PEER, receiver: str = ME, version: int = 1
    ) -> GreetingAnswer:
        greeting = Greeting(version, cluster, MemberId(sender), MemberId(receiver))
        self.writer.write(encode_greeting(greeting))
        frames = FrameReader()
        while True:
            data = await asyncio.wait_for(self.reader.read(4096), WAIT_S)
            assert data, "the connection was closed without an answer"
            for frame in frames.feed(data):
                return decode_answer(frame)

    async def is_closed_by_the_other_side(self) -> bool:
        try:
            return await asyncio.wait_for(self.reader.read(), WAIT_S) == b""
        except ConnectionResetError:
            return True

    async def close(self) -> None:
        self.writer.transport.abort()
        await asyncio.wait([asyncio.ensure_future(_ended(self.writer))])


async def _ended(writer: asyncio.StreamWriter) -> None:
    try:
        await writer.wait_closed()
    except OSError:
        return


def message(term: int = 1, sender: MemberId = PEER, receiver: MemberId = ME) -> Message:
    return Message(MessageType.HEARTBEAT_REQUEST, sender, receiver, term)


@pytest.mark.parametrize(
    ("greeting", "reason"),
    [
        ({"cluster": "other"}, "m2 belongs to cluster 'other', m1 to cluster 'cluster-1'"),
        ({"version": 99}, "m2 speaks peer protocol 99 and up, m1 speaks 1 to 2"),
        ({"receiver": "m3"}, "m2 looks for m3, this is m1"),
        ({"sender": "stranger"}, "stranger is no member that m1 knows"),
    ],
)
async def test_who_does_not_belong_here_is_told_why_and_shown_the_door(
    started, caplog, greeting, reason
):
    transport, box = started
    for _ in range(3):
        peer = await RawPeer.connect(transport)
        answer = await peer.greet(**greeting)
        assert answer.refusal == reason
        peer.writer.write(encode_message(message()))
        assert await peer.is_closed_by_the_other_side()
        await peer.close()
    assert box.messages == []
    assert caplog.text.count(reason) == 1, "the log says it once, however often it is tried"


async def test_a_refused_member_logs_the_reason_too(started, caplog):
    transport, _ = started
    other = TcpPeerTransport(
        "cluster-2", PEER, PeerAddress("127.0.0.1", 0), CLOCK, random.Random(2)
    )
    await other.start(Mailbox())
    other.set_peers({ME: transport.listening})
    words = "refuses this master: m2 belongs to cluster 'cluster-2'"
    assert await wait_until(lambda: words in caplog.text, CLOCK, WAIT_S)
    await other.close()


GARBAGE = {
    "noise": b"\x00\x00\x00\x09GET / HTTP",
    "too long": (FRAME_BYTES_MAX + 1).to_bytes(4, "big") + b"\x03",
    "empty frame": b"\x00\x00\x00\x00\x00",
    "not msgpack": b"\x00\x00\x00\x03\x03\xc1\xc1",
    "wrong fields": b"\x00\x00\x00\x03\x03\x91\x05",
    "another kind": b"\x00\x00\x00\x02\x63\x90",
    "proposals that are none": b"\x00\x00\x00\x03\x04\x91\x05",
    "a second greeting": encode_greeting(Greeting(1, "cluster-1", PEER, ME)),
    "another sender": encode_message(message(sender=MemberId("m3"))),
    "another receiver": encode_message(message(receiver=MemberId("m3"))),
}


@pytest.mark.parametrize("bad", GARBAGE.values(), ids=GARBAGE.keys())
async def test_bad_bytes_close_the_connection_and_only_that(started, caplog, bad):
    transport, box = started
    peer = await RawPeer.connect(transport)
    assert (await peer.greet()).refusal is None
    peer.writer.write(encode_message(message(term=1)) + bad + encode_message(message(term=2)))
    assert await peer.is_closed_by_the_other_side()
    assert [m.term for m in box.messages] == [1], "what came before counts, what came after not"
    assert "closing the connection of m2" in caplog.text
    again = await RawPeer.connect(transport)
    assert (await again.greet()).refusal is None
    await peer.close()
    await again.close()


async def test_bad_bytes_instead_of_a_greeting(started):
    transport, _ = started
    peer = await RawPeer.connect(transport)
    peer.writer.write(encode_message(message()))
    assert await peer.is_closed_by_the_other_side()
    await peer.close()


async def test_frames_may_arrive_byte_by_byte(started):
    transport, box = started
    peer = await RawPeer.connect(transport)
    await peer.greet()
    for byte in encode_message(message(term=3)) + encode_proposals([b"command"])[0]:
        peer.writer.write(bytes([byte]))
        await peer.writer.drain()
    assert await wait_until(lambda: bool(box.proposals), CLOCK, WAIT_S)
    assert (box.messages, box.proposals) == ([message(term=3)], [b"command"])
    await peer.close()


async def test_a_new_connection_of_a_member_replaces_its_old_one(started):
    transport, box = started
    old, new = await RawPeer.connect(transport), await RawPeer.connect(transport)
    assert (await old.greet()).refusal is None
    assert (await new.greet()).refusal is None
    assert await old.is_closed_by_the_other_side()
    new.writer.write(encode_message(message()))
    assert await wait_until(lambda: bool(box.messages), CLOCK, WAIT_S)
    await old.close()
    await new.close()


async def test_the_number_of_connections_is_bounded(started):
    transport, _ = started
    peers = [await RawPeer.connect(transport) for _ in range(INCOMING_CONNECTIONS_MAX)]
    assert await wait_until(
        lambda: len(transport._incoming) == INCOMING_CONNECTIONS_MAX, CLOCK, WAIT_S
    )
    one_more = await RawPeer.connect(transport)
    assert await one_more.is_closed_by_the_other_side()
    for peer in [*peers, one_more]:
        await peer.close()


async def test_a_member_that_was_removed_is_disconnected(started):
    transport, _ = started
    peer = await RawPeer.connect(transport)
    await peer.greet()
    transport.set_peers({})
    assert await peer.is_closed_by_the_other_side()
    await peer.close()


class DeafServer:
    """Greets, then reads nothing until it is told to."""

    def __init__(self) -> None:
        self.received = bytearray()
        self.may_read = asyncio.Event()
        self.writers: list[asyncio.StreamWriter] = []
        self.answers = True

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        await reader.read(4096)
        if self.answers:
            writer.write(encode_answer(GreetingAnswer(None)))
        await self.may_read.wait()
        while data := await reader.read(1 << 20):
            self.received += data
        writer.close()

    async def __aenter__(self) -> "DeafServer":
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        self.address = PeerAddress("127.0.0.1", self.server.sockets[0].getsockname()[1])
        return self

    async def __aexit__(self, *_: object) -> None:
        self.may_read.set()
        self.server.close()
        await self.server.wait_closed()
        for writer in self.writers:
            writer.transport.abort()
            await _ended(writer)


async def test_a_peer_that_takes_nothing_costs_a_bounded_queue_and_only_the_newest_heartbeat(
    started,
):
    transport, box = started
    async with DeafServer() as deaf:
        transport.set_peers({PEER: deaf.address})
        assert await wait_until(lambda: transport.is_open(PEER), CLOCK, WAIT_S)
        entry = Entry(1, 1, EntryKind.NORMAL, bytes(1 << 20))
        large = Message(MessageType.APPEND_REQUEST, ME, PEER, 1, entries=(entry,))
        dropped_after = 0
        while box.unreachable == 0:
            transport.send([large])
            dropped_after += 1
            assert dropped_after < 100
        for term in range(1, 1001):
            transport.send([message(term, ME, PEER)])
        deaf.may_read.set()
        assert await wait_until(
            lambda: encode_message(message(1000, ME, PEER)) in deaf.received, CLOCK, WAIT_S
        )
        assert encode_message(message(999, ME, PEER)) not in deaf.received
        await transport.close()


async def test_a_peer_that_connects_but_never_answers_is_tried_again(started):
    transport, _ = started
    async with DeafServer() as silent:
        silent.answers = False
        transport.set_peers({PEER: silent.address})
        assert await wait_until(lambda: len(silent.writers) >= 2, CLOCK, WAIT_S)
        assert not transport.is_open(PEER)
        assert not transport.forward(PEER, [b"command"])
        await transport.close()


@pytest.mark.parametrize("host", ["0.0.0.0", "8.8.8.8", "::", "example.org"])
def test_it_listens_only_where_nobody_else_can_listen_in(host):
    with pytest.raises(ConfigError, match="peer address"):
        TcpPeerTransport("c", ME, PeerAddress(host, 7946), CLOCK, random.Random(1))


@pytest.mark.parametrize("host", ["127.0.0.1", "10.1.2.3", "192.168.0.1", "fd00::1", "::1"])
def test_lab_addresses_are_allowed(host):
    TcpPeerTransport("c", ME, PeerAddress(host, 7946), CLOCK, random.Random(1))


async def test_an_address_in_use_is_one_clear_line(started):
    transport, _ = started
    second = new_transport(port=transport.listening.port)
    with pytest.raises(ConfigError, match=r"cannot listen .* choose another peer address"):
        await second.start(Mailbox())
    await second.close()


async def test_losing_and_finding_a_peer_is_told_in_the_log(started, caplog):
    transport, _ = started
    caplog.set_level(logging.INFO)
    async with DeafServer() as server:
        transport.set_peers({PEER: server.address})
        assert await wait_until(lambda: "linked to master m2" in caplog.text, CLOCK, WAIT_S)
        server.writers[0].transport.abort()
        assert await wait_until(lambda: "lost the link to master m2" in caplog.text, CLOCK, WAIT_S)
        await transport.close()
