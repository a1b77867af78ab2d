"""A master's part in the consensus, wired: log, links, members and what watches over them."""

import asyncio
import random
from collections.abc import Callable
from pathlib import Path

from essaim_master.at_rest.backup_file import BackupSeal
from essaim_master.at_rest.key_ring import LOG_DIRECTORY, open_ring
from essaim_master.at_rest.rotation import KeyRotation
from essaim_master.authority.standing import refusal
from essaim_master.cluster_members import ClusterMembers
from essaim_master.cluster_upkeep import ClusterUpkeep, asking_over_http
from essaim_master.config import MasterConfig, split_address
from essaim_master.http.audit_trail import AuditTrail
from essaim_master.http.peer_requests import PeerRequests
from essaim_master.http.raft_view import Inside
from essaim_master.kv.store import KeyValueStore
from essaim_master.link_trust import LinkTrust
from essaim_master.nats_peer_transport import NatsPeerTransport
from essaim_master.node_roles import NodeRoles
from essaim_master.own_bus import own_bus
from essaim_master.process_end import end_process
from essaim_master.raft.config import RaftConfig
from essaim_master.raft.messages import Configuration
from essaim_master.raft_driver import RaftNode
from essaim_master.refusals import Refusals
from essaim_master.state.cluster_state import ClusterState
from essaim_master.state.replicated import ReplicatedCluster
from essaim_master.state_hashes import StateHashes
from essaim_master.tcp_peer_transport import PeerAddress, TcpPeerTransport
from essaim_master.wal.files import DiskLogFiles
from essaim_master.wal.reading import read_identity
from essaim_master.wal.records import Identity
from essaim_shared.clock import Clock
from essaim_shared.errors import ConfigError
from essaim_shared.ids import MemberId
from essaim_shared.loop_lag import LoopLag
from essaim_shared.nats_transport import NatsTransport
from essaim_shared.sealing import load_data_key
from essaim_shared.subjects import Subjects
from essaim_shared.trust.tls import PeerCertificate, Tls

BUS_ELECTION_TICKS_MIN = 30
BUS_ELECTION_TICKS_MAX = 60
BUS_HEARTBEAT_TICKS = 5
"""Over the bus: a server of it may die, and its clients find another, without an election."""


class Consensus:
    def __init__(
        self,
        config: MasterConfig,
        store: KeyValueStore,
        clock: Clock,
        rng: random.Random,
        on_unfit: Callable[[ConfigError], None],
        tls: Tls | None = None,
    ) -> None:
        """`on_unfit` is called when this master must not go on in this cluster."""
        member_id = MemberId(config.member_id)
        self._cluster_id = config.cluster_id
        self._bus: NatsTransport | None = None
        ring = open_ring(Path(config.data_dir))
        files = DiskLogFiles(Path(config.data_dir) / LOG_DIRECTORY, ring)
        # Of the disk, whatever the configuration says: it was restored or recovered since.
        found = read_identity(files)
        identity = Identity(
            config.cluster_id,
            member_id,
            first_configuration(config),
            config.incarnation if found is None else found.incarnation,
        )
        self.refusals = {"https": Refusals(), "raft": Refusals(), "kv": Refusals()}
        """By the socket at which somebody was turned away."""
        trust = None if tls is None else LinkTrust(tls, config.cluster_id, self._is_admitted)
        self._peers = self._new_peers(config, identity, clock, rng, tls, trust)
        self.node = RaftNode(
            raft_config(config),
            identity,
            files,
            self._peers,
            store,
            clock,
            rng,
            end_process,
            snapshots=config.snapshots,
        )
        self.state = ClusterState(store)
        first = config.first_members
        self.cluster = ReplicatedCluster(self.node, self.state, member_id, first, clock, rng)
        trail = AuditTrail(self.state, member_id, clock, "members")
        self._members = ClusterMembers(
            self.cluster, self.node, self._peers, first, clock, on_unfit, trail.add
        )
        self._hashes = StateHashes(store, self.state)
        ask = asking_over_http(PeerRequests(tls))
        self._upkeep = ClusterUpkeep(
            self.cluster, self.node, self._members, self._hashes, clock, on_unfit, ask
        )
        self._loop_lag = LoopLag(clock)
        life = identity.incarnation
        roles = NodeRoles(
            self.cluster, self.node, self._members, clock, config.cluster_id, life, ask
        )
        self._key_rotation = KeyRotation(ring, clock)
        key = load_data_key(Path(config.seal_key_file)) if config.seal_key_file else None
        self._backup_seal = BackupSeal(key, config.cluster_id)
        self.inside = self._inside(roles)

    def _is_admitted(self, certificate: PeerCertificate) -> bool:
        """Whether another master's certificate still counts. Everything does until the state says
        who there is: it is what a link brings."""
        state = self.state
        if state.trust_anchors is None:
            return True
        return refusal(state, self._cluster_id, certificate) is None

    def _inside(self, roles: NodeRoles) -> Inside:
        return Inside(
            self.node,
            self._members,
            self._hashes,
            self._upkeep,
            self._loop_lag,
            roles,
            self._key_rotation,
            self._backup_seal,
            self.refusals,
        )

    async def start(self) -> None:
        """Recover, then take part. Raises ConfigError."""
        if self._bus is not None:
            await self._bus.open(wait_s=0)
        self._members.set_links()
        await self.node.start()
        # Only now: what a start restores is told to subscribers in another thread.
        self._members.start()
        self._hashes.start()

    def start_loops(self) -> tuple[asyncio.Task[None], ...]:
        """They run as long as the master does; the caller watches and ends them."""
        upkeep = asyncio.get_running_loop().create_task(self._upkeep.run(), name="upkeep")
        rotation = asyncio.get_running_loop().create_task(
            self._key_rotation.run(), name="data keys"
        )
        return upkeep, rotation, self._loop_lag.start()

    async def stop(self) -> None:
        self._members.stop()
        await self._hashes.stop()
        await self.node.stop()
        if self._bus is not None:
            await self._bus.close()

    def _new_peers(
        self,
        config: MasterConfig,
        identity: Identity,
        clock: Clock,
        rng: random.Random,
        tls: Tls | None,
        trust: LinkTrust | None,
    ) -> TcpPeerTransport | NatsPeerTransport:
        name, member_id = identity.links_name, identity.member_id
        if config.raft_transport == "nats":
            self._bus = own_bus(config, f"raft-{member_id}", clock, rng, tls)
            subjects = Subjects(config.cluster_id)
            return NatsPeerTransport(self._bus, subjects, name, member_id, clock, rng)
        listen = PeerAddress(*split_address(config.raft_listen))
        refusals = self.refusals["raft"]
        return TcpPeerTransport(name, member_id, listen, clock, rng, trust, refusals)


def raft_config(config: MasterConfig) -> RaftConfig:
    member_id = MemberId(config.member_id)
    if config.raft_transport == "nats":
        return RaftConfig(
            member_id,
            election_ticks_min=BUS_ELECTION_TICKS_MIN,
            election_ticks_max=BUS_ELECTION_TICKS_MAX,
            heartbeat_ticks=BUS_HEARTBEAT_TICKS,
        )
    return RaftConfig(member_id)


def first_configuration(config: MasterConfig) -> Configuration:
    """Of an empty log. A master that joins has none: the log that it is sent tells it."""
    if config.join:
        return Configuration(())
    return Configuration(tuple(member.id for member in config.first_members))
