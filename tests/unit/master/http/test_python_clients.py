"""docker-py and aiodocker make, change and read services with many fields."""

import asyncio

import aiodocker
import docker
import pytest
from aiodocker.exceptions import DockerError
from docker.errors import APIError
from docker.types import (
    EndpointSpec,
    Healthcheck,
    Mount,
    Resources,
    RestartPolicy,
    RollbackConfig,
    ServiceMode,
    UpdateConfig,
)
from support.docker_clients import CLIENT_TIMEOUT_S

SECOND_NS = 1_000_000_000


def create_with_docker_py(client):
    return client.services.create(
        "busybox",
        ["sleep", "9"],
        name="py",
        mode=ServiceMode("replicated", replicas=2),
        constraints=["node.role==manager"],
        preferences=[("spread", "node.labels.zone")],
        maxreplicas=3,
        platforms=[("amd64", "linux")],
        container_labels={"a": "b"},
        endpoint_spec=EndpointSpec(mode="vip", ports={8080: (80, "tcp", "host")}),
        env=["A=1"],
        hostname="{{.Service.Name}}",
        init=True,
        labels={"c": "d"},
        log_driver="json-file",
        log_driver_options={"max-size": "1m"},
        mounts=[
            Mount("/data", "data", type="volume", labels={"x": "y"}),
            Mount("/run", None, type="tmpfs", tmpfs_size=1 << 20),
        ],
        resources=Resources(
            cpu_limit=500_000_000, mem_limit=64 << 20, generic_resources={"gpu": 1}
        ),
        restart_policy=RestartPolicy("on-failure", delay=SECOND_NS, max_attempts=3, window=9),
        healthcheck=Healthcheck(test=["CMD", "true"], interval=SECOND_NS),
        update_config=UpdateConfig(parallelism=2, order="start-first", failure_action="rollback"),
        rollback_config=RollbackConfig(parallelism=1, failure_action="continue"),
        stop_grace_period=3 * SECOND_NS,
        cap_add=["CAP_SYS_TIME"],
        sysctls={"net.core.somaxconn": "9"},
        dns_config=docker.types.DNSConfig(nameservers=["10.0.0.1"]),
        groups=["5"],
        tty=True,
    )


def drive_docker_py(path):
    client = docker.DockerClient(base_url=f"unix://{path}", timeout=CLIENT_TIMEOUT_S)
    try:
        service = create_with_docker_py(client)
        service.reload()
        spec = service.attrs["Spec"]
        assert spec["UpdateConfig"]["Order"] == "start-first"
        assert spec["RollbackConfig"]["FailureAction"] == "continue"
        assert spec["EndpointSpec"]["Ports"][0]["PublishedPort"] == 8080
        # It reads the parts it was not told and writes them back.
        assert service.update(env=["A=2"], fetch_current_spec=True)
        service.reload()
        written = service.attrs["Spec"]
        assert written["TaskTemplate"]["ContainerSpec"].pop("Env") == ["A=2"]
        assert spec["TaskTemplate"]["ContainerSpec"].pop("Env") == ["A=1"]
        # It was shown the defaults, so it wrote them.
        for config in ("UpdateConfig", "RollbackConfig"):
            assert written[config].pop("Monitor") == 5 * SECOND_NS
        assert written == spec
        job = client.services.create("busybox", name="job", mode=ServiceMode("replicated-job"))
        job.reload()
        assert job.attrs["JobStatus"]["JobIteration"] == {"Index": 0}
        everywhere = client.services.create("busybox", name="all", mode=ServiceMode("global"))
        assert {one.id for one in client.services.list(filters={"mode": "global"})} == {
            everywhere.id
        }
        with pytest.raises(APIError, match="service mode change is not allowed"):
            everywhere.update(mode=ServiceMode("replicated", replicas=1))
    finally:
        client.close()


def scale_with_docker_py(path):
    client = docker.DockerClient(base_url=f"unix://{path}", timeout=CLIENT_TIMEOUT_S)
    try:
        assert client.services.create("busybox", name="py").scale(5)
    finally:
        client.close()


async def test_a_scale_by_docker_py_restarts_nothing(cluster) -> None:
    """It writes back the defaults of all that nobody had set."""
    await asyncio.to_thread(scale_with_docker_py, cluster.socket_path)
    service = cluster.state.service_named("py")
    assert service.spec.task.restart_policy is not None
    assert (service.spec.replicas, service.spec_version, service.revision) == (5, 1, 1)


async def test_docker_py_with_many_fields(cluster) -> None:
    await asyncio.to_thread(drive_docker_py, cluster.socket_path)
    service = cluster.state.service_named("py")
    assert (service.spec_version, service.revision) == (2, 2)


async def test_aiodocker_with_many_fields(cluster) -> None:
    async with aiodocker.Docker(f"unix://{cluster.socket_path}") as client:
        created = await client.services.create(
            {
                "ContainerSpec": {"Image": "busybox", "Env": {"A": "1"}},
                "RestartPolicy": {"Condition": "none"},
                "Resources": {"Limits": {"NanoCPUs": 500_000_000}},
            },
            name="aio",
            labels={"a": "b"},
            mode={"Replicated": {"Replicas": 2}},
            update_config={"Parallelism": 2},
            rollback_config={"Parallelism": 1},
            endpoint_spec={
                "Mode": "dnsrr",
                "Ports": [{"TargetPort": 80, "PublishedPort": 8080, "PublishMode": "host"}],
            },
        )
        shown = await client.services.inspect("aio")
        assert shown["ID"] == created["ID"]
        assert shown["Spec"]["UpdateConfig"]["Parallelism"] == 2
        assert await client.services.update("aio", shown["Version"]["Index"], image="busybox:2")
        with pytest.raises(DockerError, match="update out of sequence"):
            await client.services.update("aio", shown["Version"]["Index"], image="busybox:3")
        newer = await client.services.inspect("aio")
        assert newer["PreviousSpec"] == shown["Spec"]
        assert await client.services.update("aio", newer["Version"]["Index"], rollback=True)
        again = await client.services.inspect("aio")
        assert again["Spec"] == shown["Spec"]
        assert [one["ID"] for one in await client.services.list(filters={"label": "a=b"})] == [
            created["ID"]
        ]
        assert len(await client.nodes.list()) == 3
        assert (await client.swarm.inspect())["ID"] == "lab"
        with pytest.raises(DockerError, match="duplicate mount point"):
            await client.services.create(
                {
                    "ContainerSpec": {
                        "Image": "busybox",
                        "Mounts": [{"Type": "tmpfs", "Target": "/x"}] * 2,
                    }
                }
            )
        assert await client.services.delete("aio")
    assert not cluster.state.services
