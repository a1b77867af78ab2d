"""Expressions of crontab(5): what they name, and when they are due around changes of the clock."""

from datetime import datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from essaim_master.control.cron_expression import (
    SECOND_NS,
    latest_until,
    next_after,
    parse_expression,
    zone_named,
)
from essaim_shared.errors import InvalidRequest


def instant_ns(text: str, zone: str = "UTC") -> int:
    local = datetime.fromisoformat(text)
    if local.tzinfo is None:
        local = local.replace(tzinfo=zone_named(zone))
    return int(local.timestamp()) * SECOND_NS


def due(expression: str, after: str, zone: str = "UTC", count: int = 3) -> list[str]:
    """The next times, as local times with their offset."""
    parsed, where = parse_expression(expression), zone_named(zone)
    found = []
    at_ns: int | None = instant_ns(after, zone)
    for _ in range(count):
        assert at_ns is not None
        at_ns = next_after(parsed, where, at_ns)
        assert at_ns is not None
        found.append(
            datetime.fromtimestamp(at_ns // SECOND_NS, where).isoformat(timespec="minutes")
        )
    return found


@pytest.mark.parametrize(
    ("expression", "after", "times"),
    [
        ("*/20 * * * *", "2026-01-01T00:00", ["01-01T00:20", "01-01T00:40", "01-01T01:00"]),
        ("5,35 8-9 * * *", "2026-01-01T08:05", ["01-01T08:35", "01-01T09:05", "01-01T09:35"]),
        ("0 8-18/5 * * *", "2026-01-01T00:00", ["01-01T08:00", "01-01T13:00", "01-01T18:00"]),
        ("0 0 * * mon-fri", "2026-01-02T12:00", ["01-05T00:00", "01-06T00:00", "01-07T00:00"]),
        ("0 0 * * 5-7", "2026-01-01T12:00", ["01-02T00:00", "01-03T00:00", "01-04T00:00"]),
        ("0 0 31 * *", "2026-01-01T00:00", ["01-31T00:00", "03-31T00:00", "05-31T00:00"]),
        ("0 0 1 JAN,jul *", "2026-01-01T00:00", ["07-01T00:00"]),
        ("@hourly", "2026-01-01T00:00", ["01-01T01:00", "01-01T02:00", "01-01T03:00"]),
        ("@daily", "2026-01-01T00:00", ["01-02T00:00", "01-03T00:00", "01-04T00:00"]),
        ("@weekly", "2026-01-01T00:00", ["01-04T00:00", "01-11T00:00", "01-18T00:00"]),
        ("@monthly", "2026-01-01T00:00", ["02-01T00:00", "03-01T00:00", "04-01T00:00"]),
        # Of two day fields without a star either is enough; with one both must match.
        ("0 0 13 * fri", "2026-02-01T00:00", ["02-06T00:00", "02-13T00:00", "02-20T00:00"]),
        ("0 0 */10 * sun", "2026-01-01T00:00", ["01-11T00:00", "02-01T00:00"]),
    ],
)
def test_next_times(expression, after, times):
    found = due(expression, after, count=len(times))
    assert found == [f"2026-{time}+00:00" for time in times]


def test_time_after_which_is_asked_is_not_due_again():
    assert due("30 4 * * *", "2026-05-05T04:30", count=1) == ["2026-05-06T04:30+00:00"]
    assert due("30 4 * * *", "2026-05-05T04:29:59", count=1) == ["2026-05-05T04:30+00:00"]


def test_leap_days_are_found_over_the_years():
    assert due("0 0 29 2 *", "2096-03-01T00:00", count=1) == ["2104-02-29T00:00+00:00"]
    assert due("0 0 29 2 */7", "2088-03-01T00:00", count=1) == ["2128-02-29T00:00+00:00"]


@pytest.mark.parametrize(
    ("expression", "zone", "after", "times"),
    [
        pytest.param(
            "30 2 * * *",
            "Europe/Paris",
            "2026-03-28T12:00",
            ["2026-03-29T03:00+02:00", "2026-03-30T02:30+02:00"],
            id="a skipped time is due when the gap ends",
        ),
        pytest.param(
            "0,15,30 2,3 * * *",
            "Europe/Paris",
            "2026-03-29T00:00",
            ["2026-03-29T03:00+02:00", "2026-03-29T03:15+02:00"],
            id="skipped times that fall on a due one are due once",
        ),
        pytest.param(
            "30 2 * * *",
            "Europe/Paris",
            "2026-10-24T12:00",
            ["2026-10-25T02:30+02:00", "2026-10-26T02:30+01:00"],
            id="a doubled time is due the first time",
        ),
        pytest.param(
            "*/30 2 * * *",
            "Europe/Paris",
            "2026-03-28T12:00",
            ["2026-03-30T02:00+02:00"],
            id="with a star a skipped time is not due",
        ),
        pytest.param(
            "0 * * * *",
            "Europe/Paris",
            "2026-10-25T01:00",
            ["2026-10-25T02:00+02:00", "2026-10-25T02:00+01:00", "2026-10-25T03:00+01:00"],
            id="with a star a doubled time is due twice",
        ),
        pytest.param(
            "45 1 * * *",
            "Australia/Lord_Howe",
            "2026-04-04T12:00",
            ["2026-04-05T01:45+11:00", "2026-04-06T01:45+10:30"],
            id="half an hour comes twice",
        ),
        pytest.param(
            "0 12 30 12 *",
            "Pacific/Apia",
            "2011-12-01T00:00",
            ["2011-12-31T00:00+14:00", "2012-12-30T12:00+14:00"],
            id="a whole day is skipped",
        ),
        pytest.param(
            "* * * * *",
            "America/St_Johns",
            "2010-11-06T23:59-02:30",
            ["2010-11-07T00:00-02:30", "2010-11-06T23:01-03:30", "2010-11-06T23:02-03:30"],
            id="the doubled hour lies around midnight",
        ),
    ],
)
def test_changes_of_the_clock(expression, zone, after, times):
    assert due(expression, after, zone, count=len(times)) == times


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("", "it must have five fields"),
        ("* * * *", "and it has 4"),
        ("* * * * * *", "and it has 6"),
        ("60 * * * *", "minute: '60' is not between 0 and 59"),
        ("* 24 * * *", "hour: '24' is not between 0 and 23"),
        ("* * 0 * *", "day of the month: '0' is not between 1 and 31"),
        ("* * * foo *", "month: 'foo' is not between 1 and 12"),
        ("* * * * 8", "day of the week: '8' is not between 0 and 7"),
        ("*/0 * * * *", "minute: '*/0' has a step of 0"),
        ("5/10 * * * *", "has a step, which needs a range or *"),
        ("9-5 * * * *", "minute: '9-5' ends before it begins"),
        ("1,,2 * * * *", "minute: '' is no number, range or *"),
        ("-1 * * * *", "minute: '-1' is no number, range or *"),
        ("٣ * * * *", "minute: '٣' is no number, range or *"),
        ("0 0 30 2 *", "none of its months has such a day"),
        ("@reboot", "of the @ words there are @hourly"),
    ],
)
def test_what_cannot_be_read_is_refused_by_its_field(expression, message):
    with pytest.raises(InvalidRequest, match=r"schedule '.*' is invalid") as refusal:
        parse_expression(expression)
    assert message in str(refusal.value)


