"""The lab driven by a library that has never heard of Essaim, and by a client without manners."""

import asyncio
import json
import sys
from pathlib import Path

import docker
import pytest
from docker.errors import APIError, NotFound
from docker.types import EndpointSpec, ServiceMode
from support.lab_cluster import WEB, Cluster, Done, docker_clients

from essaim_cli.lab.probes import api_of, open_target
from essaim_shared.limits import HTTP_BODY_BYTES_MAX

pytestmark = [pytest.mark.lab, pytest.mark.timeout(180)]

ANSWER_WAIT_S = 20.0
LABELS = {"tier": "front"}


async def test_docker_py_creates_lists_scales_updates_and_removes(cluster: Cluster) -> None:
    at = f"unix://{cluster.topology.host('h2').master_socket}"
    client = await asyncio.to_thread(docker.DockerClient, base_url=at, version="auto")
    try:
        nodes = await asyncio.to_thread(client.nodes.list)
        assert {node.attrs["Description"]["Hostname"] for node in nodes} == {"h1", "h2", "h3"}
        assert {node.attrs["Status"]["State"] for node in nodes} == {"ready"}

        service = await asyncio.to_thread(
            client.services.create,
            WEB,
            name="py",
            mode=ServiceMode("replicated", replicas=3),
            labels=LABELS,
            env=["A=1"],
            endpoint_spec=EndpointSpec(mode="dnsrr"),
        )
        await cluster.until_running("py", 3)
        assert set((await cluster.containers("py")).values()) == {"h1", "h2", "h3"}
        listed = await asyncio.to_thread(client.services.list, filters={"name": "py"})
        assert [found.id for found in listed] == [service.id]

        assert await asyncio.to_thread(service.scale, 5)
        await cluster.until_running("py", 5)
        await asyncio.to_thread(service.reload)
        assert await asyncio.to_thread(service.update, fetch_current_spec=True, env=["A=2"])
        await cluster.until(lambda: _all_have(cluster, "A=2", 5), "five containers have A=2")
        tasks = await asyncio.to_thread(service.tasks, {"desired-state": "running"})
        assert len(tasks) == 5
        await asyncio.to_thread(service.reload)
        assert service.attrs["Spec"]["Labels"] == LABELS, "the update kept what it did not name"

        assert await asyncio.to_thread(service.remove)

        async def gone() -> bool:
            return not await cluster.containers("py")

        await cluster.until(gone, "no container is left")
        with pytest.raises(NotFound, match="py"):
            await asyncio.to_thread(client.services.get, "py")
        with pytest.raises(APIError, match="engine of a node"):
            await asyncio.to_thread(client.containers.list)
    finally:
        await asyncio.to_thread(client.close)


@pytest.mark.parametrize("client", docker_clients())
async def test_dockers_own_client_comes_from_another_machine_with_a_certificate(
    cluster: Cluster, client: str
) -> None:
    host = cluster.topology.host("h2")
    outside = {
        "DOCKER_HOST": f"tcp://{host.address}:{host.http_port}",
        "DOCKER_TLS_VERIFY": "1",
        "DOCKER_CERT_PATH": str(cluster.topology.admin_identity_dir),
    }
    created = await cluster.run(
        client, "service", "create", "-d", "--name", "far", "--no-resolve-image", WEB, **outside
    )
    assert created.code == 0, created.stderr
    await cluster.until_running("far", 1)
    listed = await cluster.run(client, "service", "ls", "--format", "{{.Name}}", **outside)
    assert listed.lines == ["far"], listed.stderr
    # Whoever shows nothing is told nothing, not even that there is a cluster.
    open_host = {"DOCKER_HOST": outside["DOCKER_HOST"]}
    refused = await cluster.run(client, "service", "ls", **open_host)
    assert refused.code == 1
    assert not refused.stdout


