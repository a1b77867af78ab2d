"""The metrics page and its documentation name the same things."""

import re
from pathlib import Path

from essaim_master.http.master_metrics import master_metrics
from essaim_master.http.raft_view import Inside
from essaim_master.raft.log import RaftLog
from essaim_master.raft.messages import Configuration, Role
from essaim_master.raft.progress import ProgressState
from essaim_master.raft.status import FollowerStatus, RaftStatus
from essaim_master.raft_metrics import RaftMetrics, SyncTimes
from essaim_shared.clock import ManualClock
from essaim_shared.loop_lag import LoopLag

PAGE = Path(__file__).resolve().parents[4] / "docs" / "reference" / "metrics.md"


class StillNode:
    """A leader in the middle of something, as a RaftNode would show it."""

    is_leader = True
    leader = "h1"
    log = RaftLog([])

    def __init__(self) -> None:
        self.times = SyncTimes()
        self.alarms: tuple[str, ...] = ()

    def status(self) -> RaftStatus:
        row = FollowerStatus(7, 8, ProgressState.REPLICATE, True)
        return RaftStatus(
            member_id="h1",
            role=Role.LEADER,
            term=3,
            leader="h1",
            commit=7,
            applied=7,
            last_index=8,
            configuration=Configuration(("h1", "h2"), learners=("h3",)),
            progress={"h1": row, "h2": row, "h3": row},
        )

    def metrics(self) -> RaftMetrics:
        numbers = {
            field: 2 for field in RaftMetrics.__struct_fields__ if field not in ("sync", "alarms")
        }
        return RaftMetrics(sync=self.times.figures(), alarms=self.alarms, **numbers)


class Quiet:
    alarms = ("the states differ",)
    latest = None


def page_of(world, node: StillNode) -> str:
    inside = Inside(node, Quiet(), Quiet(), Quiet(), LoopLag(ManualClock()), *[Quiet()] * 3)
    return master_metrics(world.state, world.cluster.leadership(), inside, 4, {"rate": 2})


def test_every_metric_is_documented_and_none_that_is_not_there(world) -> None:
    served = set(re.findall(r"^# TYPE essaim_master_(\w+) ", page_of(world, StillNode()), re.M))
    [own, _] = PAGE.read_text().split("\n# Metrics of an agent")
    rows = [line.split("|")[1] for line in own.splitlines() if line.startswith("| `")]
    documented = {name for row in rows for name in re.findall(r"`(\w+)(?:\{\w+\})?`", row)}
    assert documented == served


def test_the_numbers_are_those_of_the_node(world) -> None:
    node = StillNode()
    node.alarms = ("the disk is full",)
    for duration_s in (0.0004, 0.003, 9.0):
        node.times.add(duration_s)
    page = page_of(world, node).splitlines()
    for line in (
        "essaim_master_raft_voters 2",
        "essaim_master_raft_learners 1",
        'essaim_master_raft_match_index{member="h2"} 7',
        'essaim_master_raft_queue_length{queue="inbox"} 2',
        'essaim_master_raft_sync_seconds_bucket{le="0.0005"} 1',
        'essaim_master_raft_sync_seconds_bucket{le="0.005"} 2',
        'essaim_master_raft_sync_seconds_bucket{le="5"} 2',
        'essaim_master_raft_sync_seconds_bucket{le="+Inf"} 3',
        "essaim_master_raft_sync_seconds_count 3",
        "essaim_master_raft_sync_seconds_sum 9.0034",
        "essaim_master_watchers 4",
        "essaim_master_alarms 2",
    ):
        assert line in page


def test_a_master_alone_in_memory_has_a_page_too(world) -> None:
    page = master_metrics(world.state, world.cluster.leadership(), None, 0, {"rate": 0})
    assert "essaim_master_raft_term 1\n" in page
    assert "essaim_master_raft_sync_seconds" not in page
