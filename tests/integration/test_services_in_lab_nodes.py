"""Nodes and services together on real engines: availability, labels, ports of hosts, templates;
and what becomes of a command that nobody waits for any longer."""

import signal

import pytest
from support.lab_cluster import WEB, Cluster
from support.lab_flows import containers_of, essaim_words, starts_of, under_way, until_settled

pytestmark = [pytest.mark.lab, pytest.mark.timeout(180)]

MONITOR = ("--update-monitor", "500ms")
NO_NODE_FITS = ("--constraint", "node.labels.place==nowhere")


async def create(cluster: Cluster, replicas: int, *flags: str) -> dict[str, str]:
    shape = ("--name", "web", "--replicas", str(replicas), *MONITOR)
    await cluster.ok("service", "create", *shape, *flags, WEB)
    return {one.id: one.started_at for one in await until_settled(cluster, "web", replicas)}


async def hosts_of(cluster: Cluster) -> list[str]:
    return [one.host for one in await containers_of(cluster, "web")]


async def test_a_paused_node_keeps_its_tasks_and_gets_no_more(cluster: Cluster) -> None:
    before = await create(cluster, 3)
    await cluster.ok("node", "update", "--availability", "pause", "h2")
    await cluster.ok("service", "scale", "web=7")
    await until_settled(cluster, "web", 7)
    assert (await starts_of(cluster, "web")).items() >= before.items()
    assert (await hosts_of(cluster)).count("h2") == 1
    await cluster.ok("node", "update", "--availability", "active", "h2")
    await cluster.ok("service", "scale", "web=9")
    await until_settled(cluster, "web", 9)
    assert (await hosts_of(cluster)).count("h2") == 3, "the emptiest node is preferred"


async def test_a_drained_node_is_emptied_and_fetches_nothing_back(cluster: Cluster) -> None:
    before = await create(cluster, 6)
    stay = {one.id for one in await containers_of(cluster, "web") if one.host != "h3"}
    await cluster.ok("node", "update", "--availability", "drain", "h3")
    await until_settled(cluster, "web", 6)
    assert "h3" not in await hosts_of(cluster)
    assert stay <= (await starts_of(cluster, "web")).keys() & before.keys()
    now = await starts_of(cluster, "web")
    await cluster.ok("node", "update", "--availability", "active", "h3")
    await cluster.ok("service", "scale", "web=8")
    await until_settled(cluster, "web", 8)
    assert (await starts_of(cluster, "web")).items() >= now.items(), "none was moved back"
    assert (await hosts_of(cluster)).count("h3") == 2


async def test_a_label_that_changes_moves_tasks_off(cluster: Cluster) -> None:
    for host in ("h1", "h2"):
        await cluster.ok("node", "update", "--label-add", "zone=a", host)
    await create(cluster, 4, "--constraint", "node.labels.zone==a")
    assert sorted(await hosts_of(cluster)) == ["h1", "h1", "h2", "h2"]
    stay = {one.id for one in await containers_of(cluster, "web") if one.host == "h2"}
    await cluster.ok("node", "update", "--label-rm", "zone", "h1")
    await until_settled(cluster, "web", 4)
    assert set(await hosts_of(cluster)) == {"h2"}
    assert stay <= (await starts_of(cluster, "web")).keys()


async def test_a_port_of_a_host_answers_its_neighbours(cluster: Cluster) -> None:
    port = ("--publish", "target=80,published=8080,mode=host")
    await create(cluster, 3, *port)
    containers = await containers_of(cluster, "web")
    assert {one.host for one in containers} == {"h1", "h2", "h3"}, "one port, one task a host"
    names = {one.host: one.inspected["Config"]["Hostname"] for one in containers}
    for asking in cluster.hosts:
        for asked in cluster.hosts:
            page = await cluster.run(
                *("nsenter", f"--net={asking.namespace_path}", "busybox", "wget", "-qO-"),
                f"http://{asked.address}:8080/",
            )
            assert page.stdout.strip() == names[asked.name], page.stderr
    # A fourth finds no host whose port is free.
    done = await cluster.essaim("service", "scale", "--timeout", "3s", "web=4")
    assert done.code == 1
    assert "host-mode port already in use" in done.stderr
    await cluster.ok("service", "rm", "web")

    async def closed() -> bool:
        url = f"http://{cluster.hosts[0].address}:8080/"
        enter = ("nsenter", f"--net={cluster.hosts[1].namespace_path}")
        return (await cluster.run(*enter, "busybox", "wget", "-qO-", "-T", "2", url)).code != 0

    await cluster.until(closed, "the port is closed with the service")


