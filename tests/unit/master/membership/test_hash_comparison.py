"""Which difference between the masters' states raises the alarm."""

from essaim_master.hash_comparison import HashComparison, ReportedHash


def reports(revision: int, **hashes: str) -> dict[str, ReportedHash]:
    return {name: ReportedHash(revision, value) for name, value in hashes.items()}


def test_equal_states_are_silent() -> None:
    comparison = HashComparison("m1")
    comparison.compare(10, "aa", reports(10, m2="aa", m3="aa"))
    assert comparison.alarms == ()
    assert not comparison.wants_another


def test_a_difference_is_checked_again_before_it_is_an_alarm() -> None:
    comparison = HashComparison("m1")
    comparison.compare(10, "aa", reports(10, m2="bb", m3="aa"))
    assert comparison.alarms == ()
    assert comparison.wants_another
    comparison.compare(12, "cc", reports(12, m2="dd", m3="cc"))
    (alarm,) = comparison.alarms
    assert "the state of m2 differs from that of m1 at revision 12 (dd and cc)" in alarm
    assert not comparison.wants_another


def test_a_difference_that_goes_away_was_none() -> None:
    comparison = HashComparison("m1")
    comparison.compare(10, "aa", reports(10, m2="bb"))
    comparison.compare(12, "cc", reports(12, m2="cc"))
    comparison.compare(14, "dd", reports(14, m2="ee"))
    assert comparison.alarms == ()


def test_an_alarm_stands_until_the_states_are_equal_and_the_master_said_so() -> None:
    comparison = HashComparison("m1")
    comparison.compare(10, "aa", reports(10, m2="bb"))
    comparison.compare(12, "cc", reports(12, m2="dd"))
    comparison.compare(14, "ee", reports(14))  # m2 is away: that proves nothing.
    assert len(comparison.alarms) == 1
    comparison.compare(16, "ff", reports(16, m2="ff"))
    assert comparison.alarms == ()


def test_a_hash_of_another_moment_is_not_compared() -> None:
    comparison = HashComparison("m1")
    for revision in (10, 12):
        comparison.compare(revision, "aa", reports(revision - 1, m2="bb"))
    assert comparison.alarms == ()
