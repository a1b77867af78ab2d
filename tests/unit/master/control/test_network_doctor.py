"""What is wrong with a cluster's networks, as only somebody can say who hears all of its nodes."""

from collections.abc import Iterable

import pytest
from msgspec.structs import replace

from essaim_master.control.network_doctor import (
    ExaminedNetwork,
    ExaminedNode,
    UnpublishedPort,
    diagnose,
)
from essaim_shared.ids import NetworkId, NodeId
from essaim_shared.messages import NetworkProbe, NetworkReport
from essaim_shared.objects import Network
from essaim_shared.spec import PortConfig

RED, BLUE = NetworkId("red-id"), NetworkId("blue-id")
SECOND_NS = 1_000_000_000
NOW_NS = 1_000 * SECOND_NS


def network(
    network_id: NetworkId = RED, used: int = 3, mtu: int = 1450, subnet: str = "10.244.0.0/24"
) -> ExaminedNetwork:
    name = network_id.removesuffix("-id")
    return ExaminedNetwork(
        Network(id=network_id, name=name, subnet=subnet, mtu=mtu, created_ns=1), used
    )


NETWORKS = {RED: network(), BLUE: network(BLUE)}


def node(number: int, *probes: NetworkProbe, **changes: object) -> ExaminedNode:
    report = NetworkReport(
        node_id=NodeId(f"n{number}"), checked_ns=NOW_NS, sent_ns=NOW_NS, networks=2, probes=probes
    )
    made = ExaminedNode(
        id=NodeId(f"n{number}"),
        hostname=f"h{number}",
        address=f"10.98.0.{number}",
        state="ready",
        mtu=1500,
        report=report,
        report_age_s=1.0,
    )
    return replace(made, **changes)


def reporting(number: int, **changes: object) -> ExaminedNode:
    made = node(number)
    assert made.report is not None
    return replace(made, report=replace(made.report, **changes))


def heard(number: int, network_id: NetworkId = RED) -> NetworkProbe:
    return NetworkProbe(
        network_id=network_id, node_address=f"10.98.0.{number}", latency_us=300, asked_ns=NOW_NS
    )


def silent(number: int, network_id: NetworkId = RED, misses: int = 2) -> NetworkProbe:
    return NetworkProbe(
        network_id=network_id,
        node_address=f"10.98.0.{number}",
        is_mtu_whole=False,
        asked_ns=NOW_NS,
        misses=misses,
    )


def said(
    *nodes: ExaminedNode, networks: dict[NetworkId, ExaminedNetwork] | None = None
) -> list[str]:
    found = diagnose(nodes, NETWORKS if networks is None else networks)
    return [f"{one.level}: {one.text}" for one in found]


def one_of(sentences: Iterable[str], *parts: str) -> bool:
    return any(all(part in sentence for part in parts) for sentence in sentences)


def test_nothing_is_wrong_with_nodes_that_hear_each_other() -> None:
    assert said(node(1, heard(2), heard(3)), node(2, heard(1)), node(3, heard(1, BLUE))) == []


def test_a_node_that_never_reported_is_named() -> None:
    [sentence] = said(node(1), node(2, report=None))
    assert sentence.startswith("error: h2 has not reported its networks: see that its agent runs")


def test_a_node_that_reports_no_more_is_named_with_its_silence() -> None:
    [sentence] = said(node(1, report_age_s=40.2))
    assert sentence.startswith("error: h1 last reported its networks 40 s ago")


def test_nodes_that_are_down_are_not_expected_to_report() -> None:
    assert said(node(1, report=None, state="down"), node(2, state="down", report_age_s=900.0)) == []


def test_a_comparison_is_as_old_as_the_node_s_own_clock_says() -> None:
    hour_ns = 3600 * SECOND_NS
    assert said(reporting(1, checked_ns=NOW_NS - hour_ns, sent_ns=NOW_NS - hour_ns)) == []
    [sentence] = said(reporting(1, checked_ns=NOW_NS - 30 * SECOND_NS))
    assert sentence == "error: h1 has not compared its tables for 31 s: see its agent's log"
    [sentence] = said(reporting(1, checked_ns=0))
    assert sentence == "error: h1 has not compared its tables yet: see its agent's log"


def test_a_node_s_own_problems_are_passed_on() -> None:
    assert said(reporting(1, problems=("the VNI is taken", "no names"))) == [
        "error: h1 says: the VNI is taken",
        "error: h1 says: no names",
    ]


def test_tasks_on_networks_that_their_node_does_not_have() -> None:
    running = ((NOW_NS - 1, (RED,)), (NOW_NS - 1, (BLUE, RED)))
    [sentence] = said(replace(reporting(1, networks=1), running=running))
    assert sentence.startswith("error: h1 runs tasks of 2 networks and has 1 of them")
    later = ((NOW_NS + 1, (BLUE,)), (NOW_NS - 1, (RED,)))
    assert said(replace(reporting(1, networks=1), running=later)) == []
    processes = replace(reporting(1, networks=0, has_overlay=False), running=running)
    assert said(processes) == []


def test_one_lost_echo_is_no_problem() -> None:
    assert said(node(1, silent(2, misses=1)), node(2)) == []


