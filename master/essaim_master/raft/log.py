"""The entries of one member, held in memory.

    first_index            handed_out          last_index
         |--- on disk, or on the way ---|--- not yet given to the log on disk ---|
         |------- committed -------|
         |--- applied ---|

Four marks, and what they promise:

* `applied` ≤ `applying` ≤ `commit` ≤ `last_index`. `applying` is the last committed entry that was
  handed to the state machine, `applied` the last that it reported back.
* `handed_out` ≤ `last_index`: entries up to it were given to the log on disk, in order, once.
  A conflict moves it back; the entries that follow then replace what was written.
* `commit` may be ahead of `handed_out`: others may hold an entry safely before this disk does.

Entries below `first_index` were compacted away; index and term of the last such one are kept.
The log also knows which configuration is in effect, since that is a matter of its entries.
Sizes are kept as running totals, so that a cut by bytes is a binary search and not a walk.
"""

from bisect import bisect_right
from collections.abc import Sequence

from essaim_master.raft.configurations import CONFIGURATION, Configurations
from essaim_master.raft.messages import Configuration, Entry, SnapshotMetadata
from essaim_shared.errors import BrokenInvariant

NO_CONFIGURATION = Configuration(())
"""Of a member that joins: it learns from the log who else there is."""
ENTRY_OVERHEAD_BYTES = 16
"""What term, index and kind add to an entry's data on the wire and on disk, rounded up."""


def entry_bytes(entry: Entry) -> int:
    return len(entry.data) + ENTRY_OVERHEAD_BYTES


