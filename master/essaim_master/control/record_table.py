"""The records of all networks, and what of them changed since the last flush. Pure."""

from collections.abc import Iterable, Mapping
from typing import Generic

from essaim_master.control.network_records import R, Record
from essaim_shared.ids import NetworkId

Owner = str
"""Who a record is of: a task's id, a service's, or `NETWORK/NODE` of a gateway."""

Rows = Mapping[Owner, Record[R]]

Told = tuple[tuple[R, ...], tuple[R, ...]]
"""What goes, what comes."""


class RecordTable(Generic[R]):
    """At most one record for each owner and network."""

    def __init__(self) -> None:
        self._rows: dict[NetworkId, dict[Owner, Record[R]]] = {}
        self._for_all: dict[NetworkId, dict[Owner, Record[R]]] = {}
        """Those of `_rows` which every node is told."""
        self._before: dict[NetworkId, dict[Owner, Record[R] | None]] = {}
        """What stood in a changed row at the last flush."""

    def replace(
        self, owner: Owner, old: Iterable[Record[R]], new: Iterable[Record[R]]
    ) -> set[NetworkId]:
        """Put an owner's new records in the place of its old ones. The networks that changed."""
        changed = set()
        for record in old:
            network_id = record.value.network_id
            changed.add(network_id)
            self._keep(network_id, owner)
            _discard(self._rows, network_id, owner)
            if record.is_for_all:
                _discard(self._for_all, network_id, owner)
        for record in new:
            network_id = record.value.network_id
            changed.add(network_id)
            self._keep(network_id, owner)
            self._rows.setdefault(network_id, {})[owner] = record
            if record.is_for_all:
                self._for_all.setdefault(network_id, {})[owner] = record
        return changed

    def rows(self, network_id: NetworkId) -> Rows[R]:
        return self._rows.get(network_id, {})

    def for_all(self, network_id: NetworkId) -> Rows[R]:
        return self._for_all.get(network_id, {})

    @property
    def networks_for_all(self) -> Iterable[NetworkId]:
        return self._for_all

    @property
    def networks_changed(self) -> Iterable[NetworkId]:
        return self._before

    def settle(self) -> None:
        """Take what stands here now for what is known."""
        self._before.clear()

    # What a node is told that was and is on the network, is not and was not, comes, or leaves.

    def to_members(self, network_id: NetworkId) -> Told[R]:
        before = self._before.get(network_id, {})
        rows = self.rows(network_id)
        after = {owner: rows[owner] for owner in before if owner in rows}
        return _between(_existing(before), after)

    def to_others(self, network_id: NetworkId) -> Told[R]:
        before = self._before.get(network_id, {})
        rows = self.for_all(network_id)
        after = {owner: rows[owner] for owner in before if owner in rows}
        return _between(_for_all(_existing(before)), after)

    def to_coming(self, network_id: NetworkId) -> Told[R]:
        return _between(_for_all(self._former(network_id)), self.rows(network_id))

    def to_leaving(self, network_id: NetworkId) -> Told[R]:
        return _between(self._former(network_id), self.for_all(network_id))

    def _keep(self, network_id: NetworkId, owner: Owner) -> None:
        before = self._before.setdefault(network_id, {})
        if owner not in before:
            before[owner] = self.rows(network_id).get(owner)

    def _former(self, network_id: NetworkId) -> Rows[R]:
        return _existing({**self.rows(network_id), **self._before.get(network_id, {})})


def _discard(
    tables: dict[NetworkId, dict[Owner, Record[R]]], network_id: NetworkId, owner: Owner
) -> None:
    del tables[network_id][owner]
    if not tables[network_id]:
        del tables[network_id]


def _existing(rows: Mapping[Owner, Record[R] | None]) -> Rows[R]:
    return {owner: record for owner, record in rows.items() if record is not None}


def _for_all(rows: Rows[R]) -> Rows[R]:
    return {owner: record for owner, record in rows.items() if record.is_for_all}


def _between(before: Rows[R], after: Rows[R]) -> Told[R]:
    """From one set of rows to another. Who else is told of a row is none of a node's business."""
    removed = tuple(
        old.value
        for owner, old in before.items()
        if (new := after.get(owner)) is None or new.value != old.value
    )
    added = tuple(
        new.value
        for owner, new in after.items()
        if (old := before.get(owner)) is None or new.value != old.value
    )
    return removed, added
