"""What the kernel's tables of one node hold: as wanted, and as found. Pure.

Per network: a bridge with the node's gateway address, and a VXLAN device as one of its ports.
Per remote address, three entries (RFC 7348, 4; bridge(8)):

    forward     on the VXLAN device   MAC → VTEP       where the frame goes on the underlay
    port MAC    on the bridge         MAC → VXLAN port that it goes there at all, whoever sends
                                                       frames with that MAC (sticky)
    neighbour   on the bridge         address → MAC    with which the bridge answers ARP itself
                                                       (neigh_suppress), so that it is not flooded

and a flood entry for each VTEP with at least one address on the network. All of them are static:
nothing is learned, so nothing is forgotten, aged or poisoned.
"""

from collections import Counter
from collections.abc import Iterable, Mapping

import msgspec

from essaim_agent.overlay.rtnetlink import FLOOD_MAC
from essaim_shared.addressing import device_name, mac_of
from essaim_shared.ids import NetworkId, TaskId
from essaim_shared.messages import Endpoint, NodeNetwork

BRIDGE_PREFIX = "es-b"
VXLAN_PREFIX = "es-x"
PORT_PREFIX = "es-v"
NAMESPACE_PREFIX = "es-t"

UDP_PORT_DEFAULT = 7472
"""Not 4789, which Docker Swarm uses: both can live on one host."""


class Bridge(msgspec.Struct, frozen=True):
    name: str
    mac: str
    """`mac_of` the gateway, set by us: a bridge that borrows a port's MAC changes it with its
    ports, and every neighbour's cache would be wrong."""
    mtu: int
    addresses: frozenset[str]
    """`address/prefix`; exactly the gateway's when wanted."""
    up: bool = True
    routed: bool = True
    """The route to the subnet leads to it. The kernel makes it with the address."""


class Vxlan(msgspec.Struct, frozen=True):
    name: str
    bridge: str
    """Name of the bridge it is a port of; empty when of none."""
    vni: int
    local: str
    udp_port: int
    mtu: int
    up: bool = True
    learning: bool = False
    neigh_suppress: bool = True


class Port(msgspec.Struct, frozen=True):
    """The host's end of a task's veth pair."""

    name: str
    bridge: str
    """Name of the bridge it belongs to: from its alias, whatever its present master is."""
    task_id: TaskId
    joined: bool
    """It is up and a port of that bridge, and gets back what it sends to itself."""
    described: bool = True
    """It has its alias."""


class Forward(msgspec.Struct, frozen=True):
    """Several with FLOOD_MAC may stand on a device, of any other MAC one."""

    vxlan: str
    mac: str
    vtep: str


class PortMac(msgspec.Struct, frozen=True):
    vxlan: str
    mac: str
    sticky: bool = True
    """Frames from elsewhere with this MAC do not move it."""


class Neighbour(msgspec.Struct, frozen=True):
    bridge: str
    address: str
    mac: str


Entry = Forward | PortMac | Neighbour


class Tables(msgspec.Struct, frozen=True):
    bridges: dict[str, Bridge] = {}
    vxlans: dict[str, Vxlan] = {}
    ports: dict[str, Port] = {}
    """Found only. Tasks come and go by attach and detach, not by these tables."""
    entries: frozenset[Entry] = frozenset()


def bridge_name(network_id: NetworkId) -> str:
    return device_name(BRIDGE_PREFIX, network_id)


def vxlan_name(network_id: NetworkId) -> str:
    return device_name(VXLAN_PREFIX, network_id)


def port_name(task_id: TaskId, network_id: NetworkId) -> str:
    return device_name(PORT_PREFIX, f"{task_id} {network_id}")


def namespace_name(task_id: TaskId) -> str:
    """Task ids are unique over all hosts, so several lab hosts can share one /run/netns."""
    return device_name(NAMESPACE_PREFIX, task_id)


def port_alias(task_id: TaskId, network_id: NetworkId) -> str:
    """Stands in the kernel beside the device (`ip link` shows it): whose port it is can be read
    after a restart of the agent, and by people."""
    return f"essaim task {task_id} network {network_id}"


def read_port_alias(alias: str) -> tuple[TaskId, NetworkId] | None:
    match alias.split(" "):
        case ["essaim", "task", task_id, "network", network_id]:
            return TaskId(task_id), NetworkId(network_id)
    return None


def prefix_length(subnet: str) -> str:
    return subnet.rpartition("/")[2]


def entries_of(
    network_id: NetworkId, address: str, node_address: str
) -> tuple[Entry, Entry, Entry, Entry]:
    """The three entries of a remote address, and the flood entry of its node."""
    mac = mac_of(address)
    vxlan = vxlan_name(network_id)
    return (
        Forward(vxlan, mac, node_address),
        PortMac(vxlan, mac),
        Neighbour(bridge_name(network_id), address, mac),
        Forward(vxlan, FLOOD_MAC, node_address),
    )


