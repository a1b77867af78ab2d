"""uvicorn's httptools protocol with what it lacks: who the peer is, and bounds on headers."""

import asyncio
import socket
import struct
from typing import Any

import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEADER_BYTES_MAX = 64 * 1024
"""Of a request's line and headers; filters travel in the line."""
HEADER_TIMEOUT_S = 10.0
"""From a connection's or a request's first byte to the end of its headers."""

PEER_EXTENSION = "essaim.peer"
"""Where a request's `Peer` stands in the ASGI scope's extensions."""

_CREDENTIALS = struct.Struct("3i")


class Peer(msgspec.Struct, frozen=True):
    """Who is at the other end: credentials on a unix socket (unix(7), SO_PEERCRED), else the
    address."""

    pid: int | None = None
    uid: int | None = None
    gid: int | None = None
    address: str = ""
    """`HOST:PORT`; empty on a unix socket."""


class PeerProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._peer = Peer()
        self._header_bytes = 0
        self._header_deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._peer = _peer_of(transport)
        self._expect_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._headers_done()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._header_deadline is None or self.transport.is_closing():
            return
        self._header_bytes += len(data)
        if self._header_bytes > HEADER_BYTES_MAX:
            self._headers_done()
            self.send_400_response(f"Request headers are over {HEADER_BYTES_MAX} bytes.")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {PEER_EXTENSION: self._peer}  # type: ignore[dict-item]
        self._expect_headers()

    def on_headers_complete(self) -> None:
        self._headers_done()
        super().on_headers_complete()

    def _expect_headers(self) -> None:
        self._header_bytes = 0
        if self._header_deadline is None:
            self._header_deadline = self.loop.call_later(HEADER_TIMEOUT_S, self.transport.close)

    def _headers_done(self) -> None:
        if self._header_deadline is not None:
            self._header_deadline.cancel()
            self._header_deadline = None


def _peer_of(transport: asyncio.Transport) -> Peer:
    peer_socket = transport.get_extra_info("socket")
    if peer_socket.family == socket.AF_UNIX:
        packed = peer_socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        pid, uid, gid = _CREDENTIALS.unpack(packed)
        return Peer(pid=pid, uid=uid, gid=gid)
    host, port, *_ = transport.get_extra_info("peername") or ("", 0)
    return Peer(address=f"{host}:{port}")
