"""When a schedule is due: the expressions of crontab(5), and their next times. Pure.

An expression has five fields: minute (0-59), hour (0-23), day of the month (1-31), month (1-12 or
jan-dec) and day of the week (0-7 or sun-sat; 0 and 7 are Sunday). A field is a list, parted by
commas, of numbers, ranges `A-B` and `*`, the last two also with a step `/N`. `@hourly`, `@daily`,
`@midnight`, `@weekly`, `@monthly`, `@yearly` and `@annually` stand for what they say.

Days
----
If neither of the day fields begins with `*`, a day matches when *either* matches; else when both
do (Vixie's rule: `*/2` begins with `*`).

Clock changes
-------------
As cron(8) of Vixie and Debian. An expression whose minute or hour field begins with `*` follows
the clock on the wall: it is not due at times that a change skips, and it is due twice in an hour
that comes twice. Any other names times of the day, and each of them is due once on its day: one
that is skipped at the first instant after the gap, one that comes twice the first time. Times that
fall together are due once.

Zones are read by `zoneinfo`: from the host's files, and where it has none from the package tzdata.
Only the API and the leader ask for them, and what they find is not applied by other masters, so
these may differ.
"""

import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from essaim_shared.errors import InvalidRequest

EXPRESSION_LENGTH_MAX = 1024

YEARS_AHEAD_MAX = 40
"""Of the search: after so long each date has fallen on each day of the week (a 29 February on a
Sunday is rarest, and 2100 has none)."""

SECOND_NS = 1_000_000_000

MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")

SHORTHANDS = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}

_LONGEST_MONTHS = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_ITEM = re.compile(r"(?:(\*)|([a-z0-9]+)(?:-([a-z0-9]+))?)(?:/([0-9]+))?")


class CronExpression(msgspec.Struct, frozen=True):
    """A parsed expression; each field as its sorted values."""

    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    """0 is Sunday."""
    is_either_day: bool
    """One of the two day fields is enough."""
    follows_wall: bool
    """The minute or hour field begins with `*`."""

    def matches_day(self, day: date) -> bool:
        if day.month not in self.months:
            return False
        is_day = day.day in self.days
        is_weekday = day.isoweekday() % 7 in self.weekdays
        return is_day or is_weekday if self.is_either_day else is_day and is_weekday


class _Field(msgspec.Struct, frozen=True):
    name: str
    least: int
    most: int
    words: tuple[str, ...] = ()
    """Names of the values from `least` on."""


_FIELDS = (
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day of the month", 1, 31),
    _Field("month", 1, 12, MONTHS),
    _Field("day of the week", 0, 7, DAYS),
)


def parse_expression(text: str) -> CronExpression:
    """Raises InvalidRequest, naming the field."""
    if len(text) > EXPRESSION_LENGTH_MAX:
        raise InvalidRequest(f"the schedule is longer than {EXPRESSION_LENGTH_MAX} characters")
    given = text.strip().lower()
    if given.startswith("@"):
        if given not in SHORTHANDS:
            known = ", ".join(SHORTHANDS)
            raise InvalidRequest(f"schedule '{text}' is invalid: of the @ words there are {known}")
        given = SHORTHANDS[given]
    fields = given.split()
    if len(fields) != len(_FIELDS):
        raise InvalidRequest(
            f"schedule '{text}' is invalid: it must have five fields (minute, hour, day of the "
            f"month, month, day of the week), and it has {len(fields)}"
        )
    minutes, hours, days, months, weekdays = (
        _values(kind, field, text) for kind, field in zip(_FIELDS, fields, strict=True)
    )
    expression = CronExpression(
        minutes=tuple(sorted(minutes)),
        hours=tuple(sorted(hours)),
        days=frozenset(days),
        months=frozenset(months),
        weekdays=frozenset(value % 7 for value in weekdays),
        is_either_day=not fields[2].startswith("*") and not fields[4].startswith("*"),
        follows_wall=fields[0].startswith("*") or fields[1].startswith("*"),
    )
    if not expression.is_either_day and all(
        min(expression.days) > _LONGEST_MONTHS[month - 1] for month in expression.months
    ):
        raise InvalidRequest(f"schedule '{text}' is invalid: none of its months has such a day")
    return expression


def _values(kind: _Field, field: str, text: str) -> set[int]:
    values: set[int] = set()
    for item in field.split(","):
        matched = _ITEM.fullmatch(item)
        if matched is None:
            raise _refusal(kind, text, f"'{item}' is no number, range or *")
        star, first, last, step = matched.groups()
        if step is not None and not (star or last):
            raise _refusal(kind, text, f"'{item}' has a step, which needs a range or *")
        if step is not None and not int(step):
            raise _refusal(kind, text, f"'{item}' has a step of 0")
        least = kind.least if star else _value(kind, first, text)
        most = kind.most if star else _value(kind, last or first, text)
        if least > most:
            raise _refusal(kind, text, f"'{item}' ends before it begins")
        values.update(range(least, most + 1, int(step or 1)))
    return values


