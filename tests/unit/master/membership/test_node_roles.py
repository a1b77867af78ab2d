"""What the leader does when a node is to become a manager, or to be one no longer."""

import asyncio

import msgspec
import pytest
from support.masters_in_memory import CLOCK, WAIT_S, MasterInMemory, Masters
from support.trusted_state import identity_of

from essaim_master.cluster_members import members_of
from essaim_master.node_roles import LAST_MANAGER, QUORUM_LOSS
from essaim_master.raft.errors import NotLeader
from essaim_master.raft.messages import Configuration
from essaim_master.standby.announcements import SILENCE_S, STANDBYS_MAX, Announcement, Standbys
from essaim_master.state.cluster import Member
from essaim_master.state.manager_nodes import masters_beside
from essaim_master.state.writes import Writes
from essaim_shared.clock import wait_until
from essaim_shared.errors import InvalidRequest, NotFound, Unavailable
from essaim_shared.ids import MemberId, NodeId
from essaim_shared.objects import NodeDescription, NodeObject, NodeStatus
from essaim_shared.spec import NodeSpec
from essaim_shared.trust.roles import Role


def announced(number: int = 4, **changed) -> Announcement:
    found = Announcement(
        cluster_id="cluster-1",
        id=MemberId(f"m{number}-0000000{number}"),
        raft=f"10.0.0.{number}:7401",
        http=f"10.0.0.{number}:7400",
        version=1,
        build="0.1.0",
    )
    return msgspec.structs.replace(found, **changed)


async def led(masters: Masters) -> MasterInMemory:
    """A leader that knows its nodes h1 to h5, one on each master's host and two more."""
    leader = await masters.leader()
    await masters.turns_until(lambda: len(leader.state.members) == 3, "the first are known")
    writes = Writes()
    for number in range(1, 6):
        node = NodeObject(id=NodeId(f"node{number}"), spec=NodeSpec(), created_ns=1, updated_ns=1)
        description = NodeDescription(
            hostname=f"h{number}",
            address=f"10.0.0.{number}",
            architecture="amd64",
            nano_cpus=1,
            memory_bytes=1,
            engine_version="20.10.24",
        )
        writes.put(node)
        writes.put_node_status(
            node.id, NodeStatus(state="ready", description=description, changed_ns=1)
        )
    for transaction in writes.transactions():
        assert (await leader.cluster.commit(transaction, WAIT_S)).succeeded
    return leader


async def test_a_master_that_joined_by_token_takes_part_as_soon_as_it_stands_by(masters) -> None:
    leader = await led(masters)
    for name, is_to_vote in (("m4", True), ("m5", False)):
        writes = Writes()
        writes.put(identity_of(Role.MASTER, name, is_to_vote=is_to_vote))
        (transaction,) = writes.transactions()
        await leader.cluster.commit(transaction, WAIT_S)
    for number in (4, 5):
        leader.roles.hear(announced(number))
        await leader.roles.admit_expected(announced(number))
    assert announced(5).id not in leader.state.members
    assert leader.roles.hear(announced(4)).standing == "member"
    await masters.start(announced(4).member, Configuration(()))
    await masters.turns_until(
        lambda: announced(4).id in leader.node.status().configuration.voters, "it votes"
    )
    # Once only: after a demotion it stands by until a user says else.
    identity = leader.state.identity(Role.MASTER, "m4")
    assert identity is not None
    assert not identity.is_to_vote


async def test_a_lost_master_loses_its_identity_and_one_that_answers_keeps_it(masters) -> None:
    leader = await led(masters)
    writes = Writes()
    for name in ("m1", "m2", "m3"):
        writes.put(identity_of(Role.MASTER, name))
    (transaction,) = writes.transactions()
    await leader.cluster.commit(transaction, WAIT_S)
    answering, other = (MemberId(name) for name in ("m1", "m2", "m3") if name != leader.id)
    await leader.members.remove(answering, takes_lost_identity=True)
    assert leader.state.identity(Role.MASTER, answering) is not None
    assert leader.state.members[answering].removed_ns
    await leader.members.remove(other, is_revoked=True)
    assert leader.state.identity(Role.MASTER, other) is None
    # One that was added and never came answers nothing.
    await leader.members.add(announced(4).member)
    writes = Writes()
    writes.put(identity_of(Role.MASTER, "m4"))
    (transaction,) = writes.transactions()
    await leader.cluster.commit(transaction, WAIT_S)
    await leader.members.remove(announced(4).id, takes_lost_identity=True)
    assert leader.state.identity(Role.MASTER, "m4") is None


