"""What the cluster stores: one struct for each kind of object, packed as msgpack.

*spec* is what was asked, *status* is what was seen; they stand under different keys because they
have different writers, so neither ever waits for or overwrites the other. Each class names its
key and its one writer. An object's version is the revision of its key and is not stored in it.
"""

from typing import Literal

import msgspec

from essaim_shared.ids import MemberId, NetworkId, NodeId, ServiceId, TaskId
from essaim_shared.limits import TASK_HISTORY_PER_SLOT
from essaim_shared.spec import (
    GenericResource,
    NodeSpec,
    PortConfig,
    Schedule,
    ServiceSpec,
    TaskSpec,
)
from essaim_shared.task_state import TaskState


class Stored(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of all stored objects."""


class Service(Stored, frozen=True, kw_only=True):
    """`/services/ID`, written by the API (any master, guarded by its version). The leader's
    updater rolls a service back as a user would: by the same guarded write."""

    id: ServiceId
    spec: ServiceSpec
    previous_spec: ServiceSpec | None = None
    spec_version: int = 1
    """Grows by one whenever the task template changes; tasks carry the one they were made from."""
    generation: int = 1
    """Grows by one with every accepted update, a scaling too: it ends what `UpdateStatus` says of
    an earlier one, so that an update which was paused goes on."""
    is_rollback: bool = False
    """Whether the present spec came by a rollback, a user's or the updater's: it then goes on by
    `rollback_config`, and `UpdateStatus` says so."""
    promotions: int = 0
    """How many steps of the present template's update a user has promoted; 0 again with each
    change of `spec_version`."""
    revision: int = 1
    """Number of the present spec in the service's history (`ServiceRevision`)."""
    job_iteration: int = 0
    """Of a job: grows with every update, which runs it anew. 0 for the first run."""
    executed_ns: int = 0
    """Of a job: when its present iteration was asked for."""
    followed: dict[str, int] = {}
    """By the ids of secrets and configs: the newest data that the service was brought to, where
    it has gone back to older by a rollback."""
    created_ns: int
    updated_ns: int


class ServiceRevision(Stored, frozen=True, kw_only=True):
    """`/service_revisions/SERVICE/NUMBER`, written by the API together with the service: a spec
    that it has or had. A mere scaling makes none; the first is written with the first change."""

    service_id: ServiceId
    number: int
    spec: ServiceSpec
    created_ns: int


class UpdateStatus(Stored, frozen=True, kw_only=True):
    """`/update_status/SERVICE`, written by the leader's updater; deleted with the service."""

    service_id: ServiceId
    state: Literal[
        "updating",
        "paused",
        "completed",
        "rollback_started",
        "rollback_paused",
        "rollback_completed",
    ]
    generation: int
    """Of the service, at which it holds."""
    started_ns: int
    completed_ns: int = 0
    message: str = ""
    total: int = 0
    """Slots that were to be changed when it began, and those that came since."""
    failed: int = 0
    """Changed slots whose task failed within the monitor period."""
    progressed_ns: int = 0
    """When the last slot was changed with success; what the progress deadline measures from."""
    step: int = 0
    """Steps that are done; the next waits until `Service.promotions` is as high."""
    is_waiting: bool = False
    """It is paused for no failure: the next step waits to be promoted."""


class CronRun(Stored, frozen=True, kw_only=True):
    """One run of a cron job; its number is its tasks' `iteration`."""

    number: int
    scheduled_ns: int
    """The time that the expression named."""
    started_ns: int = 0
    finished_ns: int = 0
    outcome: Literal["running", "complete", "failed", "skipped", "replaced"] = "running"
    reason: str = ""
    """Why it was skipped or failed."""
    total_completions: int = 1
    """Of the service's mode when the run began, as the next: a change of the service concerns
    later runs only."""
    max_concurrent: int = 1


class CronStatus(Stored, frozen=True, kw_only=True):
    """`/cron_status/SERVICE`, written by the leader: which times were served, so that no change of
    leader runs one twice. A run stands here before any of its tasks is made."""

    service_id: ServiceId
    considered_ns: int
    """All times up to this one were decided."""
    schedule: Schedule | None = None
    """Under which they were: another expression, zone or suspension counts from the moment at
    which the leader sees it, and not back to the last run."""
    problem: str = ""
    """Why no time can be worked out, such as a zone that the leader's host does not know."""
    runs: tuple[CronRun, ...] = ()
    """Oldest first; the finished ones as many as the schedule keeps."""
    next_number: int = 1


class Attachment(Stored, frozen=True, kw_only=True):
    """A task's place on a network."""

    network_id: NetworkId
    address: str
    """IPv4 address; its hardware address is `addressing.mac_of(address)`."""


class Task(Stored, frozen=True, kw_only=True):
    """`/tasks/ID`, written by the leader's control loops."""

    id: TaskId
    service_id: ServiceId
    service_name: str
    service_labels: dict[str, str] = {}
    slot: int
    spec: TaskSpec
    spec_version: int
    node_id: NodeId | None = None
    """None until scheduled."""
    desired_state: TaskState
    attachments: tuple[Attachment, ...] = ()
    created_ns: int
    updated_ns: int
    not_before_ns: int = 0
    """A replacement with desired READY is moved to RUNNING once this wall time has come."""
    failures: int = 0
    """Failures in a row of this slot before this task: the exponent of the back-off."""
    restarts_ns: tuple[int, ...] = ()
    """When tasks of this slot and template were replaced after they ended, oldest first; only kept
    under a policy that limits attempts, and no more than it allows."""
    target_node: NodeId | None = None
    """Of a global service or job: the one node where the task may run. Its slot is 0."""
    iteration: int | None = None
    """Of a job: the run that the task belongs to."""
    ports: tuple[PortConfig, ...] = ()
    """Ports of the node that lead to the task: those of the service in the mode `host`."""
    generic_resources: tuple[GenericResource, ...] = ()
    """What the scheduler gave the task of its node's."""
    stop_reason: str = ""
    """Why the masters ordered it to stop, where neither a user nor an update did."""
    update_generation: int = 0
    """`Service.generation` of the update that brought this template to the slot; the tasks that
    replace one another there hand it on. 0: the slot was made with this template."""
    has_update_failed: bool = False
    """An earlier task of this template ended in this slot before it ran, or within the monitor
    period: the update counts the slot as failed."""
    adopted_ns: int = 0
    """When the task took a newer template over in its running container; 0: never."""

    @property
    def slot_key(self) -> "int | NodeId":
        """What tells the service's slots apart: a number, or the node of a global one."""
        return self.slot if self.target_node is None else self.target_node

    @property
    def is_wanted(self) -> bool:
        """Whether the masters want it to run, now or after its delay: a job's until COMPLETE,
        another's for ever."""
        return self.desired_state <= TaskState.COMPLETE

    @property
    def name(self) -> str:
        return f"{self.service_name}.{self.slot_key}"


class TaskStatus(Stored, frozen=True, kw_only=True):
    """`/task_status/ID`. Written by the leader: from ASSIGNED on with what the agent reports,
    before that with the scheduler's reason. The state only grows (task_state)."""

    state: TaskState
    timestamp_ns: int
    message: str = ""
    err: str = ""
    """One line; what failed, or why the task is pending."""
    container_id: str = ""
    pid: int = 0
    exit_code: int = 0
    started_ns: int = 0
    """When the task was first seen RUNNING; kept through its later states by the leader, and 0 if
    it never ran. What the restart policy measures."""
    is_ready: bool = True
    """False while the task runs and its readiness probe fails."""
    readiness_changes: int = 0
    """Grows with each word of the agent about `is_ready`: of two statuses in the state RUNNING the
    higher is right, as the state itself is otherwise. 0 without a readiness probe."""


class NodeObject(Stored, frozen=True, kw_only=True):
    """`/nodes/ID`, made by the dispatcher at first registration, then changed by the API."""

    id: NodeId
    spec: NodeSpec
    created_ns: int
    updated_ns: int


class EnginePlugin(Stored, frozen=True, kw_only=True):
    type: str
    """`Volume`, `Log` or `Network`, as Docker writes them."""
    name: str


class NodeDescription(Stored, frozen=True, kw_only=True):
    """What a node says of itself when it registers."""

    hostname: str
    address: str
    """Underlay address: where the other nodes send VXLAN packets."""
    architecture: str
    os: str = "linux"
    nano_cpus: int
    memory_bytes: int
    engine_version: str
    engine_labels: dict[str, str] = {}
    plugins: tuple[EnginePlugin, ...] = ()
    generic_resources: tuple[GenericResource, ...] = ()
    """What the agent's configuration says the node has."""
    seal_key: str = ""
    """Base64 of the agent's public key (X25519); what only this node may read is sealed to it."""
    mtu: int = 0
    """Of the interface with `address`; 0: not known."""
    routes: tuple[str, ...] = ()
    """Subnets that the node has routes to, CIDR, but for the default route and the overlay's own:
    no network may take their addresses."""
    listening: tuple[str, ...] = ()
    """`tcp/22`: ports of the node on which some process listened when it registered."""
    agent_version: str = ""
    instance: str = ""
    """Differs between two machines even when a disk was cloned (kernel boot id and host name)."""


class NodeStatus(Stored, frozen=True, kw_only=True):
    """`/node_status/ID`, written by the leader's dispatcher and failure detector."""

    state: Literal["unknown", "ready", "down"]
    message: str = ""
    description: NodeDescription
    changed_ns: int


class Network(Stored, frozen=True, kw_only=True):
    """`/networks/ID`, written by the API, the predefined ones by the leader; its `mtu` by the
    leader alone."""

    id: NetworkId
    name: str
    driver: Literal["overlay", "host"] = "overlay"
    """`host`: the predefined network of that name, which stands for the node's own. It has none
    of what follows."""
    vni: int = 0
    subnet: str = ""
    """Addresses of tasks and of the nodes' bridges, CIDR."""
    vip_subnet: str = ""
    """Addresses of services (VIP), CIDR, apart from `subnet`: what a task sends there goes to its
    node's bridge and is translated on the way. Empty: services have none on this network."""
    ip_range: str = ""
    """Part of `subnet` in which addresses are given out; empty: all of it."""
    mtu: int = 0
    """Of the containers' interfaces: the underlay's least minus the VXLAN overhead."""
    is_mtu_fixed: bool = False
    """A user chose the MTU: the leader leaves it alone."""
    is_internal: bool = False
    """No way from it to the outside."""
    labels: dict[str, str] = {}
    options: dict[str, str] = {}
    """Of the driver, as the user gave them."""
    created_ns: int


class NetworkLedger(Stored, frozen=True, kw_only=True):
    """`/cluster/network_ledger`, written with every network that comes or goes: whoever makes one
    compares its revision, so no two choose the same VNI or overlapping subnets."""

    changes: int
    """So many networks came or went."""
    last_vni: int = 0
    """The one given out last; the search for a free one goes on behind it."""
    last_subnet: str = ""
    last_vip_subnet: str = ""


class VirtualAddress(Stored, frozen=True, kw_only=True):
    """A service's own address on a network."""

    network_id: NetworkId
    address: str


class ServiceAddresses(Stored, frozen=True, kw_only=True):
    """`/service_addresses/SERVICE`, written by the leader's allocator in the same writes as the
    first tasks that need it; deleted with the service."""

    service_id: ServiceId
    virtual_addresses: tuple[VirtualAddress, ...] = ()
    """One for each network of a service in the endpoint mode `vip`, in the order of networks."""
    ports: tuple[PortConfig, ...] = ()
    """Published in the mode `ingress`, each with its number, chosen ones too."""


class IngressPort(Stored, frozen=True, kw_only=True):
    """`/ingress_ports/PROTOCOL/NUMBER`: a port of the whole cluster, and the service that has it.
    One that the service's spec names is written and deleted by the API with the service; one
    that the cluster chose by the leader."""

    protocol: Literal["tcp", "udp", "sctp"]
    number: int
    service_id: ServiceId
    is_chosen: bool = False


class Gateway(Stored, frozen=True, kw_only=True):
    """`/gateways/NETWORK/NODE`, written by the leader: the address of the node's own bridge on
    the network; allocated with the node's first task there, released with the last."""

    network_id: NetworkId
    node_id: NodeId
    address: str


class LeaderEpoch(Stored, frozen=True, kw_only=True):
    """`/cluster/leader`, written by a new leader before anything else. Every write of the control
    loops compares this key's revision, so a deposed leader's writes change nothing."""

    member_id: MemberId
    term: int


class ClusterInfo(Stored, frozen=True, kw_only=True):
    """`/cluster/info`, written once by the first leader."""

    id: str
    created_ns: int


class ClusterSettings(Stored, frozen=True, kw_only=True):
    """`/cluster/settings`, written by the API; absent while all are at their defaults."""

    task_history_limit: int = TASK_HISTORY_PER_SLOT
    """Ended tasks that are kept of each slot."""


class RegistryCredentials(Stored, frozen=True, kw_only=True):
    """`/registry_credentials/SERVICE`, written by the API with the service: what its nodes show to
    the image's registry. Never shown by the API."""

    service_id: ServiceId
    sealed: bytes
    """Encrypted with the masters' key; opened by the leader only to seal it to one node. Empty:
    the present spec has none."""
    previous_sealed: bytes | None = None
    """Those of the spec before, for a rollback; None: the same."""


class ClusterMember(Stored, frozen=True, kw_only=True):
    """`/members/ID`: a master that was ever a member. The first ones are written by the first
    leader from the static list, later ones by the API. Whether it votes is not said here: that is
    in Raft's own configuration."""

    id: MemberId
    raft: str
    """`HOST:PORT`, as `http`."""
    http: str
    added_ns: int
    removed_ns: int = 0
    """Not 0: it was removed. The object stays, for the name must not come back with another disk
    (a master that forgot its votes could vote twice)."""
    is_to_vote: bool = False
    """It stood by and was promoted: the leader makes it a learner, and a voter as soon as it has
    caught up, and then takes this mark away."""


class MemberBuild(Stored, frozen=True, kw_only=True):
    """`/member_builds/ID`, written by that master when it starts: what it understands."""

    id: MemberId
    version: int
    """The newest cluster version that it speaks; it speaks the one before too."""
    build: str = ""
    """Version of the software, for people."""


class ClusterVersion(Stored, frozen=True, kw_only=True):
    """`/cluster/version`, written by the leader. Commands and fields of a newer version are not
    written before all masters announce it; it never shrinks."""

    version: int


class HashCheck(Stored, frozen=True, kw_only=True):
    """`/cluster/hash_check`, written by the leader now and then. Each master hashes its state at
    the revision of this write: the log itself names the moment."""

    member_id: MemberId
    number: int
