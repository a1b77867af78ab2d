"""Questions about the world outside, put to the name servers of this host, or to those that the
user named for the task.

A question goes out as it came, with an id drawn anew and from a port drawn by the kernel, so that
nobody who did not see it can answer it. The servers are asked in their order, those that were
silent lately last; one that cannot answer (SERVFAIL and the like) is followed by the next. Nothing
is kept: the host's name servers do that. The same question asked twice at a time is put once,
and so a server that asks us again what we ask it makes no loop.
"""

import asyncio
import logging
import random
from collections.abc import Callable
from pathlib import Path
from typing import Final

from essaim_agent.dns.resolv_conf import name_servers
from essaim_agent.dns.wire import (
    FORMERR,
    ID_BYTES,
    NOTIMP,
    REFUSED,
    SERVFAIL,
    TCP_BYTES_MAX,
    code_of,
    is_answer_to,
    pack_error,
    read_query,
)
from essaim_shared.clock import Clock
from essaim_shared.log import fields

_log = logging.getLogger(__name__)

RESOLV_CONF: Final = Path("/etc/resolv.conf")
RESOLV_CONF_BYTES_MAX: Final = 64 * 1024
LOOK_PERIOD_S: Final = 1.0
"""How often at most the file is looked at."""
PORT: Final = 53

OUTSTANDING_MAX: Final = 256
"""Questions under way; each holds a socket."""
OUTSTANDING_PER_SOURCE_MAX: Final = 64
"""One task whose names nobody answers leaves room for the others."""
ASKING_MAX: Final = 32
"""Who wait for the same question."""
ROUNDS: Final = 2
TRY_S: Final = 1.5
"""For one server once. A resolver in a container waits for five seconds, most of them."""
WHOLE_S: Final = 4.5
SUSPECT_S: Final = 10.0
"""So long a server that was silent is asked last."""
SUSPECTS_MAX: Final = 256
"""Tasks can have servers of their own; one more, and all are trusted again."""

_NO_ANSWER: Final = (FORMERR, SERVFAIL, NOTIMP, REFUSED)
_UNREADABLE_TEXT: Final = "replace"

Reply = Callable[[bytes], None]
_Key = tuple[bool, tuple[str, ...], bytes]
"""Over TCP; the task's own servers; the question without its id."""


