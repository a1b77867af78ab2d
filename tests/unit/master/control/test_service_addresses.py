"""A service's own addresses and its published ports: given once, kept, and given back."""

import pytest

from essaim_master.state.writes import Writes
from essaim_shared.ids import ServiceId
from essaim_shared.limits import INGRESS_PORT_FIRST, INGRESS_PORT_LAST
from essaim_shared.objects import IngressPort, Network, ServiceAddresses, VirtualAddress
from essaim_shared.spec import PortConfig, ReplicatedJobMode, ServiceMode
from essaim_shared.task_state import TaskState

NUMBERS = range(INGRESS_PORT_FIRST, INGRESS_PORT_LAST + 1)


def port(target=80, published=0, protocol="tcp", mode="ingress"):
    return PortConfig(
        target_port=target, published_port=published, protocol=protocol, publish_mode=mode
    )


def claim(world, number, service_id, is_chosen=False, protocol="tcp"):
    """As the API does with a service."""
    world.put(
        IngressPort(protocol=protocol, number=number, service_id=service_id, is_chosen=is_chosen)
    )


def claims(world):
    return {
        port_id: (each.service_id, each.is_chosen)
        for port_id, each in world.state.ingress_ports.items()
    }


def take_all_numbers_but(world, *left, protocol="tcp"):
    """Somebody publishes all ports that can be chosen on nodes."""
    numbers = [number for number in NUMBERS if number not in left]
    return world.create(
        "greedy",
        replicas=0,
        ports=tuple(port(1, number, protocol, mode="host") for number in numbers),
    )


def reasons(world, service_id):
    return {world.reason(task) for task in world.wanted(service_id) if task.node_id is None}


@pytest.fixture
def wired(world):
    """Three nodes; the default network and two more have addresses for services."""
    world.change_network("default", vip_subnet="10.160.0.0/24")
    world.add_network("front", "10.2.0.0/24", vip_subnet="10.162.0.0/24")
    world.add_network("back", "10.3.0.0/24", vip_subnet="10.163.0.0/24")
    world.settle()
    return world


# Addresses.


def test_a_service_has_one_address_on_each_of_its_networks_in_their_order(wired):
    web = wired.create(networks=("back", "front"))
    wired.settle()
    assert list(wired.virtual(web).items()) == [("back", "10.163.0.1"), ("front", "10.162.0.1")]


def test_they_are_there_with_the_first_task(wired):
    web = wired.create(replicas=3)
    wired.slice()
    assert wired.wanted(web)[0].node_id is not None
    assert wired.virtual(web) == {wired.network_id: "10.160.0.1"}


def test_and_before_it_where_the_writes_take_several_transactions(wired):
    wired.create("other", replicas=200)
    wired.create("web", replicas=1)
    seen = {}

    def look(applied):
        for change in applied.changes:
            if change.before is None and change.kind.name in ("TASK", "SERVICE_ADDRESSES"):
                owner = change.after.service_id
                seen.setdefault(owner, []).append(change.kind.name)

    wired.state.subscribe(look)
    wired.settle()
    assert {kinds[0] for kinds in seen.values()} == {"SERVICE_ADDRESSES"}


def test_a_service_without_tasks_has_them_too(wired):
    web = wired.create(replicas=0, ports=(port(),))
    wired.settle()
    assert wired.virtual(web) == {wired.network_id: "10.160.0.1"}
    assert wired.published(web) == ["30000/tcp"]


def test_a_job_is_a_service_like_others(wired):
    mode = ServiceMode(replicated_job=ReplicatedJobMode(total_completions=1, max_concurrent=1))
    job = wired.create(mode=mode)
    wired.settle()
    assert wired.virtual(job) == {wired.network_id: "10.160.0.1"}


def test_dnsrr_has_none_and_nothing_is_written(wired):
    web = wired.create(endpoint_mode="dnsrr")
    wired.settle()
    assert len(wired.wanted(web)) == 1
    assert web not in wired.state.service_addresses


def test_nor_has_a_network_without_a_range_for_them(world):
    web = world.create()
    world.settle()
    assert web not in world.state.service_addresses


def test_the_nodes_own_network_has_none_but_ports_are_published(wired):
    wired.put(Network(id="host-id", name="host", driver="host", created_ns=1))
    web = wired.create(networks=("host-id",), ports=(port(80, 8080),))
    wired.settle()
    assert wired.virtual(web) == {}
    assert wired.published(web) == ["8080/tcp"]


