"""A task that has to show how it is: health checks and probes, from the first answer to the end.

Health checks are the engine's and come as its events; the probes here are commands, whose answers
stand in `bench.engine.commands`.
"""

from typing import Any

import msgspec
import pytest

from essaim_agent.executor import Health
from essaim_agent.fake_executor import NEVER_ENDS, Script
from essaim_shared.container_spec import ExecAction, Probe, Probes
from essaim_shared.objects import Task, TaskStatus
from essaim_shared.task_state import TaskState

Bench = Any
SECOND_NS = 1_000_000_000
STARTUP, READINESS, LIVENESS = ("started",), ("ready",), ("live",)
UNHEALTHY = "dockerexec: unhealthy container"


def probe(command: tuple[str, ...], **fields: int) -> Probe:
    return Probe(exec_=ExecAction(command=command), period=SECOND_NS, **fields)


def with_probes(task: Task, **probes: Probe) -> Task:
    container = msgspec.structs.replace(task.spec.container, probes=Probes(**probes))
    spec = msgspec.structs.replace(task.spec, container=container)
    return msgspec.structs.replace(task, spec=spec)


def checked(bench: Bench) -> Task:
    """A task with a health check."""
    task: Task = bench.make_task("checked")
    bench.engine.script(task.id, Script(has_health_check=True))
    return task


def with_endless_grace(task: Task) -> Task:
    container = msgspec.structs.replace(task.spec.container, stop_grace_period=10**15)
    spec = msgspec.structs.replace(task.spec, container=container)
    return msgspec.structs.replace(task, spec=spec)


def status(bench: Bench, task: Task) -> TaskStatus:
    told: TaskStatus = bench.leader.statuses[task.id]
    return told


async def reaches(bench: Bench, task: Task, state: TaskState) -> None:
    await bench.until(lambda: bench.leader.state_of(task.id) is state)


async def stays(bench: Bench, task: Task, state: TaskState, seconds: float = 6.0) -> None:
    for _ in range(int(seconds / 0.25)):
        await bench.clock.advance(0.25)
        assert bench.leader.state_of(task.id) is state


def asked(bench: Bench, command: tuple[str, ...]) -> int:
    return sum(run.command == command for run in bench.engine.commands_run)


# Health checks.


async def test_a_task_with_a_health_check_runs_once_it_is_healthy(bench: Bench) -> None:
    task = checked(bench)
    await bench.leader.order(task)
    await reaches(bench, task, TaskState.STARTING)
    await stays(bench, task, TaskState.STARTING)
    bench.engine.set_health(task.id, Health.HEALTHY)
    await reaches(bench, task, TaskState.RUNNING)
    assert status(bench, task).is_ready


async def test_a_verdict_that_is_quicker_than_the_answer_to_the_start_is_not_lost(
    bench: Bench,
) -> None:
    task = checked(bench)
    quick = Script(has_health_check=True, health_at_start=Health.HEALTHY)
    bench.engine.script(task.id, quick)
    await bench.running(task)


@pytest.mark.parametrize("was_healthy", [False, True])
async def test_an_unhealthy_container_is_stopped_and_its_task_fails_in_swarms_words(
    bench: Bench, was_healthy: bool
) -> None:
    task = checked(bench)
    await bench.leader.order(task)
    await reaches(bench, task, TaskState.STARTING)
    if was_healthy:
        bench.engine.set_health(task.id, Health.HEALTHY)
        await reaches(bench, task, TaskState.RUNNING)
    bench.engine.set_health(task.id, Health.UNHEALTHY)
    await reaches(bench, task, TaskState.FAILED)
    assert status(bench, task).err == f"task: non-zero exit (143): {UNHEALTHY}"
    assert not bench.engine.containers[task.id].running


async def test_a_container_that_ends_while_it_is_starting_says_how(bench: Bench) -> None:
    task = checked(bench)
    await bench.leader.order(task)
    await reaches(bench, task, TaskState.STARTING)
    bench.engine.exit(task.id, 3)
    await reaches(bench, task, TaskState.FAILED)
    assert status(bench, task).err == "task: non-zero exit (3)"


async def test_a_task_that_turns_unhealthy_because_it_is_being_stopped_was_stopped(
    bench: Bench,
) -> None:
    task = checked(bench)
    slow = Script(has_health_check=True, health_at_start=Health.HEALTHY, ignores_stop=True)
    bench.engine.script(task.id, slow)
    await bench.running(task)
    await bench.leader.order(msgspec.structs.replace(task, desired_state=TaskState.SHUTDOWN))
    await bench.until(lambda: bench.engine.stops)
    bench.engine.set_health(task.id, Health.UNHEALTHY)
    await reaches(bench, task, TaskState.SHUTDOWN)
    assert status(bench, task).err == ""


