"""From services to tasks: the cases of SwarmKit's replicated orchestrator, and ours."""

import pytest

from essaim_shared.limits import TASK_HISTORY_PER_SLOT
from essaim_shared.spec import RestartPolicy
from essaim_shared.task_state import TaskState


def test_service_gets_slots_from_one_and_a_second_pass_writes_nothing(world):
    web = world.create(replicas=3)
    world.settle()
    assert [task.slot for task in world.tasks(web)] == [1, 2, 3]
    assert all(task.desired_state is TaskState.RUNNING for task in world.tasks(web))
    assert world.full_pass() == 0


def test_new_task_is_written_once_with_node_and_address(world):
    web = world.create(replicas=1)
    # The task and the gateway of its node: nothing else, no status.
    assert world.slice() == 2
    (task,) = world.tasks(web)
    assert task.node_id is not None
    assert len(task.attachments) == 1
    assert task.id not in world.state.task_status


def test_scale_up_takes_the_lowest_free_slots(world):
    web = world.create(replicas=4)
    world.converge()
    world.scale(web, 2)
    world.converge()
    kept = {task.slot for task in world.wanted(web)}
    world.scale(web, 4)
    world.converge()
    assert {task.slot for task in world.wanted(web)} == {1, 2, 3, 4}
    assert kept < {1, 2, 3, 4}


def test_scale_down_evens_the_nodes_out(world):
    web = world.create(replicas=3)
    world.converge()
    world.set_node("n2", availability="pause")
    world.set_node("n3", availability="pause")
    world.scale(web, 6)
    world.converge()
    assert world.spread(web) == {"n1": 4, "n2": 1, "n3": 1}
    world.scale(web, 3)
    world.converge()
    assert world.spread(web) == {"n1": 1, "n2": 1, "n3": 1}


def test_scale_down_removes_tasks_that_do_not_run_first(world):
    web = world.create(replicas=5)
    world.settle()
    running = world.tasks(web)[1:4]
    for task in running:
        world.report(task.id, TaskState.RUNNING)
    world.scale(web, 3)
    world.settle()
    assert world.wanted(web) == running


def test_scale_to_zero_and_removal_leave_nothing(world):
    web = world.create(replicas=5)
    world.converge()
    world.scale(web, 0)
    world.converge()
    assert world.tasks(web) == []
    world.scale(web, 5)
    world.converge()
    world.remove(web)
    world.converge()
    assert not world.state.tasks
    assert not world.state.task_status
    assert not world.state.gateways
    assert not world.state.addresses(world.network_id)


def test_removed_service_waits_for_its_agents(world):
    web = world.create(replicas=2)
    world.converge()
    world.remove(web)
    world.settle()
    assert {task.desired_state for task in world.tasks(web)} == {TaskState.REMOVE}
    first, second = world.tasks(web)
    world.report(first.id, TaskState.SHUTDOWN)
    world.settle()
    assert world.tasks(web) == [second]


@pytest.mark.parametrize("event", ["drain", "down"])
def test_tasks_of_a_lost_node_are_replaced_at_once_elsewhere(world, event):
    web = world.create(replicas=3)
    world.converge()
    if event == "drain":
        world.set_node("n1", availability="drain")
    else:
        world.set_node_state("n1", "down")
    (lost,) = [task for task in world.tasks(web) if task.node_id == "n1"]
    world.settle()
    (replacement,) = [task for task in world.wanted(web) if task.slot == lost.slot]
    assert replacement.node_id in {"n2", "n3"}
    assert replacement.desired_state is TaskState.RUNNING
    assert replacement.failures == 0
    assert world.state.tasks[lost.id].desired_state is TaskState.SHUTDOWN


def test_address_of_a_task_on_a_down_node_is_not_given_away(make_world):
    world = make_world(subnet="10.1.0.0/29")  # six addresses
    for name in ("n1", "n2"):
        world.add_node(name)
    web = world.create(replicas=2)
    world.converge()
    world.set_node_state("n1", "down")
    world.scale(web, 4)
    world.settle()
    # Two gateways, the task that may still run on n1, and three of the four wanted ones.
    placed = [task for task in world.tasks(web) if task.node_id is not None]
    addresses = [task.attachments[0].address for task in placed]
    assert len(set(addresses)) == len(addresses) == 4
    (pending,) = [task for task in world.wanted(web) if task.node_id is None]
    assert "no free address on network default (10.1.0.0/29)" in world.reason(pending)


