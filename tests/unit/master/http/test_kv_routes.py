"""`/essaim/kv/…`: keys, transactions and leases as clients see them."""

import asyncio
import base64

import msgspec
import pytest

from essaim_master.http.kv_routes import STREAMS_MAX
from essaim_master.kv.commands import Put, Transaction
from essaim_master.kv.leases import LEASE_TTL_S_MAX
from essaim_master.kv.user_keys import KEY_BYTES_MAX
from essaim_master.versions import CLUSTER_VERSION
from essaim_shared.limits import TRANSACTION_OPERATIONS_MAX
from essaim_shared.objects import ClusterVersion


@pytest.fixture
async def world(world):
    await speak(world, CLUSTER_VERSION)
    return world


async def speak(world, version):
    """All masters announced that they understand this version."""
    await world.write(lambda writes: writes.put(ClusterVersion(version=version)))


async def put(world, key, value="v", **rest):
    answer = await world.call("PUT", f"/essaim/kv/keys/{key}", {"Value": value, **rest})
    assert answer.status == 200, answer.body
    return answer.json


async def transact(world, **parts):
    return await world.post("/essaim/kv/txn", parts)


async def test_a_key_is_put_read_and_deleted(world) -> None:
    written = await put(world, "a/b", "1")
    read = (await world.get("/essaim/kv/keys/a/b")).json
    assert read == {
        "Revision": written["Revision"],
        "KV": {
            "Key": "a/b",
            "Value": "1",
            "Created": written["Revision"],
            "Modified": written["Revision"],
            "Version": 1,
        },
    }
    again = await put(world, "a/b", "2", PrevKV=True)
    assert [kv["Value"] for kv in again["PrevKVs"]] == ["1"]
    gone = (await world.call("DELETE", "/essaim/kv/keys/a/b?prev_kv=1")).json
    assert gone["Deleted"] == 1
    assert [kv["Value"] for kv in gone["PrevKVs"]] == ["2"]
    answer = await world.get("/essaim/kv/keys/a/b")
    assert (answer.status, answer.message) == (404, "no key 'a/b'")


async def test_a_key_can_be_read_as_it_was(world) -> None:
    first = await put(world, "a", "1")
    await put(world, "a", "2")
    url = f"/essaim/kv/keys/a?revision={first['Revision']}"
    assert (await world.get(url)).json["KV"]["Value"] == "1"


async def test_users_reach_no_object_of_the_cluster_and_no_object_is_among_their_keys(
    world,
) -> None:
    await world.create("web")
    assert (await world.get("/essaim/kv/range")).json["KVs"] == []
    for key in ("/services/x", "services/x", "/cluster/leader", "/kv/a"):
        await put(world, key)
    assert world.state.leader_epoch is None
    assert len(world.state.services) == 1
    gone = await world.call("DELETE", "/essaim/kv/range")
    assert gone.json["Deleted"] == 4
    assert len(world.state.services) == 1


async def test_bytes_that_are_no_text_travel_as_base64(world) -> None:
    data = {"Base64": base64.b64encode(b"\xff\x00").decode()}
    answer = await transact(world, Then=[{"Op": "put", "Key": data, "Value": data}])
    assert answer.status == 200
    (found,) = (await world.get("/essaim/kv/range")).json["KVs"]
    assert (found["Key"], found["Value"]) == (data, data)
    key = base64.urlsafe_b64encode(b"\xff\x00").decode()
    read = await world.get(f"/essaim/kv/keys/{key}?base64=1")
    assert read.json["KV"]["Key"] == data
    assert (await world.get("/essaim/kv/keys/*?base64=1")).status == 400


