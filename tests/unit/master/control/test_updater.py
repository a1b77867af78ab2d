"""How an update reaches the slots: the cases of SwarmKit's updater, and ours.

Sources: swarmkit manager/orchestrator/update/updater_test.go and
manager/orchestrator/replicated/update_test.go.
"""

import msgspec
import pytest
from support.update_bench import SECOND_NS, UpdateBench

from essaim_shared.objects import IngressPort, RegistryCredentials, Service
from essaim_shared.spec import (
    EndpointSpec,
    Limits,
    NetworkAttachment,
    Placement,
    PortConfig,
    ReplicatedMode,
    Resources,
    RestartPolicy,
    ServiceMode,
    UpdateConfig,
)
from essaim_shared.task_state import TaskState

NEVER = RestartPolicy(condition="none")


def of_image(bench: UpdateBench, image: str) -> int:
    return bench.images.count(image)


# Parallelism, delay, order.


@pytest.mark.parametrize("parallelism", [1, 2, 3, 0])
def test_no_more_slots_are_down_than_the_parallelism_allows(parallelism: int) -> None:
    bench = UpdateBench(replicas=6, parallelism=parallelism)
    bench.update("slow-3s")
    bench.advance(100)
    assert bench.images == ["slow-3s"] * 6
    assert bench.down_max == (parallelism or 6)
    assert bench.state == "completed"


def test_without_a_configuration_one_slot_is_changed_at_a_time_as_in_swarm() -> None:
    bench = UpdateBench(replicas=3)
    bench.update("slow-3s")
    bench.advance(100)
    assert bench.images == ["slow-3s"] * 3
    assert bench.down_max == 1


def test_a_slot_that_is_done_makes_room_for_the_next_without_waiting_for_its_batch() -> None:
    bench = UpdateBench(replicas=3, parallelism=2)
    bench.update("slow-10s")
    bench.advance(5)
    bench.stage.end(bench.running[0], 1)  # the third slot's old task: it is changed at once
    bench.advance(5)
    assert of_image(bench, "slow-10s") == 2
    bench.advance(5)
    assert of_image(bench, "slow-10s") == 3


def test_delay_passes_between_a_slot_s_success_and_the_next_slot() -> None:
    bench = UpdateBench(replicas=3, parallelism=1, delay=10 * SECOND_NS)
    bench.update("good:2")
    changed = []
    for _ in range(4):
        bench.advance(0)
        changed.append(of_image(bench, "good:2"))
        bench.advance(9.9)
        assert of_image(bench, "good:2") == changed[-1]
        bench.advance(0.1)
    assert changed == [1, 2, 3, 3]


def test_delay_outlives_the_leader() -> None:
    bench = UpdateBench(replicas=2, parallelism=1, delay=10 * SECOND_NS)
    bench.update("good:2")
    bench.advance(6)
    bench.stage.elect()
    bench.advance(3.9)
    assert of_image(bench, "good:2") == 1
    bench.advance(0.1)
    assert of_image(bench, "good:2") == 2


def test_stop_first_makes_no_new_task_before_the_old_has_stopped() -> None:
    bench = UpdateBench(replicas=3, parallelism=2)
    bench.update("slow-2s")
    bench.advance(60)
    assert bench.surplus_max == 0


def test_start_first_takes_no_slot_down() -> None:
    bench = UpdateBench(replicas=3, parallelism=2, order="start-first")
    bench.update("slow-2s")
    bench.advance(60)
    assert bench.images == ["slow-2s"] * 3
    assert bench.down_max == 0
    assert 2 <= bench.surplus_max <= 4, "the next may begin while the old one is still stopping"
    assert len(bench.live) == 3


def test_start_first_waits_until_the_new_task_is_ready() -> None:
    bench = UpdateBench(replicas=1, order="start-first", parallelism=1)
    bench.update("unready-4s")
    bench.advance(3.9)
    assert bench.images == ["good:1", "unready-4s"]
    bench.advance(0.1)
    assert bench.images == ["unready-4s"]
    assert bench.down_max == 0


