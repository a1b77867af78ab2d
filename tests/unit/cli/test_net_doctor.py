"""`essaim net doctor`: what it prints, and when it fails."""

import asyncio
import json
import os
from pathlib import Path

import pytest

from essaim_cli.errors import CommandFailed
from essaim_cli.net_view import chosen, doctor_text, stale_nodes, verdict
from essaim_master.state.writes import Writes
from essaim_shared.clock import wait_until
from essaim_shared.ids import NetworkId, NodeId
from essaim_shared.messages import NetworkProbe, NetworkReport
from essaim_shared.objects import Network

GOLDEN = Path(__file__).parent / "golden/net-doctor"
IS_RENEWED = bool(os.environ.get("ESSAIM_RENEW_GOLDEN"))
SECOND_NS = 1_000_000_000
NOW_NS = 1_000 * SECOND_NS


def probe(network, peer, latency=0.00031, **more):
    return {
        "NetworkID": f"{network}-id",
        "Network": network,
        "Peer": peer,
        "PeerAddress": "10.98.0.9",
        "Latency": latency,
        "MTU": 1450,
        "IsMTUWhole": True,
        "Age": 2.4,
        "Misses": 0,
        "MTUMisses": 0,
        **more,
    }


def node(number, probes=(), **more):
    return {
        "ID": f"n{number:024}",
        "Hostname": f"h{number}",
        "Address": f"10.98.0.{number}",
        "State": "ready",
        "UnderlayMTU": 1500,
        "ReportAge": 1.2,
        "CheckAge": 1.9,
        "Networks": 2,
        "Endpoints": 14,
        "Services": 1,
        "Connections": 40,
        "DNSAnswers": 7,
        "Repairs": 0,
        "LastRepair": "",
        "LastRepairAge": None,
        "Differences": [],
        "Problems": [],
        "Probes": list(probes),
        **more,
    }


def error(text, node="", level="error"):
    return {"Level": level, "Node": node, "Text": text}


NETWORKS = [{"ID": "red-id", "Name": "red"}, {"ID": "blue-id", "Name": "blue"}]


def answer(*nodes, findings=(), healthy=True):
    return {
        "Healthy": healthy,
        "Findings": list(findings),
        "Nodes": list(nodes),
        "Networks": NETWORKS,
    }


WELL = answer(
    node(10, [probe("red", "h2", 0.01234)]),
    node(2, [probe("red", "h10"), probe("blue", "h3", 0.00009, Age=0.3), probe("blue", "h10")]),
)
ILL = answer(
    node(
        1,
        [
            probe("red", "h2", None, Misses=3),
            probe("red", "h3", MTUMisses=2, IsMTUWhole=False),
            probe("blue", "h3", None, Misses=1, Age=70.0),
        ],
        Repairs=3,
        LastRepairAge=41.0,
        LastRepair="forwarding entry of 10.244.0.7 (web.2 on 10.98.0.2) was missing: put back",
        Differences=["forwarding entry of 10.244.0.7 (web.2 on 10.98.0.2) was missing: put back"],
    ),
    node(2, Networks=1, Endpoints=1, CheckAge=None),
    node(3, State="down", ReportAge=None),
    findings=[
        error("h1 gets no answer from h2 through network red (3 times in a row): see …", "h1"),
        error("h2 has not compared its tables yet: see its agent's log", "h2"),
        error("network red is running out of addresses (14 of 14): …", level="warning"),
    ],
    healthy=False,
)
TEXTS = {"well": WELL, "ill": ILL, "one-node": chosen(ILL, ["h1"]), "nobody": answer()}


@pytest.mark.parametrize("name", sorted(TEXTS))
def test_the_text_is_that_of_its_golden_file(name):
    path = GOLDEN / f"{name}.txt"
    text = doctor_text(chosen(TEXTS[name], [])) + "\n"
    if IS_RENEWED:
        path.write_text(text)
    assert text == path.read_text(), "ESSAIM_RENEW_GOLDEN=1 renews it"


def test_the_verdict_counts_what_is_wrong():
    assert verdict(WELL) == ""
    assert verdict(ILL) == (
        "the networks are not as they should be: 2 errors and "
        "1 difference mended in the last seconds"
    )


def test_of_some_nodes_only_theirs_and_the_cluster_s_troubles_count():
    third = chosen(ILL, ["h3"])
    assert [one["Level"] for one in third["Findings"]] == ["warning"]
    assert third["Healthy"]
    assert [one["Hostname"] for one in chosen(ILL, ["h1", ILL["Nodes"][1]["ID"]])["Nodes"]] == [
        "h1",
        "h2",
    ]


