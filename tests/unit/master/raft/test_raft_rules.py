"""One test (or more) for each of the fifteen rules on elections, replication and reads.

The rules are listed in the handbook, `essaim_master/raft/__init__.py`.
"""

import pytest

from essaim_master.raft.errors import NotLeader, ProposalDropped
from essaim_master.raft.messages import Entry, EntryKind, Message, MessageType, Role
from essaim_master.raft.progress import ProgressState
from essaim_shared.errors import BrokenInvariant


def no_op(term: int, index: int) -> Entry:
    return Entry(term, index, EntryKind.NO_OP, b"")


def normal(term: int, index: int) -> Entry:
    return Entry(term, index, EntryKind.NORMAL, b"x")


# Elections


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


def test_rule_6_no_campaign_with_an_unapplied_configuration(core):
    member = core()
    change = Entry(1, 1, EntryKind.CONFIGURATION, b"")
    member.step(Message(MessageType.APPEND_REQUEST, "b", "a", 1, entries=(change,), commit=1))
    for _ in range(20):
        member.tick()
    assert member.role is Role.FOLLOWER
    member.ready()
    member.applied_to(1)
    member.tick()
    assert member.role is Role.PRE_CANDIDATE


# Replication


def test_rule_7_answers_of_an_older_term_are_ignored(leader, raft):
    leading = leader(log=(1, 1))
    raft.work(leading)
    leading.step(Message(MessageType.APPEND_RESPONSE, "b", "a", 1, index=3))
    leading.step(Message(MessageType.VOTE_RESPONSE, "b", "a", 1))
    assert leading.commit == 0
    assert leading.status().progress["b"].match == 0


def test_rule_7_a_doubled_vote_counts_once(core, raft):
    candidate = core("a", ["a", "b", "c", "d", "e"])
    for _ in range(6):
        candidate.tick()
    for _ in range(5):
        candidate.step(Message(MessageType.PRE_VOTE_RESPONSE, "b", "a", 1))
    assert candidate.role is Role.PRE_CANDIDATE
    candidate.step(Message(MessageType.PRE_VOTE_RESPONSE, "c", "a", 1))
    assert candidate.role is Role.CANDIDATE
    for _ in range(5):
        candidate.step(Message(MessageType.VOTE_RESPONSE, "b", "a", 1))
    assert candidate.role is Role.CANDIDATE


@pytest.mark.parametrize("term", [3, 5, 9])
def test_rule_7_a_pre_vote_granted_for_another_term_does_not_count(core, term):
    candidate = core(term=3)
    for _ in range(6):
        candidate.tick()
    candidate.step(Message(MessageType.PRE_VOTE_RESPONSE, "b", "a", term))
    assert (candidate.role, candidate.term) == (Role.PRE_CANDIDATE, 3)


def test_rule_7_match_only_grows_and_next_stays_above_it(leader, raft):
    leading = leader()
    leading.propose([b"x"] * 4)
    raft.work(leading)
    for index in (5, 2, 4):
        leading.step(Message(MessageType.APPEND_RESPONSE, "b", "a", 1, index=index))
    leading.step(Message(MessageType.APPEND_RESPONSE, "b", "a", 1, index=3, reject=True, hint=1))
    row = leading.status().progress["b"]
    assert (row.match, row.next) == (5, 6)


def test_rule_7_an_acknowledgement_beyond_the_log_stops_the_leader(leader, raft):
    leading = leader()
    raft.work(leading)
    with pytest.raises(BrokenInvariant, match="entry 9 in term 1"):
        leading.step(Message(MessageType.APPEND_RESPONSE, "b", "a", 1, index=9))


def test_rule_8_a_late_append_cuts_nothing_off(core, raft):
    follower = core()
    entries = tuple(normal(1, index) for index in (1, 2, 3))
    follower.step(Message(MessageType.APPEND_REQUEST, "b", "a", 1, entries=entries))
    raft.work(follower)
    follower.step(Message(MessageType.APPEND_REQUEST, "b", "a", 1, entries=entries[:1]))
    assert follower.status().last_index == 3
    assert raft.only(raft.messages_of(follower), MessageType.APPEND_RESPONSE).index == 1


