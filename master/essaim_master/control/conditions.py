"""What a node's state means for the tasks on it. Pure."""

from enum import Enum

from essaim_master.state.cluster_state import ClusterState
from essaim_shared.ids import NodeId
from essaim_shared.objects import Task


class NodeCondition(Enum):
    __hash__ = object.__hash__  # as of `Kind`: it is asked for each task of a large service

    HOLDS = "holds"
    """Its tasks stay. (A node that is paused, or of which the leader has no fresh word.)"""
    DRAINED = "drained"
    """Its tasks are to stop and to run elsewhere; it obeys and reports."""
    DOWN = "down"
    """Its tasks are replaced elsewhere; whether they still run there is unknown."""
    GONE = "gone"
    """It was removed from the cluster, so nothing will ever be heard of its tasks."""


UNREACHABLE = frozenset({NodeCondition.DOWN, NodeCondition.GONE})
"""No report will come from these for now: nobody waits for them."""

LOST = frozenset({NodeCondition.DRAINED, NodeCondition.DOWN, NodeCondition.GONE})
"""A task on such a node is replaced at once."""


def condition_of(state: ClusterState, node_id: NodeId | None) -> NodeCondition:
    """The condition of a task's node; a task without a node holds."""
    if node_id is None:
        return NodeCondition.HOLDS
    node = state.nodes.get(node_id)
    if node is None:
        return NodeCondition.GONE
    status = state.node_status.get(node_id)
    if status is not None and status.state == "down":
        return NodeCondition.DOWN
    return NodeCondition.DRAINED if node.spec.availability == "drain" else NodeCondition.HOLDS


def has_stopped(state: ClusterState, task: Task) -> bool:
    """Whether nothing of the task can be running: it never reached a node, it has ended, or its
    node was removed from the cluster."""
    if task.node_id is None or task.node_id not in state.nodes:
        return True
    return state.observed(task.id).is_terminal
