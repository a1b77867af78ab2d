"""`/services` over a master alone: what it answers, and what it leaves in the state."""

import pytest

from essaim_master.http.service_commits import check_room
from essaim_shared.errors import Conflict, VersionConflict
from essaim_shared.limits import HTTP_BODY_BYTES_MAX, SERVICES_MAX
from essaim_shared.task_state import TaskState

OUT_OF_SEQUENCE = str(VersionConflict())


def body_of(spec_name="web", replicas=3, image="busybox"):
    return {
        "Name": spec_name,
        "TaskTemplate": {"ContainerSpec": {"Image": image}},
        "Mode": {"Replicated": {"Replicas": replicas}},
    }


async def version(world, reference):
    return (await world.get(f"/services/{reference}")).json["Version"]["Index"]


async def test_create_answers_the_id_and_inspect_shows_the_service(world) -> None:
    answer = await world.post("/v1.41/services/create", body_of())
    assert answer.status == 201
    assert answer.json["Warnings"] is None
    shown = (await world.get(f"/v1.41/services/{answer.json['ID']}")).json
    assert shown["ID"] == answer.json["ID"]
    assert shown["Spec"]["Name"] == "web"
    assert shown["Spec"]["Mode"] == {"Replicated": {"Replicas": 3}}
    assert "ServiceStatus" not in shown
    assert answer.headers["content-type"] == "application/json"


async def test_a_taken_name_is_a_conflict_in_dockers_words(world) -> None:
    await world.create("web")
    revision = world.state.revision
    answer = await world.post("/services/create", body_of("web", 9))
    assert answer.status == 409
    assert answer.message == (
        "rpc error: code = AlreadyExists desc = name conflicts with an existing object: "
        "service web already exists"
    )
    assert world.state.revision == revision


async def test_a_service_without_a_name_gets_one_that_is_free(world) -> None:
    names = set()
    for _ in range(30):
        answer = await world.post("/services/create", body_of(""))
        assert answer.status == 201
        names.add(world.state.services[answer.json["ID"]].spec.name)
    assert len(names) == 30


@pytest.mark.parametrize(
    ("body", "status", "sentence"),
    [
        (b"", 400, "invalid JSON: the request has no body"),
        (b"{", 400, "invalid JSON: "),
        (b"[]", 400, "a service spec is an object"),
        (body_of(replicas=-1), 400, "must be from 0 to"),
        (body_of(replicas="three"), 400, '"Mode.Replicated.Replicas": expected `int | null`'),
        (body_of(replicas=10**6), 400, "must be from 0 to"),
        (body_of(image=""), 400, "image reference must be provided"),
        (body_of("no/name"), 400, "name must be valid as a DNS name component"),
        (
            {**body_of(), "Mode": {"Global": {}, "GlobalJob": {}}},
            400,
            "must specify only one service mode",
        ),
        ({**body_of(), "Colour": {"Is": 1}}, 400, 'unknown field "Colour"'),
        (
            {**body_of(), "UpdateConfig": {"Order": "sideways"}},
            400,
            'invalid value "sideways" of the field "UpdateConfig.Order": '
            "it is one of start-first, stop-first",
        ),
    ],
)
async def test_bad_input_is_one_clear_line_and_changes_nothing(
    world, body, status, sentence
) -> None:
    revision = world.state.revision
    answer = await world.post("/v1.47/services/create", body)
    assert answer.status == status
    assert sentence in answer.message
    assert "\n" not in answer.message
    assert world.state.revision == revision


