"""Removes images that nothing uses any more, once the engine's disk is filling up.

Only images that this agent itself pulled for a task are ever removed, and it keeps a file of
them: what somebody loaded or pulled by hand on the node is theirs. Nothing is removed while a
container uses it, running or not, nor within `YOUNG_S` of its last use: a task that is about to
start has been told that its image is there.

The marks are two, as in Kubernetes' kubelet: above the high one images go, the longest unused
first, until the disk is below the low one.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Final, Protocol

import msgspec

from essaim_agent.executor import ExecutorError
from essaim_agent.journal import replace_file
from essaim_shared.clock import Clock
from essaim_shared.log import fields
from essaim_shared.undecodable import UNDECODABLE

CHECK_PERIOD_S: Final = 300.0
YOUNG_S: Final = 600.0
IMAGES_KNOWN_MAX: Final = 10_000
"""More pulled images than any disk holds; of more the longest unused are left to the operator."""
FILE_NAME: Final = "images"

_log = logging.getLogger(__name__)


class EngineImages(Protocol):
    """What the clean-up asks of an engine. Each may raise ExecutorError."""

    async def image_id(self, name: str) -> str | None:
        """None: it is not there."""
        ...

    async def image_ids_in_use(self) -> frozenset[str]:
        """Of all containers, also of those that are none of ours or do not run."""
        ...

    async def remove_image(self, name: str) -> bool:
        """Take this name from the image, and the image away with its last one; never by force.
        False: the engine refuses, since it is in use after all."""
        ...


def removal_order(
    last_used_ns: Mapping[str, int], in_use: Collection[str], now_ns: int, young_s: float = YOUNG_S
) -> list[str]:
    """The names that may go, the longest unused first."""
    latest_ns = now_ns - int(young_s * 1e9)
    return sorted(
        (
            name
            for name, used_ns in last_used_ns.items()
            if used_ns <= latest_ns and name not in in_use
        ),
        key=lambda name: (last_used_ns[name], name),
    )


class PulledImages:
    """The images that this agent pulled, and when a task last used each; kept on disk.

    The file is written when an image comes or goes. A time that is lost with a crash is an older
    one, and what a container uses is looked up again before anything is removed.
    """

    def __init__(self, directory: Path | None, clock: Clock) -> None:
        """Without a directory it is forgotten with the process."""
        self._path = None if directory is None else directory / FILE_NAME
        self._clock = clock
        self._last_used_ns: dict[str, int] = {}
        if self._path is not None and self._path.exists():
            try:
                self._last_used_ns = msgspec.json.decode(
                    self._path.read_bytes(), type=dict[str, int]
                )
            except UNDECODABLE as error:
                # Nothing is removed that is not listed: the disk may fill, no work is lost.
                _log.error("list of pulled images damaged, begun anew: %s", error)

    @property
    def last_used_ns(self) -> Mapping[str, int]:
        return self._last_used_ns

    def pulled(self, name: str) -> None:
        if name in self._last_used_ns or len(self._last_used_ns) < IMAGES_KNOWN_MAX:
            self._last_used_ns[name] = self._clock.wall_ns()
            self._write()

    def used(self, name: str) -> None:
        """Now; of others than those it pulled nothing is noted."""
        if name in self._last_used_ns:
            self._last_used_ns[name] = self._clock.wall_ns()

    def forget(self, name: str) -> None:
        if self._last_used_ns.pop(name, None) is not None:
            self._write()

    def _write(self) -> None:
        if self._path is not None:
            replace_file(self._path, msgspec.json.encode(self._last_used_ns))


class ImageCleanup:
    """`run` looks now and then; `make_room` is for a pull that found the disk full."""

    def __init__(
        self,
        engine: EngineImages,
        pulled: PulledImages,
        fill_percent: Callable[[], float],
        clock: Clock,
        above_percent: float,
        below_percent: float,
    ) -> None:
        """`fill_percent` is that of the file system where the engine keeps images."""
        self._engine = engine
        self._pulled = pulled
        self._fill_percent = fill_percent
        self._clock = clock
        self._above_percent = above_percent
        self._below_percent = below_percent
        self._one_at_a_time = asyncio.Lock()
        self.removed_count = 0

    async def run(self) -> None:
        while True:
            try:
                await self.check()
            except (ExecutorError, OSError) as error:
                _log.warning("image clean-up failed %s", fields(reason=error))
            await self._clock.sleep(CHECK_PERIOD_S)

    async def check(self) -> int:
        """Remove images if the disk is above the high mark; how many went. Raises ExecutorError,
        OSError."""
        if self._fill() <= self._above_percent:
            return 0
        return await self.make_room()

    async def make_room(self) -> int:
        """Remove images until the disk is below the low mark, whether it was above the high one
        or not; how many went. Raises ExecutorError, OSError."""
        async with self._one_at_a_time:
            removed = 0
            for name in await self._candidates():
                if self._fill() <= self._below_percent:
                    break
                removed += await self._remove(name)
            if self._fill() > self._above_percent:
                _log.warning(
                    "disk fuller than wanted, and no image left to remove %s",
                    fields(fill_percent=round(self._fill()), removed=removed),
                )
            return removed

    async def _candidates(self) -> list[str]:
        ids: dict[str, str] = {}
        for name in tuple(self._pulled.last_used_ns):
            image_id = await self._engine.image_id(name)
            if image_id is None:
                self._pulled.forget(name)  # somebody else removed it
            else:
                ids[name] = image_id
        # Looked at after the images: a container made meanwhile is seen.
        in_use = await self._engine.image_ids_in_use()
        names_in_use = {name for name, image_id in ids.items() if image_id in in_use}
        for name in names_in_use:
            self._pulled.used(name)
        return removal_order(self._pulled.last_used_ns, names_in_use, self._clock.wall_ns())

    async def _remove(self, name: str) -> bool:
        used_before_ns = self._clock.wall_ns() - int(YOUNG_S * 1e9)
        if self._pulled.last_used_ns.get(name, used_before_ns + 1) > used_before_ns:
            return False  # a task came for it while others were removed
        if not await self._engine.remove_image(name):
            self._pulled.used(name)
            return False
        self._pulled.forget(name)
        self.removed_count += 1
        _log.info("removed an unused image %s", fields(image=name))
        return True

    def _fill(self) -> float:
        return self._fill_percent()
