"""Services that follow secrets and configs are changed to the newest data. Pure.

The API only writes the new data. The leader compares each service that follows with what there is,
and changes those that are behind, one guarded transaction each, as a user's `service update` would:
the updater then rolls the change out, and back when it fails. Nothing is remembered but which
services are yet to be looked at, so a new leader, which looks at all, completes what one before it
began; and a service that was changed by a user at the same moment is simply looked at again.
"""

from essaim_master.state.cluster_state import ClusterState
from essaim_master.state.payload_references import uses_of
from essaim_master.state.payload_uses import catching_up_writes, caught_up
from essaim_master.state.writes import Writes
from essaim_shared.ids import PayloadId, ServiceId

CHANGES_PER_SLICE_MAX = 32
"""Services changed in one slice, each in a transaction of its own: other work comes in between."""


class Followers:
    """What is yet to be looked at. Bounded by the number of objects in the state."""

    def __init__(self, state: ClusterState) -> None:
        self._state = state
        self._payloads: set[PayloadId] = set()
        self._services: dict[ServiceId, None] = {}

    def __bool__(self) -> bool:
        return bool(self._payloads or self._services)

    def add_everything(self) -> None:
        self._services.update(dict.fromkeys(self._state.services))

    def note_payload(self, payload_id: PayloadId) -> None:
        self._payloads.add(payload_id)

    def note_service(self, service_id: ServiceId) -> None:
        """It changed: who changed it may not have seen newer data that came at that moment."""
        self._services[service_id] = None

    def work_off(self, busy: dict[ServiceId, Writes], now_ns: int) -> None:
        """Add the changes of one slice to `busy`, which holds other changes of services that are
        to be written. What is changed there is looked at again once that is done."""
        self._spread()
        made = 0
        for service_id in list(self._services):
            if made >= CHANGES_PER_SLICE_MAX:
                return
            del self._services[service_id]
            service = self._state.services.get(service_id)
            if service is None or service_id in busy:
                continue
            after = caught_up(self._state, service, now_ns)
            if after is not None:
                busy[service_id] = catching_up_writes(self._state, service, after)
                made += 1

    def _spread(self) -> None:
        """From secrets and configs that changed to the services that refer to them."""
        if not self._payloads:
            return
        for service in self._state.services.values():
            if any(payload_id in self._payloads for _, payload_id, _ in uses_of(service.spec.task)):
                self._services[service.id] = None
        self._payloads.clear()
