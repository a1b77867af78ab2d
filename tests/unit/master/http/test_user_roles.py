"""What deployers and users of one stack may touch, and what they are shown, through the API."""

import base64

import pytest
from support.callers import ROOT, with_user

from essaim_master.http.authorization import Need, rule_of
from essaim_master.http.scope import SHARED_LABEL, STACK_LABEL

FOREIGN = "bakery"
"""Another stack; its name stands in the names of all that is its own."""


def service(name, stack="", networks=(), **container):
    return {
        "Name": name,
        "Labels": {STACK_LABEL: stack} if stack else {},
        "TaskTemplate": {
            "ContainerSpec": {"Image": "busybox:latest", **container},
            "Networks": [{"Target": target} for target in networks],
        },
    }


def network(name, stack="", **labels):
    return {
        "Name": name,
        "Driver": "overlay",
        "Labels": {**labels, **({STACK_LABEL: stack} if stack else {})},
    }


def config(name, stack=""):
    return {
        "Name": name,
        "Labels": {STACK_LABEL: stack} if stack else {},
        "Data": base64.b64encode(name.encode()).decode(),
    }


def with_config(name, stack, config_name):
    file = {"Name": "/c", "UID": "0", "GID": "0", "Mode": 292}
    return service(name, stack, Configs=[{"ConfigName": config_name, "File": file}])


async def as_root(world, method, url, body=b""):
    answer = await world.call(method, url, body, peer=ROOT)
    assert answer.status < 300, answer.body
    return answer


@pytest.fixture
async def town(guarded):
    """Services and networks of two stacks and of none, with a task each."""
    guarded.node_id = await guarded.add_node(1)
    for name, stack in (("shop_net", "shop"), (f"{FOREIGN}_net", FOREIGN), ("loose_net", "")):
        await as_root(guarded, "POST", "/networks/create", network(name, stack))
    for name, stack in (("shop_conf", "shop"), (f"{FOREIGN}_conf", FOREIGN), ("loose_conf", "")):
        await as_root(guarded, "POST", "/configs/create", config(name, stack))
    shared = network("square", **{SHARED_LABEL: "yes"})
    await as_root(guarded, "POST", "/networks/create", shared)
    for name, stack, networks in (
        ("shop_web", "shop", ("shop_net", "square")),
        (f"{FOREIGN}_web", FOREIGN, (f"{FOREIGN}_net", "square")),
        ("loose", "", ("loose_net",)),
    ):
        spec = service(name, stack, networks)
        answer = await as_root(guarded, "POST", "/services/create", spec)
        made = guarded.state.services[answer.json["ID"]]
        await guarded.add_task(made, 1, guarded.node_id)
    return guarded


async def update(client, world, name, change):
    found = world.state.service_named(name)
    shown = (await world.call("GET", f"/services/{found.id}", peer=ROOT)).json
    spec = change(shown["Spec"])
    return await client.post(
        f"/services/{found.id}/update?version={shown['Version']['Index']}", spec
    )


# A deployer of everything


async def test_a_deployer_makes_changes_and_removes_services_and_networks(town):
    dora = await with_user(town, "dora", "deployer")
    assert (await dora.post("/networks/create", network("back"))).status == 201
    assert (await dora.post("/services/create", service("web", "", ["back"]))).status == 201
    answer = await update(
        dora, town, "web", lambda spec: {**spec, "Mode": {"Replicated": {"Replicas": 3}}}
    )
    assert answer.status == 200, answer.body
    assert (await dora.call("DELETE", "/services/web")).status == 200
    assert (await dora.call("DELETE", "/networks/back")).status == 204


async def test_a_deployer_changes_neither_nodes_nor_the_cluster(town):
    dora = await with_user(town, "dora", "deployer")
    before = town.state.revision
    for method, url in (
        ("POST", f"/nodes/{town.node_id}/update?version=1"),
        ("DELETE", f"/nodes/{town.node_id}?force=1"),
        ("POST", "/swarm/update?version=1"),
        ("POST", "/essaim/cluster/members"),
        ("GET", "/essaim/raft/dump"),
        ("GET", "/essaim/cluster/backup"),
    ):
        answer = await dora.call(method, url, {})
        assert (answer.status, "it takes the role admin" in answer.message) == (403, True)
    assert town.state.revision == before


