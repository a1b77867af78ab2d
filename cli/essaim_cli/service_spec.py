"""The flags of `service create`, and the spec that they make. Pure but for reading --env-file.

Flags, their defaults and their grammars are those of `docker service create`; the two marked
"Essaim" are ours. Nothing is sent that was not asked for, as Docker's own client does.
"""

import os
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from essaim_cli.errors import usage
from essaim_cli.units import parse_cpus, parse_duration, parse_size

Options = Mapping[str, Any]

RESTART_DELAY_DEFAULT_NS = 5_000_000_000


class Quantity(click.ParamType[int]):
    """A click type made of a parser that raises ValueError with a sentence for the user."""

    def __init__(self, name: str, parse: Callable[[str], int]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, parameter: Any, context: Any) -> int:
        if isinstance(value, int):
            return value
        try:
            return self._parse(value)
        except ValueError as error:
            self.fail(str(error), parameter, context)


DURATION = Quantity("duration", parse_duration)
SIZE = Quantity("bytes", parse_size)
CPUS = Quantity("decimal", parse_cpus)
COUNT = click.IntRange(min=0)

CREATE_OPTIONS = (
    click.option("--name", metavar="NAME", help="Service name; drawn at random if not given."),
    click.option("--replicas", type=COUNT, help="Number of tasks (default 1)."),
    click.option("--mode", default="replicated", help="Service mode (default replicated)."),
    click.option("--constraint", multiple=True, metavar="KEY==VALUE", help="Placement constraint."),
    click.option("--replicas-max-per-node", type=COUNT, help="At most this many tasks on a node."),
    click.option("-e", "--env", multiple=True, metavar="KEY=VALUE", help="Environment variable."),
    click.option(
        "--env-file", multiple=True, metavar="FILE", help="File of environment variables."
    ),
    click.option("--entrypoint", metavar="COMMAND", help="Replace the image's entry point."),
    click.option("-w", "--workdir", metavar="DIR", help="Working directory."),
    click.option("-u", "--user", metavar="USER[:GROUP]", help="User to run as."),
    click.option("--hostname", help="Host name of the container."),
    click.option("-t", "--tty", is_flag=True, help="Allocate a pseudo-terminal."),
    click.option("--read-only", is_flag=True, help="Mount the root file system read-only."),
    click.option("--init", is_flag=True, help="Run an init that reaps processes."),
    click.option("-l", "--label", multiple=True, metavar="KEY=VALUE", help="Service label."),
    click.option("--container-label", multiple=True, metavar="KEY=VALUE", help="Container label."),
    click.option("--limit-cpu", type=CPUS, help="CPUs a task may use."),
    click.option("--limit-memory", type=SIZE, help="Memory a task may use."),
    click.option("--limit-pids", type=COUNT, help="Processes a task may have (0: no limit)."),
    click.option("--reserve-cpu", type=CPUS, help="CPUs set aside for a task."),
    click.option("--reserve-memory", type=SIZE, help="Memory set aside for a task."),
    click.option(
        "--restart-condition",
        type=click.Choice(["none", "on-failure", "any"]),
        help="When an ended task is replaced (default any).",
    ),
    click.option("--restart-delay", type=DURATION, help="Before a replacement (default 5s)."),
    click.option("--restart-max-attempts", type=COUNT, help="Replacements before giving up."),
    click.option(
        "--restart-backoff-max", type=DURATION, help="Essaim: where the doubling delay ends."
    ),
    click.option(
        "--stop-when-cut-off", type=DURATION, help="Essaim: stop after so long without a master."
    ),
    click.option("--stop-grace-period", type=DURATION, help="Before a kill (default 10s)."),
    click.option("--stop-signal", metavar="SIGNAL", help="Signal that stops the container."),
    click.option("--dns", multiple=True, metavar="ADDRESS", help="Name server."),
    click.option("--dns-option", multiple=True, help="Resolver option."),
    click.option("--dns-search", multiple=True, help="Search domain."),
    click.option("--host", "hosts", multiple=True, metavar="HOST:IP", help="Line for /etc/hosts."),
    click.option("--cap-add", multiple=True, help="Linux capability to add."),
    click.option("--cap-drop", multiple=True, help="Linux capability to drop."),
    click.option("--sysctl", multiple=True, metavar="KEY=VALUE", help="Kernel parameter."),
    click.option(
        "--oom-score-adj", type=click.IntRange(-1000, 1000), help="Host's OOM preference."
    ),
)


