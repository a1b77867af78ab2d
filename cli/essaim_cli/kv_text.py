"""Keys, values and transactions between a terminal and the API's JSON. Pure.

The API writes bytes as text, or as `{"Base64": "…"}` where they are not UTF-8.
"""

import base64
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from essaim_cli.errors import usage

Text = str | dict[str, str]

RELATIONS = ("=", "!=", "<", ">")
TARGETS = ("value", "version", "create", "mod", "lease")
SETTINGS = {"--lease": "Lease", "--limit": "Limit"}


def text_of(data: bytes) -> Text:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return {"Base64": base64.b64encode(data).decode()}


def argument_bytes(argument: str) -> bytes:
    """An argument as the user's shell gave it (PEP 383)."""
    return argument.encode("utf-8", "surrogateescape")


def bytes_of(text: Text) -> bytes:
    return text.encode() if isinstance(text, str) else base64.b64decode(text["Base64"])


def key_query(key: str, is_prefix: bool) -> dict[str, str]:
    """The query parameters that name a key, or all that begin with it."""
    name = "prefix" if is_prefix else "key"
    data = argument_bytes(key)
    if isinstance(text_of(data), str):
        return {name: key}
    return {name: base64.urlsafe_b64encode(data).decode(), "base64": "1"}


def compare_of(words: str) -> dict[str, Any]:
    """`KEY TARGET RELATION OPERAND`, as a shell splits it: `lock/a version = 0`."""
    parts = _split(words)
    if len(parts) != 4 or parts[1] not in TARGETS or parts[2] not in RELATIONS:
        raise usage(
            f"invalid compare {words!r}: write 'KEY {'|'.join(TARGETS)} "
            f"{'|'.join(RELATIONS)} OPERAND'"
        )
    key, target, relation, operand = parts
    compare: dict[str, Any] = {
        "Key": text_of(argument_bytes(key)),
        "Target": target,
        "Relation": relation,
    }
    if target == "value":
        return {**compare, "Value": text_of(argument_bytes(operand))}
    if target == "lease":
        return {**compare, "Value": operand}
    return {**compare, "Number": _number(operand, words)}


def operation_of(words: str) -> dict[str, Any]:
    """`put KEY VALUE`, `get KEY` or `delete KEY`, each with its flags."""
    verb, *rest = _split(words) or [""]
    verb = {"del": "delete"}.get(verb, verb)
    operation: dict[str, Any] = {"Op": verb}
    names: list[str] = []
    is_prefix = False
    while rest:
        word = rest.pop(0)
        if word == "--prefix":
            is_prefix = True
        elif word == "--prev-kv":
            operation["PrevKV"] = True
        elif word in SETTINGS and rest:
            setting = rest.pop(0)
            operation[SETTINGS[word]] = _number(setting, words) if word == "--limit" else setting
        elif word.startswith("--"):
            raise usage(f"invalid operation {words!r}: {word} is not understood here")
        else:
            names.append(word)
    if len(names) != {"put": 2, "get": 1, "delete": 1}.get(verb):
        raise usage(
            f"invalid operation {words!r}: write 'put KEY VALUE', 'get KEY' or 'delete KEY', "
            "with --prefix, --limit N, --lease ID or --prev-kv where they fit"
        )
    operation["Prefix" if is_prefix else "Key"] = text_of(argument_bytes(names[0]))
    if verb == "put":
        operation["Value"] = text_of(argument_bytes(names[1]))
    return operation


def pair_line(pair: Mapping[str, Any]) -> bytes:
    """`KEY<tab>VALUE`, bytes as they are."""
    return bytes_of(pair["Key"]) + b"\t" + bytes_of(pair["Value"])


def event_line(event: Mapping[str, Any]) -> bytes:
    """`PUT KEY VALUE` or `DELETE KEY`, tabs between them."""
    if event["Type"] == "delete":
        return b"DELETE\t" + bytes_of(event["Key"])
    return b"PUT\t" + pair_line(event["KV"])


def result_lines(answer: Mapping[str, Any]) -> list[bytes]:
    """What a transaction's operations found, after the line that says which branch it was."""
    lines = [b"SUCCESS" if answer["Succeeded"] else b"FAILURE"]
    for result in answer["Results"]:
        lines += map(pair_line, _found(result))
    return lines


def _found(result: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    found: Sequence[Mapping[str, Any]] = result.get("KVs", result.get("PrevKVs", ()))
    return found


def _split(words: str) -> list[str]:
    try:
        return shlex.split(words)
    except ValueError as error:
        raise usage(f"{words!r}: {error}") from error


def _number(text: str, words: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise usage(f"{words!r}: {text!r} is not a number")
    return int(text)
