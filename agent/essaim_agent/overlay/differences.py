"""What was not as wanted, in a sentence for people: one for each operation of a plan. Pure.

A sentence names networks, tasks and nodes instead of devices and MACs where they are known, says
what was found, and what was done about it.
"""

from collections.abc import Iterable, Mapping

import msgspec

from essaim_agent.network import NetworkPicture
from essaim_agent.overlay.plan import (
    AddAddress,
    CorrectBridge,
    CorrectVxlan,
    DeleteDevice,
    DescribePort,
    JoinPort,
    MakeBridge,
    MakeVxlan,
    Operation,
    PutEntry,
    RemoveAddress,
    RemoveEntry,
    RouteSubnet,
)
from essaim_agent.overlay.rtnetlink import FLOOD_MAC
from essaim_agent.overlay.tables import (
    VXLAN_PREFIX,
    Bridge,
    Entry,
    Forward,
    Neighbour,
    PortMac,
    Tables,
    Vxlan,
    bridge_name,
    vxlan_name,
)
from essaim_shared.addressing import MAC_PREFIX
from essaim_shared.messages import Endpoint, ServiceEntry


class Names(msgspec.Struct, frozen=True):
    """What people call the things in the tables."""

    networks: Mapping[str, str] = {}
    """By the name of a bridge or VXLAN device."""
    holders: Mapping[tuple[str, str], str] = {}
    """Who has an address, by (name of such a device, address)."""


_NO_NAMES = Names()


class Difference(msgspec.Struct, frozen=True):
    found: str
    """What was wrong."""
    deed: str
    """What is done about it."""

    def __str__(self) -> str:
        return f"{self.found}: {self.deed}"


def names_of(picture: NetworkPicture) -> Names:
    networks: dict[str, str] = {}
    for network_id, network in picture.networks.items():
        networks[bridge_name(network_id)] = networks[vxlan_name(network_id)] = network.name
    services = {entry.service_id: entry for entry in picture.services}
    holders: dict[tuple[str, str], str] = {}
    for endpoint in picture.endpoints:
        text = _holder(endpoint, services.get(endpoint.service_id))
        holders[bridge_name(endpoint.network_id), endpoint.address] = text
        holders[vxlan_name(endpoint.network_id), endpoint.address] = text
    return Names(networks, holders)


def _holder(endpoint: Endpoint, service: ServiceEntry | None) -> str:
    if not endpoint.task_id:
        return f"the bridge of {endpoint.node_address}"
    if service is not None and endpoint.slot:
        who = f"{service.name}.{endpoint.slot}"
    else:
        who = f"task {endpoint.task_id}"
    return f"{who} on {endpoint.node_address}"


def describe(operation: Operation, before: Tables, names: Names = _NO_NAMES) -> Difference:
    """`before`: the tables as they were found, for which the operation was planned."""
    match operation:
        case DeleteDevice(name):
            if name in before.vxlans and name in names.networks:
                what = f"{_device(name, names)} is another tunnel than wanted"
                return Difference(what, "deleted, to be made anew")
            return Difference(f"{_device(name, names)} is no longer wanted", "deleted")
        case MakeBridge(bridge):
            return Difference(f"{_device(bridge.name, names)} was missing", "made")
        case MakeVxlan(vxlan):
            return Difference(f"{_device(vxlan.name, names)} was missing", "made")
        case CorrectBridge(bridge):
            wrong = _bridge_faults(bridge, before.bridges.get(bridge.name))
            return Difference(f"{_device(bridge.name, names)} {_all(wrong)}", "set right")
        case CorrectVxlan(vxlan):
            wrong = _vxlan_faults(vxlan, before.vxlans.get(vxlan.name), names)
            return Difference(f"{_device(vxlan.name, names)} {_all(wrong)}", "set right")
        case AddAddress(bridge, interface):
            return Difference(f"{_device(bridge, names)} lacked its address {interface}", "added")
        case RemoveAddress(bridge, interface):
            what = f"{_device(bridge, names)} had an address {interface} that nobody wants"
            return Difference(what, "removed")
        case RouteSubnet(bridge, interface):
            what = (
                f"the route to the subnet of {interface} did not lead to {_device(bridge, names)}"
            )
            return Difference(what, "put back")
        case DescribePort(name):
            return Difference(
                f"the interface {name}{_task(name, before)} lost its alias", "renewed"
            )
        case JoinPort(name, bridge):
            what = (
                f"the interface {name}{_task(name, before)} was down, not a port of "
                f"{_device(bridge, names)}, or not in hairpin mode"
            )
            return Difference(what, "joined and set up")
        case PutEntry(entry, replaced):
            return _put(entry, replaced, names)
        case RemoveEntry(entry):
            return Difference(f"{_entry(entry, names)} was there though nobody wants it", "removed")