@pytest.mark.parametrize(
    ("container", "option"),
    [
        ({"Privileged": True}, "--privileged"),
        ({"CapabilityAdd": ["SYS_ADMIN"]}, "--cap-add"),
        ({"Mounts": [{"Type": "bind", "Source": "/etc", "Target": "/e"}]}, "type=bind"),
    ],
)
async def test_a_deployer_makes_no_service_that_reaches_into_the_node(town, container, option):
    dora = await with_user(town, "dora", "deployer")
    answer = await dora.post("/services/create", service("web", **container))
    assert answer.status == 403
    assert option in answer.message
    assert "needs the admin role" in answer.message
    assert town.state.service_named("web") is None
    root = await with_user(town, "root", "admin")
    assert (await root.post("/services/create", service("web", **container))).status == 201


async def test_a_deployer_neither_changes_nor_brings_back_a_privileged_service(town):
    dora = await with_user(town, "dora", "deployer")
    await as_root(town, "POST", "/services/create", service("web", Privileged=True))
    scaled = await update(
        dora, town, "web", lambda spec: {**spec, "Mode": {"Replicated": {"Replicas": 3}}}
    )
    assert scaled.status == 403
    tamed = await update(dora, town, "web", lambda spec: service("web", Privileged=None))
    assert tamed.status == 200, tamed.body
    found = town.state.service_named("web")
    version = town.state.modified(b"/services/" + found.id.encode())
    for url in (
        f"/essaim/services/web/rollback?version={version}",
        f"/essaim/services/web/rollback?version={version}&to=1",
        f"/services/web/update?version={version}&rollback=previous",
    ):
        answer = await dora.post(url, service("web"))
        assert answer.status == 403, url
    assert (await dora.call("DELETE", "/services/web")).status == 200


async def test_a_deployer_reaches_no_nodes_network(town):
    dora = await with_user(town, "dora", "deployer")
    host = town.state.network_named("host")
    for target in ("host", host.id, host.id[:20]):
        answer = await dora.post("/services/create", service("web", "", [target]))
        assert (answer.status, "--network host" in answer.message) == (403, True)


async def test_a_stack_with_one_privileged_service_is_refused_before_anything_is_written(town):
    dora = await with_user(town, "dora", "deployer")
    before = town.state.revision
    body = {"Services": [service("new_a"), service("new_b", Privileged=True)]}
    answer = await dora.post("/essaim/stacks/new", body)
    assert answer.status == 403
    assert "service new_b: --privileged needs the admin role" in answer.message
    assert town.state.revision == before


# A deployer of one stack


async def test_one_who_is_bound_to_a_stack_deploys_and_removes_it(town):
    sam = await with_user(town, "sam", "deployer", "shop")
    body = {"Networks": [network("shop_back")], "Services": [service("shop_db", "", ["shop_back"])]}
    answer = await sam.post("/essaim/stacks/shop", body)
    assert answer.status == 200, answer.body
    assert (await sam.post("/services/create", service("shop_x", "shop", ["square"]))).status == 201
    for task in list(town.state.tasks.values()):
        if task.service_name.startswith("shop"):
            await town.remove_task(task)
    assert (await sam.call("DELETE", "/essaim/stacks/shop")).status == 200


async def test_what_he_makes_must_be_of_his_stack(town):
    sam = await with_user(town, "sam", "deployer", "shop")
    before = town.state.revision
    for url, body in (
        ("/services/create", service("web")),
        ("/services/create", service("web", FOREIGN)),
        ("/networks/create", network("net")),
        ("/networks/create", network("net", FOREIGN)),
        (f"/essaim/stacks/{FOREIGN}", {"Services": [service("web")]}),
    ):
        answer = await sam.post(url, body)
        assert answer.status == 403, (url, body)
        assert "the stack shop only" in answer.message
    assert (await sam.call("DELETE", f"/essaim/stacks/{FOREIGN}")).status == 403
    assert town.state.revision == before