def test_start_first_needs_room_that_max_replicas_per_node_may_refuse() -> None:
    task = {"placement": Placement(max_replicas=1)}
    full = UpdateBench(
        replicas=2,
        nodes=2,
        order="start-first",
        parallelism=1,
        task=task,
        progress_deadline=60 * SECOND_NS,
    )
    full.update("good:2")
    full.advance(59)
    assert full.images == ["good:1"] * 2
    full.advance(2)
    assert full.state == "paused"
    assert "no progress within 60s" in full.message
    assert "max replicas per node limit exceed" in full.message
    assert full.images == ["good:1"] * 2
    roomy = UpdateBench(replicas=2, nodes=3, order="start-first", parallelism=1, task=task)
    roomy.update("good:2")
    roomy.advance(60)
    assert roomy.images == ["good:2"] * 2


def test_start_first_failure_leaves_the_old_task_running() -> None:
    bench = UpdateBench(replicas=2, order="start-first", parallelism=1)
    bench.update("bad")
    bench.advance(100)
    assert bench.images == ["good:1"] * 2
    assert bench.down_max == 0
    assert bench.state == "paused"
    assert len(bench.live) == 2, "a paused update starts nothing beside what runs"


def test_start_first_that_continues_retries_by_the_restart_policy() -> None:
    restart = RestartPolicy(delay=5 * SECOND_NS, max_attempts=2)
    bench = UpdateBench(
        replicas=1, order="start-first", parallelism=1, failure_action="continue", restart=restart
    )
    bench.update("bad")
    bench.advance(300)
    assert bench.images == ["good:1"]
    failed = [t for t in bench.tasks if t.spec.container.image == "bad"]
    assert len(failed) == 3, "the first and two more attempts"


def test_global_service_is_updated_node_by_node() -> None:
    bench = UpdateBench(replicas=None, nodes=4, parallelism=2)
    bench.update("slow-2s")
    bench.advance(60)
    assert bench.images == ["slow-2s"] * 4
    assert sorted(str(task.node_id) for task in bench.running) == ["n1", "n2", "n3", "n4"]
    assert bench.down_max == 2
    assert bench.state == "completed"


def test_tasks_that_do_not_run_are_changed_at_once() -> None:
    bench = UpdateBench(replicas=5, parallelism=1, image="stuck")
    bench.update("good:2")
    bench.advance(0)
    assert bench.images == ["good:2"] * 5


# Failures.


def test_paused_at_the_first_failure_with_the_task_s_name() -> None:
    bench = UpdateBench(replicas=3, parallelism=1, failure_action="pause")
    bench.update("bad")
    bench.advance(20)
    assert bench.state == "paused"
    assert bench.message == "update paused due to failure or early termination of task web.1'"
    assert of_image(bench, "good:1") == 2


def test_a_failure_within_the_monitor_period_counts() -> None:
    bench = UpdateBench(replicas=3, parallelism=1, monitor=10 * SECOND_NS, restart=NEVER)
    bench.update("crash-9s")
    bench.advance(300)
    assert bench.state == "paused"


def test_a_failure_after_the_monitor_period_does_not() -> None:
    bench = UpdateBench(replicas=3, parallelism=3, monitor=10 * SECOND_NS)
    bench.update("crash-11s")
    bench.advance(300)
    assert bench.state == "completed"


def test_an_exit_with_0_is_an_early_termination_too() -> None:
    bench = UpdateBench(replicas=2, parallelism=1)
    bench.update("job-2s")
    bench.advance(300)
    assert bench.state == "paused"


def test_the_last_slot_is_watched_for_one_monitor_period_before_completion() -> None:
    bench = UpdateBench(replicas=2, parallelism=1, monitor=20 * SECOND_NS)
    bench.update("good:2")
    bench.advance(19.9)
    assert bench.images == ["good:2"] * 2
    assert (bench.state, bench.message) == ("updating", "update in progress")
    bench.advance(0.2)
    assert (bench.state, bench.message) == ("completed", "update completed")
    assert bench.status is not None
    assert bench.status.completed_ns > bench.status.started_ns


def test_a_failure_while_the_last_slot_is_watched_still_counts() -> None:
    bench = UpdateBench(replicas=2, parallelism=1, monitor=20 * SECOND_NS, restart=NEVER)
    bench.update("good:2")
    bench.advance(10)
    bench.stage.end(bench.running[1], 1)
    bench.advance(1)
    assert bench.state == "paused"


@pytest.mark.parametrize(("ratio", "outcome"), [(0.25, "completed"), (0.24, "paused")])
def test_failures_up_to_the_ratio_are_tolerated(ratio: float, outcome: str) -> None:
    bench = UpdateBench(
        replicas=4, parallelism=1, max_failure_ratio=ratio, delay=2 * SECOND_NS, restart=NEVER
    )
    bench.update("good:2")
    bench.advance(1)
    bench.stage.end(bench.running[0], 1)
    bench.advance(60)
    assert bench.state == outcome


