"""Restarts of the agent and of its engine: nothing is restarted, nothing is forgotten."""

from typing import Any

import msgspec
import pytest

from essaim_shared.spec import PortConfig
from essaim_shared.task_state import TaskState

# Restarts.


@pytest.mark.parametrize("writes_journal", [True, False])
async def test_a_restarted_agent_adopts_and_restarts_nothing(
    bench: Any, writes_journal: bool
) -> None:
    tasks = [bench.make_task(f"t{number}") for number in range(5)]
    await bench.running(*tasks)
    await bench.restart_agent(writes_journal)
    await bench.until(lambda: bench.leader.registrations == 2)
    await bench.clock.advance(5)
    assert set(bench.engine.starts.values()) == {1}
    assert all(container.running for container in bench.engine.containers.values())
    assert len(bench.agent.worker.running) == 5


@pytest.mark.parametrize("writes_journal", [True, False])
async def test_a_restarted_agent_keeps_the_ports_of_its_tasks_open(
    bench: Any, writes_journal: bool
) -> None:
    port = PortConfig(target_port=80, published_port=8080, publish_mode="host")
    task = msgspec.structs.replace(bench.make_task("a"), ports=(port,))
    await bench.running(task)
    published = bench.fabric.kernel("192.0.2.1").published
    assert published[task.id].keys == (("tcp", 8080),)
    await bench.restart_agent(writes_journal)
    await bench.until(lambda: task.id in bench.fabric.kernel("192.0.2.1").published)
    await bench.until(lambda: bench.leader.registrations == 2)
    await bench.clock.advance(5)
    assert task.id in bench.fabric.kernel("192.0.2.1").published
    await bench.leader.order(msgspec.structs.replace(task, desired_state=TaskState.REMOVE))
    await bench.until(lambda: not bench.fabric.kernel("192.0.2.1").published)


async def test_a_port_that_a_process_of_the_host_has_rejects_the_task(bench: Any) -> None:
    bench.fabric.kernel("192.0.2.1").listeners.add(("tcp", 8080))
    port = PortConfig(target_port=80, published_port=8080, publish_mode="host")
    task = msgspec.structs.replace(bench.make_task("a"), ports=(port,))
    await bench.leader.order(task)
    await bench.until(lambda: bench.leader.state_of("a") is TaskState.REJECTED)
    assert "port 8080/tcp of this node is in use" in bench.leader.statuses[task.id].err
    assert bench.engine.starts == {}


async def test_without_any_master_a_restarted_agent_still_knows_its_tasks(bench: Any) -> None:
    task = bench.make_task("a")
    await bench.running(task)
    await bench.leader.step_down()
    await bench.restart_agent()
    await bench.clock.advance(5)
    assert [manager.task.id for manager in bench.agent.worker.running] == ["a"]
    bench.engine.exit(task.id, 4)
    await bench.clock.advance(1)
    await bench.leader.lead()
    await bench.until(lambda: bench.leader.state_of("a") is TaskState.FAILED)
    assert bench.leader.statuses[task.id].exit_code == 4


async def test_what_ended_while_no_agent_watched_is_reported_not_restarted(bench: Any) -> None:
    task = bench.make_task("a")
    await bench.running(task)
    await bench.agent.end()
    bench.engine.exit(task.id, 7)
    await bench.start_agent()
    await bench.until(lambda: bench.leader.state_of("a") is TaskState.FAILED)
    assert bench.leader.statuses[task.id].exit_code == 7
    assert bench.engine.starts == {"a": 1}


async def test_containers_that_no_assignment_explains_are_removed_after_the_full_set(
    bench: Any,
) -> None:
    kept, stray = bench.make_task("kept"), bench.make_task("stray")
    await bench.running(kept, stray)
    await bench.agent.end()
    (bench.directory / "assignments").unlink()
    del bench.leader.tasks[stray.id]
    await bench.leader.step_down()
    await bench.start_agent()
    await bench.clock.advance(5)
    assert set(bench.engine.containers) == {"kept", "stray"}  # nobody has said anything yet
    await bench.leader.lead()
    await bench.until(lambda: set(bench.engine.containers) == {"kept"})
    await bench.until(lambda: bench.leader.state_of("kept") is TaskState.RUNNING)
    assert bench.engine.starts["kept"] == 1
    assert await bench.agent.networks.attached() == {"kept"}


async def test_an_engine_that_restarts_fails_no_task(bench: Any) -> None:
    running, ended = bench.make_task("running"), bench.make_task("ended")
    await bench.running(running, ended)
    bench.engine.go_away()
    bench.engine.exit(ended.id, 9)  # nobody hears it
    await bench.leader.order(bench.make_task("new"))
    await bench.clock.advance(30)
    assert bench.leader.state_of("running") is TaskState.RUNNING
    bench.engine.come_back()
    await bench.until(lambda: bench.leader.state_of("new") is TaskState.RUNNING)
    await bench.until(lambda: bench.leader.state_of("ended") is TaskState.FAILED)
    assert bench.leader.state_of("running") is TaskState.RUNNING
    assert bench.engine.starts["running"] == 1


async def test_a_container_that_somebody_else_removed_fails_its_task(bench: Any) -> None:
    task = bench.make_task("a")
    await bench.running(task)
    bench.engine.go_away()
    del bench.engine.containers[task.id]
    bench.engine.come_back()
    await bench.until(lambda: bench.leader.state_of("a") is TaskState.FAILED)
    assert "gone" in bench.leader.statuses[task.id].err
