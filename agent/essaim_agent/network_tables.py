"""Keeps the node's tables as wanted: what the masters told, with what the node knows of its tasks.

Changes are counted; whoever needs one in force waits for its number. The tables are set by one
loop, once for any number of changes that came meanwhile. The first change is carried out at once,
and under load the next no sooner than `TABLES_SPACING_S` later: each costs a transaction of the
kernel, whatever its size.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Iterable
from typing import Final

from essaim_agent.network import NetworkError, NetworkPicture, NetworksRefused, TaskNetworks
from essaim_agent.network_set import LocalTask, NetworkSet
from essaim_agent.task_machine import one_line
from essaim_agent.waits import within
from essaim_shared.backoff import backoff_s
from essaim_shared.clock import Clock
from essaim_shared.ids import NetworkId
from essaim_shared.log import fields
from essaim_shared.messages import Assignments
from essaim_shared.objects import Task

_log = logging.getLogger(__name__)

TABLES_SPACING_S: Final = 0.05
"""Between two changes of the tables."""
RETRY_FIRST_S: Final = 0.5
RETRY_MOST_S: Final = 10.0


class NetworkTables:
    """`apply` once at the start, when something is known from before; then `run`."""

    def __init__(
        self,
        networks: TaskNetworks,
        clock: Clock,
        rng: random.Random,
        local_tasks: Callable[[], Iterable[LocalTask]],
    ) -> None:
        self.known = NetworkSet()
        self._networks = networks
        self._clock = clock
        self._rng = rng
        self._local_tasks = local_tasks
        self.revision = 0
        """Of the latest change."""
        self._applied = 0
        self._applied_s = float("-inf")
        self._in_force: NetworkPicture | None = None
        self._error: NetworkError | None = None
        self._changed = asyncio.Event()
        self._settled = asyncio.Condition()

    def take(self, message: Assignments) -> None:
        # Also a first word that says nothing: an earlier run may have left what it knew.
        if self.known.apply(message) or self.revision == 0:
            self.changed()

    def changed(self) -> int:
        """Something is other than it was, here or by the masters' word: the new revision."""
        self.revision += 1
        self._changed.set()
        return self.revision

    def nameserver(self, task: Task) -> str:
        """Where the task asks for names: its node's address on its first network."""
        return self.known.gateway(task.attachments[0].network_id) if task.attachments else ""

    async def applied(self, revision: int, networks: Iterable[NetworkId] | None = None) -> None:
        """Return once the tables have what was wanted at `revision`, all of it or what concerns
        these networks. Raises NetworkError."""
        if self._applied < revision:
            async with self._settled:
                await self._settled.wait_for(lambda: self._applied >= revision)
        error = self._error
        if isinstance(error, NetworksRefused) and networks is not None:
            error = error if error.networks.intersection(networks) else None
        if error is not None:
            raise NetworkError(str(error))

    async def applied_within(
        self, revision: int, limit_s: float, networks: Iterable[NetworkId]
    ) -> bool:
        """Whether they have it in time; False also when the kernel refuses."""
        try:
            return await within(self._clock, limit_s, self.applied(revision, networks))
        except NetworkError:
            return False

    async def run(self) -> None:
        attempt = 0
        while True:
            await self._changed.wait()
            await self._keep_spacing()
            if await self.apply():
                attempt = 0
                continue
            attempt += 1
            await self._clock.sleep(backoff_s(attempt, self._rng, RETRY_FIRST_S, RETRY_MOST_S))

    async def _keep_spacing(self) -> None:
        left_s = self._applied_s + TABLES_SPACING_S - self._clock.monotonic_s()
        if left_s > 0:
            await self._clock.sleep(left_s)

    async def apply(self) -> bool:
        """Set the tables now; whether they are as wanted. They are wanted again if not."""
        self._changed.clear()
        revision = self.revision
        picture = self.known.picture(self._local_tasks())
        if picture != self._in_force:
            self._in_force = None
            try:
                await self._networks.want(picture)
                self._in_force, self._error = picture, None
            except NetworkError as error:
                self._error = error
                self._changed.set()
                _log.error("overlay not as wanted %s", fields(reason=one_line(str(error))))
            self._applied_s = self._clock.monotonic_s()
        async with self._settled:
            self._applied = revision
            self._settled.notify_all()
        return self._error is None
