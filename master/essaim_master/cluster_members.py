"""Who the masters are: where the links find them, and how members come and go.

A member is two things: an object in the state, which says where it is and that its name was used
(`/members/ID`), and a place in Raft's own configuration, which says whether it votes. They are
changed in the order in which nothing is ever needed that is not there yet:

    add      object (all masters let it in) → learner → it catches up
    promote  learner → voter
    remove   out of the configuration → it hears so → the object is marked as removed (links end)

A change that breaks off half-way is finished by giving the same command again. For a master that
stood by and was promoted the object says that it is to vote, and whoever leads does the rest.
"""

import asyncio
import logging
import re
from collections.abc import Callable, Mapping
from typing import Protocol

import msgspec

from essaim_master.authority.revocation import shut_out_master
from essaim_master.config import split_address
from essaim_master.errors import MemberRemoved
from essaim_master.raft.errors import MembershipRefused, NotLeader, ProposalDropped
from essaim_master.raft.membership import (
    AddLearner,
    ConfigurationChange,
    PromoteLearner,
    RemoveMember,
    changed,
)
from essaim_master.raft.messages import Configuration
from essaim_master.raft.status import RaftStatus
from essaim_master.state.cluster import Cluster, Member
from essaim_master.state.cluster_state import AppliedChanges
from essaim_master.state.keys import Kind, member_key
from essaim_master.state.writes import Writes
from essaim_master.tcp_peer_transport import PeerAddress
from essaim_shared.clock import Clock
from essaim_shared.errors import (
    BrokenInvariant,
    ConfigError,
    Conflict,
    InvalidRequest,
    NotFound,
    OutcomeUnknown,
)
from essaim_shared.ids import MemberId
from essaim_shared.objects import ClusterMember

CHANGE_TIMEOUT_S = 8.0
"""For one step of a change, with the election of another leader in between."""
POLL_S = 0.02
REMOVAL_NOTICE_S = 0.5
"""How long a removed master keeps its links, to hear that it was removed."""

_MEMBER_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")

_log = logging.getLogger(__name__)


class MembershipNode(Protocol):
    """What is needed of a RaftNode."""

    @property
    def applied(self) -> int: ...

    @property
    def is_leader(self) -> bool: ...

    @property
    def leader(self) -> MemberId | None: ...

    def status(self) -> RaftStatus: ...

    def propose_configuration(self, change: ConfigurationChange) -> int:
        """The index of the change. Raises NotLeader, ProposalDropped, MembershipRefused."""
        ...

    async def transfer_leadership(self, to: MemberId) -> None: ...


class Links(Protocol):
    def set_peers(self, addresses: Mapping[MemberId, PeerAddress]) -> None: ...