@pytest.mark.parametrize(
    ("name", "reason"), [("h9", "h9: no such node"), ("n0000", "n0000: 3 nodes are called so")]
)
def test_a_node_that_is_not_there_is_an_error(name, reason):
    with pytest.raises(CommandFailed, match=reason):
        chosen(ILL, [name])


@pytest.mark.parametrize(
    ("changes", "elapsed_s", "expected"),
    [
        ({}, 3.0, []),
        ({}, 1.5, ["h1"]),
        ({"CheckAge": 9.0}, 3.0, ["h1"]),
        ({"CheckAge": None}, 3.0, ["h1"]),
        ({"ReportAge": None}, 3.0, ["h1"]),
        ({"Probes": [probe("red", "h2", Age=9.0), probe("red", "h3", Age=1.0)]}, 3.0, []),
        ({"Probes": [probe("red", "h2", Age=9.0)]}, 3.0, ["h1"]),
        ({"ReportAge": None, "State": "down"}, 3.0, []),
    ],
)
def test_a_node_is_fresh_when_all_of_it_is_younger_than_the_command(changes, elapsed_s, expected):
    assert stale_nodes(answer(node(1, **changes)), elapsed_s) == expected


# With a master.


def report(number, **more):
    return NetworkReport(
        **{
            "node_id": NodeId(f"node{number}"),
            "checked_ns": NOW_NS,
            "sent_ns": NOW_NS,
            "networks": 1,
            **more,
        }
    )


def hear_all(master):
    for number in (1, 2, 3):
        master.reports.hear(report(number))


async def test_all_is_well(master):
    hear_all(master)
    assert (await master.ok("net", "doctor")).endswith(
        "All is well: 3 nodes ready, 0 networks, 0 ways between nodes tried, no difference.\n"
    )


async def test_a_node_without_a_report_makes_it_fail(master):
    master.reports.hear(report(1))
    master.reports.hear(report(2))
    done = await master.run("net", "doctor")
    assert done.code == 1
    assert "error: h10 has not reported its networks" in done.out
    assert "the networks are not as they should be: 1 error" in done.err
    assert (await master.run("net", "doctor", "h1", "h2")).code == 0


async def test_a_difference_makes_it_fail_and_is_said(master):
    hear_all(master)
    master.reports.hear(report(2, differences=("a neighbour was missing: put back",), repairs=1))
    done = await master.run("net", "doctor")
    assert done.code == 1
    assert "mended: h2: a neighbour was missing: put back" in done.out


async def test_names_of_networks_and_peers_are_resolved(master):
    writes = Writes()
    writes.put(Network(id=NetworkId("r1"), name="red", subnet="10.244.0.0/24", created_ns=1))
    await master.write(writes)
    hear_all(master)
    asked = NetworkProbe(
        network_id=NetworkId("r1"),
        node_address="10.98.0.2",
        latency_us=420,
        asked_ns=NOW_NS - 3 * SECOND_NS,
    )
    master.reports.hear(report(1, probes=(asked,)))
    out = await master.ok("net", "doctor", "h1")
    [row] = [line.split() for line in out.splitlines() if "0.42 ms" in line]
    assert row[:4] == ["red", "h2", "0.42", "ms"]
    assert row[-3:] == ["3", "seconds", "ago"]


@pytest.mark.parametrize("flag", ["-o", "--format"])
async def test_json_for_programs(master, flag):
    hear_all(master)
    found = json.loads(await master.ok("net", "doctor", flag, "json"))
    assert found["Healthy"] is True
    assert [node["Hostname"] for node in found["Nodes"]] == ["h1", "h2", "h10"]


async def test_fresh_waits_for_reports_that_are_younger_than_the_command(master):
    for number in (1, 2, 3):
        master.reports.hear(report(number), age_s=5.0)
    command = asyncio.ensure_future(master.run("net", "doctor", "--fresh"))
    assert await wait_until(lambda: master.reports.asked >= 2, master.clock, 10.0)
    assert not command.done()
    master.reports.is_renewed = True
    done = await command
    assert done.code == 0, done


async def test_fresh_gives_up_in_time_and_names_who_is_late(master):
    hear_all(master)
    master.reports.hear(report(3), age_s=10.0)
    done = await master.run("net", "doctor", "--fresh", "--timeout", "0s")
    assert done.code == 1
    assert "no fresh report within 0s from" in done.err
    assert "h10" in done.err


async def test_a_bad_timeout_is_a_bad_flag(master):
    done = await master.run("net", "doctor", "--fresh", "--timeout", "soon")
    assert done.code == 125
    assert "--timeout: invalid duration 'soon'" in done.err
