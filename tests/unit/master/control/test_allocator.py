"""Addresses: lowest free behind the cursor, those of ended tasks last, never one twice."""

import pytest

from essaim_master.control.allocator import AddressPool, Cursors, format_address
from essaim_shared.task_state import TaskState


def pool_of(world, cursors):
    return AddressPool(world.state, world.state.networks[world.network_id], cursors)


def take(pool, count):
    return [grant.address if grant else None for grant in (pool.take() for _ in range(count))]


def test_addresses_go_up_and_leave_out_network_and_broadcast(make_world):
    world = make_world(subnet="10.1.0.0/29")
    pool = pool_of(world, Cursors())
    assert take(pool, 7) == [f"10.1.0.{number}" for number in range(1, 7)] + [None]


def test_freed_address_is_used_again_as_late_as_possible(make_world):
    world = make_world(subnet="10.1.0.0/28")  # fourteen addresses
    world.add_node("n1")
    web = world.create(replicas=1)
    seen = []
    for _ in range(6):
        world.converge()
        seen.append(world.tasks(web)[0].attachments[0].address)
        world.scale(web, 0)
        world.converge()
        world.scale(web, 1)
    assert len(set(seen)) == 6


def test_new_leader_goes_on_behind_the_highest_address(world):
    world.create(replicas=5)
    world.converge()
    used = [int(address.rsplit(".")[-1]) for address in world.state.addresses(world.network_id)]
    first = pool_of(world, Cursors()).take()
    assert first.address == f"10.1.0.{max(used) + 1}"


def test_search_comes_round_to_the_lowest(make_world):
    world = make_world(subnet="10.1.0.0/29")
    cursors = Cursors()
    cursors.set(world.network_id, int.from_bytes(bytes((10, 1, 0, 6))))
    assert take(pool_of(world, cursors), 3) == ["10.1.0.6", "10.1.0.1", "10.1.0.2"]


def test_address_given_back_can_be_taken_later(world):
    cursors = Cursors()
    pool = pool_of(world, cursors)
    grant = pool.take()
    pool.give_back(grant)
    assert grant.address not in world.state.addresses(world.network_id)
    assert pool.take() is not None


def test_full_subnet_takes_the_addresses_of_ended_tasks(make_world):
    world = make_world(subnet="10.1.0.0/29")
    world.add_node("n1")
    web = world.create(replicas=3)
    world.converge()  # three tasks and a gateway: two addresses are left
    for _ in range(3):
        world.report(world.running(web)[0].id, TaskState.FAILED)
        world.converge()
    assert len(world.running(web)) == 3
    kept = [task for task in world.tasks(web) if task.attachments]
    addresses = [task.attachments[0].address for task in kept]
    assert len(set(addresses)) == len(addresses)
    assert any(not task.attachments for task in world.tasks(web, TaskState.FAILED))
    assert world.full_pass() == 0


def test_full_subnet_leaves_tasks_pending_until_an_address_is_free(make_world):
    world = make_world(subnet="10.1.0.0/29")
    world.add_node("n1")
    web = world.create("web", replicas=5)
    world.converge()
    api = world.create("api", replicas=1)
    world.converge()
    (task,) = world.tasks(api)
    assert world.reason(task) == "no free address on network default (10.1.0.0/29)"
    world.scale(web, 4)
    world.converge()
    assert len(world.running(api)) == 1


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0.0.0.0"), (0x0AF40102, "10.244.1.2"), (0xFFFFFFFF, "255.255.255.255")],
)
def test_addresses_are_written_as_usual(number, text):
    assert format_address(number) == text
