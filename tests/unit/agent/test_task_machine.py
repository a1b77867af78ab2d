"""The steps of a task on its node, as a table and as whole lives."""

import itertools
from typing import Any

import msgspec
import pytest

from essaim_agent.task_machine import (
    STEPS,
    Conclusion,
    EngineState,
    Phase,
    Step,
    TaskView,
    Wanted,
    conclusion,
    endpoint_state,
    next_step,
    one_line,
)
from essaim_shared.limits import STATUS_ERROR_CHARS_MAX
from essaim_shared.task_state import DESIRED_STATES, TaskState

ON_A_NODE = [
    state
    for state in TaskState
    if state not in (TaskState.NEW, TaskState.PENDING, TaskState.REMOVE)
]


def view(
    desired: TaskState,
    observed: TaskState,
    engine: EngineState = EngineState.ABSENT,
    holds_network: bool = False,
    failure: str | None = None,
    exit_code: int = 0,
    exit_error: str = "",
    has_other_limits: bool = False,
    is_unhealthy: bool = False,
    is_refused: bool = False,
    may_serve: bool = False,
) -> TaskView:
    return TaskView(
        desired=desired,
        observed=observed,
        engine=engine,
        holds_network=holds_network,
        failure=failure,
        exit_code=exit_code,
        exit_error=exit_error,
        has_other_limits=has_other_limits,
        is_unhealthy=is_unhealthy,
        is_refused=is_refused,
        may_serve=may_serve,
    )


def test_the_table_knows_a_step_for_every_situation() -> None:
    assert set(STEPS) == set(itertools.product(Wanted, Phase, EngineState))


@pytest.mark.parametrize("desired", sorted(DESIRED_STATES))
@pytest.mark.parametrize("observed", ON_A_NODE)
@pytest.mark.parametrize("engine", EngineState)
def test_a_container_that_ended_or_may_have_ended_is_never_started(
    desired: TaskState, observed: TaskState, engine: EngineState
) -> None:
    step = next_step(view(desired, observed, engine))
    if engine is EngineState.EXITED or observed >= TaskState.RUNNING:
        assert step not in (Step.ACCEPT, Step.PREPARE, Step.START)


@pytest.mark.parametrize("observed", ON_A_NODE)
@pytest.mark.parametrize("engine", EngineState)
def test_what_is_to_be_gone_goes_and_then_rests(observed: TaskState, engine: EngineState) -> None:
    """Every step brings the task nearer to nothing, in at most six steps."""
    seen = view(TaskState.REMOVE, observed, engine, holds_network=True, may_serve=True)
    for _ in range(6):
        step = next_step(seen)
        if step is Step.REST:
            break
        seen = after(seen, step)
    assert next_step(seen) is Step.REST
    assert seen.engine is EngineState.ABSENT
    assert not seen.holds_network


def after(seen: TaskView, step: Step) -> TaskView:
    """The view once a step has succeeded."""
    facts = {
        Step.ACCEPT: {"observed": TaskState.ACCEPTED},
        Step.PREPARE: {"observed": TaskState.READY, "holds_network": True},
        Step.START: {"observed": TaskState.STARTING, "engine": EngineState.RUNNING},
        Step.ADJUST: {"has_other_limits": False},
        Step.CONFIRM: {"observed": TaskState.RUNNING},
        Step.DRAIN: {"may_serve": False},
        Step.STOP: {"engine": EngineState.EXITED},
        Step.RELEASE: {"holds_network": False},
        Step.REMOVE: {"engine": EngineState.ABSENT},
    }.get(step, {})
    if step is Step.CONCLUDE:
        facts = {"observed": conclusion(seen).state}
    return msgspec.structs.replace(seen, **facts)


WAITS = (Step.WATCH, Step.REST, Step.AWAIT_RUN, Step.AWAIT_STARTED)


def life(seen: TaskView) -> list[Step]:
    """The steps from here on until the task only waits."""
    steps = []
    while (step := next_step(seen)) not in WAITS:
        steps.append(step)
        seen = after(seen, step)
        assert len(steps) < 10
    return steps


def test_the_straight_way_to_running() -> None:
    assert life(view(TaskState.RUNNING, TaskState.ASSIGNED)) == [
        Step.ACCEPT,
        Step.PREPARE,
        Step.START,
        Step.CONFIRM,
    ]


def test_a_task_held_ready_is_prepared_and_waits() -> None:
    assert life(view(TaskState.READY, TaskState.ASSIGNED)) == [Step.ACCEPT, Step.PREPARE]
    assert next_step(view(TaskState.READY, TaskState.READY)) is Step.AWAIT_RUN


def test_a_found_container_is_adopted_whatever_was_reported_before() -> None:
    for observed in (TaskState.ASSIGNED, TaskState.PREPARING, TaskState.STARTING):
        adopted = view(TaskState.RUNNING, observed, EngineState.RUNNING, holds_network=True)
        assert life(adopted) == [Step.CONFIRM]


