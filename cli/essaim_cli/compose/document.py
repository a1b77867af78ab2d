"""YAML text → plain values, and back. Pure.

The values are those that Docker's client sees (yaml.v3 of Go): `yes`, `on` and `22:22` are text,
`true` is a boolean, `010` is eight. Nothing is constructed but text, numbers, booleans, null,
lists and mappings. What a file can blow up to is bounded: aliases count with all that they stand
for, before anything walks over them.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from essaim_cli.compose.errors import ComposeError

TEXT_BYTES_MAX = 1024 * 1024
DEPTH_MAX = 64
EXPANDED_SIZE_MAX = 2 * 1024 * 1024
"""Of a document with its aliases written out: characters, and `NODE_SIZE` for each value."""
NODE_SIZE = 8
DIGITS_MAX = 20
"""More are no whole number that anything here could mean."""

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLEANS = {
    word: value
    for value, words in ((True, "true True TRUE"), (False, "false False FALSE"))
    for word in words.split()
}
_INTEGER = re.compile(r"([-+]?)(?:0b([01]+)|0o?([0-7]+)|0x([0-9a-fA-F]+)|(0|[1-9][0-9]*))")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_KNOWN_TAGS = frozenset(f"tag:yaml.org,2002:{name}" for name in ("int", "float", "bool", "null"))
_TEXT_TAGS = frozenset({"!", "tag:yaml.org,2002:str"})
_COLLECTION_TAGS = frozenset({None, "!", "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"})
_MERGE = object()


def read_document(source: bytes) -> dict[str, Any]:
    """The mapping that a file holds. Shared parts are shared: nobody may change them.

    Raises ComposeError for what is no YAML, for several documents, keys that are there twice, and
    for what is larger than the bounds above.
    """
    if len(source) > TEXT_BYTES_MAX:
        raise ComposeError("", f"the file is larger than {TEXT_BYTES_MAX >> 20} MiB")
    try:
        text = source.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ComposeError("", f"yaml: byte {error.start} is not UTF-8") from error
    builder = _Builder()
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            builder.take(event)
    except yaml.YAMLError as error:
        raise ComposeError("", _said(error)) from error
    if not isinstance(builder.result, dict):
        raise ComposeError("", "top-level object must be a mapping")
    return builder.result


def write_document(value: Any) -> str:
    """YAML with two blanks for a level, keys in the order that they have."""
    return yaml.dump(
        value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False
    )


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        """Items of lists are indented, as Docker's client writes them."""
        return super().increase_indent(flow, False)


@dataclass(slots=True)
class _Done:
    value: Any
    size: int


@dataclass(slots=True)
class _Open:
    """A list or mapping whose end has not come."""

    line: int
    anchor: str | None
    is_mapping: bool
    size: int = NODE_SIZE
    items: list[Any] = field(default_factory=list)
    fields: dict[str, Any] = field(default_factory=dict)
    key_lines: dict[str, int] = field(default_factory=dict)
    merged: list[dict[str, Any]] = field(default_factory=list)
    key: Any = None
    """The key whose value comes next; None: a key comes next."""


