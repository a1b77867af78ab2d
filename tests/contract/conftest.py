"""Real bus servers on loopback, and the in-memory bus behind the same handles.

bus   what the contract tests of the transports run on; made anew for each test
"""

import asyncio
import contextlib
import json
import random
import signal
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import IO, Protocol

import pytest
from support.identities import Identities

from essaim_shared.bus_login import bus_login
from essaim_shared.bus_server_config import BusServer, server_config
from essaim_shared.clock import SystemClock, wait_until
from essaim_shared.memory_transport import MemoryBus
from essaim_shared.nats_transport import NatsTransport
from essaim_shared.transport import Delivery, NoResponders, RequestTimeout, Transport
from essaim_shared.trust.bus_keys import public_key_of
from essaim_shared.trust.roles import Role
from essaim_shared.trust.tls import Tls

SEED = 20_260
START_TIMEOUT_S = 10.0


class Bus(Protocol):
    """Servers, clients and the faults that both kinds of bus know."""

    servers: tuple[str, ...]

    async def client(self, name: str, servers: Sequence[str] | None = None) -> Transport: ...
    async def stop(self, server: str) -> None: ...
    async def start(self, server: str) -> None: ...
    async def freeze(self, server: str) -> None: ...
    async def thaw(self, server: str) -> None: ...
    async def cut_route(self) -> None:
        """Between the first and the second server, of two."""
        ...

    async def heal_route(self) -> None: ...
    async def close(self) -> None: ...


class InMemory:
    def __init__(self, server_count: int) -> None:
        self.servers = tuple(f"bus-{number}" for number in range(1, server_count + 1))
        self._bus = MemoryBus(SystemClock(), random.Random(SEED), self.servers)

    async def client(self, name: str, servers: Sequence[str] | None = None) -> Transport:
        return self._bus.client(name, servers)

    async def stop(self, server: str) -> None:
        self._bus.stop(server)

    async def start(self, server: str) -> None:
        self._bus.start(server)

    async def freeze(self, server: str) -> None:
        self._bus.freeze(server)

    async def thaw(self, server: str) -> None:
        self._bus.thaw(server)

    async def cut_route(self) -> None:
        self._bus.cut_route(self.servers[0], self.servers[1])

    async def heal_route(self) -> None:
        self._bus.heal_route(self.servers[0], self.servers[1])

    async def close(self) -> None:
        await self._bus.close()


