"""The kernel's tables: reads them, and carries a plan out. The only importer of pyroute2.

Everything here blocks and belongs to one thread, the overlay's. pyroute2 makes and changes
bridges and VXLAN devices, a few in the life of a network; entries, ports and dumps, of which
there are hundreds, are batches of our own (`rtnetlink`) on one socket that stays open.
"""

import contextlib
import errno
import ipaddress
import itertools
import os
import re
import socket
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute  # type: ignore[attr-defined]
from pyroute2.netlink.exceptions import NetlinkError

from essaim_agent.network import NetworkError
from essaim_agent.overlay import rtnetlink as rt
from essaim_agent.overlay.channel import Channel, check, settle
from essaim_agent.overlay.kernel_rows import RowReader
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
from essaim_agent.overlay.tables import (
    BRIDGE_PREFIX,
    PORT_PREFIX,
    VXLAN_PREFIX,
    Bridge,
    Entry,
    Forward,
    Neighbour,
    Port,
    PortMac,
    Tables,
    Vxlan,
    bridge_name,
    read_port_alias,
)

_ABSENT = frozenset((errno.ENOENT, errno.ENODEV, errno.ENXIO, errno.EADDRNOTAVAIL))


_DOCKER_BRIDGE = re.compile(r"br-[0-9a-f]{12}")
"""How Docker calls the bridge of a network that a user made. (Its own are called docker...; others
begin with br- for what leads to the outside.)"""


