"""The services whose addresses and ports must be looked at. Pure.

A change that cannot lead to a decision notes nothing. What makes room notes the services that
lacked some.
"""

from essaim_master.control.network_index import NetworkIndex
from essaim_master.state.cluster_state import Change, ClusterState
from essaim_shared.ids import ServiceId
from essaim_shared.objects import IngressPort, Network, ServiceAddresses


class AddressUpkeep:
    """Bounded by the number of services. `service_addresses` works it off."""

    def __init__(self, state: ClusterState) -> None:
        self._state = state
        self.index = NetworkIndex(state)
        self.due: dict[ServiceId, None] = {}
        """To be looked at, the first come first."""
        self.lacking: set[ServiceId] = set()
        """Services that found no address or port at the last look; their tasks wait."""
        self.lingering: set[ServiceId] = set()
        """Services with an address on a network that only tasks of an older spec are on."""

    def __bool__(self) -> bool:
        return bool(self.due)

    def add_everything(self) -> None:
        self.due.update(dict.fromkeys(self._state.services))

    def note_service(self, service_id: ServiceId) -> None:
        self.index.refresh_service(service_id)
        if service_id in self._state.services:
            self.due[service_id] = None
        else:
            self.due.pop(service_id, None)
            self.lacking.discard(service_id)
            self.lingering.discard(service_id)
        self.note_room()  # it may have wanted a port of nodes

    def note_addresses(self, change: Change) -> None:
        service_id = ServiceId(change.id)
        self.index.refresh_addresses(service_id)
        if change.after is None and service_id in self._state.services:
            self.due[service_id] = None
        if isinstance(change.before, ServiceAddresses):
            self.note_room()

    def note_claim(self, change: Change) -> None:
        self.index.refresh_claim(change.id)
        before, after = change.before, change.after
        if isinstance(before, IngressPort):
            is_lost = not isinstance(after, IngressPort) or after.service_id != before.service_id
            if is_lost and before.service_id in self._state.services:
                self.due[before.service_id] = None
            self.note_room()
        if isinstance(after, IngressPort) and after.service_id in self._state.services:
            self.due[after.service_id] = None  # its spec may not ask for it

    def note_network(self, change: Change) -> None:
        """What a service lacks may be the network itself; a change of its MTU concerns none."""
        before, after = change.before, change.after
        if not isinstance(before, Network):
            self.note_room()
        elif not isinstance(after, Network) or after.vip_subnet != before.vip_subnet:
            self.add_everything()

    def note_task(self, service_id: ServiceId) -> None:
        """A task has ended or is forgotten."""
        if service_id in self.lingering:
            self.due[service_id] = None

    def note_room(self) -> None:
        """Something became free."""
        self.due.update(dict.fromkeys(self.lacking))