def wanted_tables(
    networks: Iterable[NodeNetwork],
    endpoints: Iterable[Endpoint],
    local: str,
    udp_port: int = UDP_PORT_DEFAULT,
) -> Tables:
    """The tables of the node whose underlay address is `local`."""
    by_id = {network.network_id: network for network in networks}
    return WantedTables(local, udp_port).update(by_id, frozenset(endpoints))


_Place = tuple[NetworkId, str]
"""A network and an address on it."""


class WantedTables:
    """The tables of the node whose underlay address is `local`, renewed with each picture: what
    a change of one endpoint costs does not grow with the others.

    Endpoints of networks that this node is not on, and those on this node itself (their frames
    would leave on the wire and never come back), are left out. An address has one place: of two,
    the greater VTEP counts, so that every reading of a set agrees.
    """

    def __init__(self, local: str, udp_port: int = UDP_PORT_DEFAULT) -> None:
        self._local, self._udp_port = local, udp_port
        self._networks: Mapping[NetworkId, NodeNetwork] = {}
        self._endpoints: frozenset[Endpoint] = frozenset()
        self._vteps: dict[_Place, list[str]] = {}
        """Of all endpoints at a place, one each."""
        self._of_place: dict[_Place, tuple[Entry, Entry, Entry, Entry]] = {}
        self.known: dict[Entry, Entry] = {}
        """All entries, each by itself: who finds an equal one elsewhere takes this one instead,
        so that comparing thousands of them is comparing where they lie."""
        self._flooded: Counter[Entry] = Counter()
        self._tables = Tables()

    def update(
        self, networks: Mapping[NetworkId, NodeNetwork], endpoints: frozenset[Endpoint]
    ) -> Tables:
        touched = self._take(self._endpoints - endpoints, endpoints - self._endpoints)
        changed = self._networks.keys() ^ networks.keys()
        if changed:
            touched.update(place for place in self._vteps if place[0] in changed)
            touched.update(place for place in self._of_place if place[0] in changed)
        is_same = networks == self._networks
        self._networks, self._endpoints = networks, endpoints
        is_moved = False
        for place in touched:
            is_moved = self._settle(place) or is_moved
        if is_moved or not is_same:
            bridges, vxlans = self._devices()
            entries = frozenset(self.known) if is_moved else self._tables.entries
            self._tables = Tables(bridges=bridges, vxlans=vxlans, entries=entries)
        return self._tables

    def _take(self, removed: Iterable[Endpoint], added: Iterable[Endpoint]) -> set[_Place]:
        touched: set[_Place] = set()
        for endpoint in removed:
            place = (endpoint.network_id, endpoint.address)
            self._vteps[place].remove(endpoint.node_address)
            if not self._vteps[place]:
                del self._vteps[place]
            touched.add(place)
        for endpoint in added:
            place = (endpoint.network_id, endpoint.address)
            self._vteps.setdefault(place, []).append(endpoint.node_address)
            touched.add(place)
        return touched

    def _settle(self, place: _Place) -> bool:
        """Make the entries of a place fit; False when they did."""
        vtep = max(self._vteps.get(place, ()), default=self._local)
        known = self._of_place.get(place)
        if vtep == self._local or place[0] not in self._networks:
            fresh = None
        elif known is not None and isinstance(known[0], Forward) and known[0].vtep == vtep:
            return False
        else:
            fresh = entries_of(*place, vtep)
        if known is not None:
            del self._of_place[place]
            for entry in known[:3]:
                del self.known[entry]
            self._flooded[known[3]] -= 1
            if not self._flooded[known[3]]:
                del self._flooded[known[3]]
                del self.known[known[3]]
        if fresh is not None:
            fresh = self._of_place[place] = (*fresh[:3], self.known.get(fresh[3], fresh[3]))
            self.known.update(zip(fresh, fresh, strict=True))
            self._flooded[fresh[3]] += 1
        return known is not None or fresh is not None

    def _devices(self) -> tuple[dict[str, Bridge], dict[str, Vxlan]]:
        bridges: dict[str, Bridge] = {}
        vxlans: dict[str, Vxlan] = {}
        for network_id, network in self._networks.items():
            bridge, vxlan = bridge_name(network_id), vxlan_name(network_id)
            gateway = f"{network.gateway}/{prefix_length(network.subnet)}"
            bridges[bridge] = Bridge(
                bridge, mac_of(network.gateway), network.mtu, frozenset((gateway,))
            )
            vxlans[vxlan] = Vxlan(
                vxlan, bridge, network.vni, self._local, self._udp_port, network.mtu
            )
        return bridges, vxlans
