"""Two nodes on one underlay, in memory and in the kernel, behind the same handle.

pair    what the contract tests run on; made anew for each test
lab     two real hosts as network namespaces; `a` also has a neighbour outside of the cluster

Everything a lab makes has the process id in its name: a later run removes what a dead one left.
"""

import asyncio
import contextlib
import ctypes
import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from essaim_agent.fake_network import FakeFabric, FakeNetworks
from essaim_agent.network import TaskNetworks
from essaim_agent.overlay.task_networks import OverlayNetworks
from essaim_shared.clock import Clock, SystemClock
from essaim_shared.ids import TaskId

UNDERLAY = {"a": "10.97.0.1", "b": "10.97.0.2"}
OUTSIDE = "192.0.2.9"
"""Documentation address (RFC 5737); its host has no route back to any overlay."""
LAB_SIDE = "192.0.2.1"
"""Address of the host `a` towards the outside."""
UDP_PORT = 7479
CLIENT = """
import socket, sys
protocol, address, port = sys.argv[1:]
with socket.socket(type=socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM) as client:
    client.settimeout(1)
    client.connect((address, int(port)))
    client.send(b"hello")
    print(client.recv(200).decode())
"""
COMMAND_TIMEOUT_S = 20.0
SERVER = """
import socket, sys
protocol, address, port, name = sys.argv[1:]
if protocol == "udp":
    server = socket.socket(type=socket.SOCK_DGRAM)
    server.bind((address, int(port)))
    while True:
        _, client = server.recvfrom(100)
        server.sendto(f"{name} {client[0]}".encode(), client)
server = socket.create_server((address, int(port)))
while True:
    connection, client = server.accept()
    with connection:
        connection.sendall(f"{name} {client[0]}".encode())
        connection.recv(100)
"""
LISTENER = """
import socket, sys
protocol, port = sys.argv[1:]
with socket.socket(type=socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM) as server:
    server.bind(("", int(port)))
    if protocol == "tcp":
        server.listen()
    print(flush=True)
    sys.stdin.read()
"""
LISTENS_ASKED_MAX = 100
NETNS = Path("/run/netns")
NAMESPACES = Path("/run")
CLONE_NEWNET = 0x40000000


def run(*words: str, given: str = "") -> str:
    completed = subprocess.run(
        words, input=given, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=False
    )
    assert completed.returncode == 0, f"{' '.join(words)}: {completed.stderr}"
    return completed.stdout


