"""A real engine pulls from a real registry: policies, credentials, sharing, and the clean-up."""

import asyncio
import random
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import docker.errors
import msgspec
import pytest
import pytest_asyncio
from support.image_registry import PASSWORD, USER, ImageRegistry

from essaim_agent.docker_executor import DockerExecutor
from essaim_agent.executor import ExecutorError
from essaim_agent.image_cleanup import YOUNG_S, ImageCleanup, PulledImages
from essaim_agent.registry_logins import RegistryLogins
from essaim_shared.clock import ManualClock, SystemClock, wait_until
from essaim_shared.container_spec import ContainerSpec
from essaim_shared.ids import NodeId, ServiceId, TaskId, new_id
from essaim_shared.messages import SealedCredentials
from essaim_shared.objects import Task
from essaim_shared.sealing import new_key_pair, seal_to
from essaim_shared.spec import TaskSpec
from essaim_shared.task_state import TaskState

pytestmark = pytest.mark.lab

PATIENCE_S = 30.0
OPEN_PORT, LOCKED_PORT = 5001, 5002
"""In the namespace of the engine, which nobody else uses."""
NODE = NodeId("n" * 25)
SERVICE = ServiceId("s" * 25)
LOGIN = {"username": USER, "password": PASSWORD}


class Site:
    """An engine with two registries on its loopback, and what is pushed to them."""

    def __init__(self, engine: Any, directory: Path) -> None:
        self.engine = engine
        namespace = f"/run/netns/{engine.name}"
        subprocess.run(
            ["nsenter", f"--net={namespace}", "ip", "link", "set", "lo", "up"], check=True
        )
        self.registries = []
        for port in (OPEN_PORT, LOCKED_PORT):
            home = directory / str(port)
            home.mkdir()
            is_open = port == OPEN_PORT
            self.registries.append(ImageRegistry(home, port, is_open, namespace))
        self.number = 0

    def close(self) -> None:
        for registry in self.registries:
            registry.end()

    def push(self, port: int = OPEN_PORT, tag: str = "1", name: str = "") -> str:
        """An image that is new to the engine; its name."""
        self.number += 1
        repository = f"127.0.0.1:{port}/{name or f'image{self.number}'}"
        client = self.engine.client()
        try:
            container = client.create_container(self.engine.image, ["true"])
            made = client.commit(
                container["Id"], repository, tag, changes=f"LABEL number={self.number}"
            )
            client.remove_container(container["Id"])
            for _ in range(100):
                told = client.push(repository, tag, auth_config=LOGIN, stream=True, decode=True)
                errors = [line["error"] for line in told if "error" in line]
                if not any("connection refused" in error for error in errors):
                    break  # it listens by now
            assert not errors, errors
            client.remove_image(f"{repository}:{tag}")
            assert not self.has(made["Id"])
        finally:
            client.close()
        return f"{repository}:{tag}"

    def has(self, name: str) -> bool:
        return self.image_id(name) is not None

    def image_id(self, name: str) -> str | None:
        client = self.engine.client()
        try:
            found: str = client.inspect_image(name)["Id"]
            return found
        except docker.errors.NotFound:
            return None
        finally:
            client.close()


