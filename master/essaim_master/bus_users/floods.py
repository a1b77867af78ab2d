"""Whose connections carry more than an agent has to say. Pure.

What an agent of a thousand busy tasks says in a second: a heartbeat or two, at most one report on
networks, one message of figures (three each five seconds, 600 KB together), one `applied` for each
of at most fifty orders, and statuses: one report at a time, whose answer comes after a commit, so
at most some hundreds, of 400 bytes for each task that changes. Together that is below 500 messages
and 2 MB, so the bounds are four and eight times of it. A node below them costs the leader an eighth
of a core; the bus carries some hundred thousand messages a second.

One look over the bound may be the end of an outage, when everything is said at once; two are none.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from essaim_master.bus_users.connections import Connection

MESSAGES_PER_S_MAX: Final = 2_000
BYTES_PER_S_MAX: Final = 16 * 1024 * 1024
CONNECTIONS_MAX: Final = 64
"""Of one key, on one server. An agent has one, and some of its last ones that the server has not
missed yet; a server has places for 4,096 (`bus_server_config`), which one node could take up at
leisure."""
LOOKS_IN_A_ROW: Final = 2
LOGIN_MESSAGES: Final = 20
"""What a login counts as: it costs a server as much as so many messages, or more."""


class Flood(msgspec.Struct, frozen=True):
    bus_key: str
    messages_per_s: float
    bytes_per_s: float
    connections: int = 1
    """Open at once."""

    @property
    def reason(self) -> str:
        return (
            f"it floods the bus: {self.messages_per_s:.0f} messages and "
            f"{self.bytes_per_s / 1_000_000:.1f} MB in a second by {self.connections} "
            f"connections, where {MESSAGES_PER_S_MAX}, {BYTES_PER_S_MAX / 1_000_000:.0f} MB and "
            f"{CONNECTIONS_MAX} are allowed"
        )

    @property
    def is_over(self) -> bool:
        return (
            self.messages_per_s > MESSAGES_PER_S_MAX
            or self.bytes_per_s > BYTES_PER_S_MAX
            or self.connections > CONNECTIONS_MAX
        )


class _Sent(msgspec.Struct):
    messages: int = 0
    bytes: int = 0
    connections: int = 0

    def as_flood(self, bus_key: str, elapsed_s: float) -> Flood:
        messages_per_s, bytes_per_s = self.messages / elapsed_s, self.bytes / elapsed_s
        return Flood(bus_key, messages_per_s, bytes_per_s, self.connections)


class FloodLooks:
    """Compares one look at a server's connections with the one before."""

    def __init__(self) -> None:
        self._before: dict[int, Connection] | None = None
        self._looked_s = 0.0
        self._in_a_row: dict[str, int] = {}

    def look(self, connections: Iterable[Connection], now_s: float) -> list[Flood]:
        """Those who were over a bound in this look and the one before. A connection that was not
        there before has sent all it has since then; one that is closed counts with what it sent
        up to its end, if it was seen while it was open."""
        before, elapsed_s = self._before, now_s - self._looked_s
        present = _whose(connections, before or {})
        self._before, self._looked_s = present, now_s
        if before is None or elapsed_s <= 0:
            return []
        floods = [
            flood
            for bus_key, sent in self._sent(before, present).items()
            if (flood := sent.as_flood(bus_key, elapsed_s)).is_over
        ]
        self._in_a_row = {
            flood.bus_key: self._in_a_row.get(flood.bus_key, 0) + 1 for flood in floods
        }
        return [flood for flood in floods if self._in_a_row[flood.bus_key] >= LOOKS_IN_A_ROW]

    def forget(self, bus_key: str) -> None:
        """It is dealt with."""
        self._in_a_row.pop(bus_key, None)

    def _sent(
        self, before: dict[int, Connection], present: dict[int, Connection]
    ) -> dict[str, _Sent]:
        by_key: dict[str, _Sent] = defaultdict(_Sent)
        for cid, one in present.items():
            if not one.authorized_user:
                continue
            sent = by_key[one.authorized_user]
            sent.connections += not one.reason
            known = before.get(cid)
            if known is None or known.in_msgs > one.in_msgs:  # else: of a server before its restart
                sent.messages += one.in_msgs + LOGIN_MESSAGES
                sent.bytes += one.in_bytes
            else:
                sent.messages += one.in_msgs - known.in_msgs
                sent.bytes += one.in_bytes - known.in_bytes
        return by_key


def _whose(
    connections: Iterable[Connection], before: Mapping[int, Connection]
) -> dict[int, Connection]:
    """By `cid`, each with the key with which it logged in. Whose a closed one was it must have
    shown while it was open: what a server says of it then is what the client has claimed."""
    found: dict[int, Connection] = {}
    for one in sorted(connections, key=lambda one: bool(one.reason)):
        if not one.reason:
            found[one.cid] = one
        elif known := found.get(one.cid, before.get(one.cid)):
            found[one.cid] = msgspec.structs.replace(one, authorized_user=known.authorized_user)
    return found
