"""The overlay in memory: same contract as `overlay.task_networks`, for tests and simulations.

Nodes share a `FakeFabric`, which can be asked whether a frame would arrive, to which tasks a node
leads those who connect, and what its name server answers. What a node holds stays in the fabric
when its `FakeNetworks` is closed, as the kernel keeps it when an agent ends.
"""

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from essaim_agent.network import InterfaceCounters, NetworkError, NetworkPicture, NetworksRefused
from essaim_agent.overlay.host_ports import PortKey, PublishedTask, holder_of, published_tasks
from essaim_agent.overlay.routes import Route, routes_of
from essaim_agent.overlay.sysctls import check_sysctls
from essaim_agent.overlay.tables import namespace_name
from essaim_shared.ids import NetworkId, TaskId
from essaim_shared.messages import Endpoint, NodeNetwork, ServiceEntry
from essaim_shared.objects import Attachment, Task
from essaim_shared.spec import PortConfig


@dataclass
class FakeNamespace:
    attachments: tuple[Attachment, ...]
    sysctls: dict[str, str]
    routes: tuple[Route, ...] = ()
    mtu: int = 0
    """Of the first interface, as it was when the task was attached."""
    packets: int = 0

    def address_on(self, network_id: NetworkId) -> str | None:
        return next((a.address for a in self.attachments if a.network_id == network_id), None)


@dataclass
class FakeKernel:
    """The tables of one node."""

    networks: dict[NetworkId, NodeNetwork] = field(default_factory=dict)
    endpoints: frozenset[Endpoint] = frozenset()
    namespaces: dict[TaskId, FakeNamespace] = field(default_factory=dict)
    published: dict[TaskId, PublishedTask] = field(default_factory=dict)
    listeners: set[PortKey] = field(default_factory=set)
    """Ports on which processes of the host listen."""
    picture: NetworkPicture = field(default_factory=NetworkPicture)
    """As wanted last."""
    pictures: int = 0
    """So many were wanted."""
    connections: Counter[TaskId] = field(default_factory=Counter)
    """Under way, that tasks of this node serve: for a test to set."""

    def holder(self, network_id: NetworkId, address: str) -> FakeNamespace | None:
        for namespace in self.namespaces.values():
            if namespace.address_on(network_id) == address:
                return namespace
        return None

    def place(self, network_id: NetworkId, address: str) -> str | None:
        """The underlay address behind which an overlay address is."""
        places = [
            endpoint.node_address
            for endpoint in self.endpoints
            if endpoint.network_id == network_id and endpoint.address == address
        ]
        return max(places, default=None)

    def servers(self, service: ServiceEntry) -> list[Endpoint]:
        """Where the node leads new connections to a service on a network."""
        return [
            endpoint
            for endpoint in self.endpoints
            if endpoint.state == "serving"
            and (endpoint.network_id, endpoint.service_id)
            == (service.network_id, service.service_id)
        ]


