"""Watches: every revision that touches a range, in order, whole, once, from any revision that the
history still holds.

A watch is a cursor into the history and nothing else: there is no queue for each client that
could overflow or grow. Its owner takes what has come when it can; `wake` tells that something
has. A watch whose owner takes nothing while `LAG_REVISIONS_MAX` revisions pass is ended with
`Lagged`, which names the revision to go on from: nothing is ever left out in silence.

    armed    everything was taken; the cursor moves along with revisions that do not concern it
    woken    something was not taken yet; the cursor stands still until the next `take`
"""

from collections.abc import Callable

import msgspec

from essaim_master.kv.commands import KeyValue
from essaim_master.kv.errors import Compacted, Lagged
from essaim_master.kv.history import Event, RevisionEvents
from essaim_master.kv.store import KeyValueStore
from essaim_shared.errors import Unavailable

WATCHES_MAX = 1000
LAG_REVISIONS_MAX = 5000
"""Half of what the history holds, so that a watch which is ended can still go on."""
TAKE_REVISIONS_MAX = 256
TAKE_BYTES_MAX = 1024 * 1024
"""A `take` ends with the revision that passes this size."""

Wake = Callable[[], None]


class Span(msgspec.Struct, frozen=True):
    """Keys in [start, end); an empty `end` means without end."""

    start: bytes
    end: bytes

    def has(self, key: bytes) -> bool:
        return key >= self.start and (not self.end or key < self.end)


class Watch:
    """One reader's place in the history. Made by `WatchHub.open`."""

    def __init__(self, hub: "WatchHub", span: Span, start_revision: int, wake: Wake) -> None:
        self._hub = hub
        self._store = hub.store
        self.span = span
        self.cursor = start_revision
        """The first revision that was not looked at for this watch."""
        self._wake = wake
        self._last_take = hub.store.revision

    @property
    def delivered(self) -> int:
        """Everything up to this revision was taken: where to go on after a disconnection is the
        next one."""
        return self.cursor - 1

    def take(self) -> tuple[RevisionEvents, ...]:
        """What has come and was not taken, oldest first; () when there is nothing: `wake` is
        called once there is. Raises Lagged, after which the watch is closed."""
        store = self._store
        if (
            self.cursor <= store.history.compacted
            or store.revision - self._last_take > self._hub.lag_revisions_max
        ):
            self.close()
            raise Lagged(self.cursor)
        self._last_take = store.revision
        taken: list[RevisionEvents] = []
        size_bytes = 0
        for revision in store.history.since(self.cursor):
            self.cursor = revision.revision + 1
            touched = _within(self.span, revision)
            if touched is not None:
                taken.append(touched)
                size_bytes += touched.size_bytes
                if len(taken) == TAKE_REVISIONS_MAX or size_bytes >= TAKE_BYTES_MAX:
                    break
        if not taken:
            self._hub.arm(self)
        return tuple(taken)

    def close(self) -> None:
        """No more calls of `wake`. Closing again does nothing."""
        self._hub.forget(self)

    def step(self, revision: int, events: tuple[Event, ...]) -> bool:
        """An armed watch sees the next revision: True if it concerns its owner, who was woken."""
        if revision < self.cursor:
            return False
        if revision == self.cursor and not any(self.span.has(event.key) for event in events):
            self.cursor = revision + 1
            self._last_take = revision
            return False
        self._wake()
        return True


class WatchHub:
    """All watches on one store."""

    def __init__(self, store: KeyValueStore, lag_revisions_max: int = LAG_REVISIONS_MAX) -> None:
        self.store = store
        self.lag_revisions_max = lag_revisions_max
        self._open: set[Watch] = set()
        self._armed: set[Watch] = set()
        self._unsubscribe = store.watch(self._on_revision)

    def __len__(self) -> int:
        return len(self._open)

    def open(self, span: Span, start_revision: int, wake: Wake) -> Watch:
        """Watch from a revision on; 0: from the next one. One that has not come yet is waited
        for. `wake` is called from within an apply: only note it and return.

        Raises Compacted when the history does not reach back so far, Unavailable when there are
        too many watches.
        """
        if len(self._open) >= WATCHES_MAX:
            raise Unavailable(f"{WATCHES_MAX} watches are open on this master: use another one")
        if start_revision == 0:
            start_revision = self.store.revision + 1
        if start_revision <= self.store.history.compacted:
            raise Compacted(self.store.history.compacted + 1)
        watch = Watch(self, span, start_revision, wake)
        self._open.add(watch)
        return watch

    def view_and_watch(self, span: Span, wake: Wake) -> tuple[tuple[KeyValue, ...], Watch]:
        """All there is now, and a watch for all that comes after: nothing is between them."""
        watch = self.open(span, 0, wake)
        return tuple(self.store.between(span.start, span.end)), watch

    def arm(self, watch: Watch) -> None:
        if watch in self._open:
            self._armed.add(watch)

    def forget(self, watch: Watch) -> None:
        self._open.discard(watch)
        self._armed.discard(watch)

    def close(self) -> None:
        """End all watches and leave the store."""
        self._unsubscribe()
        self._open.clear()
        self._armed.clear()

    def _on_revision(self, revision: int, events: tuple[Event, ...]) -> None:
        if self._armed:
            self._armed -= {watch for watch in self._armed if watch.step(revision, events)}


def _within(span: Span, revision: RevisionEvents) -> RevisionEvents | None:
    """The revision without what lies outside of the span; None if nothing is left."""
    events = tuple(event for event in revision.events if span.has(event.key))
    if len(events) == len(revision.events):
        return revision
    return msgspec.structs.replace(revision, events=events) if events else None
