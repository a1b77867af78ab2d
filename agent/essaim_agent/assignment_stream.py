"""Which of the orders that arrive are obeyed, and in which order.

Rules, since the bus loses and the leader changes:

1. An order of a term below the highest one ever seen is refused: a deposed leader commands
   nobody. The highest term is journaled by the caller *before* it offers the message here.
2. Changes apply only on top of their predecessor. After a gap the stream asks for a full set and
   holds still until it comes.
3. A full set applies when it is newer than what is held, or when one is awaited.
4. Chunks of one message take effect together. A message that begins before the last was complete
   drops that one: the gap then shows in the answer to the next heartbeat.
"""

from enum import Enum, auto

import msgspec

from essaim_shared.messages import Assignments

CHUNKS_MAX = 4096
"""Of one message: 1 GiB of assignments. A count above it is a malformed message."""


class Verdict(Enum):
    APPLY = auto()
    INCOMPLETE = auto()
    """More chunks are to come."""
    DUPLICATE = auto()
    """Held already; harmless."""
    DEPOSED = auto()
    """Of a lower term."""
    GAP = auto()
    """Something before it was lost: a full set is needed."""
    MALFORMED = auto()


class Offer(msgspec.Struct, frozen=True):
    verdict: Verdict
    message: Assignments | None = None
    """The whole message, chunks joined, when the verdict is APPLY."""


class AssignmentStream:
    """The (term, sequence) held, and the chunks of the message under way."""

    def __init__(self, highest_term: int) -> None:
        self.term = highest_term
        self.sequence = 0
        self.awaits_full = True
        self._chunks: dict[int, Assignments] = {}
        self._key: tuple[int, int, bool, int] | None = None

    def registered(self, term: int) -> None:
        """A session of this term begins; its full set is on the way."""
        self.term = max(self.term, term)
        self.sequence = 0
        self.expect_full()

    def expect_full(self) -> None:
        """A full set has been asked for: take the next one, whatever its sequence."""
        self.awaits_full = True

    def lags_behind(self, term: int, sequence: int) -> bool:
        """Whether the leader, by its answer to a heartbeat, has sent something not held here."""
        return term > self.term or (term == self.term and sequence > self.sequence)

    def offer(self, message: Assignments) -> Offer:
        if not 0 <= message.chunk < message.chunks <= CHUNKS_MAX:
            return Offer(Verdict.MALFORMED)
        if message.term < self.term:
            return Offer(Verdict.DEPOSED)
        if message.term > self.term:
            self.registered(message.term)
        if message.full:
            if not self.awaits_full and message.sequence <= self.sequence:
                return Offer(Verdict.DUPLICATE)
        elif self.awaits_full or message.sequence > self.sequence + 1:
            return Offer(Verdict.GAP)
        elif message.sequence <= self.sequence:
            return Offer(Verdict.DUPLICATE)
        whole = self._join(message)
        if whole is None:
            return Offer(Verdict.INCOMPLETE)
        self.sequence = whole.sequence
        self.awaits_full = False
        return Offer(Verdict.APPLY, whole)

    def _join(self, message: Assignments) -> Assignments | None:
        if message.chunks == 1:
            self._key, self._chunks = None, {}
            return message
        key = (message.term, message.sequence, message.full, message.chunks)
        if key != self._key:
            self._key, self._chunks = key, {}
        self._chunks[message.chunk] = message
        if len(self._chunks) < message.chunks:
            return None
        parts = [self._chunks[index] for index in range(message.chunks)]
        self._key, self._chunks = None, {}
        return Assignments(
            term=message.term,
            sequence=message.sequence,
            full=message.full,
            removed_tasks=tuple(item for part in parts for item in part.removed_tasks),
            tasks=tuple(item for part in parts for item in part.tasks),
            removed_networks=tuple(item for part in parts for item in part.removed_networks),
            networks=tuple(item for part in parts for item in part.networks),
            removed_endpoints=tuple(item for part in parts for item in part.removed_endpoints),
            endpoints=tuple(item for part in parts for item in part.endpoints),
            removed_services=tuple(item for part in parts for item in part.removed_services),
            services=tuple(item for part in parts for item in part.services),
            removed_nodes=tuple(item for part in parts for item in part.removed_nodes),
            nodes=tuple(item for part in parts for item in part.nodes),
            wants_applied=any(part.wants_applied for part in parts),
            credentials=tuple(item for part in parts for item in part.credentials),
        )
