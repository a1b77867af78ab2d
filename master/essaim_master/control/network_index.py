"""Who has which service address and which port of the cluster. Pure.

As the control index, it follows from the state alone: what an object brought in is remembered
and taken out again as it was, so the two cannot drift apart.
"""

from collections import Counter

from essaim_master.control.scheduler.host_ports import PortKey, keys_of
from essaim_master.state.cluster_state import ClusterState
from essaim_master.state.service_changes import host_ports
from essaim_shared.ids import NetworkId, ServiceId
from essaim_shared.objects import IngressPort, ServiceAddresses


class NetworkIndex:
    def __init__(self, state: ClusterState) -> None:
        self._state = state
        self.virtual: dict[NetworkId, dict[str, ServiceId]] = {}
        """For each network the service addresses in use, and whose they are."""
        self.claims: dict[ServiceId, dict[str, IngressPort]] = {}
        """For each service its ports of the cluster, by their ids in the state."""
        self.host_ports: Counter[PortKey] = Counter()
        """Ports of nodes that services ask for by number, and how many services do."""
        self._addresses: dict[ServiceId, ServiceAddresses] = {}
        self._claims: dict[str, IngressPort] = {}
        self._asked: dict[ServiceId, tuple[PortKey, ...]] = {}
        for service_id in state.service_addresses:
            self.refresh_addresses(service_id)
        for port_id in state.ingress_ports:
            self.refresh_claim(port_id)
        for service_id in state.services:
            self.refresh_service(service_id)

    def refresh_addresses(self, service_id: ServiceId) -> None:
        """Take a service's present addresses over."""
        before = self._addresses.pop(service_id, None)
        if before is not None:
            for virtual in before.virtual_addresses:
                # An address that two services have, as no leader gives it, stands here once.
                used = self.virtual.get(virtual.network_id, {})
                if used.get(virtual.address) == service_id:
                    del used[virtual.address]
                    if not used:
                        del self.virtual[virtual.network_id]
        after = self._state.service_addresses.get(service_id)
        if after is not None:
            self._addresses[service_id] = after
            for virtual in after.virtual_addresses:
                self.virtual.setdefault(virtual.network_id, {})[virtual.address] = service_id

    def refresh_claim(self, port_id: str) -> None:
        """Take a port's present claim over."""
        before = self._claims.pop(port_id, None)
        if before is not None:
            claims = self.claims[before.service_id]
            del claims[port_id]
            if not claims:
                del self.claims[before.service_id]
        after = self._state.ingress_ports.get(port_id)
        if after is not None:
            self._claims[port_id] = after
            self.claims.setdefault(after.service_id, {})[port_id] = after

    def refresh_service(self, service_id: ServiceId) -> None:
        """Take over what the present spec asks for of nodes."""
        for key in self._asked.pop(service_id, ()):
            self.host_ports[key] -= 1
            if not self.host_ports[key]:
                del self.host_ports[key]
        service = self._state.services.get(service_id)
        if service is None or service.spec.endpoint is None:
            return
        asked = tuple(keys_of(host_ports(service.spec)))
        if asked:
            self._asked[service_id] = asked
            self.host_ports.update(asked)
