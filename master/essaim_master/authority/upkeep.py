"""What every master does for the authority beside its work, once a second: it deletes what
`cluster init` left once the state holds it, and renews its certificate when the authority is
replaced; the leader takes the next step of that."""

import logging
from collections.abc import Callable

from essaim_master.authority.founding import FoundingFile
from essaim_master.authority.rotation import Step, advanced, step_of
from essaim_master.state.cluster import Cluster
from essaim_master.state.keys import TRUST_ANCHORS_KEY
from essaim_master.state.writes import Writes
from essaim_shared.clock import Clock
from essaim_shared.errors import Unavailable
from essaim_shared.log import fields

PERIOD_S = 1.0
COMMIT_TIMEOUT_S = 3.0

_log = logging.getLogger(__name__)

_SAID = {
    Step.RENEWING: "everybody believes the new authority, which signs from now on",
    Step.SETTLED: "everybody has a certificate of the new authority: the old one is believed no "
    "more",
}


class AuthorityUpkeep:
    def __init__(
        self,
        cluster: Cluster,
        file: FoundingFile,
        clock: Clock,
        note: Callable[[int, tuple[str, ...]], None] = lambda generation, masters: None,
    ) -> None:
        """`note` is told which trust anchors there are, and where the masters are."""
        self._note = note
        self._cluster = cluster
        self._file = file
        self._clock = clock

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self.turn()
            await self._clock.sleep(PERIOD_S)

    async def turn(self) -> None:
        anchors = self._cluster.state.trust_anchors
        if anchors is None:
            return
        self._note(anchors.generation, tuple(one.http for one in self._cluster.members))
        try:
            self._file.delete()
        except OSError as error:
            _log.error("the authority's key stays in the identity directory: %s", error)
        if self._cluster.leadership().role == "leader":
            try:
                await self._advance()
            except Unavailable as error:
                _log.debug("left for later: %s", error)

    async def _advance(self) -> None:
        """Guarded by the anchors' revision: whoever else leads by now, the step is the same."""
        state = self._cluster.state
        anchors = state.trust_anchors
        assert anchors is not None
        modified = state.modified(TRUST_ANCHORS_KEY)
        after = advanced(anchors, state.identities.values(), self._clock.wall_ns())
        if after is None:
            return
        writes = Writes()
        writes.expect(TRUST_ANCHORS_KEY, modified)
        writes.put(after)
        (transaction,) = writes.transactions()
        if (await self._cluster.commit(transaction, COMMIT_TIMEOUT_S)).succeeded:
            _log.info("%s %s", _SAID[step_of(after)], fields(generation=after.generation))
