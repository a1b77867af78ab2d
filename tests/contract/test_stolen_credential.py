"""Whoever stole a worker's identity, all of it: what he can say and hear on the bus.

A real server with the users file as masters write it. Every subject of the table, those of others
and wildcards are tried with the raw protocol, and the server's own word on each is looked at.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.bus_server import SecuredBus
from support.raw_bus_client import RawBusClient

from essaim_master.bus_users.floods import FloodLooks
from essaim_master.bus_users.local_server import LocalBusServer
from essaim_shared.clock import SystemClock, wait_until
from essaim_shared.ids import MemberId, NodeId
from essaim_shared.subjects import USES, Side, Subjects
from essaim_shared.trust.roles import Role

SUBJECTS = Subjects("lab")
THIEF, VICTIM, MASTER = "n1", "n2", "m1"
CLOCK = SystemClock()


@pytest.fixture
async def bus(tmp_path: Path) -> AsyncIterator[SecuredBus]:
    made = SecuredBus(tmp_path)
    for role, name in ((Role.MASTER, MASTER), (Role.AGENT, THIEF), (Role.AGENT, VICTIM)):
        made.admit(role, name)
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
async def thief(bus: SecuredBus) -> AsyncIterator[RawBusClient]:
    login = bus.login(Role.AGENT, THIEF)
    client = await RawBusClient.open(bus.url, login)
    yield client
    client.close()


def every_subject() -> list[str]:
    """Of each kind that of the thief, of another node, of a master, and all at once."""
    found = []
    for kind, use in USES.items():
        for name in (THIEF, VICTIM, MASTER, "*", ">"):
            rest = ".0f.1" if use.has_more and name != ">" else ""
            found.append(f"essaim.lab.{kind}.{name}{rest}")
    return [
        *found,
        *(f"essaim.lab.{kind}.{THIEF}.more" for kind in USES),
        *(f"essaim.lab.inbox.{name}.>" for name in (VICTIM, "*")),
        f"essaim.lab.master_inbox.{MASTER}.>",
        ">",
        "*",
        "*.>",
        "essaim.>",
        "essaim.lab.>",
        f"essaim.*.assign.{THIEF}",
        f"essaim.lab.*.{THIEF}",
        "_INBOX.>",
        f"_INBOX.{MASTER}.0f.1",
        "$SYS.>",
        "$SYS.REQ.SERVER.PING",
        "$SYS.REQ.USER.INFO",
        "$SYS.REQ.ACCOUNT.PING.CONNZ",
        "$JS.API.>",
        "$JS.API.INFO",
        "anything",
    ]


def may_publish(subject: str) -> bool:
    kinds = [kind for kind, use in USES.items() if use.publishers is Side.NODE]
    return subject in {f"essaim.lab.{kind}.{THIEF}" for kind in kinds}


def may_subscribe(subject: str) -> bool:
    inbox = f"essaim.lab.inbox.{THIEF}."
    return subject == f"essaim.lab.assign.{THIEF}" or subject.startswith(inbox)


async def test_every_subject_but_his_own_is_closed_to_him_and_each_attempt_is_logged(
    bus: SecuredBus, thief: RawBusClient
) -> None:
    refused = 0
    for subject in every_subject():
        is_wild = re.search(r"[*>]", subject) is not None
        if not is_wild:
            word = await thief.publish(subject)
            assert ("Publish" in word) is not may_publish(subject), (subject, word)
            refused += bool(word)
        for queue in ("", "thieves"):
            word = await thief.subscribe(subject, queue)
            assert ("Subscription" in word) is not may_subscribe(subject), (subject, word)
            refused += bool(word)
    assert refused > 150
    assert await wait_until(lambda: bus.log.count("Violation") >= refused, CLOCK, timeout_s=10), (
        f"{refused} refused, {bus.log.count('Violation')} logged"
    )
    assert f'Subject "essaim.lab.assign.{VICTIM}"' in bus.log


async def test_what_others_say_and_hear_goes_past_him(bus: SecuredBus, thief: RawBusClient) -> None:
    master, victim = await bus.client(Role.MASTER, MASTER), await bus.client(Role.AGENT, VICTIM)
    heard: list[bytes] = []

    async def hear(delivery: object) -> None:
        heard.append(b"something")

    await victim.subscribe(SUBJECTS.assignments(NodeId(VICTIM)), hear)
    await master.subscribe(SUBJECTS.echo(MemberId(MASTER)), hear)
    await master.subscribe(SUBJECTS.all_heartbeats, lambda delivery: delivery.respond(b"answer"))
    for subject in every_subject():
        await thief.subscribe(subject)
        if not re.search(r"[*>]", subject) and not may_publish(subject):
            await thief.publish(subject, b"hello")
    thief.messages.clear()
    assert await victim.request(SUBJECTS.heartbeat(NodeId(VICTIM)), b"?", 5) == b"answer"
    await master.publish(SUBJECTS.echo(MemberId(MASTER)), b"")
    await master.publish(SUBJECTS.assignments(NodeId(VICTIM)), b"")
    await master.publish(SUBJECTS.assignments(NodeId(THIEF)), b"for him")
    assert await wait_until(lambda: len(heard) == 2, CLOCK, timeout_s=10)
    await thief.ping()
    assert {subject for subject, _ in thief.messages} == {f"essaim.lab.assign.{THIEF}"}
    assert len(heard) == 2, "nothing that he said has come to anybody"


@pytest.mark.parametrize("login", ["none", "user and password", "token", "key without signature"])
async def test_without_the_key_a_certificate_is_nothing(bus: SecuredBus, login: str) -> None:
    options = {
        "none": {},
        "user and password": {"user": "essaim-master", "pass": "known-to-masters"},
        "token": {"auth_token": "x"},
        "key without signature": {"nkey": bus.known[Role.AGENT, VICTIM].bus_key, "sig": ""},
    }[login]
    with pytest.raises(ConnectionError, match="Authorization Violation"):
        await RawBusClient.open(bus.url, bus.login(Role.AGENT, THIEF), options)
    assert "authentication error" in bus.log


async def test_a_signature_is_good_for_one_login(bus: SecuredBus) -> None:
    """The server draws what is to be signed: a login that was listened to opens nothing."""
    first = await RawBusClient.open(bus.url, bus.login(Role.AGENT, VICTIM))
    replayed = dict(first.login_options)
    with pytest.raises(ConnectionError, match="Authorization Violation"):
        await RawBusClient.open(bus.url, bus.login(Role.AGENT, THIEF), replayed)
    first.close()


@pytest.mark.parametrize("password", ["", "guess"])
async def test_an_agent_is_no_route_to_anywhere(bus: SecuredBus, password: str) -> None:
    """Whoever is a server of the bus may say anything: a certificate alone makes nobody one."""
    options = {"user": "essaim-master", "pass": password, "name": "X", "cluster": "lab"}
    with pytest.raises(ConnectionError, match=r"Authorization Violation|closed"):
        await RawBusClient.open(
            f"nats://{bus.routes}", bus.login(Role.AGENT, THIEF), options, is_route=True
        )
    assert "authentication error" in bus.log
    listening = await bus.client(Role.AGENT, VICTIM)
    assert listening.server == bus.url


async def test_commands_that_are_none_cost_him_the_connection_and_others_nothing(
    bus: SecuredBus,
) -> None:
    victim = await bus.client(Role.AGENT, VICTIM)
    for nonsense in (b"A" * 5000, b"PUB " + b"x" * 3000 + b" 1\r\n", b"PUB a 999999999\r\n"):
        client = await RawBusClient.open(bus.url, bus.login(Role.AGENT, THIEF))
        client.write(nonsense)
        assert await asyncio.wait_for(client.until_closed(), 10)
    assert victim.server == bus.url
    assert victim.reconnection_count == 0


async def test_he_cannot_have_another_node_accused_of_a_flood(bus: SecuredBus) -> None:
    """The server shows of connections that are over whatever user name was given."""
    login, victim = bus.login(Role.AGENT, THIEF), bus.known[Role.AGENT, VICTIM].bus_key
    seen = LocalBusServer(
        bus.users_path, bus.pid_file, bus.monitor, bus.directory_of(Role.MASTER, "server")
    )
    looks, lie = FloodLooks(), {"user": victim, "pass": ""}
    first = await RawBusClient.open(bus.url, login, claims=lie)
    looks.look(await seen.connections(), 0.0)
    accused = []
    for look in (1, 2):
        second = await RawBusClient.open(bus.url, login, claims=lie)
        for client in (first, second):
            client.write(f"PUB essaim.lab.applied.{THIEF} 0\r\n\r\n".encode() * 5_000)
            await client.ping()
        first.close()
        with pytest.raises(ConnectionError, match="Authorization Violation"):
            await RawBusClient.open(bus.url, login, lie)
        first = second
        await ended(seen, 2 * look)
        accused += looks.look(await seen.connections(), look * 0.5)
    shown = [one.authorized_user for one in await seen.connections() if one.reason]
    assert victim in shown, "as the server has it"
    assert {flood.bus_key for flood in accused} == {bus.known[Role.AGENT, THIEF].bus_key}
    first.close()


async def ended(server: LocalBusServer, count: int) -> None:
    deadline_s = CLOCK.monotonic_s() + 10
    while sum(1 for one in await server.connections() if one.reason) < count:
        assert CLOCK.monotonic_s() < deadline_s
        await CLOCK.sleep(0.02)
