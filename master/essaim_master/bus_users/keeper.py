"""Has the bus server beside this master know the users of the state.

One file holds all users, so a burst of changes is one reload, and reloads keep a distance: a
thousand machines that join at once are a few of them. Every so often the server is asked which
users it has, for it may have been restarted, or told to read an earlier file.

A master that starts has a state of yesterday until it has caught up. It writes nothing before.
"""

import asyncio
import logging
from typing import Final

from essaim_master.bus_users.local_server import BusServerControl, BusServerError
from essaim_master.state.cluster import Cluster
from essaim_master.state.cluster_state import AppliedChanges
from essaim_master.state.keys import Kind
from essaim_shared.bus_users import UsersFile, users_file
from essaim_shared.clock import Clock, pause, wait_until
from essaim_shared.errors import NoLeader
from essaim_shared.log import fields
from essaim_shared.trust.roles import Role

RELOAD_TIMEOUT_S: Final = 2.0
"""For a server to have read the file after the signal; a thousand users take it a tenth of one."""
RELOAD_SPACING_S: Final = 0.25
"""Least time between two reloads."""
LOOK_PERIOD_S: Final = 2.0
POLL_S: Final = 0.02
BARRIER_TIMEOUT_S: Final = 3.0
CATCH_UP_RETRY_S: Final = 0.5

_log = logging.getLogger(__name__)


class BusUsersKeeper:
    """`run` until cancelled."""

    def __init__(
        self, cluster: Cluster, cluster_id: str, server: BusServerControl, clock: Clock
    ) -> None:
        self._cluster = cluster
        self._state = cluster.state
        self._cluster_id = cluster_id
        self._server = server
        self._clock = clock
        self._changed = asyncio.Event()
        self._last_change = 0
        """Revision of the newest change of an identity."""
        self._loaded_revision = -1
        """The server has the users of this revision of the state."""
        self._written = ""
        self._made: tuple[tuple[int, frozenset[str]], UsersFile] | None = None
        """A thousand users take ten milliseconds, and masters that stand by ask all the time."""
        self._shut_out: frozenset[str] = frozenset()
        self._said = ""
        self.reload_count = 0

    async def run(self) -> None:
        await self._catch_up()
        self._last_change = self._state.revision
        unsubscribe = self._state.subscribe(self._note)
        try:
            while True:
                self._changed.clear()
                before = self.reload_count
                await self.turn()
                if self.reload_count > before:
                    await self._clock.sleep(RELOAD_SPACING_S)
                await pause(self._clock, LOOK_PERIOD_S, self._changed)
        finally:
            unsubscribe()

    def covers(self, revision: int) -> bool:
        """Whether this master's server has all users of that revision of the state."""
        needed = min(revision, self._last_change)
        return self._state.revision >= revision and self._loaded_revision >= needed

    async def wait(self, revision: int, timeout_s: float) -> bool:
        """Whether it has them within the time."""
        return await wait_until(lambda: self.covers(revision), self._clock, timeout_s, POLL_S)

    def shut_out(self, bus_keys: frozenset[str]) -> None:
        """Refuse these agents' keys here, whatever the state says of them."""
        if bus_keys != self._shut_out:
            self._shut_out = bus_keys
            self._changed.set()

    def look_again(self) -> None:
        """This master's certificates, which its server has too, are others now."""
        self._changed.set()

    def current(self) -> UsersFile:
        """What a server is to have now, by this master's state."""
        key = (self._last_change, self._shut_out)
        if self._made is None or self._made[0] != key:
            identities = self._state.identities.values()
            self._made = (key, users_file(self._cluster_id, identities, self._shut_out))
        return self._made[1]

    @property
    def is_founded(self) -> bool:
        """False before the first leader has written who is who: what `cluster init` left holds."""
        return any(one.role is Role.MASTER for one in self._state.identities.values())

    async def turn(self) -> None:
        """Bring the server to the state as it is now."""
        revision = self._state.revision
        if not self.is_founded:
            return
        wanted = self.current()
        try:
            is_loaded = await self._load(wanted)
        except BusServerError as error:
            self._say(str(error))
            return
        if is_loaded:
            self._say("; ".join(wanted.refused))
            self._loaded_revision = max(self._loaded_revision, revision)
        else:
            self._say("the server goes on with the users it had: see its log for what it refuses")

    async def _load(self, wanted: UsersFile) -> bool:
        """False when the server did not take the file in time. Raises BusServerError."""
        if wanted.text != self._written:
            await asyncio.to_thread(self._server.write, wanted.text)
            self._written = wanted.text
        deadline_s = self._clock.monotonic_s() + RELOAD_TIMEOUT_S
        is_told = False
        while (shown := await self._server.loaded_ns()) is not None:
            if not is_told and (
                shown != wanted.write_deadline_ns or self._server.has_old_certificates
            ):
                self._server.reload()
                self.reload_count += 1
                is_told = True
            elif shown == wanted.write_deadline_ns:
                break
            if self._clock.monotonic_s() >= deadline_s:
                return False
            await self._clock.sleep(POLL_S)
        if is_told:
            _log.info("the bus server has its users anew %s", fields(users=wanted.user_count))
        return True

    def _note(self, applied: AppliedChanges) -> None:
        if any(change.kind is Kind.IDENTITY for change in applied.changes):
            self._last_change = applied.revision
            self._changed.set()

    async def _catch_up(self) -> None:
        while True:
            try:
                await self._cluster.read_barrier(BARRIER_TIMEOUT_S)
            except NoLeader:
                await self._clock.sleep(CATCH_UP_RETRY_S)
            else:
                return

    def _say(self, trouble: str) -> None:
        """Once for each new trouble; nothing when there is none."""
        if trouble and trouble != self._said:
            _log.error("users of the bus server %s", fields(trouble=trouble))
        self._said = trouble
