"""The rules on elections (rules 1 to 6), one test or more for each.

The rules are listed in the handbook, `essaim_master/raft/__init__.py`.
"""

import pytest

from essaim_master.raft import configurations
from essaim_master.raft.errors import ProposalDropped
from essaim_master.raft.messages import (
    Configuration,
    Entry,
    EntryKind,
    Message,
    MessageType,
    Role,
)


def no_op(term: int, index: int) -> Entry:
    return Entry(term, index, EntryKind.NO_OP, b"")


def test_rule_1_a_member_that_hears_its_leader_ignores_campaigns(core, raft):
    follower = core()
    follower.step(Message(MessageType.HEARTBEAT_REQUEST, "b", "a", 1))
    raft.work(follower)
    for type_ in (MessageType.PRE_VOTE_REQUEST, MessageType.VOTE_REQUEST):
        follower.step(Message(type_, "c", "a", 9))
    assert not follower.has_ready()
    assert follower.term == 1


def test_rule_1_the_grace_of_a_leader_ends_with_the_election_timeout(core, raft):
    follower = core(election_ticks_max=12)
    follower.step(Message(MessageType.HEARTBEAT_REQUEST, "b", "a", 1))
    raft.work(follower)
    for _ in range(6):
        follower.tick()
    follower.step(Message(MessageType.PRE_VOTE_REQUEST, "c", "a", 2))
    assert not raft.only(raft.messages_of(follower), MessageType.PRE_VOTE_RESPONSE).reject


def test_rule_1_a_leader_without_a_quorum_steps_down(cluster):
    three = cluster("a", "b", "c")
    three.elect("a")
    three.cut = {"b", "c"}
    three.tick(12)
    assert three.cores["a"].role is not Role.LEADER
    assert three.cores["a"].term == 1, "its silence costs no term"


def test_rule_1_a_leader_with_a_bare_quorum_stays(cluster):
    three = cluster("a", "b", "c")
    three.elect("a")
    three.cut = {"c"}
    three.tick(50)
    assert three.cores["a"].is_leader
    assert three.cores["a"].term == 1
    assert three.cores["c"].term == 1, "pre-votes do not raise the term of who is cut off"
    three.cut = set()
    three.tick(3)
    assert three.cores["a"].is_leader, "and its return disturbs nobody"


def test_rule_1_a_member_stuck_in_a_later_term_is_freed_by_an_answer(cluster, core):
    """It refuses a leader of an older term, and could never win itself: its log is behind."""
    three = cluster(core("a"), core("b"), core("c", term=5))
    three.cut = {"c"}
    three.elect("a")
    three.cores["a"].propose([b"x"])
    three.settle()
    three.cut = set()
    three.tick(20)
    assert any(one.is_leader for one in three.cores.values())
    assert len({one.commit for one in three.cores.values()}) == 1
    assert len({one.term for one in three.cores.values()}) == 1


def test_rule_1_a_lower_pre_vote_is_refused_not_dropped(core, raft):
    member = core(term=7)
    member.step(Message(MessageType.PRE_VOTE_REQUEST, "b", "a", 3, index=9, log_term=2))
    answer = raft.only(raft.messages_of(member), MessageType.PRE_VOTE_RESPONSE)
    assert answer.reject
    assert answer.term == 7


def test_rule_2_a_transfer_overrides_the_grace(cluster):
    three = cluster("a", "b", "c")
    three.elect("a").transfer_leadership("b")
    three.settle()
    assert three.cores["b"].is_leader
    assert three.cores["b"].term == 2


def test_rule_2_proposals_are_dropped_during_a_transfer_and_taken_after_it_failed(cluster):
    three = cluster("a", "b", "c")
    leading = three.elect("a")
    three.cut = {"b"}
    leading.transfer_leadership("b")
    with pytest.raises(ProposalDropped, match="b"):
        leading.propose([b"x"])
    last = leading.status().last_index
    three.tick(6)
    assert leading.propose([b"x"]) == range(last + 1, last + 2)


def test_rule_3_a_refused_candidate_does_not_reset_the_timer(core, raft):
    member = core(log=(1, 1), election_ticks_max=7)
    for _ in range(5):
        member.tick()
    member.step(Message(MessageType.VOTE_REQUEST, "b", "a", 2, index=1, log_term=1))
    assert raft.only(raft.messages_of(member), MessageType.VOTE_RESPONSE).reject
    member.tick()
    assert member.role is Role.PRE_CANDIDATE


def test_rule_3_a_granted_vote_and_a_sign_of_the_leader_reset_it(core, raft):
    for message in (
        Message(MessageType.VOTE_REQUEST, "b", "a", 2),
        Message(MessageType.HEARTBEAT_REQUEST, "b", "a", 2),
        Message(MessageType.APPEND_REQUEST, "b", "a", 2),
    ):
        member = core()
        for _ in range(5):
            member.tick()
        member.step(message)
        for _ in range(5):
            member.tick()
        assert member.role is Role.FOLLOWER


def test_rule_3_a_granted_pre_vote_does_not_reset_it(core):
    member = core()
    for _ in range(5):
        member.tick()
    member.step(Message(MessageType.PRE_VOTE_REQUEST, "b", "a", 1))
    member.tick()
    assert member.role is Role.PRE_CANDIDATE


def test_rule_4_votes_and_acknowledgements_wait_for_the_sync(core):
    member = core()
    member.step(Message(MessageType.VOTE_REQUEST, "b", "a", 1))
    member.step(Message(MessageType.APPEND_REQUEST, "b", "a", 1, entries=(no_op(1, 1),)))
    ready = member.ready()
    assert ready.must_sync
    assert (ready.hard_state.term, ready.hard_state.vote) == (1, "b")
    assert ready.messages_now == ()
    assert {message.type for message in ready.messages_after_sync} == {
        MessageType.VOTE_RESPONSE,
        MessageType.APPEND_RESPONSE,
    }


