"""Whatever happens, and in whatever order: with agents that obey, the loops converge."""

from collections import Counter

from hypothesis import HealthCheck, example, given, note, settings
from hypothesis import strategies as st

from essaim_shared.limits import TASK_HISTORY_PER_SLOT
from essaim_shared.objects import Task
from essaim_shared.task_state import TaskState

NODES = ("n1", "n2", "n3", "n4")
SERVICES = ("a", "b")

EVENTS = st.one_of(
    st.tuples(st.just("scale"), st.sampled_from(SERVICES), st.integers(0, 7)),
    st.tuples(st.just("remove"), st.sampled_from(SERVICES)),
    st.tuples(st.just("update"), st.sampled_from(SERVICES)),
    st.tuples(
        st.just("availability"),
        st.sampled_from(NODES),
        st.sampled_from(("active", "pause", "drain")),
    ),
    st.tuples(
        st.just("state"), st.sampled_from(NODES), st.sampled_from(("ready", "down", "unknown"))
    ),
    st.tuples(st.just("remove_node"), st.sampled_from(NODES)),
    st.tuples(
        st.just("end"),
        st.integers(0, 20),
        st.sampled_from((TaskState.FAILED, TaskState.COMPLETE, TaskState.REJECTED)),
    ),
    st.tuples(st.just("slice")),
    st.tuples(st.just("settle")),
    st.tuples(st.just("agents")),
    st.tuples(st.just("advance"), st.integers(1, 30)),
    st.tuples(st.just("elect")),
)


def happen(world, event):
    """Apply one event; those that make no sense at the moment do nothing."""
    kind, *rest = event
    services = {service.spec.name: service.id for service in world.state.services.values()}
    match kind:
        case "scale":
            name, replicas = rest
            if name in services:
                world.scale(services[name], replicas)
            else:
                world.create(name, replicas)
        case "remove" if rest[0] in services:
            world.remove(services[rest[0]])
        case "update" if rest[0] in services:
            world.update(services[rest[0]])
        case "availability" if rest[0] in world.state.nodes:
            world.set_node(rest[0], availability=rest[1])
        case "state" if rest[0] in world.state.nodes:
            world.set_node_state(*rest)
        case "remove_node" if rest[0] in world.state.nodes:
            world.remove_node(rest[0])
        case "end":
            alive = [
                task
                for task in world.state.tasks.values()
                if task.node_id and not world.state.observed(task.id).is_terminal
            ]
            if alive:
                world.report(alive[rest[0] % len(alive)].id, rest[1])
        case "slice":
            world.slice()
        case "settle":
            world.settle()
        case "agents":
            world.agents_obey()
        case "advance":
            world.advance(rest[0])
        case "elect":
            world.elect()


def check_addresses(world):
    """No two things that may be alive share an address."""
    owners = [gateway.address for gateway in world.state.gateways.values()]
    owners += [
        attachment.address for task in world.state.tasks.values() for attachment in task.attachments
    ]
    doubled = [address for address, count in Counter(owners).items() if count > 1]
    assert not doubled


def check_gateways(world):
    """A node has an address of its own on the network exactly while it needs one."""
    needed = {
        (attachment.network_id, task.node_id)
        for task in world.state.tasks.values()
        if not world.state.observed(task.id).is_terminal
        for attachment in task.attachments
    }
    present = {(g.network_id, g.node_id) for g in world.state.gateways.values()}
    assert present == needed


def check_service(world, service):
    occupied: dict[int, list[Task]] = {}
    for task in world.tasks(service.id):
        occupied.setdefault(task.slot, []).append(task)
    running = world.running(service.id)
    assert len(running) == service.spec.replicas
    assert len({task.slot for task in running}) == len(running)
    status = world.state.update_status.get(service.id)
    is_paused = status is not None and status.state == "paused"
    for task in running:
        assert task.spec_version == service.spec_version or is_paused
        assert world.state.node_status[task.node_id].state != "down"
        assert world.state.nodes[task.node_id].spec.availability != "drain"
    for tasks in occupied.values():
        ended = [task for task in tasks if world.state.observed(task.id).is_terminal]
        assert len(ended) <= TASK_HISTORY_PER_SLOT


@given(st.lists(EVENTS, max_size=40), st.integers(2, 300))
@example([("scale", "a", 3), ("settle",), ("state", "n1", "down"), ("remove_node", "n1")], 250)
@settings(
    max_examples=400,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_any_history_ends_in_order(make_world, events, limit):
    world = make_world(seed=len(events), limit=limit)
    note(f"seed {world.seed}")
    for name in NODES:
        world.add_node(name)
    for event in events:
        happen(world, event)
        check_addresses(world)
    # In the end at least one node is there and open.
    if "n1" not in world.state.nodes:
        world.add_node("n1")
    world.set_node_state("n1", "ready")
    world.set_node("n1", availability="active")
    world.converge()
    for service in world.state.services.values():
        check_service(world, service)
    known = set(world.state.services)
    for task in world.state.tasks.values():
        if task.service_id not in known:
            assert world.state.node_status[task.node_id].state == "down"
    check_addresses(world)
    check_gateways(world)
    assert set(world.state.task_status) <= set(world.state.tasks)
    assert world.full_pass() == 0, "a second pass over an ordered state writes nothing"
    world.elect()
    assert world.settle() == 0, "nor does a new leader's first"