class FakeFabric:
    """All nodes, by underlay address."""

    def __init__(self) -> None:
        self.kernels: dict[str, FakeKernel] = {}

    def kernel(self, node_address: str) -> FakeKernel:
        return self.kernels.setdefault(node_address, FakeKernel())

    def state_at(self, node_address: str, task_id: TaskId) -> str:
        """Of a task's endpoints in a node's tables; empty: they know none, or disagree."""
        states = {e.state for e in self.kernel(node_address).endpoints if e.task_id == task_id}
        return states.pop() if len(states) == 1 else ""

    def led_to(self, node_address: str, vip: str) -> set[TaskId]:
        """The tasks to which a node leads those who connect to a service's own address."""
        kernel = self.kernel(node_address)
        return {
            endpoint.task_id
            for service in kernel.picture.services
            if vip and service.vip == vip and service.network_id in kernel.networks
            for endpoint in kernel.servers(service)
        }

    def port_led_to(self, node_address: str, protocol: str, number: int) -> set[TaskId]:
        """The same for a published port of the node."""
        kernel = self.kernel(node_address)
        return {
            endpoint.task_id
            for service in kernel.picture.services
            for port in service.ports
            if (port.protocol, port.published_port) == (protocol, number)
            for endpoint in kernel.servers(service)
        }

    def lookup(self, node_address: str, task_id: TaskId, name: str) -> set[str]:
        """What the node's name server tells a task that asks for a service."""
        kernel = self.kernel(node_address)
        asking = {a.network_id for a in kernel.picture.tasks.get(task_id, ())}
        found: set[str] = set()
        for service in kernel.picture.services:
            if service.network_id not in asking or name not in (service.name, *service.aliases):
                continue
            found |= {service.vip} if service.vip else {e.address for e in kernel.servers(service)}
        return found

    def reaches(self, node_address: str, task_id: TaskId, address: str) -> bool:
        """Whether a packet of that task arrives at an overlay address and is answered: both ends
        must know the way."""
        kernel = self.kernel(node_address)
        namespace = kernel.namespaces.get(task_id)
        if namespace is None:
            return False
        for attachment in namespace.attachments:
            network_id = attachment.network_id
            there = self._holder(node_address, network_id, address)
            if there is None:
                continue
            target_address, target = there
            back = self._holder(target_address, network_id, attachment.address)
            if back is not None and back[1] is namespace:
                namespace.packets += 1
                if target is not None and target is not namespace:
                    target.packets += 1
                return True
        return False

    def _holder(
        self, node_address: str, network_id: NetworkId, address: str
    ) -> tuple[str, FakeNamespace | None] | None:
        """Seen from a node: on which node an address is, and the namespace that has it (None for
        a gateway). None when no frame arrives anywhere."""
        kernel = self.kernel(node_address)
        network = kernel.networks.get(network_id)
        if network is None:
            return None
        local = kernel.holder(network_id, address)
        if local is not None or network.gateway == address:
            return node_address, local
        place = kernel.place(network_id, address)
        if place is None or place == node_address:
            return None
        there = self.kernel(place)
        remote_network = there.networks.get(network_id)
        if remote_network is None or remote_network.vni != network.vni:
            return None
        remote = there.holder(network_id, address)
        if remote is None and remote_network.gateway != address:
            return None
        return place, remote