async def test_templates_as_the_container_sees_them(cluster: Cluster) -> None:
    await create(
        cluster,
        3,
        *("--hostname", "{{.Service.Name}}-{{.Task.Slot}}", "--label", "tier=front"),
        *("--env", "WHERE={{.Node.Hostname}}", "--env", 'TIER={{index .Service.Labels "tier"}}'),
        *("--env", "WHO={{.Task.Name}}"),
        *("--mount", "type=volume,source=data-{{.Task.Slot}},target=/data"),
    )
    for one in await containers_of(cluster, "web"):

        async def inside(words: str, host: str = one.host, container: str = one.id) -> str:
            done = await cluster.docker(host, "exec", container, "sh", "-c", words)
            assert done.code == 0, done.stderr
            return done.stdout.strip()

        assert await inside("hostname") == f"web-{one.slot}"
        name = one.labels["com.docker.swarm.task.name"]
        assert await inside('echo "$WHERE $TIER $WHO"') == f"{one.host} front {name}"
        (mount,) = one.inspected["Mounts"]
        assert (mount["Name"], mount["Destination"]) == (f"data-{one.slot}", "/data")


async def test_what_no_node_can_run_ends_the_wait_and_stays_asked_for(cluster: Cluster) -> None:
    shape = ("--name", "web", "--replicas", "2", *MONITOR)
    done = await cluster.essaim("service", "create", *shape, *NO_NODE_FITS, "--timeout", "2s", WEB)
    assert done.code == 1
    assert "timed out with 0 out of 2 tasks" in done.stderr
    assert "no suitable node (scheduling constraints not satisfied on 3 nodes)" in done.stderr
    # It was asked for, so it runs as soon as there is a place.
    await cluster.ok("node", "update", "--label-add", "place=nowhere", "h1")
    await until_settled(cluster, "web", 2)
    assert set(await hosts_of(cluster)) == {"h1"}


@pytest.mark.parametrize("command", ["create", "update", "scale"])
async def test_ctrl_c_leaves_the_operation_running(cluster: Cluster, command: str) -> None:
    shape = ("--name", "web", "--replicas", "2", *MONITOR)
    waiting = {
        "create": ("service", "create", *shape, *NO_NODE_FITS, WEB),
        "update": ("service", "update", "--constraint-add", NO_NODE_FITS[1], "web"),
        "scale": ("service", "scale", "web=3"),
    }[command]
    if command == "update":
        await cluster.ok("service", "create", *shape, WEB)
    if command == "scale":
        await cluster.ok("service", "create", "-d", *shape, *NO_NODE_FITS, WEB)
    words, variables = essaim_words(cluster, "h2", *waiting)
    async with under_way(*words, **variables) as running:

        async def waits() -> bool:
            return "no suitable node" in running.said

        await cluster.until(waits, "the command says what it waits for")
        running.process.send_signal(signal.SIGINT)
        done = await running.ended
    assert done.code == 0, done.stderr
    service_id = (await cluster.api("/services/web"))["ID"]
    assert done.stderr.endswith(
        "Operation continuing in background.\n"
        f"Use `essaim service ps {service_id}` to check progress.\n"
    )
    # It does go on: a place is made, and what was asked for happens.
    await cluster.ok("node", "update", "--label-add", "place=nowhere", "h1")
    await until_settled(cluster, "web", 3 if command == "scale" else 2)
    assert set(await hosts_of(cluster)) == {"h1"}