async def test_nothing_leaves_his_stack_or_comes_into_it(town):
    sam = await with_user(town, "sam", "deployer", "shop")
    for labels in ({}, {STACK_LABEL: FOREIGN}):
        answer = await update(
            sam, town, "shop_web", lambda spec, labels=labels: {**spec, "Labels": labels}
        )
        assert answer.status == 403
    claimed = await update(
        sam, town, "loose", lambda spec: {**spec, "Labels": {STACK_LABEL: "shop"}}
    )
    assert claimed.status == 404
    assert town.state.service_named("loose").spec.labels == {}


@pytest.mark.parametrize("name", [f"{FOREIGN}_web", "loose"])
async def test_services_of_others_are_not_there_for_him(town, name):
    sam = await with_user(town, "sam", "deployer", "shop")
    found = town.state.service_named(name)
    for reference in (name, found.id, found.id[:12]):
        for method, url in (
            ("GET", f"/services/{reference}"),
            ("DELETE", f"/services/{reference}"),
            ("POST", f"/services/{reference}/update?version=1"),
            ("GET", f"/essaim/services/{reference}/history"),
            ("GET", f"/essaim/services/{reference}/runs"),
            ("POST", f"/essaim/services/{reference}/rollback?version=1"),
            ("POST", f"/essaim/services/{reference}/promote?version=1"),
        ):
            answer = await sam.call(method, url, service(name, "shop") if method == "POST" else b"")
            assert (answer.status, answer.message) == (404, f"service {reference} not found")
    assert town.state.service_named(name) is found


async def test_networks_of_others_are_not_there_for_him_but_shared_ones_are(town):
    sam = await with_user(town, "sam", "deployer", "shop")
    shown = {one["Name"] for one in (await sam.get("/networks")).json}
    assert shown == {"shop_net", "square", "default", "host"}
    for name in (f"{FOREIGN}_net", "loose_net"):
        found = town.state.network_named(name)
        for reference in (name, found.id):
            assert (await sam.get(f"/networks/{reference}")).status == 404
            assert (await sam.call("DELETE", f"/networks/{reference}")).status == 404
            answer = await sam.post("/services/create", service("shop_x", "shop", [reference]))
            assert (answer.status, answer.message) == (404, f"network {reference} not found")


async def test_a_shared_network_is_used_and_neither_removed_nor_told_of(town):
    sam = await with_user(town, "sam", "deployer", "shop")
    answer = await sam.call("DELETE", "/networks/square")
    assert answer.status == 403
    assert FOREIGN not in answer.message
    verbose = (await sam.get("/networks/square?verbose=true")).json
    assert set(verbose["Services"]) == {"shop_web"}
    pruned = await sam.post("/networks/prune")
    assert pruned.status == 200
    assert town.state.network_named("square") is not None


async def test_configs_of_others_are_not_there_for_him(town):
    sam = await with_user(town, "sam", "deployer", "shop")
    assert [one["Spec"]["Name"] for one in (await sam.get("/configs")).json] == ["shop_conf"]
    for name in (f"{FOREIGN}_conf", "loose_conf"):
        [found] = [one for one in town.state.payloads("config").values() if one.name == name]
        for reference in (name, found.id):
            for method, url in (
                ("GET", f"/configs/{reference}"),
                ("DELETE", f"/configs/{reference}"),
                ("POST", f"/configs/{reference}/update?version=1"),
                ("POST", f"/essaim/configs/{reference}/data"),
            ):
                body = {"Data": "bmV3"} if url.endswith("/data") else config(name, "shop")
                answer = await sam.call(method, url, body)
                assert (answer.status, found.id in town.state.payloads("config")) == (404, True)
        answer = await sam.post("/services/create", with_config("shop_x", "shop", name))
        assert (answer.status, "not found" in answer.message) == (400, True)


