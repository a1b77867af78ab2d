"""Who is led to a node's tasks, from their start to their end, and what the leader hears of it."""

import asyncio
from typing import Any

import msgspec
import pytest

from essaim_agent.fake_executor import Script
from essaim_agent.network_tables import TABLES_SPACING_S
from essaim_agent.task_network import DRAIN_TABLES_MAX_S, SERVE_TABLES_MAX_S
from essaim_shared.container_spec import DnsConfig, ExecAction, Probe, Probes
from essaim_shared.ids import HOST_NETWORK_ID, NetworkId, ServiceId, TaskId
from essaim_shared.limits import DRAIN_CONNECTIONS_S
from essaim_shared.messages import ServiceEntry
from essaim_shared.spec import NetworkAttachment
from essaim_shared.task_state import TaskState

IS_READY = ("ready",)


def wanted(task: Any, state: TaskState) -> Any:
    return msgspec.structs.replace(task, desired_state=state)


def with_container(task: Any, **container: Any) -> Any:
    changed = msgspec.structs.replace(task.spec.container, **container)
    return msgspec.structs.replace(task, spec=msgspec.structs.replace(task.spec, container=changed))


def probed(task: Any) -> Any:
    readiness = Probe(exec_=ExecAction(command=IS_READY), period=1_000_000_000)
    return with_container(task, probes=Probes(readiness=readiness))


def state(bench: Any, task: Any) -> str:
    """In the node's tables."""
    said: str = bench.fabric.state_at(bench.address, task.id)
    return said


def kernel(bench: Any) -> Any:
    return bench.fabric.kernel(bench.address)


# Serving.


async def test_a_node_leads_to_its_own_task_before_the_leader_hears_that_it_runs(
    bench: Any,
) -> None:
    task = bench.make_task("a")
    seen: list[str] = []

    def hears() -> bool:
        if bench.leader.state_of("a") is TaskState.RUNNING:
            return True
        seen.append(state(bench, task))
        return False

    await bench.leader.order(task, endpoints=(bench.endpoint_of(task),), services=(bench.web,))
    await bench.until(hears)
    assert state(bench, task) == "serving"
    assert set(seen) <= {"", "starting", "serving"}
    assert bench.fabric.led_to(bench.address, bench.web.vip) == {"a"}
    assert bench.fabric.lookup(bench.address, task.id, "web") == {bench.web.vip}


async def test_a_task_that_starts_up_is_not_led_to(bench: Any) -> None:
    task = bench.make_task("a")
    bench.engine.script(task.id, Script(has_health_check=True))
    await bench.leader.order(task, endpoints=(bench.endpoint_of(task),), services=(bench.web,))
    await bench.until(lambda: bench.leader.state_of("a") is TaskState.STARTING)
    await bench.clock.advance(5)
    assert state(bench, task) == "starting"


async def test_tables_that_cannot_be_set_keep_nobody_from_running_for_ever(bench: Any) -> None:
    task = bench.make_task("a")
    bench.engine.script(task.id, Script(start_delay_s=1.0))
    await bench.leader.order(task, endpoints=(bench.endpoint_of(task),))
    await bench.until(lambda: bench.leader.state_of("a") is TaskState.STARTING)
    bench.agent.networks.tables_refusal = "no memory"
    started_s = bench.clock.monotonic_s()
    await bench.until(lambda: bench.leader.state_of("a") is TaskState.RUNNING)
    assert bench.clock.monotonic_s() - started_s < 1.0 + SERVE_TABLES_MAX_S + 0.5
    bench.agent.networks.tables_refusal = ""
    await bench.until(lambda: state(bench, task) == "serving")


async def test_a_network_that_the_kernel_refuses_is_no_trouble_of_others(bench: Any) -> None:
    bench.agent.networks.tables_refusal = "VXLAN device of network red: File exists"
    bench.agent.networks.refused_networks = frozenset({NetworkId("red")})
    await bench.leader.order(bench.make_task("a"))
    await bench.until(lambda: bench.leader.state_of("a") is TaskState.RUNNING)

    bench.agent.networks.refused_networks = frozenset({bench.web.network_id})
    await bench.leader.order(bench.make_task("b"), nodes=("10.0.0.9",))
    await bench.until(lambda: bench.leader.state_of("b") is TaskState.REJECTED)


