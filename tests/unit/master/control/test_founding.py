"""What every cluster has, from its first leader on or since the leader is of a newer build."""

import msgspec
import pytest

from essaim_master.control.founding import ControlSettings, founding_writes
from essaim_shared.ids import NetworkId
from essaim_shared.objects import Network

SETTINGS = ControlSettings(cluster_id="c", subnet="10.244.0.0/20", vni=70_001)


@pytest.fixture
def land(make_world):
    return make_world(has_default=False)


def found(world, settings=SETTINGS):
    """What a new leader writes; how many keys."""
    writes = founding_writes(world.state, settings, world.rng, 5)
    world.commit(writes)
    return len(writes)


def test_a_new_cluster_gets_its_two_networks(land):
    found(land)
    default, host = land.state.network_named("default"), land.state.network_named("host")
    assert land.state.cluster.id == "c"
    assert (default.subnet, default.vip_subnet) == ("10.244.0.0/20", "10.160.0.0/20")
    assert (default.vni, default.driver) == (70_001, "overlay")
    assert (host.driver, host.subnet, host.vip_subnet, host.vni) == ("host", "", "", 0)
    assert default.id != host.id


def test_it_is_done_once(land):
    found(land)
    assert found(land) == 0


def test_the_ledger_counts_it(land):
    found(land)
    assert land.state.network_ledger.changes == 1


def test_the_mtu_follows_the_nodes_unless_it_is_configured(land):
    found(land)
    default = land.state.network_named("default")
    assert (default.mtu, default.is_mtu_fixed) == (1450, False)


def test_a_configured_mtu_is_nobodys_to_change(land):
    found(land, msgspec.structs.replace(SETTINGS, mtu=1300))
    default = land.state.network_named("default")
    assert (default.mtu, default.is_mtu_fixed) == (1300, True)


def test_a_default_network_of_before_gets_service_addresses_and_keeps_the_rest(land):
    before = Network(
        id=NetworkId("net"), name="default", vni=9, subnet="10.9.0.0/20", mtu=1350, created_ns=1
    )
    land.put(before)
    found(land, msgspec.structs.replace(SETTINGS, mtu=1350))
    after = land.state.network_named("default")
    assert after == msgspec.structs.replace(before, vip_subnet="10.160.0.0/20", is_mtu_fixed=True)


def test_service_addresses_avoid_what_networks_and_nodes_have(land):
    land.add_node("n1", routes=("10.160.32.0/20",))
    found(land, msgspec.structs.replace(SETTINGS, subnet="10.160.0.0/19"))
    assert land.state.network_named("default").vip_subnet == "10.160.48.0/20"
    assert land.state.network_ledger.last_vip_subnet == "10.160.48.0/20"


def test_without_room_for_them_there_are_none_until_a_later_leader_finds_some(land):
    land.add_node("n1", routes=("10.0.0.0/8",))
    found(land)
    assert land.state.network_named("default").vip_subnet == ""
    assert found(land) == 0
    land.remove_node("n1")
    found(land)
    assert land.state.network_named("default").vip_subnet == "10.160.0.0/20"
