"""How a task's running container is: the engine's health check and the agent's probes as one.

Both may keep a container from having started, and both may give it up. Only the readiness probe
changes nothing but what the masters are told.
"""

from collections.abc import Callable

from essaim_agent.executor import Health
from essaim_agent.probes.driver import ProbeSite, TaskProbes
from essaim_agent.probes.prober import Beginning, Kind, Verdict
from essaim_agent.task_machine import Step
from essaim_shared.objects import Task, TaskStatus


class TaskHealth:
    """Told by the task's manager what it hears; asked by it what that means."""

    def __init__(
        self,
        site: ProbeSite,
        task: Task,
        status: TaskStatus,
        changed: Callable[[], None],
        failed: Callable[[str], None],
        readiness: Callable[[bool, str], None],
    ) -> None:
        """`changed`: it has started; `failed`: a probe gives the task up, and why; `readiness`:
        each verdict of that probe, and for a bad one why. None of them is called while no probe
        is followed."""
        self._clock = site.clock
        self._changed, self._failed, self._readiness = changed, failed, readiness
        self._probes = TaskProbes(site, task, self._probed)
        self._check = Health.NONE
        self._is_past_startup = not self._probes.has(Kind.STARTUP) or status.started_ns > 0
        self._container_started_s: float | None = None
        """By the monotonic clock; None while it is another agent's container."""
        self.is_unhealthy = False
        """The engine's health check has given the container up. For good: that it recovers while
        it is being stopped changes nothing."""

    @property
    def has_readiness_probe(self) -> bool:
        return self._probes.has(Kind.READINESS)

    @property
    def is_starting(self) -> bool:
        return self._check is Health.STARTING or not self._is_past_startup

    def container_started(self, check: Health) -> None:
        """A verdict on its health may have been told before its start: a busy machine."""
        self._container_started_s = self._clock.monotonic_s()
        if self._check is Health.NONE:
            self._check = check

    def checked(self, check: Health, is_being_stopped: bool) -> None:
        """What the engine's health check says. A container that fails it because it was told to
        end has done nothing wrong."""
        self._check = check
        if check is Health.UNHEALTHY and not is_being_stopped:
            self.is_unhealthy = True

    def follow(self, step: Step, status: TaskStatus) -> None:
        """Ask what is to be asked while the task is at this step."""
        match step:
            case Step.AWAIT_STARTED if not self._is_past_startup:
                self._probes.follow((Kind.STARTUP,), lambda: self._beginning(status))
            case Step.WATCH:
                kinds = (Kind.READINESS, Kind.LIVENESS)
                self._probes.follow(kinds, lambda: self._beginning(status))
            case Step.ADJUST:
                return  # between two waits
            case _:
                self._probes.stop()

    def _beginning(self, status: TaskStatus) -> Beginning:
        now_s, started_s = self._clock.monotonic_s(), self._container_started_s
        is_taken_over = started_s is None
        if started_s is None:
            started_ns = status.started_ns or self._clock.wall_ns()
            started_s = now_s - (self._clock.wall_ns() - started_ns) / 1e9
        return Beginning(now_s, started_s, is_taken_over, status.is_ready)

    def _probed(self, kind: Kind, verdict: Verdict, reason: str) -> None:
        is_good = verdict is Verdict.SUCCEEDED
        if kind is Kind.READINESS:
            self._readiness(is_good, reason)
        elif not is_good:
            self._failed(f"{kind.value} probe failed: {reason}")
        elif kind is Kind.STARTUP:
            self._is_past_startup = True
            if self._container_started_s is None:
                # What is asked from here on is asked for the first time.
                self._container_started_s = self._clock.monotonic_s()
            self._changed()