def differences(
    operations: Iterable[Operation], before: Tables, picture: NetworkPicture
) -> list[Difference]:
    """One for each operation. Names are looked up only when there is something to tell."""
    planned = list(operations)
    if not planned:
        return []
    names = names_of(picture)
    return [describe(operation, before, names) for operation in planned]


def _put(entry: Entry, replaced: Entry | None, names: Names) -> Difference:
    what = _entry(entry, names)
    match replaced:
        case None:
            return Difference(f"{what} was missing", "put back")
        case Forward():
            return Difference(f"{what} led to {replaced.vtep}", "put right")
        case Neighbour():
            return Difference(f"{what} had the MAC {replaced.mac}", "put right")
        case PortMac():
            return Difference(f"{what} could be moved by others' frames", "put right")


def _entry(entry: Entry, names: Names) -> str:
    match entry:
        case Forward(vxlan, mac, vtep) if mac == FLOOD_MAC:
            return f"flood entry of {_network(vxlan, names)} to {vtep}"
        case Forward(vxlan, mac, _):
            return f"forwarding entry of {_address(vxlan, mac, names)}"
        case PortMac(vxlan, mac, _):
            return f"bridge entry of {_address(vxlan, mac, names)}"
        case Neighbour(bridge, address, _):
            return f"neighbour entry of {_with_holder(bridge, address, names)}"


def _address(device: str, mac: str, names: Names) -> str:
    """Whose MAC it is: ours have the address in them."""
    if not mac.startswith(f"{MAC_PREFIX}:"):
        return f"{mac} on {_network(device, names)}"
    octets = mac.removeprefix(f"{MAC_PREFIX}:").split(":")
    return _with_holder(device, ".".join(str(int(octet, 16)) for octet in octets), names)


def _with_holder(device: str, address: str, names: Names) -> str:
    holder = names.holders.get((device, address))
    return f"{address} ({holder})" if holder else f"{address} on {_network(device, names)}"


def _network(device: str, names: Names) -> str:
    name = names.networks.get(device)
    return f"network {name}" if name else f"device {device}"


def _device(name: str, names: Names) -> str:
    kind = "VXLAN device" if name.startswith(VXLAN_PREFIX) else "bridge"
    network = names.networks.get(name)
    return f"{kind} {name} of network {network}" if network else f"{kind} {name}"


def _task(name: str, before: Tables) -> str:
    port = before.ports.get(name)
    return f" of task {port.task_id}" if port is not None else ""


def _bridge_faults(want: Bridge, found: Bridge | None) -> list[str]:
    if found is None:
        return []
    faults = []
    if not found.up:
        faults.append("was down")
    if found.mac != want.mac:
        faults.append(f"had the MAC {found.mac}")
    if found.mtu != want.mtu:
        faults.append(f"had an MTU of {found.mtu} instead of {want.mtu}")
    return faults


def _vxlan_faults(want: Vxlan, found: Vxlan | None, names: Names) -> list[str]:
    if found is None:
        return []
    faults = []
    if not found.up:
        faults.append("was down")
    if found.bridge != want.bridge:
        faults.append(f"was not a port of {_device(want.bridge, names)}")
    if found.mtu != want.mtu:
        faults.append(f"had an MTU of {found.mtu} instead of {want.mtu}")
    if found.learning:
        faults.append("learned from packets")
    if not found.neigh_suppress:
        faults.append("flooded ARP")
    return faults


def _all(faults: list[str]) -> str:
    return " and ".join(faults) if faults else "was not as wanted"
