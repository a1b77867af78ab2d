"""`GET /essaim/audit`: who changed what, as JSON lines.

    GET /essaim/audit?since=S&revision=N&who=W&follow=1

Oldest first, one line for each record: {"Revision","Time","Who","From","Action","Target","Master",
"Detail"}. `since` is Unix time in seconds; `revision`: only what was written after that revision,
so whoever was cut off goes on from the last one that he saw; `who`: `user ann`, or `ann`. With
`follow` the answer goes on, with lines `{"Revision", "Events": []}` in between that say how far it
is. Records are read from the state, however old: only what the leader has deleted is gone.
"""

import asyncio
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from essaim_master.http.api import Api, flag_of, number_of
from essaim_master.http.caller import still_proved
from essaim_master.http.encoded_objects import encode_json
from essaim_master.http.kv_watch_stream import LINES_TYPE, WatchStream
from essaim_master.kv.history import RevisionEvents
from essaim_master.kv.watch import Span, WatchHub
from essaim_master.state.keys import Kind, audit_key
from essaim_shared.clock import rfc3339
from essaim_shared.errors import Unavailable
from essaim_shared.trust_objects import AuditRecord

FOLLOWERS_MAX = 50
SINCE_MAX = 2.0**33
"""Seconds; in the year 2242."""
REVISION_MAX = 2.0**63

SPAN = Span(Kind.AUDIT.value, Kind.AUDIT.value[:-1] + b"0")
"""`0` comes after `/`."""

_decoder = msgspec.msgpack.Decoder(AuditRecord)


class AuditRoutes:
    def __init__(self, api: Api) -> None:
        self._api = api
        self._hub = WatchHub(api.state.store)
        self._ended = asyncio.Event()

    def close(self) -> None:
        """End those who follow."""
        self._ended.set()
        self._hub.close()

    def routes(self) -> list[Route]:
        return [Route("/essaim/audit", self.read, methods=["GET"])]

    async def read(self, request: Request) -> Response:
        since_ns = int(number_of(request, "since", 0, 0, SINCE_MAX) * 1_000_000_000)
        revision = int(number_of(request, "revision", 0, 0, REVISION_MAX))
        who = request.query_params.get("who", "")
        await self._api.read_barrier(request)
        state = self._api.state
        lines = b"".join(
            _line(record, modified)
            for number, record in state.audit_records.items()
            if record.at_ns >= since_ns
            and _is_of(record, who)
            and (modified := state.modified(audit_key(number))) > revision
        )
        if request.method == "HEAD" or not flag_of(request, "follow"):
            return Response(lines, media_type=LINES_TYPE)
        if len(self._hub) >= FOLLOWERS_MAX:
            raise Unavailable(f"{FOLLOWERS_MAX} clients follow the audit log here: ask another one")

        def encode(written: RevisionEvents) -> bytes:
            records = (
                _decoder.decode(event.after.value)
                for event in written.events
                if event.after is not None
            )
            return b"".join(
                _line(record, written.revision) for record in records if _is_of(record, who)
            )

        return WatchStream(
            self._hub,
            SPAN,
            state.revision + 1,
            encode,
            self._api.clock,
            self._ended,
            still_proved(request),
            first_lines=lines,
        )


def _is_of(record: AuditRecord, who: str) -> bool:
    return not who or record.who == who or record.who.partition(" ")[2] == who


def _line(record: AuditRecord, revision: int) -> bytes:
    shown: dict[str, Any] = {
        "Revision": revision,
        "Time": rfc3339(record.at_ns),
        "Who": record.who,
        "From": record.source,
        "Action": record.action,
        "Target": record.target,
        "Master": record.master,
        "Detail": record.detail,
    }
    return encode_json(shown) + b"\n"