class RouteProxy:
    """A TCP relay that can be cut; the only way from one nats-server to the other."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._is_cut = False
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    async def open(self) -> int:
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def set_cut(self, is_cut: bool) -> None:
        self._is_cut = is_cut
        if is_cut:
            for writer in self._writers:
                writer.transport.abort()

    async def close(self) -> None:
        self.set_cut(True)
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_cut:
            writer.transport.abort()
            return
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        self._writers |= {writer, there_writer}
        await asyncio.gather(_copy(reader, there_writer), _copy(there_reader, writer))
        self._writers -= {writer, there_writer}


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.transport.abort()


def _spawn(command: list[str], log: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdout=log, stderr=log)


class Trust:
    """What secured servers and their clients show each other: one identity for all clients, which
    may use every subject."""

    def __init__(self, directory: Path) -> None:
        now_ns = SystemClock().wall_ns()
        identities = Identities(directory, now_ns)
        identities.tls("server")
        self.server_dir = directory / "essaim-master-server"
        identities.tls("client", Role.AGENT)
        client_dir = directory / "essaim-agent-client"
        self.login = bus_login(str(client_dir), Tls(client_dir))
        assert self.login is not None
        self.users_file = directory / "users.conf"
        self.users_file.write_text(
            f"authorization {{ users = [ {{ nkey: {public_key_of(self.login.seed)}, permissions: "
            f'{{ publish: ">", subscribe: ">" }} }} ] }}'
        )

    def config(self, name: str, port: int, route_port: int, routes: Sequence[int]) -> str:
        return server_config(
            BusServer(
                name=name,
                cluster_name="test",
                listen=f"127.0.0.1:{port}",
                route_listen=f"127.0.0.1:{route_port}",
                routes=tuple(f"127.0.0.1:{port}" for port in routes),
                monitor_listen="127.0.0.1:-1",
                pid_file=self.users_file.with_name(f"{name}.pid"),
                users_file=self.users_file.name,
                identity_dir=self.server_dir,
                route_password="of-the-masters",
            )
        )


class NatsServer:
    """One nats-server process; it keeps its ports when it is started again."""

    def __init__(self, directory: Path, name: str, trust: Trust | None) -> None:
        self._directory = directory
        self._name = name
        self._trust = trust
        self._process: subprocess.Popen[bytes] | None = None
        self.port = -1
        self.route_port = -1

    async def start(self, route_ports: Sequence[int]) -> None:
        config = self._directory / f"{self._name}.conf"
        config.write_text(f'ports_file_dir: "{self._directory}"\n{self._settings(route_ports)}')
        with (self._directory / f"{self._name}.log").open("ab") as log:
            self._process = _spawn(["nats-server", "-c", str(config)], log)
        ports_file = self._directory / f"nats-server_{self._process.pid}.ports"
        assert await wait_until(
            lambda: ports_file.exists() and ports_file.stat().st_size > 0,
            SystemClock(),
            START_TIMEOUT_S,
        ), (self._directory / f"{self._name}.log").read_text()
        ports = json.loads(ports_file.read_text())
        self.port = int(ports["nats"][0].rpartition(":")[2])
        self.route_port = int(ports["cluster"][0].rpartition(":")[2])

    def _settings(self, route_ports: Sequence[int]) -> str:
        if self._trust is not None:
            return self._trust.config(self._name, self.port, self.route_port, route_ports)
        routes = ", ".join(f'"nats://127.0.0.1:{port}"' for port in route_ports)
        return f"""
            server_name: {self._name}
            listen: "127.0.0.1:{self.port}"
            cluster {{ name: test, listen: "127.0.0.1:{self.route_port}", routes: [ {routes} ] }}
            """

    def signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    @property
    def is_stopped(self) -> bool:
        assert self._process is not None
        threads = Path(f"/proc/{self._process.pid}/task").glob("*/stat")
        return all(stat.read_text().rpartition(")")[2].split()[0] == "T" for stat in threads)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class RealNats:
    def __init__(self, directory: Path, is_secured: bool) -> None:
        self._trust = Trust(directory) if is_secured else None
        self.login = None if self._trust is None else self._trust.login
        self.servers: tuple[str, ...] = ()
        self.processes: list[NatsServer] = []
        self._directory = directory
        self._clients: list[NatsTransport] = []
        self._proxy: RouteProxy | None = None

    async def open(self, server_count: int) -> None:
        for number in range(1, server_count + 1):
            server = NatsServer(self._directory, f"bus-{number}", self._trust)
            self.processes.append(server)
            await server.start(await self._route_ports(number - 1))
        self.servers = tuple(f"nats://127.0.0.1:{server.port}" for server in self.processes)
        await self._until_linked()

    async def client(self, name: str, servers: Sequence[str] | None = None) -> NatsTransport:
        transport = NatsTransport(
            self.servers if servers is None else servers,
            name,
            SystemClock(),
            random.Random(),
            login=self.login,
        )
        self._clients.append(transport)
        await transport.open()
        return transport

    async def stop(self, server: str) -> None:
        self._process(server).kill()

    async def start(self, server: str) -> None:
        process = self._process(server)
        await process.start(await self._route_ports(self.processes.index(process)))

    async def freeze(self, server: str) -> None:
        process = self._process(server)
        process.signal(signal.SIGSTOP)
        # On a busy machine its threads go on for a moment.
        assert await wait_until(lambda: process.is_stopped, SystemClock(), START_TIMEOUT_S)

    async def thaw(self, server: str) -> None:
        self._process(server).signal(signal.SIGCONT)

    async def cut_route(self) -> None:
        assert self._proxy is not None
        self._proxy.set_cut(True)

    async def heal_route(self) -> None:
        assert self._proxy is not None
        self._proxy.set_cut(False)

    async def close(self) -> None:
        for process in self.processes:
            process.signal(signal.SIGCONT)
        await asyncio.gather(*(client.close() for client in self._clients))
        for process in self.processes:
            process.kill()
        if self._proxy is not None:
            await self._proxy.close()

    def _process(self, server: str) -> NatsServer:
        return self.processes[self.servers.index(server)]

    async def _route_ports(self, index: int) -> list[int]:
        """Each server knows the ones before it; the second reaches the first over the proxy."""
        ports = [server.route_port for server in self.processes[:index]]
        if index == 1 and self._proxy is None:
            self._proxy = RouteProxy(ports[0])
            self._proxy_port = await self._proxy.open()
        if index == 1:
            ports[0] = self._proxy_port
        return ports

    async def _until_linked(self) -> None:
        async def answer(delivery: Delivery) -> None:
            await delivery.respond(b"")

        ends = [await self.client(f"link-{i}", [url]) for i, url in enumerate(self.servers)]
        for index, end in enumerate(ends):
            await end.subscribe(f"link.{index}", answer)
        for one in ends:
            for index in range(len(ends)):
                await until_answered(one, f"link.{index}")
        for end in ends:
            await end.close()


async def until_answered(client: Transport, subject: str, timeout_s: float = 10.0) -> None:
    """Ask until somebody answers: interest travels between servers in its own time."""
    clock = SystemClock()
    deadline_s = clock.monotonic_s() + timeout_s
    while True:
        try:
            await client.request(subject, b"", timeout_s=0.5)
            return
        except (NoResponders, RequestTimeout):
            assert clock.monotonic_s() < deadline_s, f"nobody answers on {subject}"
            await clock.sleep(0.01)


BusFactory = Callable[[int], Awaitable[Bus]]


@pytest.fixture(params=["memory", "nats", "nats over tls"])
async def make_bus(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[BusFactory]:
    """`await make_bus(server_count)`"""
    made: list[Bus] = []

    async def make(server_count: int) -> Bus:
        if request.param == "memory":
            made.append(InMemory(server_count))
        else:
            real = RealNats(tmp_path, is_secured=request.param == "nats over tls")
            made.append(real)
            await real.open(server_count)
        return made[-1]

    yield make
    for bus in made:
        await bus.close()


@pytest.fixture(params=["plain", "tls"])
async def make_nats(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[Callable[[int], Awaitable[RealNats]]]:
    """`await make_nats(server_count)`: real servers, for what only they can show."""
    real = RealNats(tmp_path, is_secured=request.param == "tls")

    async def make(server_count: int) -> RealNats:
        await real.open(server_count)
        return real

    yield make
    await real.close()
