"""The overlay in a real kernel: what surrounds it, and what others do to its tables.

Hosts start as bare machines do: ip_forward=0, FORWARD policy DROP, bridged frames through iptables.
"""

import asyncio
import contextlib
import ctypes
import errno
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from essaim_agent.network import NetworkError, NetworkPicture
from essaim_agent.overlay.namespaces import is_namespace
from essaim_agent.overlay.tables import bridge_name, namespace_name, port_name, vxlan_name
from essaim_agent.overlay.task_networks import CHECK_PERIOD_S, OverlayNetworks
from essaim_shared.clock import ManualClock, SystemClock
from essaim_shared.ids import NetworkId, TaskId
from essaim_shared.messages import Endpoint, NodeNetwork
from essaim_shared.objects import Attachment

pytestmark = pytest.mark.lab

RED = NetworkId("red")
ONE, TWO = TaskId("task-one"), TaskId("task-two")
ONE_RED, TWO_RED = "10.244.0.11", "10.244.0.12"
TWO_MAC = "02:e5:0a:f4:00:0c"
GATEWAY = {"a": "10.244.0.1", "b": "10.244.0.2"}
BRIDGE, VXLAN, PORT = bridge_name(RED), vxlan_name(RED), port_name(ONE, RED)
WAIT_S = 10.0


def red(host: str, mtu: int = 1350) -> dict[NetworkId, NodeNetwork]:
    network = NodeNetwork(
        network_id=RED,
        name="red",
        vni=70_001,
        subnet="10.244.0.0/20",
        mtu=mtu,
        gateway=GATEWAY[host],
    )
    return {RED: network}


def on(address: str) -> list[Attachment]:
    return [Attachment(network_id=RED, address=address)]


class Site:
    """Task ONE on host a, TWO on b, both wanted and attached; a's clock is the test's."""

    def __init__(self, lab: Any) -> None:
        self.lab = lab
        self.clock = ManualClock()
        self.a: OverlayNetworks = lab.networks("a", self.clock)
        self.b: OverlayNetworks = lab.networks("b", SystemClock())
        self.to_b = frozenset(
            Endpoint(network_id=RED, address=address, node_address=lab.underlay["b"])
            for address in (TWO_RED, GATEWAY["b"])
        )
        self.to_a = frozenset(
            Endpoint(network_id=RED, address=address, node_address=lab.underlay["a"])
            for address in (ONE_RED, GATEWAY["a"])
        )

    async def set_up(self) -> None:
        await self.a.start()
        await self.b.start()
        await self.a.want(NetworkPicture(red("a"), self.to_b))
        await self.b.want(NetworkPicture(red("b"), self.to_a))
        self.path = await self.a.attach(ONE, on(ONE_RED), {})
        await self.b.attach(TWO, on(TWO_RED), {})

    async def reaches(self, address: str, count: int = 1) -> bool:
        return bool(await self.lab.ping(self.path, address, count))

    def inside(self, *words: str) -> str:
        return str(self.lab.in_host("a", "nsenter", f"--net={self.path}", *words))

    def on_a(self, *words: str) -> str:
        return str(self.lab.in_host("a", *words))


@pytest.fixture
async def site(lab: Any) -> AsyncIterator[Site]:
    made = Site(lab)
    await made.set_up()
    try:
        yield made
    finally:
        await made.a.close()
        await made.b.close()


async def until(condition: Callable[[], Awaitable[bool]], timeout_s: float = WAIT_S) -> bool:
    clock = SystemClock()
    deadline_s = clock.monotonic_s() + timeout_s
    while clock.monotonic_s() < deadline_s:
        if await condition():
            return True
    return False


async def test_the_bare_hosts_of_this_file_do_not_forward(lab: Any) -> None:
    assert lab.in_host("a", "cat", "/proc/sys/net/ipv4/ip_forward").strip() == "0"
    assert "-P FORWARD DROP" in lab.in_host("a", "iptables", "-S")


async def test_a_task_reaches_a_host_that_has_no_route_back(site: Site) -> None:
    assert await site.reaches(site.lab.outside)
    routes = site.lab.in_host("outside", "ip", "route")
    assert "10.244" not in routes
    assert "default" not in routes


async def test_nobody_outside_gets_into_the_overlay_unasked(site: Site) -> None:
    site.lab.in_host("outside", "ip", "route", "add", "10.244.0.0/20", "via", "192.0.2.1")
    outside = f"/run/netns/{site.lab.name('outside')}"
    assert not await site.lab.ping(outside, ONE_RED)
    assert await site.reaches(site.lab.outside)


