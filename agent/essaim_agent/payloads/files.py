"""The files of secrets and configs of each task, on a tmpfs of the node.

    RUN_DIR/secrets/                    the tmpfs, for root alone
    RUN_DIR/secrets/TASK_ID/secret-0    each with the owner and mode that were asked for

A task's directory has its name once all files in it are there, so a crash leaves none with a part
of them. The container is given each file, read-only, at its place. They go when the task is over,
before its container does: a task is never started again.

Writing does not leave the event loop: it is copying in memory, of a bounded size, and nothing can
come between the decision to write and the files.
"""

import errno
import logging
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, Protocol

from essaim_agent.executor import ExecutorError, Refused
from essaim_agent.payloads.references import (
    WantedFile,
    directory_of,
    file_name,
    wanted_files,
)
from essaim_agent.payloads.store import PayloadStore
from essaim_agent.payloads.tmpfs import MountPoint
from essaim_agent.task_machine import one_line
from essaim_shared.errors import BrokenInvariant
from essaim_shared.ids import TaskId
from essaim_shared.log import fields
from essaim_shared.objects import Task

_log = logging.getLogger(__name__)

DIRECTORY: Final = "secrets"
"""In the agent's run directory."""
TASK_BYTES_MAX: Final = 40 * 1024 * 1024
"""Forty of the largest, which is what the masters allow a service."""
_UNFINISHED: Final = ".new"
_FULL: Final = (errno.ENOSPC, errno.ENOMEM, errno.EDQUOT)


class TaskFiles(Protocol):
    """`prepare` before the container is made, `release` when the task is over."""

    def open(self) -> None:
        """Have a place for files; where there can be none, tasks that need one are refused."""
        ...

    async def prepare(self, task: Task) -> None:
        """Have the task's files there. Free once they are. Raises Temporary, ExecutorError."""
        ...

    def release(self, task_id: TaskId) -> None:
        """Remove them; no error when there are none."""
        ...

    def keep_only(self, task_ids: Iterable[TaskId]) -> None:
        """Remove those of all other tasks."""
        ...

    async def close(self) -> None:
        """Let go; files stay for the containers that have them."""
        ...


class Place(Protocol):
    """Where the directories of tasks are made; `tmpfs.MountPoint` is the real one."""

    may_swap: bool

    def ensure(self) -> None:
        """Raises ExecutorError when there is no such place."""
        ...

    def remove(self) -> None: ...


class NoTaskFiles:
    """For an executor that refuses secrets and configs by itself."""

    def open(self) -> None:
        return

    async def prepare(self, task: Task) -> None:
        return

    def release(self, task_id: TaskId) -> None:
        return

    def keep_only(self, task_ids: Iterable[TaskId]) -> None:
        return

    async def close(self) -> None:
        return


class MemoryFiles:
    def __init__(self, run_dir: Path, store: PayloadStore, mount: Place | None = None) -> None:
        self.directory = run_dir / DIRECTORY
        self._mount = mount or MountPoint(self.directory)
        self._store = store

    def open(self) -> None:
        try:
            self._mount.ensure()
        except ExecutorError as error:
            _log.error("tasks with secrets are refused %s", fields(reason=str(error)))
            return
        if self._mount.may_swap:
            _log.warning("secrets may reach the swap space: Linux before 6.4 knows no noswap")

    async def prepare(self, task: Task) -> None:
        wanted = wanted_files(task.spec.container)
        if not wanted:
            return
        # Here, and not first when they are written: before anything is fetched for nothing.
        self._mount.ensure()
        own = directory_of(self.directory, task.id)
        if own.is_dir():
            return
        data = {file.key: await self._store.data_for(task.id, file) for file in wanted}
        self._mount.ensure()
        self._write(own, wanted, [data[file.key] for file in wanted])

    def _write(self, own: Path, wanted: Sequence[WantedFile], data: Sequence[bytes]) -> None:
        size_bytes = sum(len(item) for item in data)
        if size_bytes > TASK_BYTES_MAX:
            raise Refused(
                f"the task's secrets and configs are {size_bytes} bytes: a task can be given "
                f"{TASK_BYTES_MAX}"
            )
        new = own.with_name(f"{own.name}{_UNFINISHED}")
        try:
            _remove(new)
            new.mkdir(mode=0o700)
            for index, (file, content) in enumerate(zip(wanted, data, strict=True)):
                _write_file(new / file_name(index, file), file, content)
            new.rename(own)
        except OSError as error:
            shutil.rmtree(new, ignore_errors=True)
            if error.errno in _FULL:
                raise ExecutorError(
                    f"no room for the task's secrets and configs: {self.directory} is full"
                ) from None
            # Not chained: its text is the path, which says nothing more.
            raise ExecutorError(
                f"the task's secrets and configs cannot be written: {error.strerror}"
            ) from None

    def release(self, task_id: TaskId) -> None:
        self._store.release(task_id)
        try:
            _remove(directory_of(self.directory, task_id))
        except Refused:
            return  # such a task was never given any
        except OSError as error:
            _log.error(
                "files of secrets left behind %s",
                fields(task=task_id, reason=one_line(str(error))),
            )

    def keep_only(self, task_ids: Iterable[TaskId]) -> None:
        kept = set(task_ids)
        self._store.keep_only(kept)
        for directory in self._directories():
            if TaskId(directory.name) not in kept:
                try:
                    _remove(directory)
                except OSError as error:
                    _log.error("files of secrets left behind %s", fields(reason=str(error)))

    def _directories(self) -> list[Path]:
        try:
            return sorted(self.directory.iterdir())
        except FileNotFoundError:
            return []

    async def close(self) -> None:
        await self._store.close()

    def remove(self) -> None:
        """Unmount the file system and leave no trace of it. Raises ExecutorError."""
        self._mount.remove()


def _remove(directory: Path) -> None:
    """Raises OSError."""
    if directory.exists():
        shutil.rmtree(directory)


def _write_file(path: Path, file: WantedFile, content: bytes) -> None:
    """The mode before the owner: afterwards it is no more the agent's to change."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        written = 0
        while written < len(content):
            count = os.write(descriptor, memoryview(content)[written:])
            if count <= 0:
                raise BrokenInvariant(f"write(2) gave {count}")
            written += count
        os.fchmod(descriptor, file.mode)
        if (file.uid, file.gid) != (0, 0):
            os.fchown(descriptor, file.uid, file.gid)
    finally:
        os.close(descriptor)
