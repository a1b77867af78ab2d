"""RaftNodes as a daemon runs them: TCP on loopback, files, the log's own thread, real time."""

import asyncio
import errno
import random
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from essaim_master.kv.answers import RESULTS_PER_CLIENT_MAX
from essaim_master.kv.commands import (
    Command,
    Get,
    ProposalId,
    Put,
    Transaction,
    TransactionResult,
    encode_command,
)
from essaim_master.kv.store import KeyValueStore
from essaim_master.process_end import EXIT_STATUS_FATAL
from essaim_master.raft.core import RaftConfig
from essaim_master.raft.messages import Configuration, Entry, EntryKind
from essaim_master.raft_driver import RaftNode
from essaim_master.raft_waiters import PROPOSALS_MAX
from essaim_master.tcp_peer_transport import PeerAddress, TcpPeerTransport
from essaim_master.wal.errors import ForeignWal, WalCorrupt
from essaim_master.wal.files import DiskLogFiles
from essaim_master.wal.log import Wal
from essaim_master.wal.memory_files import MemoryLogFiles
from essaim_master.wal.records import Identity, WalBatch
from essaim_master.wal.writer import WalWriter
from essaim_shared.clock import SystemClock, wait_until
from essaim_shared.errors import ConfigError
from essaim_shared.ids import MemberId

MEMBERS = tuple(MemberId(name) for name in ("m1", "m2", "m3"))
CLOCK = SystemClock()
WAIT_S = 20.0
SEGMENT_BYTES = 256 * 1024


class Masters:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.nodes: dict[MemberId, RaftNode] = {}
        self.stores: dict[MemberId, KeyValueStore] = {}
        self.addresses: dict[MemberId, PeerAddress] = {}
        self.transports: dict[MemberId, TcpPeerTransport] = {}
        self.fatal_errors: list[BaseException] = []
        self.sequence = 0

    async def start(self, *members: MemberId, cluster_id: str = "cluster-1") -> None:
        for member in members or MEMBERS:
            listen = self.addresses.get(member, PeerAddress("127.0.0.1", 0))
            transport = TcpPeerTransport(cluster_id, member, listen, CLOCK, random.Random(1))
            self.stores[member] = KeyValueStore()
            node = RaftNode(
                RaftConfig(member),
                Identity(cluster_id, member, Configuration(MEMBERS)),
                DiskLogFiles(self.directory / member),
                transport,
                self.stores[member],
                CLOCK,
                random.Random(),
                self.fatal_errors.append,
                SEGMENT_BYTES,
            )
            await node.start()
            self.nodes[member], self.transports[member] = node, transport
            self.addresses[member] = transport.listening
        for transport in self.transports.values():
            transport.set_peers(self.addresses)

    async def stop(self, *members: MemberId) -> None:
        for member in members or tuple(self.nodes):
            await self.nodes.pop(member).stop()
            del self.transports[member]

    async def leader(self) -> MemberId:
        def found() -> bool:
            return any(node.is_leader for node in self.nodes.values())

        assert await wait_until(found, CLOCK, WAIT_S), "no leader was elected"
        return next(member for member, node in self.nodes.items() if node.is_leader)

    async def put(self, member: MemberId, key: bytes, value: bytes) -> TransactionResult:
        return await self.write(member, Put(key, value))

    async def write(self, member: MemberId, *operations: Put | Get) -> TransactionResult:
        self.sequence += 1
        proposal_id = ProposalId("test", self.sequence)
        command = encode_command(Command(proposal_id, 0, Transaction(then=operations)))
        result = await self.nodes[member].propose(command, proposal_id, WAIT_S)
        assert isinstance(result, TransactionResult)
        return result


@pytest.fixture
async def masters(tmp_path: Path) -> AsyncIterator[Masters]:
    made = Masters(tmp_path)
    yield made
    await made.stop()
    assert made.fatal_errors == []


async def test_writes_through_every_master_are_on_every_master_after_a_restart_of_all(masters):
    await masters.start()
    await masters.leader()
    await asyncio.gather(
        *(
            masters.put(MEMBERS[number % 3], f"key{number}".encode(), bytes(100))
            for number in range(600)
        )
    )
    await masters.stop()
    await masters.start()
    for member in MEMBERS:
        await masters.leader()
        await masters.nodes[member].read_barrier(WAIT_S)
        store = masters.stores[member]
        assert all(store.get(f"key{number}".encode()) for number in range(600))
    segments = list((masters.directory / "m1").glob("*.wal"))
    assert segments


async def test_the_leader_goes_away_and_the_next_write_waits_for_its_successor(masters):
    await masters.start()
    leader = await masters.leader()
    await masters.put(leader, b"before", b"1")
    await masters.stop(leader)
    survivor = next(iter(masters.nodes))
    result = await masters.put(survivor, b"after", b"2")
    assert result.revision == 2
    await masters.start(leader)
    await masters.nodes[leader].read_barrier(WAIT_S)
    assert masters.stores[leader].get(b"after") is not None


