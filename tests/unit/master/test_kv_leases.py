"""Leases: their end is decided by the leader's clock alone and takes effect through the log."""

import asyncio

import pytest

from essaim_master.kv.commands import GrantLease, Put, RevokeLease, Transaction
from essaim_master.kv.errors import LeaseNotFound
from essaim_master.kv.lease_deadlines import LeaseDeadlines
from essaim_master.kv.leases import Lease
from essaim_master.lease_keeper import LATE_S, LeaseKeeper
from essaim_master.state.cluster import LocalCluster, Member
from essaim_shared.clock import ManualClock
from essaim_shared.errors import NoLeader


def deadlines_of(now_s=0.0, **ttls):
    leases = {number: Lease(number, ttl) for number, ttl in enumerate(ttls.values(), start=1)}
    deadlines = LeaseDeadlines()
    deadlines.follow(leases, now_s)
    return deadlines, leases


def test_a_lease_ends_after_its_time_and_not_before():
    deadlines, _ = deadlines_of(a=5, b=3)
    assert deadlines.expire(2.9, 10) == []
    assert deadlines.expire(3.0, 10) == [2]
    assert deadlines.expire(9.0, 10) == [2, 1]
    assert deadlines.expire(9.0, 1) == [2], "the longest overdue first, within the bound"


def test_a_sign_of_life_gives_the_full_time_again_and_never_takes_any():
    deadlines, leases = deadlines_of(a=5)
    deadlines.keep_alive(leases[1], 4.0)
    deadlines.keep_alive(leases[1], 2.0)
    assert deadlines.remaining_s(leases[1], 6.0) == 3.0
    assert deadlines.expire(8.9, 10) == []


def test_a_lease_whose_end_is_on_its_way_cannot_be_saved():
    deadlines, leases = deadlines_of(a=5)
    assert deadlines.expire(5.0, 10) == [1]
    with pytest.raises(LeaseNotFound):
        deadlines.keep_alive(leases[1], 5.0)
    deadlines.follow({}, 6.0)
    assert deadlines.expire(9.0, 10) == []


def test_an_id_that_was_granted_again_is_a_new_lease():
    deadlines, leases = deadlines_of(a=5)
    deadlines.expire(5.0, 10)
    deadlines.follow({}, 6.0)
    deadlines.follow(leases, 7.0)
    deadlines.keep_alive(leases[1], 8.0)
    assert deadlines.expire(12.9, 10) == []


class Cluster(LocalCluster):
    """Notes what is committed; `before_barrier` is what happens while a quorum is asked."""

    def __init__(self, clock):
        super().__init__(clock, Member("m1", "127.0.0.1:1", "127.0.0.1:2"))
        self.committed = []
        self.before_barrier = []

    async def commit(self, transaction, timeout_s):
        self.committed.append(transaction)
        return await super().commit(transaction, timeout_s)

    async def read_barrier(self, timeout_s):
        if self.before_barrier:
            self.before_barrier.pop()()
        await super().read_barrier(timeout_s)


class World:
    def __init__(self):
        self.clock = ManualClock()
        self.cluster = Cluster(self.clock)
        self.store = self.cluster.store
        self.keeper = LeaseKeeper(self.cluster, self.clock)
        self.running = asyncio.create_task(self.keeper.run())

    async def grant(self, lease, ttl_s, *keys):
        operations = (GrantLease(lease, ttl_s), *(Put(key, b"", lease) for key in keys))
        await self.cluster.commit(Transaction(then=operations), 1.0)


@pytest.fixture
async def world():
    made = World()
    await made.clock.advance(0)
    yield made
    made.running.cancel()
    await asyncio.wait([made.running])


async def test_an_expired_lease_takes_its_keys_with_it_in_one_revision(world):
    await world.grant(1, 5, b"b", b"a")
    revision = world.store.revision
    told = []
    world.store.watch(lambda number, events: told.append((number, [e.key for e in events])))
    await world.clock.advance(4.9)
    assert world.store.get(b"a")
    await world.clock.advance(0.7)
    assert told == [(revision + 1, [b"a", b"b"])]
    assert not world.store.leases


async def test_the_order_in_which_keys_go_is_the_order_of_their_bytes(world):
    """An order of a set would differ between masters."""
    keys = [b"k%03d" % number for number in range(100)]
    await world.grant(1, 5, *reversed(keys))
    told = []
    world.store.watch(lambda _, events: told.extend(event.key for event in events))
    await world.cluster.commit(Transaction(then=(RevokeLease(1),)), 1.0)
    assert told == keys


async def test_the_verdict_carries_the_term_of_its_judge(world):
    world.cluster.lead(True, 7)
    await world.grant(1, 5)
    await world.clock.advance(6)
    assert world.cluster.committed[-1].then == (RevokeLease(1, only_in_term=7),)


async def test_a_new_leader_gives_all_leases_their_full_time_again(world):
    await world.grant(1, 5, b"a")
    await world.clock.advance(4)
    world.cluster.lead(False, 2)
    await world.clock.advance(60)
    assert world.store.get(b"a"), "a follower ends nothing"
    world.cluster.lead(True, 3)
    await world.clock.advance(4.9)
    assert world.store.get(b"a")
    await world.clock.advance(1)
    assert not world.store.get(b"a")


async def test_a_deposed_leaders_verdict_is_void(world):
    """It is applied in the log of a later term: the new leader has extended the lease."""
    await world.grant(1, 5, b"a")
    world.cluster.lead(False, 2)
    verdict = Transaction(then=(RevokeLease(1, only_in_term=1),))
    await world.cluster.commit(verdict, 1.0)
    assert world.store.get(b"a")
    await world.cluster.commit(Transaction(then=(RevokeLease(1),)), 1.0)
    assert not world.store.get(b"a"), "a user's wish holds in every term"


async def test_what_expires_without_a_quorum_ends_when_there_is_one_again(world):
    await world.grant(1, 5, b"a")
    world.cluster.available = False
    await world.clock.advance(10)
    assert world.store.get(b"a")
    world.cluster.available = True
    await world.clock.advance(0.5)
    assert not world.store.get(b"a")


async def test_a_follower_keeps_nothing_alive(world):
    await world.grant(1, 5)
    world.cluster.lead(False, 2)
    with pytest.raises(NoLeader):
        await world.keeper.keep_alive(1)


async def test_a_leader_that_is_deposed_while_it_asks_promises_nothing(world):
    await world.grant(1, 5)
    world.cluster.before_barrier.append(lambda: world.cluster.lead(False, 2))
    with pytest.raises(NoLeader):
        await world.keeper.keep_alive(1)


async def test_a_promise_counts_from_before_the_quorum_was_asked(world):
    await world.grant(1, 5)
    await world.clock.advance(1)

    def slow():
        world.clock._now_s += 3

    world.cluster.before_barrier.append(slow)
    await world.keeper.keep_alive(1)
    _, remaining_s = await world.keeper.remaining_s(1)
    assert remaining_s == pytest.approx(2.0)


async def test_a_process_that_stood_still_ends_nobodys_lease(world):
    await world.grant(1, 5, b"a")
    await world.clock.advance(1)
    world.clock._now_s += 30 + LATE_S
    await world.clock.advance(0.6)
    assert world.store.get(b"a"), "nobody could reach this leader for 30 seconds"
    await world.clock.advance(5.5)
    assert not world.store.get(b"a")


async def test_no_leases_cost_no_writes(world):
    await world.clock.advance(60)
    assert world.cluster.committed == []
