"""Nodes become managers and workers: what the leader does when a user changes a node's role.

A node is a manager when a master runs on its host. To promote one needs an essaim-master that
stands by there: it announced itself to the leader (`standby.announcements`), and is made a
learner, then a voter. To demote one removes that master, which goes back to standing by if it is
configured to, and ends otherwise.
"""

import asyncio
import logging

import msgspec

from essaim_master import versions
from essaim_master.cluster_members import ClusterMembers, MembershipNode, check_member
from essaim_master.cluster_upkeep import AskMaster
from essaim_master.raft import quorum
from essaim_master.raft.errors import MembershipRefused, NotLeader
from essaim_master.raft.membership import RemoveMember, changed
from essaim_master.standby.announcements import (
    SILENCE_S,
    Announcement,
    Standbys,
    Told,
    ToldMember,
)
from essaim_master.standby.names import base_name
from essaim_master.state.cluster import Cluster, Member
from essaim_master.state.keys import identity_key
from essaim_master.state.manager_nodes import masters_beside
from essaim_master.state.writes import Writes
from essaim_shared.clock import Clock
from essaim_shared.errors import ConfigError, Conflict, InvalidRequest, NotFound, Unavailable
from essaim_shared.ids import MemberId, NodeId
from essaim_shared.trust.roles import Role

VOTE_TIMEOUT_S = 6.0
"""So long a promotion waits for the new master to vote. A large state takes longer to send: then
the node is a manager already, and the leader lets it vote when it has caught up."""
ANSWER_TIMEOUT_S = 2.0
"""A new leader has heard from every voter that lives by then."""
POLL_S = 0.02
COMMIT_TIMEOUT_S = 3.0

LAST_MANAGER = "attempting to demote the last manager of the swarm"
QUORUM_LOSS = "can't remove member from the raft: this would result in a loss of quorum"
"""SwarmKit's sentences, manager/controlapi/node.go."""

_log = logging.getLogger(__name__)


