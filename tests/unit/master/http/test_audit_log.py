"""Every change through the API leaves a record in its own transaction, and nothing else does."""

import asyncio
import base64

import msgspec
import pytest
from support.callers import ADDRESS, ROOT, STRANGER, Client, user_with_token, with_user

from essaim_master.http.audit_routes import FOLLOWERS_MAX
from essaim_master.http.authentication import BEHALF_HEADER, encode_behalf
from essaim_master.http.caller import Caller
from essaim_master.images.images import Images
from essaim_master.state.keys import audit_key, service_key
from essaim_master.vault import Vault
from essaim_shared.sealing import DataKey

MARK = "never-in-the-log"


def spec(name="web", **container):
    return {"Name": name, "TaskTemplate": {"ContainerSpec": {"Image": "busybox", **container}}}


def records(world):
    return list(world.state.audit_records.values())


def told(world):
    return [(one.who, one.action, one.target) for one in records(world)]


async def lines(world, query="", peer=ROOT):
    answer = await world.call("GET", f"/essaim/audit{query}", peer=peer)
    assert answer.status == 200, answer.body
    return [msgspec.json.decode(line) for line in answer.body.splitlines()]


async def test_a_record_says_who_did_what_from_where(guarded):
    dora = await with_user(guarded, "dora", "deployer")
    made = await dora.post("/services/create", spec())
    [record] = records(guarded)
    assert (record.who, record.source, record.action, record.target, record.master) == (
        "user dora",
        ADDRESS,
        "service create",
        "web",
        "h1",
    )
    assert record.at_ns == guarded.clock.wall_ns()
    # The change and its record are one transaction.
    revision = guarded.state.modified(service_key(made.json["ID"]))
    assert guarded.state.modified(audit_key(record.number)) == revision


async def test_the_socket_is_known_by_its_uid_and_a_master_without_identity_by_nobody(
    guarded, world
):
    assert (await guarded.call("POST", "/services/create", spec(), peer=ROOT)).status == 201
    assert told(guarded) == [("uid 0", "service create", "web")]
    assert (await world.post("/services/create", spec())).status == 201
    assert told(world) == [("anybody", "service create", "web")]


async def test_what_a_master_hands_on_is_recorded_as_his_who_asked(world):
    ann = Caller("user", "ann", "admin", address="203.0.113.5:7")
    headers = {
        BEHALF_HEADER: encode_behalf(ann).decode(),
        "Content-Type": "application/json",
    }
    await world.call("POST", "/services/create", spec(), headers=headers)
    [record] = records(world)
    assert (record.who, record.source) == ("user ann", "203.0.113.5:7")


async def test_each_change_has_its_words(world):
    node = await world.add_node(4, state="down")
    await world.post("/networks/create", {"Name": "net", "Driver": "overlay"})
    await world.post("/services/create", spec())
    web = world.state.service_named("web")
    for _ in range(2):
        version = world.state.modified(service_key(web.id))
        answer = await world.post(f"/services/{web.id}/update?version={version}", spec(Args=["x"]))
        assert answer.status == 200, answer.body
    version = world.state.modified(service_key(web.id))
    await world.post(f"/essaim/services/web/rollback?version={version}")
    await world.post("/essaim/stacks/shop", {"Services": [spec("shop_a"), spec("shop_b")]})
    await world.call("DELETE", "/essaim/stacks/shop")
    await world.call("DELETE", "/services/web")
    await world.call("DELETE", "/networks/net")
    await world.call("DELETE", f"/nodes/{node}")
    await world.post("/configs/create", {"Name": "conf", "Data": "eA=="})
    await world.post("/essaim/configs/conf/data", {"Data": "eQ=="})
    await world.call("DELETE", "/configs/conf")
    await world.post("/essaim/users", {"Name": "ann", "Role": "admin"})
    await world.post("/essaim/users/ann/tokens")
    assert [(action, target) for _, action, target in told(world)] == [
        ("network create", "net"),
        ("service create", "web"),
        ("service update", "web"),
        ("service update", "web"),
        ("service rollback", "web"),
        ("stack deploy", "shop_a"),
        ("stack deploy", "shop_b"),
        ("stack rm", "shop_a"),
        ("stack rm", "shop_b"),
        ("service rm", "web"),
        ("network rm", "net"),
        ("node rm", f"{node} h4"),
        ("config create", "conf"),
        ("config update", "conf"),
        ("config rm", "conf"),
        ("user add", "ann"),
        ("user token", "ann"),
    ]
    assert [one.detail for one in records(world)[-2:]] == [
        "admin",
        f"token {world.state.users['ann'].tokens[0].id}",
    ]


async def test_what_failed_was_refused_or_only_read_leaves_no_record(guarded):
    vera = await with_user(guarded, "vera", "viewer")
    await vera.post("/services/create", spec())
    for method, url in (
        ("GET", "/services"),
        ("POST", "/services/create"),
        ("DELETE", "/services/none"),
        ("POST", "/services/none/update?version=1"),
    ):
        await guarded.call(method, url, {}, peer=ROOT)
    assert records(guarded) == []


async def test_a_change_that_loses_a_race_is_recorded_once(world):
    await world.create("web")

    async def rival():
        await world.post("/networks/create", {"Name": "one", "Driver": "overlay"})

    before = len(records(world))
    world.cluster.before_commit.append(rival)
    await world.post("/networks/create", {"Name": "two", "Driver": "overlay"})
    assert sorted(target for _, _, target in told(world)[before:]) == ["one", "two"]


