"""How many handshakes one address may begin. Pure.

A handshake costs a server a millisecond of its event loop before it knows who is there: without a
bound whoever reaches a master's port could keep it from leading.
"""

from collections import OrderedDict
from typing import Final

PER_S: Final = 50.0
"""For each address, in the long run."""
BURST: Final = 200.0
"""At once: a script of many commands, or all nodes behind one address after an outage."""
ADDRESSES_MAX: Final = 4_096
"""Remembered; the one that was quiet for longest is forgotten for a new one."""


class HandshakePace:
    """A bucket for each address, filled with PER_S up to BURST."""

    def __init__(self) -> None:
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """Address → what was left when it was last looked at, and when that was."""

    def admits(self, address: str, now_s: float) -> bool:
        left, seen_s = self._buckets.pop(address, (BURST, now_s))
        left = min(BURST, left + (now_s - seen_s) * PER_S)
        is_admitted = left >= 1
        self._buckets[address] = (left - 1 if is_admitted else left, now_s)
        if len(self._buckets) > ADDRESSES_MAX:
            self._buckets.popitem(last=False)
        return is_admitted
