"""Probes and health checks on real engines: from the host over its bridge to a task's address."""

import pytest
from support.lab_cluster import WEB, Cluster

pytestmark = [pytest.mark.lab, pytest.mark.timeout(180)]


async def create(cluster: Cluster, name: str, *flags: str, replicas: int = 3) -> None:
    """Without waiting: some of them are never to converge."""
    await cluster.ok(
        "service", "create", "-d", "--name", name, "--replicas", str(replicas), *flags, WEB
    )


async def first_error(cluster: Cluster, service: str) -> str:
    """Why the service's first task failed."""
    errors: list[str] = []

    async def failed() -> bool:
        for task in await cluster.api("/tasks"):
            status = task["Status"]
            if task["ServiceID"] == service_id and status["State"] == "failed":
                errors.append(status["Err"])
        return bool(errors)

    service_id = (await cluster.api(f"/services/{service}"))["ID"]
    await cluster.until(failed, f"a task of {service} fails")
    return errors[0]


async def test_tasks_on_every_host_are_asked_at_their_own_addresses(cluster: Cluster) -> None:
    probes = ("--startup", "http:80/,period=1s", "--readiness", "http:80/", "--liveness", "tcp:80")
    await create(cluster, "probed", *probes)
    await cluster.until_running("probed", 3)

    async def all_ready() -> bool:
        tasks = await cluster.running("probed")
        return len(tasks) == 3 and all(task["Status"]["Ready"] for task in tasks)

    await cluster.until(all_ready, "all tasks are ready")
    assert set((await cluster.containers("probed")).values()) == {"h1", "h2", "h3"}


async def test_a_task_that_is_not_ready_runs_and_says_why(cluster: Cluster) -> None:
    await create(cluster, "unready", "--readiness", "http:80/no-such-page,period=1s", replicas=1)
    await cluster.until_running("unready", 1)

    async def says_why() -> bool:
        (task,) = await cluster.running("unready")
        status = task["Status"]
        return not status["Ready"] and "HTTP status 404" in status.get("Err", "")

    await cluster.until(says_why, "the task says why it is not ready")


async def test_a_task_whose_liveness_probe_fails_is_replaced(cluster: Cluster) -> None:
    # PORT 81 of the task: nobody listens there.
    await create(cluster, "dead", "--liveness", "tcp:81,period=1s,failures=2", replicas=1)
    assert await first_error(cluster, "dead") == (
        "liveness probe failed: port 81: Connection refused"
    )


async def test_an_unhealthy_container_fails_its_task_in_swarms_words(cluster: Cluster) -> None:
    check = ("--health-cmd", "false", "--health-interval", "200ms", "--health-retries", "2")
    await create(cluster, "sick", *check, replicas=1)
    assert (await first_error(cluster, "sick")).endswith("dockerexec: unhealthy container")