class _Builder:
    """Puts values together from the parser's events, without recursion."""

    def __init__(self) -> None:
        self.result: Any = None
        self._documents = 0
        self._open: list[_Open] = []
        self._anchors: dict[str, _Done | None] = {}
        """None: not complete yet."""

    def take(self, event: Any) -> None:
        line = event.start_mark.line + 1
        match event:
            case yaml.DocumentStartEvent():
                self._documents += 1
                if self._documents > 1:
                    raise _at(line, "a second document begins: a file holds one")
            case yaml.ScalarEvent():
                is_merge = event.value == "<<" and event.implicit[0] and not event.style
                value = _MERGE if is_merge and self._wants_key() else _scalar(event, line)
                done = _Done(value, NODE_SIZE + len(event.value))
                if event.anchor:
                    self._anchors[event.anchor] = done
                self._add(done, line)
            case yaml.AliasEvent():
                self._add(self._aliased(event.anchor, line), line)
            case yaml.MappingStartEvent() | yaml.SequenceStartEvent():
                self._begin(event, line)
            case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                self._end()

    def _wants_key(self) -> bool:
        return bool(self._open) and self._open[-1].is_mapping and self._open[-1].key is None

    def _aliased(self, anchor: Any, line: int) -> _Done:
        if anchor not in self._anchors:
            raise _at(line, f"unknown anchor '{anchor}' referenced")
        done = self._anchors[anchor]
        if done is None:
            raise _at(line, f"anchor '{anchor}' value contains itself")
        return done

    def _begin(self, event: Any, line: int) -> None:
        if event.tag not in _COLLECTION_TAGS:
            raise _at(line, f"the tag {event.tag} is not understood")
        if self._wants_key():
            raise _at(line, "a list or mapping cannot be a key")
        if len(self._open) >= DEPTH_MAX:
            raise _at(line, f"nested deeper than {DEPTH_MAX} levels")
        if event.anchor:
            self._anchors[event.anchor] = None
        self._open.append(_Open(line, event.anchor, isinstance(event, yaml.MappingStartEvent)))

    def _end(self) -> None:
        ended = self._open.pop()
        value: Any = ended.items
        if ended.is_mapping:
            value = dict(ended.fields)
            for merged in ended.merged:
                value.update({key: merged[key] for key in merged if key not in value})
        done = _Done(value, ended.size)
        if ended.anchor:
            self._anchors[ended.anchor] = done
        self._add(done, ended.line)

    def _add(self, done: _Done, line: int) -> None:
        if not self._open:
            self.result = done.value
            return
        place = self._open[-1]
        place.size += done.size
        if place.size > EXPANDED_SIZE_MAX:
            raise _at(line, "the document is too large with its aliases written out")
        if not place.is_mapping:
            place.items.append(done.value)
        elif place.key is None:
            place.key = _new_key(place, done.value, line)
        elif place.key is _MERGE:
            place.merged += _mappings(done.value, line)
            place.key = None
        else:
            place.fields[place.key] = done.value
            place.key = None


def _new_key(place: _Open, key: Any, line: int) -> Any:
    if key is _MERGE:
        return key
    if not isinstance(key, str):
        raise _at(line, f"the key {key!r} is not text: put it in quotes")
    if key in place.key_lines:
        raise _at(line, f'mapping key "{key}" already defined at line {place.key_lines[key]}')
    place.key_lines[key] = line
    return key


def _mappings(value: Any, line: int) -> Iterator[dict[str, Any]]:
    for one in value if isinstance(value, list) else [value]:
        if not isinstance(one, dict):
            raise _at(line, "map merge requires map or sequence of maps as the value")
        yield one


def _scalar(event: Any, line: int) -> Any:
    if event.tag in _TEXT_TAGS or (event.tag is None and not event.implicit[0]):
        return event.value
    if event.tag is not None and event.tag not in _KNOWN_TAGS:
        raise _at(line, f"the tag {event.tag} is not understood")
    return _plain(event.value)


def _plain(text: str) -> Any:
    """What a scalar without quotes means."""
    if text in _NULLS:
        return None
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    digits = text.replace("_", "")
    if digits == text or text[:1].isdigit() or text[:1] in "+-":
        if len(digits) <= DIGITS_MAX and (match := _INTEGER.fullmatch(digits)):
            return _integer(match)
        if _FLOAT.fullmatch(digits) and len(digits) <= 2 * DIGITS_MAX:
            number = float(digits)
            return number if abs(number) != float("inf") else text
    return text


def _integer(match: re.Match[str]) -> int:
    sign, *by_base = match.groups()
    base, digits = next(
        (base, found) for base, found in zip((2, 8, 16, 10), by_base, strict=True) if found
    )
    return int(digits, base) * (-1 if sign == "-" else 1)


def _at(line: int, reason: str) -> ComposeError:
    return ComposeError("", f"yaml: line {line}: {reason}")


def _said(error: yaml.YAMLError) -> str:
    """In one line, as everything that the command line says."""
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or " ".join(str(error).split())
    return f"yaml: line {mark.line + 1}: {problem}" if mark else f"yaml: {problem}"