def test_returned_node_stops_its_old_tasks_and_gets_none_back(world):
    web = world.create(replicas=3)
    world.converge()
    world.set_node_state("n1", "down")
    world.converge()
    world.set_node_state("n1", "ready")
    world.converge()
    assert len(world.running(web)) == 3
    assert "n1" not in world.spread(web)
    assert [t for t in world.tasks(web) if world.state.observed(t.id) is TaskState.SHUTDOWN]


def test_removed_node_takes_its_tasks_with_it(world):
    web = world.create(replicas=3)
    world.converge()
    world.set_node_state("n1", "down")
    world.converge()
    world.remove_node("n1")
    world.converge()
    assert len(world.running(web)) == 3
    assert all(task.node_id != "n1" for task in world.tasks(web))
    assert all(gateway.node_id != "n1" for gateway in world.state.gateways.values())


def test_paused_node_keeps_its_tasks(world):
    web = world.create(replicas=3)
    world.converge()
    before = world.tasks(web)
    world.set_node("n1", availability="pause")
    world.converge()
    assert world.tasks(web) == before


def test_node_of_which_nothing_is_known_keeps_its_tasks(world):
    web = world.create(replicas=3)
    world.converge()
    before = world.tasks(web)
    world.set_node_state("n1", "unknown")
    assert world.full_pass() == 0
    assert world.tasks(web) == before


def test_delayed_replacement_exists_at_once_and_runs_when_due(world):
    web = world.create()
    world.converge()
    (task,) = world.tasks(web)
    world.report(task.id, TaskState.FAILED, err="exit 1")
    world.settle()
    old, new = world.tasks(web)
    assert (old.desired_state, new.desired_state) == (TaskState.SHUTDOWN, TaskState.READY)
    assert new.node_id is not None
    assert new.failures == 1
    world.advance(4.9)
    assert world.settle() == 0
    world.advance(0.1)
    world.settle()
    assert world.tasks(web)[1].desired_state is TaskState.RUNNING


def test_new_leader_goes_on_with_delay_and_count(world):
    web = world.create()
    for failures in (1, 2, 3):
        world.converge()
        world.report(world.running(web)[0].id, TaskState.FAILED)
        world.elect()
        world.settle()
        (waiting,) = world.wanted(web)
        assert waiting.failures == failures
        assert waiting.not_before_ns - world.now_ns == 5_000_000_000 * 2 ** (failures - 1)
    world.elect()
    assert world.settle() == 0
    world.advance(20)
    world.elect()
    world.settle()
    assert world.wanted(web)[0].desired_state is TaskState.RUNNING


def reject_wanted(world, service_id):
    """The agent's answer to an image that does not exist; how many tasks it had to reject."""
    wanted = [
        task for task in world.wanted(service_id) if not world.state.observed(task.id).is_terminal
    ]
    for task in wanted:
        world.report(task.id, TaskState.REJECTED, err="No such image")
    world.settle()
    return len(wanted)


def reject_until_quiet(world, service_id):
    """How many tasks were rejected before the leader made no further one."""
    rejected = 0
    for _ in range(20):
        count = reject_wanted(world, service_id)
        if not count:
            return rejected
        rejected += count
    raise AssertionError("one failing task follows the other without a pause")


def test_a_task_that_cannot_even_be_prepared_backs_off(world):
    web = world.create()
    world.settle()
    attempts_at_s = []
    for second in range(80):
        attempts_at_s += [second] * reject_until_quiet(world, web)
        world.advance(1)
        world.settle()
    # Each attempt is prepared ahead of its time at once, and again when its time has come.
    assert attempts_at_s == [0, 0, 5, 5, 15, 15, 35, 35, 75, 75]
    assert len(world.tasks(web)) <= 7


