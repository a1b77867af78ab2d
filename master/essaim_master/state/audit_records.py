"""The audit log as the state holds it: what a record says of a change, and which records go.
Pure."""

from collections.abc import Iterable
from typing import Final

from essaim_master.state.cluster_state import ClusterState
from essaim_master.state.keys import Kind, identifier_of, kind_of
from essaim_master.state.writes import Writes
from essaim_shared.ids import NetworkId, NodeId, PayloadId, ServiceId
from essaim_shared.limits import AUDIT_RECORDS_MAX
from essaim_shared.objects import Network, Service
from essaim_shared.payload_objects import Config, Secret

SURPLUS_MIN: Final = 128
"""So many are deleted at once, not one for each that comes."""
NUMBER_DIGITS: Final = 20


def record_number(at_ns: int, writer: str, count: int) -> str:
    """Sorts by time. `count` tells the records of one writer in its life apart, `writer` those of
    different ones; no slash, it becomes the end of a key."""
    return f"{at_ns:0{NUMBER_DIGITS}d}-{writer}-{count}"


def target_of(writes: Writes, state: ClusterState) -> str:
    """The name of the first object that somebody would say the change is of; empty for one of the
    cluster as a whole."""
    for key, after in writes.touched():
        kind = kind_of(key)
        if kind is not None and kind in _NAMED:
            return _name(kind, identifier_of(kind, key), after, state)
    return ""


def surplus_records(numbers: Iterable[str], count: int) -> list[str]:
    """Of all records those to delete, oldest first; none while there are few too many."""
    surplus = count - AUDIT_RECORDS_MAX
    return sorted(numbers)[:surplus] if surplus >= SURPLUS_MIN else []


_NAMED: Final = frozenset(
    {Kind.SERVICE, Kind.NETWORK, Kind.SECRET, Kind.CONFIG, Kind.NODE}
    | {Kind.USER, Kind.MEMBER, Kind.IDENTITY}
)


def _name(kind: Kind, identifier: str, after: object, state: ClusterState) -> str:
    match kind:
        case Kind.SERVICE:
            service = after or state.services.get(ServiceId(identifier))
            return service.spec.name if isinstance(service, Service) else identifier
        case Kind.NETWORK:
            network = after or state.networks.get(NetworkId(identifier))
            return network.name if isinstance(network, Network) else identifier
        case Kind.SECRET | Kind.CONFIG:
            what = "secret" if kind is Kind.SECRET else "config"
            payload = after or state.payloads(what).get(PayloadId(identifier))  # type: ignore[arg-type]
            return payload.name if isinstance(payload, Secret | Config) else identifier
        case Kind.NODE:
            status = state.node_status.get(NodeId(identifier))
            return identifier if status is None else f"{identifier} {status.description.hostname}"
        case _:
            return identifier
