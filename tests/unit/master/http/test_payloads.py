"""`/secrets` and `/configs`: Docker's routes and words, newer data, and who may read what."""

import base64
import json
import logging

import msgspec
import pytest

from essaim_master.http.authentication import BEHALF_HEADER, encode_behalf
from essaim_master.http.caller import Caller
from essaim_master.http.payload_requests import (
    DataRequest,
    PayloadRequest,
    WantedPayload,
    wanted_payload,
)
from essaim_master.images.images import Images
from essaim_master.state.payload_data import data_numbers
from essaim_master.state.payload_references import references_of
from essaim_master.vault import Vault
from essaim_shared.ids import NodeId, PayloadId
from essaim_shared.limits import (
    CONFIG_BYTES_MAX,
    DATA_NUMBERS_KEPT,
    DATA_NUMBERS_MAX,
    PAYLOADS_BYTES_MAX,
    SECRET_BYTES_MAX,
    SECRETS_MAX,
)
from essaim_shared.payload_objects import ConfigData, Secret, SecretData
from essaim_shared.sealing import DataKey
from essaim_shared.task_state import TaskState

KINDS = ("secret", "config")


@pytest.fixture
async def world(world_with):
    return await world_with(Images(vault=Vault(DataKey(bytes(32)))))


def b64(data):
    return base64.b64encode(data).decode()


def spec(name="pass", data=b"s3cret", **fields):
    return {"Name": name, "Data": b64(data), **fields}


async def made(world, kind, name="pass", data=b"s3cret", **fields):
    answer = await world.post(f"/{kind}s/create", spec(name, data, **fields))
    assert answer.status == 201, answer.message
    return PayloadId(answer.json["ID"])


async def newer(world, kind, name="pass", data=b"newer"):
    answer = await world.post(f"/essaim/{kind}s/{name}/data", {"Data": b64(data)})
    assert answer.status == 200, answer.message
    return answer.json


def reference(kind, name="pass", payload_id="", target="", **fields):
    title = kind.title()
    named = {f"{title}Name": name, **({f"{title}ID": payload_id} if payload_id else {})}
    return {
        **named,
        "File": {"Name": target or name, "UID": "0", "GID": "0", "Mode": 0o444},
        **fields,
    }


def service(kind, *references, name="web", **fields):
    container = {"Image": "web:1", f"{kind.title()}s": list(references)}
    return {
        "Name": name,
        "TaskTemplate": {"ContainerSpec": container},
        "Mode": {"Replicated": {"Replicas": 1}},
        **fields,
    }


def numbers(world, name="web"):
    container = world.state.service_named(name).spec.task.container
    return [one.data_version for one in references_of(container)]


async def changed(world, kind, *references, name="web", **fields):
    present = (await world.get(f"/services/{name}")).json
    return await world.post(
        f"/services/{name}/update?version={present['Version']['Index']}",
        service(kind, *references, name=name, **fields),
    )


@pytest.mark.parametrize("kind", KINDS)
async def test_the_life_of_one(world, kind) -> None:
    payload_id = await made(world, kind, Labels={"a": "b"})
    (listed,) = (await world.get(f"/{kind}s")).json
    assert listed["ID"] == payload_id
    assert listed["Spec"] == {"Name": "pass", "Labels": {"a": "b"}}
    for name in (payload_id, "pass", payload_id[:9]):
        shown = (await world.get(f"/{kind}s/{name}")).json
        assert shown["ID"] == payload_id
        data = {} if kind == "secret" else {"Data": b64(b"s3cret")}
        assert shown["Spec"] == {"Name": "pass", "Labels": {"a": "b"}, **data}
    again = await world.post(f"/{kind}s/create", spec())
    assert (again.status, again.message) == (
        409,
        f"rpc error: code = AlreadyExists desc = {kind} pass already exists",
    )
    assert (await world.call("DELETE", f"/{kind}s/pass")).status == 204
    gone = await world.get(f"/{kind}s/pass")
    assert (gone.status, gone.message) == (404, f"{kind} pass not found")
    assert not [found for found in world.state.store.range(b"/") if b"pass" in found.key]
    assert data_numbers(world.state, kind, payload_id) == []
    await made(world, kind)


