"""The parts that both transports are built of."""

import asyncio
from dataclasses import dataclass

import pytest

from essaim_shared import delivery_queue
from essaim_shared.bus_subjects import check_pattern, check_subject, matches
from essaim_shared.delivery_queue import WAITING_BYTES_MAX, WAITING_MESSAGES_MAX, DeliveryQueue
from essaim_shared.errors import ConfigError, InvalidRequest
from essaim_shared.server_pool import ServerPool
from essaim_shared.transport import Delivery


@pytest.mark.parametrize(
    ("pattern", "subject", "does"),
    [
        ("a.b", "a.b", True),
        ("a.b", "a.b.c", False),
        ("a.b.c", "a.b", False),
        ("a.*", "a.b", True),
        ("a.*", "a", False),
        ("a.*", "a.b.c", False),
        ("*.b", "a.b", True),
        ("a.>", "a.b.c", True),
        ("a.>", "a", False),
        (">", "a", True),
        ("a.*.>", "a.b", False),
        ("a.*.>", "a.b.c.d", True),
    ],
)
def test_patterns_match_as_the_servers_of_nats_do(pattern: str, subject: str, does: bool) -> None:
    check_pattern(pattern)
    assert matches(pattern, subject) is does


@pytest.mark.parametrize("pattern", ["", "a..b", ">.a", "a.>.b", "a*", "a.b>", "a b", "a\n"])
def test_malformed_patterns_are_refused(pattern: str) -> None:
    with pytest.raises(InvalidRequest, match="pattern"):
        check_pattern(pattern)


def test_a_refused_subject_is_shown_cut_and_escaped() -> None:
    with pytest.raises(InvalidRequest) as raised:
        check_subject("x\r\nPUB " + "y" * 1000)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 150


def test_the_server_left_longest_ago_is_tried_first() -> None:
    pool = ServerPool(["local", "second", "third", "local"])
    assert pool.in_order() == ("local", "second", "third")
    pool.leave("local")
    assert pool.next == "second"
    pool.leave("second")
    assert pool.next == "third", "the third gets its turn before the first one again"
    pool.leave("third")
    assert pool.in_order() == ("local", "second", "third")
    with pytest.raises(ConfigError, match="no bus server"):
        ServerPool([])


@dataclass
class Message:
    payload: bytes
    subject: str = "s"

    async def respond(self, payload: bytes) -> None:
        pass


class Slow:
    """A handler that is stuck with its first message until `go_on`."""

    def __init__(self) -> None:
        self.handled: list[bytes] = []
        self.go_on = asyncio.Event()

    async def __call__(self, delivery: Delivery) -> None:
        await self.go_on.wait()
        self.handled.append(delivery.payload)


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_too_many_messages_for_a_slow_handler_are_dropped_and_counted() -> None:
    drops: list[None] = []
    slow = Slow()
    queue = DeliveryQueue("s", slow, lambda: drops.append(None))
    for number in range(WAITING_MESSAGES_MAX + 3):
        queue.put(Message(str(number).encode()))
    assert len(drops) == 3
    slow.go_on.set()
    await turns(2 * WAITING_MESSAGES_MAX // delivery_queue.HANDLED_PER_TURN_MAX)
    assert len(slow.handled) == WAITING_MESSAGES_MAX
    queue.put(Message(b"there is room again"))
    await turns(3)
    assert slow.handled[-1] == b"there is room again"
    queue.close()
    await queue.join(1.0)


async def test_too_many_bytes_are_dropped_and_counted() -> None:
    drops: list[None] = []
    queue = DeliveryQueue("s", Slow(), lambda: drops.append(None))
    half = b"x" * (WAITING_BYTES_MAX // 2)
    for _ in range(3):
        queue.put(Message(half))
    queue.put(Message(b""))
    assert len(drops) == 1
    queue.close()
    await queue.join(1.0)


async def test_a_long_queue_does_not_keep_the_event_loop() -> None:
    handled = 0

    async def quick(_: Delivery) -> None:
        nonlocal handled
        handled += 1

    queue = DeliveryQueue("s", quick, lambda: None)
    for _ in range(1000):
        queue.put(Message(b""))
    await asyncio.sleep(0)
    assert 0 < handled <= delivery_queue.HANDLED_PER_TURN_MAX
    queue.close()
    await queue.join(1.0)


async def test_a_handler_that_does_not_end_is_cancelled_when_the_queue_is_joined() -> None:
    cancelled: list[bool] = []

    async def stuck(_: Delivery) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    queue = DeliveryQueue("s", stuck, lambda: None)
    queue.put(Message(b""))
    await turns(2)
    queue.close()
    await queue.join(0.01)
    assert cancelled == [True]