def _value(kind: _Field, word: str, text: str) -> int:
    if word in kind.words:
        return kind.words.index(word) + kind.least
    if not word.isdigit() or not kind.least <= int(word) <= kind.most:
        raise _refusal(kind, text, f"'{word}' is not between {kind.least} and {kind.most}")
    return int(word)


def _refusal(kind: _Field, text: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"schedule '{text}' is invalid: {kind.name}: {why}")


def zone_named(name: str) -> tzinfo:
    """Raises InvalidRequest for a zone that this host does not know."""
    if name in ("", "UTC"):
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise InvalidRequest(
            f"time zone '{name}' is not known to this master: give a name such as Europe/Paris"
        ) from None


def next_after(expression: CronExpression, zone: tzinfo, after_ns: int) -> int | None:
    """The first due time later than `after_ns`, both in wall time; None: none in sight."""
    after = datetime.fromtimestamp(after_ns // SECOND_NS, zone)
    # An hour that comes twice may lie around midnight: the day before may still have times, and
    # those of the day after may come first.
    for day in _days(expression, after.date() - timedelta(days=1)):
        later = list(_instants(expression, zone, day, after_ns))
        if later:
            next_day = day + timedelta(days=1)
            if expression.matches_day(next_day):
                later += _instants(expression, zone, next_day, after_ns)
            return min(later)
    return None


def latest_until(
    expression: CronExpression, zone: tzinfo, after_ns: int, until_ns: int
) -> int | None:
    """The last due time later than `after_ns` and not later than `until_ns`."""
    found = next_after(expression, zone, after_ns)
    if found is None or found > until_ns:
        return None
    # By halves, for there may be half a million in a year: after `early_s` one is due in time,
    # after `late_s` none is.
    early_s, late_s = after_ns // SECOND_NS, until_ns // SECOND_NS
    while late_s - early_s > 1:
        middle_s = (early_s + late_s) // 2
        due_ns = next_after(expression, zone, middle_s * SECOND_NS)
        if due_ns is None or due_ns > until_ns:
            late_s = middle_s
        else:
            early_s, found = middle_s, due_ns
    return found


def _days(expression: CronExpression, first: date) -> Iterator[date]:
    """The matching days from `first` on."""
    day = first
    while day.year <= min(first.year + YEARS_AHEAD_MAX, date.max.year - 1):
        if day.month not in expression.months:
            day = (day.replace(day=1) + timedelta(days=31)).replace(day=1)
            continue
        if expression.matches_day(day):
            yield day
        day += timedelta(days=1)


def _instants(expression: CronExpression, zone: tzinfo, day: date, after_ns: int) -> Iterator[int]:
    """The day's due times later than `after_ns`; the first of an hour is enough."""
    folds = (0, 1) if expression.follows_wall else (0,)
    for hour in expression.hours:
        for fold in folds:
            end = datetime(day.year, day.month, day.day, hour, 59, tzinfo=zone, fold=fold)
            if int(end.timestamp()) * SECOND_NS <= after_ns and not _is_skipped(end):
                continue
            for minute in expression.minutes:
                local = datetime(day.year, day.month, day.day, hour, minute, tzinfo=zone, fold=fold)
                instant_ns = _instant_ns(local, skips=expression.follows_wall)
                if instant_ns is not None and instant_ns > after_ns:
                    yield instant_ns
                    break


def _instant_ns(local: datetime, skips: bool) -> int | None:
    """When a local time is there. One that does not exist: never, or when the gap ends."""
    if not _is_skipped(local):
        return int(local.timestamp()) * SECOND_NS
    return None if skips else _end_of_gap_s(local) * SECOND_NS


def _is_skipped(local: datetime) -> bool:
    """Whether the local time does not exist: it does not come back from its instant."""
    back = datetime.fromtimestamp(int(local.timestamp()), local.tzinfo)
    return back.replace(tzinfo=None) != local.replace(tzinfo=None)


def _end_of_gap_s(local: datetime) -> int:
    """The first instant after the gap in which a local time lies (PEP 495: without fold, it is
    counted by the offset before the gap, with it by the one after)."""
    before_s = int(local.replace(fold=1).timestamp())
    after_s = int(local.replace(fold=0).timestamp())
    offset = datetime.fromtimestamp(after_s, local.tzinfo).utcoffset()
    while after_s - before_s > 1:
        middle_s = (before_s + after_s) // 2
        if datetime.fromtimestamp(middle_s, local.tzinfo).utcoffset() == offset:
            after_s = middle_s
        else:
            before_s = middle_s
    return after_s
