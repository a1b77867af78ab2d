"""What a member tells a master that stands by of who may use the bus."""

import pytest
from support.fake_bus_server import FakeBusServer

from essaim_master.bus_users.everywhere import BusUsersEverywhere
from essaim_master.bus_users.flood_guard import FloodGuard
from essaim_master.bus_users.keeper import BusUsersKeeper
from essaim_master.bus_users.parts import BusParts
from essaim_shared.errors import NoLeader
from essaim_shared.trust.bus_keys import new_seed, public_key_of
from essaim_shared.trust.roles import Role
from essaim_shared.trust_objects import NodeIdentity

FILE = "/essaim/bus/users/file"


def identity(role: Role, name: str) -> NodeIdentity:
    key = public_key_of(new_seed())
    told = {"key_digest": "", "serial": "", "generation": 1}
    return NodeIdentity(
        role=role, name=name, bus_key=key, issued_ns=0, expires_ns=0, joined_ns=0, **told
    )


@pytest.fixture
async def world(world):
    keeper = BusUsersKeeper(world.cluster, "lab", FakeBusServer(), world.clock)
    world.api.bus_users = BusParts(
        keeper,
        BusUsersEverywhere(world.cluster, keeper, None),
        FloodGuard(world.cluster, FakeBusServer(), keeper, world.clock),
    )
    for one in (identity(Role.MASTER, "h1"), identity(Role.AGENT, "n1")):
        await world.write(lambda writes, one=one: writes.put(one))
    return world


async def test_a_member_that_lags_tells_nothing_of_yesterday(world) -> None:
    removed = world.state.identity(Role.AGENT, "n1").bus_key

    async def missed() -> None:
        await world.write(lambda writes: writes.delete_identity(Role.AGENT, "n1"))

    world.cluster.before_barrier.append(missed)
    answer = await world.get(FILE)
    assert answer.status == 200
    assert removed not in answer.body.decode()


async def test_a_member_without_a_quorum_tells_nothing_at_all(world) -> None:
    async def alone() -> None:
        raise NoLeader("no quorum of masters")

    world.cluster.before_barrier.append(alone)
    assert (await world.get(FILE)).status == 503
