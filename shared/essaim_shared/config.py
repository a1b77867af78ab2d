"""A daemon's settings: one TOML file into one frozen msgspec struct.

Every mistake is one ConfigError that names the file and the key in the file's own words; a key
that nobody knows is a mistake too, with the nearest known one suggested. Keys are those of the
struct (`bind_address`), with hyphens allowed for underscores.
"""

import difflib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeVar, get_args, get_origin

import msgspec

from essaim_shared.errors import ConfigError

CONFIG_BYTES_MAX: Final = 1024 * 1024

Settings = TypeVar("Settings", bound=msgspec.Struct)


def load(path: Path, settings_type: type[Settings]) -> Settings:
    """Read the file. Raises ConfigError: unreadable, not TOML, or not these settings."""
    try:
        with path.open("rb") as file:
            content = file.read(CONFIG_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from error
    if len(content) > CONFIG_BYTES_MAX:
        raise ConfigError(f"{path}: larger than {CONFIG_BYTES_MAX} bytes; is this the right file?")
    return parse(content, str(path), settings_type)


def parse(content: bytes, file_name: str, settings_type: type[Settings]) -> Settings:
    """As `load`, of text already read; `file_name` is for the messages."""
    try:
        table = tomllib.loads(content.decode())
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file_name}: not UTF-8 at byte {error.start}") from error
    except (ValueError, RecursionError) as error:
        # Also a number of thousands of digits, and lists nested without end.
        raise ConfigError(f"{file_name}: not TOML: {error}") from error
    checked = _checked_keys(table, settings_type, file_name, ())
    try:
        return msgspec.convert(checked, settings_type)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{file_name}: {_in_words(str(error))}") from error


def _checked_keys(
    table: Mapping[str, Any],
    struct_type: type[msgspec.Struct],
    file_name: str,
    above: tuple[str, ...],
) -> dict[str, Any]:
    """The table under the struct's own names, inner tables included. Raises ConfigError."""
    known = {field.encode_name: field.type for field in msgspec.structs.fields(struct_type)}
    checked: dict[str, Any] = {}
    for key, value in table.items():
        name = key.replace("-", "_")
        path = ".".join((*above, key))
        if name not in known:
            raise ConfigError(f"{file_name}: unknown key {path!r}{_suggestion(key, known)}")
        if name in checked:
            raise ConfigError(f"{file_name}: {path!r} is given twice, once with a hyphen")
        inner = _struct_in(known[name])
        if inner is not None and isinstance(value, dict):
            value = _checked_keys(value, inner, file_name, (*above, key))
        elif inner is not None and isinstance(value, list):
            value = [
                _checked_keys(item, inner, file_name, (*above, f"{key}[{index}]"))
                if isinstance(item, dict)
                else item
                for index, item in enumerate(value)
            ]
        checked[name] = value
    return checked


def _struct_in(wanted: Any) -> type[msgspec.Struct] | None:
    """The struct that a field holds: itself, optional, or as the items of a list or tuple.

    Tables with free keys (a mapping) are not looked into.
    """
    if isinstance(wanted, type) and get_origin(wanted) is None:
        return wanted if issubclass(wanted, msgspec.Struct) else None
    if get_origin(wanted) is dict:
        return None
    for argument in get_args(wanted):
        inner = _struct_in(argument)
        if inner is not None:
            return inner
    return None


def _suggestion(key: str, known: Mapping[str, object]) -> str:
    nearest = difflib.get_close_matches(key.replace("-", "_"), known, n=1, cutoff=0.6)
    if nearest:
        return f" (did you mean {nearest[0]!r}?)"
    return f" (known here: {', '.join(sorted(known))})" if known else ""


def _in_words(message: str) -> str:
    """msgspec's sentence, with the path as the file writes it and in front."""
    text, separator, path = message.replace("`object`", "a table").partition(" - at `$")
    if not separator:
        return text
    key = path.removesuffix("`").removeprefix(".")
    return f"{key}: {text[:1].lower()}{text[1:]}" if key else text
