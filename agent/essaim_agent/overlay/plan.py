"""From the tables as found to the tables as wanted: an ordered list of operations. Pure.

The order is stated here and nowhere else: entries that lead astray go first, then devices that
nobody wants, then devices are made or corrected, ports join, entries are put. An address that
moved is *replaced* in one operation, so that no frame falls into a gap. A device is made anew
only when the kernel cannot change what differs (VNI, local address, UDP port).

A bridge that still has a task's port is kept, with its VXLAN device and entries, though nobody
wants it any more: it goes with its last task, whose connections may be draining.
"""

from collections.abc import Iterable, Sequence

import msgspec
from msgspec.structs import replace

from essaim_agent.overlay.rtnetlink import FLOOD_MAC
from essaim_agent.overlay.tables import (
    Bridge,
    Entry,
    Forward,
    Neighbour,
    PortMac,
    Tables,
    Vxlan,
)
from essaim_shared.addressing import mac_of


class DeleteDevice(msgspec.Struct, frozen=True):
    name: str


class MakeBridge(msgspec.Struct, frozen=True):
    bridge: Bridge


class CorrectBridge(msgspec.Struct, frozen=True):
    """MAC, MTU and state; addresses have operations of their own."""

    bridge: Bridge


class AddAddress(msgspec.Struct, frozen=True):
    bridge: str
    interface: str


class RemoveAddress(msgspec.Struct, frozen=True):
    bridge: str
    interface: str


class RouteSubnet(msgspec.Struct, frozen=True):
    """Put back the route that the kernel made with this address."""

    bridge: str
    interface: str


class MakeVxlan(msgspec.Struct, frozen=True):
    vxlan: Vxlan


class CorrectVxlan(msgspec.Struct, frozen=True):
    """MTU, bridge, port flags and state."""

    vxlan: Vxlan


class JoinPort(msgspec.Struct, frozen=True):
    name: str
    bridge: str


class DescribePort(msgspec.Struct, frozen=True):
    """Give it its alias again."""

    name: str


class PutEntry(msgspec.Struct, frozen=True):
    """Add it, or put it in the place of the one with the same key."""

    entry: Entry
    replaces: Entry | None = None


class RemoveEntry(msgspec.Struct, frozen=True):
    entry: Entry


Operation = (
    DeleteDevice
    | MakeBridge
    | CorrectBridge
    | AddAddress
    | RemoveAddress
    | RouteSubnet
    | MakeVxlan
    | CorrectVxlan
    | DescribePort
    | JoinPort
    | PutEntry
    | RemoveEntry
)

_EntryKey = tuple[str, str, str]


def entry_key(entry: Entry) -> _EntryKey:
    """Two entries with one key cannot both be in the kernel."""
    match entry:
        case Forward(vxlan, mac, vtep):
            return ("forward", vxlan, f"{mac} {vtep}" if mac == FLOOD_MAC else mac)
        case PortMac(vxlan, mac, _):
            return ("port", vxlan, mac)
        case Neighbour(bridge, address, _):
            return ("neighbour", bridge, address)


def entry_device(entry: Entry) -> str:
    return entry.bridge if isinstance(entry, Neighbour) else entry.vxlan


def operation_device(operation: Operation) -> str:
    """The device that it cannot do without."""
    match operation:
        case DeleteDevice(name) | DescribePort(name) | JoinPort(name, _):
            return name
        case MakeBridge(made) | CorrectBridge(made):
            return made.name
        case MakeVxlan(vxlan) | CorrectVxlan(vxlan):
            return vxlan.name
        case AddAddress(bridge, _) | RemoveAddress(bridge, _) | RouteSubnet(bridge, _):
            return bridge
        case PutEntry(entry, _) | RemoveEntry(entry):
            return entry_device(entry)


