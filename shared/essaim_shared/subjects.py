"""Every bus subject, in one place.

    essaim.CLUSTER.register          request   agent → leader    Register → Registered | Refused
    essaim.CLUSTER.heartbeat         request   agent → leader    Heartbeat → HeartbeatAck | Refused
    essaim.CLUSTER.status            request   agent → leader    StatusReport → StatusAck | Refused
    essaim.CLUSTER.sync              request   agent → leader    SyncRequest → SyncAck | Refused
    essaim.CLUSTER.assign.NODE       publish   leader → agent    Assignments
    essaim.CLUSTER.applied           publish   agent → leader    TablesApplied
    essaim.CLUSTER.network.NODE      publish   agent → masters   NetworkReport
    essaim.CLUSTER.figures.NODE      publish   agent → masters   FiguresReport
    essaim.CLUSTER.echo.MEMBER       publish   leader → itself   Echo (is the bus there at all?)

Only where the masters' own links go over the bus (`raft_transport = "nats"`), in the bytes of
`essaim_master.bus_pieces`:

    essaim.CLUSTER.raft.MEMBER           publish   master → master   frames, in pieces
    essaim.CLUSTER.raft_greeting.MEMBER  request   master → master   is it there, may I speak to it

Only the leader subscribes to the four requests, so an agent that finds no leader is told at once
("no responders") instead of waiting for a time-out.
"""

from essaim_shared.ids import MemberId, NodeId

ROOT = "essaim"


class Subjects:
    """The subjects of one cluster; two clusters may share a bus."""

    def __init__(self, cluster_id: str) -> None:
        prefix = f"{ROOT}.{cluster_id}"
        self.register = f"{prefix}.register"
        self.heartbeat = f"{prefix}.heartbeat"
        self.status = f"{prefix}.status"
        self.sync = f"{prefix}.sync"
        self.applied = f"{prefix}.applied"
        self.all_figures = f"{prefix}.figures.*"
        self.all_network_reports = f"{prefix}.network.*"
        self._prefix = prefix

    def assignments(self, node_id: NodeId) -> str:
        return f"{self._prefix}.assign.{node_id}"

    def figures(self, node_id: NodeId) -> str:
        return f"{self._prefix}.figures.{node_id}"

    def network_report(self, node_id: NodeId) -> str:
        return f"{self._prefix}.network.{node_id}"

    def raft(self, receiver: MemberId) -> str:
        return f"{self._prefix}.raft.{receiver}"

    def raft_greeting(self, receiver: MemberId) -> str:
        return f"{self._prefix}.raft_greeting.{receiver}"

    def echo(self, member_id: MemberId) -> str:
        return f"{self._prefix}.echo.{member_id}"
