"""What the nodes are told of networks: which they are on, who else is there, which services. Pure.

Theory
------
A node knows the networks on which it has an address; of each of them every endpoint and service,
its own included; of the other networks those records which are for all; and the underlay address
of every node. What it is told of one network is thus the same as what the other members are told,
or as what the others are: each such part is made once (`Shared`), however many nodes there are.

`flush` looks at networks with changed records or members. A node that stays a member is told what
changed, one that comes or leaves the rest as well.
"""

from collections.abc import Iterable

from essaim_master.control.difference import Difference, Shared
from essaim_master.control.network_records import Endpoints, Entries, NodeOnNetwork, R, Record
from essaim_master.control.record_table import Owner, RecordTable, Told
from essaim_shared.ids import NetworkId, NodeId
from essaim_shared.messages import Endpoint, ServiceEntry

Differences = dict[NodeId, Difference]


class NetworkBook:
    """What every node was told of networks at the last flush, and what is new."""

    def __init__(self) -> None:
        self._endpoints: RecordTable[Endpoint] = RecordTable()
        self._services: RecordTable[ServiceEntry] = RecordTable()
        self._members: dict[NetworkId, dict[NodeId, NodeOnNetwork]] = {}
        self._networks: dict[NodeId, dict[NetworkId, NodeOnNetwork]] = {}
        """The same, by nodes."""
        self._members_before: dict[NetworkId, frozenset[NodeId]] = {}
        """Of networks whose members changed since the last flush."""
        self._nodes: dict[NodeId, str] = {}
        """Underlay addresses."""
        self._nodes_before: dict[NodeId, str] | None = None
        """None: as they are."""
        self._whole: dict[NetworkId, Shared] = {}
        """All of a network, for its members' full sets."""
        self._whole_for_all: dict[NetworkId, Shared] = {}
        self._whole_nodes: Shared | None = None

    # Changes.

    def replace_endpoints(self, owner: Owner, old: Endpoints, new: Endpoints) -> None:
        self._forget_whole(self._endpoints.replace(owner, old, new))

    def replace_entries(self, owner: Owner, old: Entries, new: Entries) -> None:
        self._forget_whole(self._services.replace(owner, old, new))

    def replace_member(
        self,
        owner: Owner,
        old: NodeOnNetwork | None,
        new: NodeOnNetwork | None,
        differences: Differences,
    ) -> None:
        """A gateway came, went or changed; its own node is told what it is for it."""
        if old is not None:
            network_id = old.network.network_id
            self._keep_members(network_id)
            del self._members[network_id][old.node_id]
            del self._networks[old.node_id][network_id]
            if not self._networks[old.node_id]:
                del self._networks[old.node_id]
            if new is None:
                difference_of(differences, old.node_id).removed_networks.append(network_id)
        if new is not None:
            network_id = new.network.network_id
            self._keep_members(network_id)
            self._members.setdefault(network_id, {})[new.node_id] = new
            self._networks.setdefault(new.node_id, {})[network_id] = new
            if old is None or old.network != new.network:
                difference_of(differences, new.node_id).networks.append(new.network)
        old_records = () if old is None else (old.record,)
        self.replace_endpoints(owner, old_records, () if new is None else (new.record,))

    def set_node(self, node_id: NodeId, address: str | None) -> None:
        """None: the node is known no more."""
        if self._nodes.get(node_id) == address:
            return
        if self._nodes_before is None:
            self._nodes_before = dict(self._nodes)
        self._whole_nodes = None
        if address is None:
            del self._nodes[node_id]
        else:
            self._nodes[node_id] = address

    # What is told.

    def audience(self, endpoints: Endpoints) -> frozenset[NodeId]:
        """Who is told of a task's endpoints."""
        if any(record.is_for_all for record in endpoints):
            return frozenset(self._nodes)
        return frozenset().union(
            *(self._members.get(record.value.network_id, ()) for record in endpoints)
        )

    def flush(self, differences: Differences) -> None:
        """Add what is new since the last flush, for the nodes that have to know."""
        nodes_before = self._nodes if self._nodes_before is None else self._nodes_before
        known = self._nodes.keys() & nodes_before.keys()
        changed = dict.fromkeys(
            (
                *self._endpoints.networks_changed,
                *self._services.networks_changed,
                *self._members_before,
            )
        )
        for network_id in changed:
            self._tell_network(network_id, known, differences)
        self._tell_nodes(nodes_before, known, differences)
        for node_id in self._nodes.keys() - nodes_before.keys():
            difference_of(differences, node_id).shared = self._shared_of(node_id)
        self.settle()

    def settle(self) -> None:
        """Take what stands here now for what is known."""
        self._endpoints.settle()
        self._services.settle()
        self._members_before.clear()
        self._nodes_before = None

    def add_full(self, node_id: NodeId, full: Difference) -> None:
        """Add everything a node has to know of networks, as of the last flush."""
        full.networks = [here.network for here in self._networks.get(node_id, {}).values()]
        full.shared = self._shared_of(node_id)

    def _tell_network(
        self, network_id: NetworkId, known: set[NodeId], differences: Differences
    ) -> None:
        members = self._members.get(network_id, {}).keys()
        before = self._members_before.get(network_id)
        staying = members & known if before is None else members & before & known
        endpoints, services = self._endpoints, self._services
        told = _shared(endpoints.to_members(network_id), services.to_members(network_id))
        _tell(staying, told, differences)
        if before is not None:
            coming = (members - before) & known
            if coming:
                told = _shared(endpoints.to_coming(network_id), services.to_coming(network_id))
                _tell(coming, told, differences)
            leaving = (before - members) & known
            if leaving:
                told = _shared(endpoints.to_leaving(network_id), services.to_leaving(network_id))
                _tell(leaving, told, differences)
        told = _shared(endpoints.to_others(network_id), services.to_others(network_id))
        if told:
            _tell(known - members - (before or set()), told, differences)

    def _tell_nodes(
        self, nodes_before: dict[NodeId, str], known: set[NodeId], differences: Differences
    ) -> None:
        if nodes_before is self._nodes:
            return
        before, after = set(nodes_before.values()), set(self._nodes.values())
        told = Shared(
            removed_nodes=tuple(sorted(before - after)), nodes=tuple(sorted(after - before))
        )
        _tell(known, told, differences)

    def _shared_of(self, node_id: NodeId) -> list[Shared]:
        """A node's whole knowledge of networks, in parts that others share."""
        mine = self._networks.get(node_id, {})
        parts = [self._whole_of(network_id) for network_id in mine]
        for_all = {*self._endpoints.networks_for_all, *self._services.networks_for_all}
        parts.extend(self._whole_for_others(network_id) for network_id in for_all - mine.keys())
        if self._whole_nodes is None:
            self._whole_nodes = Shared(nodes=tuple(sorted(set(self._nodes.values()))))
        parts.append(self._whole_nodes)
        return [part for part in parts if part]

    def _whole_of(self, network_id: NetworkId) -> Shared:
        found = self._whole.get(network_id)
        if found is None:
            found = self._whole[network_id] = Shared(
                endpoints=_values(self._endpoints.rows(network_id).values()),
                services=_values(self._services.rows(network_id).values()),
            )
        return found

    def _whole_for_others(self, network_id: NetworkId) -> Shared:
        found = self._whole_for_all.get(network_id)
        if found is None:
            found = self._whole_for_all[network_id] = Shared(
                endpoints=_values(self._endpoints.for_all(network_id).values()),
                services=_values(self._services.for_all(network_id).values()),
            )
        return found

    def _keep_members(self, network_id: NetworkId) -> None:
        if network_id not in self._members_before:
            self._members_before[network_id] = frozenset(self._members.get(network_id, ()))

    def _forget_whole(self, network_ids: Iterable[NetworkId]) -> None:
        for network_id in network_ids:
            self._whole.pop(network_id, None)
            self._whole_for_all.pop(network_id, None)


def difference_of(differences: Differences, node_id: NodeId) -> Difference:
    found = differences.get(node_id)
    if found is None:
        found = differences[node_id] = Difference()
    return found


def _tell(nodes: Iterable[NodeId], told: Shared, differences: Differences) -> None:
    if told:
        for node_id in nodes:
            difference_of(differences, node_id).shared.append(told)


def _shared(endpoints: Told[Endpoint], services: Told[ServiceEntry]) -> Shared:
    return Shared(
        removed_endpoints=endpoints[0],
        endpoints=endpoints[1],
        removed_services=services[0],
        services=services[1],
    )


def _values(records: Iterable[Record[R]]) -> tuple[R, ...]:
    return tuple(record.value for record in records)
