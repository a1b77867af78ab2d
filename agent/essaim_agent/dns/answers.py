"""From the bytes of a question to the bytes of its answer. Pure.

Names that were asked for already cost two look-ups: of who asks, and of the question's bytes
behind its id. What was written once for tasks on the same networks is kept until something on one
of these networks changes.

Whoever asks too much is not answered for the rest of a period: all tasks share one socket, and
to throw a packet away costs a tenth of an answer.
"""

import random
from typing import Final, Literal

from msgspec.structs import replace

from essaim_agent.dns.resolver import Answer, Forward, resolve
from essaim_agent.dns.table import Change, Table
from essaim_agent.dns.wire import (
    ADDRESS_RECORD_BYTES,
    FORMERR,
    HEADER,
    ID_BYTES,
    REFUSED,
    RESPONSE,
    TCP_BYTES_MAX,
    TRUNCATED,
    Packed,
    Query,
    pack,
    pack_bare_error,
    pack_error,
    read_query,
)
from essaim_shared.errors import MalformedMessage
from essaim_shared.ids import NetworkId

PERIOD_S: Final = 0.1
ANSWERS_PER_PERIOD_MAX: Final = 4_000
"""To one source."""
UNKEPT_PER_PERIOD_MAX: Final = 200
"""Questions of one source whose answers are not kept ready: unknown names, names of the world
outside, nonsense."""
KEPT_MAX: Final = 1_024
"""Answers for tasks on the same networks; one more, and all are made anew."""
KEPT_QUESTION_BYTES_MAX: Final = 300

OUTSIDE: Final = "outside"


class Rotation:
    """Addresses of which each is the first in turn. When not all fit, they are a window."""

    __slots__ = ("_at", "_head", "_length", "_ring", "_tail", "_window")

    def __init__(self, packed: Packed, limit_bytes: int, rng: random.Random) -> None:
        addresses = packed.addresses
        records = [
            addresses[at : at + ADDRESS_RECORD_BYTES]
            for at in range(0, len(addresses), ADDRESS_RECORD_BYTES)
        ]
        rng.shuffle(records)
        self._length = len(addresses)
        self._window = packed.addresses_bytes_max(limit_bytes)
        is_whole = self._window == self._length
        message = packed.message(addresses[: self._window], 0 if is_whole else TRUNCATED)
        end = len(message) - len(packed.tail)
        self._head, self._tail = message[: end - self._window], message[end:]
        self._ring = b"".join(records) * 2
        self._at = 0

    def next(self) -> bytes:
        at = self._at
        self._at = (at + ADDRESS_RECORD_BYTES) % self._length if self._length else 0
        return self._head + self._ring[at : at + self._window] + self._tail


class Answers:
    """The table, and the answers that were made of it."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.table = Table()
        self._kept: dict[tuple[NetworkId, ...], dict[bytes, bytes | Rotation]] = {}
        self._by_source: dict[str, dict[bytes, bytes | Rotation]] = {}
        """Of each source that its networks are known of, the one of `_kept`."""
        self._asked: dict[str, int] = {}
        self._asked_unkept: dict[str, int] = {}
        self.answered = 0
        self.refused = 0
        self.dropped = 0

    def replace(self, table: Table) -> None:
        """Answer from another table."""
        self.table = table
        self._kept.clear()
        self._map_sources()

    def apply(self, change: Change) -> None:
        touched = self.table.apply(change)
        for networks, kept in self._kept.items():
            if not touched.isdisjoint(networks):
                kept.clear()
        if change.sources or change.removed_sources:
            self._map_sources()

    def _map_sources(self) -> None:
        sources = self.table.sources
        self._kept = {networks: self._kept.get(networks, {}) for networks in sources.values()}
        self._by_source = {source: self._kept[networks] for source, networks in sources.items()}

    def begin_period(self) -> None:
        """To be called each PERIOD_S."""
        if self._asked:
            self._asked = {}
            self._asked_unkept = {}

    def over_udp(self, source: str, data: bytes) -> bytes | Literal["outside"] | None:
        """The answer; or that others must be asked; or that there is none."""
        asked = self._asked.get(source, 0)
        if asked >= ANSWERS_PER_PERIOD_MAX:
            self.dropped += 1
            return None
        self._asked[source] = asked + 1
        kept = self._by_source.get(source)
        if kept is not None:
            ready = kept.get(data[2:])
            if ready is not None:
                self.answered += 1
                return data[:2] + (ready if isinstance(ready, bytes) else ready.next())
        return self._make(source, data, is_udp=True)

    def over_tcp(self, source: str, data: bytes) -> bytes | Literal["outside"] | None:
        return self._make(source, data, is_udp=False)

    def _make(self, source: str, data: bytes, is_udp: bool) -> bytes | Literal["outside"] | None:
        asked = self._asked_unkept.get(source, 0)
        if asked >= UNKEPT_PER_PERIOD_MAX or len(data) < HEADER.size or data[2] & RESPONSE >> 8:
            self.dropped += 1
            return None
        self._asked_unkept[source] = asked + 1
        networks = self.table.sources.get(source)
        try:
            query = read_query(data)
        except MalformedMessage:
            self.refused += 1
            return data[:2] + pack_bare_error(data, FORMERR)
        if query.refusal or networks is None:
            self.refused += 1
            return data[:2] + pack_error(query, query.refusal or REFUSED)
        answer = resolve(self.table, networks, query.question)
        if isinstance(answer, Forward):
            return OUTSIDE
        self.answered += 1
        if not is_udp:
            return data[:2] + Rotation(pack(query, answer), TCP_BYTES_MAX, self._rng).next()
        return data[:2] + self._written(networks, data, query, answer)

    def _written(
        self, networks: tuple[NetworkId, ...], data: bytes, query: Query, answer: Answer
    ) -> bytes:
        packed = pack(query, answer)
        ready: bytes | Rotation
        if len(answer.addresses) > 1:
            ready = Rotation(packed, query.udp_bytes, self._rng)
        else:
            ready = packed.message(packed.addresses)
            if len(ready) + ID_BYTES > query.udp_bytes:
                ready = replace(packed, others=()).message(b"", TRUNCATED)
        # A missing name is missing on the other networks too, whose changes are not looked at.
        if answer.code == "noerror" and len(data) <= KEPT_QUESTION_BYTES_MAX:
            kept = self._kept[networks]
            if len(kept) >= KEPT_MAX:
                kept.clear()
            kept[data[2:]] = ready
        return ready if isinstance(ready, bytes) else ready.next()
