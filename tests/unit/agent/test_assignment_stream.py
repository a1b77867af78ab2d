"""Which orders are obeyed: rules 1 to 4 of the module."""

import random

import pytest

from essaim_agent.assignment_stream import CHUNKS_MAX, AssignmentStream, Verdict
from essaim_shared.ids import TaskId
from essaim_shared.messages import Assignments


def order(
    sequence: int,
    *,
    term: int = 5,
    full: bool = False,
    chunk: int = 0,
    chunks: int = 1,
    removed: tuple[str, ...] = (),
) -> Assignments:
    return Assignments(
        term=term,
        sequence=sequence,
        full=full,
        chunk=chunk,
        chunks=chunks,
        removed_tasks=tuple(TaskId(task_id) for task_id in removed),
    )


def in_session(sequence: int = 10) -> AssignmentStream:
    stream = AssignmentStream(highest_term=5)
    stream.registered(5)
    assert stream.offer(order(sequence, full=True)).verdict is Verdict.APPLY
    return stream


def test_rule_1_a_lower_term_is_refused_even_if_it_is_full() -> None:
    stream = in_session()
    for full in (True, False):
        assert stream.offer(order(11, term=4, full=full)).verdict is Verdict.DEPOSED
    assert (stream.term, stream.sequence) == (5, 10)


def test_rule_1_a_restarted_agent_still_refuses_what_is_below_its_journaled_term() -> None:
    stream = AssignmentStream(highest_term=7)
    assert stream.offer(order(1, term=6, full=True)).verdict is Verdict.DEPOSED


def test_rule_2_changes_apply_one_after_the_other() -> None:
    stream = in_session()
    assert stream.offer(order(11)).verdict is Verdict.APPLY
    assert stream.offer(order(11)).verdict is Verdict.DUPLICATE
    assert stream.offer(order(13)).verdict is Verdict.GAP
    assert stream.sequence == 11


def test_rule_2_nothing_applies_before_the_first_full_set() -> None:
    stream = AssignmentStream(highest_term=5)
    stream.registered(5)
    assert stream.offer(order(1)).verdict is Verdict.GAP


def test_rule_2_changes_of_a_new_term_need_its_full_set() -> None:
    stream = in_session()
    assert stream.offer(order(11, term=6)).verdict is Verdict.GAP
    assert stream.offer(order(3, term=6, full=True)).verdict is Verdict.APPLY
    assert stream.offer(order(4, term=6)).verdict is Verdict.APPLY


def test_rule_3_an_old_full_set_is_not_taken_unless_one_is_awaited() -> None:
    stream = in_session()
    assert stream.offer(order(9, full=True)).verdict is Verdict.DUPLICATE
    assert stream.offer(order(12, full=True)).verdict is Verdict.APPLY
    stream.expect_full()
    assert stream.offer(order(2, full=True)).verdict is Verdict.APPLY
    assert stream.sequence == 2


@pytest.mark.parametrize("seed", range(5))
def test_rule_4_chunks_take_effect_together_in_whatever_order_they_come(seed: int) -> None:
    rng = random.Random(seed)
    print(f"seed {seed}")
    chunks = [order(11, chunk=n, chunks=4, removed=(f"task{n}",)) for n in range(4)]
    shuffled = [*chunks, *rng.sample(chunks, 2)][:4] if seed == 0 else rng.sample(chunks, 4)
    stream = in_session()
    offers = [stream.offer(chunk) for chunk in shuffled]
    assert [offer.verdict for offer in offers[:-1]] == [Verdict.INCOMPLETE] * 3
    whole = offers[-1].message
    assert whole is not None
    assert whole.removed_tasks == ("task0", "task1", "task2", "task3")
    assert stream.sequence == 11


def test_rule_4_a_message_with_a_lost_chunk_never_applies() -> None:
    stream = in_session()
    assert stream.offer(order(11, chunk=0, chunks=2)).verdict is Verdict.INCOMPLETE
    assert stream.offer(order(12)).verdict is Verdict.GAP
    assert stream.lags_behind(5, 12)
    stream.expect_full()
    assert stream.offer(order(13, full=True)).verdict is Verdict.APPLY
    # The other half comes late: it begins nothing.
    assert stream.offer(order(11, chunk=1, chunks=2)).verdict is Verdict.DUPLICATE


def test_a_repeated_chunk_does_not_complete_a_message() -> None:
    stream = in_session()
    for _ in range(3):
        assert stream.offer(order(11, chunk=0, chunks=2)).verdict is Verdict.INCOMPLETE


@pytest.mark.parametrize(
    ("chunk", "chunks"), [(1, 1), (-1, 2), (0, 0), (0, CHUNKS_MAX + 1), (5, 3)]
)
def test_impossible_chunk_numbers_are_malformed(chunk: int, chunks: int) -> None:
    assert in_session().offer(order(11, chunk=chunk, chunks=chunks)).verdict is Verdict.MALFORMED


def test_lag_is_seen_within_a_term_and_across_terms() -> None:
    stream = in_session()
    assert not stream.lags_behind(5, 10)
    assert not stream.lags_behind(5, 9)
    assert stream.lags_behind(5, 11)
    assert stream.lags_behind(6, 0)
