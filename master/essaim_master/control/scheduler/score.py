"""Which of the nodes that passed is the best. Pure."""

from essaim_master.control.scheduler.filters import Candidate
from essaim_shared.ids import NodeId, ServiceId

Score = tuple[int, int, NodeId]
"""The least is the best."""


def score(service_id: ServiceId, candidate: Candidate) -> Score:
    """Fewest tasks of the service, so that a node's loss costs least; then fewest tasks at all.
    The id makes the choice repeatable."""
    return candidate.by_service.get(service_id, 0), candidate.tasks, candidate.node.id
