"""The messages on the bus, and their wire form.

Wire form: msgpack of `[version, message]`, the message a map tagged by `type`.
Unknown fields are ignored and missing ones take their default, so that versions one apart
understand each other; a field is never given another meaning.

Every message to an agent carries the leader's (term, sequence). An agent journals the highest
term it has seen and refuses lower ones: a deposed leader commands nobody.
"""

from typing import Literal, TypeVar, overload

import msgspec

from essaim_shared.errors import MalformedMessage
from essaim_shared.figures import ContainerFigures, NodeFigures
from essaim_shared.ids import MemberId, NetworkId, NodeId, ServiceId, TaskId
from essaim_shared.limits import BUS_MESSAGE_BYTES_MAX
from essaim_shared.objects import NodeDescription, Task, TaskStatus
from essaim_shared.spec import PortConfig
from essaim_shared.undecodable import UNDECODABLE

WIRE_VERSION = 1


class BusMessage(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type", tag=str.lower
):
    """Base of all messages; the tag is the class's name in lower case."""


# Agent to leader.


class Register(BusMessage, frozen=True, kw_only=True):
    node_id: NodeId
    description: NodeDescription


class Heartbeat(BusMessage, frozen=True, kw_only=True):
    node_id: NodeId
    session: str
    term: int
    """Highest term of the assignments held."""
    sequence: int
    """Last assignment sequence applied in that term."""


class ReportedStatus(BusMessage, frozen=True, kw_only=True):
    task_id: TaskId
    status: TaskStatus


class StatusReport(BusMessage, frozen=True, kw_only=True):
    """Repeated until acknowledged; of two statuses of a task the greater state is right."""

    node_id: NodeId
    session: str
    statuses: tuple[ReportedStatus, ...]


class SyncRequest(BusMessage, frozen=True, kw_only=True):
    """A diff was lost or is not understood: send a full set."""

    node_id: NodeId
    session: str


class TablesApplied(BusMessage, frozen=True, kw_only=True):
    """Everything in the assignments up to this one is in the node's kernel and DNS. Sent after
    those that want it; a lost one costs the leader its longest wait."""

    node_id: NodeId
    session: str
    term: int
    sequence: int


class NetworkProbe(BusMessage, frozen=True, kw_only=True):
    """A look through one overlay at the bridge of another node."""

    network_id: NetworkId
    node_address: str
    """Underlay address of the node that was asked."""
    latency_us: int = 0
    """Of the answer that came first; 0: none came."""
    is_mtu_whole: bool = True
    """A packet of the network's full MTU came back too."""
    asked_ns: int = 0
    """The asking node's wall time."""
    misses: int = 0
    """So many times in a row nothing came back; one may be chance."""
    mtu_misses: int = 0
    """So many times in a row the small packet came back and the full one did not."""


class NetworkReport(BusMessage, frozen=True, kw_only=True):
    """What a node says of its networks: what was not as wanted, what it mended, who answers."""

    node_id: NodeId
    checked_ns: int
    """Wall time of the last whole comparison."""
    repairs: int = 0
    """Differences that were mended since the agent started."""
    differences: tuple[str, ...] = ()
    """In words, and mended: each is told at once, and again with the next regular report."""
    last_repair: str = ""
    """The newest difference that was mended, however long ago."""
    repaired_ns: int = 0
    """Wall time of it."""
    sent_ns: int = 0
    """Wall time of this report. With it and the time of its arrival everybody knows how old the
    rest is, whatever their clocks say."""
    problems: tuple[str, ...] = ()
    """What is wrong now, in words."""
    has_overlay: bool = True
    """False: tasks of this node have no networks of their own (it runs processes)."""
    networks: int = 0
    endpoints: int = 0
    services: int = 0
    dns_answers: int = 0
    """By this node's name server since it started."""
    connections: int = 0
    """Flows that the kernel tracks."""
    probes: tuple[NetworkProbe, ...] = ()


class FiguresReport(BusMessage, frozen=True, kw_only=True):
    node_id: NodeId
    node: NodeFigures
    containers: tuple[ContainerFigures, ...] = ()
    chunk: int = 0
    chunks: int = 1


# Leader to agent.


class Registered(BusMessage, frozen=True, kw_only=True):
    """A full assignment set follows on the node's subject."""

    session: str
    term: int
    heartbeat_period_s: float
    trust_generation: int = 0
    """Of the cluster's trust anchors; 0: it has none."""
    masters: tuple[str, ...] = ()
    """`HOST:PORT` of the masters' API."""


class HeartbeatAck(BusMessage, frozen=True, kw_only=True):
    term: int
    sequence: int
    """Of the last assignment message sent to this node; an agent that is behind asks for a sync."""
    trust_generation: int = 0
    """As of `Registered`."""


class StatusAck(BusMessage, frozen=True, kw_only=True):
    """The statuses are committed."""

    term: int


class SyncAck(BusMessage, frozen=True, kw_only=True):
    term: int


class Refused(BusMessage, frozen=True, kw_only=True):
    """Why a request was not honoured. `register_again`: the session is unknown here (a new
    leader, or the node was down); otherwise the agent logs the reason and tries again later."""

    reason: str
    register_again: bool = False


class NodeNetwork(BusMessage, frozen=True, kw_only=True):
    """A network as one node needs it."""

    network_id: NetworkId
    name: str
    vni: int
    subnet: str
    mtu: int
    gateway: str
    """This node's own address in the subnet."""
    vip_subnet: str = ""
    is_internal: bool = False


