"""What a leader knows of one follower, and how much it may send it.

    PROBE      where the logs agree is unknown: one append, then wait for its answer, or for the
               answer of a heartbeat, which says that the append was lost
    REPLICATE  known: appends are sent ahead of their answers, as many as the window holds
    SNAPSHOT   the follower needs entries that were compacted away: nothing until it has them

`TRANSITIONS` is the whole machine. `match` only grows and `next` stays above it (rule 7).
"""

from collections import deque
from enum import Enum

from essaim_shared.errors import BrokenInvariant


class ProgressState(Enum):
    PROBE = "probe"
    REPLICATE = "replicate"
    SNAPSHOT = "snapshot"


TRANSITIONS: dict[ProgressState, frozenset[ProgressState]] = {
    # An append was accepted | it needs what was compacted | unreachable, so probe afresh
    ProgressState.PROBE: frozenset(
        {ProgressState.REPLICATE, ProgressState.SNAPSHOT, ProgressState.PROBE}
    ),
    # An append was refused, or the link broke | it fell behind what was compacted
    ProgressState.REPLICATE: frozenset({ProgressState.PROBE, ProgressState.SNAPSHOT}),
    # The snapshot arrived or failed | it caught up by itself
    ProgressState.SNAPSHOT: frozenset({ProgressState.PROBE, ProgressState.REPLICATE}),
}


class Window:
    """Appends on their way to one follower, oldest first, bounded in number and in bytes."""

    def __init__(self, messages_max: int, size_bytes_max: int) -> None:
        self._messages_max = messages_max
        self._size_bytes_max = size_bytes_max
        self._sent: deque[tuple[int, int]] = deque()
        self._size_bytes = 0

    def __len__(self) -> int:
        return len(self._sent)

    @property
    def is_full(self) -> bool:
        return len(self._sent) >= self._messages_max or self._size_bytes >= self._size_bytes_max

    def add(self, last_index: int, size_bytes: int) -> None:
        """Count one append that ends at `last_index`. Its size may overshoot the bound once."""
        if self.is_full:
            raise BrokenInvariant(
                f"append up to {last_index} sent through a full window"
                f" ({len(self._sent)} messages, {self._size_bytes} bytes)"
            )
        self._sent.append((last_index, size_bytes))
        self._size_bytes += size_bytes

    def free_to(self, index: int) -> None:
        """Forget every append that ends at or below `index`: an answer covers all before it."""
        while self._sent and self._sent[0][0] <= index:
            self._size_bytes -= self._sent.popleft()[1]

    def clear(self) -> None:
        self._sent.clear()
        self._size_bytes = 0


class Progress:
    """One follower as its leader sees it, for one term."""

    def __init__(self, next_index: int, window: Window) -> None:
        self.match = 0
        """Highest index known to be durable there."""
        self.next = next_index
        """Next entry to send."""
        self.state = ProgressState.PROBE
        self.window = window
        self.is_probe_sent = False
        """PROBE only: the one append is under way."""
        self.is_append_due = True
        """An append must go even if it carries nothing new: its answer is what is wanted."""
        self.commit_sent = 0
        """The highest commit that an append told it; spares it a message that says nothing new."""
        self.is_active = False
        """It answered anything since the quorum was last counted."""
        self.was_active = False
        """It did so in the interval before that."""
        self.snapshot_index = 0
        """SNAPSHOT only: where the one on its way to it ends."""
        self.resumed_tick = 0
        """Tick at which the answer to a heartbeat last made an append due."""

    def _enter(self, state: ProgressState) -> None:
        if state not in TRANSITIONS[self.state]:
            raise BrokenInvariant(f"progress {self.state.value} cannot become {state.value}")
        self.state = state
        self.is_probe_sent = False
        self.window.clear()

    def become_probe(self) -> None:
        self._enter(ProgressState.PROBE)
        self.next = self.match + 1
        self.commit_sent = 0

    def become_replicate(self) -> None:
        self._enter(ProgressState.REPLICATE)
        self.next = self.match + 1

    def become_snapshot(self, index: int) -> None:
        """A snapshot that ends at `index` is sent; no entries until its end is reported."""
        self._enter(ProgressState.SNAPSHOT)
        self.snapshot_index = index
        self.is_append_due = False

    def snapshot_ended(self, *, ok: bool) -> None:
        """Probe: after a success where the snapshot ends, after a failure from the start again.
        Not at once, or a failing stream would be tried at the speed of the network: an answer of
        the follower, to the snapshot or to a heartbeat, sets it off."""
        held = self.snapshot_index if ok else self.match
        self._enter(ProgressState.PROBE)
        self.next = max(self.match, held) + 1
        self.commit_sent = 0
        self.is_probe_sent = True

    @property
    def is_recently_active(self) -> bool:
        """It answered lately, whenever the quorum was last counted."""
        return self.is_active or self.was_active

    def count_activity(self) -> bool:
        """Whether it answered in the interval that ends now; a new one begins."""
        was_active = self.was_active = self.is_active
        self.is_active = False
        return was_active

    @property
    def can_send_entries(self) -> bool:
        if self.state is ProgressState.PROBE:
            return not self.is_probe_sent
        return self.state is ProgressState.REPLICATE and not self.window.is_full

    def sent(self, entry_count: int, size_bytes: int, commit: int) -> None:
        """Account for one append that just left."""
        self.is_append_due = False
        self.commit_sent = max(self.commit_sent, commit)
        if self.state is ProgressState.PROBE:
            self.is_probe_sent = True
        elif entry_count > 0:
            self.next += entry_count
            self.window.add(self.next - 1, size_bytes)

    def acknowledge(self, index: int, first_index: int = 1) -> bool:
        """It holds everything up to `index`; True if that is news, False for an old answer.
        `first_index`: of the leader's log."""
        is_news = index > self.match
        if is_news:
            self.match = index
            self.next = max(self.next, index + 1)
        if self.state is ProgressState.REPLICATE:
            self.window.free_to(index)
        elif self.state is ProgressState.PROBE and index == self.match:
            # Also for an answer that brings nothing new: the logs agree, which is what was asked.
            self.become_replicate()
        elif self.state is ProgressState.SNAPSHOT and self.match + 1 >= first_index:
            # It has what the snapshot was for, whatever brought it.
            self.become_replicate()
        return is_news

    def refuse(self, index: int, agrees_at: int) -> bool:
        """It refused an append that followed `index`; its log may agree at `agrees_at`.

        False if the refusal is an old one that a later answer has overtaken.
        """
        if self.state is ProgressState.REPLICATE:
            if index <= self.match:
                return False
            self.become_probe()
        else:
            if self.state is ProgressState.SNAPSHOT or index != self.next - 1:
                return False
            retry_at = max(min(index, agrees_at + 1), self.match + 1)
            if retry_at == self.next:
                # It refuses what it acknowledged: its disk forgot. Asking at once would go on at
                # the speed of the network; the next heartbeat tells it the commit, and it stops.
                return False
            self.next = retry_at
            self.is_probe_sent = False
        self.is_append_due = True
        return True

    def resume(self) -> None:
        """A heartbeat was answered: the link works, so ask again where the logs agree."""
        self.is_probe_sent = False
        self.is_append_due = True
