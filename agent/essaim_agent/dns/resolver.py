"""A question's answer, from the table. Pure.

Names are looked for on the asking task's networks, in their order; the first network that knows a
name answers for it. On one network, in this order:

    web, alias, db.shop   services so called, by name, by alias, by name and stack: their VIPs,
                          and for those without one their tasks that serve
    tasks.web             the tasks that serve, of the same services
    web.3, web.3.TASK     the task in a slot, whether it serves or not: its neighbours may have to
    HOSTNAME              find it before it is ready

Each of them can be followed by the name of the network. What exists and has no address, such as
the tasks of a service of which none serves, is an empty answer and not a missing name: nobody
remembers that it was missing.

The rest is asked outside, but for names that cannot mean anything there: those of one label,
those that end in a number, those of services of networks that the task is not on, and addresses
of any of the cluster's networks that this node knows. A task that is on internal networks only asks
nobody outside: it has no way there, and a question would be one.
"""

import ipaddress
from collections.abc import Iterable
from typing import Final, Literal

import msgspec

from essaim_agent.dns.table import ANSWERED_FIRST, AddressFact, ServiceFact, Table
from essaim_shared.ids import ID_LENGTH, NetworkId

TYPE_A: Final = 1
TYPE_PTR: Final = 12

VIP_TTL_S: Final = 5
"""A service's own address lasts as long as the service."""
TASKS_TTL_S: Final = 0
"""The tasks change; a name that is kept for a second leads to one that has ended."""
NAME_TTL_S: Final = 5
"""Of a reverse name."""

LABEL_BYTES_MAX: Final = 63
NAME_BYTES_MAX: Final = 253
_REVERSE: Final = ".in-addr.arpa"
_TASKS: Final = "tasks."


class Question(msgspec.Struct, frozen=True):
    name: str
    """In lower case, without the last dot; empty: the root. Bytes that are no ASCII stand as the
    characters of their number."""
    type: int


class Answer(msgspec.Struct, frozen=True):
    code: Literal["noerror", "nxdomain"] = "noerror"
    addresses: tuple[str, ...] = ()
    """Of a question for addresses. Several are told in another order each time."""
    names: tuple[str, ...] = ()
    """Of a reverse question."""
    ttl_s: int = 0
    is_ours: bool = True
    """The name means something in the cluster; not a slip that was kept from the world."""


class Forward(msgspec.Struct, frozen=True):
    """The name is none of ours."""


EMPTY: Final = Answer()
MISSING: Final = Answer("nxdomain")
SLIP: Final = Answer("nxdomain", is_ours=False)
FORWARD: Final = Forward()


def resolve(table: Table, networks: tuple[NetworkId, ...], question: Question) -> Answer | Forward:
    """Answer a task that is on these networks."""
    name = question.name
    if name.endswith(_REVERSE):
        return _reverse(table, networks, question)
    for network_id in networks:
        found = _on_network(table, network_id, name)
        if found is None:
            found = _qualified(table, network_id, name)
        if found is not None:
            return found if question.type == TYPE_A else EMPTY
    if _is_known_elsewhere(table, name):
        return MISSING
    if name and ("." not in name or name.rpartition(".")[2].isdecimal()):
        return SLIP
    return _outside(table, networks)


def _outside(table: Table, networks: tuple[NetworkId, ...]) -> Answer | Forward:
    has_way_out = any(table.has_way_out(network_id) for network_id in networks)
    return FORWARD if has_way_out else SLIP


def _qualified(table: Table, network_id: NetworkId, name: str) -> Answer | None:
    for network in table.network_names(network_id):
        suffix = f".{network.lower()}"
        if name.endswith(suffix) and len(name) > len(suffix):
            return _on_network(table, network_id, name[: -len(suffix)])
    return None


