"""What the overlay's networks may reach, and who may reach them: the table `essaim`. Pure.

A task may open connections to its own network, to the outside by the node's address unless its
network is internal, to its node's name server, and to published ports. Not to other networks,
not to ports of this node or of the others that nobody published. From outside come only answers,
and what was sent to a published port.

A drop of ours holds whatever other tables accept; what other tables drop is `firewall`'s matter.
Bridged packets pass here too (`bridge-nf-call-iptables`), with the bridge as both interfaces.
"""

from collections.abc import Iterable, Iterator

import msgspec

from essaim_agent.dns import DNS_PORT_DEFAULT
from essaim_agent.overlay.host_ports import PROTOCOLS, PortKey
from essaim_agent.overlay.nft_table import Chain, Set, Table
from essaim_agent.overlay.tables import BRIDGE_PREFIX

TABLE = "essaim"

NAME_SERVER_PORT_DEFAULT = DNS_PORT_DEFAULT
"""Where the node's name server listens: port 53 is the host's own."""

NAME_SERVER_PRIORITY = -103
"""Before published ports, of which one may be 53."""
FILTER_PRIORITY = -1
"""Before other filters at `filter` (0), which see less of what is dropped here anyway."""
SOURCE_NAT_PRIORITY = 99
"""Before Docker's and other hosts' rules at `srcnat` (100)."""

INTERNAL = "internal"
"""The set of the bridges of internal networks."""

_FROM_BRIDGES = f'iifname "{BRIDGE_PREFIX}*"'
_TO_BRIDGES = f'oifname "{BRIDGE_PREFIX}*"'


class Segment(msgspec.Struct, frozen=True):
    """A network's bridge on this node."""

    bridge: str
    gateway: str
    subnet: str
    is_internal: bool = False


def isolation_table(
    segments: Iterable[Segment],
    published: Iterable[PortKey],
    nodes: Iterable[str],
    name_server_port: int = NAME_SERVER_PORT_DEFAULT,
    others_bridges: Iterable[str] = (),
) -> Table:
    """`published` are the ports of the cluster and this node's own in mode `host`; `nodes` the
    underlay addresses of all nodes; `others_bridges` those that Docker made for its networks."""
    by_bridge = sorted(set(segments), key=lambda segment: segment.bridge)
    if not by_bridge:
        return Table(TABLE)
    numbers: dict[str, list[str]] = {protocol: [] for protocol in PROTOCOLS}
    for protocol, number in published:
        numbers[protocol].append(str(number))
    sets = {
        "same": _set("iifname . oifname", (f'"{s.bridge}" . "{s.bridge}"' for s in by_bridge)),
        "gateways": _set("iifname . ip daddr", (f'"{s.bridge}" . {s.gateway}' for s in by_bridge)),
        INTERNAL: _set("iifname", (f'"{s.bridge}"' for s in by_bridge if s.is_internal)),
        "nodes": _set("ip daddr", nodes),
        "others": _set("oifname", (f'"{name}"' for name in others_bridges)),
        **{f"published-{p}": _set("th dport", numbers[p]) for p in PROTOCOLS},
    }
    chains = {
        "sources": Chain(tuple(_foreign_sources(by_bridge))),
        **_forwarding(),
        **_host(name_server_port),
        "postrouting": Chain(
            tuple(_masquerading(by_bridge)), f"nat hook postrouting priority {SOURCE_NAT_PRIORITY}"
        ),
    }
    return Table(TABLE, chains, sets)


def _foreign_sources(segments: Iterable[Segment]) -> Iterator[str]:
    """A task opens nothing in the name of somebody else: the answers would reach a task of another
    network, or nobody."""
    for segment in segments:
        yield f'iifname "{segment.bridge}" ip saddr != {segment.subnet} drop'


def _forwarding() -> dict[str, Chain]:
    return {
        "from-tasks": Chain(
            (
                "iifname . oifname @same accept",
                "jump sources",
                f"iifname @{INTERNAL} drop",
                *(
                    f"{called} accept"
                    for called in _ports("ct status dnat", "ct original proto-dst")
                ),
                # Translated by somebody else: a port of the host, led on.
                "ct status dnat drop",
                *(f"{called} accept" for called in _ports("ip daddr @nodes", "th dport")),
                "ip daddr @nodes drop",
                f"{_TO_BRIDGES} drop",
                'oifname "docker*" drop',
                "oifname @others drop",
            )
        ),
        "forward": Chain(
            (
                "ct state established,related accept",
                f"{_FROM_BRIDGES} goto from-tasks",
                f"{_TO_BRIDGES} ct status dnat accept",
                f"{_TO_BRIDGES} drop",
            ),
            f"filter hook forward priority {FILTER_PRIORITY}",
        ),
    }


def _host(name_server_port: int) -> dict[str, Chain]:
    """What comes to the host itself."""
    to_name_server = f"meta l4proto {{ tcp, udp }} th dport {name_server_port}"
    return {
        "to-host": Chain(
            (
                "ct state established,related accept",
                "jump sources",
                f"{to_name_server} ct status dnat accept",
                "icmp type echo-request accept",
                # Published, and nobody serves: that is said at once.
                *(f"{called} reject" for called in _ports("", "th dport")),
                "drop",
            )
        ),
        "input": Chain(
            (f"{_FROM_BRIDGES} goto to-host", f'iifname != "lo" {to_name_server} drop'),
            f"filter hook input priority {FILTER_PRIORITY}",
        ),
        "prerouting": Chain(
            (
                "iifname . ip daddr @gateways meta l4proto { tcp, udp } th dport 53"
                f" redirect to :{name_server_port}",
            ),
            f"nat hook prerouting priority {NAME_SERVER_PRIORITY}",
        ),
    }


def _masquerading(segments: Iterable[Segment]) -> Iterator[str]:
    for segment in segments:
        subnet = segment.subnet
        # Nobody outside has a route back to an overlay address.
        yield f'ip saddr {subnet} ip daddr != {subnet} oifname != "{BRIDGE_PREFIX}*" masquerade'
        if segment.is_internal:
            # And nobody inside has one to the outside.
            yield f'oifname "{segment.bridge}" ip saddr != {subnet} ct status dnat masquerade'


def _ports(condition: str, port: str) -> list[str]:
    """The port's number is a published one. (nft 1.0 cannot look a protocol and the port of a
    flow's beginning up together.)"""
    rules = (f"{condition} meta l4proto {p} {port} @published-{p}" for p in PROTOCOLS)
    return [rule.strip() for rule in rules]


def _set(kind: str, elements: Iterable[str]) -> Set:
    return Set(kind, dict.fromkeys(sorted(set(elements)), ""))
