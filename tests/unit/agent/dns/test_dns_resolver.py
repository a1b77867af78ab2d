"""What a task that asks for a name is told."""

import pytest
from support.dns_tables import (
    AWAY,
    BACK,
    FRONT,
    endpoint,
    picture,
    service,
    table_of,
    task_id_of,
)

from essaim_agent.dns.resolver import (
    EMPTY,
    FORWARD,
    MISSING,
    SLIP,
    TASKS_TTL_S,
    TYPE_A,
    TYPE_PTR,
    VIP_TTL_S,
    Answer,
    Forward,
    Question,
    resolve,
)
from essaim_agent.dns.table import Table

TYPE_AAAA, TYPE_MX, TYPE_ANY = 28, 15, 255

CLUSTER = table_of(
    picture(
        service("web", "10.201.0.2", aliases=("www", "Shop.Example")),
        endpoint("web.1", "10.1.0.11"),
        endpoint("web.2", "10.1.0.12", hostname="c0ffee000002"),
        endpoint("web.3", "10.1.0.13", state="starting"),
        endpoint("web.4", "10.1.0.14", state="draining"),
        # Names lead to the tasks themselves.
        service("db", network_id=BACK, aliases=("store",)),
        endpoint("db.1", "10.2.0.21", BACK, hostname="db-main"),
        endpoint("db.2", "10.2.0.22", BACK),
        service("idle", network_id=BACK),
        endpoint("idle.1", "10.2.0.31", BACK, state="starting"),
        # Another service of the same alias, one without an address, and one of a stack.
        service("cache", "10.202.0.5", BACK, aliases=("store",)),
        service("shop_api", "10.201.0.3", stack="shop", aliases=("api",)),
        # On both networks, with an address on each.
        service("log", "10.201.0.9"),
        service("log", "10.202.0.9", BACK),
        # Known because its ports are published; this node is not on its network.
        service("far", "10.203.0.2", AWAY, aliases=("far-alias",), stack=""),
        endpoint("far.1", "10.3.0.2", AWAY),
    )
)
BOTH = (FRONT, BACK)


def ask(
    name: str,
    networks: tuple[str, ...] = BOTH,
    kind: int = TYPE_A,
    table: Table = CLUSTER,
) -> Answer | Forward:
    return resolve(table, networks, Question(name, kind))  # type: ignore[arg-type]


def addresses(name: str, networks: tuple[str, ...] = BOTH) -> list[str]:
    answer = ask(name, networks)
    assert isinstance(answer, Answer), f"{name} was to be asked outside"
    assert answer.code == "noerror", f"{name} is missing"
    return list(answer.addresses)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("web", ["10.201.0.2"]),
        ("www", ["10.201.0.2"]),
        ("shop.example", ["10.201.0.2"]),
        ("web.front", ["10.201.0.2"]),
        ("www.front", ["10.201.0.2"]),
        ("tasks.web", ["10.1.0.11", "10.1.0.12"]),
        ("tasks.www", ["10.1.0.11", "10.1.0.12"]),
        ("tasks.web.front", ["10.1.0.11", "10.1.0.12"]),
        ("db", ["10.2.0.21", "10.2.0.22"]),
        ("db.back", ["10.2.0.21", "10.2.0.22"]),
        ("tasks.db", ["10.2.0.21", "10.2.0.22"]),
        ("store", ["10.2.0.21", "10.2.0.22", "10.202.0.5"]),
        ("shop_api", ["10.201.0.3"]),
        ("api", ["10.201.0.3"]),
        ("api.shop", ["10.201.0.3"]),
        ("api.shop.front", ["10.201.0.3"]),
        ("tasks.api.shop", []),
        ("web.1", ["10.1.0.11"]),
        ("web.1.front", ["10.1.0.11"]),
        (f"web.1.{task_id_of('web.1')}", ["10.1.0.11"]),
        (f"web.1.{task_id_of('web.1')}.front", ["10.1.0.11"]),
        ("web.3", ["10.1.0.13"]),
        ("web.4", ["10.1.0.14"]),
        ("c0ffee000002", ["10.1.0.12"]),
        ("db-main", ["10.2.0.21"]),
        ("db-main.back", ["10.2.0.21"]),
    ],
)
def test_names_of_the_networks_of_a_task(name: str, expected: list[str]) -> None:
    assert addresses(name) == expected


def test_the_first_network_of_the_task_that_knows_a_name_answers() -> None:
    assert addresses("log", (FRONT, BACK)) == ["10.201.0.9"]
    assert addresses("log", (BACK, FRONT)) == ["10.202.0.9"]
    assert addresses("log.back", (FRONT, BACK)) == ["10.202.0.9"]


def test_a_service_without_a_task_that_serves_keeps_its_address() -> None:
    assert addresses("cache") == ["10.202.0.5"]


def test_names_that_lead_to_tasks_are_there_and_empty_when_none_serves() -> None:
    assert addresses("idle") == []
    assert addresses("tasks.idle") == []
    assert addresses("tasks.cache") == []


def test_while_an_update_replaces_a_task_its_name_means_the_one_that_serves() -> None:
    table = table_of(
        picture(
            service("web"),
            endpoint("web.1", "10.1.0.11", state="draining", hostname="w1"),
            endpoint("web.1", "10.1.0.15", hostname="w1", task_id=task_id_of("newer")),
        )
    )
    for name in ("web", "web.1", "w1"):
        answer = ask(name, table=table)
        assert isinstance(answer, Answer)
        assert answer.addresses == ("10.1.0.15",)


