"""Tasks on several networks: an address on each, in the order of the spec, or none at all."""

import pytest

from essaim_shared.objects import Network
from essaim_shared.task_state import TaskState


def places_of(task):
    return [(each.network_id, each.address) for each in task.attachments]


def networks_of(task):
    return tuple(each.network_id for each in task.attachments)


@pytest.fixture
def wired(world):
    """Three nodes, the default network and two more."""
    world.add_network("front", "10.2.0.0/24")
    world.add_network("back", "10.3.0.0/24")
    return world


def test_a_task_has_a_place_on_each_network_in_the_order_of_the_spec(wired):
    web = wired.create(networks=("back", "front"))
    wired.settle()
    (task,) = wired.wanted(web)
    assert places_of(task) == [("back", "10.3.0.1"), ("front", "10.2.0.1")]


def test_the_node_gets_an_address_of_its_own_on_each_of_them(wired):
    wired.create(networks=("front", "back"))
    wired.settle()
    gateways = {(g.network_id, g.node_id): g.address for g in wired.state.gateways.values()}
    assert gateways == {("front", "n1"): "10.2.0.2", ("back", "n1"): "10.3.0.2"}


def test_without_networks_it_is_on_the_default_one(wired):
    web = wired.create()
    wired.settle()
    (task,) = wired.wanted(web)
    assert networks_of(task) == (wired.network_id,)


def test_on_the_nodes_own_network_it_has_no_place_at_all(wired):
    wired.put(Network(id="host-id", name="host", driver="host", created_ns=1))
    web = wired.create(networks=("host-id",))
    wired.settle()
    (task,) = wired.wanted(web)
    assert task.node_id == "n1"
    assert task.attachments == ()
    assert not wired.state.gateways


def test_a_network_named_twice_is_one(wired):
    web = wired.create(networks=("front", "front"))
    wired.settle()
    (task,) = wired.wanted(web)
    assert networks_of(task) == ("front",)


def test_gateways_go_with_the_last_task_of_each_network(wired):
    both = wired.create("both", networks=("front", "back"), constraints=("node.id==n1",))
    one = wired.create("one", networks=("front",), constraints=("node.id==n1",))
    wired.converge()
    wired.remove(both)
    wired.converge()
    assert set(wired.state.gateways) == {"front/n1"}
    wired.remove(one)
    wired.converge()
    assert not wired.state.gateways


def test_all_or_nothing_when_one_network_is_full(make_world):
    world = make_world()
    world.add_node("n1")
    world.add_network("front", "10.2.0.0/24")
    world.add_network("tiny", "10.3.0.0/29")  # a gateway and five tasks
    web = world.create(replicas=7, networks=("front", "tiny"))
    world.settle()
    placed = [task for task in world.wanted(web) if task.node_id]
    pending = [task for task in world.wanted(web) if not task.node_id]
    assert len(placed) == 5
    assert {world.reason(task) for task in pending} == {
        "no free address on network tiny (10.3.0.0/29)"
    }
    assert len(world.state.addresses("front")) == 6, "nothing is left of those that failed"


def test_what_was_given_back_is_there_for_the_next_task_of_the_slice(make_world):
    """The full network fails the first service after it was granted the other's last address."""
    world = make_world()
    world.add_node("n1")
    world.add_network("tiny", "10.2.0.0/30")  # a gateway and one task
    world.add_network("full", "10.3.0.0/30")
    world.create("filler", networks=("full",))
    world.settle()
    both = world.create("both", networks=("tiny", "full"))
    one = world.create("one", networks=("tiny",))
    world.settle()
    assert [task.node_id for task in world.wanted(both)] == [None]
    assert [task.node_id for task in world.wanted(one)] == ["n1"]


def test_a_freed_gateway_is_an_address_for_those_that_wait(make_world):
    world = make_world()
    world.add_node("n1")
    world.add_node("n2")
    world.add_network("tiny", "10.2.0.0/29")  # six addresses
    a = world.create("a", networks=("tiny",), constraints=("node.id==n1",))
    b = world.create("b", replicas=3, networks=("tiny",), constraints=("node.id==n2",))
    world.converge()
    late = world.create("late", replicas=2, networks=("tiny",), constraints=("node.id==n2",))
    world.converge()
    assert not world.running(late)
    world.remove(a)
    world.converge()
    assert len(world.running(b)) == 3
    assert len(world.running(late)) == 2


def test_an_unknown_network_leaves_the_task_pending_with_the_reason(wired):
    web = wired.create(networks=("front", "gone"))
    wired.settle()
    (task,) = wired.wanted(web)
    assert task.node_id is None
    assert wired.reason(task) == "network gone does not exist"
    wired.connect(web, "front")
    wired.converge()
    assert [networks_of(task) for task in wired.running(web)] == [("front",)]


def test_tasks_that_wait_for_a_network_run_when_it_comes(wired):
    web = wired.create(networks=("later",))
    wired.converge()
    wired.add_network("later", "10.4.0.0/24")
    wired.converge()
    assert len(wired.running(web)) == 1


def test_addresses_come_from_the_range_that_the_user_chose(make_world):
    world = make_world()
    world.add_node("n1")
    world.add_network("front", "10.2.0.0/24", ip_range="10.2.0.248/29")
    web = world.create(replicas=9, networks=("front",))
    world.settle()
    taken = sorted(world.state.addresses("front"))
    assert taken == [f"10.2.0.{number}" for number in range(248, 255)], "the broadcast is left out"
    pending = [task for task in world.wanted(web) if not task.node_id]
    assert {world.reason(task) for task in pending} == {
        "no free address on network front (10.2.0.248/29)"
    }


def test_one_network_takes_its_address_from_an_ended_task_and_leaves_the_other(make_world):
    world = make_world()
    world.add_node("n1")
    world.add_network("front", "10.2.0.0/24")
    world.add_network("tiny", "10.3.0.0/30")
    web = world.create(networks=("front", "tiny"))
    world.converge()
    world.report(world.running(web)[0].id, TaskState.FAILED)
    world.converge()
    ended, running = world.tasks(web)
    assert places_of(ended) == [("front", "10.2.0.1")]
    assert places_of(running) == [("front", "10.2.0.3"), ("tiny", "10.3.0.1")]


def test_an_update_moves_the_tasks_from_network_to_network(wired):
    web = wired.create(replicas=3, networks=("front",))
    wired.converge()
    wired.connect(web, "back", "front")
    wired.settle()
    wired.agents_obey()
    wired.settle()
    assert {networks_of(task) for task in wired.wanted(web)} == {("front",), ("back", "front")}
    wired.converge()
    wired.advance(60)
    wired.converge()
    assert {networks_of(task) for task in wired.running(web)} == {("back", "front")}
