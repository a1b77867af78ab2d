"""The tasks of this node: what the masters assigned, held against what is there.

The assigned set, the networks and the endpoints change in one place, `apply`, without awaiting.
Each task has a manager of its own that follows; the wanted tables of the overlay are set by one
loop, once for any number of changes, and tasks that need them wait for it.

The engine is looked at once at the start and once after each of its absences; between two looks
its events are followed.
"""

import asyncio
import logging
import random
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any

import msgspec

from essaim_agent.executor import (
    ContainerExit,
    Executor,
    ExecutorError,
    FoundContainer,
    HealthChange,
    NodeResources,
    Temporary,
)
from essaim_agent.journal import Journal, Journaled
from essaim_agent.network import NetworkError, NetworkPicture, TaskNetworks
from essaim_agent.probes.driver import ProbeSlots
from essaim_agent.registry_logins import RegistryLogins
from essaim_agent.reporter import Reporter
from essaim_agent.task_machine import one_line
from essaim_agent.task_manager import TaskManager
from essaim_shared.backoff import backoff_s
from essaim_shared.clock import Clock
from essaim_shared.ids import NetworkId, NodeId, TaskId
from essaim_shared.log import fields
from essaim_shared.messages import Assignments, Endpoint, NodeNetwork
from essaim_shared.objects import Task, TaskStatus
from essaim_shared.task_state import TaskState

_log = logging.getLogger(__name__)

ENGINE_CALLS_PER_CPU = 2
ENGINE_CALLS_MIN = 4
ENGINE_CALLS_MAX = 16
"""Starts and removals under way at the engine. A start is mostly the CPU time of runc and the
engine: more of them at a time than the CPUs can carry finish no sooner, but all later."""
ENGINE_RETRY_FIRST_S = 0.1
ENGINE_RETRY_MOST_S = 2.0
NETWORKS_RETRY_FIRST_S = 0.5
NETWORKS_RETRY_MOST_S = 10.0
SWEEP_ATTEMPTS_MAX = 5


def engine_calls_max(nano_cpus: int) -> int:
    """How many starts and removals at a time suit a node with these processors."""
    wanted = ENGINE_CALLS_PER_CPU * nano_cpus // 1_000_000_000
    return min(ENGINE_CALLS_MAX, max(ENGINE_CALLS_MIN, wanted))


