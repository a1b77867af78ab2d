"""The agent's end of the connection to its name server."""

import asyncio
import os
import signal
import socket
import struct
from typing import Final

from essaim_agent.dns import control, link
from essaim_agent.dns.picture import changes
from essaim_agent.dns.table import Change
from essaim_agent.network import NetworkError, NetworkPicture
from essaim_shared.errors import MalformedMessage

ANSWER_S: Final = 5.0
"""A server that says nothing for so long hangs: it has nothing to do that takes as long."""
_CREDENTIALS: Final = struct.Struct("3i")


class ConnectionLost(NetworkError):
    """The server ended, or was ended."""


class Connection:
    """One server, from its greeting to its end. `close` leaves it running."""

    def __init__(
        self, connection: socket.socket, hello: control.Hello, pid: int | None = None
    ) -> None:
        """`pid` is known of a child; another's the kernel tells. Raises OSError."""
        self.hello = hello
        self._socket = connection
        self._pidfd = os.pidfd_open(_peer(connection) if pid is None else pid)
        self._told = NetworkPicture()
        self._is_first = True
        self._revision = 0
        self._lock = asyncio.Lock()
        self._applied: dict[int, asyncio.Future[None]] = {}
        self._counts: asyncio.Future[control.Counts] | None = None
        self.ended = asyncio.Event()
        self._reading: asyncio.Task[None] | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def open(self) -> None:
        """Raises OSError."""
        reader, self._writer = await asyncio.open_unix_connection(sock=self._socket)
        self._reading = asyncio.create_task(self._read(reader), name="name server")

    async def bring(self, picture: NetworkPicture) -> None:
        """Return once the server answers by this picture. Raises ConnectionLost."""
        async with self._lock:
            if picture is self._told:
                return
            pieces = changes(self._told, picture) or ([Change()] if self._is_first else [])
            if pieces:
                await self._tell(pieces)
            self._told, self._is_first = picture, False

    async def _tell(self, pieces: list[Change]) -> None:
        self._revision += 1
        revision = self._revision
        applied: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._applied[revision] = applied
        last = len(pieces) - 1
        try:
            async with asyncio.timeout(ANSWER_S):
                for number, piece in enumerate(pieces):
                    is_first = self._is_first and number == 0
                    await self._write(control.Tell(piece, is_first, number == last, revision))
                await applied
        except TimeoutError as error:
            self.kill()
            raise ConnectionLost(f"the name server hangs: silent for {ANSWER_S:g} s") from error
        finally:
            del self._applied[revision]
            if not applied.done() or applied.cancelled():
                # What the server has of it is not known: the next connection begins anew.
                self._hang_up()

    async def counts(self) -> control.Counts:
        """Raises ConnectionLost; a server that hangs is killed."""
        if self._counts is None:
            self._counts = asyncio.get_running_loop().create_future()
            await self._write(control.Ask())
        try:
            async with asyncio.timeout(ANSWER_S):
                return await asyncio.shield(self._counts)
        except TimeoutError as error:
            self.kill()
            raise ConnectionLost(f"the name server hangs: silent for {ANSWER_S:g} s") from error

    async def end(self) -> None:
        """Tell it to end, and wait until it did; kill it when it does not."""
        try:
            await self._write(control.End())
            async with asyncio.timeout(ANSWER_S):
                await self._exit()
        except (ConnectionLost, TimeoutError):
            self.kill()

    async def _exit(self) -> None:
        """Return once the process has ended: its descriptor is readable then (pidfd_open(2))."""
        loop = asyncio.get_running_loop()
        exited = asyncio.Event()
        pidfd = os.dup(self._pidfd)  # the connection may be closed meanwhile, for it ended first
        loop.add_reader(pidfd, exited.set)
        try:
            await exited.wait()
        finally:
            loop.remove_reader(pidfd)
            os.close(pidfd)

    def kill(self) -> None:
        try:
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        except ProcessLookupError:
            return

    async def close(self) -> None:
        self._hang_up()
        if self._reading is not None:
            await self._reading
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1

    def _hang_up(self) -> None:
        if self._writer is not None:
            self._writer.transport.abort()
        else:
            self._socket.close()

    async def _write(self, message: control.FromAgent) -> None:
        if self._writer is None or self.ended.is_set():
            raise ConnectionLost("the name server ended")
        try:
            await link.write(self._writer, message)
        except OSError as error:
            raise ConnectionLost(f"the name server ended: {error.strerror}") from error

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while True:
                match control.from_server(await link.read_frame(reader)):
                    case control.Applied(revision):
                        applied = self._applied.get(revision)
                        if applied is not None and not applied.done():
                            applied.set_result(None)
                    case control.Counts() as counts:
                        if self._counts is not None and not self._counts.done():
                            self._counts.set_result(counts)
                        self._counts = None
        except (OSError, asyncio.IncompleteReadError, MalformedMessage):
            pass
        finally:
            self._lose()

    def _lose(self) -> None:
        self.ended.set()
        lost = ConnectionLost("the name server ended")
        for future in (*self._applied.values(), self._counts):
            if future is not None and not future.done():
                future.set_exception(lost)
                future.exception()  # whoever waited for it may have gone


def _peer(connection: socket.socket) -> int:
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid: int = _CREDENTIALS.unpack(credentials)[0]
    return pid
