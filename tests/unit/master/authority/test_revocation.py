"""What goes with a node or a master that is removed, and what stays."""

import pytest
from support.founded_cluster import FoundedCluster, join_request

from essaim_master.authority.revocation import shut_out, shut_out_master
from essaim_master.control.registration import is_admitted
from essaim_master.state.writes import Writes
from essaim_shared.ids import MemberId, NodeId
from essaim_shared.objects import ClusterMember
from essaim_shared.trust.roles import Role


async def joined_master(founded: FoundedCluster, name: str) -> NodeId:
    """A machine with a master and an agent; its node."""
    request = join_request(
        founded.founding.master_secret, Role.AGENT, Role.MASTER, master_name=name
    )
    answer = await founded.desk.join(request, "")
    [node_id] = [one.name for one in answer.issued if one.role is Role.AGENT]
    return NodeId(node_id)


async def removed(founded: FoundedCluster, node_id: NodeId) -> set[str]:
    writes = Writes()
    shut_out(founded.state, node_id, writes)
    await founded.commit(writes)
    return set(founded.state.identities)


async def test_a_node_goes_with_the_master_that_came_with_it(founded: FoundedCluster) -> None:
    before = set(founded.state.identities)
    node_id = await joined_master(founded, "h2")
    other = await joined_master(founded, "h3")
    assert await removed(founded, node_id) == before | {
        f"essaim-agent/{other}",
        "essaim-master/h3",
    }


@pytest.mark.parametrize("name", ["h2", "h2-00c0ffee"])
async def test_a_master_that_takes_part_stays(founded: FoundedCluster, name: str) -> None:
    node_id = await joined_master(founded, "h2")
    writes = Writes()
    writes.put(ClusterMember(id=MemberId(name), raft="a:1", http="a:2", added_ns=1))
    await founded.commit(writes)
    assert "essaim-master/h2" in await removed(founded, node_id)


async def test_a_removed_node_does_not_come_back_by_itself(founded: FoundedCluster) -> None:
    assert is_admitted(founded.state, NodeId("node1"))
    await removed(founded, NodeId("node1"))
    assert not is_admitted(founded.state, NodeId("node1"))


async def test_a_masters_identity_stands_under_its_configured_name(
    founded: FoundedCluster,
) -> None:
    await joined_master(founded, "h2")
    writes = Writes()
    shut_out_master(founded.state, MemberId("h2-00c0ffee"), writes)
    await founded.commit(writes)
    assert founded.state.identity(Role.MASTER, "h2") is None
    assert founded.state.identity(Role.MASTER, "h1") is not None
