"""What nodes are told: the sum of all differences is always the full set, and nothing twice."""

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.node_mirrors import Listeners, full

from essaim_master.control.assignments import AssignmentBook
from essaim_master.control.chunks import assignment_payloads
from essaim_master.state.writes import Writes
from essaim_shared.ids import NodeId
from essaim_shared.limits import TASK_HISTORY_PER_SLOT
from essaim_shared.messages import Assignments, decode
from essaim_shared.task_state import TaskState

NODES = ("n1", "n2", "n3")


def addresses(mirror):
    return {(endpoint.address, endpoint.node_address) for endpoint in mirror.endpoints}


def set_address(world, name, address):
    writes = Writes()
    status = world.state.node_status[NodeId(name)]
    description = msgspec.structs.replace(status.description, address=address)
    changed = msgspec.structs.replace(status, description=description)
    writes.put_node_status(NodeId(name), changed)
    world.commit(writes)


def test_a_new_task_goes_to_its_node_and_its_endpoint_to_the_whole_network(world):
    world.create(replicas=2)
    world.converge()
    listeners = Listeners(world.state, NODES)
    web = world.create("api", replicas=1)
    world.settle()
    (task,) = world.tasks(web)
    assert task.node_id == "n3"
    differences = listeners.flush()
    assert differences[NodeId("n3")].tasks == [task]
    own = world.state.gateway(world.network_id, NodeId("n3")).address
    assert [network.gateway for network in differences[NodeId("n3")].networks] == [own]
    for node in ("n1", "n2"):
        told = {endpoint.address for endpoint in differences[NodeId(node)].endpoints}
        assert told == {task.attachments[0].address, own}
        assert differences[NodeId(node)].tasks == []
    everything = set(world.state.addresses(world.network_id))
    assert {e.address for e in differences[NodeId("n3")].endpoints} == everything


def test_only_what_the_tables_need_of_a_task_s_progress_is_told(world):
    web = world.create(replicas=3)
    world.settle()
    listeners = Listeners(world.state, NODES)
    for task in world.tasks(web):
        world.report(task.id, TaskState.PREPARING)
        world.report(task.id, TaskState.STARTING, container_id="c1")
    assert not listeners.book
    assert listeners.flush() == {}
    (task, *_) = world.tasks(web)
    world.report(task.id, TaskState.RUNNING, container_id="c1")
    differences = listeners.flush()
    assert set(differences) == set(NODES)
    for difference in differences.values():
        assert not difference.tasks
        assert [e.state for e in difference.removed_endpoints] == ["starting"]
        assert [e.state for e in difference.endpoints] == ["serving"]


def test_an_ended_task_leaves_its_node_and_the_others_tables(world):
    web = world.create(replicas=3)
    world.converge()
    listeners = Listeners(world.state, NODES)
    task = world.tasks(web)[0]
    world.report(task.id, TaskState.REJECTED)
    differences = listeners.flush()
    assert differences[task.node_id].removed_tasks == [task.id]
    for node in NODES:
        removed = [endpoint.address for endpoint in differences[NodeId(node)].removed_endpoints]
        assert removed == [task.attachments[0].address]


@pytest.mark.parametrize("end", [TaskState.FAILED, TaskState.COMPLETE])
def test_a_task_that_ended_by_itself_keeps_its_container_but_not_its_address(world, end):
    web = world.create(replicas=3)
    world.converge()
    listeners = Listeners(world.state, NODES)
    task = world.tasks(web)[0]
    world.report(task.id, end, container_id="c1")
    difference = listeners.book.flush()[task.node_id]
    (kept,) = difference.tasks
    assert (kept.id, difference.removed_tasks) == (task.id, [])
    assert kept.desired_state is TaskState.SHUTDOWN, "nobody shall start it again"
    assert listeners.book.full_set(task.node_id).tasks.count(kept) == 1
    everywhere = [listeners.book.full_set(NodeId(node)).endpoints for node in NODES]
    told = {endpoint.address for endpoints in everywhere for endpoint in endpoints}
    assert task.attachments[0].address not in told


def test_an_ended_task_goes_with_its_place_in_the_history(world):
    web = world.create()
    kept = []
    listeners = Listeners(world.state, NODES)
    for _ in range(TASK_HISTORY_PER_SLOT + 3):
        world.converge()
        (running,) = world.running(web)
        kept.append(running.id)
        world.report(running.id, TaskState.FAILED, container_id="c1")
        world.settle()
        listeners.flush()
    world.converge()
    listeners.flush()
    on_nodes = {task_id for mirror in listeners.mirrors.values() for task_id in mirror.tasks}
    assert on_nodes.intersection(kept) == set(kept[-TASK_HISTORY_PER_SLOT:])
    world.remove(web)
    world.converge()
    listeners.flush()
    assert not any(mirror.tasks for mirror in listeners.mirrors.values())


