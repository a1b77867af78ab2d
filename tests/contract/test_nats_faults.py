"""What only real servers and sockets can show about the NATS transport."""

import asyncio
import gc
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from essaim_shared import nats_transport
from essaim_shared.clock import SystemClock, wait_until
from essaim_shared.errors import ConfigError, InvalidRequest
from essaim_shared.nats_transport import NatsTransport
from essaim_shared.transport import BusDisconnected, Delivery, NoResponders, RequestTimeout

MakeNats = Callable[[int], Awaitable[Any]]


def new_transport(*servers: str, name: str = "client", **options: Any) -> NatsTransport:
    return NatsTransport(servers, name, SystemClock(), random.Random(7), **options)


@pytest.fixture(autouse=True)
async def nothing_is_reported_to_the_event_loop() -> AsyncIterator[None]:
    """A daemon stops at whatever reaches the loop's exception handler; no fault of the bus may."""
    reports: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, report: reports.append(report))
    yield
    gc.collect()  # exceptions that nobody retrieved are reported when their task is collected
    assert not reports


async def echo(delivery: Delivery) -> None:
    await delivery.respond(delivery.payload)


async def eventually(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    assert await wait_until(condition, SystemClock(), timeout_s)


class OddServer:
    """A listener that is no good NATS server: `talk` is what it does with a connection."""

    def __init__(
        self, talk: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
    ) -> None:
        self._talk = talk
        self.connection_count = 0

    async def __aenter__(self) -> "OddServer":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"nats://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connection_count += 1
        try:
            await self._talk(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client went away, as it should
        finally:
            writer.transport.abort()


async def drop(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
    pass


async def say_nothing(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await reader.read()


async def speak_http(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
    await writer.drain()


async def garble_info(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"INFO {not json\r\n")
    await writer.drain()


async def send_one_endless_line(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"INFO " + b"x" * 1_000_000)
    await writer.drain()
    await reader.read()


async def refuse_authorization(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b'INFO {"max_payload":1048576,"headers":true}\r\n')
    await reader.readuntil(b"PING\r\n")
    writer.write(b"-ERR 'Authorization Violation'\r\n")
    await writer.drain()


async def accept_then_err(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Handshake complete, then an error that nats-py alone would take as its end."""
    writer.write(b'INFO {"max_payload":1048576,"headers":true}\r\n')
    await reader.readuntil(b"PING\r\n")
    writer.write(b"PONG\r\n")
    await reader.readuntil(b"PING\r\n")
    writer.write(b"PONG\r\n-ERR 'maximum connections exceeded'\r\n")
    await writer.drain()
    await reader.read()


ODD = [
    drop,
    say_nothing,
    speak_http,
    garble_info,
    send_one_endless_line,
    refuse_authorization,
    accept_then_err,
]


@pytest.mark.parametrize("talk", ODD, ids=lambda talk: talk.__name__)
async def test_a_server_that_is_no_good_is_passed_over(make_nats: MakeNats, talk: Any) -> None:
    nats = await make_nats(1)
    (good,) = nats.servers
    async with OddServer(talk) as odd:
        client = new_transport(odd.url, good, login=nats.login)
        await client.open(wait_s=0)
        await client.subscribe("echo", echo)
        await eventually(lambda: client.server == good)
        assert await client.request("echo", b"hello", timeout_s=5) == b"hello"
        assert odd.connection_count >= 1
        await client.close()


async def test_a_server_that_accepts_and_drops_is_not_hammered() -> None:
    async with OddServer(accept_then_err) as odd:
        client = new_transport(odd.url)
        await client.open()
        await eventually(lambda: odd.connection_count >= 4)
        started_s = SystemClock().monotonic_s()
        await eventually(lambda: odd.connection_count >= 8)
        elapsed_s = SystemClock().monotonic_s() - started_s
        # Four more connections have at least four waits before them, whatever the machine does.
        assert elapsed_s >= 3 * nats_transport.RECONNECT_WAIT_MIN_S
        await client.close()


async def test_publishing_to_a_stopped_server_neither_waits_for_ever_nor_fills_the_memory(
    make_nats: MakeNats,
) -> None:
    nats = await make_nats(2)
    first, second = nats.servers
    client = await nats.client("client", (first, second))
    received: list[bytes] = []

    async def keep(delivery: Delivery) -> None:
        received.append(delivery.payload)

    watcher = await nats.client("watcher", (second,))
    await watcher.subscribe("bulk.>", keep)
    await nats.freeze(first)
    payload = b"x" * 512 * 1024
    refused = 0
    deadline_s = SystemClock().monotonic_s() + 20
    while client.server == first and refused == 0:
        assert SystemClock().monotonic_s() < deadline_s
        try:
            async with asyncio.timeout(5):
                await client.publish("bulk.stale", payload)
        except BusDisconnected:
            refused += 1
        connection = client._connection
        if connection is not None:
            assert connection.pending_data_size <= nats_transport.PENDING_BYTES_MAX + len(payload)
    await eventually(lambda: client.server == second)
    received.clear()
    await client.publish("bulk.fresh", b"fresh")
    await eventually(lambda: b"fresh" in received)
    assert received == [b"fresh"], "what the stopped server did not take was not sent again"


async def test_an_answer_may_come_over_the_next_connection(make_nats: MakeNats) -> None:
    nats = await make_nats(2)
    first, second = nats.servers
    asker = await nats.client("asker", (first, second))
    answerer = await nats.client("answerer", (second,))
    held: list[Delivery] = []

    async def hold(delivery: Delivery) -> None:
        held.append(delivery)

    await answerer.subscribe("slow", hold)
    await answerer.subscribe("echo", echo)
    await until_answered(asker, "echo")
    question = asyncio.create_task(asker.request("slow", b"?", timeout_s=20))
    await eventually(lambda: len(held) == 1)
    await nats.stop(first)
    await eventually(lambda: asker.server == second)
    await until_answered(asker, "echo")
    await held[0].respond(b"after the move")
    assert await question == b"after the move"


async def until_answered(client: NatsTransport, subject: str) -> None:
    deadline_s = SystemClock().monotonic_s() + 10
    while True:
        try:
            await client.request(subject, b"", timeout_s=0.3)
            return
        except (NoResponders, RequestTimeout, BusDisconnected):
            assert SystemClock().monotonic_s() < deadline_s
            await SystemClock().sleep(0.01)


async def test_servers_killed_one_after_the_other_under_load_duplicate_nothing(
    make_nats: MakeNats,
) -> None:
    nats = await make_nats(3)
    first, second, third = nats.servers
    sender = await nats.client("sender", (third,))
    receiver = await nats.client("receiver", (first, second, third))
    received: list[int] = []

    async def keep(delivery: Delivery) -> None:
        received.append(int(delivery.payload))

    await receiver.subscribe("numbers", keep)
    await receiver.subscribe("echo", echo)
    await until_answered(sender, "echo")
    sent = 0

    async def send_until(condition: Callable[[], bool]) -> None:
        nonlocal sent
        deadline_s = SystemClock().monotonic_s() + 10
        while not condition():
            assert SystemClock().monotonic_s() < deadline_s
            await sender.publish("numbers", str(sent).encode())
            sent += 1
            await asyncio.sleep(0)

    await send_until(lambda: len(received) > 100)
    await nats.stop(first)
    await send_until(lambda: receiver.server == second)
    await until_answered(sender, "echo")
    so_far = len(received)
    await send_until(lambda: len(received) > so_far + 100)
    await nats.stop(second)
    await send_until(lambda: receiver.server == third)
    await until_answered(sender, "echo")
    so_far = len(received)
    await send_until(lambda: len(received) > so_far + 100)
    assert received == sorted(set(received)), "lost some, doubled none, in order"
    assert receiver.reconnection_count == 2


async def test_two_clients_of_one_name_do_not_read_each_others_answers(make_nats: MakeNats) -> None:
    nats = await make_nats(1)
    one = NatsTransport(nats.servers, "twin", SystemClock(), random.Random(1), login=nats.login)
    other = NatsTransport(nats.servers, "twin", SystemClock(), random.Random(2), login=nats.login)
    await one.open()
    await other.open()
    await one.subscribe("echo", echo)
    answers = await asyncio.gather(
        *(client.request("echo", name, 5) for client, name in ((one, b"1"), (other, b"2")))
    )
    assert answers == [b"1", b"2"]
    assert one._inbox.startswith("_INBOX.twin.")
    assert one._inbox != other._inbox
    await one.close()
    await other.close()


async def test_closing_while_no_server_is_there_does_not_wait() -> None:
    client = new_transport("nats://127.0.0.1:1")
    await client.open(wait_s=0)
    async with asyncio.timeout(5):
        await client.close()


async def test_a_subscription_given_up_half_way_does_no_harm(make_nats: MakeNats) -> None:
    nats = await make_nats(1)
    client = await nats.client("client")
    for _ in range(20):
        subscribing = asyncio.create_task(client.subscribe("echo", echo))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        subscribing.cancel()
        await asyncio.wait({subscribing})
    await client.subscribe("late.echo", echo)
    assert await client.request("late.echo", b"x", timeout_s=5) == b"x"
    assert client.reconnection_count == 0


async def test_bad_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="no bus server"):
        new_transport()
    with pytest.raises(InvalidRequest):
        new_transport("nats://127.0.0.1:1", inbox_prefix="_INBOX.>")


async def test_a_server_that_dies_in_the_middle_of_everything_raises_nothing_anywhere(
    make_nats: MakeNats,
) -> None:
    nats = await make_nats(1)
    (server,) = nats.servers
    client = await nats.client("client")
    await client.subscribe("echo", echo)
    outcomes: set[str] = set()
    is_over = False

    async def ask() -> None:
        while not is_over:
            try:
                await client.request("echo", b"x" * 10_000, timeout_s=0.2)
                outcomes.add("answered")
            except (NoResponders, RequestTimeout, BusDisconnected) as error:
                outcomes.add(type(error).__name__)
                await asyncio.sleep(0)

    async def publish() -> None:
        while not is_over:
            try:
                await client.publish("nobody", b"x" * 100_000)
            except BusDisconnected:
                outcomes.add("refused")
            await asyncio.sleep(0)

    async def come_and_go() -> None:
        while not is_over:
            try:
                subscription = await client.subscribe("s", echo)
                await subscription.unsubscribe()
            except BusDisconnected:
                outcomes.add("refused")
            await asyncio.sleep(0)

    users = [asyncio.create_task(user()) for user in (ask, ask, publish, come_and_go)]
    for _ in range(3):
        await eventually(lambda: client.server == server)
        outcomes.clear()
        await eventually(lambda: "answered" in outcomes)
        await nats.stop(server)
        await eventually(lambda: "refused" in outcomes)
        await nats.start(server)
    is_over = True
    await asyncio.gather(*users)
