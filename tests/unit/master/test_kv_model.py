"""The store against a plain model, and against itself over snapshots: any sequence of commands."""

import hypothesis.strategies as st
import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from essaim_master.kv.commands import (
    Attribute,
    Command,
    Compact,
    CompareAttribute,
    CompareBytes,
    Delete,
    DeleteRange,
    Get,
    GrantLease,
    ProposalId,
    Put,
    Range,
    Refusal,
    Relation,
    RevokeLease,
    Transaction,
    encode_command,
)
from essaim_master.kv.reading import read_page
from essaim_master.kv.store import KeyValueStore

KEYS = st.sampled_from([b"/kv/" + name for name in (b"a", b"a/1", b"a/2", b"b", b"\xff", b"")])
VALUES = st.binary(max_size=3)
LEASES = st.integers(1, 3)
OPERATIONS = st.one_of(
    st.builds(Put, KEYS, VALUES, st.sampled_from([0, 0, 0, 1, 2, 3]), st.booleans()),
    st.builds(Delete, KEYS),
    st.builds(Get, KEYS),
    st.builds(Range, KEYS, KEYS, st.integers(0, 2)),
    st.builds(DeleteRange, KEYS, KEYS, st.booleans()),
    st.builds(GrantLease, LEASES, st.integers(1, 60)),
    st.builds(RevokeLease, LEASES, st.sampled_from([0, 0, 1, 2])),
)
COMPARES = st.one_of(
    st.builds(
        CompareAttribute,
        KEYS,
        st.sampled_from(Attribute),
        st.sampled_from(Relation),
        st.integers(0, 3),
    ),
    st.builds(CompareBytes, KEYS, st.sampled_from(Relation), VALUES),
)
TRANSACTIONS = st.builds(
    Transaction,
    st.lists(COMPARES, max_size=2).map(tuple),
    st.lists(OPERATIONS, max_size=5).map(tuple),
    st.lists(OPERATIONS, max_size=2).map(tuple),
)


class Model:
    """What etcd's documents promise, in the simplest words; slow, copied whole each time."""

    def __init__(self):
        self.revision = 0
        self.values = {}  # key: (value, created, modified, version, lease)
        self.leases = set()

    def copy(self):
        other = Model()
        other.revision, other.values = self.revision, dict(self.values)
        other.leases = set(self.leases)
        return other

    def holds(self, compare):
        present = self.values.get(compare.key)
        if isinstance(compare, CompareBytes):
            if present is None:
                return False
            left, right = present[0], compare.value
        else:
            fields = {"VERSION": 3, "CREATED": 1, "MODIFIED": 2, "LEASE": 4}
            left = present[fields[compare.attribute.name]] if present else 0
            right = compare.number
        return {
            Relation.EQUAL: left == right,
            Relation.NOT_EQUAL: left != right,
            Relation.LESS: left < right,
            Relation.GREATER: left > right,
        }[compare.relation]

    def within(self, start, end):
        return sorted(key for key in self.values if start <= key and (not end or key < end))

    def run(self, transaction, term):
        """Whether it held, its events and results; None when it is refused as a whole."""
        held = all(self.holds(compare) for compare in transaction.compares)
        draft = self.copy()
        wrote, results = [], []
        for operation in transaction.then if held else transaction.otherwise:
            if not draft.execute(operation, term, wrote, results):
                return None
        draft.revision += bool(wrote)
        self.__dict__ = draft.__dict__
        return held, wrote, results

    def execute(self, operation, term, wrote, results):
        match operation:
            case Put(key, value, lease, prev_kv):
                if lease and lease not in self.leases:
                    return False
                before = self.values.get(key)
                now = self.revision + 1
                created, version = (before[1], before[3] + 1) if before else (now, 1)
                self.values[key] = (value, created, now, version, lease)
                wrote.append(key)
                if prev_kv:
                    results.append((0, [key] if before else []))
            case Delete(key):
                if self.values.pop(key, None):
                    wrote.append(key)
            case Range(start, end, limit):
                keys = self.within(start, end)
                results.append((len(keys), keys[: limit or None]))
            case DeleteRange(start, end, prev_kv):
                keys = self.within(start, end)
                results.append((len(keys), keys if prev_kv else []))
                wrote += keys
                for key in keys:
                    del self.values[key]
            case GrantLease(lease, _):
                if lease in self.leases:
                    return False
                self.leases.add(lease)
            case RevokeLease(lease, only_in_term):
                if lease in self.leases and only_in_term in (0, term):
                    self.leases.discard(lease)
                    gone = sorted(k for k, value in self.values.items() if value[4] == lease)
                    wrote += gone
                    for key in gone:
                        del self.values[key]
        return True


