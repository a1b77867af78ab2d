"""The bus server beside this master: its file of users, the signal that has it read that, and what
it shows of itself on loopback."""

import asyncio
import http.client
import os
import signal
from pathlib import Path
from typing import Final, Protocol, TypeVar

import msgspec

from essaim_master.bus_users.connections import Connection
from essaim_shared.errors import EssaimError
from essaim_shared.http_call import split_address
from essaim_shared.sealing import write_private
from essaim_shared.trust.identity import AUTHORITIES_FILE, OWN_FILE
from essaim_shared.undecodable import UNDECODABLE

MONITOR_TIMEOUT_S: Final = 1.0
PROGRAM: Final = "nats-server"
PID_CHARS_MAX: Final = 16
ANSWER_BYTES_MAX: Final = 32 * 1024 * 1024
"""A connection takes some 700 bytes."""

T = TypeVar("T")


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
        except (OSError, ValueError, OverflowError) as error:
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
        shown = await asyncio.to_thread(self._ask, "/varz", _varz)
        return None if shown is None else shown.write_deadline

    async def connections(self) -> tuple[Connection, ...]:
        """Those that are open, and the last that were. Raises BusServerError; nothing when no
        server runs."""
        return await asyncio.to_thread(self._connections)

    def _connections(self) -> tuple[Connection, ...]:
        # In this order: one that ends in between is in both.
        opened = self._ask(f"/connz?auth=1&limit={CONNECTIONS_MAX}", _connz)
        closed = self._ask(f"/connz?auth=1&state=closed&sort=stop&limit={CLOSED_MAX}", _connz)
        return tuple(one for part in (opened, closed) if part for one in part.connections)

    def _ask(self, target: str, decoder: msgspec.json.Decoder[T]) -> T | None:
        """None when nobody listens. Raises BusServerError.

        In a thread of its own: a master that is flooded itself is slow to see each of the events
        that an answer is made of.
        """
        host, port = split_address(self._monitor)
        connection = http.client.HTTPConnection(host, port, timeout=MONITOR_TIMEOUT_S)
        try:
            connection.request("GET", target)
            return decoder.decode(connection.getresponse().read(ANSWER_BYTES_MAX))
        except ConnectionRefusedError:
            return None
        except (OSError, http.client.HTTPException) as error:
            reason = str(error) or type(error).__name__
            raise BusServerError(f"the bus server does not answer: {reason}") from error
        except UNDECODABLE as error:
            raise BusServerError(f"{self._monitor} is no {PROGRAM}: {error}") from error
        finally:
            connection.close()
