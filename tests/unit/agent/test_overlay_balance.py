"""Who is led to whom: leads from pictures, and the rules that are made of them."""

from collections.abc import Mapping
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from essaim_agent.network import NetworkPicture
from essaim_agent.overlay.balance import Lead, Leads
from essaim_agent.overlay.proxy import ProxyTable, lead_rule
from essaim_agent.overlay.tables import Tables, WantedTables, wanted_tables
from essaim_shared.ids import NetworkId, ServiceId, TaskId
from essaim_shared.messages import Endpoint, NodeNetwork, ServiceEntry
from essaim_shared.spec import PortConfig

HERE, THERE, ELSEWHERE = "10.97.0.1", "10.97.0.2", "10.97.0.3"
RED, BLUE = NetworkId("red"), NetworkId("blue")
VIP = "10.245.0.1"
HTTP = ("tcp", 8080)


def network(network_id: NetworkId = RED) -> NodeNetwork:
    third = {RED: 0, BLUE: 16}[network_id]
    return NodeNetwork(
        network_id=network_id,
        name=network_id,
        vni=7,
        subnet=f"10.244.{third}.0/20",
        vip_subnet=f"10.245.{third}.0/20",
        mtu=1450,
        gateway=f"10.244.{third}.1",
    )


def task(last: int, node: str = HERE, state: Any = "serving", service: str = "web") -> Endpoint:
    return Endpoint(
        network_id=RED,
        address=f"10.244.0.{last}",
        node_address=node,
        task_id=TaskId(f"{service}-{last}"),
        service_id=ServiceId(service),
        state=state,
    )


def service(name: str = "web", *, vip: str = VIP, port: int = 8080, **more: Any) -> ServiceEntry:
    return ServiceEntry(
        service_id=ServiceId(name),
        network_id=RED,
        name=name,
        vip=vip,
        ports=(PortConfig(target_port=80, published_port=port),) if port else (),
        **more,
    )


def leads(*endpoints: Endpoint, entry: ServiceEntry | None = None, here: bool = True) -> Leads:
    made = Leads(HERE)
    made.update(
        NetworkPicture(
            networks={RED: network()} if here else {},
            endpoints=frozenset(endpoints),
            services=frozenset([entry or service()]),
        )
    )
    return made


def test_a_service_address_leads_to_all_who_serve_wherever_they_are() -> None:
    lead = leads(task(11), task(12, THERE), task(13, state="starting")).vips[VIP]
    assert lead.shares == (("10.244.0.11", 1), ("10.244.0.12", 1))


def test_who_drains_gets_nothing_new_and_keeps_what_it_has() -> None:
    lead = leads(task(11), task(12, state="draining")).vips[VIP]
    assert lead.shares == (("10.244.0.11", 1),)
    assert lead.serving == {"10.244.0.11"}
    assert lead.alive == {"10.244.0.11", "10.244.0.12"}


def test_a_port_leads_to_the_tasks_here_as_long_as_one_serves() -> None:
    lead = leads(task(11), task(12, THERE)).ports[HTTP]
    assert (lead.shares, lead.is_sent_on, lead.target_port) == ((("10.244.0.11", 1),), False, 80)


def test_a_port_is_sent_on_to_nodes_by_how_many_serve_there() -> None:
    there = [task(10 + i, THERE) for i in range(4)]
    lead = leads(*there, task(20, ELSEWHERE), task(21, ELSEWHERE), here=False).ports[HTTP]
    assert lead.shares == ((THERE, 2), (ELSEWHERE, 1)), "4 and 2, in lowest terms"
    assert lead.is_sent_on


def test_a_port_whose_only_task_here_drains_is_sent_on() -> None:
    lead = leads(task(11, state="draining"), task(12, THERE)).ports[HTTP]
    assert lead.shares == ((THERE, 1),)
    assert "10.244.0.11" in lead.alive


def test_a_service_address_of_a_network_that_is_not_here_is_none() -> None:
    assert leads(task(12, THERE), here=False).vips == {}


def test_without_anybody_who_serves_there_are_no_shares() -> None:
    made = leads(task(11, state="starting"))
    assert made.vips[VIP].shares == made.ports[HTTP].shares == ()


def test_an_endpoint_that_came_back_elsewhere_is_led_to_there() -> None:
    made = leads(task(11), task(12, THERE))
    after = NetworkPicture(
        networks={RED: network()},
        endpoints=frozenset([task(11, THERE), task(12, THERE)]),
        services=frozenset([service()]),
    )
    change = made.update(after)
    assert set(change.ports) == {HTTP}
    assert change.vips == {}, "its address is the same"
    assert made.ports[HTTP].shares == ((THERE, 1),)


