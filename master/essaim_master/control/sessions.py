"""The agents' sessions, and who may have one. Pure.

Sessions live in the leader's memory only: a new leader knows none, so every agent registers
again and is given a full set.
"""

from dataclasses import dataclass

from essaim_shared.ids import NodeId
from essaim_shared.objects import NodeDescription, NodeStatus


@dataclass(slots=True)
class Session:
    node_id: NodeId
    token: str
    """What the agent shows with each message."""
    description: NodeDescription
    sequence: int = 0
    """Of the last assignments sent."""


class SessionTable:
    """At most one session for each node."""

    def __init__(self) -> None:
        self._sessions: dict[NodeId, Session] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def open(self, node_id: NodeId, token: str, description: NodeDescription) -> Session:
        """A new session ends the node's former one."""
        session = self._sessions[node_id] = Session(node_id, token, description)
        return session

    def close(self, node_id: NodeId) -> None:
        self._sessions.pop(node_id, None)

    def of(self, node_id: NodeId) -> Session | None:
        return self._sessions.get(node_id)

    def find(self, node_id: NodeId, token: str) -> Session | None:
        """The session, if the agent shows the right token."""
        session = self._sessions.get(node_id)
        return session if session is not None and session.token == token else None

    def all(self) -> tuple[Session, ...]:
        return tuple(self._sessions.values())


def clone_refusal(
    node_id: NodeId,
    asking: NodeDescription,
    session: Session | None,
    status: NodeStatus | None,
    is_alive: bool,
) -> str | None:
    """Why a registration is refused as that of a second machine with the same node id, or None.

    `is_alive` tells whether the known machine was heard of within the time after which a node
    is down; a new leader, who has not heard anybody yet, grants that time to every ready node.
    """
    known = session.description if session is not None else None
    if known is None and status is not None and status.state == "ready":
        known = status.description
    if known is None or not is_alive:
        return None
    if (known.instance, known.address) == (asking.instance, asking.address):
        return None
    return (
        f"node id {node_id} is in use by {known.hostname} at {known.address}; "
        f"{asking.hostname} at {asking.address} has the same id, probably from a cloned disk: "
        f"remove the agent's data directory there and start it again"
    )
