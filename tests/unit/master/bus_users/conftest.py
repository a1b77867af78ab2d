"""A master's keeper of bus users over a state and a bus server in memory."""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.fake_bus_server import FakeBusServer

from essaim_master.bus_users.flood_guard import FloodGuard
from essaim_master.bus_users.keeper import BusUsersKeeper
from essaim_master.state.cluster import LocalCluster, Member
from essaim_master.state.writes import Writes
from essaim_shared.clock import ManualClock
from essaim_shared.ids import MemberId
from essaim_shared.trust.bus_keys import new_seed, public_key_of
from essaim_shared.trust.roles import Role
from essaim_shared.trust_objects import NodeIdentity

STEP_S = 0.05


def _nothing() -> None:
    pass


class Bench:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.cluster = LocalCluster(self.clock, Member(MemberId("m1"), "", ""))
        self.state = self.cluster.state
        self.server = FakeBusServer()
        self.keeper = BusUsersKeeper(self.cluster, "lab", self.server, self.clock)
        self.guard = FloodGuard(self.cluster, self.server, self.keeper, self.clock)
        self.tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        # With one thread, work is done in the order in which it was asked for.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(max_workers=1))
        self.tasks = [
            asyncio.create_task(self.keeper.run()),
            asyncio.create_task(self.guard.run()),
        ]

    async def admit(self, name: str, role: Role = Role.AGENT) -> NodeIdentity:
        identity = NodeIdentity(
            role=role,
            name=name,
            bus_key=public_key_of(new_seed()),
            key_digest="",
            serial="",
            generation=1,
            issued_ns=0,
            expires_ns=0,
            joined_ns=len(self.state.identities),
        )
        await self.write(lambda writes: writes.put(identity))
        return identity

    async def remove(self, name: str) -> None:
        await self.write(lambda writes: writes.delete_identity(Role.AGENT, name))

    async def write(self, add: Callable[[Writes], object]) -> int:
        writes = Writes()
        add(writes)
        for transaction in writes.transactions():
            await self.cluster.commit(transaction, 1.0)
        return self.state.revision

    async def run(self, seconds: float) -> None:
        end_s = self.clock.monotonic_s() + seconds
        while self.clock.monotonic_s() < end_s:
            await self.clock.advance(STEP_S)
            await asyncio.to_thread(_nothing)  # behind the file that is being written
            for task in self.tasks:
                if task.done():
                    task.result()

    async def until(self, condition: Callable[[], object], limit_s: float = 20.0) -> None:
        end_s = self.clock.monotonic_s() + limit_s
        while not condition():
            assert self.clock.monotonic_s() < end_s, "it did not come"
            await self.run(STEP_S)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = Bench()
    yield made
    for task in made.tasks:
        task.cancel()
    if made.tasks:
        await asyncio.wait(made.tasks)
