"""The parts of the key-value state: order, history, answers, quota, snapshots, the log's format."""

import random

import msgspec
import pytest

from essaim_master.kv.answers import (
    CLIENTS_MAX,
    LARGE_BYTES_PER_CLIENT_MAX,
    RESULTS_PER_CLIENT_MAX,
)
from essaim_master.kv.commands import (
    Command,
    Compact,
    CompareRevision,
    CompareValue,
    Delete,
    DeleteRange,
    Get,
    GrantLease,
    ProposalId,
    Put,
    Range,
    Refusal,
    Transaction,
    decode_command,
    encode_command,
    prefix_end,
)
from essaim_master.kv.errors import (
    Compacted,
    FutureRevision,
    LeaseExists,
    LeaseNotFound,
    NoSpace,
    TooManyLeases,
    check_executed,
)
from essaim_master.kv.frozen import FORMAT, Header
from essaim_master.kv.history import AGE_NS_MAX, REVISIONS_MAX, SIZE_BYTES_MAX
from essaim_master.kv.leases import LEASES_MAX
from essaim_master.kv.ordered_keys import BLOCK_LENGTH_MAX, OrderedKeys
from essaim_master.kv.reading import PAGE_BYTES_MAX, PAGE_LENGTH_MAX, read_page
from essaim_master.kv.store import ANSWER_BYTES_MAX, KeyValueStore
from essaim_shared.errors import InvalidRequest, MalformedMessage, OutcomeUnknown

SEED = 20261121


class Log:
    def __init__(self, quota_bytes=1 << 30):
        self.store = KeyValueStore(quota_bytes)
        self.sequence = 0
        self.now_ns = 0

    def run(self, *then, client="c", sequence=None, compares=()):
        if sequence is None:
            self.sequence += 1
            sequence = self.sequence
        transaction = Transaction(tuple(compares), then)
        command = encode_command(Command(ProposalId(client, sequence), self.now_ns, transaction))
        return self.store.apply(1, 1, command).result


# The log's format


RECORDED = bytes.fromhex(
    "9392a8636c69656e742d3107cf17979cfe362a0000939293a87265766973696f6ec4052f6b762f6103"
    "93a576616c7565c4052f6b762f62c401789393a3707574c4052f6b762f61c4013192a664656c657465"
    "c4052f6b762f6292a3676574c4052f6b762f639192a3676574c4052f6b762f61"
)
"""An entry as the first build wrote it, before puts had leases."""


def test_an_entry_of_the_first_build_still_means_the_same():
    assert decode_command(RECORDED) == Command(
        ProposalId("client-1", 7),
        1_700_000_000_000_000_000,
        Transaction(
            (CompareRevision(b"/kv/a", 3), CompareValue(b"/kv/b", b"x")),
            (Put(b"/kv/a", b"1"), Delete(b"/kv/b"), Get(b"/kv/c")),
            (Get(b"/kv/a"),),
        ),
    )


def test_fields_that_a_later_build_adds_are_passed_over():
    later = msgspec.msgpack.encode([["c", 1], 0, [[], [["put", b"a", b"1", 0, False, "new"]], []]])
    assert decode_command(later).transaction.then == (Put(b"a", b"1"),)


@pytest.mark.parametrize("data", [b"", b"\x93", RECORDED[:-1], RECORDED.replace(b"put", b"pot")])
def test_bytes_that_no_master_wrote_are_an_error(data):
    with pytest.raises(msgspec.DecodeError):
        decode_command(data)


def test_the_limits_of_a_transaction():
    def encode(*operations):
        return encode_command(Command(ProposalId("c", 1), 0, Transaction(then=operations)))

    encode(*[Get(b"a")] * 128)
    with pytest.raises(InvalidRequest, match="129 operations"):
        encode(*[Get(b"a")] * 129)
    with pytest.raises(InvalidRequest, match="limit of 1572864"):
        encode(Put(b"a", b"x" * 1572864))


# Order


def test_ordered_keys_agree_with_a_sorted_list():
    print(f"seed {SEED}")
    rng = random.Random(SEED)
    keys, model = OrderedKeys(), []
    for _ in range(4 * BLOCK_LENGTH_MAX):
        key = b"%06d" % rng.randrange(10**6)
        if not keys.count(key, key + b"\0"):
            keys.add(key)
            model.append(key)
    model.sort()
    for _ in range(BLOCK_LENGTH_MAX):
        keys.remove(model.pop(rng.randrange(len(model))))
    assert keys.all() == model
    assert len(keys) == len(model)
    for _ in range(200):
        start, end = (b"%06d" % rng.randrange(10**6) for _ in range(2))
        wanted = [key for key in model if start <= key < end]
        assert list(keys.between(start, end)) == wanted, f"seed {SEED}: {start} {end}"
        assert keys.count(start, end) == len(wanted)
        assert list(keys.between(start, b"")) == [key for key in model if key >= start]
    for key in model:
        keys.remove(key)
    assert keys.all() == list(keys.between(b"", b"")) == []
    assert keys.count(b"", b"") == 0


