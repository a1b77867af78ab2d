"""What a watch promises (etcd's KV API guarantees): ordered, unique, reliable, atomic, resumable,
bookmarkable; and of ours: never silently short, woken whenever there is something to take."""

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from essaim_master.kv.commands import (
    Command,
    Compact,
    Delete,
    ProposalId,
    Put,
    Transaction,
    encode_command,
    prefix_end,
)
from essaim_master.kv.errors import Compacted, Lagged
from essaim_master.kv.store import KeyValueStore
from essaim_master.kv.watch import TAKE_REVISIONS_MAX, WATCHES_MAX, Span, WatchHub
from essaim_shared.errors import Unavailable

LAG = 12
KEYS = st.sampled_from([b"a", b"a/1", b"a/2", b"b", b"b/1"])
PREFIXES = st.sampled_from([b"", b"a", b"a/", b"b/1", b"c"])


class Log:
    """A store and the hand that writes into it."""

    def __init__(self):
        self.store = KeyValueStore()
        self.hub = WatchHub(self.store, LAG)
        self.sequence = 0

    def write(self, *operations):
        self.sequence += 1
        transaction = Transaction(then=operations)
        command = encode_command(Command(ProposalId("c", self.sequence), 0, transaction))
        return self.store.apply(self.sequence, 1, command).result.revision


class Reader:
    """Takes when it is told to, and remembers what it was told and where it began."""

    def __init__(self, log, prefix, start):
        self.span = Span(prefix, prefix_end(prefix))
        self.woken = True
        self.told = []
        self.start = start or log.store.revision + 1
        self.watch = log.hub.open(self.span, start, self.wake)
        self.is_open = True

    def wake(self):
        self.woken = True

    def take(self):
        self.woken = False
        taken = self.watch.take()
        self.woken = bool(taken)
        self.told += taken

    def take_or_end(self):
        try:
            self.take()
        except Lagged as error:
            return error
        return None


class Watching(RuleBasedStateMachine):
    @initialize()
    def begin(self):
        self.log = Log()
        self.readers = []
        self.history = []  # (revision, [(key, value or None)])
        self.log.store.watch(self.note)

    def note(self, revision, events):
        if revision == len(self.history) + 1:
            self.history.append(
                (revision, [(e.key, e.after.value if e.after else None) for e in events])
            )

    def expected(self, reader, until):
        """All revisions in [start, until] as far as they concern the reader."""
        found = []
        for revision, events in self.history[reader.start - 1 : until]:
            touched = [event for event in events if reader.span.has(event[0])]
            if touched:
                found.append((revision, touched))
        return found

    @rule(keys=st.lists(KEYS, min_size=1, max_size=3, unique=True), value=st.binary(max_size=2))
    def put(self, keys, value):
        self.log.write(*(Put(key, value) for key in keys))

    @rule(key=KEYS)
    def delete(self, key):
        self.log.write(Delete(key))

    @rule(count=st.integers(1, LAG))
    def put_many(self, count):
        for _ in range(count):
            self.log.write(Put(b"a", b"x"))

    @rule(data=st.data(), prefix=PREFIXES)
    def open(self, data, prefix):
        start = data.draw(st.integers(0, self.log.store.revision + 3))
        if 0 < start <= self.log.store.history.compacted:
            with pytest.raises(Compacted) as caught:
                Reader(self.log, prefix, start)
            start = caught.value.oldest
        self.readers.append(Reader(self.log, prefix, start))

    @rule(data=st.data())
    def take(self, data):
        if not self.readers:
            return
        reader = data.draw(st.sampled_from(self.readers))
        if not reader.is_open:
            return
        ended = reader.take_or_end()
        if ended is not None:
            assert ended.resume == reader.watch.delivered + 1
            reader.is_open = False
            if ended.resume > self.log.store.history.compacted:
                # Resumable: from there, nothing is lost and nothing is told twice.
                reader.watch = self.log.hub.open(reader.span, ended.resume, reader.wake)
                reader.woken = reader.is_open = True

    @rule(data=st.data())
    def disconnect_and_resume(self, data):
        """Bookmarkable: whatever was delivered, the next revision is where to go on."""
        readers = [reader for reader in self.readers if reader.is_open]
        if not readers:
            return
        reader = data.draw(st.sampled_from(readers))
        reader.watch.close()
        resume = reader.watch.delivered + 1
        if resume <= self.log.store.history.compacted:
            with pytest.raises(Compacted):
                self.log.hub.open(reader.span, resume, reader.wake)
            reader.is_open = False
            return
        reader.watch = self.log.hub.open(reader.span, resume, reader.wake)
        reader.woken = True

    @rule(data=st.data())
    def compact(self, data):
        self.log.write(Compact(data.draw(st.integers(1, max(1, self.log.store.revision)))))

    @rule()
    def restore(self):
        """A snapshot of the same moment changes nothing for anybody."""
        self.log.store.restore(self.log.store.freeze().chunks())

    @invariant()
    def everybody_was_told_all_there_was_once_whole_and_in_order(self):
        for reader in self.readers:
            told = [
                (r.revision, [(e.key, e.after.value if e.after else None) for e in r.events])
                for r in reader.told
            ]
            assert told == self.expected(reader, reader.watch.delivered)

    @invariant()
    def nobody_sleeps_while_something_waits(self):
        for reader in self.readers:
            if reader.is_open and not reader.woken:
                assert self.expected(reader, self.log.store.revision) == self.expected(
                    reader, reader.watch.delivered
                )

    @invariant()
    def only_open_watches_are_held(self):
        assert len(self.log.hub) == sum(reader.is_open for reader in self.readers)