async def test_keys_of_users_and_what_control_loops_write_are_not_recorded(world):
    await world.call("PUT", "/essaim/kv/keys/a", {"Value": "b"})
    await world.add_node(1)
    assert records(world) == []


async def test_no_secret_token_or_password_stands_in_the_log(world_with):
    world = await world_with(Images(vault=Vault(DataKey(b"k" * 32))))
    data = base64.b64encode(MARK.encode()).decode()
    auth = base64.urlsafe_b64encode(
        msgspec.json.encode({"username": "u", "password": MARK, "serveraddress": "r"})
    ).decode()
    for url, body in (
        ("/secrets/create", {"Name": "s", "Data": data, "Labels": {"l": MARK}}),
        ("/essaim/secrets/s/data", {"Data": data[:-4]}),
        ("/configs/create", {"Name": "c", "Data": data}),
        ("/services/create", spec(Env=[f"PASSWORD={MARK}"], Args=[MARK])),
        ("/essaim/stacks/st", {"Services": [spec("st_a")], "RegistryAuths": {"st_a": auth}}),
        ("/essaim/users", {"Name": "ann", "Role": "viewer"}),
    ):
        headers = {"Content-Type": "application/json", "X-Registry-Auth": auth}
        answer = await world.call("POST", url, body, headers=headers)
        assert answer.status in (200, 201), (url, answer.body)
    token = (await world.post("/essaim/users/ann/tokens")).json["Token"]
    found = [
        value.value
        for number in world.state.audit_records
        if (value := world.state.store.get(audit_key(number))) is not None
    ]
    assert len(found) == 7
    for forbidden in (MARK, data, auth, token):
        assert not [value for value in found if forbidden.encode() in value]


# Reading.


async def test_the_log_is_read_from_a_moment_from_a_revision_and_of_somebody(guarded):
    dora = await with_user(guarded, "dora", "deployer")
    await dora.post("/services/create", spec("one"))
    await guarded.clock.advance(60)
    since_s = guarded.clock.wall_ns() / 1e9
    await guarded.call("POST", "/services/create", spec("two"), peer=ROOT)
    await dora.post("/services/create", spec("three"))
    everything = await lines(guarded)
    assert [line["Target"] for line in everything] == ["one", "two", "three"]
    assert set(everything[0]) == {
        *("Revision", "Time", "Who", "From", "Action", "Target", "Master", "Detail")
    }
    assert [one["Target"] for one in await lines(guarded, f"?since={since_s}")] == ["two", "three"]
    later = await lines(guarded, f"?revision={everything[1]['Revision']}")
    assert [line["Target"] for line in later] == ["three"]
    for who in ("dora", "user%20dora"):
        assert [one["Target"] for one in await lines(guarded, f"?who={who}")] == ["one", "three"]
    assert await lines(guarded, "?who=eve") == []


@pytest.mark.parametrize("query", ["?since=x", "?revision=now", "?since=nan"])
async def test_what_is_no_moment_is_refused(guarded, query):
    assert (await guarded.call("GET", f"/essaim/audit{query}", peer=ROOT)).status == 400


async def follow(world, query, until):
    """The lines of a stream, ended once there are so many records."""
    gone = asyncio.Event()
    reading = asyncio.create_task(
        world.call("GET", f"/essaim/audit?follow=1{query}", peer=ROOT, gone=gone, chunks=[b""])
    )
    for _ in range(5):
        await asyncio.sleep(0)
    await until()
    for _ in range(20):
        await asyncio.sleep(0)
    gone.set()
    answer = await reading
    return [msgspec.json.decode(line) for line in answer.body.splitlines()]


async def test_a_follower_gets_what_was_there_and_what_comes(guarded):
    await guarded.call("POST", "/services/create", spec("one"), peer=ROOT)

    async def more():
        await guarded.add_node(1)
        await guarded.call("POST", "/services/create", spec("two"), peer=ROOT)

    found = await follow(guarded, "", more)
    assert [one["Target"] for one in found if "Who" in one] == ["one", "two"]
    assert [set(one) for one in found if "Who" not in one] == [{"Revision", "Events"}]
    last = next(one for one in found if one.get("Target") == "two")
    assert last["Revision"] == guarded.state.revision
    again = await lines(guarded, f"?revision={found[0]['Revision']}")
    assert [one["Target"] for one in again] == ["two"]


async def test_followers_are_bounded_and_end_with_the_master(guarded):
    gone = asyncio.Event()
    following = [
        asyncio.create_task(
            guarded.call("GET", "/essaim/audit?follow=1", peer=ROOT, gone=gone, chunks=[])
        )
        for _ in range(FOLLOWERS_MAX)
    ]
    for _ in range(5):
        await asyncio.sleep(0)
    answer = await guarded.call("GET", "/essaim/audit?follow=1", peer=ROOT)
    assert (answer.status, "ask another one" in answer.message) == (503, True)
    guarded.app.close()
    assert {answer.status for answer in await asyncio.gather(*following)} == {200}


async def test_a_token_is_not_recorded_with_what_it_does(guarded):
    user, token = user_with_token("ann", "admin")
    await guarded.write(lambda writes: writes.put(user))
    await Client(guarded, token).post("/services/create", spec())
    assert token.secret not in repr(records(guarded))
    assert (await guarded.call("GET", "/essaim/audit", peer=STRANGER)).status == 401
