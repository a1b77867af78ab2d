"""Flags of a task's life: its log, health, restarts, updates and schedule."""

from essaim_cli.flag_kinds import Flag, Switch, Value
from essaim_cli.grammar import placement
from essaim_cli.grammar.fields import count, key_value
from essaim_cli.grammar.probes import parse_probe
from essaim_cli.service_flags.paths import CONTAINER, COUNT, DURATION, HEALTH, RESTART, TEMPLATE
from essaim_cli.units import parse_duration

PROBE = "http:PORT[/PATH]|tcp:PORT|exec:COMMAND"


def _ratio(text: str) -> float:
    try:
        ratio = float(text)
    except ValueError:
        ratio = -1.0
    if not 0 <= ratio <= 1:
        raise ValueError("write a share from 0 to 1, for example 0.2")
    return ratio


LOGGING: tuple[Flag, ...] = (
    Value(name="log-driver", metavar="DRIVER", help="Logging driver (default: the engine's)."),
    Value(
        name="log-opt",
        parse=key_value,
        metavar="KEY=VALUE",
        help="Option of the logging driver.",
        is_repeated=True,
    ),
)

HEALTH_CHECKS: tuple[Flag, ...] = (
    Value(name="health-cmd", metavar="LINE", help="Shell command that checks health."),
    Value(
        name="health-interval",
        parse=parse_duration,
        path=f"{HEALTH}.Interval",
        metavar=DURATION,
        help="Between checks.",
    ),
    Value(
        name="health-timeout",
        parse=parse_duration,
        path=f"{HEALTH}.Timeout",
        metavar=DURATION,
        help="Of one check.",
    ),
    Value(
        name="health-retries",
        parse=count,
        path=f"{HEALTH}.Retries",
        metavar=COUNT,
        help="Failures in a row that make a task unhealthy.",
    ),
    Value(
        name="health-start-period",
        parse=parse_duration,
        path=f"{HEALTH}.StartPeriod",
        metavar=DURATION,
        help="In which failures do not count.",
    ),
    Value(
        name="health-start-interval",
        parse=parse_duration,
        path=f"{HEALTH}.StartInterval",
        metavar=DURATION,
        help="Between checks in the start period.",
    ),
    Switch(name="no-healthcheck", help="Disable the image's health check."),
    *(
        Value(
            name=name,
            parse=parse_probe,
            path=f"{CONTAINER}.Probes.{field}",
            metavar=PROBE,
            help=f"Essaim: {words} Options: ,period= ,timeout= ,delay= ,failures= ,successes=",
            can_clear=True,
        )
        for name, field, words in (
            ("startup", "Startup", "until it succeeds, the task is starting."),
            ("readiness", "Readiness", "while it fails, the task gets no traffic."),
            ("liveness", "Liveness", "when it fails, the task is replaced."),
        )
    ),
)

RESTARTS: tuple[Flag, ...] = (
    Value(
        name="restart-condition",
        path=f"{RESTART}.Condition",
        choices=("none", "on-failure", "any"),
        help="When an ended task is replaced (default any).",
    ),
    Value(
        name="restart-delay",
        parse=parse_duration,
        path=f"{RESTART}.Delay",
        metavar=DURATION,
        help="Before a replacement (default 5s).",
    ),
    Value(
        name="restart-max-attempts",
        parse=count,
        path=f"{RESTART}.MaxAttempts",
        metavar=COUNT,
        help="Replacements before giving up (default: no limit).",
    ),
    Value(
        name="restart-window",
        parse=parse_duration,
        path=f"{RESTART}.Window",
        metavar=DURATION,
        help="In which attempts count (default: all of them).",
    ),
    Value(
        name="restart-backoff-max",
        parse=parse_duration,
        path=f"{RESTART}.BackoffMax",
        metavar=DURATION,
        help="Essaim: where the doubling delay ends (default 5m).",
        can_clear=True,
    ),
    Value(
        name="stop-when-cut-off",
        parse=parse_duration,
        path=f"{TEMPLATE}.StopWhenCutOff",
        metavar=DURATION,
        help="Essaim: stop after so long without a master.",
        can_clear=True,
    ),
    Value(
        name="pull",
        path=f"{CONTAINER}.PullPolicy",
        choices=("missing", "always", "never"),
        help="Essaim: when nodes ask the registry (default missing).",
        can_clear=True,
    ),
)


def _update_flags(prefix: str, path: str, actions: tuple[str, ...]) -> tuple[Flag, ...]:
    return (
        Value(
            name=f"{prefix}-parallelism",
            parse=count,
            path=f"{path}.Parallelism",
            metavar=COUNT,
            help="Tasks changed at the same time (default 1; 0: all).",
        ),
        Value(
            name=f"{prefix}-delay",
            parse=parse_duration,
            path=f"{path}.Delay",
            metavar=DURATION,
            help="Between two batches (default 0s).",
        ),
        Value(
            name=f"{prefix}-monitor",
            parse=parse_duration,
            path=f"{path}.Monitor",
            metavar=DURATION,
            help="In which a failure counts (default 5s).",
        ),
        Value(
            name=f"{prefix}-failure-action",
            path=f"{path}.FailureAction",
            choices=actions,
            help="What a failure does (default pause).",
        ),
        Value(
            name=f"{prefix}-max-failure-ratio",
            parse=_ratio,
            path=f"{path}.MaxFailureRatio",
            metavar="0…1",
            help="Share of failures to tolerate (default 0).",
        ),
        Value(
            name=f"{prefix}-order",
            path=f"{path}.Order",
            choices=("stop-first", "start-first"),
            help="Default stop-first.",
        ),
        Value(
            name=f"{prefix}-deadline",
            parse=parse_duration,
            path=f"{path}.ProgressDeadline",
            metavar=DURATION,
            help="Essaim: without progress for so long it has failed (default 10m; 0: never).",
            can_clear=True,
        ),
    )


UPDATES: tuple[Flag, ...] = (
    *_update_flags("update", "UpdateConfig", ("pause", "continue", "rollback")),
    Value(
        name="update-steps",
        parse=placement.parse_steps,
        path="UpdateConfig.Steps",
        metavar="10%,50%,100%",
        help="Essaim: pause after each step until it is promoted.",
        can_clear=True,
    ),
    *_update_flags("rollback", "RollbackConfig", ("pause", "continue")),
)

SCHEDULES: tuple[Flag, ...] = (
    Value(
        name="schedule",
        metavar='"*/5 * * * *"',
        help="Essaim: run a replicated job at these times.",
        can_clear=True,
    ),
    Value(
        name="time-zone",
        path="Schedule.TimeZone",
        metavar="NAME",
        help="Essaim: of the schedule (default UTC).",
    ),
    Value(
        name="schedule-concurrency",
        path="Schedule.Concurrency",
        choices=("allow", "forbid", "replace"),
        help="Essaim: when a run is due during another (default allow).",
    ),
    Value(
        name="schedule-missed",
        path="Schedule.Missed",
        choices=("skip", "run-once"),
        help="Essaim: what becomes of missed times (default skip).",
    ),
    Value(
        name="schedule-history",
        parse=count,
        path="Schedule.History",
        metavar=COUNT,
        help="Essaim: finished runs that are kept (default 5).",
    ),
    Switch(name="schedule-suspend", path="Schedule.Suspended", help="Essaim: start no more runs."),
)
