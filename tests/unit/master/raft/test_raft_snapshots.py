"""Snapshots and compaction (paper section 7; rule 10): what the core promises its driver."""

import pytest

from essaim_master.raft import configurations
from essaim_master.raft.messages import (
    Configuration,
    Entry,
    EntryKind,
    Message,
    MessageType,
    Role,
    SnapshotMetadata,
)
from essaim_master.raft.progress import ProgressState
from essaim_shared.errors import BrokenInvariant

ABC = Configuration(("a", "b", "c"))


def answer(core, sender, index):
    core.step(Message(MessageType.APPEND_RESPONSE, sender, "a", core.term, index=index))


def heartbeat_answer(core, sender):
    core.step(Message(MessageType.HEARTBEAT_RESPONSE, sender, "a", core.term))


def compacted_leader(leader, raft, kept_from=5):
    """Leads term 2; of entries 1 to 4 only what is kept is left; c has answered nothing yet."""
    leading = leader("a", log=[1, 1, 1], commit=3)
    raft.work(leading)
    answer(leading, "b", 4)
    raft.work(leading)
    assert leading.status().applied == 4
    leading.compacted(SnapshotMetadata(4, 2, leading.configuration_at(4)), kept_from)
    return leading


def refuse_from_the_start(leading):
    leading.step(Message(MessageType.APPEND_RESPONSE, "c", "a", leading.term, index=3, reject=True))


def test_the_log_begins_behind_what_was_compacted(leader, raft):
    leading = compacted_leader(leader, raft, kept_from=4)
    log = leading.log
    assert (log.first_index, log.last_index, log.term_at(3)) == (4, 4, 1)
    assert log.term_at(2) is None
    leading.propose([b"x"])
    request = next(m for m in raft.messages_of(leading) if m.receiver == "b")
    assert (request.index, request.log_term) == (4, 2)


def test_trailing_entries_spare_a_slow_follower_the_snapshot(leader, raft):
    leading = compacted_leader(leader, raft, kept_from=2)
    leading.step(
        Message(MessageType.APPEND_RESPONSE, "c", "a", 2, index=3, reject=True, hint=1, log_term=1)
    )
    request = raft.only(raft.messages_of(leading), MessageType.APPEND_REQUEST)
    assert (request.index, [entry.index for entry in request.entries]) == (1, [2, 3, 4])


def test_a_follower_that_needs_compacted_entries_is_offered_the_snapshot_once(leader, raft):
    leading = compacted_leader(leader, raft)
    refuse_from_the_start(leading)
    ready = raft.work(leading)
    assert [(to, snapshot.index) for to, snapshot in ready.snapshot_to_send] == [("c", 4)]
    offer = raft.only(ready.messages_now, MessageType.SNAPSHOT_REQUEST)
    assert (offer.receiver, offer.snapshot) == ("c", ready.snapshot_to_send[0][1])
    assert leading.status().progress["c"].state is ProgressState.SNAPSHOT
    for _ in range(5):
        leading.propose([b"x"])
        leading.tick()
        heartbeat_answer(leading, "c")
        ready = raft.work(leading)
        assert not ready.snapshot_to_send
        assert MessageType.APPEND_REQUEST not in {
            message.type for message in ready.messages_now if message.receiver == "c"
        }


def test_no_stream_to_a_member_that_answers_nothing(leader, raft):
    leading = compacted_leader(leader, raft)
    leading.tick()
    assert not raft.work(leading).snapshot_to_send
    heartbeat_answer(leading, "c")
    assert raft.work(leading).snapshot_to_send


@pytest.mark.parametrize(("ok", "next_"), [(True, 5), (False, 1)])
def test_after_a_stream_the_follower_is_probed_when_it_answers(leader, raft, ok, next_):
    leading = compacted_leader(leader, raft)
    refuse_from_the_start(leading)
    raft.work(leading)
    leading.report_snapshot("c", ok)
    row = leading.status().progress["c"]
    assert (row.state, row.next) == (ProgressState.PROBE, next_)
    leading.propose([b"x"])
    assert "c" not in {message.receiver for message in raft.messages_of(leading)}, "not at once"
    leading.tick()
    heartbeat_answer(leading, "c")
    ready = raft.work(leading)
    assert bool(ready.snapshot_to_send) is not ok
    if ok:
        request = next(
            m
            for m in ready.messages_now
            if m.type is MessageType.APPEND_REQUEST and m.receiver == "c"
        )
        assert request.index == 4


