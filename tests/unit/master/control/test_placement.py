"""What a task may ask of its node beside CPU and memory: SwarmKit's cases, with Swarm's words."""

from collections import Counter

import msgspec
import pytest

from essaim_shared.container_spec import ContainerSpec, Mount, MountDriver, VolumeOptions
from essaim_shared.ids import ServiceId
from essaim_shared.objects import EnginePlugin, Service
from essaim_shared.spec import (
    DiscreteResource,
    EndpointSpec,
    GenericResource,
    GlobalMode,
    LogDriver,
    NamedResource,
    Placement,
    PlacementPreference,
    PortConfig,
    ReplicatedMode,
    Reservations,
    Resources,
    RestartPolicy,
    ServiceMode,
    ServiceSpec,
    Spread,
    TaskSpec,
)
from essaim_shared.task_state import TaskState


def create(world, name="web", replicas=1, ports=(), is_global=False, image="img", **task):
    service_id = ServiceId(f"service-{name}")
    mounts = task.pop("mounts", ())
    mode = (
        ServiceMode(global_=GlobalMode())
        if is_global
        else ServiceMode(replicated=ReplicatedMode(replicas=replicas))
    )
    spec = ServiceSpec(
        name=name,
        task=TaskSpec(container=ContainerSpec(image=image, mounts=mounts), **task),
        mode=mode,
        endpoint=EndpointSpec(ports=ports) if ports else None,
    )
    world.put(Service(id=service_id, spec=spec, created_ns=world.now_ns, updated_ns=world.now_ns))
    return service_id


def reasons(world, service_id):
    return {world.reason(task) for task in world.wanted(service_id) if task.node_id is None}


# Generic resources.


def named(kind, *names):
    return tuple(
        GenericResource(named=NamedResource(kind=kind, resource_value=name)) for name in names
    )


def counted(kind, number):
    return (GenericResource(discrete=DiscreteResource(kind=kind, resource_value=number)),)


def reserve(kind, number):
    return Resources(reservations=Reservations(generic_resources=counted(kind, number)))


def units_of(task):
    return [
        unit.named.resource_value if unit.named else unit.discrete.resource_value
        for unit in task.generic_resources
    ]


def test_named_units_are_given_one_by_one_and_never_twice(world):
    world.add_node("gpu", generic_resources=named("gpu", "A", "B", "C"))
    web = create(world, replicas=2, resources=reserve("gpu", 1))
    world.settle()
    assert sorted(units_of(task)[0] for task in world.wanted(web)) == ["A", "B"]
    api = create(world, "api", replicas=2, resources=reserve("gpu", 1))
    world.settle()
    assert [units_of(task) for task in world.wanted(api) if task.node_id] == [["C"]]
    assert reasons(world, api) == {"no suitable node (insufficient resources on 4 nodes)"}


def test_a_unit_comes_back_when_its_task_has_really_stopped(world):
    world.add_node("gpu", generic_resources=named("gpu", "A"))
    web = create(world, "web", resources=reserve("gpu", 1))
    world.converge()
    world.remove(web)
    api = create(world, "api", resources=reserve("gpu", 1))
    world.settle()
    assert len(reasons(world, api)) == 1, "the container still runs"
    world.converge()
    (task,) = world.running(api)
    assert units_of(task) == ["A"]


def test_counted_units_are_subtracted(world):
    world.add_node("n4", generic_resources=counted("ssd", 5))
    web = create(world, replicas=3, resources=reserve("ssd", 2))
    world.settle()
    assert world.spread(web) == {"n4": 2, "None": 1}
    assert [units_of(task) for task in world.wanted(web)] == [[2], [2], []]


def test_a_new_leader_knows_what_is_taken(world):
    world.add_node("gpu", generic_resources=named("gpu", "A", "B"))
    create(world, "web", resources=reserve("gpu", 1))
    world.converge()
    world.elect()
    api = create(world, "api", resources=reserve("gpu", 1))
    world.settle()
    (task,) = world.wanted(api)
    assert units_of(task) == ["B"]


# Plugins.


@pytest.mark.parametrize(
    ("announced", "task", "is_placed"),
    [
        ([("Volume", "local")], {"mounts": ("nfs",)}, False),
        ([("Volume", "nfs:latest")], {"mounts": ("nfs",)}, True),
        ([("Volume", "local")], {"mounts": ("local",)}, True),
        ([("Log", "json-file")], {"log_driver": LogDriver(name="fluentd")}, False),
        ([("Log", "fluentd")], {"log_driver": LogDriver(name="fluentd")}, True),
        ([("Log", "json-file")], {"log_driver": LogDriver(name="none")}, True),
        ([("Volume", "local")], {"log_driver": LogDriver(name="fluentd")}, True),
        ([], {"mounts": ("nfs",)}, True),
    ],
)
def test_drivers_must_be_on_the_node_unless_it_tells_none(make_world, announced, task, is_placed):
    world = make_world()
    world.add_node("n1", plugins=tuple(EnginePlugin(type=t, name=n) for t, n in announced))
    if "mounts" in task:
        options = [VolumeOptions(driver_config=MountDriver(name=name)) for name in task["mounts"]]
        task = {"mounts": tuple(Mount(target="/v", volume_options=each) for each in options)}
    web = create(world, **task)
    world.settle()
    expected = set() if is_placed else {"no suitable node (missing plugin on 1 node)"}
    assert reasons(world, web) == expected


