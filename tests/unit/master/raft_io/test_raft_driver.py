"""RaftNode: three of them over a network in memory that a test can cut, on a clock it moves."""

import asyncio
import errno
import random

import pytest

from essaim_master.raft.errors import NotLeader
from essaim_master.raft_waiters import COMMAND_BYTES_MAX, PROPOSALS_MAX
from essaim_shared.errors import InvalidRequest, NoLeader, OutcomeUnknown, Unavailable


async def test_a_cluster_elects_one_leader_and_a_write_reaches_every_master(cluster):
    await cluster.start()
    leader = await cluster.leader()
    assert await cluster.put(leader, "one") == 1
    await cluster.until(
        lambda: all(scribe.words == ["one"] for scribe in cluster.scribes.values()),
        "all masters apply the write",
    )


async def test_a_write_through_a_follower_returns_once_it_is_applied_there(cluster):
    await cluster.start()
    follower = cluster.others(await cluster.leader())[0]
    assert await cluster.put(follower, "one") == 1
    assert cluster.scribes[follower].words == ["one"]


async def test_a_write_that_came_before_there_was_a_leader_waits_for_one(cluster):
    await cluster.start()
    assert cluster.nodes["m1"].leader is None
    assert await cluster.put("m1", "early") == 1


async def test_without_a_quorum_nothing_is_sent_and_the_error_says_so(cluster):
    await cluster.start("m1")
    command, proposal_id = cluster.proposal("never")
    with pytest.raises(NoLeader, match="nothing was changed"):
        await cluster.result(cluster.nodes["m1"].propose(command, proposal_id, 2.0))


async def test_a_leader_that_is_cut_off_can_not_say_what_became_of_a_write(cluster):
    await cluster.start()
    leader = await cluster.leader()
    cluster.network.isolate(leader)
    command, proposal_id = cluster.proposal("lost")
    with pytest.raises(OutcomeUnknown, match="may or may not"):
        await cluster.result(cluster.nodes[leader].propose(command, proposal_id, 3.0))
    survivors = cluster.others(leader)
    await cluster.leader(survivors)
    assert await cluster.put(survivors[0], "after") == 1


async def test_a_write_outlives_the_leader_that_took_it(cluster):
    """The old leader had it in its log alone; the same command is proposed to the new one."""
    await cluster.start()
    old = await cluster.leader()
    follower, other = cluster.others(old)
    cluster.network.cut(old, other)
    cluster.network.cut_one_way(old, follower)  # It hears the forwarded write, nobody hears it.
    command, proposal_id = cluster.proposal("once")
    write = asyncio.ensure_future(cluster.nodes[follower].propose(command, proposal_id, 20.0))
    await cluster.until(
        lambda: cluster.nodes[old].status().last_index > cluster.nodes[other].status().last_index,
        "the old leader has the write in its log",
    )
    result = await cluster.result(write)
    assert result.revision == 1
    cluster.network.heal()
    assert await cluster.put(old, "next") == 2
    assert cluster.scribes[old].words == ["once", "next"]


async def test_a_write_in_the_log_of_a_deposed_leader_is_proposed_to_its_successor(cluster):
    """Its entry is replaced by the new leader's; nothing but the change of leader tells."""
    await cluster.start()
    old = await cluster.leader()
    cluster.network.isolate(old)
    command, proposal_id = cluster.proposal("mine")
    write = asyncio.ensure_future(cluster.nodes[old].propose(command, proposal_id, 30.0))
    survivors = cluster.others(old)
    await cluster.leader(survivors)
    await cluster.put(survivors[0], "theirs")
    cluster.network.heal()
    assert (await cluster.result(write)).revision == 2
    assert cluster.scribes[old].words == ["theirs", "mine"]


