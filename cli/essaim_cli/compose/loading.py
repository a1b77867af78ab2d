"""Compose files, read from their documents: variables put in, checked, merged, paths made whole.
Pure: the environment, the directory and the text of files of variables are passed in.
"""

import dataclasses
import posixpath
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from essaim_cli.compose.errors import ComposeError
from essaim_cli.compose.file_shape import (
    SECTIONS,
    deprecated_options,
    forbidden_options,
    ignored_addresses,
    ignored_options,
    read_file,
    version_of,
)
from essaim_cli.compose.interpolation import Interpolation
from essaim_cli.compose.merging import merge_files
from essaim_cli.grammar.environment import variables_of_file

Json = dict[str, Any]
ReadText = Callable[[str], str]
"""The text of a file by its absolute path. Raises OSError, or ValueError if it is no text."""


@dataclasses.dataclass(frozen=True, slots=True)
class Compose:
    """What the files say together."""

    version: str
    services: dict[str, Json]
    networks: dict[str, Json]
    volumes: dict[str, Json]
    secrets: dict[str, Json]
    configs: dict[str, Json]
    warnings: tuple[str, ...]
    """What is in the files and has no effect."""


def load(
    documents: Sequence[Mapping[str, Any]],
    directory: str,
    environment: Mapping[str, str],
    read_text: ReadText,
    *,
    is_interpolated: bool = True,
) -> Compose:
    """All files as one. `directory`: of the first file, from which relative paths count.

    Raises ComposeError.
    """
    version = version_of(documents[0])
    interpolation = Interpolation(environment)
    files = []
    for document in documents:
        if version_of(document) != version:
            raise ComposeError(
                "version",
                f"version mismatched between two composefiles : {version} and "
                f"{version_of(document)}",
            )
        _refuse_forbidden(document)
        values = _with_variables(document, interpolation) if is_interpolated else document
        file = read_file(values)
        file["services"] = {
            name: _with_paths(name, service, directory, environment, read_text)
            for name, service in file["services"].items()
        }
        for section in ("secrets", "configs"):
            file[section] = {
                name: _with_file(one, directory) for name, one in file[section].items()
            }
        files.append(file)
    merged = merge_files(files)
    return Compose(
        version,
        services=dict(sorted(merged["services"].items())),
        networks=dict(sorted(merged["networks"].items())),
        volumes=dict(sorted(merged["volumes"].items())),
        secrets=dict(sorted(merged["secrets"].items())),
        configs=dict(sorted(merged["configs"].items())),
        warnings=_warnings(documents),
    )


def as_document(compose: Compose) -> Json:
    """What `stack config` shows."""
    document: Json = {"version": compose.version, "services": {}}
    for name, service in compose.services.items():
        document["services"][name] = {key: service[key] for key in sorted(service)}
    if compose.networks:
        document["networks"] = compose.networks
    if compose.volumes:
        document["volumes"] = compose.volumes
    if compose.secrets:
        document["secrets"] = compose.secrets
    if compose.configs:
        document["configs"] = compose.configs
    return document


def _with_variables(document: Mapping[str, Any], interpolation: Interpolation) -> Json:
    """What stands beside the sections is the author's own, or no place for variables."""
    return {
        name: interpolation.apply(value, name) if name in SECTIONS else value
        for name, value in document.items()
    }


def _refuse_forbidden(document: Mapping[str, Any]) -> None:
    if forbidden := forbidden_options(document):
        raise ComposeError("", f"compose file contains unsupported options:\n\n{_told(forbidden)}")


def _warnings(documents: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    found = []
    if ignored := ignored_options(documents):
        found.append(f"Ignoring unsupported options: {', '.join(ignored)}")
    if deprecated := deprecated_options(documents):
        found.append(f"Ignoring deprecated options:\n\n{_told(deprecated)}")
    found += [
        f"Ignoring the IP address of the port {port}: it is open on all addresses of the nodes"
        for port in ignored_addresses(documents)
    ]
    return tuple(found)


def _told(options: Mapping[str, str]) -> str:
    return "\n\n".join(f"{name}: {words}" for name, words in options.items())


def _with_paths(
    name: str,
    service: Json,
    directory: str,
    environment: Mapping[str, str],
    read_text: ReadText,
) -> Json:
    path = f"services.{name}"
    found = dict(service)
    variables = _variables(path, service, directory, environment, read_text)
    if variables:
        found["environment"] = variables
    if "volumes" in service:
        found["volumes"] = [
            _with_source(f"{path}.volumes[{place}]", volume, directory, environment)
            for place, volume in enumerate(service["volumes"])
        ]
    return found


def _variables(
    path: str,
    service: Json,
    directory: str,
    environment: Mapping[str, str],
    read_text: ReadText,
) -> dict[str, str | None]:
    """Of the files and of the service itself. A variable without a value, or with an empty one,
    takes the caller's where there is one (docker/cli, updateEnvironment)."""
    found: dict[str, str | None] = {}
    for place, file in enumerate(service.get("env_file", ())):
        where = f"{path}.env_file[{place}]"
        try:
            settings = variables_of_file(read_text(posixpath.join(directory, file)))
        except (OSError, ValueError) as error:
            raise ComposeError(where, f"cannot read {file}: {_reason(error)}") from error
        for setting in settings:
            name, separator, value = setting.partition("=")
            if value or name in environment:
                found[name] = value or environment[name]
            elif separator:
                found[name] = value
    for name, value in service.get("environment", {}).items():
        found[name] = environment[name] if not value and name in environment else value
    return dict(sorted(found.items()))


def _with_file(payload: Json, directory: str) -> Json:
    """A secret or config with the absolute path of its file, if it has one."""
    if not payload.get("file"):
        return payload
    return {**payload, "file": posixpath.normpath(posixpath.join(directory, payload["file"]))}


def _with_source(path: str, volume: Json, directory: str, environment: Mapping[str, str]) -> Json:
    if volume["type"] != "bind":
        return volume
    source = volume.get("source", "")
    if not source:
        raise ComposeError(
            path, 'invalid mount config for type "bind": field Source must not be empty'
        )
    if source.startswith("~"):
        if "HOME" not in environment:
            raise ComposeError(path, "cannot expand '~', because the environment lacks HOME")
        source = environment["HOME"] + source[1:]
    return {**volume, "source": posixpath.normpath(posixpath.join(directory, source))}


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