def test_rule_4_every_message_of_a_term_waits_until_the_term_is_durable(core):
    member = core()
    member.step(Message(MessageType.HEARTBEAT_REQUEST, "b", "a", 3))
    first = member.ready()
    assert first.must_sync
    assert first.messages_now == ()
    member.step(Message(MessageType.HEARTBEAT_REQUEST, "b", "a", 3))
    assert member.ready().messages_now == (), "the first sync may still be under way"
    member.persisted(first.persist_term, first.persist_index)
    member.step(Message(MessageType.HEARTBEAT_REQUEST, "b", "a", 3))
    assert [m.type for m in member.ready().messages_now] == [MessageType.HEARTBEAT_RESPONSE]


def test_rule_4_a_cluster_of_one_sends_nothing_of_a_term_that_is_not_durable(core):
    """Nobody else's vote proves that its own is on disk; a learner must not see entries which
    another life of the same term would replace."""
    single = core("a", ["a"], learners=["b"])
    for _ in range(6):
        single.tick()
    ready = single.ready()
    assert single.is_leader
    assert ready.messages_now == ()
    assert ready.messages_after_sync


def test_rule_4_a_vote_in_a_known_term_is_synced_too(core):
    member = core(term=1)
    member.step(Message(MessageType.VOTE_REQUEST, "b", "a", 1))
    ready = member.ready()
    assert ready.hard_state.vote == "b"
    assert ready.must_sync


def test_rule_4_a_commit_alone_needs_no_sync(leader, raft):
    leading = leader()
    raft.work(leading)
    leading.step(Message(MessageType.APPEND_RESPONSE, "b", "a", 1, index=1))
    ready = leading.ready()
    assert ready.hard_state.commit == 1
    assert not ready.must_sync


def test_rule_5_a_new_leader_appends_a_no_op(leader):
    entries = leader(log=(1, 1)).ready().entries
    assert entries == (no_op(2, 3),)


def test_rule_5_only_entries_of_the_own_term_are_counted(leader, raft):
    """Paper, figure 8: an old entry on a majority may still be replaced."""
    leading = leader(log=(1, 2))
    raft.work(leading)
    leading.step(Message(MessageType.APPEND_RESPONSE, "b", "a", 3, index=2))
    assert leading.commit == 0
    leading.step(Message(MessageType.APPEND_RESPONSE, "b", "a", 3, index=3))
    assert leading.commit == 3


def test_rule_6_a_learner_answers_a_vote(core, raft):
    """It may be a voter that does not know it yet."""
    learner = core("d", ["a", "b", "c"], learners=["d"])
    learner.step(Message(MessageType.VOTE_REQUEST, "a", "d", 1))
    assert not raft.only(raft.messages_of(learner), MessageType.VOTE_RESPONSE).reject


def test_rule_6_a_learner_does_not_campaign_and_does_not_count(core, leader):
    learner = core("d", ["a", "b", "c"], learners=["d"])
    for _ in range(100):
        learner.tick()
    learner.step(Message(MessageType.TIMEOUT_NOW, "a", "d", 0))
    assert learner.role is Role.FOLLOWER
    leading = leader("a", ["a", "b", "c"], learners=["d"])
    leading.persisted(1, 1)
    leading.step(Message(MessageType.APPEND_RESPONSE, "d", "a", 1, index=1))
    assert leading.commit == 0


def test_rule_6_a_configuration_counts_once_appended_and_until_truncated(core):
    """A learner which the log promotes may campaign at once; not if that entry is replaced."""
    member = core("d", ["a", "b", "c"], learners=["d"])
    promotion = Entry(
        1, 1, EntryKind.CONFIGURATION, configurations.encode(Configuration(("a", "b", "c", "d")))
    )
    member.step(Message(MessageType.APPEND_REQUEST, "b", "d", 1, entries=(promotion,)))
    assert member.status().configuration.voters == ("a", "b", "c", "d")
    other = Entry(2, 1, EntryKind.NORMAL, b"")
    member.step(Message(MessageType.APPEND_REQUEST, "c", "d", 2, entries=(other,)))
    assert member.status().configuration == Configuration(("a", "b", "c"), learners=("d",))
    for _ in range(20):
        member.tick()
    assert member.role is Role.FOLLOWER


@pytest.mark.parametrize("is_committed", [False, True])
def test_rule_6_who_is_being_removed_may_lead_until_that_is_committed(core, raft, is_committed):
    """Its log may be the only one that can still win; its own vote does not count."""
    member = core("a", ["a", "b"])
    removal = Entry(1, 1, EntryKind.CONFIGURATION, configurations.encode(Configuration(("b",))))
    commit = 1 if is_committed else 0
    member.step(Message(MessageType.APPEND_REQUEST, "b", "a", 1, entries=(removal,), commit=commit))
    raft.work(member)
    for _ in range(6):
        member.tick()
    assert member.role is (Role.FOLLOWER if is_committed else Role.PRE_CANDIDATE)
    if not is_committed:
        request = raft.only(raft.messages_of(member), MessageType.PRE_VOTE_REQUEST)
        member.step(Message(MessageType.PRE_VOTE_RESPONSE, "b", "a", request.term))
        raft.work(member)
        member.step(Message(MessageType.VOTE_RESPONSE, "b", "a", member.term))
        assert member.is_leader
