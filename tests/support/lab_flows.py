"""What the engines of a lab hold, commands that go on while a test does something else, and the
sudden death of a master."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from support.lab_cluster import COMMAND_TIMEOUT_S, Cluster, Done

from essaim_cli.lab.parts import signal_part

TASK_NAME = "com.docker.swarm.task.name"
SERVICE_NAME = "com.docker.swarm.service.name"
GLANCE_S = 0.005
"""Between two looks for a moment that passes quickly."""
MOMENT_TIMEOUT_S = 30.0
CHUNK_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Container:
    """A container as the engine of its host inspects it."""

    id: str
    host: str
    inspected: dict[str, Any]

    @property
    def is_running(self) -> bool:
        return bool(self.inspected["State"]["Running"])

    @property
    def started_at(self) -> str:
        """Changes with every start."""
        return str(self.inspected["State"]["StartedAt"])

    @property
    def labels(self) -> dict[str, str]:
        return dict(self.inspected["Config"]["Labels"])

    @property
    def slot(self) -> str:
        """The middle of SERVICE.SLOT.TASK: a number, or a node's id."""
        return self.labels[TASK_NAME].split(".")[1]


async def containers_of(cluster: Cluster, service: str) -> list[Container]:
    """The containers of a service that run, on whatever engine."""
    return [one for one in await containers_left(cluster, service) if one.is_running]


async def containers_left(cluster: Cluster, service: str) -> list[Container]:
    """Also those that ended by themselves, which are kept; those that were stopped are not."""
    per_host = await asyncio.gather(
        *(_containers_at(cluster, host.name, service) for host in cluster.hosts)
    )
    return [container for found in per_host for container in found]


async def _containers_at(cluster: Cluster, host: str, service: str) -> list[Container]:
    label = f"label={SERVICE_NAME}={service}"
    ids = (await cluster.docker(host, "ps", "-aq", "--no-trunc", "--filter", label)).lines
    if not ids:
        return []
    # A container that was removed in between is left out of the answer.
    inspected = json.loads((await cluster.docker(host, "inspect", *ids)).stdout)
    return [Container(one["Id"], host, one) for one in inspected]


async def starts_of(cluster: Cluster, service: str) -> dict[str, str]:
    """Running container → when it started: unchanged where nothing was restarted or replaced."""
    return {one.id: one.started_at for one in await containers_of(cluster, service)}


async def until_settled(cluster: Cluster, service: str, count: int) -> list[Container]:
    """Wait until the engines run as many containers as the masters know running tasks, one for
    each slot; returns the containers."""
    containers: list[Container] = []

    async def settled() -> bool:
        nonlocal containers
        tasks = await cluster.running(service, await cluster.leader())
        if len(tasks) != count:
            return False
        containers = await containers_of(cluster, service)
        known = {task["Status"]["ContainerStatus"]["ContainerID"] for task in tasks}
        return {one.id for one in containers} == known

    await cluster.until(settled, f"{count} containers of {service} run, and no others")
    slots = sorted(one.slot for one in containers)
    assert len(set(slots)) == count, f"slots with two containers: {slots}"
    return containers


async def tasks_made(cluster: Cluster, service: str) -> list[dict[str, Any]]:
    """Every task that a service ever had, with the ended ones: five of a slot are kept."""
    at = await cluster.leader()
    found: list[dict[str, Any]] = await cluster.api(
        f'/tasks?filters={{"service":["{service}"]}}', at
    )
    return found


async def kill_master(cluster: Cluster, host: str) -> None:
    """At once, as no command of the lab could: starting one takes longer than some moments last."""
    await signal_part(cluster.topology.host(host), "master", signal.SIGKILL, cluster.clock)


async def at_the_moment(
    cluster: Cluster, condition: Callable[[], Awaitable[bool]], what: str
) -> None:
    """Wait for something that lasts a fraction of a second."""
    try:
        async with asyncio.timeout(MOMENT_TIMEOUT_S):
            while not await condition():
                await cluster.clock.sleep(GLANCE_S)
    except TimeoutError:
        raise AssertionError(f"it never came to this: {what}") from None


class Running:
    """A command that goes on while the test does something else."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self._parts = {"out": b"", "err": b""}
        self.ended = asyncio.create_task(self._end())

    @property
    def said(self) -> str:
        """On either stream, until now."""
        return (self._parts["out"] + self._parts["err"]).decode(errors="replace")

    async def _end(self) -> Done:
        out, err = self.process.stdout, self.process.stderr
        assert out is not None
        assert err is not None
        async with asyncio.timeout(COMMAND_TIMEOUT_S):
            await asyncio.gather(self._collect("out", out), self._collect("err", err))
            code = await self.process.wait()
        return Done(code, self._parts["out"].decode(), self._parts["err"].decode())

    async def _collect(self, which: str, stream: asyncio.StreamReader) -> None:
        while part := await stream.read(CHUNK_BYTES):
            self._parts[which] += part


@asynccontextmanager
async def under_way(*command: str, **variables: str) -> AsyncIterator[Running]:
    """Start a command; it is ended with the block if it has not ended by itself."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **variables},
    )
    running = Running(process)
    try:
        yield running
    finally:
        if process.returncode is None:
            process.kill()
        await asyncio.gather(running.ended, return_exceptions=True)


def essaim_words(cluster: Cluster, at: str, *arguments: str) -> tuple[list[str], dict[str, str]]:
    """Our command line at the master of a host: words and environment."""
    variables = {"ESSAIM_HOST": f"unix://{cluster.topology.host(at).master_socket}"}
    return [sys.executable, "-m", "essaim_cli", *arguments], variables


def docker_words(
    cluster: Cluster, client: str, at: str, *arguments: str
) -> tuple[list[str], dict[str, str]]:
    """An unmodified docker client at the master of a host."""
    variables = {"DOCKER_HOST": f"unix://{cluster.topology.host(at).master_socket}"}
    return [client, *arguments], variables
