"""How the API and the control loops reach the replicated state.

`ReplicatedCluster` is the real one, over a Raft node; `LocalCluster` is one master alone in
memory, for tests and tools. Both apply through the same store.
"""

import itertools
from collections.abc import Callable
from typing import Protocol

import msgspec

from essaim_master.kv.commands import (
    Command,
    ProposalId,
    Transaction,
    TransactionResult,
    encode_command,
)
from essaim_master.kv.errors import check_executed
from essaim_master.kv.store import KeyValueStore
from essaim_master.state.cluster_state import ClusterState
from essaim_shared.clock import Clock
from essaim_shared.errors import NoLeader
from essaim_shared.ids import MemberId


class Member(msgspec.Struct, frozen=True):
    """Where a master is found; addresses are `HOST:PORT`."""

    id: MemberId
    raft: str
    http: str


class LeadershipView(msgspec.Struct, frozen=True):
    """What a master knows of the consensus, for people and for metrics."""

    member_id: MemberId
    role: str
    term: int
    leader: MemberId | None
    commit_index: int
    applied_index: int
    last_index: int


LeadershipCallback = Callable[[bool, int], None]
"""Called with (this master leads, term)."""


class Cluster(Protocol):
    state: ClusterState
    member_id: MemberId

    @property
    def members(self) -> tuple[Member, ...]:
        """Voters and learners, as the state knows them; the static first ones until it does."""
        ...

    async def commit(self, transaction: Transaction, timeout_s: float) -> TransactionResult:
        """Replicate and apply a transaction once, whatever is lost on the way.

        Raises NoLeader (it was not tried), OutcomeUnknown (it may have happened), InvalidRequest
        (over the limits), and `kv.errors` for what the store refuses: only what users may ask for
        (their keys, leases, compacting) can be refused.
        """
        ...

    async def read_barrier(self, timeout_s: float) -> None:
        """Afterwards `state` holds everything that was acknowledged before the call. Raises
        NoLeader."""
        ...

    def leadership(self) -> LeadershipView: ...

    def subscribe_leadership(self, callback: LeadershipCallback) -> None: ...


class LocalCluster:
    """One master without peers or a disk. `available = False` makes it a master without quorum."""

    def __init__(self, clock: Clock, member: Member, others: tuple[Member, ...] = ()) -> None:
        self.available = True
        self.member_id = member.id
        self.members = (member, *others)
        self.store = KeyValueStore()
        self.state = ClusterState(self.store)
        self._clock = clock
        self._sequence = itertools.count(1)
        self._index = 0
        self._term = 1
        self._leads = True
        self._callbacks: list[LeadershipCallback] = []

    async def commit(self, transaction: Transaction, timeout_s: float) -> TransactionResult:
        self._require_quorum()
        proposal = ProposalId(self.member_id, next(self._sequence))
        command = encode_command(Command(proposal, self._clock.wall_ns(), transaction))
        self._index += 1
        result = self.store.apply(self._index, self._term, command).result
        check_executed(result)
        return result

    async def read_barrier(self, timeout_s: float) -> None:
        self._require_quorum()

    def leadership(self) -> LeadershipView:
        return LeadershipView(
            member_id=self.member_id,
            role="leader" if self._leads else "follower",
            term=self._term,
            leader=self.member_id if self._leads else None,
            commit_index=self._index,
            applied_index=self._index,
            last_index=self._index,
        )

    def subscribe_leadership(self, callback: LeadershipCallback) -> None:
        self._callbacks.append(callback)
        callback(self._leads, self._term)

    def lead(self, leads: bool, term: int) -> None:
        """Win or lose leadership, as an election would."""
        self._leads, self._term = leads, term
        for callback in self._callbacks:
            callback(leads, term)

    def _require_quorum(self) -> None:
        if not self.available:
            raise NoLeader("no quorum of masters: nothing can be read or changed until one is back")
