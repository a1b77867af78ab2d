"""Tasks that ask over TCP, because an answer was cut or because they always do.

A client that is slow, to write as to read, is left alone after some seconds; one source has some
connections, and all have a number that leaves room for the rest of the process.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Final

from essaim_agent.dns.wire import QUERY_BYTES_MAX

CLIENTS_MAX: Final = 128
CLIENTS_PER_SOURCE_MAX: Final = 16
IDLE_S: Final = 5.0
"""For a whole question to come; a little more than one that is asked outside takes."""
WRITE_S: Final = 5.0
QUESTIONS_MAX: Final = 1_000
"""On one connection."""

Answering = Callable[[str, bytes], Awaitable[bytes | None]]


class TcpClients:
    def __init__(self, answer: Answering) -> None:
        """`answer` takes the source and its question; None ends the connection."""
        self._answer = answer
        self._per_source: dict[str, int] = {}
        self.count = 0
        self.turned_away = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = writer.get_extra_info("peername")
        source = str(peer[0]) if peer else ""
        mine = self._per_source.get(source, 0)
        if self.count >= CLIENTS_MAX or mine >= CLIENTS_PER_SOURCE_MAX:
            self.turned_away += 1
            writer.transport.abort()
            return
        self.count += 1
        self._per_source[source] = mine + 1
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
                await self._converse(source, reader, writer)
        finally:
            writer.transport.abort()
            self.count -= 1
            left = self._per_source[source] - 1
            if left:
                self._per_source[source] = left
            else:
                del self._per_source[source]

    async def _converse(
        self, source: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        for _ in range(QUESTIONS_MAX):
            async with asyncio.timeout(IDLE_S):
                length = int.from_bytes(await reader.readexactly(2), "big")
                if not 0 < length <= QUERY_BYTES_MAX:
                    return
                question = await reader.readexactly(length)
            answer = await self._answer(source, question)
            if answer is None:
                return
            writer.write(len(answer).to_bytes(2, "big") + answer)
            async with asyncio.timeout(WRITE_S):
                await writer.drain()