@pytest.fixture(scope="module")
def site(lab_engine: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(lab_engine, tmp_path_factory.mktemp("registries"))
    try:
        yield made
    finally:
        made.close()


class Node:
    """An executor of the site's engine, with the credentials and the list of its images."""

    def __init__(self, site: Site, directory: Path) -> None:
        self.site = site
        self.pair = new_key_pair()
        self.logins = RegistryLogins(NODE, self.pair)
        self.wall = ManualClock()
        """Of the list of images, so that a test can let them grow old."""
        self.pulled = PulledImages(directory, self.wall)
        self.executor = DockerExecutor(
            site.engine.socket,
            "images",
            site.engine.run_dir,
            SystemClock(),
            uses_namespaces=True,
            logins=self.logins,
            pulled=self.pulled,
        )

    def give(self, login: dict[str, str]) -> None:
        """What the masters send along with a task."""
        context = SealedCredentials.context(SERVICE, NODE)
        sealed = seal_to(self.logins.public_key, msgspec.json.encode(login), context)
        self.logins.take([SealedCredentials(service_id=SERVICE, sealed=sealed)])

    def cleanup(self, fills: Iterator[float]) -> ImageCleanup:
        return ImageCleanup(
            self.executor.images, self.pulled, lambda: next(fills), self.wall, 85, 75
        )


@pytest_asyncio.fixture
async def node(site: Site, tmp_path: Path) -> AsyncIterator[Node]:
    made = Node(site, tmp_path)
    await made.executor.open()
    try:
        yield made
    finally:
        for found in await made.executor.found():
            await made.executor.remove(found.task_id)
        await made.executor.close()


def task_of(image: str, policy: Any = msgspec.UNSET, shell: str = "true") -> Task:
    container = ContainerSpec(
        image=image, command=("/bin/sh", "-c"), args=(shell,), pull_policy=policy
    )
    return Task(
        id=TaskId(new_id(random.SystemRandom())),
        service_id=SERVICE,
        service_name="web",
        slot=1,
        spec=TaskSpec(container=container),
        spec_version=1,
        desired_state=TaskState.RUNNING,
        created_ns=1,
        updated_ns=1,
    )


async def test_a_missing_image_is_pulled_by_its_tag_and_by_its_digest(site, node) -> None:
    name = site.push()
    await node.executor.prepare(task_of(name))
    client = site.engine.client()
    digest = client.inspect_image(name)["RepoDigests"][0].partition("@")[2]
    client.remove_image(name)
    client.close()
    pinned = f"{name}@{digest}"
    task = task_of(pinned, shell="sleep 100")
    await node.executor.prepare(task)
    await node.executor.start(task, site.engine.task_namespace)
    assert site.has(pinned)


async def test_an_image_that_is_only_on_the_node_runs_under_every_policy_but_always(
    site, node
) -> None:
    for policy in ("missing", "never", msgspec.UNSET, None):
        await node.executor.prepare(task_of(site.engine.image, policy))
    with pytest.raises(ExecutorError, match=f"No such image: {site.engine.image} "):
        await node.executor.prepare(task_of(site.engine.image, "always"))


async def test_never_does_not_pull(site, node) -> None:
    name = site.push()
    with pytest.raises(ExecutorError, match="its pull policy is never"):
        await node.executor.prepare(task_of(name, "never"))
    assert not site.has(name)


async def test_always_takes_what_the_tag_names_now_and_missing_does_not(site, node) -> None:
    name = site.push(tag="moving", name="moving")
    await node.executor.prepare(task_of(name))
    first = site.image_id(name)
    client = site.engine.client()
    client.tag(first, "kept-by-the-test")
    site.push(tag="moving", name="moving")
    client.tag(first, name.rpartition(":")[0], "moving")
    client.close()
    await node.executor.prepare(task_of(name, "missing"))
    assert site.image_id(name) == first
    await node.executor.prepare(task_of(name, "always"))
    assert site.image_id(name) != first
    assert first in node.pulled.last_used_ns, "the image that lost its name is known for removal"


@pytest.mark.parametrize("absent", ["nothing:1", "image1:no-such-tag"])
async def test_what_the_registry_does_not_have_is_said_in_one_line(site, node, absent) -> None:
    site.push()
    name = f"127.0.0.1:{OPEN_PORT}/{absent}"
    with pytest.raises(ExecutorError) as refused:
        await node.executor.prepare(task_of(name))
    assert str(refused.value).startswith(f"No such image: {name} (")
    assert "\n" not in str(refused.value)


async def test_a_locked_registry_opens_for_the_service_with_credentials_only(site, node) -> None:
    name = site.push(LOCKED_PORT)
    with pytest.raises(ExecutorError, match=r"no basic auth credentials|unauthorized"):
        await node.executor.prepare(task_of(name))
    assert not site.has(name)
    node.give(LOGIN)
    await node.executor.prepare(task_of(name))
    assert site.has(name)


async def test_wrong_credentials_are_denied_and_not_repeated_to_anybody(site, node, caplog) -> None:
    name = site.push(LOCKED_PORT)
    node.give({"username": USER, "password": "tell-nobody"})
    with pytest.raises(ExecutorError) as refused:
        await node.executor.prepare(task_of(name))
    assert "tell-nobody" not in str(refused.value) + caplog.text


async def test_two_hundred_tasks_share_one_pull(site, node) -> None:
    name = site.push()
    await asyncio.gather(*(node.executor.prepare(task_of(name, "always")) for _ in range(200)))
    client = site.engine.client()
    events = client.events(
        since=0, until=int(SystemClock().wall_ns() // 10**9) + 1, decode=True,
        filters={"type": "image", "event": "pull", "image": name},
    )  # fmt: skip
    assert len(list(events)) == 1
    client.close()


async def test_one_task_that_is_stopped_leaves_the_pull_to_the_others(site, node) -> None:
    name = site.push()
    first, second = (asyncio.create_task(node.executor.prepare(task_of(name))) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await second
    assert site.has(name)


async def test_a_full_disk_loses_the_longest_unused_of_our_images_and_nothing_else(
    site, node
) -> None:
    old, older, used, young = (site.push() for _ in range(4))
    await node.executor.prepare(task_of(older))
    await node.wall.advance(1)
    await node.executor.prepare(task_of(old))
    running = task_of(used, shell="sleep 100")
    await node.executor.prepare(running)
    await node.executor.start(running, site.engine.task_namespace)
    await node.wall.advance(YOUNG_S + 1)
    await node.executor.prepare(task_of(young))
    # Before each removal the disk is looked at; it is below the low mark after the first.
    assert await node.cleanup(iter([90, 90, 70, 70])).check() == 1
    assert [site.has(name) for name in (older, old, used, young)] == [False, True, True, True]
    assert await node.cleanup(iter([90, *[90] * 10])).check() == 1
    assert [site.has(name) for name in (old, used, young)] == [False, True, True]
    assert site.has(site.engine.image), "what was put there by hand is not ours"


async def test_an_image_of_a_container_that_has_ended_stays(site, node) -> None:
    name = site.push()
    task = task_of(name)
    await node.executor.prepare(task)
    container = await node.executor.start(task, site.engine.task_namespace)
    client = site.engine.client()
    assert await wait_until(
        lambda: not client.inspect_container(container.container_id)["State"]["Running"],
        SystemClock(),
        PATIENCE_S,
    )
    client.close()
    await node.wall.advance(YOUNG_S + 1)
    assert await node.cleanup(iter([99.0] * 10)).check() == 0
    assert site.has(name)
    await node.executor.remove(task.id)
    await node.wall.advance(YOUNG_S + 1)
    assert await node.cleanup(iter([99.0] * 10)).check() == 1
    assert not site.has(name)
