"""One connection of a key-value client to one master, from its greeting to its end."""

import asyncio
import logging
import ssl
from typing import Protocol, cast

from essaim_shared.clock import Clock
from essaim_shared.errors import MalformedMessage
from essaim_shared.kv_protocol import (
    Failure,
    MasterFrame,
    MasterFrameReader,
    Ping,
    Welcome,
    encode_frame,
)

SILENCE_BEFORE_PING_S = 0.5
PING_TIMEOUT_S = 1.0
"""A connection on which nothing came, not even the answer to a ping, is dead."""

_log = logging.getLogger(__name__)


class LinkOwner(Protocol):
    def linked(self, link: "KvLink") -> None: ...

    def unlinked(self, link: "KvLink") -> None: ...

    def answered(self, frame: MasterFrame) -> None:
        """Each frame after the welcome. Raises MalformedMessage for what no master says."""
        ...

    def answers_arrived(self) -> None:
        """After the last frame of a turn, and when the connection takes bytes again."""
        ...


class KvLink(asyncio.Protocol):
    """One connection, from its greeting to its end."""

    def __init__(self, owner: LinkOwner, clock: Clock) -> None:
        loop = asyncio.get_running_loop()
        self._owner = owner
        self._clock = clock
        self._reader = MasterFrameReader()
        self._transport: asyncio.Transport | None = None
        self._heard_s = clock.monotonic_s()
        self._pinged_s = 0.0
        self.welcome: asyncio.Future[Welcome | Failure] = loop.create_future()
        self.lost: asyncio.Future[None] = loop.create_future()
        """To be waited for with `asyncio.wait`, which does not cancel it."""
        self.member_id = ""
        self.leader: str | None = None
        self.is_congested = False

    @property
    def is_lost(self) -> bool:
        return self.lost.done()

    def send(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def check(self, now_s: float) -> None:
        """Something is awaited on this connection: is the other end alive?"""
        silent_s = now_s - self._heard_s
        if self._pinged_s < self._heard_s:
            if silent_s >= SILENCE_BEFORE_PING_S:
                self._pinged_s = now_s
                self.send(encode_frame(Ping(0)))
        elif now_s - self._pinged_s >= PING_TIMEOUT_S:
            _log.warning("master %s is silent: trying another one", self.member_id)
            self.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._owner.linked(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if not self.welcome.done():
            # Over TLS it tells why: a verdict on our certificate comes after the handshake.
            why = exc if isinstance(exc, ssl.SSLError) else None
            self.welcome.set_exception(why or ConnectionResetError("closed before the welcome"))
            self.welcome.exception()  # It is no loose end if nobody waits for it any more.
        self.lost.set_result(None)
        self._owner.unlinked(self)

    def data_received(self, data: bytes) -> None:
        self._heard_s = self._clock.monotonic_s()
        owner = self._owner
        try:
            for frame in self._reader.feed(data):
                if self.welcome.done():
                    owner.answered(frame)
                else:
                    self._welcomed(frame)
        except MalformedMessage as error:
            _log.warning("closing the connection to master %s: %s", self.member_id, error)
            self.abort()
        owner.answers_arrived()

    def pause_writing(self) -> None:
        self.is_congested = True

    def resume_writing(self) -> None:
        self.is_congested = False
        self._owner.answers_arrived()

    def _welcomed(self, frame: MasterFrame) -> None:
        if isinstance(frame, Welcome):
            self.member_id, self.leader = frame.member_id, frame.leader
        elif not isinstance(frame, Failure):
            raise MalformedMessage(f"{type(frame).__name__} before the welcome")
        self.welcome.set_result(frame)
