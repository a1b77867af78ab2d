"""What the agent knows of its networks, as changes of the name server's table. Pure.

Two pictures differ by little and share the rest: sets of thousands are compared by the hashes that
they already hold, and only what differs is made into facts.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import msgspec

from essaim_agent.dns.resolv_conf import addresses_of
from essaim_agent.dns.table import AddressFact, Change, NetworkFact, ServiceFact, SourceFact
from essaim_agent.network import NetworkPicture
from essaim_shared.ids import ServiceId
from essaim_shared.messages import Endpoint, NodeNetwork, ServiceEntry

CHANGE_FACTS_MAX = 1_000
"""In one message to the name server: between two of them it answers questions."""

T = TypeVar("T")
F = TypeVar("F")


def changes(old: NetworkPicture, new: NetworkPicture) -> list[Change]:
    """The way from one to the other, in pieces; nothing when all names are the same.

    Additions come before removals, so that between two pieces no name is missing that both
    pictures have.
    """
    old_networks, new_networks = set(old.networks.values()), set(new.networks.values())
    networks = _difference(
        old_networks - new_networks,
        new_networks - old_networks,
        _network_fact,
        lambda _: new_networks,
    )
    services = _difference(
        old.services - new.services,
        new.services - old.services,
        _service_fact,
        lambda gone: _with_ids(new, {service.service_id for service in gone}),
    )
    addresses = _difference(
        _left_out(old, new),
        _left_out(new, old),
        _address_fact,
        lambda gone: _at_addresses(new, {endpoint.address for endpoint in gone}),
    )
    old_sources, new_sources = _sources(old), _sources(new)
    kinds = (networks, services, addresses, (old_sources - new_sources, new_sources - old_sources))
    return list(_pieces(added=[kind[1] for kind in kinds], removed=[kind[0] for kind in kinds]))


def _difference(
    gone: Iterable[T],
    came: Iterable[T],
    fact_of: Callable[[T], F],
    left_beside: Callable[[Sequence[T]], Iterable[T]],
) -> tuple[set[F], set[F]]:
    """Facts that went, and facts that came.

    A fact holds less than what it is made of, so two things can make the same one: it goes with
    the last of them. `left_beside` finds those that can make the same as these.
    """
    gone = tuple(gone)
    gone_facts, came_facts = set(map(fact_of, gone)), set(map(fact_of, came))
    removed, added = gone_facts - came_facts, came_facts - gone_facts
    if removed:
        removed.difference_update(map(fact_of, left_beside(gone)))
    return removed, added


def _with_ids(picture: NetworkPicture, ids: set[ServiceId]) -> Iterable[ServiceEntry]:
    return [service for service in picture.services if service.service_id in ids]


def _at_addresses(picture: NetworkPicture, addresses: set[str]) -> Iterable[Endpoint]:
    found = [endpoint for endpoint in picture.endpoints if endpoint.address in addresses]
    return [endpoint for endpoint in found if _is_told(picture, endpoint)]


def _left_out(one: NetworkPicture, other: NetworkPicture) -> list[Endpoint]:
    """Addresses of tasks, on networks that the node is on, in the one picture and not in the
    other."""
    missing = one.networks.keys() - other.networks.keys()
    shared = one.endpoints & other.endpoints if missing else frozenset()
    return [
        *(endpoint for endpoint in one.endpoints - other.endpoints if _is_told(one, endpoint)),
        *(endpoint for endpoint in shared if endpoint.task_id and endpoint.network_id in missing),
    ]


def _is_told(picture: NetworkPicture, endpoint: Endpoint) -> bool:
    return bool(endpoint.task_id) and endpoint.network_id in picture.networks


def _sources(picture: NetworkPicture) -> set[SourceFact]:
    return {
        SourceFact(
            attachment.address,
            tuple(other.network_id for other in attachments),
            addresses_of(picture.nameservers.get(task_id, ())),
        )
        for task_id, attachments in picture.tasks.items()
        for attachment in attachments
    }


def _network_fact(network: NodeNetwork) -> NetworkFact:
    return NetworkFact(
        network.network_id, network.name, network.subnet, network.vip_subnet, network.is_internal
    )


def _service_fact(service: ServiceEntry) -> ServiceFact:
    return ServiceFact(
        service.network_id,
        service.service_id,
        service.name,
        service.stack,
        service.aliases,
        service.vip,
    )


def _address_fact(endpoint: Endpoint) -> AddressFact:
    return AddressFact(
        endpoint.network_id,
        endpoint.address,
        endpoint.service_id,
        endpoint.task_id,
        endpoint.slot,
        endpoint.hostname,
        endpoint.state,
    )


def _pieces(added: list[set[Any]], removed: list[set[Any]]) -> Iterator[Change]:
    """`added` and `removed` in the order of the fields of Change."""
    fields = Change.__struct_fields__
    facts = [
        (field, fact)
        for field, kind in zip(fields, (*added, *removed), strict=True)
        for fact in kind
    ]
    for start in range(0, len(facts), CHANGE_FACTS_MAX):
        piece: dict[str, list[Any]] = {}
        for field, fact in facts[start : start + CHANGE_FACTS_MAX]:
            piece.setdefault(field, []).append(fact)
        yield msgspec.structs.replace(
            Change(), **{field: tuple(items) for field, items in piece.items()}
        )
