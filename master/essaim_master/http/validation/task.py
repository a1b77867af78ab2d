"""The task template but for its container: resources, restarts, placement, logs, networks."""

import re
from collections.abc import Sequence

from essaim_master.control.scheduler.constraints import parse_constraints
from essaim_master.http.validation.container import check_container
from essaim_master.http.validation.words import (
    check_distinct,
    check_no_nul,
    check_not_negative,
    refusal,
)
from essaim_shared.errors import NotSupported
from essaim_shared.limits import ALIASES_MAX, SERVICE_NETWORKS_MAX
from essaim_shared.spec import (
    GenericResource,
    Limits,
    LogDriver,
    NetworkAttachment,
    Placement,
    Reservations,
    Resources,
    RestartPolicy,
    TaskSpec,
)

NANO_CPUS_MIN = 1_000_000
"""A thousandth of a core."""
MEMORY_BYTES_MIN = 4 * 1024 * 1024
SWAPPINESS_MAX = 100
PREFERENCES_MAX = 8
"""Each is one more level of the tree that the scheduler walks for each task."""

DNS_NAME_LENGTH_MAX = 253
_DNS_LABEL = r"[a-zA-Z0-9_](?:[a-zA-Z0-9_-]{0,61}[a-zA-Z0-9_])?"
_DNS_NAME = re.compile(rf"{_DNS_LABEL}(?:\.{_DNS_LABEL})*")
"""RFC 1035, 2.3.1 and 2.3.4, and underscores, which compose files have in names."""

CONSTRAINT_KEYS = frozenset(
    {"node.id", "node.hostname", "node.ip", "node.role", "node.platform.os", "node.platform.arch"}
)
LABEL_PREFIXES = ("node.labels.", "engine.labels.")


def check_task_spec(task: TaskSpec) -> None:
    check_container(task.container)
    if task.resources is not None:
        _check_resources(task.resources)
    if task.restart_policy is not None:
        _check_restart_policy(task.restart_policy)
    if task.placement is not None:
        _check_placement(task.placement)
    if task.log_driver is not None:
        _check_log_driver(task.log_driver)
    _check_networks(task.networks)
    check_not_negative("TaskSpec: ForceUpdate", task.force_update)
    check_not_negative("TaskSpec: stop-when-cut-off", task.stop_when_cut_off)


def _check_resources(resources: Resources) -> None:
    memory_limit = 0
    if resources.limits is not None:
        _check_amounts(resources.limits)
        memory_limit = resources.limits.memory_bytes
        if resources.limits.pids < 0:
            raise refusal(f"Limits: invalid pids value {resources.limits.pids}")
    if resources.reservations is not None:
        _check_amounts(resources.reservations)
        _check_generic_resources(resources.reservations.generic_resources)
    swap = resources.swap_bytes
    if swap is not None:
        if swap < -1:
            raise refusal(f"Resources: invalid SwapBytes {swap}: must be -1 (no limit) or more")
        if not memory_limit:
            raise refusal("Resources: SwapBytes needs a memory limit beside it")
    swappiness = resources.memory_swappiness
    if swappiness is not None and not -1 <= swappiness <= SWAPPINESS_MAX:
        raise refusal(
            f"Resources: invalid MemorySwappiness {swappiness}: must be from 0 to "
            f"{SWAPPINESS_MAX}, or -1 for the node's own"
        )


def _check_amounts(amounts: Limits | Reservations) -> None:
    if amounts.nano_cpus != 0 and amounts.nano_cpus < NANO_CPUS_MIN:
        raise refusal(
            f"invalid cpu value {amounts.nano_cpus / 1e9:g}: "
            f"Must be at least {NANO_CPUS_MIN / 1e9:g}"
        )
    if amounts.memory_bytes != 0 and amounts.memory_bytes < MEMORY_BYTES_MIN:
        raise refusal(f"invalid memory value {amounts.memory_bytes}: Must be at least 4MiB")


def _check_generic_resources(resources: Sequence[GenericResource]) -> None:
    """A task asks for a number; which units it gets is the scheduler's choice."""
    for resource in resources:
        if resource.named is not None:
            raise refusal(
                f"invalid argument for resource {resource.named.kind}: "
                "a reservation is a number of units, not the name of one"
            )
        if resource.discrete is None:
            raise refusal("Reservations: a generic resource names neither kind nor value")
        if not resource.discrete.kind:
            raise refusal("Reservations: the kind of a generic resource cannot be empty")
        if resource.discrete.resource_value < 1:
            raise refusal(
                f"invalid argument for resource {resource.discrete.kind}: must be at least 1"
            )
    check_distinct(
        "Reservations: generic resource",
        (resource.discrete.kind for resource in resources if resource.discrete is not None),
    )


def _check_restart_policy(policy: RestartPolicy) -> None:
    check_not_negative("TaskSpec: restart-delay", policy.delay)
    check_not_negative("TaskSpec: restart-max-attempts", policy.max_attempts)
    check_not_negative("TaskSpec: restart-window", policy.window)
    check_not_negative("TaskSpec: restart-backoff-max", policy.backoff_max)


def _check_placement(placement: Placement) -> None:
    check_not_negative("Placement: MaxReplicas", placement.max_replicas)
    for constraint in parse_constraints(placement.constraints):
        key = constraint.key
        if key not in CONSTRAINT_KEYS and not key.startswith(LABEL_PREFIXES):
            raise refusal(
                f"constraint key '{key}' is unknown: it must be one of "
                f"{', '.join(sorted(CONSTRAINT_KEYS))}, node.labels.NAME, engine.labels.NAME"
            )
    if len(placement.preferences) > PREFERENCES_MAX:
        raise refusal(f"Placement: at most {PREFERENCES_MAX} preferences can be given")
    for preference in placement.preferences:
        _check_spread(preference.spread.spread_descriptor)


def _check_spread(descriptor: str) -> None:
    key = descriptor.lower()
    has_name = any(key.startswith(prefix) and len(key) > len(prefix) for prefix in LABEL_PREFIXES)
    if key not in CONSTRAINT_KEYS and not has_name:
        raise refusal(
            f"Placement: cannot spread over '{descriptor}': it must be node.labels.NAME, "
            f"engine.labels.NAME or one of {', '.join(sorted(CONSTRAINT_KEYS))}"
        )


def _check_log_driver(driver: LogDriver) -> None:
    if set(driver.name) & set(" \t\r\n\0"):
        raise refusal(f"LogDriver: {driver.name!r} is no name of a driver")
    if "" in driver.driver_options:
        raise refusal("LogDriver: the name of an option cannot be empty")
    check_no_nul("LogDriver", (*driver.driver_options, *driver.driver_options.values()))


def _check_networks(attachments: Sequence[NetworkAttachment]) -> None:
    if len(attachments) > SERVICE_NETWORKS_MAX:
        raise refusal(f"Networks: a service can be on at most {SERVICE_NETWORKS_MAX} networks")
    for attachment in attachments:
        if not attachment.target:
            raise refusal("Networks: the target of a network cannot be empty")
        if attachment.driver_opts:
            raise NotSupported(
                f"the driver option {min(attachment.driver_opts)} of network {attachment.target} "
                "is not supported: there are none for single services"
            )
        if len(attachment.aliases) > ALIASES_MAX:
            raise refusal(
                f"Networks: at most {ALIASES_MAX} aliases can be given on network "
                f"{attachment.target}"
            )
        for alias in attachment.aliases:
            if len(alias) > DNS_NAME_LENGTH_MAX or not _DNS_NAME.fullmatch(alias):
                raise refusal(f"Networks: the alias {alias!r} is not valid as a DNS name")
