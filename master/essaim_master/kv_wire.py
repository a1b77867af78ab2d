"""Between the native protocol and the log: requests become transactions, results answers. Pure.

Users' keys are put under their prefix here and freed from it again, so that nothing that a client
sends can name an object of the cluster.
"""

from essaim_master.kv import commands as log
from essaim_master.kv.errors import LeaseNotFound, NoSpace, check_executed
from essaim_master.kv.reading import read_page
from essaim_master.kv.store import KeyValueStore
from essaim_master.kv.user_keys import KEY_BYTES_MAX, USER_PREFIX, stored_range, user_key
from essaim_shared import kv_protocol as wire
from essaim_shared.errors import (
    BrokenInvariant,
    EssaimError,
    InvalidRequest,
    NoLeader,
    OutcomeUnknown,
    Unavailable,
)
from essaim_shared.kv_protocol import FailureCode

CODES: tuple[tuple[type[EssaimError], FailureCode], ...] = (
    (OutcomeUnknown, FailureCode.OUTCOME_UNKNOWN),
    (NoLeader, FailureCode.NO_LEADER),
    (Unavailable, FailureCode.UNAVAILABLE),
    (NoSpace, FailureCode.NO_SPACE),
    (LeaseNotFound, FailureCode.LEASE_NOT_FOUND),
    (InvalidRequest, FailureCode.INVALID_REQUEST),
)
"""The first that fits, so the narrower ones come first."""


def to_transaction(request: wire.TransactionRequest) -> log.Transaction:
    """Raises InvalidRequest for keys that cannot be."""
    return log.Transaction(
        tuple(map(_compare, request.compares)),
        tuple(map(_operation, request.then)),
        tuple(map(_operation, request.otherwise)),
    )


def to_answer(
    number: int, result: log.TransactionResult
) -> wire.TransactionAnswer | wire.SessionOpened | wire.Failure:
    if result.refusal is not log.Refusal.NONE:
        return _refusal(number, result)
    if result.session:
        return wire.SessionOpened(number, result.session)
    if not result.values and not result.results:
        return wire.TransactionAnswer(number, result.succeeded, result.revision)
    return wire.TransactionAnswer(
        number,
        result.succeeded,
        result.revision,
        tuple(None if value is None else _value(value) for value in result.values),
        tuple(map(_part, result.results)),
    )


def to_failure(number: int, error: EssaimError) -> wire.Failure:
    for kind, code in CODES:
        if isinstance(error, kind):
            return wire.Failure(number, code, str(error))
    raise BrokenInvariant(f"no code for {type(error).__name__}: {error}") from error


def read(request: wire.RangeRequest, store: KeyValueStore) -> wire.RangeAnswer:
    """What the store holds now."""
    start, end = request.range.start, request.range.end
    if len(end) == len(start) + 1 and end.startswith(start) and not end[-1]:
        found = store.get(USER_PREFIX + start)
        values = () if found is None else (_value(found),)
        return wire.RangeAnswer(
            request.number, store.revision, wire.RangeResult(values, len(values))
        )
    page = read_page(store, *stored_range(start, end), max(0, request.range.limit))
    return wire.RangeAnswer(
        request.number,
        page.revision,
        wire.RangeResult(tuple(map(_value, page.found)), page.count),
    )


def size_bytes(result: wire.RangeResult) -> int:
    """Keys and values in it."""
    return sum(len(value.key) + len(value.value) for value in result.found)


def _refusal(number: int, result: log.TransactionResult) -> wire.Failure:
    if result.refusal is log.Refusal.NO_SESSION:
        return wire.Failure(
            number,
            FailureCode.SESSION_FORGOTTEN,
            "the masters have forgotten this session: open another",
        )
    try:
        check_executed(result)
    except EssaimError as error:
        return to_failure(number, error)
    raise BrokenInvariant(f"a refusal without an error: {result.refusal!r}")


def _operation(operation: wire.Operation) -> log.Operation:
    match operation:
        case wire.Put():
            key = _stored(operation.key)
            return log.Put(key, operation.value, operation.lease, operation.prev_kv)
        case wire.Get():
            return log.Get(_stored(operation.key))
        case wire.Delete():
            return log.Delete(_stored(operation.key))
        case wire.Range():
            start, end = stored_range(operation.start, operation.end)
            return log.Range(start, end, max(0, operation.limit))
        case wire.DeleteRange():
            start, end = stored_range(operation.start, operation.end)
            return log.DeleteRange(start, end, operation.prev_kv)


def _compare(compare: wire.Compare) -> log.Compare:
    relation = log.Relation(compare.relation)
    if isinstance(compare, wire.CompareValue):
        return log.CompareBytes(_stored(compare.key), relation, compare.value)
    attribute = log.Attribute(compare.attribute)
    return log.CompareAttribute(_stored(compare.key), attribute, relation, compare.number)


def _stored(key: bytes) -> bytes:
    if not 0 < len(key) <= KEY_BYTES_MAX:
        raise InvalidRequest(f"a key of {len(key)} bytes: it must have 1 to {KEY_BYTES_MAX}")
    return USER_PREFIX + key


def _value(value: log.KeyValue) -> wire.KeyValue:
    return wire.KeyValue(
        user_key(value.key), value.value, value.created, value.modified, value.version, value.lease
    )


def _part(part: log.RangeResult | log.WriteResult) -> wire.RangeResult | wire.WriteResult:
    if isinstance(part, log.RangeResult):
        return wire.RangeResult(tuple(map(_value, part.found)), part.count)
    return wire.WriteResult(part.count, tuple(map(_value, part.before)))