@pytest.mark.parametrize("seed", range(5))
async def test_every_write_is_applied_exactly_once_over_a_bad_network(seed, new_cluster):
    cluster = new_cluster(seed)
    await cluster.start()
    cluster.network.loss_probability = 0.15
    cluster.network.duplicate_probability = 0.15
    cluster.network.delay_max_s = 0.06
    words = [f"w{number}" for number in range(60)]
    members = tuple(cluster.nodes)

    async def write(word: str, member: str) -> None:
        command, proposal_id = cluster.proposal(word)
        await cluster.nodes[member].propose(command, proposal_id, 30.0)

    await cluster.result(
        asyncio.gather(*(write(word, members[i % 3]) for i, word in enumerate(words)))
    )
    cluster.network.loss_probability = 0
    await cluster.until(
        lambda: all(len(scribe.words) == 60 for scribe in cluster.scribes.values()),
        "every master has every write",
    )
    first = cluster.scribes["m1"].words
    assert sorted(first) == sorted(words)
    assert all(scribe.words == first for scribe in cluster.scribes.values())


async def test_all_masters_come_back_from_their_logs_with_the_same_state(cluster):
    await cluster.start()
    leader = await cluster.leader()
    for number in range(20):
        await cluster.put(leader, f"w{number}")
    term = cluster.nodes[leader].status().term
    await cluster.stop()
    await cluster.start()
    await cluster.leader()
    assert cluster.nodes["m1"].status().term > term
    expected = [f"w{number}" for number in range(20)]
    await cluster.until(
        lambda: all(scribe.words == expected for scribe in cluster.scribes.values()),
        "every master has rebuilt its state",
    )


@pytest.mark.parametrize("seed", range(8))
async def test_acknowledged_writes_survive_a_power_cut_of_all_masters(seed, cluster):
    await cluster.start()
    leader = await cluster.leader()
    for number in range(5):
        await cluster.put(leader, f"w{number}")
    for number in range(5, 10):  # Under way at the moment of the cut.
        command, proposal_id = cluster.proposal(f"w{number}")
        task = asyncio.ensure_future(cluster.nodes[leader].propose(command, proposal_id, 1.0))
        task.add_done_callback(lambda done: done.exception())
    await asyncio.sleep(0)
    print(f"crash seed {seed}")
    rng = random.Random(seed)
    for member, files in list(cluster.memory_files.items()):
        cluster.memory_files[member] = files.crash(rng)
    await cluster.stop()
    await cluster.start()
    await cluster.put(await cluster.leader(), "after")
    words = cluster.scribes[await cluster.leader()].words
    assert words[:5] == [f"w{number}" for number in range(5)]


async def test_the_same_proposal_asked_for_twice_is_one_write(cluster):
    await cluster.start()
    leader = await cluster.leader()
    command, proposal_id = cluster.proposal("one")
    node = cluster.nodes[leader]
    both = asyncio.gather(
        node.propose(command, proposal_id, 5.0), node.propose(command, proposal_id, 5.0)
    )
    first, second = await cluster.result(both)
    assert first == second
    third = await cluster.result(node.propose(command, proposal_id, 5.0))
    assert third == first
    assert cluster.scribes[leader].words == ["one"]


async def test_one_caller_that_gives_up_does_not_take_the_write_from_another(cluster):
    await cluster.start()
    leader = await cluster.leader()
    command, proposal_id = cluster.proposal("one")
    node = cluster.nodes[leader]
    impatient = asyncio.ensure_future(node.propose(command, proposal_id, 5.0))
    patient = asyncio.ensure_future(node.propose(command, proposal_id, 5.0))
    await asyncio.sleep(0)
    impatient.cancel()
    assert (await cluster.result(patient)).revision == 1
    assert impatient.cancelled()


async def test_a_read_behind_the_barrier_sees_every_write_acknowledged_before(cluster):
    await cluster.start()
    leader = await cluster.leader()
    follower = cluster.others(leader)[0]
    for number in range(5):
        await cluster.put(leader, f"w{number}")
        await cluster.result(cluster.nodes[follower].read_barrier(5.0))
        assert cluster.scribes[follower].words[-1] == f"w{number}"


async def test_readers_of_one_turn_share_one_round(cluster):
    await cluster.start()
    leader = await cluster.leader()
    await cluster.put(leader, "one")
    node = cluster.nodes[leader]
    first_context = node._readers._next_context
    indexes = await cluster.result(asyncio.gather(*(node.read_barrier(5.0) for _ in range(100))))
    assert set(indexes) == {node.applied}
    assert node._readers._next_context == first_context + 1


