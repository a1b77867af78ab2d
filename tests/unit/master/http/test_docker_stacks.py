"""Networks and stacks by the unmodified docker command lines, against the API on a unix socket.

Tasks are made by the test's own hand, as the leader and the agents would.
"""

import asyncio
import json

import docker
import pytest
from support.docker_clients import succeed

from essaim_shared.objects import IngressPort, ServiceAddresses, VirtualAddress
from essaim_shared.spec import PortConfig

COMPOSE = """
version: "3.8"
services:
  web:
    image: team/web:1
    networks: [front, back]
    ports:
      - "8080:80"
      - target: 53
        published: 5353
        protocol: udp
        mode: host
    deploy:
      replicas: 2
      labels: {tier: front}
  db:
    image: team/db:1
    networks:
      back:
        aliases: [database, db.internal]
    deploy:
      endpoint_mode: dnsrr
  lonely:
    image: team/lonely:1
networks:
  front:
  back:
    internal: true
    labels: {team: a}
    ipam:
      config:
        - subnet: 10.77.0.0/24
"""


@pytest.fixture
def compose(tmp_path):
    """Writes a compose file; its path."""

    def write(text=COMPOSE):
        path = tmp_path / "compose.yml"
        path.write_text(text)
        return str(path)

    return write


async def networks_of(run):
    return sorted((await succeed(run, "network", "ls", "--format", "{{.Name}}")).split())


async def test_a_network_from_create_to_rm(cluster, run) -> None:
    created = await succeed(
        run,
        *("network", "create", "-d", "overlay", "--subnet", "10.9.0.0/24", "--internal"),
        *("--ip-range", "10.9.0.128/25", "--label", "team=a"),
        *("--opt", "com.docker.network.driver.mtu=1400", "back"),
    )
    network = cluster.state.networks[created.strip()]
    assert (network.name, network.subnet, network.ip_range) == (
        *("back", "10.9.0.0/24"),
        "10.9.0.128/25",
    )
    assert (network.is_internal, network.labels, network.mtu) == (True, {"team": "a"}, 1400)
    listed = await succeed(
        run, "network", "ls", "--format", "{{.Name}} {{.Driver}} {{.Scope}} {{.Internal}}"
    )
    assert listed.splitlines() == [
        *("back overlay swarm true", "default overlay swarm false"),
        "host host swarm false",
    ]
    for flag in ("name=bac", "label=team=a", "driver=overlay", "scope=swarm", "type=custom"):
        found = await succeed(run, "network", "ls", "-q", "-f", flag, "-f", "id=" + network.id)
        assert found.split() == [network.id[:12]], flag
    (shown,) = json.loads(await succeed(run, "network", "inspect", "--verbose", "back"))
    assert shown["IPAM"]["Config"] == [{"Subnet": "10.9.0.0/24", "IPRange": "10.9.0.128/25"}]
    assert (shown["Internal"], shown["Labels"]) == (True, {"team": "a"})
    assert await succeed(run, "network", "rm", "back") == "back\n"
    assert await networks_of(run) == ["default", "host"]
    code, _, err = await run("network", "rm", "default")
    assert (code, "pre-defined network and cannot be removed" in err) == (1, True), err
    code, _, err = await run("network", "inspect", "back")
    assert code == 1
    assert "back" in err


REFUSED = [
    ("back", "a bridge is of one engine, not of the cluster: use -d overlay"),
    ("-d macvlan back", 'the driver "macvlan" is not supported'),
    ("-d overlay --attachable back", "attachable networks are not supported for now"),
    ("-d overlay --ipv6 back", "IPv6 inside networks is not supported for now"),
    ("-d overlay --ingress back", "an ingress network is not needed"),
    ("-d overlay -o encrypted back", "encrypted networks are not supported for now"),
    ("-d overlay --scope local back", 'the scope "local" is not supported'),
    ("-d overlay --config-only back", "config-only networks are of one engine"),
    ("-d overlay --subnet 10.9.0.0/24 --gateway 10.9.0.1 back", "the gateway 10.9.0.1 is not"),
    ("-d overlay --subnet 10.244.1.0/24 back", "it overlaps 10.244.0.0/20, network default"),
    ("-d overlay --subnet 10.98.0.0/24 back", "it overlaps 10.98.0.1, node h1"),
    ("-d overlay bridge", "operation is not permitted on predefined bridge network"),
    ("-d overlay default", "operation is not permitted on predefined default network"),
    ("-d overlay a.b", "name must be valid as a DNS name component"),
]


