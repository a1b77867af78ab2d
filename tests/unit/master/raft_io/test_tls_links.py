"""Links between masters over TLS: each end is the member that it says it is, or there is none."""

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.identities import Identities

from essaim_master.link_trust import LinkTrust
from essaim_master.refusals import Refusals
from essaim_master.tcp_peer_transport import PeerAddress, TcpPeerTransport
from essaim_shared.clock import SystemClock, wait_until
from essaim_shared.ids import MemberId
from essaim_shared.trust.roles import Role
from essaim_shared.trust.tls import PeerCertificate, Tls

ME, PEER = MemberId("m1"), MemberId("m2")
CLOCK = SystemClock()
WAIT_S = 10.0


class Mailbox:
    def __init__(self) -> None:
        self.count = 0

    def messages_arrived(self, messages) -> None:
        self.count += len(messages)

    def peer_unreachable(self, member) -> None:
        return


class Pair:
    """Masters that know one another's addresses, each with the identity that it is given."""

    def __init__(self, root: Path) -> None:
        self.identities = Identities(root, CLOCK.wall_ns())
        self.refusals = {ME: Refusals(), PEER: Refusals()}
        self.transports: dict[MemberId, TcpPeerTransport] = {}
        self.not_admitted: set[str] = set()

    async def start(self, member: MemberId, tls: Tls | None) -> TcpPeerTransport:
        trust = None if tls is None else LinkTrust(tls, "lab", self.is_admitted)
        transport = TcpPeerTransport(
            "cluster-1",
            member,
            PeerAddress("127.0.0.1", 0),
            CLOCK,
            random.Random(1),
            trust,
            self.refusals[member],
        )
        await transport.start(Mailbox())
        self.transports[member] = transport
        return transport

    def introduce(self) -> None:
        addresses = {member: one.listening for member, one in self.transports.items()}
        for transport in self.transports.values():
            transport.set_peers(addresses)

    def is_admitted(self, certificate: PeerCertificate) -> bool:
        return certificate.name not in self.not_admitted

    async def until_refused(self, member: MemberId, caplog, begin: str, words: str) -> None:
        """The refusing master counts each attempt, and says once why."""
        assert await wait_until(lambda: self.refusals[member].count >= 2, CLOCK, WAIT_S)
        told = [line for line in caplog.messages if line.startswith(begin) and words in line]
        assert len(told) == 1, caplog.messages
        assert not any(one.is_open(m) for one in self.transports.values() for m in (ME, PEER))


@pytest.fixture
async def pair(tmp_path) -> AsyncIterator[Pair]:
    made = Pair(tmp_path)
    yield made
    for transport in made.transports.values():
        await transport.close()


async def until_open(pair: Pair) -> None:
    one, other = pair.transports[ME], pair.transports[PEER]
    both = lambda: one.is_open(PEER) and other.is_open(ME)  # noqa: E731
    assert await wait_until(both, CLOCK, WAIT_S)


async def test_masters_with_certificates_of_their_own_are_linked(pair) -> None:
    await pair.start(ME, pair.identities.tls(ME))
    await pair.start(PEER, pair.identities.tls(PEER))
    pair.introduce()
    await until_open(pair)
    assert [one.count for one in pair.refusals.values()] == [0, 0]


async def test_a_drawn_name_is_proved_by_the_name_that_it_was_drawn_for(pair) -> None:
    drawn = MemberId("m2-0badcafe")
    pair.refusals[drawn] = Refusals()
    await pair.start(ME, pair.identities.tls(ME))
    await pair.start(drawn, pair.identities.tls("m2"))
    pair.introduce()
    assert await wait_until(lambda: pair.transports[ME].is_open(drawn), CLOCK, WAIT_S)


@pytest.mark.parametrize(
    ("name", "how", "words"),
    [
        ("m3", {}, "m2 shows the certificate of master 'm3'"),
        ("m2-0badcafe", {}, "m2 shows the certificate of master 'm2-0badcafe'"),
        ("m2", {"cluster_id": "other"}, "m2 shows a certificate of cluster 'other'"),
        ("m2", {"role": Role.AGENT}, "m2 shows the certificate of essaim-agent 'm2'"),
        ("m2", {"role": Role.USER}, "m2 shows the certificate of essaim-user 'm2'"),
        ("m2", {"is_foreign": True}, "127.0.0.1 to the peer address: its certificate is not"),
        ("m2", {"lifetime_s": -1}, "certificate has expired"),
    ],
)
async def test_who_is_not_that_master_is_refused_by_the_one_that_he_calls(
    pair, caplog, name, how, words
) -> None:
    await pair.start(ME, pair.identities.tls(ME))
    await pair.start(PEER, pair.identities.tls(name, **how))
    # Only he knows where to call; whom he is called by is another test.
    pair.transports[ME].set_peers({PEER: PeerAddress("127.0.0.1", 1)})
    pair.transports[PEER].set_peers({ME: pair.transports[ME].listening})
    await pair.until_refused(ME, caplog, "refused the connection of", words)