async def test_a_read_is_refused_without_a_quorum(cluster):
    await cluster.start()
    leader = await cluster.leader()
    cluster.network.isolate(leader)
    with pytest.raises(NoLeader, match="read"):
        await cluster.result(cluster.nodes[leader].read_barrier(2.0))


async def test_a_read_survives_a_change_of_the_leader(cluster):
    await cluster.start()
    leader = await cluster.leader()
    await cluster.put(leader, "one")
    follower = cluster.others(leader)[0]
    cluster.network.isolate(leader)
    assert await cluster.result(cluster.nodes[follower].read_barrier(10.0)) >= 2
    assert cluster.scribes[follower].words == ["one"]


async def test_leadership_is_announced_only_with_the_state_of_earlier_terms_applied(cluster):
    await cluster.start()
    old = await cluster.leader()
    await cluster.put(old, "one")
    seen = {member: [] for member in cluster.nodes}
    for member, node in cluster.nodes.items():
        node.subscribe_leadership(
            lambda leads, _, member=member: seen[member].append(
                (leads, cluster.nodes[member].status(), list(cluster.scribes[member].words))
            )
        )
    survivors = cluster.others(old)
    cluster.network.isolate(old)
    new = await cluster.leader(survivors)
    await cluster.until(lambda: bool(seen[new]), "the new leader is announced")
    ((leads, status, words),) = seen[new]
    assert (leads, words) == (True, ["one"])
    assert status.applied == status.last_index, "the first entry of its own term is applied"
    await cluster.until(lambda: bool(seen[old]), "the old leader is told that it leads no more")
    assert seen[old][0][0] is False


async def test_leadership_can_be_handed_over(cluster):
    await cluster.start()
    old = await cluster.leader()
    new = cluster.others(old)[1]
    await cluster.put(old, "one")
    await cluster.result(cluster.nodes[old].transfer_leadership(new))
    assert await cluster.leader() == new
    with pytest.raises(NotLeader):
        await cluster.nodes[old].transfer_leadership(new)


async def test_a_transfer_to_a_master_that_does_not_answer_is_given_up(cluster):
    await cluster.start()
    leader = await cluster.leader()
    gone = cluster.others(leader)[0]
    await cluster.stop(gone)
    with pytest.raises(Unavailable, match=f"did not pass to {gone}"):
        await cluster.result(cluster.nodes[leader].transfer_leadership(gone))


async def test_too_large_and_too_many_are_refused_at_once(cluster):
    await cluster.start("m1")
    node = cluster.nodes["m1"]
    _, proposal_id = cluster.proposal("large")
    with pytest.raises(InvalidRequest, match="split"):
        await node.propose(bytes(COMMAND_BYTES_MAX + 1), proposal_id, 1.0)
    waiting = []
    for _ in range(PROPOSALS_MAX):
        command, proposal_id = cluster.proposal("w")
        waiting.append(asyncio.ensure_future(node.propose(command, proposal_id, 0.5)))
    await asyncio.sleep(0)
    command, proposal_id = cluster.proposal("one too many")
    with pytest.raises(Unavailable, match="nothing was changed"):
        await node.propose(command, proposal_id, 1.0)
    results = await cluster.result(asyncio.gather(*waiting, return_exceptions=True))
    assert {type(result) for result in results} == {NoLeader}


async def test_a_stopped_master_answers_nobody_and_releases_who_waits(cluster):
    await cluster.start("m1")
    node = cluster.nodes["m1"]
    command, proposal_id = cluster.proposal("w")
    write = asyncio.ensure_future(node.propose(command, proposal_id, 60.0))
    read = asyncio.ensure_future(node.read_barrier(60.0))
    await asyncio.sleep(0)
    await cluster.stop("m1")
    for task in (write, read):
        with pytest.raises(NoLeader):
            await task
    with pytest.raises(Unavailable, match="not running"):
        await node.propose(command, proposal_id, 1.0)


