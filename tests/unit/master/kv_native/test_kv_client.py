"""The client of the native protocol: one answer or one error, whatever becomes of connections."""

import asyncio
import random

import pytest
from support.kv_native import CLOCK, WAIT_S, AloneNode, new_server, until

from essaim_master.kv.errors import NoSpace
from essaim_shared.errors import (
    ConfigError,
    InvalidRequest,
    NoLeader,
    OutcomeUnknown,
    Unavailable,
)
from essaim_shared.kv_client import TICK_S, KvClient, StoreFull
from essaim_shared.kv_protocol import (
    Attribute,
    CompareNumber,
    CompareValue,
    Delete,
    DeleteRange,
    Get,
    Put,
    Range,
    RangeResult,
    Relation,
    Welcome,
    WriteResult,
    encode_frame,
)
from essaim_shared.limits import KV_IN_FLIGHT_MAX


async def test_put_get_delete_and_range(server, new_client):
    client = await new_client(server)
    assert await client.put(b"a", b"1") == 1
    assert await client.put(b"b", b"2") == 2
    found = await client.get(b"a")
    assert (found.key, found.value, found.created, found.version) == (b"a", b"1", 1, 1)
    page = await client.range(b"a", b"c", limit=1)
    assert ([v.key for v in page.result.found], page.result.count) == ([b"a"], 2)
    assert await client.delete(b"a") == 3
    assert await client.get(b"a") is None
    assert await client.get(b"b", local=True) is not None


async def test_a_transaction_compares_and_answers_each_operation(server, new_client):
    client = await new_client(server)
    await client.put(b"a", b"1")
    done = await client.transact(
        (Put(b"a", b"2", prev_kv=True), Get(b"a"), Range(b"a", b"b"), Delete(b"none")),
        (
            CompareNumber(b"a", Attribute.VERSION, Relation.EQUAL, 1),
            CompareValue(b"a", Relation.LESS, b"2"),
        ),
    )
    assert (done.succeeded, done.revision) == (True, 2)
    assert [value.value for value in done.values] == [b"2"]
    before, ranged = done.results
    assert isinstance(before, WriteResult)
    assert [(v.key, v.value) for v in before.before] == [(b"a", b"1")]
    assert isinstance(ranged, RangeResult)
    assert [v.key for v in ranged.found] == [b"a"]
    other = await client.transact(
        (), (CompareValue(b"a", Relation.EQUAL, b"1"),), (DeleteRange(b"", b""),)
    )
    assert (other.succeeded, other.results) == (False, (WriteResult(1),))


async def test_a_range_of_users_never_shows_an_object_of_the_cluster(server, alone, new_client):
    client = await new_client(server)
    await client.put(b"a", b"1")
    page = await client.range(b"", b"")
    assert [v.key for v in page.result.found] == [b"a"]


async def test_a_write_whose_answer_was_lost_with_the_connection_happens_once(
    server, alone, new_client
):
    client = await new_client(server)
    await client.put(b"warm", b"")
    alone.is_held = True
    write = client.submit((Put(b"a", b"1"),))
    await until(lambda: len(alone.held) == 1, "the write arrives")
    server.abort_connections()
    await until(lambda: len(alone.held) == 2, "it is sent again")
    alone.release()
    assert (await write).revision == 2
    assert alone.store.get(b"/kv/a").version == 1
    assert alone.applied[-1] == alone.applied[-2], "both copies were in the log"


async def test_a_thousand_writes_at_once_are_each_executed_once_while_connections_break(
    server, alone, new_client
):
    client = await new_client(server)
    writes = [client.submit((Put(b"k%d" % number, b""),)) for number in range(3000)]
    for _ in range(5):
        await until(lambda: client.connected_to is not None, "it is connected")
        count = len(alone.applied)
        await until(
            lambda before=count: len(alone.applied) > before or all(w.done() for w in writes),
            "writes are executed",
        )
        server.abort_connections()
    answers = await asyncio.wait_for(asyncio.gather(*writes), WAIT_S)
    assert len({answer.revision for answer in answers}) == 3000
    assert alone.store.revision == 3000


async def test_more_than_a_connection_may_have_in_flight_wait_in_the_client(
    server, alone, new_client
):
    client = await new_client(server)
    await client.put(b"warm", b"")
    alone.is_held = True
    writes = [client.submit((Put(b"a", b""),)) for _ in range(2 * KV_IN_FLIGHT_MAX)]
    await until(lambda: len(alone.held) == KV_IN_FLIGHT_MAX, "the window is full")
    alone.is_held = False
    alone.release()
    answers = await asyncio.wait_for(asyncio.gather(*writes), WAIT_S)
    assert len({answer.revision for answer in answers}) == 2 * KV_IN_FLIGHT_MAX


async def test_a_forgotten_session_is_replaced_and_what_was_sent_once_is_sent_again(
    server, alone, new_client
):
    client = await new_client(server)
    await client.put(b"a", b"")
    alone.store.restore(type(alone.store)().freeze().chunks())
    assert await client.put(b"b", b"") == 1
    assert await client.put(b"c", b"") == 2


