"""Each table of the network broken by hand on a host, and mended within five seconds."""

from collections.abc import Awaitable, Callable

import pytest
from support.lab_cluster import Cluster
from support.lab_networks import (
    Replica,
    changed_on_host,
    create_echo,
    doctor,
    is_answering_ping,
    is_port_answering,
    on_host,
    resolved,
    until_well,
)

pytestmark = [pytest.mark.lab, pytest.mark.timeout(240)]

PORT = 18_080
REPAIR_S = 5.0


async def names_of(cluster: Cluster, host: str, kind: str) -> list[str]:
    done = await on_host(cluster, host, "ip", "-br", "link", "show", "type", kind)
    return [line.split()[0].partition("@")[0] for line in done.lines if line.startswith("es-")]


async def test_what_is_broken_by_hand_is_mended(cluster: Cluster) -> None:
    replicas = await create_echo(cluster, "echo", "--publish", f"{PORT}:8080", replicas=3)
    near = next(one for one in replicas if one.host == "h1")
    far = next(one for one in replicas if one.host == "h2")
    [bridge] = await names_of(cluster, "h1", "bridge")
    [vxlan] = await names_of(cluster, "h1", "vxlan")
    [port] = await names_of(cluster, "h1", "veth")
    mac = "02:e5:" + ":".join(f"{int(octet):02x}" for octet in far.address.split("."))

    async def reaches_far() -> bool:
        return await is_answering_ping(cluster, near, far.address)

    async def answers() -> bool:
        return await is_port_answering(cluster, "h1", PORT)

    async def knows_names() -> bool:
        return bool(await resolved(cluster, near, "echo"))

    damages: list[tuple[str, tuple[str, ...], Callable[[], Awaitable[bool]]]] = [
        ("a forwarding entry deleted", ("bridge", "fdb", "del", mac, "dev", vxlan, "self"),
         reaches_far),
        ("a port entry deleted", ("bridge", "fdb", "del", mac, "dev", vxlan, "master", "static"),
         reaches_far),
        ("the nft tables flushed", ("nft", "flush", "ruleset"), answers),
        ("the bridge down", ("ip", "link", "set", bridge, "down"), reaches_far),
        ("the tunnel down", ("ip", "link", "set", vxlan, "down"), reaches_far),
        ("the tunnel deleted", ("ip", "link", "del", vxlan), reaches_far),
        ("a task's port down", ("ip", "link", "set", port, "down"), reaches_far),
        ("the bridge with another MAC",
         ("ip", "link", "set", bridge, "address", "02:00:00:00:00:01"), reaches_far),
        ("the bridge without its address", ("ip", "address", "flush", "dev", bridge), knows_names),
        ("forwarding switched off", ("sysctl", "-qw", "net.ipv4.ip_forward=0"), answers),
    ]  # fmt: skip
    for what, command, is_well in damages:
        await changed_on_host(cluster, "h1", *command)
        await cluster.until(is_well, f"mended: {what}", timeout_s=REPAIR_S)
    report = await doctor(cluster, "h1")
    assert report["Nodes"][0]["Repairs"] >= len(damages) - 1, report
    await until_well(cluster)


async def test_the_network_outlives_engine_agent_and_name_server(cluster: Cluster) -> None:
    replicas = await create_echo(cluster, "echo", "--publish", f"{PORT}:8080", replicas=3)
    near = next(one for one in replicas if one.host == "h1")
    others = [one for one in replicas if one is not near]

    async def works() -> bool:
        return await all_well(cluster, near, others)

    await cluster.lab("kill", "h1", "engine")
    assert await is_port_answering(cluster, "h1", PORT), "without its engine"
    await cluster.lab("start", "h1", "engine")
    await cluster.until(works, "after the engine's restart", timeout_s=REPAIR_S)
    await cluster.lab("kill", "h1", "agent")
    assert await works(), "without its agent, names too"
    await changed_on_host(cluster, "h1", "nft", "flush", "ruleset")
    await cluster.lab("start", "h1", "agent")
    await cluster.until(works, "the agent mends what broke without it", timeout_s=REPAIR_S)
    await until_well(cluster)


async def all_well(cluster: Cluster, near: Replica, others: list[Replica]) -> bool:
    if not await resolved(cluster, near, "echo"):
        return False
    for other in others:
        if not await is_answering_ping(cluster, near, other.address):
            return False
    return await is_port_answering(cluster, "h1", PORT)
