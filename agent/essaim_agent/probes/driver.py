"""Asks the probes of one task, each in a loop of its own: a readiness probe that hangs delays no
liveness probe. What the answers mean to the task, its manager decides.
"""

import asyncio
import random
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Final, Protocol

from msgspec import UNSET

from essaim_agent.executor import CommandTimeout, Executor, ExecutorError, Temporary
from essaim_agent.probes.actions import Reply, ask_http, ask_tcp
from essaim_agent.probes.prober import (
    Answer,
    Beginning,
    Kind,
    Prober,
    Verdict,
    new_prober,
    probe_of,
)
from essaim_shared.clock import Clock
from essaim_shared.container_spec import Probe
from essaim_shared.objects import Task

NETWORK_PROBES_MAX: Final = 32
"""Under way on a node."""
COMMAND_PROBES_MAX: Final = 8
"""Under way on a node: each is two calls of the engine and a process in a container."""
LOOPBACK: Final = "127.0.0.1"
"""Where a task without a network of its own answers: in the host's."""


class ProbeSlots:
    """The node's bound on probes under way. Waiting for a slot is not part of a probe's time."""

    def __init__(self) -> None:
        self.network = asyncio.Semaphore(NETWORK_PROBES_MAX)
        self.command = asyncio.Semaphore(COMMAND_PROBES_MAX)

    def of(self, probe: Probe) -> asyncio.Semaphore:
        return self.network if probe.exec_ is None else self.command


class ProbeSite(Protocol):
    """What probes need of the node."""

    executor: Executor
    clock: Clock
    rng: random.Random
    probe_slots: ProbeSlots

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> "asyncio.Task[None]":
        """Run beside the rest; an error that nobody expects ends the agent."""
        ...


class TaskProbes:
    """The probes of one task that are being asked."""

    def __init__(
        self, site: ProbeSite, task: Task, told: Callable[[Kind, Verdict, str], None]
    ) -> None:
        """`told` hears each verdict, again and again, and for a failure why."""
        self._site = site
        self._task = task
        self._told = told
        self._following: dict[Kind, asyncio.Task[None]] = {}

    def has(self, kind: Kind) -> bool:
        """Whether the task was given such a probe."""
        return self._probe(kind) is not None

    def _probe(self, kind: Kind) -> Probe | None:
        probes = self._task.spec.container.probes
        return None if probes is UNSET or probes is None else probe_of(probes, kind)

    def follow(self, kinds: Iterable[Kind], beginning: Callable[[], Beginning]) -> None:
        """Ask these from now on and no others; what is being asked already goes on."""
        wanted = {kind: probe for kind in kinds if (probe := self._probe(kind)) is not None}
        for kind in self._following.keys() - wanted.keys():
            self._following.pop(kind).cancel()
        for kind in wanted.keys() - self._following.keys():
            prober = new_prober(kind, wanted[kind], beginning(), self._site.rng)
            self._following[kind] = self._site.spawn(
                self._follow(prober), name=f"{kind.value} probe of {self._task.id}"
            )

    def stop(self) -> None:
        for following in self._following.values():
            following.cancel()
        self._following.clear()

    async def _follow(self, prober: Prober) -> None:
        clock = self._site.clock
        while True:
            await clock.sleep(prober.due_s - clock.monotonic_s())
            async with self._site.probe_slots.of(prober.probe):
                prober.begin(clock.monotonic_s())
                answer, reason = await self._ask(prober.probe)
            verdict = prober.answered(answer)
            if verdict is not None:
                self._told(prober.kind, verdict, reason)

    async def _ask(self, probe: Probe) -> Reply:
        limit_s = probe.timeout / 1e9
        if probe.exec_ is not None:
            return await self._ask_command(probe.exec_.command, limit_s)
        attachments = self._task.attachments
        address = attachments[0].address if attachments else LOOPBACK
        if probe.http is not None:
            return await self._within(limit_s, asyncio.ensure_future(ask_http(probe.http, address)))
        if probe.tcp is not None:
            return await self._within(
                limit_s, asyncio.ensure_future(ask_tcp(probe.tcp.port, address))
            )
        return Answer.FAILURE, "the probe has no action"

    async def _ask_command(self, command: tuple[str, ...], limit_s: float) -> Reply:
        try:
            exit_code = await self._site.executor.run_command(self._task, command, limit_s)
        except CommandTimeout:
            return _timed_out(limit_s)
        except Temporary as error:
            return Answer.UNKNOWN, str(error)
        except ExecutorError as error:
            return Answer.FAILURE, str(error)
        if exit_code == 0:
            return Answer.SUCCESS, ""
        return Answer.FAILURE, f"{command[0]}: exit code {exit_code}"

    async def _within(self, limit_s: float, asking: "asyncio.Future[Reply]") -> Reply:
        limit = asyncio.ensure_future(self._site.clock.sleep(limit_s))
        try:
            await asyncio.wait((asking, limit), return_when=asyncio.FIRST_COMPLETED)
            return asking.result() if asking.done() else _timed_out(limit_s)
        finally:
            limit.cancel()
            asking.cancel()


def _timed_out(limit_s: float) -> Reply:
    return Answer.FAILURE, f"no answer within {limit_s:g} s"
