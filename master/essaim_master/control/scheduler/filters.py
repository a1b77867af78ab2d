"""The filters that a node must pass, in the order in which they are asked. Pure.

Each filter explains itself in Swarm's words; the explanation counts the nodes that it turned
away as the first to do so.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import msgspec

from essaim_master.control.scheduler.constraints import (
    Constraint,
    fold_key,
    is_satisfied,
    normal_architecture,
    parse_constraints,
)
from essaim_master.control.scheduler.generic_resources import (
    FreeUnits,
    WantedUnits,
    has_units,
    wanted_units,
)
from essaim_master.control.scheduler.host_ports import PortKey, has_ports
from essaim_master.state.manager_nodes import NodeRole
from essaim_shared.ids import NodeId, ServiceId
from essaim_shared.objects import NodeObject, NodeStatus
from essaim_shared.spec import Platform, PortConfig, TaskSpec


@dataclass(slots=True)
class Candidate:
    """A node as the scheduler sees it during one slice; the counts follow its own placements."""

    node: NodeObject
    status: NodeStatus
    tasks: int
    by_service: dict[ServiceId, int]
    free_nano_cpus: int
    free_memory_bytes: int
    role: NodeRole = "worker"
    free_units: FreeUnits = field(default_factory=dict)
    used_ports: set[PortKey] = field(default_factory=set)
    newest_port: int = 0
    """The port that was chosen last on the node."""

    @property
    def node_id(self) -> NodeId:
        return self.node.id

    @property
    def is_open(self) -> bool:
        """Ready, and not paused or drained."""
        return self.status.state == "ready" and self.node.spec.availability == "active"


class Demand(msgspec.Struct, frozen=True):
    """What every task of a group asks of its node."""

    service_id: ServiceId
    nano_cpus: int = 0
    memory_bytes: int = 0
    units: WantedUnits = ()
    plugins: tuple[tuple[str, str], ...] = ()
    """(type, name) of drivers that the node's engine must have."""
    constraints: tuple[Constraint, ...] = ()
    platforms: tuple[Platform, ...] = ()
    ports: tuple[PortConfig, ...] = ()
    max_replicas: int = 0
    spread_over: tuple[str, ...] = ()
    """Keys of the preferences, the outermost first."""
    reserved: frozenset[PortKey] = frozenset()
    """Ports of the whole cluster, which no node has to give."""
    failures: dict[NodeId, int] = {}
    """How often the group's tasks failed lately, by node."""


def demand_of(
    service_id: ServiceId,
    spec: TaskSpec,
    ports: tuple[PortConfig, ...] = (),
    failures: dict[NodeId, int] | None = None,
    reserved: frozenset[PortKey] = frozenset(),
) -> Demand:
    """Raises InvalidRequest for constraints that cannot be read."""
    reservations = None if spec.resources is None else spec.resources.reservations
    placement = spec.placement
    preferences = () if placement is None else placement.preferences
    return Demand(
        service_id=service_id,
        nano_cpus=0 if reservations is None else reservations.nano_cpus,
        memory_bytes=0 if reservations is None else reservations.memory_bytes,
        units=() if reservations is None else wanted_units(reservations.generic_resources),
        plugins=tuple(_drivers_of(spec)),
        constraints=() if placement is None else parse_constraints(placement.constraints),
        platforms=() if placement is None else placement.platforms,
        ports=ports,
        max_replicas=0 if placement is None else placement.max_replicas,
        spread_over=tuple(fold_key(each.spread.spread_descriptor) for each in preferences),
        failures=failures or {},
        reserved=reserved,
    )


def _drivers_of(spec: TaskSpec) -> Iterable[tuple[str, str]]:
    """`local` volumes and the log driver `none` are part of every engine."""
    for mount in spec.container.mounts:
        options = mount.volume_options
        if mount.type == "volume" and options is not None and options.driver_config is not None:
            name = options.driver_config.name
            if name not in ("", "local"):
                yield "Volume", name
    if spec.log_driver is not None and spec.log_driver.name not in ("", "none"):
        yield "Log", spec.log_driver.name


class Filter(msgspec.Struct, frozen=True):
    name: str
    is_asked: Callable[[Demand], bool]
    """Whether the demand concerns this filter at all."""
    accepts: Callable[[Demand, Candidate], bool]
    explain: Callable[[int], str]
    changes_with_placements: bool = False
    """Whether a node that passed may fail once tasks of the same group were placed on it."""