async def test_tables_that_hang_keep_nobody_from_running_for_ever(bench: Any) -> None:
    task = bench.make_task("a")
    bench.engine.script(task.id, Script(start_delay_s=1.0))
    await bench.leader.order(task, endpoints=(bench.endpoint_of(task),))
    await bench.until(lambda: bench.leader.state_of("a") is TaskState.STARTING)
    bench.agent.networks.tables_free.clear()
    started_s = bench.clock.monotonic_s()
    await bench.until(lambda: bench.leader.state_of("a") is TaskState.RUNNING)
    assert bench.clock.monotonic_s() - started_s < 1.0 + SERVE_TABLES_MAX_S + 0.5


async def test_readiness_decides_who_is_led_to_a_running_task(bench: Any) -> None:
    task = probed(bench.make_task("a"))
    bench.engine.commands[IS_READY] = 1
    await bench.running(task)
    await bench.clock.advance(3)
    assert state(bench, task) == "starting"
    bench.engine.commands[IS_READY] = 0
    await bench.until(lambda: state(bench, task) == "serving")
    bench.engine.commands[IS_READY] = 1
    await bench.until(lambda: state(bench, task) == "starting")


async def test_the_masters_later_word_changes_nothing_in_the_tables(bench: Any) -> None:
    task = bench.make_task("a")
    await bench.running(task)
    pictures = kernel(bench).pictures
    serving = bench.endpoint_of(task, "serving")
    await bench.leader.order(removed_endpoints=(bench.endpoint_of(task),), endpoints=(serving,))
    await bench.clock.advance(1)
    assert kernel(bench).pictures == pictures


async def test_a_task_that_ended_is_not_led_to_even_before_the_masters_say_so(bench: Any) -> None:
    task = bench.make_task("a")
    await bench.running(task)
    bench.engine.exit(task.id, 3)
    await bench.until(lambda: state(bench, task) == "draining")


# Draining.


async def test_a_stop_waits_for_the_connections_that_the_task_serves(bench: Any) -> None:
    task = bench.make_task("a")
    await bench.running(task)
    kernel(bench).connections[task.id] = 2
    await bench.leader.order(wanted(task, TaskState.SHUTDOWN))
    await bench.until(lambda: state(bench, task) == "draining")
    assert bench.fabric.led_to(bench.address, bench.web.vip) == set()
    await bench.clock.advance(2)
    assert not bench.engine.stops
    kernel(bench).connections[task.id] = 0
    await bench.clock.advance(0.2)
    assert [task_id for task_id, _ in bench.engine.stops] == ["a"]


async def test_connections_that_do_not_end_are_waited_for_no_longer_than_is_said(
    bench: Any,
) -> None:
    task = with_container(bench.make_task("a"), stop_grace_period=0)
    await bench.running(task)
    kernel(bench).connections[task.id] = 1
    await bench.leader.order(wanted(task, TaskState.SHUTDOWN))
    await bench.clock.advance(0)  # it is heard
    await bench.clock.advance(DRAIN_CONNECTIONS_S - 0.2)
    assert not bench.engine.stops
    await bench.clock.advance(0.5)
    assert bench.engine.stops


async def test_connections_that_cannot_be_counted_hold_no_stop_for_ever(bench: Any) -> None:
    task = with_container(bench.make_task("a"), stop_grace_period=0)
    await bench.running(task)
    bench.agent.networks.connections_free.clear()
    await bench.leader.order(wanted(task, TaskState.SHUTDOWN))
    await bench.clock.advance(0)
    await bench.clock.advance(DRAIN_CONNECTIONS_S + 0.5)
    assert bench.engine.stops


async def test_a_first_word_that_there_are_no_networks_is_carried_out(bench: Any) -> None:
    await bench.until(lambda: kernel(bench).pictures == 1)


async def test_a_task_without_connections_is_stopped_at_once(bench: Any) -> None:
    task = bench.make_task("a")
    await bench.running(task)
    await bench.clock.advance(1)
    await bench.leader.order(wanted(task, TaskState.SHUTDOWN))
    await bench.clock.advance(TABLES_SPACING_S)
    assert bench.engine.stops


async def test_a_harder_order_and_a_forgotten_task_wait_as_long_and_not_longer(
    bench: Any,
) -> None:
    task = bench.make_task("a")
    await bench.running(task)
    kernel(bench).connections[task.id] = 1
    await bench.leader.order(wanted(task, TaskState.SHUTDOWN))
    await bench.clock.advance(3)
    await bench.leader.order(wanted(task, TaskState.REMOVE))
    await bench.leader.order(removed=(task.id,))
    await bench.clock.advance(1)
    assert not bench.engine.stops
    await bench.clock.advance(DRAIN_CONNECTIONS_S - 3.7)
    assert bench.engine.stops
    await bench.until(lambda: not bench.agent.worker.managers)


