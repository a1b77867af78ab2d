"""Users' keys and transactions in JSON, to and from the store's own.

Bytes are text where they are UTF-8, and `{"Base64": "…"}` where they are not; both are understood
everywhere. Keys are given and shown without the prefix under which they are stored.

    {"If":   [{"Key": "a", "Target": "mod", "Relation": "=", "Number": 5},
              {"Key": "b", "Target": "value", "Relation": "!=", "Value": "x"}],
     "Then": [{"Op": "put", "Key": "a", "Value": "1", "Lease": "7f", "PrevKV": true},
              {"Op": "delete", "Prefix": "old/"}],
     "Else": [{"Op": "get", "Key": "a"}, {"Op": "get", "Prefix": "b/", "Limit": 10}]}

Targets: value, version, create, mod, lease; relations: = != < >.
"""

from collections.abc import Sequence
from typing import Literal

import msgspec

from essaim_master.http.errors import BodyTooLarge
from essaim_master.kv.commands import (
    Attribute,
    Compare,
    CompareAttribute,
    CompareBytes,
    DeleteRange,
    KeyValue,
    Operation,
    Put,
    Range,
    RangeResult,
    Relation,
    Transaction,
    TransactionResult,
    WriteResult,
    prefix_end,
)
from essaim_master.kv.history import Event, RevisionEvents
from essaim_master.kv.user_keys import KEY_BYTES_MAX, stored_key, stored_range, user_key
from essaim_shared.errors import InvalidRequest
from essaim_shared.limits import TRANSACTION_BYTES_MAX, TRANSACTION_OPERATIONS_MAX

_RELATIONS = {
    "=": Relation.EQUAL,
    "!=": Relation.NOT_EQUAL,
    "<": Relation.LESS,
    ">": Relation.GREATER,
}
_ATTRIBUTES = {
    "version": Attribute.VERSION,
    "create": Attribute.CREATED,
    "mod": Attribute.MODIFIED,
    "lease": Attribute.LEASE,
}


class Base64(msgspec.Struct, frozen=True, rename={"data": "Base64"}, forbid_unknown_fields=True):
    data: bytes


Text = str | Base64


class KvJson(msgspec.Struct, frozen=True, rename="pascal", omit_defaults=True):
    key: Text
    value: Text
    created: int
    modified: int
    version: int
    lease: str = ""


class CompareJson(
    msgspec.Struct, frozen=True, rename="pascal", forbid_unknown_fields=True, kw_only=True
):
    key: Text
    target: Literal["value", "version", "create", "mod", "lease"]
    relation: Literal["=", "!=", "<", ">"] = "="
    value: Text | None = None
    """For the target `value`; a lease is written in hexadecimal digits here too."""
    number: int | None = None


class OperationJson(
    msgspec.Struct, frozen=True, rename="pascal", forbid_unknown_fields=True, kw_only=True
):
    op: Literal["put", "get", "delete"]
    key: Text | None = None
    prefix: Text | None = None
    start: Text | None = None
    end: Text | None = None
    value: Text | None = None
    lease: str = ""
    limit: int = 0
    prev_kv: bool = msgspec.field(default=False, name="PrevKV")


class TransactionJson(msgspec.Struct, frozen=True, rename="pascal", forbid_unknown_fields=True):
    compares: list[CompareJson] = msgspec.field(default=[], name="If")
    then: list[OperationJson] = []
    otherwise: list[OperationJson] = msgspec.field(default=[], name="Else")


class PutJson(msgspec.Struct, frozen=True, rename="pascal", forbid_unknown_fields=True):
    value: Text
    lease: str = ""
    prev_kv: bool = msgspec.field(default=False, name="PrevKV")


class RangeResultJson(msgspec.Struct, frozen=True, rename="pascal"):
    found: list[KvJson] = msgspec.field(name="KVs")
    count: int
    more: bool


class WriteResultJson(msgspec.Struct, frozen=True, rename="pascal"):
    deleted: int
    before: list[KvJson] = msgspec.field(name="PrevKVs")


class TransactionResultJson(msgspec.Struct, frozen=True, rename="pascal"):
    succeeded: bool
    revision: int
    results: list[RangeResultJson | WriteResultJson]
    """One for each operation of the branch that was executed, in order."""


class EventJson(msgspec.Struct, frozen=True, rename="pascal", omit_defaults=True):
    type: str
    key: Text
    current: KvJson | None = msgspec.field(default=None, name="KV")
    before: KvJson | None = msgspec.field(default=None, name="PrevKV")


class RevisionJson(msgspec.Struct, frozen=True, rename="pascal"):
    """One line of a watch. Without events: everything up to this revision has been told."""

    revision: int
    events: list[EventJson]


def text_of(data: bytes) -> Text:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return Base64(data)


def bytes_of(text: Text) -> bytes:
    """Raises InvalidRequest for what JSON can write and UTF-8 cannot."""
    if isinstance(text, Base64):
        return text.data
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest('a text has no UTF-8 form: write {"Base64": "…"}') from error


def checked_key(key: bytes) -> bytes:
    """As it is stored. Raises InvalidRequest."""
    if not key:
        raise InvalidRequest("a key must not be empty")
    if len(key) > KEY_BYTES_MAX:
        raise InvalidRequest(f"a key of {len(key)} bytes is over the limit of {KEY_BYTES_MAX}")
    return stored_key(key)


def lease_id_of(text: str) -> int:
    """Raises InvalidRequest."""
    try:
        lease_id = int(text, 16) if text.isascii() and text.isalnum() else 0
    except ValueError:
        lease_id = 0
    if not 0 < lease_id < 2**63:
        raise InvalidRequest(f"invalid lease '{text}': it is a positive hexadecimal number")
    return lease_id


