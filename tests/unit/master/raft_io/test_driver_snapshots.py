"""Snapshots in the driver: made, recovered from, sent to who fell behind, cut by crashes."""

import errno
import random

import pytest

from essaim_master.raft.membership import AddLearner
from essaim_master.raft.messages import Configuration
from essaim_master.snapshot.files import parse_snapshot_name
from essaim_master.snapshot.settings import SnapshotSettings
from essaim_master.wal.memory_files import MemoryLogFiles
from essaim_shared.ids import MemberId

OFTEN = SnapshotSettings(every_entries=20, trailing_entries=5)
WORD = "w" * 3000
"""A few dozen of them fill a segment."""


def snapshots_of(files: MemoryLogFiles) -> list[int]:
    names = map(parse_snapshot_name, files.names())
    return [name.last_index for name in names if name is not None]


def segments_of(files: MemoryLogFiles) -> list[str]:
    return [name for name in files.names() if name.endswith(".wal")]


async def put_many(cluster, member: MemberId, count: int) -> None:
    for number in range(count):
        await cluster.put(member, f"{WORD}{number}")


@pytest.fixture
def often(cluster):
    cluster.snapshots = OFTEN
    return cluster


async def test_snapshots_are_made_two_are_kept_and_covered_segments_go(often):
    await often.start()
    leader = await often.leader()
    await put_many(often, leader, 150)
    await often.run(2)
    for member, node in often.nodes.items():
        figures = node.metrics()
        assert figures.snapshots_made >= 3
        assert figures.alarms == ()
        files = often.memory_files[member]
        assert len(snapshots_of(files)) == 2
        assert snapshots_of(files)[-1] == figures.snapshot_index
        assert not segments_of(files)[0].startswith("0000000000000000-")
        assert node._core.log.first_index == figures.snapshot_index + 1 - OFTEN.trailing_entries


async def test_a_restart_goes_on_from_the_snapshot_and_what_the_log_holds_behind_it(often):
    await often.start()
    leader = await often.leader()
    await put_many(often, leader, 90)
    words = list(often.scribes[leader].words)
    await often.stop()
    await often.start()
    leader = await often.leader()
    await often.put(leader, "after")
    await often.run(1)
    for scribe in often.scribes.values():
        assert scribe.words == [*words, "after"]
        assert scribe.applied_commands < 60


async def test_who_was_away_too_long_is_sent_the_snapshot_and_goes_on(often):
    await often.start()
    leader = await often.leader()
    away = often.others(leader)[0]
    await often.stop(away)
    await put_many(often, leader, 80)
    await often.start(away)
    await often.until(
        lambda: often.scribes[away].words == often.scribes[leader].words, "the follower has it all"
    )
    assert often.nodes[away].metrics().snapshots_received == 1
    assert often.scribes[away].applied_commands < 80
    await often.until(
        lambda: any(node.metrics().snapshots_sent for node in often.nodes.values()), "it is said"
    )
    await often.put(away, "through the one that was away")
    await often.stop(away)
    await often.start(away)
    await often.until(
        lambda: often.scribes[away].words == often.scribes[leader].words, "and again after a start"
    )


@pytest.mark.parametrize("seed", range(4))
async def test_chunks_may_be_lost_doubled_and_late(new_cluster, seed):
    often = new_cluster(seed)
    often.snapshots = OFTEN
    await often.start()
    leader = await often.leader()
    away = often.others(leader)[0]
    await often.stop(away)
    for number in range(60):
        await often.put(leader, f"{WORD * 20}{number}")
    often.network.loss_probability = 0.1
    often.network.duplicate_probability = 0.1
    often.network.delay_max_s = 0.05
    await often.start(away)
    await often.until(
        lambda: often.scribes[away].words == often.scribes[leader].words, "the follower has it all"
    )


async def test_a_follower_whose_disk_is_full_says_so_and_takes_it_later(often):
    await often.start()
    leader = await often.leader()
    away = often.others(leader)[0]
    await often.stop(away)
    await put_many(often, leader, 80)
    await often.start(away)
    # The spare segments come first; then the file for the snapshot finds no room, three times.
    often.memory_files[away].fail("create", errno.ENOSPC, times=3)
    await often.until(lambda: bool(often.nodes[away].metrics().alarms), "the alarm")
    await often.until(
        lambda: often.scribes[away].words == often.scribes[leader].words, "the follower has it all"
    )


