"""Three real masters on memory disks and links: what they do for the cluster beside its work."""

import asyncio

import msgspec
import pytest
from support.masters_in_memory import CLOCK, WAIT_S

from essaim_master.cluster_members import members_of
from essaim_master.errors import MemberRemoved
from essaim_master.kv.commands import Put, Transaction
from essaim_master.raft.errors import MembershipRefused, NotLeader
from essaim_master.raft.messages import Configuration
from essaim_master.state.audit_records import SURPLUS_MIN, record_number
from essaim_master.state.cluster import Member
from essaim_master.state.writes import Writes
from essaim_master.versions import CLUSTER_VERSION
from essaim_shared.clock import wait_until
from essaim_shared.errors import Conflict, InvalidRequest, NotFound
from essaim_shared.ids import MemberId
from essaim_shared.limits import AUDIT_RECORDS_MAX
from essaim_shared.trust_objects import AuditRecord


async def test_members_and_version_come_to_stand_in_the_state(masters) -> None:
    await masters.turns_until(
        lambda: all(m.state.cluster_version == CLUSTER_VERSION for m in masters.all.values()),
        "everybody is announced",
    )
    for master in masters.all.values():
        assert set(master.state.members) == {"m1", "m2", "m3"}
        assert set(master.links.peers) == {"m1", "m2", "m3"} - {master.id}
        assert master.unfit == []


async def test_while_one_is_silent_the_version_stays(masters) -> None:
    await masters.leader()
    for _ in range(20):
        for name in ("m1", "m2"):
            await masters.all[name].upkeep.turn()
        await CLOCK.sleep(0.005)
    assert masters.all["m1"].state.cluster_version == 0


async def test_equal_masters_have_equal_hashes(masters) -> None:
    leader = await masters.leader()
    await masters.turns_until(
        lambda: all(m.hashes.latest is not None for m in masters.all.values()), "all hashed"
    )
    check = await leader.cluster.commit(Transaction(then=(Put(b"/kv/a", b"1"),)), 5.0)
    assert check.succeeded
    await masters.turns_until(
        lambda: (
            len({m.hashes.latest for m in masters.all.values()}) == 1
            and leader.hashes.latest.revision > check.revision
        ),
        "all hashed the state with the new key",
    )
    assert leader.upkeep.alarms == ()


async def test_a_master_whose_state_differs_raises_the_alarm(masters) -> None:
    leader = await masters.leader()
    await leader.cluster.commit(Transaction(then=(Put(b"/kv/a", b"1"),)), 5.0)
    broken = next(m for m in masters.all.values() if m is not leader)
    assert await wait_until(lambda: broken.store.get(b"/kv/a") is not None, CLOCK, WAIT_S)
    flipped = msgspec.structs.replace(broken.store.get(b"/kv/a"), value=b"0")
    broken.store._values[b"/kv/a"] = flipped  # A bit of its memory has changed.
    number = 0

    def alarmed() -> bool:
        return bool(leader.upkeep.alarms)

    deadline_s = CLOCK.monotonic_s() + WAIT_S
    while not alarmed():
        assert CLOCK.monotonic_s() < deadline_s
        number += 1
        await leader.cluster.commit(Transaction(then=(Put(b"/kv/n", b"%d" % number),)), 5.0)
        for master in masters.all.values():
            await master.upkeep.turn()
        await CLOCK.sleep(0.005)
    (alarm,) = leader.upkeep.alarms
    assert f"the state of {broken.id} differs from that of {leader.id}" in alarm


async def test_the_leader_keeps_the_newest_audit_records(masters) -> None:
    leader = await masters.leader()
    count = AUDIT_RECORDS_MAX + SURPLUS_MIN
    writes = Writes()
    for at_ns in range(count):
        number = record_number(at_ns, "m1.api", at_ns)
        said = dict.fromkeys(("who", "source", "action", "target", "master"), "")
        writes.put(AuditRecord(number=number, at_ns=at_ns, **said))
    await asyncio.gather(*(leader.cluster.commit(one, 5.0) for one in writes.transactions()))
    await masters.turns_until(
        lambda: all(
            len(master.state.audit_records) == AUDIT_RECORDS_MAX for master in masters.all.values()
        ),
        "the surplus is deleted everywhere",
    )
    assert record_number(SURPLUS_MIN - 1, "m1.api", SURPLUS_MIN - 1) not in (
        leader.state.audit_records
    )
    assert record_number(count - 1, "m1.api", count - 1) in leader.state.audit_records


async def test_only_the_leader_changes_the_members(masters) -> None:
    leader = await masters.leader()
    other = next(m for m in masters.all.values() if m is not leader)
    assert await wait_until(lambda: other.node.leader == leader.id, CLOCK, WAIT_S)
    with pytest.raises(NotLeader) as refused:
        await other.members.add(Member(MemberId("m4"), "10.0.0.4:7401", "10.0.0.4:7400"))
    assert refused.value.leader == leader.id


async def test_a_new_master_learns_votes_and_goes(masters) -> None:
    leader = await masters.leader()
    await masters.turns_until(lambda: len(leader.state.members) == 3, "the first are known")
    joining = Member(MemberId("m4"), "10.0.0.4:7401", "10.0.0.4:7400")
    await leader.members.add(joining)
    assert all("m4" in m.links.peers for m in masters.all.values())
    with pytest.raises(MembershipRefused, match="is that master running"):
        await leader.members.promote(joining.id)
    added = await masters.start(joining, Configuration(()))
    assert await wait_until(lambda: added.node.applied >= leader.node.applied, CLOCK, WAIT_S)
    await leader.members.promote(joining.id)
    assert "m4" in leader.node.status().configuration.voters
    await leader.members.remove(joining.id)
    assert leader.state.members[joining.id].removed_ns
    assert "m4" not in leader.links.peers
    assert "m4" not in members_of(leader.node.status().configuration)
    with pytest.raises(Conflict, match="choose a new one"):
        await leader.members.add(joining)


async def test_who_was_removed_unheard_asks_and_ends(masters) -> None:
    leader = await masters.leader()
    await masters.turns_until(lambda: len(leader.state.members) == 3, "the first are known")
    away = next(m for m in masters.all.values() if m is not leader)
    masters.network.isolate(away.id)
    await leader.members.remove(away.id)
    await masters.turns_until(lambda: bool(away.unfit), "it found out")
    assert isinstance(away.unfit[0], MemberRemoved)


@pytest.mark.parametrize(
    ("member", "error", "sentence"),
    [
        (Member("m 4", "10.0.0.4:1", "10.0.0.4:2"), InvalidRequest, "no name of a master"),
        (Member("m4.x", "10.0.0.4:1", "10.0.0.4:2"), InvalidRequest, "no name of a master"),
        (Member("m4", "10.0.0.4", "10.0.0.4:2"), InvalidRequest, "write HOST:PORT"),
        (Member("m1", "10.0.0.4:1", "10.0.0.4:2"), Conflict, "already"),
        (Member("m4", "10.0.0.1:7401", "10.0.0.4:2"), Conflict, "belongs to m1"),
    ],
)
async def test_a_member_that_cannot_be_is_refused_before_anything_is_written(
    masters, member, error, sentence
) -> None:
    leader = await masters.leader()
    await masters.turns_until(lambda: len(leader.state.members) == 3, "the first are known")
    before = leader.state.revision
    with pytest.raises(error, match=sentence):
        await leader.members.add(member)
    assert leader.state.members.keys() == {"m1", "m2", "m3"}
    assert leader.state.revision >= before
    with pytest.raises(NotFound):
        await leader.members.remove(MemberId("m9"))