def plan(wanted: Tables, present: Tables) -> list[Operation]:
    """The operations that lead from `present` to `wanted`, in the order of carrying them out."""
    kept_bridges = {port.bridge for port in present.ports.values()} - wanted.bridges.keys()
    kept = kept_bridges | {v.name for v in present.vxlans.values() if v.bridge in kept_bridges}
    devices, vanished = _devices(wanted, present, kept)
    moved = {
        vxlan.name
        for vxlan in present.vxlans.values()
        if vxlan.name in wanted.vxlans and wanted.vxlans[vxlan.name].bridge != vxlan.bridge
    }
    flushed = {
        bridge.name
        for bridge in present.bridges.values()
        if bridge.name in wanted.bridges and wanted.bridges[bridge.name].mac != bridge.mac
    }
    removals, puts = _entries(wanted, present, vanished, moved, flushed, kept)
    return [*removals, *devices, *_joins(wanted, present, kept), *puts]


def _devices(wanted: Tables, present: Tables, kept: set[str]) -> tuple[list[Operation], set[str]]:
    """The operations on devices, and the names of the present devices that go away by them."""
    operations: list[Operation] = []
    deleted: set[str] = set()
    for vxlan in present.vxlans.values():
        want = wanted.vxlans.get(vxlan.name)
        if vxlan.name not in kept and (want is None or not _same_tunnel(want, vxlan)):
            deleted.add(vxlan.name)
    deleted.update(present.bridges.keys() - wanted.bridges.keys() - kept)
    operations.extend(DeleteDevice(name) for name in sorted(deleted, reverse=True))
    for bridge in wanted.bridges.values():
        operations.extend(_bridge(bridge, present.bridges.get(bridge.name)))
    for want in wanted.vxlans.values():
        found = present.vxlans.get(want.name)
        if found is None or want.name in deleted:
            operations.append(MakeVxlan(want))
        elif found != want:
            operations.append(CorrectVxlan(want))
    return operations, deleted


def _same_tunnel(a: Vxlan, b: Vxlan) -> bool:
    return (a.vni, a.local, a.udp_port) == (b.vni, b.local, b.udp_port)


def _bridge(want: Bridge, found: Bridge | None) -> Iterable[Operation]:
    if found is None:
        yield MakeBridge(want)
        addresses: frozenset[str] = frozenset()
    else:
        addresses = found.addresses
        if (want.mac, want.mtu, want.up) != (found.mac, found.mtu, found.up):
            yield CorrectBridge(want)
    for interface in sorted(addresses - want.addresses):
        yield RemoveAddress(want.name, interface)
    for interface in sorted(want.addresses - addresses):
        yield AddAddress(want.name, interface)
    if found is not None and not found.routed:
        for interface in sorted(want.addresses & addresses):
            yield RouteSubnet(want.name, interface)


def _joins(wanted: Tables, present: Tables, kept: set[str]) -> Iterable[Operation]:
    for port in present.ports.values():
        if not port.described:
            yield DescribePort(port.name)
        missing = port.bridge in wanted.bridges and port.bridge not in present.bridges
        there = port.bridge in wanted.bridges or port.bridge in kept & present.bridges.keys()
        if missing or (there and not port.joined):
            yield JoinPort(port.name, port.bridge)


def _entries(
    wanted: Tables,
    present: Tables,
    vanished: set[str],
    moved: set[str],
    flushed: set[str],
    kept: set[str],
) -> tuple[list[Operation], list[Operation]]:
    """Removals and puts. Costs are those of the differences, which are few among thousands.

    Entries of a device that goes away go with it, and those of a kept one stay. A VXLAN device
    that comes to another bridge left its port MACs in the old one's table, and a bridge that gets
    another MAC loses its neighbours (arp.c, arp_netdev_event).
    """
    ignored = vanished | kept
    stale = {
        entry_key(entry): entry
        for entry in present.entries - wanted.entries
        if entry_device(entry) not in ignored
    }
    missing = set(wanted.entries - present.entries)
    if vanished or moved or flushed:
        missing.update(
            entry
            for entry in wanted.entries
            if entry_device(entry) in vanished
            or (isinstance(entry, PortMac) and entry.vxlan in moved)
            or (isinstance(entry, Neighbour) and entry.bridge in flushed)
        )
    puts: list[Operation] = [
        PutEntry(entry, stale.pop(entry_key(entry), None))
        for entry in sorted(missing, key=entry_key)
    ]
    return [RemoveEntry(stale[key]) for key in sorted(stale)], puts