def test_continue_reaches_all_slots_whatever_fails() -> None:
    bench = UpdateBench(replicas=3, parallelism=1, failure_action="continue", restart=NEVER)
    bench.update("bad")
    bench.advance(300)
    assert bench.images == []
    assert bench.state == "completed"
    assert bench.status is not None
    assert (bench.status.failed, bench.status.total) == (3, 3)


def test_a_slot_that_fails_again_and_again_counts_once() -> None:
    restart = RestartPolicy(delay=0)
    bench = UpdateBench(
        replicas=4, parallelism=1, max_failure_ratio=0.25, restart=restart, monitor=SECOND_NS
    )
    bench.update("good:2")
    bench.stage.lead_once()
    for _ in range(3):
        bench.advance(0.2)
        for task in bench.running:
            if task.slot == 1 and task.spec_version == 2:
                bench.stage.end(task, 1)
    bench.advance(60)
    assert bench.state == "completed"


def test_a_drained_node_is_no_failure_of_the_update() -> None:
    bench = UpdateBench(replicas=3, parallelism=1, monitor=30 * SECOND_NS)
    bench.update("slow-2s")
    bench.advance(3)
    node = next(t for t in bench.running if t.spec_version == 2).node_id
    bench.stage.change_node(str(node), availability="drain")
    bench.advance(120)
    assert bench.state == "completed"
    assert bench.images == ["slow-2s"] * 3


def test_a_cut_node_is_no_failure_of_the_update() -> None:
    bench = UpdateBench(replicas=3, parallelism=1, monitor=30 * SECOND_NS)
    bench.update("slow-2s")
    bench.advance(1)
    node = next(t for t in bench.live if t.spec_version == 2).node_id
    bench.stage.set_node_state(str(node), "down")
    bench.advance(120)
    assert bench.state == "completed"
    wanted = [t for t in bench.running if t.is_wanted]
    assert [t.spec.container.image for t in wanted] == ["slow-2s"] * 3


# A paused update.


def paused_bench() -> UpdateBench:
    bench = UpdateBench(replicas=4, parallelism=1, restart=NEVER)
    bench.update("bad")
    bench.advance(60)
    assert bench.state == "paused"
    return bench


def test_a_paused_update_replaces_nothing_and_new_leaders_leave_it_paused() -> None:
    bench = paused_bench()
    bench.stage.elect()
    bench.advance(600)
    assert bench.images == ["good:1"] * 3
    assert bench.state == "paused"


def test_a_paused_update_gives_a_lost_task_its_own_template_again() -> None:
    bench = UpdateBench(replicas=4, parallelism=1)
    bench.update("bad")
    bench.advance(60)
    node = bench.running[0].node_id
    bench.stage.change_node(str(node), availability="drain")
    bench.advance(60)
    assert bench.images == ["good:1"] * 3


@pytest.mark.parametrize("condition", ["any", "none"])
def test_a_slot_that_a_paused_update_had_already_stopped_gets_its_own_template_back(
    world, condition
) -> None:
    web = world.create(replicas=2, restart=RestartPolicy(condition=condition))
    world.converge()
    spec = world.state.services[web].spec
    world.change(web, msgspec.structs.replace(spec, update_config=UpdateConfig(parallelism=2)))
    world.update(web)
    world.settle()
    first, second = world.tasks(web)
    world.report(first.id, TaskState.SHUTDOWN)
    world.settle()
    (new,) = [task for task in world.wanted(web) if task.spec_version == 2]
    world.report(new.id, TaskState.FAILED)
    world.settle()
    assert world.state.update_status[web].state == "paused"
    world.report(second.id, TaskState.SHUTDOWN)
    world.settle()
    (again,) = [task for task in world.wanted(web) if task.slot == second.slot]
    assert again.spec_version == 1
    assert world.full_pass() == 0


def test_another_update_ends_the_pause() -> None:
    bench = paused_bench()
    bench.update("good:3")
    bench.advance(60)
    assert bench.images == ["good:3"] * 4
    assert bench.state == "completed"


def test_scaling_ends_the_pause_as_in_swarm() -> None:
    bench = paused_bench()
    bench.scale(5)
    bench.advance(0)
    assert bench.state in ("updating", "paused")
    assert bench.status is not None
    assert bench.status.generation == bench.service.generation


