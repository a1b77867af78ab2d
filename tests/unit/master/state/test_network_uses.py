"""A network and its users: the one that comes first makes the other look again."""

import msgspec
import pytest

from essaim_master.state.cluster import LocalCluster, Member
from essaim_master.state.keys import network_key, network_use_key
from essaim_master.state.network_uses import (
    deletion_of,
    is_leaving,
    mark_networks,
    may_end_a_use,
    services_on,
    tasks_on,
    used_networks,
)
from essaim_master.state.service_changes import service_writes
from essaim_master.state.writes import Writes
from essaim_shared.clock import ManualClock
from essaim_shared.container_spec import ContainerSpec
from essaim_shared.errors import NotFound
from essaim_shared.objects import (
    Attachment,
    Network,
    NodeDescription,
    NodeStatus,
    Service,
    Task,
    TaskStatus,
)
from essaim_shared.spec import NetworkAttachment, ServiceSpec, TaskSpec
from essaim_shared.task_state import TaskState

NETWORK = Network(id="n1", name="back", subnet="10.1.0.0/24", created_ns=1)
DEFAULT = Network(id="n0", name="default", subnet="10.0.0.0/24", created_ns=1)


def service_on(*network_ids, name="web"):
    networks = tuple(NetworkAttachment(target=network_id) for network_id in network_ids)
    task = TaskSpec(container=ContainerSpec(image="i"), networks=networks)
    return Service(id=name, spec=ServiceSpec(name=name, task=task), created_ns=1, updated_ns=1)


def task_of(service, task_id="t1", desired=TaskState.RUNNING, node_id="h1"):
    return Task(
        id=task_id,
        service_id=service.id,
        service_name=service.spec.name,
        slot=1,
        spec=service.spec.task,
        spec_version=1,
        node_id=node_id,
        desired_state=desired,
        attachments=(Attachment(network_id="n1", address="10.1.0.9"),),
        created_ns=1,
        updated_ns=1,
    )


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
        writes = service_writes({}, before, after)
        mark_networks(writes, self.state, before, after)
        return writes


@pytest.fixture
async def site():
    made = Site()
    await made.put(DEFAULT, NETWORK)
    return made


async def test_a_service_that_comes_first_makes_the_deletion_fail(site) -> None:
    deletion = deletion_of(site.state, NETWORK)
    assert await site.write(site.change(None, service_on("n1")))
    assert not await site.write(deletion)
    assert "n1" in site.state.networks


async def test_a_deletion_that_comes_first_makes_the_service_fail(site) -> None:
    creation = site.change(None, service_on("n1"))
    assert await site.write(deletion_of(site.state, NETWORK))
    assert not await site.write(creation)
    assert not site.state.services
    with pytest.raises(NotFound, match="network n1 not found"):
        site.change(None, service_on("n1"))


async def test_an_update_that_moves_to_the_network_is_guarded_alike(site) -> None:
    before = service_on()
    await site.put(before)
    deletion = deletion_of(site.state, NETWORK)
    after = msgspec.structs.replace(before, spec=service_on("n1").spec)
    assert await site.write(site.change(before, after))
    assert not await site.write(deletion)


async def test_services_that_name_one_network_never_hinder_each_other(site) -> None:
    changes = [site.change(None, service_on("n1", name=name)) for name in ("web", "db")]
    assert [await site.write(change) for change in changes] == [True, True]
    assert {one.id for one in services_on(site.state, NETWORK)} == {"web", "db"}


async def test_a_change_that_keeps_its_networks_leaves_no_mark(site) -> None:
    before = service_on("n1")
    await site.put(before)
    assert await site.write(site.change(before, msgspec.structs.replace(before, generation=2)))
    assert site.state.modified(network_use_key("n1")) == 0


async def test_the_mark_goes_with_the_network(site) -> None:
    await site.write(site.change(None, service_on("n1")))
    assert site.state.modified(network_use_key("n1"))
    assert await site.write(deletion_of(site.state, NETWORK))
    assert site.state.modified(network_use_key("n1")) == site.state.modified(network_key("n1")) == 0
    assert site.state.network_ledger.changes == 1


async def test_services_without_networks_are_on_the_default_one(site) -> None:
    await site.put(service_on(), service_on("n1", name="db"))
    assert [one.id for one in services_on(site.state, DEFAULT)] == ["web"]
    assert [one.id for one in services_on(site.state, NETWORK)] == ["db"]


async def test_only_tasks_that_may_still_send_hold_a_network(site) -> None:
    task = task_of(service_on("n1"))
    await site.put(task)
    assert [one.id for one in tasks_on(site.state, "n1")] == ["t1"]
    assert is_leaving(site.state, task), "its service is gone"
    await site.put(service_on("n1"))
    assert not is_leaving(site.state, task)
    assert is_leaving(site.state, task_of(service_on("n1"), desired=TaskState.SHUTDOWN))
    writes = Writes()
    writes.put_task_status("t1", TaskStatus(state=TaskState.SHUTDOWN, timestamp_ns=1))
    assert await site.write(writes)
    assert not list(tasks_on(site.state, "n1"))


async def test_nobody_waits_for_the_tasks_of_a_node_that_is_down(site) -> None:
    await site.put(task_of(service_on("n1")))
    description = NodeDescription(
        hostname="h1",
        address="192.0.2.1",
        architecture="x86_64",
        nano_cpus=1,
        memory_bytes=1,
        engine_version="1",
    )
    writes = Writes()
    writes.put_node_status("h1", NodeStatus(state="down", description=description, changed_ns=1))
    assert await site.write(writes)
    assert not list(tasks_on(site.state, "n1"))


async def test_all_used_networks_at_once_are_those_that_are_used_one_by_one(site) -> None:
    assert used_networks(site.state) == set()
    await site.put(service_on())
    assert used_networks(site.state) == {"n0"}
    await site.put(task_of(service_on()))
    assert used_networks(site.state) == {"n0", "n1"}, "a task of an older template is on it"
    await site.put(service_on("n1"))
    assert used_networks(site.state) == {"n1"}


async def test_a_deletion_that_waits_looks_again_only_when_it_may_matter(site) -> None:
    seen = []
    site.state.subscribe(
        lambda applied: seen.append(
            any(may_end_a_use(site.state, change, "n1") for change in applied.changes)
        )
    )
    other = msgspec.structs.replace(task_of(service_on(), "t2"), attachments=())
    await site.put(task_of(service_on("n1")), other)
    seen.clear()
    for task_id, state in (
        ("t2", TaskState.SHUTDOWN),
        ("t1", TaskState.RUNNING),
        ("t1", TaskState.SHUTDOWN),
    ):
        writes = Writes()
        writes.put_task_status(task_id, TaskStatus(state=state, timestamp_ns=1))
        assert await site.write(writes)
    await site.put(service_on("n0"))
    await site.put(service_on("n1"))
    for task_id in ("t2", "t1"):
        writes = Writes()
        writes.delete_task(task_id)
        assert await site.write(writes)
    assert seen == [False, False, True, False, True, False, True]
