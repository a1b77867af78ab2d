"""Three members on loopback, each a process of its own: Essaim's masters, and etcd.

Essaim's masters have identities, as any cluster has: TLS on every link, and what they write is
sealed. The same without that is there to see what it costs. etcd runs as it does by default.
"""

import abc
import asyncio
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from essaim_shared.bus_server_config import BusServer, server_config
from essaim_shared.bus_users import users_file
from essaim_shared.clock import SystemClock
from essaim_shared.errors import EssaimError
from essaim_shared.kv_client import KvClient
from essaim_shared.kv_protocol import Put
from essaim_shared.sealing import new_data_key_text, write_private
from essaim_shared.trust.founding import FIRST_USER, Founder, write_founding
from essaim_shared.trust.identity import write_identity
from essaim_shared.trust.roles import Role
from essaim_shared.trust.tls import Tls
from etcd_client import EtcdClient, EtcdRefused

CLUSTER = "bench"
MEMBERS = ("m1", "m2", "m3")
READY_TIMEOUT_S = 20.0
POLL_S = 0.02
FILL_VALUE_BYTES = 1000
FILL_KEYS_PER_WRITE = 50
FILL_IN_FLIGHT = 16

REFUSALS = (EssaimError, EtcdRefused, OSError, subprocess.CalledProcessError)


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [bound.getsockname()[1] for bound in sockets]
    for bound in sockets:
        bound.close()
    return ports


def resident_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise LookupError(f"process {pid} shows no VmRSS")


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Client(abc.ABC):
    """What the load needs; each call begins at once and returns a future."""

    @abc.abstractmethod
    def put(self, key: bytes, value: bytes): ...

    @abc.abstractmethod
    def get(self, key: bytes): ...

    @abc.abstractmethod
    async def close(self) -> None: ...


class KvCluster(abc.ABC):
    name: str

    def __init__(self, directory: Path) -> None:
        self.directory = directory / self.name
        self.directory.mkdir(parents=True)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    @abc.abstractmethod
    def command(self, member: str) -> list[str]: ...

    @abc.abstractmethod
    async def client(self, members: tuple[str, ...] = MEMBERS) -> Client:
        """To the leader, if it is among the members."""

    @abc.abstractmethod
    async def leader(self) -> str: ...

    @abc.abstractmethod
    async def fill(self, size_bytes: int) -> None:
        """Values of FILL_VALUE_BYTES under different keys."""

    def start(self, *members: str) -> None:
        for member in members or MEMBERS:
            with (self.directory / f"{member}.log").open("ab") as log:
                self.processes[member] = subprocess.Popen(
                    self.command(member), stdout=log, stderr=log, cwd=self.directory
                )

    def kill(self, *members: str) -> None:
        for member in members or tuple(self.processes):
            process = self.processes.pop(member)
            process.send_signal(signal.SIGKILL)
            process.wait()

    def stop(self) -> None:
        self.kill()

    async def ready(self) -> None:
        """Return when a linearizable read is answered."""
        deadline_s = time.monotonic() + READY_TIMEOUT_S
        while time.monotonic() < deadline_s:
            try:
                client = await self.client()
            except REFUSALS:
                await asyncio.sleep(POLL_S)
                continue
            try:
                await asyncio.wait_for(client.get(b"ready"), 2.0)
            except (*REFUSALS, TimeoutError):
                await asyncio.sleep(POLL_S)
            else:
                return
            finally:
                await client.close()
        raise TimeoutError(
            f"{self.name} was not ready in {READY_TIMEOUT_S:.0f} s{self._last_words()}"
        )

    def _last_words(self) -> str:
        logs = sorted(self.directory.glob("*.log"))
        return "".join(f"\n{log.name}: {log.read_text()[-1000:]}" for log in logs)

    async def all_follow(self) -> str:
        """Wait until all members serve; the leader."""
        for member in MEMBERS:
            deadline_s = time.monotonic() + READY_TIMEOUT_S
            while not await self._serves(member):
                if time.monotonic() > deadline_s:
                    raise TimeoutError(f"{self.name}: {member} does not serve")
                await asyncio.sleep(POLL_S)
        return await self.leader()

    async def _serves(self, member: str) -> bool:
        try:
            client = await self.client((member,))
        except REFUSALS:
            return False
        try:
            await asyncio.wait_for(client.get(b"ready"), 2.0)
        except (*REFUSALS, TimeoutError):
            return False
        finally:
            await client.close()
        return True


