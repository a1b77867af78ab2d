"""Which reports of agents are taken over: late, foreign, repeated and impossible ones are not."""

import pytest

from essaim_master.control.reports import StatusBatch
from essaim_master.control.sessions import SessionTable, clone_refusal
from essaim_shared.ids import NodeId, TaskId
from essaim_shared.limits import STATUS_ERROR_CHARS_MAX
from essaim_shared.messages import ReportedStatus
from essaim_shared.objects import NodeDescription, NodeStatus, TaskStatus
from essaim_shared.task_state import TaskState


@pytest.fixture
def task(world):
    web = world.create(constraints=("node.id==n1",))
    world.settle()
    return world.tasks(web)[0]


def reported(task_id, state, timestamp_ns=10, **fields):
    status = TaskStatus(state=state, timestamp_ns=timestamp_ns, **fields)
    return ReportedStatus(task_id=task_id, status=status)


def accept(world, task, *reports, node="n1"):
    batch = StatusBatch(world.state)
    for report in reports:
        batch.add(NodeId(node), report)
    return batch.accepted.get(task.id)


def test_states_grow(world, task):
    world.report(task.id, TaskState.STARTING)
    assert accept(world, task, reported(task.id, TaskState.PREPARING)) is None
    assert accept(world, task, reported(task.id, TaskState.RUNNING)).state is TaskState.RUNNING


def test_an_ended_task_stays_ended(world, task):
    world.report(task.id, TaskState.FAILED)
    for state in (TaskState.RUNNING, TaskState.COMPLETE, TaskState.SHUTDOWN, TaskState.REJECTED):
        assert accept(world, task, reported(task.id, state)) is None
    assert accept(world, task, reported(task.id, TaskState.ORPHANED)) is not None


def test_only_the_tasks_own_node_is_believed(world, task):
    assert accept(world, task, reported(task.id, TaskState.RUNNING), node="n2") is None


def test_unknown_tasks_are_passed_over(world, task):
    batch = StatusBatch(world.state)
    batch.add(NodeId("n1"), reported(TaskId("other"), TaskState.RUNNING))
    assert batch.accepted == {}


@pytest.mark.parametrize("state", [TaskState.NEW, TaskState.PENDING, TaskState.REMOVE])
def test_states_that_no_agent_may_report(world, task, state):
    assert accept(world, task, reported(task.id, state)) is None


def test_of_one_batch_the_last_state_is_written_in_whatever_order(world, task):
    running = reported(task.id, TaskState.RUNNING, timestamp_ns=20)
    failed = reported(task.id, TaskState.FAILED, timestamp_ns=90)
    for order in ((running, failed), (failed, running)):
        assert accept(world, task, *order).state is TaskState.FAILED


def test_start_is_remembered_through_the_end(world, task):
    running = reported(task.id, TaskState.RUNNING, timestamp_ns=20)
    failed = reported(task.id, TaskState.FAILED, timestamp_ns=90)
    assert accept(world, task, running, failed).started_ns == 20
    assert accept(world, task, failed).started_ns == 0, "it was never seen running"


def test_news_within_a_state(world, task):
    pulling = reported(task.id, TaskState.PREPARING, 20, message="pulling")
    world.report(task.id, TaskState.PREPARING)
    batch = StatusBatch(world.state)
    late = reported(task.id, TaskState.PREPARING, 20, message="pulling")
    batch.add(NodeId("n1"), late)
    assert batch.accepted == {}, "older than what is known"
    newer = reported(task.id, TaskState.PREPARING, world.now_ns + 5, message="pulling")
    again = reported(task.id, TaskState.PREPARING, world.now_ns + 9, message="pulling")
    assert accept(world, task, newer).message == "pulling"
    assert accept(world, task, newer, again).timestamp_ns == world.now_ns + 5
    assert pulling is not None


def test_of_two_words_on_readiness_the_one_that_knows_of_more_changes_is_right(world, task):
    """Whatever their clocks say: a node's clock may be set back between the two."""
    world.report(task.id, TaskState.RUNNING)
    unready = reported(task.id, TaskState.RUNNING, 99, is_ready=False, readiness_changes=7)
    ready = reported(task.id, TaskState.RUNNING, 20, is_ready=True, readiness_changes=8)
    assert accept(world, task, unready, ready).is_ready
    assert accept(world, task, ready, unready).is_ready
    assert accept(world, task, ready, ready).readiness_changes == 8


