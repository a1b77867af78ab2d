"""What a service of a compose file may say, and the long form that it is brought to. Pure.

The keys are those of Docker's schema 3.13 (docker/cli, cli/compose/schema) for files of every
version; where the Compose specification allows a harmless further spelling, it is taken.
"""

import ipaddress
import re
from collections.abc import Mapping
from typing import Any

from essaim_cli.compose import readers
from essaim_cli.compose.errors import ComposeError
from essaim_cli.compose.readers import Reader, anything, keys, listing, mapping, one_of, text
from essaim_cli.grammar.ports import parse_short

Json = dict[str, Any]

UNSUPPORTED = (
    "build",
    "cgroupns_mode",
    "cgroup_parent",
    "depends_on",
    "devices",
    "domainname",
    "external_links",
    "ipc",
    "links",
    "mac_address",
    "network_mode",
    "pid",
    "privileged",
    "restart",
    "security_opt",
    "shm_size",
    "userns_mode",
)
"""Ignored, and named in one line (docker/cli, cli/compose/types; Docker leaves the order of
`depends_on` out without a word)."""

DEPRECATED = {
    "container_name": "Setting the container name is not supported.",
    "expose": "Exposing ports is unnecessary - services on the same network can access each "
    "other's containers on any port.",
}

_RESOURCES = "Set resource limits using deploy.resources"
FORBIDDEN = {
    "extends": "Support for `extends` is not implemented yet.",
    "volume_driver": "Instead of setting the volume driver on the service, define a volume using "
    "the top-level `volumes` option and specify the driver there.",
    "volumes_from": "To share a volume between services, define it using the top-level `volumes` "
    "option and reference it from each service that shares it using the service-level `volumes` "
    "option.",
    "cpu_quota": _RESOURCES,
    "cpu_shares": _RESOURCES,
    "cpuset": _RESOURCES,
    "mem_limit": _RESOURCES,
    "memswap_limit": _RESOURCES,
}

_ADDRESS = re.compile(r"(\[[0-9a-fA-F:.]+\]|[0-9.]+):(.*:.*)")
"""A port of one address of the host: Docker's swarm opens it on all of them."""

_PROPAGATIONS = ("rprivate", "private", "rshared", "shared", "rslave", "slave")


def _ports(value: Any, path: str) -> list[Json]:
    if not isinstance(value, list):
        raise ComposeError(path, "must be a list")
    return [port for place, one in enumerate(value) for port in _port(one, f"{path}[{place}]")]


def _port(value: Any, path: str) -> list[Json]:
    if isinstance(value, dict):
        found: Json = _LONG_PORT(value, path)
        if not found.get("target"):
            raise ComposeError(path, "a port needs its target")
        return [found]
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ComposeError(path, "must be a port: a string, a number or a mapping")
    _, written = split_address(str(value))
    try:
        ports = parse_short(written)
    except ValueError as error:
        raise ComposeError(path, f"{error} in {str(value)!r}") from error
    return [
        {
            "mode": "ingress",
            "target": port["TargetPort"],
            **({"published": port["PublishedPort"]} if "PublishedPort" in port else {}),
            "protocol": port["Protocol"],
        }
        for port in ports
    ]


def split_address(port: str) -> tuple[str, str]:
    """The address of the host that a short port begins with, or nothing, and the rest."""
    match = _ADDRESS.fullmatch(port)
    return (match[1], match[2]) if match else ("", port)


def _port_number(value: Any, path: str) -> int:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 5:
        value = int(value)
    found = readers.integer(value, path)
    if not 0 <= found <= 65535:
        raise ComposeError(path, f"{found} is no port: it must be from 0 to 65535")
    return found


_LONG_PORT = keys(
    {
        "mode": one_of("ingress", "host"),
        "target": _port_number,
        "published": _port_number,
        "protocol": one_of("tcp", "udp", "sctp"),
    }
)


def _volume(value: Any, path: str) -> Json:
    if isinstance(value, str):
        return _short_volume(str(value), path)
    found: Json = _LONG_VOLUME(value, path)
    if not found.get("target"):
        raise ComposeError(path, "a volume needs its target")
    return {"type": "volume", **found}


def _short_volume(written: str, path: str) -> Json:
    """`[SOURCE:]TARGET[:OPTIONS]` (docker/cli, internal/volumespec)."""
    if not written:
        raise ComposeError(path, "invalid empty volume spec")
    source, separator, rest = written.partition(":")
    if not separator:
        return {"type": "volume", "target": written}
    target, _, options = rest.partition(":")
    if not source or not target or (rest.endswith(":")):
        raise ComposeError(path, f"invalid spec: {written}: empty section between colons")
    if ":" in options:
        raise ComposeError(path, f"invalid spec: {written}: too many colons")
    is_path = source[0] in "./~"
    found: Json = {"type": "bind" if is_path else "volume", "source": source, "target": target}
    for option in filter(None, options.split(",")):
        if option == "ro":
            found["read_only"] = True
        elif option == "nocopy":
            found["volume"] = {"nocopy": True}
        elif option in _PROPAGATIONS:
            found["bind"] = {"propagation": option}
    return found


_LONG_VOLUME = keys(
    {
        "type": one_of("volume", "bind", "tmpfs", "image"),
        "source": text,
        "target": text,
        "read_only": readers.boolean,
        "consistency": text,
        "bind": keys({"propagation": one_of(*_PROPAGATIONS), "create_host_path": readers.boolean}),
        "volume": keys({"nocopy": readers.boolean, "subpath": text}),
        "image": keys({"subpath": text}),
        "tmpfs": keys({"size": readers.size, "mode": readers.count}),
    }
)


