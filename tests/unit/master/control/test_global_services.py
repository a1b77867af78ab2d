"""Global services: the cases of SwarmKit's global orchestrator (global_test.go), and ours."""

import msgspec
import pytest

from essaim_shared.spec import GlobalMode, RestartPolicy, ServiceMode
from essaim_shared.task_state import TaskState

GLOBAL = ServiceMode(global_=GlobalMode())


def nodes_running(world, service_id):
    return sorted(str(task.node_id) for task in world.running(service_id))


def test_every_node_gets_one_task_bound_to_it(world):
    web = world.create(mode=GLOBAL)
    world.converge()
    assert nodes_running(world, web) == ["n1", "n2", "n3"]
    for task in world.tasks(web):
        assert (task.slot, task.target_node, task.name) == (0, task.node_id, f"web.{task.node_id}")
    assert world.full_pass() == 0


def test_removal_of_the_service_leaves_nothing(world):
    web = world.create(mode=GLOBAL)
    world.converge()
    world.remove(web)
    world.converge()
    assert not world.state.tasks


def test_node_that_joins_gets_a_task_and_one_that_is_removed_loses_it(world):
    web = world.create(mode=GLOBAL)
    world.converge()
    world.add_node("n4")
    world.converge()
    assert nodes_running(world, web) == ["n1", "n2", "n3", "n4"]
    world.remove_node("n2")
    world.converge()
    assert nodes_running(world, web) == ["n1", "n3", "n4"]
    assert all(task.target_node != "n2" for task in world.tasks(web))


def test_node_that_joins_paused_or_drained_gets_nothing_until_it_is_active(world):
    world.set_node("n2", availability="pause")
    world.set_node("n3", availability="drain")
    web = world.create(mode=GLOBAL)
    world.converge()
    assert nodes_running(world, web) == ["n1"]
    world.set_node("n2", availability="active")
    world.set_node("n3", availability="active")
    world.converge()
    assert nodes_running(world, web) == ["n1", "n2", "n3"]


def test_drained_node_gives_its_task_up_and_gets_another_when_it_is_back(world):
    web = world.create(mode=GLOBAL)
    world.converge()
    world.set_node("n1", availability="drain")
    world.converge()
    assert nodes_running(world, web) == ["n2", "n3"]
    assert len(world.wanted(web)) == 2, "nothing is made elsewhere"
    world.set_node("n1", availability="active")
    world.converge()
    assert nodes_running(world, web) == ["n1", "n2", "n3"]
    assert world.full_pass() == 0


def test_new_task_waits_until_the_old_one_on_its_node_has_stopped(world):
    web = world.create(mode=GLOBAL)
    world.converge()
    (old,) = [task for task in world.tasks(web) if task.node_id == "n1"]
    world.set_node("n1", availability="drain")
    world.settle()
    world.set_node("n1", availability="active")
    world.settle()
    assert [task for task in world.wanted(web) if task.target_node == "n1"] == []
    world.report(old.id, TaskState.SHUTDOWN)
    world.settle()
    (new,) = [task for task in world.wanted(web) if task.target_node == "n1"]
    assert new.id != old.id


def test_paused_node_keeps_its_task_and_gets_no_other(world):
    web = world.create(mode=GLOBAL, restart=RestartPolicy(delay=0))
    world.converge()
    world.set_node("n1", availability="pause")
    world.converge()
    (kept,) = [task for task in world.running(web) if task.node_id == "n1"]
    world.report(kept.id, TaskState.FAILED)
    world.converge()
    assert nodes_running(world, web) == ["n2", "n3"]
    world.set_node("n1", availability="active")
    world.converge()
    assert nodes_running(world, web) == ["n1", "n2", "n3"]


def test_a_cut_costs_a_global_service_no_restart(world):
    web = world.create(mode=GLOBAL)
    world.converge()
    before = world.tasks(web)
    world.set_node_state("n1", "down")
    world.converge()
    world.set_node_state("n1", "ready")
    world.converge()
    assert world.tasks(web) == before
    assert world.full_pass() == 0


def test_what_changed_while_a_node_was_down_is_caught_up_with_when_it_returns(world):
    web = world.create(mode=GLOBAL)
    world.converge()
    world.set_node_state("n1", "down")
    world.update(web)
    world.converge()
    world.set_node_state("n1", "ready")
    world.converge()
    assert nodes_running(world, web) == ["n1", "n2", "n3"]
    assert {task.spec_version for task in world.running(web)} == {2}


