"""Who is over the bounds of what an agent has to say, from look to look."""

from collections.abc import Iterator

import pytest

from essaim_master.bus_users.connections import Connection
from essaim_master.bus_users.floods import (
    BYTES_PER_S_MAX,
    CONNECTIONS_MAX,
    LOGIN_MESSAGES,
    MESSAGES_PER_S_MAX,
    FloodLooks,
)

LOOK_S = 0.5


class Watch:
    """Looks every half second at what connections have sent so far."""

    def __init__(self) -> None:
        self.looks = FloodLooks()
        self.now_s = 100.0

    def see(self, *connections: Connection) -> list[str]:
        self.now_s += LOOK_S
        return [flood.bus_key for flood in self.looks.look(connections, self.now_s)]


def growing(bus_key: str, messages_per_s: float, bytes_per_s: float = 0) -> Iterator[Connection]:
    for number in range(1, 100):
        spent_s = number * LOOK_S
        yield Connection(7, int(messages_per_s * spent_s), int(bytes_per_s * spent_s), bus_key)


@pytest.mark.parametrize(
    ("messages_per_s", "bytes_per_s", "is_flood"),
    [
        (MESSAGES_PER_S_MAX, 0, False),
        (MESSAGES_PER_S_MAX + 10, 0, True),
        (500, 2_000_000, False),
        (10, BYTES_PER_S_MAX, False),
        (10, BYTES_PER_S_MAX + 10, True),
    ],
)
def test_two_looks_in_a_row_over_a_bound_are_a_flood(
    messages_per_s: float, bytes_per_s: float, is_flood: bool
) -> None:
    watch, sent = Watch(), growing("UA", messages_per_s, bytes_per_s)
    assert watch.see(next(sent)) == [], "nothing to compare it with"
    assert watch.see(next(sent)) == [], "it may be over in a moment"
    assert watch.see(next(sent)) == (["UA"] if is_flood else [])


def test_everything_said_at_once_after_an_outage_is_none() -> None:
    watch = Watch()
    watch.see(Connection(1, 0, 0, "UA"))
    burst = Connection(1, 50_000, BYTES_PER_S_MAX, "UA")
    assert [watch.see(burst) for _ in range(5)] == [[]] * 5


def test_many_connections_of_one_key_are_one_client() -> None:
    watch = Watch()
    each = MESSAGES_PER_S_MAX * LOOK_S / 4 + 10

    def looks(number: int) -> list[str]:
        return watch.see(*(Connection(cid, int(each * number), 0, "UA") for cid in range(4)))

    assert [looks(number) for number in (1, 2, 3)] == [[], [], ["UA"]]


def test_who_comes_and_goes_is_counted_with_what_was_sent_until_the_end() -> None:
    watch = Watch()
    per_look = int(MESSAGES_PER_S_MAX * LOOK_S)
    seen: list[Connection] = []
    found = []
    for number in range(4):
        seen += [Connection(number * 10 + k, per_look // 10 + 1, 0, "UA") for k in range(10)]
        found.append(watch.see(*seen))
    assert found == [[], [], ["UA"], ["UA"]]


def test_logins_alone_are_a_flood_too() -> None:
    watch = Watch()
    per_look = int(MESSAGES_PER_S_MAX * LOOK_S / LOGIN_MESSAGES) + 1
    found = []
    for number in range(4):
        first = number * per_look
        found.append(watch.see(*(Connection(first + k, 0, 0, "UA") for k in range(per_look))))
    assert found == [[], [], ["UA"], ["UA"]]


def test_a_server_that_was_restarted_counts_from_nothing() -> None:
    watch = Watch()
    assert watch.see(Connection(1, 10_000_000, 0, "UA")) == []
    assert watch.see(Connection(1, 10, 0, "UB")) == []
    assert watch.see(Connection(1, 20, 0, "UB")) == []


def test_others_are_not_taken_along() -> None:
    watch, loud = Watch(), growing("UA", MESSAGES_PER_S_MAX * 10)
    for number in range(1, 4):
        found = watch.see(next(loud), Connection(8, number * 100, 0, "UB"))
    assert found == ["UA"]
    assert watch.see(Connection(9, 10**9, 0, "")) == [], "not logged in yet"


def test_what_a_connection_sent_before_its_end_is_counted_for_who_logged_in() -> None:
    watch, most = Watch(), int(MESSAGES_PER_S_MAX * LOOK_S)
    watch.see()
    assert watch.see(Connection(1, 2 * most, 0, "UA")) == []
    over = Connection(1, 4 * most, 0, "UB", "Client Closed")
    assert watch.see(over) == ["UA"], "not for whom it named on its way"
    assert watch.see(over) == []


def test_a_connection_that_ends_during_the_look_is_still_its_owners() -> None:
    watch, most = Watch(), int(MESSAGES_PER_S_MAX * LOOK_S)
    watch.see()
    ended = [Connection(1, most, 0, "UA"), Connection(1, 2 * most, 0, "", "Client Closed")]
    assert watch.see(*ended) == []
    assert watch.see(ended[1], Connection(2, 2 * most, 0, "UA")) == ["UA"]


@pytest.mark.parametrize("reason", ["Authentication Failure", "Client Closed"])
def test_nobody_is_accused_by_a_name_that_another_gave(reason: str) -> None:
    watch = Watch()
    for number in range(4):
        claims = [Connection(number * 999 + k, 10**6, 0, "UVICTIM", reason) for k in range(500)]
        assert watch.see(*claims) == []


@pytest.mark.parametrize(
    ("count", "is_flood"), [(CONNECTIONS_MAX, False), (CONNECTIONS_MAX + 1, 1)]
)
def test_who_takes_up_the_places_of_others_is_out_however_quietly(
    count: int, is_flood: bool
) -> None:
    watch = Watch()
    idle = [Connection(cid, 0, 0, "UA") for cid in range(count)]
    gone = [Connection(1000 + cid, 0, 0, "UA") for cid in range(CONNECTIONS_MAX)]
    assert watch.see(*idle, *gone) == []
    over = [Connection(one.cid, 0, 0, "", "Client Closed") for one in gone]
    found = [watch.see(*idle, *over) for _ in range(2)]
    assert found == [[], ["UA"] if is_flood else []]