async def test_large_packets_fit_between_hosts_and_are_not_fragmented(site: Site) -> None:
    assert "mtu 1350" in site.inside("ip", "link", "show", "eth0")
    ping = ["busybox", "ping", "-c", "1", "-W", "2", "-s", str(1350 - 28), TWO_RED]
    assert "1 packets received" in site.inside(*ping)


async def test_the_namespace_is_as_docker_would_have_made_it(site: Site) -> None:
    assert "inet 10.244.0.11/20" in site.inside("ip", "address", "show", "eth0")
    assert "02:e5:0a:f4:00:0b" in site.inside("ip", "link", "show", "eth0")
    assert "inet 127.0.0.1/8" in site.inside("ip", "address", "show", "lo")
    assert "inet6" not in site.inside("ip", "address", "show", "eth0")
    assert site.inside("ip", "route", "show", "default").split()[:3] == [
        "default",
        "via",
        GATEWAY["a"],
    ]
    sysctl = "/proc/sys/net/ipv4"
    assert site.inside("cat", f"{sysctl}/ip_unprivileged_port_start").strip() == "0"
    assert site.inside("cat", f"{sysctl}/ping_group_range").split() == ["0", "2147483647"]


async def test_the_overlay_has_no_ipv6_addresses_that_nobody_gave(site: Site) -> None:
    for device in (BRIDGE, VXLAN, PORT):
        assert "inet6" not in site.on_a("ip", "address", "show", device), device


async def test_sysctls_of_the_user_are_set_inside_only(site: Site) -> None:
    name = "/proc/sys/net/ipv4/tcp_syn_retries"
    before = site.on_a("cat", name)
    path = await site.a.attach(
        TWO, on("10.244.0.20"), {"net.ipv4.tcp_syn_retries": "2", "net.core.somaxconn": "99"}
    )
    inside = site.lab.in_host("a", "nsenter", f"--net={path}", "cat", name)
    assert inside.strip() == "2"
    assert site.on_a("cat", name) == before


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("net.ipv4.no_such_setting", "1"),
        ("net.ipv4.tcp_syn_retries", "many"),
        ("net.core.bpf_jit_enable", "1"),
    ],
)
async def test_a_sysctl_that_the_kernel_refuses_fails_the_attachment_whole(
    site: Site, name: str, value: str
) -> None:
    before = site.lab.traces("a")
    with pytest.raises(NetworkError, match=name.rpartition(".")[2]):
        await site.a.attach(TWO, on("10.244.0.20"), {name: value})
    assert await site.a.attached() == {ONE}
    assert site.lab.traces("a") == before
    await site.a.attach(TWO, on("10.244.0.20"), {})
    assert await site.reaches("10.244.0.20")


async def test_arp_is_answered_on_the_own_node_even_while_the_other_is_unreachable(
    site: Site,
) -> None:
    site.on_a("ip", "link", "set", "under0", "down")
    assert not await site.reaches(TWO_RED)
    [row] = [r for r in site.inside("ip", "neighbour").splitlines() if TWO_RED in r]
    assert TWO_MAC in row


async def test_frames_are_flooded_only_to_nodes_with_an_address_on_the_network(
    site: Site,
) -> None:
    def floods() -> list[str]:
        rows = site.on_a("bridge", "fdb", "show", "dev", VXLAN).splitlines()
        return [row for row in rows if row.startswith("00:00:00:00:00:00")]

    assert [f"dst {site.lab.underlay['b']}" in row for row in floods()] == [True]
    await site.a.want(NetworkPicture(red("a"), frozenset()))
    assert floods() == []


