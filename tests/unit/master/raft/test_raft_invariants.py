"""The invariant checkers themselves: each sees what it is there for, and is silent otherwise.

Broken clusters are made of members whose logs no correct run brings about.
"""

import pytest
from support import raft_invariants
from support.raft_disks import Disk
from support.raft_invariants import InvariantBroken, InvariantWatch, Observed

from essaim_master.raft.messages import Entry, EntryKind, Message, MessageType, SnapshotMetadata


def disk_of(core):
    disk = Disk()
    log = core.log
    disk.entries = list(log.slice(1, log.last_index, 1 << 40))
    return disk


@pytest.fixture
def seen(core):
    """`seen(a=dict(log=…, commit=…), …)`: members with these logs, in memory and on disk."""

    def make(**members):
        cores = {name: core(name, **options) for name, options in members.items()}
        return {name: Observed(one, disk_of(one)) for name, one in cores.items()}

    return make


def broken(members):
    """The names of the invariants that do not hold."""
    return {name for name, check in raft_invariants.ALL.items() if check(members) is not None}


def test_a_healthy_cluster_breaks_nothing(seen):
    members = seen(
        a={"log": (1, 1, 2), "commit": 2}, b={"log": (1, 1), "commit": 2}, c={"log": (1, 1, 1)}
    )
    assert broken(members) == set()
    InvariantWatch().full(members)


def test_log_inv(seen):
    members = seen(a={"log": (1, 1), "commit": 2}, b={"log": (1, 2), "commit": 2}, c={"log": (1,)})
    assert "LogInv" in broken(members)
    watch = InvariantWatch()
    watch.committed = [(1, 1), (1, 1)]
    watch.step(members, "a")
    with pytest.raises(InvariantBroken, match="LogInv: b committed 2/2, others 1/2"):
        watch.step(members, "b")


def test_log_matching_inv(seen):
    members = seen(a={"log": (1, 1, 3)}, b={"log": (1, 2, 3)}, c={})
    assert broken(members) == {"LogMatchingInv"}


def test_quorum_log_inv_and_committed_is_durable_inv(seen):
    members = seen(a={"log": (1, 1), "commit": 2}, b={"log": (1,)}, c={"log": (1,)})
    assert {"QuorumLogInv", "CommittedIsDurableInv"} <= broken(members)


def test_committed_is_durable_inv_looks_at_disks(seen):
    members = seen(a={"log": (1, 1), "commit": 2}, b={"log": (1, 1)}, c={})
    assert broken(members) == set()
    del members["b"].disk.entries[1:]
    assert broken(members) == {"CommittedIsDurableInv"}


def test_more_up_to_date_correct_inv(seen):
    members = seen(
        a={"log": (1, 1), "commit": 2}, b={"log": (1, 1), "commit": 2}, c={"log": (1, 2), "term": 2}
    )
    assert broken(members) == {"MoreUpToDateCorrectInv"}


def test_leader_invariants(leader, raft):
    """Two leaders of one term, made by giving each its votes."""
    first, second = leader("a"), leader("b", ("b", "a", "c"))
    raft.work(first)
    raft.work(second)
    members = {"a": Observed(first, disk_of(first)), "b": Observed(second, disk_of(second))}
    assert raft_invariants.more_than_one_leader_inv(members) == "a and b lead term 1"
    first.propose([b"x"])
    assert "holds 1/2" in str(raft_invariants.election_safety_inv(members))
    watch = InvariantWatch()
    watch.step(members, "a")
    with pytest.raises(InvariantBroken, match="MoreThanOneLeaderInv: a and b led term 1"):
        watch.step(members, "b")


def test_leader_completeness_inv(core, leader, raft):
    """A leader of term 2 that lacks what was committed in term 1."""
    committed = core("b", log=(1, 1), commit=2)
    other = core("c", log=(1, 1), commit=2)
    leading = leader("a", log=(1,))
    raft.work(leading)
    members = {
        name: Observed(one, disk_of(one))
        for name, one in {"b": committed, "c": other, "a": leading}.items()
    }
    watch = InvariantWatch()
    watch.step(members, "b")
    with pytest.raises(InvariantBroken, match="LeaderCompletenessInv: a leads term 2 and lacks"):
        watch.step(members, "a")
    assert "lacks 1/2" in str(raft_invariants.leader_completeness_inv(members, watch.committed))


def test_the_same_entry_with_other_contents_is_noticed_wherever_it_is_seen():
    watch = InvariantWatch()
    watch.entries(0, [Entry(1, 1, EntryKind.NORMAL, b"x"), Entry(1, 2, EntryKind.NORMAL, b"y")])
    watch.entries(1, [Entry(1, 2, EntryKind.NORMAL, b"y")])
    with pytest.raises(InvariantBroken, match="LogMatchingInv"):
        watch.entries(1, [Entry(1, 2, EntryKind.NORMAL, b"z")])
    with pytest.raises(InvariantBroken, match="LogMatchingInv"):
        watch.entries(0, [Entry(1, 2, EntryKind.NORMAL, b"y")])


def test_a_snapshot_of_what_nobody_committed_is_noticed(core, seen):
    members = seen(a={"log": (1, 1), "commit": 2}, b={"log": (1, 1), "commit": 2}, c={})
    watch = InvariantWatch()
    watch.full(members)
    members["c"].core.install_snapshot(
        SnapshotMetadata(5, 1, members["a"].core.configuration_at(2))
    )
    with pytest.raises(InvariantBroken, match="a snapshot up to 5, of which only 2"):
        watch.step(members, "c")


def test_what_is_compacted_counts_as_held(seen):
    members = seen(**{name: {"log": (1, 1, 1), "commit": 3} for name in "abc"})
    for member in members.values():
        member.core.ready()
        member.core.applied_to(3)
        snapshot = SnapshotMetadata(3, 1, member.core.configuration_at(3))
        member.core.compacted(snapshot, 4)
        member.disk.compact(snapshot, 4)
    assert broken(members) == set()
    assert not raft_invariants.holds(members["a"].disk, 4, 1)


def test_a_member_that_is_down_still_counts_with_its_disk(core, seen):
    members = seen(a={"log": (1, 1), "commit": 2}, b={"log": (1, 1)}, c={})
    members["b"] = Observed(None, members["b"].disk)
    watch = InvariantWatch()
    watch.full(members)
    watch.step(members, "b")
    assert watch.committed == [(1, 1), (1, 1)]


def test_a_step_that_changes_nothing_is_cheap_to_check_and_one_that_commits_is_checked(seen):
    members = seen(a={"log": (1, 1), "commit": 1}, b={"log": (1, 1)}, c={})
    watch = InvariantWatch()
    watch.step(members, "a")
    del members["b"].disk.entries[1:]
    watch.step(members, "a")
    members["a"].core.step(Message(MessageType.APPEND_REQUEST, "b", "a", 1, 2, 1, commit=2))
    with pytest.raises(InvariantBroken, match="CommittedIsDurableInv"):
        watch.step(members, "a")
