"""Masters that serve the native key-value protocol: one alone, or three over Raft."""

import asyncio
import random
from collections.abc import Callable

from essaim_master.kv.commands import AppliedProposal, ProposalId
from essaim_master.kv.store import KeyValueStore
from essaim_master.kv_admission import ClientTrust
from essaim_master.kv_server import KeyValueNode, KvServer
from essaim_master.memory_peer_transport import MemoryPeerNetwork
from essaim_master.raft.config import RaftConfig
from essaim_master.raft.messages import Configuration
from essaim_master.raft_driver import RaftNode
from essaim_master.raft_waiters import Waiter
from essaim_master.wal.memory_files import MemoryLogFiles
from essaim_master.wal.records import Identity
from essaim_shared.clock import SystemClock, wait_until
from essaim_shared.errors import EssaimError, NoLeader
from essaim_shared.ids import MemberId
from essaim_shared.kv_protocol import (
    KV_PROTOCOL_VERSION,
    ClientFrame,
    Greeting,
    MasterFrame,
    MasterFrameReader,
    OpenSession,
    SessionOpened,
    Welcome,
    encode_frame,
)

CLOCK = SystemClock()
WAIT_S = 20.0
MEMBERS = tuple(MemberId(name) for name in ("m1", "m2", "m3"))


async def until(condition: Callable[[], bool], what: str) -> None:
    assert await wait_until(condition, CLOCK, WAIT_S), f"this did not come about: {what}"


class AloneNode:
    """Applies at once, or when a test says so; the log of one master, in memory."""

    def __init__(self) -> None:
        self.store = KeyValueStore()
        self.leader: MemberId | None = MEMBERS[0]
        self.is_held = False
        self.held: list[tuple[bytes, Waiter]] = []
        self.refusal: EssaimError | None = None
        self.applied: list[ProposalId] = []
        self.barriers = 0

    def submit(
        self, command: bytes, proposal_id: ProposalId, timeout_s: float, waiter: Waiter
    ) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.held.append((command, waiter))
        if not self.is_held:
            self.release()

    def release(self) -> None:
        held, self.held = self.held, []
        for command, waiter in held:
            outcome = self.store.apply(len(self.applied) + 1, 1, command)
            assert isinstance(outcome, AppliedProposal)
            self.applied.append(outcome.proposal)
            if not waiter.done():
                waiter.set_result(outcome.result)

    def begin_read(self, timeout_s: float) -> asyncio.Future[int]:
        self.barriers += 1
        confirmed: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        if self.leader is None:
            confirmed.set_exception(NoLeader("no quorum"))
        else:
            confirmed.set_result(1)
        return confirmed


def new_server(
    node: KeyValueNode,
    store: KeyValueStore,
    member: MemberId = MEMBERS[0],
    port: int = 0,
    are_sessions_known: Callable[[], bool] = lambda: True,
    trust: ClientTrust | None = None,
) -> KvServer:
    listen = ("127.0.0.1", port)
    rng = random.Random()
    return KvServer(node, store, CLOCK, rng, "c1", member, listen, are_sessions_known, trust)


class Trio:
    """Three real RaftNodes over a network in memory, each with a server on loopback."""

    def __init__(self, seed: int) -> None:
        print(f"seed {seed}")
        self.rng = random.Random(seed)
        self.network = MemoryPeerNetwork(CLOCK, self.rng)
        self.files = {member: MemoryLogFiles() for member in MEMBERS}
        self.nodes: dict[MemberId, RaftNode] = {}
        self.stores: dict[MemberId, KeyValueStore] = {}
        self.servers: dict[MemberId, KvServer] = {}
        self.ports: dict[MemberId, int] = dict.fromkeys(MEMBERS, 0)
        self.fatal_errors: list[BaseException] = []

    async def start(self, *members: MemberId) -> None:
        for member in members or MEMBERS:
            store = self.stores[member] = KeyValueStore()
            node = self.nodes[member] = RaftNode(
                RaftConfig(member),
                Identity("c1", member, Configuration(MEMBERS)),
                self.files[member],
                self.network.transport(member),
                store,
                CLOCK,
                random.Random(self.rng.getrandbits(64)),
                self.fatal_errors.append,
            )
            await node.start()
            server = self.servers[member] = new_server(node, store, member, self.ports[member])
            await server.start()
            self.ports[member] = server.listening[1]

    async def stop(self, *members: MemberId) -> None:
        for member in members or tuple(self.nodes):
            await self.servers.pop(member).stop()
            await self.nodes.pop(member).stop()

    async def leader(self) -> MemberId:
        def leaders() -> set[MemberId | None]:
            return {node.leader for node in self.nodes.values()}

        await until(lambda: len(leaders()) == 1 and None not in leaders(), "all follow one leader")
        (found,) = leaders()
        assert found is not None
        return found


class RawClient:
    """A connection to a server, frame by frame."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self._frames = MasterFrameReader()
        self._read: list[MasterFrame] = []

    @classmethod
    async def connect(cls, server: KvServer) -> "RawClient":
        return cls(*await asyncio.open_connection(*server.listening))

    @classmethod
    async def greeted(cls, server: KvServer, session: int = 0) -> "RawClient":
        client = await cls.connect(server)
        client.send(Greeting(KV_PROTOCOL_VERSION, "", session))
        assert isinstance(await client.next(), Welcome)
        return client

    @classmethod
    async def with_session(cls, server: KvServer) -> "RawClient":
        client = await cls.greeted(server)
        client.send(OpenSession(1, 1000))
        assert isinstance(await client.next(), SessionOpened)
        return client

    def send(self, *frames: ClientFrame) -> None:
        self.writer.write(b"".join(map(encode_frame, frames)))

    async def next(self) -> MasterFrame:
        while not self._read:
            data = await asyncio.wait_for(self.reader.read(65536), WAIT_S)
            assert data, "the master closed the connection"
            self._read += self._frames.feed(data)
        return self._read.pop(0)

    async def is_closed_by_the_master(self) -> bool:
        try:
            while await asyncio.wait_for(self.reader.read(65536), WAIT_S):
                pass
        except ConnectionResetError:
            return True
        return True

    async def close(self) -> None:
        self.writer.transport.abort()
        try:
            await self.writer.wait_closed()
        except OSError:
            return
