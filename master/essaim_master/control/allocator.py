"""Addresses of tasks and gateways. Pure.

An address is free when nothing in the state has it. The search goes on from where the last one
ended, so that an address is used again as late as possible: neighbours may still know its former
owner. Addresses of ended tasks, which stay with them as history, are taken last of all.
"""

import ipaddress

import msgspec

from essaim_master.state.cluster_state import ClusterState
from essaim_shared.addressing import host_addresses
from essaim_shared.ids import NetworkId, TaskId
from essaim_shared.objects import Network


class Grant(msgspec.Struct, frozen=True):
    address: str
    taken_from: TaskId | None = None
    """The ended task that has it in the state and must lose it in the same writes."""


class Cursors:
    """Where the next search begins in each network; lives as long as the leader's term."""

    def __init__(self) -> None:
        self._next: dict[NetworkId, int] = {}

    def get(self, state: ClusterState, network: Network) -> int:
        """At first just behind the highest address in use, the best guess at the newest."""
        if network.id not in self._next:
            used = [int(ipaddress.IPv4Address(text)) for text in state.addresses(network.id)]
            self._next[network.id] = max(used) + 1 if used else host_addresses(network.subnet)[0]
        return self._next[network.id]

    def set(self, network_id: NetworkId, address: int) -> None:
        self._next[network_id] = address


class AddressPool:
    """The addresses of one network during one slice of work."""

    def __init__(self, state: ClusterState, network: Network, cursors: Cursors) -> None:
        self._state = state
        self._network = network
        self._cursors = cursors
        self._hosts = host_addresses(network.subnet)
        self._used = state.addresses(network.id)
        self._granted: set[str] = set()
        self._unsearched = len(self._hosts)
        self._reusable: list[tuple[str, TaskId]] | None = None

    def take(self) -> Grant | None:
        """The next address, or None when the subnet is full."""
        hosts = self._hosts
        candidate = self._cursors.get(self._state, self._network)
        while self._unsearched > 0:
            self._unsearched -= 1
            if candidate not in hosts:
                candidate = hosts[0]
            text = format_address(candidate)
            candidate += 1
            if text not in self._used and text not in self._granted:
                self._cursors.set(self._network.id, candidate)
                self._granted.add(text)
                return Grant(text)
        return self._take_from_ended()

    def give_back(self, grant: Grant) -> None:
        """Undo a grant that was not used after all."""
        if grant.taken_from is None:
            self._granted.discard(grant.address)
        elif self._reusable is not None:
            self._reusable.append((grant.address, grant.taken_from))

    def _take_from_ended(self) -> Grant | None:
        if self._reusable is None:
            observed = self._state.observed
            tasks = self._state.tasks
            self._reusable = [
                (address, TaskId(owner))
                for address, owner in self._used.items()
                if owner in tasks and observed(TaskId(owner)).is_terminal
            ]
            self._reusable.reverse()
        if not self._reusable:
            return None
        address, owner = self._reusable.pop()
        return Grant(address, taken_from=owner)


def format_address(number: int) -> str:
    """As `str(IPv4Address(number))`, several times faster."""
    return f"{number >> 24}.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
