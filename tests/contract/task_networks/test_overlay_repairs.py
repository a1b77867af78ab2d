"""A network that heals: whatever is done to its tables is mended within seconds, and said.

Two hosts with a task each, in a real kernel and in real time; nobody asks for a check.
"""

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from essaim_agent.network import NetworkPicture, NetworksRefused
from essaim_agent.network_health.checked import Checked
from essaim_agent.network_health.prober import Prober
from essaim_agent.network_health.rounds import Answer, peers_of
from essaim_agent.overlay.tables import bridge_name, port_name, vxlan_name
from essaim_agent.overlay.task_networks import OverlayNetworks
from essaim_shared.clock import SystemClock, wait_until
from essaim_shared.ids import NetworkId, ServiceId, TaskId
from essaim_shared.messages import Endpoint, NodeNetwork, ServiceEntry
from essaim_shared.objects import Attachment

pytestmark = pytest.mark.lab

RED, BLUE = NetworkId("red"), NetworkId("blue")
ONE, TWO, THREE = TaskId("task-one"), TaskId("task-two"), TaskId("task-three")
ONE_RED, TWO_RED, THREE_RED = "10.244.0.11", "10.244.0.12", "10.244.0.13"
TWO_MAC = "02:e5:0a:f4:00:0c"
GATEWAY = {"a": "10.244.0.1", "b": "10.244.0.2"}
BRIDGE, VXLAN, PORT = bridge_name(RED), vxlan_name(RED), port_name(ONE, RED)
MENDED_WITHIN_S = 5.0
SERVICE = ServiceEntry(service_id=ServiceId("s"), network_id=RED, name="web")


def network(network_id: NetworkId, host: str) -> NodeNetwork:
    third = {RED: 244, BLUE: 245}[network_id]
    return NodeNetwork(
        network_id=network_id,
        name=str(network_id),
        vni=third + 70_000,
        subnet=f"10.{third}.0.0/20",
        mtu=1350,
        gateway=GATEWAY[host].replace("244", str(third)),
    )


def on(address: str) -> list[Attachment]:
    return [Attachment(network_id=RED, address=address)]


class Site:
    """Task ONE on host a and TWO on b. What a's comparisons found is in `said`."""

    def __init__(self, lab: Any) -> None:
        self.lab = lab
        self.clock = SystemClock()
        self.nodes: dict[str, OverlayNetworks] = {}
        self.said: list[str] = []
        self.last = Checked()

    def picture(self, host: str, *networks: NetworkId) -> NetworkPicture:
        other, task, address = {"a": ("b", TWO, TWO_RED), "b": ("a", ONE, ONE_RED)}[host]
        there = self.lab.underlay[other]
        return NetworkPicture(
            {one: network(one, host) for one in networks or (RED,)},
            frozenset(
                {
                    Endpoint(network_id=RED, address=GATEWAY[other], node_address=there),
                    Endpoint(
                        network_id=RED,
                        address=address,
                        node_address=there,
                        task_id=task,
                        service_id=SERVICE.service_id,
                        slot="2",
                    ),
                }
            ),
            frozenset({SERVICE}),
        )

    async def start(self, host: str) -> OverlayNetworks:
        node = self.nodes[host] = self.lab.networks(host, self.clock)
        await node.start()
        if host == "a":
            node.on_checked(self._note)
        await node.want(self.picture(host))
        return node

    def _note(self, checked: Checked) -> None:
        self.last = checked
        self.said += checked.mended

    @property
    def a(self) -> OverlayNetworks:
        return self.nodes["a"]

    async def reaches(self, address: str) -> bool:
        return bool(await self.lab.ping(self.path, address))

    def on_host(self, host: str, command: str) -> None:
        self.lab.in_host(host, "sh", "-c", command)

    async def ask(self) -> Answer:
        """The bridge of b, from a, through the overlay."""
        prober = Prober(self.a.inside, self.clock, random.Random(1))
        [answer] = await prober.ask(peers_of(self.a.picture))
        return answer


@pytest.fixture
async def site(lab: Any) -> AsyncIterator[Site]:
    made = Site(lab)
    try:
        await made.start("a")
        await made.start("b")
        made.path = await made.a.attach(ONE, on(ONE_RED), {})
        await made.nodes["b"].attach(TWO, on(TWO_RED), {})
        yield made
    finally:
        for node in made.nodes.values():
            await node.close()


