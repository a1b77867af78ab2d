"""Tasks as containers of a Docker Engine. Only the files called `docker_executor…` import docker.

Calls block, so they run in a small pool of threads, each with a client (and a connection) of its
own. What costs nothing per container is preferred to what is convenient: bodies are built by us,
images are looked at once for many tasks, the process id is not asked for, and a stop waits for an
event instead of holding a thread for the grace period.
"""

import asyncio
import contextlib
import logging
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeVar

import docker
import docker.errors
import docker.utils
import requests.exceptions
import urllib3.exceptions

from essaim_agent import docker_options as options
from essaim_agent.docker_executor_client import NEWEST_VERSION, new_client, update_container
from essaim_agent.docker_executor_commands import run_command
from essaim_agent.docker_executor_events import EventStream
from essaim_agent.docker_executor_images import ImageStore
from essaim_agent.docker_limits import update_body
from essaim_agent.engine_facts import EngineFacts, facts_of, plugins_of
from essaim_agent.executor import (
    ContainerEvent,
    ExecutorError,
    FoundContainer,
    Health,
    NodeResources,
    Refused,
    RunningContainer,
    Temporary,
    adjustable_limits,
    grace_period_s,
)
from essaim_agent.image_cleanup import PulledImages
from essaim_agent.network import is_on_host_network
from essaim_agent.payloads.files import DIRECTORY as FILES_DIRECTORY
from essaim_agent.registry_logins import RegistryLogins
from essaim_agent.shim import link_namespace, unlink_namespace
from essaim_agent.task_machine import one_line
from essaim_agent.task_templates import NodeFacts, expanded
from essaim_shared.clock import Clock
from essaim_shared.ids import NodeId, TaskId
from essaim_shared.objects import Task

_log = logging.getLogger(__name__)

THREADS: Final = 16
CALL_TIMEOUT_S: Final = 60
KILL_WAIT_S: Final = 10.0
CLOSE_WAIT_S: Final = 2.0
NEVER: Final = "0001-01-01T00:00:00Z"
"""Docker's date of what has not happened."""

_AWAY_WORDS: Final = (
    "containerd",
    "transport is closing",
    "ttrpc: closed",
    "context deadline exceeded",
    "daemon is shutting down",
    "connection refused",
)
"""In an engine's error: its containerd is restarting, so the same call may succeed later."""

_WRONG_WORDS: Final = (
    docker.errors.InvalidArgument,
    docker.errors.InvalidRepository,
    docker.errors.NullResource,
)
"""What docker's client refuses by itself: asking again changes nothing."""

T = TypeVar("T")


def _meaning_of(error: docker.errors.APIError, lasting: type[ExecutorError]) -> ExecutorError:
    """Temporary, or of the class that asking again does not cure."""
    text = one_line(str(error.explanation or error))
    status = error.status_code or 0
    if status == 503 or (status >= 500 and any(word in text for word in _AWAY_WORDS)):
        return Temporary(text)
    return lasting(text)


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """Errors of docker and of its transport as ours; those of the engine in its own words."""
    try:
        yield
    except docker.errors.APIError as error:
        raise _meaning_of(error, ExecutorError) from error
    except _WRONG_WORDS as error:
        raise ExecutorError(one_line(str(error))) from error
    except (
        requests.exceptions.RequestException,
        urllib3.exceptions.HTTPError,
        docker.errors.DockerException,
        OSError,
    ) as error:
        raise Temporary(f"the engine does not answer: {one_line(str(error))}") from error


def _start(client: docker.APIClient, container_id: str) -> None:
    """A refusal is told in Swarm's words (moby, daemon/cluster/executor/container/controller.go,
    Start)."""
    try:
        client.start(container_id)
    except docker.errors.APIError as error:
        meaning = _meaning_of(error, ExecutorError)
        if isinstance(meaning, Temporary):
            raise meaning from error
        raise ExecutorError(f"starting container failed: {meaning}") from error


