"""The state of one member, and the steps between its roles.

    FOLLOWER ──silence──▶ PRE_CANDIDATE ──quorum would vote──▶ CANDIDATE ──quorum voted──▶ LEADER
        ▲                        │                                 │                         │
        └── lost, or a leader ───┴──── lost, or a leader ──────────┴── higher term, quorum ──┘
                                                                        silent, …

`ROLE_CHANGES` is the whole machine. Elections, replication and reads are functions over this
state, each in a module of its own; nothing else writes to it.
"""

import random

from essaim_master.raft import quorum
from essaim_master.raft.config import RaftConfig
from essaim_master.raft.log import RaftLog
from essaim_master.raft.messages import (
    Entry,
    HardState,
    Message,
    MessageType,
    ReadState,
    Role,
    SnapshotMetadata,
)
from essaim_master.raft.progress import Progress, Window
from essaim_master.raft.reads import ForwardedReads, ReadRounds
from essaim_shared.errors import BrokenInvariant
from essaim_shared.ids import MemberId

ROLE_CHANGES: dict[Role, frozenset[Role]] = {
    Role.FOLLOWER: frozenset({Role.FOLLOWER, Role.PRE_CANDIDATE, Role.CANDIDATE}),
    Role.PRE_CANDIDATE: frozenset({Role.FOLLOWER, Role.PRE_CANDIDATE, Role.CANDIDATE}),
    Role.CANDIDATE: frozenset({Role.FOLLOWER, Role.PRE_CANDIDATE, Role.LEADER}),
    Role.LEADER: frozenset({Role.FOLLOWER}),
}

AFTER_SYNC = frozenset(
    {
        MessageType.PRE_VOTE_REQUEST,
        MessageType.PRE_VOTE_RESPONSE,
        MessageType.VOTE_REQUEST,
        MessageType.VOTE_RESPONSE,
        MessageType.APPEND_RESPONSE,
    }
)
"""Messages that promise what must be on disk first (rules 4 and 13)."""