def _on_network(table: Table, network_id: NetworkId, name: str) -> Answer | None:
    if services := table.services_called(network_id, name):
        vips = {service.vip for service in services if service.vip}
        bare = (service for service in services if not service.vip)
        tasks = _serving(table, network_id, bare)
        return Answer(
            addresses=_sorted(vips | tasks),
            ttl_s=VIP_TTL_S if all(service.vip for service in services) else TASKS_TTL_S,
        )
    if name.startswith(_TASKS):
        services = table.services_called(network_id, name[len(_TASKS) :])
        if services:
            return _tasks_answer(_serving(table, network_id, services))
    tasks_called = _tasks_called(table, network_id, name) or table.hosts_called(network_id, name)
    return _tasks_answer(_best(tasks_called)) if tasks_called else None


def _tasks_called(table: Table, network_id: NetworkId, name: str) -> frozenset[AddressFact]:
    """`SERVICE.SLOT` and `SERVICE.SLOT.TASK`."""
    service_name, _, rest = name.partition(".")
    if not rest:
        return frozenset()
    slot, _, task_id = rest.partition(".")
    return frozenset(
        task
        for service in table.services_called(network_id, service_name)
        if service.name.lower() == service_name
        for task in table.addresses_of(network_id, service.service_id)
        if task.slot.lower() == slot and task_id in ("", task.task_id.lower())
    )


def _serving(table: Table, network_id: NetworkId, services: Iterable[ServiceFact]) -> set[str]:
    return {
        task.address
        for service in services
        for task in table.addresses_of(network_id, service.service_id)
        if task.state == "serving"
    }


def _best(tasks: frozenset[AddressFact]) -> set[str]:
    for state in ANSWERED_FIRST:
        found = {task.address for task in tasks if task.state == state}
        if found:
            return found
    return set()


def _tasks_answer(addresses: set[str]) -> Answer:
    return Answer(addresses=_sorted(addresses), ttl_s=TASKS_TTL_S)


def _sorted(addresses: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(addresses))


def _is_known_elsewhere(table: Table, name: str) -> bool:
    """Whether the name means a service that the task has no way to: of a network that it is not
    on, with any of the forms above."""
    if table.is_known(name) or table.is_known(name.removeprefix(_TASKS)):
        return True
    head, _, last = name.rpartition(".")
    if not head:
        return False
    if table.is_network(last) and (
        table.is_known(head) or table.is_known(head.removeprefix(_TASKS))
    ):
        return True
    service_name, _, rest = name.partition(".")
    labels = rest.split(".")
    has_slot = labels[0].isdecimal() or len(labels[0]) == ID_LENGTH
    is_whole = len(labels) == 1 or (len(labels) == 2 and len(labels[1]) == ID_LENGTH)
    return has_slot and is_whole and table.is_known(service_name)


# Reverse names.


def _reverse(table: Table, networks: tuple[NetworkId, ...], question: Question) -> Answer | Forward:
    address = _reversed_address(question.name)
    known = table.networks_with(address) if address is not None else frozenset()
    if not known:
        return _outside(table, networks)
    for network_id in networks:
        names = _names_at(table, network_id, str(address)) if network_id in known else ()
        if names:
            return Answer(names=names, ttl_s=NAME_TTL_S) if question.type == TYPE_PTR else EMPTY
    return MISSING


def _reversed_address(name: str) -> ipaddress.IPv4Address | None:
    octets = name.removesuffix(_REVERSE).split(".")
    try:
        return ipaddress.IPv4Address(".".join(reversed(octets)))
    except ValueError:
        return None


def _names_at(table: Table, network_id: NetworkId, address: str) -> tuple[str, ...]:
    tasks = table.tasks_at(network_id, address)
    for state in ANSWERED_FIRST:
        found = [
            f"{service.name}.{task.slot}.{task.task_id}"
            for task in tasks
            if task.state == state
            for service in table.services_with_id(network_id, task.service_id)
        ]
        if found:
            break
    else:
        found = [service.name for service in table.services_at(network_id, address)]
    networks = table.network_names(network_id)
    whole = {f"{name}.{network}" for name in found for network in networks}
    return tuple(sorted(name for name in whole if _fits(name)))


def _fits(name: str) -> bool:
    """Whether the protocol can carry it: names of networks are not limited as labels are."""
    return (
        name.isascii()
        and len(name) <= NAME_BYTES_MAX
        and all(0 < len(label) <= LABEL_BYTES_MAX for label in name.split("."))
    )
