"""`/essaim/stacks`: all or nothing as far as it can be told before, and only what differs."""

import asyncio
import base64
import json

import msgspec
import pytest

from essaim_master.http.scope import STACK_LABEL
from essaim_shared.objects import Attachment
from essaim_shared.task_state import TaskState


def service(name, networks=("shop_back",), ports=(), **container):
    return {
        "Name": f"shop_{name}",
        "Labels": {"tier": name},
        "TaskTemplate": {
            "ContainerSpec": {"Image": f"team/{name}:1", **container},
            "Networks": [{"Target": one, "Aliases": [name]} for one in networks],
        },
        "Mode": {"Replicated": {"Replicas": 1}},
        "EndpointSpec": {
            "Ports": [{"TargetPort": 80, "PublishedPort": number} for number in ports]
        },
    }


def network(name="back", **fields):
    return {"Name": f"shop_{name}", "Driver": "overlay", **fields}


def request(services=None, networks=None, **fields):
    return {
        "Networks": [network()] if networks is None else networks,
        "Services": [service("web", ports=[8080]), service("db")] if services is None else services,
        **fields,
    }


async def deploy(world, **fields):
    answer = await world.post("/essaim/stacks/shop", request(**fields))
    assert answer.status == 200, answer.message
    return answer.json


def actions(answer):
    return {one["Name"].removeprefix("shop_"): one["Action"] for one in answer["Services"]}


async def test_a_stack_is_made_whole_and_then_left_alone(world) -> None:
    first = await deploy(world)
    state = world.state
    back = state.network_named("shop_back")
    assert first["Networks"] == [{"Name": "shop_back", "Id": back.id, "Created": True}]
    assert actions(first) == {"web": "created", "db": "created"}
    assert back.labels == {STACK_LABEL: "shop"}
    web = state.service_named("shop_web")
    assert web.spec.labels == {"tier": "web", STACK_LABEL: "shop"}
    assert first["Services"][0] == {"Name": "shop_web", "Id": web.id, "Action": "created"}
    assert [one.target for one in web.spec.task.networks] == [back.id]
    revision = state.revision
    again = await deploy(world)
    assert again["Networks"] == [{"Name": "shop_back", "Id": back.id, "Created": False}]
    assert actions(again) == {"web": "unchanged", "db": "unchanged"}
    assert state.revision == revision


async def test_only_what_differs_is_changed(world) -> None:
    await deploy(world)
    changed = await deploy(
        world,
        services=[service("web", ("shop_back", "shop_new")), service("db")],
        networks=[network(), network("new")],
    )
    assert [one["Created"] for one in changed["Networks"]] == [False, True]
    assert actions(changed) == {"web": "updated", "db": "unchanged"}
    assert not world.state.ingress_ports
    assert world.state.service_named("shop_db").spec_version == 1


async def test_what_is_not_named_goes_only_when_asked(world) -> None:
    await deploy(world)
    assert actions(await deploy(world, services=[service("db")])) == {"db": "unchanged"}
    assert world.state.service_named("shop_web")
    pruned = await deploy(world, services=[service("db")], Prune=True)
    assert actions(pruned) == {"db": "unchanged", "web": "removed"}
    assert world.state.service_named("shop_web") is None


async def test_a_port_passes_from_one_service_to_another(world) -> None:
    await deploy(world)
    moved = await deploy(world, services=[service("db", ports=[8080]), service("web")])
    assert list(actions(moved).items()) == [("db", "updated"), ("web", "updated")]
    db = world.state.service_named("shop_db")
    assert world.state.ingress_ports["tcp/8080"].service_id == db.id
    pruned = await deploy(world, services=[service("new", ports=[8080])], Prune=True)
    assert actions(pruned) == {"new": "created", "web": "removed", "db": "removed"}


async def test_ports_pass_on_in_a_row_whatever_the_order(world) -> None:
    names = ("web", "db", "log")
    await deploy(world, services=[service(name, ports=[8080 + n]) for n, name in enumerate(names)])
    moved = [service(name, ports=[8081 + n]) for n, name in enumerate(names)]
    assert actions(await deploy(world, services=moved)) == dict.fromkeys(names, "updated")
    assert set(world.state.ingress_ports) == {"tcp/8081", "tcp/8082", "tcp/8083"}