def _nodes(count: int) -> str:
    return "1 node" if count == 1 else f"{count} nodes"


def _fits(demand: Demand, candidate: Candidate) -> bool:
    return (
        candidate.free_nano_cpus >= demand.nano_cpus
        and candidate.free_memory_bytes >= demand.memory_bytes
        and has_units(candidate.free_units, demand.units)
    )


def _has_plugins(demand: Demand, candidate: Candidate) -> bool:
    """An engine that tells none of a type is not judged by that type: older ones do not tell."""
    announced = {(p.type, _without_tag(p.name)) for p in candidate.status.description.plugins}
    types = {kind for kind, _ in announced}
    return all(
        kind not in types or (kind, _without_tag(name)) in announced
        for kind, name in demand.plugins
    )


def _without_tag(name: str) -> str:
    """Engines list an installed plugin as `name:latest`; specs mostly leave the tag out."""
    return name.removesuffix(":latest")


def is_eligible(demand: Demand, candidate: Candidate) -> bool:
    """Whether the node is of the kind that the group may run on at all, whatever else runs
    there: what tells on which nodes a global service wants a task."""
    return _satisfies(demand, candidate) and (
        not demand.platforms or _has_platform(demand, candidate)
    )


def _satisfies(demand: Demand, candidate: Candidate) -> bool:
    return all(
        is_satisfied(c, candidate.node, candidate.status, candidate.role)
        for c in demand.constraints
    )


def _has_platform(demand: Demand, candidate: Candidate) -> bool:
    description = candidate.status.description
    architecture = normal_architecture(description.architecture)
    return any(
        (not platform.os or platform.os.lower() == description.os.lower())
        and (
            not platform.architecture or normal_architecture(platform.architecture) == architecture
        )
        for platform in demand.platforms
    )


PIPELINE: tuple[Filter, ...] = (
    Filter(
        name="ready",
        is_asked=lambda demand: True,
        accepts=lambda demand, candidate: candidate.is_open,
        explain=lambda count: f"{_nodes(count)} not available for new tasks",
    ),
    Filter(
        name="resources",
        is_asked=lambda demand: bool(demand.nano_cpus or demand.memory_bytes or demand.units),
        accepts=_fits,
        explain=lambda count: f"insufficient resources on {_nodes(count)}",
        changes_with_placements=True,
    ),
    Filter(
        name="plugin",
        is_asked=lambda demand: bool(demand.plugins),
        accepts=_has_plugins,
        explain=lambda count: f"missing plugin on {_nodes(count)}",
    ),
    Filter(
        name="constraints",
        is_asked=lambda demand: bool(demand.constraints),
        accepts=_satisfies,
        explain=lambda count: f"scheduling constraints not satisfied on {_nodes(count)}",
    ),
    Filter(
        name="platform",
        is_asked=lambda demand: bool(demand.platforms),
        accepts=_has_platform,
        explain=lambda count: f"unsupported platform on {_nodes(count)}",
    ),
    Filter(
        name="host ports",
        is_asked=lambda demand: bool(demand.ports),
        accepts=lambda demand, candidate: has_ports(
            candidate.used_ports, demand.ports, demand.reserved
        ),
        explain=lambda count: f"host-mode port already in use on {_nodes(count)}",
        changes_with_placements=True,
    ),
    Filter(
        name="max replicas",
        is_asked=lambda demand: demand.max_replicas > 0,
        accepts=lambda demand, candidate: (
            candidate.by_service.get(demand.service_id, 0) < demand.max_replicas
        ),
        explain=lambda count: "max replicas per node limit exceed",
        changes_with_placements=True,
    ),
)


def explanation(turned_away: dict[str, int]) -> str:
    """Why no node is left, the filter that turned most nodes away first."""
    if not turned_away:
        return "no suitable node (no node has joined the cluster)"
    order = [step.name for step in PIPELINE]
    worst = sorted(turned_away, key=lambda name: (-turned_away[name], order.index(name)))
    by_name = {step.name: step for step in PIPELINE}
    reasons = "; ".join(by_name[name].explain(turned_away[name]) for name in worst)
    return f"no suitable node ({reasons})"
