"""The epoch guards every write: whoever is deposed changes nothing."""

import pytest

from essaim_master.control.errors import Deposed
from essaim_master.control.guarded import begin_epoch
from essaim_master.state.cluster import LocalCluster, Member
from essaim_master.state.keys import LEADER_KEY, node_key
from essaim_master.state.writes import Writes
from essaim_shared.clock import ManualClock
from essaim_shared.errors import NoLeader
from essaim_shared.ids import MemberId, NodeId
from essaim_shared.objects import NodeObject
from essaim_shared.spec import NodeSpec


@pytest.fixture
def cluster():
    return LocalCluster(ManualClock(), Member(MemberId("m1"), "", ""))


def nodes(count):
    writes = Writes()
    for number in range(count):
        node_id = NodeId(f"n{number}")
        writes.put(NodeObject(id=node_id, spec=NodeSpec(), created_ns=1, updated_ns=1))
    return writes


async def test_writes_of_the_present_leader_are_applied(cluster):
    writer = await begin_epoch(cluster, 3)
    assert cluster.state.leader_epoch.term == 3
    assert await writer.write(nodes(300)), "several transactions, the same guard"
    assert len(cluster.state.nodes) == 300


async def test_nothing_to_write_is_no_transaction(cluster):
    writer = await begin_epoch(cluster, 3)
    revision = cluster.state.revision
    assert await writer.write(Writes())
    assert cluster.state.revision == revision


async def test_writes_of_a_deposed_leader_change_nothing(cluster):
    old = await begin_epoch(cluster, 3)
    await begin_epoch(cluster, 4)
    with pytest.raises(Deposed):
        await old.write(nodes(300))
    assert not cluster.state.nodes


async def test_an_earlier_term_cannot_begin_after_a_later_one(cluster):
    await begin_epoch(cluster, 4)
    revision = cluster.state.modified(LEADER_KEY)
    with pytest.raises(Deposed):
        await begin_epoch(cluster, 3)
    assert cluster.state.modified(LEADER_KEY) == revision


async def test_another_failed_compare_is_not_taken_for_a_deposition(cluster):
    writer = await begin_epoch(cluster, 3)
    writes = nodes(1)
    writes.expect(node_key(NodeId("n0")), 99)
    assert not await writer.write(writes)
    assert await writer.write(nodes(1))


async def test_without_quorum_the_leader_is_told(cluster):
    writer = await begin_epoch(cluster, 3)
    cluster.available = False
    for count in (1, 300):
        with pytest.raises(NoLeader):
            await writer.write(nodes(count))
    with pytest.raises(NoLeader):
        await begin_epoch(cluster, 4)
