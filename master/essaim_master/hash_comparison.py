"""Whether the masters' states are the same. Pure.

One difference is not an alarm yet: a master that got a snapshot between two entries may have
hashed another moment. A difference that the next check finds again is one, and stands until a
check finds none.
"""

import logging
from collections.abc import Mapping

import msgspec

from essaim_shared.ids import MemberId

_log = logging.getLogger(__name__)


class ReportedHash(msgspec.Struct, frozen=True, rename={"revision": "Revision", "hash": "Hash"}):
    """Answer of GET /essaim/cluster/hash."""

    revision: int
    hash: str


class HashComparison:
    def __init__(self, own_id: MemberId) -> None:
        self._own_id = own_id
        self._suspects: frozenset[MemberId] = frozenset()
        self._alarms: dict[MemberId, str] = {}

    @property
    def alarms(self) -> tuple[str, ...]:
        return tuple(self._alarms.values())

    @property
    def wants_another(self) -> bool:
        """A difference was seen that the next check is to confirm."""
        return bool(self._suspects - self._alarms.keys())

    def compare(
        self, revision: int, own_hash: str, reported: Mapping[MemberId, ReportedHash]
    ) -> None:
        differing = frozenset(
            member
            for member, report in reported.items()
            if report.revision == revision and report.hash != own_hash
        )
        for member in self._alarms.keys() & reported.keys() - differing:
            del self._alarms[member]
        for member in sorted(differing & self._suspects - self._alarms.keys()):
            self._alarms[member] = (
                f"the state of {member} differs from that of {self._own_id} at revision {revision}"
                f" ({reported[member].hash} and {own_hash}): back up the cluster, then remove "
                f"{member} and add it under a new name"
            )
            _log.critical("%s", self._alarms[member])
        self._suspects = differing
