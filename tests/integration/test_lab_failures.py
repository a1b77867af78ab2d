"""What breaks in a real cluster, and what must not: cables, masters, agents, buses, engines.

Times are reported, not asserted: this machine's are noisy. Waits are bounded.
"""

import pytest
from support.lab_cluster import WEB, Cluster, addresses

pytestmark = [pytest.mark.lab, pytest.mark.timeout(240)]

BLIP_S = 2.0


async def start_times(cluster: Cluster) -> dict[str, str]:
    """When each container started: unchanged as long as none is restarted or replaced."""
    found = {}
    for container, host in (await cluster.containers()).items():
        done = await cluster.docker(host, "inspect", "-f", "{{.State.StartedAt}}", container)
        found[container] = done.stdout.strip()
    return found


async def a_worker(cluster: Cluster) -> str:
    """A host whose master does not lead."""
    leader = await cluster.leader()
    return next(host.name for host in reversed(cluster.hosts) if host.name != leader)


async def test_tasks_of_a_host_that_is_cut_off_run_elsewhere_and_the_surplus_goes(
    cluster: Cluster,
) -> None:
    await cluster.ok("service", "create", "--name", "web", "--replicas", "6", WEB)
    victim = await a_worker(cluster)
    at = await cluster.leader()
    victim_id = next(
        node["ID"]
        for node in await cluster.api("/nodes", at)
        if node["Description"]["Hostname"] == victim
    )
    await cluster.lab("cut", victim)

    async def moved() -> bool:
        tasks = await cluster.running("web", at)
        return sum(task["NodeID"] != victim_id for task in tasks) == 6

    took_s = await cluster.until(moved, f"six replicas run outside {victim}")
    print(f"host cut off -> replicas running elsewhere: {took_s:.2f} s")
    await cluster.lab("heal", victim)

    async def six_containers() -> bool:
        return len(await cluster.containers("web")) == 6

    await cluster.until(six_containers, "the surplus is gone")


async def test_a_cut_of_two_seconds_moves_nothing(cluster: Cluster) -> None:
    await cluster.ok("service", "create", "--name", "web", "--replicas", "6", WEB)
    before = await start_times(cluster)
    victim = await a_worker(cluster)
    at = await cluster.leader()
    tasks = {task["ID"] for task in await cluster.running("web", at)}
    await cluster.lab("cut", victim)
    # Not a wait for something: this is how long the cable is out.
    await cluster.clock.sleep(BLIP_S)
    await cluster.lab("heal", victim)

    await cluster.ok("service", "update", "-d", "--limit-pids", "99", "web", at=at)

    async def all_nodes_obey() -> bool:
        limits = [
            await cluster.docker(host, "inspect", "-f", "{{.HostConfig.PidsLimit}}", container)
            for container, host in (await cluster.containers("web")).items()
        ]
        return all(done.stdout.strip() == "99" for done in limits)

    await cluster.until(all_nodes_obey, "every container has its new limit")
    assert {task["ID"] for task in await cluster.running("web", at)} == tasks
    assert await start_times(cluster) == before


async def test_a_write_is_accepted_soon_after_the_leader_is_cut_off(cluster: Cluster) -> None:
    leader = await cluster.leader()
    other = next(host.name for host in cluster.hosts if host.name != leader)
    await cluster.lab("cut", leader)
    tries = 0

    async def accepted() -> bool:
        nonlocal tries
        tries += 1
        name = f"after{tries}"
        done = await cluster.essaim("service", "create", "-d", "--name", name, WEB, at=other)
        return done.code == 0

    took_s = await cluster.until(accepted, "a write is accepted")
    print(f"leader cut off -> first write accepted: {took_s:.2f} s after {tries} tries")
    await cluster.lab("heal", leader)
    assert await cluster.leader() != ""


async def test_without_a_quorum_nothing_is_promised(cluster: Cluster) -> None:
    await cluster.ok("service", "create", "-d", "--name", "kept", WEB)
    for host in ("h2", "h3"):
        await cluster.lab("kill", host, "master")
    # A leader that has not noticed yet takes a write and cannot say what becomes of it. From then
    # on there is no leader, and nothing is taken.
    first = await cluster.essaim("service", "create", "-d", "--name", "perhaps", WEB)
    second = await cluster.essaim("service", "create", "-d", "--name", "never", WEB)
    assert (first.code, second.code) == (1, 1)
    assert "may or may not" in first.stderr or "quorum" in first.stderr
    assert "quorum" in second.stderr
    for host in ("h2", "h3"):
        await cluster.lab("start", host, "master")
    await cluster.leader()
    listed = (await cluster.ok("service", "ls")).stdout
    assert "kept" in listed
    assert "never" not in listed


async def test_killing_every_master_at_once_costs_nothing(cluster: Cluster) -> None:
    await cluster.ok("service", "create", "--name", "web", "--replicas", "4", WEB)
    tasks = addresses(await cluster.running("web"))
    started = await start_times(cluster)
    for host in cluster.topology.masters:
        await cluster.lab("kill", host.name, "master")
    for host in cluster.topology.masters:
        await cluster.lab("start", host.name, "master")
    await cluster.leader()
    await cluster.until_running("web", 4)
    assert addresses(await cluster.running("web")) == tasks
    assert await start_times(cluster) == started
    await cluster.ok("service", "scale", "web=5")


@pytest.mark.parametrize("part", ["agent", "bus", "engine"])
async def test_killing_one_process_of_a_host_restarts_no_container(
    cluster: Cluster, part: str
) -> None:
    await cluster.ok("service", "create", "--name", "web", "--replicas", "4", WEB)
    tasks = addresses(await cluster.running("web"))
    started = await start_times(cluster)
    victim = await a_worker(cluster)
    await cluster.lab("kill", victim, part)
    await cluster.lab("start", victim, part)

    async def ready() -> bool:
        nodes = await cluster.api("/nodes")
        return [node["Status"]["State"] for node in nodes or ()] == ["ready"] * 3

    await cluster.until(ready, "all nodes are ready")
    await cluster.ok("service", "scale", "web=6")
    assert addresses(await cluster.running("web")).items() >= tasks.items()
    assert (await start_times(cluster)).items() >= started.items()


async def test_a_frozen_bus_server_costs_no_task(cluster: Cluster) -> None:
    """Its agent changes to another server well before the node counts as silent."""
    await cluster.ok("service", "create", "--name", "web", "--replicas", "3", WEB)
    tasks = addresses(await cluster.running("web"))
    victim = await a_worker(cluster)
    await cluster.lab("kill", victim, "bus", "--signal", "STOP")
    # An order that the agent of that host can only have received over another server.
    await cluster.ok("service", "scale", "web=9")
    hosts = set((await cluster.containers("web")).values())
    assert victim in hosts
    assert addresses(await cluster.running("web")).items() >= tasks.items()
    await cluster.lab("start", victim, "bus")


async def test_an_agent_that_was_away_finds_its_containers_again(cluster: Cluster) -> None:
    await cluster.ok("service", "create", "--name", "web", "--replicas", "3", WEB)
    started = await start_times(cluster)
    victim = await a_worker(cluster)
    await cluster.lab("kill", victim, "agent")
    await cluster.lab("kill", victim, "engine")
    await cluster.lab("start", victim)
    await cluster.until_running("web", 3)
    assert (await start_times(cluster)).items() >= started.items()
