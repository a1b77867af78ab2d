"""Addresses of tasks, gateways and services. Pure.

An address is free when nothing in the state has it. The search goes on from where the last one
ended, so that an address is used again as late as possible: neighbours may still know its former
owner. Addresses of ended tasks, which stay with them as history, are taken last of all.
"""

import ipaddress
from collections.abc import Iterable, Mapping

import msgspec

from essaim_master.state.cluster_state import ClusterState
from essaim_shared.addressing import host_addresses
from essaim_shared.ids import ServiceId, TaskId
from essaim_shared.objects import Network


class Grant(msgspec.Struct, frozen=True):
    address: str
    taken_from: TaskId | None = None
    """The ended task that has it in the state and must lose it in the same writes."""


class Cursors:
    """Where the next search begins in each pool; lives as long as the leader's term.

    A pool is known by a name: the network's id for the addresses of tasks.
    """

    def __init__(self) -> None:
        self._next: dict[str, int] = {}

    def get(self, pool: str, numbers: range, used: Iterable[int]) -> int:
        """At first just behind the highest number in use, the best guess at the newest."""
        if pool not in self._next:
            self._next[pool] = max(used, default=numbers[0] - 1 if numbers else 0) + 1
        return self._next[pool]

    def set(self, pool: str, number: int) -> None:
        self._next[pool] = number


class _Walk:
    """Once round the addresses of a pool, from where the last search ended."""

    def __init__(self, pool: str, hosts: range, used: Mapping[str, str], cursors: Cursors) -> None:
        self._pool = pool
        self._hosts = hosts
        self._used = used
        self._cursors = cursors
        self._unsearched = len(hosts)
        self._candidate: int | None = None

    def next(self) -> str | None:
        """The next free address; none comes twice, and after the last one comes None."""
        hosts = self._hosts
        candidate = self._candidate
        if candidate is None:
            candidate = self._cursors.get(self._pool, hosts, map(_number, self._used))
        while self._unsearched > 0:
            self._unsearched -= 1
            if candidate not in hosts:
                candidate = hosts[0]
            text = format_address(candidate)
            candidate += 1
            if text not in self._used:
                self._candidate = candidate
                self._cursors.set(self._pool, candidate)
                return text
        return None


class AddressPool:
    """The addresses of tasks and gateways on one network during one slice of work."""

    def __init__(self, state: ClusterState, network: Network, cursors: Cursors) -> None:
        self._state = state
        self._hosts = task_addresses(network)
        self._used = state.addresses(network.id)
        self._walk = _Walk(network.id, self._hosts, self._used, cursors)
        self._returned: list[str] = []
        self._reusable: list[tuple[str, TaskId]] | None = None

    def take(self) -> Grant | None:
        """The next address, or None when the pool is full."""
        if self._returned:
            return Grant(self._returned.pop())
        address = self._walk.next()
        return self._take_from_ended() if address is None else Grant(address)

    def give_back(self, grant: Grant) -> None:
        """Undo a grant that was not used after all."""
        if grant.taken_from is None:
            self._returned.append(grant.address)
        elif self._reusable is not None:
            self._reusable.append((grant.address, grant.taken_from))

    def _take_from_ended(self) -> Grant | None:
        if self._reusable is None:
            observed = self._state.observed
            tasks = self._state.tasks
            self._reusable = [
                (address, TaskId(owner))
                for address, owner in self._used.items()
                if owner in tasks
                and observed(TaskId(owner)).is_terminal
                and _number(address) in self._hosts
            ]
            self._reusable.reverse()
        if not self._reusable:
            return None
        address, owner = self._reusable.pop()
        return Grant(address, taken_from=owner)


class VirtualPool:
    """The addresses of services on one network during one slice of work."""

    def __init__(self, network: Network, used: Mapping[str, ServiceId], cursors: Cursors) -> None:
        hosts = host_addresses(network.vip_subnet)
        self._walk = _Walk(f"services of {network.id}", hosts, used, cursors)

    def take(self) -> str | None:
        """The next address, or None when all are in use."""
        return self._walk.next()


def task_addresses(network: Network) -> range:
    """The addresses that tasks and gateways are given, as integers: those of the range that the
    user chose, or of the whole subnet, but for its first and its last."""
    hosts = host_addresses(network.subnet)
    if not network.ip_range:
        return hosts
    chosen = ipaddress.IPv4Network(network.ip_range)
    first, last = int(chosen.network_address), int(chosen.broadcast_address)
    return range(max(first, hosts.start), min(last + 1, hosts.stop))


def pool_name(network: Network) -> str:
    """Of a network's addresses, for people."""
    return f"{network.name} ({network.ip_range or network.subnet})"


def format_address(number: int) -> str:
    """As `str(IPv4Address(number))`, several times faster."""
    return f"{number >> 24}.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"


def _number(address: str) -> int:
    return int(ipaddress.IPv4Address(address))
