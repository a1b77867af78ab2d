"""What the name server knows, as facts and as an index of them. Pure.

Facts are told one by one, in any order, as changes. A fact has no identity but its value: another
state of an address is the removal of one fact and the addition of another. To add one that is
there, or to remove one that is not, changes nothing.
"""

import ipaddress
from collections.abc import Iterator
from typing import Final, Literal, TypeVar

import msgspec

from essaim_shared.ids import NetworkId, ServiceId, TaskId

State = Literal["starting", "serving", "draining"]

ANSWERED_FIRST: Final[tuple[State, ...]] = ("serving", "starting", "draining")
"""Of several tasks that have the same name: while an update replaces one, both are there."""


class NetworkFact(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A network that this node is on."""

    network_id: NetworkId
    name: str
    subnet: str
    vip_subnet: str = ""
    is_internal: bool = False


class ServiceFact(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A service on a network; the network may be one that this node is not on."""

    network_id: NetworkId
    service_id: ServiceId
    name: str
    stack: str = ""
    aliases: tuple[str, ...] = ()
    vip: str = ""

    @property
    def names(self) -> Iterator[str]:
        """What it is called on its network, in lower case."""
        yield self.name.lower()
        if self.stack and self.name.startswith(f"{self.stack}_"):
            yield f"{self.name[len(self.stack) + 1 :]}.{self.stack}".lower()
        for alias in self.aliases:
            yield alias.lower().rstrip(".")


class AddressFact(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A task's address on a network that this node is on."""

    network_id: NetworkId
    address: str
    service_id: ServiceId
    task_id: TaskId
    slot: str
    hostname: str
    state: State


class SourceFact(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An address of one of this node's tasks, and the networks of that task in their order."""

    address: str
    networks: tuple[NetworkId, ...]
    servers: tuple[str, ...] = ()
    """Asked about the world outside, for this task; empty: the host's."""


K = TypeVar("K")
V = TypeVar("V")


class Change(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """Additions come before removals: what is both removed and added again by another fact is
    never missing in between."""

    networks: tuple[NetworkFact, ...] = ()
    services: tuple[ServiceFact, ...] = ()
    addresses: tuple[AddressFact, ...] = ()
    sources: tuple[SourceFact, ...] = ()
    removed_networks: tuple[NetworkFact, ...] = ()
    removed_services: tuple[ServiceFact, ...] = ()
    removed_addresses: tuple[AddressFact, ...] = ()
    removed_sources: tuple[SourceFact, ...] = ()

    @property
    def size(self) -> int:
        return sum(len(facts) for facts in msgspec.structs.astuple(self))


class _OnNetwork:
    """The part of the index that belongs to one network."""

    def __init__(self) -> None:
        self.facts: set[NetworkFact] = set()
        self.services: dict[ServiceId, set[ServiceFact]] = {}
        self.by_name: dict[str, set[ServiceFact]] = {}
        self.by_vip: dict[str, set[ServiceFact]] = {}
        self.by_service: dict[ServiceId, set[AddressFact]] = {}
        # Tuples, for most have one: a set of one takes four times the memory.
        self.by_hostname: dict[str, tuple[AddressFact, ...]] = {}
        self.by_address: dict[str, tuple[AddressFact, ...]] = {}

    @property
    def is_empty(self) -> bool:
        return not (self.facts or self.services or self.by_service)


class Table:
    """The index. `apply` returns which networks' answers may be others now."""

    def __init__(self) -> None:
        self._networks: dict[NetworkId, _OnNetwork] = {}
        self._subnets: dict[NetworkId, tuple[ipaddress.IPv4Network, ...]] = {}
        self._known: dict[str, int] = {}
        """How many services have a name, on whatever network."""
        self._network_names: dict[str, int] = {}
        self.sources: dict[str, tuple[NetworkId, ...]] = {}
        self.servers: dict[str, tuple[str, ...]] = {}
        """Of those sources that have name servers of their own."""
        self.facts = 0

    def apply(self, change: Change) -> frozenset[NetworkId]:
        touched: set[NetworkId] = set()
        for network in change.networks:
            self._add_network(network)
        for service in change.services:
            self._add_service(service)
        for address in change.addresses:
            self._add_address(address)
        for source in change.sources:
            self.facts += source.address not in self.sources
            self.sources[source.address] = source.networks
            self.servers.pop(source.address, None)
            if source.servers:
                self.servers[source.address] = source.servers
        for network in change.removed_networks:
            self._remove_network(network)
        for service in change.removed_services:
            self._remove_service(service)
        for address in change.removed_addresses:
            self._remove_address(address)
        for source in change.removed_sources:
            present = (self.sources.get(source.address), self.servers.get(source.address, ()))
            if present == (source.networks, source.servers):
                del self.sources[source.address]
                self.servers.pop(source.address, None)
                self.facts -= 1
        for facts in (
            *(change.removed_networks, change.networks),
            *(change.removed_services, change.services),
            *(change.removed_addresses, change.addresses),
        ):
            touched.update(fact.network_id for fact in facts)
        return frozenset(touched)

    # Changes.

    def _at(self, network_id: NetworkId) -> _OnNetwork:
        found = self._networks.get(network_id)
        if found is None:
            found = self._networks[network_id] = _OnNetwork()
        return found

    def _forget_if_empty(self, network_id: NetworkId, at: _OnNetwork) -> None:
        if at.is_empty:
            self._networks.pop(network_id, None)

    def _add_network(self, fact: NetworkFact) -> None:
        at = self._at(fact.network_id)
        if fact not in at.facts:
            at.facts.add(fact)
            self.facts += 1
            _count(self._network_names, fact.name.lower(), 1)
            self._subnets[fact.network_id] = _subnets_of(at.facts)

    def _remove_network(self, fact: NetworkFact) -> None:
        at = self._networks.get(fact.network_id)
        if at is None or fact not in at.facts:
            return
        at.facts.remove(fact)
        self.facts -= 1
        _count(self._network_names, fact.name.lower(), -1)
        self._subnets[fact.network_id] = _subnets_of(at.facts)
        if not at.facts:
            del self._subnets[fact.network_id]
        self._forget_if_empty(fact.network_id, at)

    def _add_service(self, fact: ServiceFact) -> None:
        at = self._at(fact.network_id)
        if not _put(at.services, fact.service_id, fact):
            return
        self.facts += 1
        for name in set(fact.names):
            _put(at.by_name, name, fact)
            _count(self._known, name, 1)
        if fact.vip:
            _put(at.by_vip, fact.vip, fact)

    def _remove_service(self, fact: ServiceFact) -> None:
        at = self._networks.get(fact.network_id)
        if at is None or not _take(at.services, fact.service_id, fact):
            return
        self.facts -= 1
        for name in set(fact.names):
            _take(at.by_name, name, fact)
            _count(self._known, name, -1)
        _take(at.by_vip, fact.vip, fact)
        self._forget_if_empty(fact.network_id, at)

    def _add_address(self, fact: AddressFact) -> None:
        at = self._at(fact.network_id)
        if not _put(at.by_service, fact.service_id, fact):
            return
        self.facts += 1
        _append(at.by_address, fact.address, fact)
        if fact.hostname:
            _append(at.by_hostname, fact.hostname.lower(), fact)

    def _remove_address(self, fact: AddressFact) -> None:
        at = self._networks.get(fact.network_id)
        if at is None or not _take(at.by_service, fact.service_id, fact):
            return
        self.facts -= 1
        _drop(at.by_address, fact.address, fact)
        _drop(at.by_hostname, fact.hostname.lower(), fact)
        self._forget_if_empty(fact.network_id, at)

    # Questions.

    def network_names(self, network_id: NetworkId) -> frozenset[str]:
        """One name, but for the moment in which a network of the same id is another one."""
        at = self._networks.get(network_id)
        return frozenset(fact.name for fact in at.facts) if at is not None else frozenset()

    def has_way_out(self, network_id: NetworkId) -> bool:
        """Whether its tasks reach the world outside; not known of a network: no."""
        at = self._networks.get(network_id)
        return at is not None and any(not fact.is_internal for fact in at.facts)

    def services_called(self, network_id: NetworkId, name: str) -> frozenset[ServiceFact]:
        at = self._networks.get(network_id)
        return frozenset(at.by_name.get(name, ())) if at is not None else frozenset()

    def services_with_id(
        self, network_id: NetworkId, service_id: ServiceId
    ) -> frozenset[ServiceFact]:
        at = self._networks.get(network_id)
        return frozenset(at.services.get(service_id, ())) if at is not None else frozenset()

    def addresses_of(self, network_id: NetworkId, service_id: ServiceId) -> frozenset[AddressFact]:
        at = self._networks.get(network_id)
        return frozenset(at.by_service.get(service_id, ())) if at is not None else frozenset()

    def hosts_called(self, network_id: NetworkId, hostname: str) -> frozenset[AddressFact]:
        at = self._networks.get(network_id)
        return frozenset(at.by_hostname.get(hostname, ())) if at is not None else frozenset()

    def tasks_at(self, network_id: NetworkId, address: str) -> frozenset[AddressFact]:
        at = self._networks.get(network_id)
        return frozenset(at.by_address.get(address, ())) if at is not None else frozenset()

    def services_at(self, network_id: NetworkId, vip: str) -> frozenset[ServiceFact]:
        at = self._networks.get(network_id)
        return frozenset(at.by_vip.get(vip, ())) if at is not None else frozenset()

    def is_known(self, name: str) -> bool:
        """Whether any service is called so, on a network of this node or another."""
        return name in self._known

    def is_network(self, name: str) -> bool:
        return name in self._network_names

    def networks_with(self, address: ipaddress.IPv4Address) -> frozenset[NetworkId]:
        """Those whose tasks or services can have the address."""
        return frozenset(
            network_id
            for network_id, subnets in self._subnets.items()
            if any(address in subnet for subnet in subnets)
        )


def _put(index: dict[K, set[V]], key: K, value: V) -> bool:
    """Whether it was not there."""
    values = index.setdefault(key, set())
    if value in values:
        return False
    values.add(value)
    return True


def _take(index: dict[K, set[V]], key: K, value: V) -> bool:
    """Whether it was there. No empty set stays."""
    values = index.get(key)
    if values is None or value not in values:
        return False
    values.remove(value)
    if not values:
        del index[key]
    return True


def _append(index: dict[K, tuple[V, ...]], key: K, value: V) -> None:
    index[key] = (*index.get(key, ()), value)


def _drop(index: dict[K, tuple[V, ...]], key: K, value: V) -> None:
    left = tuple(other for other in index.pop(key, ()) if other != value)
    if left:
        index[key] = left


def _count(counts: dict[str, int], name: str, by: int) -> None:
    count = counts.get(name, 0) + by
    if count:
        counts[name] = count
    else:
        counts.pop(name, None)


def _subnets_of(facts: set[NetworkFact]) -> tuple[ipaddress.IPv4Network, ...]:
    found = []
    for text in (text for fact in facts for text in (fact.subnet, fact.vip_subnet) if text):
        try:
            found.append(ipaddress.IPv4Network(text, strict=False))
        except ValueError:
            continue  # nobody can ask for addresses in it
    return tuple(found)
