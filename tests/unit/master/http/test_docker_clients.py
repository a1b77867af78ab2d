"""The unmodified docker command lines and docker-py against the API on a unix socket.

Tasks are made by the test's own hand, as the leader and the agents would. Both clients that may
stand on a machine are run: Debian's and a newer one earlier on the PATH.
"""

import asyncio
import json
from pathlib import Path

import docker
import pytest
from docker.errors import APIError, NotFound
from docker.types import ContainerSpec, RestartPolicy, ServiceMode, TaskTemplate
from support.docker_clients import CLIENT_TIMEOUT_S, docker_commands, succeed

from essaim_shared.spec import RestartPolicy as OurRestartPolicy


async def test_a_service_from_create_to_rm(cluster, run) -> None:
    created = await succeed(
        run, "service", "create", "-d", "--name", "web", "--replicas", "3", "busybox", "sleep", "9"
    )
    identifier = created.strip()
    assert identifier in cluster.state.services
    listed = await succeed(run, "service", "ls", "--format", "{{.Name}} {{.Mode}} {{.Replicas}}")
    assert listed == "web replicated 3/3\n"
    tasks = await succeed(
        run, "service", "ps", "web", "--format", "{{.Name}} {{.Node}} {{.DesiredState}}"
    )
    assert sorted(tasks.splitlines()) == [
        "web.1 h2 Running",
        "web.2 h3 Running",
        "web.3 h1 Running",
    ]
    (shown,) = json.loads(await succeed(run, "service", "inspect", "web"))
    assert shown["ID"] == identifier
    assert shown["Spec"]["TaskTemplate"]["ContainerSpec"]["Args"] == ["sleep", "9"]
    pretty = await succeed(run, "service", "inspect", "--pretty", identifier[:8])
    assert "Replicas:\t3" in pretty
    assert await succeed(run, "service", "scale", "-d", "web=5") == "web scaled to 5\n"
    listed = await succeed(run, "service", "ls", "-f", "name=we", "--format", "{{.Replicas}}")
    assert listed == "5/5\n"
    await succeed(run, "service", "update", "-d", "--replicas", "2", "web")
    assert cluster.state.services[identifier].spec.replicas == 2
    assert await succeed(run, "service", "rm", "web") == "web\n"
    assert not cluster.state.services


async def test_their_own_progress_displays_converge(cluster, run_any) -> None:
    """All clients at once: each watches its service for five seconds before it is content."""
    create = ("service", "create", "--replicas", "2", "busybox")
    outcomes = await asyncio.gather(*(run_any(command, *create) for command in docker_commands()))
    for code, out, err in outcomes:
        assert code == 0, err
        assert "overall progress: 2 out of 2 tasks" in out
        assert "verify: Service" in out


async def test_their_progress_displays_know_every_mode(cluster, run_any) -> None:
    modes = {
        ("--mode", "global"): "overall progress: 3 out of 3 tasks",
        ("--mode", "global-job"): "job complete",
        ("--mode", "replicated-job", "--replicas", "4"): "job complete",
    }
    wanted = [(command, flags) for command in docker_commands() for flags in modes]
    outcomes = await asyncio.gather(
        *(run_any(command, "service", "create", *flags, "busybox") for command, flags in wanted)
    )
    for (_, flags), (code, out, err) in zip(wanted, outcomes, strict=True):
        assert code == 0, err
        assert modes[flags] in out


async def test_a_job_is_listed_run_again_and_scaled(cluster, run) -> None:
    create = ("service", "create", "-d", "--name", "job", "--mode", "replicated-job")
    await succeed(run, *create, "--replicas", "2", "busybox")
    row = ("service", "ls", "--format", "{{.Mode}} {{.Replicas}}")
    assert await succeed(run, *row) == "replicated job 0/2 (2/2 completed)\n"
    await succeed(run, "service", "update", "-d", "--force", "job")
    (shown,) = json.loads(await succeed(run, "service", "inspect", "job"))
    assert shown["JobStatus"]["JobIteration"] == {"Index": 1}
    await succeed(run, "service", "scale", "-d", "job=5")
    service = cluster.state.service_named("job")
    assert service.spec.mode.replicated_job.total_completions == 5
    tasks = await succeed(run, "service", "ps", "job", "--format", "{{.Name}} {{.CurrentState}}")
    assert "job.1 Complete" in tasks


async def test_a_scale_by_docker_restarts_nothing_and_keeps_our_fields(cluster, run) -> None:
    answer = await cluster.post(
        "/services/create",
        {
            "Name": "web",
            "TaskTemplate": {
                "ContainerSpec": {"Image": "busybox", "Init": False, "DNSConfig": {}},
                "RestartPolicy": {"BackoffMax": 60_000_000_000},
                "StopWhenCutOff": 30_000_000_000,
                "Resources": {"Reservations": {"NanoCPUs": 100_000_000}},
                "Placement": {"Constraints": ["node.role!=boss"], "MaxReplicas": 4},
            },
            "EndpointSpec": {"Mode": "vip"},
        },
    )
    before = cluster.state.services[answer.json["ID"]]
    await succeed(run, "service", "scale", "-d", "web=4")
    after = cluster.state.services[before.id]
    assert after.spec.replicas == 4
    assert after.spec.task == before.spec.task
    assert after.spec_version == before.spec_version
    assert after.spec.task.restart_policy == OurRestartPolicy(backoff_max=60_000_000_000)
    await succeed(run, "service", "update", "-d", "--force", "web")
    forced = cluster.state.services[before.id]
    assert forced.spec_version == before.spec_version + 1
    assert forced.spec.task.stop_when_cut_off == 30_000_000_000
    await succeed(run, "service", "rollback", "-d", "web")
    assert cluster.state.services[before.id].spec.task == before.spec.task


