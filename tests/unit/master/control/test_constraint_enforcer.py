"""What a change of a node does to the tasks on it: SwarmKit's enforcer, and orphans."""

import msgspec
import pytest

from essaim_master.control.constraint_enforcer import UNFIT_REASON
from essaim_master.control.node_upkeep import ORPHANED_AFTER_NS
from essaim_shared.spec import (
    GenericResource,
    GlobalMode,
    NamedResource,
    Reservations,
    Resources,
    RestartPolicy,
    ServiceMode,
)
from essaim_shared.task_state import TaskState

DAY_S = ORPHANED_AFTER_NS / 1e9


def stopped(world, service_id):
    """Tasks that the enforcer has ordered to stop."""
    return [task for task in world.tasks(service_id) if task.stop_reason == UNFIT_REASON]


def describe(world, name, **changes):
    before = world.state.node_status[name].description
    world.describe_node(name, msgspec.structs.replace(before, **changes))


@pytest.fixture
def labelled(world):
    world.set_node("n1", labels={"disk": "ssd"})
    world.set_node("n2", labels={"disk": "ssd"})
    return world


def test_a_label_that_changes_moves_the_tasks_off(labelled):
    world = labelled
    web = world.create(replicas=2, constraints=("node.labels.disk==ssd",))
    world.converge()
    assert world.spread(web) == {"n1": 1, "n2": 1}
    world.set_node("n1", labels={"disk": "hdd"})
    world.settle()
    (task,) = stopped(world, web)
    assert (task.node_id, task.desired_state) == ("n1", TaskState.SHUTDOWN)
    assert len(world.wanted(web)) == 1, "its replacement waits until it has stopped"
    world.converge()
    assert world.spread(web) == {"n2": 2}
    assert len(world.running(web)) == 2


def test_tasks_without_that_constraint_stay(labelled):
    world = labelled
    world.create(replicas=2, constraints=("node.labels.disk==ssd",))
    other = world.create("other", replicas=3)
    world.converge()
    world.set_node("n1", labels={})
    world.converge()
    assert world.spread(other) == {"n1": 1, "n2": 1, "n3": 1}
    assert stopped(world, other) == []


@pytest.mark.parametrize("availability", ["pause", "drain"])
def test_only_active_nodes_are_looked_at(labelled, availability):
    """Swarm leaves a paused node alone; a drained one gives up everything anyway."""
    world = labelled
    web = world.create(replicas=2, constraints=("node.labels.disk==ssd",))
    world.converge()
    world.set_node("n1", availability=availability, labels={})
    world.converge()
    assert stopped(world, web) == []
    assert world.spread(web) == ({"n1": 1, "n2": 1} if availability == "pause" else {"n2": 2})
    world.set_node("n1", availability="active")
    world.converge()
    assert world.spread(web) == {"n2": 2}


def test_resources_that_shrank_leave_room_for_those_that_came_first(world):
    web = world.create(replicas=6, cpus=2)
    world.converge()
    on_n1 = [task for task in world.running(web) if task.node_id == "n1"]
    first = min(on_n1, key=lambda task: (task.created_ns, task.id))
    describe(world, "n1", nano_cpus=3 * 10**9)
    world.settle()
    (task,) = stopped(world, web)
    assert task in [t for t in world.tasks(web) if t.node_id == "n1"]
    assert task.id != first.id
    world.converge()
    assert world.spread(web) == {"n1": 1, "n2": 2, "n3": 2, "None": 1}


def test_memory_is_looked_at_too(world):
    web = world.create(memory=1024**3, constraints=("node.hostname!=n9",))
    world.converge()
    (task,) = world.running(web)
    describe(world, task.node_id, memory_bytes=1024**2)
    world.converge()
    (moved,) = world.running(web)
    assert moved.node_id != task.node_id


def test_a_unit_that_a_node_has_no_more_moves_its_task_off(world):
    def gpus(*names):
        return tuple(
            GenericResource(named=NamedResource(kind="gpu", resource_value=n)) for n in names
        )

    describe(world, "n1", generic_resources=gpus("A", "B"))
    describe(world, "n2", generic_resources=gpus("C"))
    wanted = GenericResource(named=NamedResource(kind="gpu", resource_value="any"))
    web = world.create(replicas=2)
    resources = Resources(reservations=Reservations(generic_resources=(wanted,)))
    world.update(web, resources=resources)
    world.converge()
    assert world.spread(web) == {"n1": 1, "n2": 1}
    describe(world, "n2", generic_resources=())
    world.converge()
    assert world.spread(web) == {"n1": 2}


