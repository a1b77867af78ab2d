"""Listening sockets that speak TLS and say why they refuse.

asyncio's own `create_server(ssl=…)` closes the connection of a client whose certificate is not
good without sending the alert that OpenSSL has made for it, so that its user would see a
connection that breaks off, and no reason (https://github.com/python/cpython/issues/98078 is of
the same kind).
"""

import asyncio
import socket
import ssl
from asyncio.sslproto import SSLProtocol
from collections.abc import Callable

from essaim_shared.trust.tls import HANDSHAKE_TIMEOUT_S

SHUTDOWN_TIMEOUT_S = 5.0


class _AlertingProtocol(SSLProtocol):
    def _on_handshake_complete(self, handshake_exc: BaseException | None) -> None:
        if handshake_exc is not None:
            self._process_outgoing()  # type: ignore[attr-defined]
        super()._on_handshake_complete(handshake_exc)


async def listen(
    protocol: Callable[[], asyncio.Protocol],
    listening: socket.socket,
    context: ssl.SSLContext | None,
    backlog: int,
) -> asyncio.Server:
    """As `loop.create_server(protocol, sock=…, backlog=…, ssl=context)`."""
    loop = asyncio.get_running_loop()

    def made() -> asyncio.BaseProtocol:
        if context is None:
            return protocol()
        return _AlertingProtocol(
            loop,
            protocol(),
            context,
            None,  # type: ignore[arg-type]  # nobody waits for the handshake
            server_side=True,
            ssl_handshake_timeout=HANDSHAKE_TIMEOUT_S,  # type: ignore[arg-type]
            ssl_shutdown_timeout=SHUTDOWN_TIMEOUT_S,
        )

    return await loop.create_server(made, sock=listening, backlog=backlog)
