"""Leaders that are gone, that lead no more, or that refuse this node; and a bus that loses."""

from typing import Any

import pytest

from essaim_agent.journal import HighestTerm
from essaim_agent.session import SYNCS_IN_VAIN_MAX
from essaim_agent.session_machine import State
from essaim_shared.ids import TaskId
from essaim_shared.messages import Assignments, Refused, StatusAck, encode
from essaim_shared.task_state import TaskState

# A leader that is gone, or is not the leader any more.


async def test_late_orders_of_a_deposed_leader_are_refused(bench: Any) -> None:
    task = bench.make_task("a")
    await bench.running(task)
    deposed = bench.leader
    successor = await bench.successor()
    await bench.until(lambda: bench.agent.session.held == (6, 1))
    for full in (True, False):
        await deposed.publish(
            Assignments(
                term=5,
                sequence=99,
                full=full,
                tasks=(bench.make_task("b"),),
                removed_tasks=(task.id,),
            )
        )
    await bench.clock.advance(3)
    assert bench.engine.starts == {"a": 1}
    assert bench.engine.containers[task.id].running
    assert bench.agent.session.deposed_count >= 2
    assert successor.registrations == 1


async def test_a_restarted_agent_refuses_them_too(bench: Any) -> None:
    deposed = bench.leader
    successor = await bench.successor()
    await bench.until(lambda: bench.agent.session.held == (6, 1))
    await successor.step_down()
    await bench.restart_agent(writes_journal=False)
    await deposed.lead()  # it believes that it still leads
    await bench.clock.advance(5)
    assert bench.agent.session.state is State.REGISTERING
    assert bench.agent.session.deposed_count > 0


async def test_a_deposed_leaders_answers_do_not_count_as_a_leader_heard(bench: Any) -> None:
    task = bench.make_task("once", stop_when_cut_off_s=10)
    await bench.running(task)
    HighestTerm(bench.directory).admits(9)
    await bench.restart_agent()
    await bench.until(lambda: not bench.engine.containers[task.id].running)


async def test_statuses_reach_the_next_leader(bench: Any) -> None:
    task = bench.make_task("a")
    await bench.running(task)
    bench.leader.acknowledges_statuses = False
    bench.engine.exit(task.id, 1)
    await bench.clock.advance(1)
    successor = await bench.successor()
    await bench.until(lambda: successor.state_of("a") is TaskState.FAILED)


async def test_without_a_leader_the_server_is_kept_and_tasks_run_on(bench: Any) -> None:
    await bench.running(bench.make_task("a"))
    await bench.leader.step_down()
    await bench.clock.advance(20)
    assert bench.agent.transport.reconnection_count == 0
    assert bench.engine.containers[TaskId("a")].running
    await bench.leader.lead()
    heard = bench.leader.heartbeats
    await bench.until(lambda: bench.leader.heartbeats > heard)


# What the bus loses.


async def test_a_lost_order_is_noticed_from_the_next_heartbeat(bench: Any) -> None:
    await bench.leader.order(bench.make_task("a"), lose=True)
    await bench.until(lambda: bench.leader.state_of("a") is TaskState.RUNNING)
    assert bench.leader.syncs == 1


async def test_an_order_after_a_lost_one_asks_for_a_full_set_at_once(bench: Any) -> None:
    await bench.leader.order(bench.make_task("a"), lose=True)
    await bench.leader.order(bench.make_task("b"))
    await bench.clock.advance(0.2)
    assert bench.leader.syncs == 1
    assert bench.engine.starts == {"a": 1, "b": 1}


async def test_orders_that_arrive_in_order_ask_for_nothing(bench: Any) -> None:
    for number in range(20):
        await bench.leader.order(bench.make_task(f"t{number}"))
    await bench.clock.advance(5)
    assert bench.leader.syncs == 0


async def test_lost_statuses_are_repeated_until_acknowledged(bench: Any) -> None:
    bench.leader.acknowledges_statuses = False
    await bench.leader.order(bench.make_task("a"))
    await bench.clock.advance(10)
    assert len(bench.leader.reports) >= 3
    assert bench.agent.reporter.pending == 1
    bench.leader.acknowledges_statuses = True
    await bench.until(lambda: bench.leader.state_of("a") is TaskState.RUNNING)
    await bench.until(lambda: bench.agent.reporter.pending == 0)


async def test_everything_arrives_over_a_bus_that_loses_a_third(bench: Any) -> None:
    bench.bus.loss = 0.33
    tasks = [bench.make_task(f"t{number}") for number in range(10)]
    for task in tasks:
        await bench.leader.order(task)
    await bench.until(
        lambda: all(bench.leader.state_of(task.id) is TaskState.RUNNING for task in tasks)
    )
    assert set(bench.engine.starts.values()) == {1}