# Ports of the node.


def port(published=0, protocol="tcp", mode="host"):
    return PortConfig(
        target_port=80, published_port=published, protocol=protocol, publish_mode=mode
    )


def published(world, service_id):
    return {
        str(task.node_id): [p.published_port for p in task.ports]
        for task in world.wanted(service_id)
    }


def test_a_port_of_a_node_goes_to_one_task(world):
    web = create(world, "web", replicas=4, ports=(port(8080),))
    world.settle()
    assert world.spread(web) == {"n1": 1, "n2": 1, "n3": 1, "None": 1}
    assert reasons(world, web) == {"no suitable node (host-mode port already in use on 3 nodes)"}
    udp = create(world, "udp", replicas=3, ports=(port(8080, "udp"),))
    other = create(world, "other", ports=(port(8080),))
    world.settle()
    assert reasons(world, udp) == set()
    assert len(reasons(world, other)) == 1
    world.remove(web)
    world.converge()
    assert len(world.running(other)) == 1


def test_an_open_port_is_chosen_on_each_node(world):
    web = create(world, replicas=6, ports=(port(), port(0, "udp"), port(443)))
    world.settle()
    assert world.spread(web) == {"n1": 1, "n2": 1, "n3": 1, "None": 3}
    for numbers in published(world, web).values():
        if numbers != [0, 0, 443]:
            assert 30_000 <= numbers[0] <= 32_767
            assert 30_000 <= numbers[1] <= 32_767


def test_an_open_port_that_turned_out_to_be_taken_is_not_chosen_again(make_world):
    """A process of the host may listen on it: the agent rejects the task."""
    world = make_world()
    world.add_node("n1")
    web = create(world, ports=(port(),), restart_policy=RestartPolicy(delay=0))
    world.settle()
    (first,) = world.wanted(web)
    world.report(first.id, TaskState.REJECTED, err="port 30000/tcp of this node is in use")
    world.settle()
    (second,) = world.wanted(web)
    assert [p.published_port for p in first.ports] == [30_000]
    assert [p.published_port for p in second.ports] == [30_001]


def test_open_ports_never_meet_those_that_were_named(make_world):
    world = make_world(subnet="10.1.0.0/16")
    world.add_node("n1", cpus=9999)
    create(world, "named", ports=(port(30_000), port(30_002)))
    world.settle()
    web = create(world, replicas=3, ports=(port(),))
    world.settle()
    chosen = sorted(task.ports[0].published_port for task in world.wanted(web))
    assert chosen == [30_003, 30_004, 30_005]


def test_ports_of_the_mesh_ask_nothing_of_a_node(world):
    web = create(world, replicas=4, ports=(port(8080, mode="ingress"),))
    world.settle()
    assert reasons(world, web) == set()


# Nodes that fail.


def fail_on(world, service_id, node_name, times):
    """The tasks of a service that come to a node fail there, so many of them."""
    for _ in range(times):
        (task,) = [t for t in world.wanted(service_id) if t.node_id == node_name]
        world.report(task.id, TaskState.FAILED, err="task: non-zero exit (1)")
        world.settle()
        world.advance(1)


def test_a_node_on_which_a_service_fails_again_and_again_comes_last(make_world):
    world = make_world()
    world.add_node("n1")
    quick = RestartPolicy(delay=0, backoff_max=1)
    web = create(world, restart_policy=quick)
    world.settle()
    fail_on(world, web, "n1", 4)
    world.add_node("n2")
    world.set_node("n2", availability="pause")
    fail_on(world, web, "n1", 1)
    world.set_node("n2", availability="active")
    create(world, "filler", replicas=2, placement=Placement(constraints=("node.id==n2",)))
    other = create(world, "other")
    world.settle()
    assert world.spread(other) == {"n1": 1}, "another service does not mind"
    (task,) = world.wanted(web)
    world.report(task.id, TaskState.FAILED)
    world.settle()
    assert world.spread(web) == {"n2": 1}, "though n2 has more tasks"


def test_failures_of_another_template_do_not_count(make_world):
    world = make_world()
    world.add_node("n1")
    web = create(world, restart_policy=RestartPolicy(delay=0, backoff_max=1))
    world.settle()
    fail_on(world, web, "n1", 5)
    world.add_node("n2")
    create(world, "filler", replicas=3, placement=Placement(constraints=("node.id==n2",)))
    world.settle()
    world.elect()
    world.settle()
    spread_before = world.worklist.index.claims.failures(web, 1, world.now_ns)
    assert spread_before == {"n1": 5}, "a new leader counts them too"
    assert world.worklist.index.claims.failures(web, 2, world.now_ns) == {}
    world.advance(301)
    assert world.worklist.index.claims.failures(web, 1, world.now_ns) == {}


