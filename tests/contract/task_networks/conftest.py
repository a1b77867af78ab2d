"""Two nodes on one underlay, in memory and in the kernel, behind the same handle.

pair    what the contract tests run on; made anew for each test
lab     two real hosts as network namespaces; `a` also has a neighbour outside of the cluster

Everything a lab makes has the process id in its name: a later run removes what a dead one left.
"""

import asyncio
import ctypes
import os
import re
import subprocess
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
UDP_PORT = 7479
COMMAND_TIMEOUT_S = 20.0
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
        for host, address in (("a", "192.0.2.1"), ("outside", OUTSIDE)):
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

    def traces(self, host: str) -> list[str]:
        """Devices, rules and namespaces of the overlay in a host."""
        devices = self.in_host(host, "ip", "-br", "link").splitlines()
        rules = self.in_host(host, "iptables-save") + self.in_host(host, "nft", "list", "tables")
        directory = self.directory / host
        paths = [str(path) for path in directory.iterdir()] if directory.exists() else []
        return [
            *(line for line in devices if line.startswith("es-")),
            *(line for line in rules.splitlines() if "essaim" in line),
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

    def traces(self, host: str) -> list[str]:
        return self.lab.traces(host)

    async def close(self) -> None:
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
