"""Which leases exist, and which keys go with each. When one ends is not decided here: a leader
watches the time (`lease_deadlines.py`) and has the end written to the log."""

from collections.abc import Iterable

import msgspec

LEASES_MAX = 10_000
LEASE_TTL_S_MIN = 1
LEASE_TTL_S_MAX = 366 * 86400


class LeaseRecord(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A lease as a snapshot holds it; its keys follow from the keys themselves."""

    id: int
    ttl_s: int


class Lease:
    __slots__ = ("id", "keys", "ttl_s")

    def __init__(self, lease_id: int, ttl_s: int) -> None:
        self.id = lease_id
        self.ttl_s = ttl_s
        self.keys: set[bytes] = set()
        """Read in sorted order only: the order of a set is no part of the state."""


class Leases:
    """By id, in the order in which they were granted."""

    def __init__(self, records: Iterable[LeaseRecord] = ()) -> None:
        self.by_id = {record.id: Lease(record.id, record.ttl_s) for record in records}

    def attach(self, key: bytes, before: int, after: int) -> None:
        """A key that went with the lease `before` goes with `after` now; 0 is none."""
        if before:
            self.by_id[before].keys.discard(key)
        if after:
            self.by_id[after].keys.add(key)

    def freeze(self) -> tuple[LeaseRecord, ...]:
        return tuple(LeaseRecord(lease.id, lease.ttl_s) for lease in self.by_id.values())
