"""What the masters have told this node of its networks, and the picture made of it. Pure.

The masters' word is kept as it came: a service of a network that this node is not on, or an
endpoint of a service nobody spoke of, may be explained by a later message, and harms nobody until
then. Of two words about the same thing the later one counts.
"""

import ipaddress
from collections.abc import Callable, Iterable

import msgspec

from essaim_agent.network import EndpointState, NetworkPicture
from essaim_shared.errors import MalformedMessage
from essaim_shared.ids import NetworkId, ServiceId, TaskId
from essaim_shared.messages import Assignments, Endpoint, NodeNetwork, ServiceEntry
from essaim_shared.objects import Attachment

VNI_END = 2**24
MTU_MIN, MTU_MAX = 68, 65_535
"""68: what every link must carry (RFC 791)."""

_EndpointKey = tuple[NetworkId, str, str]
_ServiceKey = tuple[ServiceId, NetworkId]


class LocalTask(msgspec.Struct, frozen=True):
    """What a node knows of a task of its own."""

    task_id: TaskId
    attachments: tuple[Attachment, ...]
    state: EndpointState
    nameservers: tuple[str, ...] = ()


def _key(endpoint: Endpoint) -> _EndpointKey:
    # A bridge has no task; the same address behind two nodes would be a mistake, and not ours.
    return endpoint.network_id, endpoint.address, endpoint.task_id or endpoint.node_address


def _service_key(service: ServiceEntry) -> _ServiceKey:
    return service.service_id, service.network_id


class NetworkSet:
    """Networks, endpoints, services and nodes, as told by the masters so far."""

    def __init__(self) -> None:
        self._networks: dict[NetworkId, NodeNetwork] = {}
        self._endpoints: dict[_EndpointKey, Endpoint] = {}
        self._told: set[Endpoint] = set()
        """The same endpoints. Copying a set is quick, since it keeps the hashes of its members."""
        self._services: dict[_ServiceKey, ServiceEntry] = {}
        self._nodes: set[str] = set()

    @property
    def is_empty(self) -> bool:
        return not (self._networks or self._endpoints or self._services or self._nodes)

    @property
    def networks(self) -> tuple[NodeNetwork, ...]:
        return tuple(self._networks.values())

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        return tuple(self._endpoints.values())

    @property
    def services(self) -> tuple[ServiceEntry, ...]:
        return tuple(self._services.values())

    @property
    def nodes(self) -> tuple[str, ...]:
        return tuple(self._nodes)

    def gateway(self, network_id: NetworkId) -> str:
        """This node's own address on a network; empty for one that it is not on."""
        network = self._networks.get(network_id)
        return "" if network is None else network.gateway

    def replace(
        self,
        networks: Iterable[NodeNetwork],
        endpoints: Iterable[Endpoint],
        services: Iterable[ServiceEntry],
        nodes: Iterable[str],
    ) -> bool:
        """Take these for all there is. Whether that is a change."""
        before = (self._networks, self._endpoints, self._services, self._nodes)
        self._networks = {network.network_id: network for network in networks}
        self._endpoints = {_key(endpoint): endpoint for endpoint in endpoints}
        self._services = {_service_key(service): service for service in services}
        self._nodes = set(nodes)
        if before == (self._networks, self._endpoints, self._services, self._nodes):
            return False
        self._told = set(self._endpoints.values())
        return True

    def apply(self, message: Assignments) -> bool:
        """Obey a whole message: removals first, then additions. Whether anything changed."""
        if message.full:
            return self.replace(
                message.networks, message.endpoints, message.services, message.nodes
            )
        changed = False
        for network_id in message.removed_networks:
            changed |= self._networks.pop(network_id, None) is not None
        for service in message.removed_services:
            changed |= self._services.pop(_service_key(service), None) is not None
        for endpoint in message.removed_endpoints:
            changed |= self._forget(_key(endpoint))
        for address in message.removed_nodes:
            changed |= address in self._nodes
            self._nodes.discard(address)
        for network in message.networks:
            changed |= self._networks.get(network.network_id) != network
            self._networks[network.network_id] = network
        for service in message.services:
            changed |= self._services.get(_service_key(service)) != service
            self._services[_service_key(service)] = service
        for endpoint in message.endpoints:
            changed |= self._learn(endpoint)
        for address in message.nodes:
            changed |= address not in self._nodes
            self._nodes.add(address)
        return changed

    def _forget(self, key: _EndpointKey) -> bool:
        known = self._endpoints.pop(key, None)
        if known is None:
            return False
        self._told.discard(known)
        return True

    def _learn(self, endpoint: Endpoint) -> bool:
        key = _key(endpoint)
        known = self._endpoints.get(key)
        if known == endpoint:
            return False
        if known is not None:
            self._told.discard(known)
        self._endpoints[key] = endpoint
        self._told.add(endpoint)
        return True

    def picture(self, tasks: Iterable[LocalTask]) -> NetworkPicture:
        """All that is wanted, with what the node itself knows of its own tasks.

        Only one thing the masters know before the node does: that a task is to be stopped, of
        which they tell all nodes before they order it.
        """
        endpoints = set(self._told)
        attachments: dict[TaskId, tuple[Attachment, ...]] = {}
        nameservers: dict[TaskId, tuple[str, ...]] = {}
        for task in tasks:
            attachments[task.task_id] = task.attachments
            if task.nameservers:
                nameservers[task.task_id] = task.nameservers
            for attachment in task.attachments:
                key = (attachment.network_id, attachment.address, task.task_id)
                told = self._endpoints.get(key)
                if told is not None and told.state not in (task.state, "draining"):
                    endpoints.remove(told)
                    endpoints.add(msgspec.structs.replace(told, state=task.state))
        return NetworkPicture(
            networks=dict(self._networks),
            endpoints=frozenset(endpoints),
            services=frozenset(self._services.values()),
            nodes=frozenset(self._nodes),
            tasks=attachments,
            nameservers=nameservers,
        )


def check_networks(message: Assignments) -> None:
    """Raises MalformedMessage for what would break whoever puts it into the kernel: no master
    sends it."""
    for network in message.networks:
        _check(_subnet, network.subnet, f"subnet of network {network.network_id}")
        _check(_address, network.gateway, f"gateway of network {network.network_id}")
        if network.vip_subnet:
            _check(_subnet, network.vip_subnet, f"range of addresses of {network.network_id}")
        if not (0 < network.vni < VNI_END and MTU_MIN <= network.mtu <= MTU_MAX):
            raise MalformedMessage(
                f"network {network.network_id} has VNI {network.vni} and MTU {network.mtu}"
            )
    for endpoint in message.endpoints:
        _check(_address, endpoint.address, f"endpoint of network {endpoint.network_id}")
        _check(_address, endpoint.node_address, f"node of endpoint {endpoint.address}")
    for service in message.services:
        if service.vip:
            _check(_address, service.vip, f"address of service {service.service_id}")
    for address in message.nodes:
        _check(_address, address, "address of a node")
    for task in message.tasks:
        for attachment in task.attachments:
            _check(_address, attachment.address, f"address of task {task.id}")


_address: Callable[[str], object] = ipaddress.IPv4Address


def _subnet(text: str) -> object:
    if "/" not in text:
        raise ValueError(f"{text!r} has no prefix length")
    return ipaddress.IPv4Network(text)


def _check(parse: Callable[[str], object], text: str, what: str) -> None:
    try:
        parse(text)
    except ValueError as error:
        raise MalformedMessage(f"{what}: {error}"[:200]) from error
