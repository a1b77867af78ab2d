"""Who is waited for before a task that serves may be told to stop, and for how long."""

from hypothesis import given, settings
from hypothesis import strategies as st

from essaim_master.control.drain_barrier import DrainBarrier
from essaim_shared.ids import NodeId, TaskId
from essaim_shared.limits import DRAIN_BARRIER_S

A, B, C = NodeId("a"), NodeId("b"), NodeId("c")
NODES = (A, B, C)
WEB, API = TaskId("web"), TaskId("api")


def test_a_task_is_released_when_all_who_were_told_have_answered():
    barrier = DrainBarrier()
    barrier.hold((WEB, API), (A, B), 0.0)
    assert barrier.wants_answer(A)
    assert not barrier.wants_answer(C)
    barrier.sent(A, 7)
    barrier.sent(B, 3)
    assert not barrier.wants_answer(A), "it was asked once"
    barrier.applied(A, 7)
    assert barrier.due(0.1) == []
    barrier.applied(B, 3)
    assert barrier.due(0.1) == [WEB, API]
    assert barrier.due(0.1) == [], "each is named once"
    assert barrier.next_due_s() is None


def test_an_answer_to_something_older_is_none():
    barrier = DrainBarrier()
    barrier.hold((WEB,), (A,), 0.0)
    barrier.applied(A, 99)
    assert barrier.due(0.0) == [], "it was not told yet"
    barrier.sent(A, 7)
    barrier.applied(A, 6)
    assert barrier.due(0.0) == []
    barrier.applied(A, 9)
    assert barrier.due(0.0) == [WEB], "who is further has that too"


def test_nobody_waits_longer_than_the_bound():
    barrier = DrainBarrier()
    barrier.hold((WEB,), (A,), 1.0)
    barrier.hold((API,), (A,), 1.5)
    barrier.sent(A, 1)
    assert barrier.next_due_s() == 1.0 + DRAIN_BARRIER_S
    assert barrier.due(0.99 + DRAIN_BARRIER_S) == []
    assert barrier.unheard(0.99 + DRAIN_BARRIER_S) == []
    assert barrier.unheard(1.0 + DRAIN_BARRIER_S) == [A]
    assert barrier.due(1.0 + DRAIN_BARRIER_S) == [WEB]
    assert barrier.next_due_s() == 1.5 + DRAIN_BARRIER_S


def test_where_nobody_listens_nothing_is_held():
    barrier = DrainBarrier()
    barrier.hold((WEB,), (), 0.0)
    assert barrier.due(0.0) == [WEB]


def test_a_node_that_went_away_is_not_waited_for():
    barrier = DrainBarrier()
    barrier.hold((WEB,), (A, B), 0.0)
    barrier.sent(A, 1)
    barrier.applied(A, 1)
    barrier.node_gone(B)
    assert barrier.due(0.0) == [WEB]


def test_a_node_that_registers_anew_must_say_so_in_its_new_session():
    barrier = DrainBarrier()
    barrier.hold((WEB,), (A,), 0.0)
    barrier.sent(A, 50)
    barrier.again(A)
    barrier.applied(A, 50)
    assert barrier.due(0.0) == [], "the sequence of another session"
    assert barrier.wants_answer(A)
    barrier.sent(A, 1)
    barrier.applied(A, 1)
    assert barrier.due(0.0) == [WEB]


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("hold"), st.sets(st.sampled_from(NODES))),
        st.tuples(st.just("send"), st.sampled_from(NODES)),
        st.tuples(st.just("apply"), st.sampled_from(NODES), st.integers(0, 2)),
        st.tuples(st.just("again"), st.sampled_from(NODES)),
        st.tuples(st.just("gone"), st.sampled_from(NODES)),
        st.tuples(st.just("wait"), st.sampled_from((0.1, 0.5, 1.0))),
    ),
    max_size=60,
)


@given(STEPS)
@settings(max_examples=500, deadline=None)
def test_no_order_before_all_have_answered_or_the_bound_has_passed(steps):
    """Against a model that keeps for each task and node whether the node knows by now."""
    barrier, now_s, number = DrainBarrier(), 0.0, 0
    sequence = dict.fromkeys(NODES, 0)
    held: dict[TaskId, tuple[float, set[NodeId]]] = {}
    """When it was held, and who does not know yet."""
    told: dict[NodeId, dict[int, set[TaskId]]] = {node: {} for node in NODES}
    """What each message of the node's present session told it."""
    for step in steps:
        match step:
            case ("hold", nodes):
                number += 1
                task = TaskId(f"t{number}")
                held[task] = (now_s, set(nodes))
                barrier.hold((task,), nodes, now_s)
            case ("send", node):
                sequence[node] += 1
                told[node][sequence[node]] = set(held)
                barrier.sent(node, sequence[node])
            case ("apply", node, behind):
                applied = max(sequence[node] - behind, 0)
                barrier.applied(node, applied)
                knows = {t for s, tasks in told[node].items() if s <= applied for t in tasks}
                for task in knows & held.keys():
                    held[task][1].discard(node)
            case ("again", node):
                sequence[node], told[node] = 0, {}
                barrier.again(node)
            case ("gone", node):
                for _, waiting in held.values():
                    waiting.discard(node)
                barrier.node_gone(node)
            case ("wait", seconds):
                now_s += seconds
        expected = {
            task
            for task, (since_s, waiting) in held.items()
            if not waiting or now_s >= since_s + DRAIN_BARRIER_S
        }
        assert set(barrier.due(now_s)) == expected
        for task in expected:
            del held[task]
    assert set(barrier.due(now_s + DRAIN_BARRIER_S)) == held.keys()
