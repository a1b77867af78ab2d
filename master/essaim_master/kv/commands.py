"""Everything that may be written through Raft, and what comes back.

There is one write: a transaction of etcd's form, `if all compares hold then these operations
else those`. Put, delete and compare-and-swap are transactions of one operation.
"""

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


class Delete(msgspec.Struct, frozen=True, array_like=True, tag="delete", gc=False):
    key: bytes


class Get(msgspec.Struct, frozen=True, array_like=True, tag="get", gc=False):
    key: bytes


Operation = Put | Delete | Get


class CompareRevision(msgspec.Struct, frozen=True, array_like=True, tag="revision", gc=False):
    """Holds when the key was last modified at `modified`; 0 means that it does not exist."""

    key: bytes
    modified: int


class CompareValue(msgspec.Struct, frozen=True, array_like=True, tag="value", gc=False):
    """Holds when the key exists with exactly this value."""

    key: bytes
    value: bytes


Compare = CompareRevision | CompareValue


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


class TransactionResult(msgspec.Struct, frozen=True, array_like=True):
    succeeded: bool
    """Whether the compares held."""
    revision: int
    """The global revision after the transaction (unchanged if nothing was written)."""
    values: tuple[KeyValue | None, ...] = ()
    """One for each Get, in order."""


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
