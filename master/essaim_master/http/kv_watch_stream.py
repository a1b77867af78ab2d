"""A watch as an HTTP answer that goes on: one JSON line for each revision.

The first line has no events: it names the revision from which on everything will be told, and
says that the watch is there. Such lines come again when nothing else did for `PROGRESS_S`, so that
a client that is cut off later goes on from a recent revision. A client that reads too slowly is
held back by TCP, then ended with a last line `{"Error": …, "Resume": N}`. So is one whose user was
removed, or whose token has ended: before the next events, and at the latest after `PROGRESS_S`.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from essaim_master.http.encoded_objects import encode_json
from essaim_master.http.kv_json import RevisionJson, revision_json
from essaim_master.kv.errors import Lagged
from essaim_master.kv.history import RevisionEvents
from essaim_master.kv.watch import Span, WatchHub
from essaim_shared.clock import Clock

PROGRESS_S = 10.0
LINES_TYPE = "application/x-ndjson"
NOT_ALLOWED = "what was shown when this began is not accepted any more: ask again with what is"


class EndedJson(msgspec.Struct, frozen=True, rename="pascal"):
    error: str
    resume: int


class WatchStream(Response):
    """Runs until the client leaves, falls behind, or `ended` is set."""

    def __init__(
        self,
        hub: WatchHub,
        span: Span,
        start_revision: int,
        encode: Callable[[RevisionEvents], bytes],
        clock: Clock,
        ended: asyncio.Event,
        is_allowed: Callable[[], bool],
        first_lines: bytes = b"",
    ) -> None:
        """`encode` makes the lines of one revision; `is_allowed`: whether the client may see more
        of them; `first_lines` come before all of them. Raises Compacted, Unavailable."""
        super().__init__(media_type=LINES_TYPE)
        del self.headers["content-length"]
        self._news = asyncio.Event()
        self._watch = hub.open(span, start_revision, self._news.set)
        self._encode = encode
        self._first_lines = first_lines
        self._clock = clock
        self._ended = ended
        self._is_allowed = is_allowed
        self._last_line = b""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        gone: asyncio.Future[bool] = asyncio.ensure_future(_disconnected(receive))
        ended: asyncio.Future[bool] = asyncio.ensure_future(self._ended.wait())
        ends = (gone, ended)
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await _send_body(send, self._first_lines + _progress(self._watch.delivered))
            self._first_lines = b""
            while not any(end.done() for end in ends):
                body = self._next_lines()
                if body is None:
                    break
                if not body:
                    body = await self._wait(ends)
                if body:
                    await _send_body(send, body)
            if not gone.done():
                await send({"type": "http.response.body", "body": self._last_line})
        finally:
            self._watch.close()
            for end in ends:
                end.cancel()

    def _next_lines(self) -> bytes | None:
        """What has come; empty when nothing has; None when the watch fell behind, or is not the
        client's any more."""
        self._news.clear()
        if not self._is_allowed():
            self._last_line = _end_line(NOT_ALLOWED, self._watch.delivered)
            return None
        try:
            revisions = self._watch.take()
        except Lagged as error:
            self._last_line = _end_line(str(error), error.resume)
            return None
        return b"".join(self._encode(revision) for revision in revisions)

    async def _wait(self, ends: tuple[asyncio.Future[bool], ...]) -> bytes:
        """Until something comes or ends; a line of progress if nothing does for long."""
        news: asyncio.Future[bool] = asyncio.ensure_future(self._news.wait())
        pause: asyncio.Future[None] = asyncio.ensure_future(self._clock.sleep(PROGRESS_S))
        try:
            waiting: list[asyncio.Future[Any]] = [news, pause, *ends]
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if pause.done() and not self._news.is_set():
                return _progress(self._watch.delivered)
            return b""
        finally:
            news.cancel()
            pause.cancel()


def key_lines(prev_kv: bool) -> Callable[[RevisionEvents], bytes]:
    """One line for each revision of users' keys."""
    return lambda revision: encode_json(revision_json(revision, prev_kv)) + b"\n"


def _end_line(error: str, resume: int) -> bytes:
    return encode_json(EndedJson(error, resume)) + b"\n"


def _progress(revision: int) -> bytes:
    return encode_json(RevisionJson(revision, [])) + b"\n"


async def _send_body(send: Send, body: bytes) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": True})


async def _disconnected(receive: Receive) -> bool:
    """A client that watches sends nothing more: the next word from it is that it has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
    return True
