"""Writes that only the present leader can make."""

import asyncio
from typing import Final

from essaim_master.control.errors import Deposed
from essaim_master.kv.commands import TransactionResult
from essaim_master.state.cluster import Cluster
from essaim_master.state.keys import LEADER_KEY
from essaim_master.state.writes import Writes
from essaim_shared.objects import LeaderEpoch

COMMIT_TIMEOUT_S: Final = 5.0


class GuardedWriter:
    """Carries the epoch: every transaction compares the revision that this leader's own
    LeaderEpoch got, so from the moment another leader has written its own, nothing that this one
    still has under way changes anything."""

    def __init__(self, cluster: Cluster, epoch_revision: int) -> None:
        self._cluster = cluster
        self._epoch_revision = epoch_revision

    async def write(self, writes: Writes) -> bool:
        """Commit; the transactions travel together. False when a compare other than the epoch's
        failed for some of them. Raises Deposed, NoLeader, OutcomeUnknown."""
        if not writes:
            return True
        writes.expect(LEADER_KEY, self._epoch_revision)
        commits = [self._cluster.commit(part, COMMIT_TIMEOUT_S) for part in writes.transactions()]
        if len(commits) == 1:
            results: list[TransactionResult] = [await commits[0]]
        else:
            outcomes = await asyncio.gather(*commits, return_exceptions=True)
            failed = next((o for o in outcomes if isinstance(o, BaseException)), None)
            if failed is not None:
                raise failed
            results = [o for o in outcomes if isinstance(o, TransactionResult)]
        if all(result.succeeded for result in results):
            return True
        if self._cluster.state.modified(LEADER_KEY) != self._epoch_revision:
            raise Deposed("another master leads now")
        return False


async def begin_epoch(cluster: Cluster, term: int) -> GuardedWriter:
    """Declare this master the leader of `term`, before it decides anything.

    Raises Deposed when another leader did so at the same time.
    """
    await cluster.read_barrier(COMMIT_TIMEOUT_S)
    present = cluster.state.leader_epoch
    if present is not None and present.term > term:
        raise Deposed(f"term {present.term} has begun, this was {term}")
    writes = Writes()
    writes.put(LeaderEpoch(member_id=cluster.member_id, term=term))
    writes.expect(LEADER_KEY, cluster.state.modified(LEADER_KEY))
    (transaction,) = writes.transactions()
    result = await cluster.commit(transaction, COMMIT_TIMEOUT_S)
    if not result.succeeded:
        raise Deposed("another master leads now")
    return GuardedWriter(cluster, result.revision)
