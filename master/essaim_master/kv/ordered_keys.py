"""A sorted set of keys that stays fast when it is large.

One sorted list would move megabytes for each new key among a million. Here the keys lie in
blocks of bounded length, as the leaves of a B+ tree of height two would hold them: a new key moves
at most one block, and a block that is full is cut in half.
"""

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from itertools import chain

BLOCK_LENGTH_MAX = 2048


class OrderedKeys:
    """Keys in the order of their bytes, each once."""

    def __init__(self, ordered: Iterable[bytes] = ()) -> None:
        """`ordered` must be sorted and without repetitions."""
        keys = list(ordered)
        half = BLOCK_LENGTH_MAX // 2
        self._blocks = [keys[at : at + half] for at in range(0, len(keys), half)]
        self._last = [block[-1] for block in self._blocks]
        """The last key of each block; no block is empty."""

    def add(self, key: bytes) -> None:
        """The key must not be there yet."""
        if not self._blocks:
            self._blocks.append([key])
            self._last.append(key)
            return
        at = bisect_left(self._last, key)
        if at == len(self._last):
            at -= 1
            self._blocks[at].append(key)
            self._last[at] = key
        else:
            insort(self._blocks[at], key)
        block = self._blocks[at]
        if len(block) > BLOCK_LENGTH_MAX:
            half = len(block) // 2
            self._blocks.insert(at + 1, block[half:])
            del block[half:]
            self._last.insert(at, block[-1])

    def remove(self, key: bytes) -> None:
        """The key must be there."""
        at = bisect_left(self._last, key)
        block = self._blocks[at]
        del block[bisect_left(block, key)]
        if block:
            self._last[at] = block[-1]
        else:
            del self._blocks[at], self._last[at]

    def between(self, start: bytes, end: bytes) -> Iterator[bytes]:
        """Keys in [start, end), in order; an empty `end` means without end. The set must not
        change while they are read."""
        at = bisect_left(self._last, start)
        if at == len(self._blocks):
            return
        first = bisect_left(self._blocks[at], start)
        for block in self._blocks[at:]:
            if end and block[-1] >= end:
                yield from block[first : bisect_left(block, end)]
                return
            yield from block[first:] if first else block
            first = 0

    def count(self, start: bytes, end: bytes) -> int:
        """How many keys are in [start, end), without visiting them."""
        return max(0, (self._position(end) if end else len(self)) - self._position(start))

    def all(self) -> list[bytes]:
        return list(chain.from_iterable(self._blocks))

    def __len__(self) -> int:
        return sum(map(len, self._blocks))

    def _position(self, key: bytes) -> int:
        at = bisect_left(self._last, key)
        before = sum(map(len, self._blocks[:at]))
        return before + (bisect_left(self._blocks[at], key) if at < len(self._blocks) else 0)