def test_a_later_word_that_knows_of_fewer_changes_of_readiness_is_late(world, task):
    batch = StatusBatch(world.state)
    batch.add(NodeId("n1"), reported(task.id, TaskState.RUNNING, 20, readiness_changes=8))
    late = reported(task.id, TaskState.RUNNING, 99, is_ready=False, readiness_changes=7)
    batch.add(NodeId("n1"), late)
    assert batch.accepted[task.id].readiness_changes == 8


def test_an_end_is_believed_however_little_it_knows_of_readiness(world, task):
    ready = reported(task.id, TaskState.RUNNING, 20, readiness_changes=8)
    failed = reported(task.id, TaskState.FAILED, 21)
    assert accept(world, task, ready, failed).state is TaskState.FAILED
    assert accept(world, task, failed, ready).state is TaskState.FAILED


def test_the_start_is_remembered_through_changes_of_readiness(world, task):
    unready = reported(task.id, TaskState.RUNNING, 20, is_ready=False, readiness_changes=7)
    ready = reported(task.id, TaskState.RUNNING, 40, readiness_changes=8)
    assert accept(world, task, unready, ready).started_ns == 20


@pytest.mark.parametrize("field", ["err", "message", "container_id"])
def test_long_texts_are_cut(world, task, field):
    taken = accept(world, task, reported(task.id, TaskState.FAILED, **{field: "x" * 10_000}))
    assert len(getattr(taken, field)) == STATUS_ERROR_CHARS_MAX


def describe(address="10.0.0.1", instance="boot-1", hostname="h1"):
    return NodeDescription(
        hostname=hostname,
        address=address,
        architecture="x86_64",
        nano_cpus=1,
        memory_bytes=1,
        engine_version="1",
        instance=instance,
    )


def ready(description, state="ready"):
    return NodeStatus(state=state, description=description, changed_ns=1)


def refusal(asking, session=None, status=None, is_alive=True):
    table = SessionTable()
    node_id = NodeId("n1")
    opened = None if session is None else table.open(node_id, "token", session)
    return clone_refusal(node_id, asking, opened, status, is_alive)


@pytest.mark.parametrize(
    ("case", "is_refused"),
    [
        (refusal(describe()), False),
        (refusal(describe(), session=describe()), False),
        (refusal(describe(instance="boot-2"), session=describe()), True),
        (refusal(describe(address="10.0.0.9"), session=describe()), True),
        (refusal(describe(instance="boot-2"), session=describe(), is_alive=False), False),
        (refusal(describe(instance="boot-2"), status=ready(describe())), True),
        (refusal(describe(), status=ready(describe())), False),
        (refusal(describe(instance="boot-2"), status=ready(describe(), "down")), False),
        (refusal(describe(instance="boot-2"), status=ready(describe()), is_alive=False), False),
    ],
    ids=[
        "first",
        "restarted agent",
        "clone with another boot",
        "clone at another address",
        "rebooted host after silence",
        "clone comes first to a new leader",
        "the node itself comes to a new leader",
        "the known one was down",
        "the known one has been silent under this leader",
    ],
)
def test_second_machine_with_the_same_node_id(case, is_refused):
    assert (case is not None) == is_refused


def test_refusal_names_both_machines():
    words = refusal(describe("10.0.0.9", "boot-2", "h9"), session=describe())
    assert words is not None
    assert "h1 at 10.0.0.1" in words
    assert "h9 at 10.0.0.9" in words


def test_a_session_is_known_by_its_token_until_the_next_one():
    table = SessionTable()
    node = NodeId("n1")
    first = table.open(node, "one", describe())
    assert table.find(node, "one") is first
    assert table.find(node, "two") is None
    second = table.open(node, "two", describe())
    assert table.find(node, "one") is None
    assert table.of(node) is second
    assert len(table) == 1
    table.close(node)
    assert table.find(node, "two") is None
