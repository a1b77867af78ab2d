"""The MTU of networks follows the nodes: down at once, up while nobody is there."""

import msgspec
import pytest

from essaim_master.control.network_mtu import outdated_networks
from essaim_shared.ids import NodeId
from essaim_shared.objects import Network


def mtu(world, name="default"):
    return world.state.network_named(name).mtu


def tell(world, name, value):
    """The node registers again, with another MTU."""
    description = world.state.node_status[NodeId(name)].description
    world.describe_node(name, msgspec.structs.replace(description, mtu=value))


@pytest.fixture
def world(make_world):
    world = make_world()
    world.add_node("n1", mtu=9000)
    world.add_node("n2", mtu=9000)
    world.settle()
    return world


def test_it_is_the_least_of_the_nodes_less_the_overhead(world):
    assert mtu(world) == 8950
    world.add_node("n3", mtu=1500)
    world.settle()
    assert mtu(world) == 1450


def test_a_joining_node_lowers_it_under_running_tasks(world):
    web = world.create()
    world.converge()
    world.add_node("n3", mtu=1500)
    world.settle()
    assert mtu(world) == 1450
    assert len(world.running(web)) == 1


def test_it_rises_only_when_no_task_is_on_the_network(world):
    world.add_node("n3", mtu=1500)
    world.add_network("idle", "10.2.0.0/24", mtu=1450)
    web = world.create()
    world.converge()
    world.remove_node("n3")
    world.converge()
    assert (mtu(world), mtu(world, "idle")) == (1450, 8950)
    world.remove(web)
    world.converge()
    assert mtu(world) == 8950


def test_nodes_that_are_down_do_not_count(world):
    world.add_node("n3", mtu=1500)
    world.settle()
    world.set_node_state("n3", "down")
    world.settle()
    assert mtu(world) == 8950
    world.set_node_state("n3", "ready")
    world.settle()
    assert mtu(world) == 1450


def test_a_node_that_is_merely_unheard_does(world):
    world.add_node("n3", mtu=1500)
    world.set_node_state("n3", "unknown")
    world.settle()
    assert mtu(world) == 1450


def test_nodes_that_tell_none_do_not_count(world):
    world.add_node("n3")
    world.settle()
    assert mtu(world) == 8950
    tell(world, "n3", 1400)
    world.settle()
    assert mtu(world) == 1350


def test_what_a_user_chose_stays(world):
    world.add_network("fixed", "10.2.0.0/24", mtu=1300, is_mtu_fixed=True)
    world.settle()
    assert mtu(world, "fixed") == 1300


def test_the_nodes_own_network_has_none(world):
    world.put(Network(id="host-id", name="host", driver="host", created_ns=1))
    world.settle()
    assert mtu(world, "host") == 0


def test_no_node_makes_it_smaller_than_every_host_must_take(world):
    tell(world, "n1", 68)
    world.settle()
    assert mtu(world) == 576


def test_a_network_that_has_none_gets_the_usual_one_while_nothing_is_known(make_world):
    world = make_world()
    world.add_network("new", "10.2.0.0/24", mtu=0)
    world.settle()
    assert (mtu(world), mtu(world, "new")) == (1450, 1450)


def test_it_is_written_before_the_first_task(make_world):
    world = make_world()
    world.add_node("n1", mtu=9000)
    world.create()
    kinds = []
    world.state.subscribe(lambda applied: kinds.extend(each.kind.name for each in applied.changes))
    world.settle()
    assert kinds.index("NETWORK") < kinds.index("TASK")


def test_a_network_that_is_deleted_at_the_same_moment_stays_so(world):
    world.add_network("gone", "10.2.0.0/24", mtu=1450)
    writes = world.plan()
    world.remove_network("gone")
    assert not world.try_commit(writes)
    assert world.state.network_named("gone") is None
    world.full_pass()
    assert world.state.network_named("gone") is None


def test_nothing_is_to_be_changed_twice(world):
    attached = set()
    assert list(outdated_networks(world.state, attached)) == []
