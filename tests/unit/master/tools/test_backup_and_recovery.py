"""The offline tools on real files: what is backed up comes back, and a lone survivor goes on."""

import asyncio
import hashlib
import os
import random
import socket
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request

from essaim_master.at_rest.backup_file import TRAILER_BYTES, TRAILER_MAGIC, BackupSeal
from essaim_master.at_rest.errors import DataKeyMissing
from essaim_master.at_rest.key_ring import RING_FILE, open_log_files
from essaim_master.at_rest.ring import decode_ring
from essaim_master.at_rest.sealed_stream import SEALED_BLOCK_BYTES, read_header
from essaim_master.http.backup_route import BackupRoute
from essaim_master.kv.commands import (
    Command,
    ProposalId,
    Put,
    Transaction,
    TransactionResult,
    encode_command,
)
from essaim_master.kv.store import KeyValueStore
from essaim_master.raft.core import RaftConfig
from essaim_master.raft.messages import Configuration
from essaim_master.raft_driver import RaftNode
from essaim_master.snapshot.settings import SnapshotSettings
from essaim_master.standby.record import RECORD_FILE
from essaim_master.tcp_peer_transport import PeerAddress, TcpPeerTransport
from essaim_master.tools.__main__ import main
from essaim_master.wal.reading import read_identity, read_log
from essaim_master.wal.records import Identity
from essaim_shared.clock import SystemClock, wait_until
from essaim_shared.errors import NotSupported
from essaim_shared.ids import MemberId
from essaim_shared.sealing import DataKey, load_data_key, new_data_key_text, write_private

CLOCK = SystemClock()
WAIT_S = 20.0
SEGMENT_BYTES = 64 * 1024

