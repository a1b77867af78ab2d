"""What a service spec must satisfy beyond its types, in Docker's sentences where it has one.

Source of texts and limits: swarmkit manager/controlapi/service.go and common.go.
"""

import ipaddress
import re
from collections.abc import Iterable

from msgspec import UnsetType

from essaim_master.control.scheduler.constraints import parse_constraints
from essaim_shared.container_spec import ContainerSpec
from essaim_shared.errors import InvalidRequest
from essaim_shared.limits import NAME_LENGTH_MAX, REPLICAS_MAX
from essaim_shared.spec import Limits, Placement, Reservations, RestartPolicy, ServiceSpec, TaskSpec

NANO_CPUS_MIN = 1_000_000
"""A thousandth of a core."""
MEMORY_BYTES_MIN = 4 * 1024 * 1024
IMAGE_LENGTH_MAX = 255
HOSTNAME_LENGTH_MAX = 63
OOM_SCORE_ADJ_MAX = 1000
"""Either way from 0 (proc(5), oom_score_adj)."""

CONSTRAINT_KEYS = frozenset(
    {"node.id", "node.hostname", "node.ip", "node.role", "node.platform.os", "node.platform.arch"}
)
CONSTRAINT_KEY_PREFIXES = ("node.labels.", "engine.labels.")

_NAME = re.compile(r"[a-zA-Z0-9](?:[a-zA-Z0-9_-]*[a-zA-Z0-9])?")
_HOSTNAME = re.compile(r"[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?")

_PATH = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_DOMAIN = r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?|\[[a-fA-F0-9:]+\])(?::[0-9]+)?"
_IMAGE = re.compile(
    rf"(?:{_DOMAIN}/)?{_PATH}(?:/{_PATH})*"
    r"(?::\w[\w.-]{0,127})?"
    r"(?:@[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,})?",
    re.ASCII,
)
"""The reference grammar (distribution/reference): [domain/]path[:tag][@digest]."""


def check_service_name(name: str) -> None:
    """Raises InvalidRequest unless the name can stand as a label in DNS."""
    if len(name) > NAME_LENGTH_MAX:
        raise _refusal(f"name must be {NAME_LENGTH_MAX} characters or fewer")
    if not _NAME.fullmatch(name):
        raise _refusal("name must be valid as a DNS name component")


def check_service_spec(spec: ServiceSpec) -> None:
    """Raises InvalidRequest with the first thing that is wrong. The name is checked apart: a new
    service may leave it to the server."""
    if not 0 <= spec.replicas <= REPLICAS_MAX:
        raise _refusal(f"Replicas: invalid value {spec.replicas}: must be from 0 to {REPLICAS_MAX}")
    _check_labels("Labels", spec.labels)
    _check_task_spec(spec.task)


def _check_task_spec(task: TaskSpec) -> None:
    _check_container(task.container)
    if task.resources is not None:
        if task.resources.limits is not None:
            _check_resources(task.resources.limits)
            if task.resources.limits.pids < 0:
                raise _refusal(f"Limits: invalid pids value {task.resources.limits.pids}")
        if task.resources.reservations is not None:
            _check_resources(task.resources.reservations)
    if task.restart_policy is not None:
        _check_restart_policy(task.restart_policy)
    if task.placement is not None:
        _check_placement(task.placement)
    if task.force_update < 0:
        raise _refusal("TaskSpec: ForceUpdate cannot be negative")
    _check_not_negative("TaskSpec: stop-when-cut-off", task.stop_when_cut_off)


def _check_container(container: ContainerSpec) -> None:
    if not container.image:
        raise _refusal("ContainerSpec: image reference must be provided")
    if len(container.image) > IMAGE_LENGTH_MAX or not _IMAGE.fullmatch(container.image):
        raise _refusal(f'ContainerSpec: "{container.image}" is not a valid repository/tag')
    if container.hostname and (
        len(container.hostname) > HOSTNAME_LENGTH_MAX or not _HOSTNAME.fullmatch(container.hostname)
    ):
        raise _refusal(f'ContainerSpec: "{container.hostname}" is not a valid hostname')
    _check_not_negative("ContainerSpec: stop-grace-period", container.stop_grace_period)
    _check_labels("ContainerSpec: Labels", container.labels)
    for variable in container.env:
        if not variable or variable.startswith("="):
            raise _refusal(f"ContainerSpec: invalid environment variable: {variable!r}")
    _check_no_nul("Env", container.env)
    _check_no_nul("Command", container.command)
    _check_no_nul("Args", container.args)
    _check_no_nul("Dir", (container.dir,))
    _check_no_nul("User", (container.user,))
    _check_hosts(container.hosts)
    if container.dns_config is not None:
        for address in container.dns_config.nameservers:
            if not _is_address(address):
                raise _refusal(f"ContainerSpec: DNS nameserver {address!r} is not an IP address")
    if abs(container.oom_score_adj) > OOM_SCORE_ADJ_MAX:
        raise _refusal(
            f"ContainerSpec: invalid oom-score-adj {container.oom_score_adj}: "
            f"must be from -{OOM_SCORE_ADJ_MAX} to {OOM_SCORE_ADJ_MAX}"
        )


def _check_resources(resources: Limits | Reservations) -> None:
    if resources.nano_cpus != 0 and resources.nano_cpus < NANO_CPUS_MIN:
        raise _refusal(
            f"invalid cpu value {resources.nano_cpus / 1e9:g}: "
            f"Must be at least {NANO_CPUS_MIN / 1e9:g}"
        )
    if resources.memory_bytes != 0 and resources.memory_bytes < MEMORY_BYTES_MIN:
        raise _refusal(f"invalid memory value {resources.memory_bytes}: Must be at least 4MiB")


def _check_restart_policy(policy: RestartPolicy) -> None:
    _check_not_negative("TaskSpec: restart-delay", policy.delay)
    _check_not_negative("TaskSpec: restart-max-attempts", policy.max_attempts)
    _check_not_negative("TaskSpec: restart-backoff-max", policy.backoff_max)


def _check_placement(placement: Placement) -> None:
    if placement.max_replicas < 0:
        raise _refusal("Placement: MaxReplicas cannot be negative")
    for constraint in parse_constraints(placement.constraints):
        key = constraint.key
        if key not in CONSTRAINT_KEYS and not key.startswith(CONSTRAINT_KEY_PREFIXES):
            raise _refusal(
                f"constraint key '{key}' is unknown: it must be one of "
                f"{', '.join(sorted(CONSTRAINT_KEYS))}, node.labels.NAME, engine.labels.NAME"
            )


def _check_hosts(hosts: Iterable[str]) -> None:
    for line in hosts:
        words = line.split()
        if len(words) < 2 or not _is_address(words[0]) or "\n" in line:
            raise _refusal(f"ContainerSpec: invalid host entry {line!r}: it must be ADDRESS NAME")


def _check_labels(where: str, labels: dict[str, str]) -> None:
    if "" in labels:
        raise _refusal(f"{where}: the name of a label cannot be empty")


def _check_no_nul(where: str, values: Iterable[str]) -> None:
    """A NUL ends a string in execve(2): what follows would be lost without a word."""
    for value in values:
        if "\0" in value:
            raise _refusal(f"ContainerSpec: {where} holds a NUL character: {value!r}")


def _check_not_negative(what: str, value: int | UnsetType | None) -> None:
    if isinstance(value, int) and value < 0:
        raise _refusal(f"{what} cannot be negative")


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _refusal(sentence: str) -> InvalidRequest:
    return InvalidRequest(f"rpc error: code = InvalidArgument desc = {sentence}")
