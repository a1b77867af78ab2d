"""What every executor promises, asked of each."""

import asyncio
import contextlib
from typing import Any

import msgspec
import pytest

from essaim_agent.executor import (
    CommandTimeout,
    ContainerEvent,
    ContainerExit,
    ExecutorError,
    FoundContainer,
    Health,
    HealthChange,
    RunningContainer,
    Temporary,
)
from essaim_shared.objects import Task
from essaim_shared.spec import Limits, Resources

PATIENCE_S = 30.0
Bench = Any
"""An executor and what the tests must know of it; `conftest.py` says what it has."""


async def run(bench: Bench, task: Task) -> RunningContainer:
    await bench.executor.prepare(task)
    return await bench.executor.start(task, bench.namespace())


async def next_exit(bench: Bench, task: Task) -> ContainerExit:
    async with asyncio.timeout(PATIENCE_S):
        async for event in bench.executor.events():
            if isinstance(event, ContainerExit) and event.task_id == task.id:
                return event
    raise AssertionError("the events ended")


async def next_health(bench: Bench, task: Task) -> Health:
    async with asyncio.timeout(PATIENCE_S):
        async for event in bench.executor.events():
            if isinstance(event, HealthChange) and event.task_id == task.id:
                return event.health
    raise AssertionError("the events ended")


async def found_health(bench: Bench, task: Task) -> Health | None:
    seen = await found(bench, task)
    return None if seen is None else seen.health


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


async def test_a_grace_period_may_be_cut_short(bench: Bench) -> None:
    task = bench.stubborn()
    patient = msgspec.structs.replace(task.spec.container, stop_grace_period=3600 * 10**9)
    task = msgspec.structs.replace(task, spec=msgspec.structs.replace(task.spec, container=patient))
    await run(bench, task)
    async with asyncio.timeout(PATIENCE_S):
        assert await bench.executor.stop(task, 0.05) == 137


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


async def test_a_template_that_cannot_be_filled_in_is_refused_before_the_start(
    bench: Bench,
) -> None:
    task = bench.sleeper()
    container = msgspec.structs.replace(task.spec.container, env=("A={{.Node.Nothing}}",))
    task = msgspec.structs.replace(
        task, spec=msgspec.structs.replace(task.spec, container=container)
    )
    with pytest.raises(ExecutorError, match="can't evaluate field Nothing") as refusal:
        await bench.executor.prepare(task)
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
    await _reopen(bench)
    seen = await found(bench, task)
    assert seen is not None
    assert (seen.container_id, seen.running) == (container.container_id, True)


# Health checks.


async def test_a_container_without_a_health_check_has_no_health(bench: Bench) -> None:
    task = bench.sleeper()
    assert (await run(bench, task)).health is Health.NONE
    assert await found_health(bench, task) is Health.NONE


async def test_a_health_check_is_starting_then_tells_each_verdict(bench: Bench) -> None:
    if not bench.has_health_checks:
        return
    task = bench.checked()
    assert (await run(bench, task)).health is Health.STARTING
    assert await found_health(bench, task) is Health.STARTING
    for health in (Health.HEALTHY, Health.UNHEALTHY):
        await bench.set_health(task, health)
        assert await next_health(bench, task) is health
        assert await found_health(bench, task) is health


async def test_the_next_agent_finds_the_health_that_was_told_to_none(bench: Bench) -> None:
    if not bench.has_health_checks:
        return
    task = bench.checked()
    await run(bench, task)
    await bench.set_health(task, Health.HEALTHY)
    await next_health(bench, task)
    await bench.new_agent()
    await bench.executor.open()
    assert await found_health(bench, task) is Health.HEALTHY
    assert (await run(bench, task)).health in (Health.HEALTHY, Health.STARTING)


async def test_an_engine_that_restarts_checks_anew(bench: Bench) -> None:
    if not bench.has_health_checks:
        return
    task = bench.checked()
    await run(bench, task)
    await bench.set_health(task, Health.HEALTHY)
    await next_health(bench, task)
    await bench.restart_engine()
    await _reopen(bench)
    assert await found_health(bench, task) in (Health.STARTING, Health.HEALTHY)


# Commands in running containers.


@pytest.mark.parametrize("code", [0, 3])
async def test_a_command_gives_its_exit_code(bench: Bench, code: int) -> None:
    task = bench.sleeper()
    await run(bench, task)
    assert await bench.executor.run_command(task, bench.command(code), PATIENCE_S) == code


