"""Delays, their growth and end, and what counts as a failure."""

import pytest

from essaim_master.control.restart import (
    ATTEMPTS_MAX,
    Replacement,
    replacement_of,
    restart_delay_ns,
)
from essaim_shared.container_spec import ContainerSpec
from essaim_shared.ids import ServiceId, TaskId
from essaim_shared.objects import Task, TaskStatus
from essaim_shared.spec import RestartPolicy, TaskSpec
from essaim_shared.task_state import TaskState

SECOND = 1_000_000_000
NOW_NS = 1_000 * SECOND


def task(
    failures=0,
    desired=TaskState.RUNNING,
    not_before_ns=0,
    restarts_ns=(),
    iteration=None,
    **policy,
):
    return Task(
        id=TaskId("t"),
        service_id=ServiceId("s"),
        service_name="web",
        slot=1,
        spec=TaskSpec(container=ContainerSpec(image="img"), restart_policy=RestartPolicy(**policy)),
        spec_version=1,
        desired_state=desired,
        created_ns=1,
        updated_ns=1,
        not_before_ns=not_before_ns,
        failures=failures,
        restarts_ns=restarts_ns,
        iteration=iteration,
    )


def status(state, ran_s=0.0):
    started_ns = NOW_NS - int(ran_s * SECOND) if ran_s else 0
    return TaskStatus(state=state, timestamp_ns=NOW_NS, started_ns=started_ns)


@pytest.mark.parametrize(
    ("failures", "delay_s"), [(1, 5), (2, 10), (3, 20), (6, 160), (7, 300), (60, 300)]
)
def test_delay_doubles_up_to_five_minutes(failures, delay_s):
    assert restart_delay_ns(RestartPolicy(), failures) == delay_s * SECOND


@pytest.mark.parametrize(
    ("policy", "failures", "delay_ns"),
    [
        ({"delay": 0}, 1, 0),
        ({"delay": 0}, 2, SECOND // 10),  # never a tight loop
        ({"delay": 2 * SECOND, "backoff_max": 3 * SECOND}, 2, 3 * SECOND),
        ({"delay": 600 * SECOND}, 4, 600 * SECOND),  # asked for: longer than the limit
        ({"delay": SECOND, "backoff_max": None}, 20, 300 * SECOND),
    ],
)
def test_policy_sets_delay_and_limit(policy, failures, delay_ns):
    assert restart_delay_ns(RestartPolicy(**policy), failures) == delay_ns


def test_failure_is_counted_on():
    verdict = replacement_of(task(failures=2), status(TaskState.FAILED), False, NOW_NS)
    assert verdict == Replacement(3, NOW_NS + 20 * SECOND)


@pytest.mark.parametrize(
    ("ran_s", "delay_s", "failures"),
    [
        (9.9, 5, 4),
        (10, 5, 1),
        (10, 6, 4),  # twice the delay is longer
        (12, 6, 1),
        (0, 5, 4),  # was never seen running
    ],
)
def test_long_run_begins_the_count_anew(ran_s, delay_s, failures):
    ended = task(failures=3, delay=delay_s * SECOND)
    verdict = replacement_of(ended, status(TaskState.FAILED, ran_s), False, NOW_NS)
    assert verdict is not None
    assert verdict.failures == failures


def attempts(*ago_s: float) -> tuple[int, ...]:
    """Earlier replacements, so many seconds before now."""
    return tuple(NOW_NS - int(seconds * SECOND) for seconds in ago_s)


@pytest.mark.parametrize(
    ("policy", "made", "is_replaced"),
    [
        pytest.param({"max_attempts": 3}, attempts(900, 800), True, id="two of three"),
        pytest.param({"max_attempts": 3}, attempts(900, 800, 700), False, id="all, however old"),
        pytest.param(
            {"max_attempts": 3, "window": 0}, attempts(900, 800, 700), False, id="window of 0"
        ),
        pytest.param(
            {"max_attempts": 3, "window": 60 * SECOND}, attempts(61, 9, 8), True, id="one is old"
        ),
        pytest.param(
            {"max_attempts": 3, "window": 60 * SECOND}, attempts(59, 9, 8), False, id="all inside"
        ),
        pytest.param(
            {"max_attempts": 1, "window": 60 * SECOND}, attempts(60), True, id="just outside"
        ),
        pytest.param({"max_attempts": 0}, (), True, id="no limit"),
        pytest.param({}, (), True, id="no limit by default"),
        pytest.param({"max_attempts": ATTEMPTS_MAX + 1}, (), True, id="so many are no limit"),
    ],
)
def test_attempts_are_counted_inside_the_window(policy, made, is_replaced):
    ended = task(restarts_ns=made, **policy)
    assert (replacement_of(ended, status(TaskState.FAILED), False, NOW_NS) is not None) is (
        is_replaced
    )


def test_attempts_are_remembered_only_where_they_are_limited():
    limited = task(restarts_ns=attempts(70, 5), max_attempts=9, window=60 * SECOND)
    verdict = replacement_of(limited, status(TaskState.FAILED), False, NOW_NS)
    assert verdict is not None
    assert verdict.restarts_ns == attempts(5, 0), "what the window has left behind is forgotten"
    unlimited = replacement_of(task(failures=7), status(TaskState.FAILED), False, NOW_NS)
    assert unlimited is not None
    assert unlimited.restarts_ns == ()


def test_attempts_noted_by_a_clock_that_ran_ahead_count_as_made_now():
    ahead = task(restarts_ns=attempts(-3600, -3500), max_attempts=3, window=60 * SECOND)
    verdict = replacement_of(ahead, status(TaskState.FAILED), False, NOW_NS)
    assert verdict is not None
    assert verdict.restarts_ns == attempts(0, 0, 0)


def test_a_task_that_its_node_lost_uses_up_no_attempt():
    worn = task(restarts_ns=attempts(9, 8, 7), max_attempts=3)
    verdict = replacement_of(worn, status(TaskState.RUNNING), True, NOW_NS)
    assert verdict == Replacement(0, 0, attempts(9, 8, 7))


@pytest.mark.parametrize("condition", ["any", "on-failure"])
def test_a_completed_task_of_a_job_is_not_replaced(condition):
    completed = task(iteration=0, desired=TaskState.COMPLETE, condition=condition)
    assert replacement_of(completed, status(TaskState.COMPLETE), False, NOW_NS) is None
    assert replacement_of(completed, status(TaskState.FAILED), False, NOW_NS) is not None


def test_lost_task_is_no_failure_and_is_not_delayed():
    verdict = replacement_of(task(failures=2), status(TaskState.RUNNING), True, NOW_NS)
    assert verdict == Replacement(2, 0)
    stopped_by_its_node = status(TaskState.SHUTDOWN)
    assert replacement_of(task(), stopped_by_its_node, False, NOW_NS) == Replacement(0, 0)


def test_lost_task_that_must_not_run_twice_is_not_replaced():
    lost = task(condition="none")
    assert replacement_of(lost, status(TaskState.RUNNING), True, NOW_NS) is None