class StoreAgainstModel(RuleBasedStateMachine):
    """Also: a second store that is replaced by a snapshot of the first at any moment and then
    fed the same log stays equal to it, byte for byte."""

    @initialize()
    def begin(self):
        self.store, self.twin = KeyValueStore(), KeyValueStore()
        self.model = Model()
        self.past = {0: {}}
        self.sequence, self.commands = 0, []
        self.told = {0: {}}
        self.told_revision = 0
        self.mirror = {}
        self.store.watch(self.on_revision)

    def on_revision(self, revision, events):
        assert revision == self.told_revision + 1
        self.told_revision = revision
        for event in events:
            assert self.mirror.get(event.key) == event.before
            if event.after is None:
                del self.mirror[event.key]
            else:
                self.mirror[event.key] = event.after

    def apply(self, transaction, term):
        self.sequence += 1
        command = encode_command(Command(ProposalId("c", self.sequence), 0, transaction))
        self.commands.append((term, command))
        applied = self.store.apply(self.sequence, term, command)
        assert self.twin.apply(self.sequence, term, command) == applied
        return applied.result

    @rule(transaction=TRANSACTIONS, term=st.integers(1, 2))
    def transact(self, transaction, term):
        expected = self.model.run(transaction, term)
        result = self.apply(transaction, term)
        assert result.revision == self.model.revision
        if expected is None:
            assert result.refusal in (Refusal.LEASE_NOT_FOUND, Refusal.LEASE_EXISTS)
            assert not result.succeeded
        else:
            held, _, results = expected
            assert (result.succeeded, result.refusal) == (held, Refusal.NONE)
            assert [_summary(part) for part in result.results] == results
        self.past[self.model.revision] = dict(self.model.values)

    @rule(data=st.data())
    def compact(self, data):
        revision = data.draw(st.integers(1, self.store.revision + 1))
        compacted = self.store.history.compacted
        result = self.apply(Transaction(then=(Compact(revision),)), 1)
        if revision > self.store.revision:
            assert result.refusal is Refusal.FUTURE_REVISION
        elif revision <= compacted:
            assert result.refusal is Refusal.COMPACTED
        else:
            assert self.store.history.compacted == revision

    @rule(data=st.data())
    def repeat(self, data):
        """A copy of any earlier proposal changes nothing; where it wrote, it gets its answer."""
        if self.commands:
            term, command = data.draw(st.sampled_from(self.commands))
            before = self.store.freeze().state_hash()
            self.store.apply(0, term + 1, command)
            self.twin.apply(0, term + 1, command)
            assert self.store.freeze().state_hash() == before

    @rule(data=st.data())
    def read_the_past(self, data):
        revision = data.draw(st.integers(self.store.history.compacted, self.store.revision))
        page = read_page(self.store, b"", b"", 0, revision)
        found = {value.key: (value.value, value.modified) for value in page.found}
        if revision:
            past = self.past[revision]
            assert found == {key: (value[0], value[2]) for key, value in past.items()}
            assert list(found) == sorted(found)
            assert page.count == len(past)

    @rule()
    def install_a_snapshot(self):
        self.twin = KeyValueStore()
        self.twin.apply(
            1,
            1,
            encode_command(Command(ProposalId("x", 1), 0, Transaction(then=(Put(b"z", b""),)))),
        )
        self.twin.restore(self.store.freeze().chunks())

    @invariant()
    def agrees_with_the_model(self):
        found = {
            value.key: (value.value, value.created, value.modified, value.version, value.lease)
            for value in self.store.between(b"", b"")
        }
        assert found == self.model.values
        assert set(self.store.leases) == self.model.leases
        for lease in self.store.leases.values():
            assert lease.keys == {key for key, value in found.items() if value[4] == lease.id}
        assert self.store.size_bytes == sum(len(k) + len(v[0]) for k, v in found.items())
        assert self.mirror == {value.key: value for value in self.store.between(b"", b"")}

    @invariant()
    def the_twin_is_equal(self):
        assert self.twin.freeze().state_hash() == self.store.freeze().state_hash()


def _summary(part):
    found = part.found if hasattr(part, "found") else part.before
    return part.count, [value.key for value in found]


StoreAgainstModel.TestCase.settings = settings(
    max_examples=60,
    stateful_step_count=30,
    deadline=None,
    print_blob=True,
    phases=(Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink),
)
TestStoreAgainstModel = pytest.mark.timeout(60)(StoreAgainstModel.TestCase)