def _networks(value: Any, path: str) -> dict[str, Json | None]:
    if isinstance(value, list):
        return {text(one, f"{path}[{place}]"): None for place, one in enumerate(value)}
    if not isinstance(value, dict):
        raise ComposeError(path, "must be a list or mapping")
    found: dict[str, Json | None] = mapping(_attachment, readers.NAME)(value, path)
    return found


def _attachment(value: Any, path: str) -> Json | None:
    return None if value is None else _ATTACHMENT(value, path)


_ATTACHMENT = keys(
    {
        "aliases": readers.strings,
        "driver_opts": readers.options,
        "ipv4_address": text,
        "ipv6_address": text,
    }
)


def _hosts(value: Any, path: str) -> list[str]:
    """`HOST:IP`; a mapping in the order of its names."""
    if isinstance(value, dict):
        lines = [
            f"{name}:{found or ''}" for name, found in sorted(readers.pairs(value, path).items())
        ]
    else:
        lines = readers.strings(value, path)
    found = []
    for place, line in enumerate(lines):
        separator = "=" if "=" in line else ":"
        name, _, address = line.partition(separator)
        address = address.removeprefix("[").removesuffix("]")
        _check_address(address, f"{path}[{place}]")
        found.append(f"{name}:{address}")
    return found


def _name_servers(value: Any, path: str) -> list[str]:
    found = readers.string_or_strings(value, path)
    for address in found:
        _check_address(address, path)
    return found


def _check_address(address: str, path: str) -> None:
    try:
        ipaddress.ip_address(address)
    except ValueError as error:
        raise ComposeError(path, f"{address!r} is no IP address") from error


def _ulimit(value: Any, path: str) -> int | Json:
    if not isinstance(value, dict):
        return readers.integer(value, path)
    found: Json = keys({"soft": readers.integer, "hard": readers.integer})(value, path)
    for name in ("soft", "hard"):
        if name not in found:
            raise ComposeError(path, f"{name} is required")
    return found


def _payload(value: Any, path: str) -> Json:
    """A secret or config of a service: its name alone, or where it stands and whose it is."""
    if isinstance(value, str):
        return {"source": str(value)}
    found: Json = _PAYLOAD(value, path)
    if not found.get("source"):
        raise ComposeError(path, "source is required")
    return found


_PAYLOAD = keys({"source": text, "target": text, "uid": text, "gid": text, "mode": readers.count})


def _deploy(value: Any, path: str) -> Json:
    return {} if value is None else _DEPLOY(value, path)


def _update_config(value: Any, path: str) -> Json:
    found: Json = keys(
        {
            "parallelism": readers.count,
            "delay": readers.duration,
            "failure_action": text,
            "monitor": readers.duration,
            "max_failure_ratio": readers.number,
            "order": one_of("start-first", "stop-first"),
        }
    )(value, path)
    return found


_DEPLOY = keys(
    {
        "mode": one_of("replicated", "global", "replicated-job", "global-job"),
        "endpoint_mode": text,
        "replicas": readers.count,
        "labels": readers.pairs,
        "rollback_config": _update_config,
        "update_config": _update_config,
        "resources": keys(
            {
                "limits": keys(
                    {"cpus": readers.amount, "memory": readers.size, "pids": readers.integer}
                ),
                "reservations": keys(
                    {
                        "cpus": readers.amount,
                        "memory": readers.size,
                        "generic_resources": listing(
                            keys(
                                {
                                    "discrete_resource_spec": keys(
                                        {"kind": text, "value": readers.integer}
                                    )
                                }
                            )
                        ),
                        "devices": readers.refused(
                            "nodes do not hand out GPUs yet: reserve generic_resources"
                        ),
                    }
                ),
            }
        ),
        "restart_policy": keys(
            {
                "condition": text,
                "delay": readers.duration,
                "max_attempts": readers.count,
                "window": readers.duration,
            }
        ),
        "placement": keys(
            {
                "constraints": readers.strings,
                "preferences": listing(keys({"spread": text})),
                "max_replicas_per_node": readers.count,
            }
        ),
    }
)

_HEALTHCHECK = keys(
    {
        "disable": readers.boolean,
        "interval": readers.duration,
        "retries": readers.count,
        "test": readers.check_line,
        "timeout": readers.duration,
        "start_period": readers.duration,
        "start_interval": readers.duration,
    }
)

_SERVICE: Mapping[str, Reader] = {
    **dict.fromkeys(UNSUPPORTED, anything),
    **dict.fromkeys(DEPRECATED, anything),
    "cap_add": readers.strings,
    "cap_drop": readers.strings,
    "command": readers.command,
    "configs": listing(_payload),
    "credential_spec": readers.refused(
        "credential specs are for Windows containers: nodes run Linux"
    ),
    "deploy": _deploy,
    "dns": _name_servers,
    "dns_search": readers.string_or_strings,
    "entrypoint": readers.command,
    "env_file": readers.string_or_strings,
    "environment": readers.optional_pairs,
    "extra_hosts": _hosts,
    "healthcheck": _HEALTHCHECK,
    "hostname": text,
    "image": text,
    "init": readers.boolean,
    "isolation": text,
    "labels": readers.pairs,
    "logging": keys({"driver": text, "options": readers.options}),
    "networks": _networks,
    "oom_score_adj": readers.integer,
    "ports": _ports,
    "read_only": readers.boolean,
    "restart": text,
    "secrets": listing(_payload),
    "stdin_open": readers.boolean,
    "stop_grace_period": readers.duration,
    "stop_signal": text,
    "sysctls": readers.pairs,
    "tmpfs": readers.string_or_strings,
    "tty": readers.boolean,
    "ulimits": mapping(_ulimit, re.compile("[a-z]+")),
    "user": text,
    "volumes": listing(_volume),
    "working_dir": text,
}

read_service = keys(_SERVICE)