# Rollback.

PUBLISHED = EndpointSpec(ports=(PortConfig(target_port=80, published_port=8080),))


def broken(bench):
    """The service's template with an image that fails at once."""
    template = bench.service.spec.task
    container = msgspec.structs.replace(template.container, image="bad")
    return msgspec.structs.replace(template, container=container)


def test_rollback_by_the_failure_action() -> None:
    bench = UpdateBench(replicas=4, parallelism=1, failure_action="rollback")
    bench.update("bad")
    bench.advance(0)
    assert bench.state == "rollback_started"
    assert bench.message == (
        "update rolled back due to failure or early termination of task web.1'"
    )
    assert bench.service.spec.task.container.image == "good:1"
    assert bench.service.previous_spec is None
    bench.advance(60)
    assert bench.images == ["good:1"] * 4
    assert (bench.state, bench.message) == ("rollback_completed", "rollback completed")


def test_rollback_leaves_untouched_what_was_not_changed_yet() -> None:
    bench = UpdateBench(replicas=4, parallelism=1, failure_action="rollback")
    before = {task.id for task in bench.running}
    bench.update("bad")
    bench.advance(60)
    assert len(before & {task.id for task in bench.running}) == 3
    versions = {task.spec_version for task in bench.running}
    assert versions == {bench.service.spec_version}, "and it counts as up to date"


def test_rollback_follows_its_own_configuration() -> None:
    bench = UpdateBench(
        replicas=6,
        parallelism=6,
        failure_action="rollback",
        max_failure_ratio=0.9,
        restart=NEVER,
        rollback=UpdateConfig(parallelism=2, delay=5 * SECOND_NS),
    )
    bench.update("crash-4s")
    bench.advance(4)
    assert bench.state == "rollback_started"
    bench.advance(60)
    assert bench.images == ["good:1"] * 6
    assert bench.state == "rollback_completed"


def test_a_rollback_takes_the_port_of_the_cluster_back() -> None:
    bench = UpdateBench(replicas=2, parallelism=1, failure_action="rollback")
    bench.change(endpoint=PUBLISHED)
    bench.advance(0)
    bench.change(endpoint=None, task=broken(bench))
    bench.advance(60)
    assert bench.state == "rollback_completed"
    (claim,) = bench.stage.state.ingress_ports.values()
    assert (claim.number, claim.service_id) == (8080, bench.id)


def test_a_rollback_to_a_port_that_another_service_has_by_now_is_paused_and_says_so() -> None:
    bench = UpdateBench(replicas=2, parallelism=1, failure_action="rollback")
    bench.change(endpoint=PUBLISHED)
    bench.advance(0)
    bench.change(endpoint=None, task=broken(bench))
    spec = msgspec.structs.replace(
        bench.service.spec,
        name="db",
        endpoint=PUBLISHED,
        mode=ServiceMode(replicated=ReplicatedMode(replicas=0)),
    )
    bench.stage.put(Service(id="service-db", spec=spec, created_ns=1, updated_ns=1))
    bench.stage.put(IngressPort(protocol="tcp", number=8080, service_id="service-db"))
    bench.advance(0)
    assert bench.state == "paused"
    assert bench.message.startswith("update paused due to failure or early termination of task")
    assert bench.message.endswith(
        "(it cannot be rolled back: port '8080' is already in use by service 'db' (id of db) as an "
        "ingress port)"
    )
    assert bench.service.spec.endpoint is None
    # It stays so: a user decides.
    bench.advance(60)
    assert bench.state == "paused"


def test_a_rollback_to_a_network_that_is_gone_is_paused_and_says_so() -> None:
    bench = UpdateBench(replicas=2, parallelism=1, failure_action="rollback")
    bench.update(networks=(NetworkAttachment(target="gone"),))
    bench.advance(0)
    bench.change(task=msgspec.structs.replace(broken(bench), networks=()))
    bench.advance(60)
    assert bench.state == "paused"
    assert "(it cannot be rolled back: network gone not found)" in bench.message


def test_a_rollback_that_fails_is_paused_and_never_rolled_back() -> None:
    bench = UpdateBench(
        replicas=2,
        image="crash-3s",
        parallelism=1,
        failure_action="rollback",
        rollback=UpdateConfig(parallelism=1, failure_action="pause"),
        restart=NEVER,
    )
    bench.update("bad")
    bench.advance(120)
    assert bench.state == "rollback_paused"
    assert bench.message.startswith("rollback paused due to failure or early termination of task")
    assert bench.service.spec.task.container.image == "crash-3s"


