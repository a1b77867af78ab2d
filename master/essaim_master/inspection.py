"""Entries and stored values for people to read. Pure.

Decoding is done with the `msgpack` package and without our types: what is shown is what the bytes
say, also when it was our own packing that went wrong.
"""

from typing import Any

import msgpack

from essaim_master.raft.messages import Entry, EntryKind
from essaim_master.state.keys import Kind

TEXT_CHARS_MAX = 200
"""Longer keys and values are cut in summaries."""

UNSHOWN_PREFIXES = (Kind.SECRET_DATA.value, Kind.CONFIG_DATA.value, Kind.REGISTRY_CREDENTIALS.value)
"""Of keys whose values nobody is shown, sealed or not."""


def entry_object(entry: Entry) -> dict[str, Any]:
    """One entry of the log as JSON."""
    content = decoded(entry.data)
    return {
        "Index": entry.index,
        "Term": entry.term,
        "Kind": entry.kind.name.lower(),
        "Bytes": len(entry.data),
        "Summary": summary(entry.kind, content),
        "Content": content,
    }


def decoded(data: bytes) -> Any:
    """msgpack as JSON can hold it; bytes that are text as text, others in hexadecimal."""
    if not data:
        return None
    try:
        return _plain(msgpack.unpackb(data, strict_map_key=False))  # type: ignore[attr-defined,no-untyped-call]
    except (ValueError, msgpack.UnpackException):
        return _text(data)


def stored_object(key: bytes, value: bytes) -> dict[str, Any]:
    """One key of the state. The cluster's own objects are maps; users' values are bytes."""
    shown: Any = _text(value)
    if key.startswith(UNSHOWN_PREFIXES):
        shown = _unshown(value)
    elif value and (value[0] & 0xF0 == 0x80 or value[0] in (0xDE, 0xDF)):  # A map, says msgpack.
        shown = decoded(value)
    return {"Key": _text(key), "Bytes": len(value), "Value": shown}


def summary(kind: EntryKind, content: Any) -> str:
    """One line: who proposed what."""
    if kind is EntryKind.NO_OP:
        return "the leader of a new term"
    if kind is EntryKind.CONFIGURATION:
        voters, *rest = content if isinstance(content, list) and content else [content]
        learners = rest[1] if len(rest) > 1 else []
        return f"voters {_names(voters)}; learners {_names(learners)}"
    try:
        (client, sequence), _, (compares, then, otherwise) = content[:3]
    except (TypeError, ValueError):
        return "not a command of this build"
    parts = [f"{client[:12]}/{sequence}"]
    if compares:
        parts.append(f"if {len(compares)} hold")
    parts.append(_operations(then))
    if otherwise:
        parts.append(f"else {_operations(otherwise)}")
    return " ".join(part for part in parts if part)


def _operations(operations: Any) -> str:
    texts = []
    for operation in operations:
        name, *arguments = operation
        texts.append(f"{name} {arguments[0]}" if arguments else str(name))
    text = ", ".join(texts)
    return text if len(text) <= TEXT_CHARS_MAX else f"{text[:TEXT_CHARS_MAX]}… ({len(texts)})"


def _names(names: Any) -> str:
    return ", ".join(map(str, names)) if names else "none"


def _plain(value: Any) -> Any:
    match value:
        case bytes():
            return _text(value)
        case ["put", bytes() as key, bytes() as hidden, *rest] if key.startswith(UNSHOWN_PREFIXES):
            return ["put", _text(key), _unshown(hidden), *map(_plain, rest)]
        case list() | tuple():
            return [_plain(item) for item in value]
        case dict():
            return {str(_plain(key)): _plain(item) for key, item in value.items()}
        case _:
            return value


def _unshown(value: bytes) -> str:
    return f"({len(value)} bytes, not shown)"


def _text(data: bytes) -> str:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return f"0x{data.hex()}"
    return text if text.isprintable() else f"0x{data.hex()}"