def test_no_two_services_share_one_and_a_freed_one_comes_again_last(make_world):
    world = make_world()
    world.change_network("default", vip_subnet="10.160.0.0/29")  # six
    services = [world.create(f"s{number}", replicas=0) for number in range(4)]
    world.settle()
    world.remove(services[1])
    world.settle()
    later = [world.create(f"later{number}", replicas=0) for number in range(3)]
    world.settle()
    given = [world.virtual(each)[world.network_id] for each in later]
    assert given == ["10.160.0.5", "10.160.0.6", "10.160.0.2"]


@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")])
def test_one_that_two_services_have_stops_nobody(wired, order):
    same = (VirtualAddress(network_id="front", address="10.162.0.9"),)
    for service_id in ("a", "b"):
        wired.put(ServiceAddresses(service_id=service_id, virtual_addresses=same))
    for service_id in order:
        writes = Writes()
        writes.delete_service_addresses(ServiceId(service_id))
        wired.commit(writes)
    assert not wired.worklist.addresses.index.virtual.get("front")


def test_a_new_leader_goes_on_behind_the_highest(wired):
    wired.create("a", replicas=0)
    b = wired.create("b", replicas=0)
    wired.settle()
    wired.elect()
    c = wired.create("c", replicas=0)
    wired.settle()
    assert [wired.virtual(each)[wired.network_id] for each in (b, c)] == [
        "10.160.0.2",
        "10.160.0.3",
    ]


def test_they_are_kept_whatever_else_changes(wired):
    web = wired.create(networks=("front",), ports=(port(80),))
    wired.converge()
    before = wired.state.service_addresses[web]
    wired.update(web)
    wired.converge()
    wired.scale(web, 5)
    wired.converge()
    wired.elect()
    wired.converge()
    assert wired.state.service_addresses[web] == before


def test_a_network_that_is_added_brings_one_and_the_others_stay(wired):
    web = wired.create(networks=("front",))
    wired.converge()
    before = wired.virtual(web)["front"]
    wired.create("other", networks=("front",))
    wired.connect(web, "back", "front")
    wired.converge()
    assert wired.virtual(web) == {"back": "10.163.0.1", "front": before}


def test_on_a_network_that_it_leaves_it_is_found_until_its_last_task_has_gone(wired):
    web = wired.create(replicas=2, networks=("front",))
    wired.converge()
    wired.connect(web, "back")
    wired.settle()
    assert wired.virtual(web) == {"back": "10.163.0.1", "front": "10.162.0.1"}
    wired.converge()
    wired.advance(60)
    wired.converge()
    assert wired.virtual(web) == {"back": "10.163.0.1"}
    assert wired.full_pass() == 0


def test_a_rollback_finds_the_address_that_it_had(wired):
    web = wired.create(replicas=2, networks=("front",))
    wired.converge()
    wired.connect(web, "back")
    wired.settle()
    wired.create("other", networks=("front",))
    wired.connect(web, "front")
    wired.converge()
    assert wired.virtual(web)["front"] == "10.162.0.1"


def test_the_mode_dnsrr_gives_them_back(wired):
    web = wired.create()
    wired.settle()
    wired.publish(web, mode="dnsrr")
    wired.settle()
    assert web not in wired.state.service_addresses
    wired.publish(web, mode="vip")
    wired.settle()
    assert web in wired.state.service_addresses


def test_services_wait_for_one_and_say_so(make_world):
    world = make_world()
    world.add_node("n1")
    world.change_network("default", vip_subnet="10.160.0.0/30")  # two
    a, b, c = (world.create(name, replicas=2) for name in "abc")
    world.converge()
    assert reasons(world, c) == {"no free service address on network default (10.160.0.0/30)"}
    assert len(world.running(a)) == len(world.running(b)) == 2
    assert world.full_pass() == 0
    world.remove(a)
    world.converge()
    assert len(world.running(c)) == 2
    assert world.virtual(c) == {world.network_id: "10.160.0.1"}


def test_one_that_needs_none_any_more_does_not_wait(make_world):
    world = make_world()
    world.add_node("n1")
    world.change_network("default", vip_subnet="10.160.0.0/30")
    for name in "ab":
        world.create(name)
    c = world.create("c")
    world.converge()
    world.publish(c, mode="dnsrr")
    world.converge()
    assert len(world.running(c)) == 1


def test_the_network_that_gets_a_range_gives_its_services_addresses(world):
    web = world.create()
    world.converge()
    world.change_network("default", vip_subnet="10.160.0.0/24")
    world.settle()
    assert world.virtual(web) == {world.network_id: "10.160.0.1"}


def test_what_disappears_from_the_state_is_written_again(wired):
    web = wired.create(ports=(port(80, 8080),))
    wired.settle()
    before = wired.state.service_addresses[web]
    writes = Writes()
    writes.delete_service_addresses(web)
    writes.delete_ingress_port("tcp", 8080)
    wired.commit(writes)
    wired.settle()
    assert wired.state.service_addresses[web].ports == before.ports
    assert "tcp/8080" in wired.state.ingress_ports


