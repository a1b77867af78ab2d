"""Tasks, services and pictures of two real nodes, for tests of whom connections are led to."""

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from msgspec.structs import replace

from essaim_agent.network import NetworkPicture
from essaim_agent.overlay.task_networks import OverlayNetworks
from essaim_shared.clock import ManualClock
from essaim_shared.ids import NetworkId, ServiceId, TaskId
from essaim_shared.messages import Endpoint, NodeNetwork, ServiceEntry
from essaim_shared.objects import Attachment
from essaim_shared.spec import PortConfig

RED, BLUE, INNER = NetworkId("red"), NetworkId("blue"), NetworkId("inner")
NUMBERS = {RED: 0, BLUE: 1, INNER: 2}
GATEWAYS = {"a": 1, "b": 2}

SERVER = """
import asyncio, socket, sys
name, ports = sys.argv[1], sys.argv[2:]
async def tcp(reader, writer):
    peer = writer.get_extra_info("peername")[0]
    writer.write(f"{name} {peer}\\n".encode())
    while line := await reader.readline():
        if line.startswith(b"send "):
            writer.write(b"x" * int(line.split()[1]))
            await writer.drain()
        else:
            writer.write(f"{name} {peer}\\n".encode())
    writer.close()
class Udp(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.transport = transport
    def datagram_received(self, data, peer):
        self.transport.sendto(f"{name} {peer[0]}".encode(), peer)
async def main():
    loop = asyncio.get_running_loop()
    for port in ports:
        protocol, number = port.split("/")
        if protocol == "tcp":
            await asyncio.start_server(tcp, "0.0.0.0", int(number), backlog=1000)
        else:
            await loop.create_datagram_endpoint(Udp, ("0.0.0.0", int(number)))
    print("ready", flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""

ASK = """
import collections, json, socket, sys
protocol, address, port, count, timeout, source = sys.argv[1:]
heard = collections.Counter()
for i in range(int(count)):
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(type=kind) as client:
        client.settimeout(float(timeout))
        try:
            if source != "0":
                client.bind(("", int(source) + i))
            client.connect((address, int(port)))
            if protocol == "udp":
                client.send(b"hello")
            heard[client.recv(200).decode().strip()] += 1
        except TimeoutError:
            heard["silence"] += 1
        except ConnectionRefusedError:
            heard["refused"] += 1
        except OSError as error:
            heard[error.strerror] += 1