def carried_out(operations: Sequence[Operation], present: Tables) -> Tables:
    """The tables after the operations, as the kernel would have them.

    The driver keeps this instead of reading thousands of rows back after each change.
    """
    if not operations:
        return present
    model = _Model(present)
    for operation in operations:
        model.carry_out(operation)
    return Tables(model.bridges, model.vxlans, model.ports, frozenset(model.entries))


class _Model:
    def __init__(self, present: Tables) -> None:
        self.bridges = dict(present.bridges)
        self.vxlans = dict(present.vxlans)
        self.ports = dict(present.ports)
        self.entries = set(present.entries)

    def carry_out(self, operation: Operation) -> None:
        match operation:
            case DeleteDevice(name):
                self._delete(name)
            case MakeBridge(bridge):
                self.bridges[bridge.name] = replace(bridge, addresses=frozenset())
            case CorrectBridge(bridge):
                found = self.bridges[bridge.name]
                if found.mac != bridge.mac:
                    self._forget_neighbours(bridge.name)
                self.bridges[bridge.name] = replace(
                    bridge, addresses=found.addresses, routed=found.routed
                )
            case AddAddress(name, interface):
                addresses = self.bridges[name].addresses | {interface}
                self.bridges[name] = replace(self.bridges[name], addresses=addresses, routed=True)
            case RouteSubnet(name, _):
                self.bridges[name] = replace(self.bridges[name], routed=True)
            case DescribePort(name):
                self.ports[name] = replace(self.ports[name], described=True)
            case RemoveAddress(name, interface):
                addresses = self.bridges[name].addresses - {interface}
                self.bridges[name] = replace(self.bridges[name], addresses=addresses)
            case MakeVxlan(vxlan) | CorrectVxlan(vxlan):
                before = self.vxlans.get(vxlan.name)
                if before is not None and before.bridge != vxlan.bridge:
                    self._forget_port_macs(vxlan.name)
                self.vxlans[vxlan.name] = vxlan
            case JoinPort(name, bridge_name):
                self.ports[name] = replace(self.ports[name], bridge=bridge_name, joined=True)
            case PutEntry(entry, replaced):
                if replaced is not None:
                    self.entries.discard(replaced)
                self.entries.add(entry)
            case RemoveEntry(entry):
                self.entries.discard(entry)

    def _delete(self, name: str) -> None:
        self.bridges.pop(name, None)
        self.vxlans.pop(name, None)
        self.entries = {entry for entry in self.entries if entry_device(entry) != name}
        for port in [port for port in self.ports.values() if port.bridge == name]:
            self.ports[port.name] = replace(port, joined=False)
        for vxlan in [vxlan for vxlan in self.vxlans.values() if vxlan.bridge == name]:
            self.vxlans[vxlan.name] = replace(vxlan, bridge="")
            self._forget_port_macs(vxlan.name)

    def _forget_neighbours(self, bridge: str) -> None:
        self.entries = {
            entry
            for entry in self.entries
            if not (isinstance(entry, Neighbour) and entry.bridge == bridge)
        }

    def _forget_port_macs(self, vxlan: str) -> None:
        self.entries = {
            entry
            for entry in self.entries
            if not (isinstance(entry, PortMac) and entry.vxlan == vxlan)
        }


def contradicts(wanted: Tables, entry: Entry, is_deleted: bool) -> bool:
    """Whether a notified change of an entry is none of our doing. Strangers' additional entries
    are left to the next full check."""
    if is_deleted:
        return entry in wanted.entries or (
            # A neighbour that goes is announced without its MAC.
            isinstance(entry, Neighbour)
            and Neighbour(entry.bridge, entry.address, mac_of(entry.address)) in wanted.entries
        )
    match entry:
        case Neighbour(bridge, address, mac):
            right = mac_of(address)
            return mac != right and Neighbour(bridge, address, right) in wanted.entries
        case _:
            return False


def link_contradicts(wanted: Tables, name: str, is_up: bool) -> bool:
    return not is_up and (name in wanted.bridges or name in wanted.vxlans)
