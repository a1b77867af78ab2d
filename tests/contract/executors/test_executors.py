"""What every executor promises, asked of each."""

import asyncio
from typing import Any

import pytest

from essaim_agent.executor import (
    ContainerExit,
    ExecutorError,
    FoundContainer,
    RunningContainer,
    Temporary,
)
from essaim_shared.objects import Task

PATIENCE_S = 30.0
Bench = Any
"""An executor and what the tests must know of it; `conftest.py` says what it has."""


async def run(bench: Bench, task: Task) -> RunningContainer:
    await bench.executor.prepare(task)
    return await bench.executor.start(task, bench.namespace())


async def next_exit(bench: Bench, task: Task) -> ContainerExit:
    async with asyncio.timeout(PATIENCE_S):
        async for ended in bench.executor.events():
            if ended.task_id == task.id:
                return ended
    raise AssertionError("the exits ended")


async def found(bench: Bench, task: Task) -> FoundContainer | None:
    containers = {container.task_id: container for container in await bench.executor.found()}
    return containers.get(task.id)


async def found_ended(bench: Bench, task: Task) -> FoundContainer:
    """An engine may show an end a moment after it has told it."""
    async with asyncio.timeout(PATIENCE_S):
        while (seen := await found(bench, task)) is None or seen.running:
            pass
    return seen


async def test_the_node_has_processors_and_memory(bench: Bench) -> None:
    resources = await bench.executor.open()
    assert resources.nano_cpus >= 1_000_000_000
    assert resources.memory_bytes > 2**20
    assert resources.architecture
    assert resources.engine_version


async def test_a_started_task_is_found_running(bench: Bench) -> None:
    task = bench.sleeper()
    container = await run(bench, task)
    seen = await found(bench, task)
    assert seen is not None
    assert (seen.container_id, seen.running, seen.started) == (container.container_id, True, True)


async def test_starting_twice_starts_one_container(bench: Bench) -> None:
    task = bench.sleeper()
    first = await run(bench, task)
    second = await run(bench, task)
    assert first.container_id == second.container_id
    assert len(await bench.executor.found()) == 1


@pytest.mark.parametrize("code", [0, 3])
async def test_an_exit_is_told_with_its_code(bench: Bench, code: int) -> None:
    task = bench.exiter(code)
    await run(bench, task)
    ended = await next_exit(bench, task)
    assert (ended.task_id, ended.exit_code) == (task.id, code)
    seen = await found_ended(bench, task)
    assert (seen.running, seen.started, seen.exit_code) == (False, True, code)


async def test_a_task_that_has_ended_is_not_started_again(bench: Bench) -> None:
    task = bench.exiter(3)
    await run(bench, task)
    await next_exit(bench, task)
    with pytest.raises(ExecutorError, match="ended already") as refusal:
        await bench.executor.start(task, bench.namespace())
    assert not isinstance(refusal.value, Temporary)


async def test_exits_between_the_opening_and_the_listening_are_not_lost(bench: Bench) -> None:
    quick = bench.exiter(0)
    await run(bench, quick)
    other = bench.sleeper()
    await run(bench, other)  # time passes before anybody listens
    assert (await next_exit(bench, quick)).task_id == quick.id


async def test_a_stop_is_told_to_the_caller_and_to_the_listener(bench: Bench) -> None:
    task = bench.sleeper()
    await run(bench, task)
    await bench.ready(task)
    assert await bench.executor.stop(task) == bench.polite_exit_code
    assert (await next_exit(bench, task)).exit_code == bench.polite_exit_code


async def test_a_task_that_ignores_the_stop_signal_is_killed_after_its_grace(
    bench: Bench,
) -> None:
    task = bench.stubborn()
    await run(bench, task)
    assert await bench.executor.stop(task) == 137


async def test_stops_do_not_wait_for_one_another(bench: Bench) -> None:
    """All signals are sent before the first grace period is over."""
    tasks = [bench.stubborn() for _ in range(4)]
    await asyncio.gather(*(run(bench, task) for task in tasks))
    codes = await asyncio.gather(*(bench.executor.stop(task) for task in tasks))
    assert codes == [137] * 4


async def test_stopping_what_is_not_there_finds_nothing(bench: Bench) -> None:
    assert await bench.executor.stop(bench.sleeper()) is None


async def test_stopping_what_has_ended_gives_its_exit_code(bench: Bench) -> None:
    task = bench.exiter(3)
    await run(bench, task)
    await next_exit(bench, task)
    assert await bench.executor.stop(task) == 3


async def test_a_removed_task_is_found_no_more(bench: Bench) -> None:
    task = bench.sleeper()
    await run(bench, task)
    await bench.executor.remove(task.id)
    assert await found(bench, task) is None
    await bench.executor.remove(task.id)  # and again, which is no error


async def test_what_can_never_run_is_refused_before_the_start(bench: Bench) -> None:
    with pytest.raises(ExecutorError) as refusal:
        await bench.executor.prepare(bench.impossible())
    assert bench.impossible_text in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert not isinstance(refusal.value, Temporary)


async def test_tasks_outlive_the_agent_and_are_found_by_the_next(bench: Bench) -> None:
    task = bench.sleeper()
    container = await run(bench, task)
    await bench.new_agent()
    await bench.executor.open()
    seen = await found(bench, task)
    assert seen is not None
    assert (seen.container_id, seen.running) == (container.container_id, True)
    assert (await run(bench, task)).container_id == container.container_id
    await bench.ready(task)
    code = await bench.executor.stop(task)
    assert code == (bench.polite_exit_code if bench.knows_exit_codes_of_adopted else 255)
    ended = await next_exit(bench, task)
    assert (ended.task_id, ended.exit_code) == (task.id, code)
    await bench.executor.remove(task.id)
    assert await found(bench, task) is None


async def test_a_task_that_ended_while_no_agent_watched_is_found_ended(bench: Bench) -> None:
    task = bench.exiter(3)
    await run(bench, task)
    await next_exit(bench, task)
    await bench.new_agent()
    await bench.executor.open()
    seen = await found_ended(bench, task)
    assert (seen.running, seen.started, seen.exit_code) == (False, True, 3)


async def test_an_engine_that_restarts_ends_the_exits_and_keeps_the_tasks(bench: Bench) -> None:
    if not bench.engine_can_restart:
        return  # processes have no engine that could go away
    task = bench.sleeper()
    container = await run(bench, task)
    listening = asyncio.ensure_future(_drain(bench))
    await bench.restart_engine()
    async with asyncio.timeout(PATIENCE_S):
        await listening
        while True:
            try:
                await bench.executor.open()
                break
            except Temporary:
                await asyncio.sleep(0)
    seen = await found(bench, task)
    assert seen is not None
    assert (seen.container_id, seen.running) == (container.container_id, True)


async def _drain(bench: Bench) -> list[ContainerExit]:
    return [ended async for ended in bench.executor.events()]