class FakeNetworks:
    """Implements `essaim_agent.network.TaskNetworks`.

    `refusals` holds tasks whose namespace the kernel refuses, with the reason; `tables_refusal`
    does the same for the wanted tables, and `tables_free`, once cleared, holds them up, as
    `connections_free` does with whoever wants connections counted.
    """

    def __init__(self, fabric: FakeFabric, address: str) -> None:
        self._fabric = fabric
        self._address = address
        self._kernel: FakeKernel | None = None
        self._wanted: frozenset[NetworkId] = frozenset()
        self.refusals: dict[TaskId, str] = {}
        self.tables_refusal = ""
        self.refused_networks: frozenset[NetworkId] = frozenset()
        self.tables_free = asyncio.Event()
        self.tables_free.set()
        self.connections_free = asyncio.Event()
        self.connections_free.set()

    def _started(self) -> FakeKernel:
        if self._kernel is None:
            raise NetworkError("the overlay is not started")
        return self._kernel

    async def start(self) -> None:
        self._kernel = self._fabric.kernel(self._address)

    async def close(self) -> None:
        self._kernel = None

    async def adopt_ports(self, tasks: Iterable[Task]) -> None:
        kernel = self._started()
        kernel.published = published_tasks(tasks)

    async def want(self, picture: NetworkPicture) -> None:
        networks, endpoints = picture.networks, picture.endpoints
        kernel = self._started()
        await self.tables_free.wait()
        if self.tables_refusal and not self.refused_networks:
            raise NetworkError(self.tables_refusal)
        self._wanted = frozenset(networks)
        kept = {i: n for i, n in kernel.networks.items() if i in _used(kernel)}
        kernel.picture = picture
        kernel.pictures += 1
        kernel.networks = {**kept, **networks}
        lingering = {e for e in kernel.endpoints if e.network_id in kept.keys() - networks.keys()}
        kernel.endpoints = frozenset(lingering | _useful(endpoints, picture))
        if self.refused_networks:
            raise NetworksRefused(self.tables_refusal, self.refused_networks)

    async def attach(
        self,
        task_id: TaskId,
        attachments: Sequence[Attachment],
        sysctls: Mapping[str, str],
        ports: Sequence[PortConfig] = (),
    ) -> str:
        kernel = self._started()
        path = f"/run/netns/{namespace_name(task_id)}"
        if ports and attachments:
            self._publish(kernel, task_id, PublishedTask(attachments[0].address, tuple(ports)))
        if task_id in kernel.namespaces:
            return path
        check_sysctls(sysctls)
        if not attachments:
            raise NetworkError(f"task {task_id} has no network to be attached to")
        for attachment in attachments:
            if attachment.network_id not in self._wanted:
                raise NetworkError(
                    f"network {attachment.network_id} of task {task_id} is not on this node"
                )
        if task_id in self.refusals:
            raise NetworkError(self.refusals[task_id])
        kernel.namespaces[task_id] = FakeNamespace(
            tuple(attachments),
            dict(sysctls),
            tuple(routes_of(attachments, kernel.networks)),
            kernel.networks[attachments[0].network_id].mtu,
        )
        return path

    def _publish(self, kernel: FakeKernel, task_id: TaskId, wanted: PublishedTask) -> None:
        if kernel.published.get(task_id) == wanted:
            return
        others = {i: task for i, task in kernel.published.items() if i != task_id}
        holder = holder_of(others, wanted)
        if holder is not None:
            raise NetworkError(f"a port of task {task_id} is still held by task {holder}")
        for protocol, number in wanted.keys:
            if (protocol, number) in kernel.listeners:
                raise NetworkError(
                    f"port {number}/{protocol} of this node is in use by another process: "
                    "publish another port, or stop that process"
                )
        kernel.published[task_id] = wanted

    async def detach(self, task_id: TaskId) -> None:
        kernel = self._started()
        kernel.namespaces.pop(task_id, None)
        kernel.published.pop(task_id, None)
        used = _used(kernel) | self._wanted
        kernel.networks = {i: n for i, n in kernel.networks.items() if i in used}
        kept = {e for e in kernel.endpoints if e.network_id in used}
        kernel.endpoints = frozenset(kept | _useful(kernel.endpoints, kernel.picture))

    async def connections(self, task_id: TaskId) -> int:
        await self.connections_free.wait()
        return self._started().connections[task_id]

    async def attached(self) -> frozenset[TaskId]:
        return frozenset(self._started().namespaces)

    def counters(self, task_id: TaskId) -> InterfaceCounters | None:
        namespace = self._started().namespaces.get(task_id)
        if namespace is None:
            return None
        octets = namespace.packets * _PACKET_BYTES
        return InterfaceCounters(octets, octets, namespace.packets, namespace.packets)


_PACKET_BYTES = 98
"""An ICMP echo of `ping` in its Ethernet frame."""


def _useful(endpoints: Iterable[Endpoint], picture: NetworkPicture) -> set[Endpoint]:
    """Those on networks of the node, and those of services with published ports."""
    published = {(s.network_id, s.service_id) for s in picture.services if s.ports}
    return {
        endpoint
        for endpoint in endpoints
        if endpoint.network_id in picture.networks
        or (endpoint.network_id, endpoint.service_id) in published
    }


def _used(kernel: FakeKernel) -> set[NetworkId]:
    return {a.network_id for n in kernel.namespaces.values() for a in n.attachments}
