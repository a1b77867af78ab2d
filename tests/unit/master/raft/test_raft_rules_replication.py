"""The rules on replication (rules 7 to 14), one test or more for each.

The rules are listed in the handbook, `essaim_master/raft/__init__.py`.
"""

import pytest

from essaim_master.raft.errors import NotLeader, ProposalDropped
from essaim_master.raft.messages import Entry, EntryKind, Message, MessageType, Role
from essaim_master.raft.progress import ProgressState
from essaim_shared.errors import BrokenInvariant


def normal(term: int, index: int) -> Entry:
    return Entry(term, index, EntryKind.NORMAL, b"x")


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
