"""What a task can reach and what can reach it, in a real kernel: who fails to connect."""

import contextlib
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
from support.overlay_cluster import BLUE, INNER, RED, Cluster, listening

from essaim_agent.overlay.isolation import NAME_SERVER_PORT_DEFAULT
from essaim_shared.ids import TaskId
from essaim_shared.spec import PortConfig

pytestmark = pytest.mark.lab

A, B = "10.97.0.1", "10.97.0.2"
A_OUTSIDE, OUTSIDE = "192.0.2.1", "192.0.2.9"
RED_A, RED_B, BLUE_A = "10.244.0.1", "10.244.0.2", "10.244.16.1"
WEB_RED, WEB_BLUE, FAR_BLUE, WEB_INNER = (
    "10.244.0.11",
    "10.244.16.12",
    "10.244.16.13",
    "10.244.32.14",
)
HOST_PORT, PUBLISHED, OF_NODE = 2222, 8080, 9090


@pytest.fixture
async def cluster(lab: Any) -> AsyncIterator[Cluster]:
    """On `a` a task each on red, blue and the internal network; on `b` another on blue. All hosts
    listen on a port of their own; `web` has a published one, and the blue task on `a` one of its
    node."""
    made = Cluster(lab)
    for host in ("a", "b"):
        await made.start(host)
    made.service("web", RED, ports=[("tcp", PUBLISHED, 80)])
    serving = ("tcp/80", "udp/53")
    of_node = PortConfig(target_port=80, published_port=OF_NODE, publish_mode="host")
    try:
        await made.task("a", "web", 11, [RED], "web", serving)
        await made.task("a", "blue", 12, [BLUE], "blue", serving, [of_node])
        await made.task("b", "far", 13, [BLUE], "blue", serving)
        await made.task("a", "inner", 14, [INNER], "inner", serving)
        # Such a task has no way out, but may have been given one by itself.
        out = ["ip", "route", "replace", "default", "via", "10.244.32.1"]
        made.lab.in_host("a", "nsenter", f"--net={made.namespace('inner')}", *out)
        with contextlib.ExitStack() as stack:
            for host in ("a", "b", "outside"):
                stack.enter_context(listening(made, host, f"tcp/{HOST_PORT}", f"udp/{HOST_PORT}"))
            yield made
    finally:
        await made.close()


SHUT = [
    ("web", WEB_BLUE, 80, "a task of another network on the node"),
    ("web", FAR_BLUE, 80, "a task of another network elsewhere"),
    ("web", WEB_INNER, 80, "a task of an internal network"),
    ("blue", WEB_RED, 80, "and the other way round"),
    ("inner", WEB_RED, 80, "out of an internal network into another"),
    ("web", RED_A, HOST_PORT, "the node, by its address on the network"),
    ("web", BLUE_A, HOST_PORT, "the node, by its address on another network"),
    ("web", A, HOST_PORT, "the node, by its underlay address"),
    ("web", A_OUTSIDE, HOST_PORT, "the node, by any other address"),
    ("web", B, HOST_PORT, "another node, by its underlay address"),
    ("far", A, HOST_PORT, "the same, from another node"),
    ("far", "10.244.16.1", HOST_PORT, "another node, by its address on the network"),
    ("inner", OUTSIDE, HOST_PORT, "the outside, from an internal network"),
    ("inner", A, HOST_PORT, "the node, from an internal network"),
    ("inner", A, PUBLISHED, "a published port of another network, from an internal one"),
    ("inner", B, PUBLISHED, "the same on another node"),
    ("outside", WEB_RED, 80, "a task, by somebody who routes to it"),
    ("outside", WEB_INNER, 80, "a task of an internal network, likewise"),
    ("outside", A_OUTSIDE, NAME_SERVER_PORT_DEFAULT, "the name server, from outside"),
    ("b", A, NAME_SERVER_PORT_DEFAULT, "the name server, from another node"),
]
OPEN = [
    ("blue", FAR_BLUE, 80, "far 10.244.16.12", "a task of the same network on another node"),
    ("far", WEB_BLUE, 80, "blue 10.244.16.13", "and back"),
    ("web", OUTSIDE, HOST_PORT, f"outside {A_OUTSIDE}", "the outside, as the node"),
    ("web", A, PUBLISHED, "web ", "a published port, by the node"),
    ("blue", A, PUBLISHED, "web ", "the same from another network"),
    ("blue", RED_A, PUBLISHED, "web ", "the same by the node's address on that network"),
    ("blue", B, PUBLISHED, "web ", "by another node"),
    ("far", A, PUBLISHED, "web ", "by another node, from there"),
    ("web", A, OF_NODE, "blue ", "a port that a task has on its node alone"),
    ("web", RED_A, OF_NODE, "blue ", "the same by the gateway"),
    ("outside", A_OUTSIDE, PUBLISHED, f"web {OUTSIDE}", "a published port, from outside"),
    ("outside", A_OUTSIDE, OF_NODE, f"blue {OUTSIDE}", "a port of the node, from outside"),
    ("a", WEB_RED, 80, f"web {RED_A}", "a task, by its own node"),
    ("a", WEB_INNER, 80, "inner ", "one of an internal network too"),
    ("a", A, HOST_PORT, "a ", "hosts among themselves"),
    ("b", A, HOST_PORT, "a ", "over the underlay too"),
    ("outside", A_OUTSIDE, HOST_PORT, "a ", "and from outside"),
]


