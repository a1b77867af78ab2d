"""The bus server beside this master: its file of users, the signal that has it read that, and what
it shows of itself on loopback."""

import os
import signal
from pathlib import Path
from typing import Final, Protocol

import msgspec

from essaim_master.bus_users.connections import Connection
from essaim_shared.errors import EssaimError, OutcomeUnknown, Unavailable
from essaim_shared.http_call import call
from essaim_shared.sealing import write_private
from essaim_shared.trust.identity import AUTHORITIES_FILE, OWN_FILE
from essaim_shared.undecodable import UNDECODABLE

MONITOR_TIMEOUT_S: Final = 1.0
PROGRAM: Final = "nats-server"
PID_CHARS_MAX: Final = 16


class BusServerError(EssaimError):
    """The bus server beside this master does not do as it is told: why."""


class BusServerControl(Protocol):
    """What `keeper` and `flood_guard` need of a server; see LocalBusServer."""

    def write(self, text: str) -> None: ...

    def reload(self) -> None: ...

    @property
    def has_old_certificates(self) -> bool: ...

    async def loaded_ns(self) -> int | None: ...

    async def connections(self) -> tuple[Connection, ...]: ...


class _Varz(msgspec.Struct, frozen=True):
    write_deadline: int
    """In nanoseconds."""


class _Connz(msgspec.Struct, frozen=True):
    connections: tuple[Connection, ...]


_varz = msgspec.json.Decoder(_Varz)
_connz = msgspec.json.Decoder(_Connz)

CONNECTIONS_MAX: Final = 16_384
"""More than a server takes (`bus_server_config.CONNECTIONS_MAX`)."""
CLOSED_MAX: Final = 512
"""The newest ones, of those that are over: who comes and goes is seen, too."""


class LocalBusServer:
    def __init__(self, users_path: Path, pid_file: Path, monitor: str, identity_dir: Path) -> None:
        """`monitor`: `HOST:PORT` on loopback. `identity_dir`: whose certificates it shows."""
        self._users_path = users_path
        self._pid_file = pid_file
        self._monitor = monitor
        self._certificates = tuple(identity_dir / name for name in (OWN_FILE, AUTHORITIES_FILE))
        self._seen: tuple[tuple[int, int], ...] | None = None
        """Of the certificates' files, when the server was last told to read them."""

    def write(self, text: str) -> None:
        """Blocks for the disk. Raises BusServerError."""
        try:
            write_private(self._users_path, text.encode())
        except OSError as error:
            raise BusServerError(
                f"{self._users_path} cannot be written: {error.strerror or error}"
            ) from error

    def reload(self) -> None:
        """Have it read its configuration again. Raises BusServerError."""
        try:
            with self._pid_file.open() as file:
                pid = int(file.read(PID_CHARS_MAX))
            process = os.pidfd_open(pid)
        except (OSError, ValueError) as error:
            raise BusServerError(f"{self._pid_file} names no process: {error}") from error
        try:
            # By now the number may be somebody else's, whom SIGHUP would end.
            program = Path(f"/proc/{pid}/comm").read_text().strip()
            if program != PROGRAM:
                raise BusServerError(f"{self._pid_file} names {program}, which is no {PROGRAM}")
            seen = self._look()
            signal.pidfd_send_signal(process, signal.SIGHUP)
            self._seen = seen
        except OSError as error:
            raise BusServerError(f"process {pid} cannot be told to reload: {error}") from error
        finally:
            os.close(process)

    @property
    def has_old_certificates(self) -> bool:
        """Whether they were renewed since it was told to read them; True before the first time,
        for nobody knows since when it has run."""
        return self._seen is None or self._seen != self._look()

    def _look(self) -> tuple[tuple[int, int], ...]:
        states = [path.stat() for path in self._certificates if path.exists()]
        return tuple((state.st_ino, state.st_mtime_ns) for state in states)

    async def loaded_ns(self) -> int | None:
        """`UsersFile.write_deadline_ns` of the file that is in force; None: no server runs here,
        so the next one reads what is on disk. Raises BusServerError when it does not answer."""
        try:
            body = await self._ask("/varz")
        except OutcomeUnknown as error:
            raise BusServerError(f"the bus server does not answer: {error}") from error
        except Unavailable:
            return None
        try:
            return _varz.decode(body).write_deadline
        except UNDECODABLE as error:
            raise BusServerError(f"{self._monitor} is no {PROGRAM}: {error}") from error

    async def connections(self) -> tuple[Connection, ...]:
        """Those that are open, and the last that were. Raises BusServerError; nothing when no
        server runs."""
        try:
            opened = await self._ask(f"/connz?auth=1&limit={CONNECTIONS_MAX}")
            closed = await self._ask(f"/connz?auth=1&state=closed&sort=stop&limit={CLOSED_MAX}")
            return (*_connz.decode(closed).connections, *_connz.decode(opened).connections)
        except OutcomeUnknown as error:
            raise BusServerError(f"the bus server does not answer: {error}") from error
        except Unavailable:
            return ()
        except UNDECODABLE as error:
            raise BusServerError(f"{self._monitor} is no {PROGRAM}: {error}") from error

    async def _ask(self, target: str) -> bytes:
        return (await call(self._monitor, "GET", target, timeout_s=MONITOR_TIMEOUT_S)).body
