"""Each flag, by each client, down to the container on its engine (`support/flag_rows`)."""

import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
from support.flag_rows import SERVICES
from support.flag_table import Asked, Client, MatrixService, differences
from support.lab_cluster import WEB, Cluster, Done, docker_clients

pytestmark = [pytest.mark.lab, pytest.mark.timeout(180)]


def known_clients() -> dict[Client, str]:
    """Each client's command; Essaim's own has none here."""
    found: dict[Client, str] = {"essaim": ""}
    for path in docker_clients():
        found["20.10" if path == "/usr/bin/docker" else "newer"] = path
    return found


CLIENTS = known_clients()


class Driver:
    """One client at one master, and what became of its words."""

    def __init__(self, cluster: Cluster, client: Client, places: dict[str, str]) -> None:
        self.cluster = cluster
        self.client = client
        self.places = places
        """What stands in braces in the table."""

    def placed(self, text: str) -> str:
        for name, value in self.places.items():
            text = text.replace(f"{{{name}}}", value)
        return text

    async def run(self, *words: str) -> Done:
        if self.client == "essaim":
            return await self.cluster.essaim(*words)
        return await self.cluster.docker_at_master(*words, client=CLIENTS[self.client])

    async def ok(self, *words: str) -> None:
        done = await self.run(*words)
        assert done.code == 0, f"{self.client} {words}: {done.stderr}"

    def flags(self, rows: list[Asked]) -> list[str]:
        return [word for row in rows for word in shlex.split(self.placed(row.flags))]

    def rows(self, rows: tuple[Asked, ...]) -> list[Asked]:
        return [row for row in rows if self.client in row.by]

    async def create(self, service: MatrixService) -> None:
        flags = self.flags(self.rows(service.created))
        await self.ok("service", "create", "-d", "--name", service.name, "--no-resolve-image",
                      *flags, WEB, *service.words)  # fmt: skip

    async def update(self, service: MatrixService) -> None:
        flags = self.flags(self.rows(service.updated))
        await self.ok("service", "update", "-d", *flags, service.name)

    async def inspected(self, service: str) -> tuple[str, dict[str, Any]] | None:
        """Host and container of the one task, once it runs with the spec of the service."""
        spec = (await self.cluster.api(f"/services/{service}"))["Spec"]["TaskTemplate"]
        running = await self.cluster.running(service)
        if len(running) != 1 or running[0]["Spec"] != spec:
            return None
        container = running[0]["Status"]["ContainerStatus"]["ContainerID"]
        host = (await self.cluster.containers(service)).get(container)
        if host is None:
            return None
        done = await self.cluster.docker(host, "inspect", container)
        return host, json.loads(done.stdout)[0] if done.code == 0 else {}

    async def deviations(self, service: MatrixService, rows: list[Asked]) -> list[str]:
        found = await self.inspected(service.name)
        if found is None:
            return ["it does not run as it is asked to"]
        host, container = found
        spec = (await self.cluster.api(f"/services/{service.name}"))["Spec"]
        lines = []
        for row in rows:
            engine = {
                path: self.placed(value) if isinstance(value, str) else value
                for path, value in row.engine.items()
            }
            lines += [f"{row.flags}: spec {line}" for line in differences(row.spec, spec)]
            lines += [f"{row.flags}: engine {line}" for line in differences(engine, container)]
            for command, wanted in row.inside.items():
                words = ("exec", container["Id"], "sh", "-c", command)
                printed = (await self.cluster.docker(host, *words)).stdout.strip()
                if printed != wanted:
                    lines.append(f"{row.flags}: `{command}` prints {printed!r}, not {wanted!r}")
        return lines

    async def until_as_asked(self, service: MatrixService, rows: list[Asked]) -> None:
        lines: list[str] = []

        async def as_asked() -> bool:
            lines[:] = await self.deviations(service, rows)
            return not lines

        try:
            await self.cluster.until(as_asked, f"{service.name} is as it was asked for")
        except AssertionError as late:
            raise AssertionError("\n".join([f"by {self.client}:", *lines])) from late


NETWORKS = {"network": "matrix-front", "other_network": "matrix-back"}


@pytest.fixture
async def places(cluster: Cluster, tmp_path: Path) -> dict[str, str]:
    """What the flags of the table name on this machine."""
    (tmp_path / "bind").mkdir()
    (tmp_path / "bind" / "file").write_text("from the node\n")
    (tmp_path / "env").write_text("# a file of variables\nF=1\nG=a b\n")
    known = (await cluster.essaim("network", "ls", "--format", "{{.Name}}")).stdout.split()
    for name in set(NETWORKS.values()) - set(known):
        assert (await cluster.essaim("network", "create", name)).code == 0
    return {
        **NETWORKS,
        "bind": str(tmp_path / "bind"),
        "env_file": str(tmp_path / "env"),
        "cgroup": cluster.hosts[0].cgroup,
    }


@pytest.mark.parametrize("client", CLIENTS)
async def test_each_flag_from_the_command_line_to_the_engine(
    cluster: Cluster, places: dict[str, str], client: Client
) -> None:
    driver = Driver(cluster, client, places)
    services = [service for service in SERVICES if client in service.by]
    for service in services:
        await driver.create(service)
    for service in services:
        await driver.until_as_asked(service, driver.rows(service.created))
    for service in services:
        await driver.update(service)
    for service in services:
        await driver.until_as_asked(service, driver.rows(service.updated))


SHORT = {"-p": "publish", "-e": "env"}

ELSEWHERE = {
    "detach quiet name image rollback no-resolve-image": "used by every test of a lab",
    "mode max-concurrent": "test_lab_services, test_beside_swarm and http/test_docker_flags",
    "with-registry-auth": "test_lab_images",
    "generic-resource": "http/test_docker_flags: no node of a lab announces any",
    "health-start-interval": "http/test_docker_flags: Debian's engine is older than it",
    "secret config": "http/test_docker_payloads and contract/executors/test_docker_secrets",
    "credential-spec": "refused in words: http/test_docker_flags",
    "help": "of the client alone",
}
"""Flags without a row, and where they are tried. As of create: `-add` and `-rm` count as these."""


@pytest.mark.parametrize("command", ["create", "update"])
@pytest.mark.parametrize("client", [client for client in CLIENTS if client != "essaim"])
def test_no_flag_that_a_docker_client_knows_was_forgotten(client: Client, command: str) -> None:
    shown = subprocess.run(
        [CLIENTS[client], "service", command, "--help"], capture_output=True, text=True, check=True
    )
    known = set(re.findall(r"^ +(?:-\w, |    )--([a-z-]+)", shown.stdout, re.MULTILINE))
    assert {"replicas", "limit-cpu", "update-order"} <= known, shown.stdout
    # What has one value goes the same way in an update as in a create.
    rows = [row for service in SERVICES for row in (*service.created, *service.updated)]
    tried = {
        SHORT.get(word, word.partition("=")[0].removeprefix("--"))
        for row in rows
        if client in row.by
        for word in shlex.split(row.flags)
        if word.startswith("-")
    }
    elsewhere = {name for names in ELSEWHERE for name in names.split()}
    assert {
        name
        for name in known - tried
        if name.removesuffix("-add").removesuffix("-rm") not in elsewhere
    } == set()
