"""Processes that keep their identity good, at a real port, on the real clock."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.founded_cluster import join_request
from support.trusted_site import CLOCK, WAIT_S
from support.trusted_site import TrustedSite as Site

from essaim_master.authority.rotation import Step, step_of
from essaim_master.state.writes import Writes
from essaim_shared.clock import SystemClock, wait_until
from essaim_shared.errors import Unavailable
from essaim_shared.http_call import Answer
from essaim_shared.trust.apart import look_at
from essaim_shared.trust.certificates import Authority, new_request, split_bundle
from essaim_shared.trust.identity import read_identity, write_own
from essaim_shared.trust.joining import (
    AUTHORITY_TARGET,
    CONFIRM_TARGET,
    JOIN_TARGET,
    RENEW_TARGET,
    ConfirmRequest,
    JoinAnswer,
    RenewRequest,
)
from essaim_shared.trust.renewal import LOOK_AGAIN_S, Refused
from essaim_shared.trust.roles import Role, Subject
from essaim_shared.trust.tls import Tls


async def site_of(root: Path, lifetime_s: int) -> AsyncIterator[Site]:
    made = Site(root, lifetime_s)
    await made.start()
    yield made
    await made.server.stop()


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async for made in site_of(tmp_path, 90 * 86_400):
        yield made


@pytest.fixture
async def short_lived(tmp_path: Path) -> AsyncIterator[Site]:
    async for made in site_of(tmp_path, 4):
        yield made


def words(answer: Answer) -> str:
    return str(msgspec.json.decode(answer.body)["message"])


async def test_a_machine_asks_who_the_authority_is_and_joins(site: Site) -> None:
    unbelieving = ssl.create_default_context()
    unbelieving.check_hostname = False
    unbelieving.verify_mode = ssl.CERT_NONE
    found = (await site.ask(AUTHORITY_TARGET, tls=unbelieving)).body
    assert split_bundle(found) == (site.founded.founding.authority_pem,)
    request = join_request(site.founded.founding.worker_secret, Role.AGENT)
    answer = await site.ask(JOIN_TARGET, request, site.stranger())
    assert answer.status == HTTPStatus.OK
    joined = msgspec.json.decode(answer.body, type=JoinAnswer)
    identity = site.founded.known(Role.AGENT, joined.issued[0].name)
    assert identity.joined_from.startswith("127.0.0.1:")


async def test_what_is_no_join_request_is_refused_without_repeating_it(site: Site) -> None:
    answer = await site.ask(JOIN_TARGET, {"secret": "very-secret"}, site.stranger())
    assert answer.status == HTTPStatus.BAD_REQUEST
    assert words(answer) == "the request's body is no JoinRequest"


async def test_a_process_renews_what_it_has_and_the_earlier_one_is_refused(site: Site) -> None:
    before = site.shown("agent")
    old = Tls(site.directories["agent"])
    keeper = site.renewal("agent")
    await keeper.renew()
    assert site.shown("agent") != before
    assert site.why_not(site.shown("agent")) == ""
    await keeper.renew()
    answer = await site.ask(CONFIRM_TARGET, ConfirmRequest(generation=1), old.client)
    assert answer.status == HTTPStatus.UNAUTHORIZED
    assert "has renewed its certificate, so this earlier one is not accepted" in words(answer)


async def test_a_masters_addresses_stay_in_its_certificate(site: Site) -> None:
    await site.renewal("master").renew()
    look = await look_at(site.directories["master"] / "own.pem")
    assert look.addresses == ("127.0.0.1",)


async def test_a_crash_before_the_confirmation_costs_nothing(site: Site) -> None:
    """The files are new, and no master has heard that they are in use: the next renewal shows
    it."""
    made = site.renewal("agent")
    request = RenewRequest(request_pem=new_request_pem(site, "agent"))
    await site.founded.desk.renew(site.shown("agent"), request)
    await made.renew()
    unconfirmed = site.founded.known(Role.AGENT, "node1")
    assert unconfirmed.pending_serial == ""
    answer = await site.ask(RENEW_TARGET, request, site.tls["agent"].client)
    assert answer.status == HTTPStatus.OK


def new_request_pem(site: Site, name: str) -> str:
    return new_request(name).request_pem.decode()


async def test_certificates_are_renewed_by_themselves_before_they_end(short_lived: Site) -> None:
    site = short_lived
    keepers = [site.renewal("agent"), site.renewal("master")]
    for keeper in keepers:
        await keeper.renew()  # founded for ninety days, from here on for seconds
    first = {name: site.shown(name) for name in ("agent", "master")}
    running = [asyncio.ensure_future(keeper.run()) for keeper in keepers]
    try:
        assert await wait_until(
            lambda: all(site.shown(name) != shown for name, shown in first.items()),
            CLOCK,
            WAIT_S,
        )
    finally:
        for one in running:
            one.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    answer = await site.ask(CONFIRM_TARGET, ConfirmRequest(generation=1), site.tls["agent"].client)
    assert answer.status == HTTPStatus.OK


class ClockAhead(SystemClock):
    """By so much that a new certificate is due, and has not expired."""

    AHEAD_NS = 85 * 86_400 * 1_000_000_000

    def __init__(self) -> None:
        self.pauses_s: list[float] = []

    def wall_ns(self) -> int:
        return super().wall_ns() + self.AHEAD_NS

    async def sleep(self, duration_s: float) -> None:
        self.pauses_s.append(duration_s)
        await super().sleep(duration_s)


async def test_a_clock_that_is_ahead_makes_nobody_renew_without_end(site: Site) -> None:
    before = site.shown("agent")
    clock = ClockAhead()
    running = asyncio.ensure_future(site.renewal("agent", clock).run())
    try:
        assert await wait_until(lambda: LOOK_AGAIN_S in clock.pauses_s, CLOCK, WAIT_S)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert site.shown("agent") != before


async def test_the_authority_is_replaced_while_everybody_works(site: Site) -> None:
    old = site.founded.founding.authority_pem
    keepers = {name: site.renewal(name) for name in ("agent", "master")}
    running = [asyncio.ensure_future(keeper.run()) for keeper in keepers.values()]
    asked = 0
    await site.founded.desk.rotate_authority()

    def anchors() -> Any:
        return site.founded.state.trust_anchors

    try:
        deadline_s = CLOCK.monotonic_s() + WAIT_S
        while step_of(anchors()) is not Step.SETTLED:
            assert CLOCK.monotonic_s() < deadline_s, step_of(anchors())
            await site.founded.upkeep.turn()
            for keeper in keepers.values():
                keeper.note(anchors().generation)
            answer = await site.ask(AUTHORITY_TARGET, tls=site.tls["agent"].client)
            assert answer.status == HTTPStatus.OK
            asked += 1
            await CLOCK.sleep(0.05)
        assert await wait_until(
            lambda: all(keeper.about.generation == 3 for keeper in keepers.values()),
            CLOCK,
            WAIT_S,
        )
        for keeper in keepers.values():
            keeper.note(anchors().generation)
        assert await wait_until(
            lambda: all(keeper.about.generation == 4 for keeper in keepers.values()),
            CLOCK,
            WAIT_S,
        )
    finally:
        for one in running:
            one.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    assert asked > 3
    for name in keepers:
        kept = read_identity(site.directories[name])
        assert split_bundle(kept.authorities_pem) == (anchors().signing,)
        assert old not in kept.authorities_pem
    # Who knows only the old one follows it to the new one; by its old certificate he is nobody.
    assert (await site.ask(AUTHORITY_TARGET, tls=site.stranger())).status == HTTPStatus.OK
    with pytest.raises(Unavailable, match="our certificate is of another cluster"):
        await site.ask(AUTHORITY_TARGET, tls=site.tls["admin"].client)


async def test_who_was_removed_is_told_and_refused(site: Site) -> None:
    writes = Writes()
    writes.delete_identity(Role.AGENT, "node1")
    await site.founded.commit(writes)
    keeper = site.renewal("agent")
    with pytest.raises(Refused, match="was removed from the cluster"):
        await keeper.renew()
    with pytest.raises(Refused, match="was removed from the cluster"):
        await keeper.confirm()


@pytest.mark.parametrize("target", [RENEW_TARGET, CONFIRM_TARGET])
async def test_only_agents_and_masters_renew(site: Site, target: str) -> None:
    body = {
        RENEW_TARGET: RenewRequest(request_pem="x"),
        CONFIRM_TARGET: ConfirmRequest(generation=1),
    }
    user = await site.ask(target, body[target], site.tls["admin"].client)
    nobody = await site.ask(target, body[target], site.stranger())
    assert (user.status, nobody.status) == (HTTPStatus.FORBIDDEN, HTTPStatus.UNAUTHORIZED)
    assert words(user) == (
        "user admin may not do this: it takes the certificate of a node or master"
    )
    assert "show a client certificate" in words(nobody)


@pytest.mark.parametrize(
    ("kind", "line"),
    [("expired", "our certificate has expired"), ("foreign", "our certificate is of another")],
)
async def test_certificates_that_are_worth_nothing_end_at_the_handshake(
    site: Site, kind: str, line: str
) -> None:
    authority = Authority(
        site.founded.founding.authority_pem, site.founded.founding.authority_key_pem
    )
    now_ns = CLOCK.wall_ns()
    if kind == "foreign":
        authority = Authority.new("test", now_ns)
    asked = new_request("node1")
    issued = authority.issue(
        asked.request_pem,
        Subject("node1", Role.AGENT, "test"),
        now_ns - 100_000_000_000,
        lifetime_s=90 if kind == "expired" else 1000,
    )
    write_own(site.directories["agent"], asked.key_pem + issued)
    site.tls["agent"].reload()
    with pytest.raises(Unavailable, match=line):
        await site.renewal("agent").renew()
