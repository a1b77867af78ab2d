"""The core's edges: what it refuses, what it reports, when it has work."""

import pytest

from essaim_master.raft.core import FROM_LEADER
from essaim_master.raft.errors import NotLeader, TransferRefused
from essaim_master.raft.messages import Entry, EntryKind, Message, MessageType, Role
from essaim_master.raft.progress import ProgressState
from essaim_master.raft.reads import READS_PENDING_MAX, ReadRounds
from essaim_shared.errors import BrokenInvariant, MalformedMessage


def entry(term: int, index: int) -> Entry:
    return Entry(term, index, EntryKind.NORMAL, b"x")


@pytest.mark.parametrize(
    "message",
    [
        Message(MessageType.HEARTBEAT_REQUEST, "b", "c", 9),
        Message(MessageType.HEARTBEAT_REQUEST, "a", "a", 9),
        Message(MessageType.APPEND_REQUEST, "b", "a", 9, index=3, entries=(entry(9, 5),)),
        Message(MessageType.APPEND_REQUEST, "b", "a", 9, entries=(entry(9, 1), entry(9, 3))),
        Message(MessageType.APPEND_REQUEST, "b", "a", 2, entries=(entry(3, 1),)),
        Message(MessageType.APPEND_REQUEST, "b", "a", 2, entries=(entry(2, 1), entry(1, 2))),
        Message(MessageType.APPEND_REQUEST, "b", "a", 9, 4, 5, entries=(entry(4, 5),)),
    ],
    ids=["not for us", "from us", "gap", "hole", "later term", "terms fall", "older than before"],
)
def test_a_message_that_no_correct_member_sends_changes_nothing(core, message):
    member = core(term=1)
    with pytest.raises(MalformedMessage):
        member.step(message)
    assert (member.term, member.leader, member.has_ready()) == (1, None, False)


@pytest.mark.parametrize("type_", list(MessageType))
@pytest.mark.parametrize("term", [0, 1, 5])
def test_no_single_message_from_a_stranger_breaks_any_role(core, leader, type_, term):
    """A removed member, or one that nobody told of yet, may send anything at any time."""
    candidate = core(term=1)
    for _ in range(6):
        candidate.tick()
    for member in (core(term=1), candidate, leader(term=0)):
        if member.is_leader and term == member.term and type_ in FROM_LEADER:
            continue  # Two leaders of one term: a test of its own.
        member.step(Message(type_, "stranger", "a", term))
        member.ready()


def test_two_leaders_of_one_term_stop_the_member(core, leader):
    member = core()
    member.step(Message(MessageType.HEARTBEAT_REQUEST, "b", "a", 1))
    with pytest.raises(BrokenInvariant, match="two leaders in term 1: c and b"):
        member.step(Message(MessageType.HEARTBEAT_REQUEST, "c", "a", 1))
    with pytest.raises(BrokenInvariant, match="two leaders in term 1: c and a"):
        leader().step(Message(MessageType.APPEND_REQUEST, "c", "a", 1))


def test_work_is_announced_exactly_while_there_is_some(cluster):
    """`has_ready` is what wakes a driver: work without it would wait for the next tick."""
    three = cluster("a", "b", "c")
    leading = three.elect("a")
    assert not leading.has_ready()
    leading.propose([b"x"])
    assert leading.has_ready()
    three.settle()
    leading.read_index(1)
    assert leading.has_ready()
    leading.ready()
    assert not leading.has_ready()
    leading.step(Message(MessageType.HEARTBEAT_RESPONSE, "b", "a", 1, round=1))
    assert leading.has_ready()
    assert [read.context for read in leading.ready().reads] == [1]
    leading.tick()
    assert leading.has_ready()


def test_a_ready_says_what_to_report_once_it_is_durable(leader):
    leading = leader(log=(1, 1))
    leading.propose([b"x"])
    ready = leading.ready()
    assert (ready.persist_term, ready.persist_index) == (2, 4)
    leading.persisted(ready.persist_term, ready.persist_index)
    assert leading.status().progress["a"].match == 4


def test_the_status_shows_followers_only_to_a_leader(leader, core, raft):
    assert core().status().progress == {}
    leading = leader(log=(1,))
    raft.work(leading)
    leading.step(Message(MessageType.APPEND_RESPONSE, "b", "a", 2, index=2))
    status = leading.status()
    assert (status.role, status.term, status.leader, status.last_index) == (Role.LEADER, 2, "a", 2)
    assert list(status.progress) == ["a", "b", "c"]
    row = status.progress["b"]
    assert (row.match, row.next, row.state, row.is_active) == (
        2,
        3,
        ProgressState.REPLICATE,
        True,
    )
    assert status.progress["c"].is_active is False


def test_an_unreachable_follower_is_probed(leader, raft):
    leading = leader()
    raft.work(leading)
    leading.step(Message(MessageType.APPEND_RESPONSE, "b", "a", 1, index=1))
    leading.propose([b"x"] * 3)
    raft.work(leading)
    leading.report_unreachable("b")
    leading.report_unreachable("c")
    leading.report_unreachable("nobody")
    row = leading.status().progress["b"]
    assert (row.state, row.next) == (ProgressState.PROBE, 2)


