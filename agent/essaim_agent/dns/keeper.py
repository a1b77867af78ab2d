"""Keeps the node's name server running, and tells it the names.

The server outlives the agent. One that runs already is taken over if it is of our build and port;
otherwise it is ended and another one started, on the same sockets, so that no question is lost in
between. When it dies it is started again, at once at first.
"""

import asyncio
import contextlib
import fcntl
import logging
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Literal

from essaim_agent.dns import DNS_PORT_DEFAULT, control, link
from essaim_agent.dns.connection import Connection, ConnectionLost
from essaim_agent.dns.link import listening_sockets
from essaim_agent.network import NetworkError, NetworkPicture
from essaim_shared.backoff import backoff_s
from essaim_shared.clock import Clock, pause, wait_until
from essaim_shared.errors import MalformedMessage
from essaim_shared.log import fields, goes_to_journal

_log = logging.getLogger(__name__)

UPDATE_S: Final = 6.0
"""For a change of the table, a start of the server included."""
GREETING_S: Final = 1.0
START_S: Final = 10.0
"""On a machine that does much else; it takes a fifth of a second."""
LOOK_PERIOD_S: Final = 2.0
"""Between two questions how the server is."""
RETRY_FIRST_S: Final = 0.1
RETRY_MOST_S: Final = 5.0
STEADY_S: Final = 10.0
"""A server that ran for so long is started again at once when it ends."""
LOCK_WAIT_S: Final = 2.0
LOG_BYTES_MAX: Final = 1024 * 1024
"""A longer log is begun anew with the next start."""
LOG_TAIL_BYTES: Final = 2048


