"""A founded cluster behind a port, and directories of its processes."""

import random
import ssl
from pathlib import Path
from typing import Any

import msgspec
from support.founded_cluster import FoundedCluster

from essaim_master.authority.standing import refusal
from essaim_master.http.api import Api
from essaim_master.http.app import App
from essaim_master.http.host_facts import read_host_facts
from essaim_master.http.server import HttpServer
from essaim_master.process_end import end_process
from essaim_master.state.cluster import Member
from essaim_shared.clock import Clock, SystemClock
from essaim_shared.http_call import Answer, call
from essaim_shared.ids import MemberId
from essaim_shared.trust.certificates import facts_of
from essaim_shared.trust.identity import Identity, read_identity, write_identity
from essaim_shared.trust.renewal import IdentityRenewal
from essaim_shared.trust.tls import PeerCertificate, Tls

CLOCK = SystemClock()
WAIT_S = 20.0
SEED = 20261128


class NoFigures:
    def nodes(self) -> dict[Any, Any]:
        return {}

    def containers(self) -> dict[Any, Any]:
        return {}


class TrustedSite:
    def __init__(self, root: Path, lifetime_s: int) -> None:
        self.root = root
        self.founded = FoundedCluster(root, CLOCK, lifetime_s)
        self.directories = {
            "master": self._written("master", self.founded.master),
            "agent": self._written("agent", self.founded.agent),
            "admin": self._written("admin", self.founded.admin),
        }
        self.tls = {name: Tls(path) for name, path in self.directories.items()}
        cluster = self.founded.cluster
        rng = random.Random(SEED)
        api = Api(cluster, CLOCK, rng, NoFigures(), read_host_facts(), authority=self.founded.desk)
        self.server = HttpServer(
            App(api, "test"), end_process, root / "s", "127.0.0.1:0", tls=self.tls["master"]
        )

    async def start(self) -> None:
        await self.founded.found()
        await self.server.start()
        own = Member(MemberId("h1"), "127.0.0.1:7401", self.address)
        self.founded.cluster.members = (own,)

    def _written(self, name: str, identity: Identity) -> Path:
        write_identity(self.root / name, identity)
        return self.root / name

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server.tcp_port}"

    async def ask(
        self, target: str, body: object = None, tls: ssl.SSLContext | None = None
    ) -> Answer:
        method = "GET" if body is None else "POST"
        content = b"" if body is None else msgspec.json.encode(body)
        return await call(self.address, method, target, timeout_s=WAIT_S, body=content, tls=tls)

    def stranger(self) -> ssl.SSLContext:
        """Somebody who knows the authority and has no certificate."""
        return ssl.create_default_context(cadata=self.founded.founding.authority_pem.decode())

    def renewal(self, name: str, clock: Clock = CLOCK) -> IdentityRenewal:
        keeper = IdentityRenewal(self.directories[name], self.tls[name], clock, random.Random(SEED))
        keeper.note(0, (self.address,))
        return keeper

    def shown(self, name: str) -> PeerCertificate:
        """By the certificate that is on disk now."""
        facts = facts_of(read_identity(self.directories[name]).own_pem)
        subject = facts.subject
        return PeerCertificate(subject.name, subject.role.value, subject.cluster_id, facts.serial)

    def why_not(self, certificate: PeerCertificate) -> str:
        return refusal(self.founded.state, "test", certificate) or ""
