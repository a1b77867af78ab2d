"""Flags that name other objects: networks, secrets, configs. Pure."""

from typing import Any

from essaim_cli.grammar.fields import comma_fields, count

Json = dict[str, Any]

FILE_MODE_DEFAULT = 0o444


def parse_network(text: str) -> list[Json]:
    """`NAME`, or `name=NAME,alias=ALIAS,driver-opt=KEY=VALUE`. The masters resolve the name."""
    if "=" not in text:
        return [{"Target": text}]
    network: Json = {}
    for field in comma_fields(text):
        key, _, value = field.partition("=")
        if key == "name":
            network["Target"] = value
        elif key == "alias":
            network.setdefault("Aliases", []).append(value)
        elif key == "driver-opt":
            name, _, setting = value.partition("=")
            network.setdefault("DriverOpts", {})[name] = setting
        else:
            raise ValueError(f"invalid field key {key}: use name, alias and driver-opt")
    if not network.get("Target"):
        raise ValueError("network name is missing: write name=NAME")
    return [network]


def network_identity(network: Json) -> str:
    return str(network["Target"])


def parse_secret(text: str) -> list[Json]:
    return [_reference(text, "Secret")]


def secret_identity(secret: Json) -> str:
    return str(secret["SecretName"])


def parse_config(text: str) -> list[Json]:
    return [_reference(text, "Config")]


def config_identity(config: Json) -> str:
    return str(config["ConfigName"])


def _reference(text: str, kind: str) -> Json:
    """`NAME`, or `source=NAME,target=PATH,uid=0,gid=0,mode=0444,version=N`, the last Essaim's.

    Without a version it follows: the null asks for the newest data, also where the service has
    older since a rollback."""
    source, target = "", ""
    data: Json = {"DataVersion": None, "Pinned": None}
    file: Json = {"UID": "0", "GID": "0", "Mode": FILE_MODE_DEFAULT}
    for field in comma_fields(text if "=" in text else f"source={text}"):
        key, separator, value = field.partition("=")
        if not separator:
            raise ValueError(f"invalid field '{field}' must be a key=value pair")
        if key in ("source", "src"):
            source = value
        elif key == "target":
            target = value
        elif key in ("uid", "gid"):
            file[key.upper()] = value
        elif key == "mode":
            file["Mode"] = _octal(value)
        elif key == "version":
            data = {"DataVersion": _data_version(value), "Pinned": True}
        else:
            raise ValueError(
                f"invalid field key {key}: use source, target, uid, gid, mode and version"
            )
    if not source:
        raise ValueError("source is required")
    return {f"{kind}Name": source, "File": {"Name": target or source, **file}, **data}


def _data_version(text: str) -> int:
    number = count(text)
    if not number:
        raise ValueError("invalid version specified: 0: versions are counted from 1")
    return number


def _octal(text: str) -> int:
    try:
        return int(text, 8)
    except ValueError as error:
        raise ValueError(f"invalid mode specified: {text}: write octal digits, as 0444") from error
