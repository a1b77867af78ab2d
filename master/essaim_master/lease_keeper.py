"""Keeps leases while this master leads: hears their holders, and has the end of those that
expired written to the log. Only the log ends a lease; no follower looks at a clock for it."""

import logging

from essaim_master.kv.commands import RevokeLease, Transaction
from essaim_master.kv.errors import LeaseNotFound
from essaim_master.kv.lease_deadlines import LeaseDeadlines
from essaim_master.kv.leases import Lease
from essaim_master.state.cluster import Cluster
from essaim_shared.clock import Clock, to_beat_s
from essaim_shared.errors import NoLeader, Unavailable
from essaim_shared.limits import TRANSACTION_OPERATIONS_MAX

LATE_S = 1.0
"""A look that comes so late means that the process stood still."""
COMMIT_TIMEOUT_S = 5.0
BARRIER_TIMEOUT_S = 3.0

_log = logging.getLogger(__name__)


class LeaseKeeper:
    """One per master; `run` it as long as the master lives."""

    def __init__(self, cluster: Cluster, clock: Clock) -> None:
        self._cluster = cluster
        self._store = cluster.state.store
        self._clock = clock
        self._term = 0
        self._deadlines: LeaseDeadlines | None = None
        """None while another master leads."""
        cluster.subscribe_leadership(self._on_leadership)

    @property
    def leads(self) -> bool:
        return self._deadlines is not None

    async def run(self) -> None:
        """Ends only when it is cancelled."""
        while True:
            began_s, wait_s = self._clock.monotonic_s(), to_beat_s(self._clock)
            await self._clock.sleep(wait_s)
            late_s = self._clock.monotonic_s() - began_s - wait_s
            if self._deadlines is not None:
                if late_s > LATE_S:
                    self._deadlines.postpone(late_s)
                await self._end_expired(self._deadlines, self._term)

    async def keep_alive(self, lease_id: int) -> Lease:
        """Give a lease its full time again, counted from the call.

        A quorum confirms that this master leads before the holder is told, so a leader that was
        deposed in the meantime promises nothing. Raises NoLeader when another master leads,
        LeaseNotFound.
        """
        deadlines, began_s = self._led(), self._clock.monotonic_s()
        await self._cluster.read_barrier(BARRIER_TIMEOUT_S)
        if deadlines is not self._deadlines:
            raise NoLeader("the leader has just changed: try again")
        lease = self._lease(lease_id)
        deadlines.keep_alive(lease, began_s)
        return lease

    async def remaining_s(self, lease_id: int) -> tuple[Lease, float]:
        """A lease and the seconds that it has left. Raises NoLeader, LeaseNotFound."""
        deadlines = self._led()
        await self._cluster.read_barrier(BARRIER_TIMEOUT_S)
        lease = self._lease(lease_id)
        return lease, deadlines.remaining_s(lease, self._clock.monotonic_s())

    def _led(self) -> LeaseDeadlines:
        if self._deadlines is None:
            raise NoLeader("leases are kept by the leader, and this master is not: ask it")
        return self._deadlines

    def _lease(self, lease_id: int) -> Lease:
        lease = self._store.leases.get(lease_id)
        if lease is None:
            raise LeaseNotFound(f"no lease {lease_id:x}: it expired or was revoked; grant another")
        return lease

    def _on_leadership(self, leads: bool, term: int) -> None:
        self._term = term
        self._deadlines = None
        if leads:
            self._deadlines = LeaseDeadlines()
            self._deadlines.follow(self._store.leases, self._clock.monotonic_s())

    async def _end_expired(self, deadlines: LeaseDeadlines, term: int) -> None:
        now_s = self._clock.monotonic_s()
        deadlines.follow(self._store.leases, now_s)
        expired = deadlines.expire(now_s, TRANSACTION_OPERATIONS_MAX)
        if not expired:
            return
        ends = tuple(RevokeLease(lease_id, only_in_term=term) for lease_id in expired)
        try:
            await self._cluster.commit(Transaction(then=ends), COMMIT_TIMEOUT_S)
        except Unavailable as error:
            # They are still expired at the next look, if this master leads then.
            _log.info("%d expired leases wait for a quorum: %s", len(expired), error)
            return
        _log.info("%d leases expired", len(expired))