async def test_a_lone_master_commits_after_its_own_sync(tmp_path):
    masters = Masters(tmp_path)
    config = Configuration((MemberId("m1"),))
    store = KeyValueStore()
    transport = TcpPeerTransport(
        "c", MemberId("m1"), PeerAddress("127.0.0.1", 0), CLOCK, random.Random(1)
    )
    node = RaftNode(
        RaftConfig(MemberId("m1")),
        Identity("c", MemberId("m1"), config),
        DiskLogFiles(tmp_path / "m1"),
        transport,
        store,
        CLOCK,
        random.Random(),
        masters.fatal_errors.append,
        SEGMENT_BYTES,
    )
    await node.start()
    masters.nodes[MemberId("m1")] = node
    await masters.put(MemberId("m1"), b"key", b"value")
    assert await node.read_barrier(WAIT_S) == node.applied
    assert store.get(b"key") is not None
    await node.stop()
    assert masters.fatal_errors == []


async def test_a_damaged_log_keeps_the_master_from_starting(masters):
    await masters.start()
    leader = await masters.leader()
    for number in range(5):
        await masters.put(leader, b"key", str(number).encode())
    await masters.stop()
    segment = next((masters.directory / "m1").glob("*.wal"))
    data = bytearray(segment.read_bytes())
    data[len(data.rstrip(b"\0")) // 2] ^= 1
    segment.write_bytes(data)
    with pytest.raises(WalCorrupt, match="damaged at byte"):
        await masters.start(MemberId("m1"))


async def test_a_disk_of_another_cluster_keeps_the_master_from_starting(masters):
    await masters.start()
    await masters.stop()
    with pytest.raises(ForeignWal, match="belongs to cluster 'cluster-1'"):
        await masters.start(MemberId("m1"), cluster_id="cluster-2")


async def test_a_peer_address_in_use_leaves_nothing_behind(masters):
    await masters.start(MemberId("m1"))
    masters.addresses[MemberId("m2")] = masters.addresses[MemberId("m1")]
    with pytest.raises(ConfigError, match="cannot listen"):
        await masters.start(MemberId("m2"))
    del masters.addresses[MemberId("m2")]
    await masters.start(MemberId("m2"))
    await masters.put(MemberId("m2"), b"key", b"value")


def test_no_copy_of_a_proposal_outlives_the_answer_that_the_state_machine_keeps():
    assert PROPOSALS_MAX < RESULTS_PER_CLIENT_MAX


def test_a_fatal_error_ends_the_process_at_once_with_one_line():
    program = """
import errno, logging
from essaim_master.process_end import end_process
logging.basicConfig(format="%(message)s")
try:
    end_process(OSError(errno.EIO, "Input/output error"))
finally:
    print("still here")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == EXIT_STATUS_FATAL
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert "the disk failed" in line
    assert "look at the disk, then start it" in line


class TestWalWriter:
    """The thread between the loop and the log."""

    def start(self, files: MemoryLogFiles) -> tuple[WalWriter, list[int], list[BaseException]]:
        wal, _ = Wal.open(files, Identity("c", MemberId("m1"), Configuration(())), 64 * 1024)
        tickets: list[int] = []
        errors: list[BaseException] = []
        loop = asyncio.get_running_loop()
        return WalWriter(wal, loop, tickets.append, errors.append, CLOCK), tickets, errors

    def batch(self, index: int) -> WalBatch:
        return WalBatch([Entry(1, index, EntryKind.NORMAL, b"data")])

    async def test_tickets_come_back_in_order_and_the_last_covers_all(self):
        files = MemoryLogFiles()
        writer, tickets, errors = self.start(files)
        given = [writer.submit(self.batch(index)) for index in range(1, 101)]
        assert given == list(range(1, 101))
        assert await wait_until(lambda: bool(tickets) and tickets[-1] == 100, CLOCK, WAIT_S)
        assert tickets == sorted(tickets)
        await writer.close()
        assert errors == []
        wal, recovered = Wal.open(files, Identity("c", MemberId("m1"), Configuration(())))
        wal.close()
        assert len(recovered.entries) == 100

    async def test_what_was_submitted_before_close_is_written(self):
        files = MemoryLogFiles()
        writer, _, _ = self.start(files)
        for index in range(1, 50):
            writer.submit(self.batch(index))
        await writer.close()
        found = files.crash(random.Random(1))
        wal, recovered = Wal.open(found, Identity("c", MemberId("m1"), Configuration(())))
        wal.close()
        assert len(recovered.entries) == 49

    @pytest.mark.parametrize("operation", ["write_at", "sync_data"])
    async def test_an_error_is_fatal_once_and_nothing_is_acknowledged_after_it(self, operation):
        files = MemoryLogFiles()
        writer, tickets, errors = self.start(files)
        files.fail(operation, errno.EIO)
        writer.submit(self.batch(1))
        assert await wait_until(lambda: bool(errors), CLOCK, WAIT_S)
        writer.submit(self.batch(2))
        await writer.close()
        assert [type(error) for error in errors] == [OSError]
        assert tickets == []