async def test_a_command_that_takes_too_long_is_killed(bench: Bench) -> None:
    task = bench.sleeper()
    await run(bench, task)
    command = bench.endless_command()
    with pytest.raises(CommandTimeout, match=r"did not end within 0\.2 s"):
        await bench.executor.run_command(task, command, 0.2)
    assert await bench.command_is_gone(command)
    seen = await found(bench, task)
    assert seen is not None
    assert seen.running


async def test_a_command_that_does_not_exist_is_refused_in_one_line(bench: Bench) -> None:
    task = bench.sleeper()
    await run(bench, task)
    command = bench.missing_command()
    with pytest.raises(ExecutorError, match=command[0]) as refusal:
        await bench.executor.run_command(task, command, PATIENCE_S)
    assert not isinstance(refusal.value, Temporary)
    assert "\n" not in str(refusal.value)


async def test_no_command_runs_in_what_is_not_there_or_has_ended(bench: Bench) -> None:
    with pytest.raises(ExecutorError):
        await bench.executor.run_command(bench.sleeper(), bench.command(0), PATIENCE_S)
    ended = bench.exiter(0)
    await run(bench, ended)
    await next_exit(bench, ended)
    with pytest.raises(ExecutorError):
        await bench.executor.run_command(ended, bench.command(0), PATIENCE_S)


async def test_commands_do_not_wait_for_one_another(bench: Bench) -> None:
    """More of them than threads: one that hangs holds none."""
    task = bench.sleeper()
    await run(bench, task)
    hanging = [
        asyncio.ensure_future(bench.executor.run_command(task, bench.endless_command(), 2.0))
        for _ in range(20)
    ]
    assert await bench.executor.run_command(task, bench.command(0), PATIENCE_S) == 0
    outcomes = await asyncio.gather(*hanging, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {CommandTimeout}


async def test_a_command_ends_with_its_container(bench: Bench) -> None:
    task = bench.sleeper()
    await run(bench, task)
    await bench.ready(task)
    command = bench.endless_command()
    running = asyncio.ensure_future(bench.executor.run_command(task, command, 2.0))
    await bench.executor.stop(task, 0.05)
    with contextlib.suppress(ExecutorError):
        assert await running != 0
    await bench.executor.remove(task.id)
    assert await bench.command_is_gone(command)


# Files of secrets and configs.


async def test_a_task_is_given_the_files_of_its_secrets_or_refused_in_words(bench: Bench) -> None:
    task = bench.with_files(bench.sleeper(), secret=b"s3cret", config=b"a = 1")
    if not bench.gives_files:
        with pytest.raises(ExecutorError, match="cannot be given secrets") as refusal:
            await bench.executor.prepare(task)
        assert not isinstance(refusal.value, Temporary)
        return
    await bench.files.prepare(task)
    await run(bench, task)
    assert bench.file_in(task, "/run/secrets/secret") == (b"s3cret", 1000, 2000, 0o440)
    assert bench.file_in(task, "/config") == (b"a = 1", 1000, 2000, 0o440)
    await bench.new_agent()
    await bench.executor.open()
    await bench.files.prepare(task)
    assert bench.file_in(task, "/run/secrets/secret")[0] == b"s3cret"
    assert bench.payloads.asked.total() == 2


# Limits.


def limited(task: Task, **resources: Any) -> Task:
    spec = msgspec.structs.replace(task.spec, resources=Resources(**resources))
    return msgspec.structs.replace(task, spec=spec)


async def test_limits_can_be_given_again_and_again_and_taken_back(bench: Bench) -> None:
    task = bench.sleeper()
    wider = limited(task, limits=Limits(memory_bytes=64 << 20, nano_cpus=10**9, pids=100))
    await run(bench, task)
    if not bench.changes_limits:
        with pytest.raises(ExecutorError, match="cannot be limited"):
            await bench.executor.update_limits(wider)
        return
    for _ in range(2):
        await bench.executor.update_limits(wider)
    await bench.executor.update_limits(task)
    await bench.executor.update_limits(wider)
    seen = await found(bench, task)
    assert seen is not None
    assert seen.running


async def test_limits_of_what_is_not_there_are_refused(bench: Bench) -> None:
    task = limited(bench.sleeper(), limits=Limits(pids=100))
    with pytest.raises(ExecutorError):
        await bench.executor.update_limits(task)


async def _reopen(bench: Bench) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                await bench.executor.open()
                return
            except Temporary:
                await asyncio.sleep(0)


async def _drain(bench: Bench) -> list[ContainerEvent]:
    return [event async for event in bench.executor.events()]
