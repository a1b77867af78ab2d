"""What a node does next for one of its tasks: the decision, and nothing else.

The life of a task on its node, without the ways out of it:

    ASSIGNED ─accept─▶ ACCEPTED ─prepare─▶ READY ─start─▶ STARTING ─confirm─▶ RUNNING ─watch─▶ …

A container that has a health check or a startup probe stays STARTING until that has succeeded.

Three things decide the next step, and no memory of how they came about does: what the masters
want, the state last reported, and what the engine says of the container. So an agent that was
restarted, an engine that was restarted and a late order need no code of their own: whoever holds
the three facts reads the step from the table.

Two rules shape the table:

* A task is one attempt. A container that ended or vanished ends its task; it is never started
  again. The masters replace the task.
* A failure before STARTING rejects the task, one from STARTING on fails it (SwarmKit,
  agent/exec/controller.go, `Do`). Container and process are made in one step here, so that an
  engine which refuses the container does so in STARTING: that rejects the task too.
"""

from enum import Enum, auto

import msgspec

from essaim_agent.network import EndpointState
from essaim_shared.limits import STATUS_ERROR_CHARS_MAX
from essaim_shared.task_state import TaskState

UNHEALTHY = "dockerexec: unhealthy container"
"""Why an unhealthy container was stopped, in the words of Docker Swarm."""


class Wanted(Enum):
    """What the masters want of the task, as far as its node is concerned."""

    READY = auto()
    """Prepared and waiting: a replacement whose restart delay has not passed."""
    RUN = auto()
    STOP = auto()
    GONE = auto()
    """Stopped, and nothing left of it."""


class EngineState(Enum):
    """What the engine says of the task's container."""

    ABSENT = auto()
    CREATED = auto()
    STARTING = auto()
    """It runs, but its health check or startup probe has not succeeded yet."""
    RUNNING = auto()
    EXITED = auto()


class Phase(Enum):
    """The observed state, as far as it makes a difference here."""

    ASSIGNED = auto()
    ACCEPTED = auto()
    PREPARING = auto()
    READY = auto()
    STARTING = auto()
    RUNNING = auto()
    STOPPED = auto()
    """Ended by order. Its container is of no use to anybody."""
    ENDED = auto()
    """Ended by itself. Its container stays for its logs until the masters drop the task."""


class Step(Enum):
    ACCEPT = auto()
    """Report that the task has arrived."""
    PREPARE = auto()
    """Have the image and the network namespace there."""
    AWAIT_RUN = auto()
    """Wait until the masters want the task to run."""
    START = auto()
    AWAIT_STARTED = auto()
    """Wait until the health check or the startup probe has succeeded, or for another wish."""
    CONFIRM = auto()
    """The container has started, whoever started it: report RUNNING."""
    WATCH = auto()
    """Wait for the container's end or for another wish."""
    ADJUST = auto()
    """Give the running container the limits that the masters want of it now."""
    DRAIN = auto()
    """Before STOP: have nobody led to the task any more, and let its connections end."""
    STOP = auto()
    RELEASE = auto()
    """Give the network namespace back; before the end is reported, so that the address is free
    once the masters hear of it."""
    CONCLUDE = auto()
    """Report how the task ended."""
    REMOVE = auto()
    """Remove the container of an ended task that nobody wants any more."""
    REST = auto()
    """Nothing is left to do, until the masters drop the task."""


_OVER = (Phase.STOPPED, Phase.ENDED)
_LIVE = tuple(phase for phase in Phase if phase not in _OVER)
_UNSTARTED = (Phase.ASSIGNED, Phase.ACCEPTED, Phase.PREPARING, Phase.READY, Phase.STARTING)
_STILL = (EngineState.ABSENT, EngineState.CREATED)
_ALIVE = (EngineState.STARTING, EngineState.RUNNING)
_NOT_RUNNING = (*_STILL, EngineState.EXITED)
_LEFT_BEHIND = (EngineState.CREATED, EngineState.EXITED)
_UP = (Wanted.READY, Wanted.RUN)
_DOWN = (Wanted.STOP, Wanted.GONE)

