"""Which node, and why none: SwarmKit's scheduler cases, with Swarm's words."""

import pytest

from essaim_master.control.scheduler.constraints import parse_constraints
from essaim_shared.container_spec import ContainerSpec
from essaim_shared.errors import InvalidRequest
from essaim_shared.spec import Placement, Platform
from essaim_shared.task_state import TaskState

GIB = 1024**3


def reasons(world, service_id):
    return {world.reason(task) for task in world.wanted(service_id) if task.node_id is None}


def test_tasks_are_spread_over_the_nodes(world):
    web = world.create(replicas=7)
    world.settle()
    assert sorted(world.spread(web).values()) == [2, 2, 3]


def test_spread_of_the_service_comes_before_the_load_of_the_node(world):
    world.set_node("n2", availability="drain")
    world.set_node("n3", availability="drain")
    world.create("big", replicas=10)
    world.settle()
    world.set_node("n2", availability="active")
    world.set_node("n3", availability="active")
    web = world.create("web", replicas=3)
    world.settle()
    assert world.spread(web) == {"n1": 1, "n2": 1, "n3": 1}


def test_of_nodes_equal_for_the_service_the_emptiest_is_taken(world):
    world.set_node("n3", availability="pause")
    world.create("other", replicas=4)
    world.settle()
    world.set_node("n3", availability="active")
    web = world.create("web", replicas=1)
    world.settle()
    assert world.spread(web) == {"n3": 1}


def test_ended_tasks_weigh_nothing(world):
    web = world.create(replicas=3)
    world.converge()
    (task,) = [task for task in world.tasks(web) if task.node_id == "n2"]
    world.report(task.id, TaskState.COMPLETE)
    world.settle()
    (replacement,) = [t for t in world.wanted(web) if t.slot == task.slot]
    assert replacement.node_id == "n2"


def test_without_nodes(make_world):
    world = make_world()
    web = world.create()
    world.settle()
    assert reasons(world, web) == {"no suitable node (no node has joined the cluster)"}
    (task,) = world.tasks(web)
    assert world.state.observed(task.id) is TaskState.PENDING


def test_reason_is_written_once_and_goes_when_the_task_is_placed(world):
    web = world.create(replicas=2, constraints=("node.labels.disk == ssd",))
    world.settle()
    expected = "no suitable node (scheduling constraints not satisfied on 3 nodes)"
    assert reasons(world, web) == {expected}
    assert world.full_pass() == 0
    world.set_node("n2", labels={"disk": "ssd"})
    world.settle()
    assert world.spread(web) == {"n2": 2}
    assert reasons(world, web) == set()
    assert {world.state.observed(task.id) for task in world.tasks(web)} == {TaskState.ASSIGNED}
    assert {world.reason(task) for task in world.tasks(web)} == {""}


def test_worst_reason_comes_first(world):
    world.add_node("n4", cpus=1)
    world.set_node("n1", availability="drain")
    world.create("filler", replicas=1, cpus=3, constraints=("node.id==n3",))
    world.settle()
    web = world.create("web", cpus=2, constraints=("node.hostname==elsewhere",))
    world.settle()
    (reason,) = reasons(world, web)
    assert reason == (
        "no suitable node (insufficient resources on 2 nodes; "
        "1 node not available for new tasks; scheduling constraints not satisfied on 1 node)"
    )


def test_reservations_fill_the_nodes_and_are_freed(world):
    web = world.create(replicas=8, cpus=2, memory=GIB)
    world.settle()
    assert sorted(world.spread(web).values()) == [2, 2, 2, 2]
    assert world.spread(web)["None"] == 2
    assert reasons(world, web) == {"no suitable node (insufficient resources on 3 nodes)"}
    assert world.full_pass() == 0
    world.agents_obey()
    running = [task for task in world.wanted(web) if task.node_id == "n1"]
    world.report(running[0].id, TaskState.COMPLETE)
    world.settle()
    # One of the waiting ones or the replacement has the free place; two still wait.
    assert world.spread(web)["None"] == 2


def test_memory_is_looked_at_too(world):
    web = world.create(memory=9 * GIB)
    world.settle()
    assert reasons(world, web) == {"no suitable node (insufficient resources on 3 nodes)"}


def test_max_replicas_per_node(world):
    web = world.create(replicas=5, max_replicas=1)
    world.settle()
    assert world.spread(web) == {"n1": 1, "n2": 1, "n3": 1, "None": 2}
    assert reasons(world, web) == {"no suitable node (max replicas per node limit exceed)"}
    world.add_node("n4")
    world.settle()
    assert world.spread(web) == {"n1": 1, "n2": 1, "n3": 1, "n4": 1, "None": 1}


def test_tasks_being_stopped_hold_their_reservation(world):
    web = world.create("web", replicas=3, cpus=3)
    world.converge()
    world.remove(web)
    api = world.create("api", replicas=3, cpus=3)
    world.settle()
    assert world.spread(api) == {"None": 3}
    world.converge()
    assert len(world.running(api)) == 3


