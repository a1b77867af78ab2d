"""What a compose file may say around its services, and what is ignored or refused in it. Pure."""

import ipaddress
from collections.abc import Iterable, Mapping
from typing import Any

from essaim_cli.compose import readers
from essaim_cli.compose.errors import ComposeError
from essaim_cli.compose.readers import Reader, keys, listing, mapping, text
from essaim_cli.compose.service_shape import (
    DEPRECATED,
    FORBIDDEN,
    UNSUPPORTED,
    read_service,
    split_address,
)

Json = dict[str, Any]

VERSION_DEFAULT = "3.13"
VERSIONS = frozenset(f"3.{minor}" for minor in range(14))
SECTIONS = ("services", "networks", "volumes", "secrets", "configs")

_RESTARTS_ON_FAILURE = "on-failure"
_FIXED_ADDRESSES = ("ipv4_address", "ipv6_address")


def version_of(document: Mapping[str, Any]) -> str:
    """Raises ComposeError for a version that is not of the third format."""
    version = document.get("version", VERSION_DEFAULT)
    if not isinstance(version, str):
        raise ComposeError("version", f'must be a string: write "{version}" in quotes')
    wanted = VERSION_DEFAULT if version in ("", "3") else str(version)
    if wanted not in VERSIONS:
        raise ComposeError("version", f"unsupported Compose file version: {version}")
    return wanted


def read_file(document: Mapping[str, Any]) -> dict[str, Json]:
    """The sections of one file, in their long form. Raises ComposeError."""
    found: Json = _FILE(dict(document), "")
    networks, volumes = found.get("networks", {}), found.get("volumes", {})
    return {
        "services": found.get("services", {}),
        "networks": {name: _named(f"networks.{name}", name, networks[name]) for name in networks},
        "volumes": {name: _volume(f"volumes.{name}", name, volumes[name]) for name in volumes},
        **{
            section: {
                name: _payload(f"{section}.{name}", name, one)
                for name, one in found.get(section, {}).items()
            }
            for section in ("secrets", "configs")
        },
    }


def forbidden_options(document: Mapping[str, Any]) -> dict[str, str]:
    """Options that no file may have, with what to write instead."""
    used = {name for service in _services(document) for name in service}
    return {name: FORBIDDEN[name] for name in sorted(used & FORBIDDEN.keys())}


def deprecated_options(documents: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    used = {name for document in documents for service in _services(document) for name in service}
    return {name: DEPRECATED[name] for name in sorted(used & DEPRECATED.keys())}


def ignored_options(documents: Iterable[Mapping[str, Any]]) -> list[str]:
    """What is in the files and has no effect, by name. `restart` has one where it is
    `on-failure`."""
    used: set[str] = set()
    for document in documents:
        used.update({"name"} & document.keys())
        for service in _services(document):
            ignored = set(UNSUPPORTED) & service.keys()
            if str(service.get("restart", "")).startswith(_RESTARTS_ON_FAILURE):
                ignored.discard("restart")
            used.update(ignored)
            networks = service.get("networks")
            for attachment in networks.values() if isinstance(networks, dict) else ():
                if isinstance(attachment, dict):
                    used.update(set(_FIXED_ADDRESSES) & attachment.keys())
    return sorted(used)


def ignored_addresses(documents: Iterable[Mapping[str, Any]]) -> list[str]:
    """Short ports that name an address of the host: they are open on all of them."""
    found = []
    for document in documents:
        for service in _services(document):
            ports = service.get("ports")
            for port in ports if isinstance(ports, list) else ():
                if isinstance(port, str) and split_address(port)[0]:
                    found.append(port)
    return found


def _services(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Those that are mappings, of a document that nobody has checked."""
    services = document.get("services")
    found = services.values() if isinstance(services, dict) else ()
    return [service for service in found if isinstance(service, dict)]


def _external(value: Any, path: str) -> Any:
    """`true`, or the older `{name: NAME}`."""
    if isinstance(value, dict):
        return keys({"name": text})(value, path)
    return readers.boolean(value, path)


def _subnet(value: Any, path: str) -> str:
    written = text(value, path)
    try:
        return str(ipaddress.ip_network(written, strict=False))
    except ValueError as error:
        raise ComposeError(path, f"{written!r} is no subnet: write 10.1.0.0/16") from error


def _gateway(value: Any, path: str) -> str:
    written = text(value, path)
    try:
        return str(ipaddress.ip_address(written))
    except ValueError as error:
        raise ComposeError(path, f"{written!r} is no IP address") from error


def _or_nothing(reader: Reader) -> Reader:
    """An entry without a word, as `data:` among the volumes."""

    def read(value: Any, path: str) -> Any:
        return {} if value is None else reader(value, path)

    return read


_NETWORK = keys(
    {
        "name": text,
        "driver": text,
        "driver_opts": readers.options,
        "ipam": keys(
            {
                "driver": text,
                "config": listing(
                    keys({"subnet": _subnet, "ip_range": _subnet, "gateway": _gateway})
                ),
            }
        ),
        "external": _external,
        "internal": readers.boolean,
        "attachable": readers.boolean,
        "labels": readers.pairs,
    }
)

_VOLUME = keys(
    {
        "name": text,
        "driver": text,
        "driver_opts": readers.options,
        "external": _external,
        "labels": readers.pairs,
    }
)

_PAYLOAD_KEYS: dict[str, Reader] = {
    "name": text,
    "file": text,
    "external": _external,
    "labels": readers.pairs,
    "driver": readers.refused("Essaim keeps the data itself: give its file"),
    "driver_opts": readers.refused("Essaim keeps the data itself: give its file"),
    "template_driver": readers.refused("there are no templates in secrets and configs"),
}
_PAYLOAD = keys(_PAYLOAD_KEYS)

_FILE = keys(
    {
        "version": text,
        "name": text,
        "services": mapping(read_service, readers.NAME),
        "networks": mapping(_or_nothing(_NETWORK), readers.NAME),
        "volumes": mapping(_or_nothing(_VOLUME), readers.NAME),
        "secrets": mapping(_PAYLOAD, readers.NAME),
        "configs": mapping(keys({**_PAYLOAD_KEYS, "content": text}), readers.NAME),
    }
)


def _volume(path: str, name: str, found: Json) -> Json:
    if found.get("external"):
        for key in ("driver", "driver_opts", "labels"):
            if found.get(key):
                raise ComposeError(
                    path, f'conflicting parameters "external" and "{key}" specified for a volume'
                )
    return _named(path, name, found)


def _payload(path: str, name: str, found: Json) -> Json:
    sources = [key for key in ("file", "content") if found.get(key)]
    if found.get("external"):
        for key in (*sources, "labels"):
            if found.get(key):
                raise ComposeError(path, f'conflicting parameters "external" and "{key}" specified')
    elif len(sources) != 1:
        raise ComposeError(path, "it needs a file, or to be external; a config can have content")
    return _named(path, name, found)


def _named(path: str, name: str, found: Json) -> Json:
    """What is external has its name in one place."""
    external = found.get("external")
    if isinstance(external, dict):
        if found.get("name") and external.get("name"):
            raise ComposeError(path, "external.name and name conflict; only use name")
        found = {**found, "name": external.get("name") or found.get("name") or name}
        return {**found, "external": True}
    if external:
        return {**found, "name": found.get("name") or name}
    return {key: value for key, value in found.items() if key != "external"}