class DockerExecutor:
    def __init__(
        self,
        socket_path: Path,
        cluster_id: str,
        run_dir: Path,
        clock: Clock,
        uses_namespaces: bool,
        node_name: str = "",
        logins: RegistryLogins | None = None,
        pulled: PulledImages | None = None,
    ) -> None:
        """`run_dir` is where the runtime looks for prepared namespaces, and where files of
        secrets are; `node_name` is for the templates of tasks."""
        self.uses_namespaces = uses_namespaces
        self.engine_root = Path("/var/lib/docker")
        """Where the engine keeps its data; known once opened."""
        self._socket_path = socket_path
        self._cluster_id = cluster_id
        self._run_dir = run_dir
        self._clock = clock
        self._label = f"{options.CLUSTER_LABEL}={cluster_id}"
        self._version = ""
        self._engine = EngineFacts()
        self._node = NodeFacts(hostname=node_name)
        """Known once opened, as are the facts of the engine."""
        self._local = threading.local()
        self._clients: list[docker.APIClient] = []
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="docker")
        self._events: EventStream | None = None
        self._nano_cpus = 0
        self._containers: dict[TaskId, str] = {}
        self._stop_signals: dict[TaskId, str] = {}
        self._told: set[str] = set()
        """Containers that are still there and whose end has been told."""
        self.images = ImageStore(
            self._call,
            clock,
            logins or RegistryLogins(NodeId("")),
            pulled or PulledImages(None, clock),
        )

    # Clients and threads.

    def _new_client(self) -> docker.APIClient:
        return new_client(self._socket_path, self._version, CALL_TIMEOUT_S)

    def _client(self) -> docker.APIClient:
        """The client of the present thread."""
        client = getattr(self._local, "client", None)
        if client is None:
            client = self._local.client = self._new_client()
            self._clients.append(client)
        return client

    async def _call(
        self, work: Callable[[docker.APIClient], T], threads: ThreadPoolExecutor | None = None
    ) -> T:
        def translated() -> T:
            with _translated():
                return work(self._client())

        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(threads or self._threads, translated)

    # The engine.

    async def open(self) -> NodeResources:
        """Each time it looks which API the engine speaks: it may have been upgraded meanwhile."""
        self.images.forget_all()
        loop = asyncio.get_running_loop()
        now_s = self._clock.wall_ns() // 1_000_000_000

        def connect() -> tuple[dict[str, Any], EventStream]:
            with _translated():
                # docker's client leaves its socket open when nobody listens.
                with socket.socket(socket.AF_UNIX) as probe:
                    probe.connect(str(self._socket_path))
                asking = new_client(self._socket_path, "auto", CALL_TIMEOUT_S)
                spoken, newest = asking.api_version, NEWEST_VERSION
                self._version = spoken if docker.utils.version_lt(spoken, newest) else newest
                info: dict[str, Any] = asking.info()
                asking.close()
                refusal = options.refusal_of(info, self.uses_namespaces)
                if refusal is not None:
                    raise ExecutorError(refusal)
                return info, EventStream(self._new_client(), self._label, loop, now_s, self._told)

        if self._events is not None:
            self._events.close()
        info, self._events = await loop.run_in_executor(self._threads, connect)
        self.engine_root = Path(info.get("DockerRootDir") or self.engine_root)
        self._engine = facts_of(info, self._version)
        self._node = NodeFacts(
            hostname=self._node.hostname,
            architecture=str(info.get("Architecture", "")),
            os=str(info.get("OSType", "linux")),
        )
        self._nano_cpus = int(info.get("NCPU", 0)) * 1_000_000_000
        return NodeResources(
            nano_cpus=self._nano_cpus,
            memory_bytes=int(info.get("MemTotal", 0)),
            architecture=str(info.get("Architecture", "")),
            engine_version=str(info.get("ServerVersion", "")),
            engine_labels=dict(item.partition("=")[::2] for item in info.get("Labels") or ()),
            plugins=plugins_of(info),
        )

    async def found(self) -> list[FoundContainer]:
        def look(client: docker.APIClient) -> list[FoundContainer]:
            listed = client.containers(all=True, filters={"label": [self._label]})
            return [
                container
                for item in listed
                if (container := self._describe(client, item)) is not None
            ]

        containers = await self._call(look)
        self._containers = {item.task_id: item.container_id for item in containers}
        self._told.intersection_update(self._containers.values())
        return containers

    def _describe(self, client: docker.APIClient, listed: dict[str, Any]) -> FoundContainer | None:
        """A listed container; only one that does not run has to be asked how it ended."""
        task_id = options.task_id_of(listed.get("Labels") or {})
        if task_id is None:
            return None
        container_id: str = listed["Id"]
        if listed["State"] in ("running", "paused"):
            health = options.health_of(str(listed.get("Status", "")))
            return FoundContainer(task_id, container_id, 0, True, True, 0, health=health)
        try:
            state = client.inspect_container(container_id)["State"]
        except docker.errors.NotFound:
            return None
        return FoundContainer(
            task_id=task_id,
            container_id=container_id,
            pid=int(state.get("Pid", 0)),
            running=bool(state["Running"]),
            started=state.get("StartedAt", NEVER) != NEVER,
            exit_code=int(state.get("ExitCode", 0)),
            error="out of memory" if state.get("OOMKilled") else one_line(state.get("Error", "")),
        )

    async def events(self) -> AsyncIterator[ContainerEvent]:
        stream = self._events
        while stream is not None and (event := await stream.next()) is not None:
            yield event

    async def close(self) -> None:
        if self._events is not None:
            self._events.close()
            await asyncio.to_thread(self._events.join, CLOSE_WAIT_S)
        self.images.close()
        self._threads.shutdown(wait=False, cancel_futures=True)
        for client in self._clients:
            client.close()

    async def prepare(self, task: Task) -> None:
        # Before an image is pulled for nothing.
        self._body(task, self.uses_namespaces and not is_on_host_network(task), "")
        await self.images.prepare(task)

    # Containers.

    def _body(
        self, task: Task, has_namespace: bool, stop_signal: str, nameserver: str = ""
    ) -> dict[str, Any]:
        """What the engine is asked for. Raises ExecutorError for what cannot be asked."""
        filled_in = expanded(task, self._node)
        return options.create_body(
            filled_in,
            self._cluster_id,
            has_namespace,
            stop_signal,
            self._engine,
            nameserver,
            self._run_dir / FILES_DIRECTORY,
        )

    async def start(
        self, task: Task, namespace: str | None, nameserver: str = ""
    ) -> RunningContainer:
        image = await self.images.image_of(task)
        body = self._body(task, namespace is not None, image.stop_signal, nameserver)
        name = options.container_name(task)
        self._stop_signals[task.id] = body["StopSignal"]

        def create_and_start(client: docker.APIClient) -> str:
            container_id = _create(client, body, name)
            if namespace is not None:
                link_namespace(self._run_dir, container_id, namespace)
            _start(client, container_id)
            return container_id

        try:
            container_id = await self._call(create_and_start)
        except ExecutorError as error:
            if "no such image" in str(error).lower():
                self.images.forget(task.spec.container.image)
                raise Refused(f"No such image: {task.spec.container.image}") from error
            raise
        self._containers[task.id] = container_id
        is_checked = options.has_health_check(task.spec.container, image.has_health_check)
        return RunningContainer(container_id, 0, Health.STARTING if is_checked else Health.NONE)

    async def stop(self, task: Task, grace_s: float | None = None) -> int | None:
        container_id = await self._container_of(task.id)
        stream = self._events
        if container_id is None:
            return None
        if stream is None:
            raise Temporary("the engine has gone away")
        signal = self._stop_signals.get(task.id) or task.spec.container.stop_signal
        ended = stream.wait_for(container_id)
        if not await self._kill(container_id, signal):
            return await self._exit_code_of(container_id)
        if grace_s is None:
            grace_s = grace_period_s(task.spec.container)
        exit_code = await self._within(ended, grace_s)
        if exit_code is None:
            await self._kill(container_id, "SIGKILL")
            exit_code = await self._within(ended, KILL_WAIT_S)
        if exit_code is None:
            return await self._exit_code_of(container_id)
        return exit_code

    async def _within(self, ended: "asyncio.Future[int]", limit_s: float) -> int | None:
        """The exit code, if it comes in time. Raises Temporary when nobody will tell any more."""
        limit = asyncio.ensure_future(self._clock.sleep(limit_s))
        either: tuple[asyncio.Future[Any], ...] = (ended, limit)
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            limit.cancel()
        if ended.cancelled():
            raise Temporary("the engine went away during a stop")
        return ended.result() if ended.done() else None

    async def _kill(self, container_id: str, signal: str) -> bool:
        """Send a signal (empty: the one the container was created with); False: does not run."""

        def kill(client: docker.APIClient) -> bool:
            number = signal
            try:
                if not number:
                    config = client.inspect_container(container_id)["Config"]
                    number = config.get("StopSignal") or options.STOP_SIGNAL_DEFAULT
                client.kill(container_id, number)
            except docker.errors.NotFound:
                return False
            except docker.errors.APIError as error:
                # 409 since API 1.41, 500 before it.
                if "is not running" in str(error.explanation):
                    return False
                raise
            return True

        return await self._call(kill)

    async def run_command(self, task: Task, command: tuple[str, ...], limit_s: float) -> int:
        container_id, stream = await self._container_of(task.id), self._events
        if container_id is None:
            raise ExecutorError("the task has no container")
        if stream is None:
            raise Temporary("the engine has gone away")
        return await run_command(self._call, stream, self._clock, container_id, command, limit_s)

    async def update_limits(self, task: Task) -> None:
        container_id = await self._container_of(task.id)
        if container_id is None:
            raise ExecutorError("the task has no container")
        body = update_body(adjustable_limits(task), self._nano_cpus)
        await self._call(lambda client: update_container(client, container_id, body))

    async def _exit_code_of(self, container_id: str) -> int | None:
        """Of a container that ended without our notice; None: it is gone."""

        def look(client: docker.APIClient) -> int | None:
            try:
                state = client.inspect_container(container_id)["State"]
            except docker.errors.NotFound:
                return None
            if state["Running"]:
                raise Temporary(f"container {container_id[:12]} does not end")
            return int(state["ExitCode"])

        return await self._call(look)

    async def pid_of(self, container_id: str) -> int:
        """Of the container's first process; 0 when it does not run. Not asked for at each start:
        it would cost a call more."""
        inspected: dict[str, Any] = await self._call(
            lambda client: client.inspect_container(container_id)
        )
        return int(inspected["State"].get("Pid", 0))

    async def remove(self, task_id: TaskId) -> None:
        container_id = await self._container_of(task_id)
        if container_id is not None:
            await self._call(lambda client: _remove(client, container_id))
            unlink_namespace(self._run_dir, container_id)
            self._told.discard(container_id)
        self._containers.pop(task_id, None)
        self._stop_signals.pop(task_id, None)

    async def _container_of(self, task_id: TaskId) -> str | None:
        known = self._containers.get(task_id)
        if known is not None:
            return known
        label = f"{options.TASK_LABEL}={task_id}"
        listed = await self._call(
            lambda client: client.containers(all=True, filters={"label": [self._label, label]})
        )
        return listed[0]["Id"] if listed else None


