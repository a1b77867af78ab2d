"""The master's side of the native protocol, frame by frame."""

import logging

import pytest
from support.kv_native import CLOCK, MEMBERS, RawClient, new_server, until

from essaim_master.kv_server import CONNECTIONS_MAX, KvServer
from essaim_shared.errors import ConfigError, Unavailable
from essaim_shared.kv_protocol import (
    Failure,
    FailureCode,
    Get,
    Greeting,
    OpenSession,
    Ping,
    Pong,
    Put,
    Range,
    RangeAnswer,
    RangeRequest,
    SessionOpened,
    TransactionAnswer,
    TransactionRequest,
    Welcome,
    encode_frame,
)
from essaim_shared.limits import KV_IN_FLIGHT_MAX


def put(number: int, key: bytes = b"a", value: bytes = b"v") -> TransactionRequest:
    return TransactionRequest(number, 1000, (), (Put(key, value),), ())


def read(number: int, key: bytes = b"a", local: bool = False) -> RangeRequest:
    return RangeRequest(number, 1000, Range(key, key + b"\0"), local)


async def test_a_greeting_is_answered_with_who_this_is_and_who_leads(server):
    client = await RawClient.connect(server)
    client.send(Greeting(1, "c1"))
    assert await client.next() == Welcome(1, "c1", "m1", "m1", KV_IN_FLIGHT_MAX)
    await client.close()


@pytest.mark.parametrize(
    ("greeting", "reason"),
    [
        (Greeting(2, "c1"), "the client speaks key-value protocol 2, master m1 speaks 1"),
        (Greeting(1, "c9"), "the client looks for cluster 'c9', master m1 belongs to cluster 'c1'"),
    ],
)
async def test_who_does_not_fit_is_told_why_and_shown_the_door(server, greeting, reason):
    client = await RawClient.connect(server)
    client.send(greeting, read(1))
    assert await client.next() == Failure(0, FailureCode.REFUSED, reason)
    assert await client.is_closed_by_the_master()
    await client.close()


async def test_a_client_that_never_greets_is_cut_off(server):
    client = await RawClient.connect(server)
    assert await client.is_closed_by_the_master()
    await client.close()


@pytest.mark.parametrize(
    "noise",
    [b"GET / HTTP/1.1\r\n\r\n", b"\0\0\0\0", b"\0\0\0\1\xc1", encode_frame(Greeting(1, "c1"))],
    ids=["another protocol", "empty frame", "no msgpack", "second greeting"],
)
async def test_bytes_that_are_no_request_close_the_connection_with_one_line(
    server, raw, caplog, noise
):
    raw.writer.write(noise)
    assert await raw.is_closed_by_the_master()
    lines = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert len(lines) == 1
    assert "closing the connection of key-value client" in lines[0].getMessage()


async def test_a_request_before_the_greeting_closes_the_connection(server, alone):
    client = await RawClient.connect(server)
    client.send(read(1))
    assert await client.is_closed_by_the_master()
    assert alone.barriers == 0
    await client.close()


async def test_a_request_needs_a_number(server, raw, alone):
    raw.send(put(0))
    assert await raw.is_closed_by_the_master()
    assert alone.store.revision == 0


async def test_what_was_put_can_be_read_and_lies_where_no_object_of_the_cluster_does(raw, alone):
    raw.send(put(2, b"services/x"), read(3, b"services/x"))
    assert await raw.next() == TransactionAnswer(2, True, 1)
    answer = await raw.next()
    assert isinstance(answer, RangeAnswer)
    assert [(v.key, v.value) for v in answer.result.found] == [(b"services/x", b"v")]
    assert alone.store.get(b"/kv/services/x") is not None


async def test_a_write_without_a_session_is_not_executed(server, alone):
    client = await RawClient.greeted(server)
    client.send(put(1))
    answer = await client.next()
    assert isinstance(answer, Failure)
    assert (answer.number, answer.code) == (1, FailureCode.SESSION_FORGOTTEN)
    assert alone.store.revision == 0
    await client.close()


async def test_a_session_that_the_masters_do_not_know_is_refused_and_another_can_be_opened(server):
    client = await RawClient.greeted(server, session=4711)
    client.send(put(1))
    answer = await client.next()
    assert isinstance(answer, Failure)
    assert answer.code is FailureCode.SESSION_FORGOTTEN
    client.send(OpenSession(2, 1000))
    assert isinstance(await client.next(), SessionOpened)
    client.send(put(3))
    assert await client.next() == TransactionAnswer(3, True, 1)
    await client.close()


async def test_no_session_is_opened_before_every_master_understands_that_entry(alone):
    known: list[bool] = []
    server = new_server(alone, alone.store, are_sessions_known=lambda: bool(known))
    await server.start()
    client = await RawClient.greeted(server)
    client.send(OpenSession(1, 1000))
    refused = await client.next()
    assert isinstance(refused, Failure)
    assert (refused.number, refused.code) == (1, FailureCode.UNAVAILABLE)
    assert alone.applied == []
    known.append(True)
    client.send(OpenSession(2, 1000))
    assert isinstance(await client.next(), SessionOpened)
    await client.close()
    await server.stop()