CONFIG = """
cluster_id = "lab"
member_id = "{member}"
data_dir = "{data_dir}"
socket = "/run/essaim.sock"
http_listen = "127.0.0.1:7400"
raft_listen = "127.0.0.1:7401"
bus_servers = ["nats://127.0.0.1:4222"]
seal_key_file = "{key}"
"""
MEMBER = """
[[members]]
id = "{member}"
raft = "127.0.0.1:{port}"
http = "127.0.0.1:7400"
"""


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Site:
    """The data directories of some masters, and the masters that run on them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.seal_key = root / "seal_key"
        write_private(self.seal_key, new_data_key_text().encode())
        self.ports: dict[str, int] = {}
        self.nodes: dict[str, RaftNode] = {}
        self.stores: dict[str, KeyValueStore] = {}
        self.sequence = 0

    def data_dir(self, member: str) -> Path:
        return self.root / member

    def config(self, member: str, *members: str) -> Path:
        path = self.root / f"{member}.toml"
        text = CONFIG.format(member=member, data_dir=self.data_dir(member), key=self.seal_key)
        for name in members:
            self.ports.setdefault(name, free_port())
            text += MEMBER.format(member=name, port=self.ports[name])
        path.write_text(text)
        return path

    def backup(self, member: str, to: Path) -> list[str]:
        return ["backup", str(to), "--data-dir", str(self.data_dir(member))]

    async def start(self, member: str, *members: str) -> RaftNode:
        for name in members:
            self.ports.setdefault(name, free_port())
        files = open_log_files(self.data_dir(member))
        identity = read_identity(files) or Identity(
            "lab", MemberId(member), Configuration(tuple(map(MemberId, members)))
        )
        peers = TcpPeerTransport(
            identity.links_name,
            MemberId(member),
            PeerAddress("127.0.0.1", self.ports[member]),
            CLOCK,
            random.Random(1),
        )
        peers.set_peers(
            {MemberId(name): PeerAddress("127.0.0.1", self.ports[name]) for name in members}
        )
        store = self.stores[member] = KeyValueStore()
        node = RaftNode(
            RaftConfig(MemberId(member)),
            identity,
            files,
            peers,
            store,
            CLOCK,
            random.Random(),
            self.fatal,
            SEGMENT_BYTES,
            snapshots=SnapshotSettings(every_entries=50, trailing_entries=10),
        )
        await node.start()
        self.nodes[member] = node
        return node

    def fatal(self, error: BaseException) -> None:
        raise AssertionError(error)

    async def put(self, member: str, key: str, value: bytes) -> None:
        self.sequence += 1
        proposal = ProposalId("test", self.sequence)
        transaction = Transaction(then=(Put(key.encode(), value),))
        command = encode_command(Command(proposal, 0, transaction))
        result = await self.nodes[member].propose(command, proposal, WAIT_S)
        assert isinstance(result, TransactionResult)

    async def stop(self) -> None:
        for node in self.nodes.values():
            await node.stop()
        self.nodes.clear()


@pytest.fixture
async def site(tmp_path):
    made = Site(tmp_path)
    yield made
    await made.stop()


async def test_a_backup_of_the_files_is_the_state_and_is_checked_by_its_hash(site, capsys):
    await site.start("m1", "m1")
    for number in range(120):
        await site.put("m1", f"key{number}", bytes(100))
    state_hash = site.stores["m1"].freeze().state_hash()
    online = b"".join(site.nodes["m1"].backup())
    await site.stop()
    backup = site.root / "backup"
    assert main([*site.backup("m1", backup), "--unencrypted"]) == 0
    assert backup.stat().st_mode & 0o777 == 0o600
    assert backup.read_bytes() == online
    assert main(["check", str(backup)]) == 0
    assert "sha256" in capsys.readouterr().out
    spoiled = bytearray(online)
    spoiled[len(spoiled) // 2] ^= 1
    backup.write_bytes(spoiled)
    assert main(["check", str(backup)]) == 1
    assert "is damaged at byte" in capsys.readouterr().err
    backup.write_bytes(online)

    for member in ("n1", "n2", "n3"):
        config = site.config(member, "n1", "n2", "n3")
        stood_by = site.data_dir(member) / RECORD_FILE
        stood_by.parent.mkdir(exist_ok=True)
        stood_by.touch()
        assert main(["restore", str(backup), "--config", str(config)]) == 1
        assert f"{stood_by} says under which name" in capsys.readouterr().err
        assert os.listdir(stood_by.parent) == [RECORD_FILE]
        stood_by.unlink()
        assert main(["restore", str(backup), "--config", str(config)]) == 0
        assert main(["restore", str(backup), "--config", str(config)]) == 1
        assert "holds a log already" in capsys.readouterr().err
        await site.start(member, "n1", "n2", "n3")
        assert site.stores[member].freeze().state_hash() == state_hash
    await site.put("n1", "after", b"the restore")
    await site.nodes["n3"].read_barrier(WAIT_S)
    assert site.stores["n3"].get(b"after") is not None


async def test_a_backup_of_a_running_master_s_files_is_refused(site, capsys):
    await site.start("m1", "m1")
    backup = site.root / "backup"
    assert main([*site.backup("m1", backup), "--unencrypted"]) == 1
    assert "another master is running" in capsys.readouterr().err
    assert not backup.exists()


async def test_the_old_life_is_not_listened_to_by_the_restored_one(site):
    await site.start("m1", "m1")
    await site.put("m1", "key", b"value")
    await site.stop()
    backup = site.root / "backup"
    assert main([*site.backup("m1", backup), "--seal-key-file", str(site.seal_key)]) == 0
    site.data_dir("m1").rename(site.root / "old")
    assert main(["restore", str(backup), "--config", str(site.config("m1", "m1"))]) == 0
    old = read_identity(open_log_files(site.root / "old"))
    new = read_identity(open_log_files(site.data_dir("m1")))
    assert old is not None
    assert new is not None
    assert old.links_name == "lab"
    assert new.links_name == f"lab-{new.incarnation}"
    assert new.incarnation


async def test_a_survivor_goes_on_alone_and_keeps_all_that_it_holds(site, capsys):
    members = ("m1", "m2", "m3")
    for member in members:
        await site.start(member, *members)
    for number in range(120):
        await site.put("m1", f"key{number}", bytes(50))
    await site.stop()
    config = site.config("m2", *members)
    assert main(["recover", "--config", str(config)]) == 0
    assert "nothing was changed" in capsys.readouterr().out
    before = read_log(open_log_files(site.data_dir("m2")))
    assert main(["recover", "--config", str(config), "--yes"]) == 0
    log = read_log(open_log_files(site.data_dir("m2")))
    assert log.last_index == before.last_index + 1
    assert log.identity.incarnation
    survivor = await site.start("m2", *members)
    assert await wait_until(lambda: survivor.is_leader, CLOCK, WAIT_S)
    await site.put("m2", "after", b"alone")
    store = site.stores["m2"]
    assert all(store.get(f"key{number}".encode()) for number in range(120))
    assert survivor.status().configuration == Configuration((MemberId("m2"),))


async def test_recovery_is_refused_while_a_quorum_can_be_had(site, capsys):
    members = ("m1", "m2", "m3")
    for member in members:
        await site.start(member, *members)
    await site.put("m1", "key", b"value")
    await site.nodes.pop("m3").stop()
    config = site.config("m3", *members)
    assert main(["recover", "--config", str(config), "--yes"]) == 1
    assert "can still be had" in capsys.readouterr().err
    log = read_log(open_log_files(site.data_dir("m3")))
    assert log.identity.incarnation == ""


async def test_a_master_that_was_away_is_sent_the_snapshot_over_its_own_connection(site):
    """Real files, real connections, threads: what the driver's tests do on memory."""
    members = ("m1", "m2", "m3")
    for member in members:
        await site.start(member, *members)
    await site.put("m1", "first", b"value")
    await site.nodes.pop("m3").stop()
    for number in range(200):
        await site.put("m1", f"key{number}", bytes(5000))
    node = await site.start("m3", *members)
    assert await wait_until(lambda: node.metrics().snapshots_received == 1, CLOCK, WAIT_S)
    await node.read_barrier(WAIT_S)
    hashes = set()
    for member in members:
        await site.nodes[member].read_barrier(WAIT_S)
        hashes.add(site.stores[member].freeze().state_hash())
    assert len(hashes) == 1
    figures = node.metrics()
    assert figures.sync.count > 0
    assert figures.sync.p50_s <= figures.sync.p99_s <= figures.sync.max_s
    assert figures.alarms == ()