async def test_malformed_frames_are_counted_and_change_nothing(bench: Any) -> None:
    task = bench.make_task("a")
    await bench.running(task)
    frames = (
        b"",
        b"\xff" * 100,
        encode(StatusAck(term=5)),
        encode(Assignments(term=5, sequence=99, full=True, chunk=3, chunks=2)),
        encode(Assignments(term=5, sequence=99, full=True, tasks=(bench.make_task("../../x"),))),
        encode(
            Assignments(
                term=5,
                sequence=99,
                full=True,
                tasks=(bench.make_task("b", TaskState.PENDING),),
            )
        ),
    )
    for frame in frames:
        await bench.leader.publish_bytes(frame)
    await bench.clock.advance(3)
    assert bench.agent.session.malformed_count == len(frames)
    assert bench.engine.containers[task.id].running


async def test_a_frozen_bus_server_is_left_after_two_missed_beats(bench: Any) -> None:
    await bench.running(bench.make_task("a"))
    bench.agent.transport.bus.freeze("bus-1")
    await bench.leader.transport.reconnect()
    await bench.clock.advance(2.6)
    assert bench.agent.transport.server == "bus-2"
    heard = bench.leader.heartbeats
    await bench.until(lambda: bench.leader.heartbeats > heard)
    assert bench.engine.starts == {"a": 1}


# Cut off.


async def test_a_node_that_is_cut_off_keeps_its_tasks_but_those_that_must_not_run_twice(
    bench: Any,
) -> None:
    await bench.running(bench.make_task("stays"), bench.make_task("stops", stop_when_cut_off_s=5))
    bench.bus.cut_client("agent")
    await bench.clock.advance(3.5)
    assert bench.engine.containers[TaskId("stops")].running
    await bench.clock.advance(3)
    assert not bench.engine.containers[TaskId("stops")].running
    await bench.clock.advance(600)
    assert bench.engine.containers[TaskId("stays")].running
    bench.bus.heal_client("agent")
    await bench.until(lambda: bench.leader.state_of("stops") is TaskState.FAILED)
    assert "no master heard for 5 s" in bench.leader.statuses[TaskId("stops")].err
    assert bench.leader.state_of("stays") is TaskState.RUNNING


async def test_a_restart_of_the_agent_does_not_restart_the_clock_of_a_cut_off_task(
    bench: Any,
) -> None:
    await bench.running(bench.make_task("stops", stop_when_cut_off_s=10))
    bench.bus.cut_client("agent")
    await bench.clock.advance(6)
    await bench.restart_agent()
    await bench.clock.advance(5)
    assert not bench.engine.containers[TaskId("stops")].running


# Another machine with this node's id.


async def test_a_refused_node_starts_nothing_new_and_obeys_nobody(
    bench: Any, caplog: pytest.LogCaptureFixture
) -> None:
    task = bench.make_task("a")
    await bench.running(task)
    reason = "node id node is in use at 192.0.2.7; this is 192.0.2.1"
    bench.leader.refusal = Refused(reason=reason)
    bench.leader.session = "of another machine"
    await bench.until(lambda: bench.agent.session.state is State.REFUSED)
    await bench.leader.publish(
        Assignments(term=5, sequence=50, full=True, tasks=(bench.make_task("b"),))
    )
    await bench.clock.advance(60)
    assert bench.engine.starts == {"a": 1}
    assert bench.engine.containers[task.id].running
    assert [record.message for record in caplog.records if reason in record.message] == [
        f"refused by the leader: {reason}"
    ]
    bench.leader.refusal = None
    await bench.until(lambda: bench.agent.session.state is State.IN_SESSION)
    await bench.running(bench.make_task("c"))


async def test_a_bus_server_that_passes_on_answers_and_no_orders_is_left(bench: Any) -> None:
    """Heartbeats are answered, so nothing else tells that it is of no use."""
    await bench.running(bench.make_task("a"))
    first = bench.agent.transport.server
    bench.leader.are_orders_lost = lambda: bench.agent.transport.server == first
    await bench.leader.order(bench.make_task("b"))
    await bench.until(lambda: bench.leader.state_of("b") is TaskState.RUNNING)
    assert bench.agent.transport.server != first
    assert bench.leader.syncs > SYNCS_IN_VAIN_MAX
    assert bench.engine.starts == {"a": 1, "b": 1}
