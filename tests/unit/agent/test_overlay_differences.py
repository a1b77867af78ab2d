"""What is said of tables that were not as wanted: whole sentences, with names where known."""

import pytest
from msgspec.structs import replace

from essaim_agent.network import NetworkPicture
from essaim_agent.overlay.differences import differences
from essaim_agent.overlay.plan import plan
from essaim_agent.overlay.rtnetlink import FLOOD_MAC
from essaim_agent.overlay.tables import (
    Forward,
    Neighbour,
    Port,
    PortMac,
    Tables,
    bridge_name,
    vxlan_name,
    wanted_tables,
)
from essaim_shared.addressing import mac_of
from essaim_shared.ids import NetworkId, ServiceId, TaskId
from essaim_shared.messages import Endpoint, NodeNetwork, ServiceEntry

RED = NetworkId("red-id")
B, X = bridge_name(RED), vxlan_name(RED)
LOCAL, OTHER = "10.98.0.1", "10.98.0.2"
WEB, GATEWAY = "10.244.0.7", "10.244.0.2"
WEB_MAC = mac_of(WEB)

PICTURE = NetworkPicture(
    networks={
        RED: NodeNetwork(
            network_id=RED,
            name="red",
            vni=70_001,
            subnet="10.244.0.0/20",
            mtu=1450,
            gateway="10.244.0.1",
        )
    },
    endpoints=frozenset(
        {
            Endpoint(network_id=RED, address=GATEWAY, node_address=OTHER),
            Endpoint(
                network_id=RED,
                address=WEB,
                node_address=OTHER,
                task_id=TaskId("t1"),
                service_id=ServiceId("s1"),
                slot="2",
            ),
        }
    ),
    services=frozenset({ServiceEntry(service_id=ServiceId("s1"), network_id=RED, name="web")}),
)
FULL = wanted_tables(PICTURE.networks.values(), PICTURE.endpoints, LOCAL)
FORWARD, PORT_MAC = Forward(X, WEB_MAC, OTHER), PortMac(X, WEB_MAC)


def without(*entries):
    return replace(FULL, entries=FULL.entries - set(entries))


def with_entry(entry, *gone):
    return replace(FULL, entries=(FULL.entries - set(gone)) | {entry})


def with_bridge(**changes):
    return replace(FULL, bridges={B: replace(FULL.bridges[B], **changes)})


def with_vxlan(**changes):
    return replace(FULL, vxlans={X: replace(FULL.vxlans[X], **changes)})


def with_port(**changes):
    return replace(FULL, ports={"es-v1": replace(Port("es-v1", B, TaskId("t9"), True), **changes)})


WEB_NEIGHBOUR = Neighbour(B, WEB, WEB_MAC)
BRIDGE, VXLAN = f"bridge {B} of network red", f"VXLAN device {X} of network red"

SENTENCES = {
    "forward": (
        without(FORWARD),
        f"forwarding entry of {WEB} (web.2 on {OTHER}) was missing: put back",
    ),
    "astray": (
        with_entry(replace(FORWARD, vtep="10.98.0.9"), FORWARD),
        f"forwarding entry of {WEB} (web.2 on {OTHER}) led to 10.98.0.9: put right",
    ),
    "gateway": (
        without(Forward(X, mac_of(GATEWAY), OTHER)),
        f"forwarding entry of {GATEWAY} (the bridge of {OTHER}) was missing: put back",
    ),
    "flood": (
        without(Forward(X, FLOOD_MAC, OTHER)),
        f"flood entry of network red to {OTHER} was missing: put back",
    ),
    "port": (
        without(PORT_MAC),
        f"bridge entry of {WEB} (web.2 on {OTHER}) was missing: put back",
    ),
    "not sticky": (
        with_entry(replace(PORT_MAC, sticky=False), PORT_MAC),
        f"bridge entry of {WEB} (web.2 on {OTHER}) could be moved by others' frames: put right",
    ),
    "neighbour": (
        with_entry(replace(WEB_NEIGHBOUR, mac="02:00:00:00:00:01"), WEB_NEIGHBOUR),
        f"neighbour entry of {WEB} (web.2 on {OTHER}) had the MAC 02:00:00:00:00:01: put right",
    ),
    "stranger": (
        with_entry(PortMac(X, "02:00:00:00:00:77")),
        "bridge entry of 02:00:00:00:00:77 on network red was there though nobody wants it: "
        "removed",
    ),
    "nobody's address": (
        with_entry(Neighbour(B, "10.244.0.99", mac_of("10.244.0.99"))),
        "neighbour entry of 10.244.0.99 on network red was there though nobody wants it: removed",
    ),
    "bridge down": (with_bridge(up=False), f"{BRIDGE} was down: set right"),
    "bridge changed": (
        with_bridge(mac="02:00:00:00:00:02", mtu=1300),
        f"{BRIDGE} had the MAC 02:00:00:00:00:02 and had an MTU of 1300 instead of 1450: set right",
    ),
    "address": (
        with_bridge(addresses=frozenset()),
        f"{BRIDGE} lacked its address 10.244.0.1/20: added",
    ),
    "route": (
        with_bridge(routed=False),
        f"the route to the subnet of 10.244.0.1/20 did not lead to {BRIDGE}: put back",
    ),
    "vxlan left": (
        with_vxlan(bridge="", up=False),
        f"{VXLAN} was down and was not a port of {BRIDGE}: set right",
    ),
    "vxlan learns": (
        with_vxlan(learning=True, neigh_suppress=False),
        f"{VXLAN} learned from packets and flooded ARP: set right",
    ),
    "tunnel": (
        with_vxlan(vni=9),
        f"{VXLAN} is another tunnel than wanted: deleted, to be made anew",
    ),
    "task down": (
        with_port(joined=False),
        f"the interface es-v1 of task t9 was down, not a port of {BRIDGE}, or not in hairpin mode:"
        " joined and set up",
    ),
    "alias": (with_port(described=False), "the interface es-v1 of task t9 lost its alias: renewed"),
}


@pytest.mark.parametrize(("found", "sentence"), SENTENCES.values(), ids=SENTENCES.keys())
def test_the_first_difference_is_said_as_people_would(found: Tables, sentence: str) -> None:
    [first, *_] = differences(plan(FULL, found), found, PICTURE)
    assert str(first) == sentence


def test_a_network_that_was_removed_whole_is_said_to_be_made() -> None:
    said = [str(one) for one in differences(plan(FULL, Tables()), Tables(), PICTURE)]
    assert said[0] == f"{BRIDGE} was missing: made"
    assert said[2] == f"{VXLAN} was missing: made"


def test_nothing_is_said_of_tables_that_are_as_wanted() -> None:
    assert differences(plan(FULL, FULL), FULL, PICTURE) == []
