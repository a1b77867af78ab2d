"""The service around its task template: name, mode, updates, ports, schedule."""

import itertools
import re

from msgspec import UnsetType

from essaim_master.control.cron_expression import parse_expression, zone_named
from essaim_master.http.validation.task import check_task_spec
from essaim_master.http.validation.words import (
    check_labels,
    check_not_negative,
    check_port,
    refusal,
)
from essaim_shared import templates
from essaim_shared.errors import TemplateError
from essaim_shared.limits import INGRESS_PORTS_MAX, NAME_LENGTH_MAX, REPLICAS_MAX
from essaim_shared.spec import EndpointSpec, Schedule, ServiceMode, ServiceSpec, UpdateConfig

PERCENT = 100
SCHEDULE_HISTORY_MAX = 100
PORTS_MAX = 256
"""Of one service: each is a rule on every node where it runs."""

_NAME = re.compile(r"[a-zA-Z0-9](?:[a-zA-Z0-9_-]*[a-zA-Z0-9])?")


def check_service_name(name: str) -> None:
    """Raises InvalidRequest unless the name can stand as a label in DNS."""
    if len(name) > NAME_LENGTH_MAX:
        raise refusal(f"name must be {NAME_LENGTH_MAX} characters or fewer")
    if not _NAME.fullmatch(name):
        raise refusal("name must be valid as a DNS name component")


def check_service_spec(spec: ServiceSpec) -> None:
    """Raises InvalidRequest or NotSupported with the first thing that is wrong. The name is
    checked apart: a new service may leave it to the server."""
    _check_mode(spec.mode)
    check_labels("Labels", spec.labels)
    check_task_spec(spec.task)
    _check_templates(spec)
    if spec.mode.is_job:
        if spec.update_config is not None or spec.rollback_config is not None:
            raise refusal("update and rollback configuration is not supported for jobs")
    else:
        _check_update("UpdateConfig", spec.update_config)
        _check_rollback(spec.rollback_config)
    placement = spec.task.placement
    if spec.mode.is_global and placement is not None and placement.max_replicas:
        raise refusal(
            "Placement: MaxReplicas can only be used with replicated or replicated-job mode"
        )
    _check_endpoint(spec.endpoint)
    _check_schedule(spec.schedule, spec.mode)


def _check_templates(spec: ServiceSpec) -> None:
    """What no node could expand, its author hears now instead of every task of the service."""
    try:
        templates.check_container(spec.task.container, spec.name, spec.labels)
    except TemplateError as error:
        raise refusal(str(error)) from error


def _check_mode(mode: ServiceMode) -> None:
    given = (mode.replicated, mode.global_, mode.replicated_job, mode.global_job)
    if sum(one is not None for one in given) > 1:
        raise refusal("must specify only one service mode")
    if mode.replicated is not None:
        _check_count("Replicas", mode.replicated.replicas)
    job = mode.replicated_job
    if job is None:
        return
    _check_count("MaxConcurrent", job.max_concurrent)
    _check_count("TotalCompletions", job.total_completions)
    if job.max_concurrent == 0 and job.total_completions != 0:
        raise refusal("MaxConcurrent: with 0 tasks at a time the job would never run")


def _check_count(what: str, count: int | None) -> None:
    if count is not None and not 0 <= count <= REPLICAS_MAX:
        raise refusal(f"{what}: invalid value {count}: must be from 0 to {REPLICAS_MAX}")


def _check_update(where: str, config: UpdateConfig | None) -> None:
    if config is None:
        return
    check_not_negative(f"{where}: Parallelism", config.parallelism)
    check_not_negative("TaskSpec: update-delay", config.delay)
    check_not_negative("TaskSpec: update-monitor", config.monitor)
    check_not_negative(f"{where}: ProgressDeadline", config.progress_deadline)
    if not 0 <= config.max_failure_ratio <= 1:
        raise refusal("TaskSpec: update-maxfailureratio cannot be less than 0 or bigger than 1")
    if isinstance(config.steps, tuple):
        _check_steps(where, config.steps)


def _check_steps(where: str, steps: tuple[int, ...]) -> None:
    if not steps:
        return
    is_growing = all(before < after for before, after in itertools.pairwise(steps))
    if not is_growing or steps[0] < 1 or steps[-1] > PERCENT:
        raise refusal(
            f"{where}: invalid Steps {', '.join(map(str, steps))}: they are percentages that "
            f"grow from 1 to at most {PERCENT}"
        )


def _check_rollback(config: UpdateConfig | None) -> None:
    _check_update("RollbackConfig", config)
    if config is None:
        return
    if config.failure_action == "rollback":
        raise refusal(
            "RollbackConfig: FailureAction must be pause or continue: a rollback that fails is "
            "not rolled back"
        )
    if config.steps:
        raise refusal("RollbackConfig: a rollback is not made in steps")


def _check_endpoint(endpoint: EndpointSpec | None) -> None:
    if endpoint is None:
        return
    if len(endpoint.ports) > PORTS_MAX:
        raise refusal(f"EndpointSpec: at most {PORTS_MAX} ports can be published")
    ingress_count = sum(port.publish_mode != "host" for port in endpoint.ports)
    if ingress_count > INGRESS_PORTS_MAX:
        raise refusal(
            f"EndpointSpec: at most {INGRESS_PORTS_MAX} ports can be published in ingress mode"
        )
    published: set[tuple[int, str]] = set()
    for port in endpoint.ports:
        check_port("EndpointSpec: TargetPort", port.target_port)
        check_port("EndpointSpec: PublishedPort", port.published_port, least=0)
        if port.publish_mode != "host" and endpoint.mode == "dnsrr":
            raise refusal(
                "EndpointSpec: port published with ingress mode can't be used with dnsrr mode"
            )
        address = (port.published_port, port.protocol)
        if port.published_port and address in published:
            raise refusal("EndpointSpec: duplicate published ports provided")
        published.add(address)


def _check_schedule(schedule: Schedule | UnsetType | None, mode: ServiceMode) -> None:
    if not isinstance(schedule, Schedule):
        return
    if mode.replicated_job is None:
        raise refusal("Schedule: only a replicated job can run by a schedule")
    parse_expression(schedule.expression)
    zone_named(schedule.time_zone)
    if not 0 <= schedule.history <= SCHEDULE_HISTORY_MAX:
        raise refusal(
            f"Schedule: invalid History {schedule.history}: must be from 0 to "
            f"{SCHEDULE_HISTORY_MAX}"
        )
