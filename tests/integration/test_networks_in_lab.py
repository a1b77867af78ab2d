"""Networks on real engines: who is found under which name, and who cannot be reached at all."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from support.lab_cluster import WEB, Cluster
from support.lab_networks import (
    Replica,
    asked_from_replica,
    create_echo,
    create_web,
    inside,
    is_answering_ping,
    is_reachable,
    on_host,
    remove_networks,
    replicas_of,
    resolved,
    spread,
)

pytestmark = [pytest.mark.lab, pytest.mark.timeout(180)]

FRONT, BACK, CLOSED = "front", "back", "closed"


@pytest.fixture
async def networks(cluster: Cluster) -> AsyncIterator[Cluster]:
    """The cluster with two networks of its own, and one without a way out."""
    await cluster.ok("network", "create", "-d", "overlay", FRONT)
    await cluster.ok("network", "create", "-d", "overlay", "--subnet", "10.77.0.0/24", BACK)
    await cluster.ok("network", "create", "-d", "overlay", "--internal", CLOSED)
    yield cluster
    names = (await cluster.ok("service", "ls", "-q")).lines
    if names:
        await cluster.ok("service", "rm", *names)
    await remove_networks(cluster, FRONT, BACK, CLOSED)


async def test_names_are_those_of_the_networks_that_a_task_is_on(networks: Cluster) -> None:
    cluster = networks
    await cluster.ok(
        "service", "create", "-d", "--name", "db", "--replicas", "2",
        "--network", f"name={BACK},alias=store", WEB,
    )  # fmt: skip
    [web] = await create_web(cluster, "web", "--network", FRONT, "--network", BACK)
    [out] = await create_web(cluster, "out", "--network", FRONT)
    await cluster.until_running("db", 2)
    db = await replicas_of(cluster, "db")
    [service] = await cluster.api('/services?filters={"name":["db"]}')
    [virtual] = service["Endpoint"]["VirtualIPs"]
    vip = virtual["Addr"].partition("/")[0]
    addresses = sorted(one.address for one in db)
    assert all(address.startswith("10.77.0.") for address in addresses)

    assert await resolved(cluster, web, "db") == [vip]
    assert await resolved(cluster, web, "store") == [vip]
    assert await resolved(cluster, web, "DB.") == [vip]
    assert await resolved(cluster, web, "tasks.db") == addresses
    assert await resolved(cluster, out, "db") == []
    assert await resolved(cluster, out, "tasks.db") == []
    assert await resolved(cluster, out, "web") != []
    reverse = await inside(cluster, web, "nslookup", addresses[0])
    assert "name = db." in reverse.stdout, reverse.stdout

    page = await inside(cluster, web, "wget", "-qO-", "http://db:80/")
    assert page.code == 0, page.stderr
    own = (await inside(cluster, web, "hostname")).stdout.strip()
    assert web.address in (await inside(cluster, web, "cat", "/etc/hosts")).stdout
    assert await is_answering_ping(cluster, web, own)


async def test_a_service_without_an_address_of_its_own_is_found_as_its_tasks(
    networks: Cluster,
) -> None:
    cluster = networks
    many = await create_echo(
        cluster, "many", "--network", FRONT, "--endpoint-mode", "dnsrr", replicas=3
    )
    assert await resolved(cluster, many[0], "many") == sorted(one.address for one in many)
    await cluster.ok("service", "scale", "-d", "many=1")
    await cluster.until_running("many", 1)
    [left] = await replicas_of(cluster, "many")
    assert await resolved(cluster, left, "many") == [left.address]


async def test_a_services_address_leads_to_all_of_its_tasks_evenly(networks: Cluster) -> None:
    cluster = networks
    many = await create_echo(cluster, "many", "--network", FRONT, replicas=4)
    counts = spread(await asked_from_replica(cluster, many[0], "many", 8080, 2000))
    expected = 2000 / len(many)
    assert len(counts) == len(many), "the asker itself is one of them"
    # Chi-square with 3 degrees of freedom: 16.3 is passed once in a thousand times.
    assert sum((count - expected) ** 2 / expected for count in counts.values()) < 16.3, counts
    datagrams = spread(await asked_from_replica(cluster, many[0], "many", 8080, 40, "DGRAM"))
    assert len(datagrams) > 1


async def test_networks_and_hosts_are_closed_to_each_others_tasks(networks: Cluster) -> None:
    cluster = networks
    back = await create_web(cluster, "back", "--network", BACK, replicas=3)
    front = await create_web(cluster, "front", "--network", FRONT, replicas=3)
    default = await create_web(cluster, "plain", replicas=1)
    [service] = await cluster.api('/services?filters={"name":["back"]}')
    vip = service["Endpoint"]["VirtualIPs"][0]["Addr"].partition("/")[0]
    strangers = [(s, a, 80) for s in (*front, *default) for a in (vip, *(b.address for b in back))]
    assert await reachable_of(cluster, strangers) == []
    assert await is_reachable(cluster, back[0], back[1].address, 80)
    assert await is_reachable(cluster, back[0], vip, 80)
    route = (await inside(cluster, front[0], "ip", "route", "show", "default")).stdout
    gateway = route.split()[2]
    own_ports = [
        (front[0], address, port)
        for host in cluster.hosts
        for address in (host.address, gateway)
        for port in (host.http_port, host.raft_port, host.bus_port, host.metrics_port)
    ]
    assert await reachable_of(cluster, own_ports) == []


async def reachable_of(
    cluster: Cluster, wanted: list[tuple[Replica, str, int]]
) -> list[tuple[Replica, str, int]]:
    """Those (who, address, port) of some that a connection comes about to."""
    found = await asyncio.gather(*(is_reachable(cluster, *one) for one in wanted))
    return [one for one, is_open in zip(wanted, found, strict=True) if is_open]


async def test_an_internal_network_has_no_way_out(networks: Cluster) -> None:
    cluster = networks
    inner = await create_web(cluster, "inner", "--network", CLOSED, replicas=2)
    assert await is_answering_ping(cluster, inner[0], inner[1].address)
    assert await is_reachable(cluster, inner[0], inner[1].address, 80)
    assert not await is_answering_ping(cluster, inner[0], cluster.topology.machine_address)
    [open_] = await create_web(cluster, "open")
    assert await is_answering_ping(cluster, open_, cluster.topology.machine_address)


async def test_devices_come_with_the_first_task_and_go_with_the_last(networks: Cluster) -> None:
    cluster = networks

    async def bridges(host: str) -> int:
        done = await on_host(cluster, host, "ip", "-br", "link", "show", "type", "bridge")
        return sum(line.startswith("es-b") for line in done.lines)

    before = [await bridges(host.name) for host in cluster.hosts]
    await create_web(cluster, "one", "--network", FRONT, "--constraint", "node.hostname==h2")
    assert [await bridges(host.name) for host in cluster.hosts] == [
        before[0], before[1] + 1, before[2],
    ]  # fmt: skip
    refused = await cluster.essaim("network", "rm", FRONT)
    assert refused.code == 1
    assert "one" in refused.stderr
    await cluster.ok("service", "rm", "one")

    async def gone() -> bool:
        return [await bridges(host.name) for host in cluster.hosts] == before

    await cluster.until(gone, "the bridge goes with the last task")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("-d", "overlay", "--attachable", "x"), "attachable"),
        (("-d", "overlay", "--opt", "encrypted", "x"), "encrypt"),
        (("-d", "bridge", "x"), "overlay"),
        (("-d", "overlay", "--subnet", "10.98.0.0/16", "x"), "10.98.0.0/16"),
        (("-d", "overlay", "--subnet", "nonsense", "x"), "nonsense"),
        (("-d", "overlay", "default"), "predefined"),
        (("-d", "overlay", "bad name!"), "name must be valid"),
    ],
)
async def test_a_network_that_cannot_be_made_is_refused_in_a_line(
    cluster: Cluster, arguments: tuple[str, ...], said: str
) -> None:
    before = (await cluster.ok("network", "ls", "-q")).lines
    done = await cluster.essaim("network", "create", *arguments)
    assert done.code != 0
    assert said in done.stderr
    # A usage error says where help is, in a second line.
    assert len(done.stderr.strip().splitlines()) <= 2
    assert (await cluster.ok("network", "ls", "-q")).lines == before
