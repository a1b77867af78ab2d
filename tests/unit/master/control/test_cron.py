"""Cron jobs on a manual clock: which runs are made, and that no time is ever run twice."""

from datetime import UTC, datetime

import msgspec
import pytest

from essaim_shared.spec import ReplicatedJobMode, RestartPolicy, Schedule, ServiceMode
from essaim_shared.task_state import TaskState

SECOND_NS = 1_000_000_000
NOON = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)


@pytest.fixture
def cron(world):
    """Makes a service that runs every five minutes, a little after noon."""
    world.now_ns = int(NOON.timestamp()) * SECOND_NS + SECOND_NS

    def create(total=1, concurrent=None, restart=None, expression="*/5 * * * *", **schedule):
        mode = ReplicatedJobMode(total_completions=total, max_concurrent=concurrent)
        return world.create(
            "backup",
            mode=ServiceMode(replicated_job=mode),
            restart=restart,
            schedule=Schedule(expression=expression, **schedule),
        )

    return create


def to(world, clock):
    """Move the clock to a time of that day, forwards or backwards, and let everybody act."""
    hour, minute, *second = (int(part) for part in clock.split(":"))
    moment = NOON.replace(hour=hour, minute=minute, second=second[0] if second else 1)
    world.now_ns = int(moment.timestamp()) * SECOND_NS
    act(world)


def act(world):
    """Leader and agents in turns; the clock stands still."""
    for _ in range(100):
        world.settle()
        if not world.agents_obey():
            return
    raise AssertionError("no end")


