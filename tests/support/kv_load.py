"""Clients that use the key-value API of all masters at once and remember what they saw.

    async with under_load(hosts, clock, rng) as load:
        … hurt the masters …
    load.check()                 # raises AssertionError with what cannot be explained

Every client stays with its own master, as a user's would, so that a master which believes to
lead still is asked. Values are written once only, so that a value read names its write.
"""

import asyncio
import itertools
import math
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from support.kv_client import Answer, KvClient, NoAnswer, NotSent
from support.linearizability import Kind, Operation, check

from essaim_cli.lab.topology import Host
from essaim_shared.clock import Clock

CLIENTS_PER_MASTER = 3
KEYS = 6
PAUSE_S = 0.004
"""Between two requests of a client: the masters and the judge share the machine with it."""
ANSWER_TIMEOUT_S = 10.0
"""Longer than any pause of a test: what a stopped master answers when it goes on is judged too."""
REFUSED_PAUSE_S = 0.05
WAIT_S = 30.0

LEDGER = "ledger/"
"""Keys that are written once and never again: an acknowledged one is there for ever."""


@dataclass(slots=True)
class Load:
    hosts: Sequence[Host]
    clock: Clock
    history: list[Operation] = field(default_factory=list)
    acknowledged: dict[str, str] = field(default_factory=dict)
    """Ledger keys with their values."""
    refused: int = 0
    unknown: int = 0

    @property
    def writes(self) -> int:
        """Acknowledged ones, so far."""
        return len(self.acknowledged)

    async def until_writes(self, more: int) -> float:
        """Wait for so many further acknowledged writes; returns how long it took, in seconds."""
        start_s, wanted = self.clock.monotonic_s(), self.writes + more
        while self.writes < wanted:
            assert self.clock.monotonic_s() < start_s + WAIT_S, (
                f"{self.writes} of {wanted} writes after {WAIT_S:g} s"
            )
            await self.clock.sleep(PAUSE_S)
        return self.clock.monotonic_s() - start_s

    def check(self) -> None:
        """The history is linearizable, and there is something in it."""
        done = [one for one in self.history if one.is_known]
        assert len(done) > 100, f"{len(done)} operations prove nothing"
        assert any(one.kind is Kind.GET and one.value is not None for one in done)
        print(f"{len(done)} operations, {self.unknown} unknown, {self.refused} refused")
        violation = check(self.history)
        assert violation is None, violation

    async def check_masters_agree(self) -> list[dict[str, Any]]:
        """Every acknowledged write is there, and each master by itself holds the same, which is
        returned."""
        deadline_s = self.clock.monotonic_s() + WAIT_S
        # Requests that were cut short may still be carried out: then it is compared again.
        while True:
            kept, *others = [await self._held_by(host) for host in self.hosts]
            if all(other == kept for other in others):
                break
            assert self.clock.monotonic_s() < deadline_s, "the masters do not hold the same"
        held = {one["Key"]: one["Value"] for one in kept}
        lost = {key for key, value in self.acknowledged.items() if held.get(key) != value}
        assert not lost, f"{len(lost)} acknowledged writes are lost: {sorted(lost)[:5]}"
        return kept

    async def _held_by(self, host: Host) -> list[dict[str, Any]]:
        client = KvClient(host, ANSWER_TIMEOUT_S)
        try:
            # A linearizable read makes this master catch up before it is asked for its own.
            caught_up = await client.ask("GET", "/essaim/kv/range?prefix=nothing")
            assert caught_up.is_ok, f"{host.name}: {caught_up}"
            return await client.range("", consistency="local")
        finally:
            client.close()