def test_a_service_comes_before_a_hostname_of_the_same_letters() -> None:
    table = table_of(
        picture(service("web", "10.201.0.2"), endpoint("web.1", "10.1.0.11", hostname="web"))
    )
    assert ask("web", table=table) == Answer(addresses=("10.201.0.2",), ttl_s=VIP_TTL_S)


def test_how_long_an_answer_may_be_kept() -> None:
    for name, ttl_s in (("web", VIP_TTL_S), ("db", TASKS_TTL_S), ("store", TASKS_TTL_S)):
        answer = ask(name)
        assert isinstance(answer, Answer)
        assert answer.ttl_s == ttl_s, name


@pytest.mark.parametrize("kind", [TYPE_AAAA, TYPE_MX, TYPE_ANY, TYPE_PTR])
@pytest.mark.parametrize("name", ["web", "tasks.web", "web.1", "db-main", "api.shop"])
def test_our_names_have_ipv4_addresses_and_nothing_else(name: str, kind: int) -> None:
    assert ask(name, kind=kind) == EMPTY


@pytest.mark.parametrize(
    "name",
    [
        *("db", "store", "tasks.db", "db.back", "tasks.db.back", "db.1"),
        f"db.1.{task_id_of('db.1')}",
        *("far", "far-alias", "far.1", "tasks.far"),
    ],
)
def test_names_of_networks_that_a_task_is_not_on_are_missing_and_asked_nowhere(name: str) -> None:
    assert ask(name, networks=(FRONT,)) == MISSING


@pytest.mark.parametrize("name", ["nobody", "db-main", "localhost", "web.9999", "a.b.10"])
def test_what_cannot_mean_anything_outside_is_asked_nowhere(name: str) -> None:
    assert ask(name, networks=(FRONT,)) in (SLIP, MISSING)


@pytest.mark.parametrize(
    "name",
    [
        *("", "example.com", "www.example.com", "web.example.com", "db.example.com"),
        *("tasks.example.com", "example.front", "net.front"),
    ],
)
def test_other_names_are_asked_outside(name: str) -> None:
    assert ask(name) == FORWARD


def test_a_task_that_is_on_internal_networks_only_asks_nobody_outside() -> None:
    table = table_of(picture(service("web", "10.201.0.2"), internal=(FRONT,)))
    assert ask("web", (FRONT,), table=table) == Answer(addresses=("10.201.0.2",), ttl_s=VIP_TTL_S)
    for name, kind in (("example.com", TYPE_A), ("8.8.8.8.in-addr.arpa", TYPE_PTR)):
        assert ask(name, (FRONT,), kind, table) == SLIP
        assert ask(name, (FRONT, BACK), kind, table) == FORWARD


def test_a_task_on_no_network_has_no_names_at_all() -> None:
    assert ask("web", networks=()) == MISSING
    assert ask("example.com", networks=()) == SLIP


# Reverse names.


def reverse(address: str) -> str:
    return ".".join(reversed(address.split("."))) + ".in-addr.arpa"


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("10.1.0.11", f"web.1.{task_id_of('web.1')}.front"),
        ("10.1.0.13", f"web.3.{task_id_of('web.3')}.front"),
        ("10.2.0.21", f"db.1.{task_id_of('db.1')}.Back"),
        ("10.201.0.2", "web.front"),
        ("10.202.0.9", "log.Back"),
    ],
)
def test_addresses_have_names_that_lead_back(address: str, expected: str) -> None:
    answer = ask(reverse(address), kind=TYPE_PTR)
    assert isinstance(answer, Answer)
    assert answer.names == (expected,)
    assert addresses(expected.lower()) == [address]


@pytest.mark.parametrize("address", ["10.1.0.1", "10.1.0.200", "10.201.0.77"])
def test_addresses_of_nobody_have_no_name(address: str) -> None:
    assert ask(reverse(address), kind=TYPE_PTR) == MISSING


def test_addresses_of_networks_that_a_task_is_not_on_have_none_either() -> None:
    assert ask(reverse("10.2.0.21"), (FRONT,), TYPE_PTR) == MISSING


@pytest.mark.parametrize(
    "name",
    [
        *("8.8.8.8.in-addr.arpa", "0.1.10.in-addr.arpa", "x.1.1.10.in-addr.arpa"),
        *("11.0.1.10.9.in-addr.arpa", "999.0.1.10.in-addr.arpa", "b.a.ip6.arpa"),
    ],
)
def test_reverse_names_of_others_are_asked_outside(name: str) -> None:
    assert ask(name, kind=TYPE_PTR) == FORWARD


def test_a_reverse_name_has_no_address() -> None:
    assert ask(reverse("10.1.0.11"), kind=TYPE_A) == EMPTY


def test_a_name_that_the_protocol_cannot_carry_is_not_told() -> None:
    long = picture(service("web"), endpoint("web.1", "10.1.0.11", hostname="h"))
    networks = {
        network_id: network.__class__(
            network_id=network.network_id,
            name="n" * 64,
            vni=network.vni,
            subnet=network.subnet,
            mtu=network.mtu,
            gateway=network.gateway,
        )
        for network_id, network in long.networks.items()
    }
    table = table_of(picture().__class__(networks, long.endpoints, long.services))
    assert ask(reverse("10.1.0.11"), kind=TYPE_PTR, table=table) == MISSING
