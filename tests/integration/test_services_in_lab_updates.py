"""Updates on real engines: forward, back, in steps, held up by what is not ready, and in place."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from support.lab_cluster import WEB, Cluster
from support.lab_flows import Container, containers_of, starts_of, tasks_made, until_settled

pytestmark = [pytest.mark.lab, pytest.mark.timeout(180)]

MONITOR = ("--update-monitor", "500ms", "--rollback-monitor", "500ms")
MIB = 1024 * 1024


async def create(cluster: Cluster, *flags: str) -> dict[str, str]:
    """Of one edition, in six replicas; returns when each container started."""
    shape = ("--name", "web", "--replicas", "6", *MONITOR, "--env", "EDITION=1")
    await cluster.ok("service", "create", *shape, *flags, WEB)
    return {one.id: one.started_at for one in await until_settled(cluster, "web", 6)}


async def editions(cluster: Cluster) -> list[str]:
    """What the engines run, from the containers' environments."""
    return sorted(edition_of(one) for one in await containers_of(cluster, "web"))


def edition_of(container: Container) -> str:
    variables = dict(text.split("=", 1) for text in container.inspected["Config"]["Env"])
    return variables["EDITION"]


async def status_of(cluster: Cluster) -> dict[str, Any]:
    return dict((await cluster.api("/services/web")).get("UpdateStatus") or {})


async def until_state(cluster: Cluster, state: str) -> None:
    """A command that waits and the leader each measure the monitor period by their own clock:
    either may be first to see it end."""

    async def is_so() -> bool:
        return bool((await status_of(cluster))["State"] == state)

    await cluster.until(is_so, f"the update is {state}")


async def test_an_update_and_its_rollback(cluster: Cluster) -> None:
    await create(cluster, "--update-parallelism", "3", "--rollback-parallelism", "0")
    await cluster.ok("service", "update", "--env-add", "EDITION=2", "web")
    assert await editions(cluster) == ["2"] * 6
    await until_state(cluster, "completed")
    await cluster.ok("service", "update", "--env-add", "EDITION=3", "--replicas", "4", "web")
    assert await editions(cluster) == ["3"] * 4

    done = await cluster.ok("service", "rollback", "web")
    assert "rollback: manually requested rollback" in done.stderr
    assert await editions(cluster) == ["2"] * 6
    await until_state(cluster, "rollback_completed")
    # Back to what was rolled back: as in Swarm, the one before is the other one.
    await cluster.ok("service", "rollback", "web")
    assert await editions(cluster) == ["3"] * 4
    await cluster.ok("service", "rollback", "--to", "1", "web")
    assert await editions(cluster) == ["1"] * 4, "to a revision: its template, the scale of today"


async def test_a_bad_image_is_rolled_back_by_itself(cluster: Cluster) -> None:
    before = await create(cluster, "--update-failure-action", "rollback")
    bad = ("--image", "no/such-image:1", "--no-resolve-image")
    done = await cluster.essaim("service", "update", *bad, "web")
    assert "rollback: update rolled back due to failure" in done.stderr
    containers = await until_settled(cluster, "web", 6)
    await until_state(cluster, "rollback_completed")
    errors = [task["Status"].get("Err", "") for task in await tasks_made(cluster, "web")]
    assert any("No such image: no/such-image:1" in error for error in errors)
    assert {one.inspected["Config"]["Image"] for one in containers} == {WEB}
    kept = before.items() & {one.id: one.started_at for one in containers}.items()
    assert len(kept) == 5, "one slot tried the image, the others were left alone"


async def test_a_bad_image_pauses_the_update_unless_told_otherwise(cluster: Cluster) -> None:
    before = await create(cluster)
    bad = ("--image", "no/such-image:1", "--no-resolve-image")
    done = await cluster.essaim("service", "update", *bad, "web")
    assert done.code == 1
    assert "service update paused: update paused due to failure" in done.stderr
    assert len((await starts_of(cluster, "web")).items() & before.items()) == 5
    await cluster.ok("service", "update", "--rollback", "web")
    containers = await until_settled(cluster, "web", 6)
    assert len({one.id: one.started_at for one in containers}.items() & before.items()) == 5


async def test_an_update_in_steps_waits_to_be_promoted(cluster: Cluster) -> None:
    await create(cluster, "--update-parallelism", "0", "--update-steps", "30%,50%,100%")
    done = await cluster.ok("service", "update", "--env-add", "EDITION=2", "web")
    assert "update step 1 of 3 (30%) done: run `essaim service promote web`" in done.stderr
    assert await editions(cluster) == ["1"] * 4 + ["2"] * 2
    assert (await status_of(cluster))["WaitsForPromotion"] is True
    first = {one.id for one in await containers_of(cluster, "web") if edition_of(one) == "2"}

    done = await cluster.ok("service", "promote", "web")
    assert "update step 2 of 3 (50%) done" in done.stderr
    assert await editions(cluster) == ["1"] * 3 + ["2"] * 3
    await cluster.ok("service", "promote", "web")
    assert await editions(cluster) == ["2"] * 6
    await until_state(cluster, "completed")
    assert first <= (await starts_of(cluster, "web")).keys(), "what was new stayed"
    refused = await cluster.essaim("service", "promote", "web")
    assert refused.code == 1
    assert len(refused.stderr.splitlines()) == 1


