"""The arithmetic of majorities: pure functions over a Configuration.

Two sets of voters count while a joint change is under way, and a decision needs a majority of
each (dissertation 4.3); outside of one the second set is empty and agrees to everything.
Learners never count.
"""

from collections.abc import Collection, Mapping
from enum import Enum

from essaim_master.raft.messages import Configuration
from essaim_shared.ids import MemberId

INDEX_MAX = 2**63 - 1
"""What an empty set of voters has acknowledged: everything."""


class VoteResult(Enum):
    PENDING = "pending"
    WON = "won"
    LOST = "lost"


def quorum_size(voter_count: int) -> int:
    return voter_count // 2 + 1


def is_voter(configuration: Configuration, member: MemberId) -> bool:
    return member in configuration.voters or member in configuration.voters_outgoing


def members(configuration: Configuration) -> tuple[MemberId, ...]:
    """Everybody who is sent the log, each once, in the order of the configuration."""
    everybody = (
        *configuration.voters,
        *configuration.voters_outgoing,
        *configuration.learners,
    )
    return tuple(dict.fromkeys(everybody))


def _majority_index(voters: tuple[MemberId, ...], acknowledged: Mapping[MemberId, int]) -> int:
    if not voters:
        return INDEX_MAX
    indexes = sorted(acknowledged.get(voter, 0) for voter in voters)
    return indexes[len(indexes) - quorum_size(len(indexes))]


def committed_index(configuration: Configuration, acknowledged: Mapping[MemberId, int]) -> int:
    """Highest number that a quorum has acknowledged; members not in the mapping stand at 0.

    Used for log indexes (paper 5.3) and, with the same meaning, for read rounds (rule 15).
    """
    return min(
        _majority_index(configuration.voters, acknowledged),
        _majority_index(configuration.voters_outgoing, acknowledged),
    )


def _majority_vote(voters: tuple[MemberId, ...], votes: Mapping[MemberId, bool]) -> VoteResult:
    if not voters:
        return VoteResult.WON
    granted = sum(1 for voter in voters if votes.get(voter) is True)
    missing = sum(1 for voter in voters if voter not in votes)
    if granted >= quorum_size(len(voters)):
        return VoteResult.WON
    if granted + missing >= quorum_size(len(voters)):
        return VoteResult.PENDING
    return VoteResult.LOST


def vote_result(configuration: Configuration, votes: Mapping[MemberId, bool]) -> VoteResult:
    """Where an election stands; `votes` holds one answer for each member that gave one."""
    results = (
        _majority_vote(configuration.voters, votes),
        _majority_vote(configuration.voters_outgoing, votes),
    )
    if VoteResult.LOST in results:
        return VoteResult.LOST
    if VoteResult.PENDING in results:
        return VoteResult.PENDING
    return VoteResult.WON


def has_quorum(configuration: Configuration, active: Collection[MemberId]) -> bool:
    """Whether the members in `active` are enough to decide."""
    return vote_result(configuration, dict.fromkeys(active, True)) is VoteResult.WON