_ROWS: tuple[tuple[tuple[Wanted, ...], tuple[Phase, ...], tuple[EngineState, ...], Step], ...] = (
    # wanted, observed, engine → step. No two rows overlap; together they cover everything.
    (_UP, (Phase.ASSIGNED,), _STILL, Step.ACCEPT),
    (_UP, (Phase.ACCEPTED, Phase.PREPARING), _STILL, Step.PREPARE),
    ((Wanted.READY,), (Phase.READY, Phase.STARTING), _STILL, Step.AWAIT_RUN),
    ((Wanted.RUN,), (Phase.READY, Phase.STARTING), _STILL, Step.START),
    (_UP, (Phase.RUNNING,), _STILL, Step.CONCLUDE),
    (_UP, _UNSTARTED, (EngineState.STARTING,), Step.AWAIT_STARTED),
    (_UP, _UNSTARTED, (EngineState.RUNNING,), Step.CONFIRM),
    # An engine that was restarted begins its health checks anew: the task has started all the same.
    (_UP, (Phase.RUNNING,), _ALIVE, Step.WATCH),
    (_UP, _LIVE, (EngineState.EXITED,), Step.CONCLUDE),
    (_UP, _OVER, _NOT_RUNNING, Step.REST),
    (_DOWN, _LIVE, _ALIVE, Step.STOP),
    (_DOWN, _LIVE, _NOT_RUNNING, Step.CONCLUDE),
    (_DOWN, (Phase.STOPPED,), _LEFT_BEHIND, Step.REMOVE),
    ((Wanted.STOP,), (Phase.ENDED,), _LEFT_BEHIND, Step.REST),
    ((Wanted.GONE,), (Phase.ENDED,), _LEFT_BEHIND, Step.REMOVE),
    (_DOWN, _OVER, (EngineState.ABSENT,), Step.REST),
    # An ended task runs no more, even if somebody started its container by hand.
    (tuple(Wanted), _OVER, _ALIVE, Step.STOP),
)

STEPS: dict[tuple[Wanted, Phase, EngineState], Step] = {
    (wanted, phase, engine): step
    for wishes, phases, engines, step in _ROWS
    for wanted in wishes
    for phase in phases
    for engine in engines
}

_PHASES = {
    TaskState.ASSIGNED: Phase.ASSIGNED,
    TaskState.ACCEPTED: Phase.ACCEPTED,
    TaskState.PREPARING: Phase.PREPARING,
    TaskState.READY: Phase.READY,
    TaskState.STARTING: Phase.STARTING,
    TaskState.RUNNING: Phase.RUNNING,
    TaskState.COMPLETE: Phase.ENDED,
    TaskState.SHUTDOWN: Phase.STOPPED,
    TaskState.FAILED: Phase.ENDED,
    TaskState.REJECTED: Phase.ENDED,
    TaskState.ORPHANED: Phase.ENDED,
}

_WISH_OF = {
    TaskState.READY: Wanted.READY,
    TaskState.RUNNING: Wanted.RUN,
    TaskState.COMPLETE: Wanted.RUN,
    TaskState.SHUTDOWN: Wanted.STOP,
    TaskState.REMOVE: Wanted.GONE,
}