@pytest.mark.parametrize("expression", ["*/" + "9" * 5000 + " * * * *", "* " * 100_000])
def test_an_endless_expression_is_refused_without_repeating_it(expression):
    with pytest.raises(InvalidRequest, match="longer than 1024 characters"):
        parse_expression(expression)


@pytest.mark.parametrize("name", ["Europe/Pariss", "../../etc/passwd", "Europe", "/etc/localtime"])
def test_unknown_zone_is_refused_and_not_taken_for_utc(name):
    with pytest.raises(InvalidRequest, match="is not known to this master"):
        zone_named(name)


ZONES = ("UTC", "Europe/Paris", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu")
EXPRESSIONS = (
    "*/7 * * * *",
    "0 * * * *",
    "30 2 * * *",
    "15 1,2,3 * * *",
    "0 0 1 * *",
    "59 23 * * sun",
    "30 */2 1-15 * fri",
)


@given(
    st.sampled_from(EXPRESSIONS),
    st.sampled_from(ZONES),
    st.integers(1_600_000_000, 1_900_000_000),
)
@settings(max_examples=150, deadline=None)
def test_next_time_is_the_first_that_matches(expression, zone, after_s):
    """Against a walk over the minutes of the real clock."""
    parsed, where = parse_expression(expression), zone_named(zone)
    found_ns = next_after(parsed, where, after_s * SECOND_NS)
    assert found_ns is not None
    assert found_ns > after_s * SECOND_NS
    minute_s = after_s - after_s % 60
    for _ in range(3000):
        minute_s += 60
        if minute_s * SECOND_NS >= found_ns:
            break
        local = datetime.fromtimestamp(minute_s, where)
        is_named = (
            parsed.matches_day(local.date())
            and local.hour in parsed.hours
            and local.minute in parsed.minutes
        )
        # Passed over is only the second coming of a time that is named without a star.
        assert not is_named or (local.fold and not parsed.follows_wall)


@given(
    st.sampled_from(EXPRESSIONS),
    st.sampled_from(ZONES),
    st.integers(1_600_000_000, 1_900_000_000),
    st.integers(0, 40 * 86_400),
)
@settings(max_examples=150, deadline=None)
def test_latest_time_is_the_last_of_those_in_between(expression, zone, after_s, seconds):
    parsed, where = parse_expression(expression), zone_named(zone)
    until_ns = (after_s + seconds) * SECOND_NS
    latest_ns = latest_until(parsed, where, after_s * SECOND_NS, until_ns)
    following_ns = next_after(parsed, where, latest_ns or after_s * SECOND_NS)
    assert following_ns is not None
    assert following_ns > until_ns
    assert latest_ns is None or after_s * SECOND_NS < latest_ns <= until_ns


def test_search_is_short_even_after_years():
    parsed, where = parse_expression("* * * * *"), zone_named("Europe/Paris")
    until_ns = instant_ns("2026-01-01T00:00:30", "Europe/Paris")
    long_ago_ns = until_ns - int(timedelta(days=20_000).total_seconds()) * SECOND_NS
    assert latest_until(parsed, where, long_ago_ns, until_ns) == until_ns - 30 * SECOND_NS
