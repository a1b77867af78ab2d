"""Carries out the steps of one task, one at a time (`task_machine` says which).

A step ends in a new fact: the engine's answer, a reported state, a failure. Temporary failures
repeat the step after a growing pause, for as long as the task is wanted: an engine that restarts
fails no task. The pause is bounded, the number of attempts is not, since only the masters know
when to give up.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

import msgspec

from essaim_agent.executor import (
    AdjustableLimits,
    ExecutorError,
    FoundContainer,
    Health,
    Refused,
    Temporary,
    adjustable_limits,
)
from essaim_agent.journal import JournaledTask
from essaim_agent.network import EndpointState, NetworkError
from essaim_agent.network_set import LocalTask
from essaim_agent.payloads.files import TaskFiles
from essaim_agent.probes.driver import ProbeSite
from essaim_agent.task_health import TaskHealth
from essaim_agent.task_machine import (
    EngineState,
    Step,
    TaskView,
    Wanted,
    conclusion,
    endpoint_state,
    next_step,
    one_line,
    wanted_of,
)
from essaim_agent.task_network import NetworkSite, TaskNetwork
from essaim_agent.task_stop import PreStop
from essaim_agent.waits import unless
from essaim_shared.backoff import backoff_s
from essaim_shared.log import fields
from essaim_shared.objects import Task, TaskStatus
from essaim_shared.task_state import TaskState, may_move

_log = logging.getLogger(__name__)

RETRY_FIRST_S = 0.1
RETRY_MOST_S = 5.0
REMOVE_ATTEMPTS_MAX = 20
"""A container that cannot be removed is left to the next full set's sweep."""

T = TypeVar("T")


class Site(ProbeSite, NetworkSite, Protocol):
    """What the manager of a task asks of the worker it belongs to."""

    engine_calls: asyncio.Semaphore
    files: TaskFiles

    async def engine_present(self) -> None:
        """Return once the engine answers."""
        ...

    async def starts_allowed(self) -> None:
        """Return once a leader lets this node run new tasks."""
        ...

    def status_changed(self, manager: "TaskManager", urgent: bool) -> None: ...

    def state_changed(self) -> None:
        """Something that only the journal must know has changed."""
        ...


