"""Whatever nodes there are and whatever is asked: no placement breaks a rule."""

from collections import Counter

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from essaim_master.control.scheduler.constraints import is_satisfied, parse_constraints
from essaim_master.control.scheduler.filters import Demand
from essaim_master.control.scheduler.ranking import Ranking
from essaim_master.control.scheduler.scheduler import candidates_of, place
from essaim_shared.container_spec import ContainerSpec
from essaim_shared.ids import ServiceId
from essaim_shared.objects import Service
from essaim_shared.spec import (
    DiscreteResource,
    EndpointSpec,
    GenericResource,
    NamedResource,
    Placement,
    PlacementPreference,
    PortConfig,
    ReplicatedMode,
    Reservations,
    Resources,
    ServiceMode,
    ServiceSpec,
    Spread,
    TaskSpec,
)

ZONES = ("a", "b", "c")
NODES_MAX = 6
EXAMPLES = 150

nodes = st.lists(
    st.fixed_dictionaries(
        {
            "zone": st.sampled_from((*ZONES, "")),
            "cpus": st.integers(1, 6),
            "gpus": st.integers(0, 3),
            "ssds": st.integers(0, 3),
            "availability": st.sampled_from(("active", "active", "active", "pause", "drain")),
        }
    ),
    min_size=1,
    max_size=NODES_MAX,
)
services = st.lists(
    st.fixed_dictionaries(
        {
            "replicas": st.integers(1, 12),
            "cpus": st.integers(0, 2),
            "gpus": st.integers(0, 2),
            "ssds": st.integers(0, 2),
            "ports": st.sampled_from(((), (8080,), (0,), (8080, 0))),
            "max_replicas": st.integers(0, 2),
            "constraint": st.sampled_from(
                ((), ("node.labels.zone==a",), ("node.labels.zone!=b",), ("node.id!=n0",))
            ),
            "spread": st.booleans(),
        }
    ),
    min_size=1,
    max_size=5,
)


def counted(kind, number):
    return GenericResource(discrete=DiscreteResource(kind=kind, resource_value=number))


def named(kind, name):
    return GenericResource(named=NamedResource(kind=kind, resource_value=name))


def add_node(world, number, facts):
    name = f"n{number}"
    units = [named("gpu", f"{name}-gpu{i}") for i in range(facts["gpus"])]
    if facts["ssds"]:
        units.append(counted("ssd", facts["ssds"]))
    labels = {"zone": facts["zone"]} if facts["zone"] else {}
    world.add_node(name, labels, cpus=facts["cpus"], generic_resources=tuple(units))
    world.set_node(name, availability=facts["availability"])


def spec_of(name, asked):
    wanted = [counted(kind, asked[f"{kind}s"]) for kind in ("gpu", "ssd") if asked[f"{kind}s"]]
    reservations = Reservations(nano_cpus=asked["cpus"] * 10**9, generic_resources=tuple(wanted))
    preference = PlacementPreference(spread=Spread(spread_descriptor="node.labels.zone"))
    return ServiceSpec(
        name=name,
        task=TaskSpec(
            container=ContainerSpec(image="img"),
            resources=Resources(reservations=reservations),
            placement=Placement(
                constraints=asked["constraint"],
                max_replicas=asked["max_replicas"],
                preferences=(preference,) if asked["spread"] else (),
            ),
        ),
        mode=ServiceMode(replicated=ReplicatedMode(replicas=asked["replicas"])),
        endpoint=EndpointSpec(
            ports=tuple(
                PortConfig(target_port=80 + i, published_port=number, publish_mode="host")
                for i, number in enumerate(asked["ports"])
            )
        ),
    )


def create(world, name, spec):
    service_id = ServiceId(name)
    world.put(Service(id=service_id, spec=spec, created_ns=world.now_ns, updated_ns=world.now_ns))
    return service_id


@given(nodes, services)
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    print_blob=True,
)
def test_no_placement_breaks_a_rule_and_nothing_that_fits_is_left_waiting(make_world, facts, asked):
    world = make_world()
    for number, fact in enumerate(facts):
        add_node(world, number, fact)
    for number, ask in enumerate(asked):
        create(world, f"s{number}", spec_of(f"s{number}", ask))
        world.settle()
    for node_id, node in world.state.nodes.items():
        check_node(world, node_id, node)
    waiting = [task for task in world.state.tasks.values() if task.node_id is None]
    assert all(world.reason(task).startswith("no suitable node (") for task in waiting)
    for task in waiting:
        for node_id in world.state.nodes:
            assert not would_fit(world, task, node_id), f"{task.name} fits {node_id}"


