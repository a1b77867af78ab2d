"""What the grammars share: fields between commas, booleans, numbers, `KEY=VALUE`. Pure."""

import csv
from collections.abc import Mapping
from typing import Any

INT64_MAX = 2**63 - 1

_BOOLEANS = {"1": True, "true": True, "0": False, "false": False}


def comma_fields(text: str) -> list[str]:
    """The fields of one CSV record: a value that holds a comma stands in double quotes."""
    if not text.strip():
        raise ValueError("value is empty")
    try:
        (fields,) = csv.reader([text.strip()], strict=True)
    except (csv.Error, ValueError) as error:
        raise ValueError(f"{error}: put fields with commas in double quotes") from error
    return fields


def key_value(text: str) -> tuple[str, str]:
    """`KEY=VALUE`, or `KEY` with an empty value."""
    key, _, value = text.partition("=")
    if not key.strip():
        raise ValueError("write KEY=VALUE")
    return key, value


def pair(text: str) -> list[tuple[str, str]]:
    """`KEY=VALUE` as the one item of a flag that can be repeated."""
    return [key_value(text)]


def pair_key(pair: tuple[str, str]) -> str:
    return pair[0]


def boolean(key: str, text: str | None) -> bool:
    """A key without a value means true."""
    if text is None:
        return True
    if text not in _BOOLEANS:
        raise ValueError(f"invalid value for '{key}': {text!r} is not true, 1, false or 0")
    return _BOOLEANS[text]


def count(text: str) -> int:
    """A whole number that is not negative."""
    if not (text.isascii() and text.isdigit()) or int(text) > INT64_MAX:
        raise ValueError(f"{text!r} is not a whole number of 0 or more")
    return int(text)


def whole_number(text: str, least: int, most: int) -> int:
    digits = text[1:] if text[:1] in ("-", "+") else text
    if not (digits.isascii() and digits.isdigit()) or not least <= int(text) <= most:
        raise ValueError(f"{text!r} is not a whole number from {least} to {most}")
    return int(text)


def port_number(text: str, what: str, least: int = 1) -> int:
    if not (text.isascii() and text.isdigit()) or not least <= int(text) <= 65535:
        raise ValueError(f"invalid {what} ({text}): value must be a number from {least} to 65535")
    return int(text)


def present(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Without what was not asked for. Zero is an answer; None, empty and False are not."""
    return {
        name: value
        for name, value in fields.items()
        if value is not None and value is not False and value not in ("", [], {})
    }
