"""Waiting for several services at once: each has its monitor period at the same time as the others.

A service that fails does not end the wait for the others.
"""

import math
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext

import click

from essaim_cli.client import Client
from essaim_cli.converge import Show, Wait, is_away, learn_masters
from essaim_cli.errors import CommandFailed
from essaim_cli.pace import now_s, pause
from essaim_cli.progress import Progress

ShowOf = Callable[[str, str, Progress], None]
"""The name of the service, then as `converge.Show`."""


def wait_all_converged(
    client: Client, stack: str, names: Mapping[str, str], timeout_s: float | None, quiet: bool
) -> list[str]:
    """Return once each of the stack's services (id → name) runs as asked, or has failed to; what
    failed.

    Interrupted, it says that the work goes on, and returns.
    """
    deadline_s = math.inf if timeout_s is None else now_s() + timeout_s
    failures: list[str] = []
    try:
        learn_masters(client)
        with _display(quiet) as show:
            waits = {
                service_id: Wait(client, service_id, deadline_s, _shown_as(name, show))
                for service_id, name in names.items()
            }
            _wait_for(waits, names, failures)
    except CommandFailed as error:
        # Masters that are away are so for all services: each would wait as long again.
        failures.append(error.message)
    except KeyboardInterrupt:
        click.echo(
            "Operation continuing in background.\n"
            f"Use `essaim stack services {stack}` to check progress.",
            err=True,
        )
    return failures


def _wait_for(waits: dict[str, Wait], names: Mapping[str, str], failures: list[str]) -> None:
    """Raises CommandFailed when the masters were away for too long."""
    revision = 0
    while waits:
        for service_id, wait in list(waits.items()):
            try:
                is_over = wait.look()
            except CommandFailed as error:
                if is_away(error):
                    raise
                failures.append(f"{names[service_id]}: {error.message}")
                is_over = True
            if is_over:
                del waits[service_id]
        rests = [wait.rest_s for wait in waits.values() if wait.rest_s is not None]
        if rests:
            pause(min(rests))
        elif waits:
            revision = next(iter(waits.values())).await_change(revision)


def _shown_as(name: str, show: ShowOf) -> Show:
    return lambda note, progress: show(name, note, progress)


def _display(quiet: bool) -> AbstractContextManager[ShowOf]:
    if quiet:
        return nullcontext(lambda name, note, progress: None)
    if sys.stderr.isatty():
        return _TerminalDisplay()
    return nullcontext(_PlainDisplay().show)


def _told(note: str, progress: Progress) -> str:
    return note or "; ".join(progress.blockers)


class _PlainDisplay:
    """A line for each change of a service, for logs and pipes."""

    def __init__(self) -> None:
        self._headlines: dict[str, str] = {}
        self._notes: dict[str, str] = {}

    def show(self, name: str, note: str, progress: Progress) -> None:
        if progress.headline != self._headlines.get(name):
            self._headlines[name] = progress.headline
            click.echo(f"{name}: {progress.headline}", err=True)
        text = _told(note, progress)
        # The countdown's seconds are for a terminal: here its first line is enough.
        kind = text.split(" seconds")[0].rstrip("0123456789")
        if kind and kind != self._notes.get(name):
            self._notes[name] = kind
            click.echo(f"{name}: {text}", err=True)


class _TerminalDisplay(AbstractContextManager[ShowOf]):
    """A line for each service, drawn over itself."""

    def __enter__(self) -> ShowOf:
        from rich.console import Console
        from rich.live import Live

        self._lines: dict[str, str] = {}
        self._live = Live(console=Console(stderr=True, highlight=False), auto_refresh=False)
        self._live.start()
        return self._show

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def _show(self, name: str, note: str, progress: Progress) -> None:
        from rich.text import Text

        parts = (f"{name}: {progress.headline}", _told(note, progress))
        self._lines[name] = "; ".join(filter(None, parts))
        self._live.update(Text("\n".join(self._lines.values())), refresh=True)
