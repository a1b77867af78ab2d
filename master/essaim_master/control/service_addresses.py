"""Gives services their own addresses and their published ports. Pure.

Rules
-----
* A service in the endpoint mode `vip` has one address on each of its networks that has any to
  give, and keeps it as long as it has the network. While tasks of an older spec are on a network
  that it has left, it keeps that one too: others still find them there.
* A port that the spec names is the service's by its claim (`IngressPort`), which the API makes with
  the service. One that is missing, as after the updater's rollback, is made up for here.
* A port without a number gets one, and keeps it as long as the service publishes the same port of
  its tasks.
* What a service no longer asks for is released at once, claims made by the API too.
* All of a service's tasks wait while it lacks any of this: their reason says what.

A claim may be made by the API at the same moment, so each is guarded by the revision of its key.
When one is lost, the writes beside it are decided anew, from the state that then is.
"""

from collections.abc import Iterable
from itertools import islice

import msgspec

from essaim_master.control.allocator import Cursors, VirtualPool
from essaim_master.control.ingress_ports import PortPool, no_port_left
from essaim_master.control.scheduler.host_ports import PortKey
from essaim_master.control.service_networks import ServiceNetworks
from essaim_master.control.worklist import Worklist
from essaim_master.state.cluster_state import ClusterState
from essaim_master.state.keys import ingress_port_key
from essaim_master.state.service_changes import ingress_ports
from essaim_master.state.writes import Writes
from essaim_shared.ids import NetworkId, ServiceId
from essaim_shared.objects import (
    IngressPort,
    Network,
    Service,
    ServiceAddresses,
    VirtualAddress,
)
from essaim_shared.spec import PortConfig

LOOKS_MAX = 1_000
"""Services without new tasks that are looked at in one slice: about 5 ms."""


class _Plan(msgspec.Struct, frozen=True):
    """What one service should have."""

    addresses: ServiceAddresses
    claims: dict[str, IngressPort]
    """All that it needs, by their ids."""
    lacks: str
    """What it does not get, in words; empty when it has all."""
    is_lingering: bool