def test_a_replacement_that_failed_ahead_of_its_time_shows_why_until_then(world):
    web = world.create()
    world.settle()
    reject_wanted(world, web)
    reject_wanted(world, web)
    waiting = world.tasks(web)[-1]
    assert waiting.desired_state is TaskState.READY
    assert world.reason(waiting) == "No such image"
    world.elect()
    assert world.settle() == 0, "a new leader waits as well"
    world.advance(5)
    world.elect()
    world.settle()
    (attempt,) = [t for t in world.wanted(web) if not world.state.observed(t.id).is_terminal]
    assert attempt.desired_state is TaskState.RUNNING
    assert attempt.failures == waiting.failures == 1


def test_attempts_that_cannot_be_prepared_are_counted(world):
    web = world.create(restart=RestartPolicy(max_attempts=2))
    world.settle()
    for _ in range(100):
        reject_wanted(world, web)
        world.advance(1)
        world.settle()
    assert world.wanted(web) == []


def test_a_repaired_template_does_not_wait_for_the_delay_of_the_broken_one(world):
    web = world.create()
    world.settle()
    reject_until_quiet(world, web)
    world.update(web)
    world.settle()
    (repaired,) = world.wanted(web)
    assert repaired.spec_version == 2
    assert repaired.desired_state is TaskState.RUNNING


def test_a_slot_that_waits_can_be_given_up(world):
    web = world.create(replicas=2)
    world.settle()
    reject_until_quiet(world, web)
    world.scale(web, 0)
    world.converge()
    assert world.tasks(web) == []


def test_history_of_a_slot_is_bounded(world):
    web = world.create(replicas=2)
    for _ in range(TASK_HISTORY_PER_SLOT + 3):
        world.converge()
        world.report(world.running(web)[0].id, TaskState.FAILED)
    world.converge()
    ended = world.tasks(web, TaskState.FAILED)
    assert len(ended) == TASK_HISTORY_PER_SLOT
    assert len(world.running(web)) == 2


def test_task_lost_while_it_waits_for_its_delay_keeps_waiting(world):
    web = world.create()
    world.converge()
    world.report(world.running(web)[0].id, TaskState.FAILED)
    world.settle()
    (waiting,) = world.wanted(web)
    world.set_node_state(waiting.node_id, "down")
    world.settle()
    (replacement,) = world.wanted(web)
    assert replacement.node_id != waiting.node_id
    assert replacement.not_before_ns == waiting.not_before_ns
    assert replacement.desired_state is TaskState.READY


@pytest.mark.parametrize(
    ("condition", "end", "is_replaced"),
    [
        ("any", TaskState.COMPLETE, True),
        ("any", TaskState.FAILED, True),
        ("any", TaskState.REJECTED, True),
        ("on-failure", TaskState.COMPLETE, False),
        ("on-failure", TaskState.FAILED, True),
        ("none", TaskState.FAILED, False),
        ("none", TaskState.COMPLETE, False),
    ],
)
def test_restart_condition(world, condition, end, is_replaced):
    web = world.create(restart=RestartPolicy(condition=condition))
    world.converge()
    (task,) = world.tasks(web)
    world.report(task.id, end)
    world.converge()
    assert len(world.running(web)) == int(is_replaced)
    assert world.state.tasks[task.id].desired_state is TaskState.SHUTDOWN
    assert world.full_pass() == 0


def test_slot_is_given_up_after_its_attempts(world):
    web = world.create(restart=RestartPolicy(max_attempts=2, delay=0))
    for _ in range(3):
        world.converge()
        world.report(world.running(web)[0].id, TaskState.FAILED)
    world.converge()
    assert world.running(web) == []
    assert len(world.tasks(web)) == 3


def test_update_replaces_one_slot_after_the_other_stopping_first(world):
    web = world.create(replicas=3)
    world.converge()
    world.update(web)
    replaced = []
    for slot in (1, 2, 3):
        world.settle()
        (stopping,) = [
            t
            for t in world.tasks(web)
            if t.desired_state is TaskState.SHUTDOWN and not world.state.observed(t.id).is_terminal
        ]
        assert stopping.slot == slot
        assert len(world.wanted(web)) == 2, "stop-first: no new task before the old has stopped"
        world.report(stopping.id, TaskState.SHUTDOWN)
        world.settle()
        (new,) = [t for t in world.wanted(web) if t.slot == slot]
        assert new.spec_version == 2
        assert world.full_pass() == 0, "the next slot waits until the new task runs"
        world.report(new.id, TaskState.RUNNING)
        replaced.append(new.id)
    world.settle()
    assert [task.id for task in world.wanted(web)] == replaced
    assert world.full_pass() == 0