async def test_a_failed_sync_ends_the_master_before_it_acknowledges_anything(cluster):
    await cluster.start()
    leader = await cluster.leader()
    follower = cluster.others(leader)[0]
    await cluster.stop(cluster.others(leader)[1])
    match_before = cluster.nodes[leader].status().progress[follower].match
    cluster.memory_files[follower].fail("sync_data", errno.EIO)
    command, proposal_id = cluster.proposal("w")
    with pytest.raises(OutcomeUnknown):
        await cluster.result(cluster.nodes[leader].propose(command, proposal_id, 2.0))
    (error,) = cluster.fatal_errors
    assert isinstance(error, OSError)
    assert error.errno == errno.EIO
    assert cluster.nodes[leader].applied <= match_before
    cluster.fatal_errors.clear()


async def test_a_state_machine_that_raises_stops_the_master(cluster):
    await cluster.start()
    leader = await cluster.leader()
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
    command, proposal_id = b"\xc1 no command", cluster.proposal("x")[1]
    with pytest.raises(OutcomeUnknown):
        await asyncio.gather(
            cluster.result(cluster.nodes[leader].propose(command, proposal_id, 1.0)),
            _stop_when_fatal(cluster, leader),
        )
    assert cluster.fatal_errors
    cluster.fatal_errors.clear()


async def _stop_when_fatal(cluster, member) -> None:
    """What ending the process does."""
    await cluster.until(lambda: bool(cluster.fatal_errors), "the master stops")
    await cluster.stop(member)


async def test_a_leader_whose_disk_hangs_gives_way_to_another(cluster):
    await cluster.start()
    old = await cluster.leader()
    cluster.writers[old].age_s = 5.0
    cluster.writers[old].is_held = True
    await cluster.until(
        lambda: not cluster.nodes[old].is_leader, "the leader with the hung disk is replaced"
    )
    survivors = cluster.others(old)
    new = await cluster.leader(survivors)
    assert await cluster.put(new, "one") == 1


async def test_after_a_pause_the_waiting_heartbeats_count_before_the_tick(cluster):
    """Rule 3: a process that slept longer than an election timeout must not campaign at once."""
    await cluster.start()
    leader = await cluster.leader()
    term = cluster.nodes[leader].status().term
    for _ in range(10):
        await cluster.clock.advance(5.0, settle_rounds=0)  # Every sleeper is overdue at once.
        await cluster.run(0.1)
    assert cluster.nodes[leader].status().term == term


async def test_loop_lag_is_the_longest_delay_of_a_tick_since_it_was_asked(cluster):
    await cluster.start("m1")
    await cluster.run(0.5)
    cluster.nodes["m1"].take_loop_lag_max_s()
    await cluster.clock.advance(0.1)
    assert cluster.nodes["m1"].take_loop_lag_max_s() == pytest.approx(0, abs=1e-6)


async def test_a_commit_alone_costs_no_sync(cluster):
    await cluster.start()
    leader = await cluster.leader()
    follower = cluster.others(leader)[0]
    await cluster.put(leader, "one")
    await cluster.run(0.5)
    sync = f"sync_data {_segment(cluster, follower)}"
    before = cluster.memory_files[follower].calls.count(sync)
    assert before > 0
    for number in range(20):
        await cluster.put(leader, f"w{number}")
        await cluster.run(0.2)  # The follower learns of the commit in a message of its own.
    assert cluster.nodes[follower].status().commit == cluster.nodes[leader].status().commit
    assert cluster.memory_files[follower].calls.count(sync) == before + 20


async def test_an_orderly_stop_keeps_the_commit_that_no_write_carried(cluster):
    await cluster.start()
    leader = await cluster.leader()
    await cluster.put(leader, "one")
    commit = cluster.nodes[leader].status().commit
    await cluster.stop()
    await cluster.start(leader)
    assert cluster.nodes[leader].status().commit == commit
    await cluster.until(lambda: cluster.scribes[leader].words == ["one"], "it applies alone")


async def test_questions_of_two_lives_of_a_master_can_not_be_mistaken(cluster):
    await cluster.start("m1")
    first = cluster.nodes["m1"]._readers._next_context
    await cluster.stop("m1")
    await cluster.start("m1")
    assert abs(cluster.nodes["m1"]._readers._next_context - first) > 1000


def _segment(cluster, member) -> str:
    return next(name for name in cluster.memory_files[member].names() if name.endswith(".wal"))
