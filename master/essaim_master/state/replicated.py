"""The replicated state over a real Raft node: what the API and the control loops are given."""

import itertools
import random

from essaim_master.kv.commands import (
    Command,
    ProposalId,
    Transaction,
    TransactionResult,
    encode_command,
)
from essaim_master.kv.errors import check_executed
from essaim_master.raft_driver import RaftNode
from essaim_master.state.cluster import LeadershipCallback, LeadershipView, Member
from essaim_master.state.cluster_state import ClusterState
from essaim_shared.clock import Clock
from essaim_shared.errors import BrokenInvariant
from essaim_shared.ids import MemberId, new_id


class ReplicatedCluster:
    """See `cluster.Cluster` for the contract."""

    def __init__(
        self,
        node: RaftNode,
        state: ClusterState,
        member_id: MemberId,
        first_members: tuple[Member, ...],
        clock: Clock,
        rng: random.Random,
    ) -> None:
        self.state = state
        self.member_id = member_id
        self._first_members = first_members
        self._node = node
        self._clock = clock
        # A new client for each run: after a crash, sequences may begin anew without being taken
        # for repetitions.
        self._client_id = new_id(rng)
        self._sequence = itertools.count(1)

    @property
    def members(self) -> tuple[Member, ...]:
        present = tuple(
            Member(one.id, one.raft, one.http)
            for _, one in sorted(self.state.members.items())
            if not one.removed_ns
        )
        return present or self._first_members

    async def commit(self, transaction: Transaction, timeout_s: float) -> TransactionResult:
        proposal = ProposalId(self._client_id, next(self._sequence))
        command = encode_command(Command(proposal, self._clock.wall_ns(), transaction))
        result = await self._node.propose(command, proposal, timeout_s)
        if not isinstance(result, TransactionResult):
            raise BrokenInvariant(f"proposal {proposal} was answered with a {type(result)}")
        check_executed(result)
        return result

    async def read_barrier(self, timeout_s: float) -> None:
        await self._node.read_barrier(timeout_s)

    def leadership(self) -> LeadershipView:
        status = self._node.status()
        return LeadershipView(
            member_id=self.member_id,
            role=status.role.name.lower(),
            term=status.term,
            leader=status.leader,
            commit_index=status.commit,
            applied_index=self._node.applied,
            last_index=status.last_index,
        )

    def subscribe_leadership(self, callback: LeadershipCallback) -> None:
        self._node.subscribe_leadership(callback)
