"""The failure detector: who is down, and when the leader must not judge."""

import pytest

from essaim_master.control.liveness import FailureDetector, Verdicts
from essaim_shared.ids import NodeId

START_S = 100.0


class Bench:
    """Time in steps of 250 ms; nodes that beat do so once a second; the echo returns or not."""

    def __init__(self, count):
        self.now_s = START_S
        self.detector = FailureDetector(START_S)
        self.nodes = [NodeId(f"n{number}") for number in range(1, count + 1)]
        for node in self.nodes:
            self.detector.watch(node)
        self.silent = set()
        self.hears = True
        self.down, self.unknown, self.withheld = {}, {}, []

    def run(self, seconds):
        end_s = self.now_s + seconds
        while self.now_s < end_s:
            self.now_s += 0.25
            if self.hears:
                self.detector.echo(self.now_s)
                for number, node in enumerate(self.nodes):
                    # Beats of different nodes come at different moments of the second.
                    due = (self.now_s + 0.25 * number) % 1 == 0
                    if due and node not in self.silent and node in self.detector:
                        self.detector.signal(node)
            verdicts = self.detector.verdicts(self.now_s)
            for node in verdicts.down:
                assert node not in self.down
                self.down[node] = self.now_s
            for node in verdicts.unknown:
                self.unknown[node] = self.now_s
            if verdicts.withheld:
                self.withheld.append(verdicts.withheld)


def test_nodes_that_beat_are_left_alone():
    bench = Bench(3)
    bench.run(60)
    assert not bench.down
    assert not bench.withheld


def test_one_of_three_is_down_after_four_seconds_of_silence():
    bench = Bench(3)
    bench.run(10)
    bench.silent = {"n2"}
    bench.run(5)
    assert set(bench.down) == {"n2"}
    assert 4.0 <= bench.down[NodeId("n2")] - START_S - 10 + 1 <= 5.25
    assert NodeId("n2") not in bench.detector


@pytest.mark.parametrize(
    ("nodes", "silent", "down"),
    [(1, 1, 0), (2, 1, 1), (2, 2, 0), (3, 2, 0), (4, 2, 2), (5, 2, 2), (5, 3, 0), (100, 51, 0)],
)
def test_nothing_moves_when_more_than_half_fall_silent_together(nodes, silent, down):
    bench = Bench(nodes)
    bench.run(10)
    bench.silent = set(bench.nodes[:silent])
    bench.run(30)
    assert len(bench.down) == down
    assert len(bench.unknown) == (0 if down else silent)
    if not down:
        assert bench.withheld[-1] == f"{silent} of {nodes} nodes fell silent together"


def test_the_minority_that_stays_silent_is_judged_once_the_others_are_back():
    bench = Bench(5)
    bench.run(10)
    bench.silent = {"n1", "n2", "n3"}
    bench.run(10)
    assert not bench.down
    bench.silent = {"n1"}
    for node in ("n2", "n3"):
        bench.detector.watch(NodeId(node))  # they register again
    bench.run(1)
    assert set(bench.down) == {"n1"}


def test_a_deaf_leader_blames_nobody():
    bench = Bench(3)
    bench.run(10)
    bench.hears = False
    bench.run(120)
    assert not bench.down
    assert not bench.unknown
    assert bench.withheld[-1] == "the leader's own messages do not return over the bus"
    bench.hears = True
    bench.run(30)
    assert not bench.down


def test_a_node_that_was_lost_while_the_leader_was_deaf_is_found_out():
    bench = Bench(3)
    bench.run(10)
    bench.hears = False
    bench.run(30)
    bench.hears = True
    bench.silent = {"n3"}
    bench.run(1)
    assert not bench.down, "it still has grace"
    bench.run(5)
    assert set(bench.down) == {"n3"}


def test_a_new_term_gives_fresh_grace():
    bench = Bench(3)
    bench.silent = {"n1"}
    bench.run(3.5)
    assert not bench.down
    assert bench.detector.silence_s(NodeId("n1")) == pytest.approx(3.5)
    bench.run(1)
    assert set(bench.down) == {"n1"}


def test_registration_begins_the_watch_anew():
    bench = Bench(3)
    bench.silent = {"n1"}
    bench.run(6)
    assert set(bench.down) == {"n1"}
    bench.silent = set()
    bench.down.clear()
    bench.detector.watch(NodeId("n1"))
    bench.run(30)
    assert not bench.down


def test_a_signal_of_an_unwatched_node_says_nothing():
    detector = FailureDetector(START_S)
    detector.signal(NodeId("stranger"))
    assert detector.silence_s(NodeId("stranger")) == float("inf")
    detector.echo(START_S + 100)
    assert detector.verdicts(START_S + 100) == Verdicts()
