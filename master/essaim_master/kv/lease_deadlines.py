"""When leases end, as their leader sees it: held in its memory, measured by its own clock.

A lease lives at least its time to live after each moment at which its holder was told that it
does. It may live longer, and does after a change of leader, since the new one knows nothing of
the last signs of life and gives all leases their full time again.
"""

from collections.abc import Mapping

from essaim_master.kv.errors import LeaseNotFound
from essaim_master.kv.leases import Lease


class LeaseDeadlines:
    """One term's knowledge of signs of life. Times are of one monotonic clock, in seconds."""

    def __init__(self) -> None:
        self._deadlines_s: dict[int, float] = {}
        self._ending: set[int] = set()
        """Found expired: the end is on its way to the log and is not taken back."""

    def follow(self, leases: Mapping[int, Lease], now_s: float) -> None:
        """Take over what was granted and what has ended. A lease counts from when it is first
        seen here, which is not before its holder asked for it."""
        for lease_id in [known for known in self._deadlines_s if known not in leases]:
            del self._deadlines_s[lease_id]
            self._ending.discard(lease_id)
        for lease_id, lease in leases.items():
            if lease_id not in self._deadlines_s:
                self._deadlines_s[lease_id] = now_s + lease.ttl_s

    def keep_alive(self, lease: Lease, now_s: float) -> None:
        """Its holder lives. Raises LeaseNotFound when the lease is about to end."""
        if lease.id in self._ending:
            raise LeaseNotFound(f"lease {lease.id:x} has expired: grant another")
        self._deadlines_s[lease.id] = max(self._deadlines_s.get(lease.id, 0.0), now_s + lease.ttl_s)

    def remaining_s(self, lease: Lease, now_s: float) -> float:
        return max(0.0, self._deadlines_s.get(lease.id, now_s + lease.ttl_s) - now_s)

    def expire(self, now_s: float, count_max: int) -> list[int]:
        """Leases whose end must be written to the log now, the longest overdue first. They are
        named again until they are gone."""
        overdue = [
            (deadline_s, lease_id)
            for lease_id, deadline_s in self._deadlines_s.items()
            if deadline_s <= now_s
        ]
        overdue.sort()
        ended = [lease_id for _, lease_id in overdue[:count_max]]
        self._ending.update(ended)
        return ended

    def postpone(self, duration_s: float) -> None:
        """The leader was not there for so long: nobody could reach it, so nobody is late."""
        for lease_id in self._deadlines_s:
            self._deadlines_s[lease_id] += duration_s