Watching.TestCase.settings = settings(
    max_examples=80, stateful_step_count=40, deadline=None, print_blob=True
)
TestWatching = pytest.mark.timeout(60)(Watching.TestCase)


def test_an_idle_watch_never_lags_however_much_happens_elsewhere():
    log = Log()
    reader = Reader(log, b"quiet/", 0)
    reader.take()
    for _ in range(10 * LAG):
        log.write(Put(b"loud", b""))
    reader.take()
    assert reader.watch.delivered == log.store.revision
    log.write(Put(b"quiet/1", b""))
    assert reader.woken


def test_catching_up_from_long_ago_is_not_lagging():
    log = Log()
    for _ in range(3 * TAKE_REVISIONS_MAX):
        log.write(Put(b"a", b""))
    reader = Reader(log, b"a", 1)
    while reader.woken:
        reader.take()
    assert len(reader.told) == 3 * TAKE_REVISIONS_MAX


def test_a_watch_that_takes_nothing_is_ended_and_told_where_to_go_on():
    log = Log()
    reader = Reader(log, b"a", 0)
    reader.take()
    first = log.write(Put(b"a", b"0"))
    for _ in range(LAG):
        log.write(Put(b"a", b""))
    with pytest.raises(Lagged) as caught:
        reader.take()
    assert caught.value.resume == first
    again = Reader(log, b"a", caught.value.resume)
    again.take()
    assert [told.revision for told in again.told] == list(range(first, log.store.revision + 1))


def test_what_was_there_before_comes_with_each_event():
    log = Log()
    reader = Reader(log, b"", 0)
    log.write(Put(b"a", b"1"))
    log.write(Put(b"a", b"2"))
    log.write(Delete(b"a"))
    reader.take()
    befores = [told.events[0].before for told in reader.told]
    assert [before and before.value for before in befores] == [None, b"1", b"2"]


def test_view_and_watch_have_nothing_between_them():
    log = Log()
    log.write(Put(b"p/1", b"1"), Put(b"q", b""))
    woken = []
    view, watch = log.hub.view_and_watch(Span(b"p/", b"p0"), lambda: woken.append(1))
    assert [value.key for value in view] == [b"p/1"]
    revision = log.write(Put(b"p/2", b"2"))
    assert [told.revision for told in watch.take()] == [revision]


def test_a_watch_sees_through_a_snapshot_that_jumped_ahead():
    """A follower that was far behind installs a snapshot; its history still has every revision."""
    behind, ahead = Log(), Log()
    for log in (behind, ahead):
        log.write(Put(b"a", b"1"))
    reader = Reader(behind, b"a", 0)
    reader.take()
    for value in (b"2", b"3", b"4"):
        ahead.write(Put(b"a", value))
    behind.store.restore(ahead.store.freeze().chunks())
    assert reader.woken
    reader.take()
    assert [told.events[0].after.value for told in reader.told] == [b"2", b"3", b"4"]


def test_a_snapshot_that_jumps_over_what_came_and_went_leaves_nothing_out():
    """Before and after the jump the key is not there; what happened between is in the history."""
    behind, ahead = Log(), Log()
    reader = Reader(behind, b"a", 0)
    reader.take()
    ahead.write(Put(b"a", b""))
    ahead.write(Delete(b"a"))
    ahead.write(Put(b"b", b""))
    behind.store.restore(ahead.store.freeze().chunks())
    reader.take()
    assert [told.revision for told in reader.told] == [1, 2]


def test_a_snapshot_whose_history_begins_later_ends_the_watch_instead_of_leaving_a_gap():
    behind, ahead = Log(), Log()
    reader = Reader(behind, b"a", 0)
    reader.take()
    for value in (b"1", b"2", b"3"):
        ahead.write(Put(b"a", value))
    ahead.write(Compact(2))
    behind.store.restore(ahead.store.freeze().chunks())
    with pytest.raises(Lagged):
        reader.take()


def test_watches_are_bounded():
    log = Log()
    watches = [log.hub.open(Span(b"", b""), 0, lambda: None) for _ in range(WATCHES_MAX)]
    with pytest.raises(Unavailable):
        log.hub.open(Span(b"", b""), 0, lambda: None)
    watches[0].close()
    log.hub.open(Span(b"", b""), 0, lambda: None)


def test_a_closed_hub_wakes_nobody():
    log = Log()
    reader = Reader(log, b"", 0)
    reader.take()
    log.hub.close()
    log.write(Put(b"a", b""))
    assert not reader.woken