async def test_nodes_are_listed_inspected_and_drained(cluster, run) -> None:
    listed = await succeed(
        run,
        "node",
        "ls",
        "--format",
        "{{.Self}} {{.Hostname}} {{.Status}} {{.Availability}} {{.ManagerStatus}}",
    )
    assert listed.splitlines() == [
        "true h1 Ready Active Leader",
        "false h2 Ready Active Reachable",
        "false h3 Ready Active Reachable",
    ]
    (shown,) = json.loads(await succeed(run, "node", "inspect", "h2"))
    assert shown["Description"]["Hostname"] == "h2"
    assert "Availability:" in await succeed(run, "node", "inspect", "--pretty", "self")
    await succeed(run, "node", "update", "--availability", "drain", "--label-add", "a=b", "h2")
    spec = cluster.state.nodes[cluster.node_ids[1]].spec
    assert (spec.availability, spec.labels) == ("drain", {"a": "b"})
    code, _, err = await run("node", "rm", "h2")
    assert code == 1
    assert "is a cluster manager and is a member of the raft cluster" in err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("service", "inspect", "nope"), "nope"),
        (("service", "rm", "nope"), "nope"),
        (("service", "scale", "-d", "nope=3"), "nope"),
        (("service", "scale", "-d", "web=-1"), "invalid replicas value -1"),
        (("service", "create", "-d", "--name", "web", "x"), "service web already exists"),
        (("service", "logs", "web"), "does not collect logs"),
        (("ps",), "belongs to a single Docker Engine"),
        (("node", "promote", "nope"), "nope"),
    ],
)
async def test_what_cannot_be_is_one_line_and_exit_1(cluster, run, words, sentence) -> None:
    await cluster.create("web", 1)
    code, _, err = await run(*words)
    assert code == 1
    assert sentence in err
    assert len(cluster.state.services) == 1


async def test_info_version_and_the_lists_a_client_expects(cluster, run) -> None:
    info = await succeed(run, "info", "--format", "{{.Swarm.LocalNodeState}} {{.Swarm.Nodes}}")
    assert info == "active 3\n"
    version = await succeed(run, "version", "--format", "{{.Server.APIVersion}}")
    assert version == "1.47\n"
    assert "default" in await succeed(run, "network", "ls")
    for kind in ("secret", "config"):
        assert "ID" in await succeed(run, kind, "ls")


def drive_docker_py(path: Path) -> None:
    client = docker.DockerClient(base_url=f"unix://{path}", timeout=CLIENT_TIMEOUT_S)
    try:
        assert client.ping()
        assert client.version()["ApiVersion"] == "1.47"
        assert client.info()["Swarm"]["ControlAvailable"] is True
        service = client.services.create(
            "busybox",
            command=["sleep", "9"],
            name="py",
            labels={"a": "b"},
            env=["X=1"],
            mode=ServiceMode("replicated", replicas=2),
            restart_policy=RestartPolicy("on-failure", delay=1_000_000_000),
        )
        service.reload()
        assert service.attrs["Spec"]["Labels"] == {"a": "b"}
        assert service.attrs["Spec"]["Mode"] == {"Replicated": {"Replicas": 2}}
        assert service.scale(3)
        service.reload()
        assert len(service.tasks({"desired-state": "running"})) == 3
        stale = client.api.inspect_service("py")["Version"]["Index"]
        assert service.update(labels={"a": "c"})
        template = TaskTemplate(container_spec=ContainerSpec("busybox"))
        with pytest.raises(APIError, match="update out of sequence"):
            client.api.update_service("py", stale, task_template=template, name="py")
        assert [found.name for found in client.services.list(filters={"label": "a=c"})] == ["py"]
        assert client.services.list(filters={"name": "py"}, status=True)[0].attrs["ServiceStatus"]
        with pytest.raises(APIError, match="already exists"):
            client.services.create("busybox", name="py")
        assert len(client.nodes.list(filters={"role": "manager"})) == 3
        node = client.nodes.get("h3")
        assert node.update({**node.attrs["Spec"], "Availability": "drain"})
        assert [network.name for network in client.networks.list()] == ["default", "host"]
        assert service.remove()
        with pytest.raises(NotFound):
            client.services.get("py")
    finally:
        client.close()


async def test_docker_py_does_the_same(cluster) -> None:
    await asyncio.to_thread(drive_docker_py, cluster.socket_path)
    assert not cluster.state.services
    assert cluster.state.nodes[cluster.node_ids[2]].spec.availability == "drain"
