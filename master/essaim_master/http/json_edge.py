"""JSON from clients to specs, as Go's decoder would read it but for what it drops.

Keys match without regard to case, as Go's encoding/json does (docker-py sends `replicated`). A
field that no spec defines is refused by its full name, unless its value says nothing (null,
false, 0, "", or a collection of such): dropping `Secrets` silently would be worse than an error.
A null means "not given"; only in an Essaim field it means "cleared" (`spec.keep_essaim_fields`).
"""

from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar

import msgspec

from essaim_shared.errors import InvalidRequest
from essaim_shared.spec_base import Spec
from essaim_shared.undecodable import UNDECODABLE

S = TypeVar("S", bound=Spec)

INTEGER_MAX = 2**63 - 1
"""Docker's numbers are int64, and so are those of the stored form."""
INTEGER_MIN = -(2**63)

DEPTH_MAX = 32
"""Of nested values; the deepest spec has 5 levels."""


class _Field(msgspec.Struct, frozen=True):
    name: str
    inner: "_Shape | None"
    keeps_null: bool
    choices: tuple[str, ...] = ()
    """Of an enumeration; empty for everything else."""

    def is_unset(self, value: Any) -> bool:
        """Whether a client said with this value that it wants the default: Go's clients send an
        empty string for an enumeration that they left alone."""
        return value is None or (value == "" and bool(self.choices) and "" not in self.choices)


class _Shape(msgspec.Struct, frozen=True):
    """What may stand at a place: an object with these fields, or a list of `items`."""

    fields: dict[str, _Field] | None = None
    items: "_Shape | None" = None


def decode_object(body: bytes, what: str) -> dict[str, Any]:
    """The JSON object in a request's body, keys as the client wrote them.

    Raises InvalidRequest for anything that is not one JSON object.
    """
    if not body.strip():
        raise InvalidRequest(f"invalid JSON: the request has no body, a {what} is expected")
    try:
        value = msgspec.json.decode(body)
    except RecursionError as error:
        raise InvalidRequest("invalid JSON: nested too deeply") from error
    except UNDECODABLE as error:
        raise InvalidRequest(f"invalid JSON: {error}") from error
    if not isinstance(value, dict):
        raise InvalidRequest(f"invalid JSON: a {what} is an object, got {_json_type(value)}")
    return value


def decode_spec(fields: Mapping[str, Any], spec_type: type[S], what: str) -> S:
    """A spec from a decoded JSON object.

    Raises InvalidRequest naming the field, as `TaskTemplate.ContainerSpec.Secrets`.
    """
    named = _name_object(fields, _shape_of_struct(spec_type), "")
    try:
        return msgspec.convert(named, spec_type)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"invalid {what}: {_readable(str(error))}") from error


def field_of(fields: Mapping[str, Any], name: str) -> Any:
    """The value of a field of a decoded object, its key matched as Go does; None if absent."""
    if name in fields:
        return fields[name]
    wanted = name.casefold()
    for key, value in fields.items():
        if key.casefold() == wanted:
            return value
    return None


def says_nothing(value: Any, depth: int = 0) -> bool:
    """Whether a value is what a client sends for a field that its user did not set."""
    if isinstance(value, dict) and depth < DEPTH_MAX:
        return all(says_nothing(inner, depth + 1) for inner in value.values())
    return value is None or value is False or value in (0, "", [])


@cache
def essaim_fields(struct: type[msgspec.Struct]) -> frozenset[str]:
    """The Python names of a struct's Essaim fields: those that are UNSET when absent."""
    return frozenset(
        field.name for field in msgspec.structs.fields(struct) if field.default is msgspec.UNSET
    )


@cache
def _shape_of_struct(struct: type) -> _Shape:
    return _shape_of(msgspec.inspect.type_info(struct)) or _Shape()


def _shape_of(info: msgspec.inspect.Type) -> _Shape | None:
    match info:
        case msgspec.inspect.StructType():
            fields = {
                field.encode_name.casefold(): _Field(
                    field.encode_name,
                    _shape_of(field.type),
                    field.name in essaim_fields(info.cls),
                    _choices_of(field.type),
                )
                for field in info.fields
            }
            return _Shape(fields=fields)
        case msgspec.inspect.VarTupleType() | msgspec.inspect.ListType():
            items = _shape_of(info.item_type)
            return None if items is None else _Shape(items=items)
        case msgspec.inspect.UnionType():
            shapes = [shape for member in info.types if (shape := _shape_of(member)) is not None]
            return shapes[0] if shapes else None
        case _:
            return None


def _choices_of(info: msgspec.inspect.Type) -> tuple[str, ...]:
    members = info.types if isinstance(info, msgspec.inspect.UnionType) else (info,)
    return tuple(
        str(choice)
        for member in members
        if isinstance(member, msgspec.inspect.LiteralType)
        for choice in member.values
    )


def _name_object(fields: Mapping[str, Any], shape: _Shape, path: str) -> dict[str, Any]:
    known = shape.fields or {}
    named: dict[str, Any] = {}
    for key, value in fields.items():
        field = known.get(key.casefold())
        if field is None:
            if not says_nothing(value):
                raise InvalidRequest(f'unknown field "{path}{key}": Essaim does not support it yet')
            continue
        if field.name in named:
            raise InvalidRequest(f'the field "{path}{field.name}" is given twice')
        if field.is_unset(value) and not (value is None and field.keeps_null):
            continue
        if field.choices and isinstance(value, str) and value not in field.choices:
            choices = ", ".join(choice for choice in field.choices if choice)
            raise InvalidRequest(
                f'invalid value "{value}" of the field "{path}{field.name}": it is one of {choices}'
            )
        named[field.name] = _name_value(value, field.inner, f"{path}{field.name}")
    return named


def _name_value(value: Any, shape: _Shape | None, path: str) -> Any:
    if isinstance(value, int) and not INTEGER_MIN <= value <= INTEGER_MAX:
        raise InvalidRequest(f'the field "{path}" holds a number outside 64 bits')
    if shape is None:
        return value
    if shape.items is not None and isinstance(value, list):
        return [
            _name_value(item, shape.items, f"{path}[{index}]") for index, item in enumerate(value)
        ]
    if shape.fields is not None and isinstance(value, dict):
        return _name_object(value, shape, f"{path}.")
    return value


def _readable(message: str) -> str:
    """msgspec's sentence in the words of the request: "`$.A.B`: expected `int`, got `str`"."""
    sentence, separator, path = message.rpartition(" - at `$.")
    if not separator:
        return message
    return f'"{path.rstrip("`")}": {sentence[0].lower()}{sentence[1:]}'


def _json_type(value: Any) -> str:
    if isinstance(value, list):
        return "an array"
    if isinstance(value, str):
        return "a string"
    if value is None:
        return "null"
    return "a boolean" if isinstance(value, bool) else "a number"