class RaftLog:
    def __init__(
        self,
        entries: Sequence[Entry],
        compacted_index: int = 0,
        compacted_term: int = 0,
        configuration: Configuration = NO_CONFIGURATION,
    ) -> None:
        """Take what the disk holds. `compacted_*` name the last entry that is not held any more,
        `configuration` is the one in effect there."""
        self._offset = compacted_index
        self._compacted_term = compacted_term
        self._entries: list[Entry] = []
        self._bytes_through: list[int] = [0]
        """`[i] - [0]`: total size of the first i entries held. One longer than `_entries`."""
        self.configurations = Configurations(compacted_index, configuration)
        self.commit = compacted_index
        self.applying = compacted_index
        self.applied = compacted_index
        self.append(entries)
        self.handed_out = self.last_index

    @property
    def first_index(self) -> int:
        return self._offset + 1

    @property
    def last_index(self) -> int:
        return self._offset + len(self._entries)

    @property
    def last_term(self) -> int:
        return self._entries[-1].term if self._entries else self._compacted_term

    def term_at(self, index: int) -> int | None:
        """Term of the entry at `index`; None if it was compacted away or does not exist yet."""
        position = index - self._offset - 1
        if 0 <= position < len(self._entries):
            return self._entries[position].term
        return self._compacted_term if position == -1 else None

    def is_up_to_date(self, index: int, term: int) -> bool:
        """Whether a candidate whose log ends at (index, term) holds all we do (paper 5.4.1)."""
        return (term, index) >= (self.last_term, self.last_index)

    def slice(self, low: int, high: int, size_bytes_max: int) -> tuple[Entry, ...]:
        """Entries low..high as far as they fit into `size_bytes_max`, but at least the first.

        Raises BrokenInvariant unless all of them are held.
        """
        if low > high:
            return ()
        start, end = low - self._offset - 1, high - self._offset
        if start < 0 or end > len(self._entries):
            raise BrokenInvariant(
                f"entries {low}..{high} wanted, {self.first_index}..{self.last_index} held"
            )
        end = max(start + 1, self._end_within(start, end, size_bytes_max))
        return tuple(self._entries[start:end])

    def _end_within(self, start: int, end: int, size_bytes_max: int) -> int:
        limit = self._bytes_through[start] + size_bytes_max
        return bisect_right(self._bytes_through, limit, start, end + 1) - 1

    def size_bytes(self, low: int, high: int) -> int:
        """Total size of the entries low..high."""
        through = self._bytes_through
        return through[high - self._offset] - through[low - self._offset - 1]

    @property
    def uncommitted_bytes(self) -> int:
        return self.size_bytes(self.commit + 1, self.last_index)

    # Appending

    def append(self, entries: Sequence[Entry]) -> None:
        """Add entries at the end. Raises BrokenInvariant where they would leave a gap."""
        if not entries:
            return
        if entries[0].index != self.last_index + 1:
            raise BrokenInvariant(
                f"entry {entries[0].index} appended to a log that ends at {self.last_index}"
            )
        self._entries.extend(entries)
        total = self._bytes_through[-1]
        add_total = self._bytes_through.append
        for entry in entries:
            total += len(entry.data) + ENTRY_OVERHEAD_BYTES
            add_total(total)
            if entry.kind is CONFIGURATION:
                self.configurations.appended(entry)

    def try_append(
        self, previous_index: int, previous_term: int, entries: Sequence[Entry]
    ) -> int | None:
        """Take a leader's entries; the last index now known to agree, None if they do not fit on.

        Entries that are here already stay untouched: a late or doubled append must not cut off
        what followed it and was acknowledged since (rule 8).
        """
        if self.term_at(previous_index) != previous_term:
            return None
        for position, entry in enumerate(entries):
            if self.term_at(entry.index) != entry.term:
                if entry.index <= self.last_index:
                    self._truncate_from(entry.index)
                self.append(entries[position:] if position else entries)
                break
        return previous_index + len(entries)

    def _truncate_from(self, index: int) -> None:
        if index <= self.commit:
            raise BrokenInvariant(
                f"entry {index} conflicts with one that is committed (commit {self.commit})"
            )
        position = index - self._offset - 1
        del self._entries[position:]
        del self._bytes_through[position + 1 :]
        self.handed_out = min(self.handed_out, index - 1)
        self.configurations.truncated_from(index)

    # Compaction

    def compact(self, first_kept_index: int, snapshot_index: int) -> None:
        """Forget the entries before `first_kept_index`, which a snapshot covers."""
        count = first_kept_index - 1 - self._offset
        if count > 0:
            if first_kept_index - 1 > self.applied:
                raise BrokenInvariant(
                    f"entries up to {first_kept_index - 1} dropped, {self.applied} applied"
                )
            self._compacted_term = self._entries[count - 1].term
            del self._entries[:count]
            del self._bytes_through[:count]
            self._offset += count
        self.configurations.compacted(snapshot_index)

    def reset(self, snapshot: SnapshotMetadata) -> None:
        """Begin anew behind a snapshot from elsewhere; whatever was held is void."""
        if snapshot.index <= self.commit:
            raise BrokenInvariant(f"snapshot at {snapshot.index} would go back from {self.commit}")
        self._offset, self._compacted_term = snapshot.index, snapshot.term
        self._entries = []
        self._bytes_through = [0]
        self.commit = self.applying = self.applied = self.handed_out = snapshot.index
        self.configurations.reset(snapshot.index, snapshot.configuration)

    def find_conflict_by_term(self, index: int, term: int) -> tuple[int, int]:
        """The last (index, term) at or below `index` whose term does not exceed `term`.

        Nothing between it and `index` can agree with a log whose entry at `index` has `term`, so
        a whole term is skipped with one refusal (paper 5.3, end; rule 9). Terms never decrease
        along a log, hence the binary search. Term 0 means: below what is held.
        """
        high = min(max(index - self._offset, 0), len(self._entries))
        position = bisect_right(self._entries, term, 0, high, key=lambda entry: entry.term)
        found = self._offset + position if index >= self._offset else index
        found_term = self.term_at(found)
        return found, found_term if found_term is not None and found_term <= term else 0

    # The marks

    def commit_to(self, index: int) -> bool:
        """Move the commit mark forward; False if it stood there already."""
        if index <= self.commit:
            return False
        if index > self.last_index:
            raise BrokenInvariant(
                f"commit {index} is beyond the last entry {self.last_index}: entries were lost"
            )
        self.commit = index
        return True

    def take_unstable(self) -> tuple[Entry, ...]:
        """The entries that the log on disk was not given yet; each is handed out once."""
        if self.handed_out == self.last_index:
            return ()
        taken = tuple(self._entries[self.handed_out - self._offset :])
        self.handed_out = self.last_index
        return taken

    def take_committed(self, size_bytes_max: int) -> tuple[Entry, ...]:
        """Committed entries for the state machine, in order, each once."""
        if self.applying == self.commit:
            return ()
        taken = self.slice(self.applying + 1, self.commit, size_bytes_max)
        self.applying = taken[-1].index
        return taken

    def applied_to(self, index: int) -> None:
        if not self.applied <= index <= self.applying:
            raise BrokenInvariant(
                f"applied {index} reported, but {self.applied} was applied"
                f" and {self.applying} handed out"
            )
        self.applied = index

    def restore_marks(self, commit: int, applied: int) -> None:
        """Set the marks that a start finds on disk. Raises BrokenInvariant if they cannot be."""
        self.commit_to(commit)
        if not self._offset <= applied <= self.commit:
            raise BrokenInvariant(
                f"applied {applied} at start, snapshot {self._offset}, commit {self.commit}"
            )
        self.applying = self.applied = applied
