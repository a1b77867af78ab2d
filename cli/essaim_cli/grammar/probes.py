"""`--readiness http:8080/health,period=5s,failures=3`, and the same for start-up and liveness.

Pure. ACTION[,OPTION=VALUE]…, where ACTION is one of

    http:PORT[/PATH]      a GET, which must answer 200–399
    tcp:PORT              a connection, which must be accepted
    exec:COMMAND [ARG]…   a command in the container, which must exit with 0; split as a shell does

and the options are period, timeout, delay (durations), failures, successes (counts) and, for
http, header=NAME:VALUE. A command may hold commas: only options at the end are options.
"""

import re
from typing import Any

from essaim_cli.grammar.containers import parse_command
from essaim_cli.grammar.fields import port_number, whole_number
from essaim_cli.units import parse_duration

Json = dict[str, Any]

EXAMPLE = "write for example http:8080/health,period=5s,failures=3, tcp:5432 or exec:COMMAND"
THRESHOLD_MAX = 1_000_000

_DURATIONS = {"period": "Period", "timeout": "Timeout", "delay": "InitialDelay"}
_THRESHOLDS = {"failures": "FailureThreshold", "successes": "SuccessThreshold"}
_OPTION_NAMES = "|".join((*_DURATIONS, *_THRESHOLDS, "header"))
_PROBE = re.compile(rf"(?P<action>.*?)(?P<options>(?:,(?:{_OPTION_NAMES})=[^,]*)*)", re.DOTALL)


def parse_probe(text: str) -> Json:
    match = _PROBE.fullmatch(text)
    assert match is not None, "every text is an action with no options"
    probe = _action(match["action"])
    for option in filter(None, match["options"].split(",")):
        name, _, value = option.partition("=")
        if name in _DURATIONS:
            probe[_DURATIONS[name]] = parse_duration(value)
        elif name in _THRESHOLDS:
            probe[_THRESHOLDS[name]] = whole_number(value, 1, THRESHOLD_MAX)
        else:
            _add_header(probe, value)
    return probe


def _action(text: str) -> Json:
    kind, separator, rest = text.partition(":")
    if kind == "http" and separator:
        port, _, path = rest.partition("/")
        return {"HTTP": {"Port": _port(port), "Path": f"/{path}"}}
    if kind == "tcp" and separator:
        return {"TCP": {"Port": _port(rest)}}
    if kind == "exec" and separator:
        return {"Exec": parse_command(rest)}
    raise ValueError(f"invalid probe {text!r}: {EXAMPLE}")


def _port(text: str) -> int:
    if "," in text:
        raise ValueError(
            f"unknown option {text.partition(',')[2]!r}: use period, timeout, delay, failures, "
            "successes, and header of http"
        )
    return port_number(text, "port")


def _add_header(probe: Json, value: str) -> None:
    name, separator, content = value.partition(":")
    if "HTTP" not in probe or not separator or not name:
        raise ValueError(f"invalid header {value!r}: write header=NAME:VALUE, with http only")
    probe["HTTP"].setdefault("Headers", {})[name.strip()] = content.strip()