def runs(world, service_id):
    """Of each run: its time, and what became of it."""
    status = world.state.cron_status.get(service_id)
    return [
        (datetime.fromtimestamp(run.scheduled_ns // SECOND_NS, UTC).strftime("%H:%M"), run.outcome)
        for run in (status.runs if status else ())
    ]


def end_all(world, service_id, state=TaskState.COMPLETE):
    for task in world.tasks(service_id, TaskState.RUNNING):
        world.report(task.id, state, err="" if state is TaskState.COMPLETE else "exit 1")
    act(world)


def reschedule(world, service_id, **changes):
    service = world.state.services[service_id]
    schedule = msgspec.structs.replace(service.spec.schedule, **changes)
    spec = msgspec.structs.replace(service.spec, schedule=schedule)
    world.put(msgspec.structs.replace(service, spec=spec))
    act(world)


def test_nothing_runs_before_its_time(world, cron):
    backup = cron()
    act(world)
    assert world.tasks(backup) == []
    due_ns = world.worklist.next_due_ns()
    assert due_ns == int(NOON.replace(minute=5).timestamp()) * SECOND_NS
    to(world, "12:04:59")
    assert runs(world, backup) == []


def test_run_has_the_tasks_of_a_job_and_ends_with_them(world, cron):
    backup = cron(total=3, concurrent=2)
    to(world, "12:05")
    assert runs(world, backup) == [("12:05", "running")]
    assert [(task.slot, task.iteration) for task in world.tasks(backup)] == [(0, 1), (1, 1)]
    end_all(world, backup)
    assert runs(world, backup) == [("12:05", "running")]
    end_all(world, backup)
    assert runs(world, backup) == [("12:05", "complete")]
    assert world.full_pass() == 0


def test_run_is_claimed_before_it_has_tasks(world, cron):
    backup = cron()
    act(world)
    order = []
    world.state.subscribe(
        lambda applied: order.extend(change.kind.name for change in applied.changes)
    )
    world.advance(300)
    world.slice()
    assert order[:2] == ["CRON_STATUS", "GATEWAY"] or order[:2] == ["CRON_STATUS", "TASK"]
    assert len(world.tasks(backup)) == 1


def test_new_leader_at_any_moment_runs_nothing_twice(world, cron):
    backup = cron()
    for clock in ("12:05", "12:05:10", "12:10", "12:10:30"):
        world.elect()
        to(world, clock)
        world.elect()
        end_all(world, backup)
    assert runs(world, backup) == [("12:05", "complete"), ("12:10", "complete")]
    assert len(world.tasks(backup)) == 2


def test_run_fails_when_its_policy_has_given_up(world, cron):
    backup = cron(total=2, restart=RestartPolicy(max_attempts=1, delay=0))
    to(world, "12:05")
    end_all(world, backup, TaskState.FAILED)
    assert runs(world, backup) == [("12:05", "running")]
    end_all(world, backup, TaskState.FAILED)
    assert runs(world, backup) == [("12:05", "failed")]
    (run,) = world.state.cron_status[backup].runs
    assert run.reason == "slot 0: exit 1"
    to(world, "12:10")
    assert runs(world, backup)[-1] == ("12:10", "running")


@pytest.mark.parametrize(
    ("concurrency", "outcomes", "running"),
    [
        ("allow", ["running", "running"], {1, 2}),
        ("forbid", ["running", "skipped"], {1}),
        ("replace", ["replaced", "running"], {2}),
    ],
)
def test_run_that_is_due_while_another_is_under_way(world, cron, concurrency, outcomes, running):
    backup = cron(concurrency=concurrency)
    to(world, "12:05")
    to(world, "12:10")
    assert [outcome for _, outcome in runs(world, backup)] == outcomes
    assert {task.iteration for task in world.running(backup)} == running
    assert world.full_pass() == 0


def test_skipped_run_tells_why(world, cron):
    backup = cron(concurrency="forbid")
    to(world, "12:05")
    to(world, "12:10")
    assert world.state.cron_status[backup].runs[-1].reason == "run 1 is under way"


def test_runs_beside_each_other_are_bounded(world, cron):
    backup = cron(expression="* * * * *")
    for minute in range(1, 30):
        to(world, f"12:{minute:02}")
    under_way = [outcome for _, outcome in runs(world, backup) if outcome == "running"]
    assert len(under_way) == 20
    assert world.state.cron_status[backup].runs[-1].reason == "20 runs are under way"


def test_time_that_passed_while_nobody_led_is_skipped(world, cron):
    backup = cron()
    act(world)
    to(world, "12:22")
    assert runs(world, backup) == [("12:20", "skipped")]
    to(world, "12:25")
    assert runs(world, backup)[-1] == ("12:25", "running")


def test_time_that_passed_is_made_up_for_once_if_asked(world, cron):
    backup = cron(missed="run-once")
    act(world)
    to(world, "12:22")
    assert runs(world, backup) == [("12:20", "running")]
    assert len(world.tasks(backup)) == 1


def test_change_of_leader_makes_no_run_late(world, cron):
    backup = cron()
    act(world)
    world.elect()
    to(world, "12:05:20")
    assert runs(world, backup) == [("12:05", "running")]


def test_suspended_schedule_runs_nothing_and_makes_nothing_up(world, cron):
    backup = cron(missed="run-once")
    act(world)
    reschedule(world, backup, is_suspended=True)
    to(world, "12:22")
    reschedule(world, backup, is_suspended=False)
    assert runs(world, backup) == []
    to(world, "12:25")
    assert runs(world, backup) == [("12:25", "running")]


def test_changed_expression_counts_from_now_on(world, cron):
    backup = cron(expression="0 13 * * *", missed="run-once")
    to(world, "12:42")
    reschedule(world, backup, expression="* * * * *")
    assert runs(world, backup) == []
    to(world, "12:43")
    assert runs(world, backup) == [("12:43", "running")]


def test_change_of_the_service_concerns_later_runs_only(world, cron):
    backup = cron(total=2, concurrent=1, restart=RestartPolicy(delay=0))
    to(world, "12:05")
    service = world.state.services[backup]
    container = msgspec.structs.replace(service.spec.task.container, image="img:2")
    world.update(backup, container=container)
    act(world)
    end_all(world, backup, TaskState.FAILED)
    end_all(world, backup)
    images = [task.spec.container.image for task in world.tasks(backup)]
    assert images == ["img:1", "img:1", "img:1"], "the retry and the second slot too"
    end_all(world, backup)
    to(world, "12:10")
    assert [task.spec.container.image for task in world.running(backup)] == ["img:2"]


def test_history_is_kept_with_its_tasks_and_no_longer(world, cron):
    backup = cron(history=2)
    for clock in ("12:05", "12:10", "12:15", "12:20"):
        to(world, clock)
        end_all(world, backup)
    assert runs(world, backup) == [("12:15", "complete"), ("12:20", "complete")]
    assert {task.iteration for task in world.tasks(backup)} == {3, 4}
    assert world.full_pass() == 0


def test_skipped_runs_do_not_push_out_the_others(world, cron):
    backup = cron(history=1, concurrency="forbid")
    to(world, "12:05")
    end_all(world, backup)
    for clock in ("12:10", "12:15", "12:20", "12:25"):
        to(world, clock)
    assert runs(world, backup) == [
        ("12:05", "complete"),
        ("12:10", "running"),
        ("12:25", "skipped"),
    ]


def test_clock_that_is_set_back_runs_nothing_twice(world, cron):
    backup = cron()
    to(world, "12:05")
    end_all(world, backup)
    to(world, "12:04:30")
    to(world, "12:05:30")
    world.elect()
    to(world, "12:05:40")
    assert runs(world, backup) == [("12:05", "complete")]
    to(world, "12:10")
    assert runs(world, backup)[-1] == ("12:10", "running")


def test_clock_that_is_set_back_far_does_not_stop_the_schedule(world, cron):
    backup = cron()
    to(world, "12:05")
    end_all(world, backup)
    to(world, "02:01")
    assert (
        world.worklist.next_due_ns() == int(NOON.replace(hour=2, minute=5).timestamp()) * SECOND_NS
    )
    to(world, "02:05")
    assert runs(world, backup)[-1] == ("02:05", "running")


def test_leader_that_does_not_know_the_zone_says_so(world, cron):
    backup = cron(time_zone="Mars/Olympus")
    act(world)
    assert "time zone 'Mars/Olympus' is not known" in world.state.cron_status[backup].problem
    reschedule(world, backup, time_zone="Europe/Paris")
    assert world.state.cron_status[backup].problem == ""
    to(world, "12:05")
    assert runs(world, backup) == [("12:05", "running")]


def test_schedule_follows_its_zone(world, cron):
    backup = cron(expression="5 14 * * *", time_zone="Europe/Paris")
    to(world, "12:05")
    assert runs(world, backup) == [("12:05", "running")]


def test_removed_service_leaves_neither_tasks_nor_status(world, cron):
    backup = cron()
    to(world, "12:05")
    world.remove(backup)
    act(world)
    assert not world.state.tasks
    assert backup not in world.state.cron_status
