"""On which nodes a global service or job wants a task. Pure.

Asked are constraints and platform only. What else keeps a task from a node (resources, ports)
leaves it pending there with the reason, as in SwarmKit (manager/orchestrator/global).
"""

from enum import Enum

from essaim_master.control.conditions import LOST, NodeCondition, condition_of
from essaim_master.control.scheduler.filters import Candidate, Demand, demand_of, is_eligible
from essaim_master.state.cluster_state import ClusterState
from essaim_master.state.manager_nodes import masters_beside
from essaim_shared.errors import InvalidRequest
from essaim_shared.ids import NodeId, ServiceId
from essaim_shared.objects import Service


class Fit(Enum):
    OPEN = "open"
    """It gets a task, and another when that one ends."""
    HELD = "held"
    """What it has runs on, and nothing is made: the node is paused or down, or nothing is known
    of it. (A task on a node that is down may well run: only the way to it is cut, and nothing
    could take its place elsewhere. SwarmKit stops it, so that a short cut costs a restart.)"""
    CLOSED = "closed"
    """What it has is stopped: the node is drained, or the service does not want it."""


class Eligibility:
    """Over one slice, in which the state does not move: what was worked out is remembered."""

    def __init__(self, state: ClusterState) -> None:
        self._state = state
        self._demands: dict[ServiceId, Demand | None] = {}
        self._candidates: dict[NodeId, Candidate | None] = {}
        self._managers: frozenset[NodeId] | None = None

    def fit(self, service: Service, node_id: NodeId) -> Fit:
        """Of a node that belongs to the cluster."""
        condition = condition_of(self._state, node_id)
        if condition is NodeCondition.DOWN:
            return Fit.HELD
        if condition in LOST:
            return Fit.CLOSED
        candidate, demand = self._candidate(node_id), self._demand(service)
        if candidate is None or demand is None:
            return Fit.HELD
        if not is_eligible(demand, candidate):
            return Fit.CLOSED
        return Fit.OPEN if candidate.is_open else Fit.HELD

    def is_open(self, service: Service, node_id: NodeId) -> bool:
        """Whether the node gets a task now, if it is still there at all."""
        return node_id in self._state.nodes and self.fit(service, node_id) is Fit.OPEN

    def _demand(self, service: Service) -> Demand | None:
        """None: the constraints cannot be read, which the API lets nobody write."""
        if service.id not in self._demands:
            try:
                self._demands[service.id] = demand_of(service.id, service.spec.task)
            except InvalidRequest:
                self._demands[service.id] = None
        return self._demands[service.id]

    def _candidate(self, node_id: NodeId) -> Candidate | None:
        if node_id not in self._candidates:
            self._candidates[node_id] = self._new_candidate(node_id)
        return self._candidates[node_id]

    def _new_candidate(self, node_id: NodeId) -> Candidate | None:
        node = self._state.nodes.get(node_id)
        status = self._state.node_status.get(node_id)
        if node is None or status is None:
            return None
        if self._managers is None:
            masters = [master for master in self._state.members.values() if not master.removed_ns]
            self._managers = frozenset(masters_beside(masters, self._state.node_status))
        return Candidate(
            node=node,
            status=status,
            tasks=0,
            by_service={},
            free_nano_cpus=0,
            free_memory_bytes=0,
            role="manager" if node_id in self._managers else "worker",
        )
