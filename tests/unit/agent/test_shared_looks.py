"""Tasks that ask for their connections at the same time, and looks that are counted."""

import asyncio
from collections.abc import Mapping

import pytest

from essaim_agent.network import NetworkError
from essaim_agent.overlay.shared_looks import AGE_MAX_S, SharedLooks
from essaim_shared.clock import ManualClock
from essaim_shared.ids import TaskId

TASKS = [TaskId(f"t{number}") for number in range(60)]


class Kernel:
    """Has a connection to each task of an even number; a look takes as long as is said."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self.looks: list[frozenset[TaskId]] = []
        self.takes_s = 0.0
        self.is_broken = False

    async def look(self, asked: frozenset[TaskId]) -> Mapping[TaskId, int]:
        self.looks.append(asked)
        await self._clock.sleep(self.takes_s)
        if self.is_broken:
            raise NetworkError("no memory")
        return {task_id: 1 - int(task_id[1:]) % 2 for task_id in asked}


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def kernel(clock: ManualClock) -> Kernel:
    return Kernel(clock)


@pytest.fixture
def looks(kernel: Kernel, clock: ManualClock) -> SharedLooks:
    return SharedLooks(kernel.look, clock)


@pytest.mark.parametrize("takes_s", [0.0, 3 * AGE_MAX_S])
async def test_all_tasks_of_a_removed_service_cost_two_looks_each_time_they_ask(
    looks: SharedLooks, kernel: Kernel, clock: ManualClock, takes_s: float
) -> None:
    kernel.takes_s = takes_s
    for turn in range(1, 4):
        asking = asyncio.gather(*map(looks.connections, TASKS))
        await clock.advance(0)  # they ask
        await clock.advance(3 * takes_s, settle_rounds=200)
        assert await asking == [1 - number % 2 for number in range(len(TASKS))]
        assert len(kernel.looks) <= 2 * turn
        await clock.advance(2 * AGE_MAX_S)


async def test_what_was_seen_a_moment_ago_is_not_looked_at_again(
    looks: SharedLooks, kernel: Kernel, clock: ManualClock
) -> None:
    await looks.connections(TASKS[0])
    await clock.advance(AGE_MAX_S / 2)
    assert await looks.connections(TASKS[0]) == 1
    assert len(kernel.looks) == 1
    await clock.advance(AGE_MAX_S)
    await looks.connections(TASKS[0])
    assert len(kernel.looks) == 2


async def test_a_task_that_asks_while_others_are_looked_at_is_answered_for_itself(
    looks: SharedLooks, kernel: Kernel, clock: ManualClock
) -> None:
    kernel.takes_s = 0.05
    first = asyncio.ensure_future(looks.connections(TASKS[0]))
    await clock.advance(0)
    second = asyncio.ensure_future(looks.connections(TASKS[1]))
    await clock.advance(0)
    await clock.advance(0.1)
    assert (await first, await second) == (1, 0)
    assert kernel.looks == [{TASKS[0]}, {TASKS[0], TASKS[1]}]


async def test_who_gave_up_waiting_is_not_looked_for(
    looks: SharedLooks, kernel: Kernel, clock: ManualClock
) -> None:
    kernel.takes_s = 0.05
    first = asyncio.ensure_future(looks.connections(TASKS[0]))
    gone = asyncio.ensure_future(looks.connections(TASKS[1]))
    last = asyncio.ensure_future(looks.connections(TASKS[2]))
    await clock.advance(0)
    gone.cancel()
    await clock.advance(0.2)
    assert (await first, await last) == (1, 1)
    assert kernel.looks[-1] == {TASKS[0], TASKS[2]}


async def test_a_look_that_fails_is_told_to_who_looked_and_the_next_one_looks_again(
    looks: SharedLooks, kernel: Kernel
) -> None:
    kernel.is_broken = True
    with pytest.raises(NetworkError, match="no memory"):
        await looks.connections(TASKS[0])
    kernel.is_broken = False
    assert await looks.connections(TASKS[0]) == 1
