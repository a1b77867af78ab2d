"""Ports of a node that lead to its tasks: who is answered by whom, in memory and in the kernel."""

import sys
from typing import Any

import pytest

from essaim_agent.network import NetworkError, NetworkPicture
from essaim_agent.overlay.tables import bridge_name
from essaim_shared.container_spec import ContainerSpec
from essaim_shared.ids import NetworkId, ServiceId, TaskId
from essaim_shared.messages import NodeNetwork
from essaim_shared.objects import Attachment, Task
from essaim_shared.spec import PortConfig, TaskSpec
from essaim_shared.task_state import TaskState

RED = NetworkId("red")
WEB, API = TaskId("web-1"), TaskId("api-1")
ADDRESSES = {WEB: "10.244.0.10", API: "10.244.0.11"}
CLIENTS = ("outside", "itself", "localhost")
ASKED_MAX = 100
"""A server needs some milliseconds to listen; each question to nobody ends at once."""


def red() -> dict[NetworkId, NodeNetwork]:
    network = NodeNetwork(
        network_id=RED,
        name="red",
        vni=70_001,
        subnet="10.244.0.0/20",
        mtu=1350,
        gateway="10.244.0.1",
    )
    return {RED: network}


def http(published: int = 8080, protocol: Any = "tcp") -> PortConfig:
    return PortConfig(
        protocol=protocol, target_port=80, published_port=published, publish_mode="host"
    )


def attachments(task_id: TaskId) -> tuple[Attachment, ...]:
    return (Attachment(network_id=RED, address=ADDRESSES[task_id]),)


def task(task_id: TaskId, *ports: PortConfig) -> Task:
    return Task(
        id=task_id,
        service_id=ServiceId("s"),
        service_name="web",
        slot=1,
        spec=TaskSpec(container=ContainerSpec(image="img")),
        spec_version=1,
        desired_state=TaskState.RUNNING,
        attachments=attachments(task_id),
        created_ns=1,
        updated_ns=1,
        ports=ports,
    )


async def publish(pair: Any, task_id: TaskId, *ports: PortConfig) -> None:
    """Attach a task with its ports, and wait until it serves."""
    await pair.node("a").attach(task_id, attachments(task_id), {}, ports)
    for port in ports:
        await pair.serve("a", task_id, port.protocol, port.target_port)
        await answers(pair, task_id, port.protocol, port.published_port)


async def answers(pair: Any, task_id: TaskId, protocol: str, port: int) -> None:
    for _ in range(ASKED_MAX):
        if await pair.ask("a", "itself", protocol, port) == task_id:
            return
    raise AssertionError(f"{task_id} does not answer on {port}/{protocol}")


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
async def test_a_published_port_leads_to_its_task_from_everywhere(pair: Any, protocol: str) -> None:
    await pair.node("a").want(NetworkPicture(red(), frozenset()))
    await publish(pair, WEB, http(8080, protocol))
    for client in CLIENTS:
        assert await pair.ask("a", client, protocol, 8080) == WEB, client
        assert await pair.ask("a", client, protocol, 8081) == "", client


async def test_each_port_leads_to_its_own_task(pair: Any) -> None:
    await pair.node("a").want(NetworkPicture(red(), frozenset()))
    await publish(pair, WEB, http(8080), http(8443))
    await publish(pair, API, http(9090))
    assert [await pair.ask("a", "outside", "tcp", port) for port in (8080, 8443, 9090)] == [
        WEB,
        WEB,
        API,
    ]


async def test_a_port_is_closed_when_its_task_goes_and_others_stay(pair: Any) -> None:
    await pair.node("a").want(NetworkPicture(red(), frozenset()))
    await publish(pair, WEB, http(8080))
    await publish(pair, API, http(9090))
    await pair.node("a").detach(WEB)
    assert await pair.ask("a", "outside", "tcp", 8080) == ""
    assert await pair.ask("a", "outside", "tcp", 9090) == API
    await pair.node("a").detach(API)
    await pair.node("a").want(NetworkPicture({}, frozenset()))
    assert pair.traces("a") == []


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
async def test_a_port_on_which_a_process_of_the_host_listens_is_refused(
    pair: Any, protocol: str
) -> None:
    await pair.node("a").want(NetworkPicture(red(), frozenset()))
    with (
        pair.listener("a", protocol, 8080),
        pytest.raises(NetworkError, match=rf"port 8080/{protocol} of this node is in use"),
    ):
        await pair.node("a").attach(WEB, attachments(WEB), {}, [http(8080, protocol)])
    await pair.node("a").detach(WEB)
    await publish(pair, WEB, http(8080, protocol))


async def test_the_same_number_of_another_protocol_is_another_port(pair: Any) -> None:
    await pair.node("a").want(NetworkPicture(red(), frozenset()))
    with pair.listener("a", "udp", 8080):
        await publish(pair, WEB, http(8080, "tcp"))


async def test_a_port_that_another_task_holds_is_refused(pair: Any) -> None:
    await pair.node("a").want(NetworkPicture(red(), frozenset()))
    await publish(pair, WEB, http(8080))
    with pytest.raises(NetworkError, match="still held by task web-1"):
        await pair.node("a").attach(API, attachments(API), {}, [http(8080)])
    assert await pair.ask("a", "outside", "tcp", 8080) == WEB


