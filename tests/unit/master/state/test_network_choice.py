"""What a new network is given: nothing that others have, and what was freed last comes last."""

import ipaddress

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from essaim_master.state.cluster import LocalCluster, Member
from essaim_master.state.errors import PoolExhausted, SubnetTaken
from essaim_master.state.network_choice import (
    VNI_MAX,
    NetworkPools,
    WantedNetwork,
    chosen_network,
    free_vni,
)
from essaim_master.state.network_uses import creation_of, deletion_of
from essaim_master.state.writes import Writes
from essaim_shared.clock import ManualClock
from essaim_shared.errors import Conflict
from essaim_shared.limits import NETWORKS_MAX
from essaim_shared.objects import Network, NodeDescription, NodeStatus

POOLS = NetworkPools(
    subnets=("10.1.0.0/22", "10.2.0.0/23"),
    vip_subnets=("10.9.0.0/20",),
    prefix_length=24,
    first_vni=100,
)


class Site:
    """A state with networks and nodes, written as the API and the leader write."""

    def __init__(self, pools=POOLS):
        self.cluster = LocalCluster(ManualClock(), Member("m1", "127.0.0.1:1", "127.0.0.1:2"))
        self.state = self.cluster.state
        self.pools = pools
        self.made = 0

    async def write(self, writes):
        results = [await self.cluster.commit(part, 1.0) for part in writes.transactions()]
        assert all(result.succeeded for result in results)

    def choose(self, name="net", **wanted):
        self.made += 1
        return chosen_network(
            self.state, self.pools, WantedNetwork(name=name, **wanted), f"n{self.made}", 7
        )

    async def make(self, name, **wanted):
        network, ledger = self.choose(name, **wanted)
        await self.write(creation_of(self.state, network, ledger))
        return network

    async def remove(self, network):
        await self.write(deletion_of(self.state, network))

    async def add_node(self, number, **described):
        description = NodeDescription(
            hostname=f"h{number}",
            address=described.pop("address", f"192.0.2.{number}"),
            architecture="x86_64",
            nano_cpus=1,
            memory_bytes=1,
            engine_version="1",
            **described,
        )
        writes = Writes()
        writes.put_node_status(
            f"node{number}", NodeStatus(state="ready", description=description, changed_ns=1)
        )
        await self.write(writes)


@pytest.fixture
def site():
    return Site()


async def test_networks_made_one_after_the_other_share_nothing(site) -> None:
    first, second = await site.make("a"), await site.make("b")
    assert (first.vni, first.subnet, first.vip_subnet) == (100, "10.1.0.0/24", "10.9.0.0/24")
    assert (second.vni, second.subnet, second.vip_subnet) == (101, "10.1.1.0/24", "10.9.1.0/24")
    ledger = site.state.network_ledger
    assert (ledger.changes, ledger.last_vni, ledger.last_subnet) == (2, 101, "10.1.1.0/24")


async def test_two_that_are_chosen_from_one_state_cannot_both_be_written(site) -> None:
    first, second = (creation_of(site.state, *site.choose(name)) for name in ("a", "b"))
    await site.write(first)
    (transaction,) = second.transactions()
    assert not (await site.cluster.commit(transaction, 1.0)).succeeded


async def test_what_was_freed_is_given_out_last(site) -> None:
    first = await site.make("a")
    await site.remove(first)
    given_out = [(await site.make(f"b{number}")) for number in range(5)]
    assert first.subnet not in {network.subnet for network in given_out}
    assert first.vni not in {network.vni for network in given_out}
    assert (await site.make("c")).subnet == first.subnet


async def test_a_pool_that_is_used_up_says_what_can_be_done(site) -> None:
    for number in range(6):
        await site.make(f"a{number}")
    with pytest.raises(PoolExhausted, match=r"no /24 is free in 10.1.0.0/22, 10.2.0.0/23"):
        site.choose()
    with_its_own = await site.make("own", subnet="172.16.0.0/12")
    assert with_its_own.subnet == "172.16.0.0/12"
    assert site.state.network_ledger.last_subnet == "10.2.1.0/24"


async def test_a_used_up_range_of_service_addresses_is_said_too(site) -> None:
    site.pools = msgspec.structs.replace(POOLS, vip_subnets=("10.9.0.0/24",))
    await site.make("a")
    with pytest.raises(PoolExhausted, match=r"no /24 is free in 10.9.0.0/24"):
        site.choose()


