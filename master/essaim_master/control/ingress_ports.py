"""Numbers for published ports that the user leaves open. Pure.

They are chosen for the whole cluster, from the range that Swarm uses too. The search goes on
behind the last choice, so that a port is used again as late as possible. A port of some node that
a task has, or may get by a service's spec, is left out: there the two would meet.
"""

from collections.abc import Iterable

from essaim_master.control.allocator import Cursors
from essaim_master.control.claims import Claims
from essaim_master.control.network_index import NetworkIndex
from essaim_master.state.cluster_state import ClusterState
from essaim_shared.limits import INGRESS_PORT_FIRST, INGRESS_PORT_LAST

NUMBERS = range(INGRESS_PORT_FIRST, INGRESS_PORT_LAST + 1)


def no_port_left(protocol: str) -> str:
    return f"no free {protocol} port to publish from {NUMBERS[0]} to {NUMBERS[-1]}"


class PortPool:
    """The ports to choose from during one slice of work."""

    def __init__(
        self, state: ClusterState, index: NetworkIndex, claims: Claims, cursors: Cursors
    ) -> None:
        self._state = state
        self._index = index
        self._claims = claims
        self._cursors = cursors
        self._used: dict[str, set[int]] = {}

    def take(self, protocol: str) -> int | None:
        """A free number, or None when all are taken."""
        used = self._used_of(protocol)
        cursor = f"ports of {protocol}"
        candidate = self._cursors.get(cursor, NUMBERS, self._chosen(protocol))
        for _ in NUMBERS if len(used) < len(NUMBERS) else ():
            if candidate not in NUMBERS:
                candidate = NUMBERS[0]
            number = candidate
            candidate += 1
            if number not in used:
                used.add(number)
                self._cursors.set(cursor, candidate)
                return number
        return None

    def leave_out(self, protocol: str, number: int) -> None:
        """A service has named the number in this slice."""
        if number in NUMBERS:
            self._used_of(protocol).add(number)

    def _used_of(self, protocol: str) -> set[int]:
        used = self._used.get(protocol)
        if used is None:
            used = self._used[protocol] = set(self._numbers_in_use(protocol))
        return used

    def _numbers_in_use(self, protocol: str) -> Iterable[int]:
        for claim in self._state.ingress_ports.values():
            if claim.protocol == protocol and claim.number in NUMBERS:
                yield claim.number
        for ports in (self._index.host_ports, self._claims.ports_anywhere()):
            yield from (number for used, number in ports if used == protocol and number in NUMBERS)

    def _chosen(self, protocol: str) -> Iterable[int]:
        return (
            claim.number
            for claim in self._state.ingress_ports.values()
            if claim.is_chosen and claim.protocol == protocol
        )
