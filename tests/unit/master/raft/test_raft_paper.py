"""What the Raft paper (extended version) says, section by section."""

import random

import pytest

from essaim_master.raft.config import RaftConfig
from essaim_master.raft.core import RaftCore
from essaim_master.raft.membership import AddLearner, PromoteLearner, RemoveMember
from essaim_master.raft.messages import (
    Configuration,
    Entry,
    EntryKind,
    HardState,
    Message,
    MessageType,
    Role,
    SnapshotMetadata,
)
from essaim_shared.ids import MemberId


def no_op(term: int, index: int) -> Entry:
    return Entry(term, index, EntryKind.NO_OP, b"")


# 5.1 Raft basics


@pytest.mark.parametrize(
    "type_",
    [
        MessageType.APPEND_REQUEST,
        MessageType.HEARTBEAT_REQUEST,
        MessageType.APPEND_RESPONSE,
        MessageType.HEARTBEAT_RESPONSE,
        MessageType.VOTE_RESPONSE,
        MessageType.READ_INDEX_REQUEST,
    ],
)
def test_5_1_a_larger_term_is_adopted_by_every_role(core, leader, type_):
    candidate = core(term=2)
    for _ in range(6):
        candidate.tick()
    for member in (core(term=2), candidate, leader(term=2)):
        member.step(Message(type_, "b", "a", 9, reject=type_ is MessageType.VOTE_RESPONSE))
        assert (member.term, member.role) == (9, Role.FOLLOWER)


def test_5_1_a_request_of_an_older_term_is_refused(core, raft):
    """The answer carries the newer term, which makes the old leader step down."""
    member = core(term=4, log=(1,))
    stale = Message(MessageType.APPEND_REQUEST, "b", "a", 3, entries=(no_op(3, 1),))
    member.step(stale)
    assert member.leader is None
    assert member.status().last_index == 1
    (answer,) = raft.messages_of(member)
    assert (answer.type, answer.term) == (MessageType.HEARTBEAT_RESPONSE, 4)


# 5.2 Leader election


def test_5_2_a_member_starts_as_follower(core):
    member = core()
    assert (member.role, member.leader, member.is_leader) == (Role.FOLLOWER, None, False)
    assert not member.has_ready()


def test_5_2_a_leader_sends_heartbeats(leader, raft):
    leading = leader()
    raft.work(leading)
    leading.tick()
    beats = [m for m in raft.messages_of(leading) if m.type is MessageType.HEARTBEAT_REQUEST]
    assert sorted(beat.receiver for beat in beats) == ["b", "c"]


def test_5_2_a_candidate_raises_its_term_votes_for_itself_and_asks_all(core, raft):
    member = core(term=3, log=(2, 3))
    for _ in range(6):
        member.tick()
    raft.work(member)
    assert member.term == 3, "a pre-vote changes nothing"
    member.step(Message(MessageType.PRE_VOTE_RESPONSE, "b", "a", 4))
    ready = raft.work(member)
    assert (ready.hard_state.term, ready.hard_state.vote) == (4, "a")
    requests = ready.messages_after_sync
    assert [(m.type, m.receiver, m.term, m.index, m.log_term) for m in requests] == [
        (MessageType.VOTE_REQUEST, "b", 4, 2, 3),
        (MessageType.VOTE_REQUEST, "c", 4, 2, 3),
    ]


@pytest.mark.parametrize(
    ("size", "granted", "refused", "role"),
    [
        (3, 1, 0, Role.LEADER),
        (3, 0, 1, Role.CANDIDATE),
        (3, 0, 2, Role.FOLLOWER),
        (5, 1, 0, Role.CANDIDATE),
        (5, 2, 2, Role.LEADER),
        (5, 1, 3, Role.FOLLOWER),
    ],
)
def test_5_2_a_majority_of_votes_elects(core, size, granted, refused, role):
    voters = ["a", "b", "c", "d", "e"][:size]
    member = core("a", voters)
    for _ in range(6):
        member.tick()
    for voter in voters[1:]:
        member.step(Message(MessageType.PRE_VOTE_RESPONSE, voter, "a", 1))
    assert member.role is Role.CANDIDATE
    answers = [False] * granted + [True] * refused
    for voter, reject in zip(voters[1:], answers, strict=False):
        member.step(Message(MessageType.VOTE_RESPONSE, voter, "a", 1, reject=reject))
    assert member.role is role
    assert member.term == 1


def test_5_2_one_vote_per_term_first_come_first_served(core, raft):
    member = core()
    for candidate in ("b", "c", "b"):
        member.step(Message(MessageType.VOTE_REQUEST, candidate, "a", 1))
    answers = {m.receiver: m.reject for m in raft.messages_of(member)}
    assert answers == {"b": False, "c": True}


