"""How often strangers may ask, and how often who is known may renew. Pure.

A bucket that holds a few tokens and fills with time: what comes in a burst is taken, what comes
without end is refused. (The "token bucket" of RFC 2697 and many others.)
"""

from typing import Final

JOINS_PER_S: Final = 5.0
JOINS_BURST: Final = 50
"""A rack of machines that joins together is taken at once."""
WRONG_TOKEN_COST: Final = 5
"""Guesses empty the bucket sooner than joins."""
WRONG_TOKEN_DELAY_S: Final = 1.0
"""Before somebody is told that his token is wrong."""
WAITING_MAX: Final = 20
"""So many may wait for that at the same time; more are refused at once."""
RENEWALS_PER_S: Final = 0.2
"""Of one identity: a replaced authority takes three in all, and each is a write to the state."""
RENEWALS_BURST: Final = 20.0


class Bucket:
    def __init__(self, per_s: float, burst: int, now_s: float) -> None:
        self._per_s = per_s
        self._burst = float(burst)
        self._held = float(burst)
        self._filled_s = now_s

    def take(self, now_s: float, cost: float = 1.0) -> bool:
        """Whether there was something to take. What costs more than there is empties it."""
        self._held = min(self._burst, self._held + (now_s - self._filled_s) * self._per_s)
        self._filled_s = now_s
        if self._held < 1.0:
            return False
        self._held = max(0.0, self._held - cost)
        return True