class ServiceAllocator:
    """Decides on addresses and ports of services during one slice of work."""

    def __init__(
        self, state: ClusterState, worklist: Worklist, cursors: Cursors, limit: int
    ) -> None:
        self._state = state
        self._worklist = worklist
        self._upkeep = worklist.addresses
        self._cursors = cursors
        self._limit = limit
        self._lacks: dict[ServiceId, str] = {}
        self._changed: dict[ServiceId, _Plan] = {}
        self._virtual: dict[NetworkId, VirtualPool] = {}
        self._ports = PortPool(state, self._upkeep.index, worklist.index.claims, cursors)
        self.granted: dict[str, ServiceId] = {}
        """Ports of the services that were looked at in this slice, by their ids."""
        self.networks = ServiceNetworks(state)
        self._reserved: frozenset[PortKey] | None = None

    def work_off(self, first: Iterable[ServiceId]) -> None:
        """Look at the services of the slice's new tasks, then at the others that are due."""
        for service_id in dict.fromkeys(first):
            self.look(service_id)
        for service_id in list(islice(self._upkeep.due, LOOKS_MAX)):
            if self.look(service_id) is None:
                return

    def look(self, service_id: ServiceId) -> str | None:
        """What the service lacks, in words; empty when it has all, None when the slice has no
        room for another change."""
        known = self._lacks.get(service_id)
        if known is not None:
            return known
        if len(self._changed) >= self._limit:
            self._upkeep.due[service_id] = None
            return None
        self._upkeep.due.pop(service_id, None)
        service = self._state.services.get(service_id)
        if service is None:
            return ""
        plan = self._plan(service)
        if self._differs(plan):
            self._changed[service_id] = plan
        self._note(service_id, plan)
        self._lacks[service_id] = plan.lacks
        return plan.lacks

    def reserved_ports(self) -> frozenset[PortKey]:
        """Ports of the cluster, which no task may have on a node. To be asked when all services
        of the slice were looked at."""
        if self._reserved is None:
            claims = [*self._state.ingress_ports.values()]
            for plan in self._changed.values():
                claims.extend(plan.claims.values())
            self._reserved = frozenset((claim.protocol, claim.number) for claim in claims)
        return self._reserved

    def add_writes(self, writes: Writes) -> None:
        """What tasks need, to be written before them."""
        for service_id, plan in self._changed.items():
            held = self._upkeep.index.claims.get(service_id, {})
            for port_id, claim in plan.claims.items():
                if held.get(port_id) != claim:
                    self._guard(writes, claim)
                    writes.put(claim)
            present = self._state.service_addresses.get(service_id)
            if not (plan.addresses.virtual_addresses or plan.addresses.ports):
                if present is not None:
                    writes.delete_service_addresses(service_id)
            elif present != plan.addresses:
                writes.put(plan.addresses)

    def add_releases(self, writes: Writes) -> None:
        """To be written after the tasks: those that wait for a port must be there to see it."""
        for service_id, plan in self._changed.items():
            for port_id, claim in self._upkeep.index.claims.get(service_id, {}).items():
                if port_id not in plan.claims:
                    self._guard(writes, claim)
                    writes.delete_ingress_port(claim.protocol, claim.number)

    def _guard(self, writes: Writes, claim: IngressPort) -> None:
        key = ingress_port_key(claim.protocol, claim.number)
        writes.guard(key, self._state.modified(key))

    def _note(self, service_id: ServiceId, plan: _Plan) -> None:
        if plan.is_lingering:
            self._upkeep.lingering.add(service_id)
        else:
            self._upkeep.lingering.discard(service_id)
        if plan.lacks:
            self._upkeep.lacking.add(service_id)
        elif service_id in self._upkeep.lacking:
            self._upkeep.lacking.discard(service_id)
            self._worklist.retry_service(service_id)

    def _differs(self, plan: _Plan) -> bool:
        service_id = plan.addresses.service_id
        present = self._state.service_addresses.get(service_id)
        if present is None:
            present = ServiceAddresses(service_id=service_id)
        held = self._upkeep.index.claims.get(service_id, {})
        return present != plan.addresses or held != plan.claims

    def _plan(self, service: Service) -> _Plan:
        present = self._state.service_addresses.get(service.id)
        if present is None:
            present = ServiceAddresses(service_id=service.id)
        lacks: list[str] = []
        given, is_lingering = self._virtual_addresses(service, present, lacks)
        ports, claims = self._published(service, present, lacks)
        addresses = ServiceAddresses(service_id=service.id, virtual_addresses=given, ports=ports)
        return _Plan(addresses, claims, "; ".join(lacks), is_lingering)

    def _virtual_addresses(
        self, service: Service, present: ServiceAddresses, lacks: list[str]
    ) -> tuple[tuple[VirtualAddress, ...], bool]:
        """And whether the last of them are on networks that the service has left."""
        endpoint = service.spec.endpoint
        if endpoint is not None and endpoint.mode == "dnsrr":
            return (), False
        had = {virtual.network_id: virtual for virtual in present.virtual_addresses}
        given = []
        networks, _ = self.networks.of(service.spec.task)
        for network in networks:
            virtual = had.pop(network.id, None)
            if virtual is None and network.vip_subnet:
                address = self._pool(network).take()
                if address is None:
                    lacks.append(
                        f"no free service address on network {network.name} ({network.vip_subnet})"
                    )
                    continue
                virtual = VirtualAddress(network_id=network.id, address=address)
            if virtual is not None:
                given.append(virtual)
        left = [each for each in had.values() if self._has_tasks_on(service, each.network_id)]
        return (*given, *left), bool(left)

    def _has_tasks_on(self, service: Service, network_id: NetworkId) -> bool:
        if network_id not in self._state.networks:
            return False
        return any(
            not self._state.observed(task.id).is_terminal
            for task in self._state.tasks_of_service(service.id).values()
            if any(each.network_id == network_id for each in task.attachments)
        )

    def _pool(self, network: Network) -> VirtualPool:
        pool = self._virtual.get(network.id)
        if pool is None:
            used = self._upkeep.index.virtual.get(network.id, {})
            pool = self._virtual[network.id] = VirtualPool(network, used, self._cursors)
        return pool

    def _published(
        self, service: Service, present: ServiceAddresses, lacks: list[str]
    ) -> tuple[tuple[PortConfig, ...], dict[str, IngressPort]]:
        ports: list[PortConfig] = []
        claims: dict[str, IngressPort] = {}
        wanted = ingress_ports(service.spec)
        if not wanted:
            return (), claims
        chosen = self._chosen_before(service, present, wanted)
        for port in wanted:
            number = port.published_port
            if number:
                reason = self._claimed_by_other(service, port)
            else:
                earlier = chosen.get((port.protocol, port.target_port))
                number = earlier.pop(0) if earlier else self._ports.take(port.protocol) or 0
                reason = "" if number else no_port_left(port.protocol)
            if reason:
                lacks.append(reason)
                continue
            port_id = f"{port.protocol}/{number}"
            self.granted[port_id] = service.id
            ports.append(
                msgspec.structs.replace(port, published_port=number, publish_mode="ingress")
            )
            claims[port_id] = IngressPort(
                protocol=port.protocol,
                number=number,
                service_id=service.id,
                is_chosen=not port.published_port,
            )
        return tuple(ports), claims

    def _chosen_before(
        self, service: Service, present: ServiceAddresses, wanted: tuple[PortConfig, ...]
    ) -> dict[PortKey, list[int]]:
        """By protocol and port of the tasks the numbers that were chosen for it and that the
        service still has; but not those that the spec itself names now."""
        held = self._upkeep.index.claims.get(service.id, {})
        named = {(port.protocol, port.published_port) for port in wanted}
        found: dict[PortKey, list[int]] = {}
        for port in present.ports:
            claim = held.get(f"{port.protocol}/{port.published_port}")
            is_kept = claim is not None and claim.is_chosen
            if is_kept and (port.protocol, port.published_port) not in named:
                target = (port.protocol, port.target_port)
                found.setdefault(target, []).append(port.published_port)
        return found

    def _claimed_by_other(self, service: Service, port: PortConfig) -> str:
        """Why the service cannot have a port that it names; empty if it can. What a service that
        is gone has left counts as free."""
        port_id = f"{port.protocol}/{port.published_port}"
        claim = self._state.ingress_ports.get(port_id)
        holder_id = self.granted.get(port_id) or (None if claim is None else claim.service_id)
        holder = None if holder_id is None else self._state.services.get(holder_id)
        if holder is None or holder.id == service.id:
            self._ports.leave_out(port.protocol, port.published_port)
            return ""
        return (
            f"port {port.published_port}/{port.protocol} is published by service {holder.spec.name}"
        )