class Kernel:
    """The overlay's tables in the network namespace of the thread that makes this object."""

    def __init__(self) -> None:
        self.channel = Channel()
        self._devices: Any = IPRoute()  # type: ignore[no-untyped-call]
        self._index: dict[str, int] = {}
        self._rows = RowReader()
        self.aliases: dict[str, str] = {}
        """Of the ports that were seen or made: what to give one that lost its own."""
        self.docker_bridges: frozenset[str] = frozenset()
        """Those of networks that users of Docker made, as of the last reading."""
        self.names: dict[int, str] = {}
        """The overlay's bridges and VXLAN devices by index, as of the last reading; replaced,
        never changed, so that another thread may look things up in it."""

    def close(self) -> None:
        self.channel.close()
        self._devices.close()

    def index(self, name: str) -> int:
        """Of a device; raises NetworkError when there is none."""
        known = self._index.get(name)
        if known is None:
            try:
                known = self._index[name] = socket.if_nametoindex(name)
            except OSError as error:
                raise NetworkError(f"there is no device {name}") from error
        return known

    def links(self) -> list[rt.Link]:
        found = [rt.link(payload) for payload in self.channel.dump(rt.dump_links())]
        self._index = {link.name: link.index for link in found}
        self.docker_bridges = frozenset(
            link.name
            for link in found
            if link.kind == "bridge" and _DOCKER_BRIDGE.fullmatch(link.name)
        )
        return found

    def read(self) -> Tables:
        """The tables as they are now. Raises NetworkError."""
        links = self.links()
        names = {link.index: link.name for link in links}
        addresses: dict[int, set[str]] = {}
        for payload in self.channel.dump(rt.dump_addresses()):
            index, interface = rt.interface_address(payload)
            addresses.setdefault(index, set()).add(interface)
        bridges: dict[str, Bridge] = {}
        vxlans: dict[str, Vxlan] = {}
        ports: dict[str, Port] = {}
        for link in links:
            master = names.get(link.master_index, "")
            if link.kind == "bridge" and link.name.startswith(BRIDGE_PREFIX):
                own = frozenset(addresses.get(link.index, ()))
                is_settled = link.up and len(own) == 1  # else the address brings the route
                routed = not is_settled or self._is_routed(link.index, *own)
                bridges[link.name] = Bridge(link.name, link.mac, link.mtu, own, link.up, routed)
            elif link.kind == "vxlan" and link.name.startswith(VXLAN_PREFIX):
                vxlans[link.name] = _vxlan(link, master)
            elif link.kind == "veth" and link.name.startswith(PORT_PREFIX):
                port = self._port(link, master)
                if port is not None:
                    ports[link.name] = port
        self.aliases = {name: self.aliases[name] for name in ports}
        return Tables(bridges, vxlans, ports, self._read_entries(bridges, vxlans))

    def _port(self, link: rt.Link, master: str) -> Port | None:
        """A device with a name of ours is a port by its alias, or by the one that it had."""
        alias = link.alias if read_port_alias(link.alias) else self.aliases.get(link.name, "")
        owner = read_port_alias(alias)
        if owner is None:
            return None
        self.aliases[link.name] = alias
        bridge = bridge_name(owner[1])
        joined = link.up and master == bridge and link.reflecting
        return Port(link.name, bridge, owner[0], joined, link.alias == alias)

    def _is_routed(self, index: int, interface: str) -> bool:
        """Whether the subnet of a bridge's address is reached by that bridge."""
        own = ipaddress.IPv4Interface(interface)
        somebody = own.network.network_address + own.network.num_addresses // 2
        if somebody == own.ip:
            somebody += 1
        try:
            found = self.channel.get(rt.get_route(str(somebody)))
        except NetworkError:
            return False
        return rt.route_device(found) == index

    def reflect(self, ports: Iterable[str]) -> None:
        """A port that went meanwhile is no error."""
        check(self.channel.send([rt.reflect(name) for name in ports]), "reflect", _ABSENT)

    def device_of(self, address: str) -> str | None:
        """The device that has an address of this node."""
        for payload in self.channel.dump(rt.dump_addresses()):
            index, interface = rt.interface_address(payload)
            if interface.partition("/")[0] == address:
                with contextlib.suppress(OSError):  # it went meanwhile
                    return socket.if_indextoname(index)
        return None

    def prefer(self, wanted: Mapping[Entry, Entry]) -> None:
        """See `RowReader.prefer`."""
        self._rows.prefer(wanted)

    def learn_names(self, tables: Tables) -> None:
        """Renew `names` after devices came or went."""
        devices = (*tables.bridges, *tables.vxlans)
        self.names = {self.index(name): name for name in devices}

    def _read_entries(self, bridges: Iterable[str], vxlans: Iterable[str]) -> frozenset[Entry]:
        self.names = {self._index[name]: name for name in (*bridges, *vxlans)}
        if not self.names:
            return frozenset()
        dumps = (self.channel.dump(rt.dump_neighbours(f)) for f in (rt.AF_INET, rt.AF_BRIDGE))
        return self._rows.read(itertools.chain.from_iterable(dumps), self.names)

    def carry_out(self, operations: Sequence[Operation]) -> None:
        """In order, neighbouring operations on entries in one batch. Raises NetworkError; what
        stood before the failing operation is done, so the caller reads again."""
        batch: list[bytes] = []
        for operation in operations:
            match operation:
                case PutEntry(entry, _):
                    batch.append(self._put(entry))
                case RemoveEntry(entry):
                    batch.append(self._remove(entry))
                case JoinPort(name, bridge):
                    batch.append(rt.set_port(name, self.index(bridge)))
                    batch.append(rt.reflect(name))
                case AddAddress(bridge, interface):
                    batch.append(rt.add_address(self.index(bridge), interface))
                case RemoveAddress(bridge, interface):
                    batch.append(rt.remove_address(self.index(bridge), interface))
                case RouteSubnet(bridge, interface):
                    own = ipaddress.IPv4Interface(interface)
                    index = self.index(bridge)
                    batch.append(rt.subnet_route(index, str(own.network), str(own.ip)))
                case DescribePort(name):
                    batch.append(rt.describe_port(name, self.aliases[name]))
                case _:
                    self._flush(batch)
                    self._device(operation)
        self._flush(batch)

    def _flush(self, batch: list[bytes]) -> None:
        if batch:
            outcome = self.channel.send(batch)
            removals = [_is_removal(request) for request in batch]
            for number, is_removal in zip(outcome, removals, strict=True):
                check([number], "overlay table", _ABSENT if is_removal else frozenset())
            batch.clear()

    def _put(self, entry: Entry) -> bytes:
        match entry:
            case Forward(vxlan, mac, vtep):
                return rt.put_forward(self.index(vxlan), mac, vtep)
            case PortMac(vxlan, mac, _):
                return rt.put_port_mac(self.index(vxlan), mac)
            case Neighbour(bridge, address, mac):
                return rt.put_neighbour(self.index(bridge), address, mac)

    def _remove(self, entry: Entry) -> bytes:
        match entry:
            case Forward(vxlan, mac, vtep):
                return rt.delete_forward(self.index(vxlan), mac, vtep)
            case PortMac(vxlan, mac, _):
                return rt.delete_port_mac(self.index(vxlan), mac)
            case Neighbour(bridge, address, _):
                return rt.delete_neighbour(self.index(bridge), address)

    def _device(self, operation: Operation) -> None:
        match operation:
            case DeleteDevice(name):
                self._index.pop(name, None)
                check(self.channel.send([rt.delete_link(name)]), f"delete {name}", _ABSENT)
            case MakeBridge(bridge):
                self._make_bridge(bridge)
            case CorrectBridge(bridge):
                index = self.index(bridge.name)
                found = rt.link(self.channel.get(rt.get_link(bridge.name)))
                # Giving it a MAC costs it its neighbours, also when it is the one it has.
                mac = {} if found.mac == bridge.mac else {"address": bridge.mac}
                _translated(
                    f"change {bridge.name}",
                    lambda: self._devices.link(
                        "set", index=index, mtu=bridge.mtu, state="up", **mac
                    ),
                )
            case MakeVxlan(vxlan):
                self._make_vxlan(vxlan)
            case CorrectVxlan(vxlan):
                self._set_vxlan(vxlan)

    def _make_bridge(self, bridge: Bridge) -> None:
        _translated(
            f"make bridge {bridge.name}",
            lambda: self._devices.link(
                "add",
                ifname=bridge.name,
                kind="bridge",
                address=bridge.mac,
                # Querying for groups nobody is in would only be noise: all members are known.
                br_mcast_snooping=0,
            ),
        )
        settle_device(bridge.name)
        index = self.index(bridge.name)
        # Not when it is made: only a change of the MTU reaches the route by which bridged packets
        # are taken apart again (br_device.c, br_change_mtu), which otherwise stays at 1500.
        _translated(
            f"set bridge {bridge.name} up",
            lambda: self._devices.link("set", index=index, mtu=bridge.mtu, state="up"),
        )

    def _make_vxlan(self, vxlan: Vxlan) -> None:
        _translated(
            f"make VXLAN device {vxlan.name} (VNI {vxlan.vni}, UDP port {vxlan.udp_port})",
            lambda: self._devices.link(
                "add",
                ifname=vxlan.name,
                kind="vxlan",
                vxlan_id=vxlan.vni,
                vxlan_local=vxlan.local,
                vxlan_port=vxlan.udp_port,
                vxlan_learning=False,
                mtu=vxlan.mtu,
            ),
        )
        self._set_vxlan(vxlan)

    def _set_vxlan(self, vxlan: Vxlan) -> None:
        settle_device(vxlan.name)
        index, bridge_index = self.index(vxlan.name), self.index(vxlan.bridge)
        doing = f"set VXLAN device {vxlan.name}"
        _translated(
            doing,
            lambda: self._devices.link(
                "set", index=index, mtu=vxlan.mtu, master=bridge_index, state="up"
            ),
        )
        _translated(
            doing,
            lambda: self._devices.brport("set", index=index, learning=0, neigh_suppress=1),
        )
        # The bridge has a carrier from its first port on.
        settle([(self.channel, vxlan.bridge)])


