"""What every cluster has, written by each new leader where it is missing. Pure."""

import ipaddress
import random

import msgspec

from essaim_master.control.service_networks import DEFAULT_NETWORK_NAME
from essaim_master.state.cluster_state import ClusterState
from essaim_master.state.keys import NETWORK_LEDGER_KEY
from essaim_master.state.writes import Writes
from essaim_shared.addressing import VXLAN_OVERHEAD_BYTES
from essaim_shared.ids import NetworkId, new_id
from essaim_shared.objects import ClusterInfo, Network

HOST_NETWORK_NAME = "host"

DEFAULT_VIP_SUBNET = "10.160.0.0/20"

DEFAULT_MTU = 1500 - VXLAN_OVERHEAD_BYTES
"""Until the nodes have told what theirs is."""


class ControlSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What a new cluster is made with."""

    cluster_id: str
    subnet: str
    """Of the default network, in CIDR form."""
    vip_subnet: str = DEFAULT_VIP_SUBNET
    """Of its services. Where it is not free, the next of its size is taken."""
    vni: int
    mtu: int = 0
    """Of the default network; 0: it follows the nodes' interfaces."""


def founding_writes(
    state: ClusterState, settings: ControlSettings, rng: random.Random, now_ns: int
) -> Writes:
    """The cluster's own object and its predefined networks.

    Networks are guarded by the ledger, as whoever makes one must: the writes fail when another
    network came at the same time, and are then to be worked out anew.
    """
    writes = Writes()
    if state.cluster is None:
        writes.put(ClusterInfo(id=settings.cluster_id, created_ns=now_ns))
    networks = []
    default = state.network_named(DEFAULT_NETWORK_NAME)
    if default is None:
        default = Network(
            id=NetworkId(new_id(rng)),
            name=DEFAULT_NETWORK_NAME,
            vni=settings.vni,
            subnet=settings.subnet,
            mtu=settings.mtu or DEFAULT_MTU,
            is_mtu_fixed=bool(settings.mtu),
            created_ns=now_ns,
        )
    if not default.vip_subnet:
        networks.append(_with_service_addresses(state, settings, default))
    if state.network_named(HOST_NETWORK_NAME) is None:
        networks.append(
            Network(
                id=NetworkId(new_id(rng)), name=HOST_NETWORK_NAME, driver="host", created_ns=now_ns
            )
        )
    if networks:
        ledger = state.network_ledger
        writes.expect(NETWORK_LEDGER_KEY, state.modified(NETWORK_LEDGER_KEY))
        writes.put(msgspec.structs.replace(ledger, changes=ledger.changes + 1))
    for network in networks:
        writes.put(network)
    return writes


def _with_service_addresses(
    state: ClusterState, settings: ControlSettings, default: Network
) -> Network:
    """The default network of a new cluster, or of one that was made before services had addresses;
    the latter's MTU stays as it was configured."""
    return msgspec.structs.replace(
        default,
        vip_subnet=_free_subnet(state, default, settings.vip_subnet),
        is_mtu_fixed=default.is_mtu_fixed or bool(settings.mtu),
    )


def _free_subnet(state: ClusterState, default: Network, wanted: str) -> str:
    """The wanted subnet, or the first one of its size behind it that no network has."""
    taken = [
        ipaddress.IPv4Network(subnet)
        for network in (*state.networks.values(), default)
        for subnet in (network.subnet, network.vip_subnet)
        if subnet
    ]
    found = ipaddress.IPv4Network(wanted)
    while any(found.overlaps(other) for other in taken):
        found = ipaddress.IPv4Network(
            (int(found.network_address) + found.num_addresses, found.prefixlen)
        )
    return str(found)