def test_5_2_a_vote_is_remembered_through_a_restart(core, raft):
    member = core(term=1, vote="b")
    member.step(Message(MessageType.VOTE_REQUEST, "c", "a", 1))
    assert raft.only(raft.messages_of(member), MessageType.VOTE_RESPONSE).reject


@pytest.mark.parametrize("term", [1, 2])
def test_5_2_a_candidate_that_hears_a_leader_follows_it(core, term):
    member = core()
    for _ in range(6):
        member.tick()
    member.step(Message(MessageType.PRE_VOTE_RESPONSE, "b", "a", 1))
    assert member.role is Role.CANDIDATE
    member.step(Message(MessageType.APPEND_REQUEST, "c", "a", term))
    assert (member.role, member.leader, member.term) == (Role.FOLLOWER, "c", term)


def test_5_2_a_candidate_that_wins_nothing_asks_again(core, raft):
    member = core()
    for _ in range(6):
        member.tick()
    member.step(Message(MessageType.PRE_VOTE_RESPONSE, "b", "a", 1))
    raft.work(member)
    for _ in range(6):
        member.tick()
    assert member.role is Role.PRE_CANDIDATE
    requests = raft.messages_of(member)
    assert {(m.type, m.term) for m in requests} == {(MessageType.PRE_VOTE_REQUEST, 2)}


def test_5_2_election_timeouts_are_spread_over_their_range():
    """Drawn anew for each wait, evenly; else split votes repeat."""
    seed = 20_240
    config = RaftConfig("a", election_ticks_min=6, election_ticks_max=12)
    voters = Configuration(("a", "b", "c"))
    member = RaftCore(config, random.Random(seed), HardState(), voters, ())
    waits = []
    for _ in range(600):
        ticks = 0
        while not member.has_ready():
            member.tick()
            ticks += 1
        member.ready()
        waits.append(ticks)
    counts = {wait: waits.count(wait) for wait in set(waits)}
    print(f"seed {seed}: {counts}")
    assert set(counts) == {6, 7, 8, 9, 10, 11}
    assert min(counts.values()) > 50


# 5.3 Log replication


def test_5_3_commands_become_entries_that_are_sent_and_written_at_once(leader, raft):
    leading = leader()
    raft.work(leading)
    for other in "bc":
        leading.step(Message(MessageType.APPEND_RESPONSE, other, "a", 1, index=1))
    raft.work(leading)
    assert leading.propose([b"x"]) == range(2, 3)
    assert leading.propose([b"y", b"z"]) == range(3, 5)
    ready = leading.ready()
    assert [entry.data for entry in ready.entries] == [b"x", b"y", b"z"]
    assert all(entry.term == 1 for entry in ready.entries)
    appends = ready.messages_now
    assert [m.receiver for m in appends] == ["b", "c"], "one message each for the whole turn"
    assert all(m.entries == ready.entries and (m.index, m.log_term) == (1, 1) for m in appends)


def test_5_3_an_entry_on_a_majority_is_committed_and_applied_everywhere(cluster):
    five = cluster("a", "b", "c", "d", "e")
    leading = five.elect("a")
    five.cut = {"d", "e"}
    leading.propose([b"x"])
    five.settle()
    assert [five.applied[name] for name in "abcde"] == [[b"x"], [b"x"], [b"x"], [], []]
    five.cut = {"b", "c", "d", "e"}
    leading.propose([b"y"])
    five.settle()
    assert five.applied["a"] == [b"x"]
    five.cut = set()
    five.tick(3)
    assert set(map(tuple, five.applied.values())) == {(b"x", b"y")}


def test_5_3_a_follower_refuses_what_does_not_fit_on(core, raft):
    for previous in ((2, 3), (4, 3), (9, 9)):
        member = core(log=(1, 2, 2), term=9)
        request = Message(
            MessageType.APPEND_REQUEST, "b", "a", 9, index=previous[0], log_term=previous[1]
        )
        member.step(request)
        answer = raft.only(raft.messages_of(member), MessageType.APPEND_RESPONSE)
        assert answer.reject
        assert answer.index == previous[0]
        assert member.status().last_index == 3


def test_5_3_appends_are_cut_at_their_size(leader, raft):
    leading = leader(append_bytes_max=2 * (16 + 10))
    raft.work(leading)
    leading.step(Message(MessageType.APPEND_RESPONSE, "b", "a", 1, index=1))
    raft.work(leading)
    leading.propose([b"x" * 10] * 5)
    sent = [m for m in raft.messages_of(leading) if m.receiver == "b"]
    assert [[entry.index for entry in m.entries] for m in sent] == [[2, 3], [4, 5], [6]]


