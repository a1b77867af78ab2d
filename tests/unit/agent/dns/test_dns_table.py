"""However the table came to be, it is that of the last picture."""

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from support.dns_tables import (
    AWAY,
    BACK,
    FRONT,
    endpoint,
    network,
    picture,
    service,
    table_of,
    task,
)

from essaim_agent.dns.picture import CHANGE_FACTS_MAX, changes
from essaim_agent.dns.resolver import TYPE_A, TYPE_PTR, Question, resolve
from essaim_agent.dns.table import Change, Table
from essaim_agent.network import NetworkPicture
from essaim_shared.messages import Endpoint

STATES = ("starting", "serving", "draining")
NETWORKS = (FRONT, BACK, AWAY)
NAMES = [
    *("web", "db", "w", "web.1", "web.2", "db.1", "tasks.web", "tasks.db", "host-1", "a.s"),
    *("web.front", "db.back", "away", "web.away", "1.0.1.10.in-addr.arpa"),
    *("2.0.2.10.in-addr.arpa", "9.0.201.10.in-addr.arpa", "example.com"),
]

endpoints = st.builds(
    endpoint,
    st.sampled_from(["web.1", "web.2", "db.1"]),
    st.sampled_from(["10.1.0.1", "10.2.0.2", "10.1.0.3"]),
    st.sampled_from(NETWORKS),
    st.sampled_from(STATES),
    st.sampled_from(["", "host-1", "HOST-1"]),
)
bridges = st.builds(
    Endpoint,
    network_id=st.sampled_from(NETWORKS),
    address=st.just("10.1.0.1"),
    node_address=st.sampled_from(["192.0.2.1", "192.0.2.2"]),
)
services = st.builds(
    service,
    st.sampled_from(["web", "db", "s_a"]),
    st.sampled_from(["", "10.201.0.9"]),
    st.sampled_from(NETWORKS),
    st.sampled_from([(), ("w",), ("W", "w"), ("db",)]),
    st.sampled_from(["", "s"]),
)
pictures = st.builds(
    lambda items, networks, tasks, servers: msgspec.structs.replace(
        picture(*items, networks=tuple(networks), tasks=tasks),
        nameservers=dict.fromkeys(tasks, servers) if servers else {},
    ),
    st.lists(endpoints | services | bridges, max_size=8),
    st.sets(st.sampled_from(NETWORKS)),
    st.dictionaries(
        st.sampled_from(["t1", "t2"]),
        st.sampled_from([task((FRONT, "10.1.0.1")), task((BACK, "10.2.0.2"), (FRONT, "10.1.0.3"))]),
        max_size=2,
    ),
    st.sampled_from([(), ("192.0.2.53",), ("no address", "192.0.2.54")]),
)


def told(table: Table) -> object:
    """Everything that can be asked of a table."""
    return (
        table.facts,
        table.sources,
        table.servers,
        [
            resolve(table, networks, Question(name, kind))
            for networks in ((FRONT,), (BACK, FRONT), (AWAY,), ())
            for name in NAMES
            for kind in (TYPE_A, TYPE_PTR)
        ],
    )


@settings(max_examples=150, deadline=None)
@given(st.lists(pictures, min_size=1, max_size=4))
def test_changes_lead_from_any_picture_to_any_other(steps: list[NetworkPicture]) -> None:
    table, last = Table(), NetworkPicture()
    for step in steps:
        for change in changes(last, step):
            table.apply(change)
        last = step
        assert told(table) == told(table_of(step))
    for change in changes(last, NetworkPicture()):
        table.apply(change)
    assert table.facts == 0, "nothing stays behind"
    assert not table._networks
    assert not table.servers
    assert not table._known
    assert not table._network_names


@settings(max_examples=80, deadline=None)
@given(pictures, pictures)
def test_what_two_pictures_share_is_never_missing_between_them(
    old: NetworkPicture, new: NetworkPicture
) -> None:
    """A change that is told in pieces is no moment without a name that both have."""
    whole = [fact for change in changes(old, new) for fact in facts_of(change)]
    table = table_of(old)
    for field, fact in whole:
        table.apply(msgspec.structs.replace(Change(), **{field: (fact,)}))
        for entry in old.services & new.services:
            assert table.services_called(entry.network_id, entry.name)


def facts_of(change: Change) -> list[tuple[str, object]]:
    return [(field, fact) for field in change.__struct_fields__ for fact in getattr(change, field)]


def test_pictures_of_the_same_names_need_no_change() -> None:
    old = picture(service("web", "10.201.0.2"), endpoint("web.1", "10.1.0.11"))
    moved = msgspec.structs.replace(endpoint("web.1", "10.1.0.11"), node_address="192.0.2.9")
    other = msgspec.structs.replace(network(FRONT), mtu=8950, gateway="10.1.0.9")
    new = NetworkPicture(
        networks={**old.networks, FRONT: other},
        endpoints=frozenset((moved,)),
        services=old.services,
    )
    assert changes(old, new) == []
    assert changes(old, old) == []


def test_one_task_more_is_a_change_of_one_fact_among_thousands() -> None:
    many = [endpoint(f"web.{slot}", f"10.1.{slot // 250}.{slot % 250}") for slot in range(3_000)]
    old = picture(service("web"), *many)
    one = endpoint("web.3000", "10.1.20.1")
    new = picture(service("web"), *many, one)
    (change,) = changes(old, new)
    assert change.size == 1
    assert change.addresses[0].address == "10.1.20.1"


def test_a_large_picture_is_told_in_pieces_that_end() -> None:
    many = [endpoint(f"web.{slot}", f"10.1.{slot // 250}.{slot % 250}") for slot in range(2_500)]
    pieces = changes(NetworkPicture(), picture(service("web"), *many))
    assert [piece.size for piece in pieces][:-1] == [CHANGE_FACTS_MAX] * (len(pieces) - 1)
    assert sum(piece.size for piece in pieces) == 2_500 + 1 + 2


def test_gateways_and_tasks_of_other_networks_are_not_told() -> None:
    bridge = Endpoint(network_id=FRONT, address="10.1.0.1", node_address="192.0.2.1")
    wanted = picture(bridge, endpoint("far.1", "10.3.0.2", AWAY), networks=(FRONT,))
    (change,) = changes(NetworkPicture(), wanted)
    assert change.size == 1
    assert change.networks[0].network_id == FRONT


def test_a_change_names_the_networks_whose_answers_may_be_others() -> None:
    table = table_of(picture(service("web"), service("db", network_id=BACK)))
    (change,) = changes(
        picture(service("web")), picture(service("web"), endpoint("web.1", "10.1.0.11"))
    )
    assert table.apply(change) == {FRONT}