async def test_pages_of_one_revision_fit_together_while_others_write(world) -> None:
    for number in range(7):
        await put(world, f"p/{number}")
    found, start, revision = [], "p/", 0
    while True:
        page = (
            await world.get(
                f"/essaim/kv/range?start={start}&end=p0&limit=3&revision={revision or 0}"
            )
        ).json
        revision = page["Revision"]
        found += [kv["Key"] for kv in page["KVs"]]
        await world.call("DELETE", "/essaim/kv/keys/p/5")
        await put(world, "p/new")
        if not page["More"]:
            break
        start = found[-1] + "%00"
    assert found == [f"p/{number}" for number in range(7)]


async def test_a_transaction_answers_for_each_operation_of_its_branch(world) -> None:
    await put(world, "a", "1")
    await put(world, "b/1")
    await put(world, "b/2")
    parts = {
        "If": [{"Key": "a", "Target": "value", "Value": "1"}],
        "Then": [
            {"Op": "put", "Key": "a", "Value": "2", "PrevKV": True},
            {"Op": "put", "Key": "c", "Value": "3"},
            {"Op": "get", "Prefix": "b/", "Limit": 1},
            {"Op": "delete", "Prefix": "b/"},
            {"Op": "get", "Key": "b/1"},
        ],
        "Else": [{"Op": "get", "Key": "a"}],
    }
    held = (await transact(world, **parts)).json
    assert held["Succeeded"] is True
    put_a, put_c, some, deleted, nothing = held["Results"]
    assert [kv["Value"] for kv in put_a["PrevKVs"]] == ["1"]
    assert put_c == {"Deleted": 0, "PrevKVs": []}
    assert ([kv["Key"] for kv in some["KVs"]], some["Count"], some["More"]) == (["b/1"], 2, True)
    assert deleted["Deleted"] == 2
    assert nothing == {"KVs": [], "Count": 0, "More": False}
    failed = (await transact(world, **parts)).json
    assert failed["Succeeded"] is False
    assert [kv["Value"] for kv in failed["Results"][0]["KVs"]] == ["2"]
    assert failed["Revision"] == held["Revision"]


@pytest.mark.parametrize(
    ("compare", "holds"),
    [
        ({"Target": "version", "Number": 2}, True),
        ({"Target": "version", "Relation": ">", "Number": 2}, False),
        ({"Target": "create", "Relation": "<", "Number": 9999}, True),
        ({"Target": "mod", "Relation": "!=", "Number": 0}, True),
        ({"Target": "lease", "Number": 0}, True),
        ({"Target": "lease", "Relation": "!=", "Value": "7f"}, True),
        ({"Target": "value", "Relation": "<", "Value": "b"}, True),
        ({"Target": "value", "Relation": "!=", "Value": "aa"}, False),
    ],
)
async def test_compares(world, compare, holds) -> None:
    await put(world, "k", "a")
    await put(world, "k", "aa")
    answer = await transact(world, If=[{"Key": "k", **compare}])
    assert answer.json["Succeeded"] is holds


@pytest.mark.parametrize(
    "parts",
    [
        {"Then": [{"Op": "put", "Key": "a"}]},
        {"Then": [{"Op": "put", "Key": "", "Value": "x"}]},
        {"Then": [{"Op": "put", "Key": "a", "Prefix": "b", "Value": "x"}]},
        {"Then": [{"Op": "get"}]},
        {"Then": [{"Op": "get", "Key": "a", "Prefix": "a"}]},
        {"Then": [{"Op": "get", "Key": "a", "Value": "x"}]},
        {"Then": [{"Op": "delete", "Key": "a", "Limit": 1}]},
        {"Then": [{"Op": "increment", "Key": "a"}]},
        {
            "Then": [
                {"Op": "put", "Key": "a", "Value": "1"},
                {"Op": "put", "Key": "a", "Value": "2"},
            ]
        },
        {"Then": [{"Op": "put", "Key": "a", "Value": "x", "Lease": "-1"}]},
        {"Then": [{"Op": "put", "Key": "a", "Value": "x", "Lease": "0"}]},
        {"Then": [{"Op": "put", "Key": "a", "Value": {"Base64": "%"}}]},
        {"Then": [{"Op": "get", "Key": "a"}] * (TRANSACTION_OPERATIONS_MAX + 1)},
        {"If": [{"Key": "a", "Target": "mod"}]},
        {"If": [{"Key": "a", "Target": "mod", "Number": -1}]},
        {"If": [{"Key": "a", "Target": "mod", "Number": 1, "Relation": ">="}]},
        {"If": [{"Key": "a", "Target": "value", "Number": 1}]},
        {"If": [{"Key": "a", "Target": "version", "Value": "1"}]},
        {"If": [{"Key": "a", "Target": "mod", "Number": 1}] * (TRANSACTION_OPERATIONS_MAX + 1)},
        {"Unless": []},
    ],
)
async def test_what_a_transaction_cannot_mean_is_refused_and_changes_nothing(world, parts) -> None:
    revision = world.state.revision
    answer = await transact(world, **parts)
    assert answer.status == 400
    assert answer.message
    assert world.state.revision == revision