async def test_subnets_that_nodes_know_are_left_out(site) -> None:
    await site.add_node(1, address="10.1.1.5", routes=("10.1.0.0/25", "fe80::/64", "nonsense"))
    assert (await site.make("a")).subnet == "10.1.2.0/24"


@pytest.mark.parametrize(
    ("subnet", "sentence"),
    [
        ("10.1.0.128/25", "it overlaps 10.1.0.0/24, network a; choose another one"),
        ("10.0.0.0/8", "it overlaps 10.1.0.0/24, network a"),
        ("10.9.0.0/26", "it overlaps 10.9.0.0/24, the service addresses of network a"),
        ("172.30.1.0/24", "it overlaps 172.30.0.0/16, a route of node h1"),
        ("192.0.2.0/24", "it overlaps 192.0.2.1, node h1"),
    ],
)
async def test_a_users_subnet_that_is_somebody_elses_is_refused(site, subnet, sentence) -> None:
    await site.make("a")
    await site.add_node(1, routes=("172.30.0.0/16",))
    with pytest.raises(SubnetTaken, match=sentence):
        site.choose(subnet=subnet)


async def test_service_addresses_lie_outside_of_a_users_subnet(site) -> None:
    network, _ = site.choose(subnet="10.9.0.0/22", ip_range="10.9.1.0/24")
    assert (network.vip_subnet, network.ip_range) == ("10.9.4.0/24", "10.9.1.0/24")


async def test_a_name_is_given_once(site) -> None:
    await site.make("a")
    with pytest.raises(Conflict, match="network with name a already exists"):
        site.choose("a")


async def test_there_are_not_more_networks_than_the_masters_keep(site) -> None:
    writes = Writes()
    for number in range(NETWORKS_MAX):
        writes.put(Network(id=f"x{number}", name=f"x{number}", vni=number, created_ns=1))
    await site.write(writes)
    with pytest.raises(Conflict, match=f"there are {NETWORKS_MAX} networks already"):
        site.choose()


@pytest.mark.parametrize(("told", "mtu"), [((), 1450), ((9000,), 8950), ((9000, 1500, 0), 1450)])
async def test_the_mtu_is_what_all_nodes_carry(site, told, mtu) -> None:
    for number, underlay in enumerate(told, 1):
        await site.add_node(number, mtu=underlay)
    network, _ = site.choose()
    assert (network.mtu, network.is_mtu_fixed) == (mtu, False)
    fixed, _ = site.choose(mtu=1300)
    assert (fixed.mtu, fixed.is_mtu_fixed) == (1300, True)


def test_numbers_go_round_at_the_end() -> None:
    last = Network(id="a", name="a", vni=VNI_MAX, created_ns=1)
    assert free_vni([last], 100, VNI_MAX - 1) == 100
    assert free_vni([last], 100, 0) == 100
    assert free_vni([], 500, 200) == 500


@settings(max_examples=60, deadline=None)
@given(
    routes=st.lists(
        st.builds(
            lambda address, prefix: str(
                ipaddress.IPv4Network((address & (0xFFFFFFFF << (32 - prefix)), prefix))
            ),
            st.integers(0x0A010000, 0x0A0203FF),
            st.integers(22, 32),
        ),
        max_size=8,
    ),
    count=st.integers(1, 6),
)
async def test_whatever_is_taken_no_two_ranges_ever_overlap(routes, count) -> None:
    site = Site()
    await site.add_node(1, routes=tuple(routes))
    for number in range(count):
        try:
            await site.make(f"n{number}")
        except PoolExhausted:
            break
    given_out = [
        ipaddress.IPv4Network(subnet)
        for network in site.state.networks.values()
        for subnet in (network.subnet, network.vip_subnet)
    ]
    others = [ipaddress.IPv4Network(route) for route in routes]
    for place, subnet in enumerate(given_out):
        assert not any(subnet.overlaps(other) for other in (*given_out[:place], *others))
    free = [
        subnet
        for pool in POOLS.subnets
        for subnet in ipaddress.IPv4Network(pool).subnets(new_prefix=24)
        if not any(subnet.overlaps(other) for other in others)
    ]
    assert len(site.state.networks) == min(count, len(free))
