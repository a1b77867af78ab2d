"""Beginnings and ends in a real kernel: the first packet, a crash, a late carrier."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from essaim_agent.network import NetworkPicture
from essaim_agent.overlay.channel import Channel, settle
from essaim_agent.overlay.rtnetlink import link_up
from essaim_agent.overlay.tables import namespace_name
from essaim_shared.clock import SystemClock
from essaim_shared.ids import NetworkId, TaskId
from essaim_shared.messages import NodeNetwork
from essaim_shared.objects import Attachment

pytestmark = pytest.mark.lab

RED = NetworkId("red")
GATEWAY = "10.244.0.1"
WAIT_S = 10.0
FIRST_PACKETS = 25


def red() -> dict[NetworkId, NodeNetwork]:
    network = NodeNetwork(
        network_id=RED,
        name="red",
        vni=70_001,
        subnet="10.244.0.0/20",
        mtu=1350,
        gateway=GATEWAY,
    )
    return {RED: network}


async def until(condition: Callable[[], Awaitable[bool]]) -> bool:
    clock = SystemClock()
    deadline_s = clock.monotonic_s() + WAIT_S
    while clock.monotonic_s() < deadline_s:
        if await condition():
            return True
    return False


async def test_the_first_packet_of_a_task_arrives(lab: Any) -> None:
    """Without `settle` one in ten of these lost its ARP request, and a second with it."""
    networks = lab.networks("a", SystemClock())
    await networks.start()
    try:
        await networks.want(NetworkPicture(red(), frozenset()))
        for i in range(FIRST_PACKETS):
            task = TaskId(f"first-{i}")
            attachment = Attachment(network_id=RED, address=f"10.244.3.{i + 1}")
            path = await networks.attach(task, [attachment], {})
            assert await lab.ping(path, GATEWAY), f"round {i}"
            await networks.detach(task)
    finally:
        await networks.close()


async def test_settling_waits_for_a_carrier_that_comes_late(lab: Any) -> None:
    lab.in_host("a", "ip", "link", "add", "early", "type", "veth", "peer", "name", "late")
    index = int(lab.in_host("a", "ip", "-o", "link", "show", "early").split(":")[0])
    is_up = asyncio.Event()
    loop = asyncio.get_running_loop()

    def bring_up_and_settle() -> None:
        lab.enter("a")
        channel = Channel()
        try:
            assert channel.send([link_up(index)]) == [0]
            loop.call_soon_threadsafe(is_up.set)
            settle([(channel, "early")])
        finally:
            channel.close()

    # A thread of its own, for it moves into the host for good.
    with ThreadPoolExecutor(max_workers=1) as thread:
        await meet_the_late_carrier(lab, loop.run_in_executor(thread, bring_up_and_settle), is_up)


async def meet_the_late_carrier(
    lab: Any, settling: asyncio.Future[None], is_up: asyncio.Event
) -> None:
    await is_up.wait()
    assert "state LOWERLAYERDOWN" in lab.in_host("a", "ip", "link", "show", "early")
    assert not settling.done()
    lab.in_host("a", "ip", "link", "set", "late", "up")
    await asyncio.wait_for(settling, WAIT_S)
    assert "state UP" in lab.in_host("a", "ip", "link", "show", "early")


CRASHING = """
import asyncio, ctypes, os, sys
from pathlib import Path
from essaim_agent.network import NetworkPicture
from essaim_agent.overlay.task_networks import OverlayNetworks
from essaim_shared.clock import SystemClock
from essaim_shared.messages import NodeNetwork
from essaim_shared.objects import Attachment

async def main(directory, udp_port):
    networks = OverlayNetworks("10.97.0.1", SystemClock(), udp_port, directory)
    await networks.start()
    red = NodeNetwork(network_id="red", name="red", vni=70001, subnet="10.244.0.0/20", mtu=1350,
                      gateway="10.244.0.1")
    await networks.want(NetworkPicture({"red": red}, frozenset()))
    for i in range(200):
        task, address = f"crash-{i}", f"10.244.2.{i + 1}"
        await networks.attach(task, [Attachment(network_id="red", address=address)], {})
        if i % 3 == 0:
            await networks.detach(task)
        print(i, flush=True)

asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
"""


@pytest.mark.parametrize("delay_lines", [0, 1, 7, 20])
async def test_an_agent_that_is_killed_leaves_whole_namespaces_or_none(
    lab: Any, delay_lines: int
) -> None:
    directory = lab.directory / "a"
    doomed = await asyncio.create_subprocess_exec(
        "nsenter",
        f"--net=/run/netns/{lab.name('a')}",
        *[sys.executable, "-c", CRASHING, str(directory), str(lab.udp_port)],
        stdout=asyncio.subprocess.PIPE,
    )
    assert doomed.stdout is not None
    for _ in range(delay_lines + 1):
        await doomed.stdout.readline()
    doomed.kill()
    await doomed.wait()

    networks = lab.networks("a", SystemClock())
    await networks.start()
    try:
        await networks.want(NetworkPicture(red(), frozenset()))
        attached = await networks.attached()
        assert len(attached) >= delay_lines * 2 // 3
        for task in attached:
            path = str(directory / namespace_name(task))
            assert await lab.ping(path, GATEWAY), task

        async def ports_fit() -> bool:
            """An unfinished namespace dies with its process, a moment later."""
            present = await networks.present()
            return {port.task_id for port in present.ports.values()} == attached

        assert await until(ports_fit)
        for task in attached:
            await networks.detach(task)
        await networks.want(NetworkPicture({}, frozenset()))
        left = [trace for trace in lab.traces("a") if not is_leftover_mount_point(trace)]
        assert left == []
    finally:
        await networks.close()


def is_leftover_mount_point(trace: str) -> bool:
    """An empty file of the task in whose making the agent was killed; its next attempt or its
    removal takes it away."""
    return trace.startswith("/run/") and Path(trace).stat().st_size == 0