def test_rule_8_a_conflict_replaces_the_tail(core):
    follower = core(log=(1, 1, 1))
    new = (normal(2, 2),)
    follower.step(
        Message(MessageType.APPEND_REQUEST, "b", "a", 2, index=1, log_term=1, entries=new)
    )
    assert follower.ready().entries == new
    assert follower.status().last_index == 2


def test_rule_8_below_commit_nothing_is_touched(core, raft):
    follower = core(log=(1, 1, 1), commit=2)
    follower.step(Message(MessageType.APPEND_REQUEST, "b", "a", 2, entries=(normal(1, 1),)))
    answer = raft.only(raft.messages_of(follower), MessageType.APPEND_RESPONSE)
    assert (answer.index, answer.reject) == (2, False), "what is committed agrees"


def test_rule_8_a_commit_beyond_the_log_stops_a_member_that_lost_its_disk(core):
    """It acknowledged entries that it does not have: to go on would be to vote without them."""
    follower = core(log=(1, 1, 1), commit=3)
    with pytest.raises(BrokenInvariant, match="commit 9 is beyond the last entry 3"):
        follower.step(Message(MessageType.HEARTBEAT_REQUEST, "c", "a", 3, commit=9))


def test_rule_9_one_refusal_skips_a_whole_term(cluster, core):
    """The leader's log and the follower's differ by 40 entries in two terms."""
    voters = ["a", "b", "c"]
    three = cluster(
        core("a", voters, log=[1] * 5 + [4] * 40, term=4),
        core("b", voters, log=[1] * 5 + [4] * 40, term=4),
        core("c", voters, log=[1] * 5 + [2] * 20 + [3] * 20, term=4),
    )
    three.elect("a")
    refusals = [
        message
        for message in three.delivered
        if message.type is MessageType.APPEND_RESPONSE and message.reject
    ]
    assert len(refusals) <= 2
    assert three.cores["c"].commit == 46


def test_rule_9_a_short_log_is_found_with_one_refusal(cluster, core):
    voters = ["a", "b", "c"]
    three = cluster(
        core("a", voters, log=[1] * 500), core("b", voters, log=[1] * 500), core("c", voters)
    )
    three.elect("a")
    refusals = [message for message in three.delivered if message.reject]
    assert len(refusals) <= 1
    assert three.cores["c"].commit == 501


def test_rule_10_probing_sends_one_append_until_it_is_answered(leader, raft):
    leading = leader()
    raft.work(leading)
    assert leading.status().progress["b"].state is ProgressState.PROBE
    leading.propose([b"x"])
    assert raft.messages_of(leading) == ()
    leading.step(Message(MessageType.APPEND_RESPONSE, "b", "a", 1, index=1))
    assert leading.status().progress["b"].state is ProgressState.REPLICATE
    assert [m.receiver for m in raft.messages_of(leading)] == ["b"]


def test_rule_10_a_heartbeat_answer_resumes_probing_once_a_tick(leader, raft):
    leading = leader()
    raft.work(leading)
    leading.tick()
    raft.work(leading)
    leading.step(Message(MessageType.HEARTBEAT_RESPONSE, "b", "a", 1))
    assert raft.only(raft.messages_of(leading), MessageType.APPEND_REQUEST).receiver == "b"
    leading.step(Message(MessageType.HEARTBEAT_RESPONSE, "b", "a", 1))
    assert raft.messages_of(leading) == ()


def test_rule_10_a_full_window_is_probed_with_an_empty_append(leader, raft):
    leading = leader(inflight_messages_max=2, append_bytes_max=1)
    raft.work(leading)
    leading.step(Message(MessageType.APPEND_RESPONSE, "b", "a", 1, index=1))
    raft.work(leading)
    leading.propose([b"x"] * 5)
    sent = [message for message in raft.messages_of(leading) if message.receiver == "b"]
    assert [len(message.entries) for message in sent] == [1, 1]
    leading.tick()
    raft.work(leading)
    leading.step(Message(MessageType.HEARTBEAT_RESPONSE, "b", "a", 1))
    empty = raft.only(raft.messages_of(leading), MessageType.APPEND_REQUEST)
    assert (empty.index, empty.entries) == (3, ())


