"""What the agent asks of an engine: one container per task, found again after a restart.

Implementations: `docker_executor` (the real one), `process_executor` (plain processes, for
machines without an engine) and `fake_executor` (in memory). All pass the same contract tests.

The phase decides the verdict of a failure: an ExecutorError before the start, or a `Refused` at
it, rejects the task, one after it fails the task; `Temporary` is retried by the worker.
"""

from collections.abc import AsyncIterator
from enum import Enum
from typing import Protocol

import msgspec

from essaim_shared.container_spec import ContainerSpec
from essaim_shared.errors import EssaimError
from essaim_shared.ids import TaskId
from essaim_shared.limits import STOP_GRACE_PERIOD_DEFAULT_NS
from essaim_shared.objects import EnginePlugin, Task
from essaim_shared.spec import Limits


class ExecutorError(EssaimError):
    """The task cannot run as specified: no such image, a bad option. One line for the user."""


class Refused(ExecutorError):
    """The container could not even be made as specified: nothing was started."""


class Temporary(ExecutorError):
    """The engine is away or overloaded; the same call may succeed later."""


class CommandTimeout(ExecutorError):
    """A command in a container did not end in its time and was killed."""


class Health(Enum):
    """What the engine's own health check says of a running container."""

    NONE = "none"
    """It has no health check."""
    STARTING = "starting"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"


class RunningContainer(msgspec.Struct, frozen=True):
    container_id: str
    pid: int
    health: Health = Health.NONE
    """STARTING for one with a health check: what it says comes by `events`."""


class FoundContainer(msgspec.Struct, frozen=True):
    """A container of ours that the engine knows, whoever started it."""

    task_id: TaskId
    container_id: str
    pid: int
    running: bool
    started: bool
    """False for one that was created and never started."""
    exit_code: int
    error: str = ""
    health: Health = Health.NONE


class ContainerExit(msgspec.Struct, frozen=True):
    task_id: TaskId
    container_id: str
    exit_code: int
    error: str = ""
    """One line beyond the exit code (out of memory, …)."""


class HealthChange(msgspec.Struct, frozen=True):
    """The health check of a running container has come to another verdict."""

    task_id: TaskId
    container_id: str
    health: Health


ContainerEvent = ContainerExit | HealthChange


class NodeResources(msgspec.Struct, frozen=True):
    nano_cpus: int
    memory_bytes: int
    architecture: str
    engine_version: str
    engine_labels: dict[str, str] = {}
    plugins: tuple[EnginePlugin, ...] = ()


def grace_period_s(container: ContainerSpec) -> float:
    """Between the stop signal, or the pre-stop command where there is one, and SIGKILL."""
    grace_ns = container.stop_grace_period
    return (STOP_GRACE_PERIOD_DEFAULT_NS if grace_ns is None else grace_ns) / 1e9


AdjustableLimits = tuple[Limits, int | None]
"""What a running container can be given anew: its limits, and the swap beside them."""


def adjustable_limits(task: Task) -> AdjustableLimits:
    resources = task.spec.resources
    if resources is None:
        return Limits(), None
    return resources.limits or Limits(), resources.swap_bytes


class Executor(Protocol):
    uses_namespaces: bool
    """Whether `start` needs a prepared network namespace (the overlay) for a task, unless the
    task is on the host's network."""

    async def open(self) -> NodeResources:
        """Connect. Raises Temporary while the engine does not answer, ExecutorError when this
        engine cannot be used (rootless, userns-remap), with the reason."""
        ...

    async def prepare(self, task: Task) -> None:
        """Everything that can be done before the start: the image is there afterwards."""
        ...

    async def start(
        self, task: Task, namespace: str | None, nameserver: str = ""
    ) -> RunningContainer:
        """Create and start the task's container in the namespace at this path, with a name server
        that answers there; empty: the host's.

        For a task whose container exists already this returns it, running, and starts no second
        one: a crash between the engine's answer and the agent's journal must not double a task.
        """
        ...

    async def stop(self, task: Task, grace_s: float | None = None) -> int | None:
        """Send the stop signal, wait the grace period, kill. The exit code; None: was not there.

        `grace_s` takes the place of the task's own grace period, of which a pre-stop command may
        have used a part.
        """
        ...

    async def run_command(self, task: Task, command: tuple[str, ...], limit_s: float) -> int:
        """Run a command in the task's running container; its exit code.

        Raises CommandTimeout when it has not ended in `limit_s` and was killed, Temporary while
        the engine is away, ExecutorError when it cannot be run (no such file, no container).
        """
        ...

    async def update_limits(self, task: Task) -> None:
        """Give the running container the task's limits. Doing it again changes nothing.

        Raises ExecutorError with the engine's reason where the container cannot have them.
        """
        ...

    async def remove(self, task_id: TaskId) -> None:
        """Forget the container and what belongs to it; no error when there is none."""
        ...

    async def found(self) -> list[FoundContainer]:
        """All containers of this node's tasks, running or not. It may show a container running
        whose end is told by `events` already, never the other way round."""
        ...

    def events(self) -> AsyncIterator[ContainerEvent]:
        """Exits, each once, and changes of health since `open`, and some of the moments before
        it. Ends (StopAsyncIteration) when the engine goes away: the worker then waits for `open`,
        takes `found()` and listens anew."""
        ...

    async def close(self) -> None:
        """Let go of the engine. Containers keep running."""
        ...