@pytest.mark.parametrize("kind", KINDS)
async def test_lists_are_filtered_as_docker_does(world, kind) -> None:
    for name in ("db", "db-old", "web"):
        await made(world, kind, name, Labels={"for": name})

    async def found(**filters):
        answer = await world.get(f"/{kind}s?filters={json.dumps(filters)}")
        return sorted(one["Spec"]["Name"] for one in answer.json)

    assert await found(name=["db"]) == ["db", "db-old"]
    assert await found(names=["db"]) == ["db"]
    assert await found(label=["for=web"]) == ["web"]
    assert (await world.get(f'/{kind}s?filters={{"x":["y"]}}')).status == 400


BAD = [
    ({"Name": ""}, 400, "name must be provided"),
    ({"Name": "-x"}, 400, "only 64 [a-zA-Z0-9-_.] characters allowed"),
    ({"Name": "x" * 65}, 400, "only 64"),
    ({"Name": "x\n"}, 400, "only 64"),
    ({"Data": ""}, 400, "data must be larger than 0 and less than"),
    ({"Data": "no base64!"}, 400, 'invalid "Data": it is not base64'),
    ({"Data": 5}, 400, '"Data"'),
    ({"Driver": {"Name": "vault"}}, 501, "drivers are not supported"),
    ({"Templating": {"Name": "golang"}}, 501, "templates in"),
    ({"Labels": {"": "x"}}, 400, "the name of a label cannot be empty"),
    ({"Labels": {"x": "y" * 20_000}}, 400, "the labels take 20001 bytes"),
    ({"Other": 1}, 400, 'unknown field "Other"'),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("fields", "status", "words"), BAD)
async def test_what_cannot_be_is_refused(world, kind, fields, status, words) -> None:
    answer = await world.post(f"/{kind}s/create", {**spec(), **fields})
    assert answer.status == status
    assert words in answer.message
    assert (await world.get(f"/{kind}s")).json == []


@pytest.mark.parametrize(
    ("kind", "most"), [("secret", SECRET_BYTES_MAX), ("config", CONFIG_BYTES_MAX)]
)
async def test_the_largest_fits_and_one_byte_more_does_not(world, kind, most) -> None:
    await made(world, kind, data=bytes(most))
    await newer(world, kind, data=b"\1" * most)
    answer = await world.post(f"/{kind}s/create", spec("more", bytes(most + 1)))
    assert answer.status == 400
    assert answer.message.endswith(f"larger than 0 and less than {most + 1} bytes")


