"""What a user asks for: the specs of Docker's Engine API, as frozen values.

The JSON names are Docker's (`docker_names`). Durations are integer nanoseconds, as on Docker's
wire. A field that Essaim cannot honour is not defined here, so the HTTP edge refuses it by name
instead of dropping it.

Fields that Docker does not have are *Essaim fields*: typed `… | UnsetType | None`. Docker's
clients read, change and write back without them, so on update an absent one keeps its value and
only an explicit null clears it (`keep_essaim_fields`).
"""

from typing import Any, Literal, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from essaim_shared.docker_names import docker_name


class Spec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename=docker_name):
    """Base of all specs: absent fields are not written, as Docker's `omitempty` does."""


class DnsConfig(Spec, frozen=True, kw_only=True):
    nameservers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


class ContainerSpec(Spec, frozen=True, kw_only=True):
    image: str
    labels: dict[str, str] = {}
    command: tuple[str, ...] = ()
    """Replaces the image's entry point."""
    args: tuple[str, ...] = ()
    """Replaces the image's command."""
    hostname: str = ""
    env: tuple[str, ...] = ()
    dir: str = ""
    user: str = ""
    stop_signal: str = ""
    stop_grace_period: int | None = None
    """Nanoseconds between the stop signal and SIGKILL; 10 s when absent."""
    init: bool | None = None
    tty: bool = False
    open_stdin: bool = False
    read_only: bool = False
    hosts: tuple[str, ...] = ()
    """Lines for /etc/hosts in its own order: `ADDRESS NAME…`."""
    dns_config: DnsConfig | None = None
    sysctls: dict[str, str] = {}
    capability_add: tuple[str, ...] = ()
    capability_drop: tuple[str, ...] = ()
    oom_score_adj: int = 0
    isolation: Literal["", "default"] = ""
    """Windows has others."""


class Limits(Spec, frozen=True, kw_only=True):
    nano_cpus: int = 0
    memory_bytes: int = 0
    pids: int = 0


class Reservations(Spec, frozen=True, kw_only=True):
    nano_cpus: int = 0
    memory_bytes: int = 0


class Resources(Spec, frozen=True, kw_only=True):
    limits: Limits | None = None
    reservations: Reservations | None = None


class RestartPolicy(Spec, frozen=True, kw_only=True):
    condition: Literal["none", "on-failure", "any"] = "any"
    delay: int | None = None
    """Nanoseconds before the first replacement of an ended task; 5 s when absent. Each further
    failure in a row doubles it."""
    max_attempts: int | None = None
    """Replacements of a slot before it is given up; absent or 0 means no limit."""
    backoff_max: int | UnsetType | None = UNSET
    """Essaim field: where the doubling of `delay` ends, nanoseconds; 5 minutes when unset."""


class Platform(Spec, frozen=True, kw_only=True):
    architecture: str = ""
    os: str = ""


class Placement(Spec, frozen=True, kw_only=True):
    constraints: tuple[str, ...] = ()
    """`KEY==VALUE` or `KEY!=VALUE`; all must hold."""
    max_replicas: int = 0
    """Of the service on one node; 0 means no limit."""
    platforms: tuple[Platform, ...] = ()


class TaskSpec(Spec, frozen=True, kw_only=True):
    """How to run one task of a service. A change of it replaces the service's tasks."""

    container: ContainerSpec
    resources: Resources | None = None
    restart_policy: RestartPolicy | None = None
    placement: Placement | None = None
    force_update: int = 0
    runtime: Literal["", "container"] = ""
    stop_when_cut_off: int | UnsetType | None = UNSET
    """Essaim field: a node that hears no master for this long (nanoseconds) stops the task,
    for work that must never run twice. Unset: the task runs on."""


class ReplicatedMode(Spec, frozen=True, kw_only=True):
    replicas: int | None = None
    """Absent means 1 and is stored as 1: `docker` needs the number back."""


class ServiceMode(Spec, frozen=True, kw_only=True):
    replicated: ReplicatedMode | None = None


class EndpointSpec(Spec, frozen=True, kw_only=True):
    mode: Literal["", "vip", "dnsrr"] = ""


class ServiceSpec(Spec, frozen=True, kw_only=True):
    name: str = ""
    labels: dict[str, str] = {}
    task: TaskSpec
    mode: ServiceMode = ServiceMode()
    endpoint: EndpointSpec | None = None

    @property
    def replicas(self) -> int:
        replicated = self.mode.replicated
        if replicated is None or replicated.replicas is None:
            return 1
        return replicated.replicas


class NodeSpec(Spec, frozen=True, kw_only=True):
    name: str = ""
    labels: dict[str, str] = {}
    role: Literal["worker", "manager"] = "worker"
    """What clients write back. The role that is shown and that constraints see follows from where
    masters run, not from here."""
    availability: Literal["active", "pause", "drain"] = "active"


S = TypeVar("S", bound=Spec)


def keep_essaim_fields(new: S, old: S) -> S:
    """`new` with each unset Essaim field taken from the same place of `old`; nulls cleared.

    Structs are walked together; lists are not, since their elements have no identity.
    """
    changes: dict[str, Any] = {}
    for field in new.__struct_fields__:
        wanted, present = getattr(new, field), getattr(old, field)
        if wanted is UNSET:
            if present is not UNSET:
                changes[field] = present
        elif isinstance(wanted, Spec) and isinstance(present, type(wanted)):
            changes[field] = keep_essaim_fields(wanted, present)
    return msgspec.structs.replace(new, **changes) if changes else new
