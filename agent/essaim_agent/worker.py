"""The tasks of this node: what the masters assigned, held against what is there.

The assigned set and what the masters say of networks change in one place, `apply`, without
awaiting. Each task has a manager of its own that follows, and so have the node's tables
(`network_tables`); tasks that need them wait for them.

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
from essaim_agent.network import NetworkError, TaskNetworks
from essaim_agent.network_set import LocalTask
from essaim_agent.network_tables import NetworkTables
from essaim_agent.payloads.files import NoTaskFiles, TaskFiles
from essaim_agent.probes.driver import ProbeSlots
from essaim_agent.registry_logins import RegistryLogins
from essaim_agent.reporter import Reporter
from essaim_agent.task_machine import one_line
from essaim_agent.task_manager import TaskManager
from essaim_shared.backoff import backoff_s
from essaim_shared.clock import Clock
from essaim_shared.ids import NodeId, TaskId
from essaim_shared.log import fields
from essaim_shared.messages import Assignments
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
        files: TaskFiles | None = None,
    ) -> None:
        self.executor = executor
        self.networks = networks
        self.files = files or NoTaskFiles()
        self.clock = clock
        self.rng = rng
        self.engine_calls = asyncio.Semaphore(ENGINE_CALLS_MIN)
        self.probe_slots = ProbeSlots()
        self._journal = journal
        self._reporter = reporter
        self._logins = logins or RegistryLogins(NodeId(""))
        self.resources: NodeResources | None = None
        self.managers: dict[TaskId, TaskManager] = {}
        self.tables = NetworkTables(networks, clock, rng, self._local_tasks)
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
        self._logins.take(journaled.credentials)
        self.tables.known.replace(
            journaled.networks, journaled.endpoints, journaled.services, journaled.nodes
        )
        for entry in journaled.tasks:
            self.managers[entry.task.id] = TaskManager.from_journal(
                self, entry, self.tables.revision
            )
        await self.networks.start()
        if not self.tables.known.is_empty:
            await self.tables.apply()
        await self._adopt_ports(journaled)
        self.files.open()
        resources = await self._meet_engine()
        self._sweep_files()
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
                group.create_task(self.tables.run(), name="tables")
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
        self.tables.take(message)
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

    async def in_force(self) -> bool:
        """Return once what was applied so far is in the node's tables; False: it cannot be."""
        try:
            await self.tables.applied(self.tables.revision)
        except NetworkError:
            return False
        return True

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
            manager.assign(task, self.tables.revision)
            return
        status = TaskStatus(
            state=TaskState.ASSIGNED, timestamp_ns=self.clock.wall_ns(), message="assigned"
        )
        manager = TaskManager(self, task, status, self.tables.changed())
        if task.id in self._strays:
            manager.found(self._strays.pop(task.id), had_namespace=True)
        self.managers[task.id] = manager
        self._begin(manager)

    def _local_tasks(self) -> Iterable[LocalTask]:
        for manager in self.managers.values():
            local = manager.local
            if local is not None:
                yield local

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

    def _sweep_files(self) -> None:
        """Of secrets, whose tasks ended while no agent ran. A container that is still to be
        explained keeps those it has."""
        live = [task_id for task_id, manager in self.managers.items() if manager.may_need_files]
        self.files.keep_only((*live, *self._strays))

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
                    self.files.release(task_id)
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
        known = self.tables.known
        return Journaled(
            tasks=tuple(
                manager.journaled for manager in self.managers.values() if not manager.dropped
            ),
            networks=known.networks,
            endpoints=known.endpoints,
            services=known.services,
            nodes=known.nodes,
            credentials=self._logins.sealed,
        )
