"""Ports of the node that lead to tasks on it: our nft table for them. Pure.

A connection to a published port of any address of the node, its loopback too, goes to the one
task that has the port; a client elsewhere keeps its address. Connections that are under way do
not notice a change: the kernel remembers their way.

Two kinds of client must come back through the node and so get its address: who called
127.0.0.1, for that address means somebody else in the task's namespace, and tasks of the same
subnet, to whom the answer would otherwise go straight, from an address they never called.

For the first kind the kernel must route packets of 127.0.0.0/8 between the bridge and the loopback
(`route_localnet`). That switch lets the neighbours on a link reach what listens on loopback only
(CVE-2020-8558), so the table drops whatever comes in from outside with such an address, before
anything else sees it.
"""

from collections.abc import Iterable, Mapping

import msgspec

from essaim_agent.overlay.nft_table import Chain, Table
from essaim_agent.overlay.tables import BRIDGE_PREFIX
from essaim_shared.ids import TaskId
from essaim_shared.objects import Task
from essaim_shared.spec import PortConfig

TABLE = "essaim-ports"

GUARD_PRIORITY = -300
"""`raw`: before connections are tracked and addresses translated back."""
DESTINATION_PRIORITY = -102
"""Before ports of the whole cluster (`proxy`): the task that has one of this node keeps it."""
SOURCE_PRIORITY = 98
"""Before our own masquerade (`firewall`), and so before Docker's."""

PROTOCOLS = ("tcp", "udp", "sctp")

PortKey = tuple[str, int]
"""(protocol, port of the node)."""


class PublishedTask(msgspec.Struct, frozen=True):
    address: str
    """The task's on its first network."""
    ports: tuple[PortConfig, ...]

    @property
    def keys(self) -> tuple[PortKey, ...]:
        return tuple((port.protocol, port.published_port) for port in self.ports)


def published_tasks(tasks: Iterable[Task]) -> dict[TaskId, PublishedTask]:
    """Those of some tasks that have ports."""
    return {
        task.id: PublishedTask(task.attachments[0].address, task.ports)
        for task in tasks
        if task.ports and task.attachments
    }


def holder_of(published: Mapping[TaskId, PublishedTask], wanted: PublishedTask) -> TaskId | None:
    """A task that has one of the wanted ports."""
    keys = set(wanted.keys)
    return next((task_id for task_id, task in published.items() if keys & set(task.keys)), None)


def ports_table(published: Iterable[PublishedTask], subnets: Iterable[str]) -> Table:
    translations = _translations(published)
    if not translations:
        return Table(TABLE)
    local = 'iifname != "lo" ip {} 127.0.0.0/8 drop'
    ours = f'oifname "{BRIDGE_PREFIX}*"'
    to_ports = Chain(
        ("fib daddr type local jump published",),
        f"nat hook prerouting priority {DESTINATION_PRIORITY}",
    )
    return Table(
        TABLE,
        {
            "guard": Chain(
                (local.format("saddr"), local.format("daddr")),
                f"filter hook prerouting priority {GUARD_PRIORITY}",
            ),
            "published": Chain(tuple(translations)),
            "prerouting": to_ports,
            "output": Chain(to_ports.rules, f"nat hook output priority {DESTINATION_PRIORITY}"),
            "postrouting": Chain(
                (
                    f"{ours} ip saddr 127.0.0.0/8 ct status dnat masquerade",
                    *(
                        f"{ours} ip saddr {subnet} ip daddr {subnet} ct status dnat masquerade"
                        for subnet in sorted(set(subnets))
                    ),
                ),
                f"nat hook postrouting priority {SOURCE_PRIORITY}",
            ),
        },
    )


def _translations(published: Iterable[PublishedTask]) -> list[str]:
    """One lookup for each protocol, however many ports it has."""
    places: dict[str, dict[int, str]] = {}
    for task in published:
        for port in task.ports:
            place = f"{task.address} . {port.target_port}"
            places.setdefault(port.protocol, {})[port.published_port] = place
    return [
        f"dnat ip addr . port to {protocol} dport map {{ {_elements(places[protocol])} }}"
        for protocol in PROTOCOLS
        if protocol in places
    ]


def _elements(places: Mapping[int, str]) -> str:
    return ", ".join(f"{number} : {places[number]}" for number in sorted(places))
