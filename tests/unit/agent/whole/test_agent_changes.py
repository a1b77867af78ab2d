"""What happens to a task while it runs and as it ends: other limits, pre-stop commands, jobs."""

from typing import Any

import msgspec
import pytest

from essaim_agent.executor import adjustable_limits
from essaim_agent.fake_executor import NEVER_ENDS, Script
from essaim_agent.task_stop import GRACE_AFTER_PRE_STOP_MIN_S
from essaim_shared.container_spec import ExecAction
from essaim_shared.objects import Task
from essaim_shared.spec import Limits, Reservations, Resources
from essaim_shared.task_state import TaskState

Bench = Any
SECOND_NS = 1_000_000_000
BYE = ("say", "goodbye")


def limited(task: Task, **resources: Any) -> Task:
    spec = msgspec.structs.replace(task.spec, resources=Resources(**resources))
    return msgspec.structs.replace(task, spec=spec)


def with_pre_stop(task: Task, grace_s: int = 10) -> Task:
    container = msgspec.structs.replace(
        task.spec.container,
        pre_stop=ExecAction(command=BYE),
        stop_grace_period=grace_s * SECOND_NS,
    )
    spec = msgspec.structs.replace(task.spec, container=container)
    return msgspec.structs.replace(task, spec=spec)


def stopped(task: Task, desired: TaskState = TaskState.SHUTDOWN) -> Task:
    return msgspec.structs.replace(task, desired_state=desired)


async def reaches(bench: Bench, task: Task, state: TaskState) -> None:
    await bench.until(lambda: bench.leader.state_of(task.id) is state)


# Limits of a running container.


async def test_other_limits_reach_the_running_container(bench: Bench) -> None:
    task = limited(bench.make_task("web"), limits=Limits(memory_bytes=64 << 20))
    await bench.running(task)
    assert bench.engine.limits_updates == []
    wider = limited(task, limits=Limits(memory_bytes=128 << 20), swap_bytes=0)
    await bench.leader.order(wider)
    await bench.until(lambda: bench.engine.limits_updates)
    await bench.clock.advance(5.0)
    assert bench.engine.limits_updates == [task.id]
    assert bench.engine.containers[task.id].limits == adjustable_limits(wider)
    assert bench.leader.state_of(task.id) is TaskState.RUNNING
    assert bench.engine.starts[task.id] == 1


async def test_the_end_of_all_limits_is_a_change_too(bench: Bench) -> None:
    task = limited(bench.make_task("web"), limits=Limits(nano_cpus=1))
    await bench.running(task)
    await bench.leader.order(limited(task))
    await bench.until(lambda: bench.engine.limits_updates)
    assert bench.engine.containers[task.id].limits == (Limits(), None)


async def test_other_reservations_are_nothing_to_the_engine(bench: Bench) -> None:
    task = bench.make_task("web")
    await bench.running(task)
    await bench.leader.order(limited(task, reservations=Reservations(memory_bytes=1 << 20)))
    await bench.clock.advance(5.0)
    assert bench.engine.limits_updates == []


async def test_limits_that_the_engine_refuses_fail_the_task_so_that_it_is_replaced(
    bench: Bench,
) -> None:
    task = bench.make_task("web")
    bench.engine.script(task.id, Script(limits_error="device or resource busy"))
    await bench.running(task)
    await bench.leader.order(limited(task, limits=Limits(memory_bytes=6 << 20)))
    await reaches(bench, task, TaskState.FAILED)
    assert bench.leader.statuses[task.id].err == (
        "cannot change the limits of the running container: device or resource busy"
    )
    assert not bench.engine.containers[task.id].running


async def test_limits_that_change_while_the_engine_is_away_are_given_when_it_is_back(
    bench: Bench,
) -> None:
    task = bench.make_task("web")
    await bench.running(task)
    bench.engine.go_away()
    wider = limited(task, limits=Limits(pids=50))
    await bench.leader.order(wider)
    await bench.clock.advance(5.0)
    bench.engine.come_back()
    await bench.until(lambda: bench.engine.containers[task.id].limits == adjustable_limits(wider))
    assert bench.leader.state_of(task.id) is TaskState.RUNNING


@pytest.mark.parametrize("writes_journal", [True, False])
async def test_limits_that_an_agent_could_not_give_any_more_the_next_one_gives(
    bench: Bench, writes_journal: bool
) -> None:
    task = bench.make_task("web")
    await bench.running(task)
    bench.engine.go_away()
    wider = limited(task, limits=Limits(pids=50))
    await bench.leader.order(wider)
    await bench.clock.advance(5.0)
    await bench.agent.end(writes_journal)
    bench.engine.come_back()
    await bench.start_agent()
    await bench.until(lambda: bench.engine.containers[task.id].limits == adjustable_limits(wider))


async def test_a_restarted_agent_gives_no_limits_that_the_container_has(bench: Bench) -> None:
    task = limited(bench.make_task("web"), limits=Limits(pids=50))
    await bench.running(task)
    await bench.journal_shows(task, lambda entry: entry.status.state is TaskState.RUNNING)
    await bench.restart_agent(writes_journal=False)
    await bench.clock.advance(5.0)
    assert bench.engine.limits_updates == []


async def test_limits_that_change_before_the_start_are_those_it_starts_with(bench: Bench) -> None:
    task = bench.make_task("web", desired=TaskState.READY)
    await bench.leader.order(task)
    await reaches(bench, task, TaskState.READY)
    wider = limited(task, limits=Limits(pids=50))
    await bench.leader.order(wider)
    await bench.running(msgspec.structs.replace(wider, desired_state=TaskState.RUNNING))
    assert bench.engine.containers[task.id].limits == adjustable_limits(wider)
    assert bench.engine.limits_updates == []


