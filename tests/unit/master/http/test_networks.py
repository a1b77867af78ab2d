"""`/networks` in Docker's shapes, and what happens between a network and those who use it."""

import asyncio
import json
from urllib.parse import quote

import msgspec
import pytest

from essaim_shared.ids import NetworkId, NodeId
from essaim_shared.objects import (
    Attachment,
    Gateway,
    NodeStatus,
    ServiceAddresses,
    VirtualAddress,
)
from essaim_shared.task_state import TaskState

CREATE = "/v1.47/networks/create"


async def create(world, name="back", **body):
    answer = await world.post(CREATE, {"Name": name, "Driver": "overlay", **body})
    assert answer.status == 201, answer.body
    return world.state.networks[answer.json["Id"]]


async def service_on(world, *networks, name="web", replicas=1):
    answer = await world.post(
        "/services/create",
        {
            "Name": name,
            "TaskTemplate": {
                "ContainerSpec": {"Image": "busybox"},
                "Networks": [{"Target": network} for network in networks],
            },
            "Mode": {"Replicated": {"Replicas": replicas}},
        },
    )
    assert answer.status == 201, answer.body
    return world.state.services[answer.json["ID"]]


async def task_on(world, service, network, node_id):
    task = await world.add_task(service, 1, node_id)
    place = Attachment(network_id=network.id, address="10.128.0.9")
    task = msgspec.structs.replace(task, attachments=(place,))
    await world.write(lambda writes: writes.put(task))
    return task


async def test_a_network_is_shown_as_docker_shows_overlays(world) -> None:
    answer = await world.post(
        CREATE,
        {
            "Name": "back",
            "CheckDuplicate": True,
            "Driver": "overlay",
            "EnableIPv4": True,
            "EnableIPv6": False,
            "IPAM": {"Driver": "default", "Options": {}, "Config": [{"Subnet": "10.9.0.0/24"}]},
            "Internal": True,
            "Attachable": False,
            "Ingress": False,
            "ConfigOnly": False,
            "ConfigFrom": {"Network": ""},
            "Scope": "",
            "Options": {},
            "Labels": {"team": "a"},
        },
    )
    assert (answer.status, answer.json["Warning"]) == (201, "")
    shown = (await world.get("/networks/back")).json
    assert shown == {
        "Name": "back",
        "Id": answer.json["Id"],
        "Created": shown["Created"],
        "Scope": "swarm",
        "Driver": "overlay",
        "EnableIPv4": True,
        "EnableIPv6": False,
        "IPAM": {"Driver": "default", "Options": None, "Config": [{"Subnet": "10.9.0.0/24"}]},
        "Internal": True,
        "Attachable": False,
        "Ingress": False,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": False,
        "Containers": None,
        "Options": {"com.docker.network.driver.overlay.vxlanid_list": "70002"},
        "Labels": {"team": "a"},
        "VipSubnet": "10.160.16.0/20",
        "MTU": 1450,
    }
    assert (await world.get(f"/networks/{answer.json['Id'][:6]}?scope=swarm")).json == shown
    assert (await world.get("/networks/back?scope=local")).status == 404
    assert (await world.get("/networks/back?scope=moon")).status == 400


async def test_a_network_without_a_wish_gets_the_next_of_the_pools(world) -> None:
    first, second = await create(world, "a", Driver=""), await create(world, "b", IPAM=None)
    assert (first.subnet, second.subnet) == ("10.128.0.0/20", "10.128.16.0/20")
    assert (first.vni, second.vni) == (70002, 70003)


