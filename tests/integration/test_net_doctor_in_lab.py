"""What the doctor says of a real cluster: who hears whom, what was mended, who is away.

That the network heals is shown by `test_network_heals_in_lab`. `essaim net doctor --fresh` is
asked as an operator would: it fails unless all is well now.
"""

import pytest
from support.lab_cluster import Cluster
from support.lab_networks import create_web, until_well

pytestmark = [pytest.mark.lab, pytest.mark.timeout(240)]

REPLICAS = 6
BROKEN = ("VXLAN device", "lacked its address", "nft table essaim was gone", "ip_forward was 0")


async def bridge_of(cluster: Cluster, host: str) -> str:
    links = await cluster.lab("sh", host, "--", "ip", "-br", "link")
    return next(line.split("@")[0].split()[0] for line in links.lines if line.startswith("es-b"))


async def test_every_node_is_asked_through_the_network_and_every_master_knows(
    cluster: Cluster,
) -> None:
    await create_web(cluster, "web", replicas=REPLICAS)
    found = await until_well(cluster)
    assert [node["Hostname"] for node in found["Nodes"]] == ["h1", "h2", "h3"]
    for node in found["Nodes"]:
        peers = {probe["Peer"] for probe in node["Probes"]}
        assert peers == {"h1", "h2", "h3"} - {node["Hostname"]}
        assert all(probe["IsMTUWhole"] and probe["Latency"] for probe in node["Probes"]), node
        assert node["Networks"] == 1
        assert node["Endpoints"] >= REPLICAS
    for host in cluster.hosts:
        shown = await cluster.ok("net", "doctor", at=host.name)
        assert shown.lines[-1].startswith("All is well: 3 nodes ready, ")


@pytest.mark.slow
async def test_tables_that_are_broken_by_hand_are_mended_and_told(cluster: Cluster) -> None:
    await create_web(cluster, "web", replicas=REPLICAS)
    before = await until_well(cluster)
    bridge = await bridge_of(cluster, "h2")
    for damage in (
        f"ip link del {bridge.replace('es-b', 'es-x')}",
        f"ip address flush dev {bridge}",
        "nft delete table ip essaim",
        "echo 0 >/proc/sys/net/ipv4/ip_forward",
    ):
        await cluster.lab("sh", "h2", "--", "sh", "-c", damage)

    told: set[str] = set()

    async def is_told() -> bool:
        done = await cluster.essaim("net", "doctor", "h2")
        told.update(line for line in done.lines if line.startswith("mended: h2: "))
        return all(any(part in one for one in told) for part in BROKEN)

    await cluster.until(is_told, "the doctor tells what was mended")
    after = await until_well(cluster)
    repairs = {node["Hostname"]: node["Repairs"] for node in after["Nodes"]}
    assert repairs["h2"] > {node["Hostname"]: node["Repairs"] for node in before["Nodes"]}["h2"]


async def test_a_host_that_is_cut_off_is_named_until_it_is_back(cluster: Cluster) -> None:
    await create_web(cluster, "web", replicas=REPLICAS)
    await until_well(cluster)
    await cluster.lab("cut", "h3")

    async def is_named() -> bool:
        done = await cluster.essaim("net", "doctor")
        return any(line.startswith("h3 (") and ", down)" in line for line in done.lines)

    await cluster.until(is_named, "h3 is shown as down")
    await cluster.lab("heal", "h3")
    await until_well(cluster)
