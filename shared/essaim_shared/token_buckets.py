"""How often somebody may ask: token buckets (RFC 2697), one for each who asks. Pure.

A bucket holds `burst` tokens and gets `rate_per_s` back; a request takes one. Whoever asked longest
ago is forgotten when there are too many: his bucket was most likely full again.
"""

from typing import Final

BUCKETS_MAX: Final = 10_000
"""Of one kind: some megabytes, whoever asks."""


class TokenBuckets:
    def __init__(self, rate_per_s: float, burst: float, buckets_max: int = BUCKETS_MAX) -> None:
        self._rate_per_s = rate_per_s
        self._burst = burst
        self._buckets_max = buckets_max
        self._buckets: dict[str, tuple[float, float]] = {}
        """Tokens, and the moment when there were so many; whoever asked last stands last."""

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, key: str, now_s: float, cost: float = 1.0) -> float:
        """0 when there was a token to take, else the seconds until there is one. `now_s` is
        monotonic. What costs more than there is empties the bucket."""
        tokens, since_s = self._buckets.pop(key, (self._burst, now_s))
        tokens = min(self._burst, tokens + (now_s - since_s) * self._rate_per_s)
        is_taken = tokens >= 1.0
        self._buckets[key] = (max(0.0, tokens - cost) if is_taken else tokens, now_s)
        if len(self._buckets) > self._buckets_max:
            del self._buckets[next(iter(self._buckets))]
        return 0.0 if is_taken else (1.0 - tokens) / self._rate_per_s
