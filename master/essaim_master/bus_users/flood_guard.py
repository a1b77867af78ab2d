"""Cuts off a node that floods the bus, before the others feel it.

Twice a second each master looks at the bus server beside it. Who is over the bounds of `floods` is
shut out of this server at once; that needs nobody else, not even a quorum. Then it is written into
the state, by which all servers shut it out, until an operator lets it in again.
"""

import asyncio
import logging
from typing import Final

from essaim_master.bus_users.floods import Flood, FloodLooks
from essaim_master.bus_users.keeper import BusUsersKeeper
from essaim_master.bus_users.local_server import BusServerControl, BusServerError
from essaim_master.bus_users.suspension import agent_with_key, suspension_writes
from essaim_master.state.cluster import Cluster
from essaim_shared.clock import Clock
from essaim_shared.errors import Unavailable
from essaim_shared.log import fields

LOOK_PERIOD_S: Final = 0.5
COMMIT_TIMEOUT_S: Final = 3.0

_log = logging.getLogger(__name__)


class FloodGuard:
    """`run` until cancelled."""

    def __init__(
        self, cluster: Cluster, server: BusServerControl, keeper: BusUsersKeeper, clock: Clock
    ) -> None:
        self._cluster = cluster
        self._state = cluster.state
        self._server = server
        self._keeper = keeper
        self._clock = clock
        self._looks = FloodLooks()
        self._unwritten: dict[str, Flood] = {}
        """By key: shut out here, and the state does not say so yet."""
        self._writing: asyncio.Task[None] | None = None
        self.cut_count = 0
        """Nodes that were shut out by this master since it started."""

    async def run(self) -> None:
        try:
            while True:
                started_s = self._clock.monotonic_s()
                await self.turn()
                took_s = self._clock.monotonic_s() - started_s
                await self._clock.sleep(max(0.0, LOOK_PERIOD_S - took_s))
        finally:
            if self._writing is not None:
                self._writing.cancel()

    async def turn(self) -> None:
        try:
            connections = await self._server.connections()
        except BusServerError as error:
            _log.debug("no look at the bus server: %s", error)
            return
        for flood in self._looks.look(connections, self._clock.monotonic_s()):
            self._accuse(flood)
        self._go_on()

    def accuse(self, flood: Flood) -> None:
        """A master that stands by has seen it at the server beside it."""
        self._accuse(flood)
        self._go_on()

    def _accuse(self, flood: Flood) -> None:
        identity = agent_with_key(self._state, flood.bus_key)
        if identity is None or identity.suspended or flood.bus_key in self._unwritten:
            return
        _log.error("a node is cut off %s", fields(node=identity.name, reason=flood.reason))
        self.cut_count += 1
        self._unwritten[flood.bus_key] = flood

    def _go_on(self) -> None:
        self._settle()
        if self._unwritten and (self._writing is None or self._writing.done()):
            # The looks go on: without a quorum this takes its time.
            loop = asyncio.get_running_loop()
            self._writing = loop.create_task(self._write(), name="suspension")

    def _settle(self) -> None:
        for bus_key in tuple(self._unwritten):
            identity = agent_with_key(self._state, bus_key)
            if identity is None or identity.suspended:
                del self._unwritten[bus_key]
                self._looks.forget(bus_key)
        self._keeper.shut_out(frozenset(self._unwritten))

    async def _write(self) -> None:
        for bus_key, flood in tuple(self._unwritten.items()):
            identity = agent_with_key(self._state, bus_key)
            if identity is None:
                continue
            writes = suspension_writes(self._state, identity.name, flood.reason)
            if not writes:
                continue
            (transaction,) = writes.transactions()
            try:
                await self._cluster.commit(transaction, COMMIT_TIMEOUT_S)
            except Unavailable as error:
                _log.warning("it is shut out here alone so far %s", fields(reason=error))
                return