class _Client:
    """One user; `run` until cancelled."""

    def __init__(self, name: str, load: Load, host: Host, rng: random.Random) -> None:
        self._name = name
        self._load = load
        self._clock = load.clock
        self._rng = rng
        self._numbers = itertools.count()
        self._client = KvClient(host, ANSWER_TIMEOUT_S)
        self._seen: dict[str, str | None] = {}

    async def run(self) -> None:
        try:
            while True:
                is_accepted = await self._one()
                await self._clock.sleep(PAUSE_S if is_accepted else REFUSED_PAUSE_S)
        finally:
            self._client.close()

    async def _one(self) -> bool:
        value = f"{self._name}-{next(self._numbers)}"
        key = f"k{self._rng.randrange(KEYS)}"
        chance = self._rng.random()
        if chance < 0.25:
            return await self._write_ledger(value)
        if chance < 0.65:
            return await self._read(key)
        if chance < 0.85:
            return await self._write(Operation(key, Kind.PUT, 0, math.inf, value))
        if chance < 0.95:
            expected = self._seen.get(key)
            return await self._write(Operation(key, Kind.SWAP, 0, math.inf, value, expected))
        return await self._write(Operation(key, Kind.DELETE, 0, math.inf))

    async def _write_ledger(self, value: str) -> bool:
        try:
            answer = await self._client.put(LEDGER + value, value)
        except (NotSent, NoAnswer):
            return False
        if answer.is_ok:
            self._load.acknowledged[LEDGER + value] = value
        return answer.is_ok

    async def _read(self, key: str) -> bool:
        call_s = self._clock.monotonic_s()
        try:
            answer = await self._client.get(key)
        except (NotSent, NoAnswer):
            return False
        if answer.status not in (200, 404):
            self._load.refused += 1
            return False
        value = answer.body["KV"]["Value"] if answer.is_ok else None
        self._seen[key] = value
        self._load.history.append(
            Operation(key, Kind.GET, call_s, self._clock.monotonic_s(), value)
        )
        return True

    async def _write(self, asked: Operation) -> bool:
        """Anything but a success counts as unknown, for the answer of a master that is being
        deposed says no more."""
        call_s, return_s = self._clock.monotonic_s(), math.inf
        succeeded, is_sent = True, True
        try:
            answer = await self._send(asked)
            if answer.is_ok:
                return_s = self._clock.monotonic_s()
                succeeded = answer.body.get("Succeeded", True)
            else:
                self._load.refused += 1
        except NotSent:
            is_sent = False
        except NoAnswer:
            self._load.unknown += 1
        finally:
            # Also when the load ends in the middle of it: others may have seen its effect.
            if is_sent:
                self._load.history.append(
                    replace(asked, call_s=call_s, return_s=return_s, succeeded=succeeded)
                )
        return return_s < math.inf

    async def _send(self, asked: Operation) -> Answer:
        if asked.kind is Kind.DELETE:
            return await self._client.delete(asked.key)
        assert asked.value is not None
        if asked.kind is Kind.SWAP:
            return await self._client.swap(asked.key, asked.expected, asked.value)
        return await self._client.put(asked.key, asked.value)


@asynccontextmanager
async def under_load(
    hosts: Sequence[Host], clock: Clock, rng: random.Random
) -> AsyncIterator[Load]:
    """Clients at every master, until the block ends. Their last requests are cut short: for the
    history they are writes with an unknown outcome. Keys are those of an empty store."""
    load = Load(hosts, clock)
    first = KvClient(hosts[0], ANSWER_TIMEOUT_S)
    deadline_s = clock.monotonic_s() + WAIT_S
    # A young cluster takes no keys of users before every master is known to understand them.
    while not (emptied := await first.ask("DELETE", "/essaim/kv/range?prefix=")).is_ok:
        assert clock.monotonic_s() < deadline_s, emptied
        await clock.sleep(REFUSED_PAUSE_S)
    first.close()
    clients = [
        _Client(f"{host.name}c{number}", load, host, random.Random(rng.getrandbits(64)))
        for host in hosts
        for number in range(CLIENTS_PER_MASTER)
    ]
    tasks = [asyncio.create_task(client.run()) for client in clients]
    try:
        await load.until_writes(50)
        yield load
        for task in tasks:
            assert not task.done(), task.exception()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
