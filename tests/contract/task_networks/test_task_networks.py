"""What every implementation of TaskNetworks does, on two nodes of one underlay."""

from typing import Protocol

import msgspec
import pytest

from essaim_agent.network import NetworkError, NetworkPicture, TaskNetworks
from essaim_shared.ids import NetworkId, TaskId
from essaim_shared.messages import Endpoint, NodeNetwork
from essaim_shared.objects import Attachment


class Pair(Protocol):
    underlay: dict[str, str]

    def node(self, host: str) -> TaskNetworks: ...
    async def restart(self, host: str) -> None: ...
    async def reaches(self, host: str, task_id: TaskId, address: str) -> bool: ...
    async def routes(self, host: str, task_id: TaskId) -> set[tuple[str, str, str]]: ...
    async def mtu(self, host: str, task_id: TaskId) -> int: ...
    def traces(self, host: str) -> list[str]: ...


RED, BLUE = NetworkId("red"), NetworkId("blue")
VNI = {RED: 70_001, BLUE: 70_002}
SUBNET = {RED: "10.244.0.0/20", BLUE: "10.245.0.0/20"}
GATEWAY = {
    (RED, "a"): "10.244.0.1",
    (RED, "b"): "10.244.0.2",
    (BLUE, "a"): "10.245.0.1",
    (BLUE, "b"): "10.245.0.2",
}
ONE, TWO, THREE = TaskId("task-one"), TaskId("task-two"), TaskId("task-three")
ONE_RED, TWO_RED, THREE_RED = "10.244.0.11", "10.244.0.12", "10.244.0.13"
ONE_BLUE = "10.245.0.11"


VIPS = {RED: "10.246.0.0/20", BLUE: "10.246.16.0/20"}


def networks(
    host: str, *ids: NetworkId, internal: frozenset[NetworkId] = frozenset()
) -> dict[NetworkId, NodeNetwork]:
    return {
        i: NodeNetwork(
            network_id=i,
            name=str(i),
            vni=VNI[i],
            subnet=SUBNET[i],
            mtu=1350,
            gateway=GATEWAY[i, host],
            vip_subnet=VIPS[i],
            is_internal=i in internal,
        )
        for i in ids
    }


def on(address: str, network_id: NetworkId = RED) -> tuple[Attachment, ...]:
    return (Attachment(network_id=network_id, address=address),)


def at(pair: Pair, host: str, *addresses: str, network_id: NetworkId = RED) -> frozenset[Endpoint]:
    return frozenset(
        Endpoint(network_id=network_id, address=address, node_address=pair.underlay[host])
        for address in addresses
    )


async def one_on_a_and_two_on_b(pair: Pair) -> None:
    await pair.node("a").want(
        NetworkPicture(networks("a", RED), at(pair, "b", TWO_RED, GATEWAY[RED, "b"]))
    )
    await pair.node("b").want(
        NetworkPicture(networks("b", RED), at(pair, "a", ONE_RED, GATEWAY[RED, "a"]))
    )
    await pair.node("a").attach(ONE, on(ONE_RED), {})
    await pair.node("b").attach(TWO, on(TWO_RED), {})


async def test_tasks_of_two_nodes_reach_each_other_and_both_gateways(pair: Pair) -> None:
    await one_on_a_and_two_on_b(pair)
    assert await pair.reaches("a", ONE, TWO_RED)
    assert await pair.reaches("b", TWO, ONE_RED)
    assert await pair.reaches("a", ONE, GATEWAY[RED, "a"])
    assert await pair.reaches("a", ONE, GATEWAY[RED, "b"])


async def test_tasks_of_one_node_reach_each_other(pair: Pair) -> None:
    await pair.node("a").want(NetworkPicture(networks("a", RED), frozenset()))
    await pair.node("a").attach(ONE, on(ONE_RED), {})
    await pair.node("a").attach(TWO, on(TWO_RED), {})
    assert await pair.reaches("a", ONE, TWO_RED)


async def test_an_address_that_no_node_was_told_of_is_not_found(pair: Pair) -> None:
    await one_on_a_and_two_on_b(pair)
    await pair.node("a").want(NetworkPicture(networks("a", RED), frozenset()))
    assert not await pair.reaches("a", ONE, TWO_RED)