@pytest.mark.parametrize(
    ("prefix", "end"),
    [(b"", b""), (b"a", b"b"), (b"a\xff", b"b"), (b"\xff\xff", b""), (b"a/", b"a0")],
)
def test_the_end_of_a_prefix(prefix, end):
    assert prefix_end(prefix) == end


# History


def test_history_is_bounded_by_count():
    log = Log()
    for _ in range(REVISIONS_MAX + 5):
        log.run(Put(b"a", b""))
    assert len(log.store.history) == REVISIONS_MAX
    assert log.store.history.compacted == 5


def test_history_is_bounded_by_the_age_that_the_entries_tell():
    log = Log()
    log.run(Put(b"a", b""))
    log.now_ns = AGE_NS_MAX
    log.run(Put(b"a", b""))
    assert log.store.history.compacted == 0
    log.now_ns = AGE_NS_MAX + 1
    log.run(Put(b"a", b""))
    assert log.store.history.compacted == 1
    log.now_ns = 10 * AGE_NS_MAX
    log.run(Put(b"a", b""))
    assert (log.store.history.compacted, len(log.store.history)) == (3, 1)


def test_history_is_bounded_by_size():
    log = Log()
    for _ in range(2 + SIZE_BYTES_MAX // (1 << 20)):
        log.run(Put(b"a", b"x" * (1 << 20)))
    kept = sum(revision.size_bytes for revision in log.store.history.all())
    assert kept <= SIZE_BYTES_MAX
    assert log.store.history.compacted > 0


def test_the_past_can_be_read_as_far_as_the_history_goes():
    log = Log()
    for value in (b"1", b"2", b"3"):
        log.run(Put(b"a", value), Put(b"b" + value, b""))
    log.run(Delete(b"a"))
    log.run(Compact(1))
    found = read_page(log.store, b"", b"", revision=1).found
    assert [(value.key, value.value) for value in found] == [(b"a", b"1"), (b"b1", b"")]
    assert read_page(log.store, b"a", b"b", revision=3).found[0].value == b"3"
    assert read_page(log.store, b"a", b"b", revision=4).found == ()
    log.run(Compact(3))
    with pytest.raises(Compacted) as caught:
        read_page(log.store, b"", b"", revision=2)
    assert caught.value.oldest == 4
    with pytest.raises(FutureRevision):
        read_page(log.store, b"", b"", revision=5)


def test_a_key_that_one_transaction_wrote_twice_is_undone_in_one():
    log = Log()
    log.run(Put(b"a", b"1"))
    log.run(Put(b"a", b"2"), Delete(b"a"), Put(b"a", b"3"))
    assert [value.value for value in read_page(log.store, b"a", b"", revision=1).found] == [b"1"]


def test_pages_are_bounded_by_count_and_size():
    log = Log()
    for number in range(PAGE_LENGTH_MAX + 1):
        log.run(Put(b"n/%05d" % number, b""))
    page = read_page(log.store, b"n/", b"n0")
    assert (len(page.found), page.count, page.more) == (PAGE_LENGTH_MAX, PAGE_LENGTH_MAX + 1, True)
    for number in range(5):
        log.run(Put(b"s/%d" % number, b"x" * (PAGE_BYTES_MAX // 4)))
    assert len(read_page(log.store, b"s/", b"s0").found) == 4
    assert not read_page(log.store, b"s/4", b"").more


def test_what_one_transaction_answers_is_bounded_and_says_so():
    log = Log()
    for number in range(6):
        log.run(Put(b"s/%d" % number, b"x" * (1 << 20)))
    result = log.run(Range(b"s/", b"s0"), Range(b"s/", b"s0"))
    sizes = [len(part.found) for part in result.results]
    assert sum(sizes) << 20 <= ANSWER_BYTES_MAX
    assert [part.count for part in result.results] == [6, 6]
    deleted = log.run(DeleteRange(b"s/", b"s0", prev_kv=True)).results[0]
    assert deleted.count == 6
    assert len(deleted.before) < 6


# Exactly once


def test_a_copy_that_may_be_of_a_forgotten_proposal_is_not_applied():
    log = Log()
    log.run(Put(b"a", b"first"))
    for _ in range(RESULTS_PER_CLIENT_MAX):
        log.run(Put(b"b", b""))
    revision = log.store.revision
    result = log.run(Put(b"a", b"again"), sequence=1)
    assert result.refusal is Refusal.FORGOTTEN
    assert log.store.get(b"a").value == b"first"
    assert log.store.revision == revision
    with pytest.raises(OutcomeUnknown):
        check_executed(result)


def test_what_was_forgotten_is_not_learned_anew_from_a_snapshot():
    log, twin = Log(), Log()
    for _ in range(RESULTS_PER_CLIENT_MAX + 3):
        log.run(Put(b"b", b""))
    twin.store.restore(log.store.freeze().chunks())
    assert twin.run(Put(b"a", b"again"), sequence=2).refusal is Refusal.FORGOTTEN
    assert twin.run(Put(b"a", b"again"), sequence=4).revision == 4


def test_large_answers_are_emptied_and_still_not_applied_twice():
    log = Log()
    value = b"x" * (LARGE_BYTES_PER_CLIENT_MAX // 2)
    log.run(Put(b"a", value))
    first = log.run(Put(b"a", value), Get(b"a"), sequence=100)
    assert log.run(Put(b"a", value), Get(b"a"), sequence=100) == first
    for sequence in (101, 102):
        log.run(Put(b"a", value), Get(b"a"), sequence=sequence)
    repeated = log.run(Put(b"a", value), Get(b"a"), sequence=100)
    assert (repeated.refusal, repeated.revision) == (Refusal.FORGOTTEN, first.revision)
    assert log.store.get(b"a").version == 4
    late = log.run(Put(b"b", b""), sequence=50)
    assert late.refusal is Refusal.NONE, "an overtaken proposal is no copy"


def test_a_failed_compare_is_an_answer_too():
    """A copy that comes when the compare would hold must not write after all."""
    log = Log()
    guard = [CompareRevision(b"a", 1)]
    assert not log.run(Put(b"b", b""), sequence=5, compares=guard).succeeded
    log.run(Put(b"a", b""), sequence=6)
    assert not log.run(Put(b"b", b""), sequence=5, compares=guard).succeeded
    assert log.store.get(b"b") is None


def test_the_client_that_wrote_longest_ago_is_forgotten_first():
    log = Log()
    for number in range(CLIENTS_MAX):
        log.run(Put(b"a", b""), client=f"c{number}", sequence=1)
    log.run(Put(b"a", b""), client="c0", sequence=2)
    log.run(Put(b"a", b""), client="new", sequence=1)
    known = [client for client, _, _ in log.store._answers.freeze()]
    assert len(known) == CLIENTS_MAX
    assert "c0" in known
    assert "c1" not in known


def test_reads_are_not_remembered():
    log = Log()
    log.run(Put(b"a", b""))
    for _ in range(10):
        log.run(Get(b"a"), Range(b"", b""))
    ((_, _, kept),) = log.store._answers.freeze()
    assert len(kept) == 1


# Quota


def test_a_full_store_takes_deletes_and_what_shrinks_until_there_is_room_again():
    log = Log(quota_bytes=10_000)
    log.run(Put(b"/kv/a", b"x" * 5000), Put(b"/kv/b", b"x" * 4000))
    full = log.run(Put(b"/kv/c", b"x" * 2000))
    assert full.refusal is Refusal.NO_SPACE
    assert log.store.is_full
    with pytest.raises(NoSpace):
        check_executed(full)
    assert log.run(Put(b"/kv/d", b"")).refusal is Refusal.NO_SPACE, "the alarm is on"
    assert log.run(Put(b"/kv/b", b"x" * 3999)).succeeded
    assert log.run(Get(b"/kv/a")).succeeded
    assert log.run(Delete(b"/kv/b")).succeeded
    assert not log.store.is_full
    assert log.run(Put(b"/kv/c", b"x" * 2000)).succeeded


def test_a_full_store_changes_nothing_of_a_transaction_that_it_refuses():
    log = Log(quota_bytes=1000)
    log.run(Put(b"/kv/a", b"1"))
    before = log.store.revision
    log.run(Delete(b"/kv/a"), Put(b"/kv/b", b"x" * 2000))
    assert log.store.revision == before
    assert log.store.get(b"/kv/a").value == b"1"


def test_users_cannot_keep_the_cluster_from_writing():
    log = Log(quota_bytes=1000)
    log.run(Put(b"/kv/a", b"x" * 900))
    log.run(Put(b"/kv/b", b"x" * 900))
    assert log.store.is_full
    assert log.run(Put(b"/tasks/t", b"x" * 900)).succeeded


def test_an_overwrite_counts_only_what_it_adds():
    log = Log(quota_bytes=1000)
    for _ in range(3):
        assert log.run(Put(b"/kv/a", b"x" * 990)).succeeded


# Leases


def test_leases_are_bounded_and_their_refusals_are_errors():
    log = Log()
    for first in range(0, LEASES_MAX, 100):
        log.run(*(GrantLease(first + number, 5) for number in range(1, 101)))
    refusals = {
        TooManyLeases: log.run(GrantLease(LEASES_MAX + 1, 5)),
        LeaseExists: log.run(GrantLease(1, 5)),
        LeaseNotFound: log.run(Put(b"a", b"", lease=LEASES_MAX + 1)),
    }
    for error, result in refusals.items():
        with pytest.raises(error):
            check_executed(result)
    assert len(log.store.leases) == LEASES_MAX


# Snapshots


def filled():
    log = Log()
    for number in range(700):
        log.run(Put(b"k/%04d" % number, bytes(number)))
    log.run(GrantLease(7, 60), Put(b"leased", b"", lease=7))
    log.run(Delete(b"k/0005"), Get(b"k/0006"))
    log.run(Compact(10))
    log.run(Put(b"other", b""), client="d", sequence=1)
    return log


def test_a_restored_state_is_the_same_and_goes_on_the_same_way():
    log = filled()
    frozen = log.store.freeze()
    twin = Log()
    twin.store.restore(frozen.chunks())
    assert twin.store.freeze().state_hash() == frozen.state_hash()
    assert list(twin.store.freeze().chunks()) == list(frozen.chunks())
    twin.sequence = log.sequence
    for each in (log, twin):
        each.run(Put(b"k/0001", b"new", lease=7), DeleteRange(b"k/01", b"k/02"))
        each.run(Put(b"other", b"copy"), client="d", sequence=1)
    assert twin.store.freeze().state_hash() == log.store.freeze().state_hash()
    assert len(frozen) == 701, "a frozen state does not move"


def test_hashes_differ_when_anything_replicated_does():
    hashes = {filled().store.freeze().state_hash()}
    for operation in (Put(b"x", b""), GrantLease(8, 1), Compact(11), Delete(b"leased")):
        log = filled()
        log.run(operation)
        hashes.add(log.store.freeze().state_hash())
    assert len(hashes) == 5


def test_chunks_are_bounded():
    log = Log()
    for number in range(40):
        log.run(Put(b"k/%04d" % number, b"x" * 100_000))
    sizes = [len(chunk) for chunk in log.store.freeze().chunks()]
    assert max(sizes) < 700 * 1024, sizes


def test_restoring_tells_watchers_what_differs_deletions_first():
    behind, ahead = Log(), Log()
    behind.run(Put(b"gone", b"1"), Put(b"same", b"1"), Put(b"changed", b"1"))
    ahead.run(Put(b"gone", b"1"), Put(b"same", b"1"), Put(b"changed", b"1"))
    ahead.run(Delete(b"gone"), Put(b"changed", b"2"), Put(b"new", b"1"))
    told = []
    behind.store.watch(lambda revision, events: told.append((revision, events)))
    behind.store.restore(ahead.store.freeze().chunks())
    ((revision, events),) = told
    assert revision == 2
    shown = [(e.key, e.before and e.before.value, e.after and e.after.value) for e in events]
    assert shown == [
        (b"gone", b"1", None),
        (b"changed", b"1", None),
        (b"changed", None, b"2"),
        (b"new", None, b"1"),
    ]


def _broken_chunks():
    chunks = list(filled().store.freeze().chunks())
    other = msgspec.msgpack.encode(Header(FORMAT + 1, 0, 0, 0, False))
    return {
        "nothing": [],
        "no header": chunks[1:],
        "no end": chunks[:-1],
        "one is missing": [*chunks[:2], *chunks[3:]],
        "goes on after the end": [*chunks, chunks[1]],
        "two headers": [chunks[0], *chunks],
        "another format": [other, *chunks[1:]],
        "cut short": [*chunks[:1], chunks[1][:-1], *chunks[2:]],
        "garbage": [*chunks[:1], b"\xc1", *chunks[2:]],
    }


@pytest.mark.parametrize("what", sorted(_broken_chunks()))
def test_a_broken_snapshot_is_refused_and_changes_nothing(what):
    log = Log()
    log.run(Put(b"mine", b""))
    before = log.store.freeze().state_hash()
    with pytest.raises(MalformedMessage):
        log.store.restore(_broken_chunks()[what])
    assert log.store.freeze().state_hash() == before