async def test_nobody_gets_where_nothing_was_published(cluster: Cluster) -> None:
    for subnet in ("10.244.0.0/16",):
        cluster.lab.in_host("outside", "ip", "route", "add", subnet, "via", A_OUTSIDE)
    with listening(cluster, "a", f"tcp/{NAME_SERVER_PORT_DEFAULT}"):
        heard = {}
        for place, address, port, what in SHUT:
            [word] = await cluster.ask(place, address, port, timeout_s=0.3)
            heard[what] = word
    allowed = {"silence", "refused", "Network is unreachable", "No route to host"}
    assert {what: word for what, word in heard.items() if word not in allowed} == {}


async def test_what_is_published_or_of_the_same_network_is_open(cluster: Cluster) -> None:
    heard = {
        what: (await cluster.hear(place, address, port), expected)
        for place, address, port, expected, what in OPEN
    }
    assert {w: pair for w, pair in heard.items() if not pair[0].startswith(pair[1])} == {}


async def test_datagrams_are_held_back_too(cluster: Cluster) -> None:
    for place, address, port in (
        ("web", WEB_BLUE, 53),
        ("web", A, HOST_PORT),
        ("web", B, HOST_PORT),
        ("inner", OUTSIDE, HOST_PORT),
    ):
        assert await cluster.ask(place, address, port, "udp", timeout_s=0.3) == {"silence": 1}
    assert await cluster.hear("web", OUTSIDE, HOST_PORT, "udp") == f"outside {A_OUTSIDE}"


SPOOF = """
import socket, sys
source, address, port = sys.argv[1:]
with socket.socket(type=socket.SOCK_DGRAM) as client:
    client.bind((source, 5353))
    client.sendto(b"hello", (address, int(port)))
"""


async def test_a_task_sends_nothing_in_the_name_of_a_task_of_another_network(
    cluster: Cluster,
) -> None:
    def flows() -> str:
        text: str = cluster.lab.in_host("a", "cat", "/proc/net/nf_conntrack")
        return text

    inside = ["nsenter", f"--net={cluster.namespace('web')}"]

    def send(source: str, address: str, port: int) -> None:
        cluster.lab.in_host("a", *inside, sys.executable, "-c", SPOOF, source, address, str(port))

    cluster.lab.in_host("a", *inside, "ip", "address", "add", f"{WEB_BLUE}/32", "dev", "lo")
    send(WEB_RED, OUTSIDE, HOST_PORT)
    send(WEB_BLUE, OUTSIDE, HOST_PORT)
    send(WEB_BLUE, RED_A, 53)
    assert f"src={WEB_RED} dst={OUTSIDE}" in flows(), "its own is let through"
    assert f"src={WEB_BLUE}" not in flows()


