"""Secrets of tasks: there before the container, asked for once, gone when the task is over."""

from typing import Any

import msgspec
import pytest

from essaim_agent.payloads.references import PayloadKey
from essaim_shared.container_spec import ReferencedFile, SecretReference
from essaim_shared.ids import TaskId
from essaim_shared.objects import Task
from essaim_shared.task_state import TaskState

KEY = PayloadKey("secret", "s" * 25, 2)
DATA = b"marker-of-the-secret"


def with_secret(task: Task) -> Task:
    reference = SecretReference(
        file=ReferencedFile(name="password"),
        secret_id=KEY.id,
        secret_name="password",
        data_version=KEY.number,
    )
    container = msgspec.structs.replace(task.spec.container, secrets=(reference,))
    return msgspec.structs.replace(
        task, spec=msgspec.structs.replace(task.spec, container=container)
    )


@pytest.fixture
def task(bench: Any) -> Task:
    bench.payloads.put(KEY, DATA)
    made: Task = with_secret(bench.make_task("a"))
    return made


def files_of(bench: Any, task: Task) -> list[tuple[str, bytes]]:
    return [(file.target, data) for file, data in bench.engine.containers[task.id].files]


async def test_a_container_is_made_with_the_files_of_its_secrets(bench: Any, task: Task) -> None:
    await bench.running(task)
    assert files_of(bench, task) == [("/run/secrets/password", DATA)]


async def test_many_tasks_of_a_node_cost_the_masters_one_question(bench: Any, task: Task) -> None:
    tasks = [with_secret(bench.make_task(f"t{number}")) for number in range(10)]
    await bench.running(*tasks)
    assert bench.payloads.asked == {KEY: 1}
    assert all(files_of(bench, one) for one in tasks)


async def test_while_no_master_answers_the_task_waits_and_then_starts(
    bench: Any, task: Task
) -> None:
    bench.payloads.is_away = True
    await bench.leader.order(task)
    await bench.until(lambda: bench.payloads.asked[KEY] >= 3)
    assert bench.leader.state_of("a") is TaskState.PREPARING
    assert bench.engine.starts == {}
    bench.payloads.is_away = False
    await bench.until(lambda: bench.leader.state_of("a") is TaskState.RUNNING)
    assert files_of(bench, task) == [("/run/secrets/password", DATA)]


async def test_a_task_that_waits_for_a_secret_can_be_stopped(bench: Any, task: Task) -> None:
    bench.payloads.may_answer.clear()
    await bench.leader.order(task)
    await bench.until(lambda: bench.payloads.asked[KEY])
    await bench.leader.order(msgspec.structs.replace(task, desired_state=TaskState.SHUTDOWN))
    await bench.until(lambda: bench.leader.state_of("a") is TaskState.SHUTDOWN)


async def test_a_refused_secret_rejects_the_task_and_is_named(bench: Any, task: Task) -> None:
    bench.payloads.held.clear()
    await bench.leader.order(task)
    await bench.until(lambda: bench.leader.state_of("a") is TaskState.REJECTED)
    err = bench.leader.statuses[task.id].err
    assert err == 'secret "password": no task of this node uses it'
    assert bench.engine.starts == {}


@pytest.mark.parametrize("writes_journal", [True, False])
async def test_a_restarted_agent_asks_nobody_for_what_its_tasks_have(
    bench: Any, task: Task, writes_journal: bool
) -> None:
    await bench.running(task)
    bench.payloads.is_away = True
    await bench.restart_agent(writes_journal)
    await bench.until(lambda: bench.leader.registrations == 2)
    await bench.clock.advance(5)
    assert bench.payloads.asked == {KEY: 1}
    assert bench.given_files.keys() == {task.id}
    assert bench.leader.state_of("a") is TaskState.RUNNING


async def test_files_go_when_the_task_is_over_though_its_container_stays(
    bench: Any, task: Task
) -> None:
    await bench.running(task)
    bench.engine.exit(task.id, 1)
    await bench.until(lambda: bench.leader.state_of("a") is TaskState.FAILED)
    assert bench.given_files == {}
    assert task.id in bench.engine.containers


async def test_files_of_a_task_that_never_had_a_container_go_too(bench: Any, task: Task) -> None:
    waiting = msgspec.structs.replace(task, desired_state=TaskState.READY)
    await bench.leader.order(waiting)
    await bench.until(lambda: bench.leader.state_of("a") is TaskState.READY)
    assert bench.given_files.keys() == {task.id}
    await bench.leader.order(removed=(task.id,))
    await bench.until(lambda: not bench.agent.worker.managers)
    assert bench.given_files == {}


async def test_what_tasks_of_an_earlier_run_left_is_swept_at_the_start(
    bench: Any, task: Task
) -> None:
    await bench.running(task)
    bench.given_files[TaskId("of-long-ago")] = ()
    await bench.restart_agent()
    assert bench.given_files.keys() == {task.id}


async def test_a_container_that_no_assignment_explains_loses_its_files_with_itself(
    bench: Any, task: Task
) -> None:
    await bench.running(task)
    await bench.agent.end()
    (bench.directory / "assignments").unlink()
    await bench.leader.step_down()
    await bench.start_agent()
    assert bench.given_files.keys() == {task.id}, "the first full set may explain it"
    bench.leader.tasks.clear()
    await bench.leader.lead()
    await bench.until(lambda: not bench.given_files)
    assert bench.engine.containers == {}


async def test_nothing_of_a_secret_is_told_or_written_but_its_name(
    bench: Any, task: Task, caplog: pytest.LogCaptureFixture
) -> None:
    bench.payloads.is_away = True
    await bench.leader.order(task)
    await bench.until(lambda: bench.payloads.asked[KEY] >= 2)
    bench.payloads.is_away = False
    await bench.until(lambda: bench.leader.state_of("a") is TaskState.RUNNING)
    bench.engine.exit(task.id, 1)
    await bench.until(lambda: bench.leader.state_of("a") is TaskState.FAILED)
    await bench.agent.end()
    written = [path.read_bytes() for path in bench.directory.rglob("*") if path.is_file()]
    assert any(KEY.id.encode() in content for content in written), "the journal knows the task"
    assert not any(DATA in content for content in written)
    assert DATA.decode() not in caplog.text
    assert DATA.decode() not in repr(bench.leader.reports)
