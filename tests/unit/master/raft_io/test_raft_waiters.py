"""Proposals and readers that wait: when they are sent again, and when they are given up."""

import pytest

from essaim_master.kv.commands import AppliedProposal, ProposalId, TransactionResult
from essaim_master.raft_waiters import (
    FORWARD_RETRY_MAX_S,
    FORWARD_RETRY_MIN_S,
    READ_ROUNDS_MAX,
    READERS_MAX,
    Proposals,
    Readers,
)
from essaim_shared.errors import NoLeader, OutcomeUnknown, Unavailable

PROPOSAL = ProposalId("client", 1)
DONE = AppliedProposal(PROPOSAL, TransactionResult(True, 1))


def commands(taken) -> list[bytes]:
    return [pending.command for pending in taken]


async def test_a_forwarded_proposal_without_a_result_is_sent_again_later_each_time():
    proposals = Proposals()
    future = proposals.add(PROPOSAL, b"command", deadline_s=1000.0)
    now_s, pause_s = 0.0, FORWARD_RETRY_MIN_S
    for _ in range(5):
        taken = proposals.take(10, 1000)
        assert commands(taken) == [b"command"]
        proposals.forwarded(taken, now_s)
        proposals.pass_time(now_s + pause_s - 0.01)
        assert not proposals.has_unsent
        now_s += pause_s
        proposals.pass_time(now_s)
        proposals.pass_time(now_s + 0.1)
        pause_s = min(2 * pause_s, FORWARD_RETRY_MAX_S)
    assert len(proposals.take(10, 1000)) == 1, "it waits in the queue once"
    proposals.applied(DONE)
    assert await future == DONE.result
    proposals.pass_time(now_s + 100)
    assert not proposals.has_unsent


async def test_what_stands_in_this_leaders_log_is_not_sent_again_until_the_leader_changes():
    proposals = Proposals()
    proposals.add(PROPOSAL, b"command", deadline_s=1000.0)
    proposals.proposed_here(proposals.take(10, 1000))
    proposals.pass_time(999.0)
    assert not proposals.has_unsent
    proposals.requeue_all()
    assert commands(proposals.take(10, 1000)) == [b"command"]


async def test_what_could_not_be_sent_is_first_in_the_queue_again_and_counts_as_never_sent():
    proposals = Proposals()
    futures = [
        proposals.add(ProposalId("client", number), bytes([number]), deadline_s=1.0)
        for number in range(4)
    ]
    proposals.put_back(proposals.take(2, 1000))
    assert commands(proposals.take(10, 1000)) == [b"\x00", b"\x01", b"\x02", b"\x03"]
    proposals.pass_time(1.0)
    for future in futures:
        with pytest.raises(NoLeader):
            await future


async def test_a_turn_takes_so_many_and_so_many_bytes_but_at_least_one():
    proposals = Proposals()
    for number in range(4):
        proposals.add(ProposalId("client", number), bytes(100), deadline_s=1.0)
    assert len(proposals.take(10, 1)) == 1
    assert len(proposals.take(2, 10_000)) == 2


async def test_after_the_deadline_a_sent_proposal_has_an_unknown_outcome():
    proposals = Proposals()
    future = proposals.add(PROPOSAL, b"command", deadline_s=1.0)
    proposals.forwarded(proposals.take(10, 1000), 0.0)
    proposals.pass_time(1.0)
    with pytest.raises(OutcomeUnknown):
        await future
    proposals.applied(DONE)
    assert len(proposals) == 0


async def test_a_reader_waits_until_the_confirmed_index_is_applied():
    readers = Readers(first_context=7)
    future = readers.add(deadline_s=1.0)
    assert readers.ask() == 7
    readers.confirmed(7, index=5)
    readers.applied(4)
    assert not future.done()
    readers.applied(6)
    assert await future == 6


async def test_a_reader_that_comes_later_is_not_served_by_a_round_that_runs():
    readers = Readers(first_context=7)
    first = readers.add(deadline_s=1.0)
    context = readers.ask()
    second = readers.add(deadline_s=1.0)
    readers.confirmed(context, index=5)
    readers.applied(5)
    assert first.done()
    assert not second.done()
    assert readers.can_ask
    readers.confirmed(readers.ask(), index=9)
    readers.applied(9)
    assert await second == 9


async def test_answers_to_questions_that_were_not_asked_change_nothing():
    readers = Readers(first_context=7)
    future = readers.add(deadline_s=1.0)
    readers.ask()
    readers.confirmed(3, index=1)
    readers.refused(3)
    readers.applied(10)
    assert not future.done()
    readers.close()
    with pytest.raises(NoLeader):
        await future


async def test_rounds_and_readers_are_bounded():
    readers = Readers(first_context=0)
    futures = []
    for _ in range(READ_ROUNDS_MAX):
        futures.append(readers.add(deadline_s=1.0))
        readers.ask()
    futures.append(readers.add(deadline_s=1.0))
    assert not readers.can_ask
    futures += [readers.add(deadline_s=1.0) for _ in range(READERS_MAX - len(futures))]
    with pytest.raises(Unavailable, match="reads are waiting"):
        readers.add(deadline_s=1.0)
    readers.pass_time(1.0)
    assert all(isinstance(future.exception(), NoLeader) for future in futures)
