"""Services on networks and with ports of the cluster: stored by ids, claimed by keys, shown as
Docker shows them."""

import msgspec
import pytest

from essaim_master.config import MasterConfig
from essaim_master.http.network_settings import network_settings
from essaim_master.http.service_commits import NAME_ATTEMPTS_MAX
from essaim_shared.limits import INGRESS_PORTS_MAX, REVISIONS_KEPT, SERVICE_NETWORKS_MAX
from essaim_shared.objects import Attachment, ServiceAddresses, VirtualAddress
from essaim_shared.spec import NetworkAttachment, PortConfig


def body(networks=(), ports=(), name="web", **endpoint):
    return {
        "Name": name,
        "TaskTemplate": {
            "ContainerSpec": {"Image": "busybox"},
            "Networks": [{"Target": one} if isinstance(one, str) else one for one in networks],
        },
        "Mode": {"Replicated": {"Replicas": 1}},
        "EndpointSpec": {"Ports": list(ports), **endpoint},
    }


def port(published, mode="ingress", protocol="tcp", target=80):
    return {
        "TargetPort": target,
        "PublishedPort": published,
        "PublishMode": mode,
        "Protocol": protocol,
    }


async def create(world, *args, **kwargs):
    answer = await world.post("/services/create", body(*args, **kwargs))
    assert answer.status == 201, answer.message
    return world.state.services[answer.json["ID"]]


async def update(world, service, *args, **kwargs):
    version = (await world.get(f"/services/{service.id}")).json["Version"]["Index"]
    return await world.post(
        f"/services/{service.id}/update?version={version}",
        body(*args, name=service.spec.name, **kwargs),
    )


@pytest.fixture
async def networks(world):
    """Two, by name."""
    for name in ("front", "back"):
        assert (await world.post("/networks/create", {"Name": name})).status == 201
    return {name: world.state.network_named(name) for name in ("front", "back")}


async def test_networks_are_kept_by_their_ids_and_in_order(world, networks) -> None:
    front, back = networks["front"], networks["back"]
    service = await create(world, [back.id[:9], {"Target": "front", "Aliases": ["www", "a.b_c"]}])
    assert service.spec.task.networks == (
        NetworkAttachment(target=back.id),
        NetworkAttachment(target=front.id, aliases=("www", "a.b_c")),
    )
    shown = (await world.get("/services/web")).json["Spec"]["TaskTemplate"]["Networks"]
    assert shown == [
        {"Target": back.id},
        {"Target": front.id, "Aliases": ["www", "a.b_c"]},
    ]


async def test_networks_beside_the_template_are_those_of_old_clients(world, networks) -> None:
    old = {
        **body(),
        "Networks": [{"Target": "back"}],
        "TaskTemplate": {"ContainerSpec": {"Image": "busybox"}},
    }
    answer = await world.post("/services/create", old)
    service = world.state.services[answer.json["ID"]]
    assert [one.target for one in service.spec.task.networks] == [networks["back"].id]
    both = {**body(["front"], name="both"), "networks": [{"Target": "back"}]}
    answer = await world.post("/services/create", both)
    service = world.state.services[answer.json["ID"]]
    assert [one.target for one in service.spec.task.networks] == [networks["front"].id]


async def test_a_change_of_networks_replaces_the_tasks_and_a_name_for_an_id_does_not(
    world, networks
) -> None:
    service = await create(world, ["back"])
    assert (await update(world, service, [networks["back"].id])).status == 200
    assert world.state.services[service.id].spec_version == 1
    assert (await update(world, service, ["back", "front"])).status == 200
    assert world.state.services[service.id].spec_version == 2
    assert (await world.call("DELETE", "/networks/front")).status == 400
    assert (await update(world, service, ["back"])).status == 200
    assert (await world.call("DELETE", "/networks/front")).status == 204


async def test_a_rollback_to_a_network_that_is_gone_is_refused(world, networks) -> None:
    service = await create(world, ["back"])
    await update(world, service, ["front"])
    assert (await world.call("DELETE", "/networks/back")).status == 204
    version = (await world.get("/services/web")).json["Version"]["Index"]
    answer = await world.post(f"/services/web/update?version={version}&rollback=previous")
    assert (answer.status, answer.message) == (404, f"network {networks['back'].id} not found")
    answer = await world.post(f"/essaim/services/web/rollback?version={version}&to=1")
    assert answer.status == 404


async def test_ports_of_the_cluster_are_claimed_moved_and_given_back(world) -> None:
    service = await create(world, ports=[port(8080), port(0), port(9, mode="host")])
    assert set(world.state.ingress_ports) == {"tcp/8080"}
    assert (
        await update(world, service, ports=[port(8080), port(53, protocol="udp")])
    ).status == 200
    assert set(world.state.ingress_ports) == {"tcp/8080", "udp/53"}
    version = (await world.get("/services/web")).json["Version"]["Index"]
    answer = await world.post(f"/services/web/update?version={version}&rollback=previous")
    assert answer.status == 200
    assert set(world.state.ingress_ports) == {"tcp/8080"}
    assert (await world.call("DELETE", "/services/web")).status == 200
    assert not world.state.ingress_ports