@pytest.mark.parametrize(
    "url",
    [
        "keys/",
        "keys/" + "k" * (KEY_BYTES_MAX + 1),
        "keys/a?revision=-1",
        "range?limit=x",
        "range?prefix=a&start=b",
        "range?revision=99999",
        "range?consistency=perhaps",
        "watch?revision=x",
        "leases/xyz",
        "leases/0",
    ],
)
async def test_questions_that_mean_nothing_are_refused(world, url) -> None:
    answer = await world.get(f"/essaim/kv/{url}")
    assert answer.status == 400
    assert answer.message


async def test_a_body_must_be_declared_as_json(world) -> None:
    answer = await world.call(
        "PUT", "/essaim/kv/keys/a", b'{"Value":"1"}', headers={"Content-Type": "text/plain"}
    )
    assert answer.status == 400


async def test_reads_ask_the_quorum_unless_told_not_to(world) -> None:
    await put(world, "a")
    barriers = world.cluster.barriers
    await world.get("/essaim/kv/range?prefix=a&consistency=local")
    assert world.cluster.barriers == barriers
    await world.get("/essaim/kv/range?prefix=a")
    assert world.cluster.barriers == barriers + 1
    world.cluster.available = False
    assert (await world.get("/essaim/kv/keys/a")).status == 503
    assert (await world.get("/essaim/kv/keys/a?consistency=local")).status == 200


async def test_a_full_store_says_so_and_still_deletes(world) -> None:
    world.cluster.store.quota_bytes = world.cluster.store.size_bytes + 1000
    await put(world, "a", "x" * 900)
    answer = await world.call("PUT", "/essaim/kv/keys/b", {"Value": "y" * 900})
    assert answer.status == 507
    assert "delete" in answer.message
    assert (await world.get("/essaim/kv")).json["NoSpace"] is True
    await world.create("web")
    assert (await world.call("DELETE", "/essaim/kv/keys/a")).json["Deleted"] == 1


async def test_a_compacted_revision_is_gone_and_the_answer_says_from_where_on(world) -> None:
    first = (await put(world, "a", "1"))["Revision"]
    last = (await put(world, "a", "2"))["Revision"]
    assert (await world.post("/essaim/kv/compact", {"Revision": last})).status == 200
    for url in (f"keys/a?revision={first}", f"watch?revision={last}"):
        answer = await world.get(f"/essaim/kv/{url}")
        assert answer.status == 410
        assert answer.json["Oldest"] == last + 1
    assert (await world.get(f"/essaim/kv/keys/a?revision={last}")).json["KV"]["Value"] == "2"
    for revision in (last, last + 100, 0):
        refused = await world.post("/essaim/kv/compact", {"Revision": revision})
        assert refused.status == 400


# Leases


async def grant(world, ttl_s=10, **rest):
    answer = await world.post("/essaim/kv/leases", {"TTL": ttl_s, **rest})
    assert answer.status == 201, answer.body
    return answer.json["ID"]


