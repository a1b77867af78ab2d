"""What is written when a node loses its key on the bus for a while, and when it gets it back. Pure.

Only an agent's identity is ever suspended. Its certificate stays: with it the node may renew that,
and ask for nothing on the bus.
"""

import msgspec

from essaim_master.state.cluster_state import ClusterState
from essaim_master.state.keys import identity_key
from essaim_master.state.writes import Writes
from essaim_shared.trust.roles import Role
from essaim_shared.trust_objects import NodeIdentity


def agent_with_key(state: ClusterState, bus_key: str) -> NodeIdentity | None:
    """The node whose key that is; None for a master's, or nobody's."""
    for identity in state.identities.values():
        if identity.bus_key == bus_key and identity.role is Role.AGENT:
            return identity
    return None


def suspension_writes(state: ClusterState, node_id: str, reason: str) -> Writes:
    """`reason` empty: the node is let in again. Empty writes when there is nothing to change, or
    no such identity."""
    identity = state.identity(Role.AGENT, node_id)
    writes = Writes()
    if identity is None or identity.suspended == reason or (reason and identity.suspended):
        return writes
    key = identity_key(Role.AGENT, node_id)
    writes.expect(key, state.modified(key))
    writes.put(msgspec.structs.replace(identity, suspended=reason))
    return writes