@pytest.mark.parametrize(("flags", "sentence"), REFUSED)
async def test_a_network_that_cannot_be_is_refused_with_the_reason(
    cluster, run, flags, sentence
) -> None:
    revision = cluster.state.revision
    code, _, err = await run("network", "create", *flags.split())
    assert code == 1, err
    assert sentence in err
    assert cluster.state.revision == revision


async def test_a_service_on_networks_shows_them_and_moves(cluster, run) -> None:
    for name in ("front", "back"):
        await succeed(run, "network", "create", "-d", "overlay", name)
    front, back = (cluster.state.network_named(name) for name in ("front", "back"))
    await succeed(
        run,
        *("service", "create", "-d", "--name", "web", "--network", "name=front,alias=www"),
        *("-p", "8080:80", "-p", "53", "busybox"),
    )
    service = cluster.state.service_named("web")
    assert [one.target for one in service.spec.task.networks] == [front.id]
    assert service.spec.task.networks[0].aliases == ("www",)
    assert cluster.state.ingress_ports["tcp/8080"].service_id == service.id
    ports = (
        PortConfig(target_port=80, published_port=8080),
        PortConfig(target_port=53, published_port=30001),
    )
    await cluster.write(
        lambda writes: writes.put(
            ServiceAddresses(
                service_id=service.id,
                virtual_addresses=(VirtualAddress(network_id=front.id, address="10.160.16.9"),),
                ports=ports,
            )
        )
    )
    listed = await succeed(run, "service", "ls", "--format", "{{.Ports}}")
    assert listed == "*:8080->80/tcp, *:30001->53/tcp\n"
    (shown,) = json.loads(await succeed(run, "service", "inspect", "web"))
    assert shown["Endpoint"]["VirtualIPs"] == [{"NetworkID": front.id, "Addr": "10.160.16.9/20"}]
    pretty = await succeed(run, "service", "inspect", "--pretty", "web")
    assert "Networks: front" in pretty
    await succeed(
        run,
        *("service", "update", "-d", "--network-rm", "front", "--network-add", "back"),
        *("--publish-rm", "80", "--publish-add", "9090:80", "web"),
    )
    service = cluster.state.service_named("web")
    assert [one.target for one in service.spec.task.networks] == [back.id]
    assert service.spec_version == 2
    assert set(cluster.state.ingress_ports) == {"tcp/9090"}
    code, _, err = await run("network", "rm", "back")
    assert code == 1
    assert f"network back is in use by service web ({service.id})" in err
    code, _, err = await run(
        "service", "create", "-d", "-p", "published=9090,target=1,mode=host", "busybox"
    )
    assert f"port '9090' is already in use by service 'web' ({service.id}) as an ingress port" in (
        err
    )


async def test_a_service_on_the_nodes_own_network(cluster, run) -> None:
    await succeed(run, "service", "create", "-d", "--name", "web", "--network", "host", "busybox")
    code, _, err = await run("service", "update", "-d", "--publish-add", "80:80", "web")
    assert (code, "on the host network no ports are published" in err) == (1, True), err
    code, _, err = await run("service", "update", "-d", "--network-add", "default", "web")
    assert (code, "can't be used with any other type of network" in err) == (1, True), err


