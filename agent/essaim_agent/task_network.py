"""What one task has of its node's networks: its namespace, its place in the tables, and the
connections that it still serves when it is to be stopped.
"""

import logging
from typing import Final, Protocol

from essaim_agent.executor import Executor, Temporary
from essaim_agent.network import EndpointState, NetworkError, TaskNetworks, is_on_host_network
from essaim_agent.network_set import LocalTask
from essaim_agent.network_tables import NetworkTables
from essaim_agent.task_machine import one_line
from essaim_agent.waits import within
from essaim_shared.clock import Clock
from essaim_shared.ids import NetworkId
from essaim_shared.limits import DRAIN_CONNECTIONS_S
from essaim_shared.log import fields
from essaim_shared.objects import Task

_log = logging.getLogger(__name__)

RELEASE_ATTEMPTS_MAX: Final = 5
"""A namespace that cannot be removed is left to the next restart's sweep."""
SERVE_TABLES_MAX_S: Final = 2.0
"""So long a task that runs is kept from being reported so by tables that do not know it yet."""
DRAIN_TABLES_MAX_S: Final = 1.0
"""So long a stop waits until this node leads nobody to the task any more."""
CONNECTIONS_POLL_S: Final = 0.1


class NetworkSite(Protocol):
    """What a task's network needs of the node."""

    networks: TaskNetworks
    tables: NetworkTables
    executor: Executor
    clock: Clock


class TaskNetwork:
    """Told by the task's manager what to do; each call but `drain` may be repeated."""

    def __init__(self, site: NetworkSite, revision: int) -> None:
        self._site = site
        self.revision = revision
        """The tables must have got this far before the task starts."""
        self.is_held = False
        """A namespace may exist for the task."""
        self.has_drained = False
        self._releases = 0
        self._state: EndpointState = "starting"

    def needs_namespace(self, task: Task) -> bool:
        return self._site.executor.uses_namespaces and not is_on_host_network(task)

    def local_task(self, task: Task, state: EndpointState) -> LocalTask:
        dns = task.spec.container.dns_config
        return LocalTask(task.id, task.attachments, state, dns.nameservers if dns else ())

    def note_state(self, state: EndpointState) -> None:
        """The tables follow a change of it."""
        if state != self._state:
            self._state = state
            self._site.tables.changed()

    async def prepare(self, task: Task) -> None:
        """Raises NetworkError."""
        if self.needs_namespace(task):
            await self._site.tables.applied(self.revision, _networks_of(task))
            await self.attach(task)

    async def attach(self, task: Task) -> str | None:
        """The path of the task's namespace; None for one that has none of its own. Free once it
        is there. Raises NetworkError."""
        if not self.needs_namespace(task):
            return None
        self.is_held = True
        sysctls = {
            name: value
            for name, value in task.spec.container.sysctls.items()
            if name.startswith("net.")
        }
        return await self._site.networks.attach(task.id, task.attachments, sysctls, task.ports)

    def nameserver(self, task: Task) -> str:
        """For its container; empty: the host's."""
        return self._site.tables.nameserver(task) if self.needs_namespace(task) else ""

    async def serve(self, task: Task) -> None:
        """Serving begins at home: return once this node's own tables lead to the task, or will
        not in time."""
        tables = self._site.tables
        if task.attachments and not await tables.applied_within(
            tables.revision, SERVE_TABLES_MAX_S, _networks_of(task)
        ):
            _log.error("runs, and this node's tables do not know %s", fields(task=task.id))

    async def drain(self, task: Task) -> None:
        """Once nobody is led to the task any more, give its connections time to end."""
        site = self._site
        tables = site.tables
        if not await tables.applied_within(tables.revision, DRAIN_TABLES_MAX_S, _networks_of(task)):
            _log.warning("stops, and this node's tables still know %s", fields(task=task.id))
        # Bounded as a whole: the overlay may be long at something else before it counts.
        await within(site.clock, DRAIN_CONNECTIONS_S, self._connections_end(task))
        self.has_drained = True

    async def _connections_end(self, task: Task) -> None:
        while await self._connections(task):
            await self._site.clock.sleep(CONNECTIONS_POLL_S)

    async def _connections(self, task: Task) -> int:
        try:
            return await self._site.networks.connections(task.id)
        except NetworkError as error:
            _log.warning(
                "stops without a look at its connections %s",
                fields(task=task.id, reason=one_line(str(error))),
            )
            return 0

    async def release(self, task: Task) -> None:
        """Raises Temporary a bounded number of times."""
        try:
            await self._site.networks.detach(task.id)
        except NetworkError as error:
            self._releases += 1
            if self._releases < RELEASE_ATTEMPTS_MAX:
                raise Temporary(str(error)) from error
            _log.error(
                "namespace left behind %s", fields(task=task.id, reason=one_line(str(error)))
            )
        self.is_held = False


def _networks_of(task: Task) -> list[NetworkId]:
    return [attachment.network_id for attachment in task.attachments]
