"""From the wire to the log and back: nothing is lost, and no user's key leaves its prefix."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from essaim_master import kv_wire
from essaim_master.kv import commands as log
from essaim_master.kv.errors import LeaseNotFound, NoSpace
from essaim_master.kv.store import KeyValueStore
from essaim_shared import kv_protocol as wire
from essaim_shared.errors import (
    BrokenInvariant,
    InvalidRequest,
    NoLeader,
    NotFound,
    OutcomeUnknown,
    Unavailable,
)
from essaim_shared.kv_protocol import FailureCode

keys = st.binary(min_size=1, max_size=12)


def request(*then, compares=()) -> wire.TransactionRequest:
    return wire.TransactionRequest(1, 1000, tuple(compares), tuple(then), ())


@given(keys, st.binary(max_size=12), st.binary(max_size=12))
def test_whatever_keys_a_client_names_only_users_keys_are_touched(key, start, end):
    transaction = kv_wire.to_transaction(
        request(
            wire.Put(key, b""),
            wire.Get(key),
            wire.Delete(key),
            compares=(wire.CompareValue(key, wire.Relation.EQUAL, b""),),
        )
    )
    touched = [part.key for part in (*transaction.compares, *transaction.then)]
    assert touched == [b"/kv/" + key] * 4
    ranged = kv_wire.to_transaction(
        request(wire.Range(start, end), wire.DeleteRange(start, end))
    ).then
    for part in ranged:
        assert part.start.startswith(b"/kv/")
        assert part.end.startswith(b"/kv/") or part.end == b"/kv0"


@given(keys, st.sampled_from(wire.Attribute), st.sampled_from(wire.Relation), st.integers(0, 9))
def test_compares_mean_the_same_in_the_log(key, attribute, relation, number):
    (compare,) = kv_wire.to_transaction(
        request(compares=(wire.CompareNumber(key, attribute, relation, number),))
    ).compares
    assert compare == log.CompareAttribute(
        b"/kv/" + key, log.Attribute[attribute.name], log.Relation[relation.name], number
    )


@pytest.mark.parametrize("key", [b"", bytes(4097)])
def test_a_key_must_have_a_length_that_can_be_kept(key):
    for operation in (wire.Put(key, b""), wire.Get(key), wire.Delete(key)):
        with pytest.raises(InvalidRequest, match=f"a key of {len(key)} bytes"):
            kv_wire.to_transaction(request(operation))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidRequest("x"), FailureCode.INVALID_REQUEST),
        (Unavailable("x"), FailureCode.UNAVAILABLE),
        (NoLeader("x"), FailureCode.NO_LEADER),
        (OutcomeUnknown("x"), FailureCode.OUTCOME_UNKNOWN),
        (NoSpace("x"), FailureCode.NO_SPACE),
        (LeaseNotFound("x"), FailureCode.LEASE_NOT_FOUND),
    ],
)
def test_each_error_has_the_narrowest_code(error, code):
    assert kv_wire.to_failure(9, error) == wire.Failure(9, code, "x")


def test_an_error_that_no_client_could_understand_is_a_broken_invariant():
    with pytest.raises(BrokenInvariant, match="NotFound"):
        kv_wire.to_failure(9, NotFound("x"))


@pytest.mark.parametrize("refusal", [r for r in log.Refusal if r is not log.Refusal.NONE])
def test_each_refusal_of_the_store_that_users_can_meet_becomes_a_failure(refusal):
    result = log.TransactionResult(False, 3, refusal=refusal)
    if refusal is log.Refusal.LEASE_EXISTS:
        with pytest.raises(BrokenInvariant):
            kv_wire.to_answer(9, result)  # Leases are not granted over this protocol.
        return
    answer = kv_wire.to_answer(9, result)
    assert isinstance(answer, wire.Failure)
    forgotten = refusal is log.Refusal.NO_SESSION
    assert (answer.code is FailureCode.SESSION_FORGOTTEN) == forgotten


def test_a_read_of_one_key_and_a_range_say_the_same():
    store = KeyValueStore()
    transaction = kv_wire.to_transaction(request(wire.Put(b"a", b"1"), wire.Put(b"b", b"2")))
    command = log.Command(log.ProposalId("m1", 1), 0, transaction)
    store.apply(1, 1, log.encode_command(command))
    one = kv_wire.read(wire.RangeRequest(1, 1, wire.Range(b"a", b"a\0")), store)
    all_keys = kv_wire.read(wire.RangeRequest(2, 1, wire.Range(b"", b"", 1)), store)
    assert one.result.found == all_keys.result.found
    assert (one.result.count, all_keys.result.count) == (1, 2)
    none = kv_wire.read(wire.RangeRequest(3, 1, wire.Range(b"c", b"c\0")), store)
    assert (none.revision, none.result) == (1, wire.RangeResult((), 0))
