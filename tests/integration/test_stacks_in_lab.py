"""Compose files of several services and networks, by the unmodified docker client and by essaim."""

from pathlib import Path

import pytest
from support.lab_cluster import Cluster, docker_clients
from support.lab_networks import (
    create_web,
    inside,
    is_reachable,
    replicas_of,
    resolved,
)

from essaim_cli.lab.probes import http_request

pytestmark = [pytest.mark.lab, pytest.mark.timeout(180)]

PORT = 18_081
COMPOSE = f"""
version: "3.8"
services:
  front:
    image: essaim/web:1
    networks: [outer, inner]
    ports: ["{PORT}:80"]
    deploy: {{replicas: 2}}
  back:
    image: essaim/web:1
    hostname: storage
    networks:
      inner: {{aliases: [store]}}
  lonely:
    image: essaim/web:1
networks:
  outer: {{}}
  inner: {{internal: true}}
"""


@pytest.fixture
def compose_file(tmp_path: Path) -> str:
    path = tmp_path / "shop.yml"
    path.write_text(COMPOSE)
    return str(path)


async def check_stack(cluster: Cluster) -> None:
    """That the stack is what the file says."""
    for service, count in (("shop_front", 2), ("shop_back", 1), ("shop_lonely", 1)):
        await cluster.until_running(service, count)
    front = (await replicas_of(cluster, "shop_front"))[0]
    [back] = await replicas_of(cluster, "shop_back")
    [lonely] = await replicas_of(cluster, "shop_lonely")
    for name in ("back", "store", "back.shop", "shop_back", "storage"):
        page = await inside(cluster, front, "wget", "-qO-", f"http://{name}:80/")
        assert page.stdout.strip() == "storage", (name, page.stderr)
        assert await resolved(cluster, lonely, name) == []
    assert not await is_reachable(cluster, lonely, back.address, 80)
    names = set((await cluster.ok("network", "ls", "--format", "{{.Name}}")).lines)
    assert {"shop_outer", "shop_inner", "shop_default"} <= names


async def nothing_of_it_is_left(cluster: Cluster) -> None:
    async def gone() -> bool:
        networks = (await cluster.ok("network", "ls", "--format", "{{.Name}}")).stdout
        return "shop" not in networks and not await cluster.containers()

    await cluster.until(gone, "nothing of the stack is left")
    assert not (await cluster.ok("service", "ls", "-q")).lines


@pytest.mark.parametrize("client", docker_clients())
async def test_docker_stack(cluster: Cluster, client: str, compose_file: str) -> None:
    async def docker(*words: str) -> str:
        done = await cluster.docker_at_master(*words, client=client)
        assert done.code == 0, f"{client} {words}: {done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    said = await docker("stack", "deploy", "-c", compose_file, "shop")
    assert "Creating network shop_inner" in said
    assert "Creating service shop_front" in said
    await check_stack(cluster)
    again = await docker("stack", "deploy", "-c", compose_file, "shop")
    assert "Updating service shop_front" in again
    assert "shop" in await docker("stack", "ls")
    assert f"*:{PORT}->80/tcp" in await docker("stack", "services", "shop")
    assert (await docker("stack", "ps", "shop")).count("Running") >= 4
    await docker("stack", "rm", "shop")

    async def removed() -> bool:
        # Docker's client does not wait for the tasks to leave the networks: it is told again.
        await cluster.docker_at_master("stack", "rm", "shop", client=client)
        return "shop" not in (await cluster.ok("network", "ls", "--format", "{{.Name}}")).stdout

    await cluster.until(removed, "its networks are gone")
    await nothing_of_it_is_left(cluster)


async def test_essaim_stack(cluster: Cluster, compose_file: str) -> None:
    said = (await cluster.ok("stack", "deploy", "-c", compose_file, "shop")).stdout
    assert "Creating network shop_inner" in said
    assert "Creating service shop_front" in said
    assert len(await cluster.running("shop_front")) == 2, "it waited"
    await check_stack(cluster)
    before = {one.task_id for one in await replicas_of(cluster, "shop_front")}
    await cluster.ok("stack", "deploy", "-c", compose_file, "shop")
    after = {one.task_id for one in await replicas_of(cluster, "shop_front")}
    assert before == after, "what did not change was left alone"
    assert "shop" in (await cluster.ok("stack", "ls")).stdout
    assert f"*:{PORT}->80/tcp" in (await cluster.ok("stack", "services", "shop")).stdout
    assert len((await cluster.ok("stack", "ps", "-q", "shop")).lines) == 4
    assert await is_answering_everywhere(cluster)
    await cluster.ok("stack", "rm", "shop")
    await nothing_of_it_is_left(cluster)


async def is_answering_everywhere(cluster: Cluster) -> bool:
    """Whether the stack's port gives a page on every host."""
    answers = [await http_request((host.address, PORT), "/") for host in cluster.hosts]
    return all(answer is not None and answer[0] == 200 for answer in answers)


async def test_a_network_is_kept_while_others_use_it(cluster: Cluster, compose_file: str) -> None:
    await cluster.ok("stack", "deploy", "-d", "-c", compose_file, "shop")
    await create_web(cluster, "guest", "--network", "shop_outer")
    refused = await cluster.essaim("stack", "rm", "--timeout", "5s", "shop")
    assert refused.code == 1
    assert "guest" in refused.stderr or "in use" in refused.stderr
    await cluster.ok("service", "rm", "guest")
    await cluster.ok("stack", "rm", "shop")
    await nothing_of_it_is_left(cluster)
