"""What every cluster has, written by each new leader where it is missing. Pure."""

import random

import msgspec

from essaim_master.state.cluster_state import ClusterState
from essaim_master.state.errors import PoolExhausted
from essaim_master.state.keys import NETWORK_LEDGER_KEY
from essaim_master.state.network_choice import MTU_DEFAULT, NetworkPools, Taken
from essaim_master.state.network_uses import DEFAULT_NETWORK, HOST_NETWORK
from essaim_master.state.writes import Writes
from essaim_shared.ids import HOST_NETWORK_ID, NetworkId, new_id
from essaim_shared.objects import ClusterInfo, Network, NetworkLedger
from essaim_shared.trust_objects import JoinSecrets, NodeIdentity, TrustAnchors, User


class ControlSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What a new cluster is made with."""

    cluster_id: str
    subnet: str
    """Of the default network, in CIDR form."""
    vni: int
    mtu: int = 0
    """Of the default network; 0: it follows the nodes' interfaces."""
    pools: NetworkPools = NetworkPools()
    """From which its services have their addresses."""


class FirstTrust(msgspec.Struct, frozen=True, kw_only=True):
    """What `cluster init` made, with everything secret sealed. Its repr shows nothing of it."""

    anchors: TrustAnchors
    secrets: JoinSecrets
    identities: tuple[NodeIdentity, ...]
    users: tuple[User, ...]

    def __repr__(self) -> str:
        return "FirstTrust(…)"


def first_trust_writes(state: ClusterState, trust: FirstTrust | None) -> Writes:
    """The authority of a cluster that has none. The anchors come last: when they are there, all
    the rest is."""
    writes = Writes()
    if trust is None or state.trust_anchors is not None:
        return writes
    for identity in trust.identities:
        writes.put(identity)
    for user in trust.users:
        writes.put(user)
    writes.put(trust.secrets)
    writes.put(trust.anchors)
    return writes


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
    present = state.network_named(DEFAULT_NETWORK)
    default, ledger = _default_network(state, settings, present, rng, now_ns)
    host = None
    if state.network_named(HOST_NETWORK) is None:
        host = Network(id=HOST_NETWORK_ID, name=HOST_NETWORK, driver="host", created_ns=now_ns)
    if default != present or host is not None:
        writes.expect(NETWORK_LEDGER_KEY, state.modified(NETWORK_LEDGER_KEY))
        writes.put(msgspec.structs.replace(ledger, changes=ledger.changes + 1))
    if default != present:
        writes.put(default)
    if host is not None:
        writes.put(host)
    return writes


def _default_network(
    state: ClusterState,
    settings: ControlSettings,
    present: Network | None,
    rng: random.Random,
    now_ns: int,
) -> tuple[Network, NetworkLedger]:
    """As it should be: a new cluster's, or one that was made before services had addresses of
    their own. The latter's MTU stays as it was configured. Where the nodes' routes leave no room
    its services have none, and a later leader tries again."""
    default = present or Network(
        id=NetworkId(new_id(rng)),
        name=DEFAULT_NETWORK,
        vni=settings.vni,
        subnet=settings.subnet,
        mtu=settings.mtu or MTU_DEFAULT,
        is_mtu_fixed=bool(settings.mtu),
        created_ns=now_ns,
    )
    ledger = state.network_ledger
    if default.vip_subnet:
        return default, ledger
    taken = Taken(state)
    taken.add(default.subnet, "the default network itself")
    pools = settings.pools
    try:
        vip_subnet = taken.free(pools.vip_subnets, pools.prefix_length, ledger.last_vip_subnet)
    except PoolExhausted:
        return default, ledger
    default = msgspec.structs.replace(
        default,
        vip_subnet=vip_subnet,
        is_mtu_fixed=default.is_mtu_fixed or bool(settings.mtu),
    )
    return default, msgspec.structs.replace(ledger, last_vip_subnet=vip_subnet)
