"""When a master makes a snapshot of its own. Pure."""

import msgspec

MIB = 1024 * 1024


class SnapshotSettings(msgspec.Struct, frozen=True):
    every_entries: int = 10_000
    """Applied since the last one (etcd's number), before another one is considered."""
    log_bytes_max: int = 64 * MIB
    """Of applied entries since the last one: then it is made whatever their number."""
    entries_max: int = 100_000
    """Applied since the last one: then it is made whatever their size. Both bound how long a
    start takes to replay."""
    trailing_entries: int = 5_000
    """Kept in memory before the snapshot's index, so that a follower that is a little behind
    needs entries, not a snapshot."""

    def is_due(self, entries: int, size_bytes: int, last_snapshot_bytes: int) -> bool:
        """Whether so much was applied since the last snapshot that a new one pays.

        A snapshot costs what the state weighs. So the log may first grow as large as the last
        one was (dissertation 5.1.3): writing snapshots then costs at most as much as the log.
        """
        if size_bytes >= self.log_bytes_max or entries >= self.entries_max:
            return True
        return entries >= self.every_entries and size_bytes >= last_snapshot_bytes
