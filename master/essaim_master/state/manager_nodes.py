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

    On one address several masters and nodes may stand (a cluster on loopback): there a master
    goes to the node of its own name, which is the one that its configuration gives if it stood by.
    A master that is alone on its address and has no node of its name goes to those that are there.
    """
    by_host: dict[str, list[M]] = {}
    for master in masters:
        by_host.setdefault(host_of(master.raft), []).append(master)
    here: dict[str, list[NodeId]] = {}
    for node_id, status in nodes.items():
        if status.description.address in by_host:
            here.setdefault(status.description.address, []).append(node_id)
    found: dict[NodeId, M] = {}
    for address, node_ids in here.items():
        beside = by_host[address]
        by_name = {name: master for master in beside for name in _names_of(master)}
        names = {node_id: nodes[node_id].description.hostname for node_id in node_ids}
        named = {node_id: by_name[name] for node_id, name in names.items() if name in by_name}
        if len(beside) == 1 and not named:
            named = dict.fromkeys(node_ids, beside[0])
        found.update(named)
    return found


def _names_of(master: Master) -> tuple[str, str]:
    return base_name(master.id), master.id


def host_of(address: str) -> str:
    """The host of `HOST:PORT`, IPv6 without its brackets."""
    return address.rpartition(":")[0].strip("[]")
