"""From an empty machine to a cluster of three by the commands that people use, and its authority,
tokens and keys replaced while it works. Real daemons and bus servers on loopback; no lab."""

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.machines import CLOCK, Machine, Machines

from essaim_cli.client import Client
from essaim_shared.errors import Unavailable
from essaim_shared.http_call import call
from essaim_shared.trust.certificates import Authority, authority_digest, facts_of
from essaim_shared.trust.identity import read_identity
from essaim_shared.trust.joining import CONFIRM_TARGET, ConfirmRequest
from essaim_shared.trust.tls import Tls
from essaim_shared.trust.tokens import JoinToken, new_secret, parse_join_token

LIFETIME_S = 16
"""Of certificates: they are renewed after 8 to 13 seconds."""
REPLICAS = 4
KEPT_BESIDE_A_BACKUP = (
    "etc",
    "lib/master/identity",
    "lib/master/bus",
    "lib-agent/identity",
    "lib-agent/node_id",
)
"""As docs/how-to/disks-and-backups.md has it."""


@pytest.fixture
async def machines(tmp_path: Path) -> AsyncIterator[Machines]:
    made = Machines(tmp_path, LIFETIME_S)
    try:
        first = made.add()
        await made.ok("cluster", "init", *first.options)
        first.start()
        await made.eventually(lambda: are_ready(made, first), "the first node is ready")
        yield made
    finally:
        made.close()


async def are_ready(machines: Machines, *wanted: Machine) -> bool:
    return await machines.ready_nodes() == {machine.name for machine in wanted}


async def token_for(machines: Machines, role: str) -> str:
    return (await machines.ok("cluster", "join-token", role, "-q")).strip()


async def joined(machines: Machines, role: str) -> Machine:
    machine = machines.add()
    token = await token_for(machines, role)
    flag = ("--master",) if role == "master" else ()
    await machines.ok(
        "cluster", "join", *flag, "--token", token, *machine.options, machines.first.http
    )
    machine.start()
    return machine


async def votes(machines: Machines, count: int) -> bool:
    rows = await machines.json("cluster", "members", "ls", "-o", "json")
    return sum(row["Role"] == "voter" for row in rows) == count


def serial_of(identity: Path) -> str:
    return facts_of(read_identity(identity).own_pem).serial


class Writer:
    """Writes keys one after the other, and remembers those that were acknowledged."""

    def __init__(self, machine: Machine) -> None:
        self._client = Client(f"unix://{machine.socket}")
        self.acknowledged: list[str] = []
        self.is_done = False

    async def run(self) -> None:
        try:
            await self._write()
        finally:
            self._client.close()

    async def _write(self) -> None:
        while not self.is_done:
            key = f"load/{len(self.acknowledged)}"
            operation = {"Op": "put", "Key": key, "Value": "x"}
            await asyncio.to_thread(self._client.post, "/essaim/kv/txn", {"Then": [operation]})
            self.acknowledged.append(key)
            await CLOCK.sleep(0.02)


async def running_tasks(machines: Machines) -> dict[str, Any]:
    with contextlib.closing(Client(f"unix://{machines.first.socket}")) as client:
        tasks = client.get("/tasks")
    return {task["ID"]: task for task in tasks if task["Status"]["State"] == "running"}


async def test_who_may_not_join_is_told_why_and_leaves_nothing_behind(machines: Machines) -> None:
    machine, first = machines.add(), machines.first
    worker = parse_join_token(await token_for(machines, "worker"))
    other = authority_digest(Authority.new("other", CLOCK.wall_ns()).certificate_pem)
    for words, line in (
        (("--token", JoinToken(worker.authority_digest, new_secret()).text), "token is not valid"),
        (("--token", JoinToken(other, worker.secret).text), "and nothing was sent to it"),
        (("--master", "--token", worker.text), "is one for workers and lets no master in"),
    ):
        said = await machines.refused("cluster", "join", *words, *machine.options, first.http)
        assert line in said
        assert "\n" not in said
        assert worker.secret not in said
    files = [path for path in machine.root.rglob("*") if path.is_file()]
    assert files == []
    assert first.log("master").count("a wrong join token was shown") == 1

    await machines.ok("cluster", "join-token", "worker", "--rotate")
    words = ("--token", worker.text, *machine.options, first.http)
    assert "token is not valid" in await machines.refused("cluster", "join", *words)
    name = ("--master-name", first.name, "--token", await token_for(machines, "master"))
    said = await machines.refused(
        "cluster", "join", "--master", *name, *machine.options, first.http
    )
    assert "is in the cluster already: give this one another" in said


