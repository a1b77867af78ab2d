"""Whether the bus servers of all masters know the users of a revision of the state."""

import asyncio
import logging
from typing import Final

from essaim_master.bus_users.keeper import BusUsersKeeper
from essaim_master.state.cluster import Cluster, Member
from essaim_shared.errors import Unavailable
from essaim_shared.http_call import call
from essaim_shared.log import fields
from essaim_shared.trust.tls import Tls

USERS_TARGET: Final = "/essaim/bus/users"
ANSWER_MARGIN_S: Final = 0.5
"""A master that waits for its server until the last moment has to answer, too."""
LOADED_STATUS: Final = 200

_log = logging.getLogger(__name__)


class BusUsersEverywhere:
    def __init__(self, cluster: Cluster, keeper: BusUsersKeeper | None, tls: Tls | None) -> None:
        """`keeper`: None where this master has no bus server beside it."""
        self._cluster = cluster
        self._keeper = keeper
        self._tls = tls

    async def here(self, revision: int, timeout_s: float) -> bool:
        return self._keeper is None or await self._keeper.wait(revision, timeout_s)

    async def everywhere(self, revision: int, timeout_s: float) -> bool:
        """Return once every bus server has the users of that revision of the state; False when
        that was not so in time, or a master could not be asked. A master that is down learns them
        when it starts; until then its server, if that runs, has the users it had."""
        others = [m for m in self._cluster.members if m.id != self._cluster.member_id]
        known = await asyncio.gather(
            self.here(revision, timeout_s),
            *(self._there(other, revision, timeout_s) for other in others),
        )
        return all(known)

    async def _there(self, member: Member, revision: int, timeout_s: float) -> bool:
        target = f"{USERS_TARGET}?revision={revision}&timeout={timeout_s:g}"
        # Not by `PeerRequests`: it is this master that wants to know, in whosever request.
        try:
            answer = await call(
                member.http,
                "GET",
                target,
                timeout_s=timeout_s + ANSWER_MARGIN_S,
                tls=None if self._tls is None else self._tls.client,
            )
        except Unavailable as error:
            _log.info("not asked for its bus server's users %s", fields(reason=error))
            return False
        return answer.status == LOADED_STATUS
