"""The key-value state machine: a deterministic function of its log, and nothing else.

No clock, no chance, no order of a hash: two masters that applied the same entries hold the same
bytes. A transaction that writes raises the global revision by one; one that only reads, or whose
compares fail into an empty branch, does not (etcd's semantics).
"""

from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Callable, Iterator

import msgspec

from essaim_master.kv.commands import (
    AppliedProposal,
    Compare,
    CompareRevision,
    Delete,
    Get,
    KeyValue,
    Operation,
    ProposalId,
    Put,
    TransactionResult,
    decode_command,
)

RESULTS_PER_CLIENT_MAX = 16_384
"""Kept to answer repeated proposals; more than a master may have outstanding at once."""
CLIENTS_MAX = 64
"""A client is one run of one master; the one that wrote longest ago is forgotten first."""


class Event(msgspec.Struct, frozen=True, gc=False):
    """One key changed by one transaction. None before: created; None after: deleted."""

    key: bytes
    before: KeyValue | None
    after: KeyValue | None


Watcher = Callable[[int, tuple[Event, ...]], None]
"""Called with a revision and all its events, in order, each revision once."""


class KeyValueStore:
    """The map, its global revision, and the answers to recent proposals."""

    def __init__(self) -> None:
        self.revision = 0
        self._values: dict[bytes, KeyValue] = {}
        self._keys: list[bytes] = []
        self._answers: OrderedDict[str, OrderedDict[int, TransactionResult]] = OrderedDict()
        self._watchers: list[Watcher] = []

    def apply(self, index: int, term: int, command: bytes) -> AppliedProposal:
        """Apply one committed entry; a proposal seen before is answered, not applied again.

        `index` and `term` are part of the state machine's contract; the map does not need them.
        """
        decoded = decode_command(command)
        answers = self._answers_of(decoded.proposal)
        result = answers.get(decoded.proposal.sequence)
        if result is None:
            transaction = decoded.transaction
            held = all(self._holds(compare) for compare in transaction.compares)
            result = self._execute(held, transaction.then if held else transaction.otherwise)
            answers[decoded.proposal.sequence] = result
            if len(answers) > RESULTS_PER_CLIENT_MAX:
                answers.popitem(last=False)
        return AppliedProposal(decoded.proposal, result)

    def get(self, key: bytes) -> KeyValue | None:
        return self._values.get(key)

    def range(self, prefix: bytes) -> Iterator[KeyValue]:
        """All keys that begin with `prefix`, in order."""
        position = bisect_left(self._keys, prefix)
        while position < len(self._keys) and self._keys[position].startswith(prefix):
            yield self._values[self._keys[position]]
            position += 1

    def watch(self, watcher: Watcher) -> Callable[[], None]:
        """Call `watcher` within each later apply that writes; the result ends the watch."""
        self._watchers.append(watcher)
        return lambda: self._watchers.remove(watcher)

    def _answers_of(self, proposal: ProposalId) -> OrderedDict[int, TransactionResult]:
        answers = self._answers.setdefault(proposal.client_id, OrderedDict())
        self._answers.move_to_end(proposal.client_id)
        if len(self._answers) > CLIENTS_MAX:
            self._answers.popitem(last=False)
        return answers

    def _holds(self, compare: Compare) -> bool:
        present = self._values.get(compare.key)
        if isinstance(compare, CompareRevision):
            return (present.modified if present else 0) == compare.modified
        return present is not None and present.value == compare.value

    def _execute(self, held: bool, operations: tuple[Operation, ...]) -> TransactionResult:
        events: list[Event] = []
        found: list[KeyValue | None] = []
        for operation in operations:
            match operation:
                case Get(key):
                    found.append(self._values.get(key))
                case Put(key, value):
                    events.append(self._put(key, value))
                case Delete(key) if key in self._values:
                    events.append(self._delete(key))
        if events:
            self.revision += 1
            for watcher in tuple(self._watchers):
                watcher(self.revision, tuple(events))
        return TransactionResult(held, self.revision, tuple(found))

    def _put(self, key: bytes, value: bytes) -> Event:
        revision = self.revision + 1
        before = self._values.get(key)
        if before is None:
            insort(self._keys, key)
            after = KeyValue(key, value, created=revision, modified=revision, version=1)
        else:
            after = KeyValue(key, value, before.created, revision, before.version + 1)
        self._values[key] = after
        return Event(key, before, after)

    def _delete(self, key: bytes) -> Event:
        before = self._values.pop(key)
        del self._keys[bisect_left(self._keys, key)]
        return Event(key, before, None)
