"""Linearizable reads without a write: ReadIndex (dissertation 6.4), by rounds.

A read is safe at the commit index of the moment it was asked, once a quorum has confirmed, *after*
that moment, that this leader still leads. Heartbeats carry the number of the latest round; each
follower echoes it. Kept per follower is only the highest number echoed, and the confirmed round is
the quorum's committed index over these numbers.

A short story of why there are numbers: with a token per read, an echo of an *old* heartbeat that
carried the same token, sent again, could confirm a read that was asked later; a leader paused in
between then served a stale value (etcd issue 20418, in every release for eight months). A number
that only grows cannot be taken for a later one.
"""

from collections import deque
from typing import NamedTuple

from essaim_master.raft import quorum
from essaim_master.raft.messages import Configuration
from essaim_shared.ids import MemberId

READS_PENDING_MAX = 100_000
"""Reads waiting in one member; more are refused at once, and their askers ask again."""


class PendingRead(NamedTuple):
    context: int
    asker: MemberId | None
    """The follower that asked; None: the driver of this member."""
    commit: int
    """Where the leader's log was committed when the read was asked: what it must see."""
    round: int
    """The round that must be confirmed; the first to start after the read was asked."""


class ReadRounds:
    """The reads of one leader, for one term."""

    def __init__(self, member_id: MemberId) -> None:
        self._member_id = member_id
        self.round = 0
        """Number of the latest round; every heartbeat carries it, which also sends it again."""
        self._echoed: dict[MemberId, int] = {}
        self._pending: deque[PendingRead] = deque()
        self._postponed: list[tuple[int, MemberId | None]] = []

    def __len__(self) -> int:
        return len(self._pending) + len(self._postponed)

    @property
    def is_full(self) -> bool:
        return len(self) >= READS_PENDING_MAX

    @property
    def is_round_due(self) -> bool:
        """Whether reads wait for a round that has not started."""
        return bool(self._pending) and self._pending[-1].round > self.round

    def ask(self, context: int, asker: MemberId | None, commit: int) -> None:
        """Wait for the next round. All reads of one turn share it."""
        self._pending.append(PendingRead(context, asker, commit, self.round + 1))

    def postpone(self, context: int, asker: MemberId | None) -> None:
        """Hold a read back until an entry of this term is committed (rule 15).

        Before that a new leader does not know how far its predecessors had committed.
        """
        self._postponed.append((context, asker))

    def release_postponed(self, commit: int) -> None:
        for context, asker in self._postponed:
            self.ask(context, asker, commit)
        self._postponed.clear()

    def start_round(self) -> int:
        self.round += 1
        self._echoed[self._member_id] = self.round
        return self.round

    def echo(self, member: MemberId, round_number: int) -> None:
        """`member` confirmed a round; a late echo of an earlier one changes nothing."""
        if round_number > self._echoed.get(member, 0):
            self._echoed[member] = round_number

    def take_confirmed(self, configuration: Configuration) -> list[PendingRead]:
        """The reads that are safe now, in the order in which they were asked."""
        if not self._pending:
            return []
        confirmed = quorum.committed_index(configuration, self._echoed)
        taken = []
        while self._pending and self._pending[0].round <= confirmed:
            taken.append(self._pending.popleft())
        return taken

    def refuse_all(self) -> list[int]:
        """Give up every read; the contexts of this member's own, whose driver must be told."""
        own = [read.context for read in self._pending if read.asker is None]
        own += [context for context, asker in self._postponed if asker is None]
        self._pending.clear()
        self._postponed.clear()
        return own


class ForwardedReads:
    """Reads that this follower passed on to its leader and that are not answered yet.

    The question or its answer may be lost, so each has a deadline; the driver then asks again.
    """

    def __init__(self) -> None:
        self._deadlines: dict[int, int] = {}
        """Tick at which to give up, by context; in the order of asking, hence of deadlines."""

    def __len__(self) -> int:
        return len(self._deadlines)

    @property
    def is_full(self) -> bool:
        return len(self) >= READS_PENDING_MAX

    def add(self, context: int, deadline_tick: int) -> None:
        self._deadlines[context] = deadline_tick

    def answer(self, context: int) -> bool:
        """Whether this read was still waiting."""
        return self._deadlines.pop(context, None) is not None

    def take_expired(self, tick: int) -> list[int]:
        expired = []
        for context, deadline_tick in self._deadlines.items():
            if deadline_tick > tick:
                break
            expired.append(context)
        for context in expired:
            del self._deadlines[context]
        return expired

    def refuse_all(self) -> list[int]:
        contexts = list(self._deadlines)
        self._deadlines.clear()
        return contexts