async def test_a_body_over_the_limit_is_refused_and_its_sender_heard_out(world) -> None:
    chunk = b" " * (256 * 1024)
    chunks = [chunk] * (HTTP_BODY_BYTES_MAX // len(chunk) + 2)
    left = list(chunks)
    answer = await world.call("POST", "/services/create", chunks=left)
    assert answer.status == 413
    assert answer.message == (
        f"request body is larger than the limit of {HTTP_BODY_BYTES_MAX} bytes"
    )
    assert answer.headers["connection"] == "close"


async def test_a_body_at_the_limit_that_no_transaction_holds_is_refused(world) -> None:
    labels = {f"label{n}": "x" * 1000 for n in range(1400)}
    answer = await world.post("/services/create", {**body_of(), "Labels": labels})
    assert answer.status == 400
    assert "too large" in answer.message
    assert not world.state.services


async def test_list_shows_all_with_their_status_only_when_asked(world) -> None:
    node = await world.add_node(1)
    web = await world.create("web", 3)
    await world.create("api", 1)
    await world.add_task(web, 1, node)
    await world.add_task(web, 2, node, TaskState.PREPARING)
    plain = (await world.get("/services")).json
    assert {shown["Spec"]["Name"] for shown in plain} == {"web", "api"}
    assert not any("ServiceStatus" in shown for shown in plain)
    counted = (await world.get("/v1.41/services?status=true")).json
    assert {shown["Spec"]["Name"]: shown["ServiceStatus"] for shown in counted} == {
        "web": {"RunningTasks": 1, "DesiredTasks": 3, "CompletedTasks": 0},
        "api": {"RunningTasks": 0, "DesiredTasks": 1, "CompletedTasks": 0},
    }


async def test_list_follows_changes_at_once(world) -> None:
    web = await world.create("web", 3)
    assert (await world.get("/services")).json[0]["Spec"]["Mode"]["Replicated"]["Replicas"] == 3
    at = await version(world, web.id)
    await world.post(f"/services/{web.id}/update?version={at}", body_of(replicas=5))
    assert (await world.get("/services")).json[0]["Spec"]["Mode"]["Replicated"]["Replicas"] == 5
    await world.call("DELETE", "/services/web")
    assert (await world.get("/services")).json == []


async def test_filters_choose_and_unknown_ones_are_refused(world) -> None:
    await world.create("web")
    await world.create("api")
    found = (await world.get('/services?filters={"name":{"we":true}}')).json
    assert [shown["Spec"]["Name"] for shown in found] == ["web"]
    answer = await world.get('/services?filters={"color":["red"]}')
    assert (answer.status, answer.message) == (400, "invalid filter 'color'")


async def test_inspect_shows_defaults_when_asked(world) -> None:
    await world.create("web")
    plain = (await world.get("/services/web?insertDefaults=false")).json["Spec"]["TaskTemplate"]
    full = (await world.get("/services/web?insertDefaults=true")).json["Spec"]["TaskTemplate"]
    assert "RestartPolicy" not in plain
    assert full["RestartPolicy"] == {"Condition": "any", "Delay": 5_000_000_000, "MaxAttempts": 0}
    assert full["ContainerSpec"]["StopGracePeriod"] == 10_000_000_000


async def test_an_update_needs_the_version_that_the_client_read(world) -> None:
    web = await world.create("web", 3)
    first = await version(world, "web")
    answer = await world.post(f"/services/web/update?version={first}", body_of(replicas=4))
    assert (answer.status, answer.json) == (200, {"Warnings": None})
    stale = await world.post(f"/services/web/update?version={first}", body_of(replicas=9))
    assert (stale.status, stale.message) == (500, OUT_OF_SEQUENCE)
    assert world.state.services[web.id].spec.replicas == 4


@pytest.mark.parametrize("text", ["", "x", "-1", "1.5", "1e3", "9" * 30, "٣"])
async def test_a_version_that_is_no_number_is_refused(world, text) -> None:
    await world.create("web")
    answer = await world.post(f"/services/web/update?version={text}", body_of())
    assert answer.status == 400
    assert answer.message.startswith("invalid service version")


async def test_of_two_updates_at_once_exactly_one_succeeds(world) -> None:
    web = await world.create("web", 3)
    at = await version(world, "web")

    async def rival():
        await world.post(f"/services/web/update?version={at}", body_of(replicas=8))

    world.cluster.before_commit.append(rival)
    answer = await world.post(f"/services/web/update?version={at}", body_of(replicas=4))
    assert (answer.status, answer.message) == (500, OUT_OF_SEQUENCE)
    assert world.state.services[web.id].spec.replicas == 8


async def test_an_update_of_a_service_deleted_meanwhile_does_not_bring_it_back(world) -> None:
    await world.create("web")
    at = await version(world, "web")

    async def rival():
        await world.call("DELETE", "/services/web")

    world.cluster.before_commit.append(rival)
    answer = await world.post(f"/services/web/update?version={at}", body_of(replicas=4))
    assert answer.status == 500
    assert not world.state.services


async def test_a_master_that_lags_catches_up_before_it_refuses(world) -> None:
    web = await world.create("web", 3)
    at = await version(world, "web")

    async def missed():
        assert (
            await world.post(f"/services/{web.id}/update?version={at}", body_of(replicas=4))
        ).status == 200

    # The client read version at + 1 from a master that was ahead of this one.
    world.cluster.before_barrier.append(missed)
    answer = await world.post(f"/services/web/update?version={at + 1}", body_of(replicas=5))
    assert answer.status == 200
    assert world.state.services[web.id].spec.replicas == 5


async def test_a_service_created_on_a_master_ahead_is_found(world) -> None:
    async def missed():
        await world.create("web")

    world.cluster.before_barrier.append(missed)
    assert (await world.call("DELETE", "/services/web")).status == 200
    world.cluster.before_barrier.append(missed)
    assert (await world.get("/services/web")).status == 200


async def test_rename_and_rollback_keep_swarms_words(world) -> None:
    web = await world.create("web", 3)
    at = await version(world, "web")
    renamed = await world.post(f"/services/web/update?version={at}", body_of("other"))
    assert renamed.status == 501
    assert "renaming services is not supported" in renamed.message
    early = await world.post(f"/services/web/update?version={at}&rollback=previous", b"{}")
    assert early.status == 400
    assert "does not have a previous spec" in early.message
    odd = await world.post(f"/services/web/update?version={at}&rollback=x", body_of())
    assert odd.message == "unrecognized rollback option x"
    await world.post(f"/services/web/update?version={at}", body_of(replicas=9))
    at = await version(world, "web")
    back = await world.post(f"/services/web/update?version={at}&rollback=previous", b"{}")
    assert back.status == 200
    assert world.state.services[web.id].spec.replicas == 3


async def test_delete_frees_the_name_and_is_refused_twice(world) -> None:
    first = await world.create("web")
    answer = await world.call("DELETE", "/v1.47/services/web")
    assert (answer.status, answer.body) == (200, b"")
    again = await world.call("DELETE", "/services/web")
    assert (again.status, again.message) == (404, "service web not found")
    second = await world.create("web")
    assert second.id != first.id


async def test_a_delete_that_lost_a_race_spares_the_successor_of_the_same_name(world) -> None:
    await world.create("web")
    successor = []

    async def rival():
        await world.call("DELETE", "/services/web")
        successor.append(await world.create("web", 1))

    world.cluster.before_commit.append(rival)
    answer = await world.call("DELETE", "/services/web")
    assert answer.status == 404
    assert list(world.state.services.values()) == successor
    assert (await world.post("/services/create", body_of("web"))).status == 409


async def test_a_delete_while_the_service_is_scaled_succeeds(world) -> None:
    await world.create("web")
    at = await version(world, "web")

    async def rival():
        await world.post(f"/services/web/update?version={at}", body_of(replicas=9))

    world.cluster.before_commit.append(rival)
    assert (await world.call("DELETE", "/services/web")).status == 200
    assert not world.state.services


async def test_without_a_quorum_reads_and_writes_say_so(world) -> None:
    await world.create("web")
    at = await version(world, "web")
    world.cluster.available = False
    requests = [
        ("GET", "/services", b""),
        ("GET", "/services/web", b""),
        ("GET", "/tasks", b""),
        ("GET", "/nodes", b""),
        ("GET", "/info", b""),
        ("POST", "/services/create", body_of("other")),
        ("POST", f"/services/web/update?version={at}", body_of()),
        ("DELETE", "/services/web", b""),
    ]
    for method, url, body in requests:
        answer = await world.call(method, url, body)
        assert answer.status == 503, url
        assert answer.message.startswith("no quorum of masters"), url
    assert (await world.get("/services?consistency=local")).status == 200


async def test_local_reads_need_no_barrier_and_other_words_are_refused(world) -> None:
    await world.create("web")
    before = world.cluster.barriers
    await world.get("/services?consistency=local")
    assert world.cluster.barriers == before
    await world.get("/services?consistency=linearizable")
    assert world.cluster.barriers == before + 1
    answer = await world.get("/services?consistency=eventual")
    assert answer.status == 400


async def test_an_update_at_the_known_version_costs_no_barrier(world) -> None:
    web = await world.create("web")
    at = await version(world, "web")
    before = world.cluster.barriers
    await world.post(f"/services/{web.id}/update?version={at}", body_of())
    assert world.cluster.barriers == before


@pytest.mark.parametrize("declared", [None, "text/plain", "application/x-www-form-urlencoded"])
async def test_a_body_that_a_web_page_could_send_unasked_is_refused(world, declared) -> None:
    headers = {} if declared is None else {"Content-Type": declared}
    answer = await world.call("POST", "/services/create", body_of(), headers=headers)
    assert answer.status == 400
    assert answer.message == (
        f"unsupported Content-Type header ({declared or ''}): must be 'application/json'"
    )
    assert not world.state.services


async def test_a_content_type_may_name_its_character_set(world) -> None:
    headers = {"Content-Type": "Application/JSON; charset=utf-8"}
    answer = await world.call("POST", "/services/create", body_of(), headers=headers)
    assert answer.status == 201


async def test_logs_are_refused_with_a_reason(world) -> None:
    await world.create("web")
    answer = await world.get("/services/web/logs?stdout=1")
    assert answer.status == 501
    assert "logs" in answer.message


async def test_there_are_so_many_services_at_most(world) -> None:
    await world.create("web")
    check_room(world.state, SERVICES_MAX - 1)
    with pytest.raises(Conflict, match="at most 10000 services, and has 1: remove some"):
        check_room(world.state, SERVICES_MAX)
