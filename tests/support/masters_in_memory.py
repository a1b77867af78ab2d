"""Masters with real consensus on memory disks and links, for what they do beside their work."""

import random

import msgspec

from essaim_master.cluster_members import ClusterMembers
from essaim_master.cluster_upkeep import ClusterUpkeep
from essaim_master.kv.store import KeyValueStore
from essaim_master.memory_peer_transport import MemoryPeerNetwork
from essaim_master.node_roles import NodeRoles
from essaim_master.raft.config import RaftConfig
from essaim_master.raft.messages import Configuration
from essaim_master.raft_driver import RaftNode
from essaim_master.state.cluster import Member
from essaim_master.state.cluster_state import ClusterState
from essaim_master.state.replicated import ReplicatedCluster
from essaim_master.state_hashes import StateHashes
from essaim_master.wal.memory_files import MemoryLogFiles
from essaim_master.wal.records import Identity
from essaim_shared.clock import SystemClock, wait_until
from essaim_shared.errors import ConfigError
from essaim_shared.ids import MemberId

SEED = 11
WAIT_S = 10.0
CLOCK = SystemClock()
FIRST = tuple(Member(MemberId(f"m{n}"), f"10.0.0.{n}:7401", f"10.0.0.{n}:7400") for n in (1, 2, 3))


class Links:
    """Notes what the links are told; the memory network needs no addresses."""

    def __init__(self) -> None:
        self.peers: dict[str, tuple[str, int]] = {}

    def set_peers(self, addresses) -> None:
        self.peers = dict(addresses)


class MasterInMemory:
    def __init__(self, world: "Masters", member: Member, first: Configuration) -> None:
        self.id = member.id
        self.store = KeyValueStore()
        self.state = ClusterState(self.store)
        self.node = RaftNode(
            RaftConfig(member.id),
            Identity("cluster-1", member.id, first),
            MemoryLogFiles(),
            world.network.transport(member.id),
            self.store,
            CLOCK,
            random.Random(world.rng.getrandbits(64)),
            world.fatal_errors.append,
            64 * 1024,
        )
        self.cluster = ReplicatedCluster(self.node, self.state, member.id, FIRST, CLOCK, world.rng)
        self.links = Links()
        self.unfit: list[ConfigError] = []
        self.members = ClusterMembers(
            self.cluster, self.node, self.links, FIRST, CLOCK, self.unfit.append
        )
        self.roles = NodeRoles(
            self.cluster,
            self.node,
            self.members,
            CLOCK,
            "cluster-1",
            "second-life",
            world.ask,
        )
        self.hashes = StateHashes(self.store, self.state)
        self.upkeep = ClusterUpkeep(
            self.cluster,
            self.node,
            self.members,
            self.hashes,
            CLOCK,
            self.unfit.append,
            world.ask,
            hash_period_s=0.0,
            lonely_s=0.2,
        )

    async def start(self) -> None:
        await self.node.start()
        self.members.start()
        self.hashes.start()

    async def stop(self) -> None:
        self.members.stop()
        await self.hashes.stop()
        await self.node.stop()


class Masters:
    def __init__(self) -> None:
        print(f"seed {SEED}")
        self.rng = random.Random(SEED)
        self.network = MemoryPeerNetwork(CLOCK, self.rng)
        self.fatal_errors: list[BaseException] = []
        self.all: dict[str, MasterInMemory] = {}
        self.deaf: set[str] = set()
        """Those that answer no questions of other masters."""

    async def start(self, member: Member, first: Configuration) -> MasterInMemory:
        master = self.all[member.id] = MasterInMemory(self, member, first)
        await master.start()
        return master

    async def ask(self, address: str, target: str) -> bytes | None:
        """One master's question to another, as its HTTP API would answer it."""
        asked = (m for m in self.all.values() if address == f"10.0.0.{m.id[1]}:7400")
        master = next(asked, None)
        if master is None or master.id in self.deaf:
            return None
        if target.startswith("/essaim/cluster/hash?revision="):
            found = master.hashes.at(int(target.rpartition("=")[2]))
            if found is None:
                return None
            return msgspec.json.encode({"Revision": found.revision, "Hash": found.hash})
        rows = [
            {"ID": one.id, "Removed": bool(one.removed_ns)} for one in master.state.members.values()
        ]
        return msgspec.json.encode(rows)

    async def leader(self) -> MasterInMemory:
        def leading() -> list[MasterInMemory]:
            return [master for master in self.all.values() if master.node.is_leader]

        assert await wait_until(lambda: len(leading()) == 1, CLOCK, WAIT_S)
        return leading()[0]

    async def turns_until(self, condition, what: str) -> None:
        """Let every master do its upkeep again and again."""
        deadline_s = CLOCK.monotonic_s() + WAIT_S
        while not condition():
            assert CLOCK.monotonic_s() < deadline_s, f"did not come about: {what}"
            for master in list(self.all.values()):
                await master.upkeep.turn()
            await CLOCK.sleep(0.005)