async def test_there_is_a_bound_on_how_many_and_how_much(world) -> None:
    def fill(writes):
        for number in range(SECRETS_MAX):
            writes.put(
                Secret(id=PayloadId(f"s{number}"), name=f"n{number}", created_ns=1, updated_ns=1)
            )

    await world.write(fill)
    answer = await world.post("/secrets/create", spec())
    assert (answer.status, answer.message) == (
        409,
        f"with it there are more than {SECRETS_MAX} secrets: remove some",
    )
    part = bytes(512 * 1024)
    for number in range(PAYLOADS_BYTES_MAX // len(part)):
        stored = ConfigData(config_id=PayloadId("c"), number=number, data=part, created_ns=1)
        await world.write(lambda writes, stored=stored: writes.put(stored))
    answer = await world.post("/configs/create", spec())
    assert answer.status == 409
    assert "remove some of them" in answer.message


async def test_without_a_key_secrets_are_refused_in_words_and_configs_are_not(world_with) -> None:
    world = await world_with(Images())
    answer = await world.post("/secrets/create", spec())
    assert answer.status == 501
    assert "set seal_key_file on all masters" in answer.message
    await made(world, "config")


@pytest.mark.parametrize("kind", KINDS)
async def test_dockers_update_changes_labels_and_nothing_else(world, kind) -> None:
    await made(world, kind)
    before = (await world.get(f"/{kind}s/pass")).json
    update = f"/{kind}s/{before['ID']}/update?version={before['Version']['Index']}"
    for fields in ({"Name": "other"}, {"Data": b64(b"x")}):
        answer = await world.post(update, {"Name": "pass", "Labels": {}, **fields})
        assert (answer.status, answer.message) == (
            400,
            "rpc error: code = InvalidArgument desc = only updates to Labels are allowed",
        )
    assert (await world.post(update, {"Name": "pass", "Labels": {"x": "y"}})).status == 200
    stale = await world.post(update, spec(Labels={}))
    assert (stale.status, stale.message) == (
        500,
        "rpc error: code = Unknown desc = update out of sequence",
    )
    after = (await world.get(f"/{kind}s/pass")).json
    assert after["Spec"]["Labels"] == {"x": "y"}
    # Docker's stacks send the data along; what is there already is no change.
    again = f"/{kind}s/pass/update?version={after['Version']['Index']}"
    assert (await world.post(again, spec(Labels={"z": ""}))).status == 200


@pytest.mark.parametrize("kind", KINDS)
async def test_newer_data_is_a_new_number_and_the_same_again_is_none(world, kind) -> None:
    payload_id = await made(world, kind)
    await world.post("/services/create", service(kind, reference(kind)))
    first = await newer(world, kind)
    assert first == {"ID": payload_id, "DataVersion": 2, "Changed": True, "Services": ["web"]}
    assert (await newer(world, kind))["Changed"] is False
    shown = (await world.get(f"/{kind}s/pass")).json
    assert (shown["DataVersion"], shown["DataVersions"]) == (2, [1, 2])
    assert (await world.post(f"/essaim/{kind}s/gone/data", {"Data": b64(b"x")})).status == 404


@pytest.mark.parametrize("kind", KINDS)
async def test_two_who_bring_new_data_at_once_get_a_number_each(world, kind) -> None:
    await made(world, kind)

    async def rival():
        await newer(world, kind, data=b"rival's")

    world.cluster.before_commit.append(rival)
    assert (await newer(world, kind, data=b"mine"))["DataVersion"] == 3


@pytest.mark.parametrize("kind", KINDS)
async def test_old_numbers_go_but_for_those_that_something_refers_to(world, kind) -> None:
    payload_id = await made(world, kind)
    await world.post("/services/create", service(kind, reference(kind, Pinned=True)))
    for number in range(2, 2 + DATA_NUMBERS_KEPT + 2):
        await newer(world, kind, data=b"%d" % number)
    last = DATA_NUMBERS_KEPT + 3
    assert data_numbers(world.state, kind, payload_id) == [
        1,
        *range(last - DATA_NUMBERS_KEPT + 1, last + 1),
    ]
    answer = await world.post(
        "/services/create", service(kind, reference(kind, DataVersion=2), name="late")
    )
    assert answer.status == 400
    assert f"{kind} pass has no data number 2: the newest is {last}" in answer.message


async def test_too_many_old_numbers_in_use_are_refused_in_words(world) -> None:
    await made(world, "config")
    for number in range(1, DATA_NUMBERS_MAX):
        pinned = reference("config", Pinned=True)
        body = service("config", pinned, name=f"s{number}")
        assert (await world.post("/services/create", body)).status == 201
        await newer(world, "config", data=b"%d" % number)
    body = service("config", reference("config", Pinned=True), name="last")
    assert (await world.post("/services/create", body)).status == 201
    answer = await world.post("/essaim/configs/pass/data", {"Data": b64(b"more")})
    assert answer.status == 409
    assert "services or tasks still refer to" in answer.message


@pytest.mark.parametrize("kind", KINDS)
async def test_one_in_use_is_not_removed(world, kind) -> None:
    payload_id = await made(world, kind)
    for name in ("web", "api"):
        body = service(kind, reference(kind, payload_id=payload_id), name=name)
        assert (await world.post("/services/create", body)).status == 201
    answer = await world.call("DELETE", f"/{kind}s/pass")
    assert (answer.status, answer.message) == (
        400,
        f"rpc error: code = InvalidArgument desc = {kind} 'pass' is in use by the following "
        "services: web, api",
    )
    await world.call("DELETE", "/services/api")
    answer = await world.call("DELETE", f"/{kind}s/pass")
    assert answer.message.endswith("is in use by the following service: web")
    await world.call("DELETE", "/services/web")
    assert (await world.call("DELETE", f"/{kind}s/pass")).status == 204


@pytest.mark.parametrize("kind", KINDS)
async def test_a_removal_and_a_service_that_comes_at_the_same_moment(world, kind) -> None:
    """Whichever is first, the other sees it."""
    await made(world, kind)

    async def create():
        assert (await world.post("/services/create", service(kind, reference(kind)))).status == 201

    world.cluster.before_commit.append(create)
    answer = await world.call("DELETE", f"/{kind}s/pass")
    assert answer.status == 400
    await world.call("DELETE", "/services/web")

    async def remove():
        assert (await world.call("DELETE", f"/{kind}s/pass")).status == 204

    world.cluster.before_commit.append(remove)
    answer = await world.post("/services/create", service(kind, reference(kind)))
    assert (answer.status, answer.message) == (
        400,
        f"rpc error: code = InvalidArgument desc = {kind} not found: pass",
    )


@pytest.mark.parametrize("kind", KINDS)
async def test_a_number_that_is_forgotten_as_a_service_pins_it(world, kind) -> None:
    payload_id = await made(world, kind)
    for number in range(2, 1 + DATA_NUMBERS_KEPT):
        await newer(world, kind, data=b"%d" % number)

    async def pin():
        body = service(kind, reference(kind, DataVersion=1, Pinned=True))
        assert (await world.post("/services/create", body)).status == 201

    world.cluster.before_commit.append(pin)
    await newer(world, kind)
    assert 1 in data_numbers(world.state, kind, payload_id)
    assert numbers(world) == [1]


@pytest.mark.parametrize("kind", KINDS)
async def test_services_name_them_by_id_and_name_and_get_the_number(world, kind) -> None:
    payload_id = await made(world, kind)
    await newer(world, kind)
    title = kind.title()
    body = service(kind, reference(kind, payload_id=payload_id), reference(kind, target="second"))
    assert (await world.post("/services/create", body)).status == 201
    shown = (await world.get("/services/web")).json["Spec"]["TaskTemplate"]["ContainerSpec"]
    first = shown[f"{title}s"][0]
    assert first[f"{title}ID"] == payload_id
    assert first[f"{title}Name"] == "pass"
    assert first["DataVersion"] == 2
    assert first["File"]["Name"] == "pass"
    assert "Pinned" not in first
    assert numbers(world) == [2, 2]


REFUSED = [
    ({"Name": "gone"}, "not found: gone"),
    ({"ID": "0" * 25}, "not found: pass"),
    ({"Name": ""}, "malformed {} reference"),
    ({"File": None}, "malformed {} reference, no target provided"),
    ({"File": {"Name": ""}}, "malformed file {} reference, invalid target file name provided"),
    ({"File": {"Name": "x", "UID": "root"}}, "invalid uid 'root': it is a number"),
    ({"File": {"Name": "x", "GID": "-1"}}, "invalid gid '-1'"),
    ({"File": {"Name": "x", "Mode": 0o4755}}, "invalid mode 2541"),
    ({"File": {"Name": "x", "Mode": -1}}, "invalid mode -1"),
    ({"File": {"Name": "x\0"}}, "NUL"),
    ({"File": {"Name": "x/"}}, "is no file name"),
    ({"File": {"Name": "/"}}, "is no file name"),
    ({"File": {"Name": "../x"}}, "is no file name"),
    ({"File": {"Name": "x" * 4001}}, "the target is too long"),
    ({"DataVersion": 9}, "pass has no data number 9: the newest is 1"),
    ({"DataVersion": 0}, "has no data number 0"),
    ({"DataVersion": -1}, "has no data number -1"),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("fields", "words"), REFUSED)
async def test_a_reference_that_cannot_be(world, kind, fields, words) -> None:
    await made(world, kind)
    title = kind.title()
    changes = {f"{title}{key}" if key in ("ID", "Name") else key: fields[key] for key in fields}
    body = service(kind, {**reference(kind), **changes})
    answer = await world.post("/services/create", body)
    assert answer.status == 400
    assert words.format(kind) in answer.message


async def test_targets_that_conflict(world) -> None:
    for kind in KINDS:
        await made(world, kind, "a")
        await made(world, kind, "b")
        body = service(kind, reference(kind, "a", target="x"), reference(kind, "b", target="./x"))
        answer = await world.post("/services/create", body)
        assert answer.message.endswith(
            f"{kind} references 'a' and 'b' have a conflicting target: './x'"
        )
    body = service("secret", reference("secret", "a", target="/etc/x"))
    container = body["TaskTemplate"]["ContainerSpec"]
    container["Configs"] = [reference("config", "b", target="/etc/x")]
    answer = await world.post("/services/create", body)
    assert "secret reference 'a' and config reference 'b' have a conflicting" in answer.message
    many = [reference("secret", "a", target=f"t{number}") for number in range(41)]
    answer = await world.post("/services/create", service("secret", *many))
    assert "41 secrets and configs are too many" in answer.message


@pytest.mark.parametrize("kind", KINDS)
async def test_clients_that_write_back_without_our_fields(world, kind) -> None:
    """Docker's: a pin stays, a follower takes the newest, and data that a rollback left behind is
    taken up only when it is asked for."""
    await made(world, kind)
    pinned = reference(kind, target="pinned", Pinned=True)
    await world.post("/services/create", service(kind, reference(kind), pinned))
    await newer(world, kind)
    plain = (reference(kind), reference(kind, target="pinned"))
    assert (await changed(world, kind, *plain)).status == 200
    assert numbers(world) == [2, 1]
    present = (await world.get("/services/web")).json
    version = present["Version"]["Index"]
    back = await world.post(f"/services/web/update?version={version}&rollback=previous", {})
    assert back.status == 200
    assert numbers(world) == [1, 1]
    assert (await changed(world, kind, *plain, Labels={"a": "b"})).status == 200
    assert numbers(world) == [1, 1]
    asked = reference(kind, DataVersion=None)
    assert (
        await changed(world, kind, asked, {**pinned, "Pinned": None, "DataVersion": None})
    ).status == 200
    assert numbers(world) == [2, 2]
    web = world.state.service_named("web").spec.task.container
    assert not any(one.is_pinned is True for one in references_of(web))


@pytest.mark.parametrize("kind", KINDS)
async def test_a_rollback_to_data_that_is_gone_is_refused_in_words(world, kind) -> None:
    await made(world, kind)
    await made(world, kind, "other")
    await world.post("/services/create", service(kind, reference(kind)))
    assert (await changed(world, kind, reference(kind, "other"))).status == 200
    assert (await world.call("DELETE", f"/{kind}s/pass")).status == 204
    version = (await world.get("/services/web")).json["Version"]["Index"]
    for path in (
        f"/services/web/update?version={version}&rollback=previous",
        f"/essaim/services/web/rollback?version={version}&to=1",
    ):
        answer = await world.post(path, {})
        assert (answer.status, answer.message) == (
            400,
            f"rpc error: code = InvalidArgument desc = {kind} not found: pass",
        )


# Nodes.


def _from(caller):
    """The word of a master that hands the request on; whom it is believed of is the gate's."""
    return BEHALF_HEADER.lower().encode(), encode_behalf(caller)


async def fetch(world, kind, payload_id, number, node="own", caller_kind="agent"):
    """As the node's agent, over a connection that says so."""
    sent = []

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        sent.append(message)

    path = f"/essaim/node/{kind}s/{payload_id}/{number}"
    scope = {
        "type": "http",
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [] if node is None else [_from(Caller(caller_kind, node))],
        "extensions": {},
    }
    await world.app(scope, receive, send)
    body = b"".join(message.get("body", b"") for message in sent[1:])
    return sent[0]["status"], body


async def with_task(world, kind, desired=TaskState.RUNNING, observed=TaskState.RUNNING):
    payload_id = await made(world, kind)
    await world.post("/services/create", service(kind, reference(kind)))
    web = world.state.service_named("web")
    await world.add_task(web, 1, NodeId("own"), desired=desired, observed=observed)
    return payload_id


@pytest.mark.parametrize("kind", KINDS)
async def test_a_node_with_a_task_gets_the_bytes(world, kind) -> None:
    payload_id = await with_task(world, kind)
    await newer(world, kind)
    assert await fetch(world, kind, payload_id, 1) == (200, b"s3cret")
    other = "config" if kind == "secret" else "secret"
    refused = {
        await fetch(world, kind, payload_id, 2),
        await fetch(world, kind, payload_id, 99),
        await fetch(world, kind, payload_id, "x"),
        await fetch(world, kind, payload_id, "9" * 30),
        await fetch(world, kind, "gone", 1),
        await fetch(world, kind, payload_id, 1, node="other"),
        await fetch(world, kind, payload_id, 1, node=None),
        await fetch(world, kind, payload_id, 1, caller_kind="master"),
    }
    ((status, body),) = refused
    assert status == 403
    assert msgspec.json.decode(body) == {
        "message": f"this {kind} is only for nodes that have a task with it"
    }
    assert (await fetch(world, other, payload_id, 1))[0] == 403


@pytest.mark.parametrize(
    ("desired", "observed", "status"),
    [
        (TaskState.READY, TaskState.ASSIGNED, 200),
        (TaskState.COMPLETE, TaskState.PREPARING, 200),
        (TaskState.SHUTDOWN, TaskState.RUNNING, 403),
        (TaskState.RUNNING, TaskState.FAILED, 403),
        (TaskState.REMOVE, TaskState.RUNNING, 403),
    ],
)
async def test_only_for_a_task_that_is_to_run(world, desired, observed, status) -> None:
    secret_id = await with_task(world, "secret", desired=desired, observed=observed)
    assert (await fetch(world, "secret", secret_id, 1))[0] == status


# What must not be seen.

MARKER = b"MARKER-7f3a9c"


async def test_no_answer_repr_or_log_shows_what_is_in_a_secret(world, caplog) -> None:
    caplog.set_level(logging.DEBUG)
    for kind in KINDS:
        await made(world, kind, kind, MARKER)
        await newer(world, kind, kind, MARKER + b"2")
    body = service("secret", reference("secret", "secret"))
    await world.post("/services/create", body)
    answers = []
    for path in (
        "/secrets",
        "/configs",
        "/secrets/secret",
        "/services",
        "/services/web",
        "/tasks",
        "/info",
        "/metrics",
        "/essaim/raft",
        "/essaim/figures",
        "/essaim/services/web/history",
    ):
        answers.append(await world.get(path))
    bad = {**spec("secret", MARKER), "Other": 1}
    for path, fields in (
        ("/secrets/create", spec("secret", MARKER)),
        ("/secrets/create", bad),
        ("/secrets/create", {**spec("x"), "Data": MARKER.decode() + "!"}),
        ("/secrets/create", {**spec("-", MARKER)}),
        ("/secrets/create", spec("large", MARKER * 100_000)),
        ("/essaim/secrets/secret/data", {"Data": b64(MARKER), "X": 1}),
        ("/essaim/secrets/secret/data", {"Data": [MARKER.decode()]}),
        ("/secrets/secret/update?version=1", spec("secret", MARKER)),
    ):
        answers.append(await world.post(path, fields))
    answers.append(await world.call("DELETE", "/secrets/secret"))
    for seen in (MARKER, b64(MARKER)[:-4].encode(), MARKER.hex().encode()):
        assert not [answer.body for answer in answers if seen in answer.body]
        assert seen.decode() not in caplog.text
    stored = [
        found.value
        for found in world.state.store.range(b"/")
        if MARKER in found.value and not found.key.startswith(b"/config_data/")
    ]
    assert not stored
    shown = [
        repr(SecretData(secret_id="s", number=1, sealed=MARKER, created_ns=1)),
        repr(ConfigData(config_id="s", number=1, data=MARKER, created_ns=1)),
        repr(PayloadRequest(data=MARKER.decode())),
        repr(DataRequest(data=MARKER.decode())),
        repr(WantedPayload(kind="secret", name="x", data=MARKER)),
        repr(wanted_payload(spec("x", MARKER), "secret")),
    ]
    assert not [text for text in shown if MARKER.decode() in text]


async def test_the_log_of_the_masters_shows_no_data(world) -> None:
    """`/essaim/raft/log` and the tools decode what they can; not this."""
    from essaim_master.inspection import entry_object, stored_object
    from essaim_master.kv.commands import Command, ProposalId, Put, Transaction, encode_command
    from essaim_master.raft.messages import Entry, EntryKind

    stored = msgspec.msgpack.encode({"data": MARKER})
    for key in (b"/config_data/c/1", b"/secret_data/s/1"):
        transaction = Transaction((), (Put(key, stored),))
        data = encode_command(Command(ProposalId("c", 1), 1, transaction))
        shown = json.dumps(entry_object(Entry(1, 1, EntryKind.NORMAL, data)))
        shown += json.dumps(stored_object(key, stored))
        assert MARKER.decode() not in shown
        assert MARKER.hex() not in shown
        assert key.decode() in shown


async def test_a_master_that_lags_looks_again_before_it_refuses(world) -> None:
    """What another master has acknowledged, a client may use here at once."""

    async def missed():
        await made(world, "secret")

    world.cluster.before_barrier.append(missed)
    answer = await world.post("/services/create", service("secret", reference("secret")))
    assert answer.status == 201
