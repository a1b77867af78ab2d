"""The rules on members (rules 17 to 20), one test or more for each; see the handbook."""

import pytest

from essaim_master.raft import configurations
from essaim_master.raft.errors import MembershipRefused, NotLeader, ProposalDropped
from essaim_master.raft.membership import (
    PROMOTION_LAG_ENTRIES_MAX,
    AddLearner,
    PromoteLearner,
    RemoveMember,
)
from essaim_master.raft.messages import (
    Configuration,
    Entry,
    EntryKind,
    Message,
    MessageType,
    Role,
)
from essaim_shared.errors import BrokenInvariant, MalformedMessage


def answer(core, sender, index):
    core.step(Message(MessageType.APPEND_RESPONSE, sender, "a", core.term, index=index))


def settled_leader(leader, raft, voters=("a", "b", "c"), **options):
    """A leader whose no-op is committed and applied."""
    leading = leader("a", voters, **options)
    raft.work(leading)
    for voter in voters[1:]:
        answer(leading, voter, 1)
    raft.work(leading)
    assert leading.commit == 1
    return leading


def test_rule_17_no_change_before_an_entry_of_the_own_term_is_committed(leader, raft):
    """The bug of 2015: an earlier leader's change may be under way, unknown to this one."""
    leading = leader("a", ["a", "b", "c"], log=[1, 1], commit=2)
    raft.work(leading)
    with pytest.raises(ProposalDropped, match="has not committed an entry of its own yet"):
        leading.propose_configuration(AddLearner("d"))
    answer(leading, "b", 3)
    assert leading.propose_configuration(AddLearner("d")) == 4


def test_rule_17_the_story_of_2015(cluster):
    """Without the rule, b removes a with the word of c alone, while a, which had removed b without
    anybody's knowing, is elected by d: {b, c} and {a, d} share nobody, and a commit is lost."""
    four = cluster("a", "b", "c", "d")
    a, b = four.elect("a"), four.cores["b"]
    four.cut = {"b", "c", "d"}
    a.propose_configuration(RemoveMember("b"))
    four.settle()
    four.cut = {"a"}
    for name in "cd":
        for _ in range(6):
            four.cores[name].tick()
        four.cores[name].ready()
    for _ in range(6):
        b.tick()
    four.settle(until=lambda: b.is_leader)
    with pytest.raises(ProposalDropped, match="has not committed an entry of its own yet"):
        b.propose_configuration(RemoveMember("a"))
    four.settle()
    b.propose_configuration(RemoveMember("a"))
    four.settle()
    commit = b.commit
    four.cut = {"b", "c"}
    four.tick(30)
    assert not any(core.is_leader and core.term > b.term for core in four.cores.values())
    four.cut = set()
    leading = four.elect("c")
    assert leading.log.term_at(commit) == 2, "nothing that was committed is lost"
    assert leading.status().configuration.voters == ("b", "c", "d")


def test_rule_17_one_change_at_a_time_committed_and_applied(leader, raft):
    leading = settled_leader(leader, raft)
    index = leading.propose_configuration(AddLearner("d"))
    raft.work(leading)
    with pytest.raises(ProposalDropped, match="not applied yet"):
        leading.propose_configuration(AddLearner("e"))
    answer(leading, "b", index)
    ready = leading.ready()
    assert leading.commit == index
    with pytest.raises(ProposalDropped, match="not applied yet"):
        leading.propose_configuration(AddLearner("e"))
    leading.applied_to(ready.committed[-1].index)
    leading.propose_configuration(AddLearner("e"))
    assert leading.status().configuration.learners == ("d", "e")


def test_rule_17_an_unfinished_change_of_an_earlier_leader_counts_and_is_finished_first(
    core, leader, raft
):
    """It is in the new leader's log, so it is in effect there; and no other one begins."""
    removal = Entry(1, 2, EntryKind.CONFIGURATION, configurations.encode(Configuration(("a", "b"))))
    member = core("a", ["a", "b", "c"])
    first = Entry(1, 1, EntryKind.NO_OP, b"")
    member.step(
        Message(MessageType.APPEND_REQUEST, "c", "a", 1, entries=(first, removal), commit=1)
    )
    raft.work(member)
    for _ in range(6):
        member.tick()
    requests = [m for m in raft.messages_of(member) if m.type is MessageType.PRE_VOTE_REQUEST]
    assert [request.receiver for request in requests] == ["b"]
    member.step(Message(MessageType.PRE_VOTE_RESPONSE, "b", "a", 2))
    raft.work(member)
    member.step(Message(MessageType.VOTE_RESPONSE, "b", "a", 2))
    raft.work(member)
    assert member.is_leader
    with pytest.raises(ProposalDropped):
        member.propose_configuration(AddLearner("d"))
    answer(member, "b", 3)
    raft.work(member)
    assert member.propose_configuration(AddLearner("d")) == 4


