"""`--publish 8080:80/tcp`, `--publish target=80,published=8080,mode=host`, and what
`--publish-rm` takes. Pure; docker/cli's opts/swarmopts/port.go."""

import re
from typing import Any

from essaim_cli.grammar.fields import comma_fields, port_number

Json = dict[str, Any]

PROTOCOLS = ("tcp", "udp", "sctp")
MODES = ("ingress", "host")
PORTS_MAX = 256
"""Of one service, as the masters have it."""

_LONG = re.compile(r"\w+=\w+(,\w+=\w+)*")


def parse_publish(text: str) -> list[Json]:
    """One port of the long syntax; as many as the range holds of the short one."""
    return [_long(text)] if _LONG.search(text) else parse_short(text)


def parse_published(text: str) -> list[Json]:
    """What is to be published no more: the target port, in either syntax. Docker's client takes a
    removal that names no mode for one of `ingress` only; here it is any mode."""
    ports = parse_publish(text)
    if "mode=" in text.lower():
        return ports
    return [{name: port[name] for name in port if name != "PublishMode"} for port in ports]


def is_unpublished_by(port: Json, removal: Json) -> bool:
    """Target port, protocol and mode must agree; the published port need not be said."""
    return (
        port["TargetPort"] == removal["TargetPort"]
        and port.get("Protocol", "tcp") == removal.get("Protocol", "tcp")
        and ("PublishMode" not in removal or _mode(port) == _mode(removal))
    )


def port_identity(port: Json) -> str:
    published = port.get("PublishedPort", 0)
    return f"{published}:{port['TargetPort']}/{port.get('Protocol', 'tcp')}/{_mode(port)}"


def ingress_ports(ports: list[Json]) -> list[Json]:
    return [port for port in ports if _mode(port) == "ingress"]


def host_mode_flag(port: Json) -> str:
    """The `--publish` that opens the same port on the nodes where the tasks run."""
    fields = [f"target={port['TargetPort']}"]
    if port.get("PublishedPort"):
        fields.append(f"published={port['PublishedPort']}")
    if port.get("Protocol", "tcp") != "tcp":
        fields.append(f"protocol={port['Protocol']}")
    return f"--publish {','.join([*fields, 'mode=host'])}"


def _mode(port: Json) -> str:
    return str(port.get("PublishMode") or "ingress")


def _long(text: str) -> Json:
    port: Json = {"Protocol": "tcp", "PublishMode": "ingress"}
    for field in comma_fields(text.lower()):
        key, separator, value = field.partition("=")
        if not separator or not key:
            raise ValueError(f"invalid field: {field}")
        if key == "protocol":
            if value not in PROTOCOLS:
                raise ValueError(f"invalid protocol value '{value}': use tcp, udp or sctp")
            port["Protocol"] = value
        elif key == "mode":
            if value not in MODES:
                raise ValueError(
                    f"invalid publish mode value ({value}): must be either 'ingress' or 'host'"
                )
            port["PublishMode"] = value
        elif key == "target":
            port["TargetPort"] = port_number(value, "target port")
        elif key == "published":
            port["PublishedPort"] = port_number(value, "published port", least=0)
        else:
            raise ValueError(f"invalid field key: {key}: use target, published, protocol and mode")
    if "TargetPort" not in port:
        raise ValueError("missing mandatory field 'target'")
    return port


def parse_short(text: str) -> list[Json]:
    ports, separator, protocol = text.partition("/")
    protocol = protocol.lower() if separator else "tcp"
    if protocol not in PROTOCOLS:
        raise ValueError(f"invalid protocol value '{protocol}': use tcp, udp or sctp")
    host_ip, _, published_and_target = ports.rpartition("]:") if "[" in ports else ("", "", ports)
    parts = published_and_target.split(":")
    if host_ip or len(parts) > 2:
        raise ValueError("hostip is not supported: a port is open on all addresses of a node")
    targets = _range(parts[-1], "target port")
    published = _range(parts[0], "published port") if len(parts) == 2 and parts[0] else []
    if published and len(targets) == 1 and len(published) > 1:
        targets = targets * len(published)
    if published and len(published) != len(targets):
        raise ValueError(f"invalid ranges: {len(published)} ports are published for {len(targets)}")
    base = {"Protocol": protocol, "PublishMode": "ingress"}
    if not published:
        return [{**base, "TargetPort": target} for target in targets]
    return [
        {**base, "TargetPort": target, "PublishedPort": outside}
        for target, outside in zip(targets, published, strict=True)
    ]


def _range(text: str, what: str) -> list[int]:
    first, separator, last = text.partition("-")
    start = port_number(first, what)
    end = port_number(last, what) if separator else start
    if end < start:
        raise ValueError(f"invalid {what} range ({text}): it ends before it begins")
    if end - start >= PORTS_MAX:
        raise ValueError(f"invalid {what} range ({text}): a service has at most {PORTS_MAX} ports")
    return list(range(start, end + 1))
