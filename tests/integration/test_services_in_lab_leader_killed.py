"""`kill -9` of the leader in the middle of what a user asked for: it is done all the same, once.

Each flow is asked for by our own command line at another master, by our own at the master that
dies, and by an unmodified docker client at the master that dies. What counts is what the engines
hold in the end. Our command line must not notice anything; docker's loses its connection, and
what it had asked for is done nevertheless.
"""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

import pytest
from support.lab_cluster import WEB, Cluster, docker_clients
from support.lab_flows import (
    Running,
    at_the_moment,
    containers_of,
    docker_words,
    essaim_words,
    kill_master,
    starts_of,
    tasks_made,
    under_way,
    until_settled,
)

pytestmark = [pytest.mark.lab, pytest.mark.timeout(180)]

ASKED = ["essaim-elsewhere", pytest.param("essaim-here", marks=pytest.mark.slow), "docker"]
OLDEST, NEWEST = docker_clients()[0], docker_clients()[-1]
"""Of docker's clients; each has two of the flows, since it is the masters that are on trial."""

MONITOR = ("--update-monitor", "1s")
"""Shorter than the 5 s for which a command waits by default."""


@dataclass
class Accident:
    """Who leads, who asks and where, and a master that survives."""

    cluster: Cluster
    asked: str
    leader: str
    witness: str

    def words(self, client: str, *arguments: str) -> tuple[list[str], dict[str, str]]:
        if self.asked == "docker":
            return docker_words(self.cluster, client, self.leader, *arguments)
        at = self.witness if self.asked == "essaim-elsewhere" else self.leader
        return essaim_words(self.cluster, at, *arguments)

    def ask(self, client: str, *arguments: str) -> AbstractAsyncContextManager[Running]:
        """`client` is the docker client to ask with, where one does."""
        command, variables = self.words(client, *arguments)
        return under_way(*command, **variables)

    async def kill_leader_when(self, condition: Callable[[], Awaitable[bool]], what: str) -> None:
        await at_the_moment(self.cluster, condition, what)
        await kill_master(self.cluster, self.leader)

    async def heard_back(self, running: Running) -> None:
        """Our own command succeeds, whoever died; docker's may have lost its connection."""
        done = await running.ended
        if self.asked != "docker":
            assert done.code == 0, done.stdout + done.stderr


@pytest.fixture(params=ASKED)
async def accident(cluster: Cluster, request: pytest.FixtureRequest) -> Accident:
    leader = await cluster.leader()
    witness = next(host.name for host in cluster.topology.masters if host.name != leader)
    return Accident(cluster, request.param, leader, witness)


async def count_running(accident: Accident, service: str = "web") -> int:
    """As a master knows it that is not going to die."""
    return len(await accident.cluster.running(service, accident.witness))


async def test_create(accident: Accident) -> None:
    cluster, name = accident.cluster, ("--name", "web", "--replicas", "20")
    create = ("service", "create", "--no-resolve-image", *name, *MONITOR, WEB)

    async def some_run() -> bool:
        return 0 < await count_running(accident) < 20

    async with accident.ask(NEWEST, *create) as running:
        await accident.kill_leader_when(some_run, "some of 20 tasks run, not all")
        already = await starts_of(cluster, "web")
        await accident.heard_back(running)
    await until_settled(cluster, "web", 20)
    assert (await starts_of(cluster, "web")).items() >= already.items()
    assert len(await tasks_made(cluster, "web")) == 20, "none was made in vain"
    assert len(await cluster.api("/services", accident.witness)) == 1


