"""Global services, jobs and schedules on real engines: who runs what, how often, and when."""

from datetime import datetime
from typing import Any

import pytest
from support.lab_cluster import WEB, Cluster
from support.lab_flows import (
    containers_left,
    containers_of,
    kill_master,
    starts_of,
    tasks_made,
    until_settled,
)

pytestmark = [pytest.mark.lab, pytest.mark.timeout(180)]

MONITOR = ("--update-monitor", "1s")
NEXT_MINUTE_S = 75.0
"""A schedule comes round every minute; its tasks take a moment."""
SECONDS_DIGITS = 19


async def hosts_of(cluster: Cluster, service: str) -> list[str]:
    return sorted(one.host for one in await containers_of(cluster, service))


async def until_on(cluster: Cluster, service: str, *hosts: str) -> None:
    async def there() -> bool:
        return await hosts_of(cluster, service) == sorted(hosts)

    await cluster.until(there, f"{service} runs on {hosts}, once on each")


async def test_a_global_service_follows_a_node_that_goes_and_comes_back(cluster: Cluster) -> None:
    await cluster.ok("service", "create", "--name", "every", "--mode", "global", *MONITOR, WEB)
    await until_on(cluster, "every", "h1", "h2", "h3")
    before = {one.host: one.id for one in await containers_of(cluster, "every")}

    await cluster.ok("node", "update", "--availability", "drain", "h3")
    await until_on(cluster, "every", "h1", "h2")
    await cluster.ok("node", "update", "--availability", "active", "h3")
    await until_on(cluster, "every", "h1", "h2", "h3")

    after = {one.host: one.id for one in await containers_of(cluster, "every")}
    assert (after["h1"], after["h2"]) == (before["h1"], before["h2"])
    assert after["h3"] != before["h3"]


async def test_a_global_service_is_where_its_label_is(cluster: Cluster) -> None:
    shape = ("--mode", "global", "--constraint", "node.labels.disk==ssd")
    await cluster.ok("service", "create", "-d", "--name", "fast", *shape, WEB)
    await cluster.ok("node", "update", "--label-add", "disk=ssd", "h2")
    await until_on(cluster, "fast", "h2")
    await cluster.ok("node", "update", "--label-add", "disk=ssd", "h1")
    await until_on(cluster, "fast", "h1", "h2")
    (kept,) = [one.id for one in await containers_of(cluster, "fast") if one.host == "h1"]
    await cluster.ok("node", "update", "--label-add", "disk=disk", "h2")
    await until_on(cluster, "fast", "h1")
    assert kept in await starts_of(cluster, "fast")


async def test_a_global_service_outlives_the_cut_of_a_host(cluster: Cluster) -> None:
    """A task that cannot be heard stays where it is: a global service has no other place for it,
    and when the cable is back it is the same container."""
    await cluster.ok("service", "create", "--name", "every", "--mode", "global", *MONITOR, WEB)
    leader = await cluster.leader()
    victim = next(host.name for host in reversed(cluster.hosts) if host.name != leader)
    before = await starts_of(cluster, "every")
    await cluster.lab("cut", victim)

    async def is_down() -> bool:
        nodes = await cluster.api("/nodes", leader)
        states = {node["Description"]["Hostname"]: node["Status"]["State"] for node in nodes}
        return bool(states[victim] == "down")

    await cluster.until(is_down, f"{victim} counts as down")
    await cluster.lab("heal", victim)
    containers = await until_settled(cluster, "every", 3)
    assert {one.id: one.started_at for one in containers} == before