BAD = [
    ({"Name": ""}, 400, "name must be valid as a DNS name component"),
    ({"Name": "n" * 64}, 400, "name must be 63 characters or fewer"),
    ({"Name": "default"}, 403, "operation is not permitted on predefined default network"),
    ({"Name": "none"}, 403, "operation is not permitted on predefined none network"),
    ({"Driver": "macvlan"}, 501, 'the driver "macvlan" is not supported: use -d overlay'),
    ({"Driver": "host"}, 501, 'there is one host network, with the name "host"'),
    ({"Scope": "local"}, 501, "their scope is swarm"),
    ({"Attachable": True}, 501, "attachable networks are not supported for now"),
    ({"Ingress": True}, 501, "an ingress network is not needed"),
    ({"EnableIPv6": True}, 501, "IPv6 inside networks"),
    ({"EnableIPv4": False}, 501, "without IPv4"),
    ({"ConfigOnly": True}, 501, "config-only networks"),
    ({"ConfigFrom": {"Network": "x"}}, 501, "config-only networks"),
    ({"Options": {"encrypted": ""}}, 501, "encrypted networks are not supported for now"),
    ({"Options": {"com.docker.network.driver.overlay.vxlanid_list": "7"}}, 501, "choose the VNI"),
    ({"Options": {"color": "red"}}, 501, "the driver option color is not supported"),
    ({"Options": {"com.docker.network.driver.mtu": "9"}}, 400, "a number from 576 to 65535"),
    ({"Options": {"com.docker.network.driver.mtu": "x"}}, 400, "a number from 576 to 65535"),
    ({"Labels": {"": "x"}}, 400, "the name of a label cannot be empty"),
    ({"Labels": {"x": "y" * 20_000}}, 400, "more than 16384 bytes"),
    ({"IPAM": {"Driver": "mine"}}, 501, 'the IPAM driver "mine"'),
    ({"IPAM": {"Options": {"a": "b"}}}, 501, "the IPAM option a"),
    ({"IPAM": {"Config": [{"Subnet": "10.1.0.0/24"}] * 2}}, 501, "a network has one subnet"),
    ({"IPAM": {"Config": [{"Gateway": "10.1.0.1"}]}}, 501, "the gateway 10.1.0.1"),
    ({"IPAM": {"Config": [{"AuxiliaryAddresses": {"a": "10.1.0.9"}}]}}, 501, "auxiliary"),
    ({"IPAM": {"Config": [{"IPRange": "10.1.0.0/25"}]}}, 400, "name that too"),
    ({"IPAM": {"Config": [{"Subnet": "fd00::/64"}]}}, 501, "IPv4 addresses only"),
    ({"IPAM": {"Config": [{"Subnet": "10.1.0.1/24"}]}}, 400, "has host bits set"),
    ({"IPAM": {"Config": [{"Subnet": "ten"}]}}, 400, "invalid subnet 'ten'"),
    ({"IPAM": {"Config": [{"Subnet": "10.1.0.0/30"}]}}, 400, "it must be /8 to /29"),
    ({"IPAM": {"Config": [{"Subnet": "0.0.0.0/4"}]}}, 400, "it must be /8 to /29"),
    ({"IPAM": {"Config": [{"Subnet": "224.1.0.0/16"}]}}, 400, "for something else"),
    (
        {"IPAM": {"Config": [{"Subnet": "10.1.0.0/24", "IPRange": "10.2.0.0/25"}]}},
        400,
        "it is not part of the subnet 10.1.0.0/24",
    ),
    (
        {"IPAM": {"Config": [{"Subnet": "10.1.0.0/24", "IPRange": "10.1.0.0/31"}]}},
        400,
        "/30 or larger",
    ),
    ({"IPAM": {"Config": [{"Subnet": "10.244.0.0/24"}]}}, 400, "overlaps 10.244.0.0/20"),
    ({"Peers": ["x"]}, 400, 'unknown field "Peers"'),
    ({"Labels": "x"}, 400, "invalid network"),
]


@pytest.mark.parametrize(("fields", "status", "sentence"), BAD)
async def test_each_mistake_has_its_sentence_and_makes_nothing(
    world, fields, status, sentence
) -> None:
    revision = world.state.revision
    answer = await world.post(CREATE, {"Name": "back", "Driver": "overlay", **fields})
    assert (answer.status, sentence in answer.message) == (status, True), answer.message
    assert "\n" not in answer.message
    assert world.state.revision == revision


