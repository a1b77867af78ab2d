"""Names as tasks ask for them: from their own namespaces, at port 53 of their gateway, through the
kernel's tables, with resolvers that others wrote."""

import asyncio
import json
import os
import random
import signal
import sys
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from support.dns_upstream import ADDRESS
from support.overlay_cluster import BLUE, RED, Cluster

from essaim_agent.dns import link
from essaim_agent.dns.keeper import NameServer
from essaim_shared.clock import SystemClock
from essaim_shared.ids import TaskId

pytestmark = pytest.mark.lab

RED_GATEWAY, BLUE_GATEWAY = "10.244.0.1", "10.244.16.1"
STUB = "127.0.0.53"
"""Where a host's own resolver listens, as systemd-resolved does."""
TESTS = Path(__file__).parents[2]

RESOLVER = """
import json, socket, sys
import dnslib
server, name, kind, protocol = sys.argv[1:]
question = dnslib.DNSRecord.question(name, kind)
with socket.socket(type=socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM) as client:
    client.settimeout(3)
    try:
        client.connect((server, 53))  # what comes from another address is not received
        data = bytes(question.pack())
        client.sendall(data if protocol == "udp" else len(data).to_bytes(2, "big") + data)
        raw = client.recv(65535)
        answer = dnslib.DNSRecord.parse(raw if protocol == "udp" else raw[2:])
        code = dnslib.RCODE[answer.header.rcode]
        print(json.dumps([str(r.rdata) for r in answer.rr] if code == "NOERROR" else code))
    except OSError as error:
        print(json.dumps(type(error).__name__))
"""

UPSTREAM = """
import asyncio, sys
from support.dns_upstream import upstream
async def main():
    async with upstream(sys.argv[1], 53):
        print("ready", flush=True)
        await asyncio.Event().wait()
asyncio.run(main())
"""


class Names:
    """Two nodes; the node `a` has a name server, in its network namespace."""

    def __init__(self, cluster: Cluster, directory: Path) -> None:
        self.cluster = cluster
        self.directory = directory
        self.namespace = f"--net={cluster.namespace('a')}"
        self.resolv_conf = directory / "resolv.conf"
        self.resolv_conf.write_text(f"nameserver {STUB}\n")
        self.server = NameServer(
            directory,
            SystemClock(),
            random.Random(1),
            launcher=("nsenter", self.namespace),
            options=("--resolv-conf", str(self.resolv_conf)),
            make_sockets=self.sockets,
        )

    def sockets(self, port: int) -> Any:
        with ThreadPoolExecutor(1, initializer=lambda: self.cluster.lab.enter("a")) as inside:
            return inside.submit(link.listening_sockets, port).result()

    async def start(self) -> None:
        await self.cluster.start("b")
        node = self.cluster.lab.networks("a", SystemClock())
        node.name_server = self.server
        self.cluster.nodes["a"] = node
        await node.start()

    async def resolve(
        self,
        place: str,
        name: str,
        server: str = RED_GATEWAY,
        kind: str = "A",
        protocol: str = "udp",
    ) -> Any:
        """Addresses or names, in their order; or the name of the error."""
        said = await output(
            *["nsenter", f"--net={self.cluster.namespace(place)}", sys.executable, "-c", RESOLVER],
            *[server, name, kind, protocol],
        )
        found = json.loads(said)
        return sorted(found) if isinstance(found, list) else found


async def output(*words: str) -> str:
    process = await asyncio.create_subprocess_exec(*words, stdout=asyncio.subprocess.PIPE)
    said, _ = await process.communicate()
    return said.decode()


@pytest.fixture
async def names(lab: Any, tmp_path: Path) -> AsyncIterator[Names]:
    made = Names(Cluster(lab), tmp_path)
    await made.start()
    try:
        yield made
    finally:
        await made.server.end()
        await made.cluster.close()


async def web_and_client(names: Names) -> str:
    """`web` on both nodes, and `client` on node a, which is on two networks; web's address."""
    cluster = names.cluster
    vip = cluster.service()
    await cluster.task("a", "web-1", 11, serves=())
    await cluster.task("b", "web-2", 12, serves=())
    cluster.service("db", BLUE)
    await cluster.task("a", "db-1", 13, networks=(BLUE,), service="db", serves=())
    await cluster.task("a", "client", 20, networks=(RED, BLUE), service="client", serves=())
    return vip


