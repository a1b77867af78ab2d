"""Docker's events as exits and health of our tasks: one thread that reads one stream.

The ends of commands in containers come the same way, so that nobody holds a thread for one.

The stream is open when the constructor returns, so whoever looks at the containers afterwards
misses nothing between the look and the first exit. It begins a few seconds in the past: the engine
tells of an end a moment before its list of containers shows it (20.10: the event is logged before
the container's checkpoint), so a look at the wrong moment would see a dead container run for ever.
A container of ours runs once, so an end that is told late is never wrong.
"""

import asyncio
import threading
from collections.abc import Mapping
from typing import Any

import docker
import docker.errors
import requests.exceptions

from essaim_agent.docker_options import task_id_of
from essaim_agent.executor import ContainerEvent, ContainerExit, Health, HealthChange
from essaim_shared.ids import TaskId

REPLAY_S = 10
EVENTS_MAX = 10_000
"""Events not yet taken. A consumer further behind is cut off and has to look anew."""


EVENTS = ("die", "oom", "health_status", "exec_die")
"""The engine compares beginnings once one of these is asked for: the verdict stands behind
`health_status` in the action's name (moby, daemon/events/filter.go)."""
HEALTH_ACTIONS = {
    "health_status: starting": Health.STARTING,
    "health_status: healthy": Health.HEALTHY,
    "health_status: unhealthy": Health.UNHEALTHY,
}
KILLED_EXIT_CODE = 137
"""Of a command whose container has ended; 128 + SIGKILL."""


class EventStream:
    """Events of the containers with a label, until the engine goes away."""

    def __init__(
        self,
        client: docker.APIClient,
        label: str,
        loop: asyncio.AbstractEventLoop,
        now_s: int,
        told: set[str],
    ) -> None:
        """Blocks until the engine has answered: call it in a thread. Raises what docker raises.

        `now_s` is the wall time. `told` holds the containers whose end was told already, by this
        stream or by one before it.
        """
        self._client = client
        self._loop = loop
        self._told = told
        self._queue: asyncio.Queue[ContainerEvent | None] = asyncio.Queue(EVENTS_MAX + 1)
        self._waiters: dict[str, asyncio.Future[int]] = {}
        self._commands: dict[str, tuple[str, asyncio.Future[int]]] = {}
        """By the id of the command: its container, and who waits for its exit code."""
        self._out_of_memory: set[str] = set()
        self.has_ended = False
        self._stream = client.events(
            decode=True,
            since=now_s - REPLAY_S,
            filters={"type": ["container"], "event": list(EVENTS), "label": [label]},
        )
        self._thread = threading.Thread(target=self._read, name="docker-events", daemon=True)
        self._thread.start()

    def wait_for(self, container_id: str) -> "asyncio.Future[int]":
        """The exit code of a container's next end; cancelled when the stream ends first."""
        waiter = self._waiters.get(container_id)
        if waiter is None or waiter.done():
            waiter = self._loop.create_future()
            self._waiters[container_id] = waiter
            if self.has_ended:
                waiter.cancel()
        return waiter

    def wait_for_command(self, container_id: str, command_id: str) -> "asyncio.Future[int]":
        """The exit code of a command, or KILLED_EXIT_CODE when its container ends first; cancelled
        when the stream does. Call it before the command is started; cancel it to wait no more."""
        waiter: asyncio.Future[int] = self._loop.create_future()
        if self.has_ended:
            waiter.cancel()
        else:
            self._commands[command_id] = (container_id, waiter)
            waiter.add_done_callback(lambda _: self._commands.pop(command_id, None))
        return waiter

    async def next(self) -> ContainerEvent | None:
        """None once the stream has ended, and ever after."""
        if self.has_ended and self._queue.empty():
            return None
        return await self._queue.get()

    def close(self) -> None:
        """End the stream from this side; the thread ends soon after."""
        if not self.has_ended:
            self._stream.close()

    def join(self, timeout_s: float) -> None:
        self._thread.join(timeout_s)

    def _read(self) -> None:
        try:
            for event in self._stream:
                self._tell(self._on_event, event)
        except (requests.exceptions.RequestException, docker.errors.DockerException, ValueError):
            # Cut off in the middle: the end of the stream says it, whatever the last words were.
            pass
        self._client.close()
        self._tell(self._on_end)

    def _tell(self, what: Any, *values: Any) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(what, *values)

    def _on_event(self, event: Mapping[str, Any]) -> None:
        actor = event.get("Actor") or {}
        attributes: Mapping[str, str] = actor.get("Attributes") or {}
        container_id = str(actor.get("ID", ""))
        task_id = task_id_of(attributes)
        if task_id is None or self.has_ended or container_id in self._told:
            return
        action = str(event.get("Action", ""))
        if action == "oom":
            self._out_of_memory.add(container_id)
        elif action == "exec_die":
            self._on_command_end(attributes.get("execID", ""), _exit_code(attributes))
        elif action == "die":
            self._on_exit(task_id, container_id, _exit_code(attributes))
        elif action in HEALTH_ACTIONS:
            self._put(HealthChange(task_id, container_id, HEALTH_ACTIONS[action]))

    def _on_exit(self, task_id: TaskId, container_id: str, exit_code: int) -> None:
        error = "out of memory" if container_id in self._out_of_memory else ""
        self._out_of_memory.discard(container_id)
        self._told.add(container_id)
        waiter = self._waiters.pop(container_id, None)
        if waiter is not None and not waiter.done():
            waiter.set_result(exit_code)
        for command_id, (inside, _) in tuple(self._commands.items()):
            if inside == container_id:
                self._on_command_end(command_id, KILLED_EXIT_CODE)
        self._put(ContainerExit(task_id, container_id, exit_code, error))

    def _on_command_end(self, command_id: str, exit_code: int) -> None:
        _, waiter = self._commands.pop(command_id, ("", None))
        if waiter is not None and not waiter.done():
            waiter.set_result(exit_code)

    def _put(self, event: ContainerEvent) -> None:
        if self._queue.qsize() >= EVENTS_MAX:
            self._on_end()
            self.close()
            return
        self._queue.put_nowait(event)

    def _on_end(self) -> None:
        if self.has_ended:
            return
        self.has_ended = True
        self._queue.put_nowait(None)
        commands = [waiter for _, waiter in self._commands.values()]
        for waiter in (*self._waiters.values(), *commands):
            waiter.cancel()
        self._waiters.clear()


def _exit_code(attributes: Mapping[str, str]) -> int:
    code = attributes.get("exitCode", "")
    return int(code) if code.isdigit() else 0