async def test_echoes_reach_the_gateways_and_no_other_node(cluster: Cluster) -> None:
    async def echo(place: str, address: str) -> bool:
        return bool(await cluster.lab.ping(cluster.namespace(place), address))

    assert await echo("blue", BLUE_A)
    assert await echo("blue", "10.244.16.2"), "the other node's, through the network"
    assert await echo("inner", "10.244.32.1")
    assert not await echo("web", B)
    assert not await echo("web", WEB_BLUE)


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
async def test_tasks_ask_the_name_server_at_port_53_of_their_gateway(
    cluster: Cluster, protocol: str
) -> None:
    port = f"{protocol}/{NAME_SERVER_PORT_DEFAULT}"
    with listening(cluster, "a", port):
        for place, gateway in (("web", RED_A), ("blue", BLUE_A), ("inner", "10.244.32.1")):
            heard = await cluster.hear(place, gateway, 53, protocol)
            address = heard.removeprefix("a ")
            assert address.rpartition(".")[0] == gateway.rpartition(".")[0], heard
        [word] = await cluster.ask("web", BLUE_A, 53, protocol, timeout_s=0.3)
        assert word in ("silence", "refused"), "another network's gateway"
        [word] = await cluster.ask("web", RED_A, NAME_SERVER_PORT_DEFAULT, protocol, timeout_s=0.3)
        assert word in ("silence", "refused"), "the high port itself"


async def test_the_port_of_the_name_server_may_be_published_all_the_same(
    cluster: Cluster,
) -> None:
    cluster.service("names", RED, vip=9, ports=[("udp", 53, 53)])
    await cluster.task("a", "names-1", 21, [RED], "names")
    with listening(cluster, "a", f"udp/{NAME_SERVER_PORT_DEFAULT}"):
        assert (await cluster.hear("web", RED_A, 53, "udp")).startswith("a ")
        assert await cluster.hear("outside", A_OUTSIDE, 53, "udp") == f"names-1 {OUTSIDE}"


async def test_a_flushed_table_lets_through_until_it_is_mended(cluster: Cluster) -> None:
    """So that what the others prove is proved by the table."""
    cluster.lab.in_host("a", "nft", "delete", "table", "ip", "essaim")
    assert (await cluster.hear("web", WEB_BLUE)).startswith("blue ")
    checked = await cluster.nodes["a"].check()
    assert "nft table essaim was gone: loaded again" in checked.mended
    assert await cluster.ask("web", WEB_BLUE, timeout_s=0.3) == {"silence": 1}


async def restart(cluster: Cluster, host: str) -> None:
    """The agent's, which knows nothing afterwards."""
    await cluster.nodes[host].close()
    await cluster.start(host)


async def test_a_network_that_lingers_through_a_restart_of_the_agent_stays_internal(
    cluster: Cluster,
) -> None:
    cluster.networks["a"].remove(INNER)
    cluster.forget(TaskId("inner"))
    await restart(cluster, "a")
    await cluster.tell("a")
    [word] = await cluster.ask("inner", OUTSIDE, HOST_PORT, timeout_s=0.3)
    assert word in ("silence", "refused")
    assert (await cluster.hear("web", OUTSIDE, HOST_PORT)).startswith("outside ")


async def test_an_agent_that_lost_its_journal_closes_and_opens_nothing(cluster: Cluster) -> None:
    await restart(cluster, "a")
    await cluster.nodes["a"].adopt_ports([])
    assert await cluster.hear("outside", A_OUTSIDE, PUBLISHED) == f"web {OUTSIDE}"
    assert await cluster.ask("web", B, HOST_PORT, timeout_s=0.3) == {"silence": 1}
    await cluster.tell("a")
    assert (await cluster.ask("outside", A_OUTSIDE, OF_NODE, timeout_s=0.3)) == {"refused": 1}


async def test_networks_of_docker_s_users_are_not_reached_by_address(cluster: Cluster) -> None:
    for bridge, subnet in (("br-0123456789ab", "172.31.7"), ("br-uplink", "172.31.8")):
        host = cluster.lab.in_host
        host("a", "ip", "link", "add", bridge, "type", "bridge")
        host("a", "ip", "address", "add", f"{subnet}.1/24", "dev", bridge)
        host("a", "ip", "link", "set", bridge, "up")
    await cluster.nodes["a"].check()
    listing = cluster.lab.in_host("a", "nft", "list", "table", "ip", "essaim")
    assert 'elements = { "br-0123456789ab" }' in listing
    assert "br-uplink" not in listing
