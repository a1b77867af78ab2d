"""What a user asks for: services and nodes, in the shapes of Docker's Engine API.

`spec_base` tells what names, durations and Essaim fields are; the container of a task has a file
of its own, `container_spec`.
"""

from typing import Literal

from msgspec import UNSET, UnsetType

from essaim_shared.container_spec import ContainerSpec
from essaim_shared.spec_base import Spec


class Limits(Spec, frozen=True, kw_only=True):
    nano_cpus: int = 0
    memory_bytes: int = 0
    pids: int = 0


class NamedResource(Spec, frozen=True, kw_only=True):
    """One unit that has a name, as a certain GPU."""

    kind: str
    resource_value: str


class DiscreteResource(Spec, frozen=True, kw_only=True):
    """A number of units that are all the same."""

    kind: str
    resource_value: int


class GenericResource(Spec, frozen=True, kw_only=True):
    """Exactly one of the two. A reservation is always discrete: which units a task gets, if they
    have names, the scheduler decides (`Task.generic_resources`)."""

    named: NamedResource | None = None
    discrete: DiscreteResource | None = None


class Reservations(Spec, frozen=True, kw_only=True):
    nano_cpus: int = 0
    memory_bytes: int = 0
    generic_resources: tuple[GenericResource, ...] = ()


class Resources(Spec, frozen=True, kw_only=True):
    limits: Limits | None = None
    reservations: Reservations | None = None
    swap_bytes: int | None = None
    """Swap beside the memory limit; -1: no limit."""
    memory_swappiness: int | None = None


class RestartPolicy(Spec, frozen=True, kw_only=True):
    condition: Literal["none", "on-failure", "any"] = "any"
    delay: int | None = None
    """Nanoseconds before the first replacement of an ended task; 5 s when absent. Each further
    failure in a row doubles it."""
    max_attempts: int | None = None
    """Replacements of a slot before it is given up; absent, 0 or over 1000 means no limit. A task
    that its node lost uses up none."""
    window: int | None = None
    """Nanoseconds: only the replacements made in so long a time before now count as attempts;
    absent or 0 means all of them."""
    backoff_max: int | UnsetType | None = UNSET
    """Essaim field: where the doubling of `delay` ends, nanoseconds; 5 minutes when unset."""


class Platform(Spec, frozen=True, kw_only=True):
    architecture: str = ""
    os: str = ""


class Spread(Spec, frozen=True, kw_only=True):
    spread_descriptor: str
    """`node.labels.NAME`, `engine.labels.NAME` or another key of constraints."""


class PlacementPreference(Spec, frozen=True, kw_only=True):
    spread: Spread


class Placement(Spec, frozen=True, kw_only=True):
    constraints: tuple[str, ...] = ()
    """`KEY==VALUE` or `KEY!=VALUE`; all must hold."""
    preferences: tuple[PlacementPreference, ...] = ()
    """The first spreads over the values of its key, the second within each of them, and so on."""
    max_replicas: int = 0
    """Of the service on one node; 0 means no limit."""
    platforms: tuple[Platform, ...] = ()


class LogDriver(Spec, frozen=True, kw_only=True):
    name: str = ""
    driver_options: dict[str, str] = {}


class NetworkAttachment(Spec, frozen=True, kw_only=True):
    """A network that a service's tasks are on."""

    target: str
    """The network's id; in a request also its name or a unique part of its id."""
    aliases: tuple[str, ...] = ()
    """Further names of the service on this network, for others there."""
    driver_opts: dict[str, str] = {}


class TaskSpec(Spec, frozen=True, kw_only=True):
    """How to run one task of a service. A change of it replaces the service's tasks, but for what
    can be changed in place (`control/dirty.py`)."""

    container: ContainerSpec
    resources: Resources | None = None
    restart_policy: RestartPolicy | None = None
    placement: Placement | None = None
    log_driver: LogDriver | None = None
    """Absent: the engine's own driver, with rotation where it is `json-file` or `local`."""
    networks: tuple[NetworkAttachment, ...] = ()
    """In the order in which they were asked for: the default route goes by the first that is not
    internal. Empty: the default network."""
    force_update: int = 0
    runtime: Literal["", "container"] = ""
    stop_when_cut_off: int | UnsetType | None = UNSET
    """Essaim field: a node that hears no master for this long (nanoseconds) stops the task,
    for work that must never run twice. Unset: the task runs on."""


class ReplicatedMode(Spec, frozen=True, kw_only=True):
    replicas: int | None = None
    """Absent means 1 and is stored as 1: `docker` needs the number back."""


class GlobalMode(Spec, frozen=True, kw_only=True):
    """One task on every node that is ready, active and satisfies the constraints."""