def test_a_report_without_a_stream_changes_nothing(core, leader, raft):
    leading = compacted_leader(leader, raft)
    before = leading.status()
    leading.report_snapshot("b", False)
    leading.report_snapshot("stranger", True)
    assert leading.status() == before
    core().report_snapshot("b", True)


def test_an_answer_that_reaches_the_log_ends_the_wait_and_an_older_one_does_not(leader, raft):
    leading = compacted_leader(leader, raft)
    refuse_from_the_start(leading)
    raft.work(leading)
    answer(leading, "c", 2)
    assert leading.status().progress["c"].state is ProgressState.SNAPSHOT
    answer(leading, "c", 4)
    assert leading.status().progress["c"].state is ProgressState.REPLICATE


def test_lost_leadership_takes_back_what_was_to_be_streamed(leader, raft):
    leading = compacted_leader(leader, raft)
    refuse_from_the_start(leading)
    leading.step(Message(MessageType.HEARTBEAT_REQUEST, "b", "a", 9))
    assert not raft.work(leading).snapshot_to_send


@pytest.mark.parametrize(
    ("snapshot", "kept_from"),
    [
        (SnapshotMetadata(5, 2, ABC), 5),  # Beyond what is applied.
        (SnapshotMetadata(4, 1, ABC), 4),  # Another term.
        (SnapshotMetadata(3, 1, ABC), 3),  # Back before the one there is.
        (SnapshotMetadata(4, 2, ABC), 6),  # A gap behind it.
    ],
)
def test_a_snapshot_that_cannot_be_stops_the_member(leader, raft, snapshot, kept_from):
    leading = compacted_leader(leader, raft, kept_from=2)
    with pytest.raises(BrokenInvariant):
        leading.compacted(snapshot, kept_from)


# The follower


def test_an_installed_snapshot_is_the_new_beginning(core, raft):
    member = core(log=(1, 1), term=3)
    member.step(Message(MessageType.HEARTBEAT_REQUEST, "b", "a", 3))
    raft.work(member)
    snapshot = SnapshotMetadata(10, 2, Configuration(("a", "b"), learners=("d",)))
    assert member.needs_snapshot(snapshot)
    assert member.install_snapshot(snapshot)
    status = member.status()
    assert (status.commit, status.applied, status.last_index) == (10, 10, 10)
    assert status.configuration == snapshot.configuration
    ready = member.ready()
    assert (ready.entries, ready.committed) == ((), ())
    assert ready.hard_state is not None
    assert ready.hard_state.commit == 10
    told = raft.only(ready.messages_after_sync, MessageType.APPEND_RESPONSE)
    assert (told.receiver, told.index, told.reject) == ("b", 10, False)
    following = Entry(3, 11, EntryKind.NORMAL, b"x")
    member.step(
        Message(MessageType.APPEND_REQUEST, "b", "a", 3, 10, 2, entries=(following,), commit=11)
    )
    ready = member.ready()
    assert (ready.entries, ready.committed) == ((following,), (following,))


@pytest.mark.parametrize(
    ("index", "commit_after"),
    [
        (1, 2),  # Older than what is committed here.
        (2, 2),
        (3, 3),  # In the log: it is committed, and nothing else.
    ],
)
def test_a_stale_snapshot_is_not_installed(core, raft, index, commit_after):
    member = core(log=(1, 1, 1, 1), commit=2)
    member.step(Message(MessageType.HEARTBEAT_REQUEST, "b", "a", 1))
    raft.work(member)
    assert not member.install_snapshot(SnapshotMetadata(index, 1, ABC))
    assert (member.commit, member.log.last_index) == (commit_after, 4)
    told = raft.only(raft.messages_of(member), MessageType.APPEND_RESPONSE)
    assert told.index == commit_after


