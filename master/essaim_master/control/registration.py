"""What a registration writes, or why it is refused. Pure."""

import ipaddress
import re
from typing import Final

import msgspec

from essaim_master.state.cluster_state import ClusterState
from essaim_master.state.writes import Writes
from essaim_shared.errors import MalformedMessage
from essaim_shared.ids import NodeId
from essaim_shared.limits import NODES_MAX
from essaim_shared.messages import Register
from essaim_shared.objects import NodeDescription, NodeObject, NodeStatus
from essaim_shared.spec import NodeSpec
from essaim_shared.trust.roles import Role

_NODE_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""It becomes a part of keys and of bus subjects."""

ROUTES_MAX: Final = 1_024
LISTENING_MAX: Final = 4_096
"""Several times what an agent tells of its host. All of it is replicated, and compared with each
network and port that comes."""
DESCRIPTION_BYTES_MAX: Final = 256 * 1024
"""In the state, where each registration may write it."""


def check_registration(request: Register) -> None:
    """Raises MalformedMessage for what no agent of ours sends."""
    if not _NODE_ID.fullmatch(request.node_id):
        raise MalformedMessage(f"{request.node_id[:80]!r} is no node id")
    if not request.description.hostname:
        raise MalformedMessage(f"node {request.node_id} names no host name")
    if not _is_of_a_host(request.description.address):
        # All others are told it, and refuse every order in which one is none.
        raise MalformedMessage(
            f"node {request.node_id} names {request.description.address[:80]!r}, which is no "
            "IPv4 address of a host"
        )
    size_bytes = len(msgspec.msgpack.encode(request.description))
    if size_bytes > DESCRIPTION_BYTES_MAX:
        raise MalformedMessage(
            f"node {request.node_id} describes itself in {size_bytes} bytes, over "
            f"{DESCRIPTION_BYTES_MAX}"
        )
    for what, told, most in (
        ("routes", request.description.routes, ROUTES_MAX),
        ("ports", request.description.listening, LISTENING_MAX),
    ):
        if len(told) > most:
            raise MalformedMessage(f"node {request.node_id} names {len(told)} {what}, over {most}")


def _is_of_a_host(text: str) -> bool:
    try:
        address = ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return not (address.is_multicast or address.is_unspecified or address.is_reserved)


def is_admitted(state: ClusterState, node_id: NodeId) -> bool:
    """Whether the node has an identity and was not suspended, in a cluster that has an
    authority."""
    if state.trust_anchors is None:
        return True
    identity = state.identity(Role.AGENT, node_id)
    return identity is not None and not identity.suspended


def crowd_refusal(state: ClusterState, node_id: NodeId) -> str | None:
    """Why a node that is new is one too many; None: it is not."""
    if node_id in state.nodes or len(state.nodes) < NODES_MAX:
        return None
    return (
        f"the cluster has {NODES_MAX} nodes, which is the limit: remove those that are gone "
        "(essaim node rm)"
    )


def write_registration(
    state: ClusterState, node_id: NodeId, description: NodeDescription, now_ns: int, writes: Writes
) -> None:
    """Make the node if it is new, and ready; nothing when the state says so already."""
    if node_id not in state.nodes:
        spec = NodeSpec(name=description.hostname)
        writes.put(NodeObject(id=node_id, spec=spec, created_ns=now_ns, updated_ns=now_ns))
    status = state.node_status.get(node_id)
    ready = NodeStatus(state="ready", description=description, changed_ns=now_ns)
    if (
        status is not None
        and msgspec.structs.replace(ready, changed_ns=status.changed_ns) == status
    ):
        return
    writes.put_node_status(node_id, ready)