async def test_a_name_is_given_once(world) -> None:
    await create(world)
    answer = await world.post(CREATE, {"Name": "back"})
    assert (answer.status, answer.message) == (409, "network with name back already exists")


async def test_two_networks_made_at_once_share_nothing(world) -> None:
    """Between the choice of one and its write another one comes."""

    async def rival():
        await create(world, "rival")

    world.cluster.before_commit = [rival]
    made = await create(world, "mine")
    other = world.state.network_named("rival")
    assert (other.vni, made.vni) == (70002, 70003)
    assert other.subnet != made.subnet
    assert other.vip_subnet != made.vip_subnet
    assert world.state.network_ledger.changes == 2


async def test_a_large_mtu_is_taken_with_a_warning(world) -> None:
    await world.set_node_state(await world.add_node(1), 1, "ready", mtu=1500)
    body = {"Name": "jumbo", "Options": {"com.docker.network.driver.mtu": "8950"}}
    answer = await world.post(CREATE, body)
    assert "more than the nodes carry inside of VXLAN (1450)" in answer.json["Warning"]
    assert world.state.network_named("jumbo").mtu == 8950


async def listed(world, **filters):
    text = quote(json.dumps(filters))
    return [one["Name"] for one in (await world.get(f"/networks?filters={text}")).json]


async def test_lists_are_filtered_as_docker_does(world) -> None:
    back, lost = await create(world, Labels={"team": "a"}), await create(world, "lost")
    await service_on(world, "back")
    assert await listed(world) == ["default", "host", "back", "lost"]
    assert await listed(world, type=["custom"]) == ["back", "lost"]
    assert await listed(world, type={"builtin": True}) == ["default", "host"]
    assert await listed(world, driver=["host"]) == ["host"]
    assert await listed(world, label=["team=a"]) == ["back"]
    assert await listed(world, dangling=["true"]) == ["lost"]
    assert await listed(world, dangling=["false"]) == ["default", "host", "back"]
    assert await listed(world, scope=["local"]) == []
    assert await listed(world, id=[back.id, lost.id]) == ["back", "lost"]
    assert (await world.get('/networks?filters={"odd":["x"]}')).status == 400


async def test_a_network_in_use_stays(world) -> None:
    network = await create(world)
    service = await service_on(world, "back")
    answer = await world.call("DELETE", "/networks/back")
    assert answer.status == 400
    assert answer.message.endswith(f"network back is in use by service web ({service.id})")
    assert network.id in world.state.networks


async def test_predefined_networks_stay(world) -> None:
    for name in ("default", "host"):
        answer = await world.call("DELETE", f"/networks/{name}")
        assert (answer.status, answer.message) == (
            403,
            f"{name} is a pre-defined network and cannot be removed",
        )


async def test_a_network_that_nothing_uses_goes(world) -> None:
    await create(world)
    assert (await world.call("DELETE", "/networks/back")).status == 204
    answer = await world.call("DELETE", "/networks/back")
    assert (answer.status, answer.message) == (404, "network back not found")
    assert await create(world)


async def test_a_removal_waits_for_the_tasks_of_a_removed_service(world) -> None:
    """`docker stack rm` removes services and then, at once, their networks."""
    network, node_id = await create(world), await world.add_node(1)
    service = await service_on(world, "back")
    task = await task_on(world, service, network, node_id)
    await world.call("DELETE", "/services/web")
    removal = asyncio.create_task(world.call("DELETE", "/networks/back"))
    await world.clock.advance(1)
    assert not removal.done()
    assert network.id in world.state.networks
    await world.observe(task, TaskState.SHUTDOWN)
    assert (await removal).status == 204
    assert network.id not in world.state.networks


async def test_a_removal_does_not_wait_for_ever(world) -> None:
    network, node_id = await create(world), await world.add_node(1)
    task = await task_on(world, await service_on(world, "back"), network, node_id)
    await world.call("DELETE", "/services/web")
    removal = asyncio.create_task(world.call("DELETE", "/networks/back"))
    await world.clock.advance(1)
    assert not removal.done()
    await world.clock.advance(30)
    answer = await removal
    assert (answer.status, f"in use by task web.1.{task.id}" in answer.message) == (400, True)