def test_rollback_without_a_previous_spec_is_a_pause_that_says_so() -> None:
    bench = UpdateBench(replicas=2, parallelism=1, failure_action="rollback")
    bench.update("good:2")
    bench.advance(60)
    bench.stage.put(_without_previous(bench))
    bench.update("bad")
    bench.stage.put(_without_previous(bench))
    bench.advance(60)
    assert bench.state == "paused"
    assert "there is no previous spec to roll back to" in bench.message


def _without_previous(bench: UpdateBench) -> object:
    return msgspec.structs.replace(bench.service, previous_spec=None)


def test_manual_rollback_says_that_it_was_asked_for() -> None:
    bench = UpdateBench(replicas=2, parallelism=1)
    bench.update("good:2")
    bench.advance(60)
    bench.rollback()
    bench.advance(0)
    assert (bench.state, bench.message) == ("rollback_started", "manually requested rollback")
    bench.advance(60)
    assert bench.images == ["good:1"] * 2
    assert bench.state == "rollback_completed"


def test_rollback_of_a_mere_scaling_is_complete_at_once() -> None:
    bench = UpdateBench(replicas=2)
    bench.scale(3)
    bench.advance(0)
    bench.rollback()
    bench.advance(0)
    assert bench.state == "rollback_completed"
    assert len(bench.images) == 2


def test_a_rollback_that_meets_another_update_changes_nothing() -> None:
    bench = UpdateBench(replicas=2, parallelism=1, failure_action="rollback")
    bench.update("bad")
    bench.stage.before_rollbacks = lambda: bench.update("good:3")
    bench.advance(60)
    assert bench.images == ["good:3"] * 2
    assert bench.state == "completed"


# Changes on the way.


def test_a_second_update_takes_over_from_the_first() -> None:
    bench = UpdateBench(replicas=6, parallelism=2)
    bench.update("slow-5s")
    bench.advance(7)
    bench.update("good:3")
    bench.advance(60)
    assert bench.images == ["good:3"] * 6
    assert bench.state == "completed"


def test_an_update_that_is_undone_leaves_the_first_tasks_where_they_are() -> None:
    bench = UpdateBench(replicas=4, parallelism=1)
    before = {task.id for task in bench.running}
    bench.update("slow-5s")
    bench.advance(7)
    bench.update("good:1")
    bench.advance(60)
    assert bench.images == ["good:1"] * 4
    assert len(before & {task.id for task in bench.running}) == 2


def test_a_start_first_task_is_given_up_when_its_update_is_undone() -> None:
    bench = UpdateBench(replicas=2, parallelism=1, order="start-first")
    before = [task.id for task in bench.running]
    bench.update("slow-50s")
    bench.advance(7)
    assert len(bench.live) == 3
    bench.update("good:1")
    bench.advance(1)
    assert [task.id for task in bench.live] == before


def test_scaling_up_during_an_update_makes_new_tasks_that_take_no_worker() -> None:
    bench = UpdateBench(replicas=3, parallelism=1)
    bench.update("slow-5s")
    bench.advance(1)
    bench.scale(6)
    bench.advance(60)
    assert bench.images == ["slow-5s"] * 6
    assert bench.state == "completed"


def test_scaling_down_during_an_update() -> None:
    bench = UpdateBench(replicas=6, parallelism=1)
    bench.update("slow-5s")
    bench.advance(7)
    bench.scale(2)
    bench.advance(60)
    assert bench.images == ["slow-5s"] * 2
    assert bench.state == "completed"


def test_creation_and_scaling_write_no_status() -> None:
    bench = UpdateBench(replicas=3, parallelism=1)
    assert bench.stage.state.update_status == {}
    bench.scale(5)
    bench.advance(10)
    bench.scale(1)
    bench.advance(10)
    assert bench.stage.state.update_status == {}


def test_a_node_that_was_cut_off_brings_no_old_task_back() -> None:
    bench = UpdateBench(replicas=None, nodes=3, parallelism=1)
    bench.stage.set_node_state("n2", "down")
    bench.advance(1)
    bench.update("good:2")
    bench.advance(60)
    bench.stage.set_node_state("n2", "ready")
    bench.advance(60)
    assert bench.images == ["good:2"] * 3