print(json.dumps(heard))
"""


class Cluster:
    """The nodes `a` and `b` of a lab: make tasks and services, then `tell` both nodes."""

    def __init__(self, lab: Any, mtu: int = 1350) -> None:
        self.lab = lab
        self.mtu = mtu
        self.clock = ManualClock()
        """Of both nodes: nothing is mended behind the back of a test."""
        self.nodes: dict[str, OverlayNetworks] = {}
        self.endpoints: set[Endpoint] = set()
        self.services: set[ServiceEntry] = set()
        self.networks: dict[str, set[NetworkId]] = {"a": set(), "b": set()}
        self.attachments: dict[str, dict[TaskId, tuple[Attachment, ...]]] = {"a": {}, "b": {}}
        self.paths: dict[TaskId, str] = {}
        self._servers: dict[TaskId, asyncio.subprocess.Process] = {}

    async def start(self, host: str) -> None:
        self.nodes[host] = self.lab.networks(host, self.clock)
        await self.nodes[host].start()

    async def close(self) -> None:
        for task_id in list(self._servers):
            await self.end(task_id)
        for node in self.nodes.values():
            await node.close()

    def network(self, host: str, network_id: NetworkId) -> NodeNetwork:
        number = NUMBERS[network_id]
        return NodeNetwork(
            network_id=network_id,
            name=network_id,
            vni=70_001 + number,
            subnet=f"10.244.{16 * number}.0/20",
            vip_subnet=f"10.245.{16 * number}.0/20",
            mtu=self.mtu,
            gateway=f"10.244.{16 * number}.{GATEWAYS[host]}",
            is_internal=network_id == INNER,
        )

    def picture(self, host: str) -> NetworkPicture:
        gateways = {
            Endpoint(
                network_id=network_id,
                address=self.network(other, network_id).gateway,
                node_address=self.lab.underlay[other],
            )
            for other, networks in self.networks.items()
            for network_id in networks
        }
        return NetworkPicture(
            networks={n: self.network(host, n) for n in sorted(self.networks[host])},
            endpoints=frozenset(self.endpoints | gateways),
            services=frozenset(self.services),
            nodes=frozenset(self.lab.underlay.values()),
            tasks=dict(self.attachments[host]),
        )

    async def tell(self, *hosts: str) -> None:
        for host in hosts or self.nodes:
            await self.nodes[host].want(self.picture(host))

    async def task(
        self,
        host: str,
        name: str,
        last: int,
        networks: Iterable[NetworkId] = (RED,),
        service: str = "web",
        serves: Iterable[str] = ("tcp/80", "udp/53"),
        ports: Iterable[PortConfig] = (),
    ) -> TaskId:
        """One that runs and serves; its last octet is `last` on all its networks."""
        task_id = TaskId(name)
        places = tuple(networks)
        self.networks[host].update(places)
        attachments = tuple(
            Attachment(network_id=n, address=f"10.244.{16 * NUMBERS[n]}.{last}") for n in places
        )
        self.attachments[host][task_id] = attachments
        for attachment in attachments:
            self.endpoints.add(
                Endpoint(
                    network_id=attachment.network_id,
                    address=attachment.address,
                    node_address=self.lab.underlay[host],
                    task_id=task_id,
                    service_id=ServiceId(service),
                    state="serving",
                )
            )
        await self.tell()
        self.paths[task_id] = await self.nodes[host].attach(task_id, attachments, {}, tuple(ports))
        if serves:
            await self._serve(task_id, serves)
        return task_id

    async def _serve(self, task_id: TaskId, ports: Iterable[str]) -> None:
        server = await asyncio.create_subprocess_exec(
            *["nsenter", f"--net={self.paths[task_id]}", sys.executable, "-c", SERVER],
            *[task_id, *ports],
            stdout=asyncio.subprocess.PIPE,
        )
        self._servers[task_id] = server
        assert server.stdout is not None
        assert await server.stdout.readline() == b"ready\n"

    async def end(self, task_id: TaskId) -> None:
        """Kill what serves in a task."""
        server = self._servers.pop(task_id)
        server.kill()
        await server.wait()

    def mark(self, task_id: TaskId, state: Literal["starting", "serving", "draining"]) -> None:
        own = {e for e in self.endpoints if e.task_id == task_id}
        self.endpoints -= own
        self.endpoints |= {replace(endpoint, state=state) for endpoint in own}

    def forget(self, task_id: TaskId) -> None:
        self.endpoints = {e for e in self.endpoints if e.task_id != task_id}

    def service(
        self,
        name: str = "web",
        network: NetworkId = RED,
        vip: int = 1,
        ports: Iterable[tuple[str, int, int]] = (),
        **fields: Any,
    ) -> str:
        """Returns its address."""
        address = f"10.245.{16 * NUMBERS[network]}.{vip}"
        self.services.add(
            ServiceEntry(
                service_id=ServiceId(name),
                network_id=network,
                name=name,
                vip=address,
                ports=tuple(
                    PortConfig(protocol=protocol, published_port=number, target_port=target)  # type: ignore[arg-type]
                    for protocol, number, target in ports
                ),
                **fields,
            )
        )
        return address

    def namespace(self, place: str) -> str:
        """Of a host, or of a task."""
        task = self.paths.get(TaskId(place))
        return task or str(Path("/run/netns", self.lab.name(place)))

    async def ask(
        self,
        place: str,
        address: str,
        port: int = 80,
        protocol: str = "tcp",
        count: int = 1,
        timeout_s: float = 1.0,
        source: int = 0,
    ) -> dict[str, int]:
        """What so many clients in a host or task hear, and how often: the name of who answers and
        the address that it saw. Else `silence`, `refused`, or the error."""
        process = await asyncio.create_subprocess_exec(
            *["nsenter", f"--net={self.namespace(place)}", sys.executable, "-c", ASK],
            *[protocol, address, str(port), str(count), str(timeout_s), str(source)],
            stdout=asyncio.subprocess.PIPE,
        )
        said, _ = await process.communicate()
        heard: dict[str, int] = json.loads(said)
        return heard

    async def hear(self, place: str, address: str, port: int = 80, protocol: str = "tcp") -> str:
        [heard] = await self.ask(place, address, port, protocol)
        return heard


@contextlib.contextmanager
def listening(cluster: Cluster, host: str, *ports: str) -> Iterator[None]:
    """A process of a host."""
    with subprocess.Popen(
        ["nsenter", f"--net={cluster.namespace(host)}", sys.executable, "-c", SERVER, host, *ports],
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield
        finally:
            process.kill()