def _create(client: docker.APIClient, body: dict[str, Any], name: str) -> str:
    """The id of the task's container, made now or in an attempt whose answer was lost."""
    try:
        created: dict[str, Any] = client.create_container_from_config(body, name)  # type: ignore[no-untyped-call]
    except docker.errors.APIError as error:
        if error.status_code != 409:
            raise _meaning_of(error, Refused) from error
    else:
        for warning in created.get("Warnings") or ():
            # Such as a limit that this kernel cannot hold.
            _log.warning("container %s: %s", name, one_line(str(warning)))
        container_id: str = created["Id"]
        return container_id
    present = client.inspect_container(name)
    task_id = body["Labels"][options.TASK_LABEL]
    if present["Config"]["Labels"].get(options.TASK_LABEL) != task_id:
        raise ExecutorError(f"the container name {name} is in use by a container that is not ours")
    state = present["State"]
    if not state["Running"] and state.get("StartedAt", NEVER) != NEVER:
        raise ExecutorError(f"the container has ended already, exit {state['ExitCode']}")
    present_id: str = present["Id"]
    return present_id


def _remove(client: docker.APIClient, container_id: str) -> None:
    """With its anonymous volumes, which nobody could find again; those with a name stay."""
    try:
        client.remove_container(container_id, force=True, v=True)
    except docker.errors.NotFound:
        return
    except docker.errors.APIError as error:
        if error.status_code == 409 and "already in progress" in str(error.explanation):
            return
        raise