@pytest.mark.parametrize("writes_journal", [True, False])
async def test_a_restarted_agent_takes_the_health_from_its_look_at_the_engine(
    bench: Bench, writes_journal: bool
) -> None:
    task = checked(bench)
    await bench.leader.order(task)
    await reaches(bench, task, TaskState.STARTING)
    await bench.restart_agent(writes_journal)
    await stays(bench, task, TaskState.STARTING)
    await bench.agent.end(writes_journal)
    bench.engine.set_health(task.id, Health.HEALTHY)
    await bench.start_agent()
    await reaches(bench, task, TaskState.RUNNING)
    await bench.agent.end(writes_journal)
    bench.engine.set_health(task.id, Health.UNHEALTHY)
    await bench.start_agent()
    await reaches(bench, task, TaskState.FAILED)
    assert status(bench, task).err.endswith(UNHEALTHY)
    assert bench.engine.starts[task.id] == 1


async def test_an_engine_that_checks_anew_after_its_restart_changes_nothing(bench: Bench) -> None:
    task = checked(bench)
    await bench.leader.order(task)
    await reaches(bench, task, TaskState.STARTING)
    bench.engine.set_health(task.id, Health.HEALTHY)
    await reaches(bench, task, TaskState.RUNNING)
    bench.engine.go_away()
    await bench.clock.advance(1.0)
    bench.engine.come_back()
    await stays(bench, task, TaskState.RUNNING)


async def test_an_agent_that_dies_while_it_stops_an_unhealthy_container_knows_why_afterwards(
    bench: Bench,
) -> None:
    # The clock goes on while the disk is waited for.
    task = with_endless_grace(checked(bench))
    stubborn = Script(has_health_check=True, health_at_start=Health.HEALTHY, ignores_stop=True)
    bench.engine.script(task.id, stubborn)
    await bench.running(task)
    bench.engine.set_health(task.id, Health.UNHEALTHY)
    await bench.until(lambda: bench.engine.stops)
    await bench.journal_shows(task, lambda entry: entry.is_unhealthy)
    await bench.agent.end(writes_journal=False)
    bench.engine.exit(task.id, 0)
    await bench.start_agent()
    await reaches(bench, task, TaskState.FAILED)
    assert status(bench, task).err == UNHEALTHY


# Probes.


async def test_a_start_up_probe_holds_the_task_and_its_other_probes_back(bench: Bench) -> None:
    task = with_probes(
        bench.make_task("slow"),
        startup=probe(STARTUP, failure_threshold=100),
        liveness=probe(LIVENESS),
    )
    bench.engine.commands[STARTUP] = 1
    await bench.leader.order(task)
    await reaches(bench, task, TaskState.STARTING)
    await stays(bench, task, TaskState.STARTING)
    assert asked(bench, LIVENESS) == 0
    bench.engine.commands[STARTUP] = 0
    await reaches(bench, task, TaskState.RUNNING)
    asked_before = asked(bench, STARTUP)
    await bench.until(lambda: asked(bench, LIVENESS) > 2)
    assert asked(bench, STARTUP) == asked_before


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        (1, "started: exit code 1"),
        (NEVER_ENDS, "no answer within 1 s"),
        ("no such file: started", "no such file: started"),
    ],
)
async def test_a_start_up_probe_that_fails_too_often_fails_the_task_with_its_reason(
    bench: Bench, outcome: int | str, reason: str
) -> None:
    task = with_probes(bench.make_task("broken"), startup=probe(STARTUP))
    bench.engine.commands[STARTUP] = outcome
    await bench.leader.order(task)
    await reaches(bench, task, TaskState.FAILED)
    assert status(bench, task).err == f"startup probe failed: {reason}"
    assert asked(bench, STARTUP) == 3
    assert not bench.engine.containers[task.id].running


async def test_a_liveness_probe_that_fails_in_a_row_stops_the_container(bench: Bench) -> None:
    task = with_probes(bench.make_task("hung"), liveness=probe(LIVENESS))
    await bench.running(task)
    await stays(bench, task, TaskState.RUNNING)
    bench.engine.commands[LIVENESS] = 7
    await reaches(bench, task, TaskState.FAILED)
    assert status(bench, task).err == "liveness probe failed: live: exit code 7"
    asked_until_its_end = asked(bench, LIVENESS)
    await bench.clock.advance(5.0)
    assert asked(bench, LIVENESS) == asked_until_its_end


async def test_readiness_comes_and_goes_while_the_task_runs(bench: Bench) -> None:
    task = with_probes(bench.make_task("web"), readiness=probe(READINESS))
    bench.engine.commands[READINESS] = 1
    await bench.running(task)
    assert not status(bench, task).is_ready
    seen = [status(bench, task).readiness_changes]
    for outcome in (0, 1, 0):
        bench.engine.commands[READINESS] = outcome
        await bench.until(lambda outcome=outcome: status(bench, task).is_ready is (outcome == 0))
        assert bench.leader.state_of(task.id) is TaskState.RUNNING
        seen.append(status(bench, task).readiness_changes)
        reason = "readiness probe failed: ready: exit code 1"
        assert status(bench, task).err == ("" if outcome == 0 else reason)
    assert seen == sorted(set(seen))


