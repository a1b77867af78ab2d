"""Who a connection to a service is led to, from what the node was told. Pure.

A `Lead` says it for one service address on one network, or for one published port. All leads
together are kept by `Leads`, which is told each new picture and looks only at what differs from
the one before: with ten thousand endpoints a change of one costs what one costs.
"""

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from math import gcd
from typing import TypeVar

import msgspec

from essaim_agent.network import NetworkPicture
from essaim_agent.overlay.host_ports import PortKey
from essaim_agent.overlay.tables import bridge_name
from essaim_shared.ids import NetworkId, ServiceId
from essaim_shared.messages import Endpoint, NodeNetwork, ServiceEntry

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

PoolKey = tuple[ServiceId, NetworkId]
"""Tasks that serve together: those of a service, by their addresses on one network."""


class Lead(msgspec.Struct, frozen=True):
    service: str
    """Its name, for people."""
    shares: tuple[tuple[str, int], ...]
    """Where new connections go: addresses, sorted, and their shares. Empty: nobody serves."""
    serving: frozenset[str]
    """All that serve. Flows without an end of their own (UDP) may lead there, also where new ones
    go elsewhere by now."""
    alive: frozenset[str]
    """Those that drain included: connections that are open may lead there."""
    elsewhere: frozenset[str] = frozenset()
    """Those of `alive` that are other nodes, to which a published port is sent on."""
    bridge: str = ""
    """Of the network, for a service address: only what comes in by it counts."""
    target_port: int = 0
    """For a published port that leads to tasks of this node: the port they listen on."""
    is_sent_on: bool = False
    """Its addresses are those of other nodes, which have the same port."""
    has_affinity: bool = False
    is_forced: bool = False
    """A published port is taken also where a process of the node listens on it."""


class Change(msgspec.Struct, frozen=True):
    """The leads that differ, before and after; one that came or went has None on one side."""

    vips: Mapping[str, tuple[Lead | None, Lead | None]] = {}
    ports: Mapping[PortKey, tuple[Lead | None, Lead | None]] = {}


