"""One connection to the key-value API of one master, and what became of each request.

Written for tests that hurt masters: nothing is retried, and a request whose answer does not come
says so, since the server may have done it or not.
"""

import asyncio
import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from essaim_cli.lab.probes import api_of, open_target
from essaim_cli.lab.topology import Host

HEAD_BYTES_MAX = 64 * 1024


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: Any

    @property
    def is_ok(self) -> bool:
        return 200 <= self.status < 300


class NoAnswer(Exception):
    """Whether the request was carried out is unknown."""


class NotSent(Exception):
    """Nobody listens there: the request was not made."""


class KvClient:
    """Requests one at a time. `timeout_s` is for an answer, and for a connection."""

    def __init__(self, host: Host, timeout_s: float) -> None:
        self.host = host
        self._timeout_s = timeout_s
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def get(self, key: str, consistency: str = "linearizable") -> Answer:
        return await self.ask("GET", f"/essaim/kv/keys/{quote(key)}?consistency={consistency}")

    async def put(self, key: str, value: str) -> Answer:
        return await self.ask("PUT", f"/essaim/kv/keys/{quote(key)}", {"Value": value})

    async def delete(self, key: str) -> Answer:
        return await self.ask("DELETE", f"/essaim/kv/keys/{quote(key)}")

    async def swap(self, key: str, expected: str | None, value: str) -> Answer:
        """Put if the key has this value (None: if it does not exist); body["Succeeded"] tells."""
        if expected is None:
            holds = {"Key": key, "Target": "version", "Relation": "=", "Number": 0}
        else:
            holds = {"Key": key, "Target": "value", "Relation": "=", "Value": expected}
        then = {"Op": "put", "Key": key, "Value": value}
        return await self.ask("POST", "/essaim/kv/txn", {"If": [holds], "Then": [then]})

    async def range(self, prefix: str, consistency: str = "linearizable") -> list[dict[str, Any]]:
        """All keys with a prefix, page by page at one revision. Raises AssertionError."""
        found: list[dict[str, Any]] = []
        query = f"prefix={quote(prefix)}&consistency={consistency}"
        answer = await self.ask("GET", f"/essaim/kv/range?{query}")
        assert answer.is_ok, answer
        found += answer.body["KVs"]
        while answer.body["More"]:
            after = f"start={quote(found[-1]['Key'] + chr(0))}&end={quote(prefix + '~')}"
            at = f"revision={answer.body['Revision']}&consistency={consistency}"
            answer = await self.ask("GET", f"/essaim/kv/range?{after}&{at}")
            assert answer.is_ok, answer
            found += answer.body["KVs"]
        return found

    async def ask(self, method: str, target: str, body: Any = None) -> Answer:
        """Raises NotSent or NoAnswer."""
        if self._streams is None:
            self._streams = await self._connect()
        reader, writer = self._streams
        content = b"" if body is None else json.dumps(body).encode()
        try:
            async with asyncio.timeout(self._timeout_s):
                writer.write(
                    f"{method} {target} HTTP/1.1\r\nHost: lab\r\n"
                    f"Content-Type: application/json\r\n"
                    f"Content-Length: {len(content)}\r\n\r\n".encode()
                    + content
                )
                return await _read_answer(reader)
        except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            self.close()
            raise NoAnswer(repr(error)) from error

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        try:
            async with asyncio.timeout(self._timeout_s):
                return await open_target(api_of(self.host), HEAD_BYTES_MAX)
        except (OSError, TimeoutError) as error:
            raise NotSent(repr(error)) from error

    def close(self) -> None:
        if self._streams is not None:
            # A peer that is cut off never takes its leave: nothing is waited for.
            self._streams[1].transport.abort()
            self._streams = None


async def _read_answer(reader: asyncio.StreamReader) -> Answer:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    status = int(head.split(" ", 2)[1])
    length = next(
        int(line.partition(":")[2])
        for line in head.split("\r\n")
        if line.startswith("content-length:")
    )
    return Answer(status, json.loads(await reader.readexactly(length)))