@pytest.mark.parametrize("observed", [s for s in ON_A_NODE if s < TaskState.RUNNING])
def test_a_container_that_has_not_started_up_is_waited_for(observed: TaskState) -> None:
    warming = view(TaskState.RUNNING, observed, EngineState.STARTING)
    assert next_step(warming) is Step.AWAIT_STARTED
    started = view(TaskState.RUNNING, TaskState.STARTING, EngineState.RUNNING)
    assert next_step(started) is Step.CONFIRM


def test_a_running_task_stays_running_while_its_engine_checks_it_anew() -> None:
    assert next_step(view(TaskState.RUNNING, TaskState.RUNNING, EngineState.STARTING)) is Step.WATCH


@pytest.mark.parametrize("desired", [TaskState.SHUTDOWN, TaskState.REMOVE])
def test_a_container_that_never_came_up_is_stopped_like_any_other(desired: TaskState) -> None:
    warming = view(desired, TaskState.STARTING, EngineState.STARTING)
    assert life(warming) == [Step.STOP, Step.CONCLUDE, Step.REMOVE]


@pytest.mark.parametrize("observed", [TaskState.STARTING, TaskState.RUNNING])
@pytest.mark.parametrize("engine", [EngineState.STARTING, EngineState.RUNNING])
def test_an_unhealthy_container_is_stopped_and_its_task_has_failed(
    observed: TaskState, engine: EngineState
) -> None:
    unhealthy = view(TaskState.RUNNING, observed, engine, is_unhealthy=True)
    assert life(unhealthy) == [Step.STOP, Step.CONCLUDE]


@pytest.mark.parametrize("engine", [EngineState.STARTING, EngineState.RUNNING])
@pytest.mark.parametrize("observed", [TaskState.STARTING, TaskState.RUNNING])
def test_other_limits_are_given_to_a_container_that_lives(
    observed: TaskState, engine: EngineState
) -> None:
    steps = life(view(TaskState.RUNNING, observed, engine, has_other_limits=True))
    assert steps.count(Step.ADJUST) == 1


@pytest.mark.parametrize("engine", [EngineState.ABSENT, EngineState.CREATED, EngineState.EXITED])
@pytest.mark.parametrize("desired", sorted(DESIRED_STATES))
@pytest.mark.parametrize("observed", ON_A_NODE)
def test_other_limits_are_nothing_to_a_container_that_does_not_run(
    desired: TaskState, observed: TaskState, engine: EngineState
) -> None:
    assert next_step(view(desired, observed, engine, has_other_limits=True)) is not Step.ADJUST


@pytest.mark.parametrize("observed", ON_A_NODE)
@pytest.mark.parametrize("engine", EngineState)
def test_a_task_that_is_to_complete_does_on_its_node_what_a_running_one_does(
    observed: TaskState, engine: EngineState
) -> None:
    """Jobs are wanted COMPLETE from the beginning; how they end is up to them."""
    for failure in (None, "cut off"):
        job = view(TaskState.COMPLETE, observed, engine, failure=failure)
        service = view(TaskState.RUNNING, observed, engine, failure=failure)
        assert next_step(job) is next_step(service)
        if next_step(job) is Step.CONCLUDE:
            assert conclusion(job) == conclusion(service)


def test_a_stop_frees_the_address_before_the_end_is_reported() -> None:
    running = view(TaskState.SHUTDOWN, TaskState.RUNNING, EngineState.RUNNING, holds_network=True)
    assert life(running) == [Step.STOP, Step.RELEASE, Step.CONCLUDE, Step.REMOVE]


def test_a_crashed_container_stays_for_its_logs_until_the_task_is_dropped() -> None:
    crashed = view(TaskState.RUNNING, TaskState.RUNNING, EngineState.EXITED, exit_code=1)
    assert life(crashed) == [Step.CONCLUDE]
    for desired, steps in ((TaskState.SHUTDOWN, []), (TaskState.REMOVE, [Step.REMOVE])):
        assert life(view(desired, TaskState.FAILED, EngineState.EXITED)) == steps


def test_an_ended_task_whose_container_was_started_by_hand_is_stopped() -> None:
    assert next_step(view(TaskState.RUNNING, TaskState.FAILED, EngineState.RUNNING)) is Step.STOP


