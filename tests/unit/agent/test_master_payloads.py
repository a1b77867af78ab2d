"""Asking masters for the data of a secret: in turn, again, and what their refusals are worth."""

import asyncio

import pytest

from essaim_agent.executor import Refused, Temporary
from essaim_agent.payloads.master_payloads import (
    FETCH_LIMIT_S,
    MasterPayloads,
    NoIdentity,
    calls_over,
)
from essaim_agent.payloads.references import PayloadKey
from essaim_agent.payloads.source import PAYLOAD_BYTES_MAX
from essaim_shared.clock import ManualClock, SystemClock
from essaim_shared.errors import Unavailable
from essaim_shared.http_call import Answer

KEY = PayloadKey("secret", "s" * 25, 7)
DATA = b"the data"
AWAY = None


class Masters:
    """Each answers with the next of its answers, and with the last one for ever."""

    def __init__(self, clock: ManualClock, **answers: list[Answer | None]) -> None:
        self.answers = answers
        self.asked: list[str] = []
        self.targets: set[str] = set()
        self.call_takes_s = 0.0
        self._clock = clock

    async def get(self, address: str, target: str) -> Answer:
        self.asked.append(address)
        self.targets.add(target)
        await self._clock.sleep(self.call_takes_s)
        answers = self.answers[address]
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if answer is None:
            raise Unavailable(f"the master at {address} cannot be reached")
        return answer

    def source(self) -> MasterPayloads:
        return MasterPayloads(lambda: tuple(self.answers), self.get, self._clock)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


async def fetched(clock: ManualClock, source: MasterPayloads) -> bytes:
    fetching = asyncio.ensure_future(source.fetch(KEY, 'secret "s"'))
    for _ in range(100):
        if fetching.done():
            break
        await clock.advance(0.5)
    return await fetching


GOOD, GONE, FORBIDDEN = Answer(200, DATA), Answer(404, DATA), Answer(403, DATA)


async def test_the_first_master_that_has_it_gives_it(clock: ManualClock) -> None:
    masters = Masters(clock, a=[GOOD], b=[GOOD])
    assert await fetched(clock, masters.source()) == DATA
    assert masters.asked == ["a"]
    assert masters.targets == {f"/essaim/node/secrets/{KEY.id}/7"}


@pytest.mark.parametrize("first", [AWAY, GONE, FORBIDDEN, Answer(503, b""), Answer(500, b"")])
async def test_one_that_has_it_not_costs_a_question_to_the_next(
    clock: ManualClock, first: Answer | None
) -> None:
    masters = Masters(clock, a=[first], b=[GOOD])
    source = masters.source()
    assert await fetched(clock, source) == DATA
    assert masters.asked == ["a", "b"]
    assert await fetched(clock, source) == DATA
    assert masters.asked == ["a", "b", "b"], "the one that answered last is asked first"


async def test_masters_that_are_a_moment_behind_are_asked_again(clock: ManualClock) -> None:
    masters = Masters(clock, a=[GONE], b=[FORBIDDEN, GOOD], c=[AWAY])
    assert await fetched(clock, masters.source()) == DATA
    assert masters.asked == ["a", "b", "c", "a", "b"]


@pytest.mark.parametrize(
    "answers",
    [{"a": [GONE]}, {"a": [GONE], "b": [FORBIDDEN]}, {"a": [AWAY], "b": [GONE], "c": [GONE]}],
)
async def test_what_most_masters_refuse_twice_is_refused(
    clock: ManualClock, answers: dict[str, list[Answer | None]]
) -> None:
    masters = Masters(clock, **answers)
    with pytest.raises(Refused, match=r'^secret "s": the masters know of no task') as refusal:
        await fetched(clock, masters.source())
    assert DATA.decode() not in str(refusal.value)
    assert masters.asked == [*answers, *answers]


@pytest.mark.parametrize(
    "answers",
    [
        {},
        {"a": [AWAY]},
        {"a": [GONE], "b": [AWAY]},
        {"a": [GONE], "b": [AWAY], "c": [Answer(503, b"")]},
        {"a": [GONE, AWAY]},
    ],
)
async def test_what_too_few_masters_refuse_may_come_later(
    clock: ManualClock, answers: dict[str, list[Answer | None]]
) -> None:
    with pytest.raises(Temporary, match=r'^no master could be asked for secret "s"$'):
        await fetched(clock, Masters(clock, **answers).source())


async def test_masters_that_are_slow_to_fail_are_not_all_asked(clock: ManualClock) -> None:
    masters = Masters(clock, **{f"m{number}": [AWAY] for number in range(10)})
    masters.call_takes_s = 3.0
    began_s = clock.monotonic_s()
    with pytest.raises(Temporary):
        await fetched(clock, masters.source())
    assert clock.monotonic_s() - began_s <= FETCH_LIMIT_S + 3.5
    assert len(masters.asked) == 5


async def test_an_answer_that_is_too_long_is_refused(clock: ManualClock) -> None:
    masters = Masters(clock, a=[Answer(200, b"x" * (PAYLOAD_BYTES_MAX + 1))])
    with pytest.raises(Refused, match="more than"):
        await fetched(clock, masters.source())


async def test_without_an_identity_no_secret_is_waited_for() -> None:
    with pytest.raises(Refused, match="let it join the cluster first"):
        await NoIdentity().fetch(KEY, 'secret "s"')


async def test_bytes_come_over_a_connection_as_they_are() -> None:
    data = bytes(range(256)) * 1000
    asked: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(data), data))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    source = MasterPayloads(lambda: (address,), calls_over(lambda: None), SystemClock())
    assert await source.fetch(KEY, 'secret "s"') == data
    assert asked[0].startswith(f"GET /essaim/node/secrets/{KEY.id}/7 HTTP/1.1\r\n".encode())
    server.close()
    await server.wait_closed()
