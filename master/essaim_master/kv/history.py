"""The last revisions with their events: what watches resume from and old reads are made of.

It is a function of the log like everything else here (its ages are measured by the entries' own
time stamps), so all masters keep and forget the same revisions.
"""

from collections.abc import Iterable, Iterator

import msgspec

from essaim_master.kv.commands import KeyValue

REVISIONS_MAX = 10_000
AGE_NS_MAX = 600 * 1_000_000_000
SIZE_BYTES_MAX = 32 * 1024 * 1024
"""Of keys and values in events. Ten thousand of the largest transactions would be 15 GB."""
EVENT_OVERHEAD_BYTES = 256
"""About what an event's objects take beside keys and values."""


class Event(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One key changed by one transaction. None before: created; None after: deleted."""

    key: bytes
    before: KeyValue | None
    after: KeyValue | None


class RevisionEvents(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """All that one transaction changed, in the order in which it did."""

    revision: int
    stamp_ns: int
    """The entry's time stamp: its proposer's wall clock."""
    size_bytes: int
    events: tuple[Event, ...]


class History:
    """Revisions `compacted + 1` to `last`, without gaps."""

    def __init__(self, revisions: Iterable[RevisionEvents] = (), compacted: int = 0) -> None:
        self._revisions = {kept.revision: kept for kept in revisions}
        self._size_bytes = sum(kept.size_bytes for kept in self._revisions.values())
        self.compacted = compacted
        """The last revision whose events are gone; the state at it can still be read."""
        self._oldest_stamp_ns = self._stamp_ns(compacted + 1)

    def __len__(self) -> int:
        return len(self._revisions)

    def add(self, revision: int, stamp_ns: int, events: tuple[Event, ...]) -> None:
        """Remember the next revision, and forget what is beyond the bounds."""
        size_bytes = 0
        for event in events:
            size_bytes += EVENT_OVERHEAD_BYTES
            if event.after is not None:
                size_bytes += len(event.key) + len(event.after.value)
            if event.before is not None:
                size_bytes += len(event.before.value)
        revisions = self._revisions
        if not revisions:
            self._oldest_stamp_ns = stamp_ns
        revisions[revision] = RevisionEvents(revision, stamp_ns, size_bytes, events)
        self._size_bytes += size_bytes
        while (
            len(revisions) > REVISIONS_MAX
            or self._size_bytes > SIZE_BYTES_MAX
            or self._oldest_stamp_ns < stamp_ns - AGE_NS_MAX
        ):
            self._forget_oldest()

    def compact(self, revision: int) -> None:
        """Forget everything up to and with `revision`, which must not lie in the future."""
        while self.compacted < revision:
            self._forget_oldest()

    def get(self, revision: int) -> RevisionEvents:
        return self._revisions[revision]

    def since(self, revision: int) -> Iterator[RevisionEvents]:
        """From `revision` (later than `compacted`) to the last, in order."""
        while (kept := self._revisions.get(revision)) is not None:
            yield kept
            revision += 1

    def all(self) -> tuple[RevisionEvents, ...]:
        return tuple(self._revisions.values())

    def undo(self, after_revision: int, last_revision: int) -> dict[bytes, KeyValue | None]:
        """What every key that changed after a revision (not before `compacted`) held at it."""
        earlier: dict[bytes, KeyValue | None] = {}
        for revision in range(last_revision, after_revision, -1):
            for event in reversed(self._revisions[revision].events):
                earlier[event.key] = event.before
        return earlier

    def _forget_oldest(self) -> None:
        self.compacted += 1
        self._size_bytes -= self._revisions.pop(self.compacted).size_bytes
        self._oldest_stamp_ns = self._stamp_ns(self.compacted + 1)

    def _stamp_ns(self, revision: int) -> int:
        kept = self._revisions.get(revision)
        return 0 if kept is None else kept.stamp_ns