class NameServer:
    """`start`, then `update` with each picture. `close` leaves the server running."""

    def __init__(
        self,
        run_dir: Path,
        clock: Clock,
        rng: random.Random,
        port: int = DNS_PORT_DEFAULT,
        launcher: Sequence[str] = (),
        options: Sequence[str] = (),
        make_sockets: Callable[[int], tuple[socket.socket, socket.socket]] = listening_sockets,
    ) -> None:
        """`launcher` is a command before the server's, `options` are more words behind it;
        `make_sockets` makes those for the tasks, where not in this process's own namespace."""
        self._make_sockets = make_sockets
        self._directory, self._port = run_dir, port
        self._clock, self._rng = clock, rng
        self.build = link.build_id()
        self._launcher, self._options = tuple(launcher), tuple(options)
        self._sockets: tuple[socket.socket, ...] = ()
        self._child: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._wanted: NetworkPicture | None = None
        self._problem = "the name server has not been started"
        self._settled = asyncio.Event()
        """Set while there is a connection, or a reason why there is none."""
        self._is_wanted = True
        self._keeping: asyncio.Task[None] | None = None
        self._counts = control.Counts()
        self.starts = 0
        """Processes that this agent started."""

    async def start(self) -> None:
        """Begin to keep a server; it may not run yet on return."""
        self._keeping = asyncio.create_task(self._keep(), name="name server")

    async def close(self) -> None:
        await self._stop_keeping()
        if self._child is not None and self._child.poll() is None:
            # It runs on without us. Say so to `subprocess`, which would warn of a child that was
            # never waited for.
            self._child.returncode = 0
        self._child = None
        self._close_sockets()

    async def _stop_keeping(self) -> None:
        if self._keeping is not None:
            self._keeping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeping
            self._keeping = None

    async def end(self) -> None:
        """End the server too."""
        self._is_wanted = False
        if self._connection is not None:
            await self._connection.end()
        await self._stop_keeping()
        self._kill_child()
        await self.close()

    async def update(self, picture: NetworkPicture) -> None:
        """Return once names are answered by this picture. Raises NetworkError."""
        self._wanted = picture
        try:
            async with asyncio.timeout(UPDATE_S):
                while not await self._bring(picture):
                    continue
        except TimeoutError as error:
            raise NetworkError(self._problem or "the name server does not answer") from error

    async def _bring(self, picture: NetworkPicture) -> bool:
        """Whether it was brought to a server; False when that one ended."""
        await self._settled.wait()
        connection = self._connection
        if connection is None:
            raise NetworkError(self._problem)
        try:
            await connection.bring(picture)
        except ConnectionLost:
            if connection is self._connection:
                self._lost()
            return False
        return True

    @property
    def is_alive(self) -> bool:
        return self._connection is not None

    @property
    def counts(self) -> control.Counts:
        """As the server said within the last LOOK_PERIOD_S; since it started."""
        return self._counts

    @property
    def answers(self) -> int:
        """Names of the cluster and of the world outside that it told, since it started."""
        return self._counts.answered + self._counts.forwarded

    @property
    def problems(self) -> tuple[str, ...]:
        """What is wrong now, in words."""
        return () if self.is_alive else (self._problem or "the name server does not run",)

    # The life of the server.

    async def _keep(self) -> None:
        attempt = 0
        try:
            while self._is_wanted:
                began_s = self._clock.monotonic_s()
                await self._keep_one()
                attempt = 0 if self._clock.monotonic_s() - began_s >= STEADY_S else attempt + 1
                if attempt > 1:
                    await self._clock.sleep(
                        backoff_s(attempt - 1, self._rng, RETRY_FIRST_S, RETRY_MOST_S)
                    )
        finally:
            self._lost()

    async def _keep_one(self) -> None:
        """Find or start a server, and return when it has ended."""
        self._settled.clear()
        connection: Connection | None = None
        was_up = False
        try:
            connection = await self._connect()
            if self._wanted is not None:  # before that, one that was found answers as it did
                await connection.bring(self._wanted)
            self._connection, self._problem, was_up = connection, "", True
            self._settled.set()
            await self._look_after(connection)
            raise ConnectionLost("the name server ended")
        except NetworkError as error:
            self._problem = str(error)
            if self._is_wanted:
                _log.warning("no name server %s", fields(reason=error))
        finally:
            if connection is not None:
                await connection.close()
        self._lost()
        if not was_up:
            self._settled.set()

    def _lost(self) -> None:
        """Who wants something from now on waits for the next server, or the reason of its
        failure."""
        self._connection = None
        self._settled.clear()

    async def _look_after(self, connection: Connection) -> None:
        """Raises ConnectionLost."""
        while not connection.ended.is_set():
            self._counts = await connection.counts()
            await pause(self._clock, LOOK_PERIOD_S, connection.ended)

    async def _connect(self) -> Connection:
        """Raises NetworkError."""
        connection = await self._adopt()
        return connection if connection is not None else await self._launch()

    async def _adopt(self) -> Connection | None:
        """The server that runs, if it is one of ours; one that is not has ended on return."""
        found = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        found.setblocking(False)
        with contextlib.ExitStack() as stack:
            stack.callback(found.close)
            try:
                async with asyncio.timeout(GREETING_S):
                    await asyncio.get_running_loop().sock_connect(
                        found, str(self._directory / link.SOCKET)
                    )
                    hello, sockets = await link.receive_hello(found)
                connection = Connection(found, hello)
                await connection.open()
            except (OSError, TimeoutError, MalformedMessage):
                await self._free_lock()
                return None
            stack.pop_all()
        if hello.port == self._port and len(sockets) == 2:
            self._close_sockets()
            self._sockets = sockets
        else:
            _close(sockets)
        if (hello.build, hello.port) == (self.build, self._port) and len(sockets) == 2:
            _log.info("took the name server over %s", fields(port=hello.port))
            return connection
        _log.info("ends another name server %s", fields(build=hello.build, port=hello.port))
        await connection.end()
        await connection.close()
        await self._free_lock()
        return None

    async def _free_lock(self) -> None:
        """Return once no server has the run directory. One that ends is waited for, one that does
        not answer killed. Raises NetworkError."""
        path = self._directory / link.LOCK
        try:
            lock = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        except OSError as error:
            raise NetworkError(f"{path} cannot be used: {error.strerror}") from error
        try:
            if await wait_until(lambda: _is_free(lock), self._clock, LOCK_WAIT_S):
                return
            holder = os.pread(lock, 20, 0).strip()
            _log.warning("kills a name server that does not answer %s", fields(pid=holder.decode()))
            _kill_server(holder)
            if not await wait_until(lambda: _is_free(lock), self._clock, LOCK_WAIT_S):
                raise NetworkError(f"{path} is held by a process that is no name server of ours")
        finally:
            os.close(lock)

    async def _launch(self) -> Connection:
        """Raises NetworkError."""
        self._kill_child()  # it has let go of the lock: what is left of it is on its way out
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        mine.setblocking(False)
        with contextlib.ExitStack() as stack:
            stack.callback(mine.close)
            with theirs:
                self._child = self._spawn(theirs.fileno())
            self.starts += 1
            try:
                async with asyncio.timeout(START_S):
                    hello, _ = await link.receive_hello(mine)
                connection = Connection(mine, hello, self._child.pid)
                await connection.open()
            except (OSError, TimeoutError, MalformedMessage) as error:
                self._kill_child()
                reason = self._last_words() or str(error) or f"silent for {START_S:g} s"
                raise NetworkError(f"the name server does not start: {reason}") from error
            stack.pop_all()
        return connection

    def _spawn(self, agent: int) -> "subprocess.Popen[bytes]":
        """Raises NetworkError, in its own words when another process has the port."""
        if not self._sockets:
            try:
                self._sockets = self._make_sockets(self._port)
            except OSError as error:
                raise NetworkError(
                    f"the name server cannot have port {self._port}: {error.strerror}; "
                    "give it another with overlay.dns_port"
                ) from error
        udp, tcp = (each.fileno() for each in self._sockets)
        command = [
            *(*self._launcher, sys.executable, "-m", "essaim_agent.dns"),
            *("--run-dir", str(self._directory), "--udp", str(udp), "--tcp", str(tcp)),
            *("--agent", str(agent), *self._options),
        ]
        with contextlib.ExitStack() as files:
            output = None
            try:
                if not goes_to_journal(os.environ, sys.stderr):
                    output = files.enter_context(self._log_path.open(self._log_mode()))
                return subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    cwd="/",
                    start_new_session=True,
                    pass_fds=(udp, tcp, agent),
                )
            except OSError as error:
                raise NetworkError(f"the name server cannot be started: {error}") from error

    @property
    def _log_path(self) -> Path:
        return self._directory / link.LOG

    def _log_mode(self) -> Literal["ab", "wb"]:
        path = self._log_path
        return "wb" if path.exists() and path.stat().st_size > LOG_BYTES_MAX else "ab"

    def _last_words(self) -> str:
        try:
            with self._log_path.open("rb") as file:
                file.seek(max(0, self._log_path.stat().st_size - LOG_TAIL_BYTES))
                lines = file.read().decode("utf-8", "replace").split("\n")
        except OSError:
            return ""
        return next((line for line in reversed(lines) if line), "")

    def _kill_child(self) -> None:
        if self._child is not None and self._child.poll() is None:
            self._child.kill()
            self._child.wait()

    def _close_sockets(self) -> None:
        _close(self._sockets)
        self._sockets = ()


def _close(sockets: Sequence[socket.socket]) -> None:
    for each in sockets:
        each.close()


def _is_free(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    fcntl.flock(lock, fcntl.LOCK_UN)
    return True


def _kill_server(pid: bytes) -> None:
    """Kill the process, if it is a name server: numbers are used again."""
    try:
        pidfd = os.pidfd_open(int(pid))
    except (ValueError, OSError):
        return
    try:
        if b"essaim_agent.dns" in Path(f"/proc/{int(pid)}/cmdline").read_bytes():
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except OSError:
        return
    finally:
        os.close(pidfd)
