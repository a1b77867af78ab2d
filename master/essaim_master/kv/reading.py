"""Pages of keys, now or at a revision that the history still reaches."""

from collections.abc import Iterator

import msgspec

from essaim_master.kv.commands import KeyValue
from essaim_master.kv.errors import Compacted, FutureRevision
from essaim_master.kv.store import KeyValueStore

PAGE_LENGTH_MAX = 1000
PAGE_BYTES_MAX = 2 * 1024 * 1024
"""Of keys and values; a page ends with the value that passes it."""


class Page(msgspec.Struct, frozen=True):
    revision: int
    """At which everything in it was read; give it to read the next page of the same state."""
    found: tuple[KeyValue, ...]
    count: int
    """Keys in the whole range."""
    more: bool
    """There are keys after the last one found."""


def read_page(
    store: KeyValueStore, start: bytes, end: bytes, limit: int = 0, revision: int = 0
) -> Page:
    """Keys in [start, end), in order; `limit` 0 means as many as a page holds, `revision` 0 the
    newest. An empty `end` means without end.

    Raises Compacted, FutureRevision.
    """
    if revision in (0, store.revision):
        return _page(store.revision, store.between(start, end), store.count(start, end), limit)
    if revision > store.revision:
        raise FutureRevision(
            f"revision {revision} has not come yet, this master is at {store.revision}"
        )
    if revision < store.history.compacted:
        raise Compacted(store.history.compacted + 1)
    earlier = store.history.undo(revision, store.revision)
    found = {value.key: value for value in store.between(start, end)}
    for key, value in earlier.items():
        if key < start or (end and key >= end):
            continue
        if value is None:
            found.pop(key, None)
        else:
            found[key] = value
    return _page(revision, (found[key] for key in sorted(found)), len(found), limit)


def _page(revision: int, values: Iterator[KeyValue], count: int, limit: int) -> Page:
    length_max = min(limit, PAGE_LENGTH_MAX) if limit else PAGE_LENGTH_MAX
    found: list[KeyValue] = []
    size_bytes = 0
    for value in values:
        found.append(value)
        size_bytes += len(value.key) + len(value.value)
        if len(found) == length_max or size_bytes >= PAGE_BYTES_MAX:
            break
    return Page(revision, tuple(found), count, len(found) < count)