async def test_other_limits_reach_running_containers(cluster: Cluster) -> None:
    before = await create(cluster, "--limit-memory", "64m", "--limit-cpu", "0.5")
    assert {memory_limit_of(one) for one in await containers_of(cluster, "web")} == {64 * MIB}

    await cluster.ok("service", "update", "--limit-memory", "96m", "--limit-cpu", "0.25", "web")
    containers = await until_settled(cluster, "web", 6)
    assert {one.id: one.started_at for one in containers} == before
    assert len(await tasks_made(cluster, "web")) == 6
    assert {memory_limit_of(one) for one in containers} == {96 * MIB}
    assert {one.inspected["HostConfig"]["NanoCpus"] for one in containers} == {250_000_000}
    await until_state(cluster, "completed")
    # Its own revision, which can be gone back to in the same way.
    await cluster.ok("service", "rollback", "web")
    assert await starts_of(cluster, "web") == before
    assert {memory_limit_of(one) for one in await containers_of(cluster, "web")} == {64 * MIB}


def memory_limit_of(container: Container) -> int:
    """What the kernel says of the container's first process, in bytes; cgroup v1 or v2."""
    pid = container.inspected["State"]["Pid"]
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "memory":
            return int(Path(f"/sys/fs/cgroup/memory{path}/memory.limit_in_bytes").read_text())
    return int(Path(f"/sys/fs/cgroup{path}/memory.max").read_text())


@pytest.mark.parametrize(
    "gate",
    [
        ("--health-cmd", 'test "$EDITION" = 1', "--health-interval", "200ms"),
        ("--readiness", """exec:sh -c 'test "$EDITION" = 1',period=1s"""),
    ],
    ids=["health", "readiness"],
)
async def test_what_does_not_get_ready_holds_the_update_up(
    cluster: Cluster, gate: tuple[str, ...]
) -> None:
    before = await create(cluster, *gate, "--update-order", "start-first")
    update = ("--env-add", "EDITION=2", "--update-deadline", "4s")
    done = await cluster.essaim("service", "update", *update, "web")
    assert done.code == 1
    assert "paused" in done.stderr
    # Each old one still serves: the new one that never got ready had not yet taken a place.
    assert (await starts_of(cluster, "web")).items() >= before.items()
    assert (await status_of(cluster))["State"] == "paused"
    fixed = ("--env-add", "EDITION=1", "--label-add", "fixed=yes")
    await cluster.ok("service", "update", *fixed, "web")
    containers = await until_settled(cluster, "web", 6)
    assert {edition_of(one) for one in containers} == {"1"}


async def test_a_health_check_decides_when_a_task_runs(cluster: Cluster) -> None:
    check = ("--health-cmd", "test -f /tmp/well", "--health-interval", "200ms")
    patient = ("--health-start-period", "60s")
    await cluster.ok("service", "create", "-d", "--name", "web", *check, *patient, WEB)
    found: list[Container] = []

    async def begun() -> bool:
        found[:] = await containers_of(cluster, "web")
        return bool(found) and found[0].inspected["State"]["Health"]["Log"]

    await cluster.until(begun, "its container runs and was asked")
    (task,) = await tasks_made(cluster, "web")
    assert task["Status"]["State"] == "starting"
    await cluster.docker(found[0].host, "exec", found[0].id, "touch", "/tmp/well")
    await cluster.until_running("web", 1)


async def test_a_task_that_stops_being_alive_gives_way_to_another(cluster: Cluster) -> None:
    probe = ("--liveness", "exec:test ! -f /tmp/dead,period=1s,failures=2")
    before = await create(cluster, *probe, "--restart-delay", "100ms")
    victim, *_ = await containers_of(cluster, "web")
    await cluster.docker(victim.host, "exec", victim.id, "touch", "/tmp/dead")

    async def replaced() -> bool:
        return victim.id not in await starts_of(cluster, "web")

    await cluster.until(replaced, "the container that is not alive is gone")
    containers = await until_settled(cluster, "web", 6)
    left = {one.id: one.started_at for one in containers}
    assert len(left.items() & before.items()) == 5
    assert victim.slot in {one.slot for one in containers if one.id not in before}


async def test_several_updates_at_once_end_in_the_last_one(cluster: Cluster) -> None:
    await create(cluster, "--update-parallelism", "2")
    for edition in "23456":
        await cluster.ok("service", "update", "-d", "--env-add", f"EDITION={edition}", "web")
    await asyncio.gather(
        cluster.ok("service", "update", "-d", "--label-add", "a=1", "web", at="h1"),
        cluster.ok("service", "update", "-d", "--label-add", "b=1", "web", at="h2"),
        cluster.ok("service", "update", "-d", "--container-label-add", "c=1", "web", at="h3"),
    )

    async def completed() -> bool:
        return (await status_of(cluster)).get("State") == "completed"

    await cluster.until(completed, "the update is completed")
    containers = await until_settled(cluster, "web", 6)
    assert {(edition_of(one), one.labels.get("c")) for one in containers} == {("6", "1")}
    assert (await cluster.api("/services/web"))["Spec"]["Labels"] == {"a": "1", "b": "1"}
