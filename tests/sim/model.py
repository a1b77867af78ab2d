"""A plain model of the key-value map, and the check of every client's word against it.

Every write has a place in Raft's log, every read has one between two writes (what its master had
applied). A history is linearizable if (1) each result equals that of a replay of the log up to its
place, and (2) places respect real time: what returned before something else was called comes
first. That is checked in O(n log n) for histories of any length; a search through all orders
(Wing and Gong) is not needed where the log tells the order.

The model shares no code with the store: same words, other hands.
"""

from collections.abc import Iterable
from enum import Enum
from typing import NamedTuple

from sim.witness import AppliedEntry

from essaim_master.kv.commands import (
    CompareRevision,
    Delete,
    Get,
    ProposalId,
    Put,
    Transaction,
    decode_command,
)


class Outcome(Enum):
    PENDING = "pending"
    """No answer came: it may take effect at any time, or never."""
    DONE = "done"
    UNKNOWN = "unknown"
    NOTHING = "nothing"
    """The master said that nothing happened."""


class ModelValue(NamedTuple):
    value: bytes
    created: int
    modified: int
    version: int


class ModelResult(NamedTuple):
    succeeded: bool
    revision: int
    values: tuple[ModelValue | None, ...]


class Operation:
    """One call of a client, from its first attempt on."""

    __slots__ = ("called", "key", "outcome", "place", "proposal", "result", "returned", "seen")

    def __init__(self, called: int, proposal: ProposalId | None, key: bytes) -> None:
        self.called = called
        self.proposal = proposal
        """None: a read of `key`."""
        self.key = key
        self.returned: int | None = None
        self.outcome = Outcome.PENDING
        self.result: ModelResult | None = None
        """Of a write."""
        self.seen: ModelValue | None = None
        """By a read."""
        self.place = 0
        """Of a read: the last index that its master had applied."""


class Model:
    def __init__(self) -> None:
        self.revision = 0
        self.values: dict[bytes, ModelValue] = {}
        self.answers: dict[ProposalId, ModelResult] = {}
        self.places: dict[ProposalId, int] = {}
        self.changed: dict[int, dict[bytes, ModelValue | None]] = {}
        """By revision: each changed key's last value, None if it was deleted."""

    def replay(self, index: int, command: bytes) -> ModelResult:
        decoded = decode_command(command)
        answer = self.answers.get(decoded.proposal)
        if answer is None:
            answer = self.answers[decoded.proposal] = self._execute(decoded.transaction)
            self.places[decoded.proposal] = index
        return answer

    def _execute(self, transaction: Transaction) -> ModelResult:
        is_met = True
        for compare in transaction.compares:
            found = self.values.get(compare.key)
            if isinstance(compare, CompareRevision):
                is_met &= (found.modified if found else 0) == compare.modified
            else:
                raise TypeError(f"the model does not know {compare}")
        seen: list[ModelValue | None] = []
        next_revision = self.revision + 1
        changed: dict[bytes, ModelValue | None] = {}
        for operation in transaction.then if is_met else transaction.otherwise:
            if isinstance(operation, Get):
                seen.append(self.values.get(operation.key))
            elif isinstance(operation, Delete):
                if self.values.pop(operation.key, None) is not None:
                    changed[operation.key] = None
            elif isinstance(operation, Put):
                old = self.values.get(operation.key)
                created, version = (old.created, old.version) if old else (next_revision, 0)
                new = ModelValue(operation.value, created, next_revision, version + 1)
                self.values[operation.key] = changed[operation.key] = new
            else:
                raise TypeError(f"the model does not know {operation}")
        if changed:
            self.revision = next_revision
            self.changed[next_revision] = changed
        return ModelResult(is_met, self.revision, tuple(seen))


def check_history(ledger: dict[int, AppliedEntry], operations: Iterable[Operation]) -> list[str]:
    """What is wrong with the answers that clients got; empty if nothing is."""
    model = Model()
    reads: dict[int, list[Operation]] = {}
    operations = list(operations)
    for operation in operations:
        if operation.proposal is None and operation.outcome is Outcome.DONE:
            reads.setdefault(operation.place, []).append(operation)
    problems: list[str] = []
    for index in sorted(ledger.keys() | reads.keys()):
        if index in ledger:
            answer = model.replay(index, ledger[index].command)
            result = as_model(ledger[index].applied.result)
            if result != answer:
                problems.append(f"entry {index} was answered with {result}, should be {answer}")
        for read in reads.get(index, ()):
            if read.seen != model.values.get(read.key):
                problems.append(
                    f"a read at entry {index} saw {read.seen} under {read.key!r}, should be "
                    f"{model.values.get(read.key)}"
                )
    for operation in operations:
        problems += _check_write(model, operation)
    return problems + _check_real_time(model, operations)


def as_model(result: object) -> ModelResult:
    """The store's result in the model's words."""
    values = tuple(
        ModelValue(found.value, found.created, found.modified, found.version) if found else None
        for found in result.values  # type: ignore[attr-defined]
    )
    return ModelResult(result.succeeded, result.revision, values)  # type: ignore[attr-defined]


def _check_write(model: Model, operation: Operation) -> list[str]:
    proposal = operation.proposal
    if proposal is None:
        return []
    answer = model.answers.get(proposal)
    if operation.outcome is Outcome.DONE and operation.result != answer:
        return [f"{proposal} was acknowledged with {operation.result}, the log says {answer}"]
    if operation.outcome is Outcome.NOTHING and answer is not None:
        return [f"{proposal} was refused as if nothing had happened, and it was applied"]
    return []


def _check_real_time(model: Model, operations: list[Operation]) -> list[str]:
    """Sweep over calls and returns: what is called comes after all that returned before."""
    events: list[tuple[int, int, Operation]] = []
    for operation in operations:
        if operation.outcome is Outcome.DONE and operation.returned is not None:
            events.append((operation.called, 0, operation))
            events.append((operation.returned, 1, operation))
    events.sort(key=lambda event: event[:2])
    latest, problems = 0, []
    for _, is_return, operation in events:
        if operation.proposal is None:
            place = operation.place
        else:
            place = model.places.get(operation.proposal, 0)
        if is_return:
            latest = max(latest, place)
        elif place < latest:
            what = operation.proposal or f"a read of {operation.key!r}"
            problems.append(
                f"{what} stands at entry {place}, and was called after an answer from {latest}"
            )
    return problems
