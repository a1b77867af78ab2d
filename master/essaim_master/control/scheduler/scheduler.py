"""Places the tasks of one group, which are all the same, in one go. Pure.

The nodes are filtered once; a heap (a tree of heaps, where the tasks are to be spread) then
yields the best node for each task in O(log nodes), and only what placements can change is asked
again.
"""

import msgspec

from essaim_master.control.claims import Claims
from essaim_master.control.index import NodeLoad
from essaim_master.control.scheduler.filters import (
    PIPELINE,
    Candidate,
    Demand,
    Filter,
    explanation,
)
from essaim_master.control.scheduler.generic_resources import claim_units, free_units
from essaim_master.control.scheduler.host_ports import claim_ports, newest_dynamic
from essaim_master.control.scheduler.preferences import plant
from essaim_master.control.scheduler.ranking import GROUP_TASKS_MAX, Ranking
from essaim_master.control.scheduler.score import Score, faults, score
from essaim_master.state.cluster_state import ClusterState
from essaim_master.state.manager_nodes import masters_beside
from essaim_shared.ids import NodeId
from essaim_shared.objects import NodeObject, NodeStatus
from essaim_shared.spec import GenericResource, PortConfig


class Place(msgspec.Struct, frozen=True):
    """What a task is given."""

    node_id: NodeId
    generic_resources: tuple[GenericResource, ...] = ()
    ports: tuple[PortConfig, ...] = ()


class Placement(msgspec.Struct, frozen=True):
    places: tuple[Place, ...]
    """For the first tasks of the group, in order; may be shorter than the group."""
    reason: str
    """Why the others have no node; empty when none was left over."""


def candidates_of(
    state: ClusterState, loads: dict[NodeId, NodeLoad], claims: Claims
) -> dict[NodeId, Candidate]:
    """All nodes with what is free on them now."""
    unloaded = NodeLoad()
    masters = [member for member in state.members.values() if not member.removed_ns]
    managers = masters_beside(masters, state.node_status)
    return {
        node_id: _candidate(
            node, status, loads.get(node_id, unloaded), claims, is_manager=node_id in managers
        )
        for node_id, node in state.nodes.items()
        if (status := state.node_status.get(node_id)) is not None
    }


def _candidate(
    node: NodeObject, status: NodeStatus, load: NodeLoad, claims: Claims, is_manager: bool
) -> Candidate:
    description = status.description
    return Candidate(
        node=node,
        status=status,
        tasks=load.tasks,
        by_service=dict(load.by_service),
        free_nano_cpus=description.nano_cpus - load.nano_cpus,
        free_memory_bytes=description.memory_bytes - load.memory_bytes,
        role="manager" if is_manager else "worker",
        free_units=free_units(description.generic_resources, claims.units_on(node.id)),
        used_ports=claims.ports_on(node.id),
        newest_port=claims.newest_ports.get(node.id, 0),
    )


def place(
    demand: Demand,
    count: int,
    candidates: dict[NodeId, Candidate],
    ranking: Ranking | None = None,
) -> Placement:
    """Choose nodes for `count` tasks; the candidates' counts are moved on accordingly. With a
    ranking of the candidates a small group costs little; the choice is the same."""
    asked = [step for step in PIPELINE if step.is_asked(demand)]
    places: list[Place] = []
    if ranking is not None and count <= GROUP_TASKS_MAX and not demand.spread_over:
        _place_shortly(demand, count, asked, ranking, places)
        if len(places) == count:
            return Placement(tuple(places), "")
    again = [step for step in asked if step.changes_with_placements]
    turned_away: dict[str, int] = {}
    usable: list[tuple[Score, Candidate]] = []
    for candidate in candidates.values():
        if _passes(asked, demand, candidate, turned_away):
            usable.append((score(demand, candidate), candidate))
    tree = plant(demand, usable, candidates.values())

    def occupy(candidate: Candidate) -> Score | None:
        places.append(_occupy(demand, candidate))
        is_open = _passes(again, demand, candidate, turned_away)
        return score(demand, candidate) if is_open else None

    while len(places) < count and tree.take(occupy):
        pass
    is_complete = len(places) == count
    return Placement(tuple(places), "" if is_complete else explanation(turned_away))


def _place_shortly(
    demand: Demand, count: int, asked: list[Filter], ranking: Ranking, places: list[Place]
) -> None:
    """As many tasks as find a node that has none of the service yet, near the top."""

    def accepts(candidate: Candidate) -> bool:
        return (
            demand.service_id not in candidate.by_service
            and not faults(demand, candidate)
            and all(step.accepts(demand, candidate) for step in asked)
        )

    while len(places) < count:
        candidate = ranking.emptiest(accepts)
        if candidate is None:
            return
        places.append(_occupy(demand, candidate))


def place_on(demand: Demand, candidate: Candidate | None) -> Placement:
    """The one node on which a task of a global service may run, or why it cannot; None: the node
    was removed."""
    if candidate is None:
        return Placement((), "no suitable node (the task's node was removed)")
    turned_away: dict[str, int] = {}
    asked = [step for step in PIPELINE if step.is_asked(demand)]
    if _passes(asked, demand, candidate, turned_away):
        return Placement((_occupy(demand, candidate),), "")
    return Placement((), explanation(turned_away))


def _passes(
    steps: list[Filter], demand: Demand, candidate: Candidate, turned_away: dict[str, int]
) -> bool:
    """Ask the filters in order; the first that says no counts the node."""
    for step in steps:
        if not step.accepts(demand, candidate):
            turned_away[step.name] = turned_away.get(step.name, 0) + 1
            return False
    return True


def _occupy(demand: Demand, candidate: Candidate) -> Place:
    candidate.tasks += 1
    service_tasks = candidate.by_service.get(demand.service_id, 0)
    candidate.by_service[demand.service_id] = service_tasks + 1
    candidate.free_nano_cpus -= demand.nano_cpus
    candidate.free_memory_bytes -= demand.memory_bytes
    units = claim_units(candidate.free_units, demand.units) if demand.units else ()
    ports: tuple[PortConfig, ...] = ()
    if demand.ports:
        ports = claim_ports(
            candidate.used_ports, demand.ports, candidate.newest_port, demand.reserved
        )
        candidate.newest_port = newest_dynamic(ports) or candidate.newest_port
    return Place(candidate.node_id, units, ports)