def test_a_role_that_changes_moves_tasks_off(world):
    world.add_master("m1", "192.168.0.1")
    web = world.create(constraints=("node.role==manager",))
    world.converge()
    assert world.spread(web) == {"n1": 1}
    world.add_master("m2", "192.168.0.2")
    world.add_master("m1", "192.168.0.1", removed_ns=9)
    world.converge()
    assert world.spread(web) == {"n2": 1}


def test_a_task_of_a_global_service_is_not_made_again(labelled):
    world = labelled
    web = world.create(constraints=("node.labels.disk==ssd",))
    service = world.state.services[web]
    spec = msgspec.structs.replace(service.spec, mode=ServiceMode(global_=GlobalMode()))
    world.put(msgspec.structs.replace(service, spec=spec))
    world.converge()
    assert world.spread(web) == {"n1": 1, "n2": 1}
    world.set_node("n1", labels={})
    world.converge()
    assert world.spread(web) == {"n2": 1}


def test_what_must_run_at_most_once_is_stopped_and_not_run_again(labelled):
    world = labelled
    web = world.create(
        constraints=("node.labels.disk==ssd",), restart=RestartPolicy(condition="none")
    )
    world.converge()
    (task,) = world.running(web)
    world.set_node(task.node_id, labels={})
    world.converge()
    assert world.running(web) == []


def test_a_new_leader_finds_what_changed_while_nobody_led(labelled):
    world = labelled
    web = world.create(replicas=2, constraints=("node.labels.disk==ssd",))
    world.converge()
    world.state._subscribers.clear()
    world.set_node("n1", labels={})
    world.elect()
    world.state.subscribe(lambda applied: world.worklist.note(applied))
    world.converge()
    assert world.spread(web) == {"n2": 2}


def test_looking_again_changes_nothing(labelled):
    world = labelled
    world.create(replicas=2, constraints=("node.labels.disk==ssd",))
    world.converge()
    world.set_node("n1", labels={})
    world.converge()
    assert world.full_pass() == 0


def test_many_nodes_are_looked_at_in_bounded_slices(make_world):
    world = make_world(limit=20, subnet="10.1.0.0/16")
    for i in range(30):
        world.add_node(f"n{i}", {"disk": "ssd"}, cpus=99)
    web = world.create(replicas=300, constraints=("node.labels.disk==ssd",))
    world.settle()
    world.agents_obey()
    world.settle()
    for i in range(15):
        world.set_node(f"n{i}", labels={})
    sizes = []
    while world.worklist:
        sizes.append(world.slice())
    assert max(sizes) <= 4 * 20
    assert len(stopped(world, web)) == 150


# Orphans.


def test_tasks_of_a_node_that_is_down_for_a_day_are_orphaned(world):
    web = world.create(replicas=3)
    world.converge()
    (lost,) = [task for task in world.running(web) if task.node_id == "n1"]
    world.set_node_state("n1", "down")
    world.converge()
    assert world.state.observed(lost.id) is TaskState.RUNNING, "it may well run"
    world.advance(DAY_S - 1)
    world.settle()
    assert world.state.observed(lost.id) is TaskState.RUNNING
    world.advance(2)
    world.settle()
    status = world.state.task_status[lost.id]
    assert status.state is TaskState.ORPHANED
    assert status.err == "the task's node has been down for 24 hours"
    assert world.full_pass() == 0


def test_the_address_and_the_units_of_an_orphan_are_free(make_world):
    world = make_world(subnet="10.1.0.0/29")
    for name in ("n1", "n2"):
        world.add_node(name)
    world.create(replicas=2)
    world.converge()
    world.set_node_state("n1", "down")
    world.converge()
    assert world.worklist.index.loads["n1"].nano_cpus == 0
    held = sum(world.worklist.index.is_holding(t) for t in world.state.tasks_on_node("n1"))
    assert held == 1
    world.advance(DAY_S + 1)
    world.settle()
    assert not any(world.worklist.index.is_holding(t) for t in world.state.tasks_on_node("n1"))


def test_a_node_that_comes_back_in_time_orphans_nothing(world):
    web = world.create(replicas=3)
    world.converge()
    world.set_node_state("n1", "down")
    world.converge()
    world.advance(DAY_S - 1)
    world.set_node_state("n1", "ready")
    world.converge()
    world.advance(DAY_S)
    world.settle()
    assert not any(world.state.observed(task.id) is TaskState.ORPHANED for task in world.tasks(web))


def test_the_time_counts_through_a_change_of_leader(world):
    web = world.create(replicas=3)
    world.converge()
    world.set_node_state("n1", "down")
    world.converge()
    world.advance(DAY_S / 2)
    world.elect()
    world.settle()
    world.advance(DAY_S / 2 + 1)
    world.settle()
    assert [t for t in world.tasks(web) if world.state.observed(t.id) is TaskState.ORPHANED]