def test_rule_11_a_heartbeat_tells_no_commit_beyond_match(cluster):
    three = cluster("a", "b", "c")
    leading = three.elect("a")
    three.cut = {"c"}
    leading.propose([b"x"])
    three.settle()
    three.network.clear()
    leading.tick()
    beats = {
        message.receiver: message.commit
        for message in leading.ready().messages_now
        if message.type is MessageType.HEARTBEAT_REQUEST
    }
    assert leading.commit == 2
    assert beats == {"b": 2, "c": 1}


def test_rule_11_an_append_tells_a_follower_no_commit_beyond_what_it_proves(core):
    """Entry 2 here is not the leader's; the append speaks of entry 1 only."""
    follower = core(log=(1, 1))
    follower.step(Message(MessageType.APPEND_REQUEST, "b", "a", 2, index=1, log_term=1, commit=2))
    assert follower.commit == 1


def test_rule_12_a_late_report_of_another_term_counts_for_nothing(leader, raft):
    leading = leader(log=(1, 1))
    leading.persisted(1, 2)
    assert leading.status().progress["a"].match == 0
    ready = leading.ready()
    leading.persisted(ready.persist_term, ready.persist_index)
    assert leading.status().progress["a"].match == 3, "FIFO: it covers all that came before"


def test_rule_12_reports_on_a_follower_count_for_nothing_once_it_leads(core, raft):
    member = core()
    member.step(Message(MessageType.APPEND_REQUEST, "b", "a", 1, entries=(normal(1, 1),)))
    slow = member.ready()
    for _ in range(6):
        member.tick()
    member.ready()
    member.step(Message(MessageType.PRE_VOTE_RESPONSE, "c", "a", 2))
    member.ready()
    member.step(Message(MessageType.VOTE_RESPONSE, "c", "a", 2))
    assert member.is_leader
    member.persisted(slow.persist_term, slow.persist_index)
    assert member.status().progress["a"].match == 0


def test_rule_12_a_report_of_what_was_never_handed_out_stops_the_member(leader):
    leading = leader()
    with pytest.raises(BrokenInvariant, match="entry 7 reported durable"):
        leading.persisted(1, 7)
    with pytest.raises(BrokenInvariant, match="term 5 reported durable"):
        leading.persisted(5, 1)


def test_rule_13_a_single_member_commits_only_what_its_disk_has(core):
    single = core("a", ["a"])
    for _ in range(6):
        single.tick()
    ready = single.ready()
    assert single.commit == 0
    single.persisted(ready.persist_term, ready.persist_index)
    assert single.commit == 1


def test_rule_13_others_may_commit_before_the_leaders_own_disk(leader):
    leading = leader()
    leading.ready()
    for other in "bc":
        leading.step(Message(MessageType.APPEND_RESPONSE, other, "a", 1, index=1))
    assert leading.commit == 1
    assert leading.status().progress["a"].match == 0


def test_rule_14_uncommitted_bytes_are_bounded(leader):
    leading = leader(uncommitted_bytes_max=1000)
    leading.propose([b"x" * 900])
    with pytest.raises(ProposalDropped, match="1000"):
        leading.propose([b"x" * 100])
    assert leading.status().last_index == 2, "nothing of a dropped batch is appended"
    leading.persisted(1, 2)
    leading.step(Message(MessageType.APPEND_RESPONSE, "b", "a", 1, index=2))
    assert leading.propose([b"x" * 5000]) == range(3, 4), "alone, one of any size is taken"


def test_rule_14_committed_bytes_of_one_turn_are_bounded(core):
    member = core(log=[1] * 10, commit=10, committed_bytes_per_ready_max=3 * 19)
    sizes = []
    while member.has_ready():
        committed = member.ready().committed
        sizes.append(len(committed))
        member.applied_to(committed[-1].index)
    assert sizes == [3, 3, 3, 1]


