"""A real, secured bus server on loopback, with users as masters write them."""

import asyncio
import json
import random
import signal
import ssl
import subprocess
from pathlib import Path

import msgspec
from support.identities import Identities

from essaim_shared.bus_login import BusLogin, bus_login
from essaim_shared.bus_server_config import BusServer, server_config
from essaim_shared.bus_users import UsersFile, users_file
from essaim_shared.clock import SystemClock, wait_until
from essaim_shared.http_call import call
from essaim_shared.ids import NodeId
from essaim_shared.nats_transport import NatsTransport
from essaim_shared.subjects import Subjects
from essaim_shared.trust.bus_keys import new_seed, public_key_of
from essaim_shared.trust.certificates import Authority
from essaim_shared.trust.identity import read_identity, write_authorities, write_own
from essaim_shared.trust.roles import Role
from essaim_shared.trust.tls import Tls
from essaim_shared.trust_objects import NodeIdentity

CLOCK = SystemClock()
PATIENCE_S = 20.0
SERVER = "server"


class SecuredBus:
    """Of the cluster `lab`. Its server has the identity of the master `server`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.identities = Identities(directory / "identities", CLOCK.wall_ns())
        self.identities.tls(SERVER)
        self.known: dict[tuple[Role, str], NodeIdentity] = {}
        self._removed: dict[tuple[Role, str], NodeIdentity] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._clients: list[NatsTransport] = []
        self.url = ""
        self.monitor = ""
        """`HOST:PORT`"""

    @property
    def config_file(self) -> Path:
        return self.directory / "bus.conf"

    @property
    def users_path(self) -> Path:
        return self.directory / "users.conf"

    @property
    def pid_file(self) -> Path:
        return self.directory / "bus.pid"

    @property
    def log(self) -> str:
        return (self.directory / "bus.log").read_text()

    def directory_of(self, role: Role, name: str) -> Path:
        return self.identities.root / f"{role.value}-{name}"

    # Who is known.

    def admit(self, role: Role, name: str) -> NodeIdentity:
        """A fresh identity; the server knows it with its next (re)load."""
        self.identities.tls(name, role)
        seed = read_identity(self.directory_of(role, name)).bus_seed
        now_ns = CLOCK.wall_ns()
        self.known[role, name] = NodeIdentity(
            role=role,
            name=name,
            bus_key=public_key_of(seed),
            key_digest="",
            serial="",
            generation=1,
            issued_ns=now_ns,
            expires_ns=now_ns,
            joined_ns=now_ns,
        )
        return self.known[role, name]

    def like(self, identity: NodeIdentity, name: str) -> NodeIdentity:
        """Of another node, whose files nobody needs."""
        key = public_key_of(new_seed())
        return msgspec.structs.replace(identity, name=name, bus_key=key)

    def remove(self, role: Role, name: str) -> None:
        self._removed[role, name] = self.known.pop((role, name))

    def admit_again(self, role: Role, name: str) -> None:
        self.known[role, name] = self._removed.pop((role, name))

    def renew(self, role: Role, name: str) -> None:
        """Another certificate for the same process; its key on the bus stays."""
        directory = self.directory_of(role, name)
        before = read_identity(directory)
        self.identities.tls(name, role)
        write_own(directory, read_identity(directory).own_pem)
        (directory / "bus.seed").write_text(before.bus_seed)

    def rotate_authority(self) -> None:
        """The server's certificate is another authority's, and both are believed everywhere."""
        before = self.identities.authority.certificate_pem
        self.identities.authority = Authority.new("lab", CLOCK.wall_ns())
        self.renew(Role.MASTER, SERVER)
        both = before + self.identities.authority.certificate_pem
        for directory in self.identities.root.iterdir():
            write_authorities(directory, both)

    # The server.

    async def start(self) -> None:
        self.write_users()
        self.config_file.write_text(
            f'ports_file_dir: "{self.directory}"\nlogtime: false\n'
            + server_config(
                BusServer(
                    name="bus-1",
                    cluster_name="lab",
                    listen="127.0.0.1:-1",
                    route_listen="127.0.0.1:-1",
                    routes=(),
                    monitor_listen="127.0.0.1:-1",
                    pid_file=self.pid_file,
                    users_file=self.users_path.name,
                    identity_dir=self.directory_of(Role.MASTER, SERVER),
                    route_password="known-to-masters",
                )
            )
        )
        with (self.directory / "bus.log").open("ab") as log:
            self._process = subprocess.Popen(
                ["nats-server", "-c", str(self.config_file)], stdout=log, stderr=log
            )
        ports = self.directory / f"nats-server_{self._process.pid}.ports"
        assert await wait_until(
            lambda: ports.exists() and ports.stat().st_size > 0, CLOCK, PATIENCE_S
        ), self.log
        known = json.loads(ports.read_text())
        self.url = "nats://" + known["nats"][0].rpartition("/")[2]
        self.monitor = known["monitoring"][0].rpartition("/")[2]
        self.routes = known["cluster"][0].rpartition("/")[2]

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def write_users(self) -> UsersFile:
        made = users_file("lab", self.known.values())
        assert not made.refused
        self.users_path.write_text(made.text)
        return made

    async def reload(self) -> None:
        """Return once the server has read everything anew."""
        before = (await self.varz())["config_load_time"]
        made = self.write_users()
        assert self._process is not None
        self._process.send_signal(signal.SIGHUP)
        deadline_s = CLOCK.monotonic_s() + PATIENCE_S
        while (shown := await self.varz())["config_load_time"] == before:
            assert CLOCK.monotonic_s() < deadline_s, self.log
            await CLOCK.sleep(0.01)
        assert shown["write_deadline"] == made.write_deadline_ns

    async def varz(self) -> dict[str, object]:
        answer = await call(self.monitor, "GET", "/varz", timeout_s=PATIENCE_S)
        shown: dict[str, object] = msgspec.json.decode(answer.body)
        return shown

    async def certificate_shown(self) -> bytes:
        """The certificate with which the server answers now (DER)."""
        host, _, port = self.url.removeprefix("nats://").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        await reader.readline()
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        await writer.start_tls(context)
        shown: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.transport.abort()
        return shown

    async def stop(self) -> None:
        await asyncio.gather(*(client.close() for client in self._clients))
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    # Clients.

    def login(self, role: Role, name: str, seed_of: Path | None = None) -> BusLogin:
        directory = self.directory_of(role, name)
        login = bus_login(str(directory), Tls(directory))
        assert login is not None
        if seed_of is None:
            return login
        return msgspec.structs.replace(login, seed=read_identity(seed_of).bus_seed)

    def transport(
        self,
        role: Role,
        name: str,
        *,
        url: str = "",
        seed_of: Path | None = None,
        root: Path | None = None,
    ) -> NatsTransport:
        """As that process would make it. `seed_of`: with the key of another identity; `root`:
        with an identity of another cluster."""
        subjects = Subjects("lab")
        is_agent = role is Role.AGENT
        inbox = subjects.inbox(NodeId(name)) if is_agent else subjects.master_inbox(name)
        login = self.login(role, name, seed_of)
        if root is not None:
            foreign = root / f"{role.value}-{name}"
            login = msgspec.structs.replace(login, tls=lambda: Tls(foreign).client)
        return NatsTransport([url or self.url], name, CLOCK, random.Random(), inbox, login)

    async def client(self, role: Role, name: str) -> NatsTransport:
        """Connected."""
        transport = self.transport(role, name)
        await transport.open(wait_s=PATIENCE_S)
        assert transport.server == self.url, self.log
        self._clients.append(transport)
        return transport
