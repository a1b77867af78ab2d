"""A founded cluster of one master in memory, with the desk at which others join."""

import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from essaim_master.authority.desk import AuthorityDesk, DeskSettings
from essaim_master.authority.founding import FoundingFile
from essaim_master.authority.upkeep import AuthorityUpkeep
from essaim_master.authority.vault import AuthorityVault
from essaim_master.control.founding import first_trust_writes
from essaim_master.kv.commands import Transaction, TransactionResult
from essaim_master.state.cluster import LocalCluster, Member
from essaim_master.state.writes import Writes
from essaim_shared.clock import Clock, ManualClock
from essaim_shared.ids import MemberId
from essaim_shared.objects import ClusterInfo
from essaim_shared.sealing import DataKey, new_data_key_text, write_private
from essaim_shared.trust.bus_keys import new_seed, public_key_of
from essaim_shared.trust.certificates import SignedRequest, facts_of, new_request
from essaim_shared.trust.founding import Founder, write_founding
from essaim_shared.trust.joining import ClusterNetworks, JoinRequest, RoleRequest
from essaim_shared.trust.roles import Role
from essaim_shared.trust.tls import PeerCertificate
from essaim_shared.trust_objects import NodeIdentity

SEED = 20261128
LIFETIME_S = 90 * 86_400


class RivalledCluster(LocalCluster):
    """Lets another writer in just before the next commit."""

    before_commit: Callable[[], Awaitable[None]] | None = None

    async def commit(self, transaction: Transaction, timeout_s: float) -> TransactionResult:
        rival, self.before_commit = self.before_commit, None
        if rival is not None:
            await rival()
        return await super().commit(transaction, timeout_s)


class FoundedCluster:
    """`clock` is a manual one if none is given."""

    def __init__(
        self, directory: Path, clock: Clock | None = None, lifetime_s: int = LIFETIME_S
    ) -> None:
        self.clock: Any = clock or ManualClock()
        member = Member(MemberId("h1"), "127.0.0.1:7401", "127.0.0.1:7400")
        self.cluster = RivalledCluster(self.clock, member)
        self.state = self.cluster.state
        self.vault = AuthorityVault(DataKey(b"k" * 32))
        self.identity_dir = directory / "identity"
        self.identity_dir.mkdir()
        self.seal_key_file = directory / "seal.key"
        write_private(self.seal_key_file, new_data_key_text().encode())
        founder = Founder("test", self.clock.wall_ns())
        self.master = founder.admit(Role.MASTER, "h1", addresses=["127.0.0.1"])
        self.agent = founder.admit(Role.AGENT, "node1")
        self.admin = founder.admit(Role.USER, "admin")
        self.founding = founder.founding
        write_founding(self.identity_dir, self.founding)
        self.file = FoundingFile(self.identity_dir, self.vault)
        self.upkeep = AuthorityUpkeep(self.cluster, self.file, self.clock)
        settings = DeskSettings(
            cluster_id="test",
            bus_servers=("nats://127.0.0.1:4222",),
            networks=ClusterNetworks(udp_port=7472),
            certificate_lifetime_s=lifetime_s,
            seal_key_file=str(self.seal_key_file),
        )
        self.desk = AuthorityDesk(
            self.cluster, self.vault, settings, self.clock, random.Random(SEED)
        )

    async def found(self) -> None:
        writes = Writes()
        writes.put(ClusterInfo(id="test", created_ns=self.clock.wall_ns()))
        await self.commit(writes)
        await self.commit(first_trust_writes(self.state, self.file.sealed()))

    async def commit(self, writes: Writes) -> bool:
        results = [await self.cluster.commit(one, 1.0) for one in writes.transactions()]
        return all(result.succeeded for result in results)

    def known(self, role: Role, name: str) -> NodeIdentity:
        found = self.state.identity(role, name)
        assert found is not None
        return found

    def shown(self, role: Role, name: str, serial: str | None = None) -> PeerCertificate:
        """What a connection with the present certificate proves."""
        serial = serial or self.known(role, name).serial
        return PeerCertificate(name=name, role=role.value, cluster_id="test", serial=serial)


def role_request(role: Role) -> RoleRequest:
    asked: SignedRequest = new_request(role.value)
    return RoleRequest(role, asked.request_pem.decode(), public_key_of(new_seed()))


def join_request(secret: str, *roles: Role, master_name: str = "") -> JoinRequest:
    return JoinRequest(
        secret=secret,
        hostname="h2",
        requests=tuple(role_request(role) for role in roles),
        master_name=master_name,
        addresses=("127.0.0.1",),
    )


def serial_of(certificate_pem: str) -> str:
    return facts_of(certificate_pem.encode()).serial
