"""Docker's events as exits of our tasks: one thread that reads one stream.

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
from essaim_agent.executor import ContainerExit

REPLAY_S = 10
EXITS_MAX = 10_000
"""Exits not yet taken. A consumer further behind is cut off and has to look anew."""


class ExitStream:
    """Exits of the containers with a label, until the engine goes away."""

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
        self._queue: asyncio.Queue[ContainerExit | None] = asyncio.Queue(EXITS_MAX + 1)
        self._waiters: dict[str, asyncio.Future[int]] = {}
        self._out_of_memory: set[str] = set()
        self.has_ended = False
        self._stream = client.events(
            decode=True,
            since=now_s - REPLAY_S,
            filters={"type": ["container"], "event": ["die", "oom"], "label": [label]},
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

    async def next(self) -> ContainerExit | None:
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
        if event.get("Action") == "oom":
            self._out_of_memory.add(container_id)
            return
        code = attributes.get("exitCode", "")
        exit_code = int(code) if code.isdigit() else 0
        error = "out of memory" if container_id in self._out_of_memory else ""
        self._out_of_memory.discard(container_id)
        self._told.add(container_id)
        waiter = self._waiters.pop(container_id, None)
        if waiter is not None and not waiter.done():
            waiter.set_result(exit_code)
        if self._queue.qsize() >= EXITS_MAX:
            self._on_end()
            self.close()
            return
        self._queue.put_nowait(ContainerExit(task_id, container_id, exit_code, error))

    def _on_end(self) -> None:
        if self.has_ended:
            return
        self.has_ended = True
        self._queue.put_nowait(None)
        for waiter in self._waiters.values():
            waiter.cancel()
        self._waiters.clear()
