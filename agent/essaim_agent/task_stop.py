"""Before a stop signal: the pre-stop command, and what it leaves of the grace period."""

import logging

from msgspec import UNSET

from essaim_agent.executor import ExecutorError, Temporary, grace_period_s
from essaim_agent.probes.driver import ProbeSite
from essaim_agent.task_machine import one_line
from essaim_shared.log import fields
from essaim_shared.objects import Task

_log = logging.getLogger(__name__)

GRACE_AFTER_PRE_STOP_MIN_S = 2.0
"""Between the stop signal and SIGKILL, when a pre-stop command has used up the grace period; as in
Kubernetes (pkg/kubelet/kuberuntime, minimumGracePeriodInSeconds). Never more than the period."""


class PreStop:
    """Of one task. The command runs once however often the stop is tried, unless the engine or
    this agent is restarted meanwhile."""

    def __init__(self, site: ProbeSite) -> None:
        self._site = site
        self._begun_s: float | None = None

    async def run(self, task: Task) -> float:
        """The seconds that are left of the grace period. Raises Temporary while the engine is
        away; whatever else becomes of the command, the task is stopped."""
        container, clock = task.spec.container, self._site.clock
        grace_s = grace_period_s(container)
        if container.pre_stop is UNSET or container.pre_stop is None:
            return grace_s
        if self._begun_s is None:
            self._begun_s = clock.monotonic_s()
            await self._run_command(task, container.pre_stop.command, grace_s)
        left_s = self._begun_s + grace_s - clock.monotonic_s()
        return max(left_s, min(grace_s, GRACE_AFTER_PRE_STOP_MIN_S))

    async def _run_command(self, task: Task, command: tuple[str, ...], limit_s: float) -> None:
        try:
            exit_code = await self._site.executor.run_command(task, command, limit_s)
            reason = f"exit code {exit_code}" if exit_code else ""
        except Temporary:
            self._begun_s = None  # nobody was told: it is run once the engine is back
            raise
        except ExecutorError as error:
            reason = one_line(str(error))
        if reason:
            _log.warning("pre-stop command failed %s", fields(task=task.id, reason=reason))
