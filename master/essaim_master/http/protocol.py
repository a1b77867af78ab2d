"""uvicorn's httptools protocol with what it lacks: who the peer is, and bounds on headers."""

import asyncio
import socket
import struct
from collections.abc import Mapping

import msgspec
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from essaim_master.http.strangers import STRANGERS_MAX, STRANGERS_PER_ADDRESS_MAX, Strangers
from essaim_shared.trust.tls import PeerCertificate, peer_certificate

HEADER_BYTES_MAX = 64 * 1024
"""Of a request's line and headers; filters travel in the line."""
REQUEST_TIMEOUT_S = 30.0
"""From a connection's start or a request's first byte to the last byte of the request: whoever is
slower holds a place that others need."""

PEER_EXTENSION = "essaim.peer"
"""Where a request's `Peer` stands in the ASGI scope's extensions."""

PROVED_EXTENSION = "essaim.proved"
"""Beside it: to be called once a request on the connection has proved who is there."""

_CROWDED_BODIES = (
    b'{"message":"%d connections from this address, or %d of all, have not said who they are: '
    b'use fewer, or show a certificate or a token"}' % (STRANGERS_PER_ADDRESS_MAX, STRANGERS_MAX),
    b'{"message":"there are as many connections with this certificate as there may be: use fewer"}',
)
_CROWDED_BY_STRANGERS, _CROWDED_BY_HOLDER = (
    b"HTTP/1.1 429 Too Many Requests\r\nConnection: close\r\nRetry-After: 1\r\n"
    b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    for body in _CROWDED_BODIES
)

_CREDENTIALS = struct.Struct("3i")


class Peer(msgspec.Struct, frozen=True):
    """Who is at the other end: credentials on a unix socket (unix(7), SO_PEERCRED), else the
    address, and the certificate where one was shown."""

    pid: int | None = None
    uid: int | None = None
    gid: int | None = None
    address: str = ""
    """`HOST:PORT`; empty on a unix socket."""
    certificate: PeerCertificate | None = None
    """Signed by an authority that this master believes; what it is worth is another question."""


class PeerProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        request_timeout_s: float,
        strangers: Strangers,
        holders: Mapping[str, Strangers],
    ) -> None:
        """`holders` of certificates, by the role in them; those of other roles are not counted."""
        super().__init__(config, server_state, {})
        self._strangers = strangers
        self._holders = holders
        self._is_turned_away = False
        self._stranger = ""
        """The address that it is counted for, as long as nobody was proved."""
        self._holder: PeerCertificate | None = None
        """For whom it is counted, as long as it is open."""
        self._request_timeout_s = request_timeout_s
        self._peer = Peer()
        self._in_headers = True
        self._header_bytes = 0
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._peer = _peer_of(transport)
        crowded = b""
        if transport.get_extra_info("ssl_object") is not None:
            crowded = self._count()
        if crowded:
            self._is_turned_away = True
            transport.write(crowded)
            transport.close()
            return
        self._expect_request()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_deadline()
        self._prove()
        if self._holder is not None:
            self._holders[self._holder.role].go(self._holder.name)
            self._holder = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_turned_away:
            return
        super().data_received(data)
        if not self._in_headers or self.transport.is_closing():
            return
        self._header_bytes += len(data)
        if self._header_bytes > HEADER_BYTES_MAX:
            self.send_400_response(f"Request headers are over {HEADER_BYTES_MAX} bytes.")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        extensions = {PEER_EXTENSION: self._peer, PROVED_EXTENSION: self._prove}
        self.scope["extensions"] = extensions  # type: ignore[typeddict-item]
        self._expect_request()

    def on_headers_complete(self) -> None:
        self._in_headers = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._end_deadline()
        super().on_message_complete()

    def _count(self) -> bytes:
        """What is answered where there is no room for this one; empty: there is."""
        holder = self._peer.certificate
        if holder is None:
            host = self._peer.address.rpartition(":")[0]
            if not self._strangers.come(host):
                return _CROWDED_BY_STRANGERS
            self._stranger = host
        elif holder.role in self._holders:
            if not self._holders[holder.role].come(holder.name):
                return _CROWDED_BY_HOLDER
            self._holder = holder
        return b""

    def _prove(self) -> None:
        """Whoever is there is no stranger any more, or has gone."""
        if self._stranger:
            self._strangers.go(self._stranger)
            self._stranger = ""

    def _expect_request(self) -> None:
        self._in_headers = True
        self._header_bytes = 0
        if self._deadline is None:
            self._deadline = self.loop.call_later(self._request_timeout_s, self.transport.close)

    def _end_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def _peer_of(transport: asyncio.Transport) -> Peer:
    peer_socket = transport.get_extra_info("socket")
    if peer_socket.family == socket.AF_UNIX:
        packed = peer_socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        pid, uid, gid = _CREDENTIALS.unpack(packed)
        return Peer(pid=pid, uid=uid, gid=gid)
    host, port, *_ = transport.get_extra_info("peername") or ("", 0)
    connection = transport.get_extra_info("ssl_object")
    certificate = None if connection is None else peer_certificate(connection)
    return Peer(address=f"{host}:{port}", certificate=certificate)
