"""Flows as the kernel's connection tracking has them: bytes, and which of them lead astray. Pure.

The kernel translates each packet of a flow as it did the first. A flow that ends by itself needs
no care. One that does not, UDP of a client that keeps talking or TCP to a peer that is no more,
would lead to a dead address for as long as it is tried.

Sources: the kernel's uapi headers linux/netfilter/{nfnetlink,nfnetlink_conntrack,
nf_conntrack_common,nf_conntrack_tcp}.h.
"""

import struct
from collections.abc import Iterable, Iterator, Mapping

import msgspec
from msgspec.structs import replace

from essaim_agent.overlay import rtnetlink as rt
from essaim_agent.overlay.balance import Change, Lead
from essaim_agent.overlay.host_ports import PortKey

TCP, UDP, SCTP = 6, 17, 132
PROTOCOL_NAMES = {TCP: "tcp", UDP: "udp", SCTP: "sctp"}

IPS_SEEN_REPLY, IPS_DST_NAT = 1 << 1, 1 << 5
TCP_SYN_SENT, TCP_SYN_RECV, TCP_ESTABLISHED = 1, 2, 3

_NFNL_SUBSYS_CTNETLINK = 1 << 8
_CT_GET, _CT_DELETE = _NFNL_SUBSYS_CTNETLINK | 1, _NFNL_SUBSYS_CTNETLINK | 2
_CTA_TUPLE_REPLY, _CTA_STATUS, _CTA_PROTOINFO, _CTA_ID = 2, 3, 4, 12
_CTA_FILTER, _CTA_STATUS_MASK = 25, 26
_CTA_TUPLE_IP, _CTA_IP_V4_SRC = 1, 1
_CTA_PROTOINFO_TCP, _CTA_PROTOINFO_TCP_STATE = 1, 1
_CTA_FILTER_ORIG_FLAGS, _CTA_FILTER_REPLY_FLAGS = 1, 2
_FILTER_IP_SRC = 1 << 0
_NLA_F_NESTED = 0x8000

_HEAD = struct.pack("=BBH", rt.AF_INET, 0, 0)
_TUPLE = struct.Struct("=HH 4x 4x4s 4x4s 4x 4xB3x 4x2s2x 4x2s2x")
"""One direction of a flow with IPv4 addresses and ports. The kernel writes them all alike, and
ten thousand of them must not be taken apart attribute by attribute."""
_ORIGINAL_AT, _REPLY_AT = 4, 4 + _TUPLE.size
_REST_AT = _REPLY_AT + _TUPLE.size


class Flow(msgspec.Struct, frozen=True):
    """A tracked flow with ports."""

    protocol: int
    called: str
    """The address that the client called."""
    called_port: int
    server: str
    """Where it leads: the same address, or the one it is translated to."""
    status: int
    tcp_state: int
    original: bytes
    """The tuple as the kernel wrote it, by which it knows the flow again."""
    id: bytes


def dump_all() -> bytes:
    return rt.message(_CT_GET, rt.NLM_F_DUMP, _HEAD)


def dump_by_status(status: int, mask: int) -> bytes:
    """Flows whose status bits are so; kernels before 5.17 tell all of them."""
    number = struct.Struct(">I")
    return rt.message(
        _CT_GET,
        rt.NLM_F_DUMP,
        _HEAD
        + rt.attribute(_CTA_STATUS, number.pack(status))
        + rt.attribute(_CTA_STATUS_MASK, number.pack(mask)),
    )


def dump_by_server(server: str) -> bytes:
    """Flows that lead to an address; kernels before 5.8 tell all of them."""
    source = rt.attribute(_CTA_IP_V4_SRC, rt.address_bytes(server))
    flags = struct.Struct("=I")
    wanted = rt.attribute(_CTA_FILTER_ORIG_FLAGS, flags.pack(0)) + rt.attribute(
        _CTA_FILTER_REPLY_FLAGS, flags.pack(_FILTER_IP_SRC)
    )
    return rt.message(
        _CT_GET,
        rt.NLM_F_DUMP,
        _HEAD
        + rt.attribute(
            _CTA_TUPLE_REPLY | _NLA_F_NESTED,
            rt.attribute(_CTA_TUPLE_IP | _NLA_F_NESTED, source),
        )
        + rt.attribute(_CTA_FILTER | _NLA_F_NESTED, wanted),
    )


def delete_flow(flow: Flow) -> bytes:
    """Only that very flow: one of the same addresses that came since has another id."""
    return rt.message(
        _CT_DELETE, rt.NLM_F_ACK, _HEAD + flow.original + rt.attribute(_CTA_ID, flow.id)
    )


