"""What Essaim asks of a message bus, and nothing more.

At most once, in order for one publisher and one subject, no memory: whoever was not subscribed
does not get the message. Everything above must live with loss. The implementations,
`nats_transport` (the real one) and `memory_transport` (for tests, with faults), pass the same
contract tests.
"""

from collections.abc import Awaitable, Callable
from typing import Protocol

from essaim_shared.errors import Unavailable


class NoResponders(Unavailable):
    """The bus works, and nobody is subscribed to the subject: there is no leader just now."""


class RequestTimeout(Unavailable):
    """No answer in time. Whether the request arrived is unknown."""


class BusDisconnected(Unavailable):
    """No connection to any bus server at the moment; reconnecting goes on by itself."""


class Delivery(Protocol):
    """One received message."""

    subject: str
    payload: bytes
    reply: str
    """Where an answer goes, as the asker wrote it; empty: it was published, not asked."""

    async def respond(self, payload: bytes) -> None:
        """Answer a request. A lost connection drops the answer: the asker times out."""
        ...


Handler = Callable[[Delivery], Awaitable[None]]
"""Called for one message of a subscription at a time, in order of arrival. Must not raise."""


class Subscription(Protocol):
    async def unsubscribe(self) -> None: ...


class Transport(Protocol):
    async def publish(self, subject: str, payload: bytes) -> None:
        """Send, without knowing who gets it. Raises BusDisconnected rather than buffer: an old
        message that arrives after a reconnection does more harm than a lost one."""
        ...

    async def request(self, subject: str, payload: bytes, timeout_s: float) -> bytes:
        """Raises NoResponders, RequestTimeout or BusDisconnected."""
        ...

    async def subscribe(self, subject: str, handler: Handler) -> Subscription: ...

    async def reconnect(self) -> None:
        """Leave the present server for another one at once (it answers no more)."""
        ...

    async def close(self) -> None: ...

    @property
    def server(self) -> str | None:
        """The server connected to, or None while there is none."""
        ...
