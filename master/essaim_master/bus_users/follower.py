"""The users of the bus server beside a master that stands by, which has no state: it takes over
what one of the members says."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final

from essaim_master.bus_users.everywhere import USERS_TARGET
from essaim_master.bus_users.local_server import BusServerControl, BusServerError
from essaim_shared.clock import Clock
from essaim_shared.errors import Unavailable
from essaim_shared.http_call import call
from essaim_shared.log import fields
from essaim_shared.trust.tls import Tls

FOLLOW_PERIOD_S: Final = 1.0
ASK_TIMEOUT_S: Final = 2.0
FILE_TARGET: Final = f"{USERS_TARGET}/file"
FOUND_STATUS: Final = 200
SAME_STATUS: Final = 204

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
        """Ask the first member that answers. Raises BusServerError."""
        loaded_ns = await self._server.loaded_ns()
        for address in self._members():
            try:
                answer = await call(
                    address,
                    "GET",
                    f"{FILE_TARGET}?loaded={loaded_ns or 0}",
                    timeout_s=ASK_TIMEOUT_S,
                    tls=None if self._tls is None else self._tls.client,
                )
            except Unavailable:
                continue
            if answer.status == FOUND_STATUS:
                await asyncio.to_thread(self._server.write, answer.body.decode())
            if answer.status in (FOUND_STATUS, SAME_STATUS):
                is_other = answer.status == FOUND_STATUS or self._server.has_old_certificates
                if loaded_ns is not None and is_other:
                    self._server.reload()
                return
