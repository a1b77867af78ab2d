"""An engine in memory, with failures on demand. It passes the contract tests of the real ones.

`FakeEngine` is the engine: it lives on while agents come and go, as a real one does. What a task
of it does is written down before it starts (`script`), or happens when the test says so (`exit`).
"""

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator

import msgspec

from essaim_agent.executor import (
    AdjustableLimits,
    CommandTimeout,
    ContainerEvent,
    ContainerExit,
    ExecutorError,
    FoundContainer,
    Health,
    HealthChange,
    NodeResources,
    Refused,
    RunningContainer,
    Temporary,
    adjustable_limits,
    grace_period_s,
)
from essaim_agent.payloads.fake_payloads import FakeTaskFiles
from essaim_agent.payloads.references import WantedFile
from essaim_agent.task_templates import NodeFacts, expanded
from essaim_shared.clock import Clock
from essaim_shared.ids import TaskId
from essaim_shared.objects import Task
from essaim_shared.spec import TaskSpec

KILLED_EXIT_CODE = 137
"""128 + SIGKILL, as a shell counts."""
STOPPED_EXIT_CODE = 143
"""128 + SIGTERM."""

NODE = NodeFacts(hostname="fake-host", architecture="x86_64")


class Script(msgspec.Struct, frozen=True, kw_only=True):
    """What happens to a task's container without anybody asking."""

    start_delay_s: float = 0.0
    exit_code: int | None = None
    """Exits with it as soon as it runs; None: runs on."""
    ignores_stop: bool = False
    """Ends only when the grace period is over."""
    prepare_error: str | None = None
    create_error: str | None = None
    """The engine refuses to make the container."""
    start_error: str | None = None
    prepare_takes_for_ever: bool = False
    has_health_check: bool = False
    """Its verdicts come when the test says so (`set_health`)."""
    health_at_start: Health | None = None
    """A verdict that is there before the answer to the start."""
    limits_error: str | None = None
    """Why the running container cannot have other limits."""


NEVER_ENDS = -1
"""As the exit code of a command that runs until it is killed."""


class CommandRun(msgspec.Struct, frozen=True):
    task_id: TaskId
    command: tuple[str, ...]
    limit_s: float


class FakeContainer:
    def __init__(self, task_id: TaskId, container_id: str, namespace: str | None) -> None:
        self.task_id = task_id
        self.container_id = container_id
        self.namespace = namespace
        self.spec: TaskSpec | None = None
        """What was asked, its templates filled in: a test looks here for what it expects."""
        self.nameserver = ""
        self.files: tuple[tuple[WantedFile, bytes], ...] = ()
        """Those of secrets and configs that were there when it was made."""
        self.pid = 0
        self.running = False
        self.started = False
        self.exit_code = 0
        self.error = ""
        self.health = Health.NONE
        self.limits: AdjustableLimits | None = None


class FakeEngine:
    """The engine's own state, and the levers of a test."""

    def __init__(self) -> None:
        self.containers: dict[TaskId, FakeContainer] = {}
        self.images: set[str] | None = None
        """None: every image is there."""
        self.is_away = False
        self.starts: Counter[TaskId] = Counter()
        """How often a container of the task was really started; never more than once."""
        self.commands: dict[tuple[str, ...], int | str] = {}
        """What becomes of a command in any container: its exit code, NEVER_ENDS, or why it cannot
        be run. Others exit with 0."""
        self.commands_run: list[CommandRun] = []
        self.limits_updates: list[TaskId] = []
        self.stops: list[tuple[TaskId, float]] = []
        """The stop signals sent, with the seconds until SIGKILL."""
        self._scripts: dict[TaskId, Script] = {}
        self._listeners: set[asyncio.Queue[ContainerEvent | None]] = set()
        self._numbers = itertools.count(1)

    def script(self, task_id: TaskId, script: Script) -> None:
        self._scripts[task_id] = script

    def script_of(self, task_id: TaskId) -> Script:
        return self._scripts.get(task_id, Script())

    def exit(self, task_id: TaskId, exit_code: int, error: str = "") -> None:
        """The container's first process ends."""
        container = self.containers[task_id]
        if not container.running:
            return
        container.running = False
        container.exit_code = exit_code
        container.error = error
        container.health = Health.NONE
        self._tell(ContainerExit(task_id, container.container_id, exit_code, error))

    def set_health(self, task_id: TaskId, health: Health) -> None:
        """The container's health check comes to a verdict."""
        container = self.containers[task_id]
        container.health = health
        self._tell(HealthChange(task_id, container.container_id, health))

    def _tell(self, event: ContainerEvent) -> None:
        for listener in self._listeners:
            listener.put_nowait(event)

    def go_away(self) -> None:
        """The engine stops answering; its containers run on (live-restore)."""
        self.is_away = True
        for listener in self._listeners:
            listener.put_nowait(None)
        self._listeners.clear()

    def come_back(self) -> None:
        """Health checks begin anew, as a real engine's do."""
        self.is_away = False
        for container in self.containers.values():
            if container.health is not Health.NONE:
                container.health = Health.STARTING

    def listen(self) -> "asyncio.Queue[ContainerEvent | None]":
        listener: asyncio.Queue[ContainerEvent | None] = asyncio.Queue()
        self._listeners.add(listener)
        return listener

    def unlisten(self, listener: "asyncio.Queue[ContainerEvent | None]") -> None:
        self._listeners.discard(listener)

    def create(self, task_id: TaskId, namespace: str | None) -> FakeContainer:
        container = FakeContainer(task_id, f"{next(self._numbers):064x}", namespace)
        self.containers[task_id] = container
        return container

    def run(self, container: FakeContainer) -> None:
        container.running = container.started = True
        container.pid = 10_000 + int(container.container_id, 16)
        if self.script_of(container.task_id).has_health_check:
            container.health = Health.STARTING
        self.starts[container.task_id] += 1

    def require(self) -> None:
        if self.is_away:
            raise Temporary("the engine does not answer")