class NodeRoles:
    """All of it is done by the leader: NotLeader names it to the others."""

    def __init__(
        self,
        cluster: Cluster,
        node: MembershipNode,
        members: ClusterMembers,
        clock: Clock,
        cluster_id: str,
        incarnation: str,
        ask: AskMaster,
    ) -> None:
        self._cluster = cluster
        self._node = node
        self._members = members
        self._clock = clock
        self._cluster_id = cluster_id
        self._incarnation = incarnation
        self._ask = ask
        self._standbys = Standbys()

    def hear(self, announcement: Announcement) -> Told:
        """What a master that stands by is told. Raises NotLeader, InvalidRequest, Unavailable."""
        self._require_leadership()
        if announcement.cluster_id != self._cluster_id:
            raise InvalidRequest(
                f"{announcement.id} stands by for cluster {announcement.cluster_id!r}, "
                f"this is cluster {self._cluster_id!r}: correct its configuration"
            )
        check_member(announcement.member)
        present = self._cluster.state.members.get(announcement.id)
        if present is None:
            self._standbys.hear(announcement, self._clock.monotonic_s())
            return self._told("standby")
        self._standbys.forget(announcement.id)
        return self._told("removed" if present.removed_ns else "member")

    async def admit_expected(self, announcement: Announcement) -> None:
        """A master that joined with a token for masters takes part as soon as it stands by. What
        stops that now is looked at again with its next announcement. Raises NotLeader."""
        self._require_leadership()
        state = self._cluster.state
        identity = state.identity(Role.MASTER, base_name(announcement.id))
        if identity is None or not identity.is_to_vote:
            return
        try:
            if announcement.id not in state.members:
                versions.check_speaks(state.cluster_version, announcement.version)
                await self._members.add_to_vote(announcement.member)
                _log.info("master %s has joined and is to vote", announcement.id)
            writes = Writes()
            key = identity_key(Role.MASTER, identity.name)
            writes.expect(key, state.modified(key))
            writes.put(msgspec.structs.replace(identity, is_to_vote=False))
            (transaction,) = writes.transactions()
            await self._cluster.commit(transaction, COMMIT_TIMEOUT_S)
        except (ConfigError, Conflict, InvalidRequest, MembershipRefused, Unavailable) as error:
            _log.info("master %s does not take part yet: %s", announcement.id, error)

    def standbys(self) -> tuple[Announcement, ...]:
        """Raises NotLeader."""
        self._require_leadership()
        return self._standbys.present(self._clock.monotonic_s())

    async def promote(self, node_id: NodeId) -> None:
        """Make the master that stands by on the node's host a voter; nothing if one is a member.
        Raises NotLeader, NotFound, InvalidRequest, and what a change of the members raises."""
        self._require_leadership()
        self._require_node(node_id)
        if self._master_on(node_id) is not None:
            return
        standby = await self._standby_on(node_id)
        try:
            versions.check_speaks(self._cluster.state.cluster_version, standby.version)
        except ConfigError as error:
            raise InvalidRequest(f"master {standby.id} cannot take part: {error}") from error
        await self._members.add_to_vote(standby.member)
        _log.info("node %s is promoted: master %s is to vote", node_id, standby.id)
        deadline_s = self._clock.monotonic_s() + VOTE_TIMEOUT_S
        while standby.id not in self._node.status().configuration.voters:
            if self._clock.monotonic_s() >= deadline_s:
                _log.info("master %s is still learning and votes when it has caught up", standby.id)
                return
            self._require_leadership()
            await self._members.advance()
            await self._clock.sleep(POLL_S)

    async def demote(self, node_id: NodeId) -> None:
        """Remove the master on the node's host; nothing if there is none. Raises NotLeader (also
        when that is this leader: it has handed over), NotFound, InvalidRequest, and what a change
        of the members raises."""
        self._require_leadership()
        self._require_node(node_id)
        master = self._master_on(node_id)
        if master is None:
            return
        await self._wait_until_it_may_go(master.id)
        await self._members.remove(master.id)
        _log.info("node %s is demoted: master %s was removed", node_id, master.id)

    async def _wait_until_it_may_go(self, member_id: MemberId) -> None:
        """Returns when the voters that stay and answer are a quorum. Raises InvalidRequest when
        they are not: a leader that is new to it gives them time to answer first.

        Raft counts a voter as active for some seconds after its last answer. One that died just
        now would be counted on, and the removal never be committed: so each is asked as well.
        """
        deadline_s = self._clock.monotonic_s() + ANSWER_TIMEOUT_S
        while True:
            self._require_leadership()
            status = self._node.status()
            if status.configuration.voters == (member_id,):
                raise _failed_precondition(LAST_MANAGER)
            if member_id not in status.configuration.voters:
                return
            after = changed(status.configuration, RemoveMember(member_id))
            heard = {name for name, one in status.progress.items() if one.is_active}
            active = {status.member_id, *await self._answering(heard & set(after.voters))}
            if quorum.has_quorum(after, active):
                return
            if self._clock.monotonic_s() >= deadline_s:
                silent = ", ".join(voter for voter in after.voters if voter not in active)
                raise _failed_precondition(
                    f"{QUORUM_LOSS}: {silent} would be needed and does not answer; start it, or "
                    "demote that one first"
                )
            await self._clock.sleep(POLL_S)

    async def _answering(self, wanted: set[MemberId]) -> list[MemberId]:
        """Who of them answers now."""
        own_id = self._cluster.member_id
        others = [one for one in self._cluster.members if one.id in wanted and one.id != own_id]
        bodies = await asyncio.gather(*(self._ask(one.http, "/_ping") for one in others))
        return [one.id for one, body in zip(others, bodies, strict=True) if body is not None]

    async def _standby_on(self, node_id: NodeId) -> Announcement:
        """Who stands by there. Waits as long as one may be silent: this leader may be new, and a
        master that was demoted just now needs a moment to stand by."""
        deadline_s = self._clock.monotonic_s() + SILENCE_S
        while True:
            now_s = self._clock.monotonic_s()
            standbys = self._standbys.present(now_s)
            found = masters_beside(standbys, self._cluster.state.node_status).get(node_id)
            if found is not None:
                return found
            if now_s >= deadline_s:
                raise _nobody_stands_by(node_id, self._host_of(node_id))
            self._require_leadership()
            await self._clock.sleep(POLL_S)

    def _host_of(self, node_id: NodeId) -> str:
        status = self._cluster.state.node_status.get(node_id)
        if status is None:
            return "its host"
        return f"{status.description.hostname} ({status.description.address})"

    def _master_on(self, node_id: NodeId) -> Member | None:
        return masters_beside(self._cluster.members, self._cluster.state.node_status).get(node_id)

    def _require_node(self, node_id: NodeId) -> None:
        if node_id not in self._cluster.state.nodes:
            raise NotFound(f"node {node_id} not found")

    def _require_leadership(self) -> None:
        if not self._node.is_leader:
            raise NotLeader(self._node.leader)

    def _told(self, standing: str) -> Told:
        members = tuple(
            ToldMember(member.id, member.raft, member.http) for member in self._cluster.members
        )
        anchors = self._cluster.state.trust_anchors
        generation = 0 if anchors is None else anchors.generation
        return Told(standing, members, self._incarnation, generation)


def _nobody_stands_by(node_id: NodeId, host: str) -> InvalidRequest:
    return _failed_precondition(
        f"node {node_id} cannot be promoted: no essaim-master stands by on {host}; write "
        "`standby = true` into its configuration, run `essaim-master --config FILE` there, "
        "and promote the node again"
    )


def _failed_precondition(sentence: str) -> InvalidRequest:
    return InvalidRequest(f"rpc error: code = FailedPrecondition desc = {sentence}")
