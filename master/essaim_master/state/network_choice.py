"""Which number, subnet and range of service addresses a new network gets. Pure.

The choice is made from the state and written under a compare of the ledger's revision, so two
networks that are made at once are chosen one after the other. The search goes on behind what was
given out last: what a removed network had comes again as late as possible, for nodes that were cut
off may still hold it.

Addresses that no network may have: those of other networks and their services, subnets that a
node has routes to, and the nodes' own.
"""

import ipaddress
from bisect import bisect_right
from collections.abc import Iterable, Iterator

import msgspec

from essaim_master.state.cluster_state import ClusterState
from essaim_master.state.errors import PoolExhausted, SubnetTaken
from essaim_shared.addressing import VXLAN_OVERHEAD_BYTES
from essaim_shared.errors import Conflict
from essaim_shared.ids import NetworkId
from essaim_shared.limits import NETWORKS_MAX
from essaim_shared.objects import Network, NetworkLedger

VNI_MAX = 2**24 - 1
"""RFC 7348, section 5: 24 bits."""

MTU_MIN = 576
"""RFC 791: what every host must be able to receive. No node makes a network smaller."""
MTU_DEFAULT = 1500 - VXLAN_OVERHEAD_BYTES
"""While no node has told its own."""


class NetworkPools(msgspec.Struct, frozen=True, kw_only=True):
    """What networks are chosen from; the defaults are those of the configuration."""

    subnets: tuple[str, ...] = ("10.128.0.0/11",)
    vip_subnets: tuple[str, ...] = ("10.160.0.0/11",)
    prefix_length: int = 20
    """Of every subnet and range that is cut out of them."""
    first_vni: int = 70_001


class WantedNetwork(msgspec.Struct, frozen=True, kw_only=True):
    """What a user asked for, checked as far as it can be without the state."""

    name: str
    subnet: str = ""
    """Empty: one of the pools'."""
    ip_range: str = ""
    mtu: int = 0
    """0: whatever the underlay carries."""
    is_internal: bool = False
    labels: dict[str, str] = {}
    options: dict[str, str] = {}


def chosen_network(
    state: ClusterState,
    pools: NetworkPools,
    wanted: WantedNetwork,
    network_id: NetworkId,
    now_ns: int,
    reserved: Iterable[tuple[str, str]] = (),
) -> tuple[Network, NetworkLedger]:
    """The network, and the ledger that is to be written with it. `reserved`: subnets that others
    of the same request will have, and whose they are.

    Raises Conflict (the name is taken, or there are too many), SubnetTaken, PoolExhausted.
    """
    if state.network_named(wanted.name) is not None:
        raise Conflict(f"network with name {wanted.name} already exists")
    if len(state.networks) >= NETWORKS_MAX:
        raise Conflict(f"there are {NETWORKS_MAX} networks already, the most that Essaim keeps")
    ledger = state.network_ledger
    taken = Taken(state)
    for other, owner in reserved:
        taken.add(other, owner)
    if wanted.subnet:
        taken.check(wanted.subnet)
        subnet, last_subnet = wanted.subnet, ledger.last_subnet
        taken.add(subnet, "this network itself")
    else:
        subnet = last_subnet = taken.free(pools.subnets, pools.prefix_length, ledger.last_subnet)
        taken.add(subnet, "this network itself")
    vip_subnet = taken.free(pools.vip_subnets, pools.prefix_length, ledger.last_vip_subnet)
    vni = free_vni(state.networks.values(), pools.first_vni, ledger.last_vni)
    network = Network(
        id=network_id,
        name=wanted.name,
        vni=vni,
        subnet=subnet,
        vip_subnet=vip_subnet,
        ip_range=wanted.ip_range,
        mtu=wanted.mtu or carried_mtu(state) or MTU_DEFAULT,
        is_mtu_fixed=bool(wanted.mtu),
        is_internal=wanted.is_internal,
        labels=wanted.labels,
        options=wanted.options,
        created_ns=now_ns,
    )
    return network, NetworkLedger(
        changes=ledger.changes + 1,
        last_vni=vni,
        last_subnet=last_subnet,
        last_vip_subnet=vip_subnet,
    )


