"""Handshakes on real sockets: who is believed, who is not, and contexts renewed under way."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.identities import make_identity

from essaim_shared.clock import SystemClock
from essaim_shared.errors import ConfigError, Unavailable
from essaim_shared.http_call import call
from essaim_shared.trust.certificates import Authority
from essaim_shared.trust.identity import read_identity, write_authorities, write_own
from essaim_shared.trust.roles import Role
from essaim_shared.trust.tls import PeerCertificate, Tls, peer_certificate
from essaim_shared.trust.tls_server import listen

NOW_NS = SystemClock().wall_ns()
TIMEOUT_S = 5.0


class Site:
    """An authority, a master that listens, and whom it saw."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.authority = Authority.new("lab", NOW_NS)
        make_identity(root / "master", self.authority, Role.MASTER, "h1", NOW_NS)
        self.master = Tls(root / "master")
        self.seen: list[PeerCertificate | None] = []
        self.address = ""

    def tls(self, name: str, role: Role = Role.AGENT, **how: object) -> Tls:
        authority = how.pop("authority", self.authority)
        assert isinstance(authority, Authority)
        make_identity(self.root / name, authority, role, name, NOW_NS, **how)  # type: ignore[arg-type]
        return Tls(self.root / name)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            await reader.readuntil(b"\r\n\r\n")
            self.seen.append(peer_certificate(writer.get_extra_info("ssl_object")))
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            await writer.drain()
        writer.close()

    @contextlib.asynccontextmanager
    async def listening(self, *, wants_certificate: bool = True) -> AsyncIterator[None]:
        context = self.master.server(wants_certificate=wants_certificate)
        bound = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{bound.getsockname()[1]}"
        async with await listen(self._protocol, bound, context, backlog=10):
            yield

    def _protocol(self) -> asyncio.Protocol:
        return asyncio.StreamReaderProtocol(asyncio.StreamReader(), self.answer)

    async def ask(self, tls: Tls | None) -> int:
        context = tls.client if tls is not None else None
        return (await call(self.address, "GET", "/", timeout_s=TIMEOUT_S, tls=context)).status


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


async def test_both_sides_know_each_other(site: Site) -> None:
    async with site.listening():
        assert await site.ask(site.tls("node1")) == 200
    [seen] = site.seen
    assert seen is not None
    assert (seen.name, seen.role, seen.cluster_id) == ("node1", Role.AGENT.value, "lab")


async def test_a_client_without_a_certificate_is_let_in_only_where_none_is_wanted(
    site: Site,
) -> None:
    believing = ssl.create_default_context(cafile=str(site.root / "master" / "authorities.pem"))
    async with site.listening(wants_certificate=False):
        answer = await call(site.address, "GET", "/", timeout_s=TIMEOUT_S, tls=believing)
        assert answer.status == 200
    assert site.seen == [None]
    async with site.listening():
        with pytest.raises(Unavailable, match="wants a certificate"):
            await call(site.address, "GET", "/", timeout_s=TIMEOUT_S, tls=believing)


@pytest.mark.parametrize("wanted", [True, False])
async def test_an_expired_and_a_foreign_certificate_are_refused_in_words(
    site: Site, wanted: bool
) -> None:
    stranger = Authority.new("lab", NOW_NS)
    foreign = site.tls("foreign", authority=stranger, believed_pem=site.authority.certificate_pem)
    expired = site.tls("expired", lifetime_s=-1)
    async with site.listening(wants_certificate=wanted):
        with pytest.raises(Unavailable, match="of another cluster"):
            await site.ask(foreign)
        with pytest.raises(Unavailable, match="our certificate has expired"):
            await site.ask(expired)
    assert site.seen == []


async def test_a_client_believes_no_server_but_a_master_of_its_cluster(site: Site) -> None:
    foreign = site.tls("other", authority=Authority.new("lab", NOW_NS))
    async with site.listening():
        with pytest.raises(Unavailable, match="not to be believed"):
            await site.ask(foreign)
    # An agent that took a master's address has no certificate for that.
    site.master = site.tls("node2")
    async with site.listening(wants_certificate=False):
        with pytest.raises(Unavailable, match="not to be believed"):
            await site.ask(site.tls("node1"))


async def test_who_does_not_speak_tls_is_told_so(site: Site) -> None:
    async with await asyncio.start_server(_mumble, "127.0.0.1", 0) as server:
        site.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(Unavailable, match="does not speak TLS"):
            await site.ask(site.tls("node1"))


async def test_a_listening_socket_follows_a_change_of_authorities(site: Site) -> None:
    node = site.tls("node1")
    new = Authority.new("lab", NOW_NS)
    newcomer = site.tls("newcomer", authority=new, believed_pem=site.authority.certificate_pem)
    async with site.listening():
        with pytest.raises(Unavailable):
            await site.ask(newcomer)
        both = site.authority.certificate_pem + new.certificate_pem
        write_authorities(site.root / "master", both)
        site.master.reload()
        assert await site.ask(newcomer) == 200
        assert await site.ask(node) == 200
        write_authorities(site.root / "master", new.certificate_pem)
        site.master.reload()
        with pytest.raises(Unavailable, match="of another cluster"):
            await site.ask(node)


async def test_who_trusts_only_the_old_authority_follows_a_cross_signed_one(site: Site) -> None:
    node = site.tls("node1")
    new = Authority.new("lab", NOW_NS)
    make_identity(site.root / "renewed", new, Role.MASTER, "h1", NOW_NS)
    leading = site.authority.cross_sign(new.certificate_pem, NOW_NS)
    write_own(site.root / "renewed", read_identity(site.root / "renewed").own_pem + leading)
    both = site.authority.certificate_pem + new.certificate_pem
    write_authorities(site.root / "renewed", both)
    site.master = Tls(site.root / "renewed")
    async with site.listening():
        assert await site.ask(node) == 200


async def test_a_directory_that_is_damaged_keeps_what_runs(site: Site) -> None:
    async with site.listening():
        node = site.tls("node1")
        write_own(site.root / "master", b"damaged")
        with pytest.raises(ConfigError, match="join the cluster again"):
            site.master.reload()
        assert await site.ask(node) == 200


async def _mumble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    writer.close()
