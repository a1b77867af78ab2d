"""asyncio's TLS, for many small messages and many connections.

What differs from `asyncio.sslproto.SSLProtocol`, which is there for any use:

* Its buffer for what the kernel gives (256 KiB for each connection) is shared by all connections
  of an event loop: what is read is handed to OpenSSL before anything else happens.
* It writes what it is given in one go, and looks at its queues only where something waits.
* It reads as long as there is something, by one record (RFC 8446, 5.1) at a time: no exception to
  see the end, and no memory of 256 KiB for each look.
* A protocol that aborts while it is given the last data before an end does not raise RuntimeError.
"""

import asyncio
import ssl
from asyncio.sslproto import SSLProtocol, SSLProtocolState
from collections import deque
from typing import Final
from weakref import WeakKeyDictionary

from essaim_shared.trust.tls import HANDSHAKE_TIMEOUT_S, MASTER_NAME

BUFFER_BYTES: Final = 256 * 1024
RECORD_BYTES_MAX: Final = 16 * 1024
SHUTDOWN_TIMEOUT_S: Final = 5.0

_buffers: "WeakKeyDictionary[asyncio.AbstractEventLoop, memoryview]" = WeakKeyDictionary()


class TlsProtocol(SSLProtocol):
    max_size = 0
    """So that no connection has a buffer of its own."""

    # What of `SSLProtocol` is used here; the names are those of Python 3.11 to 3.14.
    _incoming: ssl.MemoryBIO
    _outgoing: ssl.MemoryBIO
    _sslobj: ssl.SSLObject
    _app_protocol: asyncio.Protocol
    _transport: asyncio.Transport
    _state: SSLProtocolState
    _ssl_writing_paused: bool
    _app_writing_paused: bool
    _write_backlog: deque[bytes]  # type: ignore[assignment]
    _write_buffer_size: int

    def __init__(
        self,
        protocol: asyncio.Protocol,
        context: ssl.SSLContext,
        waiter: "asyncio.Future[None] | None" = None,
        server_hostname: str | None = None,
    ) -> None:
        """A server's, unless there is a `server_hostname`."""
        loop = asyncio.get_running_loop()
        super().__init__(
            loop,
            protocol,
            context,
            waiter,  # type: ignore[arg-type]  # nobody waits for a server's handshake
            server_side=server_hostname is None,
            server_hostname=server_hostname,
            ssl_handshake_timeout=HANDSHAKE_TIMEOUT_S,  # type: ignore[arg-type]
            ssl_shutdown_timeout=SHUTDOWN_TIMEOUT_S,
        )
        if loop not in _buffers:
            _buffers[loop] = memoryview(bytearray(BUFFER_BYTES))
        self._ssl_buffer_view = _buffers[loop]

    def _do_read__copied(self) -> None:
        incoming, connection = self._incoming, self._sslobj
        parts: list[bytes] = []
        is_ended = False
        try:
            while incoming.pending or connection.pending():
                part = connection.read(RECORD_BYTES_MAX)
                if not part:
                    is_ended = True
                    break
                parts.append(part)
        except (ssl.SSLWantReadError, ssl.SSLSyscallError):
            pass
        if parts:
            self._app_protocol.data_received(parts[0] if len(parts) == 1 else b"".join(parts))
        if is_ended:
            self._call_eof_received()  # type: ignore[attr-defined]
            self._start_shutdown()

    def _write_appdata(self, parts: list[bytes]) -> None:
        if self._state is not SSLProtocolState.WRAPPED or self._write_backlog:
            super()._write_appdata(parts)
            return
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        try:
            written = self._sslobj.write(data)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            written = 0
        except ssl.SSLError as error:
            self._fatal_error(error)
            return
        if written < len(data):
            self._write_backlog.append(data[written:])
            self._write_buffer_size += len(data) - written
        self._process_outgoing()

    def _process_outgoing(self) -> None:
        if not self._ssl_writing_paused and self._outgoing.pending:
            self._transport.write(self._outgoing.read())
        if self._app_writing_paused or self._outgoing.pending or self._write_backlog:
            self._control_app_writing()  # type: ignore[attr-defined]

    def _do_flush(self) -> None:
        self._do_read()  # type: ignore[attr-defined]
        if self._state is SSLProtocolState.FLUSHING:
            self._set_state(SSLProtocolState.SHUTDOWN)  # type: ignore[attr-defined]
            self._do_shutdown()  # type: ignore[attr-defined]


async def connect_to_master(
    protocol: asyncio.Protocol, host: str, port: int, context: ssl.SSLContext | None
) -> None:
    """As `loop.create_connection(lambda: protocol, host, port, ssl=context, …)`; without a context
    there is no TLS."""
    loop = asyncio.get_running_loop()
    if context is None:
        await loop.create_connection(lambda: protocol, host, port)
        return
    done: asyncio.Future[None] = loop.create_future()
    transport, _ = await loop.create_connection(
        lambda: TlsProtocol(protocol, context, done, MASTER_NAME), host, port
    )
    try:
        await done
    except (OSError, asyncio.CancelledError):
        transport.abort()
        raise