class FakeExecutor:
    def __init__(
        self,
        engine: FakeEngine,
        clock: Clock,
        uses_namespaces: bool = False,
        node: NodeFacts = NODE,
        files: FakeTaskFiles | None = None,
    ) -> None:
        self.uses_namespaces = uses_namespaces
        self.engine = engine
        self._clock = clock
        self._node = node
        self._files = files
        self._events: asyncio.Queue[ContainerEvent | None] | None = None

    async def open(self) -> NodeResources:
        self.engine.require()
        if self._events is not None:
            self.engine.unlisten(self._events)
        self._events = self.engine.listen()
        return NodeResources(
            nano_cpus=4_000_000_000,
            memory_bytes=8 * 1024**3,
            architecture=self._node.architecture,
            engine_version="fake",
        )

    async def prepare(self, task: Task) -> None:
        self.engine.require()
        script = self.engine.script_of(task.id)
        if script.prepare_takes_for_ever:
            await asyncio.Event().wait()
        if script.prepare_error is not None:
            raise ExecutorError(script.prepare_error)
        expanded(task, self._node)
        image = task.spec.container.image
        if self.engine.images is not None and image not in self.engine.images:
            raise ExecutorError(f"No such image: {image}")

    async def start(
        self, task: Task, namespace: str | None, nameserver: str = ""
    ) -> RunningContainer:
        engine = self.engine
        engine.require()
        script = engine.script_of(task.id)
        container = engine.containers.get(task.id)
        if container is None:
            asked = expanded(task, self._node)
            if script.create_error is not None:
                raise Refused(script.create_error)
            container = engine.create(task.id, namespace)
            container.spec = asked.spec
            container.nameserver = nameserver
            if self._files is not None:
                container.files = self._files.given.get(task.id, ())
        if container.started and not container.running:
            raise ExecutorError(f"the container has ended already, exit {container.exit_code}")
        if container.running:
            return RunningContainer(container.container_id, container.pid, container.health)
        if script.start_error is not None:
            raise ExecutorError(script.start_error)
        await self._clock.sleep(script.start_delay_s)
        engine.require()
        engine.run(container)
        container.limits = adjustable_limits(task)
        started = RunningContainer(container.container_id, container.pid, container.health)
        if script.health_at_start is not None:
            engine.set_health(task.id, script.health_at_start)
            # The listener is quicker than the caller.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        if script.exit_code is not None:
            engine.exit(task.id, script.exit_code)
        return started

    async def stop(self, task: Task, grace_s: float | None = None) -> int | None:
        self.engine.require()
        container = self.engine.containers.get(task.id)
        if container is None:
            return None
        if grace_s is None:
            grace_s = grace_period_s(task.spec.container)
        if container.running:
            self.engine.stops.append((task.id, grace_s))
        if container.running and self.engine.script_of(task.id).ignores_stop:
            await self._clock.sleep(grace_s)
            self.engine.require()
            self.engine.exit(task.id, KILLED_EXIT_CODE)
        elif container.running:
            self.engine.exit(task.id, STOPPED_EXIT_CODE)
        return container.exit_code

    async def run_command(self, task: Task, command: tuple[str, ...], limit_s: float) -> int:
        self.engine.require()
        container = self.engine.containers.get(task.id)
        if container is None or not container.running:
            raise ExecutorError("the task has no running container")
        self.engine.commands_run.append(CommandRun(task.id, command, limit_s))
        outcome = self.engine.commands.get(command, 0)
        if isinstance(outcome, str):
            raise ExecutorError(outcome)
        if outcome == NEVER_ENDS:
            await self._clock.sleep(limit_s)
            self.engine.require()
            raise CommandTimeout(f"{command[0]} did not end within {limit_s:g} s and was killed")
        return outcome

    async def update_limits(self, task: Task) -> None:
        self.engine.require()
        container = self.engine.containers.get(task.id)
        if container is None:
            raise ExecutorError("the task has no container")
        error = self.engine.script_of(task.id).limits_error
        if error is not None:
            raise ExecutorError(error)
        self.engine.limits_updates.append(task.id)
        container.limits = adjustable_limits(task)

    async def remove(self, task_id: TaskId) -> None:
        self.engine.require()
        if task_id in self.engine.containers:
            self.engine.exit(task_id, KILLED_EXIT_CODE)
        self.engine.containers.pop(task_id, None)

    async def found(self) -> list[FoundContainer]:
        self.engine.require()
        return [
            FoundContainer(
                task_id=container.task_id,
                container_id=container.container_id,
                pid=container.pid,
                running=container.running,
                started=container.started,
                exit_code=container.exit_code,
                error=container.error,
                health=container.health,
            )
            for container in self.engine.containers.values()
        ]

    async def events(self) -> AsyncIterator[ContainerEvent]:
        listener = self._events
        while listener is not None:
            event = await listener.get()
            if event is None:
                return
            yield event

    async def close(self) -> None:
        if self._events is not None:
            self.engine.unlisten(self._events)
            self._events.put_nowait(None)
            self._events = None