class Worker:
    """`start`, then `run` until cancelled. Cancelling leaves every container as it is."""

    def __init__(
        self,
        executor: Executor,
        networks: TaskNetworks,
        journal: Journal,
        reporter: Reporter,
        clock: Clock,
        rng: random.Random,
        logins: RegistryLogins | None = None,
    ) -> None:
        self.executor = executor
        self.networks = networks
        self.clock = clock
        self.rng = rng
        self.engine_calls = asyncio.Semaphore(ENGINE_CALLS_MIN)
        self.probe_slots = ProbeSlots()
        self._journal = journal
        self._reporter = reporter
        self._logins = logins or RegistryLogins(NodeId(""))
        self.resources: NodeResources | None = None
        self.managers: dict[TaskId, TaskManager] = {}
        self._network_set: dict[NetworkId, NodeNetwork] = {}
        self._endpoints: set[Endpoint] = set()
        self._tables_revision = 0
        self._tables_applied = 0
        self._tables_error = ""
        self._tables_changed = asyncio.Event()
        self._tables_settled = asyncio.Condition()
        self._engine_present = asyncio.Event()
        self._starts_allowed = asyncio.Event()
        self._looks = 0
        self._strays: dict[TaskId, FoundContainer | None] = {}
        """Containers and namespaces of ours that no assignment explains; None: a namespace only.
        They wait for the first full set, which may explain them."""
        self._group: asyncio.TaskGroup | None = None

    # The life of the worker.

    async def start(self) -> NodeResources:
        """Take over what an earlier run left: journal, overlay, containers. Waits for the engine.

        Raises ExecutorError when the engine cannot be used at all.
        """
        journaled = self._journal.load()
        self._network_set = {network.network_id: network for network in journaled.networks}
        self._endpoints = set(journaled.endpoints)
        self._logins.take(journaled.credentials)
        await self.networks.start()
        if journaled.networks:
            await self._apply_tables()
        await self._adopt_ports(journaled)
        for entry in journaled.tasks:
            self.managers[entry.task.id] = TaskManager.from_journal(
                self, entry, self._tables_applied
            )
        resources = await self._meet_engine()
        self.engine_calls = asyncio.Semaphore(engine_calls_max(resources.nano_cpus))
        for manager in self.managers.values():
            # What was not acknowledged before the restart is told again; the rest is no news.
            self._reporter.put(manager.task.id, manager.status, urgent=False)
        return resources

    async def run(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                for manager in tuple(self.managers.values()):
                    self._begin(manager)
                group.create_task(self._follow_engine(), name="engine")
                group.create_task(self._follow_tables(), name="tables")
        finally:
            self._group = None

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> "asyncio.Task[None]":
        """Raises RuntimeError unless the worker runs."""
        if self._group is None:
            work.close()
            raise RuntimeError(f"the worker does not run: {name}")
        return self._group.create_task(work, name=name)

    def _begin(self, manager: TaskManager) -> None:
        if self._group is not None:
            self._group.create_task(self._manage(manager), name=f"task {manager.task.id}")

    async def _manage(self, manager: TaskManager) -> None:
        await manager.run()
        del self.managers[manager.task.id]
        self._logins.keep_only(other.task.service_id for other in self.managers.values())
        self._reporter.forget(manager.task.id)
        self._journal_changed()

    @property
    def running(self) -> Sequence[TaskManager]:
        """The tasks whose containers run, as far as is known."""
        return [manager for manager in self.managers.values() if manager.is_running]

    @property
    def count(self) -> int:
        return len(self.managers)

    # Orders.

    def apply(self, message: Assignments) -> None:
        """Obey a whole message: removals first, then additions. Never awaits."""
        self._change_tables(message)
        self._logins.take(message.credentials)
        if message.full:
            assigned = {task.id for task in message.tasks}
            for task_id, manager in self.managers.items():
                if task_id not in assigned:
                    manager.drop()
        for task_id in message.removed_tasks:
            dropped = self.managers.get(task_id)
            if dropped is not None:
                dropped.drop()
        for task in message.tasks:
            self._assign(task)
        if message.full:
            self._sweep_strays()
        self._journal_changed()

    def allow_starts(self, allowed: bool) -> None:
        if allowed:
            self._starts_allowed.set()
        else:
            self._starts_allowed.clear()

    def cut_off(self, silence_s: float) -> None:
        """Stop what must not run while no master is heard for so long."""
        for manager in self.managers.values():
            limit_ns = manager.task.spec.stop_when_cut_off
            if isinstance(limit_ns, int) and silence_s * 1e9 >= limit_ns:
                manager.fail(f"stopped: no master heard for {limit_ns / 1e9:g} s")

    def _assign(self, task: Task) -> None:
        manager = self.managers.get(task.id)
        if manager is not None:
            manager.assign(task, self._tables_revision)
            return
        status = TaskStatus(
            state=TaskState.ASSIGNED, timestamp_ns=self.clock.wall_ns(), message="assigned"
        )
        manager = TaskManager(self, task, status, self._tables_revision)
        if task.id in self._strays:
            manager.found(self._strays.pop(task.id), had_namespace=True)
        self.managers[task.id] = manager
        self._begin(manager)

    def _change_tables(self, message: Assignments) -> None:
        if message.full:
            networks = {network.network_id: network for network in message.networks}
            endpoints = set(message.endpoints)
            if networks == self._network_set and endpoints == self._endpoints:
                return
            self._network_set, self._endpoints = networks, endpoints
        elif (
            message.removed_networks
            or message.networks
            or message.removed_endpoints
            or message.endpoints
        ):
            for network_id in message.removed_networks:
                self._network_set.pop(network_id, None)
            self._endpoints.difference_update(message.removed_endpoints)
            self._network_set.update({item.network_id: item for item in message.networks})
            self._endpoints.update(message.endpoints)
        else:
            return
        self._tables_revision += 1
        self._tables_changed.set()

    # The overlay's tables.

    async def _follow_tables(self) -> None:
        attempt = 0
        while True:
            await self._tables_changed.wait()
            if await self._apply_tables():
                attempt = 0
                continue
            attempt += 1
            await self.clock.sleep(
                backoff_s(attempt, self.rng, NETWORKS_RETRY_FIRST_S, NETWORKS_RETRY_MOST_S)
            )
            self._tables_changed.set()

    async def _apply_tables(self) -> bool:
        self._tables_changed.clear()
        revision = self._tables_revision
        try:
            await self.networks.want(
                NetworkPicture(dict(self._network_set), frozenset(self._endpoints))
            )
            self._tables_error = ""
        except NetworkError as error:
            self._tables_error = str(error)
            _log.error("overlay not as wanted %s", fields(reason=one_line(str(error))))
        async with self._tables_settled:
            self._tables_applied = revision
            self._tables_settled.notify_all()
        return not self._tables_error

    async def _adopt_ports(self, journaled: Journaled) -> None:
        prepared = [
            entry.task
            for entry in journaled.tasks
            if TaskState.READY <= entry.status.state <= TaskState.RUNNING
        ]
        try:
            await self.networks.adopt_ports(prepared)
        except NetworkError as error:  # the overlay's next check tries again
            _log.error("ports not as wanted %s", fields(reason=one_line(str(error))))

    async def networks_applied(self, revision: int) -> None:
        if self._tables_applied < revision:
            async with self._tables_settled:
                await self._tables_settled.wait_for(lambda: self._tables_applied >= revision)
        if self._tables_error:
            raise NetworkError(self._tables_error)

    # The engine.

    async def engine_present(self) -> None:
        await self._engine_present.wait()

    async def starts_allowed(self) -> None:
        await self._starts_allowed.wait()

    async def _follow_engine(self) -> None:
        while True:
            async for event in self.executor.events():
                match event:
                    case ContainerExit():
                        self._exited(event)
                    case HealthChange():
                        self._health_changed(event)
            self._engine_present.clear()
            _log.warning("the engine went away; its containers may still run")
            await self.clock.sleep(ENGINE_RETRY_FIRST_S)
            await self._meet_engine()

    def _exited(self, ended: ContainerExit) -> None:
        manager = self.managers.get(ended.task_id)
        if manager is not None:
            manager.exited(ended.exit_code, ended.error)
        elif self._strays.get(ended.task_id) is not None:
            self._strays[ended.task_id] = FoundContainer(
                ended.task_id, ended.container_id, 0, False, True, ended.exit_code
            )

    def _health_changed(self, change: HealthChange) -> None:
        manager = self.managers.get(change.task_id)
        stray = self._strays.get(change.task_id)
        if manager is not None:
            manager.health_changed(change.health)
        elif stray is not None:
            self._strays[change.task_id] = msgspec.structs.replace(stray, health=change.health)

    async def _meet_engine(self) -> NodeResources:
        """Wait for the engine, and hold what it has against what is assigned."""
        attempt = 0
        while True:
            try:
                resources = await self.executor.open()
                self._looks += 1
                look = self._looks
                for manager in self.managers.values():
                    manager.engine_seen = 0 if manager.engine_calls_under_way else look
                found = await self._look_at_engine()
                break
            except Temporary as error:
                attempt += 1
                if attempt == 1:
                    _log.warning("waiting for the engine %s", fields(reason=one_line(str(error))))
                await self.clock.sleep(
                    backoff_s(attempt, self.rng, ENGINE_RETRY_FIRST_S, ENGINE_RETRY_MOST_S)
                )
        self._hold_against(found, await self.networks.attached(), look)
        self.resources = resources
        self._engine_present.set()
        return resources

    async def _look_at_engine(self) -> dict[TaskId, FoundContainer]:
        """Raises Temporary: an engine that was opened and cannot list is not quite there yet."""
        try:
            return {container.task_id: container for container in await self.executor.found()}
        except ExecutorError as error:
            raise Temporary(str(error)) from error

    def _hold_against(
        self, found: dict[TaskId, FoundContainer], attached: Iterable[TaskId], look: int
    ) -> None:
        namespaces = set(attached)
        for task_id, manager in self.managers.items():
            # A call under way during the look knows better than the look.
            if manager.engine_seen == look and not manager.engine_calls_under_way:
                manager.found(found.get(task_id), task_id in namespaces)
        self._strays = {
            task_id: found.get(task_id)
            for task_id in (*found, *namespaces)
            if task_id not in self.managers
        }

    def _sweep_strays(self) -> None:
        strays, self._strays = tuple(self._strays), {}
        if strays and self._group is not None:
            self._group.create_task(self._sweep(strays), name="sweep")

    async def _sweep(self, task_ids: tuple[TaskId, ...]) -> None:
        """Remove what no assignment explains. Nobody knows its stop signal any more."""
        for task_id in task_ids:
            _log.warning("removing what no assignment explains %s", fields(task=task_id))
            for attempt in range(1, SWEEP_ATTEMPTS_MAX + 1):
                try:
                    await self.executor.remove(task_id)
                    await self.networks.detach(task_id)
                    break
                except (ExecutorError, NetworkError) as error:
                    _log.warning("sweep failed %s", fields(task=task_id, reason=str(error)))
                    await self.clock.sleep(
                        backoff_s(attempt, self.rng, ENGINE_RETRY_FIRST_S, ENGINE_RETRY_MOST_S)
                    )

    # What is told.

    def status_changed(self, manager: TaskManager, urgent: bool) -> None:
        if not manager.dropped:
            self._reporter.put(manager.task.id, manager.status, urgent)
        self._journal_changed()

    def state_changed(self) -> None:
        self._journal_changed()

    def _journal_changed(self) -> None:
        self._journal.changed(self._picture)

    def _picture(self) -> Journaled:
        return Journaled(
            tasks=tuple(
                manager.journaled for manager in self.managers.values() if not manager.dropped
            ),
            networks=tuple(self._network_set.values()),
            endpoints=tuple(self._endpoints),
            credentials=self._logins.sealed,
        )
