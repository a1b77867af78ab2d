"""Data of secrets in memory: fetched once, kept for its users, bounded, forgotten with the last."""

import asyncio

import pytest

from essaim_agent.executor import Refused, Temporary
from essaim_agent.payloads.fake_payloads import FakePayloads
from essaim_agent.payloads.references import PayloadKey, WantedFile
from essaim_agent.payloads.source import PAYLOAD_BYTES_MAX
from essaim_agent.payloads.store import FETCHES_MAX, PayloadStore
from essaim_shared.ids import TaskId

A, B = TaskId("task-a"), TaskId("task-b")


def key(number: int = 1, payload_id: str = "i" * 25) -> PayloadKey:
    return PayloadKey("secret", payload_id, number)


def wanted(of: PayloadKey) -> WantedFile:
    return WantedFile(key=of, title='secret "s"', target="/run/secrets/s", uid=0, gid=0, mode=0o444)


@pytest.fixture
def source() -> FakePayloads:
    made = FakePayloads()
    for number in range(1, 20):
        made.put(key(number), b"%d" % number * 10)
    return made


async def test_many_tasks_that_ask_at_once_are_one_question(source: FakePayloads) -> None:
    store = PayloadStore(source)
    tasks = [TaskId(f"t{number}") for number in range(50)]
    got = await asyncio.gather(*(store.data_for(task, wanted(key())) for task in tasks))
    assert set(got) == {source.held[key()]}
    assert source.asked[key()] == 1
    await store.data_for(A, wanted(key()))
    assert source.asked[key()] == 1
    await store.close()


async def test_data_is_forgotten_with_the_last_task_that_uses_it(source: FakePayloads) -> None:
    store = PayloadStore(source)
    await store.data_for(A, wanted(key()))
    await store.data_for(B, wanted(key()))
    store.release(A)
    assert store.kept == {key()}
    store.release(B)
    store.release(B)
    assert store.kept == frozenset()
    assert store.kept_bytes == 0


async def test_only_tasks_that_are_still_there_keep_data(source: FakePayloads) -> None:
    store = PayloadStore(source)
    await store.data_for(A, wanted(key(1)))
    await store.data_for(B, wanted(key(2)))
    store.keep_only([B])
    assert store.kept == {key(2)}


async def test_two_versions_of_a_secret_are_two_things(source: FakePayloads) -> None:
    store = PayloadStore(source)
    assert await store.data_for(A, wanted(key(1))) != await store.data_for(A, wanted(key(2)))


async def test_a_failure_is_everybodys_and_the_next_question_is_a_new_one(
    source: FakePayloads,
) -> None:
    store = PayloadStore(source)
    source.is_away = True
    outcomes = await asyncio.gather(
        *(store.data_for(task, wanted(key())) for task in (A, B)), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes] == [Temporary, Temporary]
    source.is_away = False
    assert await store.data_for(A, wanted(key())) == source.held[key()]
    assert source.asked[key()] == 2


async def test_who_stops_waiting_takes_nothing_from_the_others(source: FakePayloads) -> None:
    store = PayloadStore(source)
    source.may_answer.clear()
    one, other = (asyncio.ensure_future(store.data_for(task, wanted(key()))) for task in (A, B))
    await source.was_asked.wait()
    one.cancel()
    store.release(A)
    source.may_answer.set()
    assert await other == source.held[key()]
    assert store.kept == {key()}


async def test_an_answer_that_comes_when_nobody_uses_it_is_not_kept(source: FakePayloads) -> None:
    store = PayloadStore(source)
    source.may_answer.clear()
    asking = asyncio.ensure_future(store.data_for(A, wanted(key())))
    await source.was_asked.wait()
    store.release(A)
    source.may_answer.set()
    await asking
    assert store.kept == frozenset()
    assert store.kept_bytes == 0


async def test_what_does_not_fit_is_asked_for_again_and_refused_to_nobody(
    source: FakePayloads,
) -> None:
    for store in (
        PayloadStore(source, kept_max=2),
        PayloadStore(source, kept_bytes_max=20),
    ):
        source.asked.clear()
        for number in (1, 2, 3):
            assert await store.data_for(A, wanted(key(number))) == source.held[key(number)]
        assert store.kept == {key(1), key(2)}
        assert await store.data_for(B, wanted(key(3))) == source.held[key(3)]
        assert source.asked[key(3)] == 2
        store.release(A)
        store.release(B)
        assert store.kept_bytes == 0


async def test_questions_under_way_are_bounded(source: FakePayloads) -> None:
    store = PayloadStore(source)
    source.may_answer.clear()
    numbers = range(1, FETCHES_MAX + 5)
    asking = [asyncio.ensure_future(store.data_for(A, wanted(key(n)))) for n in numbers]
    for _ in range(100):
        await asyncio.sleep(0)
    assert source.asked.total() == FETCHES_MAX
    source.may_answer.set()
    await asyncio.gather(*asking)
    assert source.asked.total() == len(asking)


async def test_data_of_no_secret_is_refused_and_none_of_it_told(source: FakePayloads) -> None:
    marker = b"top-secret"
    source.put(key(), marker * (PAYLOAD_BYTES_MAX // len(marker) + 1))
    store = PayloadStore(source)
    with pytest.raises(Refused, match=f'^secret "s": .* more than {PAYLOAD_BYTES_MAX}$') as refusal:
        await store.data_for(A, wanted(key()))
    assert "top-secret" not in repr(refusal.value)
    assert store.kept == frozenset()


async def test_closing_ends_questions_and_forgets(source: FakePayloads) -> None:
    store = PayloadStore(source)
    await store.data_for(A, wanted(key(1)))
    source.may_answer.clear()
    source.was_asked.clear()
    asking = asyncio.ensure_future(store.data_for(A, wanted(key(2))))
    await source.was_asked.wait()
    await store.close()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert store.kept == frozenset()