class Leads:
    """`vips` and `ports` after the last picture. `local` is the node's underlay address."""

    def __init__(self, local: str) -> None:
        self._local = local
        self._picture = NetworkPicture()
        self._pools: dict[PoolKey, set[Endpoint]] = {}
        self._entries: dict[PoolKey, set[ServiceEntry]] = {}
        self._by_vip: dict[str, set[ServiceEntry]] = {}
        self._by_port: dict[PortKey, set[ServiceEntry]] = {}
        self._departed: dict[PoolKey, ServiceEntry] = {}
        """Of services that were removed while tasks of theirs drain. They get nothing new, and
        the connections that they have live on."""
        self._own: set[Endpoint] = set()
        self.vips: dict[str, Lead] = {}
        self.ports: dict[PortKey, Lead] = {}

    @property
    def own_addresses(self) -> list[str]:
        """Of this node's tasks."""
        return sorted({endpoint.address for endpoint in self._own})

    @property
    def published(self) -> list[PortKey]:
        """Ports that a service has; those of removed ones are not for new connections."""
        if not self._departed:
            return list(self.ports)
        return [k for k in self.ports if not all(map(self._is_departed, self._by_port[k]))]

    def update(self, picture: NetworkPicture) -> Change:
        before, self._picture = self._picture, picture
        touched = self._take_endpoints(
            before.endpoints - picture.endpoints, picture.endpoints - before.endpoints
        )
        touched |= self._pools_of_changed(before.networks, picture.networks)
        vips: set[str] = set()
        ports: set[PortKey] = set()
        removed = before.services - picture.services
        added = picture.services - before.services
        for entry in removed:
            self._forget_entry(entry)
        over = self._end_departures(touched, added)
        for entry in added:
            self._learn_entry(entry)
        for entry in removed:
            self._depart(entry)
        for entry in (
            *removed,
            *added,
            *over,
            *(e for p in touched for e in self._entries.get(p, ())),
        ):
            vips.update((entry.vip,) if entry.vip else ())
            ports.update(port_keys(entry))
        return Change(
            _renewed(self.vips, {vip: self._vip_lead(vip) for vip in sorted(vips)}),
            _renewed(self.ports, {key: self._port_lead(key) for key in sorted(ports)}),
        )

    def _take_endpoints(
        self, removed: Iterable[Endpoint], added: Iterable[Endpoint]
    ) -> set[PoolKey]:
        touched: set[PoolKey] = set()
        for endpoint in removed:
            if endpoint.service_id:
                pool = (endpoint.service_id, endpoint.network_id)
                _discard(self._pools, pool, endpoint)
                self._own.discard(endpoint)
                touched.add(pool)
        for endpoint in added:
            if endpoint.service_id:
                pool = (endpoint.service_id, endpoint.network_id)
                self._pools.setdefault(pool, set()).add(endpoint)
                if endpoint.node_address == self._local:
                    self._own.add(endpoint)
                touched.add(pool)
        return touched

    def _end_departures(
        self, touched: Iterable[PoolKey], added: Iterable[ServiceEntry]
    ) -> list[ServiceEntry]:
        """Of services whose last task ended, and of those that are there again."""
        ended = {pool for pool in touched if pool not in self._pools}
        ended.update(map(_pool_key, added))
        over = [self._departed.pop(pool) for pool in ended if pool in self._departed]
        for entry in over:
            self._forget_entry(entry)
        return over

    def _depart(self, entry: ServiceEntry) -> None:
        pool = _pool_key(entry)
        if pool in self._pools and pool not in self._entries:
            self._departed[pool] = entry
            self._learn_entry(entry)

    def _pools_of_changed(
        self, before: Mapping[NetworkId, NodeNetwork], after: Mapping[NetworkId, NodeNetwork]
    ) -> set[PoolKey]:
        changed = before.keys() ^ after.keys()
        return {pool for pool in self._entries if pool[1] in changed} if changed else set()

    def _learn_entry(self, entry: ServiceEntry) -> None:
        self._entries.setdefault(_pool_key(entry), set()).add(entry)
        if entry.vip:
            self._by_vip.setdefault(entry.vip, set()).add(entry)
        for key in port_keys(entry):
            self._by_port.setdefault(key, set()).add(entry)

    def _forget_entry(self, entry: ServiceEntry) -> None:
        _discard(self._entries, _pool_key(entry), entry)
        if entry.vip:
            _discard(self._by_vip, entry.vip, entry)
        for key in port_keys(entry):
            _discard(self._by_port, key, entry)

    def _pool(self, entry: ServiceEntry) -> set[Endpoint]:
        return self._pools.get(_pool_key(entry), set())

    def _is_departed(self, entry: ServiceEntry) -> bool:
        return self._departed.get(_pool_key(entry)) == entry

    def _claimant(self, entries: Iterable[ServiceEntry]) -> ServiceEntry | None:
        """Of several entries with one address or port, as a change can have for a moment: one
        that is not removed, one whose tasks serve, one that has tasks, if any; and all nodes
        choose the same."""
        return max(entries, key=self._claim, default=None)

    def _claim(self, entry: ServiceEntry) -> tuple[bool, bool, bool, ServiceId, str]:
        pool = self._pool(entry)
        serves = any(endpoint.state == "serving" for endpoint in pool)
        return not self._is_departed(entry), serves, bool(pool), entry.service_id, repr(entry)

    def _vip_lead(self, vip: str) -> Lead | None:
        entry = self._claimant(
            entry
            for entry in self._by_vip.get(vip, ())
            if entry.network_id in self._picture.networks
        )
        if entry is None:
            return None
        pool = self._pool(entry)
        serving = {endpoint.address for endpoint in pool if endpoint.state == "serving"}
        if self._is_departed(entry):
            serving = set()
        alive = {endpoint.address for endpoint in pool if endpoint.state != "starting"}
        return Lead(
            service=entry.name,
            shares=tuple((address, 1) for address in sorted(serving)),
            serving=frozenset(serving),
            alive=frozenset(alive),
            bridge=bridge_name(entry.network_id),
            has_affinity=entry.has_affinity,
        )

    def _port_lead(self, key: PortKey) -> Lead | None:
        entry = self._claimant(self._by_port.get(key, ()))
        if entry is None:
            return None
        # During an update that changes a service's first network it has its ports on both.
        claims = self._by_port[key]
        departed = {e for c in claims if self._is_departed(c) for e in self._pool(c)}
        pool = {e for c in claims if c.service_id == entry.service_id for e in self._pool(c)}
        serving = [e for e in pool - departed if e.state == "serving"]
        local = {
            endpoint.task_id: endpoint.address
            for endpoint in sorted(serving, key=_by_place, reverse=True)
            if self._is_here(endpoint)
        }
        alive = {e for e in pool | departed if e.state != "starting"}
        remote = {
            endpoint.task_id: endpoint.node_address
            for endpoint in serving
            if endpoint.node_address != self._local
        }
        return Lead(
            service=entry.name,
            shares=tuple((address, 1) for address in sorted(local.values()))
            or _reduced(Counter(remote.values())),
            serving=frozenset(self._place(endpoint) for endpoint in serving),
            alive=frozenset(map(self._place, alive)),
            elsewhere=frozenset(e.node_address for e in alive if e.node_address != self._local),
            target_port=next(
                port.target_port
                for port in entry.ports
                if (port.protocol, port.published_port) == key
            ),
            is_sent_on=not local,
            has_affinity=entry.has_affinity,
            is_forced=entry.is_forced,
        )

    def _is_here(self, endpoint: Endpoint) -> bool:
        is_on_network = endpoint.network_id in self._picture.networks
        return is_on_network and endpoint.node_address == self._local

    def _place(self, endpoint: Endpoint) -> str:
        """Where a connection to a published port goes that ends at this task."""
        is_own = endpoint.node_address == self._local
        return endpoint.address if is_own else endpoint.node_address


def _pool_key(entry: ServiceEntry) -> PoolKey:
    return entry.service_id, entry.network_id


def _by_place(endpoint: Endpoint) -> tuple[str, str]:
    return endpoint.network_id, endpoint.address


def port_keys(entry: ServiceEntry) -> list[PortKey]:
    """The ports of an entry that have their numbers."""
    return [(port.protocol, port.published_port) for port in entry.ports if port.published_port]


def _reduced(weights: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
    divisor = gcd(*weights.values())
    return tuple((address, weights[address] // divisor) for address in sorted(weights))


def _renewed(
    held: dict[K, Lead], fresh: Mapping[K, Lead | None]
) -> dict[K, tuple[Lead | None, Lead | None]]:
    changed: dict[K, tuple[Lead | None, Lead | None]] = {}
    for key, lead in fresh.items():
        old = held.get(key)
        if lead == old:
            continue
        changed[key] = (old, lead)
        if lead is None:
            del held[key]
        else:
            held[key] = lead
    return changed


def _discard(index: dict[K, set[V]], key: K, value: V) -> None:
    index[key].discard(value)
    if not index[key]:
        del index[key]