@pytest.mark.parametrize(
    ("constraint", "nodes"),
    [
        ("node.id==n1", {"n1"}),
        ("node.id != n1", {"n2", "n3"}),
        ("node.hostname==N2", {"n2"}),
        ("node.ip==192.168.0.1", {"n1"}),
        ("node.ip==192.168.0.0/31", {"n1"}),
        ("node.ip!=192.168.0.0/31", {"n2", "n3"}),
        ("node.ip==nonsense", set()),
        ("node.role==manager", {"n3"}),
        ("node.role!=manager", {"n1", "n2"}),
        ("node.platform.os==linux", {"n1", "n2", "n3"}),
        ("node.platform.arch==amd64", {"n1", "n2", "n3"}),
        ("node.labels.zone==A", {"n1"}),
        ("node.labels.zone!=a", {"n2", "n3"}),
        ("node.labels.none==x", set()),
        ("engine.labels.gpu==yes", {"n4"}),
        ("node.colour==red", set()),
        ("node.colour!=red", set()),
    ],
)
def test_constraints(world, constraint, nodes):
    world.set_node("n1", labels={"zone": "a"})
    world.add_master("m1", "192.168.0.3")
    if "engine" in constraint:
        world.add_node("n4", engine_labels={"gpu": "yes"})
    web = world.create(replicas=6, constraints=(constraint,))
    world.settle()
    assert set(world.spread(web)) - {"None"} == nodes


def test_a_role_follows_from_where_masters_run_not_from_what_a_client_wrote(world):
    world.set_node("n1", role="manager")
    web = world.create(replicas=2, constraints=("node.role==manager",))
    world.settle()
    assert world.spread(web) == {"None": 2}
    world.add_master("m2", "192.168.0.2")
    world.settle()
    assert world.spread(web) == {"n2": 2}, "the new master's host is looked at at once"


def test_the_host_of_a_removed_master_is_a_worker(world):
    world.add_master("m1", "192.168.0.1", removed_ns=9)
    world.add_master("m3", "192.168.0.3")
    web = world.create(replicas=2, constraints=("node.role==manager",))
    world.settle()
    assert world.spread(web) == {"n3": 2}


def test_all_constraints_must_hold(world):
    world.set_node("n1", labels={"a": "1", "b": "1"})
    world.set_node("n2", labels={"a": "1"})
    constraints = ("node.labels.a==1", "node.labels.b==1")
    web = world.create(replicas=2, constraints=constraints)
    world.settle()
    assert world.spread(web) == {"n1": 2}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("node.id", "constraint expected one operator from ==, !="),
        ("node.id>3", "constraint expected one operator from ==, !="),
        ("==n1", "constraint key '' is invalid"),
        ("no de==n1", "constraint key 'no de' is invalid"),
        ("node.id==", "constraint value '' is invalid"),
        ("node.id==a;b", "constraint value 'a;b' is invalid"),
    ],
)
def test_unreadable_constraint(world, text, words):
    with pytest.raises(InvalidRequest) as refusal:
        parse_constraints([text])
    assert str(refusal.value) == words
    web = world.create(constraints=(text,))
    world.settle()
    assert reasons(world, web) == {words}


@pytest.mark.parametrize(
    ("platforms", "is_placed"),
    [
        ((Platform(architecture="amd64", os="linux"),), True),
        ((Platform(architecture="arm64"), Platform(architecture="x86_64")), True),
        ((Platform(os="linux"),), True),
        ((Platform(architecture="arm64", os="linux"),), False),
        ((Platform(os="windows"),), False),
    ],
)
def test_platforms(world, platforms, is_placed):
    web = world.create()
    world.update(web, placement=Placement(platforms=platforms))
    world.settle()
    expected = set() if is_placed else {"no suitable node (unsupported platform on 3 nodes)"}
    assert reasons(world, web) == expected


@pytest.mark.parametrize("state", ["down", "unknown"])
def test_node_that_is_not_ready_gets_nothing(world, state):
    world.set_node_state("n1", state)
    web = world.create(replicas=4)
    world.settle()
    assert world.spread(web) == {"n2": 2, "n3": 2}


def test_many_waiting_tasks_are_explained_in_bounded_slices(make_world):
    world = make_world(limit=20)
    world.add_node("n1")
    web = world.create(replicas=500, constraints=("node.id==n9",))
    sizes = []
    while world.worklist:
        sizes.append(world.slice())
    assert max(sizes) <= 20 * 4
    expected = "no suitable node (scheduling constraints not satisfied on 1 node)"
    assert reasons(world, web) == {expected}
    world.add_node("n9")
    sizes.clear()
    while world.worklist:
        sizes.append(world.slice())
    assert max(sizes) <= 20 * 4
    assert len([t for t in world.tasks(web) if t.node_id == "n9"]) == 253
    assert reasons(world, web) == {"no free address on network default (10.1.0.0/24)"}


def test_task_too_large_for_the_bus_stays_pending(world):
    web = world.create()
    world.update(web, container=ContainerSpec(image="img", env=("X=" + "x" * 600_000,)))
    world.settle()
    (reason,) = reasons(world, web)
    assert reason.endswith("bytes is over the bus' limit of 524288")
    world.update(web, container=ContainerSpec(image="img"))
    world.converge()
    assert len(world.running(web)) == 1
