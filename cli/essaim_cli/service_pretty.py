"""`service inspect --pretty`: every setting of a service for people, in Docker's order and words
(docker/cli, cli/command/service/formatter.go), with Essaim's own after the part they belong to.
Pure."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Any

from essaim_cli.service_view import shown_mode
from essaim_cli.task_view import ago
from essaim_cli.units import go_duration, human_size

Json = Mapping[str, Any]

VALUE_COLUMN = 20
"""Where the values of all lines begin."""

_MODE_WORDS = {
    "replicated": "Replicated",
    "global": "Global",
    "replicated job": "ReplicatedJob",
    "global job": "GlobalJob",
    "cron": "Cron",
}


def pretty_service(
    item: Json, now: datetime, networks: Mapping[str, str] = MappingProxyType({})
) -> str:
    """`networks`: id → name; those that are not in it show their id."""
    spec = item["Spec"]
    template = spec["TaskTemplate"]
    container = template["ContainerSpec"]
    return "\n".join(
        (
            *_line("ID", item["ID"]),
            *_line("Name", spec["Name"]),
            *_pairs("Labels", spec.get("Labels"), "="),
            *_mode(spec),
            *_schedule(spec.get("Schedule") or {}),
            *_update_status(item.get("UpdateStatus") or {}, now),
            *_placement(template.get("Placement") or {}),
            *_update_config("Update", spec.get("UpdateConfig")),
            *_update_config("Rollback", spec.get("RollbackConfig")),
            *_restart(template),
            *_container(container),
            *_capabilities(container),
            *_pairs("SysCtls", container.get("Sysctls"), ": "),
            *_pairs("Ulimits", _ulimits(container.get("Ulimits") or ()), ": "),
            *_mounts(container.get("Mounts") or ()),
            *_rights(container),
            *_references("Configs", "Config", container.get("Configs") or ()),
            *_references("Secrets", "Secret", container.get("Secrets") or ()),
            *_log_driver(template.get("LogDriver") or {}),
            *_resources(template.get("Resources") or {}),
            *_line("Networks", _words(_networks(template.get("Networks") or (), networks))),
            *_endpoint(spec.get("EndpointSpec") or {}, item.get("Endpoint") or {}, networks),
            *_ports((item.get("Endpoint") or {}).get("Ports") or ()),
            *_health(container.get("Healthcheck") or {}),
            *_probes(container.get("Probes") or {}),
        )
    )


def _line(label: str, value: object, depth: int = 0) -> Iterable[str]:
    """Nothing where there is no value. A label that reaches the column keeps one blank."""
    if value in ("", None):
        return []
    head = f"{' ' * depth}{label}:"
    return [f"{head:<{VALUE_COLUMN - 1}} {value}"]


def _section(heading: str, lines: Sequence[str]) -> list[str]:
    return [f"{heading}:", *lines] if lines else []


def _pairs(heading: str, pairs: Json | None, mark: str, depth: int = 0) -> list[str]:
    found = pairs or {}
    margin = " " * depth
    return _section(
        f"{margin}{heading}",
        [
            f"{margin} {key}{mark}{found[key]}" if found[key] else f"{margin} {key}"
            for key in sorted(found)
        ],
    )


def _duration(nanoseconds: int | None) -> str:
    return "" if nanoseconds is None else go_duration(nanoseconds)


def _words(words: Sequence[str] | None) -> str:
    return " ".join(words or ())


def _mode(spec: Json) -> Iterable[str]:
    yield from _line("Service Mode", _MODE_WORDS.get(shown_mode(spec), ""))
    mode = spec["Mode"]
    if "Replicated" in mode:
        yield from _line("Replicas", (mode["Replicated"] or {}).get("Replicas"), 1)
    if "ReplicatedJob" in mode:
        job = mode["ReplicatedJob"] or {}
        yield from _line("Max Concurrent", job.get("MaxConcurrent"), 1)
        yield from _line("Total Completions", job.get("TotalCompletions"), 1)


def _schedule(schedule: Json) -> list[str]:
    if not schedule:
        return []
    return [
        "Schedule:",
        *_line("Times", schedule["Expression"], 1),
        *_line("Time Zone", schedule.get("TimeZone", "UTC"), 1),
        *_line("Concurrency", schedule.get("Concurrency", "allow"), 1),
        *_line("Missed", schedule.get("Missed", "skip"), 1),
        *_line("History", schedule.get("History", 5), 1),
        *_line("Suspended", "yes" if schedule.get("Suspended") else "", 1),
    ]


def _update_status(status: Json, now: datetime) -> list[str]:
    if not status.get("State"):
        return []
    started, completed = status.get("StartedAt"), status.get("CompletedAt")
    return [
        "UpdateStatus:",
        *_line("State", status["State"], 1),
        *_line("Started", ago(started, now) if started else "", 1),
        *_line("Completed", ago(completed, now) if completed else "", 1),
        *_line("Message", status.get("Message", ""), 1),
        *_line("Steps Done", status.get("StepsDone") or "", 1),
    ]


def _placement(placement: Json) -> list[str]:
    spreads = [
        f"spread={one['Spread']['SpreadDescriptor']}" for one in placement.get("Preferences") or ()
    ]
    return [
        "Placement:",
        *_line("Constraints", ", ".join(placement.get("Constraints") or ()), 1),
        *_line("Preferences", ", ".join(spreads), 1),
        *_line("Max Replicas Per Node", placement.get("MaxReplicas") or "", 1),
    ]


def _update_config(kind: str, config: Json | None) -> list[str]:
    if config is None:
        return []
    steps = ", ".join(f"{step}%" for step in config.get("Steps") or ())
    return [
        f"{kind}Config:",
        *_line("Parallelism", config.get("Parallelism", 0), 1),
        *_line("Delay", _duration(config.get("Delay") or None), 1),
        *_line("On failure", config.get("FailureAction") or "pause", 1),
        *_line("Monitoring Period", _duration(config.get("Monitor") or None), 1),
        *_line("Max failure ratio", f"{config.get('MaxFailureRatio', 0):g}", 1),
        *_line(f"{kind} order", config.get("Order") or "stop-first", 1),
        *_line("Progress Deadline", _duration(config.get("ProgressDeadline")), 1),
        *_line("Steps", steps, 1),
    ]


def _restart(template: Json) -> list[str]:
    """Docker shows nothing of it."""
    policy = template.get("RestartPolicy") or {}
    return _section(
        "RestartPolicy",
        [
            *_line("Condition", policy.get("Condition", ""), 1),
            *_line("Delay", _duration(policy.get("Delay")), 1),
            *_line("Max Attempts", policy.get("MaxAttempts") or "", 1),
            *_line("Window", _duration(policy.get("Window") or None), 1),
            *_line("Backoff Max", _duration(policy.get("BackoffMax")), 1),
            *_line("Stop When Cut Off", _duration(template.get("StopWhenCutOff")), 1),
        ],
    )


def _container(container: Json) -> list[str]:
    init = container.get("Init")
    dns = container.get("DNSConfig") or {}
    return [
        "ContainerSpec:",
        *_line("Image", container["Image"], 1),
        *_line("Pull", container.get("PullPolicy"), 1),
        *_line("Entrypoint", _words(container.get("Command")), 1),
        *_line("Args", _words(container.get("Args")), 1),
        *_line("Env", _words(container.get("Env")), 1),
        *_line("Dir", container.get("Dir", ""), 1),
        *_line("Init", "" if init is None else str(init).lower(), 1),
        *_line("User", container.get("User", ""), 1),
        *_line("Groups", _words(container.get("Groups")), 1),
        *_line("Hostname", container.get("Hostname", ""), 1),
        *_line("TTY", "true" if container.get("TTY") else "", 1),
        *_line("Read Only", "true" if container.get("ReadOnly") else "", 1),
        *_pairs("Labels", container.get("Labels"), "=", 1),
        *_line("Stop Signal", container.get("StopSignal", ""), 1),
        *_line("Stop Grace Period", _duration(container.get("StopGracePeriod")), 1),
        *_line("Pre-stop", _words((container.get("PreStop") or {}).get("Command")), 1),
        *_line("DNS", _words(dns.get("Nameservers")), 1),
        *_line("DNS Options", _words(dns.get("Options")), 1),
        *_line("DNS Search", _words(dns.get("Search")), 1),
        *_line("Hosts", ", ".join(container.get("Hosts") or ()), 1),
    ]


def _capabilities(container: Json) -> list[str]:
    return _section(
        "Capabilities",
        [
            *_line("Add", ", ".join(container.get("CapabilityAdd") or ()), 1),
            *_line("Drop", ", ".join(container.get("CapabilityDrop") or ()), 1),
        ],
    )


def _ulimits(ulimits: Sequence[Json]) -> dict[str, str]:
    return {one["Name"]: f"{one['Soft']}:{one['Hard']}" for one in ulimits}


def _mounts(mounts: Sequence[Json]) -> list[str]:
    lines: list[str] = []
    for mount in mounts:
        lines += [
            *_line("Target", mount["Target"], 1),
            *_line("Source", mount.get("Source", ""), 2),
            *_line("ReadOnly", str(bool(mount.get("ReadOnly"))).lower(), 2),
            *_line("Type", mount.get("Type", "volume"), 2),
        ]
    return _section("Mounts", lines)


def _rights(container: Json) -> list[str]:
    devices = [
        f"{one['PathOnHost']}:{one.get('PathInContainer') or one['PathOnHost']}"
        f":{one.get('CgroupPermissions', 'rwm')}"
        for one in container.get("Devices") or ()
    ]
    shm_size = container.get("ShmSize")
    return _section(
        "Rights",
        [
            *_line("Privileged", "true" if container.get("Privileged") else "", 1),
            *_line("Devices", ", ".join(devices), 1),
            *_line("Security Options", _words(container.get("SecurityOpt")), 1),
            *_line("OOM Score Adj", container.get("OomScoreAdj") or "", 1),
            *_line("PID Mode", container.get("PidMode"), 1),
            *_line("IPC Mode", container.get("IpcMode"), 1),
            *_line("Shm Size", human_size(shm_size) if shm_size else "", 1),
            *_line("Cgroup Parent", container.get("CgroupParent"), 1),
        ],
    )


def _references(heading: str, kind: str, references: Sequence[Json]) -> list[str]:
    lines: list[str] = []
    for one in references:
        lines += [
            *_line("Target", (one.get("File") or {}).get("Name", ""), 1),
            *_line("Source", one[f"{kind}Name"], 2),
            *_line("Version", _data_version(one), 2),
        ]
    return _section(heading, lines)


def _data_version(reference: Json) -> str:
    number = reference.get("DataVersion") or ""
    return f"{number} (pinned)" if reference.get("Pinned") else str(number)


def _log_driver(driver: Json) -> list[str]:
    return _section(
        "Log Driver",
        [
            *_line("Name", driver.get("Name", ""), 1),
            *_pairs("LogOpts", driver.get("Options"), ": ", 1),
        ],
    )


def _resources(resources: Json) -> list[str]:
    reservations = resources.get("Reservations") or {}
    limits = resources.get("Limits") or {}
    generic = [
        f"{one['DiscreteResourceSpec']['Kind']}={one['DiscreteResourceSpec']['Value']}"
        for one in reservations.get("GenericResources") or ()
        if one.get("DiscreteResourceSpec")
    ]
    swap = resources.get("SwapBytes")
    return _section(
        "Resources",
        [
            *_section(
                " Reservations",
                [*_amounts(reservations), *_line("Generic", ", ".join(generic), 2)],
            ),
            *_section(" Limits", [*_amounts(limits), *_line("PIDs", limits.get("Pids") or "", 2)]),
            *_line("Swap", "unlimited" if swap == -1 else human_size(swap) if swap else "", 1),
            *_line("Swappiness", resources.get("MemorySwappiness"), 1),
        ],
    )


def _amounts(amounts: Json) -> list[str]:
    nano_cpus, memory_bytes = amounts.get("NanoCPUs"), amounts.get("MemoryBytes")
    return [
        *_line("CPU", f"{nano_cpus / 1e9:g}" if nano_cpus else "", 2),
        *_line("Memory", human_size(memory_bytes) if memory_bytes else "", 2),
    ]


def _networks(attachments: Sequence[Json], names: Mapping[str, str]) -> list[str]:
    return [names.get(one["Target"], one["Target"]) for one in attachments]


def _endpoint(asked: Json, endpoint: Json, names: Mapping[str, str]) -> list[str]:
    addresses = {
        names.get(one["NetworkID"], one["NetworkID"]): one["Addr"]
        for one in endpoint.get("VirtualIPs") or ()
        if one.get("Addr")
    }
    return [
        *_line("Endpoint Mode", asked.get("Mode") or "vip"),
        *_line("Session Affinity", asked.get("Affinity")),
        *_line("Publish Force", "true" if asked.get("ForcePorts") else ""),
        *_section(
            "Virtual IPs", [line for name in addresses for line in _line(name, addresses[name], 1)]
        ),
    ]


def _ports(ports: Sequence[Json]) -> list[str]:
    lines: list[str] = []
    for port in ports:
        lines += [
            f" PublishedPort = {port.get('PublishedPort', 0)}",
            f"  Protocol = {port.get('Protocol', 'tcp')}",
            f"  TargetPort = {port['TargetPort']}",
            f"  PublishMode = {port.get('PublishMode', 'ingress')}",
        ]
    return _section("Ports", lines)


def _health(health: Json) -> list[str]:
    if not health:
        return []
    return [
        "Healthcheck:",
        f" Interval = {go_duration(health.get('Interval', 0))}",
        f" Retries = {health.get('Retries', 0)}",
        f" StartPeriod = {go_duration(health.get('StartPeriod', 0))}",
        f" Timeout = {go_duration(health.get('Timeout', 0))}",
        *_section(" Tests", [f"  Test = {word}" for word in health.get("Test") or ()]),
    ]


def _probes(probes: Json) -> list[str]:
    lines: list[str] = []
    for name in ("Startup", "Readiness", "Liveness"):
        if probe := probes.get(name):
            lines += _line(name, _probe(probe), 1)
    return _section("Probes", lines)


def _probe(probe: Json) -> str:
    """As the flag would be written."""
    if http := probe.get("HTTP"):
        parts = [f"http:{http['Port']}{http.get('Path', '/')}"]
        headers = http.get("Headers") or {}
        parts += [f"header={name}:{value}" for name, value in sorted(headers.items())]
    elif tcp := probe.get("TCP"):
        parts = [f"tcp:{tcp['Port']}"]
    else:
        parts = [f"exec:{_words((probe.get('Exec') or {}).get('Command'))}"]
    for key, word in (("Period", "period"), ("Timeout", "timeout"), ("InitialDelay", "delay")):
        if probe.get(key):
            parts.append(f"{word}={go_duration(probe[key])}")
    for key, word in (("FailureThreshold", "failures"), ("SuccessThreshold", "successes")):
        if probe.get(key):
            parts.append(f"{word}={probe[key]}")
    return ",".join(parts)
