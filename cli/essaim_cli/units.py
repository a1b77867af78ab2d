"""Quantities as people write and read them: Go durations, sizes, CPUs. Pure.

The grammars are those of `docker`: durations of Go's time.ParseDuration, sizes with 1024-based
suffixes, and the rounding of its HumanDuration.
"""

import re
from decimal import Decimal, InvalidOperation

_NS_PER_UNIT = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60 * 1_000_000_000,
    "h": 3600 * 1_000_000_000,
}
_DURATION_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgtp]?)i?b?", re.IGNORECASE)
_SIZE_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}

INTEGER_MAX = 2**63 - 1
"""Docker's wire carries durations as int64 nanoseconds, and sizes as int64 bytes."""


def parse_duration(text: str) -> int:
    """`1h30m`, `500ms`, `0` → nanoseconds. Raises ValueError."""
    if text == "0":
        return 0
    position, total = 0, Decimal(0)
    while match := _DURATION_PART.match(text, position):
        total += Decimal(match[1]) * _NS_PER_UNIT[match[2]]
        position = match.end()
    if position == 0 or position != len(text) or total > INTEGER_MAX:
        raise ValueError(f"invalid duration {text!r}: write for example 10s, 1m30s or 500ms")
    return int(total)


def parse_size(text: str) -> int:
    """`64m`, `1.5g`, `4096` → bytes, 1024-based. Raises ValueError."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"invalid size {text!r}: write for example 512k, 64m or 1g")
    size_bytes = Decimal(match[1]) * 1024 ** _SIZE_POWERS[match[2].lower()]
    if size_bytes > INTEGER_MAX:
        raise ValueError(f"invalid size {text!r}: no machine has so much")
    return int(size_bytes)


def parse_signed_size(text: str) -> int:
    """As `parse_size`; `-1` means no limit. Raises ValueError."""
    return -1 if text.strip() == "-1" else parse_size(text)


def parse_cpus(text: str) -> int:
    """`0.5` → nano-CPUs. Raises ValueError."""
    try:
        cpus = Decimal(text)
    except InvalidOperation as error:
        raise ValueError(f"invalid number of CPUs {text!r}: write for example 0.5 or 2") from error
    nano_cpus = cpus * 1_000_000_000
    is_amount = cpus.is_finite() and 0 <= nano_cpus <= INTEGER_MAX
    if not is_amount or nano_cpus != nano_cpus.to_integral_value():
        raise ValueError(f"invalid number of CPUs {text!r}: write for example 0.5 or 2")
    return int(nano_cpus)


def go_duration(nanoseconds: int) -> str:
    """As Go's time.Duration prints itself: `1h30m0s`, `1.5s`, `100ms`, `0s`."""
    if nanoseconds < 0:
        return f"-{go_duration(-nanoseconds)}"
    for unit, size in (("ns", 1), ("µs", 1_000), ("ms", 1_000_000)):
        if 0 < nanoseconds < size * 1_000:
            return f"{_decimal(nanoseconds, size)}{unit}"
    minutes, rest = divmod(nanoseconds, _NS_PER_UNIT["m"])
    text = f"{_decimal(rest, _NS_PER_UNIT['s'])}s"
    if minutes:
        hours, minutes = divmod(minutes, 60)
        text = f"{hours}h{minutes}m{text}" if hours else f"{minutes}m{text}"
    return text


def _decimal(amount: int, unit: int) -> str:
    whole, rest = divmod(amount, unit)
    digits = f"{rest:0{len(str(unit)) - 1}d}".rstrip("0") if rest else ""
    return f"{whole}.{digits}" if digits else str(whole)


def human_duration(seconds: float) -> str:
    """As `docker ps` rounds: `About a minute`, `5 hours`, `3 weeks`."""
    whole = int(seconds)
    minutes, hours = whole // 60, round(whole / 3600)
    if whole < 1:
        return "Less than a second"
    if whole == 1:
        return "1 second"
    if whole < 60:
        return f"{whole} seconds"
    if minutes == 1:
        return "About a minute"
    if minutes < 60:
        return f"{minutes} minutes"
    if hours == 1:
        return "About an hour"
    if hours < 48:
        return f"{hours} hours"
    days = hours // 24
    for days_max, days_per_unit, unit in ((14, 1, "days"), (60, 7, "weeks"), (730, 30, "months")):
        if days < days_max:
            return f"{days // days_per_unit} {unit}"
    return f"{days // 365} years"


def human_size(size_bytes: float) -> str:
    """`12.3MiB`, four significant digits, as `docker stats` writes memory."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size_bytes < 1024:
            return f"{size_bytes:.4g}{unit}"
        size_bytes /= 1024
    return f"{size_bytes:.4g}TiB"