def test_update_to_a_broken_template_stops_at_the_first_slot(world):
    web = world.create(replicas=3, restart=RestartPolicy(max_attempts=2, delay=0))
    world.converge()
    world.update(web)
    for _ in range(20):
        world.settle()
        for task in world.wanted(web):
            if task.spec_version == 2 and not world.state.observed(task.id).is_terminal:
                world.report(task.id, TaskState.REJECTED, err="No such image: img:2")
        for task in world.tasks(web):
            stops = task.desired_state is TaskState.SHUTDOWN and task.spec_version == 1
            if stops and not world.state.observed(task.id).is_terminal:
                world.report(task.id, TaskState.SHUTDOWN)
        world.advance(1)
    assert [task.slot for task in world.running(web)] == [2, 3]


def test_tasks_that_do_not_run_are_updated_at_once(world):
    web = world.create(replicas=4, constraints=("node.labels.disk==ssd",))
    world.settle()
    assert all(task.node_id is None for task in world.tasks(web))
    world.update(web, placement=None)
    world.converge()
    assert len(world.running(web)) == 4
    assert all(task.spec_version == 2 for task in world.tasks(web))


def test_a_delay_set_by_a_clock_that_ran_ahead_does_not_last_an_hour(world):
    web = world.create()
    world.converge()
    world.report(world.running(web)[0].id, TaskState.FAILED)
    world.settle()
    world.advance(-3600)
    world.elect()
    world.settle()
    (waiting,) = world.wanted(web)
    assert waiting.desired_state is TaskState.RUNNING


def test_a_delay_outlives_clocks_that_differ_a_little(world):
    web = world.create()
    world.converge()
    world.report(world.running(web)[0].id, TaskState.FAILED)
    world.settle()
    world.advance(-3)
    world.elect()
    world.settle()
    (waiting,) = world.wanted(web)
    assert waiting.desired_state is TaskState.READY
    world.advance(8)
    world.settle()
    assert world.wanted(web)[0].desired_state is TaskState.RUNNING


def test_clock_of_a_new_leader_may_be_behind(world):
    web = world.create()
    world.converge()
    world.report(world.running(web)[0].id, TaskState.FAILED)
    world.advance(-3600)
    world.elect()
    world.converge()
    assert len(world.running(web)) == 1
    first, second = world.tasks(web)
    assert second.created_ns > first.created_ns


def test_large_service_is_worked_off_in_bounded_slices(make_world):
    world = make_world(subnet="10.1.0.0/20", limit=50)
    for number in range(5):
        world.add_node(f"n{number}")
    web = world.create(replicas=1000)
    sizes = []
    while world.worklist:
        sizes.append(world.slice())
    assert len(world.tasks(web)) == 1000
    assert max(sizes) <= 60
    assert set(world.spread(web).values()) == {200}
    world.converge()
    world.remove(web)
    world.converge()
    assert not world.state.tasks


def test_two_services_share_the_slices(make_world):
    world = make_world(subnet="10.1.0.0/20", limit=50)
    world.add_node("n1")
    world.create("big", replicas=1000)
    world.slice()
    small = world.create("small", replicas=1)
    world.slice()
    world.slice()
    assert len(world.tasks(small)) == 1, "a small service does not wait for a large one"


def test_progress_of_tasks_is_no_work(world):
    web = world.create(replicas=3)
    world.settle()
    for state in (TaskState.ACCEPTED, TaskState.PREPARING, TaskState.STARTING, TaskState.RUNNING):
        for task in world.tasks(web):
            world.report(task.id, state)
            assert not world.worklist


def test_status_that_outlived_its_task_is_forgotten(world):
    web = world.create()
    world.converge()
    (task,) = world.tasks(web)
    world.remove(web)
    world.converge()
    world.report(task.id, TaskState.SHUTDOWN)  # was under way when the task was deleted
    world.settle()
    assert not world.state.task_status
    world.report(task.id, TaskState.SHUTDOWN)
    world.elect()
    world.settle()
    assert not world.state.task_status
