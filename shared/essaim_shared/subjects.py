"""Every bus subject, in one place, and who may use it.

A subject is `essaim.CLUSTER.KIND.NAME`, where NAME is the node or master that it belongs to:

    register.NODE        request   agent → leader    Register → Registered | Refused
    heartbeat.NODE       request   agent → leader    Heartbeat → HeartbeatAck | Refused
    status.NODE          request   agent → leader    StatusReport → StatusAck | Refused
    sync.NODE            request   agent → leader    SyncRequest → SyncAck | Refused
    applied.NODE         publish   agent → leader    TablesApplied
    network.NODE         publish   agent → masters   NetworkReport
    figures.NODE         publish   agent → masters   FiguresReport
    assign.NODE          publish   leader → agent    Assignments
    echo.MEMBER          publish   leader → itself   Echo (is the bus there at all?)
    inbox.NODE.…         answers   leader → agent    to its requests
    master_inbox.NAME.…  answers   master → master   to its requests

Only where the masters' own links go over the bus (`raft_transport = "nats"`), in the bytes of
`essaim_master.bus_pieces`:

    raft.MEMBER          publish   master → master   frames, in pieces
    raft_greeting.MEMBER request   master → master   is it there, may I speak to it

Only the leader subscribes to the four requests, so an agent that finds no leader is told at once
("no responders") instead of waiting for a time-out. What a master is sent in the name of a node
must have come on that node's own subject, and its answer goes to that node's own inbox alone:
the bus servers let nobody else publish there (`permissions_of`), and the masters check the rest.

Masters trust each other: they have one key to the state in common. So the permissions of masters
differ in their inboxes only.
"""

import re
from enum import Enum
from typing import Final, NamedTuple

import msgspec

from essaim_shared.errors import InvalidRequest
from essaim_shared.ids import MemberId, NodeId
from essaim_shared.trust.roles import Role

ROOT: Final = "essaim"
_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""One token of a subject, and nothing that a bus server's configuration could take for its own."""


class Side(Enum):
    NODE = "the agent that the subject names"
    MASTERS = "every master"
    MASTER = "the master that the subject names"


class Use(NamedTuple):
    """Who uses the subjects of one kind."""

    publishers: Side
    subscribers: Side
    has_more: bool = False
    """The name is followed by further tokens."""


USES: Final = {
    "register": Use(Side.NODE, Side.MASTERS),
    "heartbeat": Use(Side.NODE, Side.MASTERS),
    "status": Use(Side.NODE, Side.MASTERS),
    "sync": Use(Side.NODE, Side.MASTERS),
    "applied": Use(Side.NODE, Side.MASTERS),
    "network": Use(Side.NODE, Side.MASTERS),
    "figures": Use(Side.NODE, Side.MASTERS),
    "assign": Use(Side.MASTERS, Side.NODE),
    "echo": Use(Side.MASTERS, Side.MASTERS),
    "raft": Use(Side.MASTERS, Side.MASTERS),
    "raft_greeting": Use(Side.MASTERS, Side.MASTERS),
    "inbox": Use(Side.MASTERS, Side.NODE, has_more=True),
    "master_inbox": Use(Side.MASTERS, Side.MASTER, has_more=True),
}
"""By kind. Permissions are made of this table and of nothing else."""


class Permissions(msgspec.Struct, frozen=True):
    """Patterns; what matches none of them is refused."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]


class Subjects:
    """The subjects of one cluster; two clusters may share a bus."""

    def __init__(self, cluster_id: str) -> None:
        self._prefix = f"{ROOT}.{cluster_id}"
        self.all_registers = self._of("register", "*")
        self.all_heartbeats = self._of("heartbeat", "*")
        self.all_statuses = self._of("status", "*")
        self.all_syncs = self._of("sync", "*")
        self.all_applied = self._of("applied", "*")
        self.all_figures = self._of("figures", "*")
        self.all_network_reports = self._of("network", "*")

    def register(self, node_id: NodeId) -> str:
        return self._of("register", node_id)

    def heartbeat(self, node_id: NodeId) -> str:
        return self._of("heartbeat", node_id)

    def status(self, node_id: NodeId) -> str:
        return self._of("status", node_id)

    def sync(self, node_id: NodeId) -> str:
        return self._of("sync", node_id)

    def applied(self, node_id: NodeId) -> str:
        return self._of("applied", node_id)

    def assignments(self, node_id: NodeId) -> str:
        return self._of("assign", node_id)

    def figures(self, node_id: NodeId) -> str:
        return self._of("figures", node_id)

    def network_report(self, node_id: NodeId) -> str:
        return self._of("network", node_id)

    def inbox(self, node_id: NodeId) -> str:
        """Prefix of the subjects on which a node gets its answers."""
        return self._of("inbox", node_id)

    def master_inbox(self, name: str) -> str:
        """The same of a master. A kind of its own: a node may have any name."""
        return self._of("master_inbox", name)

    def raft(self, receiver: MemberId) -> str:
        return self._of("raft", receiver)

    def raft_greeting(self, receiver: MemberId) -> str:
        return self._of("raft_greeting", receiver)

    def echo(self, member_id: MemberId) -> str:
        return self._of("echo", member_id)

    def is_own(self, node_id: NodeId, subject: str, reply: str) -> bool:
        """Whether a message that names this node came on a subject of the node, and its answer,
        if it wants one, goes to the node's own inbox: an answer elsewhere would be an order of a
        master, in words that the node has chosen."""
        is_own_subject = subject.rpartition(".")[2] == node_id
        return is_own_subject and (not reply or reply.startswith(f"{self.inbox(node_id)}."))

    def _of(self, kind: str, name: str) -> str:
        return f"{self._prefix}.{kind}.{name}"


def permissions_of(cluster_id: str, role: Role, name: str) -> Permissions:
    """What the holder of an identity may do on the bus: everything that `USES` says of it, and
    nothing else. Raises InvalidRequest for names that are no token of a subject. Pure."""
    for token in (cluster_id, name):
        if _TOKEN.fullmatch(token) is None:
            raise InvalidRequest(f"{token[:80]!r} cannot be part of a bus subject")
    sides = _SIDES_OF.get(role, ())
    return Permissions(
        publish=tuple(
            _pattern(cluster_id, kind, use, use.publishers, name)
            for kind, use in USES.items()
            if use.publishers in sides
        ),
        subscribe=tuple(
            _pattern(cluster_id, kind, use, use.subscribers, name)
            for kind, use in USES.items()
            if use.subscribers in sides
        ),
    )


_SIDES_OF: Final = {Role.AGENT: (Side.NODE,), Role.MASTER: (Side.MASTERS, Side.MASTER)}


def _pattern(cluster_id: str, kind: str, use: Use, side: Side, name: str) -> str:
    named = "*" if side is Side.MASTERS else name
    return f"{ROOT}.{cluster_id}.{kind}.{named}{'.>' if use.has_more else ''}"