WEB = f"{TWO_RED} (web.2 on 10.97.0.2)"
OUR_BRIDGE, OUR_VXLAN = f"bridge {BRIDGE} of network red", f"VXLAN device {VXLAN} of network red"
DAMAGES: list[dict[str, str]] = [
    {
        f"bridge fdb del {TWO_MAC} dev {VXLAN} dst 10.97.0.2 self": (
            f"forwarding entry of {WEB} was missing: put back"
        ),
        f"ip neighbour flush dev {BRIDGE} nud permanent": (
            f"neighbour entry of {WEB} was missing: put back"
        ),
        f"echo 1 >/proc/sys/net/ipv4/conf/{BRIDGE}/rp_filter": (
            f"sysctl net.ipv4.conf.{BRIDGE}.rp_filter was 1: set to 2"
        ),
    },
    {
        f"bridge fdb replace {TWO_MAC} dev {VXLAN} dst 10.97.0.9 self": (
            f"forwarding entry of {WEB} led to 10.97.0.9: put right"
        ),
        f"ip link set {PORT} alias nobody": (
            f"the interface {PORT} of task task-one lost its alias: renewed"
        ),
        f"echo 1 >/proc/sys/net/ipv4/conf/{BRIDGE}/route_localnet": (
            f"sysctl net.ipv4.conf.{BRIDGE}.route_localnet was 1: set to 0"
        ),
    },
    {
        f"bridge fdb replace {TWO_MAC} dev {VXLAN} dst 10.97.0.2 port 9 self": (
            f"forwarding entry of {WEB} led to 10.97.0.2 0009: put right"
        ),
        f"bridge fdb replace {TWO_MAC} dev {VXLAN} master static": (
            f"bridge entry of {WEB} could be moved by others' frames: put right"
        ),
        "echo 0 >/proc/sys/net/ipv4/ip_forward": "sysctl net.ipv4.ip_forward was 0: set to 1",
    },
    {
        f"bridge fdb del {TWO_MAC} dev {VXLAN} master": (
            f"bridge entry of {WEB} was missing: put back"
        ),
        f"ip link set {PORT} down": f"the interface {PORT} of task task-one was down",
        "nft flush ruleset": "nft table essaim was gone: loaded again",
    },
    {
        f"bridge fdb replace {TWO_MAC} dev {PORT} master static": (
            f"bridge entry of {WEB} was missing: put back"
        ),
        f"ip route del 10.244.0.0/20 dev {BRIDGE}": (
            f"the route to the subnet of 10.244.0.1/20 did not lead to {OUR_BRIDGE}: put back"
        ),
        f"bridge link set dev {VXLAN} learning on": (
            f"{OUR_VXLAN} learned from packets: set right"
        ),
    },
    {f"ip link set {BRIDGE} down": f"{OUR_BRIDGE} was down: set right"},
    {
        f"ip link set {BRIDGE} address 02:00:00:00:00:02": (
            f"{OUR_BRIDGE} had the MAC 02:00:00:00:00:02: set right"
        ),
        f"ip link set {VXLAN} down": f"{OUR_VXLAN} was down: set right",
    },
    {f"ip link set {BRIDGE} mtu 1000": f"{OUR_BRIDGE} had an MTU of 1000 instead of 1350"},
    {
        f"ip address flush dev {BRIDGE}": f"{OUR_BRIDGE} lacked its address 10.244.0.1/20: added",
        f"ip link del {VXLAN}": f"{OUR_VXLAN} was missing: made",
    },
    {f"ip link del {BRIDGE}": f"{OUR_BRIDGE} was missing: made"},
]
"""Damages that are done together do not undo each other; for each the sentence that tells of it."""


@pytest.mark.parametrize("damages", DAMAGES, ids=lambda damages: next(iter(damages)))
async def test_whatever_is_done_to_the_tables_is_mended_in_time_and_said(
    site: Site, damages: dict[str, str]
) -> None:
    before = await site.a.present()
    for damage in damages:
        site.on_host("a", damage)
    for damage, sentence in damages.items():

        def is_said(sentence: str = sentence) -> bool:
            return any(said.startswith(sentence) for said in site.said)

        assert await wait_until(is_said, site.clock, MENDED_WITHIN_S), (damage, site.said)
    assert await site.a.present() == before
    assert await site.reaches(TWO_RED)
    assert await site.reaches(site.lab.outside)
    assert site.last.problems == ()


async def test_a_container_cannot_draw_another_s_frames_to_itself(site: Site) -> None:
    """A bridge moves even static entries to where frames with that MAC come from."""
    path = await site.a.attach(THREE, on(THREE_RED), {})
    thief = ["nsenter", f"--net={path}"]
    site.lab.in_host("a", *thief, "ip", "link", "set", "eth0", "address", TWO_MAC)
    site.lab.in_host(
        "a", *thief, "sh", "-c", f"busybox ping -c 3 -i 0.1 -W 1 {ONE_RED} >/dev/null || true"
    )
    assert await site.reaches(TWO_RED)
    checked = await site.a.check()
    assert checked.mended == ()