class Endpoint(BusMessage, frozen=True, kw_only=True):
    """An overlay address: where it is found and, if a task has it, what for.

    A node is told those of the networks it is on, its own included; and every node those of
    services with published ports, whether it is on their networks or not. A change of one field
    is the removal of the old one and the old one's successor, in one message.
    """

    network_id: NetworkId
    address: str
    node_address: str
    """Underlay address of the node (VTEP)."""
    task_id: TaskId = TaskId("")
    """Empty, as all that follows, where a node's own bridge has the address."""
    service_id: ServiceId = ServiceId("")
    slot: str = ""
    """`Task.slot_key`: with the service's name it makes the task's name."""
    hostname: str = ""
    """The container's: the first twelve characters of the task's id unless its spec says else."""
    state: Literal["starting", "serving", "draining"] = "starting"
    """New connections go to those that serve. A task serves while it runs, is ready, and is not
    to be stopped, on a node that is not down; it drains from the order to stop it until it has
    ended."""


class ServiceEntry(BusMessage, frozen=True, kw_only=True):
    """A service on one network, for the nodes on that network; the entry with its published ports
    for every node."""

    service_id: ServiceId
    network_id: NetworkId
    name: str
    stack: str = ""
    """Of a service of a stack: `NAME` can be asked for as `NAME.STACK` too."""
    aliases: tuple[str, ...] = ()
    vip: str = ""
    """Empty: names lead to the tasks themselves (`dnsrr`)."""
    ports: tuple[PortConfig, ...] = ()
    """Published in the mode `ingress`, with their numbers; only on the service's first network,
    by which its tasks are reached, and during an update on those that it is leaving."""
    has_affinity: bool = False
    """Connections of one client address go to the same task."""
    is_forced: bool = False
    """The ports are taken also where a process of the node listens on them."""


class SealedCredentials(BusMessage, frozen=True, kw_only=True):
    """What a node shows to the registry of a service's image; only that node can open it."""

    service_id: ServiceId
    sealed: bytes
    """To the node's `NodeDescription.seal_key` (`sealing.seal_to`)."""

    @staticmethod
    def context(service_id: ServiceId, node_id: NodeId) -> bytes:
        """What the seal is bound to."""
        return f"registry credentials/{service_id}/{node_id}".encode()


class Assignments(BusMessage, frozen=True, kw_only=True):
    """A full set, or the changes since sequence - 1. Chunks of one message share its sequence
    and take effect together once all are there.

    Removals are applied before additions. `tasks` holds whole tasks, new or changed; a task whose
    desired state is SHUTDOWN or REMOVE is to be stopped, and a task not in a full set is stopped
    and forgotten.
    """

    term: int
    sequence: int
    full: bool
    chunk: int = 0
    chunks: int = 1
    removed_tasks: tuple[TaskId, ...] = ()
    tasks: tuple[Task, ...] = ()
    removed_networks: tuple[NetworkId, ...] = ()
    networks: tuple[NodeNetwork, ...] = ()
    removed_endpoints: tuple[Endpoint, ...] = ()
    endpoints: tuple[Endpoint, ...] = ()
    removed_services: tuple[ServiceEntry, ...] = ()
    services: tuple[ServiceEntry, ...] = ()
    removed_nodes: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    """Underlay addresses of all nodes: what no task may reach but by a published port."""
    wants_applied: bool = False
    """Something waits until this is in force on the node: it answers with `TablesApplied`."""
    credentials: tuple[SealedCredentials, ...] = ()
    """Of services with tasks in this message; newer ones replace what the node has."""


class Echo(BusMessage, frozen=True, kw_only=True):
    """A leader's message to itself: while it does not return, silence of nodes proves nothing."""

    member_id: MemberId
    number: int


Message = (
    Register
    | Heartbeat
    | StatusReport
    | SyncRequest
    | TablesApplied
    | NetworkReport
    | FiguresReport
    | Registered
    | HeartbeatAck
    | StatusAck
    | SyncAck
    | Refused
    | Assignments
    | Echo
)

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(tuple[int, Message])

M = TypeVar("M", bound=BusMessage)
N = TypeVar("N", bound=BusMessage)


def encode(message: BusMessage) -> bytes:
    encoded = _encoder.encode((WIRE_VERSION, message))
    if len(encoded) > BUS_MESSAGE_BYTES_MAX:
        raise MalformedMessage(
            f"{type(message).__name__} has {len(encoded)} bytes, the bus takes "
            f"{BUS_MESSAGE_BYTES_MAX}"
        )
    return encoded


@overload
def decode(payload: bytes, kind: type[M], /) -> M: ...


@overload
def decode(payload: bytes, kind: type[M], other: type[N], /) -> M | N: ...


@overload
def decode(payload: bytes, /, *kinds: type[M]) -> M: ...


def decode(payload: bytes, *kinds: type[BusMessage]) -> BusMessage:
    """The message, which must be one of `kinds`. Raises MalformedMessage for anything else."""
    try:
        version, message = _decoder.decode(payload)
    except UNDECODABLE as error:
        raise MalformedMessage(f"{len(payload)} bytes are no message: {error}") from error
    if abs(version - WIRE_VERSION) > 1:
        raise MalformedMessage(f"wire version {version}, this process speaks {WIRE_VERSION}")
    if not isinstance(message, kinds):
        wanted = " or ".join(kind.__name__ for kind in kinds)
        raise MalformedMessage(f"a {type(message).__name__} where {wanted} was expected")
    return message
