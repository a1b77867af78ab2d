"""What a node tells of its networks, and when: regularly, and at once when something changes."""

import asyncio
import contextlib
import random
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from essaim_agent.metrics.network_exposition import render_network
from essaim_agent.network import NetworkError, NetworkPicture
from essaim_agent.network_health.checked import Checked
from essaim_agent.network_health.reporter import NetworkReporter
from essaim_agent.network_health.rounds import Answer, Peer
from essaim_shared.clock import ManualClock
from essaim_shared.ids import NetworkId, NodeId
from essaim_shared.limits import (
    NETWORK_REPORT_PERIOD_S,
    REPORTED_DIFFERENCES_MAX,
    REPORTED_SENTENCE_CHARS_MAX,
)
from essaim_shared.memory_transport import MemoryBus
from essaim_shared.messages import Endpoint, NetworkReport, NodeNetwork, decode, encode
from essaim_shared.subjects import Subjects
from essaim_shared.transport import Delivery

METRICS = Path(__file__).resolve().parents[3] / "docs/reference/metrics.md"
NODE, RED = NodeId("n1"), NetworkId("red")
SUBJECT = Subjects("test").network_report(NODE)
PICTURE = NetworkPicture(
    {
        RED: NodeNetwork(
            network_id=RED,
            name='r"ed',
            vni=1,
            subnet="10.244.0.0/20",
            mtu=1450,
            gateway="10.244.0.1",
        )
    },
    frozenset({Endpoint(network_id=RED, address="10.244.0.2", node_address="10.98.0.2")}),
)


class Networks:
    """A node whose comparisons find what the test says."""

    def __init__(self) -> None:
        self.picture = PICTURE
        self._listeners: list[Callable[[Checked], None]] = []

    def on_checked(self, listener: Callable[[Checked], None]) -> None:
        self._listeners.append(listener)

    async def inside(self, work: Callable[[], Any]) -> Any:
        return work()

    def found(self, *mended: str, problems: tuple[str, ...] = (), at_ns: int = 5) -> None:
        for listener in self._listeners:
            listener(Checked(at_ns=at_ns, mended=mended, problems=problems))


class NameServer:
    problems: tuple[str, ...] = ()
    answers = 7


class Site:
    def __init__(self, has_networks: bool = True) -> None:
        self.clock = ManualClock()
        self.bus = MemoryBus(self.clock, random.Random(1))
        self.networks, self.names = Networks(), NameServer()
        self.is_refused = False
        self.latency_us = 250
        self.refusal = ""
        self.heard: list[NetworkReport] = []
        self.reporter = NetworkReporter(
            transport=self.bus.client("agent"),
            subject=SUBJECT,
            node_id=NODE,
            networks=self.networks if has_networks else None,
            may_tell=lambda: not self.is_refused,
            clock=self.clock,
            rng=random.Random(2),
            names=self.names,
            ask=self.ask if has_networks else None,
        )

    async def ask(self, peers: list[Peer]) -> list[Answer]:
        if self.refusal:
            raise NetworkError(self.refusal)
        return [Answer(peer, 3, self.latency_us, True) for peer in peers]

    async def hear(self, delivery: Delivery) -> None:
        self.heard.append(decode(delivery.payload, NetworkReport))

    async def period(self) -> NetworkReport:
        await self.clock.advance(NETWORK_REPORT_PERIOD_S)
        return self.heard[-1]


@contextlib.asynccontextmanager
async def running(has_networks: bool = True) -> AsyncIterator[Site]:
    made = Site(has_networks)
    await made.bus.client("master").subscribe(SUBJECT, made.hear)
    task = asyncio.create_task(made.reporter.run())
    await made.clock.advance(0)
    yield made
    task.cancel()
    await asyncio.wait([task])
    await made.bus.close()


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with running() as made:
        yield made


async def test_a_node_reports_at_its_start_and_every_period(site: Site) -> None:
    assert len(site.heard) == 1
    for count in (2, 3):
        report = await site.period()
        assert len(site.heard) == count
    assert (report.node_id, report.networks, report.endpoints) == (NODE, 1, 1)
    assert report.dns_answers == 7
    assert [probe.latency_us for probe in report.probes] == [250]
    assert report.sent_ns == site.clock.wall_ns()


