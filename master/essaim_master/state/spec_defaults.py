"""What holds where a spec says nothing (swarmkit api/defaults/service.go). Pure."""

import msgspec

from essaim_shared.container_spec import DnsConfig
from essaim_shared.limits import (
    RESTART_DELAY_DEFAULT_NS,
    STOP_GRACE_PERIOD_DEFAULT_NS,
    UPDATE_MONITOR_DEFAULT_NS,
    UPDATE_PARALLELISM_DEFAULT,
)
from essaim_shared.spec import (
    EndpointSpec,
    Placement,
    Resources,
    RestartPolicy,
    ServiceSpec,
    TaskSpec,
    UpdateConfig,
)

DEFAULT_UPDATE = UpdateConfig(
    parallelism=UPDATE_PARALLELISM_DEFAULT,
    failure_action="pause",
    monitor=UPDATE_MONITOR_DEFAULT_NS,
    order="stop-first",
)
"""Where there is no update config at all; one that names no parallelism means all at once."""


def with_defaults(spec: ServiceSpec) -> ServiceSpec:
    """The spec with everything said. Jobs are not updated in steps, so they have no config of it.

    `insertDefaults=true` shows it; docker-py reads that and writes it back, even to scale."""
    has_updates = not spec.mode.is_job
    return msgspec.structs.replace(
        spec,
        task=task_with_defaults(spec.task),
        endpoint=spec.endpoint or EndpointSpec(mode="vip"),
        update_config=_update_with_defaults(spec.update_config) if has_updates else None,
        rollback_config=_update_with_defaults(spec.rollback_config) if has_updates else None,
    )


def task_with_defaults(task: TaskSpec) -> TaskSpec:
    container = task.container
    if container.stop_grace_period is None:
        container = msgspec.structs.replace(
            container, stop_grace_period=STOP_GRACE_PERIOD_DEFAULT_NS
        )
    if container.dns_config is None:
        container = msgspec.structs.replace(container, dns_config=DnsConfig())
    policy = task.restart_policy or RestartPolicy()
    if policy.delay is None:
        policy = msgspec.structs.replace(policy, delay=RESTART_DELAY_DEFAULT_NS)
    if policy.max_attempts is None:
        policy = msgspec.structs.replace(policy, max_attempts=0)
    return msgspec.structs.replace(
        task,
        container=container,
        restart_policy=policy,
        resources=task.resources or Resources(),
        placement=task.placement or Placement(),
    )


def _update_with_defaults(config: UpdateConfig | None) -> UpdateConfig:
    if config is None:
        return DEFAULT_UPDATE
    if config.monitor is not None:
        return config
    return msgspec.structs.replace(config, monitor=UPDATE_MONITOR_DEFAULT_NS)
