"""Secrets and configs from the command line into containers on real engines, and nowhere else."""

import base64
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from support.lab_cluster import WEB, Cluster
from support.lab_flows import Container, containers_of, until_settled

pytestmark = [pytest.mark.lab, pytest.mark.timeout(180)]

MONITOR = ("--update-monitor", "200ms", "--update-parallelism", "0")
ELSEWHERE = {"overlay2", "netns"}
SECRET_PATH, CONFIG_PATH = "/run/secrets/password", "/etc/app.conf"


@pytest.fixture
async def markers(cluster: Cluster) -> AsyncIterator[tuple[str, str]]:
    """Two contents that stand nowhere else on the machine."""
    yield f"marker-{os.urandom(12).hex()}", f"marker-{os.urandom(12).hex()}"
    for service in await cluster.api("/services") or ():
        await cluster.ok("service", "rm", service["ID"])
    for kind in ("secret", "config"):
        for one in await cluster.api(f"/{kind}s") or ():
            await cluster.ok(kind, "rm", one["ID"])


async def inside(cluster: Cluster, container: Container, *command: str) -> str:
    done = await cluster.docker(container.host, "exec", container.id, *command)
    assert done.code == 0, done.stderr
    return done.stdout


async def contents(cluster: Cluster, path: str) -> set[str]:
    return {await inside(cluster, one, "cat", path) for one in await containers_of(cluster, "web")}


def written_with(cluster: Cluster, needles: list[bytes]) -> list[str]:
    """Files of the lab, but containers' layers and links to namespaces, that hold one of them."""
    found = []
    for host in cluster.hosts:
        for root in (host.data_dir, host.run_dir):
            for path in Path(root).rglob("*"):
                if ELSEWHERE & {*path.parts} or not path.is_file() or path.is_symlink():
                    continue
                content = path.read_bytes()
                found += [str(path) for needle in needles if needle in content]
    return found


async def test_a_secret_reaches_its_tasks_is_followed_and_stands_nowhere(
    cluster: Cluster, markers: tuple[str, str], tmp_path: Path
) -> None:
    first, second = markers
    for number, marker in enumerate(markers):
        (tmp_path / str(number)).write_text(marker)
    await cluster.ok("secret", "create", "password", str(tmp_path / "0"))
    (tmp_path / "conf").write_text("colour = blue\n")
    await cluster.ok("config", "create", "app", str(tmp_path / "conf"))
    references = (
        *("--secret", "source=password,uid=7,gid=8,mode=0400"),
        *("--config", f"source=app,target={CONFIG_PATH}"),
    )
    await cluster.ok(
        "service", "create", "--name", "web", "--replicas", "3", *MONITOR, *references, WEB
    )
    before = await until_settled(cluster, "web", 3)
    assert await contents(cluster, SECRET_PATH) == {first}
    assert await contents(cluster, CONFIG_PATH) == {"colour = blue\n"}
    assert (await inside(cluster, before[0], "stat", "-c", "%u %g %a", SECRET_PATH)) == "7 8 400\n"

    await cluster.ok("secret", "update", "password", str(tmp_path / "1"), at="h2")

    async def has_followed() -> bool:
        running = await containers_of(cluster, "web")
        changed = {one.id for one in running}.isdisjoint(one.id for one in before)
        return len(running) == 3 and changed

    await cluster.until(has_followed, "all replicas have the new secret")
    await until_settled(cluster, "web", 3)
    assert await contents(cluster, SECRET_PATH) == {second}
    await cluster.ok("service", "rollback", "web")
    await until_settled(cluster, "web", 3)
    assert await contents(cluster, SECRET_PATH) == {first}

    refused = await cluster.essaim("secret", "rm", "password")
    assert "secret 'password' is in use by the following service: web" in refused.stderr
    await _is_told_to_nobody(cluster, markers)
    await cluster.ok("service", "rm", "web")

    async def is_gone() -> bool:
        return not any(
            path.is_file()
            for host in cluster.hosts
            for path in (host.agent_run_dir / "secrets").rglob("*")
        )

    await cluster.until(is_gone, "no node holds it any longer")
    needles = [
        form for marker in markers for form in (marker.encode(), base64.b64encode(marker.encode()))
    ]
    assert written_with(cluster, needles) == []


async def _is_told_to_nobody(cluster: Cluster, markers: tuple[str, str]) -> None:
    for path in ("/secrets", "/services", "/tasks", "/nodes", "/essaim/audit", "/metrics", "/info"):
        answer: Any = await cluster.api(path)
        assert not [marker for marker in markers if marker in str(answer)], path
    for host in cluster.hosts:
        for container, on in (await cluster.containers("web")).items():
            if on == host.name:
                shown = await cluster.docker(host.name, "inspect", container)
                assert not [marker for marker in markers if marker in shown.stdout]
