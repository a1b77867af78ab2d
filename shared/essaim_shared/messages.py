"""The messages on the bus, and their wire form.

Wire form: msgpack of `[version, message]`, the message a map tagged by `type`.
Unknown fields are ignored and missing ones take their default, so that versions one apart
understand each other; a field is never given another meaning.

Every message to an agent carries the leader's (term, sequence). An agent journals the highest
term it has seen and refuses lower ones: a deposed leader commands nobody.
"""

from typing import TypeVar, overload

import msgspec

from essaim_shared.errors import MalformedMessage
from essaim_shared.figures import ContainerFigures, NodeFigures
from essaim_shared.ids import MemberId, NetworkId, NodeId, ServiceId, TaskId
from essaim_shared.limits import BUS_MESSAGE_BYTES_MAX
from essaim_shared.objects import NodeDescription, Task, TaskStatus
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


class HeartbeatAck(BusMessage, frozen=True, kw_only=True):
    term: int
    sequence: int
    """Of the last assignment message sent to this node; an agent that is behind asks for a sync."""


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


class Endpoint(BusMessage, frozen=True, kw_only=True):
    """Where an overlay address of another node is found."""

    network_id: NetworkId
    address: str
    node_address: str
    """Underlay address of the node (VTEP)."""


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
