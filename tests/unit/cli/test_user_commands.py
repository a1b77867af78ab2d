"""Users, contexts and the audit log from the command line, at a real port of a founded cluster."""

import asyncio
import contextlib
import io
import json
import os
import random
import stat
import sys
from pathlib import Path

import pytest
from support.founded_cluster import FoundedCluster

from essaim_cli.__main__ import run
from essaim_cli.contexts import Context, Contexts
from essaim_cli.errors import CommandFailed
from essaim_master.http.api import Api
from essaim_master.http.app import App
from essaim_master.http.host_facts import read_host_facts
from essaim_master.http.server import HttpServer
from essaim_master.process_end import end_process
from essaim_shared.clock import SystemClock
from essaim_shared.trust.identity import write_identity
from essaim_shared.trust.tls import Tls

SEED = 20261128
TIMEOUT_S = 20.0


class NoFigures:
    def nodes(self):
        return {}

    def containers(self):
        return {}


class Done:
    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err

    def __repr__(self):
        return f"exit {self.code}\n--- out\n{self.out}--- err\n{self.err}"


def _run(arguments, given, variables):
    out, err, stdin = io.StringIO(), io.StringIO(), sys.stdin
    before = dict(os.environ)
    try:
        os.environ.clear()
        os.environ.update(variables)
        sys.stdin = io.StringIO(given)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = run(list(arguments))
    finally:
        sys.stdin = stdin
        os.environ.clear()
        os.environ.update(before)
    return Done(code, out.getvalue(), err.getvalue())


class Site:
    def __init__(self, root: Path) -> None:
        print(f"seed {SEED}")
        self.root = root
        clock = SystemClock()
        self.founded = FoundedCluster(root, clock)
        write_identity(root / "master", self.founded.master)
        write_identity(root / "admin", self.founded.admin)
        self.socket = root / "s"
        self.state = self.founded.state
        api = Api(
            self.founded.cluster,
            clock,
            random.Random(SEED),
            NoFigures(),
            read_host_facts(),
            authority=self.founded.desk,
        )
        self.app = App(api, "test")
        tls = Tls(root / "master")
        self.server = HttpServer(self.app, end_process, self.socket, "127.0.0.1:0", tls=tls)
        self.ca = root / "ca.pem"
        self.ca.write_bytes(self.founded.founding.authority_pem)

    @property
    def url(self) -> str:
        return f"tcp://127.0.0.1:{self.server.tcp_port}"

    def _variables(self, more):
        kept = {name: text for name, text in os.environ.items() if not name.startswith("ESSAIM_")}
        return {**kept, "XDG_CONFIG_HOME": str(self.root / "config"), **more}

    async def start_command(self, *arguments, **environment):
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "essaim_cli", *arguments),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=self._variables(environment),
        )

    async def run(self, *arguments, given="", **environment) -> Done:
        """In this process, which is faster; one at a time."""
        return await asyncio.to_thread(_run, arguments, given, self._variables(environment))

    async def ok(self, *arguments, **how) -> str:
        done = await self.run(*arguments, **how)
        assert done.code == 0, done
        return done.out

    async def by_socket(self, *arguments) -> str:
        return await self.ok("--host", f"unix://{self.socket}", *arguments)

    async def context(self, name, *options, given="", url="") -> str:
        host = url or self.url
        return await self.ok("context", "create", name, "--host", host, *options, given=given)


@pytest.fixture
async def site(tmp_path):
    made = Site(tmp_path)
    await made.founded.found()
    await made.server.start()
    yield made
    await made.server.stop()


async def test_a_token_is_printed_once_and_opens_by_its_context(site):
    token = await site.by_socket("user", "add", "ann", "--role", "viewer", "--expires", "30d")
    [known] = site.state.users["ann"].tokens
    assert token.startswith(f"esmusr_{known.id}_")
    assert known.expires_ns - known.created_ns == 30 * 86_400 * 1_000_000_000
    await site.context("prod", "--token-file", "-", "--ca", str(site.ca), given=token)
    assert await site.ok("context", "use", "prod") == "prod\n"
    assert "NAME" in await site.ok("service", "ls")
    refused = await site.run("user", "ls")
    assert (refused.code, "it takes the role admin" in refused.err) == (1, True)
    another = await site.by_socket("user", "token", "ann")
    listed = json.loads(await site.by_socket("user", "token", "ls", "ann", "-o", "json"))
    assert [one["ID"] for one in listed] == [known.id, another.split("_")[1]]
    assert await site.by_socket("user", "token", "rm", "ann", known.id) == f"{known.id}\n"
    refused = await site.run("service", "ls")
    assert (refused.code, "the token is not known here" in refused.err) == (1, True)
    assert token.strip() not in refused.err