@pytest.mark.parametrize(
    ("seen", "state", "err"),
    [
        (view(TaskState.RUNNING, TaskState.RUNNING, EngineState.EXITED), TaskState.COMPLETE, ""),
        (
            view(TaskState.RUNNING, TaskState.RUNNING, EngineState.EXITED, exit_code=3),
            TaskState.FAILED,
            "task: non-zero exit (3)",
        ),
        (
            view(
                TaskState.RUNNING,
                TaskState.RUNNING,
                EngineState.EXITED,
                exit_code=137,
                exit_error="out of memory",
            ),
            TaskState.FAILED,
            "task: non-zero exit (137): out of memory",
        ),
        (
            view(TaskState.SHUTDOWN, TaskState.RUNNING, EngineState.EXITED, exit_code=143),
            TaskState.SHUTDOWN,
            "",
        ),
        (view(TaskState.COMPLETE, TaskState.RUNNING, EngineState.EXITED), TaskState.COMPLETE, ""),
        (
            view(TaskState.COMPLETE, TaskState.RUNNING, EngineState.EXITED, exit_code=3),
            TaskState.FAILED,
            "task: non-zero exit (3)",
        ),
        (
            view(
                TaskState.RUNNING,
                TaskState.RUNNING,
                EngineState.EXITED,
                exit_code=143,
                is_unhealthy=True,
            ),
            TaskState.FAILED,
            "task: non-zero exit (143): dockerexec: unhealthy container",
        ),
        (
            view(TaskState.RUNNING, TaskState.STARTING, EngineState.EXITED, is_unhealthy=True),
            TaskState.FAILED,
            "dockerexec: unhealthy container",
        ),
        (
            view(TaskState.SHUTDOWN, TaskState.RUNNING, EngineState.EXITED, is_unhealthy=True),
            TaskState.SHUTDOWN,
            "",
        ),
        (view(TaskState.SHUTDOWN, TaskState.PREPARING), TaskState.SHUTDOWN, ""),
        (
            view(TaskState.RUNNING, TaskState.RUNNING),
            TaskState.FAILED,
            "the container is gone: someone else removed it",
        ),
        (
            view(TaskState.RUNNING, TaskState.PREPARING, failure="No such image: x"),
            TaskState.REJECTED,
            "No such image: x",
        ),
        (
            view(TaskState.RUNNING, TaskState.STARTING, failure="no such file"),
            TaskState.FAILED,
            "no such file",
        ),
        (
            view(TaskState.RUNNING, TaskState.STARTING, failure="no such source", is_refused=True),
            TaskState.REJECTED,
            "no such source",
        ),
    ],
)
def test_how_a_task_ended(seen: TaskView, state: TaskState, err: str) -> None:
    assert next_step(seen) is Step.CONCLUDE
    ended = conclusion(seen)
    assert isinstance(ended, Conclusion)
    assert (ended.state, ended.err) == (state, err)


def test_a_running_task_that_cannot_go_on_is_stopped_first() -> None:
    cut_off = view(
        TaskState.RUNNING, TaskState.RUNNING, EngineState.RUNNING, failure="no master heard"
    )
    assert life(cut_off) == [Step.STOP, Step.CONCLUDE]


def test_errors_travel_as_one_bounded_line() -> None:
    assert one_line("  two\n\tlines ") == "two lines"
    assert len(one_line("x" * 10_000)) == STATUS_ERROR_CHARS_MAX


# Those who are led to the task.


@pytest.mark.parametrize("desired", [TaskState.SHUTDOWN, TaskState.REMOVE])
def test_a_task_that_may_serve_is_drained_before_it_is_stopped(desired: TaskState) -> None:
    serving = view(desired, TaskState.RUNNING, EngineState.RUNNING, may_serve=True)
    assert life(serving)[:2] == [Step.DRAIN, Step.STOP]
    assert next_step(view(desired, TaskState.RUNNING, EngineState.RUNNING)) is Step.STOP


@pytest.mark.parametrize("broken", [{"failure": "no answer"}, {"is_unhealthy": True}])
def test_a_broken_task_is_stopped_at_once(broken: dict[str, Any]) -> None:
    for desired in (TaskState.RUNNING, TaskState.SHUTDOWN):
        seen = view(desired, TaskState.RUNNING, EngineState.RUNNING, may_serve=True, **broken)
        assert next_step(seen) is Step.STOP
        assert endpoint_state(seen, is_ready=True) == "draining"


@pytest.mark.parametrize("desired", sorted(DESIRED_STATES))
@pytest.mark.parametrize("observed", ON_A_NODE)
@pytest.mark.parametrize("engine", EngineState)
def test_who_serves_runs_is_ready_and_is_not_to_be_stopped(
    desired: TaskState, observed: TaskState, engine: EngineState
) -> None:
    seen = view(desired, observed, engine)
    if endpoint_state(seen, is_ready=True) == "serving":
        assert desired <= TaskState.COMPLETE
        assert observed <= TaskState.RUNNING
        assert engine in (EngineState.STARTING, EngineState.RUNNING)
    assert endpoint_state(seen, is_ready=False) != "serving"


@pytest.mark.parametrize(
    ("observed", "engine", "expected"),
    [
        (TaskState.READY, EngineState.ABSENT, "starting"),
        (TaskState.STARTING, EngineState.STARTING, "starting"),
        (TaskState.STARTING, EngineState.RUNNING, "serving"),
        (TaskState.RUNNING, EngineState.RUNNING, "serving"),
        (TaskState.RUNNING, EngineState.STARTING, "serving"),
        (TaskState.RUNNING, EngineState.EXITED, "draining"),
        (TaskState.RUNNING, EngineState.ABSENT, "draining"),
        (TaskState.FAILED, EngineState.EXITED, "draining"),
    ],
)
def test_what_an_address_is_good_for_in_the_life_of_its_task(
    observed: TaskState, engine: EngineState, expected: str
) -> None:
    assert endpoint_state(view(TaskState.RUNNING, observed, engine), is_ready=True) == expected