async def test_a_snapshot_that_can_not_be_written_is_an_alarm_and_nothing_else(often, caplog):
    await often.start()
    leader = await often.leader()
    files = often.memory_files[leader]
    files.fail_writes_of("snapshot.tmp", errno.ENOSPC)
    await put_many(often, leader, 30)
    await often.until(lambda: bool(often.nodes[leader].metrics().alarms), "the alarm")
    assert "a snapshot can not be written" in often.nodes[leader].metrics().alarms[0]
    files.fail_writes_of("snapshot.tmp", None)
    await put_many(often, leader, 30)
    await often.until(lambda: often.nodes[leader].metrics().alarms == (), "the alarm is over")
    assert often.nodes[leader].metrics().snapshots_made >= 1


async def test_old_data_keys_that_can_not_be_dropped_are_dropped_later(often, caplog):
    await often.start()
    leader = await often.leader()
    files = often.memory_files[leader]
    files.keys.rotate()
    files.fail_writes_of("data_keys.new", errno.ENOSPC)
    await put_many(often, leader, 120)
    await often.until(lambda: "old data keys cannot be dropped" in caplog.text, "it is said")
    assert len(files.keys.keys) == 2
    files.fail_writes_of("data_keys.new", None)
    await put_many(often, leader, 60)
    await often.until(lambda: len(files.keys.keys) == 1, "the old key is dropped")


async def test_a_learner_with_an_empty_disk_joins_by_snapshot(often):
    await often.start()
    leader = await often.leader()
    await put_many(often, leader, 60)
    learner = MemberId("m4")
    often.memory_files[learner] = MemoryLogFiles(random.Random(7).randbytes)
    often.configurations[learner] = Configuration(())
    await often.start(learner)
    often.nodes[leader].propose_configuration(AddLearner(learner))
    await often.until(
        lambda: often.scribes[learner].words == often.scribes[leader].words, "it caught up"
    )
    status = often.nodes[learner].status()
    assert status.configuration.learners == (learner,)
    await often.stop(learner)
    await often.start(learner)
    assert often.nodes[learner].status().configuration.learners == (learner,)


class PowerMeter:
    """Counts file operations, and keeps the disk as it would be if the power went at one."""

    def __init__(self, files: MemoryLogFiles, at: int, rng: random.Random, went=None) -> None:
        self.files, self.at, self.rng, self.went = files, at, rng, went
        self.count = 0
        self.left: MemoryLogFiles | None = None
        files.before_call = self.count_one

    def count_one(self) -> None:
        self.count += 1
        if self.count == self.at:
            self.left = self.files.crash(self.rng)
            if self.went is not None:
                self.went()


@pytest.mark.parametrize("at", range(1, 10))
async def test_the_power_may_go_at_every_file_operation_of_an_installation(new_cluster, at):
    """What the follower has afterwards, with any of its un-synced sectors, is a member that
    catches up, and has forgotten nothing that it said."""
    cluster = new_cluster(at)
    cluster.snapshots = OFTEN
    await cluster.start()
    leader = await cluster.leader()
    away = cluster.others(leader)[0]
    await cluster.stop(away)
    await put_many(cluster, leader, 60)
    await cluster.start(away)
    meter = PowerMeter(
        cluster.memory_files[away], at, cluster.rng, lambda: cluster.network.isolate(away)
    )
    await cluster.until(lambda: meter.left is not None, "the power goes")
    await cluster.stop(away)
    cluster.memory_files[away] = meter.left
    cluster.network.heal()
    await cluster.start(away)
    await cluster.put(leader, "one more")
    await cluster.until(
        lambda: cluster.scribes[away].words == cluster.scribes[leader].words, "it caught up"
    )


@pytest.mark.parametrize("at", range(1, 40))
async def test_the_power_may_go_at_every_file_operation_of_making_snapshots(new_cluster, at):
    """A cluster of one: whatever it had acknowledged by then is there afterwards."""
    cluster = new_cluster(at)
    cluster.snapshots = OFTEN
    alone = MemberId("m1")
    cluster.configurations[alone] = Configuration((alone,))
    await cluster.start(alone)
    await put_many(cluster, alone, 45)
    meter = PowerMeter(cluster.memory_files[alone], at, cluster.rng)
    acknowledged = list(cluster.scribes[alone].words)
    for number in range(40):
        await cluster.put(alone, f"{WORD}and {number}")
        if meter.left is None:
            acknowledged = list(cluster.scribes[alone].words)
    assert meter.left is not None
    await cluster.stop(alone)
    cluster.memory_files[alone] = meter.left
    await cluster.start(alone)
    await cluster.put(alone, "went on")
    words = cluster.scribes[alone].words
    assert words[: len(acknowledged)] == acknowledged
    assert words[-1] == "went on"