async def test_ports_that_are_exchanged_are_refused_before_anything_is_written(world) -> None:
    await deploy(world, services=[service("web", ports=[8080]), service("db", ports=[8081])])
    revision = world.state.revision
    answer = await world.post(
        "/essaim/stacks/shop",
        request([service("web", ports=[8081]), service("db", ports=[8080])]),
    )
    assert (answer.status, "shop_db, shop_web exchange" in answer.message) == (400, True)
    assert world.state.revision == revision


async def test_networks_leave_the_subnets_to_others_that_ask_for_them(world) -> None:
    # The first ranges that would be chosen, for tasks and for services.
    asked = ("10.128.0.0/20", "10.160.16.0/20")
    named = [
        network(f"named{number}", IPAM={"Config": [{"Subnet": subnet}]})
        for number, subnet in enumerate(asked)
    ]
    answer = await deploy(world, networks=[network("chosen"), *named], services=[])
    assert [one["Created"] for one in answer["Networks"]] == [True, True, True]
    chosen = world.state.network_named("shop_chosen")
    assert (chosen.subnet, chosen.vip_subnet) == ("10.128.16.0/20", "10.160.32.0/20")


BAD = [
    ({"services": [service("web", ["nowhere"])]}, 404, "service shop_web: network nowhere not"),
    (
        {"services": [service("db"), service("web", Env=["="])]},
        400,
        "service shop_web: ",
    ),
    ({"services": [{"TaskTemplate": {}}]}, 400, "service (without a name): "),
    ({"services": [service("web"), service("web")]}, 400, "service shop_web is given twice"),
    ({"networks": [network(), network()]}, 400, "network shop_back is given twice"),
    ({"networks": [network(Attachable=True)]}, 501, "network shop_back: attachable networks"),
    (
        {"networks": [network(IPAM={"Config": [{"Subnet": "10.244.0.0/24"}]})]},
        400,
        "network shop_back: invalid subnet 10.244.0.0/24: it overlaps",
    ),
    (
        {
            "networks": [
                network(name, IPAM={"Config": [{"Subnet": f"10.7.0.0/{length}"}]})
                for name, length in (("back", 24), ("front", 16))
            ]
        },
        400,
        "network shop_back: invalid subnet 10.7.0.0/24: it overlaps 10.7.0.0/16, network",
    ),
    (
        {"networks": [network(f"net{number}") for number in range(1000)]},
        409,
        "there are more than 1000 networks",
    ),
    (
        {"services": [service("web", ports=[80]), service("db", ports=[80])]},
        400,
        "port '80' is published by both shop_web and shop_db",
    ),
    (
        {"services": [service("db"), service("web", ports=[9000])]},
        400,
        "service shop_web: rpc error: code = InvalidArgument desc = port '9000' is already in use",
    ),
    (
        {"services": [service("db"), service("web", ports=[9001])]},
        400,
        "port '9001' is already in use by service 'nodes'",
    ),
    (
        {"services": [service("db"), service("web", ports=[7400])]},
        400,
        "service shop_web: rpc error: code = InvalidArgument desc = EndpointSpec: port 7400/tcp",
    ),
    ({"services": [{**service("db"), "Name": "other"}]}, 409, "is not of this stack"),
    ({"networks": [{"Name": "theirs"}]}, 409, "is not of this stack"),
    ({"services": "all"}, 400, '"Services": it is a list of objects'),
    ({"networks": [1]}, 400, '"Networks": it is a list of objects'),
    ({"Prune": "yes"}, 400, '"Prune": it is true or false'),
    ({"Volumes": []}, 400, 'unknown field "Volumes"'),
    ({"RegistryAuths": {"shop_web": "%"}}, 400, "Auth"),
    ({"RegistryAuths": [1]}, 400, '"RegistryAuths"'),
]


@pytest.mark.parametrize(("fields", "status", "sentence"), BAD)
async def test_a_mistake_anywhere_makes_nothing(world, fields, status, sentence) -> None:
    await world.post("/networks/create", {"Name": "theirs"})
    other = {**service("x", [], [9000]), "Name": "other"}
    assert (await world.post("/services/create", other)).status == 201
    of_nodes = {**service("x", [], [9001]), "Name": "nodes"}
    of_nodes["EndpointSpec"]["Ports"][0]["PublishMode"] = "host"
    assert (await world.post("/services/create", of_nodes)).status == 201
    revision = world.state.revision
    answer = await world.post("/essaim/stacks/shop", request(**fields))
    assert (answer.status, sentence in answer.message) == (status, True), answer.message
    assert world.state.revision == revision


