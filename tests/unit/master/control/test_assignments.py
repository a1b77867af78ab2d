"""What nodes are told: the sum of all differences is always the full set, and nothing twice."""

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from essaim_master.control.assignments import AssignmentBook, Difference
from essaim_master.control.chunks import assignment_payloads
from essaim_master.state.writes import Writes
from essaim_shared.ids import NodeId
from essaim_shared.limits import TASK_HISTORY_PER_SLOT
from essaim_shared.messages import Assignments, decode
from essaim_shared.task_state import TaskState

NODES = ("n1", "n2", "n3")


class Mirror:
    """What one agent knows, if it believes the differences."""

    def __init__(self):
        self.tasks, self.networks, self.endpoints = {}, {}, {}

    def apply(self, difference, strict=True):
        for task_id in difference.removed_tasks:
            assert not strict or task_id in self.tasks, "removal of what it never had"
            self.tasks.pop(task_id, None)
        for network_id in difference.removed_networks:
            assert not strict or network_id in self.networks
            self.networks.pop(network_id, None)
        for endpoint in difference.removed_endpoints:
            assert not strict or endpoint in self.endpoints
            self.endpoints.pop(endpoint, None)
        self.tasks.update((task.id, task) for task in difference.tasks)
        self.networks.update((network.network_id, network) for network in difference.networks)
        self.endpoints.update(dict.fromkeys(difference.endpoints))

    def __eq__(self, other):
        return (self.tasks, self.networks, set(self.endpoints)) == (
            other.tasks,
            other.networks,
            set(other.endpoints),
        )


class Listeners:
    """A mirror for each node, fed by one book."""

    def __init__(self, world):
        self.world = world
        self.book = AssignmentBook(world.state)
        world.state.subscribe(self.book.note)
        self.mirrors = {}
        for node in NODES:
            self.mirrors[node] = Mirror()
            self.mirrors[node].apply(self.book.full_set(NodeId(node)))

    def flush(self):
        differences = self.book.flush()
        for node, difference in differences.items():
            assert difference != Difference(), "an empty difference is not worth a message"
            if node in self.mirrors:
                self.mirrors[node].apply(difference)
        return differences

    def full(self, node):
        mirror = Mirror()
        mirror.apply(self.book.full_set(NodeId(node)))
        return mirror

    def expected(self, node):
        """The full set computed from nothing but the state."""
        mirror = Mirror()
        mirror.apply(AssignmentBook(self.world.state).full_set(NodeId(node)))
        return mirror


def addresses(mirror):
    return {(endpoint.address, endpoint.node_address) for endpoint in mirror.endpoints}


def set_address(world, name, address):
    writes = Writes()
    status = world.state.node_status[NodeId(name)]
    description = msgspec.structs.replace(status.description, address=address)
    changed = msgspec.structs.replace(status, description=description)
    writes.put_node_status(NodeId(name), changed)
    world.commit(writes)


def test_a_new_task_goes_to_its_node_and_its_endpoint_to_the_others(world):
    world.create(replicas=2)
    world.converge()
    listeners = Listeners(world)
    web = world.create("api", replicas=1)
    world.settle()
    (task,) = world.tasks(web)
    assert task.node_id == "n3"
    differences = listeners.flush()
    assert differences[NodeId("n3")].tasks == [task]
    assert [network.gateway for network in differences[NodeId("n3")].networks] == [
        world.state.gateway(world.network_id, NodeId("n3")).address
    ]
    for node in ("n1", "n2"):
        told = {endpoint.address for endpoint in differences[NodeId(node)].endpoints}
        assert told == {
            task.attachments[0].address,
            world.state.gateway(world.network_id, NodeId("n3")).address,
        }
        assert differences[NodeId(node)].tasks == []


def test_a_node_is_not_told_its_own_endpoints(world):
    world.create(replicas=6)
    world.settle()
    listeners = Listeners(world)
    for node in NODES:
        own = world.state.node_status[NodeId(node)].description.address
        told = addresses(listeners.mirrors[node])
        assert len(told) == 4 + 2  # the tasks and gateways of two other nodes
        assert own not in {node_address for _, node_address in told}


def test_progress_of_a_task_is_told_to_nobody(world):
    web = world.create(replicas=3)
    world.settle()
    listeners = Listeners(world)
    for task in world.tasks(web):
        world.report(task.id, TaskState.STARTING)
        world.report(task.id, TaskState.RUNNING)
    assert not listeners.book
    assert listeners.flush() == {}