async def test_a_stack_from_deploy_to_rm(cluster, run, compose) -> None:
    deploy = ("stack", "deploy", "--detach=true", "-c", compose(), "shop")
    if "28" not in await succeed(run, "version", "--format", "{{.Client.Version}}"):
        deploy = ("stack", "deploy", "-c", compose(), "shop")
    await succeed(run, *deploy)
    state = cluster.state
    assert await networks_of(run) == [
        *("default", "host", "shop_back", "shop_default", "shop_front"),
    ]
    back = state.network_named("shop_back")
    assert (back.is_internal, back.subnet, back.labels["team"]) == (True, "10.77.0.0/24", "a")
    web, db = (state.service_named(f"shop_{name}") for name in ("web", "db"))
    assert {state.networks[one.target].name for one in web.spec.task.networks} == {
        *("shop_front", "shop_back"),
    }
    assert db.spec.task.networks[0].aliases == ("database", "db.internal", "db")
    assert db.spec.endpoint.mode == "dnsrr"
    assert state.ingress_ports["tcp/8080"].service_id == web.id
    assert (await succeed(run, "stack", "ls", "--format", "{{.Name}} {{.Services}}")) == "shop 3\n"
    listed = await succeed(run, "stack", "services", "--format", "{{.Name}} {{.Replicas}}", "shop")
    assert sorted(listed.splitlines()) == ["shop_db 1/1", "shop_lonely 1/1", "shop_web 2/2"]
    tasks = await succeed(run, "stack", "ps", "--format", "{{.Name}}", "shop")
    assert sorted(tasks.split()) == ["shop_db.1", "shop_lonely.1", "shop_web.1", "shop_web.2"]
    await succeed(run, *deploy)
    assert state.services[web.id].spec_version == web.spec_version
    fewer = compose(COMPOSE.replace("  lonely:\n    image: team/lonely:1\n", ""))
    await succeed(run, *deploy[:-2], fewer, "--prune", "shop")
    assert state.service_named("shop_lonely") is None
    await succeed(run, "stack", "rm", "shop")
    assert await networks_of(run) == ["default", "host"]
    assert not state.services
    assert not state.ingress_ports


async def test_a_network_is_pruned_only_when_nothing_uses_it(cluster, run) -> None:
    for name in ("used", "unused"):
        await succeed(run, "network", "create", "-d", "overlay", name)
    await succeed(run, "service", "create", "-d", "--network", "used", "busybox")
    pruned = await succeed(run, "network", "prune", "-f")
    assert "unused" in pruned
    assert await networks_of(run) == ["default", "host", "used"]


async def test_two_services_never_have_one_port(cluster, run_any, docker_command) -> None:
    """Created in the same moment through the same master, or not: one of them is told."""
    create = ("service", "create", "-d", "-p", "8080:80", "busybox")
    outcomes = await asyncio.gather(*(run_any(docker_command, *create) for _ in range(2)))
    assert sorted(code for code, _, _ in outcomes) == [0, 1]
    (held,) = cluster.state.ingress_ports.values()
    assert isinstance(held, IngressPort)
    assert list(cluster.state.services) == [held.service_id]


async def test_docker_py_makes_networks_too(cluster) -> None:
    def use_it():
        client = docker.DockerClient(base_url=f"unix://{cluster.socket_path}", timeout=60)
        try:
            pool = docker.types.IPAMPool(subnet="10.9.0.0/24")
            made = client.networks.create(
                "back",
                driver="overlay",
                internal=True,
                labels={"team": "a"},
                ipam=docker.types.IPAMConfig(pool_configs=[pool]),
            )
            bare = client.networks.create("bare", driver="overlay")
            found = client.networks.list(names=["back"], filters={"label": "team=a"})
            assert [one.id for one in found] == [made.id]
            with pytest.raises(docker.errors.APIError, match="attachable networks"):
                client.networks.create("x", driver="overlay", attachable=True)
            client.services.create("busybox", name="web", networks=["back"])
            bare.remove()
            return made.id
        finally:
            client.close()

    made = await asyncio.to_thread(use_it)
    service = cluster.state.service_named("web")
    assert [one.target for one in service.spec.task.networks] == [made]
    assert cluster.state.network_named("bare") is None
