"""Rows of the kernel's tables as entries of ours, thousands of them every two seconds. Pure.

A row is recognised by its first bytes: what stands in front of the ages and counters that differ
from one reading to the next. A row that was seen in the last reading costs one lookup; only a new
one is taken apart. So a whole comparison is cheap enough to be made all the time.
"""

from collections.abc import Iterable, Mapping

from essaim_agent.overlay import rtnetlink as rt
from essaim_agent.overlay.tables import (
    VXLAN_PREFIX,
    Entry,
    Forward,
    Neighbour,
    PortMac,
)

HEAD_BYTES = 32
"""The header, and the two attributes that come first: MAC and remote of a VXLAN device's row
(vxlan_core.c, vxlan_fdb_info), MAC and bridge of a bridge's row (br_fdb.c, fdb_fill_info), address
and MAC of a neighbour (neighbour.c, neigh_fill_info)."""

_Seen = dict[bytes, tuple[int, Entry | None]]


class RowReader:
    """Remembers the rows of its last reading, and none of earlier ones."""

    def __init__(self) -> None:
        self._seen: _Seen = {}
        self._names: Mapping[int, str] = {}
        self._wanted: Mapping[Entry, Entry] = {}

    def prefer(self, wanted: Mapping[Entry, Entry]) -> None:
        """Return these from now on where a row says the same (`WantedTables.known`)."""
        self._wanted = wanted
        self._seen = {}

    def read(self, payloads: Iterable[bytes], names: Mapping[int, str]) -> frozenset[Entry]:
        """The entries among the rows of some dumps; `names` are the overlay's devices by index."""
        known = self._seen if names == self._names else {}
        seen: _Seen = {}
        entries: set[Entry] = set()
        for payload in payloads:
            head = payload[:HEAD_BYTES]
            found = known.get(head)
            if found is None or found[0] != len(payload):
                row = rt.neighbour(payload)
                entry = _entry(row, names)
                found = (len(payload), entry and self._wanted.get(entry, entry))
                if not row.is_plain:
                    if found[1] is not None:
                        entries.add(found[1])
                    continue
            seen[head] = found
            if found[1] is not None:
                entries.add(found[1])
        self._seen, self._names = seen, names
        return frozenset(entries)


def _entry(row: rt.NeighbourRow, names: Mapping[int, str]) -> Entry | None:
    device = names.get(row.index)
    return entry_of(row, device) if device is not None and is_static(row) else None


def entry_of(row: rt.NeighbourRow, device: str) -> Entry | None:
    """The overlay's view of a row of one of its devices; None for a row of no concern."""
    if row.family == rt.AF_INET:
        return Neighbour(device, row.destination, row.mac)
    if not row.flags & rt.NTF_SELF:
        if not device.startswith(VXLAN_PREFIX):
            return None
        return PortMac(device, row.mac, bool(row.flags & rt.NTF_STICKY))
    return Forward(device, row.mac, row.destination) if row.destination else None


def is_static(row: rt.NeighbourRow) -> bool:
    """Entered by somebody, not learned; on a port of a bridge NUD_PERMANENT means the port's own
    address (br_fdb.c), which leads nowhere."""
    if row.family == rt.AF_INET:
        return row.state == rt.NUD_PERMANENT
    return bool(row.flags & rt.NTF_SELF) or row.state == rt.NUD_NOARP