async def test_his_own_configs_are_made_used_changed_and_removed(town):
    sam = await with_user(town, "sam", "deployer", "shop")
    for stack in ("", FOREIGN):
        assert (await sam.post("/configs/create", config("new", stack))).status == 403
    assert (await sam.post("/configs/create", config("shop_new", "shop"))).status == 201
    answer = await sam.post("/services/create", with_config("shop_x", "shop", "shop_new"))
    assert answer.status == 201, answer.body
    [made] = [one for one in town.state.payloads("config").values() if one.name == "shop_new"]
    version = town.state.modified(b"/configs/" + made.id.encode())
    moved = await sam.post(f"/configs/{made.id}/update?version={version}", config("shop_new", ""))
    assert moved.status == 403
    assert (await sam.post("/essaim/configs/shop_new/data", {"Data": "bmV3"})).status == 200
    assert (await sam.call("DELETE", "/services/shop_x")).status == 200
    assert (await sam.call("DELETE", "/configs/shop_new")).status == 204


async def test_keys_of_users_and_the_cluster_as_a_whole_are_not_his(town):
    sam = await with_user(town, "sam", "deployer", "shop")
    for url in ("/essaim/kv", "/essaim/kv/range", "/metrics", "/essaim/network/doctor"):
        assert (await sam.get(url)).status == 403


async def test_nothing_of_another_stack_is_shown_on_any_route(town):
    """Whoever adds a route that users with a scope may read finds himself here."""
    sam = await with_user(town, "sam", "viewer", "shop")
    foreign = town.state.service_named(f"{FOREIGN}_web")
    [task] = town.state.tasks_of_service(foreign.id).values()
    town.figures.container_figures = {task.id: {"ID": task.id, "Service": FOREIGN}}
    marks = [FOREIGN.encode(), foreign.id.encode(), task.id.encode()]
    references = ["shop_web", foreign.id, f"{FOREIGN}_web", "shop_net", "square", f"{FOREIGN}_net"]
    references += [
        "shop_conf",
        f"{FOREIGN}_conf",
        task.id,
        f"{FOREIGN}_web.1.{task.id}",
        town.node_id,
    ]
    asked = 0
    for route in town.app.routes:
        if "GET" not in route.methods or rule_of("GET", route.path).need is not Need.VIEW:
            continue
        for reference in references if "{" in route.path else [""]:
            path = route.path.replace("{reference}", reference)
            for query in ("", "?verbose=true", "?status=true", "?timeout=0"):
                answer = await sam.get(path + query)
                # That something is not found may repeat the question.
                shown = answer.body.replace(reference.encode(), b"") if reference else answer.body
                assert not [mark for mark in marks if mark in shown], (path, answer.body)
                asked += 1
    assert asked > 100


async def test_lists_show_what_is_his(town):
    val = await with_user(town, "val", "viewer", "shop")
    assert [one["Spec"]["Name"] for one in (await val.get("/services")).json] == ["shop_web"]
    tasks = (await val.get("/tasks")).json
    assert {task["ServiceID"] for task in tasks} == {town.state.service_named("shop_web").id}
    on_node = await val.get(f'/tasks?filters={{"node":["{town.node_id}"]}}')
    assert len(on_node.json) == 1
    foreign = town.state.service_named(f"{FOREIGN}_web").id
    assert (await val.get(f'/tasks?filters={{"service":["{foreign}"]}}')).status == 404
    assert [one["Name"] for one in (await val.get("/essaim/stacks")).json] == ["shop"]
    assert len((await val.get("/nodes")).json) == 1


@pytest.mark.parametrize(
    ("source", "status"),
    [
        ("shop_data", 201),
        ("", 201),
        (f"{FOREIGN}_data", 403),
        ("data", 403),
        ("shop", 403),
        ("shopping_data", 403),
    ],
)
async def test_a_user_of_one_stack_mounts_its_volumes_and_no_others(town, source, status):
    sam = await with_user(town, "sam", "deployer", "shop")
    mounts = [{"Type": "volume", "Source": source, "Target": "/d"}]
    answer = await sam.post("/services/create", service("shop_x", "shop", Mounts=mounts))
    assert answer.status == status, answer.body
    body = {"Services": [service("shop_y", "", Mounts=mounts)]}
    assert (await sam.post("/essaim/stacks/shop", body)).status == (200 if status == 201 else 403)
    if status == 403:
        assert f"the volume {source} is not of the stack shop" in answer.message
        dora = await with_user(town, "dora", "deployer")
        made = await dora.post("/services/create", service("shop_x", "shop", Mounts=mounts))
        assert made.status == 201
