"""Secrets and configs of stacks: made before the services, changed by a newer number, gone with the
stack; all checked before anything is written."""

import base64

import pytest

from essaim_master.http.scope import STACK_LABEL
from essaim_master.images.images import Images
from essaim_master.state.payload_data import data_numbers, payload_named
from essaim_master.state.payload_references import references_of
from essaim_master.vault import Vault
from essaim_shared.limits import CONFIG_BYTES_MAX
from essaim_shared.sealing import DataKey


@pytest.fixture
async def world(world_with):
    return await world_with(Images(vault=Vault(DataKey(bytes(32)))))


def payload(name, data=b"one", **fields):
    return {"Name": f"shop_{name}", "Data": base64.b64encode(data).decode(), **fields}


def request(data=b"one", services=("web",), **fields):
    file = {"Name": "x", "UID": "0", "GID": "0", "Mode": 0o444}
    container = {
        "Image": "web:1",
        "Secrets": [{"SecretName": "shop_pass", "File": {**file, "Name": "pass"}}],
        "Configs": [{"ConfigName": "shop_site", "File": {**file, "Name": "/site"}}],
    }
    return {
        "Secrets": [payload("pass", data)],
        "Configs": [payload("site")],
        "Services": [
            {
                "Name": f"shop_{name}",
                "TaskTemplate": {"ContainerSpec": container},
                "Mode": {"Replicated": {"Replicas": 1}},
            }
            for name in services
        ],
        **fields,
    }


async def deploy(world, *args, **fields):
    answer = await world.post("/essaim/stacks/shop", request(*args, **fields))
    assert answer.status == 200, answer.message
    return answer.json


def actions(answer):
    parts = (*answer["Secrets"], *answer["Configs"], *answer["Services"])
    return {one["Name"].removeprefix("shop_"): one["Action"] for one in parts}


def numbers(world, name="shop_web"):
    container = world.state.service_named(name).spec.task.container
    return [one.data_version for one in references_of(container)]


async def test_a_stack_with_secrets_is_made_whole_changed_and_removed(world) -> None:
    assert actions(await deploy(world)) == {"pass": "created", "site": "created", "web": "created"}
    secret = payload_named(world.state, "secret", "shop_pass")
    assert secret.labels == {STACK_LABEL: "shop"}
    assert numbers(world) == [1, 1]
    unchanged = dict.fromkeys(("pass", "site", "web"), "unchanged")
    assert actions(await deploy(world)) == unchanged
    assert actions(await deploy(world, b"two")) == {
        **unchanged,
        "pass": "updated",
        "web": "updated",
    }
    assert numbers(world) == [2, 1]
    assert data_numbers(world.state, "secret", secret.id) == [1, 2]
    assert actions(await deploy(world, b"two")) == unchanged
    (listed,) = (await world.get("/essaim/stacks")).json
    assert listed == {"Name": "shop", "Services": 1, "Networks": 0, "Secrets": 1, "Configs": 1}
    answer = await world.call("DELETE", "/essaim/stacks/shop")
    assert answer.status == 200
    assert [one["Name"] for one in answer.json["Secrets"]] == ["shop_pass"]
    assert not world.state.payloads("secret")
    assert not world.state.payloads("config")


async def test_labels_of_a_secret_follow_the_file(world) -> None:
    await deploy(world)
    labelled = [payload("pass", Labels={"a": "b"})]
    assert actions(await deploy(world, Secrets=labelled))["pass"] == "unchanged"
    secret = payload_named(world.state, "secret", "shop_pass")
    assert secret.labels == {"a": "b", STACK_LABEL: "shop"}
    assert secret.latest == 1


@pytest.mark.parametrize(
    ("fields", "status", "words"),
    [
        ({"Secrets": [payload("pass", b"")]}, 400, "secret shop_pass: "),
        ({"Secrets": []}, 400, "service shop_web: "),
        ({"Secrets": [payload("pass"), payload("pass")]}, 400, "secret shop_pass is given twice"),
        ({"Configs": [payload("site", bytes(CONFIG_BYTES_MAX + 1))]}, 400, "config shop_site: "),
        ({"Secrets": [{**payload("pass"), "Driver": {"Name": "x"}}]}, 501, "drivers"),
        ({"Configs": {}}, 400, '"Configs": it is a list'),
    ],
)
async def test_what_cannot_be_is_told_before_anything_is_written(
    world, fields, status, words
) -> None:
    before = world.state.revision
    answer = await world.post("/essaim/stacks/shop", request(**fields))
    assert answer.status == status
    assert words in answer.message
    assert world.state.revision == before


async def test_without_a_key_nothing_of_the_stack_is_written(world_with) -> None:
    world = await world_with(Images())
    before = world.state.revision
    answer = await world.post("/essaim/stacks/shop", request())
    assert answer.status == 501
    assert answer.message.startswith("secret shop_pass: secrets are not kept")
    assert world.state.revision == before


async def test_a_secret_that_is_not_of_the_stack_is_left_alone(world) -> None:
    assert (await world.post("/secrets/create", payload("pass"))).status == 201
    answer = await world.post("/essaim/stacks/shop", request(b"two"))
    assert answer.status == 409
    assert answer.message == "secret shop_pass: it already exists, and is not of stack shop"
    secret = payload_named(world.state, "secret", "shop_pass")
    assert secret.latest == 1


async def test_a_service_outside_keeps_what_it_uses_of_the_stack(world) -> None:
    await deploy(world)
    (outside,) = request()["Services"]
    body = {**outside, "Name": "outside"}
    assert (await world.post("/services/create", body)).status == 201
    answer = await world.call("DELETE", "/essaim/stacks/shop")
    assert answer.status == 400
    assert "in use by the following service: outside; remove that service" in answer.message
    assert world.state.service_named("shop_web") is None
    await world.call("DELETE", "/services/outside")
    assert (await world.call("DELETE", "/essaim/stacks/shop")).status == 200
    assert not world.state.payloads("secret")


async def test_a_stack_may_be_larger_than_other_requests(world) -> None:
    many = [payload(f"c{number}", bytes(CONFIG_BYTES_MAX)) for number in range(5)]
    answer = await deploy(world, Configs=[payload("site"), *many])
    assert len(answer["Configs"]) == 6
    answer = await world.post("/essaim/stacks/shop", request(Configs=many * 2))
    assert answer.status == 413


async def test_a_deployment_that_was_broken_off_goes_on(world) -> None:
    """Between the secrets and the services; the leader may have moved the service meanwhile."""
    await deploy(world)

    async def rival():
        other = {"Data": base64.b64encode(b"theirs").decode()}
        assert (await world.post("/essaim/secrets/shop_pass/data", other)).status == 200

    world.cluster.before_commit.append(rival)
    assert actions(await deploy(world, b"two"))["pass"] == "updated"
    secret = payload_named(world.state, "secret", "shop_pass")
    assert secret.latest == 3
    assert actions(await deploy(world, b"two"))["web"] in ("updated", "unchanged")
    assert numbers(world) == [3, 1]
