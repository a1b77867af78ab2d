"""Which ended tasks are kept: the cases of SwarmKit's task reaper, and ours."""

import pytest

from essaim_shared.objects import ClusterSettings, RegistryCredentials, UpdateStatus
from essaim_shared.spec import (
    GlobalMode,
    ReplicatedJobMode,
    ReplicatedMode,
    RestartPolicy,
    ServiceMode,
)
from essaim_shared.task_state import TaskState

FAST = RestartPolicy(delay=0)


def keep(world, limit):
    world.put(ClusterSettings(task_history_limit=limit))


def fail_often(world, service_id, times=8):
    """One task of the service fails so many times in a row."""
    world.converge()
    key = world.running(service_id)[0].slot_key
    for _ in range(times):
        world.converge()
        (task,) = [task for task in world.running(service_id) if task.slot_key == key]
        world.report(task.id, TaskState.FAILED)
    world.converge()


@pytest.mark.parametrize(
    "mode",
    [
        ServiceMode(replicated=ReplicatedMode(replicas=2)),
        ServiceMode(global_=GlobalMode()),
        ServiceMode(replicated_job=ReplicatedJobMode(total_completions=2)),
    ],
    ids=["replicated", "global", "job"],
)
@pytest.mark.parametrize(("limit", "kept"), [(3, 3), (1, 1), (0, 0), (-1, 8)])
def test_limit_holds_for_each_slot_in_each_mode(world, mode, limit, kept):
    keep(world, limit)
    web = world.create(mode=mode, restart=FAST)
    fail_often(world, web)
    assert len(world.tasks(web, TaskState.FAILED)) == kept
    assert world.full_pass() == 0


def test_change_of_the_limit_holds_at_once(world):
    web = world.create(restart=FAST)
    fail_often(world, web)
    assert len(world.tasks(web, TaskState.FAILED)) == 5
    keep(world, 2)
    world.settle()
    assert len(world.tasks(web, TaskState.FAILED)) == 2


def test_oldest_go_first(world):
    keep(world, 2)
    web = world.create(restart=FAST)
    fail_often(world, web, times=2)
    before = [task.id for task in world.tasks(web, TaskState.FAILED)]
    fail_often(world, web, times=1)
    assert world.tasks(web, TaskState.FAILED)[0].id == before[1]


@pytest.mark.parametrize("limit", [0, 1])
def test_last_task_of_a_slot_that_was_given_up_stays(world, limit):
    """It is what tells that the slot was given up: without it the slot would be begun anew."""
    keep(world, limit)
    web = world.create(restart=RestartPolicy(max_attempts=3, delay=0))
    for _ in range(4):
        world.converge()
        world.report(world.running(web)[0].id, TaskState.FAILED)
    world.converge()
    assert len(world.tasks(web)) == 1
    world.elect()
    assert world.settle() == 0


def test_attempts_outlive_the_history(world):
    """SwarmKit keeps more tasks than its limit to count them; here the newest remembers."""
    keep(world, 1)
    web = world.create(restart=RestartPolicy(max_attempts=4, delay=0))
    made = 0
    for _ in range(10):
        world.converge()
        for task in world.running(web):
            made += 1
            world.report(task.id, TaskState.FAILED)
        world.elect()
    assert made == 5
    assert len(world.tasks(web)) == 1


def test_tasks_to_be_removed_go_when_they_have_stopped_and_not_before(world):
    web = world.create(replicas=3)
    world.converge()
    world.scale(web, 1)
    world.settle()
    leaving = [t for t in world.tasks(web) if t.desired_state is TaskState.REMOVE]
    assert len(leaving) == 2
    world.report(leaving[0].id, TaskState.SHUTDOWN)
    world.settle()
    assert leaving[0].id not in world.state.tasks
    assert leaving[1].id in world.state.tasks


def test_task_that_never_had_a_node_leaves_no_trace(world):
    web = world.create(replicas=2, constraints=("node.labels.disk==ssd",))
    world.settle()
    assert all(task.node_id is None for task in world.tasks(web))
    world.scale(web, 0)
    world.settle()
    assert world.tasks(web) == []


def test_completed_tasks_of_a_job_are_no_history(world):
    keep(world, 0)
    mode = ServiceMode(replicated_job=ReplicatedJobMode(total_completions=3))
    batch = world.create(mode=mode)
    world.converge()
    for task in world.tasks(batch):
        world.report(task.id, TaskState.COMPLETE)
    world.converge()
    assert len(world.tasks(batch, TaskState.COMPLETE)) == 3


@pytest.mark.parametrize("elects", [False, True], ids=["at once", "after an election"])
def test_what_was_written_of_a_service_after_its_end_is_swept(world, elects):
    web = world.create()
    world.converge()
    world.remove(web)
    world.converge()
    world.put(UpdateStatus(service_id=web, state="updating", generation=1, started_ns=1))
    world.put(RegistryCredentials(service_id=web, sealed=b"x"))
    if elects:
        world.elect()
    world.settle()
    assert not world.state.update_status
    assert not world.state.registry_credentials
