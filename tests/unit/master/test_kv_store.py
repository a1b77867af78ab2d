"""The key-value state machine: etcd's semantics of transactions, applied once each."""

import random

from essaim_master.kv.answers import RESULTS_PER_CLIENT_MAX
from essaim_master.kv.commands import (
    Command,
    CompareRevision,
    CompareValue,
    Delete,
    Get,
    ProposalId,
    Put,
    Transaction,
    TransactionResult,
    encode_command,
)
from essaim_master.kv.history import Event
from essaim_master.kv.store import KeyValueStore


class Client:
    """Proposes to one store as one client, in order."""

    def __init__(self, store: KeyValueStore, name: str = "c1") -> None:
        self.store = store
        self.name = name
        self.sequence = 0

    def run(self, *then, compares=(), otherwise=()) -> TransactionResult:
        self.sequence += 1
        return self.repeat(self.sequence, *then, compares=compares, otherwise=otherwise)

    def repeat(self, sequence: int, *then, compares=(), otherwise=()) -> TransactionResult:
        transaction = Transaction(tuple(compares), tuple(then), tuple(otherwise))
        command = encode_command(Command(ProposalId(self.name, sequence), 0, transaction))
        return self.store.apply(1, 1, command).result


def test_a_write_raises_the_revision_by_one_however_many_keys_it_writes():
    client = Client(KeyValueStore())
    assert client.run(Put(b"a", b"1"), Put(b"b", b"2")).revision == 1
    assert client.run(Put(b"a", b"3")).revision == 2
    found = client.store.get(b"a")
    assert (found.value, found.created, found.modified, found.version) == (b"3", 1, 2, 2)


def test_a_transaction_that_writes_nothing_leaves_the_revision():
    client = Client(KeyValueStore())
    client.run(Put(b"a", b"1"))
    result = client.run(Get(b"a"), Get(b"nothing"), Delete(b"nothing"))
    assert result.revision == 1
    assert result.values[0].value == b"1"
    assert result.values[1] is None


def test_a_revision_compare_guards_against_a_change_in_between():
    client = Client(KeyValueStore())
    client.run(Put(b"a", b"1"))
    stale = CompareRevision(b"a", 1)
    client.run(Put(b"a", b"2"))
    result = client.run(Put(b"a", b"lost"), compares=[stale], otherwise=[Get(b"a")])
    assert not result.succeeded
    assert result.values[0].value == b"2"


def test_revision_zero_means_that_the_key_is_absent():
    client = Client(KeyValueStore())
    create = CompareRevision(b"name", 0)
    assert client.run(Put(b"name", b"first"), compares=[create]).succeeded
    assert not client.run(Put(b"name", b"second"), compares=[create]).succeeded
    client.run(Delete(b"name"))
    assert client.run(Put(b"name", b"third"), compares=[create]).succeeded
    assert client.store.get(b"name").version == 1, "a deleted key begins anew"


def test_a_value_compare_fails_on_an_absent_key():
    client = Client(KeyValueStore())
    assert not client.run(compares=[CompareValue(b"a", b"1")]).succeeded
    client.run(Put(b"a", b"1"))
    assert client.run(compares=[CompareValue(b"a", b"1")]).succeeded


def test_a_repeated_proposal_is_answered_and_not_applied_again():
    client = Client(KeyValueStore())
    first = client.repeat(7, Put(b"n", b"x"), compares=[CompareRevision(b"n", 0)])
    again = client.repeat(7, Put(b"n", b"x"), compares=[CompareRevision(b"n", 0)])
    assert first == again
    assert first.succeeded
    assert client.store.get(b"n").version == 1


def test_answers_of_a_client_are_bounded():
    client = Client(KeyValueStore())
    for _ in range(RESULTS_PER_CLIENT_MAX + 10):
        client.run(Put(b"a", b""))
    ((_, _, answers),) = client.store._answers.freeze()
    assert len(answers) == RESULTS_PER_CLIENT_MAX


def test_a_watcher_gets_each_revision_whole_and_in_order():
    store = KeyValueStore()
    seen: list[tuple[int, tuple[Event, ...]]] = []
    end = store.watch(lambda revision, events: seen.append((revision, events)))
    client = Client(store)
    client.run(Put(b"a", b"1"), Put(b"b", b"1"))
    client.run(Get(b"a"))
    client.run(Delete(b"a"))
    end()
    client.run(Put(b"c", b"1"))
    assert [(revision, [e.key for e in events]) for revision, events in seen] == [
        (1, [b"a", b"b"]),
        (2, [b"a"]),
    ]
    assert seen[1][1][0].after is None
    assert seen[1][1][0].before.value == b"1"


def test_ranges_are_ordered_and_agree_with_a_plain_dictionary():
    seed = random.SystemRandom().getrandbits(32)
    rng = random.Random(seed)
    client = Client(KeyValueStore())
    model: dict[bytes, bytes] = {}
    for step in range(2000):
        key = f"/{rng.choice('ab')}/{rng.randrange(30):02d}".encode()
        if rng.random() < 0.6:
            client.run(Put(key, str(step).encode()))
            model[key] = str(step).encode()
        else:
            client.run(Delete(key))
            model.pop(key, None)
    for prefix in (b"/a/", b"/b/", b"/a/1", b"/", b"/c/"):
        found = {kv.key: kv.value for kv in client.store.range(prefix)}
        wanted = {key: value for key, value in sorted(model.items()) if key.startswith(prefix)}
        assert found == wanted, f"seed {seed}, prefix {prefix!r}"
        assert list(found) == sorted(found), f"seed {seed}, prefix {prefix!r}"
