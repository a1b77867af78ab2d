"""Bytes of the few rtnetlink messages that are sent or read by the hundred. Pure.

pyroute2 makes the devices (see `netlink`); it takes 150–450 µs for a message, which is nothing
for a bridge and too much for three table entries per remote task and five messages per
namespace. A message packed here takes about 10 µs, and a whole batch is one system call.

Sources: rtnetlink(7), and the kernel's uapi headers linux/{netlink,rtnetlink,if_link,neighbour}.h.
"""

import struct
import sys
from collections.abc import Iterator

import msgspec

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_GETROUTE = 24, 26
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30
NLMSG_ERROR, NLMSG_DONE = 2, 3

NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 0x1, 0x4, 0x300
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE, NLM_F_APPEND = 0x100, 0x200, 0x400, 0x800

AF_INET, AF_BRIDGE, AF_INET6 = 2, 7, 10
IFF_UP = 0x1

NUD_NOARP, NUD_PERMANENT = 0x40, 0x80
NTF_SELF, NTF_MASTER, NTF_STICKY = 0x02, 0x04, 0x40

FLOOD_MAC = "00:00:00:00:00:00"
"""The VXLAN driver sends unknown and broadcast frames to every remote of this address."""

RTNLGRP_LINK, RTNLGRP_NEIGH = 1, 3

_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_MASTER = 1, 3, 4, 10
_IFLA_OPERSTATE, _IF_OPER_UP = 16, 6
_IFLA_GROUP = 27
_IFLA_LINKINFO, _IFLA_IFALIAS, _IFLA_AF_SPEC, _IFLA_NET_NS_FD, _IFLA_EXT_MASK = 18, 20, 26, 28, 29
_IFLA_INFO_KIND, _IFLA_INFO_DATA, _IFLA_INFO_SLAVE_KIND, _IFLA_INFO_SLAVE_DATA = 1, 2, 4, 5
_VETH_INFO_PEER = 1
_IFLA_INET6_ADDR_GEN_MODE, _ADDR_GEN_MODE_NONE = 8, 1
_IFLA_BRPORT_MODE, _IFLA_BRPORT_LEARNING, _IFLA_BRPORT_NEIGH_SUPPRESS = 4, 8, 32
_IFLA_VXLAN_ID, _IFLA_VXLAN_LOCAL, _IFLA_VXLAN_LEARNING, _IFLA_VXLAN_PORT = 1, 4, 7, 15
_RTEXT_FILTER_SKIP_STATS = 8
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PREFSRC = 1, 4, 5, 7
_RTPROT_KERNEL, _RT_SCOPE_LINK, _RTM_F_FIB_MATCH = 2, 253, 0x2000
_NDA_DST, _NDA_LLADDR = 1, 2
_NDA_PORT, _NDA_VNI, _NDA_IFINDEX = 6, 7, 8
_RT_TABLE_MAIN, _RTPROT_BOOT, _RT_SCOPE_UNIVERSE, _RTN_UNICAST = 254, 3, 0, 1
_NLA_TYPE_MASK = 0x3FFF
"""The two upper bits of an attribute's type are flags (nested, network byte order)."""

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_IFINFOMSG = struct.Struct("=BxHiII")
_IFADDRMSG = struct.Struct("=BBBBi")
_RTMSG = struct.Struct("=8BI")
_NDMSG = struct.Struct("=BxxxiHBB")
_U32 = struct.Struct("=I")


class Link(msgspec.Struct, frozen=True, gc=False):
    """What the overlay asks about a device. Fields of other kinds of device are zero or empty."""

    index: int
    name: str
    kind: str
    mac: str
    mtu: int
    up: bool
    master_index: int
    """Of the bridge it is a port of; 0 when of none."""
    alias: str
    vni: int
    local: str
    udp_port: int
    learning: bool
    """Of the VXLAN device, from packets."""
    port_learning: bool
    """Of the bridge port, from frames."""
    neigh_suppress: bool
    reflecting: bool = False
    """As a port of a bridge it gets back what it sent to itself (`hairpin`)."""


