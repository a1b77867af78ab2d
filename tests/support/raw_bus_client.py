"""A client of a bus server that says what it is told to, allowed or not."""

import asyncio
import base64
import contextlib
import json
from typing import Any

import nkeys

from essaim_shared.bus_login import BusLogin
from essaim_shared.trust.tls import MASTER_NAME


class RawBusClient:
    """The protocol of https://docs.nats.io/reference/reference-protocols/nats-protocol, by hand."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._sids = 0
        self.login_options: dict[str, Any] = {}
        self._claims: dict[str, Any] = {}
        self.messages: list[tuple[str, bytes]] = []
        """(subject, payload), in order."""

    @classmethod
    async def open(
        cls,
        url: str,
        login: BusLogin,
        options: dict[str, Any] | None = None,
        *,
        is_route: bool = False,
        claims: dict[str, Any] | None = None,
    ) -> "RawBusClient":
        """Log in with the key, or with `options` in its place; `claims` are said besides. Raises
        ConnectionError with what the server said."""
        host, _, port = url.removeprefix("nats://").rpartition(":")
        if is_route:  # servers begin with the handshake
            reader, writer = await asyncio.open_connection(
                host, int(port), ssl=login.tls(), server_hostname=MASTER_NAME
            )
        else:
            reader, writer = await asyncio.open_connection(host, int(port))
        client = cls(reader, writer)
        client._claims = claims or {}
        async with contextlib.AsyncExitStack() as unless_logged_in:
            unless_logged_in.callback(client.close)
            await client._log_in(login, options, is_route)
            unless_logged_in.pop_all()
        return client

    async def _log_in(
        self, login: BusLogin, options: dict[str, Any] | None, is_route: bool
    ) -> None:
        info = json.loads((await self._line()).split(b" ", 1)[1])
        if not is_route:
            await self._writer.start_tls(login.tls(), server_hostname=MASTER_NAME)
        self.login_options = _signed(login, info) if options is None else options
        asked = {"verbose": False, "pedantic": False, "lang": "test", "version": "1", "protocol": 1}
        said = {**asked, **self.login_options, **self._claims}
        self.write(b"CONNECT " + json.dumps(said).encode() + b"\r\n")
        await self.ping()

    def write(self, data: bytes) -> None:
        self._writer.write(data)

    async def drain(self) -> None:
        await self._writer.drain()

    async def publish(self, subject: str, payload: bytes = b"") -> str:
        """The server's word on it; empty when it took it."""
        head = f"PUB {subject} {len(payload)}\r\n".encode()
        self.write(head + payload + b"\r\n")
        return await self.ping()

    async def subscribe(self, subject: str, queue: str = "") -> str:
        self._sids += 1
        self.write(f"SUB {subject} {queue} {self._sids}\r\n".encode())
        word = await self.ping()
        if not word:
            self.write(f"UNSUB {self._sids}\r\n".encode() if queue else b"")
        return word

    async def ping(self) -> str:
        """Read until the server has answered a ping: what it objected to until then."""
        self.write(b"PING\r\n")
        word = ""
        while True:
            line = await self._line()
            if line.startswith(b"PONG"):
                return word
            if line.startswith(b"-ERR"):
                word = line[5:].decode().strip()
                if "Permissions" not in word:
                    raise ConnectionError(word)
            elif line.startswith(b"PING"):
                self.write(b"PONG\r\n")
            elif line.startswith(b"MSG"):
                fields = line.split()
                payload = await self._reader.readexactly(int(fields[-1]) + 2)
                self.messages.append((fields[1].decode(), payload[:-2]))

    async def until_closed(self) -> bool:
        with contextlib.suppress(ConnectionError):
            while await self._line():
                pass
        return True

    def close(self) -> None:
        self._writer.transport.abort()

    async def _line(self) -> bytes:
        line = await self._reader.readline()
        if not line:
            raise ConnectionError("the connection was closed")
        return line


def _signed(login: BusLogin, info: dict[str, Any]) -> dict[str, str]:
    pair = nkeys.from_seed(bytearray(login.seed.encode()))
    signature = base64.urlsafe_b64encode(pair.sign(info["nonce"].encode())).rstrip(b"=")
    return {"nkey": pair.public_key.decode(), "sig": signature.decode()}
