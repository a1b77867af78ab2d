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

from collections.abc import Iterable
from functools import lru_cache

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
    """It is up and a port of that bridge."""
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


ENDPOINTS_REMEMBERED_MAX = 16_384


@lru_cache(maxsize=ENDPOINTS_REMEMBERED_MAX)
def entries_of(endpoint: Endpoint) -> tuple[Entry, Entry, Entry, Entry]:
    """The three entries of a remote address, and the flood entry of its node.

    Remembered, for sets of thousands come again with one endpoint more.
    """
    mac = mac_of(endpoint.address)
    vxlan = vxlan_name(endpoint.network_id)
    return (
        Forward(vxlan, mac, endpoint.node_address),
        PortMac(vxlan, mac),
        Neighbour(bridge_name(endpoint.network_id), endpoint.address, mac),
        Forward(vxlan, FLOOD_MAC, endpoint.node_address),
    )


def wanted_tables(
    networks: Iterable[NodeNetwork],
    endpoints: Iterable[Endpoint],
    local: str,
    udp_port: int = UDP_PORT_DEFAULT,
) -> Tables:
    """The tables of the node whose underlay address is `local`.

    Endpoints of networks that this node is not on, and those on this node itself (their frames
    would leave on the wire and never come back), are left out. An address has one place: of two,
    the greater VTEP counts, so that every reading of a set agrees.
    """
    by_id = {network.network_id: network for network in networks}
    bridges: dict[str, Bridge] = {}
    vxlans: dict[str, Vxlan] = {}
    for network_id, network in by_id.items():
        bridge = bridge_name(network_id)
        gateway = f"{network.gateway}/{prefix_length(network.subnet)}"
        bridges[bridge] = Bridge(
            bridge, mac_of(network.gateway), network.mtu, frozenset((gateway,))
        )
        vxlan = vxlan_name(network_id)
        vxlans[vxlan] = Vxlan(vxlan, bridge, network.vni, local, udp_port, network.mtu)
    place: dict[tuple[NetworkId, str], Endpoint] = {}
    for endpoint in endpoints:
        key = (endpoint.network_id, endpoint.address)
        known = place.get(key)
        if known is None or known.node_address < endpoint.node_address:
            place[key] = endpoint
    entries: set[Entry] = set()
    for endpoint in place.values():
        if endpoint.network_id in by_id and endpoint.node_address != local:
            entries.update(entries_of(endpoint))
    return Tables(bridges=bridges, vxlans=vxlans, entries=frozenset(entries))