def test_a_pair_that_does_not_hear_each_other_is_said_from_both_sides() -> None:
    sentences = said(node(1, silent(2), heard(3)), node(2, silent(1), heard(3)), node(3, heard(1)))
    assert len(sentences) == 2
    assert one_of(sentences, "h1 gets no answer from h2 through network red (2 times in a row)")
    assert one_of(sentences, "h2 gets no answer from h1", "between 10.98.0.2 and 10.98.0.1")


def test_silence_in_one_direction_is_called_so() -> None:
    [sentence] = said(node(1, silent(2, misses=7)), node(2, heard(1)))
    assert sentence.startswith(
        "error: h1 gets no answer from h2 through network red (7 times in a row), though h2 gets "
        "one from h1: see the packet filters"
    )


def test_a_node_that_nobody_hears_is_one_finding_and_not_a_dozen() -> None:
    sentences = said(
        node(1, silent(2), silent(2, BLUE), heard(3)),
        node(2, silent(1), silent(3), silent(3, BLUE)),
        node(3, silent(2), heard(1)),
    )
    [sentence] = sentences
    assert sentence.startswith(
        "error: h2 answers nobody through any network (asked by h1, h3): see that UDP packets of "
        "the overlay reach 10.98.0.2"
    )


def test_a_node_that_is_heard_through_one_network_is_not_lost() -> None:
    sentences = said(
        node(1, silent(2), heard(2, BLUE)), node(2, heard(1, BLUE)), node(3, silent(2))
    )
    assert not one_of(sentences, "answers nobody")
    assert len(sentences) == 2


def test_silence_of_nodes_that_are_down_or_not_heard_is_explained_already() -> None:
    assert said(node(1, silent(2)), node(2, state="down")) == []
    sentences = said(node(1, silent(2)), node(2, report_age_s=60.0))
    assert len(sentences) == 1
    assert one_of(sentences, "h2 last reported")


def test_a_way_that_is_too_narrow_is_told_with_the_size_that_it_needs() -> None:
    narrow = replace(heard(2), is_mtu_whole=False, mtu_misses=2)
    [sentence] = said(node(1, narrow), node(2))
    assert (
        "packets of 1450 bytes, the MTU of network red, do not pass between h1 and h2" in sentence
    )
    assert "must carry 1500" in sentence
    assert said(node(1, replace(narrow, mtu_misses=1)), node(2)) == []


@pytest.mark.parametrize(
    ("mtus", "network_mtu", "expected"),
    [
        ((1500, 1500, 1500), 1450, []),
        ((1500, 0, 1500), 1450, []),
        ((9000, 9000, 1500), 1450, ["warning: h3 has an underlay of 1500 bytes where others"]),
        ((1500, 1500, 9000), 1450, ["warning: h3 has an underlay of 9000 bytes"]),
        ((9000, 9000, 1500), 8950, ["error: h3 has an underlay of 1500 bytes"]),
        ((9000, 1500), 1450, ["warning: h2 has an underlay of 1500 bytes"]),
    ],
)
def test_a_node_whose_underlay_differs_is_named(
    mtus: tuple[int, ...], network_mtu: int, expected: list[str]
) -> None:
    nodes = [node(number, mtu=mtu) for number, mtu in enumerate(mtus, start=1)]
    sentences = said(*nodes, networks={RED: network(mtu=network_mtu)})
    assert len(sentences) == len(expected)
    for sentence, start in zip(sentences, expected, strict=True):
        assert sentence.startswith(start)


@pytest.mark.parametrize(
    ("used", "subnet", "expected"),
    [
        (200, "10.244.0.0/24", []),
        (229, "10.244.0.0/24", ["warning: network red is running out of addresses (229 of 254"]),
        (254, "10.244.0.0/24", ["error: network red has no free address left (254 of 254"]),
        (0, "", []),
    ],
)
def test_networks_that_run_out_of_addresses_are_named_in_time(
    used: int, subnet: str, expected: list[str]
) -> None:
    sentences = said(node(1), networks={RED: network(used=used, subnet=subnet)})
    assert len(sentences) == len(expected)
    assert all(map(str.startswith, sentences, expected))


def test_the_addresses_are_those_that_tasks_are_given() -> None:
    made = network(subnet="10.244.0.0/24")
    assert made.addresses_max == 254
    assert (
        replace(made, network=replace(made.network, ip_range="10.244.0.64/28")).addresses_max == 16
    )


@pytest.mark.parametrize(
    ("port", "holder", "reason"),
    [
        (PortConfig(target_port=80), "", "no free tcp port to publish from 30000 to 32767"),
        (PortConfig(target_port=80, published_port=8080), "db", "service db has 8080/tcp"),
        (PortConfig(target_port=80, published_port=8080), "", "8080/tcp is not claimed"),
    ],
)
def test_a_service_without_a_port_that_it_asks_for_is_named(port, holder, reason) -> None:
    (found,) = diagnose([], NETWORKS, [UnpublishedPort("web", port, holder)])
    assert (found.level, found.node_id) == ("error", "")
    assert f"service web has not published port 80/tcp of its tasks: {reason}" in found.text


def test_errors_come_before_warnings() -> None:
    sentences = said(node(1, mtu=9000), node(2), node(3, report=None))
    assert [sentence.partition(":")[0] for sentence in sentences] == ["error", "warning"]