class ClusterMembers:
    def __init__(
        self,
        cluster: Cluster,
        node: MembershipNode,
        links: Links,
        first_members: tuple[Member, ...],
        clock: Clock,
        on_removed: Callable[[ConfigError], None],
        note: Callable[[Writes], None] = lambda writes: None,
    ) -> None:
        """`first_members` are those of the configuration file: known before anything is applied.
        `on_removed` is called when this master is no longer a member; `note` adds to a change who
        asked for it."""
        self._note = note
        self._cluster = cluster
        self._node = node
        self._links = links
        self._first_members = first_members
        self._clock = clock
        self._on_removed = on_removed
        self._was_member = False
        self._advancing = asyncio.Lock()
        self._unsubscribe: Callable[[], None] | None = None

    def start(self) -> None:
        self._unsubscribe = self._cluster.state.subscribe(self._on_changes)
        self.set_links()

    def stop(self) -> None:
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None

    # Every master

    def look_for_removal(self) -> None:
        """End this master's part in the cluster if it is no member any more. Called now and then:
        what a leader tells a member that leaves is the last that this one hears."""
        own_id = self._cluster.member_id
        if own_id in members_of(self._node.status().configuration):
            self._was_member = True
            return
        own = self._cluster.state.members.get(own_id)
        if self._was_member or (own is not None and own.removed_ns):
            self.removed()

    def removed(self) -> None:
        own_id = self._cluster.member_id
        others = tuple(member for member in self._cluster.members if member.id != own_id)
        self._on_removed(MemberRemoved(own_id, others))

    # The leader

    async def add(self, member: Member) -> None:
        """Make a new master a learner. Raises NotLeader, InvalidRequest, Conflict, and what a
        change raises (`_change`)."""
        await self._write(self._checked(member))
        await self._change(AddLearner(member.id))
        _log.info("master %s joins as a learner", member.id)

    async def add_to_vote(self, member: Member) -> None:
        """Have a master that stands by become a learner, and a voter once it has caught up: from
        here on every leader sees to that (`advance`). Raises as `add`, and MembershipRefused."""
        found = self._checked(member)
        changed(self._node.status().configuration, AddLearner(member.id))
        await self._write(msgspec.structs.replace(found, is_to_vote=True))

    async def advance(self) -> None:
        """The next steps of those that are to vote. Raises what a change raises; a learner that
        lags is no error, its turn comes."""
        async with self._advancing:
            for member in tuple(self._cluster.state.members.values()):
                if member.is_to_vote and not member.removed_ns:
                    await self._advance_one(member)

    async def _advance_one(self, member: ClusterMember) -> None:
        configuration = self._node.status().configuration
        if member.id in configuration.learners:
            try:
                await self._change(PromoteLearner(member.id))
            except MembershipRefused as refused:
                _log.debug("master %s does not vote yet: %s", member.id, refused)
                return
            _log.info("master %s votes", member.id)
        elif member.id not in members_of(configuration):
            await self._change(AddLearner(member.id))
            _log.info("master %s joins as a learner that is to vote", member.id)
            return
        await self._write(msgspec.structs.replace(member, is_to_vote=False))

    async def promote(self, member_id: MemberId) -> None:
        """Let a learner vote. Raises NotLeader, NotFound, and what a change raises."""
        self.require_leadership()
        self._require_known(member_id)
        await self._change(PromoteLearner(member_id))
        _log.info("master %s votes", member_id)

    async def remove(
        self, member_id: MemberId, *, takes_lost_identity: bool = False, is_revoked: bool = False
    ) -> None:
        """`takes_lost_identity`: a master that does not answer loses its identity too;
        `is_revoked`: it does in any case, and cannot even stand by. Raises NotLeader (also when
        this leader is to go itself: it has handed over), NotFound, and what a change raises."""
        self.require_leadership()
        present = self._require_known(member_id)
        status = self._node.status()
        progress = status.progress.get(member_id)
        is_lost = takes_lost_identity and (progress is None or not progress.is_active)
        if member_id in members_of(status.configuration):
            if member_id == self._cluster.member_id:
                heir = _heir(status)
                if heir is not None:
                    await self._node.transfer_leadership(heir)
                    raise NotLeader(heir)
            if present is not None and present.is_to_vote:
                present = msgspec.structs.replace(present, is_to_vote=False)
                await self._write(present)  # or the leader would bring it back
            await self._change(RemoveMember(member_id))
            await self._clock.sleep(REMOVAL_NOTICE_S)
        writes = Writes()
        if is_revoked or is_lost:
            shut_out_master(self._cluster.state, member_id, writes)
        if present is not None:
            gone = msgspec.structs.replace(present, removed_ns=self._clock.wall_ns())
            await self._write(gone, writes)
        _log.info("master %s is no longer a member", member_id)

    async def transfer(self, member_id: MemberId | None) -> MemberId:
        """Hand leadership to a voter, or to the one that follows best; whom. Raises NotLeader,
        TransferRefused, Unavailable, InvalidRequest."""
        self.require_leadership()
        heir = _heir(self._node.status()) if member_id is None else member_id
        if heir is None:
            raise InvalidRequest("no other master votes here: add one and promote it first")
        await self._node.transfer_leadership(heir)
        return heir

    async def found(self) -> None:
        """Write the objects of members that have none: those of the static list."""
        state = self._cluster.state
        for member in self._first_members:
            is_member = member.id in members_of(self._node.status().configuration)
            if is_member and member.id not in state.members:
                await self._write(
                    ClusterMember(
                        id=member.id,
                        raft=member.raft,
                        http=member.http,
                        added_ns=self._clock.wall_ns(),
                    )
                )

    def _checked(self, member: Member) -> ClusterMember:
        """The object of a member that may come. Raises NotLeader, InvalidRequest, Conflict."""
        self.require_leadership()
        check_member(member)
        if member.id in members_of(self._node.status().configuration):
            raise Conflict(f"{member.id} is a master of this cluster already")
        present = self._cluster.state.members.get(member.id)
        if present is not None and present.removed_ns:
            raise Conflict(
                f"{member.id} was a master of this cluster before: a name that came back with "
                "another disk could vote twice; choose a new one"
            )
        for other in self._cluster.members:
            if other.id != member.id and member.raft == other.raft:
                raise Conflict(f"the address {member.raft} belongs to {other.id}")
        return ClusterMember(
            id=member.id, raft=member.raft, http=member.http, added_ns=self._clock.wall_ns()
        )

    async def _change(self, change: ConfigurationChange) -> None:
        """Raises MembershipRefused (with the reason), NotLeader, ProposalDropped, or
        OutcomeUnknown when leadership was lost meanwhile."""
        deadline_s = self._clock.monotonic_s() + CHANGE_TIMEOUT_S
        term = self._node.status().term
        while True:
            try:
                index = self._node.propose_configuration(change)
                break
            except ProposalDropped:
                if self._clock.monotonic_s() >= deadline_s:
                    raise
            await self._clock.sleep(POLL_S)
        while self._node.applied < index:
            if self._clock.monotonic_s() >= deadline_s or self._node.status().term != term:
                raise OutcomeUnknown(
                    "the change of the members was not confirmed in time and may or may not have "
                    "happened: look with `essaim cluster members ls` before you repeat it"
                )
            await self._clock.sleep(POLL_S)

    async def _write(self, member: ClusterMember, beside: Writes | None = None) -> None:
        writes = Writes() if beside is None else beside
        writes.put(member)
        key = member_key(member.id)
        writes.expect(key, self._cluster.state.modified(key))
        self._note(writes)
        (transaction,) = writes.transactions()
        result = await self._cluster.commit(transaction, CHANGE_TIMEOUT_S)
        if not result.succeeded:
            raise Conflict(f"somebody else changed {member.id} at the same time: look and repeat")

    def require_leadership(self) -> None:
        """Raises NotLeader."""
        if not self._node.is_leader:
            raise NotLeader(self._node.leader)

    def _require_known(self, member_id: MemberId) -> ClusterMember | None:
        present = self._cluster.state.members.get(member_id)
        if present is not None and present.removed_ns:
            present = None
        if present is None and member_id not in members_of(self._node.status().configuration):
            raise NotFound(
                f"no master {member_id} in this cluster: see `essaim cluster members ls`"
            )
        return present

    # Links

    def _on_changes(self, applied: AppliedChanges) -> None:
        if any(change.kind is Kind.MEMBER for change in applied.changes):
            self.set_links()

    def set_links(self) -> None:
        """Tell the links where everybody is.

        The static list helps until the state knows better: also a master that was away while
        others came finds somebody who tells it."""
        addresses = {
            member.id: PeerAddress(*split_address(member.raft)) for member in self._first_members
        }
        for member in self._cluster.state.members.values():
            if member.removed_ns:
                addresses.pop(member.id, None)
            else:
                addresses[member.id] = _address_in_state(member)
        addresses.pop(self._cluster.member_id, None)
        self._links.set_peers(addresses)


def members_of(configuration: Configuration) -> tuple[MemberId, ...]:
    """Voters and learners."""
    voters = dict.fromkeys((*configuration.voters, *configuration.voters_outgoing))
    return (*voters, *configuration.learners)


def _heir(status: RaftStatus) -> MemberId | None:
    """The other voter that holds most of the log and answers."""
    voters = [
        (progress.is_active, progress.match, name)
        for name, progress in status.progress.items()
        if name != status.member_id and name in status.configuration.voters
    ]
    return max(voters)[2] if voters else None


def check_member(member: Member) -> None:
    """Raises InvalidRequest for a name or an address that can be none."""
    if _MEMBER_ID.fullmatch(member.id) is None:
        raise InvalidRequest(
            f"{member.id!r} is no name of a master: letters, digits, - and _, at most 63"
        )
    for address in (member.raft, member.http):
        try:
            split_address(address)
        except ConfigError as error:
            raise InvalidRequest(str(error)) from error


def _address_in_state(member: ClusterMember) -> PeerAddress:
    try:
        return PeerAddress(*split_address(member.raft))
    except ConfigError as error:
        raise BrokenInvariant(f"master {member.id} stands in the state so: {error}") from error
