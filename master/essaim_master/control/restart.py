"""Whether and when an ended task's slot gets another task. Pure.

As SwarmKit's manager/orchestrator/restart, with three differences:

* the delay doubles with each failure in a row;
* the history stands in the state (`Task.failures`, `Task.restarts_ns`) and not in the leader's
  memory, so a new leader goes on where the old one was;
* a task that its node has lost uses up no attempt: the operator who drains nodes must not use up
  the patience that was meant for the program.
"""

import msgspec
from msgspec import UnsetType

from essaim_shared.limits import RESTART_BACKOFF_MAX_DEFAULT_NS, RESTART_DELAY_DEFAULT_NS
from essaim_shared.objects import Task, TaskStatus
from essaim_shared.spec import RestartPolicy
from essaim_shared.task_state import TaskState

RECOVERED_AFTER_NS_MIN = 10 * 1_000_000_000
"""A task that ran at least this long, and twice the delay, was healthy: the count starts anew."""

REPEATED_DELAY_NS_MIN = 100_000_000
"""From the second failure in a row on, also under a delay of 0: a task that fails at once must
not keep the whole cluster busy."""

ATTEMPTS_MAX = 1_000
"""A policy that allows more attempts has no limit: their times travel with every task of the slot,
and at the default delays so many take over three days."""

DOUBLINGS_MAX = 40
"""2**40 ns is over 18 minutes even from 1 ns; keeps the arithmetic small."""


class Replacement(msgspec.Struct, frozen=True):
    """The slot gets a new task."""

    failures: int
    """Failures in a row before it."""
    not_before_ns: int
    """Wall time at which it may run; 0 means at once."""
    restarts_ns: tuple[int, ...] = ()
    """What `Task.restarts_ns` becomes."""


DEFAULT_POLICY = RestartPolicy()


def replacement_of(
    task: Task, status: TaskStatus | None, is_lost: bool, now_ns: int
) -> Replacement | None:
    """The verdict on a task that runs no more; None leaves its slot empty for good.

    `is_lost` means that the task did not end by itself: its node was drained, went down or
    stopped it. Such a task counts as no failure and is replaced without delay, but under the
    condition `none` not at all (as Swarm: what must run at most once is not run twice). Of a job
    a task that has completed is never replaced, so there `any` means `on-failure`.
    """
    policy = task.spec.restart_policy or DEFAULT_POLICY
    state = TaskState.NEW if status is None else status.state
    if policy.condition == "none":
        return None
    if is_lost or state in (TaskState.SHUTDOWN, TaskState.ORPHANED) or not state.is_terminal:
        still_waiting = task.desired_state is TaskState.READY
        not_before_ns = task.not_before_ns if still_waiting else 0
        return Replacement(task.failures, not_before_ns, task.restarts_ns)
    is_job = task.iteration is not None
    if state is TaskState.COMPLETE and (is_job or policy.condition == "on-failure"):
        return None
    if task.desired_state is TaskState.READY:
        # It could not even be prepared, ahead of its time: the same attempt is made once more
        # now that its time has come.
        return Replacement(task.failures, 0, task.restarts_ns)
    restarts_ns: tuple[int, ...] = ()
    if policy.max_attempts and policy.max_attempts <= ATTEMPTS_MAX:
        restarts_ns = attempts_within(policy, task.restarts_ns, _judged_ns(task, now_ns))
        if len(restarts_ns) >= policy.max_attempts:
            return None
        restarts_ns = (*restarts_ns, now_ns)
    failures = 1 if _was_healthy(policy, status) else task.failures + 1
    delay_ns = restart_delay_ns(policy, failures)
    return Replacement(failures, now_ns + delay_ns if delay_ns else 0, restarts_ns)


def _judged_ns(task: Task, now_ns: int) -> int:
    """When the verdict on an ended task was first due: a slot that was given up stays so, though
    its attempts leave the window while it rests."""
    was_judged = task.desired_state > TaskState.COMPLETE
    return task.updated_ns if was_judged else now_ns


def attempts_within(
    policy: RestartPolicy, restarts_ns: tuple[int, ...], now_ns: int
) -> tuple[int, ...]:
    """The earlier attempts that still count: those inside the policy's window, or all.

    One that lies ahead was made by another clock and counts as made now: it must neither be
    forgiven nor stay for longer than the window.
    """
    if not policy.window:
        return restarts_ns
    made_ns = (min(at_ns, now_ns) for at_ns in restarts_ns)
    return tuple(at_ns for at_ns in made_ns if at_ns > now_ns - policy.window)


def ended_early(task: Task, status: TaskStatus | None, now_ns: int) -> bool:
    """Whether a delayed replacement failed while its delay still runs, as one does whose image
    does not exist: it is prepared ahead of its time. Its slot stays as it is until then, or
    failing tasks would follow each other without any pause."""
    return (
        task.desired_state is TaskState.READY
        and status is not None
        and status.state in (TaskState.FAILED, TaskState.REJECTED)
        and not is_due(task, now_ns)
    )


def is_due(task: Task, now_ns: int) -> bool:
    """Whether a delayed replacement may run by now.

    Also when its time is further off than twice its whole delay: it was set by another clock (an
    earlier leader's, or this one's before it was set back), and waiting for that one to come
    round could take for ever.
    """
    left_ns = task.not_before_ns - now_ns
    policy = task.spec.restart_policy or DEFAULT_POLICY
    return left_ns <= 0 or left_ns > 2 * restart_delay_ns(policy, max(task.failures, 1))


def restart_delay_ns(policy: RestartPolicy, failures: int) -> int:
    """The wait after `failures` failures in a row (1 or more)."""
    delay_ns = RESTART_DELAY_DEFAULT_NS if policy.delay is None else policy.delay
    doubled_ns = delay_ns << min(failures - 1, DOUBLINGS_MAX)
    if failures > 1:
        doubled_ns = max(doubled_ns, REPEATED_DELAY_NS_MIN)
    limit_ns = policy.backoff_max
    if limit_ns is None or isinstance(limit_ns, UnsetType):
        limit_ns = RESTART_BACKOFF_MAX_DEFAULT_NS
    return min(doubled_ns, max(limit_ns, delay_ns))


def _was_healthy(policy: RestartPolicy, status: TaskStatus | None) -> bool:
    if status is None or status.started_ns == 0:
        return False
    delay_ns = RESTART_DELAY_DEFAULT_NS if policy.delay is None else policy.delay
    ran_ns = status.timestamp_ns - status.started_ns
    return ran_ns >= max(2 * delay_ns, RECOVERED_AFTER_NS_MIN)