async def test_a_task_that_ends_while_it_drains_is_done_with(bench: Any) -> None:
    task = bench.make_task("a")
    await bench.running(task)
    kernel(bench).connections[task.id] = 1
    await bench.leader.order(wanted(task, TaskState.SHUTDOWN))
    await bench.clock.advance(1)
    bench.engine.exit(task.id, 0)
    await bench.clock.advance(0.2)
    assert bench.leader.state_of("a") is TaskState.SHUTDOWN
    assert not bench.engine.stops


async def test_a_broken_task_is_stopped_without_a_wait(bench: Any) -> None:
    task = bench.make_task("a", stop_when_cut_off_s=1)
    await bench.running(task)
    kernel(bench).connections[task.id] = 1
    bench.agent.worker.managers[task.id].fail("liveness probe failed")
    await bench.clock.advance(TABLES_SPACING_S)
    assert bench.engine.stops
    await bench.until(lambda: bench.leader.state_of("a") is TaskState.FAILED)


@pytest.mark.parametrize("is_refused", [True, False])
async def test_tables_that_cannot_be_set_hold_a_stop_up_for_a_moment_only(
    bench: Any, is_refused: bool
) -> None:
    task = bench.make_task("a")
    await bench.running(task)
    await bench.clock.advance(1)
    if is_refused:
        bench.agent.networks.tables_refusal = "no memory"
    else:
        bench.agent.networks.tables_free.clear()
    await bench.leader.order(wanted(task, TaskState.SHUTDOWN))
    await bench.clock.advance(0)  # it is heard
    await bench.clock.advance(DRAIN_TABLES_MAX_S - 0.1)
    assert bool(bench.engine.stops) == is_refused, "a refusal is known at once"
    await bench.clock.advance(0.2)
    assert bench.engine.stops


async def test_a_pre_stop_command_runs_after_the_last_connection(bench: Any) -> None:
    goodbye = ExecAction(command=("goodbye",))
    task = with_container(bench.make_task("a"), pre_stop=goodbye)
    await bench.running(task)
    kernel(bench).connections[task.id] = 1
    await bench.leader.order(wanted(task, TaskState.SHUTDOWN))
    await bench.clock.advance(2)
    assert not bench.engine.commands_run
    kernel(bench).connections[task.id] = 0
    await bench.until(lambda: bench.engine.stops)
    assert [run.command for run in bench.engine.commands_run] == [("goodbye",)]


# What the leader hears.


async def test_the_leader_is_told_once_what_it_waits_for_is_in_force(bench: Any) -> None:
    task = bench.make_task("a")
    await bench.running(task)
    await bench.clock.advance(1)
    bench.agent.networks.tables_free.clear()
    serving = bench.endpoint_of(task)
    draining = bench.endpoint_of(task, "draining")
    await bench.leader.order(
        removed_endpoints=(serving,), endpoints=(draining,), wants_applied=True
    )
    await bench.clock.advance(0.4)
    assert bench.leader.applied == []
    bench.agent.networks.tables_free.set()
    await bench.until(lambda: bench.leader.applied)
    (answer,) = bench.leader.applied
    assert (answer.session, answer.term) == (bench.leader.session, 5)
    assert answer.sequence == bench.leader.sequence
    assert state(bench, task) == "draining", "though it runs: the masters know of a stop first"


async def test_orders_that_nobody_waits_for_are_not_answered(bench: Any) -> None:
    await bench.running(bench.make_task("a"))
    await bench.clock.advance(2)
    assert bench.leader.applied == []


async def test_what_changes_nothing_is_answered_too(bench: Any) -> None:
    await bench.leader.order(wants_applied=True)
    await bench.until(lambda: bench.leader.applied)


async def test_a_leader_that_waits_for_tables_that_cannot_be_set_hears_nothing(
    bench: Any,
) -> None:
    bench.agent.networks.tables_refusal = "no memory"
    await bench.leader.order(services=(bench.web,), wants_applied=True)
    await bench.clock.advance(5)
    assert bench.leader.applied == []


async def test_one_answer_holds_for_many_orders(bench: Any) -> None:
    tasks = [bench.make_task(f"t{number}") for number in range(50)]
    await bench.running(*tasks)
    await bench.clock.advance(1)
    pictures = kernel(bench).pictures
    for task in tasks:
        await bench.leader.order(
            endpoints=(bench.endpoint_of(task, "draining"),), wants_applied=True
        )
    await bench.until(
        lambda: bench.leader.applied and bench.leader.applied[-1].sequence == bench.leader.sequence
    )
    assert len(bench.leader.applied) <= 3
    assert kernel(bench).pictures - pictures <= 3


# Restarts, and strange words.


