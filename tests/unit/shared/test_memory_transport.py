"""The faults of the in-memory bus, on a clock that only the test moves."""

import asyncio
import random
from collections.abc import Callable

import pytest

from essaim_shared.clock import ManualClock
from essaim_shared.memory_transport import PING_TIMEOUT_S, RECONNECT_WAIT_MAX_S, MemoryBus
from essaim_shared.transport import BusDisconnected, Delivery, RequestTimeout

SEED = 424_242


class Inbox:
    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self.got: list[bytes] = []
        self.arrived_s: list[float] = []

    async def __call__(self, delivery: Delivery) -> None:
        self.got.append(delivery.payload)
        self.arrived_s.append(self._clock.monotonic_s())


async def echo(delivery: Delivery) -> None:
    await delivery.respond(delivery.payload)


def new_bus(*servers: str, seed: int = SEED) -> tuple[MemoryBus, ManualClock]:
    print("seed", seed)
    clock = ManualClock()
    return MemoryBus(clock, random.Random(seed), servers or ("bus-1",)), clock


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_delayed_messages_arrive_when_due_and_in_order() -> None:
    bus, clock = new_bus()
    bus.delay_s = (0.1, 0.5)
    sender, receiver = bus.client("sender"), bus.client("receiver")
    inbox = Inbox(clock)
    await receiver.subscribe("s", inbox)
    started_s = clock.monotonic_s()
    sent = [str(number).encode() for number in range(50)]
    for payload in sent:
        await sender.publish("s", payload)
    await turns()
    assert inbox.got == []
    await clock.advance(0.1)
    assert len(inbox.got) < 50
    await clock.advance(0.4, settle_rounds=200)
    assert inbox.got == sent
    assert all(0.1 <= arrived_s - started_s <= 0.5 for arrived_s in inbox.arrived_s)
    await bus.close()


async def test_a_request_takes_the_delay_twice_and_may_time_out() -> None:
    bus, clock = new_bus()
    bus.delay_s = (0.4, 0.4)
    asker, answerer = bus.client("asker"), bus.client("answerer")
    await answerer.subscribe("echo", echo)
    patient = asyncio.create_task(asker.request("echo", b"x", timeout_s=1.0))
    hasty = asyncio.create_task(asker.request("echo", b"x", timeout_s=0.7))
    await turns()
    await clock.advance(0.9)
    assert await patient == b"x"
    with pytest.raises(RequestTimeout):
        await hasty
    await bus.close()


async def test_the_same_seed_loses_the_same_messages() -> None:
    async def run(seed: int) -> list[bytes]:
        bus, clock = new_bus(seed=seed)
        bus.loss = 0.3
        sender, receiver = bus.client("sender"), bus.client("receiver")
        inbox = Inbox(clock)
        await receiver.subscribe("s", inbox)
        for number in range(200):
            await sender.publish("s", str(number).encode())
        await turns()
        assert bus.lost_count == 200 - len(inbox.got)
        await bus.close()
        return inbox.got

    first = await run(SEED)
    assert first == await run(SEED)
    assert first != await run(SEED + 1)
    assert 100 < len(first) < 180


async def test_a_host_that_is_cut_off_reaches_no_server_until_it_is_healed() -> None:
    bus, clock = new_bus("bus-1", "bus-2")
    cut, other = bus.client("cut"), bus.client("other")
    inbox = Inbox(clock)
    await cut.subscribe("s", inbox)
    bus.cut_client("cut")
    assert cut.server is None
    with pytest.raises(BusDisconnected):
        await cut.publish("s", b"")
    await other.publish("s", b"lost")
    await clock.advance(60)
    assert cut.server is None
    bus.heal_client("cut")
    await clock.advance(RECONNECT_WAIT_MAX_S)
    assert cut.server is not None
    await other.publish("s", b"arrives")
    await turns()
    assert inbox.got == [b"arrives"]
    await bus.close()


async def test_what_is_on_its_way_to_a_lost_connection_is_lost() -> None:
    bus, clock = new_bus("bus-1", "bus-2")
    bus.delay_s = (1.0, 1.0)
    sender, receiver = bus.client("sender", ["bus-2"]), bus.client("receiver")
    inbox = Inbox(clock)
    await receiver.subscribe("s", inbox)
    await sender.publish("s", b"1")
    await turns()
    bus.stop("bus-1")
    await clock.advance(2)
    assert receiver.server == "bus-2"
    assert inbox.got == []
    await bus.close()


async def test_clients_leave_a_frozen_server_when_its_ping_is_overdue() -> None:
    bus, clock = new_bus("bus-1", "bus-2")
    client = bus.client("client")
    bus.freeze("bus-1")
    await turns()
    await client.publish("s", b"swallowed")  # nobody can tell yet
    await clock.advance(PING_TIMEOUT_S - 0.1)
    assert client.server == "bus-1"
    await clock.advance(0.1 + RECONNECT_WAIT_MAX_S)
    assert client.server == "bus-2"
    await bus.close()


@pytest.mark.parametrize("fault", [MemoryBus.stop, MemoryBus.freeze])
async def test_a_client_whose_servers_are_all_gone_waits_for_any_of_them(
    fault: Callable[[MemoryBus, str], None],
) -> None:
    bus, clock = new_bus("bus-1", "bus-2")
    client = bus.client("client")
    fault(bus, "bus-1")
    fault(bus, "bus-2")
    await turns()
    await clock.advance(PING_TIMEOUT_S + 1)
    assert client.server is None
    bus.thaw("bus-2")
    bus.start("bus-2")
    await clock.advance(1)
    assert client.server == "bus-2"
    await bus.close()