async def test_a_replicated_job_runs_as_often_as_it_was_asked_to(cluster: Cluster) -> None:
    shape = ("--mode", "replicated-job", "--replicas", "7", "--max-concurrent", "2")
    await cluster.ok("service", "create", "--name", "job", *shape, WEB, "sleep", "0.5")
    done = await containers_left(cluster, "job")
    assert len(done) == len(await tasks_made(cluster, "job")) == 7
    assert [one.inspected["State"]["ExitCode"] for one in done] == [0] * 7
    assert most_at_once(done) == 2
    listed = (await cluster.ok("service", "ls")).stdout
    assert "0/2 (7/7 completed)" in listed

    # Another run of it is another seven; the first ones go.
    await cluster.ok("service", "update", "--force", "job")
    again = await containers_left(cluster, "job")
    assert len(again) == 7
    assert not {one.id for one in again} & {one.id for one in done}


def most_at_once(containers: list[Any]) -> int:
    """Of containers that have ended, from the times that their engines noted."""
    states = [one.inspected["State"] for one in containers]
    changes = [(moment(state["StartedAt"]), 1) for state in states]
    changes += [(moment(state["FinishedAt"]), -1) for state in states]
    running = most = 0
    for _, change in sorted(changes):
        running += change
        most = max(most, running)
    return most


def moment(text: str) -> str:
    """RFC 3339 in UTC with nine digits, so that text sorts as time does."""
    whole, _, fraction = text.rstrip("Z").partition(".")
    assert datetime.fromisoformat(whole)
    return f"{whole}.{fraction:0<9}"


async def test_a_global_job_runs_once_on_each_node(cluster: Cluster) -> None:
    await cluster.ok("service", "create", "--name", "once", "--mode", "global-job", WEB, "true")
    done = await containers_left(cluster, "once")
    assert sorted(one.host for one in done) == ["h1", "h2", "h3"]
    assert [one.inspected["State"]["ExitCode"] for one in done] == [0] * 3


async def test_a_job_that_fails_is_tried_as_often_as_its_policy_says(cluster: Cluster) -> None:
    policy = ("--restart-delay", "100ms", "--restart-max-attempts", "2")
    shape = ("--mode", "replicated-job", *policy)
    await cluster.ok("service", "create", "-d", "--name", "bad", *shape, WEB, "false")

    async def tried() -> bool:
        tasks = await tasks_made(cluster, "bad")
        return len(tasks) == 3 and all(task["Status"]["State"] == "failed" for task in tasks)

    await cluster.until(tried, "it failed, and failed again twice")
    waiting = await cluster.essaim("service", "update", "--force", "--timeout", "3s", "bad")
    assert waiting.code == 1
    assert "timed out with 0 out of 1 tasks completed: task: non-zero exit (1)" in waiting.stderr


@pytest.mark.slow
async def test_a_schedule_runs_once_a_minute_whoever_leads(cluster: Cluster) -> None:
    """The leader dies as soon as another master knows of the run: it is not begun a second time."""
    schedule = ("--mode", "cron", "--schedule", "* * * * *", "--replicas", "4")
    begun = await cluster.ok("service", "create", "--name", "tick", *schedule, WEB, "sleep", "0.5")
    assert "essaim service runs tick" in begun.stderr, "a schedule is not waited for"
    leader = await cluster.leader()
    witness = next(host.name for host in cluster.topology.masters if host.name != leader)

    async def runs(at: str) -> list[dict[str, Any]]:
        return list(await cluster.api("/essaim/services/tick/runs", at) or ())

    async def is_begun() -> bool:
        return bool(await runs(witness))

    await cluster.until(is_begun, "the first run begins", NEXT_MINUTE_S)
    await kill_master(cluster, leader)

    async def is_complete() -> bool:
        return [run["Outcome"] for run in await runs(witness)] == ["complete"]

    await cluster.until(is_complete, "the run is complete")
    (run,) = await runs(witness)
    assert run["ScheduledAt"][SECONDS_DIGITS - 3 : SECONDS_DIGITS] == ":00"
    done = await containers_left(cluster, "tick")
    assert len(done) == len(await tasks_made(cluster, "tick")) == 4
    assert [one.inspected["State"]["ExitCode"] for one in done] == [0] * 4
    rows = (await cluster.ok("service", "runs", "tick", at=witness)).lines
    assert len(rows) == 2
    assert "Complete" in rows[1]