async def test_a_master_that_stands_by_is_added_learns_and_votes(masters) -> None:
    leader = await led(masters)
    told = leader.roles.hear(announced())
    assert (told.standing, told.incarnation) == ("standby", "second-life")
    assert {member.id for member in told.members} == {"m1", "m2", "m3"}
    assert [one.id for one in leader.roles.standbys()] == [announced().id]

    promoting = asyncio.create_task(leader.roles.promote(NodeId("node4")))
    assert await wait_until(
        lambda: announced().id in leader.node.status().configuration.learners, CLOCK, WAIT_S
    )
    assert leader.roles.hear(announced()).standing == "member"
    await masters.start(announced().member, Configuration(()))
    await promoting
    assert announced().id in leader.node.status().configuration.voters
    await masters.turns_until(
        lambda: not leader.state.members[announced().id].is_to_vote, "the mark is gone"
    )
    # Once more changes nothing.
    before = leader.state.members
    await leader.roles.promote(NodeId("node4"))
    assert leader.state.members == before
    assert leader.roles.standbys() == ()


async def test_a_promotion_whose_leader_went_is_finished_by_the_next(masters) -> None:
    leader = await led(masters)
    leader.roles.hear(announced())
    # All that the first leader came to do.
    await leader.members.add_to_vote(announced().member)
    masters.network.isolate(leader.id)
    del masters.all[leader.id]
    heir = await masters.leader()
    await masters.start(announced().member, Configuration(()))
    await masters.turns_until(
        lambda: announced().id in heir.node.status().configuration.voters, "it votes"
    )
    masters.all[leader.id] = leader


async def test_a_demoted_master_is_told_that_its_name_is_used_up(masters) -> None:
    leader = await led(masters)
    other = next(master for master in masters.all.values() if master is not leader)
    await leader.roles.demote(NodeId(f"node{other.id[1:]}"))
    assert other.id not in members_of(leader.node.status().configuration)
    own = announced(int(other.id[1:]), id=other.id)
    assert leader.roles.hear(own).standing == "removed"
    assert leader.roles.standbys() == ()
    await leader.roles.demote(NodeId("node5"))  # no master there: nothing to do


async def test_a_leader_that_is_demoted_hands_over_first(masters) -> None:
    leader = await led(masters)
    node = NodeId(f"node{leader.id[1:]}")
    with pytest.raises(NotLeader) as handed:
        await leader.roles.demote(node)
    heir = masters.all[handed.value.leader]
    assert await wait_until(lambda: heir.node.is_leader, CLOCK, WAIT_S)
    await heir.roles.demote(node)
    assert leader.id not in heir.node.status().configuration.voters


async def test_who_is_promoted_and_demoted_before_it_heard_does_not_come_back(masters) -> None:
    leader = await led(masters)
    leader.roles.hear(announced())
    await leader.members.add_to_vote(announced().member)
    await leader.members.advance()
    await leader.roles.demote(NodeId("node4"))
    await leader.members.advance()
    assert announced().id not in members_of(leader.node.status().configuration)
    assert leader.roles.hear(announced()).standing == "removed"


async def test_the_last_manager_stays(masters) -> None:
    leader = await led(masters)
    for master in list(masters.all.values()):
        if master is not leader:
            await leader.roles.demote(NodeId(f"node{master.id[1:]}"))
    with pytest.raises(InvalidRequest, match=LAST_MANAGER):
        await leader.roles.demote(NodeId(f"node{leader.id[1:]}"))
    assert leader.node.is_leader


async def test_a_removal_that_would_cost_the_quorum_is_refused_and_nobody_hands_over(
    masters,
) -> None:
    leader = await led(masters)
    silent, present = (master for master in masters.all.values() if master is not leader)
    masters.network.isolate(silent.id)

    def is_noticed() -> bool:
        return not leader.node.status().progress[silent.id].is_active

    assert await wait_until(is_noticed, CLOCK, WAIT_S)
    for master in (present, leader):
        with pytest.raises(InvalidRequest, match=f"{QUORUM_LOSS}: {silent.id} would be needed"):
            await leader.roles.demote(NodeId(f"node{master.id[1:]}"))
    assert leader.node.is_leader
    # The silent one itself may go.
    await leader.roles.demote(NodeId(f"node{silent.id[1:]}"))
    assert set(leader.node.status().configuration.voters) == {leader.id, present.id}


async def test_who_died_just_now_is_not_counted_on(masters) -> None:
    leader = await led(masters)
    dead, present = (master for master in masters.all.values() if master is not leader)
    masters.deaf.add(dead.id)  # Raft has heard from it a moment ago.
    with pytest.raises(InvalidRequest, match=f"{dead.id} would be needed"):
        await leader.roles.demote(NodeId(f"node{present.id[1:]}"))
    assert len(leader.node.status().configuration.voters) == 3