class ReplicatedJobMode(Spec, frozen=True, kw_only=True):
    max_concurrent: int | None = None
    """Tasks at the same time; absent means 1."""
    total_completions: int | None = None
    """Absent means `max_concurrent`. Both are stored once known."""


class GlobalJobMode(Spec, frozen=True, kw_only=True):
    """One task on every such node, until each has completed once."""


class ServiceMode(Spec, frozen=True, kw_only=True):
    """Exactly one is given."""

    replicated: ReplicatedMode | None = None
    global_: GlobalMode | None = None
    replicated_job: ReplicatedJobMode | None = None
    global_job: GlobalJobMode | None = None

    @property
    def is_job(self) -> bool:
        return self.replicated_job is not None or self.global_job is not None

    @property
    def is_global(self) -> bool:
        """One task for each node: a global service or a global job."""
        return self.global_ is not None or self.global_job is not None


class Schedule(Spec, frozen=True, kw_only=True):
    """Makes a replicated job a cron job: it runs at these times instead of once."""

    expression: str
    """Five fields, as crontab(5), or `@hourly` and its like."""
    time_zone: str = "UTC"
    """A name of the IANA database."""
    concurrency: Literal["allow", "forbid", "replace"] = "allow"
    """What a run does that is due while an earlier one is under way: start beside it, be skipped,
    or take its place."""
    missed: Literal["skip", "run-once"] = "skip"
    """What becomes of times at which no leader could start the run."""
    history: int = 5
    """Finished runs that are kept, with their tasks."""
    is_suspended: bool = False


class UpdateConfig(Spec, frozen=True, kw_only=True):
    """How a change reaches the tasks, of an update or of a rollback. Without it, the defaults of
    `docker service create` hold: one at a time, stop-first, paused at the first failure."""

    parallelism: int = 0
    """Slots changed at the same time; 0: all at once."""
    delay: int = 0
    """Nanoseconds between one batch's success and the next batch."""
    failure_action: Literal["", "pause", "continue", "rollback"] = ""
    """Empty means `pause`. A rollback's is never `rollback`."""
    monitor: int | None = None
    """Nanoseconds after a task's start in which its failure counts; 5 s when absent."""
    max_failure_ratio: float = 0.0
    order: Literal["", "stop-first", "start-first"] = ""
    """Empty means `stop-first`."""
    progress_deadline: int | UnsetType | None = UNSET
    """Essaim field: nanoseconds in which at least one more slot must have been changed, or else
    the update has failed; 10 minutes when unset, 0 for no deadline."""
    steps: tuple[int, ...] | UnsetType | None = UNSET
    """Essaim field: percentages of the slots, growing. The update pauses after each but the last
    until it is promoted (`Service.promotions`)."""


class PortConfig(Spec, frozen=True, kw_only=True):
    name: str = ""
    protocol: Literal["tcp", "udp", "sctp"] = "tcp"
    target_port: int
    published_port: int = 0
    publish_mode: Literal["", "ingress", "host"] = "ingress"


class EndpointSpec(Spec, frozen=True, kw_only=True):
    mode: Literal["", "vip", "dnsrr"] = ""
    ports: tuple[PortConfig, ...] = ()
    affinity: Literal["", "client-ip"] | UnsetType | None = UNSET
    """Essaim field. `client-ip`: connections of one client address go to the same task as long as
    the set of tasks stays the same."""
    force_ports: bool | UnsetType | None = UNSET
    """Essaim field: publish also ports that nodes listen on, and Essaim's own."""


class ServiceSpec(Spec, frozen=True, kw_only=True):
    name: str = ""
    labels: dict[str, str] = {}
    task: TaskSpec
    mode: ServiceMode = ServiceMode()
    update_config: UpdateConfig | None = None
    rollback_config: UpdateConfig | None = None
    endpoint: EndpointSpec | None = None
    schedule: Schedule | UnsetType | None = UNSET
    """Essaim field: a replicated job that runs at these times."""

    @property
    def replicas(self) -> int:
        """Tasks that a replicated service wants; 0 in the other modes."""
        if self.mode.replicated is not None:
            replicas = self.mode.replicated.replicas
            return 1 if replicas is None else replicas
        return 0 if self.mode.is_global or self.mode.is_job else 1


class NodeSpec(Spec, frozen=True, kw_only=True):
    name: str = ""
    labels: dict[str, str] = {}
    role: Literal["worker", "manager"] = "worker"
    """What clients write back. The role that is shown and that constraints see follows from where
    masters run, not from here."""
    availability: Literal["active", "pause", "drain"] = "active"
