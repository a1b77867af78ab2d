"""What the agent asks of an engine: one container per task, found again after a restart.

Implementations: `docker_executor` (the real one), `process_executor` (plain processes, for
machines without an engine) and `fake_executor` (in memory). All pass the same contract tests.

The phase decides the verdict of a failure: an ExecutorError before the container was started
rejects the task, one after it fails the task; `Temporary` is retried by the worker.
"""

from collections.abc import AsyncIterator
from typing import Protocol

import msgspec

from essaim_shared.errors import EssaimError
from essaim_shared.ids import TaskId
from essaim_shared.objects import Task


class ExecutorError(EssaimError):
    """The task cannot run as specified: no such image, a bad option. One line for the user."""


class Temporary(ExecutorError):
    """The engine is away or overloaded; the same call may succeed later."""


class RunningContainer(msgspec.Struct, frozen=True):
    container_id: str
    pid: int


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


class ContainerExit(msgspec.Struct, frozen=True):
    task_id: TaskId
    container_id: str
    exit_code: int
    error: str = ""
    """One line beyond the exit code (out of memory, …)."""


class NodeResources(msgspec.Struct, frozen=True):
    nano_cpus: int
    memory_bytes: int
    architecture: str
    engine_version: str
    engine_labels: dict[str, str] = {}


class Executor(Protocol):
    uses_namespaces: bool
    """Whether `start` needs a prepared network namespace (the overlay) for the task."""

    async def open(self) -> NodeResources:
        """Connect. Raises Temporary while the engine does not answer, ExecutorError when this
        engine cannot be used (rootless, userns-remap), with the reason."""
        ...

    async def prepare(self, task: Task) -> None:
        """Everything that can be done before the start: the image is there afterwards."""
        ...

    async def start(self, task: Task, namespace: str | None) -> RunningContainer:
        """Create and start the task's container in the namespace at this path.

        For a task whose container exists already this returns it, running, and starts no second
        one: a crash between the engine's answer and the agent's journal must not double a task.
        """
        ...

    async def stop(self, task: Task) -> int | None:
        """Send the stop signal, wait the grace period, kill. The exit code; None: was not there."""
        ...

    async def remove(self, task_id: TaskId) -> None:
        """Forget the container and what belongs to it; no error when there is none."""
        ...

    async def found(self) -> list[FoundContainer]:
        """All containers of this node's tasks, running or not. It may show a container running
        whose end is told by `exits` already, never the other way round."""
        ...

    def exits(self) -> AsyncIterator[ContainerExit]:
        """Exits since `open`, each once, and some of the moments before it. Ends
        (StopAsyncIteration) when the engine goes away: the worker then waits for `open`, takes
        `found()` and listens anew."""
        ...

    async def close(self) -> None:
        """Let go of the engine. Containers keep running."""
        ...