async def test_a_user_of_one_stack_deploys_it_by_his_token_and_the_log_says_so(
    cluster: Cluster, tmp_path: Path
) -> None:
    """At every master, whoever leads: what one hands on to the leader is recorded as his."""
    certificates, token = tmp_path / "ca.pem", tmp_path / "token"
    certificates.write_text((await cluster.ok("cluster", "ca", "--certificates")).stdout)
    added = await cluster.ok("user", "add", "sam", "--role", "deployer", "--stack", "shop")
    token.write_text(added.stdout)
    compose = tmp_path / "shop.yml"
    compose.write_text(f"services:\n  web:\n    image: {WEB}\n")
    here = {"XDG_CONFIG_HOME": str(tmp_path), "ESSAIM_HOST": ""}

    async def as_sam(*words: str) -> Done:
        return await cluster.run(sys.executable, "-m", "essaim_cli", *words, **here)

    for host in cluster.hosts:
        made = await as_sam(
            *("context", "create", host.name, "--host", f"tcp://{host.address}:{host.http_port}"),
            *("--token-file", str(token), "--ca", str(certificates)),
        )
        assert made.code == 0, made.stderr
        context = ("--context", host.name)
        deployed = await as_sam(*context, "stack", "deploy", "-d", "-c", str(compose), "shop")
        assert deployed.code == 0, deployed.stderr
        refused = await as_sam(*context, "stack", "deploy", "-d", "-c", str(compose), "other")
        assert (refused.code, "the stack shop only" in refused.stderr) == (1, True)
        removed = await as_sam(*context, "stack", "rm", "shop")
        assert removed.code == 0, removed.stderr
        handed_on = await as_sam(*context, "cluster", "transfer-leadership")
        assert (handed_on.code, "the role admin" in handed_on.stderr) == (1, True)
    await cluster.ok("user", "rm", "sam")
    assert (await as_sam("--context", "h1", "service", "ls")).code == 1
    lines = (await cluster.ok("audit", "--who", "sam")).lines
    actions = [line.partition(": ")[2] for line in lines]
    assert actions.count("stack deploy shop_web") == len(cluster.hosts)
    assert actions.count("stack rm shop_web") == len(cluster.hosts)


async def test_the_command_line_comes_from_another_machine_with_an_identity(
    cluster: Cluster,
) -> None:
    masters = ",".join(f"tcp://{host.address}:{host.http_port}" for host in cluster.hosts)
    identity = ("--identity", str(cluster.topology.admin_identity_dir))

    async def from_outside(*words: str) -> Done:
        return await cluster.run(sys.executable, "-m", "essaim_cli", "-H", masters, *words)

    written = await from_outside(*identity, "kv", "put", "far", "away")
    assert written.code == 0, written.stderr
    assert (await cluster.ok("kv", "get", "far")).stdout.strip() == "away"
    await cluster.ok("kv", "del", "far")
    agent = ("--identity", str(cluster.hosts[0].agent_identity_dir))
    for words, why in (((), "--identity DIRECTORY"), (agent, "may not do this")):
        refused = await from_outside(*words, "node", "ls")
        assert refused.code == 1
        assert why in refused.stderr
        assert len(refused.stderr.strip().splitlines()) == 1, refused.stderr


async def _all_have(cluster: Cluster, variable: str, count: int) -> bool:
    having = 0
    for container, host in (await cluster.containers("py")).items():
        done = await cluster.docker(host, "inspect", "-f", "{{json .Config.Env}}", container)
        having += done.code == 0 and variable in json.loads(done.stdout)
    return having == count


async def request(cluster: Cluster, head: str, body: bytes) -> tuple[int, dict[str, str]]:
    """(status, JSON answer) of one request over TLS; its sender goes on sending to the end."""
    async with asyncio.timeout(ANSWER_WAIT_S):
        reader, writer = await open_target(api_of(cluster.topology.host("h1")))
        try:
            writer.write(head.encode() + body)
            await writer.drain()
            answer = await reader.read()
        finally:
            writer.close()
    top, _, text = answer.partition(b"\r\n\r\n")
    return int(top.split()[1]), json.loads(text)


@pytest.mark.parametrize("over_bytes", [1, 4 * 1024 * 1024])
async def test_a_request_that_is_too_large_gets_one_clear_line(
    cluster: Cluster, over_bytes: int
) -> None:
    size_bytes = HTTP_BODY_BYTES_MAX + over_bytes
    head = (
        "POST /services/create HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {size_bytes}\r\n\r\n"
    )
    status, said = await request(cluster, head, b" " * size_bytes)
    assert status == 413
    assert str(HTTP_BODY_BYTES_MAX) in said["message"]
    assert "\n" not in said["message"]
    assert not (await cluster.ok("service", "ls", "-q")).lines


async def test_a_service_that_is_too_large_for_the_state_is_refused_by_the_command_line(
    cluster: Cluster,
) -> None:
    # Each variable is as long as the system lets one argument be (MAX_ARG_STRLEN, execve(2)).
    large = [word for n in range(13) for word in ("--env", f"V{n}=" + "x" * 130_000)]
    done = await cluster.essaim("service", "create", "--name", "large", *large, WEB)
    assert done.code == 1
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert not (await cluster.ok("service", "ls", "-q")).lines