class OneMaster:
    """What the backup's route asks of the API, over a real node."""

    def __init__(self, node: RaftNode, key: DataKey | None) -> None:
        self.inside = self
        self.node = node
        self.backup_seal = BackupSeal(key, "lab")

    async def read_barrier(self, request: Request) -> None:
        await self.node.read_barrier(WAIT_S)


async def fetch(app: Starlette, path: str, query: bytes = b"") -> tuple[int, bytes]:
    sent: list[dict] = []
    scope = {"type": "http", "method": "GET", "path": path, "headers": [], "query_string": query}
    is_asked = False

    async def receive():
        nonlocal is_asked
        if is_asked:
            await asyncio.Event().wait()
        is_asked = True
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        sent.append(message)

    await app(scope, receive, send)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])


async def test_a_running_master_serves_a_backup_that_passes_its_check(site, capsys):
    node = await site.start("m1", "m1")
    for number in range(60):
        await site.put("m1", f"key{number}", bytes(20_000))
    app = Starlette(routes=BackupRoute(OneMaster(node, None)).routes())
    status, body = await fetch(app, "/essaim/cluster/backup", b"unencrypted=1")
    assert status == 200
    backup = site.root / "backup"
    backup.write_bytes(body)
    assert main(["check", str(backup)]) == 0
    assert f"entry {node.applied}" in capsys.readouterr().out
    backup.write_bytes(body[:-30])
    assert main(["check", str(backup)]) == 1
    assert "ends before its footer" in capsys.readouterr().err


async def test_a_running_master_seals_its_backup_or_refuses_it(site, capsys):
    node = await site.start("m1", "m1")
    for number in range(60):
        await site.put("m1", f"key{number}", b"marker" * 4000)
    keyless = Starlette(routes=BackupRoute(OneMaster(node, None)).routes())
    with pytest.raises(NotSupported, match="set seal_key_file on all masters, or ask for an open"):
        await fetch(keyless, "/essaim/cluster/backup")
    key = load_data_key(site.seal_key)
    app = Starlette(routes=BackupRoute(OneMaster(node, key)).routes())
    status, body = await fetch(app, "/essaim/cluster/backup")
    assert status == 200
    assert b"marker" not in body
    assert len(body) > 60 * 24_000
    backup = site.root / "backup"
    backup.write_bytes(body)
    assert main(["check", str(backup)]) == 0, "that it is whole is seen without the key"
    assert f"cluster lab, sealed with the key {key.id.hex()}" in capsys.readouterr().out
    assert main(["check", str(backup), "--seal-key-file", str(site.seal_key)]) == 0
    assert f"entry {node.applied}" in capsys.readouterr().out


