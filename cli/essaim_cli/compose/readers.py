"""The kinds of values in a compose file: each reader checks one, and brings it to the one form
that the rest of the package knows. Pure.

A reader takes a value and its path, and raises ComposeError. Durations stay text as Go writes them
and sizes stay text of digits, so that what was read can be written out again.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from essaim_cli.compose.errors import ComposeError
from essaim_cli.compose.interpolation import Substituted
from essaim_cli.grammar.containers import parse_words
from essaim_cli.units import go_duration, parse_duration, parse_size

Reader = Callable[[Any, str], Any]

NAME = re.compile(r"[a-zA-Z0-9._-]+")
"""Of services, networks and volumes within a file."""

_BOOLEAN_WORDS = {
    **dict.fromkeys(("y", "yes", "true", "on"), True),
    **dict.fromkeys(("n", "no", "false", "off"), False),
}
_INTEGER = re.compile(r"[-+]?[0-9]{1,18}")


def text(value: Any, path: str) -> str:
    if not isinstance(value, str):
        raise ComposeError(path, "must be a string")
    return str(value)


def integer(value: Any, path: str) -> int:
    if isinstance(value, Substituted) and _INTEGER.fullmatch(value):
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ComposeError(path, "must be an integer")
    return value


def count(value: Any, path: str) -> int:
    found = integer(value, path)
    if found < 0:
        raise ComposeError(path, f"must not be negative: {found}")
    return found


def number(value: Any, path: str) -> float:
    if isinstance(value, Substituted):
        try:
            found = float(value)
        except ValueError as error:
            raise ComposeError(path, f"must be a number: {value!r} is none") from error
        if found != found or abs(found) == float("inf"):
            raise ComposeError(path, f"must be a number: {value!r} is none")
        return found
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ComposeError(path, "must be a number")
    return value


def boolean(value: Any, path: str) -> bool:
    if isinstance(value, Substituted) and value.lower() in _BOOLEAN_WORDS:
        return _BOOLEAN_WORDS[value.lower()]
    if not isinstance(value, bool):
        raise ComposeError(path, "must be a boolean: true or false")
    return value


def duration(value: Any, path: str) -> str:
    return go_duration(_parsed(parse_duration, text(value, path), path))


def size(value: Any, path: str) -> str:
    """`64m` and `67108864` → the number of bytes, as text."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(count(value, path))
    return str(_parsed(parse_size, text(value, path), path))


def amount(value: Any, path: str) -> str:
    """CPUs: a decimal number in quotes, or without."""
    return (
        go_text(value)
        if isinstance(value, int | float) and value is not True
        else text(value, path)
    )


def one_of(*words: str) -> Reader:
    def read(value: Any, path: str) -> str:
        found = text(value, path)
        if found not in words:
            raise ComposeError(path, f"must be {' or '.join(words)}, not {found!r}")
        return found

    return read


def listing(item: Reader) -> Reader:
    def read(value: Any, path: str) -> list[Any]:
        if not isinstance(value, list):
            raise ComposeError(path, "must be a list")
        return [item(one, f"{path}[{place}]") for place, one in enumerate(value)]

    return read


strings = listing(text)


def string_or_strings(value: Any, path: str) -> list[str]:
    return [str(value)] if isinstance(value, str) else _strings_of(value, path, "a string or list")


def command(value: Any, path: str) -> list[str]:
    """A string is split as a shell would."""
    if isinstance(value, str):
        words: list[str] = _parsed(parse_words, str(value), path)
        return words
    return _strings_of(value, path, "a string or list")


def check_line(value: Any, path: str) -> list[str]:
    """The test of a health check: a string is for the shell."""
    if isinstance(value, str):
        return ["CMD-SHELL", str(value)]
    return _strings_of(value, path, "a string or list")


def mapping(item: Reader, names: re.Pattern[str] | None = None) -> Reader:
    """Keys that the file's author chose."""

    def read(value: Any, path: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise ComposeError(path, "must be a mapping")
        for name in value:
            if names is not None and not names.fullmatch(name):
                raise ComposeError(path, _unknown(name))
        return {name: item(inner, f"{path}.{name}") for name, inner in value.items()}

    return read


def keys(known: Mapping[str, Reader]) -> Reader:
    """Keys that mean something; `x-…` is the author's own."""

    def read(value: Any, path: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise ComposeError(path, "must be a mapping")
        found = {}
        for name, inner in value.items():
            reader = known.get(name)
            if reader is not None:
                found[name] = reader(inner, f"{path}.{name}" if path else name)
            elif not name.startswith("x-"):
                raise ComposeError(path or shown(name), _unknown(name))
        return found

    return read


def shown(name: str) -> str:
    """In one line, whatever its author put into it."""
    return name if name.isprintable() else ascii(name)


def _unknown(name: str) -> str:
    return f"Additional property {shown(name)} is not allowed"


def pairs(value: Any, path: str) -> dict[str, str]:
    """`{A: 1}` and `[A=1]`; without a value it is empty."""
    return {name: found or "" for name, found in optional_pairs(value, path).items()}


def optional_pairs(value: Any, path: str) -> dict[str, str | None]:
    """As `pairs`; None where there is no value: `{A: }` and `[A]`."""
    if isinstance(value, list):
        found: dict[str, str | None] = {}
        for place, one in enumerate(value):
            name, separator, inner = text(one, f"{path}[{place}]").partition("=")
            found[name] = inner if separator else None
        return found
    if not isinstance(value, dict):
        raise ComposeError(path, "must be a mapping or list")
    return {name: _pair_value(inner, f"{path}.{name}") for name, inner in value.items()}


def options(value: Any, path: str) -> dict[str, str]:
    """Options of a driver: a mapping only."""
    if not isinstance(value, dict):
        raise ComposeError(path, "must be a mapping")
    return pairs(value, path)


def go_text(value: bool | int | float | str) -> str:
    """As Go prints it, which is what Docker's client does with numbers where text belongs."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e21:
        return str(int(value))
    return str(value)


def refused(reason: str) -> Reader:
    """Of keys that cannot be honoured: with the reason, if they say anything."""

    def read(value: Any, path: str) -> Any:
        if value:
            raise ComposeError(path, reason)
        return value

    return read


def anything(value: Any, path: str) -> Any:
    """Of keys that are ignored."""
    return value


def _pair_value(value: Any, path: str) -> str | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ComposeError(path, "must be a string, number or null: put it in quotes")
    return go_text(value)


def _strings_of(value: Any, path: str, kinds: str) -> list[str]:
    if not isinstance(value, list):
        raise ComposeError(path, f"must be {kinds}")
    return [text(one, f"{path}[{place}]") for place, one in enumerate(value)]


def _parsed(parse: Callable[[str], Any], written: str, path: str) -> Any:
    try:
        return parse(written)
    except ValueError as error:
        raise ComposeError(path, str(error)) from error
