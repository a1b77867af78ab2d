"""Places the tasks of one group, which are all the same, in one go. Pure.

The nodes are filtered once; a heap then yields the best node for each task in O(log nodes),
and only what placements can change is asked again.
"""

import heapq

import msgspec

from essaim_master.control.index import NodeLoad
from essaim_master.control.scheduler.filters import PIPELINE, Candidate, Demand, explanation
from essaim_master.control.scheduler.score import Score, score
from essaim_master.state.cluster_state import ClusterState
from essaim_master.state.manager_nodes import masters_beside
from essaim_shared.ids import NodeId


class Placement(msgspec.Struct, frozen=True):
    nodes: tuple[NodeId, ...]
    """For the first tasks of the group, in order; may be shorter than the group."""
    reason: str
    """Why the others have no node; empty when none was left over."""


def candidates_of(state: ClusterState, loads: dict[NodeId, NodeLoad]) -> dict[NodeId, Candidate]:
    """All nodes with what is free on them now."""
    unloaded = NodeLoad()
    masters = [member for member in state.members.values() if not member.removed_ns]
    managers = masters_beside(masters, state.node_status)
    candidates = {}
    for node_id, node in state.nodes.items():
        status = state.node_status.get(node_id)
        if status is None:
            continue
        load = loads.get(node_id, unloaded)
        candidates[node_id] = Candidate(
            node=node,
            status=status,
            tasks=load.tasks,
            by_service=dict(load.by_service),
            free_nano_cpus=status.description.nano_cpus - load.nano_cpus,
            free_memory_bytes=status.description.memory_bytes - load.memory_bytes,
            role="manager" if node_id in managers else "worker",
        )
    return candidates


def place(demand: Demand, count: int, candidates: dict[NodeId, Candidate]) -> Placement:
    """Choose nodes for `count` tasks; the candidates' counts are moved on accordingly."""
    asked = [step for step in PIPELINE if step.is_asked(demand)]
    again = [step for step in asked if step.changes_with_placements]
    turned_away: dict[str, int] = {}
    heap: list[tuple[Score, Candidate]] = []
    for candidate in candidates.values():
        for step in asked:
            if not step.accepts(demand, candidate):
                turned_away[step.name] = turned_away.get(step.name, 0) + 1
                break
        else:
            heap.append((score(demand.service_id, candidate), candidate))
    heapq.heapify(heap)
    chosen: list[NodeId] = []
    while heap and len(chosen) < count:
        candidate = heap[0][1]
        chosen.append(candidate.node.id)
        _occupy(demand, candidate)
        failed = next((step for step in again if not step.accepts(demand, candidate)), None)
        if failed is None:
            heapq.heapreplace(heap, (score(demand.service_id, candidate), candidate))
        else:
            heapq.heappop(heap)
            turned_away[failed.name] = turned_away.get(failed.name, 0) + 1
    is_complete = len(chosen) == count
    return Placement(tuple(chosen), "" if is_complete else explanation(turned_away))


def _occupy(demand: Demand, candidate: Candidate) -> None:
    candidate.tasks += 1
    service_tasks = candidate.by_service.get(demand.service_id, 0)
    candidate.by_service[demand.service_id] = service_tasks + 1
    candidate.free_nano_cpus -= demand.nano_cpus
    candidate.free_memory_bytes -= demand.memory_bytes