class Member:
    def __init__(
        self,
        config: RaftConfig,
        rng: random.Random,
        hard_state: HardState,
        log: RaftLog,
        snapshot: SnapshotMetadata | None = None,
    ) -> None:
        self.config = config
        self.rng = rng
        self.id = config.member_id
        self.log = log
        self.configuration = log.configurations.latest.configuration
        """The latest of the log, committed or not; see `adopt_configuration`."""
        self.snapshot = snapshot
        """The newest durable one of this member."""

        self.role = Role.FOLLOWER
        self.term = hard_state.term
        self.vote = hard_state.vote
        self.leader: MemberId | None = None
        self.durable_term = hard_state.term
        """The highest term that is known to be on this disk; messages of a later one wait."""

        self.ticks = 0
        """Since the start; a date for deadlines."""
        self.election_elapsed = 0
        """Ticks since a sign of life of the leader, a vote granted, or an own campaign (rule 3).
        On a leader: since it last counted its quorum."""
        self.heartbeat_elapsed = 0
        self.election_timeout = 0
        self.draw_election_timeout()

        self.votes: dict[MemberId, bool] = {}
        """Answers to the campaign under way, by sender: a doubled one counts once (rule 7)."""
        self.progress: dict[MemberId, Progress] = {}
        """Leader only: one for each other member, and for those in `leaving`."""
        self.match: dict[MemberId, int] = {}
        """Leader only: durable index of each member; its own moves with `persisted` (rule 13).
        Agrees with `progress[...].match`."""
        self.transfer_target: MemberId | None = None
        self.is_append_due = False
        """Leader only: some follower may have something to be sent."""
        self.is_heartbeat_due = False
        self.snapshots_to_send: list[tuple[MemberId, SnapshotMetadata]] = []
        self.change_index: int | None = None
        """Leader only: the configuration that is to be committed, and settled then."""
        self.leaving: tuple[MemberId, ...] = ()
        """Leader only: who that change removes; it is still sent the log, and counts nowhere."""

        self.rounds = ReadRounds(self.id)
        self.forwarded = ForwardedReads()
        self.reads: list[ReadState] = []
        self.reads_refused: list[int] = []

        self.outbox_now: list[Message] = []
        self.outbox_after_sync: list[Message] = []

    @property
    def is_promotable(self) -> bool:
        """Whether it may campaign: it votes, or would if the latest change were not committed.

        Who is about to be removed may hold the only log that can still win, and must then lead
        until the change is committed; its own vote does not count (dissertation 4.2.2).
        """
        if quorum.is_voter(self.configuration, self.id):
            return True
        configurations = self.log.configurations
        return configurations.latest.index > self.log.commit and quorum.is_voter(
            configurations.before_latest, self.id
        )

    def adopt_configuration(self) -> None:
        """The log's latest configuration may have changed: use it from now on."""
        placed = self.log.configurations.latest
        configuration = placed.configuration
        if configuration is self.configuration:
            return
        before, self.configuration = self.configuration, configuration
        if self.role is not Role.LEADER:
            return
        members = quorum.members(configuration)
        for name in members:
            if name != self.id and name not in self.progress:
                self.progress[name] = self._new_progress()
        self.leaving = tuple(
            name for name in quorum.members(before) if name not in members and name != self.id
        )
        self.change_index = placed.index

    def _new_progress(self) -> Progress:
        config = self.config
        window = Window(config.inflight_messages_max, config.inflight_bytes_max)
        return Progress(self.log.last_index + 1, window)

    def draw_election_timeout(self) -> None:
        self.election_timeout = self.rng.randrange(
            self.config.election_ticks_min, self.config.election_ticks_max
        )

    def heard_leader(self, leader: MemberId) -> None:
        self.leader = leader
        self.election_elapsed = 0

    # Roles

    def _enter(self, role: Role) -> None:
        if role not in ROLE_CHANGES[self.role]:
            raise BrokenInvariant(
                f"{self.id} cannot go from {self.role.name} to {role.name} in term {self.term}"
            )
        if self.role is Role.LEADER:
            self.election_elapsed = 0
            self.reads_refused += self.rounds.refuse_all()
            self.progress = {}
            self.match = {}
            self.is_append_due = self.is_heartbeat_due = False
            self.change_index, self.leaving = None, ()
            self.snapshots_to_send = []
        self.role = role
        self.transfer_target = None
        self.votes = {}
        self.draw_election_timeout()

    def _set_leader(self, leader: MemberId | None) -> None:
        if leader != self.leader:
            self.reads_refused += self.forwarded.refuse_all()
        self.leader = leader

    def become_follower(self, term: int, leader: MemberId | None) -> None:
        """Follow `leader` in `term`. The election timer runs on: who follows nobody yet waits
        no longer because somebody else campaigned (rule 3)."""
        if term < self.term:
            raise BrokenInvariant(f"{self.id} would go back from term {self.term} to {term}")
        self._enter(Role.FOLLOWER)
        if term > self.term:
            self.term = term
            self.vote = None
        self._set_leader(leader)

    def become_pre_candidate(self) -> None:
        """Ask whether a campaign could be won; term and vote stay (dissertation 9.6)."""
        self._enter(Role.PRE_CANDIDATE)
        self._set_leader(None)
        self.election_elapsed = 0
        self.votes[self.id] = True

    def become_candidate(self) -> None:
        self._enter(Role.CANDIDATE)
        self._set_leader(None)
        self.election_elapsed = 0
        self.term += 1
        self.vote = self.id
        self.votes[self.id] = True

    def become_leader(self) -> None:
        """Lead this term. The caller appends the no-op."""
        if len(self.votes) > 1:
            # Others answered a request which left only once term and vote were on disk.
            self.durable_term = self.term
        self._enter(Role.LEADER)
        self._set_leader(self.id)
        self.election_elapsed = 0
        self.heartbeat_elapsed = 0
        self.rounds = ReadRounds(self.id)
        self.progress = {
            member: self._new_progress()
            for member in quorum.members(self.configuration)
            if member != self.id
        }
        change_index = self.log.configurations.latest.index
        self.change_index = change_index if change_index > self.log.commit else None
        # What this disk holds is not known until a write of this very term came back (rule 12).
        self.match = {self.id: 0}
        self.is_append_due = True

    # Sending

    def send(
        self,
        type_: MessageType,
        receiver: MemberId,
        *,
        term: int | None = None,
        index: int = 0,
        log_term: int = 0,
        entries: tuple[Entry, ...] = (),
        commit: int = 0,
        reject: bool = False,
        hint: int = 0,
        round_number: int = 0,
        context: int = 0,
        force: bool = False,
        snapshot: SnapshotMetadata | None = None,
    ) -> None:
        """Queue one message; `term` differs from our own only in pre-votes."""
        message = Message(
            type_,
            self.id,
            receiver,
            self.term if term is None else term,
            index,
            log_term,
            entries,
            commit,
            reject,
            hint,
            round_number,
            context,
            force,
            snapshot,
        )
        if type_ not in AFTER_SYNC:
            self.outbox_now.append(message)
            return
        waiting = self.outbox_after_sync
        if waiting and _is_covered_by(waiting[-1], message):
            waiting[-1] = message
        else:
            waiting.append(message)


def _is_covered_by(earlier: Message, later: Message) -> bool:
    """Whether the later append response says all that the earlier one does, so that one will do."""
    return (
        earlier.type is MessageType.APPEND_RESPONSE
        and later.type is MessageType.APPEND_RESPONSE
        and not earlier.reject
        and not later.reject
        and earlier.receiver == later.receiver
        and earlier.term == later.term
        and earlier.index <= later.index
    )