def test_of_two_services_with_one_port_one_with_tasks_has_it() -> None:
    made = Leads(HERE)
    made.update(
        NetworkPicture(
            endpoints=frozenset([task(11, THERE, service="new")]),
            services=frozenset([service("web", vip=""), service("new", vip="")]),
        )
    )
    assert made.ports[HTTP].service == "new"


def test_during_an_update_to_another_network_a_port_leads_to_the_tasks_on_both() -> None:
    made = Leads(HERE)
    web, blue = service(), replace(service(vip=""), network_id=BLUE)
    old, new = task(11), replace(task(12), network_id=BLUE, address="10.244.16.12")
    on_both = replace(old, network_id=BLUE, address="10.244.16.11")
    made.update(
        NetworkPicture(
            {RED: network(), BLUE: network(BLUE)},
            frozenset([old, new, on_both, replace(task(13, THERE), network_id=BLUE)]),
            frozenset([web, blue]),
        )
    )
    lead = made.ports[HTTP]
    assert lead.shares == (("10.244.16.11", 1), ("10.244.16.12", 1)), "each task once"
    assert lead.serving == {"10.244.0.11", "10.244.16.11", "10.244.16.12", THERE}


def test_only_what_differs_is_in_the_change() -> None:
    made = Leads(HERE)
    entries = [service(f"s{i}", vip=f"10.245.0.{i}", port=8000 + i) for i in range(50)]
    endpoints = frozenset(task(100 + i, service=f"s{i}") for i in range(50))
    before = NetworkPicture({RED: network()}, endpoints, frozenset(entries))
    assert len(made.update(before).vips) == 50
    more = task(200, service="s7")
    change = made.update(replace(before, endpoints=endpoints | {more}))
    assert (list(change.vips), list(change.ports)) == (["10.245.0.7"], [("tcp", 8007)])
    assert made.update(replace(before, endpoints=endpoints | {more})).vips == {}


class TestRules:
    def test_one_task_needs_no_choice(self) -> None:
        assert lead_rule(lead(("10.244.0.11", 1))) == "dnat to 10.244.0.11"

    def test_several_are_chosen_from_at_random(self) -> None:
        assert lead_rule(lead(("10.244.0.11", 1), ("10.244.0.12", 1))) == (
            "dnat to numgen random mod 2 map { 0 : 10.244.0.11, 1 : 10.244.0.12 }"
        )

    def test_or_by_the_client_s_address(self) -> None:
        rule = lead_rule(replace(lead(("10.0.0.1", 1), ("10.0.0.2", 1)), has_affinity=True))
        assert rule.startswith("dnat to jhash ip saddr mod 2 seed 0x65737361 map { 0 :")

    def test_a_port_leads_to_the_task_s_own(self) -> None:
        rule = lead_rule(replace(lead(("10.244.0.11", 1)), target_port=80), "tcp")
        assert rule == "meta l4proto tcp dnat to 10.244.0.11:80"

    def test_what_is_sent_on_is_marked_and_keeps_its_port(self) -> None:
        sent_on = replace(lead((THERE, 2), (ELSEWHERE, 1)), target_port=80, is_sent_on=True)
        assert lead_rule(sent_on, "udp") == (
            "ct mark set ct mark or 0x10000000 dnat to numgen random mod 3 "
            f"map {{ 0 : {THERE}, 1 : {THERE}, 2 : {ELSEWHERE} }}"
        )


def lead(*shares: tuple[str, int]) -> Lead:
    addresses = frozenset(address for address, _ in shares)
    return Lead(service="web", shares=shares, serving=addresses, alive=addresses)


def test_a_taken_port_is_not_in_the_table_unless_forced_by_who_asks() -> None:
    made = leads(task(11))
    table = ProxyTable().table(made.vips, made.ports, {}, [], taken=frozenset([HTTP]))
    assert table.sets["ports"].elements == {}
    assert "port-tcp-8080" not in table.chains


def test_nothing_wanted_is_no_table() -> None:
    assert not ProxyTable().table({}, {}, {}, []).chains


