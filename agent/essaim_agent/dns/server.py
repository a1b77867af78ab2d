"""The name server's process: sockets, and nothing decided.

Tasks are heard on two sockets that an agent made; agents on a socket in the run directory, each
for as long as it lives. Without an agent everything goes on with the table that the last one told.
"""

import asyncio
import contextlib
import fcntl
import logging
import os
import random
import socket
from pathlib import Path
from typing import Final

from essaim_agent.dns import control, link
from essaim_agent.dns.answers import OUTSIDE, PERIOD_S, Answers
from essaim_agent.dns.forwarder import Forwarder
from essaim_agent.dns.table import Table
from essaim_agent.dns.tcp_clients import TcpClients
from essaim_agent.dns.wire import QUERY_BYTES_MAX
from essaim_shared.clock import Clock
from essaim_shared.errors import ConfigError, MalformedMessage
from essaim_shared.log import fields

_log = logging.getLogger(__name__)

QUESTIONS_PER_TURN: Final = 64
"""Taken from the socket before others of this process have their turn."""
LOOK_PERIOD_S: Final = 5.0
GONE_S: Final = 30.0
"""A server whose run directory has been gone for so long belongs to nobody."""
AGENTS_MAX: Final = 4
"""Connections: the last one's table counts, and an agent has one."""