def test_rule_18_a_learner_that_lacks_too_much_is_not_promoted(leader, raft):
    leading = settled_leader(leader, raft, voters=("a",), learners=["d"])
    leading.step(Message(MessageType.APPEND_RESPONSE, "d", "a", leading.term, index=1))
    count = PROMOTION_LAG_ENTRIES_MAX + 1
    leading.propose([b"x"] * count)
    raft.work(leading)
    raft.work(leading)
    with pytest.raises(MembershipRefused, match=f"d holds 1 of {count + 1} entries"):
        leading.propose_configuration(PromoteLearner("d"))
    answer(leading, "d", 2)
    leading.propose_configuration(PromoteLearner("d"))
    assert leading.status().configuration == Configuration(("a", "d"))


def test_rule_18_a_silent_learner_is_not_promoted_whatever_it_holds(leader, raft):
    leading = settled_leader(leader, raft, voters=("a",), learners=["d"])
    answer(leading, "d", 1)
    for _ in range(12):
        leading.tick()
        raft.work(leading)
    with pytest.raises(MembershipRefused, match="d does not follow the log"):
        leading.propose_configuration(PromoteLearner("d"))


@pytest.mark.parametrize(
    ("silent", "change", "is_taken"),
    [
        ("c", RemoveMember("b"), False),
        ("c", RemoveMember("c"), True),
        ("c", RemoveMember("a"), False),
        ("", RemoveMember("b"), True),
        ("", RemoveMember("a"), True),
    ],
)
def test_rule_18_the_voters_that_remain_must_have_a_majority_that_answers(
    leader, raft, silent, change, is_taken
):
    leading = settled_leader(leader, raft)
    for _ in range(12):
        leading.tick()
        raft.work(leading)
        for voter in {"b", "c"} - {silent}:
            leading.step(Message(MessageType.HEARTBEAT_RESPONSE, voter, "a", leading.term))
    if is_taken:
        leading.propose_configuration(change)
    else:
        with pytest.raises(MembershipRefused, match="answers"):
            leading.propose_configuration(change)


def test_rule_18_a_refused_change_appends_nothing(leader, raft):
    leading = settled_leader(leader, raft)
    before = leading.status()
    for change in (AddLearner("a"), PromoteLearner("b"), RemoveMember("z"), AddLearner("")):
        with pytest.raises(MembershipRefused):
            leading.propose_configuration(change)
    assert leading.status() == before
    assert not leading.has_ready()


def test_rule_18_changes_need_the_leader_and_wait_for_a_transfer(core, leader, raft):
    with pytest.raises(NotLeader):
        core().propose_configuration(AddLearner("d"))
    leading = settled_leader(leader, raft)
    leading.transfer_leadership("b")
    with pytest.raises(ProposalDropped, match="leadership is on its way to b"):
        leading.propose_configuration(AddLearner("d"))


def test_rule_18_a_smaller_quorum_may_commit_at_once(leader, raft):
    """Four voters, of which two hold an entry: once one of the others is gone, two are enough."""
    leading = settled_leader(leader, raft, voters=("a", "b", "c", "d"))
    leading.propose([b"x"])
    raft.work(leading)
    answer(leading, "b", 2)
    assert leading.commit == 1
    leading.propose_configuration(RemoveMember("d"))
    assert leading.commit == 2


def test_rule_19_a_removed_leader_does_not_count_itself_and_hands_over(leader, raft):
    leading = settled_leader(leader, raft)
    index = leading.propose_configuration(RemoveMember("a"))
    raft.work(leading)
    answer(leading, "b", index)
    assert leading.commit < index
    answer(leading, "c", index)
    ready = raft.work(leading)
    assert leading.commit == index
    assert leading.role is Role.FOLLOWER
    kinds = [(message.type, message.receiver) for message in ready.messages_now]
    assert kinds == [
        (MessageType.APPEND_REQUEST, "b"),
        (MessageType.APPEND_REQUEST, "c"),
        (MessageType.TIMEOUT_NOW, "b"),
    ]
    for _ in range(30):
        leading.tick()
    assert leading.role is Role.FOLLOWER
    assert not leading.has_ready()