def check_node(world, node_id, node):
    status = world.state.node_status[node_id]
    tasks = list(world.state.tasks_on_node(node_id).values())
    if node.spec.availability != "active":
        assert tasks == []
    description = status.description
    assert sum(t.spec.resources.reservations.nano_cpus for t in tasks) <= description.nano_cpus
    units = [unit for task in tasks for unit in task.generic_resources]
    names = [unit.named.resource_value for unit in units if unit.named]
    announced = description.generic_resources
    assert len(names) == len(set(names)), "one unit given twice"
    assert set(names) <= {unit.named.resource_value for unit in announced if unit.named}
    has = sum(unit.discrete.resource_value for unit in announced if unit.discrete)
    assert sum(unit.discrete.resource_value for unit in units if unit.discrete) <= has
    ports = [port.published_port for task in tasks for port in task.ports]
    assert 0 not in ports
    assert len(ports) == len(set(ports)), "one port given twice"
    for task in tasks:
        placement = task.spec.placement
        for constraint in parse_constraints(placement.constraints):
            assert is_satisfied(constraint, node, status, "worker")
        same = sum(1 for other in tasks if other.service_id == task.service_id)
        assert not placement.max_replicas or same <= placement.max_replicas
        reserved = task.spec.resources.reservations.generic_resources
        assert Counter(kinds(task.generic_resources)) == Counter(kinds(reserved))


def kinds(units):
    for unit in units:
        if unit.named:
            yield unit.named.kind
        else:
            yield from [unit.discrete.kind] * unit.discrete.resource_value


def would_fit(world, task, node_id):
    """Asked independently of the scheduler's filters."""
    node, status = world.state.nodes[node_id], world.state.node_status[node_id]
    tasks = list(world.state.tasks_on_node(node_id).values())
    placement, reserved = task.spec.placement, task.spec.resources.reservations
    used_cpus = sum(t.spec.resources.reservations.nano_cpus for t in tasks)
    free = Counter(kinds(status.description.generic_resources))
    free.subtract(Counter(kind for t in tasks for kind in kinds(t.generic_resources)))
    needed = Counter(kinds(reserved.generic_resources))
    same = sum(1 for other in tasks if other.service_id == task.service_id)
    ports = {port.published_port for t in tasks for port in t.ports}
    return (
        node.spec.availability == "active"
        and used_cpus + reserved.nano_cpus <= status.description.nano_cpus
        and all(free[kind] >= number for kind, number in needed.items())
        and not any(port.published_port in ports for port in task.ports if port.published_port)
        and all(
            is_satisfied(c, node, status, "worker")
            for c in parse_constraints(placement.constraints)
        )
        and (not placement.max_replicas or same < placement.max_replicas)
    )


@given(
    st.lists(st.sampled_from((*ZONES, "")), min_size=1, max_size=NODES_MAX),
    st.lists(st.integers(1, 9), min_size=1, max_size=4),
)
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    print_blob=True,
)
def test_branches_differ_by_at_most_one_as_a_service_grows(make_world, zones, steps):
    world = make_world()
    for number, zone in enumerate(zones):
        world.add_node(f"n{number}", {"zone": zone} if zone else {})
    preference = PlacementPreference(spread=Spread(spread_descriptor="node.labels.zone"))
    spec = ServiceSpec(
        name="web",
        task=TaskSpec(
            container=ContainerSpec(image="img"), placement=Placement(preferences=(preference,))
        ),
        mode=ServiceMode(replicated=ReplicatedMode(replicas=0)),
    )
    web = create(world, "web", spec)
    replicas = 0
    for step in steps:
        replicas += step
        world.scale(web, replicas)
        world.settle()
        per_zone = Counter(dict.fromkeys(zones, 0))
        per_node = Counter(dict.fromkeys(world.state.nodes, 0))
        for task in world.wanted(web):
            per_zone[world.state.nodes[task.node_id].spec.labels.get("zone", "")] += 1
            per_node[task.node_id] += 1
        assert max(per_zone.values()) - min(per_zone.values()) <= 1
        for zone in zones:
            inside = [per_node[f"n{i}"] for i, found in enumerate(zones) if found == zone]
            assert max(inside) - min(inside) <= 1


@given(nodes, st.lists(st.tuples(st.integers(0, 3), st.integers(1, 8)), min_size=1, max_size=12))
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    print_blob=True,
)
def test_the_short_way_chooses_as_the_long_one(make_world, facts, groups):
    world = make_world()
    for number, fact in enumerate(facts):
        add_node(world, number, fact)
    index = world.worklist.index
    shortly = candidates_of(world.state, index.loads, index.claims)
    longly = candidates_of(world.state, index.loads, index.claims)
    ranking = Ranking(shortly)
    for service, count in groups:
        demand = Demand(service_id=ServiceId(f"s{service}"), nano_cpus=service * 10**9)
        short = place(demand, count, shortly, ranking)
        long = place(demand, count, longly)
        assert short.places == long.places
        assert bool(short.reason) == bool(long.reason)
