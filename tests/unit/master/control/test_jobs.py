"""Jobs: the cases of SwarmKit's jobs orchestrator (jobs/**), and ours."""

import msgspec
import pytest

from essaim_shared.spec import GlobalJobMode, ReplicatedJobMode, RestartPolicy, ServiceMode
from essaim_shared.task_state import TaskState

GLOBAL_JOB = ServiceMode(global_job=GlobalJobMode())


def job(total, concurrent=None):
    return ServiceMode(
        replicated_job=ReplicatedJobMode(max_concurrent=concurrent, total_completions=total)
    )


def completed(world, service_id):
    return [t.slot_key for t in world.tasks(service_id, TaskState.COMPLETE)]


def end_running(world, service_id, state=TaskState.COMPLETE, count=None):
    world.converge()
    for task in world.tasks(service_id, TaskState.RUNNING)[:count]:
        world.report(task.id, state, err="" if state is TaskState.COMPLETE else "exit 1")
    world.converge()


def run_again(world, service_id):
    """An update of a job, as the API makes it."""
    service = world.state.services[service_id]
    world.put(
        msgspec.structs.replace(
            service,
            spec_version=service.spec_version + 1,
            job_iteration=service.job_iteration + 1,
            executed_ns=world.now_ns,
        )
    )


def test_tasks_are_to_complete_and_carry_slot_and_iteration(world):
    batch = world.create(mode=job(3))
    world.settle()
    assert [task.slot for task in world.tasks(batch)] == [0, 1, 2]
    assert {task.desired_state for task in world.tasks(batch)} == {TaskState.COMPLETE}
    assert {task.iteration for task in world.tasks(batch)} == {0}


def test_no_more_run_at_once_than_allowed_until_all_have_completed(world):
    batch = world.create(mode=job(5, concurrent=2))
    seen = []
    for _ in range(3):
        world.converge()
        seen.append([task.slot for task in world.tasks(batch, TaskState.RUNNING)])
        end_running(world, batch)
    assert seen == [[0, 1], [2, 3], [4]]
    assert completed(world, batch) == [0, 1, 2, 3, 4]
    assert world.full_pass() == 0
    assert {task.desired_state for task in world.tasks(batch)} == {TaskState.COMPLETE}


def test_each_completion_makes_room_for_one_more(world):
    batch = world.create(mode=job(4, concurrent=2))
    end_running(world, batch, count=1)
    assert completed(world, batch) == [0]
    assert [task.slot for task in world.tasks(batch, TaskState.RUNNING)] == [1, 2]


@pytest.mark.parametrize(
    ("mode", "tasks"), [(job(None, None), 1), (job(None, 3), 3), (job(2, None), 2), (job(0), 0)]
)
def test_numbers_that_are_not_given_follow_from_each_other(world, mode, tasks):
    batch = world.create(mode=mode)
    world.converge()
    assert len(world.tasks(batch)) == tasks


@pytest.mark.parametrize("condition", ["any", "on-failure"])
def test_failed_task_is_tried_again_after_its_delay(world, condition):
    batch = world.create(mode=job(1), restart=RestartPolicy(condition=condition))
    world.converge()
    (task,) = world.tasks(batch)
    world.report(task.id, TaskState.FAILED)
    world.settle()
    (_, retry) = world.tasks(batch)
    assert retry.desired_state is TaskState.READY
    assert (retry.slot, retry.iteration, retry.failures) == (0, 0, 1)
    world.converge()
    (retry,) = world.wanted(batch)
    assert retry.desired_state is TaskState.COMPLETE


def test_retry_of_a_slot_takes_no_further_place(world):
    batch = world.create(mode=job(3, concurrent=1))
    for _ in range(3):
        end_running(world, batch, TaskState.FAILED)
        assert [task.slot for task in world.wanted(batch)] == [0]


@pytest.mark.parametrize(
    "policy",
    [RestartPolicy(condition="none"), RestartPolicy(max_attempts=2, delay=0)],
    ids=["none", "two attempts"],
)
def test_slot_that_was_given_up_is_not_begun_anew_and_the_others_go_on(world, policy):
    batch = world.create(mode=job(2, concurrent=1), restart=policy)
    for _ in range(5):
        world.converge()
        for task in world.tasks(batch, TaskState.RUNNING):
            if task.slot == 0:
                world.report(task.id, TaskState.FAILED)
    end_running(world, batch)
    assert completed(world, batch) == [1]
    assert world.wanted(batch) == world.tasks(batch, TaskState.COMPLETE)
    assert world.full_pass() == 0
    world.elect()
    assert world.settle() == 0


@pytest.mark.parametrize("loss", ["down", "drain", "removed"])
def test_task_of_a_lost_node_is_tried_elsewhere_at_once(world, loss):
    batch = world.create(mode=job(1))
    world.converge()
    (task,) = world.tasks(batch)
    if loss == "down":
        world.set_node_state(task.node_id, "down")
    elif loss == "drain":
        world.set_node(task.node_id, availability="drain")
    else:
        world.remove_node(task.node_id)
    world.converge()
    (retry,) = world.wanted(batch)
    assert retry.node_id != task.node_id
    assert retry.failures == 0


def test_completed_slot_outlives_its_node(world):
    batch = world.create(mode=job(1))
    end_running(world, batch)
    (done,) = world.tasks(batch)
    world.set_node(done.node_id, availability="drain")
    world.converge()
    assert world.tasks(batch) == [done]