DAMAGES = {
    "a forwarding entry is deleted": f"bridge fdb del {TWO_MAC} dev {VXLAN} dst 10.97.0.2 self",
    "a forwarding entry leads astray": (
        f"bridge fdb replace {TWO_MAC} dev {VXLAN} dst 10.97.0.9 self"
    ),
    "the port's MAC is deleted": f"bridge fdb del {TWO_MAC} dev {VXLAN} master",
    "the port's MAC became a dead local one": (
        f"bridge fdb replace {TWO_MAC} dev {VXLAN} master local"
    ),
    "a neighbour is deleted": f"ip neighbour del {TWO_RED} dev {BRIDGE}",
    "a neighbour is wrong": (
        f"ip neighbour replace {TWO_RED} lladdr 02:00:00:00:00:01 dev {BRIDGE} nud permanent"
    ),
    "the VXLAN device is deleted": f"ip link del {VXLAN}",
    "the VXLAN device is down": f"ip link set {VXLAN} down",
    "the VXLAN device left the bridge": f"ip link set {VXLAN} nomaster",
    "the bridge is deleted": f"ip link del {BRIDGE}",
    "the bridge is down": f"ip link set {BRIDGE} down",
    "the bridge has another MAC": f"ip link set {BRIDGE} address 02:00:00:00:00:02",
    "the gateway's address is gone": f"ip address del 10.244.0.1/20 dev {BRIDGE}",
    "the task's port left the bridge": f"ip link set {PORT} nomaster",
    "the task's port is down": f"ip link set {PORT} down",
    "the nft table is gone": "nft delete table ip essaim",
    "the nft table is empty": "nft flush table ip essaim",
    "the accept rules are gone": "iptables -F FORWARD",
    "Docker came and closed FORWARD": (
        "iptables -F FORWARD; iptables -N DOCKER-USER; iptables -A FORWARD -j DOCKER-USER;"
        "iptables -A DOCKER-USER -j RETURN"
    ),
    "forwarding is off": "echo 0 >/proc/sys/net/ipv4/ip_forward",
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
async def test_the_full_check_repairs_whatever_was_done_to_the_tables(
    site: Site, damage: str
) -> None:
    site.on_a("sh", "-c", damage)
    await site.a.check()
    assert await site.reaches(TWO_RED)
    assert await site.reaches(GATEWAY["a"])
    assert await site.reaches(site.lab.outside)
    after = await site.a.check()
    assert (after.mended, after.problems) == ((), ())


async def test_entries_of_strangers_on_our_devices_go_with_the_full_check(site: Site) -> None:
    stranger = "02:00:00:00:00:77"
    site.on_a("bridge", "fdb", "add", stranger, "dev", VXLAN, "dst", "10.97.0.9", "self")
    site.on_a("bridge", "fdb", "append", "00:00:00:00:00:00", "dev", VXLAN, "dst", "10.97.0.9")
    site.on_a("bridge", "fdb", "add", stranger, "dev", VXLAN, "master", "static")
    site.on_a("ip", "neighbour", "add", "10.244.0.99", "lladdr", stranger, "dev", BRIDGE)
    site.on_a("ip", "address", "add", "10.250.0.1/24", "dev", BRIDGE)
    assert len((await site.a.check()).mended) == 5
    shown = site.on_a("bridge", "fdb") + site.on_a("ip", "neighbour")
    assert stranger not in shown
    assert "10.97.0.9" not in shown
    assert "10.250" not in site.on_a("ip", "address")


async def test_everything_is_compared_every_two_seconds(site: Site) -> None:
    site.on_a("nft", "delete", "table", "ip", "essaim")  # nothing that netlink would tell
    await site.clock.advance(CHECK_PERIOD_S + 0.1)
    assert await until(lambda: site.reaches(site.lab.outside))


@pytest.mark.parametrize(
    "damage",
    [
        f"ip link del {VXLAN}",
        f"ip link set {BRIDGE} down",
        f"bridge fdb del {TWO_MAC} dev {VXLAN} dst 10.97.0.2 self",
        f"bridge fdb del {TWO_MAC} dev {VXLAN} master",
        f"ip neighbour del {TWO_RED} dev {BRIDGE}",
    ],
)
async def test_the_kernel_s_notification_brings_the_check_forward(lab: Any, damage: str) -> None:
    site = Site(lab)
    site.a = lab.networks("a", SystemClock())
    await site.set_up()
    try:
        before = await site.a.present()
        site.on_a("sh", "-c", damage)

        async def is_repaired() -> bool:
            return await site.a.present() == before

        assert await until(is_repaired)
        assert await site.reaches(TWO_RED)
    finally:
        await site.a.close()
        await site.b.close()


async def test_a_restart_changes_nothing_and_loses_no_packet(site: Site) -> None:
    words = ["busybox", "ping", "-c", "20", "-i", "0.1", "-W", "1", "-q", TWO_RED]
    pinging = await asyncio.create_subprocess_exec(
        "nsenter", f"--net={site.path}", *words, stdout=asyncio.subprocess.PIPE
    )
    before = await site.a.present(), site.on_a("ip", "-o", "link")
    await site.a.close()
    site.a = site.lab.networks("a", site.clock)
    await site.a.start()
    await site.a.want(NetworkPicture(red("a"), site.to_b))
    assert (await site.a.present(), site.on_a("ip", "-o", "link")) == before
    output, _ = await pinging.communicate()
    assert b"20 packets received" in output


async def test_a_changed_mtu_is_set_without_making_the_devices_anew(site: Site) -> None:
    before = site.on_a("ip", "-o", "link", "show", BRIDGE)
    await site.a.want(NetworkPicture(red("a", mtu=1300), site.to_b))
    after = site.on_a("ip", "-o", "link", "show", BRIDGE)
    assert before.split(":")[0] == after.split(":")[0], "same index: the same device"
    assert "mtu 1300" in after
    assert "mtu 1300" in site.on_a("ip", "link", "show", VXLAN)
    assert await site.reaches(TWO_RED)


async def test_a_vni_that_somebody_else_uses_is_named_in_the_error(lab: Any) -> None:
    words = ["type", "vxlan", "id", "70001", "dstport", str(lab.udp_port), "local", "10.97.0.1"]
    lab.in_host("a", "ip", "link", "add", "theirs", *words)
    networks = lab.networks("a", SystemClock())
    await networks.start()
    try:
        with pytest.raises(NetworkError, match=rf"VNI 70001.*{os.strerror(errno.EEXIST)}"):
            await networks.want(NetworkPicture(red("a"), frozenset()))
        lab.in_host("a", "ip", "link", "del", "theirs")
        await networks.want(NetworkPicture(red("a"), frozenset()))
        await networks.attach(ONE, on(ONE_RED), {})
    finally:
        await networks.close()


async def test_a_mount_point_left_by_a_crash_is_used_again(site: Site) -> None:
    path = Path(site.path).with_name(namespace_name(TWO))
    path.touch()
    assert await site.a.attach(TWO, on("10.244.0.20"), {}) == str(path)
    assert is_namespace(path)
    assert await site.reaches("10.244.0.20")


async def test_a_namespace_of_somebody_else_at_the_path_is_not_touched(site: Site) -> None:
    path = Path(site.path).with_name(namespace_name(TWO))
    path.touch()
    site.on_a("mount", "--bind", f"/run/netns/{site.lab.name('outside')}", str(path))
    before = site.on_a("ip", "-o", "link")
    with pytest.raises(NetworkError, match="somebody else"):
        await site.a.attach(TWO, on("10.244.0.20"), {})
    assert is_namespace(path)
    assert await site.a.attached() == {ONE}
    assert site.on_a("ip", "-o", "link") == before


async def test_a_node_that_may_not_forward_says_so_at_the_start(lab: Any) -> None:
    networks = lab.networks("a", SystemClock(), before=make_sysctls_read_only)
    with pytest.raises(NetworkError, match=r"sysctl net\.ipv4\.ip_forward=1: Read-only"):
        await networks.start()
    await networks.close()


def make_sysctls_read_only() -> None:
    """For the calling thread alone: its own mount namespace, as in an unprivileged container."""
    libc = ctypes.CDLL(None, use_errno=True)
    new_mounts, bind, remount, read_only, private = 0x20000, 0x1000, 0x20, 0x1, 0x44000
    assert libc.unshare(0x200 | new_mounts) == 0  # CLONE_FS: threads share their root otherwise
    assert libc.mount(b"none", b"/", None, private, None) == 0
    assert libc.mount(b"/proc/sys", b"/proc/sys", None, bind, None) == 0
    assert libc.mount(None, b"/proc/sys", None, bind | remount | read_only, None) == 0


async def test_a_port_left_without_its_namespace_is_replaced(site: Site) -> None:
    site.on_a("umount", "-l", site.path)
    await site.a.close()
    site.a = site.lab.networks("a", site.clock)
    await site.a.start()
    await site.a.want(NetworkPicture(red("a"), site.to_b))
    await site.a.attach(ONE, on(ONE_RED), {})
    assert await site.a.attached() == {ONE}
    assert await site.reaches(TWO_RED)


async def test_many_tasks_come_and_go_at_once(site: Site) -> None:
    before = site.lab.traces("a")
    tasks = [(TaskId(f"many-{i}"), f"10.244.1.{i + 1}") for i in range(40)]
    paths = await asyncio.gather(*(site.a.attach(t, on(address), {}) for t, address in tasks))
    assert len(set(paths)) == 40
    assert await site.reaches("10.244.1.40")
    await asyncio.gather(*(site.a.detach(task) for task, _ in tasks))
    assert site.lab.traces("a") == before
    assert await site.reaches(TWO_RED)


async def test_a_process_that_outlives_its_task_loses_the_network_only(site: Site) -> None:
    sleeper = await asyncio.create_subprocess_exec(
        "nsenter", f"--net={site.path}", "busybox", "sleep", "60"
    )
    try:
        await site.a.detach(ONE)
        assert sleeper.returncode is None
        assert PORT not in site.on_a("ip", "link")
    finally:
        with contextlib.suppress(ProcessLookupError):
            sleeper.kill()
        await sleeper.wait()
