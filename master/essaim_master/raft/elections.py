"""Elections: campaigns, votes, the leader's check of its quorum, leader transfer.

Paper 5.2 and 5.4.1; pre-vote, check-quorum and transfer from the dissertation, 9.6, 6.2 and 3.10.
"""

from essaim_master.raft import quorum, replication
from essaim_master.raft.errors import NotLeader, TransferRefused
from essaim_master.raft.member import Member
from essaim_master.raft.messages import Message, MessageType, Role
from essaim_master.raft.quorum import VoteResult
from essaim_shared.ids import MemberId

# Time


def tick_leader(member: Member) -> None:
    config = member.config
    member.heartbeat_elapsed += 1
    member.election_elapsed += 1
    if member.election_elapsed >= config.election_ticks_min:
        member.election_elapsed = 0
        # The target had its time: take proposals again rather than wait for ever.
        member.transfer_target = None
        if not _has_active_quorum(member):
            member.become_follower(member.term, None)
            return
    if member.heartbeat_elapsed >= config.heartbeat_ticks:
        member.is_heartbeat_due = True


def _has_active_quorum(member: Member) -> bool:
    active = {member.id}
    for follower, progress in member.progress.items():
        if progress.count_activity():
            active.add(follower)
    return quorum.has_quorum(member.configuration, active)


def tick_follower(member: Member) -> None:
    member.election_elapsed += 1
    if member.election_elapsed < member.election_timeout:
        return
    if member.is_promotable:
        pre_campaign(member)


# Campaigns


def pre_campaign(member: Member) -> None:
    """Ask everybody whether they would vote for us in the next term; nothing changes yet."""
    member.become_pre_candidate()
    if quorum.vote_result(member.configuration, member.votes) is VoteResult.WON:
        campaign(member)
        return
    _ask_for_votes(member, MessageType.PRE_VOTE_REQUEST, member.term + 1, force=False)


def campaign(member: Member, *, force: bool = False) -> None:
    """Start a term of our own. `force`: the old leader asked for it, so its grace does not count
    (rule 2)."""
    member.become_candidate()
    if quorum.vote_result(member.configuration, member.votes) is VoteResult.WON:
        _lead(member)
        return
    _ask_for_votes(member, MessageType.VOTE_REQUEST, member.term, force=force)


def _ask_for_votes(member: Member, type_: MessageType, term: int, *, force: bool) -> None:
    for other in quorum.members(member.configuration):
        # Learners are asked as well: one may be a voter that does not know it yet (rule 6).
        if other != member.id:
            member.send(
                type_,
                other,
                term=term,
                index=member.log.last_index,
                log_term=member.log.last_term,
                force=force,
            )


def _lead(member: Member) -> None:
    member.become_leader()
    replication.append_no_op(member)
    # Heartbeats at once: whoever is about to campaign should hear of us first.
    member.is_heartbeat_due = True


# Votes


def ignores_campaign(member: Member, message: Message) -> bool:
    """Whether a request for a vote is not even looked at, since a leader was heard lately.

    Otherwise a member that hears only some of the others could depose a working leader (rule 1).
    """
    return (
        not message.force
        and member.leader is not None
        and member.election_elapsed < member.config.election_ticks_min
    )


def on_vote_request(member: Member, message: Message) -> None:
    """Answer a vote, whose term is ours by now, or a pre-vote, whose term may be a later one."""
    is_pre_vote = message.type is MessageType.PRE_VOTE_REQUEST
    answer = MessageType.PRE_VOTE_RESPONSE if is_pre_vote else MessageType.VOTE_RESPONSE
    is_free = (
        member.vote == message.sender
        or (member.vote is None and member.leader is None)
        or (is_pre_vote and message.term > member.term)
    )
    if not is_free or not member.log.is_up_to_date(message.index, message.log_term):
        # Our own term, so that a sender that is behind catches up.
        member.send(answer, message.sender, reject=True)
        return
    if not is_pre_vote:
        member.vote = message.sender
        member.election_elapsed = 0
    # A granted pre-vote carries the term asked for: ours would look like an old message.
    member.send(answer, message.sender, term=message.term)


def on_pre_vote_response(member: Member, message: Message) -> None:
    granted_term = member.term + 1
    if not message.reject and message.term != granted_term:
        return
    match _count_vote(member, message):
        case VoteResult.WON:
            campaign(member)
        case VoteResult.LOST:
            member.become_follower(member.term, None)
        case VoteResult.PENDING:
            pass


def on_vote_response(member: Member, message: Message) -> None:
    match _count_vote(member, message):
        case VoteResult.WON:
            _lead(member)
        case VoteResult.LOST:
            member.become_follower(member.term, None)
        case VoteResult.PENDING:
            pass


def _count_vote(member: Member, message: Message) -> VoteResult:
    member.votes.setdefault(message.sender, not message.reject)
    return quorum.vote_result(member.configuration, member.votes)


# Leader transfer


def transfer_leadership(member: Member, to: MemberId) -> None:
    """Have `to` lead as soon as it holds the whole log; proposals are dropped meanwhile.

    Given up after one election timeout. A second call for another member replaces the first.
    """
    if member.role is not Role.LEADER:
        raise NotLeader(member.leader)
    if to == member.id:
        raise TransferRefused(f"{to} is the leader already")
    if to not in member.progress or not quorum.is_voter(member.configuration, to):
        voters = ", ".join(member.configuration.voters)
        raise TransferRefused(f"{to} does not vote; the voters are {voters}")
    if member.transfer_target == to:
        return
    member.transfer_target = to
    member.election_elapsed = 0
    member.progress[to].is_append_due = True
    member.is_append_due = True
    replication.hand_over_if_caught_up(member, to)


def on_timeout_now(member: Member, _message: Message) -> None:
    if member.is_promotable:
        campaign(member, force=True)
