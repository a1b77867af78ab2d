"""How long and how loudly a command waits: the flags that all commands which wait have."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from essaim_cli.flag_kinds import CREATE, Value
from essaim_cli.units import parse_duration

F = TypeVar("F", bound=Callable[..., Any])

_TIMEOUT = Value(
    name="timeout",
    parse=parse_duration,
    metavar="DURATION",
    help="Essaim: end a wait that does not succeed.",
)


def timeout_option(command: F) -> F:
    for option in _TIMEOUT.options(CREATE):
        command = option(command)
    return command


def wait_options(command: F) -> F:
    for option in (
        timeout_option,
        click.option("-q", "--quiet", is_flag=True, help="Show no progress."),
        click.option("-d", "--detach", is_flag=True, help="Do not wait until it runs."),
    ):
        command = option(command)
    return command


def seconds(timeout_ns: int | None) -> float | None:
    return None if timeout_ns is None else timeout_ns / 1_000_000_000