def _vxlan(link: rt.Link, master: str) -> Vxlan:
    return Vxlan(
        name=link.name,
        bridge=master,
        vni=link.vni,
        local=link.local,
        udp_port=link.udp_port,
        mtu=link.mtu,
        up=link.up,
        learning=link.learning or link.port_learning,
        neigh_suppress=link.neigh_suppress,
    )


def _is_removal(request: bytes) -> bool:
    (kind,) = struct.unpack_from("=H", request, 4)
    return kind in (rt.RTM_DELNEIGH, rt.RTM_DELADDR, rt.RTM_DELLINK)


def _translated(doing: str, call: Callable[[], object]) -> None:
    try:
        call()
    except NetlinkError as error:
        raise NetworkError(f"{doing}: {os.strerror(error.code)}") from error


DEVICE_SYSCTLS = (
    ("ipv6", "disable_ipv6", "1"),  # the overlay is IPv4; a bridge would announce itself
    ("ipv4", "send_redirects", "0"),  # frames between two ports of one bridge are routed at times
    ("ipv4", "rp_filter", "2"),  # loose: an answer may come in over another of our bridges
)


def settle_device(name: str) -> None:
    for family, key, value in DEVICE_SYSCTLS:
        write_sysctl(f"net/{family}/conf/{name}/{key}", value)


def read_sysctl(path: str) -> str | None:
    """None where this kernel has no such setting. Raises NetworkError."""
    try:
        return Path("/proc/sys", path).read_text().strip()
    except FileNotFoundError:
        return None
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise NetworkError(f"sysctl {path.replace('/', '.')}: {reason}") from error


def write_sysctl(path: str, value: str) -> None:
    """Of the network namespace of the calling thread. A kernel without IPv6 has no such file,
    and nothing to switch off. Raises NetworkError."""
    try:
        Path("/proc/sys", path).write_text(value)
    except FileNotFoundError as error:
        if not (path.startswith("net/ipv6/") and not Path("/proc/sys/net/ipv6").exists()):
            raise NetworkError(f"this kernel has no sysctl {path.replace('/', '.')}") from error
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise NetworkError(f"sysctl {path.replace('/', '.')}={value}: {reason}") from error