class Forwarder:
    def __init__(
        self,
        clock: Clock,
        rng: random.Random,
        resolv_conf: Path = RESOLV_CONF,
        port: int = PORT,
        try_s: float = TRY_S,
        whole_s: float = WHOLE_S,
    ) -> None:
        """`rng` draws the ids: nobody must be able to guess them."""
        self._try_s, self._whole_s = try_s, whole_s
        self._clock, self._rng = clock, rng
        self._path, self._port = resolv_conf, port
        self._servers: tuple[str, ...] = ()
        self._seen: tuple[int, int, int] | None = None
        self._looked_s = float("-inf")
        self._silent_s: dict[str, float] = {}
        self._asking: dict[_Key, list[tuple[str, bytes, Reply]]] = {}
        self._per_source: dict[str, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.forwarded = 0
        self.failed = 0

    def ask(
        self,
        source: str,
        data: bytes,
        is_tcp: bool,
        reply: Reply,
        servers: tuple[str, ...] = (),
    ) -> None:
        """Have `reply` called once with the whole answer: at once, or within `whole_s`. Of
        `servers` if there are any, else of the host's."""
        key = (is_tcp, servers, data[ID_BYTES:])
        asking = self._asking.get(key)
        mine = (source, data[:ID_BYTES], reply)
        if self._per_source.get(source, 0) >= OUTSTANDING_PER_SOURCE_MAX:
            self._fail(data, reply)
        elif asking is not None:
            if len(asking) < ASKING_MAX:
                asking.append(mine)
                self._count(source, 1)
        elif len(self._asking) >= OUTSTANDING_MAX or not (servers or self._present_servers()):
            self._fail(data, reply)
        else:
            self._asking[key] = [mine]
            self._count(source, 1)
            task = asyncio.create_task(self._follow(key, data), name="forward")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _fail(self, data: bytes, reply: Reply) -> None:
        self.failed += 1
        reply(data[:ID_BYTES] + pack_error(read_query(data), SERVFAIL))

    def _count(self, source: str, by: int) -> None:
        count = self._per_source.get(source, 0) + by
        if count:
            self._per_source[source] = count
        else:
            self._per_source.pop(source, None)

    async def _follow(self, key: _Key, data: bytes) -> None:
        answer: bytes | None = None
        try:
            answer = await self._answer(data, is_tcp=key[0], servers=key[1])
        finally:
            asking = self._asking.pop(key)
            for source, _, _ in asking:
                self._count(source, -1)
        if answer is None:
            self.failed += 1
            answer = data[:ID_BYTES] + pack_error(read_query(data), SERVFAIL)
        else:
            self.forwarded += 1
        for _, id_bytes, reply in asking:
            reply(id_bytes + answer[ID_BYTES:])

    async def _answer(self, data: bytes, is_tcp: bool, servers: tuple[str, ...]) -> bytes | None:
        last: bytes | None = None
        deadline_s = self._clock.monotonic_s() + self._whole_s
        for _ in range(ROUNDS):
            for server in self._in_order(servers or self._servers):
                left_s = deadline_s - self._clock.monotonic_s()
                if left_s <= 0:
                    return last
                answer = await self._ask_one(server, data, is_tcp, min(self._try_s, left_s))
                if answer is not None and code_of(answer) not in _NO_ANSWER:
                    return answer
                last = answer or last
            if last is not None:
                return last  # they answer, and asking again does not change it
        return None

    def _in_order(self, servers: tuple[str, ...]) -> list[str]:
        now_s = self._clock.monotonic_s()
        suspects = {server for server, s in self._silent_s.items() if now_s - s < SUSPECT_S}
        return sorted(servers, key=suspects.__contains__)

    async def _ask_one(
        self, server: str, data: bytes, is_tcp: bool, timeout_s: float
    ) -> bytes | None:
        id_bytes = self._rng.getrandbits(16).to_bytes(ID_BYTES, "big")
        question = id_bytes + data[ID_BYTES:]
        try:
            async with asyncio.timeout(timeout_s):
                exchange = _over_tcp if is_tcp else _over_udp
                answer = await exchange(server, self._port, question)
        except (OSError, asyncio.IncompleteReadError, TimeoutError):
            if len(self._silent_s) >= SUSPECTS_MAX:
                self._silent_s.clear()
            self._silent_s[server] = self._clock.monotonic_s()
            return None
        self._silent_s.pop(server, None)
        return answer

    def _present_servers(self) -> tuple[str, ...]:
        """Of the file, read again when it is another one."""
        now_s = self._clock.monotonic_s()
        if now_s - self._looked_s < LOOK_PERIOD_S:
            return self._servers
        self._looked_s = now_s
        try:
            status = self._path.stat()
            seen = (status.st_ino, status.st_mtime_ns, status.st_size)
            if seen != self._seen:
                with self._path.open("rb") as file:
                    text = file.read(RESOLV_CONF_BYTES_MAX).decode("utf-8", _UNREADABLE_TEXT)
                self._seen, self._servers = seen, name_servers(text)
                _log.info("asks %s", fields(servers=" ".join(self._servers) or "nobody"))
        except OSError as error:
            self._seen, self._servers = None, ()
            _log.warning("no name servers %s", fields(file=self._path, reason=error.strerror))
        return self._servers


class _Exchange(asyncio.DatagramProtocol):
    """One question over UDP; others' datagrams are not listened to, the socket is connected."""

    def __init__(self, question: bytes) -> None:
        self._question = question
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, addr: object) -> None:
        if not self.answer.done() and is_answer_to(self._question, self._question[:ID_BYTES], data):
            self.answer.set_result(data)

    def error_received(self, exc: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(exc)


async def _over_udp(server: str, port: int, question: bytes) -> bytes:
    transport, exchange = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: _Exchange(question), remote_addr=(server, port)
    )
    try:
        transport.sendto(question)
        return await exchange.answer
    finally:
        transport.close()
        exchange.answer.cancel()


async def _over_tcp(server: str, port: int, question: bytes) -> bytes:
    """Raises OSError or IncompleteReadError."""
    reader, writer = await asyncio.open_connection(server, port, limit=TCP_BYTES_MAX + 2)
    try:
        writer.write(len(question).to_bytes(2, "big") + question)
        length = int.from_bytes(await reader.readexactly(2), "big")
        answer = await reader.readexactly(length)
    finally:
        writer.transport.abort()
    if not is_answer_to(question, question[:ID_BYTES], answer):
        raise ConnectionError(f"{server} answered something else")
    return answer
