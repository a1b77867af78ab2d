"""The eight invariants of Raft's TLA+ model, over real cores and what their disks hold.

For whoever runs several cores in one process (the scenarios, the random network, the simulator):

    watch = InvariantWatch()
    watch.step(members, name)        # after every step: only what this member's step can break
    watch.entries(term_before, sent) # for everything that is sent or written
    watch.full(members)              # now and then, and at the end: all pairs, all entries

Each raises InvariantBroken, which names the invariant and the numbers. The functions named like the
invariants are pure; they return a sentence for what is broken, or None. What a snapshot covers
counts as held: it was applied, hence committed, and that is checked when it happens.

Terms stand for entries. That is enough: `entries` checks that an (index, term) names one entry and
one predecessor wherever it is seen, which is log matching by induction.
"""

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations
from typing import Protocol

from essaim_master.raft import quorum
from essaim_master.raft.core import RaftCore
from essaim_master.raft.messages import Configuration, Entry, Role
from essaim_shared.ids import MemberId


class InvariantBroken(AssertionError):
    """A property of Raft does not hold; the text says which, where, and with what numbers."""


class LogView(Protocol):
    """A log, in memory or on a disk. RaftLog is one."""

    @property
    def first_index(self) -> int:
        """The first entry held; those before it are covered by a durable snapshot."""
        ...

    @property
    def last_index(self) -> int: ...

    def term_at(self, index: int) -> int | None:
        """None if it is not held; known for `first_index - 1`."""
        ...


@dataclass(frozen=True, slots=True)
class Observed:
    """One member: its core, None while it is down, and the log that its disk would give back."""

    core: RaftCore | None
    disk: LogView

    @property
    def log(self) -> LogView:
        """What it knows now: in memory, or on the disk of a member that is down."""
        return self.disk if self.core is None else self.core.log

    @property
    def commit(self) -> int:
        return 0 if self.core is None else self.core.commit

    @property
    def is_leader(self) -> bool:
        return self.core is not None and self.core.role is Role.LEADER


Members = Mapping[MemberId, Observed]


def holds(log: LogView, index: int, term: int) -> bool:
    """Whether `log` has the entry at (index, term), itself or in its snapshot."""
    return index < log.first_index or log.term_at(index) == term


def _term_at(log: LogView, index: int) -> int:
    """-1 below what is held."""
    term = log.term_at(index)
    return -1 if term is None else term


def _shared_range(one: LogView, other: LogView) -> range:
    """Indexes at which both logs know a term."""
    first = max(one.first_index, other.first_index) - 1
    return range(first, min(one.last_index, other.last_index) + 1)


def _last_of_term(log: LogView, term: int) -> int:
    """The last index whose entry has `term`; 0 without one. Terms never decrease along a log."""
    indexes = range(log.first_index, log.last_index + 1)
    position = bisect_right(indexes, term, key=lambda index: _term_at(log, index))
    if position and _term_at(log, indexes[position - 1]) == term:
        return indexes[position - 1]
    return 0


def log_inv(members: Members) -> str | None:
    """LogInv: two members never committed different entries at an index."""
    for (name, one), (other_name, other) in combinations(members.items(), 2):
        for index in _shared_range(one.log, other.log):
            if index > min(one.commit, other.commit):
                break
            if one.log.term_at(index) != other.log.term_at(index):
                return (
                    f"{name} committed {one.log.term_at(index)}/{index},"
                    f" {other_name} {other.log.term_at(index)}/{index}"
                )
    return None


def more_than_one_leader_inv(members: Members) -> str | None:
    """MoreThanOneLeaderInv: a term has one leader (paper 5.2)."""
    leaders: dict[int, MemberId] = {}
    for name, member in members.items():
        if member.core is None or not member.is_leader:
            continue
        if (first := leaders.setdefault(member.core.term, name)) != name:
            return f"{first} and {name} lead term {member.core.term}"
    return None


def election_safety_inv(members: Members) -> str | None:
    """ElectionSafetyInv: no log has more entries of a leader's term than the leader has."""
    for name, leader in members.items():
        if leader.core is None or not leader.is_leader:
            continue
        last = max(_last_of_term(leader.log, leader.core.term), leader.log.first_index - 1)
        for other_name, other in members.items():
            other_last = _last_of_term(other.log, leader.core.term)
            if other_last > last:
                return (
                    f"{other_name} holds {leader.core.term}/{other_last}, {name}, who leads that"
                    f" term, only entries up to {last}"
                )
    return None