async def test_scale(accident: Accident) -> None:
    cluster = accident.cluster
    await cluster.ok("service", "create", "--name", "web", "--replicas", "5", *MONITOR, WEB)
    before = await starts_of(cluster, "web")

    async def some_more_run() -> bool:
        return 5 < await count_running(accident) < 30

    async with accident.ask(OLDEST, "service", "scale", "web=30") as running:
        await accident.kill_leader_when(some_more_run, "more than 5 tasks run, but not 30")
        already = await starts_of(cluster, "web")
        await accident.heard_back(running)
    assert already.items() >= before.items()
    await until_settled(cluster, "web", 30)
    assert (await starts_of(cluster, "web")).items() >= already.items()
    assert len(await tasks_made(cluster, "web")) == 30, "none was made in vain"


async def test_rolling_update(accident: Accident) -> None:
    cluster = accident.cluster
    shape = ("--replicas", "12", "--update-parallelism", "3", *MONITOR)
    await cluster.ok("service", "create", "--name", "web", *shape, WEB)

    async def new_containers() -> dict[str, str]:
        found = await containers_of(cluster, "web")
        return {one.id: one.started_at for one in found if one.labels.get("edition") == "2"}

    async def some_are_new() -> bool:
        tasks = await cluster.running("web", accident.witness)
        return 0 < sum("Labels" in task["Spec"]["ContainerSpec"] for task in tasks) < 12

    change = ("--container-label-add", "edition=2", "--no-resolve-image")
    async with accident.ask(NEWEST, "service", "update", *change, "web") as running:
        await accident.kill_leader_when(some_are_new, "some of 12 tasks are new, not all")
        already = await new_containers()
        await accident.heard_back(running)

    async def completed() -> bool:
        at = await cluster.leader()
        status = (await cluster.api("/services/web", at) or {}).get("UpdateStatus") or {}
        return bool(status.get("State") == "completed" and status.get("CompletedAt"))

    await cluster.until(completed, "the update is completed")
    containers = await until_settled(cluster, "web", 12)
    assert {one.labels.get("edition") for one in containers} == {"2"}
    assert (await new_containers()).items() >= already.items()
    assert len(await tasks_made(cluster, "web")) == 24, "each task was replaced once"


async def test_drain_of_a_node(accident: Accident) -> None:
    cluster = accident.cluster
    await cluster.ok("service", "create", "--name", "web", "--replicas", "18", *MONITOR, WEB)
    names = {host.name for host in cluster.hosts}
    (drained,) = names - {accident.leader, accident.witness}
    before = await containers_of(cluster, "web")
    stay = {one.id: one.started_at for one in before if one.host != drained}
    moving = len(before) - len(stay)
    assert moving > 1

    async def some_have_moved() -> bool:
        tasks = await cluster.running("web", accident.witness)
        on_others = {task["Status"]["ContainerStatus"]["ContainerID"] for task in tasks}
        return 0 < len(on_others - {one.id for one in before}) < moving

    async with accident.ask(
        OLDEST, "node", "update", "--availability", "drain", drained
    ) as running:
        await accident.kill_leader_when(some_have_moved, f"some of {moving} tasks have moved")
        await accident.heard_back(running)
    containers = await until_settled(cluster, "web", 18)
    assert {one.host for one in containers} == names - {drained}
    assert {one.id: one.started_at for one in containers}.items() >= stay.items()
    assert len(await tasks_made(cluster, "web")) == 18 + moving, "each task moved once"


async def test_a_master_that_dies_while_it_is_asked(cluster: Cluster) -> None:
    """The answer to a create is lost at a moment of chance: before, in, or after the write."""
    leader = await cluster.leader()
    command, variables = essaim_words(
        cluster, leader, "service", "create", "--name", "web", "--replicas", "6", *MONITOR, WEB
    )
    async with under_way(*command, **variables) as running:
        others = [host.name for host in cluster.topology.masters if host.name != leader]

        async def known() -> bool:
            return bool(await cluster.api("/services", others[0]))

        await at_the_moment(cluster, known, "another master knows the service")
        await kill_master(cluster, leader)
        done = await running.ended
    assert done.code == 0, done.stdout + done.stderr
    await until_settled(cluster, "web", 6)
    assert len(await tasks_made(cluster, "web")) == 6