class TaskManager:
    """One task on this node, from its arrival until nothing is left of it."""

    def __init__(self, site: Site, task: Task, status: TaskStatus, networks_revision: int) -> None:
        self._site = site
        self.task = task
        self.status = status
        self._network = TaskNetwork(site, networks_revision)
        self.dropped = False
        """The masters know the task no more: stop it and end."""
        self._engine = EngineState.ABSENT
        self._health = TaskHealth(
            site,
            task,
            status,
            changed=self._facts_changed,
            failed=self._probe_failed,
            readiness=self._report_readiness,
        )
        self._limits: AdjustableLimits | None = None
        """Those that the container has; None: not known."""
        self._pre_stop = PreStop(site)
        self.container_id = status.container_id
        self.pid = status.pid
        self._exit_code = status.exit_code
        self._exit_error = ""
        self._failure: str | None = None
        self._is_refused = False
        self._changed = asyncio.Event()
        self._stop_wanted = asyncio.Event()
        self._drain_over = asyncio.Event()
        """It ended, or broke: nobody needs to be waited for any more."""
        self._attempts = 0
        self.engine_calls_under_way = 0
        self.engine_seen = 0
        """The worker's latest look at the engine that began after this task's latest call; such a
        look may correct what the call's answer said."""

    @classmethod
    def from_journal(
        cls, site: Site, entry: JournaledTask, networks_revision: int
    ) -> "TaskManager":
        manager = cls(site, entry.task, entry.status, networks_revision)
        manager._failure = entry.failure or None
        manager._health.is_unhealthy = entry.is_unhealthy
        if not entry.limits_pending:
            manager._limits = adjustable_limits(entry.task)
        if entry.status.state is TaskState.RUNNING:
            # Believed until the engine is looked at: those who are led to it are led on.
            manager._engine = EngineState.RUNNING
        if entry.status.state is TaskState.RUNNING and manager._health.has_readiness_probe:
            # The masters may have heard more than the journal: say again what is held true here.
            manager.status = msgspec.structs.replace(
                entry.status, readiness_changes=manager._next_readiness_change()
            )
        return manager

    @property
    def journaled(self) -> JournaledTask:
        return JournaledTask(
            task=self.task,
            status=self.status,
            failure=self._failure or "",
            is_unhealthy=self._health.is_unhealthy,
            limits_pending=self._limits != adjustable_limits(self.task),
        )

    @property
    def view(self) -> TaskView:
        engine = self._engine
        if engine is EngineState.RUNNING and self._health.is_starting:
            engine = EngineState.STARTING
        return TaskView(
            desired=self.task.desired_state,
            observed=self.status.state,
            engine=engine,
            holds_network=self._network.is_held,
            may_serve=self._may_serve,
            has_other_limits=self._limits != adjustable_limits(self.task),
            failure=self._failure,
            is_refused=self._is_refused,
            is_unhealthy=self._health.is_unhealthy,
            exit_code=self._exit_code,
            exit_error=self._exit_error,
        )

    @property
    def _is_over(self) -> bool:
        return self.status.state.is_terminal

    @property
    def may_need_files(self) -> bool:
        return not self._is_over

    @property
    def _is_being_stopped(self) -> bool:
        return self._stop_wanted.is_set() or self._is_over

    @property
    def is_running(self) -> bool:
        return self._engine is EngineState.RUNNING

    @property
    def _may_serve(self) -> bool:
        return (
            self.status.state is TaskState.RUNNING
            and bool(self.task.attachments)
            and self._network.needs_namespace(self.task)
            and not self._network.has_drained
        )

    @property
    def _endpoint_state(self) -> EndpointState:
        has_run = self.status.state is TaskState.RUNNING
        is_ready = self.status.is_ready if has_run else not self._health.has_readiness_probe
        return endpoint_state(self.view, is_ready)

    @property
    def local(self) -> LocalTask | None:
        """What the node's tables are to know of it; None: it needs its network no more."""
        if not self.task.attachments or (self._is_over and not self._network.is_held):
            return None
        return self._network.local_task(self.task, self._endpoint_state)

    # What others tell.

    def assign(self, task: Task, networks_revision: int) -> None:
        """The masters' newest word. A desired state never goes back (SwarmKit's rule), so a late
        order changes nothing."""
        if task.desired_state >= self.task.desired_state:
            self.task = task
            self._network.revision = networks_revision
        if self.dropped:
            # Dropped and assigned again: it was being stopped, and one attempt is all it has.
            self.dropped = False
            self._site.status_changed(self, urgent=True)
        self._facts_changed()

    def drop(self) -> None:
        self.dropped = True
        self.task = msgspec.structs.replace(self.task, desired_state=TaskState.REMOVE)
        self._facts_changed()

    def fail(self, reason: str) -> None:
        """The task cannot go on, for a reason that is neither the engine's nor the masters'."""
        if not self._is_over and self._failure is None:
            self._failure = one_line(reason)
            self._site.state_changed()
            self._facts_changed()

    def _probe_failed(self, reason: str) -> None:
        # A container that has ended says better by itself why.
        if self.is_running:
            self.fail(reason)

    def found(self, container: FoundContainer | None, had_namespace: bool) -> None:
        """What a look at the engine showed; None: no container."""
        self._network.is_held |= had_namespace
        if container is None:
            self._engine = EngineState.ABSENT
        elif container.running:
            self._engine = EngineState.RUNNING
        else:
            self._engine = EngineState.EXITED if container.started else EngineState.CREATED
        if container is not None:
            self.container_id, self.pid = container.container_id, container.pid
            self._exit_code, self._exit_error = container.exit_code, container.error
            self._health.checked(container.health, self._is_being_stopped)
        self._facts_changed()

    def health_changed(self, health: Health) -> None:
        self._health.checked(health, self._is_being_stopped)
        self._site.state_changed()
        self._facts_changed()

    def exited(self, exit_code: int, error: str) -> None:
        self._exit_code, self._exit_error = exit_code, error
        self._engine = EngineState.EXITED
        self._facts_changed()

    def _facts_changed(self) -> None:
        if wanted_of(self.view) in (Wanted.STOP, Wanted.GONE):
            self._stop_wanted.set()
            if next_step(self.view) is not Step.DRAIN:
                self._drain_over.set()
        self._note_endpoint()
        self._changed.set()

    def _note_endpoint(self) -> None:
        if self.task.attachments:
            self._network.note_state(self._endpoint_state)

    # The loop.

    async def run(self) -> None:
        """Until the masters have dropped the task and nothing is left of it."""
        while True:
            self._changed.clear()
            step = next_step(self.view)
            self._note_endpoint()
            self._health.follow(step, self.status)
            if step is Step.REST and self.dropped:
                return
            try:
                await self._carry_out(step)
                self._attempts = 0
            except Temporary as error:
                if not await self._pause_before_retry(step, error):
                    return
            except (ExecutorError, NetworkError) as error:
                self._is_refused = isinstance(error, Refused)
                if not await self._failed(step, str(error)):
                    return

    async def _carry_out(self, step: Step) -> None:
        match step:
            case Step.ACCEPT:
                await unless(self._stop_wanted, self._site.starts_allowed())
                if not self._stop_wanted.is_set():
                    self._report(TaskState.ACCEPTED, "accepted")
            case Step.PREPARE:
                # A pull may take longer than anybody waits.
                await unless(self._stop_wanted, self._prepare())
            case Step.START:
                await unless(self._stop_wanted, self._site.starts_allowed())
                if not self._stop_wanted.is_set():
                    await self._start()
            case Step.AWAIT_STARTED:
                self._report(TaskState.STARTING, "starting")
                await self._changed.wait()
            case Step.CONFIRM:
                await unless(self._stop_wanted, self._confirm())
            case Step.ADJUST:
                await self._adjust()
            case Step.DRAIN:
                await unless(self._drain_over, self._network.drain(self.task))
            case Step.STOP:
                await self._stop()
            case Step.RELEASE:
                await self._network.release(self.task)
            case Step.CONCLUDE:
                self._site.files.release(self.task.id)
                end = conclusion(self.view)
                self._report(end.state, end.message, end.err, end.exit_code, urgent=True)
            case Step.REMOVE:
                await self._engine_call(lambda: self._site.executor.remove(self.task.id))
                self._engine = EngineState.ABSENT
            case Step.AWAIT_RUN | Step.WATCH | Step.REST:
                await self._changed.wait()

    async def _prepare(self) -> None:
        self._report(TaskState.PREPARING, "preparing")
        await self._network.prepare(self.task)
        await self._site.files.prepare(self.task)
        # Not under the bound on engine calls: a pull may take minutes.
        await self._site.executor.prepare(self.task)
        self._report(TaskState.READY, "prepared", urgent=self.task.desired_state is TaskState.READY)

    async def _start(self) -> None:
        self._report(TaskState.STARTING, "starting")
        # Repeating both is free, and what was made before a restart of the host is gone.
        namespace = await self._network.attach(self.task)
        await self._site.files.prepare(self.task)
        # Another order may come while it starts.
        task, nameserver = self.task, self._network.nameserver(self.task)
        container = await self._engine_call(
            lambda: self._site.executor.start(task, namespace, nameserver)
        )
        self.container_id, self.pid = container.container_id, container.pid
        self._limits = adjustable_limits(task)
        self._health.container_started(container.health)
        if self._engine is not EngineState.EXITED:
            # Its end may have been told before its start: a short life on a busy machine.
            self._engine = EngineState.RUNNING

    async def _confirm(self) -> None:
        if self.task.ports:
            # Free, unless a journal that was lost had its ports.
            await self._network.attach(self.task)
        if self._endpoint_state == "serving":
            await self._network.serve(self.task)
        self._report(TaskState.RUNNING, "started", urgent=True)

    async def _adjust(self) -> None:
        task = self.task
        await self._engine_call(lambda: self._site.executor.update_limits(task))
        self._limits = adjustable_limits(task)
        self._site.state_changed()

    async def _stop(self) -> None:
        self._engine_call_begins()
        try:
            # Not under the bound on engine calls: it mostly waits for the grace period to end.
            grace_s = None if self._is_over else await self._pre_stop.run(self.task)
            exit_code = await self._site.executor.stop(self.task, grace_s)
        finally:
            self.engine_calls_under_way -= 1
        if self._engine is EngineState.RUNNING:
            self._engine = EngineState.ABSENT if exit_code is None else EngineState.EXITED
            self._exit_code = exit_code or 0

    async def _engine_call(self, call: Callable[[], Awaitable[T]]) -> T:
        async with self._site.engine_calls:
            self._engine_call_begins()
            try:
                return await call()
            finally:
                self.engine_calls_under_way -= 1

    def _engine_call_begins(self) -> None:
        self.engine_calls_under_way += 1
        self.engine_seen = 0

    # Failures.

    async def _failed(self, step: Step, reason: str) -> bool:
        """An error that repeating does not cure; False: give the task up."""
        if step in (Step.PREPARE, Step.START, Step.ACCEPT):
            self.fail(reason)
            return True
        if step is Step.ADJUST:
            if self.is_running:  # and not ended meanwhile, which is reason enough
                self.fail(f"cannot change the limits of the running container: {reason}")
            return True
        return await self._pause_before_retry(step, Temporary(reason))

    async def _pause_before_retry(self, step: Step, error: Temporary) -> bool:
        """Wait before the step is taken again; False once a removal has failed too often."""
        self._attempts += 1
        if self._attempts == 1 or step is not Step.START:
            _log.warning(
                "will try again %s",
                fields(
                    task=self.task.id,
                    step=step.name.lower(),
                    attempt=self._attempts,
                    reason=one_line(str(error)),
                ),
            )
        if step is Step.REMOVE and self._attempts >= REMOVE_ATTEMPTS_MAX:
            _log.error("container left behind %s", fields(task=self.task.id))
            return False
        pause_s = backoff_s(self._attempts, self._site.rng, RETRY_FIRST_S, RETRY_MOST_S)
        pause = self._pause(pause_s)
        if step in (Step.PREPARE, Step.START, Step.ADJUST):
            await unless(self._stop_wanted, pause)
        else:
            await pause
        return True

    async def _pause(self, pause_s: float) -> None:
        await self._site.clock.sleep(pause_s)
        await self._site.engine_present()

    # Statuses.

    def _report_readiness(self, is_ready: bool, reason: str) -> None:
        """A task that is not ready says why, once: the words may differ with every answer."""
        err = "" if is_ready else one_line(f"readiness probe failed: {reason}")
        if is_ready == self.status.is_ready and bool(err) == bool(self.status.err):
            return
        self.status = msgspec.structs.replace(
            self.status,
            timestamp_ns=self._site.clock.wall_ns(),
            is_ready=is_ready,
            readiness_changes=self._next_readiness_change(),
            err=err,
        )
        self._note_endpoint()
        # Not urgent: an answer that is a moment older says the same, and many tasks that become
        # ready together are one report.
        self._site.status_changed(self, urgent=False)

    def _next_readiness_change(self) -> int:
        """Greater than what the masters can have heard, even of an agent that died with its
        journal unwritten: at least the milliseconds since the epoch."""
        return max(self.status.readiness_changes + 1, self._site.clock.wall_ns() // 1_000_000)

    def _report(
        self,
        state: TaskState,
        message: str,
        err: str = "",
        exit_code: int = 0,
        urgent: bool = False,
    ) -> None:
        if not may_move(self.status.state, state):
            return
        now_ns = self._site.clock.wall_ns()
        runs_unready = state is TaskState.RUNNING and self._health.has_readiness_probe
        self.status = msgspec.structs.replace(
            self.status,
            state=state,
            timestamp_ns=now_ns,
            started_ns=now_ns if state is TaskState.RUNNING else self.status.started_ns,
            message=message,
            err=err,
            container_id=self.container_id,
            pid=self.pid,
            exit_code=exit_code,
            is_ready=not runs_unready,
            readiness_changes=self._next_readiness_change() if runs_unready else 0,
        )
        self._site.status_changed(self, urgent)
