"""Images of an engine: there before a task starts, pulled once for many, removed when unused.

An image is looked at once for any number of tasks, and believed to be there for `IMAGE_TRUST_S`.
Pulls of the same image with the same credentials are one pull; `PULLS_MAX` of them are under way
at a time. What may be cured by waiting (a registry that restarts, a lost connection) is tried
`PULL_ATTEMPTS_MAX` times; then, as at once for an image that does not exist or may not be read,
the task is rejected, and the masters' back-off decides when and where it is tried again.
"""

import asyncio
import contextlib
import hashlib
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Protocol, TypeVar

import docker
import docker.errors
import docker.utils
import msgspec

from essaim_agent.executor import ExecutorError
from essaim_agent.image_cleanup import PulledImages
from essaim_agent.registry_logins import RegistryLogins
from essaim_agent.task_machine import one_line
from essaim_shared.backoff import backoff_s
from essaim_shared.clock import Clock
from essaim_shared.log import fields
from essaim_shared.objects import Task

PULLS_MAX: Final = 2
"""Pulls under way; they have threads of their own, so that none keeps a start waiting."""
IMAGE_TRUST_S: Final = 30.0
"""An image that was there is believed to be there for so long."""
IMAGES_TRUSTED_MAX: Final = 1_000
PULL_ATTEMPTS_MAX: Final = 3
PULL_RETRY_FIRST_S: Final = 0.5
PULL_RETRY_MOST_S: Final = 5.0

_PASSING_WORDS: Final = (
    "connection refused",
    "connection reset",
    "unexpected eof",
    "timeout",
    "deadline exceeded",
    "too many requests",
    "toomanyrequests",
    "temporary failure",
    "server misbehaving",
    "internal server error",
    "bad gateway",
    "service unavailable",
    "no space left on device",
)
"""In the engine's reason for a failed pull: the same pull may succeed soon."""

_NO_SPACE: Final = "no space left on device"

_log = logging.getLogger(__name__)

T = TypeVar("T")


class EngineCall(Protocol):
    """`DockerExecutor._call`: work in a thread, with errors translated."""

    def __call__(
        self, work: Callable[[docker.APIClient], T], threads: ThreadPoolExecutor | None = None
    ) -> Awaitable[T]: ...


class _PullFailed(ExecutorError):
    """The engine could not pull; its reason is the text."""


class Image(msgspec.Struct, frozen=True):
    """What a start needs to know of it."""

    stop_signal: str
    has_health_check: bool
    trusted_until_s: float


