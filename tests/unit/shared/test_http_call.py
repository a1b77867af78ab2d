"""One request to a master that may answer anything."""

import asyncio
import contextlib

import pytest

from essaim_shared.errors import ConfigError, OutcomeUnknown
from essaim_shared.http_call import call, split_address

TIMEOUT_S = 5.0


async def answered(content: bytes) -> tuple[int, bytes]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(content)
            await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        return await call(f"127.0.0.1:{port}", "GET", "/", timeout_s=TIMEOUT_S)


async def test_an_answer_is_its_status_and_its_body() -> None:
    assert await answered(b"HTTP/1.1 404 No\r\ncontent-length: 2\r\n\r\nno") == (404, b"no")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\r\n\r\n",
        b"HTTP/1.1\r\n\r\n",
        b"HTTP/1.1 2x0 OK\r\n\r\n",
        b"HTTP/1.1 " + b"2" * 5000 + b" OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: two\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\nok",
    ],
)
async def test_what_is_no_whole_answer_is_told_as_that(content: bytes) -> None:
    with pytest.raises(OutcomeUnknown, match="broke off its answer"):
        await answered(content)


@pytest.mark.parametrize(
    "address", ["", "h", "h:", ":1", "h:x", "h:65536", "h:²", "h:" + "1" * 5000]
)
def test_what_is_no_address_is_refused_in_words(address: str) -> None:
    with pytest.raises(ConfigError, match="write HOST:PORT"):
        split_address(address)
