"""What one master tells about its part in the consensus: the object of `GET /essaim/raft`."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Protocol

from essaim_master.at_rest.backup_file import BackupSeal
from essaim_master.at_rest.rotation import KeyRotation
from essaim_master.cluster_members import ClusterMembers
from essaim_master.cluster_upkeep import ClusterUpkeep
from essaim_master.node_roles import NodeRoles
from essaim_master.raft.log import RaftLog
from essaim_master.raft.status import RaftStatus
from essaim_master.raft_metrics import RaftMetrics
from essaim_master.refusals import Refusals
from essaim_master.state.cluster import Cluster
from essaim_master.state_hashes import StateHashes
from essaim_master.versions import CLUSTER_VERSION
from essaim_shared import __version__
from essaim_shared.ids import MemberId
from essaim_shared.loop_lag import LoopLag


class InspectedNode(Protocol):
    """What is asked of a RaftNode."""

    @property
    def is_leader(self) -> bool: ...

    @property
    def leader(self) -> MemberId | None: ...

    @property
    def log(self) -> RaftLog: ...

    def status(self) -> RaftStatus: ...

    def metrics(self) -> RaftMetrics: ...

    def backup(self) -> Iterator[bytes]: ...


class Inside:
    """The parts of a master behind its replicated state, for those routes that show or change
    them. A master alone in memory has none."""

    def __init__(
        self,
        node: InspectedNode,
        members: ClusterMembers,
        hashes: StateHashes,
        upkeep: ClusterUpkeep,
        loop_lag: LoopLag,
        roles: NodeRoles,
        key_rotation: KeyRotation,
        backup_seal: BackupSeal,
        refusals: Mapping[str, Refusals] = MappingProxyType({}),
    ) -> None:
        """`refusals`: by the socket at which somebody was turned away."""
        self.node = node
        self.members = members
        self.hashes = hashes
        self.upkeep = upkeep
        self.loop_lag = loop_lag
        self.roles = roles
        self.key_rotation = key_rotation
        self.backup_seal = backup_seal
        self.refusals = refusals

    @property
    def alarms(self) -> tuple[str, ...]:
        return (*self.node.metrics().alarms, *self.upkeep.alarms)


def raft_object(cluster: Cluster, inside: Inside | None) -> dict[str, Any]:
    view = cluster.leadership()
    shown: dict[str, Any] = {
        "MemberID": view.member_id,
        "Role": view.role,
        "Term": view.term,
        "Leader": view.leader,
        "CommitIndex": view.commit_index,
        "AppliedIndex": view.applied_index,
        "LastIndex": view.last_index,
        "Revision": cluster.state.revision,
        "Members": [
            {"ID": member.id, "Addr": member.raft, "HTTPAddr": member.http}
            for member in cluster.members
        ],
    }
    return shown if inside is None else {**shown, **_inside_object(cluster, inside)}


def _inside_object(cluster: Cluster, inside: Inside) -> dict[str, Any]:
    status, metrics, latest = inside.node.status(), inside.node.metrics(), inside.hashes.latest
    return {
        "Voters": status.configuration.voters,
        "Learners": status.configuration.learners,
        "Progress": {
            name: {
                "Match": one.match,
                "Next": one.next,
                "State": one.state.name.lower(),
                "Active": one.is_active,
            }
            for name, one in status.progress.items()
        },
        "FirstIndex": inside.node.log.first_index,
        "SnapshotIndex": metrics.snapshot_index,
        "LogBytes": metrics.log_disk_bytes,
        "StateHash": None if latest is None else {"Revision": latest.revision, "Hash": latest.hash},
        "Version": CLUSTER_VERSION,
        "ClusterVersion": cluster.state.cluster_version,
        "Build": __version__,
        "Alarms": inside.alarms,
    }