async def test_limits_that_change_during_the_start_follow_it(bench: Bench) -> None:
    task = bench.make_task("web")
    bench.engine.script(task.id, Script(start_delay_s=2.0))
    await bench.leader.order(task)
    await reaches(bench, task, TaskState.STARTING)
    wider = limited(task, limits=Limits(pids=50))
    await bench.leader.order(wider)
    await reaches(bench, task, TaskState.RUNNING)
    await bench.until(lambda: bench.engine.containers[task.id].limits == adjustable_limits(wider))


# Pre-stop commands.


@pytest.mark.parametrize("desired", [TaskState.SHUTDOWN, TaskState.REMOVE])
async def test_a_pre_stop_command_runs_before_the_stop_signal(
    bench: Bench, desired: TaskState
) -> None:
    task = with_pre_stop(bench.make_task("web"))
    await bench.running(task)
    await bench.leader.order(stopped(task, desired))
    await reaches(bench, task, TaskState.SHUTDOWN)
    assert [run.command for run in bench.engine.commands_run] == [BYE]
    assert [task_id for task_id, _ in bench.engine.stops] == [task.id]


async def test_its_time_is_a_part_of_the_grace_period(bench: Bench) -> None:
    task = with_pre_stop(bench.make_task("web"), grace_s=10)
    bench.engine.commands[BYE] = NEVER_ENDS
    await bench.running(task)
    await bench.leader.order(stopped(task))
    await reaches(bench, task, TaskState.SHUTDOWN)
    assert bench.engine.commands_run[0].limit_s == 10.0
    assert [grace_s for _, grace_s in bench.engine.stops] == [GRACE_AFTER_PRE_STOP_MIN_S]


async def test_a_short_grace_period_stays_short(bench: Bench) -> None:
    task = with_pre_stop(bench.make_task("web"), grace_s=1)
    bench.engine.commands[BYE] = NEVER_ENDS
    await bench.running(task)
    await bench.leader.order(stopped(task))
    await reaches(bench, task, TaskState.SHUTDOWN)
    assert [grace_s for _, grace_s in bench.engine.stops] == [1.0]


@pytest.mark.parametrize("outcome", [1, "no such file", NEVER_ENDS])
async def test_whatever_becomes_of_it_the_task_is_stopped_as_it_was_ordered(
    bench: Bench, outcome: int | str
) -> None:
    task = with_pre_stop(bench.make_task("web"))
    bench.engine.commands[BYE] = outcome
    await bench.running(task)
    await bench.leader.order(stopped(task))
    await reaches(bench, task, TaskState.SHUTDOWN)
    assert bench.leader.statuses[task.id].err == ""


async def test_a_container_that_has_ended_is_not_asked_to_say_goodbye(bench: Bench) -> None:
    task = with_pre_stop(bench.make_task("web"))
    await bench.running(task)
    bench.engine.exit(task.id, 1)
    await reaches(bench, task, TaskState.FAILED)
    await bench.leader.order(stopped(task, TaskState.REMOVE))
    await bench.until(lambda: task.id not in bench.engine.containers)
    assert bench.engine.commands_run == []


async def test_a_stop_that_meets_no_engine_says_goodbye_once_it_is_back(bench: Bench) -> None:
    task = with_pre_stop(bench.make_task("web"))
    await bench.running(task)
    bench.engine.go_away()
    await bench.leader.order(stopped(task))
    await bench.clock.advance(15.0)
    assert bench.engine.commands_run == []
    bench.engine.come_back()
    await reaches(bench, task, TaskState.SHUTDOWN)
    assert [run.command for run in bench.engine.commands_run] == [BYE]
    (_, grace_s), *again = bench.engine.stops
    assert grace_s == pytest.approx(10.0, abs=0.5)
    assert again == []


async def test_an_agent_that_dies_during_the_pre_stop_command_leaves_the_stop_to_the_next(
    bench: Bench,
) -> None:
    task = with_pre_stop(bench.make_task("web"))
    bench.engine.commands[BYE] = NEVER_ENDS
    await bench.running(task)
    await bench.leader.order(stopped(task))
    await bench.until(lambda: bench.engine.commands_run)
    await bench.restart_agent(writes_journal=False)
    await reaches(bench, task, TaskState.SHUTDOWN)
    assert not bench.engine.starts[task.id] > 1


# Jobs.


@pytest.mark.parametrize(("code", "state"), [(0, TaskState.COMPLETE), (3, TaskState.FAILED)])
async def test_a_task_that_is_to_complete_runs_to_its_end(
    bench: Bench, code: int, state: TaskState
) -> None:
    job = bench.make_task("job", desired=TaskState.COMPLETE)
    await bench.running(job)
    await bench.clock.advance(30.0)
    assert bench.leader.state_of(job.id) is TaskState.RUNNING
    bench.engine.exit(job.id, code)
    await reaches(bench, job, state)
    assert bench.leader.statuses[job.id].exit_code == code


@pytest.mark.parametrize("writes_journal", [True, False])
async def test_a_job_that_ended_while_no_agent_watched_is_not_run_again(
    bench: Bench, writes_journal: bool
) -> None:
    job = bench.make_task("job", desired=TaskState.COMPLETE)
    await bench.running(job)
    await bench.agent.end(writes_journal)
    bench.engine.exit(job.id, 0)
    await bench.start_agent()
    await reaches(bench, job, TaskState.COMPLETE)
    await bench.clock.advance(10.0)
    assert bench.engine.starts[job.id] == 1