# Published ports.


def test_ports_are_listed_with_their_numbers(wired):
    web = wired.create(
        ports=(port(80, 8080), port(443), port(53, 0, "udp"), port(9, 9, mode="host"))
    )
    wired.settle()
    assert wired.state.service_addresses[web].ports == (
        port(80, 8080),
        port(443, 30_000),
        port(53, 30_000, "udp"),
    )


def test_the_empty_mode_is_ingress(wired):
    web = wired.create(ports=(port(80, 8080, mode=""),))
    wired.settle()
    assert wired.state.service_addresses[web].ports == (port(80, 8080),)


def test_a_chosen_port_is_claimed_and_a_named_one_as_well_if_nobody_did(wired):
    web = wired.create(ports=(port(80, 8080), port(443)))
    wired.settle()
    assert claims(wired) == {"tcp/8080": (web, False), "tcp/30000": (web, True)}


def test_a_claim_of_the_api_is_left_as_it_is(wired):
    web = wired.create(ports=(port(80, 8080),))
    claim(wired, 8080, web)
    wired.settle()
    assert claims(wired) == {"tcp/8080": (web, False)}


def test_a_chosen_port_stays_with_the_port_of_the_tasks(wired):
    web = wired.create(ports=(port(80), port(443)))
    wired.settle()
    assert wired.published(web) == ["30000/tcp", "30001/tcp"]
    wired.publish(web, port(443), port(8080), port(80))
    wired.settle()
    assert wired.published(web) == ["30001/tcp", "30002/tcp", "30000/tcp"]


def test_two_chosen_ones_may_lead_to_the_same_port(wired):
    web = wired.create(ports=(port(80), port(80)))
    wired.settle()
    wired.publish(web, port(80), port(80), port(81))
    wired.settle()
    assert wired.published(web) == ["30000/tcp", "30001/tcp", "30002/tcp"]
    wired.publish(web, port(80))
    wired.settle()
    assert wired.published(web) == ["30000/tcp"]
    assert set(claims(wired)) == {"tcp/30000"}


def test_a_chosen_port_that_the_spec_comes_to_name_stays_the_services_own(wired):
    web = wired.create(ports=(port(80), port(443)))
    wired.settle()
    wired.publish(web, port(80, 30_000), port(443))
    wired.settle()
    assert claims(wired) == {"tcp/30000": (web, False), "tcp/30001": (web, True)}
    assert wired.published(web) == ["30000/tcp", "30001/tcp"]


def test_ports_that_are_wanted_no_more_are_free_at_once(wired):
    web = wired.create(ports=(port(80, 8080), port(443)))
    wired.settle()
    wired.publish(web, port(443))
    wired.settle()
    assert claims(wired) == {"tcp/30000": (web, True)}
    wired.publish(web)
    wired.settle()
    assert claims(wired) == {}


def test_choosing_goes_on_behind_the_last_choice(wired):
    a = wired.create("a", replicas=0, ports=(port(),))
    wired.settle()
    wired.remove(a)
    wired.settle()
    b = wired.create("b", replicas=0, ports=(port(),))
    wired.settle()
    assert wired.published(b) == ["30001/tcp"]


def test_claimed_ports_ports_of_nodes_and_those_that_tasks_hold_are_left_out(wired):
    wired.create("fixed", ports=(port(80, 30_000), port(81, 30_001, mode="host")))
    wired.create("dynamic", ports=(port(82, mode="host"), port(83, mode="host")))
    wired.settle()
    web = wired.create("web", ports=(port(), port(90, 0, "udp")))
    wired.settle()
    taken = {each.published_port for task in wired.state.tasks.values() for each in task.ports} | {
        30_000
    }
    (chosen,) = {int(each[:5]) for each in wired.published(web) if each.endswith("tcp")}
    assert chosen not in taken
    assert wired.published(web)[1] == "30000/udp"


def test_a_port_of_the_cluster_is_no_nodes(wired):
    wired.create("mesh", replicas=0, ports=(port(80, 30_000),))
    wired.settle()
    dynamic = wired.create("dynamic", ports=(port(80, mode="host"),))
    fixed = wired.create("fixed", ports=(port(80, 30_000, mode="host"),))
    wired.settle()
    assert [task.ports[0].published_port for task in wired.wanted(dynamic)] == [30_001]
    assert reasons(wired, fixed) == {"no suitable node (host-mode port already in use on 3 nodes)"}
    wired.remove(ServiceId("service-mesh"))
    wired.converge()
    assert len(wired.running(fixed)) == 1