def log_matching_inv(members: Members) -> str | None:
    """LogMatchingInv: one common entry means that everything before is common (paper 5.3)."""
    logs = [(str(name), member.log) for name, member in members.items()]
    logs += [(f"the disk of {name}", member.disk) for name, member in members.items()]
    for (name, one), (other_name, other) in combinations(logs, 2):
        common = 0
        for index in reversed(_shared_range(one, other)):
            if one.term_at(index) == other.term_at(index):
                common = common or index
            elif common:
                return f"{name} and {other_name} share entry {common} and differ at {index}"
    return None


def quorum_log_inv(members: Members) -> str | None:
    """QuorumLogInv: every quorum has a member whose log holds what is committed, so that a
    candidate without it cannot win."""
    newest = _newest(members)
    if newest is None:
        return None
    name, index, term, configuration = newest
    lacking = [other for other, member in members.items() if not holds(member.log, index, term)]
    if quorum.has_quorum(configuration, lacking):
        return f"{name} committed {term}/{index}; {lacking}, who lack it, are a quorum"
    return None


def more_up_to_date_correct_inv(members: Members) -> str | None:
    """MoreUpToDateCorrectInv: a log that wins a vote of a member holds all that it committed."""
    for (name, one), (other_name, other) in permutations(members.items(), 2):
        if other.commit == 0 or not _is_up_to_date(one.log, other.log):
            continue
        term = _term_at(other.log, other.commit)
        if not holds(one.log, other.commit, term):
            return (
                f"{name} is as up to date as {other_name}, and lacks {term}/{other.commit}, which"
                f" {other_name} committed"
            )
    return None


def _is_up_to_date(one: LogView, other: LogView) -> bool:
    ends = [(_term_at(log, log.last_index), log.last_index) for log in (one, other)]
    return ends[0] >= ends[1]


def leader_completeness_inv(members: Members, committed: Sequence[tuple[int, int]]) -> str | None:
    """LeaderCompletenessInv: a leader holds all that was committed in earlier terms (paper 5.4).

    `committed[i]` is (term of entry i + 1, a term in which it was committed already).
    """
    for name, member in members.items():
        if member.core is None or not member.is_leader:
            continue
        for index, (term, commit_term) in enumerate(committed, 1):
            if commit_term < member.core.term and not holds(member.log, index, term):
                return (
                    f"{name} leads term {member.core.term} and lacks {term}/{index}, committed"
                    f" by term {commit_term}"
                )
    return None


def committed_is_durable_inv(members: Members) -> str | None:
    """CommittedIsDurableInv: what is committed is on the disks of a quorum.

    Of the configuration at the commit, or of one that some log appended since: by that one the
    leader may have counted.
    """
    newest = _newest(members)
    if newest is None:
        return None
    name, index, term, configuration = newest
    holders = [other for other, member in members.items() if holds(member.disk, index, term)]
    candidates = [configuration]
    for member in members.values():
        if member.core is not None:
            placed = member.core.log.configurations.latest
            if placed.index > index:
                candidates.append(placed.configuration)
    if any(quorum.has_quorum(candidate, holders) for candidate in candidates):
        return None
    return f"{name} committed {term}/{index}, and only the disks of {holders} hold it"


def _newest(members: Members) -> tuple[MemberId, int, int, Configuration] | None:
    """Who committed most: its name, that entry's index and term, the configuration there.

    A member that joined may have learned the commit before its log told it who votes; then it is
    asked of another log that holds the entry.
    """
    running = [(name, member.core) for name, member in members.items() if member.core is not None]
    if not running:
        return None
    name, core = max(running, key=lambda pair: pair[1].commit)
    index, term = core.commit, _term_at(core.log, core.commit)
    for _, other in running:
        if other.log.term_at(index) == term:
            configuration = other.configuration_at(index)
            if index > 0 and configuration.voters:
                return name, index, term, configuration
    return None