@pytest.mark.parametrize("held", ["files of somebody's", "admin"])
async def test_no_directory_in_use_becomes_that_of_a_certificate(site, held):
    directory = site.root / "admin"
    if held != "admin":
        directory = site.root / "shared"
        directory.mkdir(mode=0o755)
        (directory / "letter").touch()
    before = {path: path.stat().st_mtime_ns for path in (directory, *directory.iterdir())}
    mode = directory.stat().st_mode
    add = ("user", "add", "ann", "--role", "viewer", "--certificate", str(directory))
    for command in (add, ("user", "certificate", "ann", str(directory))):
        done = await site.run("--host", f"unix://{site.socket}", *command)
        assert (done.code, "something else than a certificate of ann" in done.err) == (1, True)
    assert directory.stat().st_mode == mode
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert "ann" not in await site.by_socket("user", "ls")


async def test_a_certificate_is_good_for_us_and_for_docker(site):
    directory = site.root / "ann"
    command = ("user", "add", "ann", "--role", "admin", "--certificate", str(directory))
    assert await site.by_socket(*command) == f"{directory}\n"
    files = {path.name: stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()}
    assert set(files.values()) == {0o600}
    assert {"ca.pem", "cert.pem", "key.pem", "authorities.pem", "own.pem"} < set(files)
    await site.context("prod", "--certificate", str(directory))
    assert "ann" in await site.ok("--context", "prod", "user", "ls")
    (docker := site.root / "docker").mkdir()
    for name in ("ca.pem", "cert.pem", "key.pem"):
        (docker / name).write_bytes((directory / name).read_bytes())
    docker_variables = {"DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": str(docker)}
    assert "ann" in await site.ok("--host", site.url, "user", "ls", **docker_variables)
    await site.by_socket("user", "revoke", "ann")
    refused = await site.run("--context", "prod", "user", "ls")
    assert (refused.code, "certificate of user ann was revoked" in refused.err) == (1, True)
    await site.by_socket("user", "certificate", "ann", str(directory))
    assert "ann" in await site.ok("--context", "prod", "user", "ls")


async def test_users_are_listed_and_removed_but_the_last_admin(site):
    await site.by_socket("user", "add", "sam", "--role", "deployer", "--stack", "shop")
    rows = [line.split() for line in (await site.by_socket("user", "ls")).splitlines()]
    assert [row[:4] for row in rows] == [
        ["NAME", "ROLE", "STACK", "TOKENS"],
        ["admin", "admin", "(all)", "0"],
        ["sam", "deployer", "shop", "1"],
    ]
    assert await site.by_socket("user", "ls", "-q") == "admin\nsam\n"
    assert await site.by_socket("user", "rm", "sam") == "sam\n"
    kept = await site.run("--host", f"unix://{site.socket}", "user", "rm", "admin")
    assert (kept.code, "is the last admin" in kept.err) == (1, True)


async def test_a_user_without_a_proof_is_told_what_is_next(site):
    done = await site.run(
        *("--host", f"unix://{site.socket}", "user", "add", "ann", "--role", "viewer"),
        *("--certificate", "/proc/nowhere"),
    )
    assert (done.code, "user ann is added, but has no certificate yet" in done.err) == (1, True)
    assert "essaim user certificate ann DIR" in done.err


async def test_a_token_never_travels_without_tls(site):
    token = await site.by_socket("user", "add", "ann", "--role", "viewer")
    refused = await site.run(
        *("context", "create", "bare", "--host", site.url, "--token-file", "-"), given=token
    )
    assert (refused.code, "over TLS only" in refused.err) == (125, True)
    heard = []

    async def listen(reader, writer):
        heard.append(await reader.read(1000))
        writer.close()

    async with await asyncio.start_server(listen, "127.0.0.1", 0) as server:
        url = f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        contexts = Contexts({"XDG_CONFIG_HOME": str(site.root / "config")})
        contexts.write(Context("bare", (url,), token=token.strip()))
        refused = await site.run("--context", "bare", "service", "ls")
    assert (refused.code, "sent over TLS only" in refused.err) == (1, True)
    assert heard == []


