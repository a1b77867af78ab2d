"""A client that opens a fixed number of connections a second, and counts what failed.

It does not wait for an answer before it opens the next one: a stall shows as failures or slow
answers, never as a lower rate.
"""

import asyncio
from collections import Counter
from dataclasses import dataclass, field

from essaim_shared.clock import Clock

ANSWER_TIMEOUT_S = 5.0
"""A request without an answer for so long has failed."""
TICK_S = 0.01
UNDER_WAY_MAX = 5_000
"""Requests without an answer; over it the network has stalled and the count says enough."""


@dataclass
class Load:
    """What came of one target's requests."""

    answered: Counter[str] = field(default_factory=Counter)
    """By who answered."""
    failures: list[str] = field(default_factory=list)
    slowest_s: float = 0.0

    @property
    def count(self) -> int:
        return self.answered.total() + len(self.failures)


class ConnectionLoad:
    """`async with ConnectionLoad(...) as load:` runs until the block ends; requests under way are
    then waited for."""

    def __init__(
        self, targets: list[tuple[str, int]], connections_per_s: int, clock: Clock
    ) -> None:
        """`connections_per_s` through each target."""
        self._targets = targets
        self._per_s = connections_per_s
        self._clock = clock
        self._under_way: set[asyncio.Task[None]] = set()
        self._runner: asyncio.Task[None] | None = None
        self.loads = {f"{host}:{port}": Load() for host, port in targets}

    async def __aenter__(self) -> "ConnectionLoad":
        self._runner = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._runner is not None
        self._runner.cancel()
        await asyncio.gather(self._runner, return_exceptions=True)
        await asyncio.gather(*self._under_way)

    @property
    def failures(self) -> list[str]:
        return [f"{name}: {reason}" for name, one in self.loads.items() for reason in one.failures]

    @property
    def count(self) -> int:
        return sum(load.count for load in self.loads.values())

    async def _run(self) -> None:
        start_s = self._clock.monotonic_s()
        sent = 0
        while True:
            due = int((self._clock.monotonic_s() - start_s) * self._per_s)
            for _ in range(min(due - sent, UNDER_WAY_MAX - len(self._under_way))):
                for host, port in self._targets:
                    task = asyncio.create_task(self._ask(host, port))
                    self._under_way.add(task)
                    task.add_done_callback(self._under_way.discard)
            sent = due
            await self._clock.sleep(TICK_S)

    async def _ask(self, host: str, port: int) -> None:
        load = self.loads[f"{host}:{port}"]
        start_s = self._clock.monotonic_s()
        writer: asyncio.StreamWriter | None = None
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                reader, writer = await asyncio.open_connection(host, port)
                writer.write(b"who\n")
                answer = await reader.read()
        except (OSError, TimeoutError) as error:
            load.failures.append(f"{type(error).__name__} {error}")
            return
        finally:
            if writer is not None:
                writer.close()
        if not answer:
            load.failures.append("closed without an answer")
            return
        load.answered[answer.split()[0].decode()] += 1
        load.slowest_s = max(load.slowest_s, self._clock.monotonic_s() - start_s)