async def test_ports_survive_a_restart_of_the_agent_and_strangers_close(pair: Any) -> None:
    await pair.node("a").want(NetworkPicture(red(), frozenset()))
    await publish(pair, WEB, http(8080))
    await publish(pair, API, http(9090))
    await pair.restart("a")
    await pair.node("a").want(NetworkPicture(red(), frozenset()))
    assert await pair.ask("a", "outside", "tcp", 8080) == WEB, "nothing is closed on suspicion"
    await pair.node("a").adopt_ports([task(WEB, http(8080)), task(API)])
    assert await pair.ask("a", "outside", "tcp", 8080) == WEB
    assert await pair.ask("a", "outside", "tcp", 9090) == ""
    await pair.node("a").attach(WEB, attachments(WEB), {}, [http(8080)])
    await pair.node("a").detach(WEB)
    assert await pair.ask("a", "outside", "tcp", 8080) == ""


async def test_a_port_that_was_not_adopted_opens_again_with_its_task(pair: Any) -> None:
    await pair.node("a").want(NetworkPicture(red(), frozenset()))
    await publish(pair, WEB, http(8080))
    await pair.restart("a")
    await pair.node("a").want(NetworkPicture(red(), frozenset()))
    await pair.node("a").adopt_ports([])
    assert await pair.ask("a", "outside", "tcp", 8080) == ""
    await pair.node("a").attach(WEB, attachments(WEB), {}, [http(8080)])
    assert await pair.ask("a", "outside", "tcp", 8080) == WEB


@pytest.mark.lab
class TestInTheKernel:
    """What only the kernel can show."""

    async def test_a_client_outside_keeps_its_address(self, real_pair: Any) -> None:
        await real_pair.node("a").want(NetworkPicture(red(), frozenset()))
        await publish(real_pair, WEB, http(8080))
        heard = await real_pair.answer("a", "outside", "tcp", 8080)
        assert heard == f"{WEB} {real_pair.lab.outside}"

    async def test_a_task_reaches_itself_and_its_neighbours_by_the_node(
        self, real_pair: Any
    ) -> None:
        await real_pair.node("a").want(NetworkPicture(red(), frozenset()))
        await publish(real_pair, WEB, http(8080))
        await real_pair.node("a").attach(API, attachments(API), {})
        for client in (WEB, API):
            path = await real_pair.node("a").attach(client, (), {})
            heard = await real_pair.lab.hear(path, "tcp", real_pair.underlay["a"], 8080)
            assert heard.startswith(WEB), client

    async def test_the_loopback_is_open_to_the_bridge_only_while_the_guard_stands(
        self, real_pair: Any
    ) -> None:
        def switch() -> str:
            path = f"/proc/sys/net/ipv4/conf/{bridge_name(RED)}/route_localnet"
            return real_pair.lab.in_host("a", "cat", path).strip()

        await real_pair.node("a").want(NetworkPicture(red(), frozenset()))
        assert switch() == "0"
        await publish(real_pair, WEB, http(8080))
        assert switch() == "1"
        await real_pair.node("a").detach(WEB)
        assert switch() == "0"

    async def test_a_table_that_somebody_deleted_is_repaired(self, real_pair: Any) -> None:
        await real_pair.node("a").want(NetworkPicture(red(), frozenset()))
        await publish(real_pair, WEB, http(8080))
        real_pair.lab.in_host("a", "nft", "delete", "table", "ip", "essaim-ports")
        await real_pair.node("a").check()
        assert await real_pair.ask("a", "outside", "tcp", 8080) == WEB

    async def test_a_udp_client_that_never_pauses_comes_to_the_new_task(
        self, real_pair: Any
    ) -> None:
        await real_pair.node("a").want(NetworkPicture(red(), frozenset()))
        await publish(real_pair, WEB, http(8080, "udp"))
        bound = (
            "import socket; c = socket.socket(type=socket.SOCK_DGRAM); c.bind(('', 5555));"
            "c.settimeout(1); c.connect(('192.0.2.1', 8080)); c.send(b'x');"
            "print(c.recv(99).decode())"
        )
        ask = [sys.executable, "-c", bound]
        assert real_pair.lab.in_host("outside", *ask).startswith(WEB)
        await real_pair.node("a").detach(WEB)
        await publish(real_pair, API, http(8080, "udp"))
        assert real_pair.lab.in_host("outside", *ask).startswith(API)

    async def test_a_container_cannot_reach_what_listens_on_loopback_only(
        self, real_pair: Any
    ) -> None:
        """CVE-2020-8558: without the guard the open loopback switch would let it."""
        await real_pair.node("a").want(NetworkPicture(red(), frozenset()))
        await publish(real_pair, WEB, http(8080))
        lab, path = real_pair.lab, await real_pair.node("a").attach(API, attachments(API), {})
        for command in (
            ["ip", "address", "flush", "dev", "lo"],
            ["sh", "-c", "echo 1 >/proc/sys/net/ipv4/conf/all/route_localnet"],
            ["ip", "route", "del", "table", "local", "127.0.0.0/8", "dev", "lo"],
            ["ip", "route", "add", "127.0.0.1", "via", "10.244.0.1"],
        ):
            lab.in_host("a", "sh", "-c", f'nsenter --net={path} "$@" || true', "sh", *command)
        secret = await real_pair.serve_on_loopback("a", 7777)
        try:
            assert await lab.hear(path, "tcp", "127.0.0.1", 7777) == ""
            lab.in_host("a", "nft", "flush", "chain", "ip", "essaim", "input")
            assert await lab.hear(path, "tcp", "127.0.0.1", 7777) == "", "isolation is not all"
            lab.in_host("a", "nft", "flush", "chain", "ip", "essaim-ports", "guard")
            assert await lab.hear(path, "tcp", "127.0.0.1", 7777) != ""
        finally:
            secret.kill()
            await secret.wait()
