"""The latest figures of each node: whole reports only, nothing old, nothing foreign."""

import random

import pytest

from essaim_master.control.figures_cache import FIGURES_AGE_MAX_S, FiguresCache
from essaim_shared.clock import ManualClock
from essaim_shared.figures import ContainerFigures, NodeFigures
from essaim_shared.ids import NodeId
from essaim_shared.memory_transport import MemoryBus
from essaim_shared.messages import Echo, FiguresReport, encode
from essaim_shared.subjects import Subjects

SUBJECTS = Subjects("test")


def node_figures(taken_ns=1, cpu_percent=50.0):
    return NodeFigures(
        taken_ns=taken_ns,
        cpu_count=2,
        cpu_percent=cpu_percent,
        load_1=0.1,
        load_5=0.2,
        load_15=0.3,
        memory_total_bytes=100,
        memory_used_bytes=50,
        disk_total_bytes=100,
        disk_used_bytes=50,
        network_receive_bytes=1,
        network_transmit_bytes=2,
    )


def container(task_id):
    return ContainerFigures(
        task_id=task_id,
        container_id="c" + task_id,
        cpu_seconds=1.0,
        cpu_percent=2.0,
        memory_working_set_bytes=1,
        memory_usage_bytes=1,
        memory_limit_bytes=1,
        network_receive_bytes=1,
        network_transmit_bytes=1,
        block_read_bytes=1,
        block_write_bytes=1,
        process_count=1,
    )


class Bench:
    def __init__(self):
        self.clock = ManualClock()
        self.bus = MemoryBus(self.clock, random.Random(3))
        self.agent = self.bus.client("agent")
        self.nodes = {"c": "n2"}
        """Of tasks that are not on n1."""
        self.cache = FiguresCache(
            self.bus.client("master"),
            SUBJECTS,
            self.clock,
            lambda task_id: NodeId(self.nodes.get(task_id, "n1")),
        )

    async def report(self, node_id, tasks=(), subject=None, **fields):
        report = FiguresReport(
            node_id=NodeId(node_id),
            node=fields.pop("node", node_figures()),
            containers=tuple(container(task) for task in tasks),
            **fields,
        )
        await self.publish(subject or SUBJECTS.figures(NodeId(node_id)), encode(report))

    async def publish(self, subject, payload):
        await self.agent.publish(subject, payload)
        await self.clock.advance(0)

    def tasks(self):
        return set(self.cache.containers())


@pytest.fixture
async def bench():
    bench = Bench()
    await bench.cache.start()
    yield bench
    await bench.cache.stop()
    await bench.bus.close()


async def test_a_later_report_replaces_the_earlier_one(bench):
    await bench.report("n1", ["a", "b"])
    await bench.report("n2", ["c"])
    await bench.report("n1", ["b"], node=node_figures(2, cpu_percent=75.0))
    assert bench.tasks() == {"b", "c"}
    assert bench.cache.nodes()[NodeId("n1")].cpu_percent == 75.0


async def test_a_report_in_chunks_counts_when_it_is_whole(bench):
    await bench.report("n1", ["old"])
    await bench.report("n1", ["a"], node=node_figures(2), chunk=1, chunks=2)
    assert bench.tasks() == {"old"}
    await bench.report("n1", ["b"], node=node_figures(2), chunk=0, chunks=2)
    assert bench.tasks() == {"a", "b"}


async def test_chunks_of_two_samples_are_not_mixed(bench):
    await bench.report("n1", ["a"], node=node_figures(2), chunk=0, chunks=2)
    await bench.report("n1", ["x"], node=node_figures(3), chunk=1, chunks=2)
    assert bench.tasks() == set()
    await bench.report("n1", ["y"], node=node_figures(3), chunk=0, chunks=2)
    assert bench.tasks() == {"x", "y"}


async def test_old_figures_are_not_shown(bench):
    await bench.report("n1", ["a"])
    await bench.clock.advance(FIGURES_AGE_MAX_S + 1)
    await bench.report("n2", ["c"])
    assert set(bench.cache.nodes()) == {"n2"}
    assert bench.tasks() == {"c"}


@pytest.mark.parametrize("fields", [{"chunk": 2, "chunks": 2}, {"chunk": -1}, {"chunks": 10_000}])
async def test_impossible_chunks_are_refused(bench, fields):
    await bench.report("n1", ["a"], **fields)
    assert bench.cache.nodes() == {}
    assert bench.cache.rejects.count == 1


async def test_a_node_cannot_speak_for_another(bench):
    await bench.report("n1", ["a"], subject=SUBJECTS.figures(NodeId("n2")))
    assert bench.cache.nodes() == {}
    assert bench.cache.rejects.count == 1


async def test_a_node_cannot_speak_of_anothers_tasks(bench):
    await bench.report("n1", ["a"])
    await bench.report("n2", ["a", "c"])
    assert bench.tasks() == {"a", "c"}
    await bench.report("n1", ["c"])
    assert bench.tasks() == {"c"}, "n2's own figures of it"
    await bench.report("n2", [])
    assert bench.tasks() == set()


async def test_noise_is_counted(bench):
    subject = SUBJECTS.figures(NodeId("n1"))
    await bench.publish(subject, b"\xff\xff")
    await bench.publish(subject, encode(Echo(member_id="m", number=1)))
    assert bench.cache.rejects.count == 2
    await bench.report("n1", ["a"])
    assert bench.tasks() == {"a"}