async def test_a_lease_is_granted_shown_and_revoked_with_its_keys(world) -> None:
    lease = await grant(world)
    await put(world, "a", Lease=lease)
    await put(world, "b", Lease=lease)
    await put(world, "b")
    await world.clock.advance(4)
    shown = (await world.get(f"/essaim/kv/leases/{lease}")).json
    assert shown == {"ID": lease, "TTL": 10, "Remaining": 10.0, "Keys": ["a"]}
    assert (await world.get("/essaim/kv/leases")).json == [{"ID": lease, "TTL": 10}]
    assert (await world.get("/essaim/kv/keys/a")).json["KV"]["Lease"] == lease
    assert (await world.call("DELETE", f"/essaim/kv/leases/{lease}")).status == 200
    assert (await world.get("/essaim/kv/keys/a")).status == 404
    assert (await world.get("/essaim/kv/keys/b")).status == 200
    for method, url in (("DELETE", lease), ("GET", lease), ("POST", f"{lease}/keepalive")):
        assert (await world.call(method, f"/essaim/kv/leases/{url}")).status == 404


async def test_a_put_under_a_lease_that_is_not_there_changes_nothing(world) -> None:
    answer = await world.call("PUT", "/essaim/kv/keys/a", {"Value": "1", "Lease": "abc"})
    assert answer.status == 404
    assert (await world.get("/essaim/kv/keys/a")).status == 404


async def test_a_lease_id_is_taken_once(world) -> None:
    assert await grant(world, ID="7f") == "7f"
    assert (await world.post("/essaim/kv/leases", {"TTL": 5, "ID": "7f"})).status == 409


@pytest.mark.parametrize("ttl_s", [0, -1, LEASE_TTL_S_MAX + 1, "soon"])
async def test_a_lease_has_a_sane_time_to_live(world, ttl_s) -> None:
    assert (await world.post("/essaim/kv/leases", {"TTL": ttl_s})).status == 400


async def test_a_lease_expires_unless_it_is_kept_alive(world) -> None:
    keeper = asyncio.create_task(world.api.leases.run())
    kept, lost = await grant(world), await grant(world)
    await put(world, "kept", Lease=kept)
    await put(world, "lost", Lease=lost)
    for _ in range(4):
        await world.clock.advance(6)
        await world.post(f"/essaim/kv/leases/{kept}/keepalive")
    assert (await world.get("/essaim/kv/keys/kept")).status == 200
    assert (await world.get("/essaim/kv/keys/lost")).status == 404
    keeper.cancel()


async def test_a_follower_passes_keep_alives_to_the_leader_and_says_when_there_is_none(
    world,
) -> None:
    lease = await grant(world)
    world.cluster.lead(False, 2)
    answer = await world.post(f"/essaim/kv/leases/{lease}/keepalive")
    assert answer.status == 503
    assert "try again" in answer.message


async def test_nothing_is_written_that_a_master_of_an_older_build_could_not_read(new_world) -> None:
    await new_world.found()
    answer = await new_world.call("PUT", "/essaim/kv/keys/a", {"Value": "1"})
    assert answer.status == 503
    assert "not every master" in answer.message
    await speak(new_world, CLUSTER_VERSION)
    await put(new_world, "a")


# Watches


class Reader:
    """A client of one watch, which reads lines as they come or stops reading."""

    def __init__(self, world, query):
        self.lines = []
        self.status = None
        self.can_read = asyncio.Event()
        self.can_read.set()
        self.gone = asyncio.Event()
        self.done = False
        self._world = world
        self._task = asyncio.create_task(self._run(query))

    async def _run(self, query):
        path, _, query = f"/essaim/kv/watch?{query}".partition("?")
        await self._world.app(
            {
                "type": "http",
                "method": "GET",
                "path": path,
                "query_string": query.encode(),
                "headers": [],
            },
            self._receive,
            self._send,
        )
        self.done = True

    async def _receive(self):
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message):
        await self.can_read.wait()
        if message["type"] == "http.response.start":
            self.status = message["status"]
        else:
            self.lines += map(msgspec.json.decode, message.get("body", b"").splitlines())

    async def settle(self):
        for _ in range(30):
            await asyncio.sleep(0)
        return self.lines

    async def leave(self):
        self.gone.set()
        await asyncio.wait_for(self._task, 5)