ALL: dict[str, Callable[[Members], str | None]] = {
    "LogInv": log_inv,
    "MoreThanOneLeaderInv": more_than_one_leader_inv,
    "ElectionSafetyInv": election_safety_inv,
    "LogMatchingInv": log_matching_inv,
    "QuorumLogInv": quorum_log_inv,
    "MoreUpToDateCorrectInv": more_up_to_date_correct_inv,
    "CommittedIsDurableInv": committed_is_durable_inv,
}
"""All that need nothing but a picture of this moment; LeaderCompletenessInv needs the history."""


class InvariantWatch:
    """The history of one cluster, and what must hold of it."""

    def __init__(self) -> None:
        self.leaders: dict[int, MemberId] = {}
        """Who led each term, ever."""
        self.committed: list[tuple[int, int]] = []
        """`[i]`: the term of entry i + 1, and the term of the first member seen to commit it."""
        self._seen: dict[tuple[int, int], tuple[int, bytes]] = {}
        """(index, term) → (term of the entry before, data)."""
        self._checked: dict[MemberId, tuple[RaftCore | None, Role | None, int, int]] = {}
        """What of a member was looked at last: core, role, term, commit."""

    def step(self, members: Members, name: MemberId) -> None:
        """Check what a step of `name` can have broken; nothing to do for most steps."""
        member = members[name]
        core = member.core
        before = self._checked.get(name, (None, None, 0, 0))
        if core is None:
            self._checked[name] = (None, None, 0, 0)
            return
        now = (core, core.role, core.term, core.commit)
        if before == now:
            return
        self._checked[name] = now
        if core.role is Role.LEADER and before[:3] != now[:3]:
            self._check_leader(name, core)
        if core.commit != before[3] or before[0] is not core:
            since = before[3] if before[0] is core else 0
            grew = core.commit > len(self.committed)
            self._check_committed(name, core, since)
            if grew:
                self._raise_if("CommittedIsDurableInv", committed_is_durable_inv(members))
                self._raise_if("QuorumLogInv", quorum_log_inv(members))

    def entries(self, term_before: int, entries: Sequence[Entry]) -> None:
        """Log matching by induction, for entries that were sent or are on a disk: of those only in
        memory, a crash may take some of a lone leader, and they come with other contents."""
        for entry in entries:
            facts = (term_before, entry.data)
            seen = self._seen.setdefault((entry.index, entry.term), facts)
            if seen != facts:
                raise InvariantBroken(f"LogMatchingInv: {entry} after {term_before}, was {seen}")
            term_before = entry.term

    def full(self, members: Members) -> None:
        """All eight, over everything."""
        for name in members:
            self.step(members, name)
        for invariant, check in ALL.items():
            self._raise_if(invariant, check(members))
        self._raise_if("LeaderCompletenessInv", leader_completeness_inv(members, self.committed))
        for name, member in members.items():
            if member.core is not None:
                self._check_committed(name, member.core, 0)

    def _check_leader(self, name: MemberId, core: RaftCore) -> None:
        first = self.leaders.setdefault(core.term, name)
        if first != name:
            raise InvariantBroken(f"MoreThanOneLeaderInv: {first} and {name} led term {core.term}")
        for index in range(len(self.committed), 0, -1):
            term, commit_term = self.committed[index - 1]
            if commit_term < core.term:
                # Log matching makes the last one speak for those before it.
                if not holds(core.log, index, term):
                    raise InvariantBroken(
                        f"LeaderCompletenessInv: {name} leads term {core.term} and lacks"
                        f" {term}/{index}, committed by term {commit_term}"
                    )
                return

    def _check_committed(self, name: MemberId, core: RaftCore, since: int) -> None:
        log, known = core.log, len(self.committed)
        if log.first_index - 1 > known:
            raise InvariantBroken(
                f"LogInv: {name} has a snapshot up to {log.first_index - 1}, of which only"
                f" {known} entries were ever committed"
            )
        for index in range(max(since + 1, log.first_index), core.commit + 1):
            term = _term_at(log, index)
            if index > len(self.committed):
                self.committed.append((term, core.term))
            elif self.committed[index - 1][0] != term:
                raise InvariantBroken(
                    f"LogInv: {name} committed {term}/{index}, others"
                    f" {self.committed[index - 1][0]}/{index}"
                )

    @staticmethod
    def _raise_if(invariant: str, broken: str | None) -> None:
        if broken is not None:
            raise InvariantBroken(f"{invariant}: {broken}")
