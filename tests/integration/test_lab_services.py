"""Real services on three real engines: what the README promises, counted on the engines."""

import json

import pytest
from support.lab_cluster import WEB, Cluster, address_of, addresses, docker_clients
from support.lab_networks import create_web

pytestmark = [pytest.mark.lab, pytest.mark.timeout(180)]


async def test_a_service_is_created_scaled_and_removed(cluster: Cluster) -> None:
    await cluster.ok("service", "create", "--name", "api", "--replicas", "3", WEB)
    containers = await cluster.containers("api")
    assert len(containers) == 3
    assert set(containers.values()) == {"h1", "h2", "h3"}, "replicas spread over the hosts"

    await cluster.ok("service", "scale", "api=12")
    assert len(await cluster.containers("api")) == 12
    await cluster.ok("service", "scale", "api=2")

    async def two_left() -> bool:
        return len(await cluster.containers("api")) == 2

    await cluster.until(two_left, "two containers are left")
    await cluster.ok("service", "rm", "api")

    async def none_left() -> bool:
        return not await cluster.containers("api")

    await cluster.until(none_left, "no container is left")
    gone = await cluster.essaim("service", "inspect", "api")
    assert gone.code == 1
    assert "api" in gone.stderr


async def test_containers_on_different_hosts_reach_each_other(cluster: Cluster) -> None:
    await create_web(cluster, "web", replicas=3)
    tasks = await cluster.running("web")
    hosts = await cluster.containers("web")
    for reader, target in zip(tasks, [*tasks[1:], tasks[0]], strict=True):
        container = reader["Status"]["ContainerStatus"]["ContainerID"]
        assert container in hosts
        address = address_of(target)
        ping = await cluster.docker(
            hosts[container], "exec", container, "ping", "-c", "1", "-W", "3", address
        )
        assert ping.code == 0, ping.stdout + ping.stderr
        page = await cluster.docker(
            hosts[container], "exec", container, "wget", "-qO-", f"http://{address}:80/"
        )
        assert page.code == 0, page.stderr
        assert page.stdout.strip()


async def test_every_master_answers_and_takes_orders(cluster: Cluster) -> None:
    for number, host in enumerate(cluster.topology.masters, start=1):
        name = f"s{number}"
        await cluster.ok("service", "create", "-d", "--name", name, WEB, at=host.name)
        for other in cluster.topology.masters:
            listed = await cluster.ok("service", "ls", at=other.name)
            assert name in listed.stdout, f"{other.name} does not know what {host.name} was told"


async def test_nodes_show_where_they_are_and_who_leads(cluster: Cluster) -> None:
    leader = await cluster.leader()
    rows = (await cluster.ok("node", "ls")).lines
    assert len(rows) == 4
    assert [row for row in rows if "Leader" in row and leader in row]
    assert sum("Reachable" in row for row in rows) == 2


@pytest.mark.parametrize("client", docker_clients())
async def test_an_unmodified_docker_client_drives_the_cluster(
    cluster: Cluster, client: str
) -> None:
    async def docker(*words: str) -> str:
        done = await cluster.docker_at_master(*words, client=client)
        assert done.code == 0, f"{client} {words}: {done.stdout}{done.stderr}"
        return done.stdout

    await docker("service", "create", "--no-resolve-image", "--name", "web", "--replicas", "2", WEB)
    assert len(await cluster.containers("web")) == 2
    assert "2/2" in await docker("service", "ls")
    assert (await docker("service", "ps", "-q", "web")).count("\n") == 2
    await docker("service", "scale", "web=4")
    assert len(await cluster.containers("web")) == 4
    await docker("service", "update", "--replicas", "1", "web")
    assert json.loads(await docker("service", "inspect", "web"))[0]["Spec"]["Name"] == "web"
    assert (await docker("node", "ls")).count("Ready") == 3
    assert json.loads(await docker("node", "inspect", "h1"))[0]["Status"]["State"] == "ready"
    await docker("service", "rm", "web")


async def test_a_docker_client_does_not_lose_fields_that_it_does_not_know(
    cluster: Cluster,
) -> None:
    client = docker_clients()[0]
    await create_web(cluster, "web", "--stop-when-cut-off", "20s")
    before = (await cluster.api("/services/web"))["Spec"]
    done = await cluster.docker_at_master("service", "scale", "web=2", client=client)
    assert done.code == 0, done.stderr
    after = (await cluster.api("/services/web"))["Spec"]
    assert after["Mode"] == {"Replicated": {"Replicas": 2}}
    after["Mode"] = before["Mode"]
    assert after == before


async def test_what_tasks_use_is_shown(cluster: Cluster) -> None:
    await create_web(cluster, "web")

    async def measured() -> bool:
        return "web.1" in (await cluster.ok("top", "tasks", "--no-stream")).stdout

    await cluster.until(measured, "the task's figures arrive")
    nodes = (await cluster.ok("top", "nodes", "--no-stream")).stdout
    assert all(host.name in nodes for host in cluster.hosts)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("service", "scale", "nothing=2"), "nothing"),
        (("service", "rm", "nothing"), "nothing"),
        (("service", "create", "--replicas", "three", WEB), "three"),
        (("service", "create", "--replicas", "-1", WEB), "-1"),
        (("node", "inspect", "h9"), "h9"),
    ],
)
async def test_bad_input_is_one_clear_line_and_changes_nothing(
    cluster: Cluster, arguments: tuple[str, ...], said: str
) -> None:
    done = await cluster.essaim(*arguments)
    assert done.code != 0
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (await cluster.ok("service", "ls", "-q")).lines


async def test_a_name_can_be_taken_only_once(cluster: Cluster) -> None:
    await cluster.ok("service", "create", "-d", "--name", "web", WEB)
    again = await cluster.essaim("service", "create", "-d", "--name", "web", WEB)
    assert again.code == 1
    assert "already exists" in again.stderr
    assert len((await cluster.ok("service", "ls", "-q")).lines) == 1


async def test_an_image_that_does_not_exist_is_named_by_the_task(cluster: Cluster) -> None:
    await cluster.ok("service", "create", "-d", "--name", "web", "no/such-image:1")

    async def told() -> bool:
        return "No such image" in (await cluster.ok("service", "ps", "--no-trunc", "web")).stdout

    await cluster.until(told, "the task says that there is no such image")


async def test_a_reservation_that_no_node_can_satisfy_stays_pending_with_its_reason(
    cluster: Cluster,
) -> None:
    done = await cluster.essaim(
        "service", "create", "--name", "big", "--reserve-cpu", "999", "--timeout", "3s", WEB
    )
    assert done.code == 1
    assert "insufficient resources" in done.stderr + done.stdout
    assert not await cluster.containers("big")


async def test_addresses_are_unique_and_freed_ones_are_used_again(cluster: Cluster) -> None:
    await create_web(cluster, "web", replicas=6)
    seen = addresses(await cluster.running("web"))
    assert len(set(seen.values())) == 6