async def test_a_write_sent_twice_into_a_forgotten_session_has_an_unknown_outcome(
    server, alone, new_client
):
    client = await new_client(server)
    await client.put(b"a", b"")
    alone.is_held = True
    write = client.submit((Put(b"b", b""),))
    await until(lambda: len(alone.held) == 1, "the write arrives")
    server.abort_connections()
    await until(lambda: len(alone.held) == 2, "it is sent again")
    alone.store.restore(type(alone.store)().freeze().chunks())
    alone.is_held = False
    alone.release()
    with pytest.raises(OutcomeUnknown, match="look before you repeat it"):
        await write
    assert alone.store.get(b"/kv/b") is None
    assert await client.put(b"c", b"") == 1


@pytest.mark.parametrize(
    ("refusal", "error"),
    [
        (Unavailable("busy"), Unavailable),
        (NoLeader("none"), NoLeader),
        (NoSpace("full"), StoreFull),
        (OutcomeUnknown("who knows"), OutcomeUnknown),
    ],
)
async def test_what_the_master_refuses_is_raised_as_the_same_kind_of_error(
    server, alone, new_client, refusal, error
):
    client = await new_client(server)
    await client.put(b"a", b"")
    alone.refusal = refusal
    with pytest.raises(error, match=str(refusal)):
        await client.put(b"a", b"")


async def test_a_session_that_cannot_be_opened_is_asked_for_again_but_not_without_a_pause(
    alone, new_client
):
    asked = []

    def are_sessions_known() -> bool:
        asked.append(CLOCK.monotonic_s())
        return len(asked) > 3

    server = new_server(alone, alone.store, are_sessions_known=are_sessions_known)
    await server.start()
    client = await new_client(server)
    assert await client.put(b"a", b"") == 1
    assert len(asked) == 4
    assert asked[-1] - asked[0] > 2 * TICK_S, "one attempt a tick at most"
    await server.stop()


async def test_a_key_that_cannot_be_is_refused(server, new_client):
    client = await new_client(server)
    with pytest.raises(InvalidRequest, match="1 to 4096"):
        await client.put(b"", b"")


async def test_without_a_master_a_request_fails_in_time_and_nothing_was_changed(server, new_client):
    await server.stop()
    client = await new_client(server)
    with pytest.raises(Unavailable, match="nothing was changed"):
        await client.put(b"a", b"", timeout_s=0.3)


async def test_a_write_without_an_answer_in_time_has_an_unknown_outcome(server, alone, new_client):
    client = await new_client(server)
    await client.put(b"a", b"")
    alone.is_held = True
    with pytest.raises(OutcomeUnknown):
        await client.put(b"a", b"", timeout_s=0.3)
    alone.release()


async def test_requests_that_wait_when_the_client_is_closed_fail(server, alone, new_client):
    client = await new_client(server)
    await client.put(b"a", b"")
    alone.is_held = True
    write = client.submit((Put(b"a", b""),))
    await until(lambda: bool(alone.held), "the write arrives")
    await client.close()
    with pytest.raises(OutcomeUnknown, match="closed"):
        await write
    with pytest.raises(Unavailable, match="closed"):
        await client.put(b"a", b"")


async def test_it_prefers_the_leader_and_goes_to_another_master_when_that_one_is_gone(new_client):
    nodes = [AloneNode(), AloneNode()]
    servers = [new_server(node, node.store, name) for node, name in zip(nodes, "ab", strict=True)]
    for node, server in zip(nodes, servers, strict=True):
        node.leader = "b"
        await server.start()
    client = await new_client(*servers)
    await until(lambda: client.connected_to == "b", "it finds the leader")
    await servers[1].stop()
    assert await client.put(b"a", b"") == 1
    assert client.connected_to == "a"
    await servers[0].stop()


async def test_a_master_that_falls_silent_is_left_for_another_one(server, new_client):
    """A half-open connection: it takes bytes and gives none."""

    async def welcome_and_nothing_more(reader, writer):
        writer.write(encode_frame(Welcome(1, "c1", "silent", "silent", 10)))
        while await reader.read(65536):
            pass
        writer.close()

    silent = await asyncio.start_server(welcome_and_nothing_more, "127.0.0.1", 0)
    addresses = [server.listening, silent.sockets[0].getsockname()[:2]]
    client = KvClient(addresses, CLOCK, random.Random(1))
    await client.open()
    await until(lambda: client.connected_to == "silent", "it is welcomed")
    assert await client.put(b"a", b"1") == 1
    assert client.connected_to == "m1"
    await client.close()
    silent.close()
    await silent.wait_closed()


async def test_a_master_of_another_cluster_is_never_used(server, new_client):
    client = await new_client(server, cluster_id="c9")
    with pytest.raises(Unavailable):
        await client.put(b"a", b"", timeout_s=0.3)


def test_a_client_needs_an_address():
    with pytest.raises(ConfigError):
        KvClient([], CLOCK, random.Random(1))