async def test_entries_follow_an_address_that_moves_here_and_back(pair: Pair) -> None:
    await one_on_a_and_two_on_b(pair)
    await pair.node("b").attach(THREE, on(THREE_RED), {})
    await pair.node("a").want(NetworkPicture(networks("a", RED), at(pair, "b", TWO_RED, THREE_RED)))
    assert await pair.reaches("a", ONE, THREE_RED)

    await pair.node("b").detach(THREE)
    await pair.node("a").want(NetworkPicture(networks("a", RED), at(pair, "b", TWO_RED)))
    await pair.node("b").want(NetworkPicture(networks("b", RED), at(pair, "a", ONE_RED, THREE_RED)))
    await pair.node("a").attach(THREE, on(THREE_RED), {})
    assert await pair.reaches("a", ONE, THREE_RED)
    assert await pair.reaches("b", TWO, THREE_RED)

    await pair.node("a").detach(THREE)
    await pair.node("a").want(NetworkPicture(networks("a", RED), at(pair, "b", TWO_RED, THREE_RED)))
    await pair.node("b").want(NetworkPicture(networks("b", RED), at(pair, "a", ONE_RED)))
    await pair.node("b").attach(THREE, on(THREE_RED), {})
    assert await pair.reaches("a", ONE, THREE_RED)


async def test_attaching_again_is_free_and_gives_the_same_path(pair: Pair) -> None:
    await pair.node("a").want(NetworkPicture(networks("a", RED), frozenset()))
    path = await pair.node("a").attach(ONE, on(ONE_RED), {})
    assert await pair.node("a").attach(ONE, on(ONE_RED), {}) == path
    assert await pair.node("a").attached() == {ONE}


async def test_a_detached_task_is_gone_and_detaching_again_is_no_error(pair: Pair) -> None:
    await pair.node("a").want(NetworkPicture(networks("a", RED), frozenset()))
    await pair.node("a").attach(ONE, on(ONE_RED), {})
    await pair.node("a").detach(ONE)
    await pair.node("a").detach(ONE)
    assert await pair.node("a").attached() == frozenset()
    assert pair.node("a").counters(ONE) is None
    await pair.node("a").attach(ONE, on(ONE_RED), {})
    assert await pair.reaches("a", ONE, GATEWAY[RED, "a"])


async def test_when_tasks_and_networks_are_gone_nothing_is_left(pair: Pair) -> None:
    before = pair.traces("a")
    await one_on_a_and_two_on_b(pair)
    assert pair.traces("a") != before
    await pair.node("a").detach(ONE)
    await pair.node("a").want(NetworkPicture({}, frozenset()))
    assert pair.traces("a") == before


async def test_a_network_that_nobody_wants_serves_its_last_task_to_the_end(pair: Pair) -> None:
    before = pair.traces("a")
    await one_on_a_and_two_on_b(pair)
    await pair.node("a").want(NetworkPicture({}, frozenset()))
    assert await pair.reaches("a", ONE, TWO_RED)
    await pair.node("a").detach(ONE)
    assert pair.traces("a") == before


async def test_a_restarted_agent_finds_its_tasks_and_they_stay_connected(pair: Pair) -> None:
    await one_on_a_and_two_on_b(pair)
    path = await pair.node("a").attach(ONE, on(ONE_RED), {})
    await pair.restart("a")
    assert await pair.node("a").attached() == {ONE}
    assert await pair.node("b").attached() == {TWO}
    assert await pair.reaches("a", ONE, TWO_RED), "before the masters said anything"
    await pair.node("a").want(NetworkPicture(networks("a", RED), at(pair, "b", TWO_RED)))
    assert await pair.node("a").attach(ONE, on(ONE_RED), {}) == path
    assert await pair.reaches("a", ONE, TWO_RED)


async def test_what_was_dropped_while_the_agent_was_down_goes_after_its_restart(
    pair: Pair,
) -> None:
    before = pair.traces("a")
    await one_on_a_and_two_on_b(pair)
    await pair.restart("a")
    await pair.node("a").detach(ONE)
    await pair.node("a").want(NetworkPicture({}, frozenset()))
    assert pair.traces("a") == before


async def test_a_task_on_two_networks_is_reached_on_both(pair: Pair) -> None:
    await pair.node("a").want(NetworkPicture(networks("a", RED, BLUE), frozenset()))
    await pair.node("a").attach(ONE, on(ONE_RED) + on(ONE_BLUE, BLUE), {})
    await pair.node("a").attach(TWO, on(TWO_RED), {})
    await pair.node("a").attach(THREE, on("10.245.0.13", BLUE), {})
    assert await pair.reaches("a", TWO, ONE_RED)
    assert await pair.reaches("a", THREE, ONE_BLUE)
    assert await pair.reaches("a", ONE, "10.245.0.13")


async def test_a_task_on_two_networks_is_reached_from_other_nodes_on_both(pair: Pair) -> None:
    red = at(pair, "b", TWO_RED)
    blue = at(pair, "b", "10.245.0.13", network_id=BLUE)
    ours = at(pair, "a", ONE_RED) | at(pair, "a", ONE_BLUE, network_id=BLUE)
    await pair.node("a").want(NetworkPicture(networks("a", RED, BLUE), red | blue))
    await pair.node("b").want(NetworkPicture(networks("b", RED, BLUE), ours))
    await pair.node("a").attach(ONE, on(ONE_RED) + on(ONE_BLUE, BLUE), {})
    await pair.node("b").attach(TWO, on(TWO_RED), {})
    await pair.node("b").attach(THREE, on("10.245.0.13", BLUE), {})
    assert await pair.reaches("a", ONE, TWO_RED)
    assert await pair.reaches("b", TWO, ONE_RED)
    assert await pair.reaches("b", THREE, ONE_BLUE)


