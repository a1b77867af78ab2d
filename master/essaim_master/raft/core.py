"""One Raft member without I/O: what happened goes in, the work to do comes out.

Read the package's handbook (`essaim_master.raft`) for the loop that a caller writes around it. The
logic is in four modules over one state (`member.py`): elections, replication, reading, log. Here
are the calls of the outside world, the rule of terms, and the table of who handles which message.
"""

import random
from collections.abc import Callable, Sequence

from essaim_master.raft import (
    configurations,
    elections,
    membership,
    quorum,
    reading,
    replication,
    snapshots,
)
from essaim_master.raft.config import RaftConfig
from essaim_master.raft.log import RaftLog
from essaim_master.raft.member import Member
from essaim_master.raft.membership import ConfigurationChange
from essaim_master.raft.messages import (
    Configuration,
    Entry,
    HardState,
    Message,
    MessageType,
    Ready,
    Role,
    SnapshotMetadata,
)
from essaim_master.raft.progress import ProgressState
from essaim_master.raft.status import FollowerStatus, RaftStatus
from essaim_shared.errors import BrokenInvariant, MalformedMessage
from essaim_shared.ids import MemberId

__all__ = ["RaftConfig", "RaftCore", "RaftStatus"]


def _on_append_request(member: Member, message: Message) -> None:
    member.heard_leader(message.sender)
    replication.on_append_request(member, message)


def _on_heartbeat_request(member: Member, message: Message) -> None:
    member.heard_leader(message.sender)
    replication.on_heartbeat_request(member, message)


def _on_snapshot_request(member: Member, message: Message) -> None:
    member.heard_leader(message.sender)
    snapshots.on_snapshot_request(member, message)


def _on_heartbeat_response(member: Member, message: Message) -> None:
    replication.on_heartbeat_response(member, message)
    reading.answer_confirmed(member)


Handler = Callable[[Member, Message], None]

_EVERY_ROLE: dict[MessageType, Handler] = {
    MessageType.PRE_VOTE_REQUEST: elections.on_vote_request,
    MessageType.VOTE_REQUEST: elections.on_vote_request,
}
_NOT_LEADING: dict[MessageType, Handler] = {
    **_EVERY_ROLE,
    MessageType.APPEND_REQUEST: _on_append_request,
    MessageType.HEARTBEAT_REQUEST: _on_heartbeat_request,
    MessageType.SNAPSHOT_REQUEST: _on_snapshot_request,
    MessageType.READ_INDEX_REQUEST: reading.refuse_read_index_request,
    MessageType.READ_INDEX_RESPONSE: reading.on_read_index_response,
}
HANDLERS: dict[Role, dict[MessageType, Handler]] = {
    Role.FOLLOWER: {
        **_NOT_LEADING,
        MessageType.TIMEOUT_NOW: elections.on_timeout_now,
    },
    Role.PRE_CANDIDATE: {
        **_NOT_LEADING,
        MessageType.PRE_VOTE_RESPONSE: elections.on_pre_vote_response,
    },
    Role.CANDIDATE: {
        **_NOT_LEADING,
        MessageType.VOTE_RESPONSE: elections.on_vote_response,
    },
    Role.LEADER: {
        **_EVERY_ROLE,
        MessageType.APPEND_RESPONSE: replication.on_append_response,
        MessageType.HEARTBEAT_RESPONSE: _on_heartbeat_response,
        MessageType.READ_INDEX_REQUEST: reading.on_read_index_request,
    },
}
"""Who handles what, for a message of the member's own term. Without a row a message is late, and
dropped: nothing depends on any single datagram."""

FROM_LEADER = frozenset(
    {
        MessageType.APPEND_REQUEST,
        MessageType.HEARTBEAT_REQUEST,
        MessageType.SNAPSHOT_REQUEST,
    }
)
"""Sent only by the leader of their term."""

CAMPAIGN = frozenset({MessageType.PRE_VOTE_REQUEST, MessageType.VOTE_REQUEST})


