"""The users of the bus server beside a master that stands by, which has no state: it takes over
what one of the members says, and tells it who floods this server."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from essaim_master.bus_users.everywhere import USERS_TARGET
from essaim_master.bus_users.floods import FloodLooks
from essaim_master.bus_users.local_server import BusServerControl, BusServerError
from essaim_shared.clock import Clock
from essaim_shared.errors import Unavailable
from essaim_shared.http_call import Answer, call
from essaim_shared.log import fields
from essaim_shared.trust.tls import Tls

FOLLOW_PERIOD_S: Final = 0.5
"""As often as members look at theirs."""
ASK_TIMEOUT_S: Final = 2.0
FILE_TARGET: Final = f"{USERS_TARGET}/file"
FLOODS_TARGET: Final = "/essaim/bus/floods"
FOUND_STATUS: Final = 200
SAME_STATUS: Final = 204
ACCEPTED_STATUS: Final = 202

_log = logging.getLogger(__name__)


class BusUsersFollower:
    """`run` until cancelled."""

    def __init__(
        self,
        server: BusServerControl,
        members: Callable[[], Sequence[str]],
        tls: Tls | None,
        clock: Clock,
    ) -> None:
        """`members`: `HOST:PORT` of those that may be asked, the best first."""
        self._server = server
        self._members = members
        self._tls = tls
        self._clock = clock
        self._looks = FloodLooks()
        self._said = ""

    async def run(self) -> None:
        while True:
            try:
                await self.turn()
            except BusServerError as error:
                if str(error) != self._said:
                    _log.error("users of the bus server %s", fields(trouble=error))
                self._said = str(error)
            else:
                self._said = ""
            await self._clock.sleep(FOLLOW_PERIOD_S)

    async def turn(self) -> None:
        """Raises BusServerError."""
        connections = await self._server.connections()
        for flood in self._looks.look(connections, self._clock.monotonic_s()):
            _log.error("the bus server is flooded %s", fields(reason=flood.reason))
            body = msgspec.json.encode(flood)
            await self._ask("POST", FLOODS_TARGET, (ACCEPTED_STATUS,), body)
        await self._follow()

    async def _follow(self) -> None:
        loaded_ns = await self._server.loaded_ns()
        target = f"{FILE_TARGET}?loaded={loaded_ns or 0}"
        answer = await self._ask("GET", target, (FOUND_STATUS, SAME_STATUS))
        if answer is not None:
            if answer.status == FOUND_STATUS:
                await asyncio.to_thread(self._server.write, answer.body.decode())
            is_other = answer.status == FOUND_STATUS or self._server.has_old_certificates
            if loaded_ns is not None and is_other:
                self._server.reload()

    async def _ask(
        self, method: str, target: str, wanted: tuple[int, ...], body: bytes = b""
    ) -> Answer | None:
        """The first member's answer that is one; None when there is none."""
        for address in self._members():
            with contextlib.suppress(Unavailable):
                answer = await call(
                    address,
                    method,
                    target,
                    timeout_s=ASK_TIMEOUT_S,
                    body=body,
                    tls=None if self._tls is None else self._tls.client,
                )
                if answer.status in wanted:
                    return answer
        return None