def carried_mtu(state: ClusterState) -> int:
    """What containers may send at once: the underlay's least, without the VXLAN headers; 0 when
    no node has said."""
    known = [
        status.description.mtu
        for status in state.node_status.values()
        if status.state != "down" and status.description.mtu
    ]
    return max(min(known) - VXLAN_OVERHEAD_BYTES, MTU_MIN) if known else 0


def free_vni(networks: Iterable[Network], first: int, last: int) -> int:
    """The next number behind the last one that no network has; the range is larger than all
    networks together."""
    used = {network.vni for network in networks}
    vni = max(last + 1, first)
    while True:
        if vni > VNI_MAX:
            vni = first
        if vni not in used:
            return vni
        vni += 1


class Taken:
    """The ranges of addresses that no new network may overlap, and whose they are."""

    def __init__(self, state: ClusterState) -> None:
        self._ranges: dict[str, str] = {}
        """By the text of the subnet: nodes of one site have the same routes."""
        for network in state.networks.values():
            if network.subnet:
                self.add(network.subnet, f"network {network.name}")
            if network.vip_subnet:
                self.add(network.vip_subnet, f"the service addresses of network {network.name}")
        for status in state.node_status.values():
            description = status.description
            self.add(description.address, f"node {description.hostname}")
            for route in description.routes:
                self.add(route, f"a route of node {description.hostname}")

    def add(self, subnet: str, owner: str) -> None:
        self._ranges.setdefault(subnet, owner)

    def check(self, subnet: str) -> None:
        """Raises SubnetTaken for a subnet that overlaps something."""
        first, last = _bounds(ipaddress.IPv4Network(subnet))
        for other, owner in self._ranges.items():
            bounds = _parsed(other)
            if bounds is not None and bounds[0] <= last and first <= bounds[1]:
                raise SubnetTaken(
                    f"invalid subnet {subnet}: it overlaps {other}, {owner}; choose another one"
                )

    def free(self, pools: Iterable[str], prefix_length: int, last: str) -> str:
        """The next subnet of the pools behind the last one that overlaps nothing. Raises
        PoolExhausted."""
        starts, ends = self._merged()
        size = 2 ** (32 - prefix_length)
        for first in _from(list(pools), prefix_length, last):
            # The last taken range that begins before this one's end is the one that could reach
            # into it: merged ranges end in the order in which they begin.
            place = bisect_right(starts, first + size - 1) - 1
            if place < 0 or ends[place] < first:
                return f"{ipaddress.IPv4Address(first)}/{prefix_length}"
        raise PoolExhausted(
            f"no /{prefix_length} is free in {', '.join(pools)}: networks and routes of the "
            "nodes take all of it; remove networks, name a subnet, or give the masters more "
            "addresses (overlay.pools, overlay.vip_pools)"
        )

    def _merged(self) -> tuple[list[int], list[int]]:
        found = sorted(bounds for text in self._ranges if (bounds := _parsed(text)) is not None)
        starts: list[int] = []
        ends: list[int] = []
        for first, last in found:
            if ends and first <= ends[-1] + 1:
                ends[-1] = max(ends[-1], last)
            else:
                starts.append(first)
                ends.append(last)
        return starts, ends


def _from(pools: list[str], prefix_length: int, last: str) -> Iterator[int]:
    """The first addresses of all subnets of the pools, beginning behind the last one."""
    size = 2 ** (32 - prefix_length)
    ranges = [_bounds(ipaddress.IPv4Network(pool)) for pool in pools]
    bounds = _parsed(last) if last else None
    turn, begin = 0, ranges[0][0]
    for number, (low, high) in enumerate(ranges):
        if bounds is not None and low <= bounds[0] and bounds[1] <= high:
            turn, begin = number, low + ((bounds[1] + 1 - low + size - 1) // size) * size
    yield from range(begin, ranges[turn][1] + 1, size)
    for low, high in (*ranges[turn + 1 :], *ranges[:turn]):
        yield from range(low, high + 1, size)
    yield from range(ranges[turn][0], begin, size)


def _bounds(network: ipaddress.IPv4Network) -> tuple[int, int]:
    return int(network.network_address), int(network.broadcast_address)


def _parsed(text: str) -> tuple[int, int] | None:
    """The bounds of what a node said of itself; None for what is no IPv4 subnet."""
    try:
        return _bounds(ipaddress.IPv4Network(text, strict=False))
    except ValueError:
        return None