def test_rule_14_proposals_need_the_leader_and_name_it(core):
    follower = core()
    with pytest.raises(NotLeader) as nobody:
        follower.propose([b"x"])
    assert nobody.value.leader is None
    follower.step(Message(MessageType.HEARTBEAT_REQUEST, "b", "a", 1))
    with pytest.raises(NotLeader, match="ask b") as known:
        follower.propose([b"x"])
    assert known.value.leader == "b"


# Reads


def test_rule_15_no_read_before_an_entry_of_the_own_term_is_committed(leader, raft):
    leading = leader(log=(1, 1))
    leading.read_index(7)
    raft.work(leading)
    for other in "bc":
        leading.step(Message(MessageType.HEARTBEAT_RESPONSE, other, "a", 2, round=0))
    assert raft.work(leading).reads == ()
    leading.step(Message(MessageType.APPEND_RESPONSE, "b", "a", 2, index=3))
    raft.work(leading)
    leading.step(Message(MessageType.HEARTBEAT_RESPONSE, "b", "a", 2, round=1))
    (read,) = raft.work(leading).reads
    assert (read.context, read.index) == (7, 3)


def test_rule_15_an_old_echo_does_not_confirm_a_later_read(leader, raft):
    """etcd issue 20418."""
    leading = leader()
    raft.work(leading)
    leading.step(Message(MessageType.APPEND_RESPONSE, "b", "a", 1, index=1))
    raft.work(leading)
    leading.read_index(1)
    raft.work(leading)
    leading.read_index(2)
    raft.work(leading)
    for _ in range(3):
        leading.step(Message(MessageType.HEARTBEAT_RESPONSE, "b", "a", 1, round=1))
        leading.step(Message(MessageType.HEARTBEAT_RESPONSE, "c", "a", 1, round=1))
    assert [read.context for read in raft.work(leading).reads] == [1]
    leading.step(Message(MessageType.HEARTBEAT_RESPONSE, "c", "a", 1, round=2))
    assert [read.context for read in raft.work(leading).reads] == [2]


def test_rule_15_a_read_is_never_confirmed_by_a_round_that_ran_before_it(leader, raft):
    leading = leader()
    raft.work(leading)
    leading.step(Message(MessageType.APPEND_RESPONSE, "b", "a", 1, index=1))
    raft.work(leading)
    leading.read_index(1)
    raft.work(leading)
    leading.read_index(2)  # Round 1 is under way already.
    leading.step(Message(MessageType.HEARTBEAT_RESPONSE, "b", "a", 1, round=1))
    assert [read.context for read in raft.work(leading).reads] == [1]


def test_rule_15_reads_of_one_turn_share_one_round(cluster):
    three = cluster("a", "b", "c")
    leading = three.elect("a")
    three.delivered.clear()
    for context in range(100):
        leading.read_index(context)
    three.settle()
    beats = [m for m in three.delivered if m.type is MessageType.HEARTBEAT_REQUEST]
    assert len(beats) == 2
    served = [read for _, ready in three.readies for read in ready.reads]
    assert [read.context for read in served] == list(range(100))


def test_rule_15_a_read_that_cannot_be_confirmed_is_refused(cluster):
    three = cluster("a", "b", "c")
    leading = three.elect("a")
    three.cut = {"b", "c"}
    leading.read_index(5)
    three.cores["b"].read_index(6)
    three.tick(14)
    refused = {(name, c) for name, ready in three.readies for c in ready.reads_refused}
    assert refused == {("a", 5), ("b", 6)}


def test_rule_16_a_read_always_asks_a_quorum(leader, raft):
    """There is no clock in it: without an answer of others nothing is served, ever."""
    leading = leader()
    raft.work(leading)
    leading.step(Message(MessageType.APPEND_RESPONSE, "b", "a", 1, index=1))
    raft.work(leading)
    leading.read_index(1)
    for _ in range(5):
        assert raft.work(leading).reads == ()
