"""Tasks that their node suits no more. Pure.

A label, a role or a node's resources may change under the tasks that were placed by them. Those
that no longer fit are ordered to stop and are replaced like any task that was stopped; a global
service's are not made again on a node that it does not want. Unlike SwarmKit, which declares them
REJECTED while they still run, the observed state stays the agent's to report: the address, the
ports and the units of a task are free when it has really stopped (docs/adr/0032).
"""

from essaim_master.control.scheduler.constraints import is_satisfied
from essaim_master.control.scheduler.filters import Demand, demand_of
from essaim_master.control.scheduler.generic_resources import are_announced
from essaim_master.state.cluster_state import ClusterState
from essaim_master.state.manager_nodes import NodeRole
from essaim_shared.errors import InvalidRequest
from essaim_shared.ids import NodeId, ServiceId
from essaim_shared.objects import NodeObject, NodeStatus, Task

UNFIT_REASON = "assigned node no longer meets constraints"
"""Swarm's words."""

Demands = dict[tuple[ServiceId, int], Demand | None]
"""What is asked by each template met so far, by service and spec version; None: unreadable."""


def unfit_tasks(
    state: ClusterState, node_id: NodeId, role: NodeRole, demands: Demands
) -> list[Task]:
    """The tasks that a node must give up, oldest first: when its resources shrank, those that
    came first keep theirs.

    Only an active node's are looked at: a drained one gives up all of them anyway, and a paused
    one is left alone (SwarmKit, manager/orchestrator/constraintenforcer).
    """
    node, status = state.nodes.get(node_id), state.node_status.get(node_id)
    if node is None or status is None:
        return []
    if node.spec.availability != "active" or status.state == "down":
        return []
    free_nano_cpus = status.description.nano_cpus
    free_memory_bytes = status.description.memory_bytes
    unfit: list[Task] = []
    for task in sorted(state.tasks_on_node(node_id).values(), key=_age):
        if not task.is_wanted or state.observed(task.id).is_terminal:
            continue
        demand = _demand(task, demands)
        if demand is None:
            continue
        if (
            not _suits(task, demand, node, status, role)
            or demand.nano_cpus > free_nano_cpus
            or demand.memory_bytes > free_memory_bytes
        ):
            unfit.append(task)
            continue
        free_nano_cpus -= demand.nano_cpus
        free_memory_bytes -= demand.memory_bytes
    return unfit


def _suits(
    task: Task, demand: Demand, node: NodeObject, status: NodeStatus, role: NodeRole
) -> bool:
    return all(is_satisfied(c, node, status, role) for c in demand.constraints) and are_announced(
        task.generic_resources, status.description.generic_resources
    )


def _demand(task: Task, demands: Demands) -> Demand | None:
    key = (task.service_id, task.spec_version)
    if key not in demands:
        try:
            demands[key] = demand_of(task.service_id, task.spec)
        except InvalidRequest:
            demands[key] = None  # it was never placed by these constraints
    return demands[key]


def _age(task: Task) -> tuple[int, str]:
    return task.created_ns, task.id