# Preferences.


def spread_over(*keys):
    preferences = tuple(PlacementPreference(spread=Spread(spread_descriptor=k)) for k in keys)
    return Placement(preferences=preferences)


def zones(world, service_id, label):
    nodes = world.state.nodes
    return Counter(
        nodes[task.node_id].spec.labels.get(label, "") for task in world.wanted(service_id)
    )


def test_tasks_are_spread_over_the_values_of_a_label_not_over_the_nodes(make_world):
    world = make_world()
    for name, zone in (("n1", "a"), ("n2", "b"), ("n3", "b"), ("n4", "b")):
        world.add_node(name, {"zone": zone})
    web = create(world, replicas=6, placement=spread_over("node.labels.zone"))
    world.settle()
    assert zones(world, web, "zone") == {"a": 3, "b": 3}
    assert world.spread(web) == {"n1": 3, "n2": 1, "n3": 1, "n4": 1}


def test_nodes_without_the_label_are_a_branch_of_their_own(world):
    world.set_node("n1", labels={"zone": "a"})
    web = create(world, replicas=4, placement=spread_over("node.labels.zone"))
    world.settle()
    assert zones(world, web, "zone") == {"a": 2, "": 2}


def test_a_second_preference_spreads_within_the_first(make_world):
    world = make_world()
    racks = {"n1": ("a", "1"), "n2": ("a", "2"), "n3": ("a", "2"), "n4": ("b", "1")}
    for name, (zone, rack) in racks.items():
        world.add_node(name, {"zone": zone, "rack": rack})
    web = create(world, replicas=8, placement=spread_over("node.labels.zone", "node.labels.rack"))
    world.settle()
    assert world.spread(web) == {"n1": 2, "n2": 1, "n3": 1, "n4": 4}


def test_scaling_up_brings_the_branches_level(make_world):
    world = make_world()
    world.add_node("n1", {"zone": "a"})
    web = create(world, replicas=3, placement=spread_over("node.labels.zone"))
    world.settle()
    world.add_node("n2", {"zone": "b"})
    world.scale(web, 6)
    world.settle()
    assert zones(world, web, "zone") == {"a": 3, "b": 3}


def test_a_branch_without_room_leaves_its_share_to_the_others(make_world):
    world = make_world()
    world.add_node("n1", {"zone": "a"}, cpus=1)
    world.add_node("n2", {"zone": "b"}, cpus=9)
    resources = Resources(reservations=Reservations(nano_cpus=10**9))
    web = create(world, replicas=11, resources=resources, placement=spread_over("node.labels.zone"))
    world.settle()
    assert world.spread(web) == {"n1": 1, "n2": 9, "None": 1}
    assert reasons(world, web) == {"no suitable node (insufficient resources on 2 nodes)"}


def test_a_drained_branch_takes_nothing_and_its_tasks_still_count(make_world):
    world = make_world()
    for name, zone in (("n1", "a"), ("n2", "a"), ("n3", "b")):
        world.add_node(name, {"zone": zone})
    web = create(world, replicas=4, placement=spread_over("node.labels.zone"))
    world.settle()
    world.set_node("n1", availability="pause")
    world.scale(web, 6)
    world.settle()
    assert zones(world, web, "zone") == {"a": 3, "b": 3}


def test_services_of_one_task_do_not_all_meet_in_the_first_branch(make_world):
    world = make_world()
    for name, zone in (("n1", "a"), ("n2", "b"), ("n3", "c")):
        world.add_node(name, {"zone": zone})
    ids = [create(world, f"web{i}", placement=spread_over("node.labels.zone")) for i in range(9)]
    world.settle()
    per_node = Counter(world.wanted(service_id)[0].node_id for service_id in ids)
    assert per_node == {"n1": 3, "n2": 3, "n3": 3}


# Tasks that are bound to a node.


def test_a_global_service_asks_each_node_for_itself(world):
    world.add_node("small", cpus=1)
    resources = Resources(reservations=Reservations(nano_cpus=2 * 10**9))
    web = create(world, is_global=True, resources=resources)
    world.settle()
    by_target = {task.target_node: task for task in world.wanted(web)}
    assert {name for name, task in by_target.items() if task.node_id == name} == {"n1", "n2", "n3"}
    assert world.reason(by_target["small"]) == (
        "no suitable node (insufficient resources on 1 node)"
    )
    description = msgspec.structs.replace(
        world.state.node_status["small"].description, nano_cpus=8 * 10**9
    )
    world.describe_node("small", description)
    world.settle()
    assert len([task for task in world.wanted(web) if task.node_id]) == 4


def test_a_global_service_with_a_port_has_it_on_every_node(world):
    web = create(world, is_global=True, ports=(port(9100),))
    world.settle()
    assert published(world, web) == {"n1": [9100], "n2": [9100], "n3": [9100]}
