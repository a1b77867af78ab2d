"""What leaves the node of its measurements, and when."""

import asyncio
import random
from collections.abc import Sequence
from pathlib import Path

from essaim_agent.figures_publisher import (
    CONTAINERS_PER_REPORT_MAX,
    FiguresPublisher,
    reports,
)
from essaim_agent.metrics.sampler import FiguresSampler
from essaim_agent.task_manager import TaskManager
from essaim_shared.clock import ManualClock
from essaim_shared.figures import ContainerFigures, NodeFigures
from essaim_shared.ids import NodeId
from essaim_shared.limits import BUS_CHUNK_BYTES_MAX, FIGURES_PERIOD_S
from essaim_shared.memory_transport import MemoryBus
from essaim_shared.messages import FiguresReport, decode, encode
from essaim_shared.subjects import Subjects
from essaim_shared.transport import Delivery

NODE = NodeId("n1")
SUBJECT = Subjects("test").figures(NODE)
SEED = 11
TURNS_MAX = 5_000


class NoTasks:
    running: Sequence[TaskManager] = ()


def node_figures() -> NodeFigures:
    return NodeFigures(
        taken_ns=1,
        cpu_count=2,
        cpu_percent=1.0,
        load_1=0.0,
        load_5=0.0,
        load_15=0.0,
        memory_total_bytes=1,
        memory_used_bytes=1,
        disk_total_bytes=1,
        disk_used_bytes=1,
        network_receive_bytes=1,
        network_transmit_bytes=1,
    )


def container(number: int) -> ContainerFigures:
    huge = 2**63 - 1
    return ContainerFigures(
        task_id=f"{number:025}",
        container_id="c" * 64,
        cpu_seconds=1e300,
        cpu_percent=1e300,
        memory_working_set_bytes=huge,
        memory_usage_bytes=huge,
        memory_limit_bytes=huge,
        network_receive_bytes=huge,
        network_transmit_bytes=huge,
        block_read_bytes=huge,
        block_write_bytes=huge,
        process_count=huge,
    )


def test_the_largest_figures_of_many_containers_fit_the_bus_in_chunks() -> None:
    containers = [container(number) for number in range(2 * CONTAINERS_PER_REPORT_MAX + 1)]
    found = list(reports(NODE, node_figures(), containers))
    assert [(report.chunk, report.chunks) for report in found] == [(0, 3), (1, 3), (2, 3)]
    assert [one for report in found for one in report.containers] == containers
    assert max(len(encode(report)) for report in found) <= BUS_CHUNK_BYTES_MAX


def test_a_node_without_containers_reports_itself() -> None:
    (report,) = reports(NODE, node_figures(), [])
    assert (report.chunk, report.chunks, report.containers) == (0, 1, ())


async def test_a_node_that_is_refused_measures_for_its_own_page_only(tmp_path: Path) -> None:
    print(f"seed {SEED}")
    clock = ManualClock()
    bus = MemoryBus(clock, random.Random(SEED))
    agent, master = bus.client("agent"), bus.client("master")
    heard: list[FiguresReport] = []

    async def hear(delivery: Delivery) -> None:
        heard.append(decode(delivery.payload, FiguresReport))

    await master.subscribe(SUBJECT, hear)
    is_refused = False
    publisher = FiguresPublisher(
        transport=agent,
        subject=SUBJECT,
        node_id=NODE,
        cluster_id="test",
        tasks=NoTasks(),
        new_sampler=lambda parents: FiguresSampler("process", tmp_path, clock, lambda _: None),
        pid_of=None,
        may_tell=lambda: not is_refused,
        clock=clock,
    )
    running = asyncio.create_task(publisher.run())

    async def count_after(periods: int) -> int:
        for _ in range(periods):
            await clock.advance(FIGURES_PERIOD_S)
            await asyncio.to_thread(lambda: None)  # the file system is asked in a thread
            await clock.advance(0)
        return len(heard)

    for _ in range(TURNS_MAX):
        if heard:
            break
        await count_after(1)
    assert heard[0].node_id == NODE
    is_refused = True
    before = await count_after(3)
    assert await count_after(10) == before
    assert "machine_cpu_cores" in publisher.page()
    is_refused = False
    for _ in range(TURNS_MAX):
        if await count_after(1) > before:
            break
    assert len(heard) > before
    running.cancel()
    await asyncio.wait({running})
    await agent.close()
    await master.close()
