"""What a leader knows of a follower: the three states and the window."""

import pytest

from essaim_master.raft.progress import TRANSITIONS, Progress, ProgressState, Window
from essaim_shared.errors import BrokenInvariant


def progress(next_index: int = 10, messages_max: int = 3, size_bytes_max: int = 100) -> Progress:
    return Progress(next_index, Window(messages_max, size_bytes_max))


def replicating(match: int = 9, **window: int) -> Progress:
    one = progress(match + 1, **window)
    one.acknowledge(match)
    return one


def test_a_follower_is_probed_with_one_append_at_a_time():
    one = progress()
    assert one.state is ProgressState.PROBE
    assert one.can_send_entries
    one.sent(5, 50, commit=3)
    assert not one.can_send_entries
    assert one.next == 10, "a probe may be lost, so nothing is assumed sent"


def test_an_accepted_probe_opens_the_window():
    one = progress()
    one.sent(5, 50, commit=3)
    assert one.acknowledge(14)
    assert (one.state, one.match, one.next) == (ProgressState.REPLICATE, 14, 15)


def test_agreement_without_news_ends_probing_too():
    one = replicating(9)
    one.become_probe()
    assert not one.acknowledge(9)
    assert one.state is ProgressState.REPLICATE


def test_an_older_answer_does_not_end_probing():
    one = replicating(9)
    one.become_probe()
    assert not one.acknowledge(7)
    assert one.state is ProgressState.PROBE


@pytest.mark.parametrize("size_bytes", [10, 60])
def test_the_window_is_bounded_in_messages_and_in_bytes(size_bytes):
    one = replicating()
    count = 0
    while one.can_send_entries:
        one.sent(1, size_bytes, commit=0)
        count += 1
    assert count == {10: 3, 60: 2}[size_bytes]
    with pytest.raises(BrokenInvariant, match="full window"):
        one.sent(1, size_bytes, commit=0)


def test_an_answer_frees_all_appends_before_it():
    one = replicating()
    for _ in range(3):
        one.sent(2, 10, commit=0)
    assert one.next == 16
    one.acknowledge(13)
    assert len(one.window) == 1
    one.acknowledge(15)
    assert len(one.window) == 0


def test_an_append_without_entries_needs_no_room():
    one = replicating(messages_max=1)
    one.sent(1, 10, commit=0)
    one.sent(0, 0, commit=8)
    assert (one.next, one.commit_sent) == (11, 8)


def test_a_refusal_while_replicating_starts_a_probe_after_match():
    one = replicating(9)
    one.sent(5, 10, commit=7)
    assert one.refuse(14, agrees_at=12)
    assert (one.state, one.next, len(one.window)) == (ProgressState.PROBE, 10, 0)
    assert one.is_append_due
    assert one.commit_sent == 0


@pytest.mark.parametrize("index", [3, 9])
def test_a_refusal_of_what_was_acknowledged_since_is_stale(index):
    one = replicating(9)
    assert not one.refuse(index, agrees_at=0)
    assert one.state is ProgressState.REPLICATE


def test_a_refused_probe_goes_back_to_where_the_logs_may_agree():
    one = progress(next_index=10)
    one.sent(0, 0, commit=0)
    assert one.refuse(9, agrees_at=4)
    assert one.next == 5
    assert one.can_send_entries


def test_a_refused_probe_never_goes_below_match():
    one = replicating(6)
    one.become_probe()
    one.next = 9
    assert one.refuse(8, agrees_at=1)
    assert one.next == 7


def test_a_refusal_of_another_probe_is_stale():
    one = progress(next_index=10)
    one.sent(0, 0, commit=0)
    assert not one.refuse(7, agrees_at=2)
    assert not one.can_send_entries


def test_a_follower_that_refuses_what_it_acknowledged_is_not_asked_in_a_loop():
    one = replicating(9)
    one.become_probe()
    one.sent(0, 0, commit=0)
    assert not one.refuse(9, agrees_at=0)
    assert not one.can_send_entries
    one.resume()
    assert one.can_send_entries


def test_only_listed_transitions_exist():
    one = replicating()
    assert ProgressState.REPLICATE not in TRANSITIONS[ProgressState.REPLICATE]
    with pytest.raises(BrokenInvariant, match="replicate cannot become replicate"):
        one.become_replicate()
    one.become_snapshot(10)
    assert not one.can_send_entries
    with pytest.raises(BrokenInvariant, match="snapshot cannot become snapshot"):
        one.become_snapshot(10)