@pytest.mark.parametrize(
    "terms",
    [
        (1, 1, 1, 4, 4, 5, 5, 6, 6),
        (1, 1, 1, 4),
        (1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6),
        (1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7),
        (1, 1, 1, 4, 4, 4, 4),
        (1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3),
    ],
    ids=list("abcdef"),
)
def test_5_3_figure_7_every_log_becomes_the_leaders(cluster, core, terms):
    voters = ["x", "y", "z"]
    log = (1, 1, 1, 4, 4, 5, 5, 6, 6, 6)
    three = cluster(
        core("x", voters, log=log, term=8),
        core("y", voters, log=(), term=8),
        core("z", voters, log=terms, term=8),
    )
    leading = three.elect("x")
    assert leading.commit == 11
    assert three.applied["z"] == three.applied["x"]
    assert three.cores["z"].status().last_index == 11


@pytest.mark.parametrize(
    ("voters", "holders", "is_committed"),
    [
        ("a", "", True),
        ("abc", "", False),
        ("abc", "b", True),
        ("abc", "bc", True),
        ("abcde", "b", False),
        ("abcde", "bc", True),
        ("abcde", "bcde", True),
    ],
)
def test_5_3_an_entry_is_committed_once_a_majority_holds_it(
    leader, raft, voters, holders, is_committed
):
    leading = leader("a", tuple(voters))
    raft.work(leading)
    for holder in holders:
        leading.step(Message(MessageType.APPEND_RESPONSE, holder, "a", 1, index=1))
    assert (leading.commit == 1) is is_committed


@pytest.mark.parametrize("terms", [(), (2,), (1, 2), (1, 1, 2)])
def test_5_3_what_came_before_a_committed_entry_is_committed_with_it(leader, raft, terms):
    leading = leader("a", log=terms, term=2)
    raft.work(leading)
    index = len(terms) + 1
    leading.step(Message(MessageType.APPEND_RESPONSE, "b", "a", 3, index=index))
    applied = raft.work(leading).committed
    assert [entry.term for entry in applied] == [*terms, 3]


@pytest.mark.parametrize("commit", [1, 2, 3])
def test_5_3_a_follower_applies_in_log_order_what_it_hears_is_committed(core, raft, commit):
    member = core()
    entries = raft.entries_of(1, 1, 1)
    member.step(Message(MessageType.APPEND_REQUEST, "b", "a", 1, entries=entries, commit=commit))
    assert raft.work(member).committed == entries[:commit]


@pytest.mark.parametrize(
    ("previous", "sent", "log_after", "written"),
    [
        ((2, 2), (3,), [1, 2, 3], [3]),
        ((1, 1), (3, 4), [1, 3, 4], [3, 4]),
        ((0, 0), (1,), [1, 2], []),
        ((0, 0), (3,), [3], [3]),
    ],
)
def test_5_3_a_follower_replaces_what_conflicts_and_keeps_what_agrees(
    core, raft, previous, sent, log_after, written
):
    member = core(log=(1, 2), term=4)
    entries = tuple(
        Entry(term, previous[0] + place, EntryKind.NORMAL, b"")
        for place, term in enumerate(sent, 1)
    )
    member.step(Message(MessageType.APPEND_REQUEST, "b", "a", 4, previous[0], previous[1], entries))
    ready = raft.work(member)
    last = member.log.last_index
    assert [member.log.term_at(index) for index in range(1, last + 1)] == log_after
    assert [entry.term for entry in ready.entries] == written


# 5.4 Safety


@pytest.mark.parametrize(
    ("mine", "candidate", "granted"),
    [
        ((1,), (1, 1), True),
        ((1,), (2, 1), True),
        ((1, 1), (1, 1), False),
        ((1,), (1, 2), True),
        ((2,), (5, 1), False),
        ((1, 2), (1, 2), False),
    ],
)
@pytest.mark.parametrize("type_", [MessageType.VOTE_REQUEST, MessageType.PRE_VOTE_REQUEST])
def test_5_4_1_a_vote_goes_only_to_a_log_as_complete_as_ones_own(
    core, raft, mine, candidate, granted, type_
):
    member = core(log=mine, term=3)
    member.step(Message(type_, "b", "a", 4, index=candidate[0], log_term=candidate[1]))
    (answer,) = raft.messages_of(member)
    assert answer.reject is not granted


def test_5_4_2_figure_8_an_old_entry_is_not_committed_by_counting(cluster, core):
    """(c) and (d): entry 2 of term 2 is on a majority, and yet a log with term 3 replaces it."""
    voters = ["s1", "s2", "s3", "s4", "s5"]
    five = cluster(
        core("s1", voters, log=(1, 2), term=3),
        core("s2", voters, log=(1, 2), term=3),
        core("s3", voters, log=(1,), term=3),
        core("s4", voters, log=(1,), term=3),
        core("s5", voters, log=(1, 3), term=3),
    )
    five.cut = {"s4", "s5"}
    first = five.elect("s1")
    assert first.commit == 3, "its own no-op of term 4 carries entry 2 with it"
    five = cluster(
        core("s1", voters, log=(1, 2), term=4),
        core("s2", voters, log=(1, 2), term=4),
        core("s3", voters, log=(1, 2), term=4),
        core("s4", voters, log=(1,), term=4),
        core("s5", voters, log=(1, 3), term=4),
    )
    last = five.elect("s5")
    assert last.commit == 3
    assert [five.cores[name].status().last_index for name in voters] == [3] * 5
    assert five.applied["s1"][:2] == [b"1/1", b"3/2"]


