"""What an agent must know again after a restart, on disk.

    DATA_DIR/lock         held while an agent runs here
    DATA_DIR/node_id      of its certificate or drawn, then for ever its name on the bus
    DATA_DIR/term         highest term obeyed; forced to disk before the term is acted on
    DATA_DIR/assignments  tasks with their last status, networks, endpoints, services, nodes
    DATA_DIR/heard        its modification time: when a master was last heard

Every file is replaced whole by an atomic rename, so a crash leaves the old one or the new one.

The assignments may be a moment old after a crash, and that costs nothing: containers are found
by their labels, statuses only grow, and the first contact with a leader brings a full set. They
are for the time without a leader: what a found container is for, when to stop a task that must
not run cut off, and which tasks have ended and must not be started again. So they are written
behind the agent's back, one write at a time, and of several the last one wins.
"""

import asyncio
import fcntl
import logging
import os
import random
from collections.abc import Callable
from pathlib import Path

import msgspec

from essaim_shared.clock import Clock
from essaim_shared.errors import ConfigError
from essaim_shared.ids import ID_LENGTH, NodeId, new_id
from essaim_shared.messages import Endpoint, NodeNetwork, SealedCredentials, ServiceEntry
from essaim_shared.objects import Task, TaskStatus
from essaim_shared.undecodable import UNDECODABLE

_log = logging.getLogger(__name__)

JOURNAL_VERSION = 1
TERM_DIGITS_MAX = 20
"""Of 2**64."""
WRITE_PAUSE_S = 0.1
"""Between two writes of the assignments: while two hundred tasks start, everything changes."""


class JournaledTask(msgspec.Struct, frozen=True, omit_defaults=True):
    task: Task
    status: TaskStatus
    failure: str = ""
    """Why the task was given up, though its container may still be running."""
    is_unhealthy: bool = False
    limits_pending: bool = False
    """The container may not have the limits that the task has."""


class Journaled(msgspec.Struct, frozen=True, kw_only=True):
    """What one write of the assignments holds."""

    version: int = JOURNAL_VERSION
    tasks: tuple[JournaledTask, ...] = ()
    networks: tuple[NodeNetwork, ...] = ()
    endpoints: tuple[Endpoint, ...] = ()
    services: tuple[ServiceEntry, ...] = ()
    nodes: tuple[str, ...] = ()
    credentials: tuple[SealedCredentials, ...] = ()
    """As they came: sealed to this node, whose key is another file."""


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Journaled)


def replace_file(path: Path, content: bytes) -> None:
    """Put `content` at `path`, forced to disk, or leave what was there."""
    new = path.with_name(path.name + ".new")
    with new.open("wb") as file:
        file.write(content)
        file.flush()
        os.fdatasync(file.fileno())
    new.replace(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


class DataDirectory:
    """The directory of one agent, locked against a second one. Raises ConfigError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigError(f"data_dir {path} cannot be used: {error.strerror}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._lock)
            raise ConfigError(
                f"data_dir {path} is in use by another agent: give each agent its own"
            ) from error

    def node_id(self, rng: random.Random, certified: str = "") -> NodeId:
        """The node's id: the one in its certificate, or else drawn from `rng` the first time.
        Raises ConfigError if it is damaged, or the journal is another node's."""
        path = self.path / "node_id"
        if not path.exists():
            replace_file(path, (certified or new_id(rng)).encode() + b"\n")
        text = path.read_bytes().decode("ascii", "replace").strip()
        if len(text) != ID_LENGTH or not text.isalnum():
            raise ConfigError(f"{path} holds {text!r}, not a node id; remove it to join anew")
        if certified not in ("", text):
            raise ConfigError(
                f"{self.path} is the data of node {text}, and this node's certificate says "
                f"{certified}: remove the data directory, or have the right identity_dir"
            )
        return NodeId(text)

    def close(self) -> None:
        os.close(self._lock)


class HighestTerm:
    """The highest term this node has obeyed; it never goes back, not even over a power failure."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "term"
        self.value = 0
        if self._path.exists():
            text = self._path.read_bytes().strip()
            if not text.isdigit() or len(text) > TERM_DIGITS_MAX:
                raise ConfigError(f"{self._path} holds {text[:40]!r}, not a term")
            self.value = int(text)

    def admits(self, term: int) -> bool:
        """Whether a message of `term` may be obeyed. A new highest term is on disk afterwards.

        It blocks the loop for one fdatasync: terms change when leaders do, and nothing may
        happen between the decision and the record of it.
        """
        if term < self.value:
            return False
        if term > self.value:
            replace_file(self._path, b"%d\n" % term)
            self.value = term
        return True


class LastHeard:
    """When a master was last heard, kept over a restart of the agent by a file's time."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "heard"

    def mark(self, wall_ns: int) -> None:
        self._path.touch()
        os.utime(self._path, ns=(wall_ns, wall_ns))

    def silence_s(self, wall_ns: int) -> float:
        """Seconds since the mark; 0 when there is none, or when it lies in the future."""
        if not self._path.exists():
            return 0.0
        return max(0.0, (wall_ns - self._path.stat().st_mtime_ns) / 1e9)


class Journal:
    """The assignments on disk; `run` writes them, `load` reads them once at the start."""

    def __init__(self, directory: Path, clock: Clock) -> None:
        self._path = directory / "assignments"
        self._clock = clock
        self._picture: Callable[[], Journaled] | None = None
        self._changed = asyncio.Event()
        self.writes = 0

    def load(self) -> Journaled:
        """What was held before; nothing in a fresh directory.

        A file that does not decode is put aside and logged: containers are found by their labels
        and the next full set says the rest, while a node that refuses to start helps nobody.
        """
        if not self._path.exists():
            return Journaled()
        content = self._path.read_bytes()
        try:
            journaled = _decoder.decode(content)
        except UNDECODABLE as error:
            aside = self._path.with_name("assignments.damaged")
            self._path.replace(aside)
            _log.error("journal damaged, put aside as=%s bytes=%d: %s", aside, len(content), error)
            return Journaled()
        if journaled.version != JOURNAL_VERSION:
            raise ConfigError(
                f"{self._path} is of version {journaled.version}, this agent writes "
                f"{JOURNAL_VERSION}: use the agent that wrote it, or remove the file"
            )
        return journaled

    def changed(self, picture: Callable[[], Journaled]) -> None:
        """Have what `picture` returns then written soon."""
        self._picture = picture
        self._changed.set()

    async def run(self) -> None:
        while True:
            await self._changed.wait()
            await self._write_pending()
            await self._clock.sleep(WRITE_PAUSE_S)

    async def _write_pending(self) -> None:
        self._changed.clear()
        if self._picture is None:
            return
        journaled = self._picture()
        writing = asyncio.ensure_future(
            asyncio.to_thread(lambda: replace_file(self._path, _encoder.encode(journaled)))
        )
        try:
            await asyncio.shield(writing)
        except asyncio.CancelledError:
            # A thread cannot be cancelled, and two of them must not write one file.
            await writing
            raise
        self.writes += 1

    async def close(self) -> None:
        """Write what is pending. Call it when `run` has been cancelled."""
        if self._changed.is_set():
            await self._write_pending()