def test_an_unreachable_report_means_nothing_to_a_follower(core):
    core().report_unreachable("b")


@pytest.mark.parametrize(("to", "reason"), [("a", "already"), ("d", "vote"), ("x", "a, b, c")])
def test_a_transfer_to_who_cannot_lead_is_refused(leader, to, reason):
    leading = leader(learners=["d"])
    with pytest.raises(TransferRefused, match=reason):
        leading.transfer_leadership(to)


def test_only_a_leader_hands_over(core):
    with pytest.raises(NotLeader):
        core().transfer_leadership("b")


def test_a_transfer_waits_until_the_target_has_everything(leader, raft):
    leading = leader()
    leading.propose([b"x"])
    leading.transfer_leadership("b")
    raft.work(leading)
    leading.step(Message(MessageType.APPEND_RESPONSE, "b", "a", 1, index=1))
    assert MessageType.TIMEOUT_NOW not in {m.type for m in raft.messages_of(leading)}
    leading.step(Message(MessageType.APPEND_RESPONSE, "b", "a", 1, index=2))
    assert raft.only(raft.messages_of(leading), MessageType.TIMEOUT_NOW).receiver == "b"
    leading.step(Message(MessageType.HEARTBEAT_RESPONSE, "b", "a", 1))
    assert raft.only(raft.messages_of(leading), MessageType.TIMEOUT_NOW), "the first may be lost"


def test_a_second_transfer_replaces_the_first(cluster):
    three = cluster("a", "b", "c")
    leading = three.elect("a")
    three.cut = {"b"}
    leading.transfer_leadership("b")
    three.settle()
    leading.transfer_leadership("c")
    three.settle()
    assert three.cores["c"].is_leader


def test_a_transfer_request_that_comes_late_is_ignored(cluster):
    three = cluster("a", "b", "c")
    three.elect("a")
    three.elect("b")
    three.cores["c"].step(Message(MessageType.TIMEOUT_NOW, "a", "c", 1))
    three.settle()
    assert three.cores["b"].is_leader


def test_a_follower_refuses_a_read_meant_for_a_leader(core, raft):
    member = core(term=1)
    member.step(Message(MessageType.READ_INDEX_REQUEST, "b", "a", 1, context=5))
    answer = raft.only(raft.messages_of(member), MessageType.READ_INDEX_RESPONSE)
    assert (answer.receiver, answer.context, answer.reject) == ("b", 5, True)


def test_a_forwarded_read_is_answered_once(core, raft):
    member = core()
    member.step(Message(MessageType.HEARTBEAT_REQUEST, "b", "a", 1))
    member.read_index(5)
    raft.work(member)
    answer = Message(MessageType.READ_INDEX_RESPONSE, "b", "a", 1, index=3, context=5)
    member.step(answer)
    member.step(answer)
    assert [(read.context, read.index) for read in raft.work(member).reads] == [(5, 3)]


def test_forwarded_reads_are_refused_when_the_leader_changes(core, raft):
    member = core()
    member.step(Message(MessageType.HEARTBEAT_REQUEST, "b", "a", 1))
    member.read_index(5)
    raft.work(member)
    member.step(Message(MessageType.HEARTBEAT_REQUEST, "c", "a", 2))
    assert raft.work(member).reads_refused == (5,)


def test_a_forwarded_read_that_was_lost_is_refused_after_a_while(core, raft):
    """The leader lives, so nothing else would ever end the wait."""
    member = core(election_ticks_max=12)
    refused = []
    for tick in range(20):
        member.step(Message(MessageType.HEARTBEAT_REQUEST, "b", "a", 1))
        if tick == 2:
            member.read_index(5)
        member.tick()
        refused += [(tick, context) for context in raft.work(member).reads_refused]
    assert refused == [(13, 5)]


def test_waiting_reads_are_bounded(leader, raft):
    leading = leader()
    for context in range(READS_PENDING_MAX + 1):
        leading.read_index(context)
    assert raft.work(leading).reads_refused == (READS_PENDING_MAX,)


def test_a_round_counts_only_upwards():
    rounds = ReadRounds("a")
    rounds.ask(1, None, 10)
    rounds.start_round()
    rounds.echo("b", 1)
    rounds.echo("b", 0)
    assert rounds.refuse_all() == [1]
    assert not rounds.is_round_due


def test_a_lone_leader_confirms_its_reads_alone(core, raft):
    single = core("a", ["a"])
    for _ in range(6):
        single.tick()
    raft.work(single)
    raft.work(single)
    single.read_index(1)
    assert single.has_ready()
    assert [read.index for read in raft.work(single).reads] == [1]


def test_a_configuration_of_two_needs_both(cluster):
    two = cluster("a", "b")
    leading = two.elect("a")
    two.cut = {"b"}
    leading.propose([b"x"])
    two.settle()
    assert leading.commit == 1
    two.cut = set()
    two.tick(2)
    assert leading.commit == 2
