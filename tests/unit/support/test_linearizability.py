"""The judge is judged first: known good and bad histories, and a slow judge of another make."""

import itertools
import math
import random
from collections.abc import Sequence

import pytest
from support.linearizability import Kind, Operation, Undecided, check, step

RANDOM_HISTORIES = 1500


def put(value: str, start: float, end: float = math.inf, key: str = "k") -> Operation:
    return Operation(key, Kind.PUT, start, end, value)


def get(value: str | None, start: float, end: float, key: str = "k") -> Operation:
    return Operation(key, Kind.GET, start, end, value)


def delete(start: float, end: float = math.inf) -> Operation:
    return Operation("k", Kind.DELETE, start, end)


def swap(
    expected: str | None, value: str, start: float, end: float = math.inf, succeeded: bool = True
) -> Operation:
    return Operation("k", Kind.SWAP, start, end, value, expected, succeeded)


GOOD = {
    "nothing happened": [],
    "one after the other": [put("1", 0, 1), get("1", 2, 3), delete(4, 5), get(None, 6, 7)],
    "a read during a write may see either value": [
        put("1", 0, 1),
        put("2", 2, 9),
        get("1", 3, 4),
        get("2", 5, 6),
    ],
    "a lost answer's write shows late": [put("1", 0), get(None, 1, 2), get("1", 50, 51)],
    "a lost answer's write never shows": [put("1", 0), get(None, 1, 2), get(None, 50, 51)],
    "a lost delete shows late": [
        put("1", 0, 1),
        delete(2),
        get("1", 3, 4),
        get(None, 5, 6),
        get(None, 7, 8),
    ],
    "two swaps at once, one of which wins": [
        put("1", 0, 1),
        swap("1", "2", 2, 9),
        swap("1", "3", 2, 9, succeeded=False),
        get("2", 10, 11),
    ],
    "an end and a beginning at one instant may overlap": [put("1", 0, 1), get(None, 1, 2)],
    "keys do not order each other": [
        put("1", 0, 1, "a"),
        get(None, 2, 3, "b"),
        put("2", 4, 5, "b"),
        get("1", 6, 7, "a"),
    ],
}

BAD = {
    "a stale read: an old leader answers from its own memory": [
        put("1", 0, 1),
        put("2", 2, 3),
        get("1", 4, 5),
    ],
    "a lost write": [put("1", 0, 1), get(None, 2, 3)],
    "a value that nobody wrote": [get("ghost", 0, 1)],
    "time runs backwards between two readers": [
        put("1", 0, 1),
        put("2", 2, 10),
        get("2", 3, 4),
        get("1", 5, 6),
    ],
    "a write with a lost answer shows, and then does not": [
        put("1", 0),
        get("1", 1, 2),
        get(None, 3, 4),
    ],
    "a write shows before it was asked for": [get("1", 0, 1), put("1", 2, 3)],
    "two swaps of the same value both win": [
        put("1", 0, 1),
        swap("1", "2", 2, 9),
        swap("1", "3", 2, 9),
    ],
    "a swap fails though the value was there": [
        put("1", 0, 1),
        swap("1", "2", 2, 3, succeeded=False),
    ],
    "a deleted key comes back": [put("1", 0, 1), delete(2, 3), get("1", 4, 5)],
    "one good key does not excuse another": [
        put("1", 0, 1, "a"),
        get("1", 2, 3, "a"),
        put("1", 0, 1, "b"),
        get(None, 2, 3, "b"),
    ],
}


@pytest.mark.parametrize("name", GOOD)
def test_a_possible_history_is_accepted(name: str) -> None:
    assert check(GOOD[name]) is None


@pytest.mark.parametrize("name", BAD)
def test_an_impossible_history_is_refused(name: str) -> None:
    assert check(BAD[name]) is not None


def test_a_violation_names_the_key_and_what_could_not_be_placed() -> None:
    stale = BAD["a stale read: an old leader answers from its own memory"]
    violation = check([*stale, get(None, 0, 1, "other")])
    assert violation is not None
    assert (violation.key, violation.explained, violation.total) == ("k", 2, 3)
    assert violation.stuck_at == (stale[2],)


def test_a_history_beyond_the_bound_is_undecided_rather_than_accepted() -> None:
    crowd = [put(str(n), 0, 100) for n in range(24)]
    # One of them was last, and cannot have been followed by another's value.
    reads = [get(str(n), 101 + n, 101.5 + n) for n in (1, 2)]
    with pytest.raises(Undecided, match="26 operations on 'k'"):
        check([*crowd, *reads], steps_max=10_000)


def test_a_long_history_with_many_clients_is_decided() -> None:
    """As long as a test of real processes makes them: the cache keeps it from exploding."""
    rng = random.Random(7)
    history: list[Operation] = []
    for key, value in itertools.product(range(5), range(600)):
        start = value * 1.0
        history.append(put(f"{value}", start, start + 0.9 + rng.random(), f"k{key}"))
    # Each write overlaps its successor at most; reads see what was certainly the last.
    done = [one for one in history if one.key == "k0"]
    assert check(done) is None
    assert check([*history, get("0", 700, 701, "k4")]) is not None


# Against all orders.


def explained_by_some_order(operations: Sequence[Operation]) -> bool:
    """Straight from the definition: any choice of the unknown ones, in any order that respects
    time, run one by one."""
    known = [one for one in operations if one.is_known]
    unknown = [one for one in operations if not one.is_known]
    for size in range(len(unknown) + 1):
        for chosen in itertools.combinations(unknown, size):
            for order in itertools.permutations([*known, *chosen]):
                if _respects_time(order) and _runs(order):
                    return True
    return False


def _respects_time(order: Sequence[Operation]) -> bool:
    return all(
        later.return_s >= earlier.call_s for earlier, later in itertools.combinations(order, 2)
    )


def _runs(order: Sequence[Operation]) -> bool:
    state = None
    for operation in order:
        possible, state = step(state, operation)
        if not possible:
            return False
    return True


def random_history(rng: random.Random) -> list[Operation]:
    history = []
    for _ in range(rng.randint(1, 5)):
        start = rng.randint(0, 8)
        end = start + rng.randint(1, 5)
        value = rng.choice("ab")
        match rng.randint(0, 3):
            case 0:
                history.append(get(rng.choice(["a", "b", None]), start, end))
            case 1:
                history.append(put(value, start, rng.choice([end, math.inf])))
            case 2:
                history.append(delete(start, rng.choice([end, math.inf])))
            case _:
                expected = rng.choice(["a", "b", None])
                limit = rng.choice([end, math.inf])
                history.append(swap(expected, value, start, limit, rng.random() < 0.5))
    return history


def test_it_agrees_with_trying_every_order() -> None:
    seed = random.SystemRandom().getrandbits(32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    verdicts = []
    for _ in range(RANDOM_HISTORIES):
        history = random_history(rng)
        expected = explained_by_some_order(history)
        assert (check(history) is None) == expected, history
        verdicts.append(expected)
    assert 0.1 < sum(verdicts) / len(verdicts) < 0.9, "both kinds of history were tried"