# 5.5 Follower and candidate crashes


def test_5_5_requests_may_come_twice(core, raft):
    member = core()
    append = Message(MessageType.APPEND_REQUEST, "b", "a", 1, entries=(no_op(1, 1),), commit=1)
    for _ in range(3):
        member.step(append)
    ready = raft.work(member)
    assert len(ready.entries) == len(ready.committed) == 1
    assert len(ready.messages_after_sync) == 1, "one answer speaks for all three"
    member.step(append)
    again = raft.work(member)
    assert (again.entries, again.committed) == ((), ())


def test_5_5_a_late_request_does_not_swallow_the_answer_to_a_newer_one(core, raft):
    member = core()
    entries = tuple(no_op(1, index) for index in (1, 2, 3))
    member.step(Message(MessageType.APPEND_REQUEST, "b", "a", 1, entries=entries))
    member.step(Message(MessageType.APPEND_REQUEST, "b", "a", 1, entries=entries[:1]))
    assert max(message.index for message in raft.messages_of(member)) == 3


# 6 Cluster membership changes


def test_6_a_new_server_catches_up_without_a_vote_then_votes(cluster, core):
    three = cluster("a", "b", "c")
    leading = three.elect("a")
    leading.propose([b"x"] * 10)
    three.settle()
    three.cores["d"] = core("d", [])
    three.applied["d"] = []
    leading.propose_configuration(AddLearner(MemberId("d")))
    three.settle()
    assert len(three.applied["d"]) == len(three.applied["a"])
    leading.propose_configuration(PromoteLearner(MemberId("d")))
    three.settle()
    three.cut = {"b"}
    leading.propose([b"y"])
    three.settle()
    assert three.applied["a"][-1] == three.applied["d"][-1] == b"y"
    three.cut = {"b", "c"}
    commit = leading.commit
    leading.propose([b"z"])
    three.settle()
    assert leading.commit == commit, "two of four are no majority"


def test_6_a_leader_that_removes_itself_counts_majorities_without_itself(cluster):
    three = cluster("a", "b", "c")
    leading = three.elect("a")
    three.cut = {"c"}
    index = leading.propose_configuration(RemoveMember(MemberId("a")))
    three.settle()
    assert leading.commit < index
    assert leading.is_leader
    three.cut = set()
    three.tick(2)
    assert not leading.is_leader
    three.tick(3)
    (new_leader,) = [core for core in three.cores.values() if core.is_leader]
    assert new_leader.status().configuration.voters == ("b", "c")
    assert new_leader.commit > index


def test_6_a_removed_server_cannot_disturb_the_cluster(cluster):
    three = cluster("a", "b", "c")
    leading = three.elect("a")
    three.cut = {"c"}
    leading.propose_configuration(RemoveMember(MemberId("c")))
    three.settle()
    three.cut = set()
    term = leading.term
    three.tick(50)
    assert leading.is_leader
    assert leading.term == term


# 7 Log compaction


def test_7_a_slow_follower_gets_the_snapshot_and_then_the_log(cluster):
    three = cluster("a", "b", "c")
    leading = three.elect("a")
    three.cut = {"c"}
    leading.propose([b"x", b"y"])
    three.settle()
    snapshot = SnapshotMetadata(
        leading.commit, leading.term, leading.configuration_at(leading.commit)
    )
    leading.compacted(snapshot, snapshot.index + 1)
    three.cut = set()
    three.tick(2)
    assert [
        (name, to, which) for name, ready in three.readies for to, which in ready.snapshot_to_send
    ] == [("a", "c", snapshot)]
    assert three.cores["c"].install_snapshot(snapshot)
    leading.report_snapshot("c", True)
    leading.propose([b"z"])
    three.settle()
    assert three.applied["c"] == [b"z"]
    assert three.cores["c"].commit == leading.commit


# 8 Client interaction


def test_8_a_read_returns_nothing_older_than_what_was_committed_before_it(cluster):
    three = cluster("a", "b", "c")
    leading = three.elect("a")
    leading.propose([b"x"])
    three.settle()
    for number, name in enumerate("abc"):
        three.cores[name].read_index(number)
    three.settle()
    served = {
        (name, read.context): read.index for name, ready in three.readies for read in ready.reads
    }
    assert served == {("a", 0): 2, ("b", 1): 2, ("c", 2): 2}
