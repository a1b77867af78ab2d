"""`/essaim/…` and `/metrics`."""

import asyncio

import pytest

from essaim_master.http.essaim_routes import WAITERS_MAX
from essaim_shared.figures import ContainerFigures, NodeFigures
from essaim_shared.task_state import TaskState


async def settle():
    for _ in range(5):
        await asyncio.sleep(0)


async def test_wait_returns_at_once_when_the_state_is_past(world) -> None:
    revision = world.state.revision
    answer = await world.get(f"/essaim/wait?revision={revision - 1}&timeout=30")
    assert answer.json == {"Revision": revision}


async def test_wait_returns_on_the_next_change(world) -> None:
    revision = world.state.revision
    waiting = asyncio.create_task(world.get(f"/essaim/wait?revision={revision}&timeout=30"))
    await settle()
    assert not waiting.done()
    await world.create("web")
    assert (await waiting).json == {"Revision": revision + 1}


async def test_wait_ends_unchanged_when_its_time_is_up(world) -> None:
    revision = world.state.revision
    waiting = asyncio.create_task(world.get(f"/essaim/wait?revision={revision}&timeout=7"))
    await settle()
    await world.clock.advance(6.9)
    assert not waiting.done()
    await world.clock.advance(0.2)
    assert (await waiting).json == {"Revision": revision}


async def test_wait_is_cut_at_a_minute(world) -> None:
    revision = world.state.revision
    waiting = asyncio.create_task(world.get(f"/essaim/wait?revision={revision}&timeout=1e9"))
    await settle()
    await world.clock.advance(60.1)
    assert (await waiting).status == 200


@pytest.mark.parametrize("query", ["revision=x", "timeout=soon", "timeout=nan"])
async def test_wait_refuses_what_is_no_number(world, query) -> None:
    answer = await world.get(f"/essaim/wait?{query}")
    assert answer.status == 400
    assert "it is a number" in answer.message


async def test_waiters_are_bounded_and_woken_when_the_master_stops(world) -> None:
    url = f"/essaim/wait?revision={world.state.revision}&timeout=30"
    waiting = [asyncio.create_task(world.get(url)) for _ in range(WAITERS_MAX)]
    await settle()
    refused = await world.get(url)
    assert refused.status == 503
    assert "clients are waiting already" in refused.message
    world.app.close()
    answers = await asyncio.gather(*waiting)
    assert {answer.status for answer in answers} == {200}


async def test_a_client_that_goes_away_waits_no_more(world) -> None:
    gone = asyncio.Event()
    url = f"/essaim/wait?revision={world.state.revision}&timeout=30"
    waiting = asyncio.create_task(world.call("GET", url, gone=gone))
    await settle()
    assert not waiting.done()
    gone.set()
    await asyncio.wait_for(waiting, 5)


async def test_figures_are_shown_as_agents_reported_them(world) -> None:
    node = NodeFigures(
        taken_ns=1,
        cpu_count=2,
        cpu_percent=12.5,
        load_1=0.1,
        load_5=0.2,
        load_15=0.3,
        memory_total_bytes=4,
        memory_used_bytes=3,
        disk_total_bytes=2,
        disk_used_bytes=1,
        network_receive_bytes=5,
        network_transmit_bytes=6,
    )
    container = ContainerFigures(
        task_id="t1",
        container_id="c1",
        cpu_seconds=1.5,
        cpu_percent=50.0,
        memory_working_set_bytes=10,
        memory_usage_bytes=11,
        memory_limit_bytes=12,
        network_receive_bytes=1,
        network_transmit_bytes=2,
        block_read_bytes=3,
        block_write_bytes=4,
        process_count=5,
    )
    world.figures.node_figures["n1"] = node
    world.figures.container_figures["t1"] = container
    shown = (await world.get("/essaim/figures")).json
    assert shown["Nodes"]["n1"]["cpu_percent"] == 12.5
    assert shown["Tasks"]["t1"]["memory_working_set_bytes"] == 10


async def test_the_leader_is_named_with_its_address(world) -> None:
    assert (await world.get("/essaim/leader")).json == {
        "MemberID": "h1",
        "Term": 1,
        "Addr": "10.98.0.1:7401",
        "HTTPAddr": "10.98.0.1:7400",
    }
    world.cluster.lead(False, 4)
    answer = await world.get("/essaim/leader")
    assert (answer.status, answer.message) == (
        503,
        "master h1 knows no leader in term 4: try again",
    )


async def test_raft_is_shown_without_a_quorum(world) -> None:
    world.cluster.available = False
    shown = (await world.get("/essaim/raft")).json
    assert (shown["MemberID"], shown["Role"], shown["Term"]) == ("h1", "leader", 1)
    assert shown["CommitIndex"] == shown["AppliedIndex"] > 0
    assert [member["ID"] for member in shown["Members"]] == ["h1", "h2", "h3"]


async def test_metrics_count_what_the_state_holds(world) -> None:
    node = await world.add_node(1)
    await world.add_node(2, state="down")
    web = await world.create("web")
    await world.add_task(web, 1, node)
    await world.add_task(web, 2, node, TaskState.FAILED)
    answer = await world.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = answer.body.decode().splitlines()
    for line in (
        "essaim_master_raft_term 1",
        "essaim_master_raft_is_leader 1",
        f"essaim_master_state_revision {world.state.revision}",
        "essaim_master_services 1",
        'essaim_master_tasks{state="running"} 1',
        'essaim_master_tasks{state="failed"} 1',
        'essaim_master_tasks{state="pending"} 0',
        'essaim_master_nodes{state="ready"} 1',
        'essaim_master_nodes{state="down"} 1',
    ):
        assert line in lines
    assert answer.body.endswith(b"\n")
    samples = [line for line in lines if not line.startswith("#")]
    assert len(samples) == len({line.rpartition(" ")[0] for line in samples})