ENDPOINTS = st.builds(
    task,
    st.integers(10, 14),
    st.sampled_from([HERE, THERE, ELSEWHERE]),
    st.sampled_from(["starting", "serving", "draining"]),
    st.sampled_from(["web", "api"]),
)
SERVICES = st.builds(
    service,
    st.sampled_from(["web", "api"]),
    vip=st.sampled_from(["", VIP, "10.245.0.2"]),
    port=st.sampled_from([0, 8080, 8081]),
    has_affinity=st.booleans(),
)
PICTURES = st.builds(
    NetworkPicture,
    networks=st.sampled_from(
        [{}, {RED: network()}, {BLUE: network(BLUE)}, {RED: network(), BLUE: network(BLUE)}]
    ),
    endpoints=st.frozensets(ENDPOINTS, max_size=8),
    services=st.frozensets(SERVICES, max_size=4),
)


@given(st.lists(PICTURES, min_size=1, max_size=5))
def test_leads_that_follow_pictures_are_those_of_the_last_one(
    history: list[NetworkPicture],
) -> None:
    followed, known = Leads(HERE), {}
    for picture in history:
        change = followed.update(picture)
        for key, (old, new) in [*change.vips.items(), *change.ports.items()]:
            assert known.get(key) == old != new
            known[key] = new
    anew = Leads(HERE)
    anew.update(history[-1])
    assert for_new(followed.vips) == for_new(anew.vips)
    assert for_new(followed.ports) == for_new(anew.ports)
    assert all(lead.alive <= followed.vips[vip].alive for vip, lead in anew.vips.items())
    assert followed.own_addresses == anew.own_addresses
    assert {k: v for k, v in known.items() if v} == {**followed.vips, **followed.ports}
    # What is kept for the tasks of removed services goes with these tasks.
    without_tasks = replace(history[-1], endpoints=frozenset())
    followed.update(without_tasks)
    anew = Leads(HERE)
    anew.update(without_tasks)
    assert (followed.vips, followed.ports) == (anew.vips, anew.ports)


def for_new(leads: Mapping[Any, Lead]) -> dict[Any, Lead]:
    """Where new connections go."""
    return {
        key: replace(lead, alive=frozenset(), elsewhere=frozenset())
        for key, lead in leads.items()
        if lead.shares
    }


@given(st.lists(PICTURES, min_size=1, max_size=5))
def test_tables_that_follow_pictures_are_those_of_the_last_one(
    history: list[NetworkPicture],
) -> None:
    followed, tables = WantedTables(HERE), Tables()
    for picture in history:
        tables = followed.update(picture.networks, picture.endpoints)
    last = history[-1]
    assert tables == wanted_tables(last.networks.values(), last.endpoints, HERE)
    assert followed.known.keys() == tables.entries


def told(made: Leads, *endpoints: Endpoint, entries: tuple[ServiceEntry, ...] = ()) -> Leads:
    made.update(
        NetworkPicture(
            networks={RED: network()},
            endpoints=frozenset(endpoints),
            services=frozenset(entries),
        )
    )
    return made


def test_a_removed_service_gets_nothing_new_and_its_tasks_keep_their_connections() -> None:
    made = told(leads(task(11), task(12, THERE)), task(11), task(12, THERE, "draining"))
    assert made.vips[VIP].shares == made.ports[HTTP].shares == ()
    assert made.vips[VIP].alive == {"10.244.0.11", "10.244.0.12"}
    assert made.ports[HTTP].alive == {"10.244.0.11", THERE}
    assert made.published == []
    assert leads(task(11)).published == [HTTP]


def test_nothing_is_kept_of_a_removed_service_without_tasks() -> None:
    made = told(told(leads(task(11)), task(11, state="draining")))
    assert not made.vips
    assert not made.ports
    assert not told(leads(task(11))).ports


def test_a_service_that_comes_again_is_led_to_as_before() -> None:
    before = leads(task(11)).ports[HTTP]
    made = told(told(leads(task(11)), task(11)), task(11), entries=(service(),))
    assert made.ports[HTTP] == before
    made = told(made)
    assert not made.ports


def test_the_port_of_a_removed_service_goes_to_the_next_without_cutting_anybody_off() -> None:
    made = told(
        leads(task(11)),
        task(11, state="draining"),
        task(21, service="api"),
        entries=(service("api", vip="10.245.0.2"),),
    )
    assert made.ports[HTTP].service == "api"
    assert made.ports[HTTP].shares == (("10.244.0.21", 1),)
    assert made.ports[HTTP].alive == {"10.244.0.11", "10.244.0.21"}


def test_of_two_that_claim_a_port_the_one_that_serves_has_it() -> None:
    made = told(
        Leads(HERE),
        task(11),
        task(21, state="starting", service="zzz"),
        entries=(service(), service("zzz", vip="10.245.0.2")),
    )
    assert made.ports[HTTP].service == "web"