def test_an_order_to_stop_a_task_that_does_not_serve_is_told_to_its_node_alone(world):
    web = world.create(replicas=3)
    world.settle()
    listeners = Listeners(world.state, NODES)
    world.scale(web, 2)
    world.settle()
    differences = listeners.flush()
    (stopping,) = [t for t in world.tasks(web) if t.desired_state is TaskState.REMOVE]
    assert set(differences) == {stopping.node_id}
    assert differences[stopping.node_id].tasks == [stopping]
    assert listeners.book.take_held() == []


def test_the_last_task_takes_the_network_with_it(world):
    web = world.create(replicas=3)
    world.converge()
    listeners = Listeners(world.state, NODES)
    world.scale(web, 2)
    world.converge()
    listeners.flush()
    listeners.release()
    (left,) = [node for node in NODES if not listeners.mirrors[node].networks]
    assert not listeners.mirrors[left].endpoints
    listeners.check()


def test_a_moved_node_is_found_at_its_new_address(world):
    world.create(replicas=3)
    world.converge()
    listeners = Listeners(world.state, NODES)
    set_address(world, "n1", "192.168.7.7")
    listeners.flush()
    for node in ("n2", "n3"):
        assert "192.168.7.7" in {place for _, place in addresses(listeners.mirrors[node])}
    listeners.check()


def test_an_address_used_again_at_once_is_not_lost(make_world):
    world = make_world(subnet="10.1.0.0/28")
    for node in NODES:
        world.add_node(node)
    web = world.create(replicas=11)
    world.converge()
    listeners = Listeners(world.state, NODES)
    for task in world.running(web)[:6]:
        world.report(task.id, TaskState.SHUTDOWN)
    world.converge()
    listeners.flush()
    assert len(world.running(web)) == 11
    listeners.check()


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("scale"), st.integers(0, 6)),
        st.tuples(st.just("end"), st.integers(0, 9)),
        st.tuples(st.just("drain"), st.sampled_from(NODES)),
        st.tuples(st.just("activate"), st.sampled_from(NODES)),
        st.tuples(st.just("move"), st.sampled_from(NODES), st.integers(1, 9)),
        st.tuples(st.just("settle")),
        st.tuples(st.just("agents")),
        st.tuples(st.just("down"), st.sampled_from(NODES)),
        st.tuples(st.just("flush")),
        st.tuples(st.just("register"), st.sampled_from(NODES)),
        st.tuples(st.just("release")),
    ),
    max_size=30,
)


def take_step(world, listeners, web, step):
    match step:
        case ("scale", replicas):
            world.scale(web, replicas)
        case ("end", number):
            running = world.running(web)
            if running:
                world.report(running[number % len(running)].id, TaskState.SHUTDOWN)
        case ("drain", node):
            world.set_node(node, availability="drain")
        case ("activate", node):
            world.set_node(node, availability="active")
        case ("move", node, number):
            set_address(world, node, f"172.16.{NODES.index(node)}.{number}")
        case ("settle",):
            world.settle()
        case ("agents",):
            world.agents_obey()
        case ("down", node):
            is_down = world.state.node_status[node].state == "down"
            world.set_node_state(node, "ready" if is_down else "down")
        case ("flush",):
            listeners.flush()
        case ("register", node):
            listeners.mirrors[node] = full(listeners.book, node)
        case ("release",):
            listeners.release()


@given(STEPS)
@settings(
    max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_differences_add_up_to_the_full_set(make_world, steps):
    world = make_world(subnet="10.1.0.0/28")
    for node in NODES:
        world.add_node(node)
    web = world.create(replicas=2)
    listeners = Listeners(world.state, NODES)
    for step in steps:
        take_step(world, listeners, web, step)
    listeners.flush()
    for node in NODES:
        assert listeners.mirrors[node] == full(listeners.book, node)
    listeners.release()
    listeners.check()
    assert listeners.flush() == {}


@pytest.mark.parametrize("chunk_bytes_max", [3_000, 6_000, 256 * 1024])
def test_chunks_are_bounded_and_complete(world, chunk_bytes_max):
    world.create(replicas=60)
    world.converge()
    everything = AssignmentBook(world.state).full_set(NodeId("n1"))
    payloads = assignment_payloads(everything, 7, 3, True, chunk_bytes_max=chunk_bytes_max)
    assert all(len(payload) <= chunk_bytes_max for payload in payloads)
    assert (len(payloads) == 1) == (chunk_bytes_max == 256 * 1024)
    chunks = [decode(payload, Assignments) for payload in payloads]
    assert {(c.term, c.sequence, c.full, c.chunks) for c in chunks} == {(7, 3, True, len(chunks))}
    assert [c.chunk for c in chunks] == list(range(len(chunks)))
    assert [task for c in chunks for task in c.tasks] == everything.tasks
    assert [endpoint for c in chunks for endpoint in c.endpoints] == everything.endpoints
    assert [network for c in chunks for network in c.networks] == everything.networks