@pytest.mark.parametrize("is_ready", [True, False])
async def test_a_restarted_agent_leads_to_its_tasks_before_it_hears_of_anybody(
    bench: Any, is_ready: bool
) -> None:
    task = probed(bench.make_task("a"))
    bench.engine.commands[IS_READY] = 0 if is_ready else 1
    await bench.running(task)
    before = "serving" if is_ready else "starting"
    await bench.until(lambda: state(bench, task) == before)
    await bench.clock.advance(1)
    await bench.leader.step_down()
    await bench.agent.end()
    kernel(bench).endpoints = frozenset()
    bench.engine.go_away()
    bench.agent = type(bench.agent)(bench)
    starting = asyncio.ensure_future(bench.agent.start())
    await bench.until(lambda: state(bench, task) == before)
    assert kernel(bench).picture.services == {bench.web}
    bench.engine.come_back()
    await bench.until(starting.done)
    await bench.clock.advance(1)
    assert state(bench, task) == before


async def test_services_and_endpoints_that_nobody_explained_break_nothing(bench: Any) -> None:
    task = bench.make_task("a")
    stranger = ServiceEntry(
        service_id=ServiceId("odd"), network_id=NetworkId("nowhere"), name="odd", vip="10.9.0.1"
    )
    lost = msgspec.structs.replace(bench.endpoint_of(task), task_id=TaskId("z"))
    await bench.leader.order(
        endpoints=(lost, lost), services=(stranger, stranger), nodes=(bench.address,) * 2
    )
    await bench.running(task)
    assert bench.fabric.led_to(bench.address, "10.9.0.1") == set()
    assert bench.leader.syncs == 0


async def test_an_order_with_an_address_that_is_none_is_not_obeyed(bench: Any) -> None:
    task = bench.make_task("a")
    bad = msgspec.structs.replace(bench.endpoint_of(task), address="10.1.0.2.3")
    held = bench.agent.session.held
    await bench.leader.order(task, endpoints=(bad,))
    bench.leader.endpoints.discard(bad)
    await bench.clock.advance(0)
    assert bench.agent.session.malformed_count == 1
    assert bench.agent.session.held == held
    await bench.until(lambda: bench.leader.syncs)
    await bench.until(lambda: bench.leader.state_of("a") is TaskState.RUNNING)


# The host's own network, and name servers.


async def test_a_task_on_the_host_s_network_has_no_namespace_and_no_endpoint(bench: Any) -> None:
    task = bench.make_task("a")
    on_host = (NetworkAttachment(target=HOST_NETWORK_ID),)
    task = msgspec.structs.replace(
        task, attachments=(), spec=msgspec.structs.replace(task.spec, networks=on_host)
    )
    await bench.leader.order(task)
    await bench.until(lambda: bench.leader.state_of("a") is TaskState.RUNNING)
    container = bench.engine.containers[task.id]
    assert (container.namespace, container.nameserver) == (None, "")
    assert not await bench.agent.networks.attached()
    await bench.clock.advance(1)
    await bench.leader.order(wanted(task, TaskState.SHUTDOWN))
    await bench.clock.advance(0.05)
    assert bench.engine.stops, "it has nothing to drain"


async def test_a_task_without_any_address_is_rejected_and_not_put_on_the_host_s_network(
    bench: Any,
) -> None:
    await bench.leader.order(msgspec.structs.replace(bench.make_task("a"), attachments=()))
    await bench.until(lambda: bench.leader.state_of("a") is TaskState.REJECTED)
    assert "has no network" in bench.leader.statuses[TaskId("a")].err


async def test_a_container_asks_its_node_for_names_which_asks_the_user_s_servers(
    bench: Any,
) -> None:
    dns = DnsConfig(nameservers=("192.0.2.53",))
    task = with_container(bench.make_task("a"), dns_config=dns)
    await bench.running(task)
    assert bench.engine.containers[task.id].nameserver == "10.1.0.1"
    assert kernel(bench).picture.nameservers == {"a": ("192.0.2.53",)}
    assert kernel(bench).picture.tasks == {"a": task.attachments}


async def test_under_load_the_tables_are_set_no_more_often_than_is_said(bench: Any) -> None:
    await bench.clock.advance(1)
    pictures = kernel(bench).pictures
    for number in range(20):
        await bench.leader.order(nodes=(f"192.0.2.{number + 100}",))
        await bench.clock.advance(0.01)
        if number == 0:
            assert kernel(bench).pictures == pictures + 1, "the first at once"
    await bench.clock.advance(0.1)
    assert kernel(bench).pictures - pictures <= 1 + 0.3 / TABLES_SPACING_S
    assert "192.0.2.119" in kernel(bench).picture.nodes
