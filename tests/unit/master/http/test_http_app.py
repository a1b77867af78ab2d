"""The handshake, versions, errors, and what is not Essaim's to answer."""

import pytest

from essaim_master.http.api_version import split_version
from essaim_shared.errors import BrokenInvariant, InvalidRequest


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("path", ["/_ping", "/v1.41/_ping"])
async def test_ping_answers_without_a_quorum(world, method, path) -> None:
    world.cluster.available = False
    answer = await world.call(method, path)
    assert answer.status == 200
    expected = {
        "api-version": "1.47",
        "ostype": "linux",
        "docker-experimental": "false",
        "swarm": "active/manager",
    }
    assert expected.items() <= answer.headers.items()
    assert answer.headers["server"].startswith("Essaim/")
    assert answer.headers["date"] == "Tue, 14 Nov 2023 22:13:20 GMT"


async def test_version_answers_without_a_quorum(world) -> None:
    world.cluster.available = False
    shown = (await world.get("/version")).json
    assert (shown["ApiVersion"], shown["MinAPIVersion"], shown["Os"]) == ("1.47", "1.24", "linux")


@pytest.mark.parametrize("path", ["/services", "/v1.24/services", "/v1.47/services"])
async def test_every_path_stands_with_and_without_a_version(world, path) -> None:
    assert (await world.get(path)).json == []


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        (
            "/v1.99/services",
            "client version 1.99 is too new. Maximum supported API version is 1.47",
        ),
        ("/v2.0/_ping", "client version 2.0 is too new. Maximum supported API version is 1.47"),
        ("/v1.9/info", "client version 1.9 is too old. Minimum supported API version is 1.24"),
    ],
)
async def test_other_versions_are_refused_in_dockers_words(world, path, sentence) -> None:
    answer = await world.get(path)
    assert answer.status == 400
    assert answer.message.startswith(sentence)
    assert answer.headers["api-version"] == "1.47"


def test_a_path_that_only_looks_versioned_is_left_alone() -> None:
    assert split_version("/volumes") == "/volumes"
    assert split_version("/v1.x/services") == "/v1.x/services"
    assert split_version("/v1.41/services/v1.41/x") == "/services/v1.41/x"
    with pytest.raises(InvalidRequest):
        split_version("/v1.48/services")


@pytest.mark.parametrize(
    ("method", "path", "status", "sentence"),
    [
        ("GET", "/containers/json", 501, "belongs to a single Docker Engine"),
        ("POST", "/v1.41/images/create", 501, "belongs to a single Docker Engine"),
        ("GET", "/volumes", 501, "belongs to a single Docker Engine"),
        ("GET", "/events", 501, "no stream of events yet"),
        ("POST", "/swarm/init", 501, "not by `docker swarm`"),
        ("POST", "/swarm/leave", 501, "not by `docker swarm`"),
        ("POST", "/networks/default/connect", 501, "on the networks that their service names"),
        ("GET", "/distribution/library/busybox:latest/json", 501, "ask no image registry"),
        ("GET", "/secrets/x", 404, "secret x not found"),
        ("GET", "/configs/x", 404, "config x not found"),
        ("GET", "/nothing", 404, "page not found"),
        ("GET", "/", 404, "page not found"),
        ("GET", "/services/", 404, "page not found"),
        ("PUT", "/services", 405, "PUT is not a method of /services"),
    ],
)
async def test_what_is_not_there_says_why(world, method, path, status, sentence) -> None:
    answer = await world.call(method, path)
    assert answer.status == status
    assert sentence in answer.message


async def test_info_names_the_node_on_this_masters_host(world) -> None:
    own = await world.add_node(1)
    other = await world.add_node(2)
    swarm = (await world.get("/v1.47/info")).json["Swarm"]
    assert (swarm["NodeID"], swarm["NodeAddr"]) == (own, "10.98.0.1")
    assert (swarm["LocalNodeState"], swarm["ControlAvailable"]) == ("active", True)
    assert (swarm["Nodes"], swarm["Managers"]) == (2, 3)
    assert swarm["RemoteManagers"] == [
        {"NodeID": own, "Addr": "10.98.0.1:7401"},
        {"NodeID": other, "Addr": "10.98.0.2:7401"},
        {"NodeID": "", "Addr": "10.98.0.3:7401"},
    ]
    assert swarm["Cluster"]["ID"] == "lab"


async def test_before_the_first_leader_the_cluster_has_no_name_yet(new_world) -> None:
    assert (await new_world.get("/info")).json["Swarm"]["Cluster"] == {"ID": ""}
    answer = await new_world.get("/swarm")
    assert answer.status == 503
    assert "no leader yet" in answer.message
    assert (await new_world.get("/networks")).json == []


async def test_a_master_that_stands_by_answers_too(new_world) -> None:
    new_world.cluster.members = new_world.cluster.members[1:]
    swarm = (await new_world.get("/info")).json["Swarm"]
    assert (swarm["NodeID"], swarm["NodeAddr"], swarm["Managers"]) == ("", "", 2)


async def test_swarm_and_networks_have_dockers_shape(world) -> None:
    swarm = (await world.get("/swarm")).json
    assert (swarm["ID"], swarm["Spec"]["Name"]) == ("lab", "default")
    assert (swarm["DefaultAddrPool"], swarm["SubnetSize"]) == (["10.128.0.0/11"], 20)
    assert set(swarm["JoinTokens"]) == {"Worker", "Manager"}
    network, host = (await world.get("/networks")).json
    assert (host["Name"], host["Scope"], host["Driver"]) == ("host", "swarm", "host")
    assert (network["Name"], network["Scope"], network["Driver"]) == ("default", "swarm", "overlay")
    assert network["IPAM"]["Config"] == [{"Subnet": "10.244.0.0/20"}]
    assert (await world.get("/networks/default?scope=swarm")).json == network
    assert (await world.get('/networks?filters={"driver":["bridge"]}')).json == []
    assert (await world.get("/networks/bridge")).status == 404


async def test_a_defect_is_told_without_its_insides_and_raised_again(world) -> None:
    async def broken(timeout_s):
        raise BrokenInvariant("applied 7 over committed 6")

    world.cluster.read_barrier = broken
    with pytest.raises(BrokenInvariant, match="applied 7 over committed 6"):
        await world.get("/services")
