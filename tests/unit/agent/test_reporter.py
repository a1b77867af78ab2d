"""How statuses are told: bounded messages, and an upper bound that holds."""

import random

import pytest

from essaim_agent.figures_publisher import CONTAINERS_PER_REPORT_MAX, reports
from essaim_agent.reporter import Reporter, status_bytes_max
from essaim_shared.clock import ManualClock
from essaim_shared.figures import ContainerFigures, NodeFigures
from essaim_shared.ids import NodeId, TaskId
from essaim_shared.limits import BUS_CHUNK_BYTES_MAX, STATUS_ERROR_CHARS_MAX
from essaim_shared.memory_transport import MemoryBus
from essaim_shared.messages import (
    FiguresReport,
    ReportedStatus,
    StatusAck,
    StatusReport,
    decode,
    encode,
)
from essaim_shared.objects import TaskStatus
from essaim_shared.task_state import TaskState
from essaim_shared.transport import Delivery

SEED = 12
BIG = 2**62


def status(err: str) -> TaskStatus:
    return TaskStatus(
        state=TaskState.FAILED,
        timestamp_ns=BIG,
        message="started",
        err=err,
        container_id="f" * 64,
        pid=BIG,
        exit_code=BIG,
        started_ns=BIG,
    )


@pytest.mark.parametrize("char", ["x", "é", "😀", "\0"])
def test_the_size_of_a_status_is_never_underestimated(char: str) -> None:
    item = status(char * STATUS_ERROR_CHARS_MAX)
    alone = StatusReport(node_id=NodeId(""), session="", statuses=())
    with_it = StatusReport(
        node_id=NodeId(""),
        session="",
        statuses=(ReportedStatus(task_id=TaskId("t" * 25), status=item),),
    )
    assert len(encode(with_it)) - len(encode(alone)) <= status_bytes_max(item)


async def test_a_thousand_long_errors_are_told_in_messages_of_bounded_size() -> None:
    print(f"seed {SEED}")
    clock, rng = ManualClock(), random.Random(SEED)
    bus = MemoryBus(clock, rng)
    sizes: list[int] = []
    told: set[TaskId] = set()

    async def acknowledge(delivery: Delivery) -> None:
        sizes.append(len(delivery.payload))
        told.update(item.task_id for item in decode(delivery.payload, StatusReport).statuses)
        await delivery.respond(encode(StatusAck(term=1)))

    leader = bus.client("leader")
    await leader.subscribe("status", acknowledge)
    reporter = Reporter(bus.client("agent"), "status", NodeId("n"), clock, rng, lambda _: True)
    tasks = [TaskId(f"t{number}") for number in range(1000)]
    for task_id in tasks:
        reporter.put(task_id, status("😀" * STATUS_ERROR_CHARS_MAX))
    reporter.use_session("s")
    running = bus.spawn(reporter.run())
    for _ in range(50):
        await clock.advance(0.01)
    assert told == set(tasks)
    assert reporter.pending == 0
    assert max(sizes) <= BUS_CHUNK_BYTES_MAX + 256
    running.cancel()
    await bus.close()


async def test_a_newer_status_is_told_after_the_older_one_was_acknowledged() -> None:
    clock, rng = ManualClock(), random.Random(SEED)
    bus = MemoryBus(clock, rng)
    bus.delay_s = (0.05, 0.05)
    told: list[str] = []

    async def acknowledge(delivery: Delivery) -> None:
        [item] = decode(delivery.payload, StatusReport).statuses
        told.append(item.status.err)
        await delivery.respond(encode(StatusAck(term=1)))

    leader = bus.client("leader")
    await leader.subscribe("status", acknowledge)
    reporter = Reporter(bus.client("agent"), "status", NodeId("n"), clock, rng, lambda _: True)
    reporter.use_session("s")
    running = bus.spawn(reporter.run())
    reporter.put(TaskId("t"), status("first"))
    await clock.advance(0.01)
    reporter.put(TaskId("t"), status("second"))  # while the first is under way
    reporter.put(TaskId("t"), status("third"))
    await clock.advance(1)
    assert told == ["first", "third"]
    assert reporter.pending == 0
    running.cancel()
    await bus.close()


@pytest.mark.parametrize("count", [0, 1, CONTAINERS_PER_REPORT_MAX, CONTAINERS_PER_REPORT_MAX + 1])
def test_figures_of_many_containers_are_told_in_bounded_chunks(count: int) -> None:
    number = 2**60
    node = NodeFigures(
        **dict.fromkeys(NodeFigures.__struct_fields__, number)  # type: ignore[arg-type]
    )
    containers = [
        ContainerFigures(
            **{
                name: f"{index:064d}" if name.endswith("_id") else number
                for name in ContainerFigures.__struct_fields__
            }  # type: ignore[arg-type]
        )
        for index in range(count)
    ]
    messages = list(reports(NodeId("n"), node, containers))
    assert [message.chunk for message in messages] == list(range(len(messages)))
    assert {message.chunks for message in messages} == {len(messages)}
    assert [item for message in messages for item in message.containers] == containers
    for message in messages:
        encoded = encode(message)
        assert len(encoded) <= BUS_CHUNK_BYTES_MAX
        decode(encoded, FiguresReport)
