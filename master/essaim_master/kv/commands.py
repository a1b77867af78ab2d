"""Everything that may be written through Raft, and what comes back.

There is one write: a transaction of etcd's form, `if all compares hold then these operations
else those`. Put, delete and compare-and-swap are transactions of one operation, and so are
granting a lease and compacting the history.

These types are the format of the log: fields are only ever added, at the end and with a default,
and a tag never changes its meaning, so that entries of every earlier build still decode.
"""

from enum import IntEnum

import msgspec

from essaim_shared.errors import InvalidRequest
from essaim_shared.limits import TRANSACTION_BYTES_MAX, TRANSACTION_OPERATIONS_MAX


class ProposalId(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Names a proposal for good: the same id is applied once, however often it is proposed
    (dissertation 6.3). `client_id` is drawn anew at each start of a master; sequences grow."""

    client_id: str
    sequence: int


class Put(msgspec.Struct, frozen=True, array_like=True, tag="put", gc=False):
    key: bytes
    value: bytes
    lease: int = 0
    """The key goes when this lease does; 0 for a key that stays."""
    prev_kv: bool = False
    """Answer with a WriteResult."""


class Delete(msgspec.Struct, frozen=True, array_like=True, tag="delete", gc=False):
    key: bytes


class Get(msgspec.Struct, frozen=True, array_like=True, tag="get", gc=False):
    key: bytes


class Range(msgspec.Struct, frozen=True, array_like=True, tag="range", gc=False):
    """All keys in [start, end); an empty `end` means without end."""

    start: bytes
    end: bytes
    limit: int = 0
    """0: as many as one answer may hold."""


class DeleteRange(msgspec.Struct, frozen=True, array_like=True, tag="delete_range", gc=False):
    """Delete all keys in [start, end); an empty `end` means without end."""

    start: bytes
    end: bytes
    prev_kv: bool = False


class GrantLease(msgspec.Struct, frozen=True, array_like=True, tag="grant", gc=False):
    lease: int
    """Drawn by whoever proposes; not 0."""
    ttl_s: int


class RevokeLease(msgspec.Struct, frozen=True, array_like=True, tag="revoke", gc=False):
    """End a lease and delete its keys. One that does not exist is no error: it has ended."""

    lease: int
    only_in_term: int = 0
    """Nothing happens if the entry stands in another term: a leader's verdict that a lease
    expired is void once it is no longer the leader. 0: a user's wish, valid in every term."""


class Compact(msgspec.Struct, frozen=True, array_like=True, tag="compact", gc=False):
    """Forget the history up to and with this revision."""

    revision: int


Operation = Put | Delete | Get | Range | DeleteRange | GrantLease | RevokeLease | Compact


class CompareRevision(msgspec.Struct, frozen=True, array_like=True, tag="revision", gc=False):
    """Holds when the key was last modified at `modified`; 0 means that it does not exist."""

    key: bytes
    modified: int


class CompareValue(msgspec.Struct, frozen=True, array_like=True, tag="value", gc=False):
    """Holds when the key exists with exactly this value."""

    key: bytes
    value: bytes


class Relation(IntEnum):
    EQUAL = 0
    NOT_EQUAL = 1
    LESS = 2
    GREATER = 3


class Attribute(IntEnum):
    """Of a key; each is 0 for a key that does not exist."""

    VERSION = 0
    CREATED = 1
    MODIFIED = 2
    LEASE = 3


class CompareAttribute(msgspec.Struct, frozen=True, array_like=True, tag="attribute", gc=False):
    key: bytes
    attribute: Attribute
    relation: Relation
    number: int


class CompareBytes(msgspec.Struct, frozen=True, array_like=True, tag="bytes", gc=False):
    """Compares the value byte by byte. A key that does not exist has none: whatever the
    relation, it does not hold then (etcd, applyCompare)."""

    key: bytes
    relation: Relation
    value: bytes


Compare = CompareRevision | CompareValue | CompareAttribute | CompareBytes


class Transaction(msgspec.Struct, frozen=True, array_like=True):
    compares: tuple[Compare, ...] = ()
    then: tuple[Operation, ...] = ()
    otherwise: tuple[Operation, ...] = ()


class Command(msgspec.Struct, frozen=True, array_like=True):
    """One log entry's content. `proposed_ns` is the proposer's wall clock: the only time that
    apply may look at."""

    proposal: ProposalId
    proposed_ns: int
    transaction: Transaction


class KeyValue(msgspec.Struct, frozen=True, array_like=True, gc=False):
    key: bytes
    value: bytes
    created: int
    """Revision of the transaction that created the key."""
    modified: int
    """Revision of the last transaction that wrote it."""
    version: int
    """How often it was written since it was created."""
    lease: int = 0
    """The lease it goes with; 0 for none."""


class RangeResult(msgspec.Struct, frozen=True, array_like=True, tag="range"):
    found: tuple[KeyValue, ...]
    count: int
    """Keys in the whole range, also those beyond the limit."""


class WriteResult(msgspec.Struct, frozen=True, array_like=True, tag="write"):
    """Of a DeleteRange, and of a Put with `prev_kv`."""

    count: int
    """Keys that were deleted; 0 for a put."""
    before: tuple[KeyValue, ...] = ()
    """What was there, if `prev_kv` asked for it."""


class Refusal(IntEnum):
    """Why a transaction was not executed at all."""

    NONE = 0
    NO_SPACE = 1
    LEASE_NOT_FOUND = 2
    LEASE_EXISTS = 3
    TOO_MANY_LEASES = 4
    COMPACTED = 5
    FUTURE_REVISION = 6
    FORGOTTEN = 7
    """A repeated proposal whose answer is no longer kept."""
    NO_SESSION = 8
    """The session is forgotten: this copy was not applied, an earlier one may have been."""


class TransactionResult(msgspec.Struct, frozen=True, array_like=True):
    succeeded: bool
    """Whether the compares held (and nothing refused the transaction)."""
    revision: int
    """The global revision after the transaction (unchanged if nothing was written)."""
    values: tuple[KeyValue | None, ...] = ()
    """One for each Get, in order."""
    results: tuple[RangeResult | WriteResult, ...] = ()
    """One for each Range, DeleteRange and Put with `prev_kv`, in order."""
    refusal: Refusal = Refusal.NONE
    session: int = 0
    """The session that the proposal opened, if it was that."""


class AppliedProposal(msgspec.Struct, frozen=True):
    """What `apply` hands to whoever proposed; the same for a repeated proposal."""

    proposal: ProposalId
    result: TransactionResult


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Command)


def encode_command(command: Command) -> bytes:
    """Raises InvalidRequest when the transaction is over the limits."""
    operations = max(len(command.transaction.then), len(command.transaction.otherwise))
    if operations > TRANSACTION_OPERATIONS_MAX:
        raise InvalidRequest(
            f"a transaction has {operations} operations, the limit is {TRANSACTION_OPERATIONS_MAX}"
        )
    encoded = _encoder.encode(command)
    if len(encoded) > TRANSACTION_BYTES_MAX:
        raise InvalidRequest(
            f"a transaction of {len(encoded)} bytes is over the limit of {TRANSACTION_BYTES_MAX}"
        )
    return encoded


def decode_command(data: bytes) -> Command:
    """Raises msgspec.ValidationError: bytes in the log that no master wrote are a broken log."""
    return _decoder.decode(data)


def prefix_end(prefix: bytes) -> bytes:
    """The first key after all that begin with `prefix`; empty when there is none."""
    trimmed = prefix.rstrip(b"\xff")
    return trimmed[:-1] + bytes((trimmed[-1] + 1,)) if trimmed else b""
