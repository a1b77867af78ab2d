"""The key-value state machine: a deterministic function of its log, and nothing else.

No clock, no chance, no order of a hash: two masters that applied the same entries hold the same
bytes. A transaction that writes raises the global revision by one; one that only reads, or whose
compares fail into an empty branch, does not (etcd's semantics). A transaction that cannot be
executed in full is refused before its first operation.

    answers.py    the answers to recent proposals: each is applied once
    history.py    the last revisions with their events, for watches and old reads
    leases.py     leases and their keys
    frozen.py     all of it at one moment, for snapshots and hashes
"""

from collections.abc import Callable, Iterable, Iterator, Mapping

from essaim_master.kv.answers import OPENING_CLIENT, Answers, ClientRecord
from essaim_master.kv.commands import (
    AppliedProposal,
    Compact,
    Delete,
    DeleteRange,
    Get,
    GrantLease,
    KeyValue,
    Operation,
    ProposalId,
    Put,
    Range,
    RangeResult,
    Refusal,
    RevokeLease,
    Transaction,
    TransactionResult,
    WriteResult,
    decode_command,
    prefix_end,
)
from essaim_master.kv.compares import holds
from essaim_master.kv.frozen import (
    FORMAT,
    Clients,
    End,
    FrozenState,
    Header,
    LeaseRecords,
    Revisions,
    Values,
    decode_chunks,
)
from essaim_master.kv.history import Event, History, RevisionEvents
from essaim_master.kv.leases import LEASES_MAX, Lease, LeaseRecord, Leases
from essaim_master.kv.ordered_keys import OrderedKeys
from essaim_master.kv.user_keys import USER_PREFIX

QUOTA_BYTES = 256 * 1024 * 1024
"""Of all keys and values."""
FULL_UNTIL_PERCENT = 90
"""A store that was full takes new data again when it has shrunk below this part of its quota."""
ANSWER_BYTES_MAX = 4 * 1024 * 1024
"""Of keys and values that the ranges of one transaction answer with."""
ANSWER_OVERHEAD_BYTES = 64
"""Counted for each of them, so that many tiny keys are bounded too."""

Watcher = Callable[[int, tuple[Event, ...]], None]
"""Called with a revision and all its events, in order, each revision once. A restored snapshot
is told as one step: all that differs as deleted first, then all that is there instead."""


class _Execution:
    """The effects of one transaction while its operations run."""

    __slots__ = ("answer_bytes_left", "events", "found", "results")

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.found: list[KeyValue | None] = []
        self.results: list[RangeResult | WriteResult] = []
        self.answer_bytes_left = ANSWER_BYTES_MAX

    def takes(self, value: KeyValue) -> bool:
        """Whether one more value fits the answer."""
        self.answer_bytes_left -= len(value.key) + len(value.value) + ANSWER_OVERHEAD_BYTES
        return self.answer_bytes_left >= 0


