"""Changes of the configuration, one member at a time (dissertation 4.1 to 4.3; rules 17 to 19).

    nobody ──AddLearner──▶ learner ──PromoteLearner──▶ voter
       ▲                      │                          │
       └──────────────── RemoveMember ───────────────────┘

A majority of the old voters and one of the new ones always share a member when the two sets differ
by one, so no joint phase is needed. Joining as a learner first means that a new master never
counts before it holds the log. A swap of several at once would need joint consensus: the format
and the arithmetic of quorums know `voters_outgoing`, and nothing here sets it.

A story of why rule 17 is a rule: in 2015 the original algorithm turned out unsafe. A leader
appended a change, another leader was elected without it and appended its own; then the two could
count majorities that share nobody. With an entry of its own term committed first, the second
leader knows of no unfinished change, and nobody can still finish one.
"""

import msgspec

from essaim_master.raft import configurations, quorum
from essaim_master.raft.errors import MembershipRefused, NotLeader, ProposalDropped
from essaim_master.raft.member import Member
from essaim_master.raft.messages import Configuration, Entry, EntryKind, MessageType, Role
from essaim_master.raft.progress import ProgressState
from essaim_shared.ids import MemberId

MEMBERS_MAX = 16
"""Voters and learners together; more than five voters only make every write slower."""
PROMOTION_LAG_ENTRIES_MAX = 1024
"""A learner that lacks more committed entries than this does not hold the log yet."""


class AddLearner(msgspec.Struct, frozen=True, tag=True):
    """A new member: it is sent the log and counts nowhere. The name must never have been used
    by another disk (rule 20)."""

    member: MemberId


class PromoteLearner(msgspec.Struct, frozen=True, tag=True):
    """A learner that has caught up begins to vote."""

    member: MemberId


class RemoveMember(msgspec.Struct, frozen=True, tag=True):
    """A voter or a learner leaves, the leader too: it hands over once its removal is committed."""

    member: MemberId


ConfigurationChange = AddLearner | PromoteLearner | RemoveMember


def changed(configuration: Configuration, change: ConfigurationChange) -> Configuration:
    """The configuration after one change. Raises MembershipRefused, with the reason."""
    name = change.member
    voters, learners = configuration.voters, configuration.learners
    if configuration.voters_outgoing:
        raise MembershipRefused("a joint change is under way: it must end first")
    if not name:
        raise MembershipRefused("a member needs a name")
    match change:
        case AddLearner():
            if name in voters or name in learners:
                raise MembershipRefused(f"{name} is a member already")
            if len(voters) + len(learners) >= MEMBERS_MAX:
                raise MembershipRefused(f"there are {MEMBERS_MAX} members: remove one first")
            return Configuration(voters, learners=(*learners, name))
        case PromoteLearner():
            if name not in learners:
                what = "votes already" if name in voters else "is not a member: add it first"
                raise MembershipRefused(f"{name} {what}")
            rest = tuple(learner for learner in learners if learner != name)
            return Configuration((*voters, name), learners=rest)
        case RemoveMember():
            if name not in voters and name not in learners:
                raise MembershipRefused(f"{name} is not a member")
            if voters == (name,):
                raise MembershipRefused(f"{name} is the only voter: nobody could decide any more")
            return Configuration(
                tuple(voter for voter in voters if voter != name),
                learners=tuple(learner for learner in learners if learner != name),
            )


def propose(member: Member, change: ConfigurationChange) -> int:
    """Append a change, which is in effect here at once; its index. The caller looks whether the
    new quorum commits more than the old one did.

    Raises NotLeader, ProposalDropped (not now: ask again) or MembershipRefused (not like this).
    """
    if member.role is not Role.LEADER:
        raise NotLeader(member.leader)
    log = member.log
    if member.transfer_target is not None:
        raise ProposalDropped(f"leadership is on its way to {member.transfer_target}")
    if log.term_at(log.commit) != member.term:
        raise ProposalDropped("this leader has not committed an entry of its own yet")  # Rule 17.
    if log.applied < log.configurations.latest.index:
        raise ProposalDropped("the change of the members before this one is not applied yet")
    configuration = changed(member.configuration, change)
    if isinstance(change, PromoteLearner):
        _check_caught_up(member, change.member)
    if configuration.voters != member.configuration.voters:
        _check_live_majority(member, configuration)
    index = log.last_index + 1
    data = configurations.encode(configuration)
    log.append([Entry(member.term, index, EntryKind.CONFIGURATION, data)])
    member.is_append_due = True
    member.adopt_configuration()
    return index


def _check_caught_up(member: Member, learner: MemberId) -> None:
    progress, commit = member.progress[learner], member.log.commit
    if not progress.is_recently_active or progress.state is not ProgressState.REPLICATE:
        raise MembershipRefused(f"{learner} does not follow the log: is that master running?")
    if progress.match + PROMOTION_LAG_ENTRIES_MAX < commit:
        raise MembershipRefused(
            f"{learner} holds {progress.match} of {commit} entries: promote it when it caught up"
        )


def _check_live_majority(member: Member, configuration: Configuration) -> None:
    """A change after which the voters that answer are no majority would end the cluster."""
    active = {name for name, one in member.progress.items() if one.is_recently_active}
    active.add(member.id)
    if not quorum.has_quorum(configuration, active):
        live = [voter for voter in configuration.voters if voter in active]
        raise MembershipRefused(
            f"of the {len(configuration.voters)} voters there would be, only"
            f" {', '.join(live) or 'none'} answers: start the others, or remove those first"
        )


def settle(member: Member) -> None:
    """This leader's change is committed, and this turn's appends say so to those who leave: send
    them nothing more. Who removed itself hands over (rule 19; dissertation 4.2.2)."""
    member.change_index = None
    for name in member.leaving:
        member.progress.pop(name, None)
        member.match.pop(name, None)
    member.leaving = ()
    configuration = member.configuration
    if quorum.is_voter(configuration, member.id):
        return
    heir = max(configuration.voters, key=lambda voter: member.match.get(voter, 0))
    member.send(MessageType.TIMEOUT_NOW, heir)
    member.become_follower(member.term, None)