class TaskView(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that decides the next step of a task."""

    desired: TaskState
    """As the masters ordered it; REMOVE for a task that they have dropped."""
    observed: TaskState
    """As last reported; never below ASSIGNED."""
    engine: EngineState = EngineState.ABSENT
    holds_network: bool = False
    """A namespace may exist for the task."""
    may_serve: bool = False
    """It has run on a network, and nobody has waited yet for the connections it may have."""
    has_other_limits: bool = False
    """The running container may not have the limits that are wanted of it."""
    failure: str | None = None
    """Why the task cannot go on, though the masters may want it to; one line."""
    is_refused: bool = False
    """The failure is that no container could be made: nothing of the task ever ran. It is not in
    the journal: after a restart at just this moment the task has failed instead."""
    is_unhealthy: bool = False
    """The engine's health check has given the container up."""
    exit_code: int = 0
    """Of a container that has exited."""
    exit_error: str = ""
    """What the engine adds to the exit code."""


class Conclusion(msgspec.Struct, frozen=True):
    """How a task ended."""

    state: TaskState
    message: str
    err: str
    exit_code: int


def phase_of(observed: TaskState) -> Phase:
    """Raises KeyError for a state that no task has on a node (NEW, PENDING, REMOVE)."""
    return _PHASES[observed]


def wanted_of(view: TaskView) -> Wanted:
    """A live task that cannot go on is wanted stopped, whatever the masters think so far."""
    wanted = _WISH_OF[view.desired]
    if _is_broken(view) and wanted in _UP:
        return Wanted.STOP
    return wanted


def _is_broken(view: TaskView) -> bool:
    return view.failure is not None or view.is_unhealthy


def next_step(view: TaskView) -> Step:
    """The one thing to do now."""
    step = STEPS[wanted_of(view), phase_of(view.observed), view.engine]
    if view.holds_network and step in (Step.CONCLUDE, Step.REMOVE, Step.REST):
        return Step.RELEASE
    if view.may_serve and step is Step.STOP and not _is_broken(view):
        return Step.DRAIN
    if view.has_other_limits and step in (Step.AWAIT_STARTED, Step.WATCH):
        return Step.ADJUST
    return step


def endpoint_state(view: TaskView, is_ready: bool) -> EndpointState:
    """What the task's address is good for, by what its node knows. `is_ready`: by its readiness
    probe, if it has one."""
    has_run = phase_of(view.observed) is Phase.RUNNING
    if wanted_of(view) in _DOWN or phase_of(view.observed) in _OVER:
        return "draining"
    if view.engine is EngineState.EXITED or (has_run and view.engine not in _ALIVE):
        return "draining"
    # One that was running before its engine was restarted is not put to the test again.
    is_up = has_run or view.engine is EngineState.RUNNING
    return "serving" if is_up and is_ready else "starting"


def conclusion(view: TaskView) -> Conclusion:
    """How the task ended; meaningful when the step is CONCLUDE."""
    if view.failure is not None:
        rejected = view.observed < TaskState.STARTING or view.is_refused
        return Conclusion(
            TaskState.REJECTED if rejected else TaskState.FAILED,
            "preparing" if rejected else "started",
            one_line(view.failure),
            view.exit_code,
        )
    if _WISH_OF[view.desired] in _DOWN:
        return Conclusion(TaskState.SHUTDOWN, "shutdown", "", view.exit_code)
    if view.is_unhealthy:
        # Also when it ended with 0: that it did as it was told to end makes it no success.
        return Conclusion(TaskState.FAILED, "started", _exit_error(view, UNHEALTHY), view.exit_code)
    if view.engine is not EngineState.EXITED:
        return Conclusion(
            TaskState.FAILED, "started", "the container is gone: someone else removed it", 0
        )
    if view.exit_code == 0:
        return Conclusion(TaskState.COMPLETE, "finished", "", 0)
    return Conclusion(
        TaskState.FAILED, "started", _exit_error(view, view.exit_error), view.exit_code
    )


def _exit_error(view: TaskView, cause: str) -> str:
    """In SwarmKit's words (moby, daemon/cluster/executor/container/errors.go)."""
    if view.exit_code == 0:
        return one_line(cause)
    err = f"task: non-zero exit ({view.exit_code})"
    return one_line(f"{err}: {cause}" if cause else err)


def one_line(text: str) -> str:
    """An error as it may travel: one line of at most STATUS_ERROR_CHARS_MAX characters."""
    line = " ".join(text.split())
    if len(line) > STATUS_ERROR_CHARS_MAX:
        line = line[: STATUS_ERROR_CHARS_MAX - 1] + "…"
    return line
