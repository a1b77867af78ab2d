"""Numbers that cannot work together are refused by name."""

import random

import pytest

from essaim_master.raft.config import RaftConfig
from essaim_master.raft.core import RaftCore
from essaim_master.raft.messages import Configuration, Entry, EntryKind, HardState, SnapshotMetadata
from essaim_shared.errors import BrokenInvariant, ConfigError

EMPTY = HardState()


def start(entries=(), hard_state=EMPTY, **more) -> RaftCore:
    config = RaftConfig("a")
    return RaftCore(config, random.Random(1), hard_state, Configuration(("a",)), entries, **more)


def test_the_defaults_are_valid():
    RaftConfig("a").validate()


@pytest.mark.parametrize(
    ("numbers", "field"),
    [
        ({"member_id": ""}, "member_id"),
        ({"heartbeat_ticks": 0}, "heartbeat_ticks"),
        ({"heartbeat_ticks": 6}, "election_ticks_min"),
        ({"election_ticks_max": 6}, "election_ticks_max"),
        ({"append_bytes_max": 0}, "append_bytes_max"),
        ({"inflight_messages_max": 0}, "inflight_messages_max"),
        ({"inflight_bytes_max": -1}, "inflight_bytes_max"),
        ({"uncommitted_bytes_max": 0}, "uncommitted_bytes_max"),
        ({"committed_bytes_per_ready_max": 0}, "committed_bytes_per_ready_max"),
    ],
)
def test_a_wrong_number_is_named(numbers, field):
    config = RaftConfig(**{"member_id": "a", **numbers})
    with pytest.raises(ConfigError, match=field):
        config.validate()
    with pytest.raises(ConfigError, match=field):
        RaftCore(config, random.Random(1), HardState(), Configuration(("a",)), ())


def test_a_start_hands_out_nothing_that_is_on_disk_already():
    entries = [Entry(1, index, EntryKind.NORMAL, b"x") for index in (1, 2)]
    core = start(entries, HardState(1, None, 1))
    ready = core.ready()
    assert (ready.entries, ready.hard_state) == ((), None)
    assert ready.committed == (entries[0],)


def test_a_start_from_a_snapshot_continues_after_it():
    snapshot = SnapshotMetadata(10, 3, Configuration(("a",)))
    entries = [Entry(3, 11, EntryKind.NORMAL, b"x")]
    core = start(entries, HardState(3, None, 11), snapshot=snapshot)
    assert (core.commit, core.status().applied) == (11, 10)
    assert core.ready().committed == tuple(entries)


def test_a_log_that_lost_its_committed_end_is_refused():
    with pytest.raises(BrokenInvariant, match="commit 5 is beyond the last entry 1"):
        start([Entry(1, 1, EntryKind.NORMAL, b"x")], HardState(1, None, 5))


def test_a_log_with_a_gap_is_refused():
    with pytest.raises(BrokenInvariant, match="entry 4 appended to a log that ends at 0"):
        start([Entry(1, 4, EntryKind.NORMAL, b"x")])
