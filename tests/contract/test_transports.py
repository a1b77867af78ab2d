"""What every transport does, checked on the in-memory bus and on real nats-servers."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from essaim_shared.clock import SystemClock, wait_until
from essaim_shared.errors import BrokenInvariant, InvalidRequest
from essaim_shared.limits import BUS_MESSAGE_BYTES_MAX
from essaim_shared.transport import (
    BusDisconnected,
    Delivery,
    NoResponders,
    RequestTimeout,
    Transport,
)

MakeBus = Callable[[int], Awaitable[Any]]


class Inbox:
    """A handler that keeps what it gets."""

    def __init__(self) -> None:
        self.got: list[bytes] = []

    async def __call__(self, delivery: Delivery) -> None:
        self.got.append(delivery.payload)


async def echo(delivery: Delivery) -> None:
    await delivery.respond(delivery.payload)


async def eventually(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    assert await wait_until(condition, SystemClock(), timeout_s)


async def until_answered(client: Transport, subject: str, timeout_s: float = 10.0) -> None:
    """Ask until an answer comes, whatever goes wrong in between."""
    deadline_s = SystemClock().monotonic_s() + timeout_s
    while True:
        try:
            await client.request(subject, b"probe", timeout_s=0.3)
            return
        except (NoResponders, RequestTimeout, BusDisconnected):
            assert SystemClock().monotonic_s() < deadline_s, f"nobody answers on {subject}"
            await SystemClock().sleep(0.01)


async def test_a_message_reaches_every_subscriber_of_its_subject_and_nobody_else(
    make_bus: MakeBus,
) -> None:
    bus = await make_bus(1)
    sender, one, other = [await bus.client(name) for name in ("sender", "one", "other")]
    exact, star, rest, elsewhere = Inbox(), Inbox(), Inbox(), Inbox()
    await one.subscribe("a.b.c", exact)
    await one.subscribe("a.*.c", star)
    await other.subscribe("a.>", rest)
    await other.subscribe("a.b", elsewhere)

    await sender.publish("a.b.c", b"1")
    await sender.publish("a.x.c", b"2")
    await sender.publish("a.b", b"end")

    await eventually(lambda: elsewhere.got == [b"end"] and len(rest.got) == 3)
    await eventually(lambda: len(star.got) == 2)
    assert exact.got == [b"1"]
    assert star.got == [b"1", b"2"]
    assert rest.got == [b"1", b"2", b"end"]


async def test_messages_of_one_publisher_arrive_in_order(make_bus: MakeBus) -> None:
    bus = await make_bus(1)
    sender, receiver = await bus.client("sender"), await bus.client("receiver")
    inbox = Inbox()
    await receiver.subscribe("numbers", inbox)
    sent = [str(number).encode() for number in range(2000)]
    for payload in sent:
        await sender.publish("numbers", payload)
    await eventually(lambda: len(inbox.got) == len(sent))
    assert inbox.got == sent


async def test_each_of_many_requests_gets_its_own_answer(make_bus: MakeBus) -> None:
    bus = await make_bus(1)
    asker, answerer = await bus.client("asker"), await bus.client("answerer")
    await answerer.subscribe("echo", echo)
    questions = [str(number).encode() for number in range(500)]
    answers = await asyncio.gather(*(asker.request("echo", q, timeout_s=5) for q in questions))
    assert answers == questions


async def test_a_request_that_nobody_subscribed_to_is_refused_at_once(make_bus: MakeBus) -> None:
    bus = await make_bus(1)
    asker = await bus.client("asker")
    with pytest.raises(NoResponders):
        await asker.request("nobody.here", b"", timeout_s=60)


async def test_a_request_without_an_answer_times_out(make_bus: MakeBus) -> None:
    bus = await make_bus(1)
    asker, silent = await bus.client("asker"), await bus.client("silent")
    inbox = Inbox()
    await silent.subscribe("void", inbox)
    with pytest.raises(RequestTimeout, match=r"void.*0\.05 s"):
        await asker.request("void", b"?", timeout_s=0.05)
    assert inbox.got == [b"?"]


async def test_a_late_answer_goes_to_nobody(make_bus: MakeBus) -> None:
    bus = await make_bus(1)
    asker, answerer = await bus.client("asker"), await bus.client("answerer")
    held: list[Delivery] = []

    async def hold(delivery: Delivery) -> None:
        held.append(delivery)

    await answerer.subscribe("late", hold)
    with pytest.raises(RequestTimeout):
        await asker.request("late", b"first", timeout_s=0.05)
    second = asyncio.create_task(asker.request("late", b"second", timeout_s=10))
    await eventually(lambda: len(held) == 2)
    await held[0].respond(b"for the first")
    await held[1].respond(b"for the second")
    assert await second == b"for the second"


async def test_a_handler_is_never_at_work_twice_for_one_subscription(make_bus: MakeBus) -> None:
    bus = await make_bus(1)
    sender, receiver = await bus.client("sender"), await bus.client("receiver")
    events: list[str] = []
    may_go_on = asyncio.Event()

    async def slow(delivery: Delivery) -> None:
        events.append(f"begin {delivery.payload.decode()}")
        await may_go_on.wait()
        events.append(f"end {delivery.payload.decode()}")

    other = Inbox()
    await receiver.subscribe("work", slow)
    await receiver.subscribe("other", other)
    await sender.publish("work", b"1")
    await sender.publish("work", b"2")
    await sender.publish("other", b"passes")
    await eventually(lambda: other.got == [b"passes"])
    assert events == ["begin 1"]  # and other subscriptions do not wait for it
    may_go_on.set()
    await eventually(lambda: len(events) == 4)
    assert events == ["begin 1", "end 1", "begin 2", "end 2"]


async def test_a_raising_handler_is_reported_and_the_subscription_goes_on(
    make_bus: MakeBus,
) -> None:
    bus = await make_bus(1)
    sender, receiver = await bus.client("sender"), await bus.client("receiver")
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, report: reported.append(report))
    inbox = Inbox()

    async def raise_at_bad(delivery: Delivery) -> None:
        if delivery.payload == b"bad":
            raise BrokenInvariant("a handler that should not have raised")
        await inbox(delivery)

    await receiver.subscribe("work", raise_at_bad)
    for payload in (b"1", b"bad", b"2"):
        await sender.publish("work", payload)
    await eventually(lambda: inbox.got == [b"1", b"2"])
    assert [type(report["exception"]) for report in reported] == [BrokenInvariant]
    assert "work" in reported[0]["message"]


async def test_after_unsubscribing_nothing_arrives_any_more(make_bus: MakeBus) -> None:
    bus = await make_bus(1)
    sender, receiver = await bus.client("sender"), await bus.client("receiver")
    inbox, other = Inbox(), Inbox()
    subscription = await receiver.subscribe("s", inbox)
    await receiver.subscribe("t", other)
    await sender.publish("s", b"1")
    await eventually(lambda: inbox.got == [b"1"])
    await subscription.unsubscribe()
    await subscription.unsubscribe()  # repeating it is free
    await sender.publish("s", b"2")
    await sender.publish("t", b"end")
    await eventually(lambda: other.got == [b"end"])
    assert inbox.got == [b"1"]
    with pytest.raises(NoResponders):
        await sender.request("s", b"", timeout_s=5)


async def test_a_handler_may_end_its_own_subscription(make_bus: MakeBus) -> None:
    bus = await make_bus(1)
    sender, receiver = await bus.client("sender"), await bus.client("receiver")
    handled: list[bytes] = []

    async def once(delivery: Delivery) -> None:
        await subscription.unsubscribe()
        handled.append(delivery.payload)  # it still gets to its end
        await delivery.respond(b"done")

    subscription = await receiver.subscribe("once", once)
    assert await sender.request("once", b"1", timeout_s=5) == b"done"
    with pytest.raises(NoResponders):
        await sender.request("once", b"2", timeout_s=5)
    assert handled == [b"1"]


async def test_answering_what_was_only_published_does_nothing(make_bus: MakeBus) -> None:
    bus = await make_bus(1)
    sender, receiver = await bus.client("sender"), await bus.client("receiver")
    await receiver.subscribe("s", echo)
    await sender.publish("s", b"not a request")
    assert await sender.request("s", b"a request", timeout_s=5) == b"a request"


@pytest.mark.parametrize("subject", ["", "a b", "a..b", ".a", "a.", "x\r\nPUB y 0", "a.*", "a.>"])
async def test_a_malformed_subject_is_refused_before_anything_is_sent(
    make_bus: MakeBus, subject: str
) -> None:
    bus = await make_bus(1)
    client = await bus.client("client")
    everything = Inbox()
    await client.subscribe(">", everything)
    with pytest.raises(InvalidRequest):
        await client.publish(subject, b"")
    with pytest.raises(InvalidRequest):
        await client.request(subject, b"", timeout_s=1)
    await client.publish("end", b"end")
    await eventually(lambda: everything.got == [b"end"])


async def test_the_largest_message_passes_and_one_byte_more_is_a_broken_invariant(
    make_bus: MakeBus,
) -> None:
    bus = await make_bus(1)
    client = await bus.client("client")
    await client.subscribe("echo", echo)
    largest = b"x" * BUS_MESSAGE_BYTES_MAX
    assert await client.request("echo", largest, timeout_s=5) == largest
    with pytest.raises(BrokenInvariant, match=f"{BUS_MESSAGE_BYTES_MAX + 1}"):
        await client.publish("echo", largest + b"x")


async def test_when_its_server_dies_a_client_goes_to_the_next_and_takes_its_subscriptions_along(
    make_bus: MakeBus,
) -> None:
    bus = await make_bus(3)
    first, second, third = bus.servers
    moving = await bus.client("moving", (first, second, third))
    staying = await bus.client("staying", (third,))
    inbox = Inbox()
    await moving.subscribe("to.moving", inbox)
    await moving.subscribe("echo", echo)
    await staying.subscribe("to.staying", echo)
    assert moving.server == first

    await bus.stop(first)
    await eventually(lambda: moving.server == second)
    await until_answered(moving, "to.staying")
    await until_answered(staying, "echo")
    for number in range(100):
        await staying.publish("to.moving", str(number).encode())
    await until_answered(staying, "echo")
    await eventually(lambda: len(inbox.got) == 100)
    assert inbox.got == [str(number).encode() for number in range(100)], "each once, in order"


async def test_without_a_server_nothing_is_kept_for_later(make_bus: MakeBus) -> None:
    bus = await make_bus(1)
    (server,) = bus.servers
    sender, receiver = await bus.client("sender"), await bus.client("receiver")
    inbox = Inbox()
    await receiver.subscribe("orders", inbox)
    await receiver.subscribe("echo", echo)
    await bus.stop(server)
    await eventually(lambda: sender.server is None and receiver.server is None)

    with pytest.raises(BusDisconnected):
        await sender.publish("orders", b"stale")
    with pytest.raises(BusDisconnected):
        await sender.request("echo", b"stale", timeout_s=5)
    await sender.reconnect()  # nothing to leave: no error
    later = Inbox()
    await receiver.subscribe("later", later)  # holds from the next connection on

    await bus.start(server)
    await eventually(lambda: sender.server == server and receiver.server == server)
    await until_answered(sender, "echo")
    await sender.publish("orders", b"fresh")
    await sender.publish("later", b"too")
    await eventually(lambda: later.got == [b"too"])
    assert inbox.got == [b"fresh"]


async def test_a_client_starts_without_a_server_and_finds_it_later(make_bus: MakeBus) -> None:
    bus = await make_bus(1)
    (server,) = bus.servers
    await bus.stop(server)
    client = await bus.client("early")
    assert client.server is None
    with pytest.raises(BusDisconnected):
        await client.publish("s", b"")
    await client.subscribe("echo", echo)
    await bus.start(server)
    await eventually(lambda: client.server == server)
    assert await client.request("echo", b"hello", timeout_s=5) == b"hello"


async def test_a_frozen_server_is_left_on_request_and_not_chosen_again(make_bus: MakeBus) -> None:
    bus = await make_bus(3)
    first, second, third = bus.servers
    client = await bus.client("client", (first, second, third))
    answerer = await bus.client("answerer", (third,))
    await answerer.subscribe("echo", echo)
    await until_answered(client, "echo")

    await bus.freeze(first)
    with pytest.raises(RequestTimeout):
        await client.request("echo", b"in flight", timeout_s=0.2)
    await client.reconnect()
    await eventually(lambda: client.server == second)
    await until_answered(client, "echo")

    await client.reconnect()
    await eventually(lambda: client.server == third)
    await client.reconnect()  # the frozen one is next in line, and passed over
    await eventually(lambda: client.server == second)
    await until_answered(client, "echo")


async def test_a_frozen_server_is_left_by_itself_in_the_end(make_bus: MakeBus) -> None:
    bus = await make_bus(2)
    first, second = bus.servers
    client = await bus.client("client", (first, second))
    await client.subscribe("echo", echo)
    await bus.freeze(first)
    await eventually(lambda: client.server == second, timeout_s=8.0)
    assert await client.request("echo", b"back", timeout_s=5) == b"back"
    await bus.thaw(first)
    assert client.server == second, "there is no reason to go back"


async def test_with_one_server_reconnecting_returns_to_it(make_bus: MakeBus) -> None:
    bus = await make_bus(1)
    client = await bus.client("client")
    await client.subscribe("echo", echo)
    await client.reconnect()
    await eventually(lambda: client.server is None or client.reconnection_count == 1)
    await eventually(lambda: client.server == bus.servers[0] and client.reconnection_count == 1)
    assert await client.request("echo", b"back", timeout_s=5) == b"back"


async def test_servers_cut_off_from_each_other_pass_nothing_until_healed(make_bus: MakeBus) -> None:
    bus = await make_bus(2)
    first, second = bus.servers
    asker = await bus.client("asker", (first,))
    answerer = await bus.client("answerer", (second,))
    await answerer.subscribe("echo", echo)
    await until_answered(asker, "echo")

    await bus.cut_route()

    async def is_unanswered() -> bool:
        try:
            await asker.request("echo", b"", timeout_s=0.3)
        except (NoResponders, RequestTimeout):
            return True
        return False

    while not await is_unanswered():
        pass  # what was on its way; the test's time-out bounds this
    assert asker.server == first
    assert answerer.server == second
    assert await is_unanswered()
    await bus.heal_route()
    await until_answered(asker, "echo")


async def test_closing_sends_what_was_published_and_ends_requests(make_bus: MakeBus) -> None:
    bus = await make_bus(1)
    leaving, staying = await bus.client("leaving"), await bus.client("staying")
    inbox, silent = Inbox(), Inbox()
    await staying.subscribe("last.words", inbox)
    await staying.subscribe("silent", silent)
    waiting = asyncio.create_task(leaving.request("silent", b"?", timeout_s=60))
    await eventually(lambda: silent.got == [b"?"])
    for number in range(100):
        await leaving.publish("last.words", str(number).encode())
    await leaving.close()
    with pytest.raises(BusDisconnected):
        await waiting
    await eventually(lambda: len(inbox.got) == 100)
    assert leaving.server is None
    await leaving.close()  # repeating it is free
    with pytest.raises(BusDisconnected):
        await leaving.publish("last.words", b"")
    with pytest.raises(BusDisconnected):
        await leaving.subscribe("s", inbox)


async def test_a_lost_connection_does_not_interrupt_a_handler(make_bus: MakeBus) -> None:
    bus = await make_bus(2)
    first, second = bus.servers
    sender = await bus.client("sender", (second,))
    receiver = await bus.client("receiver", (first, second))
    events: list[str] = []
    may_go_on = asyncio.Event()

    async def slow(delivery: Delivery) -> None:
        events.append(f"begin {delivery.payload.decode()}")
        await may_go_on.wait()
        events.append(f"end {delivery.payload.decode()}")

    await receiver.subscribe("work", slow)
    await receiver.subscribe("echo", echo)
    await until_answered(sender, "echo")
    await sender.publish("work", b"1")
    await eventually(lambda: events == ["begin 1"])
    await bus.stop(first)
    await eventually(lambda: receiver.server == second)
    await until_answered(sender, "echo")
    await sender.publish("work", b"2")
    await until_answered(sender, "echo")
    assert events == ["begin 1"]
    may_go_on.set()
    await eventually(lambda: events == ["begin 1", "end 1", "begin 2", "end 2"])
