"""From tables found to tables wanted: by table, and for any two tables that a node can hold."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from essaim_agent.network import NetworkPicture
from essaim_agent.overlay.differences import differences
from essaim_agent.overlay.plan import (
    AddAddress,
    CorrectBridge,
    CorrectVxlan,
    DeleteDevice,
    DescribePort,
    JoinPort,
    MakeBridge,
    MakeVxlan,
    Operation,
    PutEntry,
    RemoveAddress,
    RemoveEntry,
    RouteSubnet,
    carried_out,
    contradicts,
    link_contradicts,
    plan,
)
from essaim_agent.overlay.rtnetlink import FLOOD_MAC
from essaim_agent.overlay.tables import (
    Bridge,
    Entry,
    Forward,
    Neighbour,
    Port,
    PortMac,
    Tables,
    Vxlan,
    bridge_name,
    port_alias,
    port_name,
    read_port_alias,
    vxlan_name,
    wanted_tables,
)
from essaim_shared.addressing import mac_of
from essaim_shared.ids import NetworkId, TaskId
from essaim_shared.messages import Endpoint, NodeNetwork

RED, BLUE = NetworkId("red"), NetworkId("blue")
LOCAL, OTHER, THIRD = "10.98.0.1", "10.98.0.2", "10.98.0.3"
B, X = bridge_name(RED), vxlan_name(RED)
FAR = "10.244.0.12"
FAR_MAC = mac_of(FAR)


def network(network_id: NetworkId = RED, vni: int = 70_001, mtu: int = 1450) -> NodeNetwork:
    subnet = {RED: "10.244.0.0/20", BLUE: "10.245.0.0/20"}[network_id]
    gateway = subnet.replace("0.0/20", "0.1")
    return NodeNetwork(
        network_id=network_id, name="n", vni=vni, subnet=subnet, mtu=mtu, gateway=gateway
    )


def endpoint(address: str = FAR, node: str = OTHER, network_id: NetworkId = RED) -> Endpoint:
    return Endpoint(network_id=network_id, address=address, node_address=node)


def wanted(*endpoints: Endpoint, networks: tuple[NodeNetwork, ...] = (network(),)) -> Tables:
    return wanted_tables(networks, endpoints, LOCAL)


def port(joined: bool = True, network_id: NetworkId = RED) -> Port:
    return Port("es-v1", bridge_name(network_id), TaskId("t"), joined)


FORWARD, PORT_MAC = Forward(X, FAR_MAC, OTHER), PortMac(X, FAR_MAC)
NEIGHBOUR, FLOOD = Neighbour(B, FAR, FAR_MAC), Forward(X, FLOOD_MAC, OTHER)


def test_a_network_is_a_bridge_with_the_gateway_and_a_vxlan_device_as_its_port() -> None:
    tables = wanted()
    assert tables.bridges == {B: Bridge(B, "02:e5:0a:f4:00:01", 1450, frozenset({"10.244.0.1/20"}))}
    assert tables.vxlans == {X: Vxlan(X, B, 70_001, LOCAL, 7472, 1450)}
    assert tables.entries == frozenset()


def test_a_remote_address_has_three_entries_and_its_node_is_flooded_to() -> None:
    assert wanted(endpoint()).entries == {FORWARD, PORT_MAC, NEIGHBOUR, FLOOD}


def test_a_node_with_several_addresses_is_flooded_to_once() -> None:
    entries = wanted(endpoint(), endpoint("10.244.0.13")).entries
    assert len([e for e in entries if isinstance(e, Forward) and e.mac == FLOOD_MAC]) == 1
    assert len(entries) == 7


@pytest.mark.parametrize(
    "useless",
    [endpoint(node=LOCAL), endpoint("10.245.0.9", network_id=BLUE)],
    ids=["on this node", "of a network that this node is not on"],
)
def test_an_endpoint_that_is_of_no_use_here_is_left_out(useless: Endpoint) -> None:
    assert wanted(useless) == wanted()


def test_of_two_places_of_an_address_every_order_gives_the_same() -> None:
    here, there = endpoint(node=OTHER), endpoint(node=THIRD)
    assert wanted(here, there) == wanted(there, here) == wanted(there)


def test_an_alias_tells_whose_port_it_is_and_others_tell_nothing() -> None:
    alias = port_alias(TaskId("t1"), RED)
    assert read_port_alias(alias) == (TaskId("t1"), RED)
    for other in ("", "uplink to the world", "essaim task x", alias + " and more"):
        assert read_port_alias(other) is None


def test_names_fit_the_kernel_and_differ_by_task_and_network() -> None:
    names = {port_name(TaskId(t), n) for t in ("t1", "t2") for n in (RED, BLUE)}
    assert len(names) == 4
    assert all(len(name) <= 15 for name in (*names, B, X))


FULL = wanted(endpoint())


def without(*entries: Entry, tables: Tables = FULL) -> Tables:
    return replace(tables, entries=tables.entries - set(entries))


def with_entries(*entries: Entry, tables: Tables = FULL) -> Tables:
    return replace(tables, entries=tables.entries | set(entries))


def with_vxlan(**changes: object) -> Tables:
    return replace(FULL, vxlans={X: replace(FULL.vxlans[X], **changes)})


def with_bridge(**changes: object) -> Tables:
    return replace(FULL, bridges={B: replace(FULL.bridges[B], **changes)})


WRONG = Neighbour(B, FAR, "02:00:00:00:00:01")
MOVED = wanted(endpoint(node=THIRD))
ALL_ENTRIES: list[Operation] = [
    PutEntry(FLOOD),
    PutEntry(FORWARD),
    PutEntry(NEIGHBOUR),
    PutEntry(PORT_MAC),
]
TUNNEL_ENTRIES = [e for e in ALL_ENTRIES if e != PutEntry(NEIGHBOUR)]
BRIDGE, VXLAN = FULL.bridges[B], FULL.vxlans[X]

PLANS: dict[str, tuple[Tables, Tables, list[Operation]]] = {
    "nothing to do": (FULL, FULL, []),
    "the first task of a network": (
        FULL,
        Tables(),
        [MakeBridge(BRIDGE), AddAddress(B, "10.244.0.1/20"), MakeVxlan(VXLAN), *ALL_ENTRIES],
    ),
    "the last task of a network": (Tables(), FULL, [DeleteDevice(X), DeleteDevice(B)]),
    "an endpoint comes": (FULL, wanted(), ALL_ENTRIES),
    "an endpoint goes": (
        wanted(),
        FULL,
        [RemoveEntry(FLOOD), RemoveEntry(FORWARD), RemoveEntry(NEIGHBOUR), RemoveEntry(PORT_MAC)],
    ),
    "an address moves: replaced, never absent": (
        MOVED,
        FULL,
        [
            RemoveEntry(FLOOD),
            PutEntry(Forward(X, FLOOD_MAC, THIRD)),
            PutEntry(Forward(X, FAR_MAC, THIRD), replaces=FORWARD),
        ],
    ),
    "a neighbour is wrong": (
        FULL,
        with_entries(WRONG, tables=without(NEIGHBOUR)),
        [PutEntry(NEIGHBOUR, replaces=WRONG)],
    ),
    "a stranger's entry": (
        FULL,
        with_entries(PortMac(X, "02:00:00:00:00:01")),
        [RemoveEntry(PortMac(X, "02:00:00:00:00:01"))],
    ),
    "another MTU": (
        FULL,
        replace(with_vxlan(mtu=1300), bridges=with_bridge(mtu=1300).bridges),
        [CorrectBridge(BRIDGE), CorrectVxlan(VXLAN)],
    ),
    "devices down": (
        FULL,
        replace(with_vxlan(up=False), bridges=with_bridge(up=False).bridges),
        [CorrectBridge(BRIDGE), CorrectVxlan(VXLAN)],
    ),
    "learning was switched on": (FULL, with_vxlan(learning=True), [CorrectVxlan(VXLAN)]),
    "ARP is flooded": (FULL, with_vxlan(neigh_suppress=False), [CorrectVxlan(VXLAN)]),
    "another UDP port: made anew, with its entries": (
        FULL,
        with_vxlan(udp_port=4789),
        [DeleteDevice(X), MakeVxlan(VXLAN), *TUNNEL_ENTRIES],
    ),
    "another address of the node": (
        FULL,
        with_vxlan(local="10.98.0.77"),
        [DeleteDevice(X), MakeVxlan(VXLAN), *TUNNEL_ENTRIES],
    ),
    "the VXLAN device left its bridge": (
        FULL,
        with_vxlan(bridge=""),
        [CorrectVxlan(VXLAN), PutEntry(PORT_MAC)],
    ),
    "another gateway address": (
        FULL,
        with_bridge(addresses=frozenset({"10.244.0.9/20"})),
        [RemoveAddress(B, "10.244.0.9/20"), AddAddress(B, "10.244.0.1/20")],
    ),
    "the route to the subnet is gone": (
        FULL,
        with_bridge(routed=False),
        [RouteSubnet(B, "10.244.0.1/20")],
    ),
    "an address brings its route": (
        FULL,
        with_bridge(addresses=frozenset(), routed=False),
        [AddAddress(B, "10.244.0.1/20")],
    ),
    "frames could move an entry": (
        FULL,
        with_entries(replace(PORT_MAC, sticky=False), tables=without(PORT_MAC)),
        [PutEntry(PORT_MAC, replaces=replace(PORT_MAC, sticky=False))],
    ),
    "a port lost its alias": (
        FULL,
        replace(FULL, ports={"es-v1": replace(port(), described=False)}),
        [DescribePort("es-v1")],
    ),
    "a task's port left the bridge": (
        FULL,
        replace(FULL, ports={"es-v1": port(joined=False)}),
        [JoinPort("es-v1", B)],
    ),
    "the bridge was deleted under its ports": (
        FULL,
        replace(with_vxlan(bridge=""), bridges={}, ports={"es-v1": port(joined=True)}),
        [
            MakeBridge(BRIDGE),
            AddAddress(B, "10.244.0.1/20"),
            CorrectVxlan(VXLAN),
            JoinPort("es-v1", B),
            PutEntry(PORT_MAC),
        ],
    ),
    "nobody wants it, but a task is still there": (
        Tables(),
        replace(FULL, ports={"es-v1": port()}),
        [],
    ),
    "and its port is helped to the end": (
        Tables(),
        replace(FULL, ports={"es-v1": port(joined=False)}),
        [JoinPort("es-v1", B)],
    ),
    "a port of a bridge that is nowhere": (
        Tables(),
        Tables(ports={"es-v1": port(joined=False)}),
        [],
    ),
}


@pytest.mark.parametrize(("want", "found", "operations"), PLANS.values(), ids=PLANS.keys())
def test_plan(want: Tables, found: Tables, operations: list[Operation]) -> None:
    assert plan(want, found) == operations


# Any two tables. Names come from a small set, so that they meet.

networks = st.builds(
    network,
    network_id=st.sampled_from([RED, BLUE]),
    vni=st.sampled_from([70_001, 70_002]),
    mtu=st.sampled_from([1300, 1450]),
)
addresses = st.sampled_from([f"10.244.0.{i}" for i in range(2, 8)])
endpoints = st.builds(
    endpoint,
    address=addresses,
    node=st.sampled_from([LOCAL, OTHER, THIRD]),
    network_id=st.sampled_from([RED, BLUE]),
)
some_wanted = st.builds(
    wanted_tables,
    st.lists(networks, max_size=2, unique_by=lambda n: n.network_id),
    st.lists(endpoints, max_size=8),
    st.just(LOCAL),
    st.sampled_from([7472, 4789]),
)


@st.composite
def damaged(draw: st.DrawFn) -> Tables:
    """What a node wanted once, after somebody was at it."""
    tables = draw(some_wanted)
    bridges = {
        name: replace(
            bridge,
            mac=draw(st.sampled_from([bridge.mac, "02:00:00:00:00:01"])),
            up=draw(st.booleans()),
            routed=draw(st.booleans()),
            addresses=draw(st.sampled_from([bridge.addresses, frozenset(), {"10.9.9.9/24"}])),
        )
        for name, bridge in tables.bridges.items()
        if draw(st.booleans())
    }
    bridges = {n: replace(b, addresses=frozenset(b.addresses)) for n, b in bridges.items()}
    vxlans = {
        name: replace(
            vxlan,
            bridge=vxlan.bridge if vxlan.bridge in bridges and draw(st.booleans()) else "",
            up=draw(st.booleans()),
            learning=draw(st.booleans()),
        )
        for name, vxlan in tables.vxlans.items()
        if draw(st.booleans())
    }
    extra = draw(st.lists(endpoints, max_size=4))
    entries = tables.entries | wanted_tables([network()], extra, LOCAL).entries
    kept: dict[tuple[str, str], Entry] = {}
    for entry in sorted(entries, key=repr):
        match entry:
            case Neighbour(bridge, address, _) if bridge in bridges and draw(st.booleans()):
                kept[bridge, address] = entry
            case PortMac(vxlan, mac, _) if vxlan in vxlans and vxlans[vxlan].bridge:
                kept["port " + vxlan, mac] = replace(entry, sticky=draw(st.booleans()))
            case Forward(vxlan, mac, vtep) if vxlan in vxlans and draw(st.booleans()):
                kept[vxlan, mac + vtep if mac == FLOOD_MAC else mac] = entry
    return Tables(bridges, vxlans, {}, frozenset(kept.values()))


@given(want=some_wanted, found=damaged())
def test_a_plan_that_is_carried_out_leaves_what_is_wanted_and_nothing_to_do(
    want: Tables, found: Tables
) -> None:
    after = carried_out(plan(want, found), found)
    assert after == want
    assert plan(want, after) == []


@given(want=some_wanted, found=damaged(), described=st.booleans())
def test_whatever_was_done_is_said_in_one_sentence_for_each_repair(
    want: Tables, found: Tables, described: bool
) -> None:
    found = replace(found, ports={"es-v1": replace(port(joined=False), described=described)})
    operations = plan(want, found)
    said = [str(one) for one in differences(operations, found, NetworkPicture())]
    assert len(said) == len(operations)
    for sentence in said:
        assert sentence.count(": ") == 1
        assert "\n" not in sentence


@given(want=some_wanted, found=damaged(), joined=st.booleans())
def test_with_tasks_on_unwanted_networks_a_second_plan_is_empty_too(
    want: Tables, found: Tables, joined: bool
) -> None:
    ports = {"es-v1": port(joined), "es-v2": replace(port(joined, BLUE), name="es-v2")}
    found = replace(found, ports=ports)
    after = carried_out(plan(want, found), found)
    assert plan(want, after) == []
    for name in (bridge_name(RED), bridge_name(BLUE)):
        assert (name in after.bridges) == (name in want.bridges or name in found.bridges)
    assert all(p.joined for p in after.ports.values() if p.bridge in after.bridges)


@given(want=some_wanted, found=damaged())
def test_whatever_is_put_stands_on_a_device_that_is_there(want: Tables, found: Tables) -> None:
    devices = {*found.bridges, *found.vxlans}
    for operation in plan(want, found):
        match operation:
            case DeleteDevice(name):
                devices.discard(name)
            case MakeBridge(made):
                devices.add(made.name)
            case MakeVxlan(made):
                assert made.bridge in devices
                devices.add(made.name)
            case CorrectVxlan(corrected):
                assert {corrected.bridge, corrected.name} <= devices
            case AddAddress(bridge, _) | RemoveAddress(bridge, _):
                assert bridge in devices
            case PutEntry(entry, _) | RemoveEntry(entry):
                device = entry.bridge if isinstance(entry, Neighbour) else entry.vxlan
                assert device in devices


@pytest.mark.parametrize(
    ("entry", "is_deleted", "expected"),
    [
        (FORWARD, True, True),
        (FORWARD, False, False),
        (replace(FORWARD, vtep=THIRD), True, False),
        (NEIGHBOUR, True, True),
        (replace(NEIGHBOUR, mac=""), True, True),
        (replace(NEIGHBOUR, mac="02:00:00:00:00:01"), False, True),
        (Neighbour(B, "10.244.0.99", "02:00:00:00:00:01"), False, False),
        (PORT_MAC, True, True),
    ],
)
def test_a_notification_is_heeded_when_it_contradicts_what_is_wanted(
    entry: Entry, is_deleted: bool, expected: bool
) -> None:
    assert contradicts(FULL, entry, is_deleted) is expected


@pytest.mark.parametrize(
    ("name", "is_up", "expected"),
    [(B, False, True), (X, False, True), (B, True, False), ("eth0", False, False)],
)
def test_a_device_of_ours_that_goes_down_is_heeded(name: str, is_up: bool, expected: bool) -> None:
    assert link_contradicts(FULL, name, is_up) is expected
