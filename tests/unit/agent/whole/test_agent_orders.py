"""What an agent does with its orders."""

from typing import Any

import msgspec

from essaim_agent.fake_executor import Script
from essaim_shared.ids import TaskId
from essaim_shared.messages import Assignments
from essaim_shared.task_state import TaskState


async def test_a_task_runs_in_its_namespace_and_the_leader_hears_of_it(bench: Any) -> None:
    task = bench.make_task("a")
    await bench.running(task)
    assert bench.engine.starts == {"a": 1}
    assert bench.engine.containers[task.id].namespace
    status = bench.leader.statuses[task.id]
    assert status.container_id == bench.engine.containers[task.id].container_id
    assert status.started_ns > 0


async def test_what_is_on_its_way_to_running_costs_the_leader_few_reports(bench: Any) -> None:
    await bench.running(*(bench.make_task(f"t{number}") for number in range(100)))
    assert len(bench.leader.reports) <= 10


async def test_a_stopped_task_leaves_nothing_on_the_node(bench: Any) -> None:
    task = bench.make_task("a")
    await bench.running(task)
    await bench.leader.order(msgspec.structs.replace(task, desired_state=TaskState.SHUTDOWN))
    await bench.until(lambda: bench.leader.state_of("a") is TaskState.SHUTDOWN)
    await bench.until(lambda: not bench.engine.containers)
    assert not await bench.agent.networks.attached()


async def test_a_forgotten_task_is_stopped_and_forgotten(bench: Any) -> None:
    task = bench.make_task("a")
    await bench.running(task)
    await bench.leader.order(removed=(task.id,))
    await bench.until(lambda: not bench.agent.worker.managers)
    assert not bench.engine.containers
    assert not await bench.agent.networks.attached()


async def test_an_image_that_does_not_exist_rejects_the_task_with_the_reason(
    bench: Any,
) -> None:
    bench.engine.images = set()
    await bench.leader.order(bench.make_task("a"))
    await bench.until(lambda: bench.leader.state_of("a") is TaskState.REJECTED)
    assert bench.leader.statuses[TaskId("a")].err == "No such image: busybox"
    assert not await bench.agent.networks.attached()


async def test_a_namespace_that_the_kernel_refuses_rejects_the_task(bench: Any) -> None:
    bench.agent.networks.refusals[TaskId("a")] = "no buffer space"
    await bench.leader.order(bench.make_task("a"))
    await bench.until(lambda: bench.leader.state_of("a") is TaskState.REJECTED)
    assert "no buffer space" in bench.leader.statuses[TaskId("a")].err


async def test_a_container_that_the_engine_will_not_make_rejects_the_task(bench: Any) -> None:
    bench.engine.script(TaskId("a"), Script(create_error="bind source path does not exist"))
    await bench.leader.order(bench.make_task("a"))
    await bench.until(lambda: bench.leader.state_of("a") is TaskState.REJECTED)
    assert bench.leader.statuses[TaskId("a")].err == "bind source path does not exist"
    assert not await bench.agent.networks.attached()


async def test_a_failure_at_the_start_fails_the_task(bench: Any) -> None:
    bench.engine.script(TaskId("a"), Script(start_error='exec: "nope": not found'))
    await bench.leader.order(bench.make_task("a"))
    await bench.until(lambda: bench.leader.state_of("a") is TaskState.FAILED)
    assert "not found" in bench.leader.statuses[TaskId("a")].err


async def test_a_crash_is_reported_with_its_exit_code_and_not_repaired_here(bench: Any) -> None:
    task = bench.make_task("a")
    await bench.running(task)
    bench.engine.exit(task.id, 3)
    await bench.until(lambda: bench.leader.state_of("a") is TaskState.FAILED)
    assert bench.leader.statuses[task.id].exit_code == 3
    await bench.clock.advance(5)
    assert bench.engine.starts == {"a": 1}


async def test_a_task_held_ready_starts_when_it_is_wanted(bench: Any) -> None:
    task = bench.make_task("a", TaskState.READY)
    await bench.leader.order(task)
    await bench.until(lambda: bench.leader.state_of("a") is TaskState.READY)
    await bench.clock.advance(5)
    assert not bench.engine.starts
    await bench.running(msgspec.structs.replace(task, desired_state=TaskState.RUNNING))


async def test_a_pull_that_takes_for_ever_does_not_keep_a_task_from_being_stopped(
    bench: Any,
) -> None:
    task = bench.make_task("a")
    bench.engine.script(task.id, Script(prepare_takes_for_ever=True))
    await bench.leader.order(task)
    await bench.until(lambda: bench.leader.state_of("a") is TaskState.PREPARING)
    await bench.leader.order(msgspec.structs.replace(task, desired_state=TaskState.SHUTDOWN))
    await bench.until(lambda: bench.leader.state_of("a") is TaskState.SHUTDOWN)


async def test_a_stopped_task_does_not_run_again_on_a_late_order(bench: Any) -> None:
    task = bench.make_task("a")
    await bench.running(task)
    await bench.leader.order(msgspec.structs.replace(task, desired_state=TaskState.SHUTDOWN))
    await bench.leader.order(task)
    await bench.until(lambda: bench.leader.state_of("a") is TaskState.SHUTDOWN)
    await bench.clock.advance(5)
    assert bench.engine.starts == {"a": 1}


async def test_duplicated_orders_start_nothing_twice(bench: Any) -> None:
    task = bench.make_task("a")
    await bench.leader.order(task)
    message = Assignments(term=5, sequence=bench.leader.sequence, full=False, tasks=(task,))
    for _ in range(3):
        await bench.leader.publish(message)
    await bench.until(lambda: bench.leader.state_of("a") is TaskState.RUNNING)
    assert bench.engine.starts == {"a": 1}
    assert bench.leader.syncs == 0