def read_flow(payload: bytes) -> Flow | None:
    """Of a dump. None for one without ports, not of IPv4, or in a zone of its own."""
    if len(payload) < _REST_AT or payload[0] != rt.AF_INET:
        return None
    length, _, _, called, protocol, _, called_port = _TUPLE.unpack_from(payload, _ORIGINAL_AT)
    reply_length, _, server, _, _, _, _ = _TUPLE.unpack_from(payload, _REPLY_AT)
    if length != _TUPLE.size or reply_length != _TUPLE.size or protocol not in PROTOCOL_NAMES:
        return None
    rest = rt.attributes(payload, _REST_AT)
    state = 0
    if protocol == TCP and _CTA_PROTOINFO in rest:
        info = rt.attributes(rt.attributes(rest[_CTA_PROTOINFO]).get(_CTA_PROTOINFO_TCP, b""))
        state = info.get(_CTA_PROTOINFO_TCP_STATE, b"\0")[0]
    return Flow(
        protocol=protocol,
        called=rt.address_text(called),
        called_port=int.from_bytes(called_port, "big"),
        server=rt.address_text(server),
        status=int.from_bytes(rest.get(_CTA_STATUS, b""), "big"),
        tcp_state=state,
        original=payload[_ORIGINAL_AT:_REPLY_AT],
        id=rest.get(_CTA_ID, b""),
    )


def leads_to(payload: bytes, servers: frozenset[bytes]) -> bool:
    """Whether a flow of a dump leads to one of these packed addresses: a first look, for many."""
    at = _REPLY_AT + 12
    return payload[at : at + 4] in servers


def is_open(flow: Flow) -> bool:
    """A TCP connection that somebody still uses."""
    return flow.protocol == TCP and flow.tcp_state in (TCP_SYN_RECV, TCP_ESTABLISHED)


class Suspicion(msgspec.Struct, frozen=True):
    """What to look for after a change of leads."""

    vips: Mapping[str, Lead | None] = {}
    ports: Mapping[PortKey, Lead | None] = {}
    """Leads as they are now of which some flows may lead elsewhere; None: all do."""
    lost: frozenset[str] | None = None
    """All addresses that some flow may lead to and should not; None: it is not known."""
    opened_vips: frozenset[str] = frozenset()
    opened_ports: frozenset[PortKey] = frozenset()
    """Led nowhere until now: clients that kept trying have flows to nowhere."""

    def __bool__(self) -> bool:
        return self.has_lost or self.has_opened

    @property
    def has_lost(self) -> bool:
        return bool(self.vips or self.ports)

    @property
    def has_opened(self) -> bool:
        return bool(self.opened_vips or self.opened_ports)


def suspicion(change: Change) -> Suspicion:
    """Nothing, for most changes: an endpoint more leaves the flows of the others alone."""
    return Suspicion(
        lost=frozenset(
            address
            for old, new in (*change.vips.values(), *change.ports.values())
            for address in _lost(old, new)
        ),
        vips={key: new for key, (old, new) in change.vips.items() if _lost(old, new)},
        ports={key: _left(old, new) for key, (old, new) in change.ports.items() if _lost(old, new)},
        opened_vips=frozenset(k for k, (old, new) in change.vips.items() if _opens(old, new)),
        opened_ports=frozenset(k for k, (old, new) in change.ports.items() if _opens(old, new)),
    )


def _lost(old: Lead | None, new: Lead | None) -> frozenset[str]:
    if old is None:
        return frozenset()
    if new is None:
        return old.alive
    return (old.serving - new.serving) | (old.alive - new.alive)


def _left(old: Lead | None, new: Lead | None) -> Lead | None:
    """A published port that is no more. What this node knew of tasks elsewhere went with it, and
    some may drain: their own node knows, and refuses what is for nobody."""
    if new is None and old is not None:
        return replace(old, shares=(), serving=frozenset(), alive=old.elsewhere)
    return new


def _opens(old: Lead | None, new: Lead | None) -> bool:
    return new is not None and bool(new.shares) and (old is None or not old.shares)


def astray(flows: Iterable[Flow], suspected: Suspicion) -> Iterator[Flow]:
    """Translated flows that lead where they should not any more.

    UDP leads only to who serves. A connection is left alone while its peer lives, and when it
    is already ending: it goes by itself.
    """
    for flow in flows:
        if not flow.status & IPS_DST_NAT:
            continue
        key = (PROTOCOL_NAMES[flow.protocol], flow.called_port)
        if flow.called in suspected.vips:
            lead = suspected.vips[flow.called]
        elif key in suspected.ports:
            lead = suspected.ports[key]
        else:
            continue
        if flow.protocol == UDP:
            allowed = lead.serving if lead is not None else frozenset()
            is_ending = False
        else:
            allowed = lead.alive if lead is not None else frozenset()
            is_ending = flow.protocol == TCP and flow.tcp_state > TCP_ESTABLISHED
        if flow.server not in allowed and not is_ending:
            yield flow


def to_nowhere(flows: Iterable[Flow], suspected: Suspicion) -> Iterator[Flow]:
    """UDP of clients who called when nobody was there: untranslated, and unanswered."""
    for flow in flows:
        if flow.protocol != UDP or flow.status & (IPS_DST_NAT | IPS_SEEN_REPLY):
            continue
        key = ("udp", flow.called_port)
        if flow.called in suspected.opened_vips or key in suspected.opened_ports:
            yield flow


def packed(addresses: Iterable[str]) -> frozenset[bytes]:
    return frozenset(rt.address_bytes(address) for address in addresses)
