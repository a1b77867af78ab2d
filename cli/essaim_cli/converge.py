"""Waiting for a service, with Swarm's display: drawn on a terminal, plain lines elsewhere.

Progress goes to stderr, since stdout carries data. Instead of asking every 200 ms, a master is
asked to answer when its state has changed.
"""

import math
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import click

from essaim_cli.client import Client
from essaim_cli.errors import CommandFailed
from essaim_cli.pace import now_s, pause
from essaim_cli.progress import MONITOR_DEFAULT_NS, Progress, measure

POLL_S = 0.2
"""Between two looks at most, so that a countdown moves."""
LONG_POLL_S = 1

Show = Callable[[str, Progress], None]


def wait_converged(client: Client, service_id: str, timeout_s: float | None, quiet: bool) -> None:
    """Return once the service runs as asked and has been stable for its monitor period.

    Raises CommandFailed at the time-out, with the reason of the first task that does not run.
    Interrupted, it says that the work goes on, and returns.
    """
    started_s = now_s()
    deadline_s = math.inf if timeout_s is None else started_s + timeout_s
    with _display(quiet) as show:
        try:
            _follow(client, service_id, deadline_s, show)
        except KeyboardInterrupt:
            click.echo(
                "Operation continuing in background.\n"
                f"Use `essaim service ps {service_id}` to check progress.",
                err=True,
            )


def _follow(client: Client, service_id: str, deadline_s: float, show: Show) -> None:
    revision = 0
    stable_since_s: float | None = None
    while True:
        service = client.get(f"/services/{service_id}")
        progress = measure(service, _tasks(client, service_id), _down_nodes(client))
        at_s = now_s()
        if not progress.is_converged:
            note = "" if stable_since_s is None else "verify: Detected task failure"
            stable_since_s = None
            if at_s >= deadline_s:
                raise _timed_out(progress, service_id)
            show(note, progress)
            revision = _changed(client, revision)
            continue
        if stable_since_s is None:
            stable_since_s = at_s
        left_s = stable_since_s + _monitor_s(service) - at_s
        if left_s <= 0:
            show(f"verify: Service {service_id} converged", progress)
            return
        whole_s = math.ceil(left_s)
        show(f"verify: Waiting {whole_s} seconds to verify that tasks are stable...", progress)
        pause(min(POLL_S, left_s))


def _tasks(client: Client, service_id: str) -> list[Any]:
    filters = {"service": [service_id], "_up-to-date": ["true"]}
    tasks: list[Any] = client.get("/tasks", filters=filters)
    return tasks


def _down_nodes(client: Client) -> frozenset[str]:
    return frozenset(
        node["ID"] for node in client.get("/nodes") if node["Status"]["State"] == "down"
    )


def _changed(client: Client, revision: int) -> int:
    """The state's revision once it is higher than `revision`, or after a second."""
    answer = client.get("/essaim/wait", revision=str(revision), timeout=str(LONG_POLL_S))
    return int(answer["Revision"])


def _monitor_s(service: Any) -> float:
    monitor_ns = (service["Spec"].get("UpdateConfig") or {}).get("Monitor", MONITOR_DEFAULT_NS)
    return float(monitor_ns / 1_000_000_000)


def _timed_out(progress: Progress, service_id: str) -> CommandFailed:
    reason = f": {progress.blockers[0]}" if progress.blockers else ""
    return CommandFailed(
        f"timed out with {progress.running} out of {progress.wanted} tasks running{reason}. "
        f"The service stays as asked; see: essaim service ps {service_id}"
    )


def _display(quiet: bool) -> AbstractContextManager[Show]:
    if quiet:
        return nullcontext(lambda note, progress: None)
    if sys.stderr.isatty():
        return _TerminalDisplay()
    return nullcontext(_PlainDisplay().show)


class _PlainDisplay:
    """A line for each change, for logs and pipes."""

    def __init__(self) -> None:
        self._headline = ""
        self._note = ""

    def show(self, note: str, progress: Progress) -> None:
        if progress.headline != self._headline:
            self._headline = progress.headline
            click.echo(progress.headline, err=True)
        text = "; ".join(progress.blockers) if not note and progress.blockers else note
        # The countdown's seconds are for a terminal: here its first line is enough.
        if text and text.split(" seconds")[0].rstrip("0123456789") != self._note:
            self._note = text.split(" seconds")[0].rstrip("0123456789")
            click.echo(text, err=True)


class _TerminalDisplay(AbstractContextManager[Show]):
    """The headline, a bar for each slot and a note, drawn over themselves."""

    def __enter__(self) -> Show:
        from rich.console import Console
        from rich.live import Live

        self._live = Live(console=Console(stderr=True, highlight=False), auto_refresh=False)
        self._live.start()
        return self._show

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def _show(self, note: str, progress: Progress) -> None:
        from rich.text import Text

        lines = [progress.headline, *map(str, progress.bars)]
        if not progress.bars:
            lines.extend(progress.blockers)
        if note:
            lines.append(note)
        self._live.update(Text("\n".join(lines)), refresh=True)