def test_slot_that_completed_on_a_lost_node_after_all_is_done(world):
    batch = world.create(mode=job(1))
    world.converge()
    (lost,) = world.tasks(batch)
    world.set_node_state(lost.node_id, "down")
    world.converge()
    world.report(lost.id, TaskState.COMPLETE)  # it is back, and tells
    world.converge()
    assert len(world.tasks(batch, TaskState.COMPLETE)) == 1
    assert world.running(batch) == []
    assert world.full_pass() == 0


def test_update_runs_the_job_anew_and_removes_what_was(world):
    batch = world.create(mode=job(2))
    end_running(world, batch, count=1)
    run_again(world, batch)
    world.converge()
    assert {task.iteration for task in world.tasks(batch)} == {1}
    assert [task.slot for task in world.running(batch)] == [0, 1]
    end_running(world, batch)
    assert completed(world, batch) == [0, 1]


def test_removed_job_leaves_nothing(world):
    batch = world.create(mode=job(4, concurrent=2))
    end_running(world, batch)
    world.remove(batch)
    world.converge()
    assert not world.state.tasks


def test_large_job_is_begun_in_bounded_slices(make_world):
    world = make_world(subnet="10.1.0.0/20", limit=50)
    world.add_node("n1")
    batch = world.create(mode=job(400))
    sizes = []
    while world.worklist:
        sizes.append(world.slice())
    assert len(world.tasks(batch)) == 400
    assert max(sizes) <= 60
    world.converge()
    for task in world.tasks(batch)[:300]:
        world.report(task.id, TaskState.COMPLETE)
    world.converge()
    assert world.full_pass() == 0


def test_global_job_runs_on_each_node_once(world):
    batch = world.create(mode=GLOBAL_JOB)
    end_running(world, batch)
    assert sorted(completed(world, batch)) == ["n1", "n2", "n3"]
    assert world.full_pass() == 0


def test_global_job_runs_on_a_node_that_joins_later(world):
    batch = world.create(mode=GLOBAL_JOB, constraints=("node.labels.disk!=slow",))
    end_running(world, batch)
    world.add_node("n4")
    world.add_node("n5", labels={"disk": "slow"})
    world.converge()
    assert [task.node_id for task in world.tasks(batch, TaskState.RUNNING)] == ["n4"]


def test_global_job_goes_on_when_its_node_is_back_unless_it_has_completed(world):
    batch = world.create(mode=GLOBAL_JOB)
    world.converge()
    (first, *_) = world.tasks(batch)
    world.report(first.id, TaskState.COMPLETE)
    for name in ("n1", "n2"):
        world.set_node(name, availability="drain")
    world.converge()
    assert {task.target_node for task in world.wanted(batch)} == {"n1", "n3"}
    for name in ("n1", "n2"):
        world.set_node(name, availability="active")
    end_running(world, batch)
    assert sorted(completed(world, batch)) == ["n1", "n2", "n3"]
    assert world.full_pass() == 0


def test_global_job_forgets_nodes_that_are_removed(world):
    batch = world.create(mode=GLOBAL_JOB)
    end_running(world, batch)
    world.remove_node("n1")
    world.converge()
    assert sorted(completed(world, batch)) == ["n2", "n3"]


def test_update_runs_a_global_job_anew_everywhere(world):
    batch = world.create(mode=GLOBAL_JOB)
    end_running(world, batch)
    run_again(world, batch)
    end_running(world, batch)
    assert sorted(completed(world, batch)) == ["n1", "n2", "n3"]
    assert {task.iteration for task in world.tasks(batch)} == {1}


def test_slot_whose_task_is_still_stopping_keeps_its_place(world):
    """Its node no longer fits; until the task has stopped no other slot is begun for it."""
    batch = world.create(mode=job(3, concurrent=1), constraints=("node.labels.disk!=slow",))
    world.converge()
    (task,) = world.tasks(batch)
    world.set_node(task.node_id, labels={"disk": "slow"})
    world.settle()
    assert world.state.tasks[task.id].desired_state is TaskState.SHUTDOWN
    world.full_pass()
    assert world.wanted(batch) == []
    world.report(task.id, TaskState.SHUTDOWN)
    world.settle()
    assert [each.slot for each in world.wanted(batch)] == [0]


def test_stray_tasks_on_nodes_that_are_down_take_no_place_once_their_slots_are_done(world):
    batch = world.create(mode=job(4, concurrent=2))
    world.converge()
    for task in world.tasks(batch):
        world.set_node_state(task.node_id, "down")
    for _ in range(3):
        world.converge()
        for task in world.wanted(batch):
            if world.state.observed(task.id) is TaskState.RUNNING:
                world.report(task.id, TaskState.COMPLETE)
    assert completed(world, batch) == [0, 1, 2, 3]


def test_room_that_one_slot_makes_is_not_counted_for_one_that_is_stopping(world):
    batch = world.create(mode=job(5, concurrent=2), constraints=("node.labels.disk!=slow",))
    world.converge()
    stopping, ending = world.tasks(batch)
    world.set_node(stopping.node_id, labels={"disk": "slow"})
    world.settle()
    world.report(ending.id, TaskState.COMPLETE)
    world.settle()
    begun = [task.slot for task in world.wanted(batch) if task.id != ending.id]
    assert begun == [2]
    world.converge()
    assert [task.slot for task in world.running(batch)] == [0, 2]
