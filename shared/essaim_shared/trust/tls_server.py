"""Listening sockets that speak TLS and say why they refuse, to both sides.

asyncio's own `create_server(ssl=…)` closes the connection of a client whose certificate is not
good without sending the alert that OpenSSL has made for it, so that its user would see a
connection that breaks off, and no reason.

A handshake costs a server a millisecond of its event loop before it knows who is there: without
bounds whoever reaches a master's port could keep it from leading.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import Final

from essaim_shared.clock import SystemClock
from essaim_shared.token_buckets import TokenBuckets
from essaim_shared.trust.tls import reason_in_words
from essaim_shared.trust.tls_protocol import TlsProtocol

HANDSHAKES_MAX: Final = 128
"""Under way at one socket: whoever connects and says nothing takes no more of the process's file
descriptors than these, each for HANDSHAKE_TIMEOUT_S."""

HANDSHAKES_PER_ADDRESS_MAX: Final = 96
"""Of those: one address leaves some to the others."""

HANDSHAKES_PER_S: Final = 50.0
"""That one address may begin, in the long run."""
HANDSHAKES_BURST: Final = 200.0
"""At once: a script of many commands, or all nodes behind one address after an outage."""
ADDRESSES_MAX: Final = 4_096
"""Remembered; the one that was quiet for longest is forgotten for a new one."""

CLOCK: Final = SystemClock()

OnRefused = Callable[[str, str], None]
"""Told the address, without the port, and the reason, of whoever failed at the handshake."""


async def listen(
    protocol: Callable[[], asyncio.Protocol],
    listening: socket.socket,
    context: ssl.SSLContext | None,
    backlog: int,
    on_refused: OnRefused = lambda host, reason: None,
) -> asyncio.Server:
    """As `loop.create_server(protocol, sock=…, backlog=…, ssl=context)`."""
    greeting: set[_AlertingProtocol] = set()
    pace = TokenBuckets(HANDSHAKES_PER_S, HANDSHAKES_BURST, ADDRESSES_MAX)

    def made() -> asyncio.BaseProtocol:
        if context is None:
            return protocol()
        return _AlertingProtocol(protocol(), context, greeting, pace, on_refused)

    loop = asyncio.get_running_loop()
    return await loop.create_server(made, sock=listening, backlog=backlog)


class _AlertingProtocol(TlsProtocol):
    def __init__(
        self,
        protocol: asyncio.Protocol,
        context: ssl.SSLContext,
        greeting: "set[_AlertingProtocol]",
        pace: TokenBuckets,
        on_refused: OnRefused,
    ) -> None:
        """`greeting`: those of the same socket whose handshake goes on."""
        self._greeting = greeting
        self._pace = pace
        self._on_refused = on_refused
        self._host = ""
        super().__init__(protocol, context)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        peer = transport.get_extra_info("peername")
        self._host = str(peer[0]) if peer else ""
        refusal = ""
        if len(self._greeting) >= HANDSHAKES_MAX:
            refusal = f"{HANDSHAKES_MAX} handshakes are under way"
        elif sum(one._host == self._host for one in self._greeting) >= HANDSHAKES_PER_ADDRESS_MAX:
            refusal = f"{HANDSHAKES_PER_ADDRESS_MAX} of its handshakes are under way"
        elif self._pace.take(self._host, CLOCK.monotonic_s()):
            refusal = f"it begins more than {HANDSHAKES_PER_S:g} handshakes a second"
        if refusal:
            self._on_refused(self._host, refusal)
            assert isinstance(transport, asyncio.Transport)
            transport.abort()
            return
        self._greeting.add(self)
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._greeting.discard(self)
        super().connection_lost(exc)

    def _on_handshake_complete(self, handshake_exc: BaseException | None) -> None:
        self._greeting.discard(self)
        if isinstance(handshake_exc, ssl.SSLError):
            self._process_outgoing()
            self._on_refused(self._host, reason_in_words(handshake_exc))
        super()._on_handshake_complete(handshake_exc)