async def test_a_master_that_is_none_of_the_cluster_hears_no_token(site):
    (site.root / "other").mkdir()
    other = Site(site.root / "other")
    await other.founded.found()
    await other.server.start()
    try:
        token = await site.by_socket("user", "add", "ann", "--role", "viewer")
        await site.context(
            "p", "--token-file", "-", "--ca", str(site.ca), given=token, url=other.url
        )
        done = await site.run("--context", "p", "service", "ls")
    finally:
        await other.server.stop()
    assert done.code == 1
    assert token.strip() not in done.err


async def test_who_is_asked_goes_by_what_was_said_last(site):
    """--host, then --context, then the environment, then the current context."""
    admin = ("--certificate", str(site.root / "admin"))
    nowhere = "unix:///nowhere"
    await site.context("good", *admin)
    await site.context("bad", url=nowhere)
    socket = f"unix://{site.socket}"
    assert (await site.run("context", "use", "bad")).code == 0
    for arguments, environment, is_good in (
        (("--host", socket, "--context", "bad"), {}, True),
        (("--context", "good"), {"ESSAIM_HOST": nowhere}, True),
        ((), {"ESSAIM_HOST": socket, "ESSAIM_CONTEXT": "bad"}, True),
        ((), {"ESSAIM_CONTEXT": "good"}, True),
        ((), {}, False),
        (("--context", "bad"), {"ESSAIM_HOST": socket}, False),
    ):
        done = await site.run(*arguments, "user", "ls", **environment)
        assert (done.code == 0) == is_good, (arguments, environment, done)
    assert (await site.run("context", "use", "--none")).code == 0


async def test_the_audit_log_is_read_and_followed(site):
    process = await site.start_command("--host", f"unix://{site.socket}", "audit", "-f")
    await site.by_socket("user", "add", "ann", "--role", "viewer")
    seen = [
        (await asyncio.wait_for(process.stdout.readline(), TIMEOUT_S)).decode() for _ in range(2)
    ]
    process.terminate()
    await process.wait()
    assert "uid 0: user add ann (viewer)" in seen[0]
    assert "uid 0: user token ann (token " in seen[1]
    shown = [
        json.loads(line) for line in (await site.by_socket("audit", "-o", "json")).splitlines()
    ]
    assert [one["Action"] for one in shown] == ["user add", "user token"]
    assert await site.by_socket("audit", "--since", "2100-01-01T00:00:00Z") == ""
    assert len((await site.by_socket("audit", "--since", "1h")).splitlines()) == 2
    assert await site.by_socket("audit", "--who", "eve") == ""
    wrong = await site.run("audit", "--since", "soon")
    assert (wrong.code, "how long ago" in wrong.err) == (125, True)


# Files


@pytest.fixture
def contexts(tmp_path):
    return Contexts({"XDG_CONFIG_HOME": str(tmp_path)})


def test_a_context_is_readable_by_its_owner_alone(contexts, tmp_path):
    one = Context("prod", ("tcp://h1:7400", "tcp://h2:7400"), token="esmusr_a_b")
    contexts.write(one)
    path = tmp_path / "essaim" / "contexts" / "prod.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert contexts.read("prod") == one
    assert "esmusr" not in repr(one)
    path.chmod(0o640)
    with pytest.raises(CommandFailed, match="chmod 600"):
        contexts.read("prod")


def test_removing_the_current_context_leaves_none(contexts):
    contexts.write(Context("prod", ("unix:///x",)))
    contexts.use("prod")
    assert (contexts.names(), contexts.current) == (["prod"], "prod")
    contexts.remove("prod")
    assert (contexts.names(), contexts.current) == ([], "")
    with pytest.raises(CommandFailed, match="no context prod"):
        contexts.use("prod")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"hosts": 1}', '{"hosts": [], "x": 1}'])
def test_a_damaged_context_says_so(contexts, tmp_path, text):
    contexts.write(Context("prod", ("unix:///x",)))
    (tmp_path / "essaim" / "contexts" / "prod.json").write_text(text)
    with pytest.raises(CommandFailed, match="damaged: make the context again"):
        contexts.read("prod")


@pytest.mark.parametrize("name", ["", ".", "../x", "a/b", "-x", "x" * 64])
def test_a_name_stays_in_its_directory(contexts, name):
    with pytest.raises(CommandFailed, match="no name of a context"):
        contexts.write(Context(name, ("unix:///x",)))