# The deadline.


def test_an_update_that_cannot_be_placed_fails_after_its_deadline_with_the_reason() -> None:
    bench = UpdateBench(replicas=2, parallelism=1, progress_deadline=60 * SECOND_NS)
    bench.update("good:2", placement=Placement(constraints=("node.labels.disk==ssd",)))
    bench.advance(59)
    assert bench.state == "updating"
    bench.advance(1.1)
    assert bench.state == "paused"
    assert bench.message == (
        "update paused due to no progress within 60s: task web.1': no suitable node "
        "(scheduling constraints not satisfied on 3 nodes)"
    )
    assert of_image(bench, "good:1") == 1


def test_the_deadline_is_ten_minutes_unless_said_otherwise_and_may_be_none() -> None:
    bench = UpdateBench(replicas=2, parallelism=1)
    endless = UpdateBench(replicas=2, parallelism=1, progress_deadline=0)
    for each in (bench, endless):
        each.update("stuck")
        each.advance(599)
        assert each.state == "updating"
        each.advance(2)
    assert bench.state == "paused"
    assert endless.state == "updating"
    endless.advance(10_000)
    assert endless.state == "updating"


def test_the_deadline_begins_anew_with_each_slot_and_leaves_the_delay_out() -> None:
    bench = UpdateBench(
        replicas=3, parallelism=1, delay=100 * SECOND_NS, progress_deadline=60 * SECOND_NS
    )
    bench.update("slow-50s")
    bench.advance(500)
    assert bench.state == "completed"


def test_the_deadline_can_roll_back() -> None:
    bench = UpdateBench(
        replicas=2, parallelism=1, failure_action="rollback", progress_deadline=30 * SECOND_NS
    )
    bench.update("stuck")
    bench.advance(31)
    assert bench.state == "rollback_started"
    assert bench.message.startswith("update rolled back due to no progress within 30s: task")
    bench.advance(60)
    assert bench.images == ["good:1"] * 2
    assert bench.state == "rollback_completed"


def test_under_continue_the_deadline_frees_the_worker() -> None:
    bench = UpdateBench(
        replicas=3, parallelism=1, failure_action="continue", progress_deadline=30 * SECOND_NS
    )
    bench.update("stuck")
    bench.advance(95)
    assert bench.images == []
    assert bench.state == "completed"


# Steps.


def test_steps_pause_until_they_are_promoted() -> None:
    bench = UpdateBench(replicas=10, parallelism=0, steps=(10, 50, 100), monitor=5 * SECOND_NS)
    bench.update("good:2")
    bench.advance(4.9)
    assert (bench.state, of_image(bench, "good:2")) == ("updating", 1)
    bench.advance(0.2)
    assert (bench.state, of_image(bench, "good:2")) == ("paused", 1)
    assert bench.message == (
        "step 1 of 3 is done: 1 of 10 tasks have the new template; the next step waits to be "
        "promoted"
    )
    bench.stage.elect()
    bench.advance(100)
    assert of_image(bench, "good:2") == 1
    bench.promote()
    bench.advance(1)
    assert (bench.state, of_image(bench, "good:2")) == ("updating", 5)
    bench.advance(10)
    assert bench.state == "paused"
    bench.promote()
    bench.advance(10)
    assert (bench.state, of_image(bench, "good:2")) == ("completed", 10)


def test_steps_are_rounded_up_and_end_with_all_slots() -> None:
    bench = UpdateBench(replicas=3, parallelism=0, steps=(10,))
    bench.update("good:2")
    bench.advance(60)
    assert of_image(bench, "good:2") == 1
    bench.promote()
    bench.advance(60)
    assert (bench.state, of_image(bench, "good:2")) == ("completed", 3)


def test_a_step_that_fails_is_no_step_that_waits() -> None:
    bench = UpdateBench(replicas=4, parallelism=0, steps=(50,), restart=NEVER)
    bench.update("bad")
    bench.advance(60)
    assert bench.state == "paused"
    assert bench.status is not None
    assert not bench.status.is_waiting
    assert of_image(bench, "good:1") == 2


def test_while_a_step_waits_a_lost_task_keeps_its_template() -> None:
    bench = UpdateBench(replicas=6, nodes=3, parallelism=0, steps=(50,))
    bench.update("good:2")
    bench.advance(60)
    bench.stage.change_node("n1", availability="drain")
    bench.advance(60)
    assert of_image(bench, "good:2") == 3
    assert of_image(bench, "good:1") == 3


