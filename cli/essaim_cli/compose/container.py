"""The container of a service in a compose file → Docker's ContainerSpec. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from essaim_cli.compose.errors import ComposeError
from essaim_cli.grammar.containers import change_capabilities, parse_capability
from essaim_cli.grammar.fields import present
from essaim_cli.units import parse_duration, parse_size

Json = dict[str, Any]

_OPTIONS_OF_TYPE = {"volume": "volume", "bind": "bind", "tmpfs": "tmpfs", "image": "image"}
PERMISSION_BITS_MAX = 0o7777


def container_spec(
    stack: str, name: str, service: Json, volumes: Mapping[str, Json], labels: Mapping[str, str]
) -> Json:
    path = f"services.{name}"
    container = {
        "Image": service["image"],
        # Said by Docker's client always: whoever changes clients keeps the tasks.
        "Privileges": {},
        **present(
            {
                "Labels": {**service.get("labels", {}), **labels},
                "Command": service.get("entrypoint"),
                "Args": service.get("command"),
                "Hostname": service.get("hostname"),
                "Env": _environment(service.get("environment", {})),
                "Dir": service.get("working_dir"),
                "User": service.get("user"),
                "StopSignal": service.get("stop_signal"),
                "TTY": service.get("tty"),
                "OpenStdin": service.get("stdin_open"),
                "ReadOnly": service.get("read_only"),
                "Mounts": _mounts(stack, path, service, volumes, labels),
                "Healthcheck": _healthcheck(path, service.get("healthcheck")),
                "Hosts": [_host_line(one) for one in service.get("extra_hosts", ())],
                "DNSConfig": present(
                    {"Nameservers": service.get("dns"), "Search": service.get("dns_search")}
                ),
                "Isolation": service.get("isolation"),
                "Sysctls": service.get("sysctls"),
                "Ulimits": _ulimits(service.get("ulimits", {})),
                "OomScoreAdj": service.get("oom_score_adj") or None,
            }
        ),
    }
    if "stop_grace_period" in service:
        container["StopGracePeriod"] = parse_duration(service["stop_grace_period"])
    if "init" in service:
        container["Init"] = service["init"]
    _add_capabilities(container, path, service)
    return container


def _environment(variables: Mapping[str, str | None]) -> list[str]:
    return [
        name if value is None else f"{name}={value}" for name, value in sorted(variables.items())
    ]


def _host_line(host: str) -> str:
    """`HOST:IP` → `IP HOST`, as /etc/hosts has it."""
    name, _, address = host.partition(":")
    return f"{address} {name}"


def _ulimits(ulimits: Mapping[str, int | Json]) -> list[Json]:
    return [
        {"Name": name, "Soft": limit["soft"], "Hard": limit["hard"]}
        if isinstance(limit, dict)
        else {"Name": name, "Soft": limit, "Hard": limit}
        for name, limit in sorted(ulimits.items())
    ]


def _add_capabilities(container: Json, path: str, service: Json) -> None:
    given: dict[str, list[str]] = {}
    for key in ("cap_add", "cap_drop"):
        given[key] = []
        for place, one in enumerate(service.get(key, ())):
            try:
                given[key] += parse_capability(one)
            except ValueError as error:
                raise ComposeError(f"{path}.{key}[{place}]", str(error)) from error
    if any(given.values()):
        change_capabilities(container, given["cap_add"], given["cap_drop"])


def _healthcheck(path: str, check: Json | None) -> Json | None:
    if check is None:
        return None
    if check.get("disable"):
        if check.get("test"):
            raise ComposeError(
                f"{path}.healthcheck", "test and disable can't be set at the same time"
            )
        return {"Test": ["NONE"]}
    durations = {
        "Interval": "interval",
        "Timeout": "timeout",
        "StartPeriod": "start_period",
        "StartInterval": "start_interval",
    }
    return present(
        {
            "Test": check.get("test"),
            "Retries": check.get("retries") or None,
            **{
                name: parse_duration(check[key]) or None if key in check else None
                for name, key in durations.items()
            },
        }
    )


def _mounts(
    stack: str,
    path: str,
    service: Json,
    volumes: Mapping[str, Json],
    labels: Mapping[str, str],
) -> list[Json]:
    found = [
        _mount(stack, f"{path}.volumes[{place}]", volume, volumes, labels)
        for place, volume in enumerate(service.get("volumes", ()))
    ]
    found += [
        _tmpfs(f"{path}.tmpfs[{place}]", written)
        for place, written in enumerate(service.get("tmpfs", ()))
    ]
    return found


def _mount(
    stack: str, path: str, volume: Json, volumes: Mapping[str, Json], labels: Mapping[str, str]
) -> Json:
    kind, source = volume["type"], volume.get("source", "")
    for other, group in _OPTIONS_OF_TYPE.items():
        if group in volume and other != kind:
            raise ComposeError(path, f"{other} options are incompatible with type {kind}")
    mount = {
        "Type": kind,
        **present(
            {
                "Source": source,
                "ReadOnly": volume.get("read_only"),
                "Consistency": volume.get("consistency"),
            }
        ),
        "Target": volume["target"],
    }
    if kind == "tmpfs" and source:
        raise ComposeError(path, "invalid tmpfs source, source must be empty")
    if kind in ("bind", "image") and not source:
        raise ComposeError(path, f"invalid {kind} source, source cannot be empty")
    if kind == "volume":
        return {**mount, **_named_volume(stack, path, volume, volumes, labels)}
    options = {
        "bind": ("BindOptions", _bind_options),
        "tmpfs": ("TmpfsOptions", _tmpfs_options),
        "image": ("ImageOptions", _image_options),
    }[kind]
    if made := options[1](volume.get(kind, {})):
        mount[options[0]] = made
    return mount


def _named_volume(
    stack: str, path: str, volume: Json, volumes: Mapping[str, Json], labels: Mapping[str, str]
) -> Json:
    """A volume of the stack carries its label; one from outside is taken as it is."""
    source = volume.get("source", "")
    if not source:
        return {}
    declared = volumes.get(source)
    if declared is None:
        raise ComposeError(path, f'undefined volume "{source}"')
    asked = volume.get("volume", {})
    options = present({"NoCopy": asked.get("nocopy"), "Subpath": asked.get("subpath")})
    if not declared.get("external"):
        options["Labels"] = {**declared.get("labels", {}), **labels}
        driver = present({"Name": declared.get("driver"), "Options": declared.get("driver_opts")})
        if driver:
            options["DriverConfig"] = driver
    return {
        "Source": declared.get("name") or f"{stack}_{source}",
        "VolumeOptions": options,
    }


def _bind_options(bind: Json) -> Json:
    return present(
        {
            "Propagation": bind.get("propagation"),
            "CreateMountpoint": bind.get("create_host_path"),
        }
    )


def _tmpfs_options(tmpfs: Json) -> Json:
    size_bytes = int(tmpfs.get("size", "0"))
    return present({"SizeBytes": size_bytes or None, "Mode": tmpfs.get("mode")})


def _image_options(image: Json) -> Json:
    return present({"Subpath": image.get("subpath")})


def _tmpfs(path: str, written: str) -> Json:
    """`/run`, `/run:size=64m,mode=1777`. Docker's client leaves these out of a stack; a task that
    was asked to have them gets them here."""
    target, _, options = written.partition(":")
    if not target.startswith("/"):
        raise ComposeError(path, f"{written!r} begins with no absolute path")
    mount: Json = {"Type": "tmpfs", "Target": target}
    for option in _split(options):
        key, _, value = option.partition("=")
        if key == "ro":
            mount["ReadOnly"] = True
        elif key == "size":
            mount.setdefault("TmpfsOptions", {})["SizeBytes"] = _size(path, value)
        elif key == "mode":
            mount.setdefault("TmpfsOptions", {})["Mode"] = _mode(path, value)
        elif key != "rw":
            raise ComposeError(path, f"the option {option!r} is not supported: use size and mode")
    return mount


def _split(options: str) -> Sequence[str]:
    return [option for option in options.split(",") if option]


def _size(path: str, text: str) -> int:
    try:
        return parse_size(text)
    except ValueError as error:
        raise ComposeError(path, str(error)) from error


def _mode(path: str, text: str) -> int:
    is_octal = text.isascii() and text.isdigit() and set(text) <= set("01234567")
    if not is_octal or len(text) > 5 or int(text, 8) > PERMISSION_BITS_MAX:
        raise ComposeError(path, f"invalid mode {text!r}: write octal digits, as 1777")
    return int(text, 8)
