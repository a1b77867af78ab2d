"""The typed view: indexes follow every write, and writes are cut at the limits."""

import pytest

from essaim_master.kv.commands import CompareRevision
from essaim_master.state import keys
from essaim_master.state.cluster import LocalCluster, Member
from essaim_master.state.cluster_state import ClusterState
from essaim_master.state.keys import Kind
from essaim_master.state.writes import Writes
from essaim_shared.clock import ManualClock
from essaim_shared.container_spec import ContainerSpec
from essaim_shared.errors import NoLeader
from essaim_shared.limits import TRANSACTION_OPERATIONS_MAX
from essaim_shared.objects import Attachment, Gateway, Service, Task, TaskStatus
from essaim_shared.spec import ServiceSpec, TaskSpec
from essaim_shared.task_state import TaskState


@pytest.fixture
def cluster() -> LocalCluster:
    return LocalCluster(ManualClock(), Member("m1", "127.0.0.1:1", "127.0.0.1:2"))


async def commit(cluster: LocalCluster, writes: Writes) -> list[bool]:
    return [(await cluster.commit(t, 1.0)).succeeded for t in writes.transactions()]


def service(name: str, service_id: str = "s1") -> Service:
    spec = ServiceSpec(name=name, task=TaskSpec(container=ContainerSpec(image="i")))
    return Service(id=service_id, spec=spec, created_ns=1, updated_ns=1)


def task(task_id: str, node_id: str | None = None, address: str = "10.0.0.9") -> Task:
    return Task(
        id=task_id,
        service_id="s1",
        service_name="web",
        slot=1,
        spec=TaskSpec(container=ContainerSpec(image="i")),
        spec_version=1,
        node_id=node_id,
        desired_state=TaskState.RUNNING,
        attachments=(Attachment(network_id="n1", address=address),),
        created_ns=1,
        updated_ns=1,
    )


async def test_indexes_follow_a_task_from_birth_to_end(cluster):
    writes = Writes()
    writes.put(task("t1"))
    await commit(cluster, writes)
    assert list(cluster.state.tasks_of_service("s1")) == ["t1"]
    assert not cluster.state.tasks_on_node("h1")
    assert cluster.state.addresses("n1") == {"10.0.0.9": "t1"}

    writes = Writes()
    writes.put(task("t1", node_id="h1", address="10.0.0.10"))
    writes.put_task_status("t1", TaskStatus(state=TaskState.ASSIGNED, timestamp_ns=1))
    await commit(cluster, writes)
    assert list(cluster.state.tasks_on_node("h1")) == ["t1"]
    assert cluster.state.addresses("n1") == {"10.0.0.10": "t1"}
    assert cluster.state.observed("t1") is TaskState.ASSIGNED

    writes = Writes()
    writes.delete_task("t1")
    await commit(cluster, writes)
    assert not cluster.state.tasks_of_service("s1")
    assert not cluster.state.tasks_on_node("h1")
    assert not cluster.state.addresses("n1")
    assert cluster.state.observed("t1") is TaskState.NEW


async def test_a_name_is_claimed_once_and_freed_by_deletion(cluster):
    first = Writes()
    first.put(service("web"))
    first.claim_name(service("web"))
    second = Writes()
    second.put(service("web", "s2"))
    second.claim_name(service("web", "s2"))
    assert await commit(cluster, first) == [True]
    assert await commit(cluster, second) == [False]
    assert cluster.state.service_named("web").id == "s1"

    gone = Writes()
    gone.delete_service(service("web"))
    assert await commit(cluster, gone) == [True]
    assert cluster.state.service_named("web") is None
    assert await commit(cluster, second) == [True]


async def test_subscribers_hear_whole_transactions_with_before_and_after(cluster):
    heard = []
    cluster.state.subscribe(heard.append)
    writes = Writes()
    writes.put(task("t1"))
    writes.put(Gateway(network_id="n1", node_id="h1", address="10.0.0.1"))
    await commit(cluster, writes)
    (applied,) = heard
    assert [(c.kind, c.id, c.before) for c in applied.changes] == [
        (Kind.TASK, "t1", None),
        (Kind.GATEWAY, "n1/h1", None),
    ]
    assert cluster.state.gateway("n1", "h1").address == "10.0.0.1"


async def test_writes_are_cut_at_the_operation_limit_and_every_part_is_guarded(cluster):
    writes = Writes()
    writes.expect(keys.LEADER_KEY, 0)
    for number in range(TRANSACTION_OPERATIONS_MAX + 1):
        writes.put(task(f"t{number}"))
    parts = writes.transactions()
    assert [len(part.then) for part in parts] == [TRANSACTION_OPERATIONS_MAX, 1]
    assert all(part.compares == (CompareRevision(keys.LEADER_KEY, 0),) for part in parts)


async def test_a_view_made_late_equals_one_that_watched_from_the_start(cluster):
    writes = Writes()
    writes.put(service("web"))
    writes.put(task("t1", node_id="h1"))
    await commit(cluster, writes)
    late = ClusterState(cluster.store)
    assert late.services == cluster.state.services
    assert late.tasks_on_node("h1") == cluster.state.tasks_on_node("h1")
    assert late.addresses("n1") == cluster.state.addresses("n1")


async def test_without_quorum_nothing_is_read_or_written(cluster):
    cluster.available = False
    writes = Writes()
    writes.put(task("t1"))
    with pytest.raises(NoLeader):
        await commit(cluster, writes)
    with pytest.raises(NoLeader):
        await cluster.read_barrier(1.0)


@pytest.mark.parametrize("key", [b"/tasks", b"tasks/x", b"/user/own", b"", b"/cluster/other"])
def test_keys_that_are_not_ours_are_left_alone(key):
    assert keys.kind_of(key) is None
