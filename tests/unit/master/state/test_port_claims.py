"""Ports of the cluster: no two services ever have one, and changes of any kind move them."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from essaim_master.state.cluster import LocalCluster, Member
from essaim_master.state.errors import PortTaken
from essaim_master.state.keys import service_key
from essaim_master.state.port_claims import claim_ports
from essaim_master.state.writes import Writes
from essaim_shared.clock import ManualClock
from essaim_shared.container_spec import ContainerSpec
from essaim_shared.objects import IngressPort, Service, ServiceAddresses
from essaim_shared.spec import EndpointSpec, PortConfig, ServiceSpec, TaskSpec


def port(published, protocol="tcp", mode="ingress"):
    return PortConfig(
        target_port=80, published_port=published, protocol=protocol, publish_mode=mode
    )


def service_of(name, *ports):
    spec = ServiceSpec(
        name=name,
        task=TaskSpec(container=ContainerSpec(image="i")),
        endpoint=EndpointSpec(ports=ports) if ports else None,
    )
    return Service(id=f"id-{name}", spec=spec, created_ns=1, updated_ns=1)


class Site:
    def __init__(self):
        self.cluster = LocalCluster(ManualClock(), Member("m1", "127.0.0.1:1", "127.0.0.1:2"))
        self.state = self.cluster.state

    async def write(self, writes):
        (transaction,) = writes.transactions()
        return (await self.cluster.commit(transaction, 1.0)).succeeded

    async def put(self, *objects):
        writes = Writes()
        for stored in objects:
            writes.put(stored)
        assert await self.write(writes)

    def change(self, before, after):
        writes = Writes()
        if after is not None:
            writes.put(after)
        claim_ports(writes, self.state, before, after)
        if before is None:
            writes.claim_name(after)
        elif after is None:
            writes.delete_service(before)
        else:
            key = service_key(before.id)
            writes.expect(key, self.state.modified(key))
        return writes

    async def create(self, name, *ports):
        service = service_of(name, *ports)
        assert await self.write(self.change(None, service))
        return service

    async def update(self, before, *ports):
        after = msgspec.structs.replace(before, spec=service_of(before.spec.name, *ports).spec)
        assert await self.write(self.change(before, after))
        return after

    @property
    def claims(self):
        return {text: claim.service_id for text, claim in self.state.ingress_ports.items()}


@pytest.fixture
def site():
    return Site()


async def test_ports_are_claimed_moved_and_given_back(site) -> None:
    web = await site.create("web", port(80), port(80, "udp"), port(0), port(22, mode="host"))
    assert site.claims == {"tcp/80": "id-web", "udp/80": "id-web"}
    web = await site.update(web, port(80), port(443))
    assert site.claims == {"tcp/80": "id-web", "tcp/443": "id-web"}
    assert await site.write(site.change(web, None))
    assert not site.claims


async def test_a_port_that_another_service_has_is_refused_in_swarmkits_words(site) -> None:
    await site.create("web", port(80))
    with pytest.raises(PortTaken) as refusal:
        site.change(None, service_of("db", port(80)))
    assert str(refusal.value).endswith(
        "port '80' is already in use by service 'web' (id-web) as an ingress port"
    )
    site.change(None, service_of("db", port(80, "udp")))


async def test_two_that_want_one_port_in_the_same_moment_do_not_both_get_it(site) -> None:
    wishes = [site.change(None, service_of(name, port(80))) for name in ("web", "db")]
    assert [await site.write(wish) for wish in wishes] == [True, False]
    assert site.claims == {"tcp/80": "id-web"}


async def test_the_two_modes_exclude_each_other(site) -> None:
    await site.create("web", port(80))
    await site.create("db", port(90, mode="host"))
    with pytest.raises(PortTaken, match=r"'80' .* as an ingress port"):
        site.change(None, service_of("x", port(80, mode="host")))
    with pytest.raises(PortTaken, match=r"'90' .* 'db' \(id-db\) as a host-published port"):
        site.change(None, service_of("x", port(90)))
    await site.create("many", port(90, mode="host"))


async def test_a_host_port_is_refused_when_the_cluster_gave_it_away_meanwhile(site) -> None:
    wish = site.change(None, service_of("db", port(80, mode="host")))
    await site.create("web", port(80))
    assert not await site.write(wish)


@pytest.mark.parametrize("number", [80, 81])
async def test_the_two_modes_exclude_each_other_in_the_same_moment(site, number) -> None:
    """An ingress port looks again after any port of nodes, the same or another."""
    wish = site.change(None, service_of("web", port(80)))
    await site.create("db", port(number, mode="host"))
    assert not await site.write(wish)
    if number == 80:
        with pytest.raises(PortTaken, match="as a host-published port"):
            site.change(None, service_of("web", port(80)))
    else:
        await site.create("web", port(80))


async def test_services_on_ports_of_nodes_do_not_hinder_each_other(site) -> None:
    wishes = [site.change(None, service_of(name, port(80, mode="host"))) for name in ("a", "b")]
    assert [await site.write(wish) for wish in wishes] == [True, True]


async def test_a_claim_of_an_earlier_spec_is_taken_over_unless_the_leader_gives_it_back(site):
    web = await site.create("web")
    await site.put(IngressPort(protocol="tcp", number=80, service_id=web.id))
    after = msgspec.structs.replace(web, spec=service_of("web", port(80)).spec)
    wish = site.change(web, after)
    release = Writes()
    release.delete_ingress_port("tcp", 80)
    assert await site.write(release)
    assert not await site.write(wish)
    assert await site.write(site.change(web, after))
    assert site.claims == {"tcp/80": "id-web"}


async def test_a_port_that_the_cluster_chose_becomes_the_services_own(site) -> None:
    web = await site.create("web", port(0))
    chosen = IngressPort(protocol="tcp", number=30000, service_id=web.id, is_chosen=True)
    await site.put(chosen)
    with pytest.raises(PortTaken, match="'30000'"):
        site.change(None, service_of("db", port(30000)))
    await site.update(web, port(30000))
    assert not site.state.ingress_ports["tcp/30000"].is_chosen


async def test_with_a_service_go_the_ports_that_were_chosen_for_it(site) -> None:
    web = await site.create("web", port(0), port(80))
    chosen = IngressPort(protocol="tcp", number=30000, service_id=web.id, is_chosen=True)
    addresses = ServiceAddresses(service_id=web.id, ports=(port(30000), port(80)))
    await site.put(chosen, addresses)
    assert await site.write(site.change(web, None))
    assert not site.claims


async def test_what_a_service_that_is_gone_has_left_is_free(site) -> None:
    await site.put(IngressPort(protocol="tcp", number=80, service_id="gone"))
    await site.create("web", port(80))
    assert site.claims == {"tcp/80": "id-web"}


async def test_a_claim_that_passed_to_another_is_not_given_back(site) -> None:
    web = await site.create("web", port(80))
    await site.put(
        service_of("db", port(80)), IngressPort(protocol="tcp", number=80, service_id="id-db")
    )
    assert await site.write(site.change(web, None))
    assert site.claims == {"tcp/80": "id-db"}


@settings(max_examples=100, deadline=None)
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from("abc"),
            st.lists(st.sampled_from((80, 81, 82)), max_size=3, unique=True),
            st.booleans(),
        ),
        max_size=12,
    )
)
async def test_claims_are_always_exactly_the_ports_of_the_services(steps) -> None:
    site = Site()
    for name, numbers, is_removed in steps:
        present = site.state.services.get(f"id-{name}")
        after = None if is_removed else service_of(name, *map(port, numbers))
        if present is None and after is None:
            continue
        try:
            change = site.change(present, after)
        except PortTaken:
            continue
        assert await site.write(change)
        wanted = {
            f"tcp/{one.published_port}": service.id
            for service in site.state.services.values()
            for one in (service.spec.endpoint.ports if service.spec.endpoint else ())
        }
        assert site.claims == wanted
