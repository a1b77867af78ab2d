"""The newest report of each node on its networks: kept while the node is, however old it gets."""

import random

import pytest

from essaim_master.control.network_reports import NetworkReports
from essaim_shared.clock import ManualClock
from essaim_shared.ids import NodeId
from essaim_shared.memory_transport import MemoryBus
from essaim_shared.messages import Echo, NetworkReport, encode
from essaim_shared.subjects import Subjects

SUBJECTS = Subjects("test")


class Bench:
    def __init__(self):
        self.clock = ManualClock()
        self.bus = MemoryBus(self.clock, random.Random(3))
        self.agent = self.bus.client("agent")
        self.nodes = {NodeId("n1"), NodeId("n2")}
        self.reports = NetworkReports(
            self.bus.client("master"), SUBJECTS, self.clock, lambda: self.nodes
        )

    async def report(self, node_id, repairs=0, subject=None):
        report = NetworkReport(node_id=NodeId(node_id), checked_ns=1, repairs=repairs)
        await self.publish(subject or SUBJECTS.network_report(NodeId(node_id)), encode(report))

    async def publish(self, subject, payload):
        await self.agent.publish(subject, payload)
        await self.clock.advance(0)

    def repairs(self):
        return {i: heard.report.repairs for i, heard in self.reports.received().items()}


@pytest.fixture
async def bench():
    bench = Bench()
    await bench.reports.start()
    yield bench
    await bench.reports.stop()
    await bench.bus.close()


async def test_a_later_report_replaces_the_earlier_one(bench):
    await bench.report("n1", 1)
    await bench.report("n2", 2)
    await bench.report("n1", 3)
    assert bench.repairs() == {"n1": 3, "n2": 2}


async def test_a_silent_node_keeps_its_last_report_and_its_moment(bench):
    await bench.report("n1", 1)
    began_s = bench.clock.monotonic_s()
    await bench.clock.advance(3600)
    assert bench.repairs() == {"n1": 1}
    assert bench.reports.received()["n1"].received_s == began_s


async def test_a_report_goes_with_its_node(bench):
    await bench.report("n1", 1)
    bench.nodes.remove("n1")
    assert bench.repairs() == {}


async def test_who_is_not_a_node_of_the_cluster_is_not_heard(bench):
    await bench.report("n3")
    assert bench.repairs() == {}
    bench.nodes.add(NodeId("n3"))
    await bench.report("n3")
    assert bench.repairs() == {"n3": 0}


async def test_a_report_that_no_agent_sends_is_not_kept(bench):
    await bench.report("n1", 1)
    report = NetworkReport(node_id=NodeId("n1"), checked_ns=1, problems=("x" * 80_000,))
    await bench.publish(SUBJECTS.network_report(NodeId("n1")), encode(report))
    assert bench.repairs() == {"n1": 1}
    assert bench.reports.rejects.count == 1


async def test_a_node_cannot_speak_for_another_and_noise_is_counted(bench):
    await bench.report("n1", subject=SUBJECTS.network_report(NodeId("n2")))
    await bench.publish(SUBJECTS.network_report(NodeId("n1")), b"\xff\xff")
    await bench.publish(
        SUBJECTS.network_report(NodeId("n1")), encode(Echo(member_id="m", number=1))
    )
    assert bench.repairs() == {}
    assert bench.reports.rejects.count == 3