async def test_a_task_without_a_readiness_probe_is_ready_from_the_start(bench: Bench) -> None:
    task = with_probes(bench.make_task("web"), liveness=probe(LIVENESS))
    await bench.running(task)
    assert status(bench, task).is_ready
    assert status(bench, task).readiness_changes == 0


@pytest.mark.parametrize("writes_journal", [True, False])
async def test_a_restarted_agent_goes_on_probing_and_readiness_does_not_flap(
    bench: Bench, writes_journal: bool
) -> None:
    task = with_probes(bench.make_task("web"), readiness=probe(READINESS))
    await bench.running(task)
    await bench.until(lambda: status(bench, task).is_ready)
    await bench.journal_shows(task, lambda entry: entry.status == status(bench, task))
    told = len(bench.leader.reports)
    await bench.restart_agent(writes_journal)
    asked_before = asked(bench, READINESS)
    await bench.until(lambda: asked(bench, READINESS) > asked_before + 2)
    said = [item.status for report in bench.leader.reports[told:] for item in report.statuses]
    assert all(item.is_ready for item in said)
    bench.engine.commands[READINESS] = 1
    await bench.until(lambda: not status(bench, task).is_ready)


async def test_what_a_restarted_agent_says_of_readiness_counts_more_than_what_its_journal_missed(
    bench: Bench,
) -> None:
    """Killed after the masters heard of a change and before its journal did."""
    task = with_probes(bench.make_task("web"), readiness=probe(READINESS))
    await bench.running(task)
    await bench.until(lambda: status(bench, task).is_ready)
    await bench.journal_shows(task, lambda entry: entry.status == status(bench, task))
    old_journal = (bench.directory / "assignments").read_bytes()
    bench.engine.commands[READINESS] = 1
    await bench.until(lambda: not status(bench, task).is_ready)
    heard = status(bench, task)
    await bench.agent.end(writes_journal=False)
    (bench.directory / "assignments").write_bytes(old_journal)
    bench.engine.commands[READINESS] = 0
    await bench.start_agent()
    await bench.until(lambda: status(bench, task) != heard)
    assert status(bench, task).is_ready
    assert status(bench, task).readiness_changes > heard.readiness_changes


async def test_a_restarted_agent_does_not_start_up_again_what_ran(bench: Bench) -> None:
    task = with_probes(bench.make_task("web"), startup=probe(STARTUP), liveness=probe(LIVENESS))
    await bench.running(task)
    await bench.journal_shows(task, lambda entry: entry.status == status(bench, task))
    asked_before = asked(bench, STARTUP)
    bench.engine.commands[STARTUP] = 1
    await bench.restart_agent(writes_journal=False)
    await bench.until(lambda: asked(bench, LIVENESS) > 3)
    assert asked(bench, STARTUP) == asked_before
    assert bench.leader.state_of(task.id) is TaskState.RUNNING


async def test_a_start_up_that_an_agents_restart_interrupts_goes_on(bench: Bench) -> None:
    task = with_probes(bench.make_task("slow"), startup=probe(STARTUP, failure_threshold=100))
    bench.engine.commands[STARTUP] = 1
    await bench.leader.order(task)
    await reaches(bench, task, TaskState.STARTING)
    await bench.restart_agent()
    await stays(bench, task, TaskState.STARTING)
    bench.engine.commands[STARTUP] = 0
    await reaches(bench, task, TaskState.RUNNING)
    assert bench.engine.starts[task.id] == 1


async def test_an_engine_that_is_away_says_nothing_about_its_tasks(bench: Bench) -> None:
    task = with_probes(bench.make_task("web"), readiness=probe(READINESS), liveness=probe(LIVENESS))
    await bench.running(task)
    await bench.until(lambda: status(bench, task).is_ready)
    bench.engine.go_away()
    await stays(bench, task, TaskState.RUNNING, seconds=20.0)
    bench.engine.come_back()
    asked_before = asked(bench, LIVENESS)
    await bench.until(lambda: asked(bench, LIVENESS) > asked_before + 3)
    assert status(bench, task).is_ready
    assert bench.leader.state_of(task.id) is TaskState.RUNNING


async def test_a_stopped_task_is_asked_no_more(bench: Bench) -> None:
    task = with_probes(bench.make_task("web"), readiness=probe(READINESS))
    await bench.running(task)
    await bench.leader.order(msgspec.structs.replace(task, desired_state=TaskState.SHUTDOWN))
    await reaches(bench, task, TaskState.SHUTDOWN)
    asked_before = asked(bench, READINESS)
    await bench.clock.advance(5.0)
    assert asked(bench, READINESS) == asked_before


async def test_readiness_of_many_tasks_costs_the_leader_few_reports(bench: Bench) -> None:
    tasks = [
        with_probes(bench.make_task(f"web{number}"), readiness=probe(READINESS))
        for number in range(50)
    ]
    bench.engine.commands[READINESS] = 1
    await bench.running(*tasks)
    told = len(bench.leader.reports)
    bench.engine.commands[READINESS] = 0
    await bench.until(lambda: all(status(bench, task).is_ready for task in tasks))
    assert len(bench.leader.reports) - told <= 8