class Server:
    def __init__(
        self,
        run_dir: Path,
        udp: socket.socket,
        tcp: socket.socket,
        clock: Clock,
        rng: random.Random,
        resolv_conf: Path,
    ) -> None:
        self._directory = run_dir
        self._udp, self._tcp = udp, tcp
        self._clock = clock
        self._answers = Answers(rng)
        self._forwarder = Forwarder(clock, rng, resolv_conf)
        self._clients = TcpClients(self._answer_over_tcp)
        self._period_ends_s = float("-inf")
        self._agents: set[asyncio.Task[None]] = set()
        self._end = asyncio.Event()
        self._is_told = asyncio.Event()
        """There is a table. Before that questions wait in the sockets: they may be those of tasks
        whose server has just died."""
        self._lock = -1

    async def run(self, first: socket.socket | None) -> None:
        """Until an agent says so, or the run directory has gone. `first` is the connection of
        the agent that started this process. Raises ConfigError."""
        self._take_lock()
        loop = asyncio.get_running_loop()
        listener = self._listen()
        works = [
            loop.create_task(self._hear_tasks(), name="tasks"),
            loop.create_task(self._hear_agents(listener), name="agents"),
            loop.create_task(self._watch_directory(), name="directory"),
            loop.create_task(self._end.wait(), name="end"),
        ]
        if first is not None:
            self._meet(first, ())
        _log.info("answers %s", fields(port=self._udp.getsockname()[1], build=link.build_id()))
        try:
            done, _ = await asyncio.wait(works, return_when=asyncio.FIRST_COMPLETED)
            for work in done:
                work.result()
        finally:
            for task in (*works, *self._agents):
                task.cancel()
            await asyncio.gather(*works, *self._agents, return_exceptions=True)
            await self._forwarder.close()
            listener.close()
        _log.info("ended")

    def _take_lock(self) -> None:
        path = self._directory / link.LOCK
        try:
            self._lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(f"{path} is held: a name server runs here already") from error
        except OSError as error:
            raise ConfigError(f"{path} cannot be used: {error.strerror}") from error
        os.truncate(self._lock, 0)
        os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)

    def _listen(self) -> socket.socket:
        """Raises ConfigError."""
        path = self._directory / link.SOCKET
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        mask = os.umask(0o177)
        try:
            path.unlink(missing_ok=True)
            listener.bind(str(path))
        except OSError as error:
            listener.close()
            raise ConfigError(f"cannot listen on {path}: {error}") from error
        finally:
            os.umask(mask)
        listener.setblocking(False)
        listener.listen(AGENTS_MAX)
        return listener

    # Tasks.

    async def _hear_tasks(self) -> None:
        await self._is_told.wait()
        loop = asyncio.get_running_loop()
        clients = await asyncio.start_server(
            self._clients.serve, sock=self._tcp, limit=QUERY_BYTES_MAX + 2
        )
        loop.add_reader(self._udp, self._hear_udp)
        try:
            await self._end.wait()
        finally:
            loop.remove_reader(self._udp)
            clients.close()

    def _hear_udp(self) -> None:
        receive, send, answer = self._udp.recvfrom, self._udp.sendto, self._answers.over_udp
        self._turn_period()
        for _ in range(QUESTIONS_PER_TURN):
            try:
                data, address = receive(QUERY_BYTES_MAX + 1)
            except BlockingIOError:
                return
            except OSError as error:
                _log.warning("a question was lost %s", fields(reason=error.strerror))
                return
            reply = answer(address[0], data)
            if reply is None:
                continue
            if reply == OUTSIDE:
                self._forward_udp(data, address)
                continue
            try:
                send(reply, address)
            except OSError:
                self._answers.dropped += 1  # the task is gone, or takes nothing

    def _turn_period(self) -> None:
        now_s = self._clock.monotonic_s()
        if now_s >= self._period_ends_s:
            self._answers.begin_period()
            self._period_ends_s = now_s + PERIOD_S

    def _forward_udp(self, data: bytes, address: tuple[str, int]) -> None:
        def reply(answer: bytes) -> None:
            with contextlib.suppress(OSError):
                self._udp.sendto(answer, address)

        servers = self._answers.table.servers.get(address[0], ())
        self._forwarder.ask(address[0], data, is_tcp=False, reply=reply, servers=servers)

    async def _answer_over_tcp(self, source: str, data: bytes) -> bytes | None:
        self._turn_period()
        answer = self._answers.over_tcp(source, data)
        if answer != OUTSIDE:
            return answer
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        def reply(whole: bytes) -> None:
            if not future.done():
                future.set_result(whole)

        servers = self._answers.table.servers.get(source, ())
        self._forwarder.ask(source, data, is_tcp=True, reply=reply, servers=servers)
        return await future

    # Agents.

    async def _hear_agents(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            connection, _ = await loop.sock_accept(listener)
            connection.setblocking(False)
            if len(self._agents) >= AGENTS_MAX:
                connection.close()
                continue
            self._meet(connection, (self._udp.fileno(), self._tcp.fileno()))

    def _meet(self, connection: socket.socket, sockets: tuple[int, ...]) -> None:
        hello = control.Hello(link.build_id(), self._udp.getsockname()[1])
        try:
            link.send_hello(connection, hello, sockets)
        except OSError:
            connection.close()
            return
        task = asyncio.create_task(self._obey(connection), name="agent")
        self._agents.add(task)
        task.add_done_callback(self._agents.discard)

    async def _obey(self, connection: socket.socket) -> None:
        reader, writer = await asyncio.open_unix_connection(sock=connection)
        table: Table | None = None
        """A new one that is being told, and not yet whole."""
        try:
            while not self._end.is_set():
                match control.from_agent(await link.read_frame(reader)):
                    case control.Tell() as told:
                        table = self._take(told, table)
                        if told.is_last:
                            await link.write(writer, control.Applied(told.revision))
                    case control.Ask():
                        await link.write(writer, self._counts())
                    case control.End():
                        self._end.set()
        except (OSError, asyncio.IncompleteReadError):
            _log.info("an agent left")
        except MalformedMessage as error:
            _log.error("an agent is not understood %s", fields(reason=error))
        finally:
            writer.transport.abort()

    def _take(self, told: control.Tell, table: Table | None) -> Table | None:
        if told.is_first:
            table = Table()
        if table is None:
            self._answers.apply(told.change)
            return None
        table.apply(told.change)
        if not told.is_last:
            return table
        self._answers.replace(table)
        self._is_told.set()
        return None

    def _counts(self) -> control.Counts:
        answers, forwarder = self._answers, self._forwarder
        return control.Counts(
            answered=answers.answered,
            forwarded=forwarder.forwarded,
            refused=answers.refused,
            dropped=answers.dropped + self._clients.turned_away,
            failed=forwarder.failed,
            facts=answers.table.facts,
        )

    async def _watch_directory(self) -> None:
        """Return once the lock in the run directory has been another file, or none, for long."""
        own, gone_s = os.fstat(self._lock).st_ino, 0.0
        while gone_s < GONE_S:
            await self._clock.sleep(LOOK_PERIOD_S)
            gone_s = 0.0 if _inode(self._directory / link.LOCK) == own else gone_s + LOOK_PERIOD_S
        _log.warning("the run directory is gone %s", fields(path=self._directory))


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except OSError:
        return 0