class EssaimClient(Client):
    def __init__(self, client: KvClient) -> None:
        self.native = client
        self.member = str(client.connected_to)

    def put(self, key: bytes, value: bytes):
        return self.native.submit((Put(key, value),))

    def get(self, key: bytes):
        return self.native.submit_range(key, key + b"\0", 1)

    async def close(self) -> None:
        await self.native.close()


class EssaimMasters(KvCluster):
    name = "essaim"
    has_identities = True

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._tls = self._found() if self.has_identities else None
        self._bus_port, *ports = free_ports(10)
        self._ports = {m: ports[3 * i : 3 * i + 3] for i, m in enumerate(MEMBERS)}
        self._bus: subprocess.Popen[bytes] | None = None
        for member in MEMBERS:
            (self.directory / f"{member}.toml").write_text(self._config(member))

    def start(self, *members: str) -> None:
        if self._bus is None:
            where = ["-a", "127.0.0.1", "-p", str(self._bus_port)]
            self._bus = subprocess.Popen(
                ["nats-server", *(where if self._tls is None else ["-c", self._bus_config()])],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        super().start(*members)

    def stop(self) -> None:
        super().stop()
        if self._bus is not None:
            self._bus.terminate()
            self._bus.wait()
            self._bus = None

    def command(self, member: str) -> list[str]:
        path = self.directory / f"{member}.toml"
        return [sys.executable, "-m", "essaim_master", "--config", str(path)]

    async def client(self, members: tuple[str, ...] = MEMBERS) -> EssaimClient:
        addresses = [("127.0.0.1", self._ports[member][2]) for member in members]
        native = KvClient(addresses, SystemClock(), random.Random(), tls=self._tls)
        await native.open()
        deadline_s = time.monotonic() + 1.0
        while native.connected_to is None:
            if time.monotonic() > deadline_s:
                await native.close()
                raise ConnectionRefusedError("no master")
            await asyncio.sleep(0.002)
        return EssaimClient(native)

    async def leader(self) -> str:
        first = await self.client()
        await first.get(b"ready")  # There is a leader, and whoever is asked now knows it.
        await first.close()
        second = await self.client()
        await second.close()
        return second.member

    async def fill(self, size_bytes: int) -> None:
        client = await self.client()
        value = bytes(FILL_VALUE_BYTES)
        numbers = iter(range(0, size_bytes // FILL_VALUE_BYTES, FILL_KEYS_PER_WRITE))

        async def work() -> None:
            for first in numbers:
                puts = [
                    Put(b"/fill/%012d" % number, value)
                    for number in range(first, first + FILL_KEYS_PER_WRITE)
                ]
                await client.native.transact(puts)

        await asyncio.gather(*(work() for _ in range(FILL_IN_FLIGHT)))
        await client.close()

    def _found(self) -> Tls:
        """Identities for all members; returns that of their user."""
        founder = Founder(CLUSTER, SystemClock().wall_ns())
        for member in MEMBERS:
            identity = founder.admit(Role.MASTER, member, addresses=("127.0.0.1",))
            write_identity(self.directory / f"{member}.identity", identity)
        write_identity(self.directory / "user", founder.admit(Role.USER, FIRST_USER))
        for member in MEMBERS:
            write_founding(self.directory / f"{member}.identity", founder.founding)
        write_private(self.directory / "seal.key", new_data_key_text().encode())
        users = users_file(CLUSTER, founder.founding.identities)
        (self.directory / "bus-users.conf").write_text(users.text)
        return Tls(self.directory / "user")

    def _bus_config(self) -> str:
        route_port, monitor_port = free_ports(2)
        server = BusServer(
            name="bus",
            cluster_name=CLUSTER,
            listen=f"127.0.0.1:{self._bus_port}",
            route_listen=f"127.0.0.1:{route_port}",
            routes=(),
            monitor_listen=f"127.0.0.1:{monitor_port}",
            pid_file=self.directory / "bus.pid",
            users_file="bus-users.conf",
            identity_dir=self.directory / f"{MEMBERS[0]}.identity",
            route_password="none",
        )
        path = self.directory / "bus.conf"
        path.write_text(server_config(server))
        return str(path)

    def _config(self, member: str) -> str:
        raft, http, kv = self._ports[member]
        lines = [
            f'cluster_id = "{CLUSTER}"',
            f'member_id = "{member}"',
            f'data_dir = "{self.directory / member}"',
            f'socket = "{self.directory / member}.sock"',
            f'http_listen = "127.0.0.1:{http}"',
            f'raft_listen = "127.0.0.1:{raft}"',
            f'kv_listen = "127.0.0.1:{kv}"',
            f'bus_servers = ["nats://127.0.0.1:{self._bus_port}"]',
        ]
        if self.has_identities:
            lines += [
                f'identity_dir = "{self.directory / member}.identity"',
                f'seal_key_file = "{self.directory / "seal.key"}"',
            ]
        for other in MEMBERS:
            ports = self._ports[other]
            lines += [
                "[[members]]",
                f'id = "{other}"',
                f'raft = "127.0.0.1:{ports[0]}"',
                f'http = "127.0.0.1:{ports[1]}"',
            ]
        return "\n".join(lines) + "\n"


class OpenMasters(EssaimMasters):
    """Without TLS, and nothing sealed."""

    name = "essaim-open"
    has_identities = False


class EtcdLoad(Client):
    def __init__(self, native: EtcdClient) -> None:
        self.native = native

    def put(self, key: bytes, value: bytes):
        return self.native.put(key, value)

    def get(self, key: bytes):
        return self.native.get(key)

    async def close(self) -> None:
        await self.native.close()


class Etcd(KvCluster):
    name = "etcd"

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        ports = free_ports(6)
        self._ports = {m: ports[2 * i : 2 * i + 2] for i, m in enumerate(MEMBERS)}

    def command(self, member: str) -> list[str]:
        client, peer = self._ports[member]
        cluster = ",".join(f"{m}=http://127.0.0.1:{self._ports[m][1]}" for m in MEMBERS)
        return [
            *("etcd", "--name", member, "--data-dir", str(self.directory / member)),
            *("--listen-client-urls", f"http://127.0.0.1:{client}"),
            *("--advertise-client-urls", f"http://127.0.0.1:{client}"),
            *("--listen-peer-urls", f"http://127.0.0.1:{peer}"),
            *("--initial-advertise-peer-urls", f"http://127.0.0.1:{peer}"),
            *("--initial-cluster", cluster, "--logger", "zap", "--log-level", "warn"),
        ]

    def etcdctl(self, *arguments: str, members: tuple[str, ...] = MEMBERS) -> str:
        endpoints = ",".join(f"127.0.0.1:{self._ports[m][0]}" for m in members)
        done = subprocess.run(
            ["etcdctl", "--endpoints", endpoints, *arguments],
            env={**os.environ, "ETCDCTL_API": "3"},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    async def client(self, members: tuple[str, ...] = MEMBERS) -> EtcdLoad:
        member = members[0] if len(members) == 1 else await self.leader(members)
        native = EtcdClient("127.0.0.1", self._ports[member][0])
        await native.open()
        return EtcdLoad(native)

    async def leader(self, members: tuple[str, ...] = MEMBERS) -> str:
        text = await asyncio.to_thread(
            self.etcdctl, "endpoint", "status", "-w", "json", members=members
        )
        by_port = {str(self._ports[m][0]): m for m in MEMBERS}
        for endpoint in json.loads(text):
            header = endpoint["Status"]["header"]
            if endpoint["Status"]["leader"] == header["member_id"]:
                return by_port[endpoint["Endpoint"].rpartition(":")[2]]
        raise EtcdRefused("no leader")

    async def fill(self, size_bytes: int) -> None:
        client = await self.client()
        value = bytes(FILL_VALUE_BYTES)
        numbers = iter(range(size_bytes // FILL_VALUE_BYTES))

        async def work() -> None:
            for number in numbers:
                await client.put(b"/fill/%012d" % number, value)

        await asyncio.gather(*(work() for _ in range(256)))
        await client.close()