class Lab:
    """The hosts `a` and `b`, and `outside`. `in_host` runs a command in one of them."""

    def __init__(self) -> None:
        self.prefix = f"esct{os.getpid()}"
        self.directory = NAMESPACES / f"{self.prefix}-netns"
        self.underlay = UNDERLAY
        self.outside = OUTSIDE
        self.udp_port = UDP_PORT

    def build(self) -> None:
        for host in ("a", "b", "outside"):
            run("ip", "netns", "add", self.name(host))
            self.in_host(host, "ip", "link", "set", "lo", "up")
        link = ["type", "veth", "peer", "name", "under0", "netns"]
        self.in_host("a", "ip", "link", "add", "under0", *link, self.name("b"))
        for host, address in UNDERLAY.items():
            self.in_host(host, "ip", "address", "add", f"{address}/24", "dev", "under0")
            self.in_host(host, "ip", "link", "set", "under0", "up")
            self.set_sysctl(host, "net/ipv4/ip_forward", "0")
            self.in_host(host, "iptables", "-P", "FORWARD", "DROP")
            self.set_sysctl(host, "net/bridge/bridge-nf-call-iptables", "1")
        peer = ["type", "veth", "peer", "name", "out0", "netns", self.name("outside")]
        self.in_host("a", "ip", "link", "add", "out0", *peer)
        for host, address in (("a", LAB_SIDE), ("outside", OUTSIDE)):
            self.in_host(host, "ip", "address", "add", f"{address}/24", "dev", "out0")
            self.in_host(host, "ip", "link", "set", "out0", "up")

    def destroy(self) -> None:
        remove_namespaces(self.prefix)

    def name(self, host: str) -> str:
        return f"{self.prefix}-{host}"

    def in_host(self, host: str, *words: str, given: str = "") -> str:
        return run("nsenter", f"--net={NETNS / self.name(host)}", *words, given=given)

    def set_sysctl(self, host: str, path: str, value: str) -> None:
        self.in_host(host, "sh", "-c", f"echo {value} >/proc/sys/{path}")

    def enter(self, host: str) -> None:
        """Move the calling thread into the host."""
        descriptor = os.open(NETNS / self.name(host), os.O_RDONLY)
        try:
            assert ctypes.CDLL(None, use_errno=True).setns(descriptor, CLONE_NEWNET) == 0
        finally:
            os.close(descriptor)

    def networks(
        self, host: str, clock: Clock, before: Callable[[], None] | None = None
    ) -> OverlayNetworks:
        """The overlay of a host; `before` runs on its thread first."""

        def initialize() -> None:
            self.enter(host)
            if before is not None:
                before()

        return OverlayNetworks(
            UNDERLAY[host],
            clock,
            udp_port=UDP_PORT,
            namespace_directory=self.directory / host,
            thread_initializer=initialize,
        )

    async def ping(self, namespace: str, address: str, count: int = 1) -> bool:
        """Whether at least one of the echoes came back within a second."""
        ping = ["busybox", "ping", "-c", str(count), "-W", "1", "-q", address]
        process = await asyncio.create_subprocess_exec(
            "nsenter",
            f"--net={namespace}",
            *ping,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        return await process.wait() == 0

    async def hear(self, namespace: str, protocol: str, address: str, port: int) -> str:
        """What a server says first to a client in a namespace; empty when nobody answers."""
        process = await asyncio.create_subprocess_exec(
            *["nsenter", f"--net={namespace}", sys.executable, "-c", CLIENT],
            *[protocol, address, str(port)],
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        said, _ = await process.communicate()
        return said.decode().strip()

    def traces(self, host: str) -> list[str]:
        """Devices, rules and namespaces of the overlay in a host."""
        devices = self.in_host(host, "ip", "-br", "link").splitlines()
        rules = self.in_host(host, "iptables-save") + self.in_host(host, "nft", "list", "tables")
        directory = self.directory / host
        paths = [str(path) for path in directory.iterdir()] if directory.exists() else []
        return [
            *(line for line in devices if line.startswith("es-")),
            *sorted(line for line in rules.splitlines() if "essaim" in line),
            *paths,
        ]


def remove_namespaces(prefix: str) -> None:
    for directory in NAMESPACES.glob(f"{prefix}-netns"):
        for path in directory.glob("*/*"):
            subprocess.run(["umount", "-l", path], stderr=subprocess.DEVNULL, check=False)
            path.unlink()
        for host in directory.iterdir():
            host.rmdir()
        directory.rmdir()
    for path in NETNS.glob(f"{prefix}-*"):
        run("ip", "netns", "delete", path.name)


def remove_leftovers_of_dead_runs() -> None:
    for path in [*NETNS.glob("esct*-*"), *NAMESPACES.glob("esct*-netns")]:
        found = re.match(r"esct(\d+)-", path.name)
        if found and path.exists() and not Path("/proc", found[1]).exists():
            remove_namespaces(f"esct{found[1]}")


@pytest.fixture
def lab() -> Iterator[Lab]:
    remove_leftovers_of_dead_runs()
    built = Lab()
    try:
        built.build()
        yield built
    finally:
        built.destroy()


class FakePair:
    """Two nodes of a fake fabric."""

    def __init__(self) -> None:
        self.fabric = FakeFabric()
        self.underlay = UNDERLAY
        self._nodes: dict[str, FakeNetworks] = {}

    def node(self, host: str) -> TaskNetworks:
        return self._nodes[host]

    async def restart(self, host: str) -> None:
        if host in self._nodes:
            await self._nodes[host].close()
        self._nodes[host] = FakeNetworks(self.fabric, UNDERLAY[host])
        await self._nodes[host].start()

    async def reaches(self, host: str, task_id: TaskId, address: str) -> bool:
        return self.fabric.reaches(UNDERLAY[host], task_id, address)

    async def routes(self, host: str, task_id: TaskId) -> set[tuple[str, str, str]]:
        """(destination, gateway, interface) of each that goes by a gateway."""
        namespace = self.fabric.kernel(UNDERLAY[host]).namespaces[task_id]
        return {(r.destination, r.gateway, f"eth{r.place}") for r in namespace.routes}

    async def mtu(self, host: str, task_id: TaskId) -> int:
        """Of the task's first interface."""
        return self.fabric.kernel(UNDERLAY[host]).namespaces[task_id].mtu

    async def serve(self, host: str, task_id: TaskId, protocol: str, port: int) -> None:
        """In memory every task serves all its ports."""

    async def ask(self, host: str, client: str, protocol: str, port: int) -> str:
        """The name of the task that answers on a port of a host; empty: nobody does."""
        kernel = self.fabric.kernel(UNDERLAY[host])
        for task_id, task in kernel.published.items():
            if (protocol, port) in task.keys and task_id in kernel.namespaces:
                return task_id
        return ""

    @contextlib.contextmanager
    def listener(self, host: str, protocol: str, port: int) -> Iterator[None]:
        """A process of the host that has a port."""
        listeners = self.fabric.kernel(UNDERLAY[host]).listeners
        listeners.add((protocol, port))
        yield
        listeners.remove((protocol, port))

    def traces(self, host: str) -> list[str]:
        kernel = self.fabric.kernel(UNDERLAY[host])
        return [*kernel.networks, *kernel.namespaces, *map(str, kernel.endpoints)]

    async def close(self) -> None:
        for node in self._nodes.values():
            await node.close()


class RealPair:
    """The hosts `a` and `b` of a lab."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.underlay = UNDERLAY
        self._nodes: dict[str, OverlayNetworks] = {}
        self._servers: list[asyncio.subprocess.Process] = []

    def node(self, host: str) -> TaskNetworks:
        return self._nodes[host]

    async def restart(self, host: str) -> None:
        if host in self._nodes:
            await self._nodes[host].close()
        self._nodes[host] = self.lab.networks(host, SystemClock())
        await self._nodes[host].start()

    async def reaches(self, host: str, task_id: TaskId, address: str) -> bool:
        # Repeating an attachment is free and tells the path.
        path = await self._nodes[host].attach(task_id, (), {})
        return await self.lab.ping(path, address)

    async def routes(self, host: str, task_id: TaskId) -> set[tuple[str, str, str]]:
        path = await self._nodes[host].attach(task_id, (), {})
        shown = json.loads(run("nsenter", f"--net={path}", "ip", "-j", "-4", "route"))
        return {
            (route["dst"].replace("default", "0.0.0.0/0"), route["gateway"], route["dev"])
            for route in shown
            if "gateway" in route
        }

    async def mtu(self, host: str, task_id: TaskId) -> int:
        path = await self._nodes[host].attach(task_id, (), {})
        (shown,) = json.loads(run("nsenter", f"--net={path}", "ip", "-j", "link", "show", "eth0"))
        return int(shown["mtu"])

    async def serve(self, host: str, task_id: TaskId, protocol: str, port: int) -> None:
        """The task answers everybody with its name and the client's address."""
        path = await self._nodes[host].attach(task_id, (), {})
        server = await asyncio.create_subprocess_exec(
            *["nsenter", f"--net={path}", sys.executable, "-c", SERVER],
            *[protocol, "0.0.0.0", str(port), task_id],
            stdout=asyncio.subprocess.DEVNULL,
        )
        self._servers.append(server)

    async def ask(self, host: str, client: str, protocol: str, port: int) -> str:
        return (await self.answer(host, client, protocol, port)).partition(" ")[0]

    async def answer(self, host: str, client: str, protocol: str, port: int) -> str:
        """What a client hears: `outside` the cluster, the host `itself` by its own address, or
        by `localhost`."""
        asking = "outside" if client == "outside" else host
        address = {"outside": LAB_SIDE, "itself": UNDERLAY[host]}.get(client, "127.0.0.1")
        return await self.lab.hear(str(NETNS / self.lab.name(asking)), protocol, address, port)

    async def serve_on_loopback(self, host: str, port: int) -> asyncio.subprocess.Process:
        """A process of the host that nobody but the host itself may reach."""
        server = await asyncio.create_subprocess_exec(
            *["nsenter", f"--net={NETNS / self.lab.name(host)}", sys.executable, "-c", SERVER],
            *["tcp", "127.0.0.1", str(port), "secret"],
        )
        for _ in range(LISTENS_ASKED_MAX):
            if await self.ask(host, "localhost", "tcp", port) == "secret":
                return server
        raise AssertionError(f"nobody listens on {port}")

    @contextlib.contextmanager
    def listener(self, host: str, protocol: str, port: int) -> Iterator[None]:
        namespace = f"--net={NETNS / self.lab.name(host)}"
        with subprocess.Popen(
            ["nsenter", namespace, sys.executable, "-c", LISTENER, protocol, str(port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            try:
                yield
            finally:
                process.kill()

    def traces(self, host: str) -> list[str]:
        return self.lab.traces(host)

    async def close(self) -> None:
        for server in self._servers:
            if server.returncode is None:
                server.kill()
            await server.wait()
        for node in self._nodes.values():
            await node.close()


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.lab)])
async def pair(request: pytest.FixtureRequest) -> AsyncIterator[FakePair | RealPair]:
    made: FakePair | RealPair
    made = FakePair() if request.param == "fake" else RealPair(request.getfixturevalue("lab"))
    for host in UNDERLAY:
        await made.restart(host)
    try:
        yield made
    finally:
        await made.close()


@pytest.fixture
async def real_pair(lab: Lab) -> AsyncIterator[RealPair]:
    """For what only the kernel can show."""
    made = RealPair(lab)
    for host in UNDERLAY:
        await made.restart(host)
    try:
        yield made
    finally:
        await made.close()
