"""Secrets and configs by the unmodified docker command lines and docker-py."""

import asyncio
import base64
import json

import docker
import pytest
from docker.types import ConfigReference, SecretReference
from support.docker_clients import succeed

from essaim_master.images.images import Images
from essaim_master.state.payload_data import config_data, payload_named, secret_data
from essaim_master.state.payload_references import references_of
from essaim_master.vault import Vault
from essaim_shared.sealing import DataKey

KINDS = ("secret", "config")
COMPOSE = """
version: "3.8"
services:
  web:
    image: busybox
    secrets: [pass]
    configs: [{source: site, target: /etc/site, mode: 0440}]
secrets: {pass: {file: ./pass.txt}}
configs: {site: {file: ./site.txt}}
"""


@pytest.fixture
async def world(world_with):
    return await world_with(Images(vault=Vault(DataKey(bytes(32)))))


@pytest.fixture
def file(tmp_path):
    def write(name, text="one"):
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write


def plain(world, kind, name):
    payload = payload_named(world.state, kind, name)
    if kind == "config":
        return config_data(world.state, payload.id, payload.latest).data
    return world.api.vault.open_secret(secret_data(world.state, payload.id, payload.latest))


def references(world, name="web"):
    container = world.state.service_named(name).spec.task.container
    return [
        (one.file.name, one.file.uid, one.file.mode, one.data_version)
        for one in references_of(container)
    ]


@pytest.mark.parametrize("kind", KINDS)
async def test_one_from_create_to_rm(cluster, run, kind, file) -> None:
    created = await succeed(run, kind, "create", "-l", "a=b", "pass", file("x"))
    payload = payload_named(cluster.state, kind, "pass")
    assert created.strip() == payload.id
    assert plain(cluster, kind, "pass") == b"one"
    listed = await succeed(run, kind, "ls", "--format", "{{.ID}} {{.Name}} {{.Labels}}")
    assert listed == f"{payload.id} pass a=b\n"
    assert await succeed(run, kind, "ls", "-q", "-f", "name=other") == ""
    (shown,) = json.loads(await succeed(run, kind, "inspect", "pass"))
    data = {} if kind == "secret" else {"Data": base64.b64encode(b"one").decode()}
    assert shown["Spec"] == {"Name": "pass", "Labels": {"a": "b"}, **data}
    pretty = await succeed(run, kind, "inspect", "--pretty", "pass")
    assert "a=b" in pretty
    code, _, err = await run(kind, "create", "pass", file("x"))
    assert code == 1
    assert f"{kind} pass already exists" in err
    assert await succeed(run, kind, "rm", "pass") in (f"{payload.id}\n", "pass\n")
    assert not cluster.state.payloads(kind)
    code, _, err = await run(kind, "inspect", "pass")
    assert (code, "pass" in err) == (1, True)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_service_that_has_one(cluster, run, kind, file) -> None:
    for name in ("a", "b"):
        await succeed(run, kind, "create", name, file("x"))
    more = "source=b,target=/etc/b,uid=7,mode=0400,gid=8"
    words = ("service", "create", "-d", "--name", "web", f"--{kind}", "a", f"--{kind}", more)
    await succeed(run, *words, "busybox")
    assert references(cluster) == [("/etc/b", "7", 0o400, 1), ("a", "0", 0o444, 1)]
    pretty = await succeed(run, "service", "inspect", "--pretty", "web")
    assert "/etc/b" in pretty
    code, _, err = await run(kind, "rm", "a")
    assert code == 1
    assert f"{kind} 'a' is in use by the following service: web" in err
    before = cluster.state.service_named("web")
    await succeed(run, "service", "update", "-d", "--label-add", "x=y", "web")
    assert cluster.state.service_named("web").spec_version == before.spec_version
    await succeed(run, "service", "update", "-d", f"--{kind}-rm", "b", "web")
    assert references(cluster) == [("a", "0", 0o444, 1)]
    await succeed(run, "service", "update", "-d", f"--{kind}-add", "source=b,target=c", "web")
    assert sorted(references(cluster)) == [("a", "0", 0o444, 1), ("c", "0", 0o444, 1)]
    code, _, err = await run("service", "update", "-d", f"--{kind}-add", "none", "web")
    assert code == 1
    assert "none" in err


@pytest.mark.parametrize("kind", KINDS)
async def test_docker_keeps_a_pin_and_takes_newer_data(cluster, run, kind, file) -> None:
    await succeed(run, kind, "create", "pass", file("x"))
    for name, pinned in (("follows", {}), ("stays", {"Pinned": True})):
        title = kind.title()
        reference = {f"{title}Name": "pass", "File": {"Name": "x", "Mode": 292}, **pinned}
        container = {"Image": "busybox", f"{title}s": [reference]}
        body = {"Name": name, "TaskTemplate": {"ContainerSpec": container}}
        assert (await cluster.post("/services/create", body)).status == 201
    data = {"Data": base64.b64encode(b"two").decode()}
    assert (await cluster.post(f"/essaim/{kind}s/pass/data", data)).status == 200
    for name in ("follows", "stays"):
        await succeed(run, "service", "update", "-d", "--env-add", "A=1", name)
    assert [one[-1] for one in references(cluster, "follows")] == [2]
    assert [one[-1] for one in references(cluster, "stays")] == [1]


async def test_a_stack_of_dockers_with_secrets(cluster, run, file, tmp_path) -> None:
    file("pass.txt"), file("site.txt")
    compose = file("compose.yml", COMPOSE)
    deploy = ("stack", "deploy", "-c", compose, "shop")
    out = await succeed(run, *deploy)
    assert "Creating secret shop_pass" in out
    assert "Creating config shop_site" in out
    assert references(cluster, "shop_web") == [
        ("pass", "0", 0o444, 1),
        ("/etc/site", "0", 0o440, 1),
    ]
    before = cluster.state.service_named("shop_web")
    await succeed(run, *deploy)
    assert cluster.state.service_named("shop_web").spec_version == before.spec_version
    file("pass.txt", "two")
    code, _, err = await run(*deploy)
    assert code == 1
    assert "only updates to Labels are allowed" in err
    await succeed(run, "stack", "rm", "shop")
    assert not cluster.state.payloads("secret")
    assert not cluster.state.payloads("config")


async def test_docker_py_makes_and_uses_them(cluster) -> None:
    def use_it():
        client = docker.DockerClient(base_url=f"unix://{cluster.socket_path}", timeout=60)
        try:
            secret = client.secrets.create(name="pass", data=b"one", labels={"a": "b"})
            config = client.configs.create(name="site", data=b"two")
            assert [one.id for one in client.secrets.list(filters={"name": "pa"})] == [secret.id]
            assert [one.name for one in client.configs.list()] == ["site"]
            assert client.secrets.get("pass").attrs["Spec"] == {
                "Name": "pass",
                "Labels": {"a": "b"},
            }
            service = client.services.create(
                "busybox",
                name="web",
                secrets=[SecretReference(secret.id, "pass")],
                configs=[ConfigReference(config.id, "site", "/etc/site", mode=0o400)],
            )
            with pytest.raises(docker.errors.APIError, match="is in use by the following service"):
                secret.remove()
            service.scale(2)
            service.remove()
            secret.remove()
            config.remove()
        finally:
            client.close()

    await asyncio.to_thread(use_it)
    assert not cluster.state.payloads("secret")