@pytest.mark.parametrize(
    ("name", "how", "words"),
    [
        ("m3", {}, "m2 shows the certificate of master 'm3'"),
        ("m2", {"cluster_id": "other"}, "m2 shows a certificate of cluster 'other'"),
        ("m2", {"role": Role.AGENT}, "its certificate is not to be believed"),
        ("m2", {"is_foreign": True}, "its certificate is not to be believed"),
        ("m2", {"lifetime_s": -1}, "certificate has expired"),
    ],
)
async def test_no_master_speaks_to_another_that_took_the_address(
    pair, caplog, name, how, words
) -> None:
    await pair.start(ME, pair.identities.tls(ME))
    await pair.start(PEER, pair.identities.tls(name, **how))
    pair.transports[ME].set_peers({PEER: pair.transports[PEER].listening})
    await pair.until_refused(ME, caplog, "no link to master m2", words)


async def test_a_master_without_tls_and_one_with_it_say_so(pair, caplog) -> None:
    await pair.start(ME, pair.identities.tls(ME))
    await pair.start(PEER, None)
    pair.introduce()
    await pair.until_refused(ME, caplog, "refused the connection of", "does not speak TLS")


async def test_who_does_not_count_any_more_is_cut_off_and_let_in_again(pair, caplog) -> None:
    await pair.start(ME, pair.identities.tls(ME))
    await pair.start(PEER, pair.identities.tls(PEER))
    pair.introduce()
    await until_open(pair)
    pair.not_admitted.add(PEER)
    pair.transports[ME].recheck()
    words = "the certificate of m2 does not count any more"
    assert await wait_until(lambda: not pair.transports[ME].is_open(PEER), CLOCK, WAIT_S)
    assert await wait_until(lambda: not pair.transports[PEER].is_open(ME), CLOCK, WAIT_S)
    assert await wait_until(lambda: pair.refusals[ME].count >= 3, CLOCK, WAIT_S)
    assert any(words in line for line in caplog.messages)
    pair.not_admitted.clear()
    await until_open(pair)


async def test_the_refused_calls_no_more_often_than_one_that_finds_nobody(pair) -> None:
    await pair.start(ME, pair.identities.tls(ME))
    await pair.start(PEER, pair.identities.tls("m3"))
    pair.transports[ME].set_peers({PEER: PeerAddress("127.0.0.1", 1)})
    pair.transports[PEER].set_peers({ME: pair.transports[ME].listening})
    began_s = CLOCK.monotonic_s()
    assert await wait_until(lambda: pair.refusals[ME].count >= 4, CLOCK, WAIT_S)
    # Half of 50, 100 and 200 ms at least, between the first and the fourth.
    assert CLOCK.monotonic_s() - began_s >= 0.5 * (0.05 + 0.1 + 0.2)


def test_with_tls_any_address_may_be_listened_on(tmp_path) -> None:
    trust = LinkTrust(Identities(tmp_path, CLOCK.wall_ns()).tls(ME), "lab")
    for host in ("0.0.0.0", "8.8.8.8", "::"):
        at = PeerAddress(host, 7946)
        TcpPeerTransport("c", ME, at, CLOCK, random.Random(1), trust)


async def test_bytes_of_any_kind_end_one_connection_and_nothing_else(pair) -> None:
    seed = 40
    print(f"seed {seed}")
    rng = random.Random(seed)
    transport = await pair.start(ME, pair.identities.tls(ME))
    loose: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: loose.append(context))
    for _ in range(60):
        reader, writer = await asyncio.open_connection(*transport.listening)
        head = rng.choice([b"", b"\x16\x03\x01\x02\x00\x01", b"\x16\x03\x03\x00\x05", b"GET / "])
        writer.write(head + rng.randbytes(rng.randrange(700)))
        if rng.random() < 0.5:
            writer.write_eof()
        else:
            writer.transport.abort()
        while not reader.at_eof() and not writer.transport.is_closing():
            if not await asyncio.wait_for(reader.read(4096), WAIT_S):
                break
        writer.transport.abort()
    await pair.start(PEER, pair.identities.tls(PEER))
    pair.introduce()
    await until_open(pair)
    assert not loose