def test_node_of_which_nothing_is_known_keeps_its_task(world):
    web = world.create(mode=GLOBAL)
    world.converge()
    before = world.tasks(web)
    world.set_node_state("n1", "unknown")
    world.converge()
    assert world.tasks(web) == before


def test_labels_decide_where_it_runs_and_may_change(world):
    world.set_node("n1", labels={"disk": "ssd"})
    web = world.create(mode=GLOBAL, constraints=("node.labels.disk==ssd",))
    world.converge()
    assert nodes_running(world, web) == ["n1"]
    world.set_node("n1", labels={})
    world.set_node("n2", labels={"disk": "ssd"})
    world.converge()
    assert nodes_running(world, web) == ["n2"]
    world.set_node("n1", labels={"disk": "ssd"})
    world.converge()
    assert nodes_running(world, web) == ["n1", "n2"]


def test_change_of_constraints_moves_the_service(world):
    world.set_node("n1", labels={"disk": "ssd"})
    web = world.create(mode=GLOBAL)
    world.converge()
    service = world.state.services[web]
    placement = msgspec.structs.replace(
        service.spec.task.placement, constraints=("node.labels.disk==ssd",)
    )
    world.update(web, placement=placement)
    world.converge()
    assert nodes_running(world, web) == ["n1"]


def test_role_constraint_follows_the_masters(world):
    web = world.create(mode=GLOBAL, constraints=("node.role==manager",))
    world.converge()
    assert nodes_running(world, web) == []
    world.add_master("m1", "192.168.0.2")
    world.converge()
    assert nodes_running(world, web) == ["n2"]


def test_task_that_does_not_fit_waits_on_its_node_with_the_reason(world):
    world.add_node("n4", memory=1024**2)
    web = world.create(mode=GLOBAL, memory=1024**3)
    world.converge()
    assert nodes_running(world, web) == ["n1", "n2", "n3"]
    (waiting,) = [task for task in world.wanted(web) if task.target_node == "n4"]
    assert waiting.node_id is None
    assert "insufficient resources on 1 node" in world.reason(waiting)
    assert world.full_pass() == 0


def test_each_node_has_a_restart_history_of_its_own(world):
    web = world.create(mode=GLOBAL, restart=RestartPolicy(max_attempts=2, delay=0))
    for _ in range(3):
        world.converge()
        for task in world.running(web):
            if task.node_id == "n1":
                world.report(task.id, TaskState.FAILED)
    world.converge()
    assert nodes_running(world, web) == ["n2", "n3"], "n1 was given up"
    world.report(world.running(web)[0].id, TaskState.FAILED)
    world.converge()
    assert nodes_running(world, web) == ["n2", "n3"], "n2 has its attempts yet"


@pytest.mark.parametrize(
    ("condition", "end", "is_replaced"),
    [
        ("any", TaskState.COMPLETE, True),
        ("on-failure", TaskState.COMPLETE, False),
        ("on-failure", TaskState.FAILED, True),
        ("none", TaskState.FAILED, False),
    ],
)
def test_restart_condition_holds_on_each_node(world, condition, end, is_replaced):
    web = world.create(mode=GLOBAL, restart=RestartPolicy(condition=condition))
    world.converge()
    world.report(world.running(web)[0].id, end)
    world.converge()
    assert len(world.running(web)) == 2 + int(is_replaced)
    assert world.full_pass() == 0


def test_update_reaches_every_node_and_a_paused_one_when_it_is_active_again(world):
    web = world.create(mode=GLOBAL)
    world.converge()
    world.set_node("n3", availability="pause")
    world.update(web)
    world.converge()
    versions = {str(task.node_id): task.spec_version for task in world.running(web)}
    assert versions == {"n1": 2, "n2": 2, "n3": 1}
    world.set_node("n3", availability="active")
    world.converge()
    assert {task.spec_version for task in world.running(web)} == {2}
    assert nodes_running(world, web) == ["n1", "n2", "n3"]


def test_new_leader_finds_nothing_to_do(world):
    web = world.create(mode=GLOBAL)
    world.converge()
    before = world.tasks(web)
    world.elect()
    assert world.settle() == 0
    assert world.tasks(web) == before


def test_event_of_one_node_looks_at_that_node_only(make_world):
    world = make_world(subnet="10.1.0.0/20")
    for number in range(300):
        world.add_node(f"n{number}")
    world.create(mode=GLOBAL)
    world.create("replicated", replicas=5)
    world.converge()
    world.add_node("late")
    assert dict(world.worklist.services) == {}
    assert list(world.worklist.slots) == [("service-web", "late")]
    world.converge()
    assert len(world.running("service-web")) == 301
