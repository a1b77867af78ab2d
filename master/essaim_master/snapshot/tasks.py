"""Work beside the event loop's turns: what it needs, and that nobody overlooks how it ended."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol

Fatal = Callable[[BaseException], None]


class RunBlocking(Protocol):
    """Runs what waits for the disk, as `asyncio.to_thread` does."""

    def __call__(self, function: Callable[..., Any], /, *arguments: Any) -> Awaitable[Any]: ...


def spawn(work: Coroutine[Any, Any, None], fatal: Fatal) -> asyncio.Task[None]:
    """Start a task. What it raises is final: it was expected by nobody."""

    def ended(task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            fatal(error)

    task = asyncio.get_running_loop().create_task(work)
    task.add_done_callback(ended)
    return task
