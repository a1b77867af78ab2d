"""Which audit records go, and how they are numbered."""

from essaim_master.state.audit_records import SURPLUS_MIN, record_number, surplus_records
from essaim_shared.limits import AUDIT_RECORDS_MAX


def numbers(count):
    return [record_number(at_ns, "h1.api", at_ns) for at_ns in range(count)]


def test_numbers_sort_by_time_whatever_else_they_hold():
    made = [record_number(at_ns, "z" if at_ns < 10 else "a", 9) for at_ns in (1, 9, 10, 10**18)]
    assert made == sorted(made)
    assert record_number(5, "h1.api", 1) != record_number(5, "h1.api", 2)
    assert record_number(5, "h1.api", 1) != record_number(5, "h1.members", 1)
    assert "/" not in made[0]


def test_a_few_too_many_stay():
    count = AUDIT_RECORDS_MAX + SURPLUS_MIN - 1
    assert surplus_records(numbers(count), count) == []


def test_the_oldest_go_in_whatever_order_the_state_has_them():
    count = AUDIT_RECORDS_MAX + SURPLUS_MIN
    known = numbers(count)
    assert surplus_records(reversed(known), count) == known[:SURPLUS_MIN]


def test_nothing_goes_from_a_short_log():
    assert surplus_records([], 0) == []
    assert surplus_records(numbers(5), 5) == []
