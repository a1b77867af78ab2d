"""The witness sees every write, every message and every apply, and knows what must never be.

It keeps the true history beside the cluster's own memory: which entries each disk holds, who
voted for whom, which entry was applied where. Each check looks at what one step changed, so that
it costs next to nothing; `check_everything` looks again at all of it. In brackets the names of
the properties in the TLA+ specification of Raft (Ongaro's dissertation, appendix B) and of etcd's.
"""

from collections.abc import Callable, Sequence

from essaim_master.kv.commands import AppliedProposal
from essaim_master.raft import configurations
from essaim_master.raft.messages import (
    Configuration,
    Entry,
    EntryKind,
    HardState,
    Message,
    MessageType,
    Role,
    SnapshotMetadata,
)
from essaim_master.raft.status import RaftStatus
from essaim_master.wal.records import WalBatch
from essaim_shared.ids import MemberId

LEADERS_MESSAGES = frozenset({MessageType.APPEND_REQUEST, MessageType.HEARTBEAT_REQUEST})
PRE_VOTES = frozenset({MessageType.PRE_VOTE_REQUEST, MessageType.PRE_VOTE_RESPONSE})

CONFIGURATIONS_IN_QUESTION = 3
"""One that is in effect, one under way, and one that was replaced with its leader."""


class Violation(Exception):
    """Something happened that must never happen. The message says what, with numbers."""


class DiskImage:
    """Terms of the entries that one disk holds, and its hard state."""

    def __init__(self) -> None:
        self.base = 0
        self.base_term = 0
        self.terms: list[int] = []
        self.hard_state = HardState()

    @property
    def last_index(self) -> int:
        return self.base + len(self.terms)

    def term_at(self, index: int) -> int | None:
        """None where it holds nothing; -1 for what a snapshot covers."""
        if index <= self.base:
            return -1
        position = index - self.base - 1
        return self.terms[position] if position < len(self.terms) else None

    def write(self, batch: WalBatch) -> None:
        if batch.snapshot is not None and batch.snapshot.resets_log:
            metadata = batch.snapshot.metadata
            self.base, self.base_term, self.terms = metadata.index, metadata.term, []
        if batch.entries:
            kept = batch.entries[0].index - 1 - self.base
            if not 0 <= kept <= len(self.terms):
                raise Violation(
                    f"entries from {batch.entries[0].index} on written to a log that holds "
                    f"{self.base + 1} to {self.last_index}"
                )
            del self.terms[kept:]
            self.terms += [entry.term for entry in batch.entries]
        if batch.hard_state is not None:
            self.hard_state = batch.hard_state


class AppliedEntry:
    __slots__ = ("applied", "command", "term")

    def __init__(self, term: int, command: bytes, applied: AppliedProposal) -> None:
        self.term = term
        self.command = command
        self.applied = applied