async def test_a_port_that_a_service_has_is_refused_to_others(world) -> None:
    web = await create(world, ports=[port(8080)])
    revision = world.state.revision
    answer = await world.post("/services/create", body(ports=[port(8080)], name="db"))
    assert answer.status == 400
    assert answer.message.endswith(
        f"port '8080' is already in use by service 'web' ({web.id}) as an ingress port"
    )
    assert world.state.revision == revision
    assert (await update(world, web, ports=[port(8080), port(8081)])).status == 200


async def test_a_rollback_to_a_port_that_another_has_by_now_is_refused(world) -> None:
    web = await create(world, ports=[port(8080)])
    await update(world, web)
    await create(world, ports=[port(8080)], name="db")
    version = (await world.get("/services/web")).json["Version"]["Index"]
    answer = await world.post(f"/services/web/update?version={version}&rollback=previous")
    assert (answer.status, "already in use by service 'db'" in answer.message) == (400, True)


async def test_a_port_that_is_taken_between_check_and_write_is_still_taken_once(world) -> None:
    async def rival():
        await create(world, ports=[port(8080)], name="rival")

    world.cluster.before_commit = [rival]
    answer = await world.post("/services/create", body(ports=[port(8080)]))
    assert (answer.status, "by service 'rival'" in answer.message) == (400, True)
    assert [one.spec.name for one in world.state.services.values()] == ["rival"]


async def test_one_that_never_gets_to_its_turn_is_not_told_that_its_name_is_taken(world) -> None:
    async def rival():
        await world.write(lambda writes: writes.publish_on_nodes("other"))

    world.cluster.before_commit = [step for _ in range(NAME_ATTEMPTS_MAX) for step in (rival, idle)]
    ports = [{"TargetPort": 80, "PublishedPort": 8080}]
    body = {
        "Name": "web",
        "TaskTemplate": {"ContainerSpec": {"Image": "busybox"}},
        "EndpointSpec": {"Ports": ports},
    }
    answer = await world.post("/services/create", body)
    assert (answer.status, "is being changed by others" in answer.message) == (409, True)


async def idle():
    """Nobody comes in before the rival's own commit."""


async def test_a_master_that_lags_hears_that_a_port_is_free_again(world) -> None:
    web = await create(world, ports=[port(8080)], name="old")

    async def missed():
        assert (await world.call("DELETE", f"/services/{web.id}")).status == 200

    world.cluster.before_barrier = [missed]
    await create(world, ports=[port(8080)], name="new")


async def test_ports_that_somebody_listens_on_can_be_forced(world) -> None:
    node_id = await world.add_node(1)
    await world.set_node_state(node_id, 1, "ready", listening=("tcp/22", "udp/53"))
    for number, protocol, sentence in (
        (22, "tcp", "EndpointSpec: port 22/tcp is listened on by node h1: publish another port, "),
        (53, "udp", "port 53/udp is listened on by node h1"),
        (7472, "udp", "port 7472/udp is Essaim's own, for packets between the nodes"),
        (7400, "tcp", "port 7400/tcp is Essaim's own, for the API"),
    ):
        answer = await world.post(
            "/services/create", body(ports=[port(number, "ingress", protocol)])
        )
        assert (answer.status, sentence in answer.message) == (400, True), answer.message
    await create(world, ports=[port(53)], name="free")
    forced = await create(world, ports=[port(22), port(7400)], ForcePorts=True)
    assert set(world.state.ingress_ports) == {"tcp/22", "tcp/53", "tcp/7400"}
    # What was forced once stays, also by clients that do not know the field.
    assert (await update(world, forced, ports=[port(22), port(80)])).status == 200


async def test_a_node_that_is_down_says_nothing_about_ports(world) -> None:
    node_id = await world.add_node(1)
    await world.set_node_state(node_id, 1, "down", listening=("tcp/22",))
    await create(world, ports=[port(22)])


async def test_only_essaims_own_ports_matter_where_the_scheduler_looks_itself(world) -> None:
    node_id = await world.add_node(1)
    await world.set_node_state(node_id, 1, "ready", listening=("tcp/22",))
    await create(world, ports=[port(22, "host")])
    answer = await world.post("/services/create", body(ports=[port(7401, "host")], name="x"))
    assert (answer.status, "for the masters" in answer.message) == (400, True)


async def test_what_a_service_had_before_a_node_came_to_listen_stays(world) -> None:
    service = await create(world, ports=[port(8080)])
    node_id = await world.add_node(1)
    await world.set_node_state(node_id, 1, "ready", listening=("tcp/8080",))
    assert (await update(world, service, ports=[port(8080), port(81)])).status == 200