class ImageStore:
    """One per executor."""

    def __init__(
        self, call: EngineCall, clock: Clock, logins: RegistryLogins, pulled: PulledImages
    ) -> None:
        self._call = call
        self._clock = clock
        self._logins = logins
        self._pulled = pulled
        self._rng = random.Random()
        self._threads = ThreadPoolExecutor(PULLS_MAX, thread_name_prefix="docker-pull")
        self._images: dict[str, Image] = {}
        self._under_way: dict[tuple[str, ...], asyncio.Task[Image]] = {}
        self.make_room: Callable[[], Awaitable[int]] | None = None
        """Called when a pull found the disk full."""

    def forget_all(self) -> None:
        """The engine was away: look anew."""
        self._images.clear()

    def forget(self, name: str) -> None:
        self._images.pop(name, None)

    def close(self) -> None:
        for task in self._under_way.values():
            task.cancel()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def prepare(self, task: Task) -> None:
        """Have the task's image there, as its pull policy says. Raises ExecutorError."""
        name = task.spec.container.image
        if task.spec.container.pull_policy == "always":
            login = self._logins.of(task.service_id)
            await self._shared(("pull", name, _mark(login)), self._pull_and_look(name, login))
            return
        await self.image_of(task)

    async def image_of(self, task: Task) -> Image:
        """The image, pulled if it is missing and may be pulled. Raises ExecutorError."""
        name = task.spec.container.image
        self._pulled.used(name)
        known = self._images.get(name)
        if known is not None and self._clock.monotonic_s() < known.trusted_until_s:
            return known
        if task.spec.container.pull_policy == "never":
            return await self._shared(("look", name), self._look(name))
        login = self._logins.of(task.service_id)
        return await self._shared(("have", name, _mark(login)), self._have(name, login))

    # Coroutines that many tasks may share. Each is made for one call and run by one.

    async def _look(self, name: str) -> Image:
        found = await self._inspect(name)
        if found is None:
            raise ExecutorError(f"No such image: {name} (its pull policy is never)")
        return found

    async def _have(self, name: str, login: dict[str, Any] | None) -> Image:
        found = await self._inspect(name)
        return found if found is not None else await self._pull_and_look(name, login)

    async def _pull_and_look(self, name: str, login: dict[str, Any] | None) -> Image:
        await self._pull(name, login)
        found = await self._inspect(name)
        if found is None:
            raise ExecutorError(f"No such image: {name}")
        return found

    async def _shared(self, key: tuple[str, ...], work: Coroutine[Any, Any, Image]) -> Image:
        """One run of `work` for all that ask for the same while it is under way."""
        running = self._under_way.get(key)
        if running is None:
            running = asyncio.ensure_future(work)
            self._under_way[key] = running
            running.add_done_callback(lambda done: self._ended(key, done))
        else:
            work.close()
        # One task that is stopped must not cancel the pull of the others.
        return await asyncio.shield(running)

    def _ended(self, key: tuple[str, ...], ended: "asyncio.Task[Image]") -> None:
        del self._under_way[key]
        if not ended.cancelled():
            ended.exception()  # taken here too: perhaps nobody waits for it any more

    async def _inspect(self, name: str) -> Image | None:
        inspected = await self._call(lambda client: _inspect_image(client, name))
        if inspected is None:
            return None
        config = inspected.get("Config") or {}
        test = (config.get("Healthcheck") or {}).get("Test") or []
        image = Image(
            stop_signal=config.get("StopSignal") or "",
            has_health_check=bool(test) and test[0] != "NONE",
            trusted_until_s=self._clock.monotonic_s() + IMAGE_TRUST_S,
        )
        while len(self._images) >= IMAGES_TRUSTED_MAX:
            del self._images[next(iter(self._images))]
        self._images[name] = image
        return image

    # Pulls.

    async def _pull(self, name: str, login: dict[str, Any] | None) -> None:
        """Raises ExecutorError, in Docker's first words, with the engine's reason."""
        id_before = await self.image_id(name)
        for attempt in range(1, PULL_ATTEMPTS_MAX + 1):
            try:
                await self._call(lambda client: _pull(client, name, login), self._threads)
                break
            except _PullFailed as error:
                reason = str(error)
                if attempt == PULL_ATTEMPTS_MAX or not is_passing(reason):
                    raise ExecutorError(f"No such image: {name} ({reason})") from error
                _log.warning("pull failed, trying again %s", fields(image=name, reason=reason))
                if _NO_SPACE in reason.lower() and self.make_room is not None:
                    with contextlib.suppress(OSError):
                        await self.make_room()
            pause_s = backoff_s(attempt, self._rng, PULL_RETRY_FIRST_S, PULL_RETRY_MOST_S)
            await self._clock.sleep(pause_s)
        await self._note_pull(name, id_before)

    async def _note_pull(self, name: str, id_before: str | None) -> None:
        """What somebody else put there stays theirs, also when it is pulled again."""
        if id_before is None:
            self._pulled.pulled(name)
        elif name in self._pulled.last_used_ns:
            self._pulled.used(name)
            if await self.image_id(name) != id_before:
                # The tag moved on: what it named before has no name of its own any more.
                self._pulled.pulled(id_before)

    # For the clean-up (`image_cleanup.EngineImages`).

    async def image_id(self, name: str) -> str | None:
        inspected = await self._call(lambda client: _inspect_image(client, name))
        return None if inspected is None else str(inspected["Id"])

    async def image_ids_in_use(self) -> frozenset[str]:
        listed = await self._call(lambda client: client.containers(all=True))
        return frozenset(str(container["ImageID"]) for container in listed)

    async def remove_image(self, name: str) -> bool:
        self.forget(name)
        return await self._call(lambda client: _remove_image(client, name))


def is_passing(reason: str) -> bool:
    """Whether the engine's reason for a failed pull is one that waiting may cure. A host that
    does not exist or cannot be reached at all is none."""
    text = reason.lower()
    return any(words in text for words in _PASSING_WORDS)


def _mark(login: dict[str, Any] | None) -> str:
    """Tells credentials apart without keeping them."""
    return "" if login is None else hashlib.sha256(msgspec.json.encode(login)).hexdigest()


def _inspect_image(client: docker.APIClient, name: str) -> dict[str, Any] | None:
    try:
        inspected: dict[str, Any] = client.inspect_image(name)  # type: ignore[no-untyped-call]
    except docker.errors.NotFound:
        return None
    return inspected


def _pull(client: docker.APIClient, name: str, login: dict[str, Any] | None) -> None:
    """Raises _PullFailed with the registry's or the engine's reason."""
    repository, tag = docker.utils.parse_repository_tag(name)
    reason = ""
    try:
        for progress in client.pull(
            repository, tag or "latest", stream=True, decode=True, auth_config=login
        ):
            reason = progress.get("error", reason)
    except docker.errors.APIError as error:
        reason = str(error.explanation or error)
    if reason:
        raise _PullFailed(one_line(reason))


def _remove_image(client: docker.APIClient, name: str) -> bool:
    try:
        client.remove_image(name)
    except docker.errors.NotFound:
        return True
    except docker.errors.APIError as error:
        if error.status_code == 409:
            return False
        raise
    return True
