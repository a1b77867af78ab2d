"""What `update_config` or `rollback_config` means, with the defaults filled in. Pure."""

import math

import msgspec
from msgspec import UnsetType

from essaim_master.state.spec_defaults import DEFAULT_UPDATE
from essaim_shared.limits import (
    UPDATE_MONITOR_DEFAULT_NS,
    UPDATE_PROGRESS_DEADLINE_DEFAULT_NS,
)
from essaim_shared.objects import Service
from essaim_shared.spec import UpdateConfig

ALL_SLOTS = 100
"""Percent: where every update ends, whether its steps say so or not."""


class UpdatePolicy(msgspec.Struct, frozen=True):
    """How the slots of a service are changed."""

    parallelism: int
    """Slots at the same time; 0: all."""
    delay_ns: int
    monitor_ns: int
    max_failure_ratio: float
    failure_action: str
    """`pause`, `continue` or `rollback`."""
    is_start_first: bool
    deadline_ns: int
    """0: none."""
    steps: tuple[int, ...]
    """Percentages, growing; the last is `ALL_SLOTS`."""

    def quota(self, slots: int, promotions: int) -> int:
        """How many of `slots` may have the new template, after so many promotions."""
        percent = self.steps[min(promotions, len(self.steps) - 1)]
        return math.ceil(slots * percent / ALL_SLOTS)


def policy_of(service: Service) -> UpdatePolicy:
    """A rollback has its own configuration. It takes no steps, since it goes back to what ran
    before, and is never rolled back itself."""
    spec = service.spec
    config = spec.rollback_config if service.is_rollback else spec.update_config
    if config is None:
        config = DEFAULT_UPDATE
    action = config.failure_action or "pause"
    deadline_ns = config.progress_deadline
    if deadline_ns is None or isinstance(deadline_ns, UnsetType):
        deadline_ns = UPDATE_PROGRESS_DEADLINE_DEFAULT_NS
    return UpdatePolicy(
        parallelism=config.parallelism,
        delay_ns=config.delay,
        monitor_ns=UPDATE_MONITOR_DEFAULT_NS if config.monitor is None else config.monitor,
        max_failure_ratio=config.max_failure_ratio,
        failure_action="pause" if service.is_rollback and action == "rollback" else action,
        is_start_first=config.order == "start-first",
        deadline_ns=deadline_ns,
        steps=(ALL_SLOTS,) if service.is_rollback else _steps(config),
    )


def _steps(config: UpdateConfig) -> tuple[int, ...]:
    steps = config.steps
    if not steps or isinstance(steps, UnsetType):
        return (ALL_SLOTS,)
    return steps if steps[-1] >= ALL_SLOTS else (*steps, ALL_SLOTS)
