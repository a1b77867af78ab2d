"""The command line at a master's TCP port: as whom it comes, and what it says when that fails."""

import asyncio
from pathlib import Path

import pytest
from starlette.responses import JSONResponse
from support.identities import Identities

from essaim_cli.client import Client
from essaim_cli.errors import BrokenOff, CommandFailed, MasterUnreachable
from essaim_cli.host import find_identity
from essaim_cli.lab.topology import ADMIN_IDENTITY
from essaim_master.http.protocol import PEER_EXTENSION
from essaim_master.http.server import HttpServer
from essaim_shared.clock import SystemClock
from essaim_shared.trust.certificates import Authority
from essaim_shared.trust.roles import Role

NOW_NS = SystemClock().wall_ns()


class Site:
    """A master's port that answers who asks, and users of its cluster."""

    def __init__(self, root: Path) -> None:
        self.identities = Identities(root, NOW_NS)
        self.server = HttpServer(
            self,
            lambda broken: None,
            listen="127.0.0.1:0",
            tls=self.identities.tls("m1"),
        )

    async def __call__(self, scope, receive, send) -> None:
        peer = scope["extensions"][PEER_EXTENSION]
        name = None if peer.certificate is None else peer.certificate.name
        await JSONResponse({"name": name})(scope, receive, send)

    def close(self) -> None:
        return

    @property
    def url(self) -> str:
        return f"tcp://127.0.0.1:{self.server.tcp_port}"

    def identity(self, name: str, **how) -> Path:
        self.identities.tls(name, Role.USER, **how)
        return self.identities.root / f"{Role.USER.value}-{name}"

    async def ask(self, identity: Path | None, *masters: str) -> object:
        def run() -> object:
            client = Client(*(masters or (self.url,)), identity=identity)
            try:
                return client.post("/x", {})
            finally:
                client.close()

        return await asyncio.to_thread(run)


@pytest.fixture
async def site(tmp_path):
    made = Site(tmp_path)
    await made.server.start()
    yield made
    await made.server.stop()


async def test_it_comes_as_whom_the_identity_says(site) -> None:
    assert await site.ask(site.identity("ann")) == {"name": "ann"}


async def test_a_directory_as_dockers_clients_know_it_does_as_well(site, tmp_path) -> None:
    own = site.identity("ann")
    docker = tmp_path / "docker"
    docker.mkdir()
    for name, source in (("ca", "authorities"), ("cert", "own"), ("key", "own")):
        (docker / f"{name}.pem").write_bytes((own / f"{source}.pem").read_bytes())
    assert await site.ask(docker) == {"name": "ann"}


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"is_foreign": True}, "our certificate is of another cluster"),
        ({"lifetime_s": -1}, "our certificate has expired"),
        (
            {"believed_pem": Authority.new("other", NOW_NS).certificate_pem},
            "its certificate is not to be believed",
        ),
    ],
)
async def test_a_certificate_that_does_not_fit_is_one_line_and_nothing_happened(
    site, how, words
) -> None:
    identity = site.identity("ann", **how)
    with pytest.raises(MasterUnreachable) as caught:
        await site.ask(identity)
    assert not isinstance(caught.value, BrokenOff)
    assert words in caught.value.message
    assert str(identity) in caught.value.message
    assert "--identity or ESSAIM_IDENTITY" in caught.value.message
    assert "\n" not in caught.value.message


async def test_without_an_identity_it_is_told_to_name_one(site) -> None:
    with pytest.raises(BrokenOff, match="--identity DIRECTORY or ESSAIM_IDENTITY"):
        await site.ask(None)


async def test_a_master_that_cannot_be_reached_is_passed_over(site) -> None:
    identity = site.identity("ann")
    assert await site.ask(identity, "tcp://127.0.0.1:1", site.url) == {"name": "ann"}


@pytest.mark.parametrize("content", [None, b"nonsense"])
async def test_a_directory_without_a_usable_certificate_is_one_line(
    site, tmp_path, content
) -> None:
    if content is not None:
        for name in ("authorities.pem", "own.pem"):
            (tmp_path / name).write_bytes(content)
    with pytest.raises(CommandFailed, match=r"name (the|another) directory") as caught:
        await site.ask(tmp_path)
    assert "\n" not in caught.value.message


def test_the_identity_is_the_named_one_else_dockers_else_the_labs(tmp_path) -> None:
    master = tmp_path / "lab" / "h1" / "master.sock"
    url = f"unix://{master}"
    (tmp_path / "lab" / ADMIN_IDENTITY).mkdir(parents=True)
    docker = {"DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": "/certificates"}
    assert find_identity("/mine", url, docker, tmp_path) == Path("/mine")
    assert find_identity(None, url, docker, tmp_path) == Path("/certificates")
    assert find_identity(None, url, {}, tmp_path) == tmp_path / "lab" / ADMIN_IDENTITY
    assert find_identity(None, "tcp://10.0.0.1:7400", {}, tmp_path) is None
    assert find_identity(None, "unix:///run/essaim/master.sock", {}, tmp_path) is None
    only_verify = find_identity(None, url, {"DOCKER_TLS_VERIFY": "1"}, tmp_path)
    assert only_verify == Path.home() / ".docker"