def kv_json(value: KeyValue) -> KvJson:
    return KvJson(
        text_of(user_key(value.key)),
        text_of(value.value),
        value.created,
        value.modified,
        value.version,
        f"{value.lease:x}" if value.lease else "",
    )


def transaction_of(asked: TransactionJson) -> Transaction:
    """Raises InvalidRequest."""
    if len(asked.compares) > TRANSACTION_OPERATIONS_MAX:
        raise InvalidRequest(
            f"a transaction has {len(asked.compares)} compares, "
            f"the limit is {TRANSACTION_OPERATIONS_MAX}"
        )
    return Transaction(
        tuple(_compare_of(compare) for compare in asked.compares),
        _operations_of(asked.then),
        _operations_of(asked.otherwise),
    )


def transaction_result(
    transaction: Transaction, result: TransactionResult
) -> TransactionResultJson:
    """`transaction` as `transaction_of` made it: each operation but a silent put answers."""
    operations = transaction.then if result.succeeded else transaction.otherwise
    answered = iter(result.results)
    results = [
        WriteResultJson(0, [])
        if isinstance(operation, Put) and not operation.prev_kv
        else _result_json(next(answered))
        for operation in operations
    ]
    return TransactionResultJson(result.succeeded, result.revision, results)


def revision_json(revision: RevisionEvents, prev_kv: bool) -> RevisionJson:
    return RevisionJson(
        revision.revision, [_event_json(event, prev_kv) for event in revision.events]
    )


def check_size(transaction: Transaction) -> None:
    """Refuse before it is encoded what is too large. Raises BodyTooLarge."""
    size_bytes = sum(
        len(operation.value)
        for operation in (*transaction.then, *transaction.otherwise)
        if isinstance(operation, Put)
    )
    if size_bytes > TRANSACTION_BYTES_MAX:
        raise BodyTooLarge(TRANSACTION_BYTES_MAX)


def _compare_of(asked: CompareJson) -> Compare:
    key = checked_key(bytes_of(asked.key))
    relation = _RELATIONS[asked.relation]
    if asked.target == "value":
        if asked.value is None or asked.number is not None:
            raise InvalidRequest("a compare of the target value has a Value and no Number")
        return CompareBytes(key, relation, bytes_of(asked.value))
    number = asked.number
    if asked.target == "lease" and number is None and isinstance(asked.value, str):
        number = 0 if asked.value == "0" else lease_id_of(asked.value)
    elif asked.value is not None:
        raise InvalidRequest(f"a compare of the target {asked.target} has a Number and no Value")
    if number is None or not 0 <= number < 2**63:
        raise InvalidRequest(f"a compare of the target {asked.target} has a Number, at least 0")
    return CompareAttribute(key, _ATTRIBUTES[asked.target], relation, number)


def _operations_of(asked: Sequence[OperationJson]) -> tuple[Operation, ...]:
    operations = tuple(_operation_of(operation) for operation in asked)
    put_keys = [operation.key for operation in operations if isinstance(operation, Put)]
    if len(set(put_keys)) < len(put_keys):
        raise InvalidRequest("a transaction puts the same key twice: which one is meant?")
    return operations


def _operation_of(asked: OperationJson) -> Operation:
    if asked.op == "put":
        if asked.key is None or asked.value is None:
            raise InvalidRequest("a put has a Key and a Value")
        if asked.limit or not (asked.prefix is asked.start is asked.end is None):
            raise InvalidRequest("a put has a Key, and neither Prefix, Start, End nor Limit")
        lease = lease_id_of(asked.lease) if asked.lease else 0
        key = checked_key(bytes_of(asked.key))
        return Put(key, bytes_of(asked.value), lease, asked.prev_kv)
    if asked.value is not None or asked.lease:
        raise InvalidRequest(f"a {asked.op} has neither Value nor Lease")
    start, end = range_of(asked.key, asked.prefix, asked.start, asked.end)
    if asked.op == "delete":
        if asked.limit:
            raise InvalidRequest("a delete has no Limit")
        return DeleteRange(start, end, asked.prev_kv)
    if asked.prev_kv or asked.limit < 0:
        raise InvalidRequest("a get has no PrevKV, and a Limit of at least 0")
    return Range(start, end, asked.limit)


def range_of(
    key: Text | None, prefix: Text | None, start: Text | None, end: Text | None
) -> tuple[bytes, bytes]:
    """As it is stored. Raises InvalidRequest unless exactly one way to name keys is used."""
    if sum((key is not None, prefix is not None, start is not None or end is not None)) != 1:
        raise InvalidRequest("name the keys by one of Key, Prefix, or Start and End")
    if key is not None:
        stored = checked_key(bytes_of(key))
        return stored, stored + b"\0"
    if prefix is not None:
        first = bytes_of(prefix)
        return stored_range(first, prefix_end(first))
    return stored_range(bytes_of(start or ""), bytes_of(end or ""))


def _result_json(result: RangeResult | WriteResult) -> RangeResultJson | WriteResultJson:
    if isinstance(result, RangeResult):
        found = [kv_json(value) for value in result.found]
        return RangeResultJson(found, result.count, len(found) < result.count)
    return WriteResultJson(result.count, [kv_json(value) for value in result.before])


def _event_json(event: Event, prev_kv: bool) -> EventJson:
    return EventJson(
        "delete" if event.after is None else "put",
        text_of(user_key(event.key)),
        None if event.after is None else kv_json(event.after),
        kv_json(event.before) if prev_kv and event.before is not None else None,
    )