class KeyValueStore:
    """The map, its global revision, leases, history, and the answers to recent proposals."""

    def __init__(self, quota_bytes: int = QUOTA_BYTES) -> None:
        """The quota decides what apply refuses: it must be the same on every master."""
        self.revision = 0
        self.size_bytes = 0
        """Of keys and values."""
        self.quota_bytes = quota_bytes
        self.is_full = False
        """The NoSpace alarm: users may delete, but not add."""
        self.history = History()
        self._values: dict[bytes, KeyValue] = {}
        self._keys = OrderedKeys()
        self._leases = Leases()
        self._answers = Answers()
        self._watchers: list[Watcher] = []

    # The log

    def apply(self, index: int, term: int, command: bytes) -> AppliedProposal:
        """Apply one committed entry; a proposal seen before is answered, not applied again.

        `index` names the session, if the entry opens one; the map does not need it.
        """
        decoded = decode_command(command)
        proposal = decoded.proposal
        answers = self._answers.of(proposal.client_id)
        if answers is None:
            return AppliedProposal(proposal, self._without_session(index, proposal))
        result = answers.kept.get(proposal.sequence)
        if result is None:
            if proposal.sequence <= answers.forgotten:
                result = TransactionResult(False, self.revision, refusal=Refusal.FORGOTTEN)
                return AppliedProposal(proposal, result)
            before = self.revision
            transaction = decoded.transaction
            result = self._transact(transaction, term, decoded.proposed_ns, len(command))
            if self.revision != before or not _is_reading(transaction):
                answers.add(proposal.sequence, result)
        return AppliedProposal(proposal, result)

    def _without_session(self, index: int, proposal: ProposalId) -> TransactionResult:
        """Open a session, or refuse what belongs to a forgotten one."""
        if proposal.client_id != OPENING_CLIENT:
            return TransactionResult(False, self.revision, refusal=Refusal.NO_SESSION)
        self._answers.open_session(index)
        return TransactionResult(True, self.revision, session=index)

    # Reading

    def get(self, key: bytes) -> KeyValue | None:
        return self._values.get(key)

    def range(self, prefix: bytes) -> Iterator[KeyValue]:
        """All keys that begin with `prefix`, in order."""
        return map(self._values.__getitem__, self._keys.between(prefix, prefix_end(prefix)))

    def between(self, start: bytes, end: bytes) -> Iterator[KeyValue]:
        """All keys in [start, end), in order; an empty `end` means without end."""
        return map(self._values.__getitem__, self._keys.between(start, end))

    def count(self, start: bytes, end: bytes) -> int:
        return self._keys.count(start, end)

    @property
    def leases(self) -> Mapping[int, Lease]:
        """By id, in the order in which they were granted."""
        return self._leases.by_id

    def watch(self, watcher: Watcher) -> Callable[[], None]:
        """Call `watcher` within each later apply that writes; the result ends the watch."""
        self._watchers.append(watcher)
        return lambda: self._watchers.remove(watcher)

    # Snapshots

    def freeze(self) -> FrozenState:
        """The state now: references are copied (some 15 ns a key), nothing is encoded yet."""
        return FrozenState(
            Header(FORMAT, self.revision, self.history.compacted, self.quota_bytes, self.is_full),
            self._keys.all(),
            self._values.copy(),
            self._leases.freeze(),
            self._answers.freeze(),
            self.history.all(),
        )

    def restore(self, chunks: Iterable[bytes]) -> None:
        """Become the state that `FrozenState.chunks` encoded; watchers are told what differs.

        Raises MalformedMessage, and is unchanged then.
        """
        values: dict[bytes, KeyValue] = {}
        decoded = tuple(decode_chunks(chunks))
        header = decoded[0]
        assert isinstance(header, Header)
        leases: list[LeaseRecord] = []
        clients: list[ClientRecord] = []
        revisions: list[RevisionEvents] = []
        for chunk in decoded:
            match chunk:
                case Values(items):
                    values.update((value.key, value) for value in items)
                case LeaseRecords(items):
                    leases.extend(items)
                case Clients(items):
                    clients.extend(items)
                case Revisions(items):
                    revisions.extend(items)
                case Header() | End():
                    pass
        former, self._values = self._values, values
        self._keys = OrderedKeys(values)
        self.revision = header.revision
        self.size_bytes = sum(len(value.key) + len(value.value) for value in values.values())
        self.quota_bytes, self.is_full = header.quota_bytes, header.is_full
        self._leases = Leases(leases)
        for value in values.values():
            if value.lease:
                self._leases.attach(value.key, 0, value.lease)
        self._answers = Answers(clients)
        self.history = History(revisions, header.compacted)
        self._tell(_difference(former, values))

    # One transaction

    def _transact(
        self, transaction: Transaction, term: int, proposed_ns: int, size_bytes: int
    ) -> TransactionResult:
        held = True
        for compare in transaction.compares:
            if not holds(compare, self._values.get(compare.key)):
                held = False
                break
        operations = transaction.then if held else transaction.otherwise
        refusal = self._refusal(operations, term, size_bytes)
        if refusal is not Refusal.NONE:
            return TransactionResult(False, self.revision, refusal=refusal)
        execution = _Execution()
        events = execution.events
        for operation in operations:
            if type(operation) is Put:
                events.append(self._put(operation.key, operation.value, operation.lease))
                if operation.prev_kv:
                    before = events[-1].before
                    execution.results.append(WriteResult(0, (before,) if before else ()))
            elif type(operation) is Delete:
                if operation.key in self._values:
                    events.append(self._delete(operation.key))
            elif type(operation) is Get:
                execution.found.append(self._values.get(operation.key))
            else:
                self._execute_rare(operation, term, execution)
        if events:
            self.revision += 1
            together = tuple(events)
            self.history.add(self.revision, proposed_ns, together)
            if self.is_full:
                self.is_full = self.size_bytes * 100 >= self.quota_bytes * FULL_UNTIL_PERCENT
            self._tell(together)
        return TransactionResult(
            held, self.revision, tuple(execution.found), tuple(execution.results)
        )

    def _execute_rare(self, operation: Operation, term: int, execution: _Execution) -> None:
        match operation:
            case Range(start, end, limit):
                execution.results.append(self._range(start, end, limit, execution))
            case DeleteRange(start, end, prev_kv):
                keys = list(self._keys.between(start, end))
                before = [self._values[key] for key in keys] if prev_kv else []
                execution.events.extend(map(self._delete, keys))
                kept = tuple(value for value in before if execution.takes(value))
                execution.results.append(WriteResult(len(keys), kept))
            case GrantLease(lease, ttl_s):
                self._leases.by_id[lease] = Lease(lease, ttl_s)
            case RevokeLease(lease, only_in_term):
                found = self._leases.by_id.get(lease)
                if found is not None and only_in_term in (0, term):
                    execution.events.extend(map(self._delete, sorted(found.keys)))
                    del self._leases.by_id[lease]
            case Compact(revision):
                self.history.compact(revision)
            case Put() | Delete() | Get():
                raise AssertionError("executed where the frequent operations are")

    def _range(self, start: bytes, end: bytes, limit: int, execution: _Execution) -> RangeResult:
        found: list[KeyValue] = []
        for value in self.between(start, end):
            if (limit and len(found) >= limit) or not execution.takes(value):
                break
            found.append(value)
        return RangeResult(tuple(found), self._keys.count(start, end))

    def _refusal(self, operations: tuple[Operation, ...], term: int, size_bytes: int) -> Refusal:
        """Why the operations cannot all be executed. `size_bytes` bounds what they may add."""
        changed: dict[int, bool] = {}
        """Whether a lease exists, as far as earlier operations of the transaction decided it."""
        for operation in operations:
            if type(operation) is Put:
                lease = operation.lease
                if lease and not changed.get(lease, lease in self._leases.by_id):
                    return Refusal.LEASE_NOT_FOUND
            elif type(operation) is GrantLease:
                lease = operation.lease
                if changed.get(lease, lease in self._leases.by_id):
                    return Refusal.LEASE_EXISTS
                changed[lease] = True
                if len(self._leases.by_id) + sum(changed.values()) > LEASES_MAX:
                    return Refusal.TOO_MANY_LEASES
            elif type(operation) is RevokeLease:
                if operation.only_in_term in (0, term):
                    changed[operation.lease] = False
            elif type(operation) is Compact:
                if operation.revision > self.revision:
                    return Refusal.FUTURE_REVISION
                if operation.revision <= self.history.compacted:
                    return Refusal.COMPACTED
        if self.is_full or self.size_bytes + size_bytes > self.quota_bytes:
            growth = self._growth_bytes(operations)
            if growth > 0 and (self.is_full or self.size_bytes + growth > self.quota_bytes):
                self.is_full = True
                return Refusal.NO_SPACE
        return Refusal.NONE

    def _growth_bytes(self, operations: tuple[Operation, ...]) -> int:
        """What the puts of users add. The cluster's own objects have limits of their own, and a
        cluster that could not write down its tasks' states would be lost."""
        growth = 0
        for operation in operations:
            if type(operation) is Put and operation.key.startswith(USER_PREFIX):
                growth += len(operation.key) + len(operation.value)
                present = self._values.get(operation.key)
                if present is not None:
                    growth -= len(present.key) + len(present.value)
        return growth

    def _put(self, key: bytes, value: bytes, lease: int) -> Event:
        revision = self.revision + 1
        before = self._values.get(key)
        if before is None:
            self._keys.add(key)
            self.size_bytes += len(key) + len(value)
            after = KeyValue(key, value, revision, revision, 1, lease)
            if lease:
                self._leases.attach(key, 0, lease)
        else:
            self.size_bytes += len(value) - len(before.value)
            after = KeyValue(key, value, before.created, revision, before.version + 1, lease)
            if lease != before.lease:
                self._leases.attach(key, before.lease, lease)
        self._values[key] = after
        return Event(key, before, after)

    def _delete(self, key: bytes) -> Event:
        before = self._values.pop(key)
        self._keys.remove(key)
        self.size_bytes -= len(key) + len(before.value)
        if before.lease:
            self._leases.attach(key, before.lease, 0)
        return Event(key, before, None)

    def _tell(self, events: tuple[Event, ...]) -> None:
        for watcher in tuple(self._watchers):
            watcher(self.revision, events)


def _is_reading(transaction: Transaction) -> bool:
    """Neither branch can change anything: a copy may as well be executed again."""
    return all(
        isinstance(operation, Get | Range)
        for operation in (*transaction.then, *transaction.otherwise)
    )


def _difference(
    former: Mapping[bytes, KeyValue], values: Mapping[bytes, KeyValue]
) -> tuple[Event, ...]:
    """Deletions first: an index by something else than the key never holds two at once."""
    changed = [value for key, value in former.items() if values.get(key) != value]
    deleted = [Event(value.key, value, None) for value in changed]
    created = [
        Event(value.key, None, value) for key, value in values.items() if former.get(key) != value
    ]
    return (*deleted, *created)