class Witness:
    def __init__(self, configuration: Configuration) -> None:
        members = (*configuration.voters, *configuration.learners)
        self.moment = 0
        """Grows with every call and return of a client: the order of real time."""
        self.violations: list[str] = []
        self.ledger: dict[int, AppliedEntry] = {}
        """What was applied first at each index, by whomever."""
        self.submitted = {member: DiskImage() for member in members}
        self.durable = {member: DiskImage() for member in members}
        self.leaders: dict[int, MemberId] = {}
        """By term."""
        self.commit_at_election: dict[int, int] = {}
        """What the leader of a term had learned from its predecessors, by term."""
        self.look: Callable[[MemberId], RaftStatus | None] = lambda member: None
        """What a member says of itself now."""
        self.configurations = [configuration]
        """Those of the members that were ever written to a disk, in the order of writing."""
        self._entries: dict[tuple[int, int], tuple[Entry, int | None]] = {}
        """By (index, term): the entry and the term of the one before it."""
        self._votes: dict[tuple[int, MemberId], MemberId] = {}
        self.restores = 0
        """How often a state machine became what a snapshot holds."""
        self.trace = 0
        """A number that two runs of one seed must agree on."""

    def accuse(self, what: str) -> None:
        self.violations.append(what)

    # The disks

    def submitted_by(self, member: MemberId, batch: WalBatch) -> None:
        image = self.submitted[member]
        image.write(batch)
        previous_term = None
        if batch.entries:
            previous_term = image.term_at(batch.entries[0].index - 1)
        for entry in batch.entries:
            known = self._entries.setdefault((entry.index, entry.term), (entry, previous_term))
            if known[0] is not entry and known[0] != entry:
                self.accuse(
                    f"[LogMatching] entry {entry.index} of term {entry.term} is {entry.data!r} on "
                    f"{member} and was {known[0].data!r}"
                )
            if -1 not in (known[1], previous_term) and known[1] != previous_term:
                self.accuse(
                    f"[LogMatching] before entry {entry.index} of term {entry.term} stands one of "
                    f"term {previous_term} on {member}, elsewhere of term {known[1]}"
                )
            previous_term = entry.term
            if entry.kind is EntryKind.CONFIGURATION:
                found = configurations.decode(entry.data)
                if found != self.configurations[-1]:
                    self.configurations.append(found)

    def durable_on(self, member: MemberId, batches: Sequence[WalBatch]) -> None:
        for batch in batches:
            self.durable[member].write(batch)

    def recovered_on(
        self,
        member: MemberId,
        hard_state: HardState,
        snapshot: SnapshotMetadata | None,
        entries: Sequence[Entry],
    ) -> None:
        """A new life found this on its disk: all that counted as durable must be there."""
        found = DiskImage()
        if snapshot is not None:
            found.base, found.base_term = snapshot.index, snapshot.term
        found.hard_state = hard_state
        found.terms = [entry.term for entry in entries]
        before = self.durable[member]
        for index, applied in self.ledger.items():
            if before.term_at(index) == applied.term and found.term_at(index) not in (
                applied.term,
                -1,
            ):
                self.accuse(
                    f"[CommittedIsDurable] {member} had entry {index} of term {applied.term} on "
                    f"its disk, and after a restart it has {found.term_at(index)}"
                )
                break
        old, new = before.hard_state, hard_state
        if new.term < old.term or (new.term == old.term and old.vote not in (None, new.vote)):
            self.accuse(f"{member} forgot its vote: {old} was durable, {new} was recovered")
        self.durable[member] = found
        again = DiskImage()
        again.base, again.base_term = found.base, found.base_term
        again.terms, again.hard_state = list(found.terms), hard_state
        self.submitted[member] = again

    # The wires

    def sent(self, sender: MemberId, messages: Sequence[Message]) -> None:
        """A message leaves only when what it promises is on the disk (rules 4 and 13)."""
        durable = self.durable[sender]
        for message in messages:
            kind = message.type
            if kind not in PRE_VOTES and message.term > durable.hard_state.term:
                self.accuse(
                    f"{sender} sends {kind.name} of term {message.term} with term "
                    f"{durable.hard_state.term} on its disk"
                )
            if kind in LEADERS_MESSAGES:
                self._leads(sender, message.term)
            elif kind is MessageType.APPEND_RESPONSE:
                if not message.reject and message.index > durable.last_index:
                    self.accuse(
                        f"{sender} acknowledges entry {message.index}, its disk ends at "
                        f"{durable.last_index}"
                    )
            elif kind is MessageType.VOTE_RESPONSE and not message.reject:
                self._votes_for(sender, message)

    def _votes_for(self, voter: MemberId, message: Message) -> None:
        chosen = self._votes.setdefault((message.term, voter), message.receiver)
        if chosen != message.receiver:
            self.accuse(
                f"{voter} votes for {message.receiver} in term {message.term}, and did for {chosen}"
            )
        durable = self.durable[voter].hard_state
        if durable.term == message.term and durable.vote != message.receiver:
            self.accuse(
                f"{voter} votes for {message.receiver} in term {message.term}, its disk has a "
                f"vote for {durable.vote}"
            )

    def _leads(self, sender: MemberId, term: int) -> None:
        leader = self.leaders.get(term)
        if leader == sender:
            return
        if leader is not None:
            self.accuse(f"[ElectionSafety] {sender} and {leader} lead term {term}")
            return
        self.leaders[term] = sender
        supporters = {name for name in self.durable if self._votes.get((term, name)) == sender}
        if self.durable[sender].hard_state.vote == sender:
            supporters.add(sender)
        if not self._is_majority(supporters):
            self.accuse(
                f"[ElectionSafety] {sender} leads term {term} with the votes of "
                f"{', '.join(sorted(supporters)) or 'nobody'}"
            )
        status = self.look(sender)
        if status is not None:
            self.commit_at_election[term] = status.commit
        log = self.submitted[sender]
        for index, applied in self.ledger.items():
            if applied.term < term and log.term_at(index) not in (applied.term, -1):
                self.accuse(
                    f"[LeaderCompleteness] {sender} leads term {term} without entry {index} of "
                    f"term {applied.term}, which was applied"
                )
                return

    # The state machines

    def applied(
        self, member: MemberId, index: int, term: int, command: bytes, applied: AppliedProposal
    ) -> None:
        known = self.ledger.get(index)
        self.trace = (self.trace * 1_000_003 + index * 31 + term) & 0xFFFFFFFFFFFF
        if known is None:
            self.ledger[index] = AppliedEntry(term, command, applied)
            self._check_quorum_holds(member, index, term)
            self._check_own_term(member, index)
            return
        if known.term != term or known.command != command:
            self.accuse(
                f"[StateMachineSafety] {member} applies entry {index} of term {term}, another was "
                f"applied there in term {known.term}"
            )
        elif known.applied != applied:
            self.accuse(
                f"entry {index} has the result {applied} on {member}, elsewhere {known.applied}"
            )

    def _check_quorum_holds(self, member: MemberId, index: int, term: int) -> None:
        holders = {
            name for name, image in self.durable.items() if image.term_at(index) in (term, -1)
        }
        if not self._is_majority(holders):
            self.accuse(
                f"[QuorumLog] {member} applies entry {index} of term {term}, which is durable on "
                f"{', '.join(sorted(holders)) or 'nobody'} only"
            )

    def _is_majority(self, names: set[MemberId]) -> bool:
        """Of the voters; while members come and go, of those of one of the latest configurations:
        which one counted, only the leader knew."""
        return any(
            2 * len(names & set(configuration.voters)) > len(configuration.voters)
            for configuration in self.configurations[-CONFIGURATIONS_IN_QUESTION:]
        )

    def _check_own_term(self, member: MemberId, index: int) -> None:
        """A leader commits by counting only entries of its own term; what earlier ones left
        follows (paper 5.4.2, figure 8). So the first such one must be durable on a quorum."""
        status = self.look(member)
        if status is None or status.role is not Role.LEADER:
            return
        if index <= self.commit_at_election.get(status.term, index):
            return
        counted = status.commit
        while counted >= index and self.submitted[member].term_at(counted) != status.term:
            counted -= 1
        if counted < index:
            self.accuse(
                f"[OwnTerm] {member} leads term {status.term} and commits entry {index} before "
                "any entry of its own"
            )
        else:
            self._check_quorum_holds(member, counted, status.term)

    def check_everything(self) -> None:
        """Every applied entry is on the disks of a quorum, now and not only when it was applied."""
        for index, applied in self.ledger.items():
            self._check_quorum_holds(MemberId("somebody"), index, applied.term)
