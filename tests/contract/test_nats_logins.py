"""Who is let onto a secured bus server, and what those who are not are told."""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from support.bus_server import SecuredBus
from support.identities import Identities

from essaim_shared import nats_transport
from essaim_shared.clock import SystemClock, wait_until
from essaim_shared.ids import NodeId
from essaim_shared.nats_transport import NatsTransport
from essaim_shared.subjects import Subjects
from essaim_shared.transport import RequestTimeout
from essaim_shared.trust.roles import Role

SUBJECTS = Subjects("lab")
CLOCK = SystemClock()


@pytest.fixture
async def bus(tmp_path: Path) -> AsyncIterator[SecuredBus]:
    """One server, which knows agent n1 and master m1."""
    made = SecuredBus(tmp_path)
    made.admit(Role.MASTER, "m1")
    made.admit(Role.AGENT, "n1")
    await made.start()
    yield made
    await made.stop()


async def eventually(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    assert await wait_until(condition, CLOCK, timeout_s)


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if "no connection to the bus" in r.getMessage()]


async def test_a_master_and_an_agent_meet(bus: SecuredBus) -> None:
    master, agent = await bus.client(Role.MASTER, "m1"), await bus.client(Role.AGENT, "n1")
    await master.subscribe(SUBJECTS.all_heartbeats, lambda delivery: delivery.respond(b"heard"))
    assert await agent.request(SUBJECTS.heartbeat(NodeId("n1")), b"", timeout_s=5) == b"heard"


async def refused(bus: SecuredBus, why: str, tmp_path: Path) -> NatsTransport:
    """A client that this server does not take."""
    others = Identities(tmp_path / "others", CLOCK.wall_ns())
    match why:
        case "unknown key":
            bus.identities.tls("n2", Role.AGENT)
            return bus.transport(Role.AGENT, "n2")
        case "key of another process":
            bus.identities.tls("n2", Role.AGENT)
            return bus.transport(Role.AGENT, "n2", seed_of=bus.directory_of(Role.AGENT, "n1"))
        case "expired":
            bus.identities.tls("n1", Role.AGENT, lifetime_s=-1)
            return bus.transport(Role.AGENT, "n1")
        case "another cluster":
            bus.identities.tls("n1", Role.AGENT, is_foreign=True)
            return bus.transport(Role.AGENT, "n1")
        case "of a server that it does not know":
            others.tls("n1", Role.AGENT)
            return bus.transport(Role.AGENT, "n1", root=others.root)
        case _:
            return NatsTransport([bus.url], "x", CLOCK, random.Random(), "essaim.lab.inbox.n1")


@pytest.mark.parametrize(
    ("why", "words"),
    [
        ("unknown key", "it does not accept our key: this process was removed"),
        ("expired", "our certificate"),
        ("another cluster", "our certificate"),
        ("of a server that it does not know", "its certificate is not to be believed"),
        ("without tls", "its certificate is not to be believed"),
    ],
)
async def test_who_is_refused_is_told_why_in_one_line_and_is_not_faster_than_others(
    bus: SecuredBus, tmp_path: Path, caplog: pytest.LogCaptureFixture, why: str, words: str
) -> None:
    caplog.set_level(logging.DEBUG, "essaim_shared.nats_transport")
    client = await refused(bus, why, tmp_path)
    await client.open(wait_s=0)
    await eventually(lambda: len(told(caplog)) >= 4)
    started_s = CLOCK.monotonic_s()
    await eventually(lambda: len(told(caplog)) >= 8)
    assert CLOCK.monotonic_s() - started_s >= 3 * nats_transport.RECONNECT_WAIT_MIN_S
    assert client.server is None
    await client.close()
    loud = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    # The server's verdict on a certificate may be overtaken by the end of the connection.
    assert len(loud) == 1 or (words == "our certificate" and len(loud) == 2), loud
    assert all(words in line for line in loud), loud


