"""What the cluster stores: one struct for each kind of object, packed as msgpack.

*spec* is what was asked, *status* is what was seen; they stand under different keys because they
have different writers, so neither ever waits for or overwrites the other. Each class names its
key and its one writer. An object's version is the revision of its key and is not stored in it.
"""

from typing import Literal

import msgspec

from essaim_shared.ids import MemberId, NetworkId, NodeId, ServiceId, TaskId
from essaim_shared.spec import NodeSpec, ServiceSpec, TaskSpec
from essaim_shared.task_state import TaskState


class Stored(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of all stored objects."""


class Service(Stored, frozen=True, kw_only=True):
    """`/services/ID`, written by the API (any master, guarded by its version)."""

    id: ServiceId
    spec: ServiceSpec
    previous_spec: ServiceSpec | None = None
    spec_version: int = 1
    """Grows by one whenever the task template changes; tasks carry the one they were made from."""
    created_ns: int
    updated_ns: int


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

    @property
    def name(self) -> str:
        return f"{self.service_name}.{self.slot}"


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


class NodeObject(Stored, frozen=True, kw_only=True):
    """`/nodes/ID`, made by the dispatcher at first registration, then changed by the API."""

    id: NodeId
    spec: NodeSpec
    created_ns: int
    updated_ns: int


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
    """`/networks/ID`, written by the leader (the default network) and later by the API."""

    id: NetworkId
    name: str
    vni: int
    subnet: str
    mtu: int
    """Of the containers' interfaces: the underlay's least minus the VXLAN overhead."""
    created_ns: int


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
