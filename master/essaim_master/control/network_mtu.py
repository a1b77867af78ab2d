"""The MTU of a network follows the nodes' interfaces. Pure.

It is the least of them, less what VXLAN puts around a packet: a network may have tasks on any
node, and one with a smaller interface would lose large packets without a word. Running containers
keep the MTU that they were started with. So a network is lowered as soon as a node needs that,
and raised only while no task is on it: two tasks of one network should not differ for long.
"""

from collections.abc import Iterator, Set

import msgspec

from essaim_master.state.cluster_state import ClusterState
from essaim_master.state.network_choice import MTU_DEFAULT, MTU_MIN
from essaim_shared.addressing import VXLAN_OVERHEAD_BYTES
from essaim_shared.ids import NetworkId
from essaim_shared.objects import Network


def outdated_networks(state: ClusterState, attached: Set[NetworkId]) -> Iterator[Network]:
    """The networks whose MTU must change, with the one that they should have. `attached` are
    those with any task."""
    least = _least_underlay(state)
    for network in state.networks.values():
        wanted = _wanted(network, least, is_idle=network.id not in attached)
        if wanted != network.mtu:
            yield msgspec.structs.replace(network, mtu=wanted)


def _wanted(network: Network, least: int | None, *, is_idle: bool) -> int:
    if network.driver != "overlay" or network.is_mtu_fixed:
        return network.mtu
    if least is None:
        return network.mtu or MTU_DEFAULT
    fitting = max(least - VXLAN_OVERHEAD_BYTES, MTU_MIN)
    if fitting < network.mtu or is_idle or not network.mtu:
        return fitting
    return network.mtu


def _least_underlay(state: ClusterState) -> int | None:
    """Of the nodes that are not down; None when none of them has told."""
    told = (
        status.description.mtu
        for node_id, status in state.node_status.items()
        if node_id in state.nodes and status.state != "down" and status.description.mtu > 0
    )
    return min(told, default=None)