class NeighbourRow(msgspec.Struct, frozen=True, gc=False):
    """A row of a neighbour or forwarding table."""

    family: int
    index: int
    state: int
    flags: int
    destination: str
    """IPv4: the neighbour's address, or the remote VTEP; empty for a port of a bridge. A remote
    with a UDP port, VNI or device of its own has them behind a blank: it is no entry of ours."""
    mac: str
    is_plain: bool = True
    """Nothing of that kind behind the destination."""


def mac_bytes(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def address_bytes(address: str) -> bytes:
    """Of an IPv4 address, which others have checked."""
    return bytes(int(octet) for octet in address.split("."))


def address_text(packed: bytes) -> str:
    return "%d.%d.%d.%d" % tuple(packed)  # noqa: UP031 - half the time, for 10,000 rows at once


def attribute(kind: int, payload: bytes) -> bytes:
    length = 4 + len(payload)
    return _ATTRIBUTE.pack(length, kind) + payload + b"\0" * (-length % 4)


def _text(kind: int, text: str) -> bytes:
    return attribute(kind, text.encode() + b"\0")


def _number(kind: int, number: int) -> bytes:
    return attribute(kind, _U32.pack(number))


def message(kind: int, flags: int, payload: bytes) -> bytes:
    """A request that is acknowledged; its sequence number is written by `number_requests`."""
    return _HEADER.pack(16 + len(payload), kind, NLM_F_REQUEST | flags, 0, 0) + payload


def number_requests(requests: list[bytes], first: int) -> bytes:
    """One batch: the i-th request gets the sequence number `first + i`."""
    return b"".join(
        request[:8] + _U32.pack(first + i) + request[12:] for i, request in enumerate(requests)
    )


def link_up(index: int) -> bytes:
    return message(RTM_NEWLINK, NLM_F_ACK, _IFINFOMSG.pack(0, 0, index, IFF_UP, IFF_UP))


def new_veth(
    index: int, name: str, mac: str, mtu: int, peer_name: str, peer_namespace_fd: int
) -> bytes:
    """A pair: `name` here with a fixed index and up, its peer in another namespace and down."""
    peer = (
        _IFINFOMSG.pack(0, 0, 0, 0, 0)
        + _text(_IFLA_IFNAME, peer_name)
        + _number(_IFLA_MTU, mtu)
        + _number(_IFLA_NET_NS_FD, peer_namespace_fd)
    )
    link_info = _text(_IFLA_INFO_KIND, "veth") + attribute(
        _IFLA_INFO_DATA, attribute(_VETH_INFO_PEER, peer)
    )
    return message(
        RTM_NEWLINK,
        NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL,
        _IFINFOMSG.pack(0, 0, index, IFF_UP, IFF_UP)
        + _text(_IFLA_IFNAME, name)
        + attribute(_IFLA_ADDRESS, mac_bytes(mac))
        + _number(_IFLA_MTU, mtu)
        + attribute(_IFLA_LINKINFO, link_info),
    )


def describe_port(name: str, alias: str) -> bytes:
    """Give a device its alias and no IPv6 address. Apart from `set_port`, because the kernel takes
    the flags of a message before its address family settings: the address would be there first."""
    inet6 = attribute(_IFLA_INET6_ADDR_GEN_MODE, bytes([_ADDR_GEN_MODE_NONE]))
    return message(
        RTM_NEWLINK,
        NLM_F_ACK,
        _IFINFOMSG.pack(0, 0, 0, 0, 0)
        + _text(_IFLA_IFNAME, name)
        + attribute(_IFLA_IFALIAS, alias.encode())
        + attribute(_IFLA_AF_SPEC, attribute(AF_INET6, inet6)),
    )


def set_port(name: str, bridge_index: int) -> bytes:
    """Make a device a port of a bridge and bring it up."""
    return message(
        RTM_NEWLINK,
        NLM_F_ACK,
        _IFINFOMSG.pack(0, 0, 0, IFF_UP, IFF_UP)
        + _text(_IFLA_IFNAME, name)
        + _number(_IFLA_MASTER, bridge_index),
    )


def reflect(name: str) -> bytes:
    """`bridge link set dev NAME hairpin on`: let the bridge send a frame back to the port that it
    came from, for a task that calls itself by the service's address."""
    mode = attribute(_IFLA_BRPORT_MODE, b"\1")
    info = _text(_IFLA_INFO_SLAVE_KIND, "bridge") + attribute(_IFLA_INFO_SLAVE_DATA, mode)
    return message(
        RTM_NEWLINK,
        NLM_F_ACK,
        _IFINFOMSG.pack(0, 0, 0, 0, 0)
        + _text(_IFLA_IFNAME, name)
        + attribute(_IFLA_LINKINFO, info),
    )


def delete_link(name: str) -> bytes:
    return message(
        RTM_DELLINK, NLM_F_ACK, _IFINFOMSG.pack(0, 0, 0, 0, 0) + _text(_IFLA_IFNAME, name)
    )


def set_group(name: str, group: int) -> bytes:
    return message(
        RTM_NEWLINK,
        NLM_F_ACK,
        _IFINFOMSG.pack(0, 0, 0, 0, 0) + _text(_IFLA_IFNAME, name) + _number(_IFLA_GROUP, group),
    )


def delete_group(group: int) -> bytes:
    """All devices of the group at once: the kernel waits for its readers once, not for each."""
    return message(
        RTM_DELLINK, NLM_F_ACK, _IFINFOMSG.pack(0, 0, 0, 0, 0) + _number(_IFLA_GROUP, group)
    )


def _address(kind: int, flags: int, index: int, interface: str) -> bytes:
    host, prefix = interface.split("/")
    packed = address_bytes(host)
    return message(
        kind,
        NLM_F_ACK | flags,
        _IFADDRMSG.pack(AF_INET, int(prefix), 0, 0, index)
        + attribute(_IFA_LOCAL, packed)
        + attribute(_IFA_ADDRESS, packed),
    )


def add_address(index: int, interface: str) -> bytes:
    """`interface` is address/prefix."""
    return _address(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, index, interface)


def remove_address(index: int, interface: str) -> bytes:
    return _address(RTM_DELADDR, 0, index, interface)


def add_route(index: int, destination: str, gateway: str) -> bytes:
    """`ip route add DESTINATION via GATEWAY`; the destination is address/prefix."""
    network, prefix = destination.split("/")
    length = int(prefix)
    return message(
        RTM_NEWROUTE,
        NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL,
        _RTMSG.pack(
            AF_INET,
            length,
            0,
            0,
            _RT_TABLE_MAIN,
            _RTPROT_BOOT,
            _RT_SCOPE_UNIVERSE,
            _RTN_UNICAST,
            0,
        )
        + (attribute(_RTA_DST, address_bytes(network)) if length else b"")
        + attribute(_RTA_GATEWAY, address_bytes(gateway))
        + _number(_RTA_OIF, index),
    )


def subnet_route(index: int, subnet: str, source: str) -> bytes:
    """The route that the kernel makes with an address, for when somebody removed it alone."""
    network, prefix = subnet.split("/")
    head = (_RT_TABLE_MAIN, _RTPROT_KERNEL, _RT_SCOPE_LINK, _RTN_UNICAST)
    return message(
        RTM_NEWROUTE,
        NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE,
        _RTMSG.pack(AF_INET, int(prefix), 0, 0, *head, 0)
        + attribute(_RTA_DST, address_bytes(network))
        + attribute(_RTA_PREFSRC, address_bytes(source))
        + _number(_RTA_OIF, index),
    )


def get_route(address: str) -> bytes:
    """Which route leads to an address."""
    return message(
        RTM_GETROUTE,
        0,
        _RTMSG.pack(AF_INET, 32, 0, 0, 0, 0, 0, 0, _RTM_F_FIB_MATCH)
        + attribute(_RTA_DST, address_bytes(address)),
    )


def route_device(payload: bytes) -> int:
    """The index of the device that a route leads out of; 0 when of none or several."""
    return int.from_bytes(attributes(payload, 12).get(_RTA_OIF, b"\0"), sys.byteorder)


def _entry(
    kind: int, flags: int, family: int, index: int, state: int, ntf: int, mac: str, destination: str
) -> bytes:
    return message(
        kind,
        NLM_F_ACK | flags,
        _NDMSG.pack(family, index, state, ntf, 0)
        + (attribute(_NDA_LLADDR, mac_bytes(mac)) if mac else b"")
        + (attribute(_NDA_DST, address_bytes(destination)) if destination else b""),
    )


_PUT = NLM_F_CREATE | NLM_F_REPLACE


def put_forward(index: int, mac: str, vtep: str) -> bytes:
    """`bridge fdb replace MAC dev VXLAN dst VTEP self`; the flood address is appended to."""
    flags = NLM_F_CREATE | NLM_F_APPEND if mac == FLOOD_MAC else _PUT
    return _entry(RTM_NEWNEIGH, flags, AF_BRIDGE, index, NUD_PERMANENT, NTF_SELF, mac, vtep)


def delete_forward(index: int, mac: str, vtep: str) -> bytes:
    """A remote with a port or VNI of its own is only found without naming it, and then all of
    that MAC go: the ones we want are put back."""
    vtep = "" if " " in vtep else vtep
    return _entry(RTM_DELNEIGH, 0, AF_BRIDGE, index, NUD_PERMANENT, NTF_SELF, mac, vtep)


def put_port_mac(index: int, mac: str) -> bytes:
    """`bridge fdb replace MAC dev VXLAN master static sticky`. Without `sticky` the bridge moves
    even a static entry to the port where a container sends frames with that MAC (br_fdb_update)."""
    flags = NTF_MASTER | NTF_STICKY
    return _entry(RTM_NEWNEIGH, _PUT, AF_BRIDGE, index, NUD_NOARP, flags, mac, "")


def delete_port_mac(index: int, mac: str) -> bytes:
    return _entry(RTM_DELNEIGH, 0, AF_BRIDGE, index, NUD_NOARP, NTF_MASTER, mac, "")


def put_neighbour(index: int, address: str, mac: str) -> bytes:
    """`ip neighbour replace ADDRESS lladdr MAC dev BRIDGE nud permanent`."""
    return _entry(RTM_NEWNEIGH, _PUT, AF_INET, index, NUD_PERMANENT, 0, mac, address)


def delete_neighbour(index: int, address: str) -> bytes:
    return _entry(RTM_DELNEIGH, 0, AF_INET, index, 0, 0, "", address)


def get_link(name: str) -> bytes:
    return message(
        RTM_GETLINK,
        0,
        _IFINFOMSG.pack(0, 0, 0, 0, 0)
        + _text(_IFLA_IFNAME, name)
        + _number(_IFLA_EXT_MASK, _RTEXT_FILTER_SKIP_STATS),
    )


def is_operational(payload: bytes) -> bool:
    """Of a link message: IF_OPER_UP (RFC 2863), which says more than IFF_UP and a carrier."""
    return attributes(payload, 16).get(_IFLA_OPERSTATE) == bytes([_IF_OPER_UP])


def dump_links() -> bytes:
    return message(
        RTM_GETLINK,
        NLM_F_DUMP,
        _IFINFOMSG.pack(0, 0, 0, 0, 0) + _number(_IFLA_EXT_MASK, _RTEXT_FILTER_SKIP_STATS),
    )


def dump_addresses() -> bytes:
    return message(RTM_GETADDR, NLM_F_DUMP, _IFADDRMSG.pack(AF_INET, 0, 0, 0, 0))


def dump_neighbours(family: int) -> bytes:
    return message(RTM_GETNEIGH, NLM_F_DUMP, _NDMSG.pack(family, 0, 0, 0, 0))


def messages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """(type, sequence, payload) of each message in a datagram."""
    offset = 0
    while offset + 16 <= len(data):
        length, kind, _, sequence, _ = _HEADER.unpack_from(data, offset)
        if length < 16 or offset + length > len(data):
            raise ValueError(f"netlink message of {length} bytes, {len(data) - offset} are left")
        yield kind, sequence, data[offset + 16 : offset + length]
        offset += (length + 3) & ~3


def error_number(payload: bytes) -> int:
    """Of an NLMSG_ERROR: 0 for an acknowledgement, else a positive errno."""
    return -int(struct.unpack_from("=i", payload)[0])


def attributes(data: bytes, offset: int = 0) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    end = len(data)
    while offset + 4 <= end:
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < 4 or offset + length > end:
            raise ValueError(f"netlink attribute of {length} bytes, {end - offset} are left")
        found[kind & _NLA_TYPE_MASK] = data[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return found


def _read_text(payload: bytes) -> str:
    return payload.rstrip(b"\0").decode(errors="replace")


def link_name(payload: bytes) -> tuple[int, str, bool]:
    """(index, name, up) of a link message: all that a notification is asked for."""
    _, _, index, flags, _ = _IFINFOMSG.unpack_from(payload)
    return index, _read_text(attributes(payload, 16).get(_IFLA_IFNAME, b"")), bool(flags & IFF_UP)


def link(payload: bytes) -> Link:
    """An RTM_NEWLINK payload."""
    _, _, index, flags, _ = _IFINFOMSG.unpack_from(payload)
    own = attributes(payload, 16)
    info = attributes(own.get(_IFLA_LINKINFO, b""))
    kind = _read_text(info.get(_IFLA_INFO_KIND, b""))
    data = attributes(info.get(_IFLA_INFO_DATA, b"")) if kind == "vxlan" else {}
    is_port = kind in ("vxlan", "veth")
    port = attributes(info.get(_IFLA_INFO_SLAVE_DATA, b"")) if is_port else {}
    local = data.get(_IFLA_VXLAN_LOCAL)
    return Link(
        index=index,
        name=_read_text(own[_IFLA_IFNAME]),
        kind=kind,
        mac=own.get(_IFLA_ADDRESS, b"").hex(":"),
        mtu=int.from_bytes(own.get(_IFLA_MTU, b"\0"), sys.byteorder),
        up=bool(flags & IFF_UP),
        master_index=int.from_bytes(own.get(_IFLA_MASTER, b"\0"), sys.byteorder),
        alias=_read_text(own.get(_IFLA_IFALIAS, b"")),
        vni=int.from_bytes(data.get(_IFLA_VXLAN_ID, b"\0"), sys.byteorder),
        local=address_text(local) if local else "",
        udp_port=int.from_bytes(data.get(_IFLA_VXLAN_PORT, b"\0"), "big"),
        learning=data.get(_IFLA_VXLAN_LEARNING, b"\0") != b"\0",
        port_learning=port.get(_IFLA_BRPORT_LEARNING, b"\0") != b"\0",
        reflecting=port.get(_IFLA_BRPORT_MODE, b"\0") != b"\0",
        neigh_suppress=port.get(_IFLA_BRPORT_NEIGH_SUPPRESS, b"\0") != b"\0",
    )


def interface_address(payload: bytes) -> tuple[int, str]:
    """(device index, address/prefix) of an RTM_NEWADDR payload."""
    _, prefix, _, _, index = _IFADDRMSG.unpack_from(payload)
    local = attributes(payload, 8).get(_IFA_LOCAL, b"\0\0\0\0")
    return index, f"{address_text(local)}/{prefix}"


def neighbour(payload: bytes) -> NeighbourRow:
    """An RTM_NEWNEIGH or RTM_DELNEIGH payload."""
    family, index, state, flags, _ = _NDMSG.unpack_from(payload)
    own = attributes(payload, 12)
    packed = own.get(_NDA_DST, b"")
    destination = address_text(packed) if len(packed) == 4 else ""
    beside = [own[kind].hex() for kind in (_NDA_PORT, _NDA_VNI, _NDA_IFINDEX) if kind in own]
    if beside and destination:
        destination = f"{destination} {' '.join(beside)}"
    return NeighbourRow(
        family=family,
        index=index,
        state=state,
        flags=flags,
        destination=destination,
        mac=own.get(_NDA_LLADDR, b"").hex(":"),
        is_plain=not beside,
    )
