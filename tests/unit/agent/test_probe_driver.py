"""The probes of a task as they are asked: over real sockets, in bounded numbers, side by side."""

import asyncio
import random
import socket
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import pytest

from essaim_agent.executor import Executor
from essaim_agent.fake_executor import NEVER_ENDS, FakeEngine, FakeExecutor
from essaim_agent.probes.driver import COMMAND_PROBES_MAX, ProbeSlots, TaskProbes
from essaim_agent.probes.prober import Beginning, Kind, Verdict
from essaim_shared.clock import Clock, ManualClock, SystemClock
from essaim_shared.container_spec import (
    ContainerSpec,
    ExecAction,
    HttpAction,
    Probe,
    Probes,
    TcpAction,
)
from essaim_shared.ids import ServiceId, TaskId
from essaim_shared.objects import Task
from essaim_shared.spec import TaskSpec
from essaim_shared.task_state import TaskState

SEED = 83
SECOND_NS = 1_000_000_000
PATIENCE_S = 20.0
Told = tuple[Kind, Verdict, str]


class Site:
    """A node that only probes."""

    def __init__(self, clock: Clock) -> None:
        print(f"seed {SEED}")
        self.clock = clock
        self.rng = random.Random(SEED)
        self.probe_slots = ProbeSlots()
        self.engine = FakeEngine()
        self.executor: Executor = FakeExecutor(self.engine, clock)
        self.told: asyncio.Queue[Told] = asyncio.Queue()
        self._spawned: list[asyncio.Task[None]] = []

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> "asyncio.Task[None]":
        task = asyncio.create_task(work, name=name)
        self._spawned.append(task)
        return task

    def probes(self, name: str = "web", **probes: Probe) -> TaskProbes:
        """Of a task without a network of its own."""
        task = Task(
            id=TaskId(name),
            service_id=ServiceId("s"),
            service_name=name,
            slot=1,
            spec=TaskSpec(container=ContainerSpec(image="img", probes=Probes(**probes))),
            spec_version=1,
            desired_state=TaskState.RUNNING,
            created_ns=1,
            updated_ns=1,
        )
        self.engine.run(self.engine.create(task.id, None))
        return TaskProbes(self, task, lambda *told: self.told.put_nowait(told))

    def beginning(self) -> Beginning:
        now_s = self.clock.monotonic_s()
        return Beginning(now_s, now_s, is_taken_over=False, is_ready=False)

    async def advance(self, seconds: float) -> None:
        assert isinstance(self.clock, ManualClock)
        await self.clock.advance(seconds)

    async def next_told(self) -> Told:
        async with asyncio.timeout(PATIENCE_S):
            return await self.told.get()

    async def close(self) -> None:
        for task in self._spawned:
            task.cancel()
        await asyncio.gather(*self._spawned, return_exceptions=True)
        assert all(task.cancelled() for task in self._spawned), "a probe ended by itself"


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    made = Site(SystemClock())
    yield made
    await made.close()


@pytest.fixture
async def still_site() -> AsyncIterator[Site]:
    """Its time stands still until the test moves it."""
    made = Site(ManualClock())
    yield made
    await made.close()


async def test_a_task_without_a_network_is_asked_on_the_loopback(site: Site) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        probes = site.probes(readiness=Probe(tcp=TcpAction(port=port)))
        probes.follow((Kind.READINESS,), site.beginning)
        assert await site.next_told() == (Kind.READINESS, Verdict.SUCCEEDED, "")


async def test_a_server_that_does_not_answer_in_time_has_failed(site: Site) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        action = HttpAction(port=silent.getsockname()[1])
        probe = Probe(http=action, timeout=SECOND_NS // 20, failure_threshold=1)
        site.probes(liveness=probe).follow((Kind.LIVENESS,), site.beginning)
        assert await site.next_told() == (
            Kind.LIVENESS,
            Verdict.FAILED,
            "no answer within 0.05 s",
        )


def command(word: str, **fields: int) -> Probe:
    return Probe(exec_=ExecAction(command=(word,)), **fields)


async def test_a_probe_that_hangs_delays_no_other_of_its_task(still_site: Site) -> None:
    still_site.engine.commands[("hangs",)] = NEVER_ENDS
    probes = still_site.probes(
        readiness=command("hangs", timeout=3600 * SECOND_NS), liveness=command("answers")
    )
    probes.follow((Kind.READINESS, Kind.LIVENESS), still_site.beginning)
    await still_site.advance(0.0)
    await still_site.advance(60.0)
    asked = [run.command[0] for run in still_site.engine.commands_run]
    assert asked.count("hangs") == 1
    assert asked.count("answers") >= 5


async def test_commands_under_way_on_a_node_are_bounded(still_site: Site) -> None:
    still_site.engine.commands[("hangs",)] = NEVER_ENDS
    for number in range(3 * COMMAND_PROBES_MAX):
        probes = still_site.probes(f"web{number}", liveness=command("hangs", period=60 * SECOND_NS))
        probes.follow((Kind.LIVENESS,), still_site.beginning)
    for turn in (1, 2, 3):
        await still_site.advance(0.9)
        assert len(still_site.engine.commands_run) == turn * COMMAND_PROBES_MAX
        await still_site.advance(0.1)


async def test_what_is_followed_no_more_is_asked_no_more_and_the_rest_goes_on(
    still_site: Site,
) -> None:
    probes = still_site.probes(readiness=command("ready"), liveness=command("live"))
    probes.follow((Kind.READINESS, Kind.LIVENESS), still_site.beginning)
    await still_site.advance(0.0)
    probes.follow((Kind.LIVENESS,), still_site.beginning)
    await still_site.advance(60.0)
    asked = [run.command[0] for run in still_site.engine.commands_run]
    assert asked.count("ready") == 1
    assert asked.count("live") >= 5
    probes.stop()
    await still_site.advance(60.0)
    assert len(still_site.engine.commands_run) == len(asked)


async def test_following_what_is_followed_already_does_not_ask_anew(still_site: Site) -> None:
    probes = still_site.probes(liveness=command("live"))
    for _ in range(5):
        probes.follow((Kind.LIVENESS,), still_site.beginning)
        await still_site.advance(1.0)
    assert len(still_site.engine.commands_run) == 1


async def test_a_slot_is_given_back_by_a_probe_that_is_stopped(still_site: Site) -> None:
    still_site.engine.commands[("hangs",)] = NEVER_ENDS
    for number in range(COMMAND_PROBES_MAX):
        hanging = still_site.probes(
            f"web{number}", liveness=command("hangs", timeout=3600 * SECOND_NS)
        )
        hanging.follow((Kind.LIVENESS,), still_site.beginning)
        await still_site.advance(0.0)
        hanging.stop()
    other = still_site.probes("other", liveness=command("live"))
    other.follow((Kind.LIVENESS,), still_site.beginning)
    await still_site.advance(1.0)
    assert still_site.engine.commands_run[-1].command == ("live",)