def test_scaling_while_a_step_waits_keeps_the_step_s_share() -> None:
    bench = UpdateBench(replicas=10, parallelism=0, steps=(10, 50))
    bench.update("good:2")
    bench.advance(60)
    bench.scale(20)
    bench.advance(60)
    assert (bench.state, of_image(bench, "good:2"), len(bench.images)) == ("paused", 2, 20)
    bench.promote()
    bench.advance(60)
    assert of_image(bench, "good:2") == 10
    bench.promote()
    bench.advance(60)
    assert (bench.state, of_image(bench, "good:2")) == ("completed", 20)


@pytest.mark.parametrize("asked", [8080, 0])
def test_a_task_of_the_old_template_keeps_the_old_ports(asked: int) -> None:
    """Also one that is made while the update is paused; a port that was left open stays open."""

    def published(number: int) -> EndpointSpec:
        port = PortConfig(target_port=80, published_port=number, publish_mode="host")
        return EndpointSpec(ports=(port,))

    bench = UpdateBench(replicas=2, nodes=2, parallelism=1)
    bench.change(endpoint=published(asked))
    bench.advance(60)
    bench.update("bad")
    bench.change(endpoint=published(9090 if asked else 0))
    bench.advance(60)
    assert (bench.state, bench.images) == ("paused", ["good:1"])
    old = bench.running[0]
    bench.stage.end(old, 1)
    bench.advance(60)
    successor = bench.running[0]
    assert successor.id != old.id
    assert successor.spec_version == old.spec_version
    [port] = successor.ports
    assert port.published_port == 8080 if asked else port.published_port >= 30_000


def test_the_failure_action_brings_the_credentials_of_the_previous_spec_back() -> None:
    bench = UpdateBench(replicas=2, parallelism=1, failure_action="rollback")
    bench.update("bad")
    bench.stage.put(RegistryCredentials(service_id=bench.id, sealed=b"new", previous_sealed=b"old"))
    bench.advance(100)
    assert (bench.state, bench.images) == ("rollback_completed", ["good:1"] * 2)
    stored = bench.stage.state.registry_credentials[bench.id]
    assert (stored.sealed, stored.previous_sealed) == (b"old", b"new")


def test_a_node_s_clock_that_lags_does_not_shorten_the_delay() -> None:
    bench = UpdateBench(replicas=2, parallelism=1, delay=10 * SECOND_NS)
    bench.stage.agents_lag_ns = 60 * SECOND_NS
    bench.update("good:2")
    bench.advance(9.9)
    assert of_image(bench, "good:2") == 1
    bench.advance(0.2)
    assert of_image(bench, "good:2") == 2


@pytest.mark.parametrize("delay_s", [0, 10])
def test_a_node_s_clock_that_is_ahead_does_not_hold_the_update_up(delay_s: int) -> None:
    bench = UpdateBench(replicas=2, parallelism=1, delay=delay_s * SECOND_NS)
    bench.stage.agents_lag_ns = -3600 * SECOND_NS
    bench.update("good:2")
    bench.advance(60)
    assert (bench.state, bench.images) == ("completed", ["good:2"] * 2)


@pytest.mark.parametrize("delay_s", [0, 10])
@pytest.mark.parametrize("after_s", [0, 5, 12])
def test_a_clock_that_is_set_back_does_not_hold_the_update_up(delay_s: int, after_s: int) -> None:
    """So it is too when the next leader's clock is behind the last one's."""
    bench = UpdateBench(replicas=2, parallelism=1, delay=delay_s * SECOND_NS, monitor=4 * SECOND_NS)
    bench.update("good:2")
    bench.advance(after_s)
    bench.stage.now_ns -= 3600 * SECOND_NS
    bench.advance(60)
    assert (bench.state, bench.images) == ("completed", ["good:2"] * 2)


def test_a_deadline_passes_though_the_clock_was_set_back() -> None:
    bench = UpdateBench(
        replicas=2, parallelism=1, order="start-first", progress_deadline=60 * SECOND_NS
    )
    bench.update("unready-9999s")
    bench.advance(5)
    bench.stage.now_ns -= 3600 * SECOND_NS
    bench.advance(130)
    assert bench.state == "paused"
    assert "no progress within 60s" in bench.message