async def test_the_endpoint_follows_what_the_leader_gives(world, networks) -> None:
    front = networks["front"]
    service = await create(
        world, ["front"], [port(8080), port(0), port(9, mode="host")], Affinity="client-ip"
    )
    before = (await world.get("/services/web")).json["Endpoint"]
    assert [one.get("PublishedPort") for one in before["Ports"]] == [8080, None, 9]
    assert before["Spec"]["Affinity"] == "client-ip"
    addresses = ServiceAddresses(
        service_id=service.id,
        virtual_addresses=(
            VirtualAddress(network_id=front.id, address="10.160.16.4"),
            VirtualAddress(network_id="gone", address="10.170.0.4"),
        ),
        ports=(
            PortConfig(target_port=80, published_port=8080),
            PortConfig(target_port=80, published_port=30007),
        ),
    )
    await world.write(lambda writes: writes.put(addresses))
    for url in ("/services/web", "/services/web?insertDefaults=true"):
        shown = (await world.get(url)).json["Endpoint"]
        assert [one["PublishedPort"] for one in shown["Ports"]] == [8080, 30007, 9]
        assert shown["VirtualIPs"] == [{"NetworkID": front.id, "Addr": "10.160.16.4/20"}]
    (listed,) = (await world.get("/services")).json
    assert listed["Endpoint"]["VirtualIPs"] == shown["VirtualIPs"]
    await world.write(lambda writes: writes.delete_service_addresses(service.id))
    assert "VirtualIPs" not in (await world.get("/services/web")).json["Endpoint"]


async def test_a_deleted_service_takes_its_addresses_with_it(world) -> None:
    service = await create(world)
    await world.write(lambda writes: writes.put(ServiceAddresses(service_id=service.id)))
    await world.call("DELETE", "/services/web")
    assert not world.state.service_addresses


async def test_a_task_shows_each_of_its_networks(world, networks) -> None:
    front, back = networks["front"], networks["back"]
    service = await create(world, ["front", "back"])
    task = await world.add_task(service, 1, await world.add_node(1))
    places = (
        Attachment(network_id=front.id, address="10.128.0.9"),
        Attachment(network_id=back.id, address="10.128.16.9"),
    )
    await world.write(lambda writes: writes.put(msgspec.structs.replace(task, attachments=places)))
    shown = (await world.get(f"/tasks/{task.id}")).json["NetworksAttachments"]
    assert [(one["Network"]["Spec"]["Name"], one["Addresses"]) for one in shown] == [
        ("front", ["10.128.0.9/20"]),
        ("back", ["10.128.16.9/20"]),
    ]
    network = shown[0]["Network"]
    assert network["DriverState"]["Name"] == "overlay"
    assert network["IPAMOptions"]["Configs"] == [{"Subnet": "10.128.0.0/20"}]
    assert network["Spec"]["Scope"] == "swarm"


async def test_a_service_on_the_nodes_own_network_publishes_nothing(world) -> None:
    service = await create(world, ["host"])
    (attachment,) = service.spec.task.networks
    assert world.state.networks[attachment.target].driver == "host"
    answer = await update(world, service, ["host"], [port(80)])
    assert (answer.status, "no ports are published" in answer.message) == (400, True)


@pytest.mark.parametrize(
    ("server", "number"),
    [
        ("nats://127.0.0.1:4333", 4333),
        ("nats://bus.example", 4222),
        ("tls://user:secret@bus.example:4443", 4443),
        ("127.0.0.1:4555", 4555),
    ],
)
def test_essaims_own_ports_come_from_the_configuration(server, number) -> None:
    loaded = msgspec.convert(
        {
            "cluster_id": "lab",
            "member_id": "m1",
            "data_dir": "/d",
            "socket": "/s",
            "http_listen": "127.0.0.1:7400",
            "raft_listen": "127.0.0.1:7401",
            "kv_listen": "127.0.0.1:7402",
            "bus_servers": [server],
            "members": [{"id": "m1", "raft": "127.0.0.1:7401", "http": "127.0.0.1:7400"}],
        },
        MasterConfig,
    )
    found = network_settings(loaded)
    assert found.own_ports == {
        "udp/7472": "packets between the nodes",
        "tcp/7400": "the API",
        "tcp/7401": "the masters",
        "tcp/7402": "the key-value protocol",
        f"tcp/{number}": "the bus",
    }
    assert found.pools.subnets == ("10.128.0.0/11",)


async def test_the_largest_change_of_ports_and_networks_fits_one_transaction(world) -> None:
    names = [f"n{number}" for number in range(SERVICE_NETWORKS_MAX)]
    for name in names:
        assert (await world.post("/networks/create", {"Name": name})).status == 201
    first = [port(1000 + number) for number in range(INGRESS_PORTS_MAX)]
    second = [port(2000 + number) for number in range(INGRESS_PORTS_MAX)]
    service = await create(world, ports=first)
    for _ in range(REVISIONS_KEPT):
        assert (await update(world, service, ports=second)).status == 200
        answer = await update(world, service, names, first)
        assert answer.status == 200, answer.message
    assert len(world.state.ingress_ports) == INGRESS_PORTS_MAX
    assert (await world.call("DELETE", "/services/web")).status == 200
    assert not world.state.ingress_ports