async def test_a_removal_does_not_wait_for_tasks_that_stay(world) -> None:
    """Its service moved away from the network, but the task of the old template runs on."""
    network, node_id = await create(world), await world.add_node(1)
    service = await service_on(world)
    await task_on(world, service, network, node_id)
    answer = await world.call("DELETE", "/networks/back")
    assert (answer.status, "is in use by task web.1" in answer.message) == (400, True)


async def test_a_service_that_names_the_network_meanwhile_keeps_it(world) -> None:
    network = await create(world)

    async def rival():
        await service_on(world, "back")

    world.cluster.before_commit = [rival]
    answer = await world.call("DELETE", "/networks/back")
    assert (answer.status, "in use by service web" in answer.message) == (400, True)
    assert network.id in world.state.networks


async def test_a_service_whose_network_goes_meanwhile_is_not_made(world) -> None:
    network = await create(world)

    async def rival():
        assert (await world.call("DELETE", "/networks/back")).status == 204

    world.cluster.before_commit = [rival]
    answer = await world.post(
        "/services/create",
        {
            "Name": "web",
            "TaskTemplate": {"ContainerSpec": {"Image": "x"}, "Networks": [{"Target": "back"}]},
        },
    )
    assert (answer.status, answer.message) == (404, "network back not found")
    assert not world.state.services
    assert network.id not in world.state.networks


async def test_verbose_tells_who_is_on_the_network(world) -> None:
    network, node_id = await create(world), await world.add_node(1)
    service = await service_on(world, "back")
    task = await task_on(world, service, network, node_id)
    vip = VirtualAddress(network_id=network.id, address="10.160.16.7")
    addresses = ServiceAddresses(service_id=service.id, virtual_addresses=(vip,))
    gateway = Gateway(network_id=network.id, node_id=node_id, address="10.128.0.1")
    await world.write(lambda writes: writes.put(addresses))
    await world.write(lambda writes: writes.put(gateway))
    shown = (await world.get("/networks/back?verbose=true")).json
    assert shown["Peers"] == [{"Name": node_id, "IP": "10.98.0.1"}]
    assert shown["Services"] == {
        "web": {
            "VIP": "10.160.16.7",
            "Ports": [],
            "LocalLBIndex": 0,
            "Tasks": [
                {
                    "Name": f"web.1.{task.id}",
                    "EndpointID": task.id,
                    "EndpointIP": "10.128.0.9",
                    "Info": {"Host IP": "10.98.0.1"},
                }
            ],
        }
    }
    assert "Services" not in (await world.get("/networks/back")).json


async def test_pruning_removes_what_nothing_uses(world) -> None:
    for name in ("used", "a", "b"):
        await create(world, name, Labels={"keep": "1"} if name == "b" else {})
    await service_on(world, "used")
    filters = quote(json.dumps({"label!": ["keep"]}))
    answer = await world.post(f"/networks/prune?filters={filters}")
    assert answer.json == {"NetworksDeleted": ["a"]}
    assert (await world.post("/networks/prune")).json == {"NetworksDeleted": ["b"]}
    assert [one.name for one in world.state.networks.values()] == ["default", "host", "used"]


async def test_a_master_that_lags_finds_a_network_before_it_says_no(world) -> None:
    async def missed():
        await create(world)

    world.cluster.before_barrier = [missed]
    await service_on(world, "back")


async def test_a_node_that_is_down_holds_no_network(world) -> None:
    network, node_id = await create(world), await world.add_node(1)
    service = await service_on(world, "back")
    await task_on(world, service, network, node_id)
    await world.call("DELETE", "/services/web")
    await world.set_node_state(NodeId(node_id), 1, "down")
    assert isinstance(world.state.node_status[node_id], NodeStatus)
    assert (await world.call("DELETE", "/networks/back")).status == 204
    assert NetworkId(network.id) not in world.state.networks
