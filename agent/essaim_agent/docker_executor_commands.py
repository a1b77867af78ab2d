"""Commands in running containers, without a thread that waits for one: a command is started
detached, and the engine tells of its end as it does of a container's.
"""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

import docker

from essaim_agent.docker_executor_events import EventStream
from essaim_agent.executor import CommandTimeout, Temporary
from essaim_shared.clock import Clock

T = TypeVar("T")


class Call(Protocol):
    """Runs `work` in one of the executor's threads; its errors are ours."""

    def __call__(self, work: Callable[[docker.APIClient], T]) -> Awaitable[T]: ...


async def run_command(
    call: Call,
    stream: EventStream,
    clock: Clock,
    container_id: str,
    command: tuple[str, ...],
    limit_s: float,
) -> int:
    """As `Executor.run_command`. The time counts from when the engine has started the command."""

    def create(client: docker.APIClient) -> str:
        created: str = client.exec_create(container_id, list(command), stdout=False, stderr=False)[
            "Id"
        ]
        return created

    command_id = await call(create)
    # Before its start: the end of a short one may be told before the engine's answer to it.
    ended = stream.wait_for_command(container_id, command_id)
    limit: asyncio.Future[None] | None = None
    try:
        await call(lambda client: client.exec_start(command_id, detach=True))
        limit = asyncio.ensure_future(clock.sleep(limit_s))
        await asyncio.wait((ended, limit), return_when=asyncio.FIRST_COMPLETED)
        if ended.cancelled():
            raise Temporary("the engine went away during a command")
        if ended.done():
            return ended.result()
    finally:
        ended.cancel()
        if limit is not None:
            limit.cancel()
    await call(lambda client: _kill(client, command_id))
    raise CommandTimeout(f"{command[0]} did not end within {limit_s:g} s and was killed")


def _kill(client: docker.APIClient, command_id: str) -> None:
    """The engine's API cannot end a command, but tells its process id on the host."""
    pid = int(client.exec_inspect(command_id).get("Pid") or 0)
    if not pid:
        return
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        # Only what is still the command after the pidfd was opened: ids of processes come again.
        if client.exec_inspect(command_id)["Running"]:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except ProcessLookupError:
        return
    finally:
        os.close(pidfd)
