"""Connections over TLS: much at once, and protocols that do what asyncio's own does not expect."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.identities import Identities

from essaim_shared.clock import SystemClock, wait_until
from essaim_shared.trust.tls import Tls
from essaim_shared.trust.tls_protocol import RECORD_BYTES_MAX, connect_to_master
from essaim_shared.trust.tls_server import listen

CLOCK = SystemClock()
WAIT_S = 10.0
PASSES = 20
"""Turns of the event loop in which what was sent on loopback has surely arrived."""
LARGE = 40 * RECORD_BYTES_MAX + 7


class End(asyncio.Protocol):
    """One end: what it was told, and what happened to it."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.heard = bytearray()
        self.events: list[str] = []
        self.aborts_on = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.events.append("made")

    def data_received(self, data: bytes) -> None:
        self.heard += data
        if self.aborts_on and self.aborts_on in self.heard and self.transport is not None:
            self.transport.abort()

    def pause_writing(self) -> None:
        self.events.append("paused")

    def resume_writing(self) -> None:
        self.events.append("resumed")

    def connection_lost(self, exc: Exception | None) -> None:
        self.events.append("lost")


class Line:
    """A server's end and a client's."""

    def __init__(self, tls: Tls) -> None:
        self.tls = tls
        self.server, self.client = End(), End()
        self.loose: list[object] = []

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda loop, context: self.loose.append(context))
        bound = socket.create_server(("127.0.0.1", 0))
        context = self.tls.server(wants_certificate=True)
        async with await listen(lambda: self.server, bound, context, 10):
            await connect_to_master(self.client, *bound.getsockname(), self.tls.client)
            assert await wait_until(lambda: self.server.events == ["made"], CLOCK, WAIT_S)
            yield
            for end in (self.client, self.server):
                assert end.transport is not None
                end.transport.abort()
            assert await wait_until(self._is_over, CLOCK, WAIT_S)
        assert not self.loose

    def _is_over(self) -> bool:
        return all(end.events[-1] == "lost" for end in (self.client, self.server))


@pytest.fixture
def line(tmp_path: Path) -> Line:
    return Line(Identities(tmp_path, CLOCK.wall_ns()).tls("m1"))


@pytest.mark.parametrize("size", [1, RECORD_BYTES_MAX, RECORD_BYTES_MAX + 1, LARGE])
async def test_what_is_written_arrives_whole_in_both_directions(line: Line, size: int) -> None:
    sent = bytes(range(256)) * (size // 256) + bytes(size % 256)
    async with line.open():
        for one, other in ((line.client, line.server), (line.server, line.client)):
            assert one.transport is not None
            one.transport.writelines([sent[: size // 2], sent[size // 2 :]])
            one.transport.write(b"end")
            assert await wait_until(lambda: other.heard.endswith(b"end"), CLOCK, WAIT_S)  # noqa: B023
            assert other.heard == sent + b"end"


async def test_two_connections_that_share_the_buffer_do_not_mix(tmp_path: Path) -> None:
    tls = Identities(tmp_path, CLOCK.wall_ns()).tls("m1")
    lines = [Line(tls), Line(tls)]
    async with lines[0].open(), lines[1].open():
        for number, one in enumerate(lines):
            assert one.client.transport is not None
            one.client.transport.write(bytes([number]) * LARGE)
        for number, one in enumerate(lines):
            heard = one.server.heard
            assert await wait_until(lambda: len(heard) == LARGE, CLOCK, WAIT_S)  # noqa: B023
            assert heard == bytes([number]) * LARGE


async def test_who_writes_to_one_that_does_not_read_is_paused_and_goes_on(line: Line) -> None:
    async with line.open():
        reading, writing = line.server.transport, line.client.transport
        assert reading is not None
        assert writing is not None
        reading.pause_reading()
        sent = 0
        while "paused" not in line.client.events:
            writing.write(bytes(LARGE))
            sent += LARGE
            await asyncio.sleep(0)
        reading.resume_reading()
        assert await wait_until(lambda: len(line.server.heard) == sent, CLOCK, WAIT_S)
        assert line.client.events == ["made", "paused", "resumed"]


async def test_one_that_aborts_over_the_last_words_of_the_other_breaks_nothing(line: Line) -> None:
    """The words come with the end of the connection, while nobody reads."""
    async with line.open():
        reading, writing = line.server.transport, line.client.transport
        assert reading is not None
        assert writing is not None
        line.server.aborts_on = b"nonsense"
        reading.pause_reading()
        writing.write(b"nonsense")
        writing.close()
        writing.get_extra_info("socket").shutdown(socket.SHUT_WR)
        for _ in range(PASSES):
            await asyncio.sleep(0)
        reading.resume_reading()
        assert await wait_until(lambda: line.server.events[-1] == "lost", CLOCK, WAIT_S)