async def test_who_stays_refused_asks_less_often(
    bus: SecuredBus, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A removed node would otherwise fill the bus servers' logs for ever."""
    caplog.set_level(logging.DEBUG, "essaim_shared.nats_transport")
    client = await refused(bus, "unknown key", tmp_path)
    await client.open(wait_s=0)
    at_once = nats_transport.REFUSALS_AT_ONCE_MAX
    await eventually(lambda: len(told(caplog)) >= at_once)
    started_s = CLOCK.monotonic_s()
    await eventually(lambda: len(told(caplog)) >= at_once + 2)
    assert CLOCK.monotonic_s() - started_s >= nats_transport.REFUSED_WAIT_MIN_S
    await client.close()


async def test_a_stolen_key_needs_no_certificate_of_its_name_but_one_of_the_cluster(
    bus: SecuredBus, tmp_path: Path
) -> None:
    """The bus servers look at both, not at whether they belong together: the key says what may
    be done, the certificate that somebody is of the cluster. Either is worth nothing alone."""
    client = await refused(bus, "key of another process", tmp_path)
    await client.open()
    assert client.server == bus.url
    await client.close()


async def test_who_is_removed_is_cut_off_at_once_and_others_stay(
    bus: SecuredBus, caplog: pytest.LogCaptureFixture
) -> None:
    bus.admit(Role.AGENT, "n2")
    await bus.reload()
    clients = [await bus.client(Role.AGENT, name) for name in ("n1", "n2")]
    bus.remove(Role.AGENT, "n1")
    await bus.reload()
    await eventually(lambda: clients[0].server is None)
    await eventually(lambda: "it does not accept our key" in "".join(told(caplog)))
    assert clients[1].server == bus.url
    assert clients[1].reconnection_count == 0
    bus.admit_again(Role.AGENT, "n1")
    await bus.reload()
    await eventually(lambda: clients[0].server == bus.url)


async def test_a_server_in_the_clear_is_not_told_anything(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever is on the way could have changed the server's first line."""
    heard = bytearray()
    has_ended = asyncio.Event()

    async def pretend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"max_payload":1048576,"nonce":"abc","headers":true}\r\n')
        heard.extend(await reader.read())
        has_ended.set()
        writer.transport.abort()

    server = await asyncio.start_server(pretend, "127.0.0.1", 0)
    url = f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    bus = SecuredBus(tmp_path)
    bus.admit(Role.AGENT, "n1")
    client = bus.transport(Role.AGENT, "n1", url=url)
    await client.open(wait_s=0)
    async with asyncio.timeout(10):
        await has_ended.wait()
    await client.close()
    server.close()
    assert heard == b""
    assert "it does not speak TLS" in told(caplog)[0]


async def test_what_the_server_forbids_is_logged_and_counted_here_too(
    bus: SecuredBus, caplog: pytest.LogCaptureFixture
) -> None:
    agent = await bus.client(Role.AGENT, "n1")
    await agent.publish(SUBJECTS.heartbeat(NodeId("n2")), b"")
    with pytest.raises(RequestTimeout):
        await agent.request(SUBJECTS.status(NodeId("n2")), b"", timeout_s=0.2)
    await eventually(lambda: "permissions violation for publish" in caplog.text)
    assert agent.server == bus.url, "the connection stays"
    await eventually(lambda: agent.forbidden_count == 2)
    await agent.reconnect()
    await eventually(lambda: agent.reconnection_count == 1)
    assert agent.forbidden_count == 2


async def test_a_renewed_certificate_is_shown_with_the_next_connection(bus: SecuredBus) -> None:
    client = await bus.client(Role.AGENT, "n1")
    bus.renew(Role.AGENT, "n1")
    await client.reconnect()
    await eventually(lambda: client.reconnection_count == 1 and client.server == bus.url)


async def test_a_servers_own_certificate_and_authorities_are_read_again_on_sighup(
    bus: SecuredBus,
) -> None:
    """A cluster whose authority is rotated needs no restart of its bus."""
    before = await bus.certificate_shown()
    connected = await bus.client(Role.AGENT, "n1")
    bus.rotate_authority()
    await bus.reload()
    assert await bus.certificate_shown() != before
    newcomer = await bus.client(Role.AGENT, "n1")
    assert newcomer.server == bus.url
    assert connected.reconnection_count == 0
