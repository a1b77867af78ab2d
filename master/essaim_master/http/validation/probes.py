"""Health checks and probes."""

from msgspec import UnsetType

from essaim_master.http.validation.words import (
    check_no_nul,
    check_not_negative,
    check_port,
    refusal,
)
from essaim_shared.container_spec import ExecAction, HealthConfig, HttpAction, Probe, Probes

HEALTH_DURATION_MIN_NS = 1_000_000
"""moby api/types/container.MinimumDuration."""
PROBE_PERIOD_MIN_NS = 1_000_000_000
PROBE_TIMEOUT_MIN_NS = 1_000_000


def check_health(health: HealthConfig | None) -> None:
    if health is None:
        return
    durations = {
        "Interval": health.interval,
        "Timeout": health.timeout,
        "StartPeriod": health.start_period,
        "StartInterval": health.start_interval,
    }
    for name, value in durations.items():
        if value != 0 and value < HEALTH_DURATION_MIN_NS:
            raise refusal(f"ContainerSpec: {name} in HealthConfig cannot be less than 1ms")
    check_not_negative("ContainerSpec: Retries in HealthConfig", health.retries)
    check_no_nul("ContainerSpec: Test in HealthConfig", health.test)
    kind, *arguments = health.test or ("",)
    is_complete = {
        "": not arguments,
        "NONE": not arguments,
        "CMD": bool(arguments),
        "CMD-SHELL": len(arguments) == 1,
    }
    if not is_complete.get(kind, False):
        raise refusal(
            f"ContainerSpec: invalid Test in HealthConfig {list(health.test)!r}: it is "
            '["NONE"], ["CMD", ARG, …] or ["CMD-SHELL", LINE]'
        )


def check_probes(probes: Probes | UnsetType | None) -> None:
    if not isinstance(probes, Probes):
        return
    _check_probe("Startup", probes.startup, succeeds_at_once=True)
    _check_probe("Readiness", probes.readiness)
    _check_probe("Liveness", probes.liveness, succeeds_at_once=True)


def check_pre_stop(action: ExecAction | UnsetType | None) -> None:
    if isinstance(action, ExecAction):
        _check_exec("PreStop", action)


def _check_probe(name: str, probe: Probe | None, *, succeeds_at_once: bool = False) -> None:
    if probe is None:
        return
    where = f"Probes: {name}"
    actions = [one for one in (probe.exec_, probe.http, probe.tcp) if one is not None]
    if len(actions) != 1:
        raise refusal(f"{where}: exactly one of Exec, HTTP and TCP must be given")
    if probe.exec_ is not None:
        _check_exec(f"{where}: Exec", probe.exec_)
    if probe.http is not None:
        _check_http(where, probe.http)
    if probe.tcp is not None:
        check_port(f"{where}: TCP", probe.tcp.port)
    check_not_negative(f"{where}: InitialDelay", probe.initial_delay)
    if probe.period < PROBE_PERIOD_MIN_NS:
        raise refusal(f"{where}: Period cannot be less than 1s")
    if probe.timeout < PROBE_TIMEOUT_MIN_NS:
        raise refusal(f"{where}: Timeout cannot be less than 1ms")
    if probe.failure_threshold < 1 or probe.success_threshold < 1:
        raise refusal(f"{where}: SuccessThreshold and FailureThreshold must be at least 1")
    if succeeds_at_once and probe.success_threshold != 1:
        raise refusal(f"{where}: SuccessThreshold must be 1, only Readiness counts successes")


def _check_exec(where: str, action: ExecAction) -> None:
    if not action.command or not action.command[0]:
        raise refusal(f"{where}: the command is empty")
    check_no_nul(where, action.command)


def _check_http(where: str, action: HttpAction) -> None:
    check_port(f"{where}: HTTP", action.port)
    if not action.path.startswith("/") or not _is_one_line(action.path) or " " in action.path:
        raise refusal(
            f"{where}: HTTP: the path {action.path!r} must begin with / and hold no space"
        )
    for header, value in action.headers.items():
        if not header or not header.isascii() or set(header) & set(" :\r\n\t\0"):
            raise refusal(f"{where}: HTTP: {header!r} is no name of a header")
        if not _is_one_line(value):
            raise refusal(f"{where}: HTTP: the header {header} must stay on one line")


def _is_one_line(text: str) -> bool:
    return not set(text) & set("\r\n\0")