def test_an_ended_task_leaves_its_node_and_the_others_tables(world):
    web = world.create(replicas=3)
    world.converge()
    listeners = Listeners(world)
    task = world.tasks(web)[0]
    world.report(task.id, TaskState.REJECTED)
    differences = listeners.flush()
    assert differences[task.node_id].removed_tasks == [task.id]
    for node in set(NODES) - {task.node_id}:
        removed = [endpoint.address for endpoint in differences[NodeId(node)].removed_endpoints]
        assert removed == [task.attachments[0].address]


@pytest.mark.parametrize("end", [TaskState.FAILED, TaskState.COMPLETE])
def test_a_task_that_ended_by_itself_keeps_its_container_but_not_its_address(world, end):
    web = world.create(replicas=3)
    world.converge()
    listeners = Listeners(world)
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
    listeners = Listeners(world)
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


def test_an_order_to_stop_is_told_to_the_node_alone(world):
    web = world.create(replicas=3)
    world.converge()
    listeners = Listeners(world)
    task = world.tasks(web)[0]
    world.scale(web, 2)
    world.settle()
    differences = listeners.flush()
    (stopping,) = [t for t in world.tasks(web) if t.desired_state is TaskState.REMOVE]
    assert set(differences) == {stopping.node_id}
    assert differences[stopping.node_id].tasks == [stopping]
    assert task is not None


def test_the_last_task_takes_the_network_with_it(world):
    web = world.create(replicas=3)
    world.converge()
    listeners = Listeners(world)
    world.scale(web, 2)
    world.converge()
    listeners.flush()
    (left,) = [node for node in NODES if not listeners.mirrors[node].networks]
    assert not listeners.mirrors[left].endpoints
    assert all(listeners.mirrors[node] == listeners.expected(node) for node in NODES)


def test_a_moved_node_is_found_at_its_new_address(world):
    world.create(replicas=3)
    world.converge()
    listeners = Listeners(world)
    set_address(world, "n1", "192.168.7.7")
    listeners.flush()
    for node in ("n2", "n3"):
        assert "192.168.7.7" in {place for _, place in addresses(listeners.mirrors[node])}
        assert listeners.mirrors[node] == listeners.expected(node)


def test_an_address_used_again_at_once_is_not_lost(make_world):
    world = make_world(subnet="10.1.0.0/28")
    for node in NODES:
        world.add_node(node)
    web = world.create(replicas=11)
    world.converge()
    listeners = Listeners(world)
    for task in world.running(web)[:6]:
        world.report(task.id, TaskState.SHUTDOWN)
    world.converge()
    listeners.flush()
    assert len(world.running(web)) == 11
    assert all(listeners.mirrors[node] == listeners.expected(node) for node in NODES)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("scale"), st.integers(0, 6)),
        st.tuples(st.just("end"), st.integers(0, 9)),
        st.tuples(st.just("drain"), st.sampled_from(NODES)),
        st.tuples(st.just("activate"), st.sampled_from(NODES)),
        st.tuples(st.just("move"), st.sampled_from(NODES), st.integers(1, 9)),
        st.tuples(st.just("settle")),
        st.tuples(st.just("agents")),
        st.tuples(st.just("flush")),
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
        case ("flush",):
            listeners.flush()


@given(STEPS)
@settings(
    max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_differences_add_up_to_the_full_set(make_world, steps):
    world = make_world(subnet="10.1.0.0/28")
    for node in NODES:
        world.add_node(node)
    web = world.create(replicas=2)
    listeners = Listeners(world)
    for step in steps:
        take_step(world, listeners, web, step)
    listeners.flush()
    for node in NODES:
        assert listeners.mirrors[node] == listeners.full(node)
        assert listeners.mirrors[node] == listeners.expected(node)
    assert listeners.flush() == {}


@pytest.mark.parametrize("chunk_bytes_max", [2_000, 6_000, 256 * 1024])
def test_chunks_are_bounded_and_complete(world, chunk_bytes_max):
    world.create(replicas=60)
    world.converge()
    full = AssignmentBook(world.state).full_set(NodeId("n1"))
    payloads = assignment_payloads(full, 7, 3, True, chunk_bytes_max)
    assert all(len(payload) <= chunk_bytes_max for payload in payloads)
    assert (len(payloads) == 1) == (chunk_bytes_max == 256 * 1024)
    chunks = [decode(payload, Assignments) for payload in payloads]
    assert {(c.term, c.sequence, c.full, c.chunks) for c in chunks} == {(7, 3, True, len(chunks))}
    assert [c.chunk for c in chunks] == list(range(len(chunks)))
    assert [task for c in chunks for task in c.tasks] == full.tasks
    assert [endpoint for c in chunks for endpoint in c.endpoints] == full.endpoints
    assert [network for c in chunks for network in c.networks] == full.networks