async def test_the_same_write_on_another_connection_of_the_session_is_executed_once(server, alone):
    first = await RawClient.greeted(server)
    first.send(OpenSession(1, 1000))
    opened = await first.next()
    assert isinstance(opened, SessionOpened)
    first.send(put(2))
    answer = await first.next()
    await first.close()
    second = await RawClient.greeted(server, session=opened.session)
    second.send(put(2), put(3))
    assert await second.next() == answer
    assert await second.next() == TransactionAnswer(3, True, 2)
    assert alone.store.get(b"/kv/a").version == 2
    await second.close()


async def test_requests_without_an_answer_are_bounded_and_the_next_is_refused_at_once(raw, alone):
    alone.is_held = True
    raw.send(*(put(number) for number in range(2, KV_IN_FLIGHT_MAX + 3)))
    refused = await raw.next()
    assert isinstance(refused, Failure)
    assert (refused.number, refused.code) == (KV_IN_FLIGHT_MAX + 2, FailureCode.UNAVAILABLE)
    alone.release()
    answered = {(await raw.next()).number for _ in range(KV_IN_FLIGHT_MAX)}
    assert answered == set(range(2, KV_IN_FLIGHT_MAX + 2))
    alone.is_held = False
    raw.send(put(KV_IN_FLIGHT_MAX + 3))
    assert isinstance(await raw.next(), TransactionAnswer)


async def test_a_ping_is_answered_while_writes_wait(raw, alone):
    alone.is_held = True
    raw.send(put(2), Ping(5))
    assert await raw.next() == Pong(5)
    alone.release()


async def test_answers_for_a_client_that_has_gone_are_dropped(server, raw, alone):
    alone.is_held = True
    raw.send(put(2))
    await until(lambda: bool(alone.held), "the write arrives")
    await raw.close()
    await until(lambda: server.connection_count == 0, "the master notices")
    alone.release()
    assert alone.store.revision == 1


async def test_reads_of_one_turn_share_one_round_of_the_quorum(raw, alone):
    raw.send(put(2), *(read(number) for number in range(3, 103)))
    answers = [await raw.next() for _ in range(101)]
    assert {answer.number for answer in answers} == set(range(2, 103))
    assert alone.barriers == 1


async def test_a_linearizable_read_needs_a_quorum_and_a_local_one_does_not(raw, alone):
    raw.send(put(2))
    assert isinstance(await raw.next(), TransactionAnswer)
    alone.leader = None
    raw.send(read(3))
    refused = await raw.next()
    assert isinstance(refused, Failure)
    assert (refused.number, refused.code) == (3, FailureCode.NO_LEADER)
    raw.send(read(4, local=True))
    answer = await raw.next()
    assert isinstance(answer, RangeAnswer)
    assert answer.result.count == 1


async def test_a_refusal_reaches_the_client_with_its_reason(raw, alone):
    alone.refusal = Unavailable("too much to do")
    raw.send(put(2))
    assert await raw.next() == Failure(2, FailureCode.UNAVAILABLE, "too much to do")
    raw.send(TransactionRequest(3, 1000, (), (Get(b""),), ()))
    answer = await raw.next()
    assert isinstance(answer, Failure)
    assert answer.code is FailureCode.INVALID_REQUEST


async def test_large_reads_are_answered_in_slices_as_the_client_takes_them(raw, alone):
    size = 1_000_000
    raw.send(put(2, b"big", bytes(size)))
    assert isinstance(await raw.next(), TransactionAnswer)
    raw.send(*(read(number, b"big", local=True) for number in range(3, 103)))
    for number in range(3, 103):
        answer = await raw.next()
        assert isinstance(answer, RangeAnswer)
        assert answer.number == number
        assert len(answer.result.found[0].value) == size


async def test_connections_are_bounded(alone, caplog):
    server = new_server(alone, alone.store)
    await server.start()
    clients = [await RawClient.connect(server) for _ in range(CONNECTIONS_MAX)]
    await until(lambda: server.connection_count == CONNECTIONS_MAX, "all are connected")
    late = await RawClient.connect(server)
    refused = await late.next()
    assert isinstance(refused, Failure)
    assert refused.code is FailureCode.REFUSED
    for client in (*clients, late):
        await client.close()
    await server.stop()


@pytest.mark.parametrize("host", ["0.0.0.0", "8.8.8.8", "localhost"])
def test_it_listens_only_where_nobody_from_outside_can_reach_it(alone, host):
    with pytest.raises(ConfigError, match="kv_listen"):
        KvServer(alone, alone.store, CLOCK, None, "c1", MEMBERS[0], (host, 0), bool)


async def test_a_taken_port_is_a_clear_error(server, alone):
    other = new_server(alone, alone.store, port=server.listening[1])
    with pytest.raises(ConfigError, match="choose another kv_listen"):
        await other.start()
    await other.stop()
