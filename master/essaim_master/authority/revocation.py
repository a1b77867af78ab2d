"""Who is shut out: identities that are deleted together with what they were for. Pure.

From the moment that such a transaction is applied the certificates are good for nothing, whatever
their dates say (`standing`).
"""

from essaim_master.standby.names import base_name
from essaim_master.state.cluster_state import ClusterState
from essaim_master.state.writes import Writes
from essaim_shared.ids import MemberId, NodeId
from essaim_shared.trust.roles import Role


def shut_out(state: ClusterState, node_id: NodeId, writes: Writes) -> None:
    """The agent of a node that is removed, and a master that came with it and is no member: the
    whole machine goes."""
    if state.identity(Role.AGENT, node_id) is not None:
        writes.delete_identity(Role.AGENT, node_id)
    members = {base_name(one.id) for one in state.members.values() if not one.removed_ns}
    for identity in state.identities.values():
        is_its_master = identity.role is Role.MASTER and identity.node_id == node_id
        if is_its_master and identity.name not in members:
            writes.delete_identity(Role.MASTER, identity.name)


def shut_out_master(state: ClusterState, member_id: MemberId, writes: Writes) -> None:
    """A master that is lost for good: its identity stands under the name of its configuration."""
    name = base_name(member_id)
    if state.identity(Role.MASTER, name) is not None:
        writes.delete_identity(Role.MASTER, name)
