"""Which nodes stand on the hosts of masters: what Docker calls managers. Pure.

It follows from where masters and nodes are, so it is worked out whenever somebody asks: a stored
role would be wrong from the first change of the members on.
"""

from collections.abc import Iterable, Mapping
from typing import Literal, Protocol, TypeVar

from essaim_master.standby.names import base_name
from essaim_shared.ids import MemberId, NodeId
from essaim_shared.objects import NodeStatus

NodeRole = Literal["worker", "manager"]


class Master(Protocol):
    @property
    def id(self) -> MemberId: ...

    @property
    def raft(self) -> str:
        """`HOST:PORT`."""
        ...


M = TypeVar("M", bound=Master)


def masters_beside(masters: Iterable[M], nodes: Mapping[NodeId, NodeStatus]) -> dict[NodeId, M]:
    """The master on each node's host: host and node share the underlay address.

    On one address several masters and nodes may stand (a cluster on loopback): there each master
    goes to the node of its own name, if any; the name that its configuration gives, when it stood
    by.
    """
    by_host: dict[str, list[M]] = {}
    for master in masters:
        by_host.setdefault(host_of(master.raft), []).append(master)
    found: dict[NodeId, M] = {}
    for node_id, status in nodes.items():
        here = by_host.get(status.description.address, [])
        if len(here) > 1:
            name = status.description.hostname
            here = [master for master in here if name in (master.id, base_name(master.id))]
        if here:
            found[node_id] = here[0]
    return found


def host_of(address: str) -> str:
    """The host of `HOST:PORT`, IPv6 without its brackets."""
    return address.rpartition(":")[0].strip("[]")