async def test_a_problem_is_told_at_once_and_so_is_its_end(site: Site) -> None:
    site.networks.found(problems=("the VNI is taken",))
    await site.clock.advance(0)
    assert site.heard[-1].problems == ("the VNI is taken",)
    site.networks.found(problems=("the VNI is taken",))
    await site.clock.advance(1.5)
    assert len(site.heard) == 2, "the same problem is no news"
    site.networks.found()
    await site.clock.advance(0)
    assert site.heard[-1].problems == ()
    assert len(site.heard) == 3


async def test_problems_that_come_and_go_do_not_flood_the_bus(site: Site) -> None:
    for number in range(50):
        site.networks.found(problems=(f"problem {number}",))
        await site.clock.advance(0.02)
    assert len(site.heard) <= 3
    await site.clock.advance(1.0)
    assert site.heard[-1].problems == ("problem 49",), "the last word is told"


async def test_a_difference_is_told_at_once_and_with_the_next_report_and_counted_for_ever(
    site: Site,
) -> None:
    site.networks.found("a forward was missing: put back", at_ns=77)
    await site.clock.advance(0)
    assert len(site.heard) == 2
    await site.period()
    await site.period()
    told = ("a forward was missing: put back",)
    assert [one.differences for one in site.heard[1:]] == [told, told, ()]
    last = site.heard[-1]
    assert last.repairs == 1
    assert (last.last_repair, last.repaired_ns) == (told[0], 77)


async def test_a_report_is_bounded_however_much_is_wrong(site: Site) -> None:
    long = "x" * 10_000
    many = tuple(f"{number} {long}" for number in range(5_000))
    site.networks.found(*many, problems=many)
    report = await site.period()
    assert report.repairs == 5_000
    assert len(report.differences) == REPORTED_DIFFERENCES_MAX
    assert len(report.problems) == REPORTED_DIFFERENCES_MAX + 1
    assert report.problems[-1] == "and 4984 problems more: see the agent's log"
    assert max(map(len, report.differences)) == REPORTED_SENTENCE_CHARS_MAX
    assert len(encode(report)) < 64 * 1024


async def test_the_name_server_s_troubles_are_the_node_s(site: Site) -> None:
    site.names.problems = ("names are not answered",)
    site.networks.found()
    await site.clock.advance(0)
    assert site.heard[-1].problems == ("names are not answered",)


async def test_peers_that_cannot_be_asked_keep_no_report_back(site: Site) -> None:
    site.refusal = "raw socket for probes: Operation not permitted"
    await site.period()
    assert len(site.heard) == 2


async def test_a_cloned_disk_says_nothing(site: Site) -> None:
    site.is_refused = True
    site.networks.found(problems=("no",))
    await site.period()
    assert len(site.heard) == 1


async def test_a_node_without_networks_reports_that_all_is_well() -> None:
    async with running(has_networks=False) as site:
        report = await site.period()
        assert report.checked_ns == site.clock.wall_ns()
        assert (report.networks, report.problems, report.probes) == (0, (), ())


async def test_the_metrics_page_has_the_figures(site: Site) -> None:
    site.networks.found("a", "b", problems=("c",))
    reporter = site.reporter
    page = render_network(
        reporter.checked,
        reporter.repairs,
        reporter.dns_answers,
        reporter.picture.networks,
        reporter.findings.all.values(),
    )
    [_, documented] = METRICS.read_text().split("\n# Metrics of an agent's networks")
    served = re.findall(r"^# TYPE (\w+) ", page, re.MULTILINE)
    assert set(served) == set(re.findall(r"^\| `(\w+)", documented, re.MULTILINE))
    assert [line for line in page.splitlines() if not line.startswith("#")] == [
        "essaim_network_repairs_total 2",
        "essaim_network_differences 3",
        "essaim_network_connections 0",
        "essaim_dns_answers_total 7",
        'essaim_network_probe_latency_seconds{network="r\\"ed",peer="10.98.0.2"} 0.000250',
        'essaim_network_probe_misses{network="r\\"ed",peer="10.98.0.2"} 0',
    ]