async def test_a_stack_has_a_name(world) -> None:
    answer = await world.post("/essaim/stacks/a.b", request())
    assert (answer.status, "valid as a DNS name component" in answer.message) == (400, True)


async def test_a_change_that_another_makes_meanwhile_is_taken_into_account(world) -> None:
    await deploy(world)
    web = world.state.service_named("shop_web")

    async def rival():
        version = (await world.get(f"/services/{web.id}")).json["Version"]["Index"]
        body = {**service("web", ports=[8080]), "Labels": {STACK_LABEL: "shop", "by": "rival"}}
        answer = await world.post(f"/services/{web.id}/update?version={version}", body)
        assert answer.status == 200

    world.cluster.before_commit = [rival]
    await deploy(world, services=[service("web", ports=[8081]), service("db")])
    after = world.state.services[web.id]
    assert after.spec.labels == {"tier": "web", STACK_LABEL: "shop"}
    assert after.generation == web.generation + 2
    assert set(world.state.ingress_ports) == {"tcp/8081"}


async def test_stacks_are_listed_whoever_made_them(world) -> None:
    await deploy(world)
    by_docker = {**service("x", []), "Name": "blog_x", "Labels": {STACK_LABEL: "blog"}}
    assert (await world.post("/services/create", by_docker)).status == 201
    assert (await world.get("/essaim/stacks")).json == [
        {"Name": "blog", "Services": 1, "Networks": 0, "Secrets": 0, "Configs": 0},
        {"Name": "shop", "Services": 2, "Networks": 1, "Secrets": 0, "Configs": 0},
    ]


async def test_a_stack_is_removed_services_first(world) -> None:
    await deploy(world)
    answer = await world.call("DELETE", "/essaim/stacks/shop")
    assert answer.status == 200
    assert {one["Action"] for one in answer.json["Services"]} == {"removed"}
    assert [one["Name"] for one in answer.json["Networks"]] == ["shop_back"]
    assert not world.state.services
    assert world.state.network_named("shop_back") is None
    again = await world.call("DELETE", "/essaim/stacks/shop")
    assert (again.status, again.message) == (404, "nothing found in stack: shop")


async def test_a_removal_waits_for_the_tasks_and_can_be_asked_again(world) -> None:
    await deploy(world)
    web, back = world.state.service_named("shop_web"), world.state.network_named("shop_back")
    task = await world.add_task(web, 1, await world.add_node(1))
    place = Attachment(network_id=back.id, address="10.128.0.9")
    await world.write(
        lambda writes: writes.put(msgspec.structs.replace(task, attachments=(place,)))
    )
    removal = asyncio.create_task(world.call("DELETE", "/essaim/stacks/shop"))
    await world.clock.advance(1)
    assert not removal.done()
    await world.clock.advance(30)
    answer = await removal
    assert answer.status == 409
    assert f"network shop_back is in use by task shop_web.1.{task.id}" in answer.message
    assert "remove the stack again" in answer.message
    assert not world.state.services
    await world.observe(task, TaskState.SHUTDOWN)
    assert (await world.call("DELETE", "/essaim/stacks/shop")).status == 200


async def test_a_stacks_network_that_others_use_stays(world) -> None:
    await deploy(world)
    guest = {**service("guest"), "Name": "guest"}
    assert (await world.post("/services/create", guest)).status == 201
    answer = await world.call("DELETE", "/essaim/stacks/shop")
    assert answer.status == 400, "a 409 would be asked again, for ever"
    assert "shop_back is in use by service guest" in answer.message
    assert answer.message.endswith("remove that service, then the stack again")


async def test_credentials_are_each_services_own(world) -> None:
    auth = base64.urlsafe_b64encode(json.dumps({"username": "u"}).encode()).decode()
    answer = await world.post("/essaim/stacks/shop", request(RegistryAuths={"shop_web": auth}))
    # The master of this test has no key to seal them with.
    assert (answer.status, answer.message.startswith("service shop_web: ")) == (501, True)
    assert not world.state.services
    assert world.state.network_named("shop_back") is None