async def test_what_was_broken_while_the_agent_was_away_is_mended_by_the_next(site: Site) -> None:
    before = await site.a.present()
    await site.a.close()
    for damage in (
        f"ip link del {VXLAN}",
        f"ip address flush dev {BRIDGE}",
        f"ip link set {PORT} down",
        "nft flush ruleset",
        "echo 0 >/proc/sys/net/ipv4/ip_forward",
    ):
        site.on_host("a", damage)
    assert not await site.reaches(TWO_RED)
    await site.start("a")
    assert await site.a.present() == before
    # A port that was down passes packets once the kernel's link watch has seen that it is up.
    while not await site.reaches(TWO_RED):
        pass
    assert await site.reaches(site.lab.outside)


async def test_what_cannot_be_mended_is_said_and_keeps_nothing_else_from_it(site: Site) -> None:
    stranger = f"type vxlan id 70245 dstport {site.lab.udp_port} local 10.97.0.1"
    site.on_host("a", f"ip link add theirs {stranger}")
    with pytest.raises(NetworksRefused, match="VNI 70245") as refusal:
        await site.a.want(site.picture("a", RED, BLUE))
    assert refusal.value.networks == {BLUE}
    site.on_host("a", f"bridge fdb del {TWO_MAC} dev {VXLAN} dst 10.97.0.2 self")
    assert await wait_until(lambda: bool(site.said), site.clock, MENDED_WITHIN_S)
    assert await site.reaches(TWO_RED)
    [problem] = site.last.problems
    assert problem.startswith(f"VXLAN device {vxlan_name(BLUE)} of network blue was missing, and ")
    assert problem.endswith("File exists")
    site.on_host("a", "ip link del theirs")
    assert await wait_until(lambda: not site.last.problems, site.clock, MENDED_WITHIN_S)
    assert vxlan_name(BLUE) in (await site.a.present()).vxlans


@pytest.mark.parametrize("host_end", [True, False])
async def test_an_interface_that_was_deleted_is_made_anew_with_the_same_address(
    site: Site, host_end: bool
) -> None:
    inside = ["nsenter", f"--net={site.path}"]
    before = site.lab.in_host("a", *inside, "ip", "-o", "-4", "address", "show", "eth0")
    route = site.lab.in_host("a", *inside, "ip", "route")
    site.lab.in_host(
        "a", *([] if host_end else inside), "ip", "link", "del", PORT if host_end else "eth0"
    )
    assert await wait_until(lambda: bool(site.said), site.clock, MENDED_WITHIN_S)
    assert site.said == [f"the interface {PORT} of task task-one was deleted: made anew"]
    assert site.lab.in_host("a", *inside, "ip", "-o", "-4", "address", "show", "eth0") == before
    assert site.lab.in_host("a", *inside, "ip", "route") == route
    assert await site.reaches(TWO_RED)
    assert await site.reaches(site.lab.outside)
    assert (await site.a.check()).mended == ()


async def test_an_interface_that_cannot_be_made_anew_is_a_problem(site: Site) -> None:
    inside = ["nsenter", f"--net={site.path}"]
    site.on_host("a", f"ip link del {PORT}")
    site.lab.in_host("a", *inside, "ip", "link", "add", "eth0", "type", "bridge")
    assert await wait_until(lambda: bool(site.last.problems), site.clock, MENDED_WITHIN_S)
    [problem] = site.last.problems
    assert problem.startswith(f"the interface {PORT} of task task-one was deleted, and cannot be")
    assert "File exists" in problem
    site.lab.in_host("a", *inside, "ip", "link", "del", "eth0")
    assert await wait_until(lambda: not site.last.problems, site.clock, MENDED_WITHIN_S)
    assert await site.reaches(TWO_RED)


async def test_a_peer_answers_through_the_overlay_with_its_latency_and_the_full_mtu(
    site: Site,
) -> None:
    answer = await site.ask()
    assert answer.peer.node_address == site.lab.underlay["b"]
    assert 0 < answer.latency_us < 1_000_000
    assert answer.is_mtu_whole


async def test_an_underlay_that_is_too_narrow_lets_only_small_packets_through(site: Site) -> None:
    site.on_host("b", "ip link set under0 mtu 1300")
    answer = await site.ask()
    assert answer.latency_us > 0
    assert not answer.is_mtu_whole


async def test_a_peer_that_is_cut_off_is_silent(site: Site) -> None:
    site.on_host("b", "ip link set under0 down")
    answer = await site.ask()
    assert (answer.latency_us, answer.is_mtu_whole) == (0, False)


async def test_a_network_without_a_bridge_is_silent_and_no_error(site: Site) -> None:
    picture = site.a.picture
    [peer] = peers_of(picture)
    nowhere = msgspec.structs.replace(peer, source="10.99.0.1", address="10.99.0.2")
    prober = Prober(site.a.inside, site.clock, random.Random(1))
    silent, heard = await prober.ask([nowhere, peer])
    assert silent.latency_us == 0
    assert heard.latency_us > 0


async def test_checks_and_probes_go_on_side_by_side(site: Site) -> None:
    answers = await asyncio.gather(*(site.ask() for _ in range(20)), site.a.check())
    assert all(answer.latency_us > 0 for answer in answers[:-1])
