"""Secrets and configs of compose files → bodies of their creation, and references of services.
Pure: the bytes of files are passed in.
"""

import base64
from collections.abc import Callable, Mapping
from typing import Any, Literal

from essaim_cli.compose.errors import ComposeError

Json = dict[str, Any]
Kind = Literal["secret", "config"]
ReadBytes = Callable[[str], bytes]
"""The content of a file by its absolute path. Raises OSError."""

FILE_MODE_DEFAULT = 0o444


def payload_bodies(
    stack: str,
    kind: Kind,
    declared: Mapping[str, Json],
    labels: Mapping[str, str],
    read_bytes: ReadBytes,
) -> list[Json]:
    """What the stack makes; what is external is not among it. Raises ComposeError."""
    return [
        {
            "Name": _full_name(stack, name, one),
            "Labels": {**one.get("labels", {}), **labels},
            "Data": base64.b64encode(_data(f"{kind}s.{name}", one, read_bytes)).decode(),
        }
        for name, one in declared.items()
        if not one.get("external")
    ]


def payload_references(
    stack: str, path: str, kind: Kind, service: Json, declared: Mapping[str, Json]
) -> list[Json]:
    """Those of one service, in the order of their names as Docker's client sends them. Which data
    they stand for, the masters know. Raises ComposeError."""
    references = []
    for place, asked in enumerate(service.get(f"{kind}s", ())):
        source = asked["source"]
        if source not in declared:
            raise ComposeError(f"{path}.{kind}s[{place}]", f'undefined {kind} "{source}"')
        file = {
            "Name": asked.get("target") or source,
            "UID": asked.get("uid") or "0",
            "GID": asked.get("gid") or "0",
            "Mode": asked.get("mode", FILE_MODE_DEFAULT),
        }
        name = _full_name(stack, source, declared[source])
        references.append({"File": file, f"{kind.title()}Name": name})
    return sorted(references, key=lambda one: str(one[f"{kind.title()}Name"]))


def _full_name(stack: str, name: str, declared: Json) -> str:
    return str(declared.get("name") or f"{stack}_{name}")


def _data(path: str, declared: Json, read_bytes: ReadBytes) -> bytes:
    if "content" in declared:
        return str(declared["content"]).encode()
    file = declared["file"]
    try:
        return read_bytes(file)
    except OSError as error:
        raise ComposeError(path, f"open {file}: {error.strerror or error}") from error
