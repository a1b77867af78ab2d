"""Whom a node asks through its networks, and what it makes of the answers."""

import random

from hypothesis import given
from hypothesis import strategies as st

from essaim_agent.network import NetworkPicture
from essaim_agent.network_health.rounds import (
    PEERS_PER_NETWORK,
    Answer,
    Findings,
    Peer,
    choose,
    peers_of,
)
from essaim_shared.ids import NetworkId, TaskId
from essaim_shared.limits import NETWORK_PROBES_MAX
from essaim_shared.messages import Endpoint, NodeNetwork

RED, BLUE = NetworkId("red"), NetworkId("blue")


def peer(number: int, network_id: NetworkId = RED) -> Peer:
    return Peer(network_id, f"10.98.0.{number}", f"10.244.0.{number}", "10.244.0.1", 1450)


def heard(asked: Peer, is_mtu_whole: bool = True) -> Answer:
    return Answer(asked, asked_ns=1, latency_us=300, is_mtu_whole=is_mtu_whole)


def silence(asked: Peer) -> Answer:
    return Answer(asked, asked_ns=1)


def test_peers_are_the_bridges_of_other_nodes_on_networks_of_this_one() -> None:
    red = NodeNetwork(
        network_id=RED, name="r", vni=1, subnet="10.244.0.0/20", mtu=1450, gateway="10.244.0.1"
    )
    endpoints = frozenset(
        {
            Endpoint(network_id=RED, address="10.244.0.1", node_address="10.98.0.1"),
            Endpoint(network_id=RED, address="10.244.0.2", node_address="10.98.0.2"),
            Endpoint(network_id=BLUE, address="10.245.0.2", node_address="10.98.0.2"),
            Endpoint(
                network_id=RED,
                address="10.244.0.9",
                node_address="10.98.0.2",
                task_id=TaskId("t"),
            ),
        }
    )
    assert peers_of(NetworkPicture({RED: red}, endpoints)) == [peer(2)]


@given(
    count=st.integers(0, 40),
    networks=st.integers(1, 12),
    silent=st.sets(st.integers(0, 39)),
    seed=st.integers(0, 1000),
)
def test_a_round_is_bounded_and_asks_those_again_who_were_silent(
    count: int, networks: int, silent: set[int], seed: int
) -> None:
    everybody = [
        peer(number, NetworkId(f"n{network}"))
        for network in range(networks)
        for number in range(count)
    ]
    quiet = {everybody[i].key for i in silent if i < len(everybody)}
    chosen = choose(everybody, quiet, random.Random(seed))
    assert len(chosen) <= NETWORK_PROBES_MAX
    assert len(set(chosen)) == len(chosen)
    again = [one for one in chosen if one.key in quiet]
    assert len(again) == min(len(quiet), NETWORK_PROBES_MAX // 2)
    for network in range(networks):
        fresh = [p for p in chosen if p.network_id == f"n{network}" and p.key not in quiet]
        assert len(fresh) <= PEERS_PER_NETWORK


def test_in_time_everybody_is_asked() -> None:
    everybody, rng, asked = [peer(number) for number in range(30)], random.Random(4), set()
    for _ in range(200):
        asked |= set(choose(everybody, [], rng))
    assert asked == set(everybody)


def test_silence_is_counted_until_an_answer_comes() -> None:
    findings = Findings()
    for times in (1, 2, 3):
        findings.note([silence(peer(2)), heard(peer(3))])
        assert findings.all[peer(2).key].misses == times
    assert findings.silent == [peer(2).key]
    findings.note([heard(peer(2))])
    assert findings.silent == []
    assert findings.all[peer(2).key].misses == 0


def test_a_full_packet_that_does_not_come_back_is_counted_apart() -> None:
    findings = Findings()
    findings.note([heard(peer(2), is_mtu_whole=False)])
    findings.note([heard(peer(2), is_mtu_whole=False)])
    probe = findings.all[peer(2).key]
    assert (probe.misses, probe.mtu_misses, probe.is_mtu_whole) == (0, 2, False)
    findings.note([silence(peer(2))])
    probe = findings.all[peer(2).key]
    assert (probe.misses, probe.mtu_misses) == (1, 0), "nothing is known of the MTU then"


def test_who_left_the_network_is_forgotten() -> None:
    findings = Findings()
    findings.note([silence(peer(2)), silence(peer(3))])
    findings.keep_only([peer(3)])
    assert findings.silent == [peer(3).key]


def test_the_report_shows_the_silent_first_and_then_the_latest() -> None:
    findings = Findings()
    findings.note([silence(peer(2))])
    findings.note([heard(peer(number)) for number in range(10, 40)])
    shown = findings.reported()
    assert len(shown) == NETWORK_PROBES_MAX
    assert shown[0].node_address == "10.98.0.2"
    assert {probe.node_address for probe in shown[1:]} == {f"10.98.0.{n}" for n in range(25, 40)}