@pytest.mark.timeout(300)
async def test_authority_tokens_and_keys_are_replaced_under_load(machines: Machines) -> None:
    first = machines.first
    worker = await joined(machines, "worker")
    master = await joined(machines, "master")
    await machines.eventually(lambda: votes(machines, 2), "the joined master votes")
    await machines.eventually(lambda: are_ready(machines, first, worker, master), "all are ready")
    await machines.ok(
        "service",
        "create",
        "--detach",
        "--name",
        "load",
        f"--replicas={REPLICAS}",
        "x",
        "sleep",
        "600",
    )

    async def all_run() -> bool:
        return len(await running_tasks(machines)) == REPLICAS

    await machines.eventually(all_run, "the tasks run")
    tasks = set(await running_tasks(machines))
    before = {one.name: serial_of(one.agent_identity) for one in machines.all}
    digest = (await machines.json("cluster", "ca", "-o", "json"))["Digest"]
    admin = ("--identity", str(first.etc / "admin"), "-H", f"tcp://{first.http}")
    old = Tls(first.etc / "admin")

    writer = Writer(first)
    writing = asyncio.ensure_future(writer.run())
    await machines.ok("cluster", "rotate-data-key")
    for role in ("worker", "master"):
        await machines.ok("cluster", "join-token", role, "--rotate", "-q")
    settled = await machines.json(*admin, "cluster", "ca", "--rotate", "-o", "json")
    assert settled["Step"] == "settled"
    assert settled["Digest"] != digest
    # The last step is confirmed by everybody, and short lives are renewed by themselves.
    rotated = {one.name: serial_of(one.agent_identity) for one in machines.all}
    assert all(rotated[name] != serial for name, serial in before.items())

    async def renewed_again() -> bool:
        found = {one.name: serial_of(one.agent_identity) for one in machines.all}
        shown = await machines.json("cluster", "ca", "-o", "json")
        return shown["WaitingCount"] == 0 and all(found[n] != rotated[n] for n in found)

    await machines.eventually(renewed_again, "certificates are renewed by themselves")
    writer.is_done = True
    await writing
    keys = await machines.json("kv", "ls", "load/", "-o", "json")
    assert len(keys) == len(writer.acknowledged) > 50
    assert set(await running_tasks(machines)) == tasks
    assert await votes(machines, 2)
    assert await are_ready(machines, first, worker, master)
    # A machine joins by the new token; who has only the old authority's certificate is out.
    await joined(machines, "worker")
    with pytest.raises(Unavailable, match="our certificate is of another cluster"):
        await call(first.http, "GET", "/_ping", timeout_s=5.0, tls=old.client)
    # The user who asked for it has another certificate, also by the names that Docker has for it.
    for name, ours in (("ca", "authorities"), ("cert", "own"), ("key", "own")):
        assert (first.etc / f"admin/{name}.pem").samefile(first.etc / f"admin/{ours}.pem")
    assert (await machines.json(*admin, "cluster", "ca", "-o", "json"))["Step"] == "settled"


async def test_a_removed_node_is_shut_out_at_once(machines: Machines) -> None:
    first = machines.first
    worker = await joined(machines, "worker")
    await machines.eventually(lambda: are_ready(machines, first, worker), "both are ready")
    shown = Tls(worker.agent_identity)
    body = msgspec.json.encode(ConfirmRequest(generation=1))
    answer = await call(
        first.http, "POST", CONFIRM_TARGET, timeout_s=5.0, body=body, tls=shown.client
    )
    assert answer.status == HTTPStatus.OK
    await machines.ok("node", "rm", "--force", worker.name)
    answer = await call(
        first.http, "POST", CONFIRM_TARGET, timeout_s=5.0, body=body, tls=shown.client
    )
    assert answer.status == HTTPStatus.UNAUTHORIZED
    assert b"was removed from the cluster" in answer.body

    async def says_so() -> bool:
        return "this process was removed from the cluster" in worker.log("agent")

    await machines.eventually(says_so, "the agent says why nobody listens to it")
    assert await are_ready(machines, first)


async def test_an_empty_machine_goes_on_from_a_backup_and_the_files_kept_beside_it(
    machines: Machines, tmp_path: Path
) -> None:
    first, backup, kept = machines.first, tmp_path / "backup", tmp_path / "kept"
    await machines.ok("kv", "put", "color", "blue")
    await machines.ok("cluster", "backup", str(backup))
    first.stop()
    for name in KEPT_BESIDE_A_BACKUP:
        (kept / name).parent.mkdir(parents=True, exist_ok=True)
        (first.root / name).rename(kept / name)
    shutil.rmtree(first.root)
    kept.rename(first.root)
    first.socket.parent.mkdir()

    config = str(first.etc / "master.toml")
    assert "restored into" in await machines.ok(
        "cluster", "restore", str(backup), "--config", config
    )
    first.start()
    await machines.eventually(lambda: are_ready(machines, first), "the node is ready again")
    assert await machines.ok("kv", "get", "color") == "blue\n"
    # It can prove itself to others: a machine joins.
    worker = await joined(machines, "worker")
    await machines.eventually(lambda: are_ready(machines, first, worker), "both are ready")