@pytest.mark.parametrize("protocol", ["udp", "tcp"])
async def test_a_task_asks_its_gateway_and_is_answered_by_it(names: Names, protocol: str) -> None:
    vip = await web_and_client(names)
    assert await names.resolve("client", "web", protocol=protocol) == [vip]
    both = ["10.244.0.11", "10.244.0.12"]
    assert await names.resolve("client", "tasks.web", protocol=protocol) == both


async def test_each_gateway_answers_by_its_own_address(names: Names) -> None:
    vip = await web_and_client(names)
    for gateway in (RED_GATEWAY, BLUE_GATEWAY):
        assert await names.resolve("client", "web", gateway) == [vip]
        assert await names.resolve("client", "db", gateway) == ["10.245.16.1"]


async def test_names_of_networks_that_a_task_is_not_on_are_missing(names: Names) -> None:
    await web_and_client(names)
    assert await names.resolve("web-1", "db") == "NXDOMAIN"
    assert await names.resolve("db-1", "web", BLUE_GATEWAY) == "NXDOMAIN"
    assert await names.resolve("web-1", "13.16.244.10.in-addr.arpa", kind="PTR") == "NXDOMAIN"


async def test_the_name_stops_leading_to_a_task_before_want_returns(names: Names) -> None:
    await web_and_client(names)
    names.cluster.mark(TaskId("web-1"), "draining")
    await names.cluster.tell("a")
    assert await names.resolve("client", "tasks.web") == ["10.244.0.12"]
    names.cluster.forget(TaskId("web-2"))
    await names.cluster.tell("a")
    assert await names.resolve("client", "tasks.web") == []


async def test_the_resolver_of_busybox_agrees(names: Names) -> None:
    vip = await web_and_client(names)
    names.cluster.endpoints = {
        replace(endpoint, slot="1") if endpoint.task_id == "web-1" else endpoint
        for endpoint in names.cluster.endpoints
    }
    await names.cluster.tell("a")
    ask = ["nsenter", f"--net={names.cluster.namespace('client')}", "busybox", "nslookup"]
    assert f"Address: {vip}" in await output(*ask, "web.red", RED_GATEWAY)
    assert "10.244.0.11" in await output(*ask, "web.1.red", RED_GATEWAY)
    assert "name = web.1.web-1.red" in await output(*ask, "10.244.0.11", RED_GATEWAY)
    assert "NXDOMAIN" in await output(*ask, "nobody", RED_GATEWAY)


async def test_hosts_are_told_nothing(names: Names) -> None:
    await web_and_client(names)
    assert await names.resolve("outside", "web", "192.0.2.1") in (
        "TimeoutError",
        "ConnectionRefusedError",
    )
    code = RESOLVER.replace("server, 53", "server, 7453")
    for place, server in (("a", "127.0.0.1"), ("a", RED_GATEWAY), ("outside", "192.0.2.1")):
        said = await output(
            *["nsenter", f"--net={names.cluster.namespace(place)}", sys.executable, "-c", code],
            *[server, "web", "A", "udp"],
        )
        assert json.loads(said) in ("REFUSED", "TimeoutError", "ConnectionRefusedError"), place


async def test_other_names_are_asked_at_the_host_s_own_resolver(names: Names) -> None:
    await web_and_client(names)
    stub = await asyncio.create_subprocess_exec(
        *["nsenter", names.namespace, sys.executable, "-c", UPSTREAM, STUB],
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(TESTS)},
    )
    try:
        assert stub.stdout is not None
        assert await stub.stdout.readline() == b"ready\n"
        for protocol in ("udp", "tcp"):
            assert await names.resolve("client", "example.com", protocol=protocol) == [ADDRESS]
    finally:
        stub.kill()
        await stub.wait()
    # Nobody is there now, and nobody is waited for.
    assert await names.resolve("client", "example.org") == "SERVFAIL"


async def test_a_resolver_that_asks_us_again_makes_no_loop(names: Names) -> None:
    await web_and_client(names)
    names.resolv_conf.write_text(f"nameserver {RED_GATEWAY}\n")
    assert await names.resolve("client", "example.com") == "SERVFAIL"


async def test_killed_again_and_again_it_loses_no_question(names: Names) -> None:
    vip = await web_and_client(names)
    for _ in range(3):
        os.kill(int((names.directory / link.LOCK).read_text()), signal.SIGKILL)
        assert await names.resolve("client", "web") == [vip]