class RaftCore:
    """One member of a Raft cluster. Not thread-safe: one caller, one call at a time."""

    def __init__(
        self,
        config: RaftConfig,
        rng: random.Random,
        hard_state: HardState,
        configuration: Configuration,
        entries: Sequence[Entry],
        snapshot: SnapshotMetadata | None = None,
        applied: int = 0,
    ) -> None:
        """Start from what the disk holds; everything given counts as durable.

        `configuration` is the one before the first entry: of the founders, or without voters for
        who joins later. With a `snapshot` it is not looked at. `entries` may begin before the end
        of the snapshot; see `recovered_log` for which of them count. Raises ConfigError for
        numbers that cannot work, BrokenInvariant for a log whose committed end is missing.
        """
        config.validate()
        log = snapshots.recovered_log(configuration, entries, snapshot)
        if snapshot is not None:
            applied = max(applied, snapshot.index)
        log.restore_marks(hard_state.commit, applied)
        self._member = Member(config, rng, hard_state, log, snapshot)
        if log.last_term > hard_state.term:
            # A snapshot outlived a crash, our place in its term did not. We voted in none since.
            self._member.become_follower(log.last_term, None)
        self._saved = HardState(hard_state.term, hard_state.vote, log.commit)
        """The hard state as last handed out."""

    # What happened

    def tick(self) -> None:
        """100 ms passed. Give messages that wait first, and at most one tick a turn: after a pause
        the leader's heartbeats are older than the silence (rule 3)."""
        member = self._member
        member.ticks += 1
        if member.role is Role.LEADER:
            elections.tick_leader(member)
        else:
            elections.tick_follower(member)
            reading.expire_forwarded(member)

    def step(self, message: Message) -> None:
        """A message arrived. Raises MalformedMessage, before anything changed, for one that no
        correct member sends."""
        member = self._member
        _check(member, message)
        if message.term != member.term and not self._settle_term(message):
            return
        if message.type in FROM_LEADER and message.term == member.term:
            self._follow(message)
        handler = HANDLERS[member.role].get(message.type)
        if handler is not None:
            handler(member, message)

    def _settle_term(self, message: Message) -> bool:
        """Compare terms (paper 5.1); whether the message is to be handled after that."""
        member = self._member
        if message.term < member.term:
            self._answer_old(message)
            return False
        if message.type in CAMPAIGN and elections.ignores_campaign(member, message):
            return False
        if message.type is MessageType.PRE_VOTE_REQUEST:
            return True  # The sender has not started that term, and may never.
        if message.type is MessageType.PRE_VOTE_RESPONSE and not message.reject:
            return True  # It carries the term that we asked about.
        is_leader = message.type in FROM_LEADER
        member.become_follower(message.term, message.sender if is_leader else None)
        return True

    def _answer_old(self, message: Message) -> None:
        """Wake a sender that is behind; without a word it could stay stuck for ever (rule 1)."""
        member = self._member
        if message.type in FROM_LEADER:
            # Any answer of a newer term makes it step down. This one, round 0, confirms nothing.
            member.send(MessageType.HEARTBEAT_RESPONSE, message.sender)
        elif message.type is MessageType.PRE_VOTE_REQUEST:
            member.send(MessageType.PRE_VOTE_RESPONSE, message.sender, reject=True)

    def _follow(self, message: Message) -> None:
        """The sender leads our term: end a campaign of our own."""
        member = self._member
        if member.role is Role.LEADER or member.leader not in (None, message.sender):
            raise BrokenInvariant(
                f"two leaders in term {member.term}: {message.sender} and {member.leader}"
            )
        if member.role is not Role.FOLLOWER or member.leader is None:
            member.become_follower(member.term, message.sender)

    def propose(self, commands: Sequence[bytes]) -> range:
        """Append commands to the log of this leader; the indexes that they got.

        They are committed if and when entries with this term come back at these indexes. Raises
        NotLeader (with a hint) or ProposalDropped (with the reason): then nothing was appended.
        """
        return replication.propose(self._member, commands)

    def read_index(self, context: int) -> None:
        """Ask for an index at which a read is linearizable, on any member.

        The answer comes in `Ready.reads` or `Ready.reads_refused` under the caller's `context`,
        which must not be in use already. A refused read may simply be asked again.
        """
        reading.read_index(self._member, context)

    def transfer_leadership(self, to: MemberId) -> None:
        """Hand leadership to `to` once it holds the whole log; given up after election_ticks_min.

        Raises NotLeader, or TransferRefused for a member that cannot lead.
        """
        elections.transfer_leadership(self._member, to)

    def propose_configuration(self, change: ConfigurationChange) -> int:
        """Append one change of the members (`membership`), in effect here at once; its index.

        Raises NotLeader, ProposalDropped (not now: no entry of this term is committed yet, or the
        change before is not applied) or MembershipRefused (not as things are: no member of that
        name, a learner that lacks entries, a majority that would not answer).
        """
        index = membership.propose(self._member, change)
        replication.advance_commit(self._member)  # Fewer voters may agree on more.
        return index

    # Snapshots

    def compacted(self, snapshot: SnapshotMetadata, first_kept_index: int) -> None:
        """The driver's own snapshot is durable: forget the entries before `first_kept_index`.

        It must be of applied entries, and `first_kept_index` at most one above its index; some
        entries kept before it spare slow followers the snapshot.
        """
        snapshots.compacted(self._member, snapshot, first_kept_index)

    def needs_snapshot(self, snapshot: SnapshotMetadata) -> bool:
        """Whether `install_snapshot` would take it: a stream that it would not may be refused."""
        return snapshots.needs(self._member, snapshot)

    def install_snapshot(self, snapshot: SnapshotMetadata) -> bool:
        """A whole snapshot from elsewhere is durable here; False: it is not needed (any more).

        If True, log, configuration, commit and applied begin anew at its index, and so must the
        driver before it takes the next Ready: what it holds of committed entries and of the log
        on disk is void, the state machine is the snapshot's. The next entries follow its index,
        and the answer to the leader comes with the next Ready.
        """
        return snapshots.install(self._member, snapshot)

    def report_snapshot(self, member: MemberId, ok: bool) -> None:
        """The stream that `Ready.snapshot_to_send` asked for ended. Without this report the
        member is sent no entries for the rest of the term."""
        snapshots.report(self._member, member, ok=ok)

    def configuration_at(self, index: int) -> Configuration:
        """In effect at `index`, for the metadata of a snapshot; not below the last snapshot."""
        return self._member.log.configurations.at(index)

    # The disk and the links

    def persisted(self, term: int, index: int) -> None:
        """A Ready is on disk: pass its `persist_term` and `persist_index`, in the order of Readies.

        Counted only on a leader and only in its own term, in which its log never shrinks; so a
        late report about entries that were replaced meanwhile cannot count for their
        replacements (rule 12). Nothing is lost with it: a new leader's no-op is written after
        all that came before, and its report covers them.
        """
        member = self._member
        if term > member.term:
            raise BrokenInvariant(f"term {term} reported durable, the term is {member.term}")
        member.durable_term = max(member.durable_term, term)
        if term == member.term and member.role is Role.LEADER:
            replication.on_own_disk(member, index)

    def applied_to(self, index: int) -> None:
        """The state machine has applied everything up to `index`."""
        self._member.log.applied_to(index)

    def report_unreachable(self, member: MemberId) -> None:
        """A message to `member` was probably lost: probe, rather than keep sending into a void."""
        progress = self._member.progress.get(member)
        if progress is not None and progress.state is ProgressState.REPLICATE:
            progress.become_probe()

    # The work to do

    def has_ready(self) -> bool:
        """Whether `ready` would return any work."""
        member, log, saved = self._member, self._member.log, self._saved
        return bool(
            member.is_append_due
            or member.is_heartbeat_due
            or member.rounds.is_round_due
            or log.handed_out < log.last_index
            or log.applying < log.commit
            or member.outbox_now
            or member.outbox_after_sync
            or member.reads
            or member.reads_refused
            or saved.commit != log.commit
            or saved.term != member.term
            or saved.vote != member.vote
        )

    def ready(self) -> Ready:
        """Take the work of this turn; see Ready for the order in which it is to be done."""
        member, log = self._member, self._member.log
        if member.role is Role.LEADER:
            self._lead()
        saved = self._saved
        must_sync = (saved.term, saved.vote) != (member.term, member.vote)
        hard_state = None
        if must_sync or saved.commit != log.commit:
            hard_state = self._saved = HardState(member.term, member.vote, log.commit)
        entries = log.take_unstable()

        now, after_sync = tuple(member.outbox_now), tuple(member.outbox_after_sync)
        member.outbox_now, member.outbox_after_sync = [], []
        if member.durable_term < member.term:
            now, after_sync = (), now + after_sync  # Rule 4: the term first, then its messages.
        snapshot_to_send, member.snapshots_to_send = tuple(member.snapshots_to_send), []
        reads, member.reads = tuple(member.reads), []
        reads_refused, member.reads_refused = tuple(member.reads_refused), []
        return Ready(
            entries=entries,
            hard_state=hard_state,
            must_sync=must_sync or bool(entries),
            messages_now=now,
            messages_after_sync=after_sync,
            committed=log.take_committed(member.config.committed_bytes_per_ready_max),
            reads=reads,
            reads_refused=reads_refused,
            snapshot_to_send=snapshot_to_send,
            persist_term=member.term,
            persist_index=log.last_index,
        )

    def _lead(self) -> None:
        """Send what this turn's events made due: one round for all reads, appends in few pieces."""
        member = self._member
        if member.rounds.is_round_due:
            member.rounds.start_round()
            reading.answer_confirmed(member)  # A cluster of one needs nobody else's word.
            member.is_heartbeat_due = True
        if member.is_heartbeat_due:
            replication.send_heartbeats(member)
        if member.is_append_due:
            replication.send_due(member)
        if member.change_index is not None and member.change_index <= member.log.commit:
            membership.settle(member)

    # What is the case

    @property
    def role(self) -> Role:
        return self._member.role

    @property
    def is_leader(self) -> bool:
        return self._member.role is Role.LEADER

    @property
    def term(self) -> int:
        return self._member.term

    @property
    def leader(self) -> MemberId | None:
        """Who leads this term, as far as this member knows."""
        return self._member.leader

    @property
    def commit(self) -> int:
        return self._member.log.commit

    @property
    def log(self) -> RaftLog:
        """The entries held here, to look at: for tools and tests, never to be changed by them."""
        return self._member.log

    def status(self) -> RaftStatus:
        """A picture of this moment."""
        member, log = self._member, self._member.log
        progress = {
            name: FollowerStatus(one.match, one.next, one.state, one.is_recently_active)
            for name, one in member.progress.items()
        }
        if member.role is Role.LEADER:
            own_match = member.match[member.id]
            progress[member.id] = FollowerStatus(
                own_match, log.last_index + 1, ProgressState.REPLICATE, True
            )
        return RaftStatus(
            member_id=member.id,
            role=member.role,
            term=member.term,
            leader=member.leader,
            commit=log.commit,
            applied=log.applied,
            last_index=log.last_index,
            configuration=member.configuration,
            progress={name: progress[name] for name in quorum.members(member.configuration)}
            if progress
            else {},
            configuration_index=log.configurations.latest.index,
            first_index=log.first_index,
            snapshot_index=0 if member.snapshot is None else member.snapshot.index,
        )


def _check(member: Member, message: Message) -> None:
    """Raise MalformedMessage for what no correct member sends; cheap enough for every message."""
    if message.receiver != member.id or message.sender == member.id:
        raise MalformedMessage(
            f"{message.type.name} from {message.sender} to {message.receiver} came to {member.id}"
        )
    entries = message.entries
    if not entries:
        return
    first, last = entries[0], entries[-1]
    if (
        first.index != message.index + 1
        or last.index != message.index + len(entries)
        or not message.log_term <= first.term <= last.term <= message.term
    ):
        raise MalformedMessage(
            f"{message.type.name} from {message.sender} in term {message.term}: entries"
            f" {first.index}..{last.index} do not follow entry {message.index}"
        )
    for entry in entries:
        if entry.kind is configurations.CONFIGURATION:
            configurations.decode(entry.data)