def test_services_and_nodes_that_choose_in_one_slice_do_not_meet(wired):
    node = wired.create("node", replicas=3, ports=(port(80, mode="host"),))
    mesh = wired.create("mesh", replicas=0, ports=(port(80),))
    wired.slice()
    assert wired.published(mesh) == ["30000/tcp"]
    assert {task.ports[0].published_port for task in wired.wanted(node)} == {30_001}


def test_a_port_of_another_service_is_waited_for(wired):
    a = wired.create("a", ports=(port(80, 8080),))
    wired.converge()
    b = wired.create("b", ports=(port(80, 8080),))
    wired.converge()
    assert reasons(wired, b) == {"port 8080/tcp is published by service a"}
    assert wired.published(b) == []
    wired.remove(a)
    wired.converge()
    assert len(wired.running(b)) == 1
    assert claims(wired) == {"tcp/8080": (b, False)}


def test_of_two_that_name_a_port_in_one_slice_one_gets_it(wired):
    a = wired.create("a", ports=(port(80, 8080),))
    b = wired.create("b", ports=(port(80, 8080),))
    wired.converge()
    assert wired.published(a) == ["8080/tcp"]
    assert reasons(wired, b) == {"port 8080/tcp is published by service a"}


def test_when_all_numbers_are_taken_services_wait_and_say_so(wired):
    greedy = take_all_numbers_but(wired, 31_000)
    first = wired.create("first", ports=(port(),))
    second = wired.create("second", ports=(port(),))
    wired.converge()
    assert wired.published(first) == ["31000/tcp"]
    assert reasons(wired, second) == {"no free tcp port to publish from 30000 to 32767"}
    assert wired.full_pass() == 0
    wired.remove(first)
    wired.converge()
    assert wired.published(second) == ["31000/tcp"]
    assert len(wired.running(second)) == 1
    third = wired.create("third", ports=(port(),))
    wired.converge()
    assert len(reasons(wired, third)) == 1
    wired.remove(greedy)
    wired.converge()
    assert len(wired.running(third)) == 1


def test_a_claim_that_is_lost_to_the_api_is_decided_anew(wired):
    """Between the leader's look and its write another service took the number."""
    web = wired.create("web", replicas=0, ports=(port(),))
    other = wired.create("other", replicas=0, ports=(port(80, 30_000),))
    wired.worklist.addresses.due.pop(other)
    writes = wired.plan()
    claim(wired, 30_000, other)
    assert not wired.try_commit(writes)
    assert claims(wired) == {"tcp/30000": (other, False)}
    wired.worklist.add_everything()
    wired.settle()
    assert wired.published(web) == ["30001/tcp"]
    assert wired.published(other) == ["30000/tcp"]


# What is left behind.


def test_a_service_leaves_nothing_behind(wired):
    web = wired.create(replicas=3, networks=("front", "back"), ports=(port(80, 8080), port(81)))
    wired.converge()
    wired.remove(web)
    wired.converge()
    assert not wired.state.service_addresses
    assert not wired.state.ingress_ports
    assert not wired.state.gateways
    assert not wired.state.tasks


@pytest.mark.parametrize("is_new_leader", [False, True])
def test_what_was_written_just_after_it_was_deleted_goes_too(wired, is_new_leader):
    gone = ServiceId("gone")
    wired.put(ServiceAddresses(service_id=gone, ports=(port(80, 8080),)))
    claim(wired, 8080, gone)
    claim(wired, 30_000, gone, is_chosen=True)
    if is_new_leader:
        wired.elect()
    wired.settle()
    assert not wired.state.service_addresses
    assert not wired.state.ingress_ports


def test_tasks_that_end_in_a_lost_nodes_silence_do_not_free_the_address_early(wired):
    """While a node is down its tasks may still serve: the address on the network that the service
    has left stays until they are known to have ended."""
    web = wired.create(networks=("front",))
    wired.converge()
    (task,) = wired.running(web)
    wired.set_node_state(task.node_id, "down")
    wired.connect(web, "back")
    wired.converge()
    assert set(wired.virtual(web)) == {"front", "back"}
    wired.set_node_state(task.node_id, "ready")
    wired.report(task.id, TaskState.SHUTDOWN)
    wired.converge()
    assert set(wired.virtual(web)) == {"back"}


def test_many_services_are_looked_at_in_several_slices(make_world):
    world = make_world(limit=50)
    for number in range(120):
        world.create(f"s{number}", replicas=0)
    world.settle()
    world.change_network("default", vip_subnet="10.160.0.0/20")
    world.slice()
    assert len(world.state.service_addresses) == 50
    world.settle()
    assert len(world.state.service_addresses) == 120
    addresses = [world.virtual(each)[world.network_id] for each in world.state.services]
    assert len(set(addresses)) == 120