def test_a_leader_needs_no_snapshot(leader, raft):
    leading = compacted_leader(leader, raft)
    ready_before = leading.has_ready()
    assert not leading.install_snapshot(SnapshotMetadata(99, 1, ABC))
    assert leading.has_ready() is ready_before


def test_a_campaign_ends_with_the_log_it_spoke_of(core, raft):
    member = core(log=(1, 1))
    for _ in range(6):
        member.tick()
    raft.work(member)
    assert member.role is Role.PRE_CANDIDATE
    assert member.install_snapshot(SnapshotMetadata(10, 1, ABC))
    assert member.role is Role.FOLLOWER
    assert not raft.messages_of(member), "nobody is known to lead, so nobody is told"


def test_a_snapshot_of_a_later_term_brings_its_term(core):
    """Else a log could hold entries of terms that its member has not reached."""
    member = core(log=(1,))
    assert member.install_snapshot(SnapshotMetadata(10, 4, ABC))
    ready = member.ready()
    assert (ready.hard_state.term, ready.hard_state.vote, ready.must_sync) == (4, None, True)


def test_an_offer_of_what_is_here_is_answered_so_that_nothing_is_streamed(core, raft):
    member = core(log=(1, 1, 1))
    offer = Message(MessageType.SNAPSHOT_REQUEST, "b", "a", 1, snapshot=SnapshotMetadata(3, 1, ABC))
    member.step(offer)
    told = raft.only(raft.messages_of(member), MessageType.APPEND_RESPONSE)
    assert (told.index, member.commit, member.leader) == (3, 3, "b")
    needed = Message(
        MessageType.SNAPSHOT_REQUEST, "b", "a", 1, snapshot=SnapshotMetadata(9, 1, ABC)
    )
    member.step(needed)
    assert not raft.messages_of(member)


# Starting from a disk


def test_trailing_entries_are_kept_and_the_configuration_is_the_snapshots(core):
    """Those before its end brought the configurations that it already has in it."""
    older = Entry(1, 3, EntryKind.CONFIGURATION, configurations.encode(Configuration(("x",))))
    entries = (
        Entry(1, 2, EntryKind.NORMAL, b""),
        older,
        Entry(1, 4, EntryKind.NORMAL, b""),
        Entry(1, 5, EntryKind.NORMAL, b""),
    )
    member = core(entries=entries, snapshot=SnapshotMetadata(4, 1, ABC), term=1, commit=5)
    assert (member.log.first_index, member.log.last_index) == (3, 5)
    assert (member.commit, member.status().applied) == (5, 4)
    assert member.status().configuration == ABC
    assert not member.ready().entries


@pytest.mark.parametrize("terms", [(1, 1), (1, 1, 1, 1, 1, 1)])
def test_a_log_that_does_not_lead_to_the_snapshot_is_void(core, terms):
    """Figure 13: the snapshot came from elsewhere, and a crash came before the log began anew."""
    member = core(log=terms, snapshot=SnapshotMetadata(4, 2, ABC), term=2)
    assert (member.log.first_index, member.log.last_index) == (5, 4)
    assert (member.commit, member.log.last_term) == (4, 2)


def test_a_void_log_that_was_committed_beyond_the_snapshot_stops_the_member(core):
    with pytest.raises(BrokenInvariant, match="commit 6 is beyond the last entry 4"):
        core(log=(1,) * 6, snapshot=SnapshotMetadata(4, 2, ABC), term=2, commit=6)


def test_entries_that_the_snapshot_does_not_reach_stop_the_member(core):
    entries = (Entry(1, 9, EntryKind.NORMAL, b""),)
    with pytest.raises(BrokenInvariant, match="entry 9 appended to a log that ends at 4"):
        core(entries=entries, snapshot=SnapshotMetadata(4, 1, ABC), term=1)


def test_a_term_that_only_the_snapshot_knows_is_made_durable_at_start(core):
    member = core(log=(1,), snapshot=SnapshotMetadata(4, 3, ABC), term=1)
    ready = member.ready()
    assert (member.term, ready.hard_state.term, ready.must_sync) == (3, 3, True)
