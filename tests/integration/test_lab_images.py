"""A locked registry, from `--with-registry-auth` to a container on each node."""

import base64
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.image_registry import PASSWORD, USER, ImageRegistry
from support.lab_cluster import WEB, Cluster, Done, docker_clients

pytestmark = [pytest.mark.lab, pytest.mark.timeout(180)]

PORT = 5000
IMAGE = f"127.0.0.1:{PORT}/web:1"


class Registry:
    """One store of images behind the loopback of every host, with the image in it."""

    def __init__(self, cluster: Cluster, directory: Path) -> None:
        self.cluster = cluster
        self.parts = []
        for host in cluster.hosts:
            home = directory / host.name
            home.mkdir()
            namespace = str(host.namespace_path)
            images = directory / "images"
            self.parts.append(ImageRegistry(home, PORT, False, namespace, images))
        pair = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        config = {"auths": {f"127.0.0.1:{PORT}": {"auth": pair}}}
        (directory / "config.json").write_text(json.dumps(config))
        self.logged_in = {"DOCKER_CONFIG": str(directory)}

    async def fill(self) -> None:
        engine = f"unix://{self.cluster.hosts[0].engine_socket}"

        async def pushed() -> bool:
            done = await self.cluster.run("docker", "-H", engine, "push", IMAGE, **self.logged_in)
            return done.code == 0

        await self.cluster.docker("h1", "tag", WEB, IMAGE)
        await self.cluster.until(pushed, "the registry takes the image")
        await self.cluster.docker("h1", "rmi", IMAGE)

    async def essaim(self, *arguments: str) -> Done:
        """Our command line, of a user who is logged in to the registry."""
        host = f"unix://{self.cluster.hosts[0].master_socket}"
        return await self.cluster.run(
            sys.executable, "-m", "essaim_cli", *arguments, ESSAIM_HOST=host, **self.logged_in
        )

    async def docker(self, client: str, *arguments: str) -> Done:
        host = f"unix://{self.cluster.hosts[0].master_socket}"
        return await self.cluster.run(client, "-H", host, *arguments, **self.logged_in)

    def end(self) -> None:
        for part in self.parts:
            part.end()


@pytest.fixture
async def registry(cluster: Cluster, tmp_path: Path) -> AsyncIterator[Registry]:
    made = Registry(cluster, tmp_path)
    try:
        await made.fill()
        yield made
    finally:
        made.end()


async def runs_pinned_on_every_host(cluster: Cluster, service: str) -> None:
    await cluster.until_running(service, 3)
    assert set((await cluster.containers(service)).values()) == {"h1", "h2", "h3"}
    for task in await cluster.running(service):
        name, at, digest = task["Spec"]["ContainerSpec"]["Image"].partition("@")
        assert (name, at) == (IMAGE, "@")
        assert digest.startswith("sha256:")


def files_that_hold(cluster: Cluster, secret: bytes) -> list[str]:
    """Of everything that masters, agents and the bus wrote."""
    tops = [cluster.topology.run_dir]
    tops += [host.data_dir / part for host in cluster.hosts for part in ("master", "agent")]
    found = (path for top in tops for path in top.rglob("*"))
    # Network namespaces are files that cannot be read.
    paths = [path for path in found if path.is_file() and "netns" not in path.parts]
    assert paths
    return [str(path) for path in paths if secret in path.read_bytes()]


async def test_credentials_reach_the_nodes_and_nothing_that_is_written(
    cluster: Cluster, registry: Registry
) -> None:
    create = ("service", "create", "-d", "--name", "shut", "--replicas", "3")
    assert (await registry.essaim(*create, IMAGE)).code == 0

    async def rejected() -> bool:
        tasks = await cluster.api('/tasks?filters={"service":["shut"]}')
        return any("no basic auth credentials" in task["Status"].get("Err", "") for task in tasks)

    await cluster.until(rejected, "a task without credentials is rejected")
    assert not await cluster.running("shut")

    create = ("service", "create", "-d", "--name", "open", "--replicas", "3")
    done = await registry.essaim(*create, "--with-registry-auth", IMAGE)
    assert done.code == 0, done.stderr
    await runs_pinned_on_every_host(cluster, "open")
    pair = base64.b64encode(f"{USER}:{PASSWORD}".encode())
    for secret in (PASSWORD.encode(), pair):
        assert not files_that_hold(cluster, secret)


@pytest.mark.parametrize("client", docker_clients())
async def test_an_unmodified_docker_client_hands_its_credentials_over(
    cluster: Cluster, registry: Registry, client: str
) -> None:
    create = ("service", "create", "-d", "--name", "web", "--replicas", "3")
    done = await registry.docker(client, *create, "--with-registry-auth", IMAGE)
    assert done.code == 0, done.stderr
    assert "could not be accessed" not in done.stderr
    await runs_pinned_on_every_host(cluster, "web")