def test_rule_19_the_one_that_holds_most_is_told_to_campaign(leader, raft):
    leading = settled_leader(leader, raft)
    index = leading.propose_configuration(RemoveMember("a"))
    leading.propose([b"x"])
    raft.work(leading)
    answer(leading, "b", index)
    answer(leading, "c", index + 1)
    told = raft.only(raft.messages_of(leading), MessageType.TIMEOUT_NOW)
    assert told.receiver == "c"


def test_rule_19_a_removed_leader_reads_by_the_others_alone(leader, raft):
    """Its own echo of a round counts as little as its disk."""
    leading = settled_leader(leader, raft)
    leading.propose_configuration(RemoveMember("a"))
    raft.work(leading)
    leading.read_index(7)
    beat = next(m for m in raft.messages_of(leading) if m.type is MessageType.HEARTBEAT_REQUEST)
    term = leading.term
    leading.step(Message(MessageType.HEARTBEAT_RESPONSE, "b", "a", term, round=beat.round))
    assert not leading.ready().reads
    leading.step(Message(MessageType.HEARTBEAT_RESPONSE, "c", "a", term, round=beat.round))
    assert [read.context for read in leading.ready().reads] == [7]


def test_who_leaves_is_told_of_the_commit_and_then_nothing_more(leader, raft):
    leading = settled_leader(leader, raft)
    index = leading.propose_configuration(RemoveMember("c"))
    raft.work(leading)
    answer(leading, "c", index)
    assert leading.commit < index, "who leaves does not count"
    answer(leading, "b", index)
    told = {message.receiver for message in raft.messages_of(leading)}
    assert told == {"b", "c"}
    leading.propose([b"x"])
    leading.tick()
    assert {message.receiver for message in raft.messages_of(leading)} == {"b"}
    answer(leading, "c", index)  # A late word of it is no harm.
    assert "c" not in leading.status().progress


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        configurations.encode(Configuration(())),
        configurations.encode(Configuration(("a", "a"))),
        configurations.encode(Configuration(("a", ""))),
        configurations.encode(Configuration(("a",), learners=("a",))),
        configurations.encode(Configuration(("a",), ("b",), ("b",))),
    ],
)
def test_a_configuration_that_no_leader_appends_is_refused_before_anything_changed(core, data):
    member = core()
    entry = Entry(1, 1, EntryKind.CONFIGURATION, data)
    before = member.status()
    with pytest.raises(MalformedMessage):
        member.step(Message(MessageType.APPEND_REQUEST, "b", "a", 1, entries=(entry,)))
    assert member.status() == before
    with pytest.raises(BrokenInvariant, match="in the log on disk"):
        core_with_entry(core, entry)


def core_with_entry(core, entry):
    return core("a", entries=(entry,), term=1)


def test_a_configuration_of_a_later_version_is_read_without_its_new_fields():
    data = configurations.encode(Configuration(("a", "b"), (), ("c",)))
    assert data[0] == 0x93, "a msgpack array of three"
    longer = b"\x94" + data[1:] + b"\xa3new"
    assert configurations.decode(longer) == Configuration(("a", "b"), (), ("c",))


def test_the_configuration_is_recovered_from_the_log(core):
    changes = [
        Entry(1, 1, EntryKind.CONFIGURATION, configurations.encode(Configuration(names)))
        for names in [("a", "b", "c", "d")]
    ]
    member = core("a", entries=tuple(changes), term=1)
    assert member.status().configuration.voters == ("a", "b", "c", "d")
    assert member.configuration_at(0) == Configuration(("a", "b", "c"))
    assert member.configuration_at(1).voters == ("a", "b", "c", "d")


def test_rule_20_a_fresh_member_votes_and_learns_but_never_campaigns(core, raft):
    """A new name on an empty disk: nobody can vote twice through it."""
    member = core("new", [])
    for _ in range(100):
        member.tick()
    assert member.role is Role.FOLLOWER
    member.step(Message(MessageType.TIMEOUT_NOW, "a", "new", 0))
    assert member.role is Role.FOLLOWER
    member.step(Message(MessageType.VOTE_REQUEST, "a", "new", 1))
    assert not raft.only(raft.messages_of(member), MessageType.VOTE_RESPONSE).reject