async def test_the_way_out_is_by_the_first_network_and_each_has_one_to_its_services(
    pair: Pair,
) -> None:
    await pair.node("a").want(NetworkPicture(networks("a", RED, BLUE), frozenset()))
    await pair.node("a").attach(ONE, on(ONE_BLUE, BLUE) + on(ONE_RED), {})
    assert await pair.routes("a", ONE) == {
        ("0.0.0.0/0", GATEWAY[BLUE, "a"], "eth0"),
        (VIPS[BLUE], GATEWAY[BLUE, "a"], "eth0"),
        (VIPS[RED], GATEWAY[RED, "a"], "eth1"),
    }


async def test_an_internal_network_is_no_way_out(pair: Pair) -> None:
    internal = networks("a", RED, BLUE, internal=frozenset({BLUE}))
    await pair.node("a").want(NetworkPicture(internal, frozenset()))
    await pair.node("a").attach(ONE, on(ONE_BLUE, BLUE) + on(ONE_RED), {})
    await pair.node("a").attach(TWO, on("10.245.0.12", BLUE), {})
    assert await pair.routes("a", ONE) == {
        (VIPS[BLUE], GATEWAY[BLUE, "a"], "eth0"),
        (VIPS[RED], GATEWAY[RED, "a"], "eth1"),
        ("0.0.0.0/0", GATEWAY[RED, "a"], "eth1"),
    }
    assert await pair.routes("a", TWO) == {(VIPS[BLUE], GATEWAY[BLUE, "a"], "eth0")}
    assert await pair.reaches("a", TWO, ONE_BLUE)
    assert not await pair.reaches("a", TWO, "192.0.2.9")


async def test_a_network_whose_packets_must_shrink_gives_new_tasks_the_new_size(
    pair: Pair,
) -> None:
    wide = networks("a", RED)
    narrow = {RED: msgspec.structs.replace(wide[RED], mtu=1280)}
    await pair.node("a").want(NetworkPicture(wide, frozenset()))
    await pair.node("a").attach(ONE, on(ONE_RED), {})
    await pair.node("a").want(NetworkPicture(narrow, frozenset()))
    await pair.node("a").attach(TWO, on(TWO_RED), {})
    assert await pair.mtu("a", ONE) == 1350
    assert await pair.mtu("a", TWO) == 1280
    assert await pair.reaches("a", ONE, TWO_RED)


async def test_a_task_that_nobody_talks_to_serves_no_connection(pair: Pair) -> None:
    await pair.node("a").want(NetworkPicture(networks("a", RED), frozenset()))
    await pair.node("a").attach(ONE, on(ONE_RED), {})
    assert await pair.node("a").connections(ONE) == 0
    assert await pair.node("a").connections(TWO) == 0


async def test_counters_grow_with_the_traffic_and_there_are_none_without_a_namespace(
    pair: Pair,
) -> None:
    await one_on_a_and_two_on_b(pair)
    assert pair.node("a").counters(TWO) is None
    assert await pair.reaches("a", ONE, TWO_RED)
    await pair.restart("a")  # a fresh agent has no figures to repeat
    counters = pair.node("a").counters(ONE)
    assert counters is not None
    assert counters.transmit_packets >= 1
    assert counters.receive_packets >= 1
    assert counters.transmit_bytes >= 98


@pytest.mark.parametrize(
    ("attachments", "sysctls", "reason"),
    [
        (on(ONE_BLUE, BLUE), {}, "network blue of task task-one is not on this node"),
        ((), {}, "has no network"),
        (on(ONE_RED), {"kernel.panic": "1"}, "only net"),
        (on(ONE_RED), {"net.ipv4/../../kernel/panic": "1"}, "only net"),
        (on(ONE_RED), {"net.ipv4...kernel": "1"}, "only net"),
    ],
)
async def test_a_task_that_cannot_be_attached_is_refused_and_leaves_nothing(
    pair: Pair, attachments: tuple[Attachment, ...], sysctls: dict[str, str], reason: str
) -> None:
    await pair.node("a").want(NetworkPicture(networks("a", RED), frozenset()))
    before = pair.traces("a")
    with pytest.raises(NetworkError, match=reason):
        await pair.node("a").attach(ONE, attachments, sysctls)
    assert await pair.node("a").attached() == frozenset()
    assert pair.traces("a") == before


async def test_a_closed_overlay_says_so(pair: Pair) -> None:
    node = pair.node("a")
    await node.close()
    with pytest.raises(NetworkError, match="not started"):
        await node.want(NetworkPicture({}, frozenset()))