async def test_a_sealed_backup_is_restored_with_the_key_and_every_fault_is_one_line(site, capsys):
    await site.start("m1", "m1")
    for number in range(60):
        await site.put("m1", f"key{number}", bytes(20_000))
    state_hash = site.stores["m1"].freeze().state_hash()
    await site.stop()
    backup = site.root / "backup"
    key = ["--seal-key-file", str(site.seal_key)]
    assert main(site.backup("m1", backup)) == 1
    assert "name its file with --seal-key-file, or ask" in capsys.readouterr().err
    assert main([*site.backup("m1", backup), *key]) == 0
    whole = backup.read_bytes()
    other = site.root / "other"
    write_private(other, new_data_key_text().encode())

    def refusal(content: bytes, *arguments: str) -> str:
        backup.write_bytes(content)
        assert main([*arguments[:1], str(backup), *arguments[1:]]) == 1
        said = capsys.readouterr().err
        assert len(said.splitlines()) == 1
        return said

    config = ["--config", str(site.config("n1", "n1"))]
    assert "and the key given is" in refusal(
        whole, "restore", *config, "--seal-key-file", str(other)
    )
    block, body = SEALED_BLOCK_BYTES, len(read_header("it", whole)[0])
    assert len(whole) > body + 3 * block
    first, second = whole[body : body + block], whole[body + block : body + 2 * block]
    exchanged = whole[:body] + second + first + whole[body + 2 * block :]
    flipped = bytearray(whole)
    flipped[body + 100] ^= 1
    for spoilt in (whole[:-1], whole[:-block], whole[:50], exchanged, flipped):
        spoilt = bytes(spoilt)
        assert "is damaged at byte" in refusal(spoilt, "restore", *config)
        assert "is damaged at byte" in refusal(spoilt, "check")
        # Somebody who knows the format makes the trailer right again: the seal does not open.
        forged = spoilt[:-TRAILER_BYTES]
        forged += TRAILER_MAGIC + hashlib.sha256(forged).digest()
        assert "is damaged at byte" in refusal(forged, "restore", *config)
    assert not (site.data_dir("n1") / "wal").exists(), "a bad file leaves no disk behind"
    backup.write_bytes(whole)
    assert main(["restore", str(backup), *config]) == 0
    await site.start("n1", "n1")
    assert site.stores["n1"].freeze().state_hash() == state_hash


async def test_no_file_of_a_master_holds_what_was_put_in_the_clear(site):
    """Log, snapshots, the copy of a torn segment: what lies on the disk tells nothing."""
    node = await site.start("m1", "m1")
    for number in range(120):
        await site.put("m1", f"planted-key-{number}", b"planted-value" * 20)
    assert await wait_until(lambda: node.metrics().snapshots_made > 0, CLOCK, WAIT_S)
    assert await wait_until(lambda: not node._snapshots._making, CLOCK, WAIT_S)
    await site.stop()
    files = [path for path in site.data_dir("m1").rglob("*") if path.is_file()]
    assert {path.suffix for path in files} >= {".wal", ".snapshot"}
    for path in files:
        assert b"planted" not in path.read_bytes(), path
    ring = site.data_dir("m1") / RING_FILE
    assert ring.stat().st_mode & 0o077 == 0


async def test_a_master_without_its_keys_says_which_and_where(site, capsys):
    await site.start("m1", "m1")
    await site.put("m1", "key", b"value")
    await site.stop()
    ring = site.data_dir("m1") / RING_FILE
    (one,) = decode_ring(ring.read_bytes(), "it")
    ring.rename(site.root / "elsewhere")
    for command in ("log", "dump"):
        assert main([command, "--data-dir", str(site.data_dir("m1"))]) == 1
        said = capsys.readouterr().err
        assert f"is sealed with the data key {one.key.id.hex()}, which is not in {ring}" in said
        assert len(said.splitlines()) == 1
    with pytest.raises(DataKeyMissing, match="put back the file of keys"):
        await site.start("m1", "m1")
    assert not ring.exists(), "no new ring hides that the old one is gone"
    (site.root / "elsewhere").rename(ring)
    ring.chmod(0o640)
    assert main(["dump", "--data-dir", str(site.data_dir("m1"))]) == 1
    assert f"run chmod 600 {ring}" in capsys.readouterr().err
    ring.chmod(0o600)
    assert main(["dump", "--data-dir", str(site.data_dir("m1"))]) == 0
    assert "value" in capsys.readouterr().out