async def test_a_watch_tells_each_revision_once_whole_and_in_order(world) -> None:
    reader = Reader(world, "prefix=a/&prev_kv=1")
    (first,) = await reader.settle()
    assert first == {"Revision": world.state.revision, "Events": []}
    put_1 = await put(world, "a/1", "x")
    await put(world, "b/1")
    await put(world, "a/1", "y")
    both = (
        await transact(
            world,
            Then=[
                {"Op": "delete", "Key": "a/1"},
                {"Op": "put", "Key": "b/2", "Value": "no"},
                {"Op": "put", "Key": "a/2", "Value": "z"},
            ],
        )
    ).json
    lines = (await reader.settle())[1:]
    assert [line["Revision"] for line in lines] == [
        put_1["Revision"],
        put_1["Revision"] + 2,
        both["Revision"],
    ]
    assert [(e["Type"], e["Key"]) for e in lines[2]["Events"]] == [
        ("delete", "a/1"),
        ("put", "a/2"),
    ]
    assert lines[1]["Events"][0]["PrevKV"]["Value"] == "x"
    assert lines[2]["Events"][0]["PrevKV"]["Value"] == "y"
    await reader.leave()


async def test_a_watch_resumes_where_another_one_ended(world) -> None:
    first = await put(world, "a", "1")
    await put(world, "a", "2")
    reader = Reader(world, f"key=a&revision={first['Revision']}")
    lines = (await reader.settle())[1:]
    assert [line["Events"][0]["KV"]["Value"] for line in lines] == ["1", "2"]
    await reader.leave()


async def test_an_idle_watch_tells_how_far_it_is(world) -> None:
    reader = Reader(world, "prefix=a/")
    await reader.settle()
    await put(world, "a/1")
    await reader.settle()
    await put(world, "b")
    await world.clock.advance(10.1)
    assert (await reader.settle())[-1] == {"Revision": world.state.revision, "Events": []}
    await reader.leave()
    assert (await world.get("/essaim/kv")).json["Watches"] == 0


async def test_a_reader_that_falls_too_far_behind_is_told_where_to_go_on(world) -> None:
    reader = Reader(world, "key=a")
    await reader.settle()
    reader.can_read.clear()
    first = (await put(world, "a", "0"))["Revision"]
    await reader.settle()
    for number in range(5100):
        await world.cluster.commit(_put_command(b"/kv/a", b"%d" % number), 1.0)
    reader.can_read.set()
    lines = await reader.settle()
    assert reader.done
    assert lines[-1]["Resume"] == first + 1
    assert "go on from" in lines[-1]["Error"]
    assert [line["Revision"] for line in lines[1:-1]] == [first]


async def test_watches_end_when_the_master_stops(world) -> None:
    readers = [Reader(world, "prefix=") for _ in range(3)]
    for reader in readers:
        await reader.settle()
    world.app.close()
    for reader in readers:
        await reader.settle()
        assert reader.done


async def test_asking_for_the_head_of_a_watch_opens_none(world) -> None:
    assert (await world.call("HEAD", "/essaim/kv/watch")).status == 200
    assert (await world.get("/essaim/kv")).json["Watches"] == 0


async def test_watches_leave_connections_for_those_who_ask(world) -> None:
    readers = [Reader(world, "prefix=") for _ in range(STREAMS_MAX)]
    await readers[-1].settle()
    await readers[-1].settle()
    answer = await world.get("/essaim/kv/watch?prefix=")
    assert answer.status == 503
    for reader in readers:
        await reader.leave()


def _put_command(key, value):
    return Transaction(then=(Put(key, value),))