async def test_who_stands_by_a_moment_later_is_waited_for(masters) -> None:
    """Its process has begun just now, or was demoted, or the leader is new."""
    leader = await led(masters)
    promoting = asyncio.create_task(leader.roles.promote(NodeId("node4")))
    await CLOCK.sleep(0)
    assert announced().id not in leader.state.members
    leader.roles.hear(announced())
    await masters.start(announced().member, Configuration(()))
    await promoting
    assert announced().id in leader.node.status().configuration.voters


async def test_where_nobody_stands_by_the_command_to_run_is_named(masters) -> None:
    leader = await led(masters)
    leader.roles.hear(announced(4))
    with pytest.raises(InvalidRequest) as refused:
        await leader.roles.promote(NodeId("node5"))
    assert "no essaim-master stands by on h5 (10.0.0.5)" in str(refused.value)
    assert "essaim-master --config FILE" in str(refused.value)
    with pytest.raises(NotFound):
        await leader.roles.promote(NodeId("node9"))
    assert set(leader.state.members) == {"m1", "m2", "m3"}


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"cluster_id": "other"}, "stands by for cluster 'other'"),
        ({"id": "m 4"}, "no name of a master"),
        ({"id": "x" * 64}, "no name of a master"),
        ({"raft": "10.0.0.4"}, "write HOST:PORT"),
        ({"http": ":"}, "write HOST:PORT"),
    ],
)
async def test_an_announcement_that_cannot_be_is_refused(masters, changed, sentence) -> None:
    leader = await led(masters)
    with pytest.raises(InvalidRequest, match=sentence):
        leader.roles.hear(announced(**changed))
    assert leader.roles.standbys() == ()


async def test_only_the_leader_hears_and_changes(masters) -> None:
    leader = await led(masters)
    other = next(master for master in masters.all.values() if master is not leader)
    for act in (
        lambda: other.roles.hear(announced()),
        other.roles.standbys,
    ):
        with pytest.raises(NotLeader):
            act()
    with pytest.raises(NotLeader):
        await other.roles.promote(NodeId("node4"))
    with pytest.raises(NotLeader):
        await other.roles.demote(NodeId("node1"))


async def test_a_build_of_another_time_cannot_be_promoted(masters) -> None:
    leader = await led(masters)
    await masters.turns_until(lambda: leader.state.cluster_version == 1, "the version is known")
    leader.roles.hear(announced(version=0))
    with pytest.raises(InvalidRequest, match="install the version that the other masters run"):
        await leader.roles.promote(NodeId("node4"))
    assert set(leader.state.members) == {"m1", "m2", "m3"}


def test_who_is_silent_stands_by_no_more() -> None:
    standbys = Standbys()
    standbys.hear(announced(4), 0.0)
    standbys.hear(announced(5), SILENCE_S)
    assert [one.id for one in standbys.present(SILENCE_S)] == [announced(4).id, announced(5).id]
    assert [one.id for one in standbys.present(SILENCE_S + 0.1)] == [announced(5).id]


def test_only_so_many_are_remembered() -> None:
    standbys = Standbys()
    for number in range(STANDBYS_MAX):
        standbys.hear(announced(id=MemberId(f"m{number}")), 0.0)
    with pytest.raises(Unavailable, match="end some of them"):
        standbys.hear(announced(id=MemberId("more")), 1.0)
    standbys.hear(announced(id=MemberId("m0")), 1.0)
    standbys.hear(announced(id=MemberId("more")), SILENCE_S + 0.1)  # the others fell silent


def test_a_node_goes_with_the_master_on_its_host_by_address_then_by_name() -> None:
    def status(hostname: str, address: str) -> NodeStatus:
        description = NodeDescription(
            hostname=hostname,
            address=address,
            architecture="amd64",
            nano_cpus=1,
            memory_bytes=1,
            engine_version="20.10.24",
        )
        return NodeStatus(state="ready", description=description, changed_ns=1)

    apart = {NodeId("a"): status("red", "10.0.0.1"), NodeId("b"): status("blue", "10.0.0.2")}
    one = Member(MemberId("m1"), "10.0.0.1:1", "10.0.0.1:2")
    assert masters_beside([one], apart) == {"a": one}
    together = {NodeId(f"n{n}"): status(f"h{n}", "127.0.0.1") for n in (1, 2, 3)}
    first = Member(MemberId("h1"), "127.0.0.1:1", "127.0.0.1:2")
    drawn = Member(MemberId("h2-0123abcd"), "127.0.0.1:3", "127.0.0.1:4")
    assert masters_beside([first, drawn], together) == {"n1": first, "n2": drawn}
    assert masters_beside([drawn], together) == {"n2": drawn}
    stranger = Member(MemberId("m1"), "127.0.0.1:1", "127.0.0.1:2")
    assert masters_beside([stranger], together) == dict.fromkeys(together, stranger)