def test_a_stepped_update_is_rolled_back_at_once() -> None:
    bench = UpdateBench(replicas=4, parallelism=0, steps=(25, 50))
    bench.update("good:2")
    bench.advance(60)
    bench.promote()
    bench.advance(60)
    bench.rollback()
    bench.advance(60)
    assert bench.images == ["good:1"] * 4
    assert bench.state == "rollback_completed"


# In place.


def test_limits_change_in_the_running_container_as_the_configuration_says() -> None:
    bench = UpdateBench(replicas=3, parallelism=1, delay=10 * SECOND_NS)
    before = [task.id for task in bench.running]
    bench.update(resources=Resources(limits=Limits(memory_bytes=1 << 28)))
    bench.advance(0)
    assert [task.id for task in bench.running] == before
    assert [task.spec_version for task in bench.running] == [2, 1, 1]
    bench.advance(60)
    assert [task.id for task in bench.running] == before
    assert {task.spec_version for task in bench.running} == {2}
    assert bench.state == "completed"


def test_a_container_that_ends_on_its_new_limits_pauses_the_update() -> None:
    bench = UpdateBench(replicas=3, parallelism=1, delay=10 * SECOND_NS, restart=NEVER)
    bench.advance(100)
    bench.update(resources=Resources(limits=Limits(memory_bytes=6 << 20)))
    bench.advance(2)
    bench.stage.end(bench.running[0], 137)
    bench.advance(60)
    assert bench.state == "paused"
    assert [task.spec_version for task in bench.running] == [1, 1]


def test_rules_of_the_masters_change_without_a_rollout() -> None:
    bench = UpdateBench(replicas=3, parallelism=1, delay=10 * SECOND_NS)
    before = [task.id for task in bench.running]
    bench.update(restart_policy=RestartPolicy(max_attempts=7))
    bench.advance(0)
    assert [task.id for task in bench.running] == before
    assert {task.spec_version for task in bench.running} == {2}
    assert bench.status is None


def test_a_new_constraint_moves_only_the_tasks_whose_node_does_not_fit() -> None:
    bench = UpdateBench(replicas=3, parallelism=1)
    bench.stage.change_node("n1", labels={"disk": "ssd"})
    bench.stage.change_node("n2", labels={"disk": "ssd"})
    before = {task.node_id: task.id for task in bench.running}
    bench.update(placement=Placement(constraints=("node.labels.disk==ssd",)))
    bench.advance(60)
    after = {task.id for task in bench.running}
    assert {before["n1"], before["n2"]} < after
    assert before["n3"] not in after
    assert len(after) == 3


# Leaders.


@pytest.mark.parametrize("order", ["stop-first", "start-first"])
@pytest.mark.parametrize("image", ["good:2", "slow-2s", "bad", "crash-2s", "stuck"])
def test_a_new_leader_before_every_slice_changes_nothing_in_the_result(
    order: str, image: str
) -> None:
    results = []
    for elects_always in (False, True):
        bench = UpdateBench(
            replicas=5,
            parallelism=2,
            order=order,
            failure_action="rollback",
            delay=SECOND_NS,
            progress_deadline=20 * SECOND_NS,
        )
        bench.stage.elects_always = elects_always
        bench.update(image)
        bench.advance(300)
        results.append((bench.images, bench.state, bench.down_max, bench.surplus_max))
        assert bench.stage.full_pass() == 0
    assert results[0] == results[1]
    assert results[0][0] == (
        ["good:1"] * 5 if image in ("bad", "crash-2s", "stuck") else [image] * 5
    )


@pytest.mark.parametrize("order", ["stop-first", "start-first"])
def test_a_scaling_while_a_bad_template_fails_starts_no_race_of_failures(order: str) -> None:
    """The failures before the scaling were of another generation; those after it are counted."""
    bench = UpdateBench(replicas=2, order=order, parallelism=0, monitor=2 * SECOND_NS)
    bench.update("bad")
    bench.stage.lead_once()
    bench.scale(3)
    bench.advance(20)
    assert bench.state == "paused"
    assert len(bench.tasks) < 20


def test_observed_states_of_an_update_are_final() -> None:
    bench = UpdateBench(replicas=3, parallelism=1)
    bench.update("good:2")
    bench.advance(60)
    old = [task for task in bench.tasks if task.spec_version == 1]
    assert all(bench.stage.state.observed(t.id) is TaskState.SHUTDOWN for t in old)