def service_spec(image: str, arguments: Sequence[str], options: Options) -> dict[str, Any]:
    """The body of POST /services/create. Raises UsageError."""
    if options["mode"] != "replicated":
        mode = {"global": "Global", "replicated-job": "ReplicatedJob", "global-job": "GlobalJob"}
        if options["mode"] not in mode:
            raise usage(f"unknown service mode {options['mode']!r}: use replicated")
        service_mode: dict[str, Any] = {mode[options["mode"]]: {}}
    else:
        replicas = options["replicas"]
        service_mode = {"Replicated": {} if replicas is None else {"Replicas": replicas}}
    return {
        "Name": options["name"] or "",
        "Labels": key_values("--label", options["label"]),
        "TaskTemplate": _task_template(image, arguments, options),
        "Mode": service_mode,
    }


def _task_template(image: str, arguments: Sequence[str], options: Options) -> dict[str, Any]:
    return _present(
        {
            "ContainerSpec": _container(image, arguments, options),
            "Resources": _present(
                {
                    "Limits": _present(
                        {
                            "NanoCPUs": options["limit_cpu"],
                            "MemoryBytes": options["limit_memory"],
                            "Pids": options["limit_pids"],
                        }
                    ),
                    "Reservations": _present(
                        {
                            "NanoCPUs": options["reserve_cpu"],
                            "MemoryBytes": options["reserve_memory"],
                        }
                    ),
                }
            ),
            "RestartPolicy": _restart_policy(options),
            "Placement": _present(
                {
                    "Constraints": list(options["constraint"]),
                    "MaxReplicas": options["replicas_max_per_node"],
                }
            ),
            "StopWhenCutOff": options["stop_when_cut_off"],
        }
    )


def _container(image: str, arguments: Sequence[str], options: Options) -> dict[str, Any]:
    container = {
        "Image": image,
        "Args": list(arguments),
        "Command": shlex.split(options["entrypoint"] or ""),
        "Env": environment(options["env"], options["env_file"]),
        "Dir": options["workdir"],
        "User": options["user"],
        "Hostname": options["hostname"],
        "TTY": options["tty"],
        "ReadOnly": options["read_only"],
        "Init": options["init"],
        "Labels": key_values("--container-label", options["container_label"]),
        "StopGracePeriod": options["stop_grace_period"],
        "StopSignal": options["stop_signal"],
        "DNSConfig": _present(
            {
                "Nameservers": list(options["dns"]),
                "Options": list(options["dns_option"]),
                "Search": list(options["dns_search"]),
            }
        ),
        "Hosts": [_host_line(host) for host in options["hosts"]],
        "CapabilityAdd": list(options["cap_add"]),
        "CapabilityDrop": list(options["cap_drop"]),
        "Sysctls": key_values("--sysctl", options["sysctl"]),
        "OomScoreAdj": options["oom_score_adj"],
    }
    return {"Image": image, **_present(container)}


def _restart_policy(options: Options) -> dict[str, Any]:
    names = ("condition", "delay", "max_attempts", "backoff_max")
    given = {name: options[f"restart_{name}"] for name in names}
    if all(value is None for value in given.values()):
        return {}
    delay = given["delay"]
    policy = {
        "Condition": given["condition"] or "any",
        "Delay": RESTART_DELAY_DEFAULT_NS if delay is None else delay,
        "MaxAttempts": given["max_attempts"] or 0,
    }
    if given["backoff_max"] is not None:
        policy["BackoffMax"] = given["backoff_max"]
    return policy


def environment(settings: Iterable[str], files: Iterable[str]) -> list[str]:
    """`KEY=VALUE` settings; of duplicates the last wins; `KEY` alone takes the caller's value."""
    merged: dict[str, str | None] = {}
    for setting in [*_env_file_lines(files), *settings]:
        key, separator, value = setting.partition("=")
        if not key:
            raise usage(f"invalid environment variable {setting!r}: write KEY=VALUE")
        merged[key] = value if separator else os.environ.get(key)
    return [f"{key}={value}" for key, value in merged.items() if value is not None]


def _env_file_lines(files: Iterable[str]) -> list[str]:
    lines: list[str] = []
    for file in files:
        try:
            text = Path(file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise usage(f"cannot read --env-file {file}: {error}") from error
        lines.extend(line for line in map(str.strip, text.splitlines()) if line and line[0] != "#")
    return lines


def key_values(flag: str, settings: Iterable[str]) -> dict[str, str]:
    pairs = {}
    for setting in settings:
        key, _, value = setting.partition("=")
        if not key:
            raise usage(f"invalid {flag} {setting!r}: write KEY=VALUE")
        pairs[key] = value
    return pairs


def _host_line(host: str) -> str:
    name, separator, address = host.partition(":")
    if not (name and separator and address):
        raise usage(f"invalid --host {host!r}: write HOST:IP")
    return f"{address} {name}"


def _present(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Without what was not asked for. Zero is an answer; None, empty and False are not."""
    return {
        name: value
        for name, value in fields.items()
        if value is not None and value is not False and value not in ("", [], {})
    }
