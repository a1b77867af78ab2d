"""Waiting for a service, with Swarm's display: drawn on a terminal, plain lines elsewhere.

Progress goes to stderr, since stdout carries data. Instead of asking every 200 ms, a master is
asked to answer when its state has changed. A master that dies meanwhile costs nothing: the others
are asked, until none has answered for a while.
"""

import math
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import click

from essaim_cli.client import Client
from essaim_cli.errors import ApiError, CommandFailed, MasterUnreachable
from essaim_cli.pace import now_s, pause
from essaim_cli.progress import MONITOR_DEFAULT_NS, Progress, measure, waiting_step

POLL_S = 0.2
"""Between two looks at most, so that a countdown moves."""
LONG_POLL_S = 1

MASTERS_AWAY_S_MAX = 30.0
"""How long a wait goes on while no master answers: several elections, or a master's restart."""
RETRY_PAUSE_S = 0.2
UNAVAILABLE = 503
"""What a master answers that knows no leader."""

Show = Callable[[str, Progress], None]


def wait_converged(client: Client, service_id: str, timeout_s: float | None, quiet: bool) -> None:
    """Return once the service runs as asked and has been stable for its monitor period, or waits
    for the next step of its update to be promoted.

    Raises CommandFailed at the time-out, with the reason of the first task that does not run, and
    when the update or its rollback was paused. Interrupted, it says that the work goes on, and
    returns.
    """
    deadline_s = math.inf if timeout_s is None else now_s() + timeout_s
    try:
        learn_masters(client)
        with _display(quiet) as show:
            Wait(client, service_id, deadline_s, show).run()
    except KeyboardInterrupt:
        click.echo(
            "Operation continuing in background.\n"
            f"Use `essaim service ps {service_id}` to check progress.",
            err=True,
        )


class Wait:
    """The wait for one service, look by look."""

    def __init__(self, client: Client, service_id: str, deadline_s: float, show: Show) -> None:
        self._client = client
        self._service_id = service_id
        self._deadline_s = deadline_s
        self._show = show
        self._stable_since_s: float | None = None
        self._rollback_said = ""
        self.rest_s: float | None = None
        """After a look that did not end the wait: how long nothing has to be looked at; None:
        until the state changes."""

    def run(self) -> None:
        revision = 0
        while not self.look():
            if self.rest_s is None:
                revision = self.await_change(revision)
            else:
                pause(self.rest_s)

    def look(self) -> bool:
        """Whether the wait is over. Raises CommandFailed where it failed."""
        service = self._get(f"/services/{self._service_id}")
        if is_scheduled(service):
            click.echo(
                f"The job runs by its schedule; see: essaim service runs {service['Spec']['Name']}",
                err=True,
            )
            return True
        progress = measure(service, self._tasks(), self._down_nodes())
        return self._is_settled(service, progress) or self._is_verified(service, progress)

    def await_change(self, revision: int) -> int:
        """Until the state's revision is higher than it was, or for a second; the new one."""
        query = {"revision": str(revision), "timeout": str(LONG_POLL_S)}
        return int(self._get("/essaim/wait", **query)["Revision"])

    def _is_settled(self, service: Any, progress: Progress) -> bool:
        """Whether the update's status ends the wait. Raises CommandFailed when it was paused."""
        status = service.get("UpdateStatus") or {}
        state, message = status.get("State", ""), status.get("Message", "")
        if step := waiting_step(service):
            self._show(step, progress)
            return True
        if state in ("paused", "rollback_paused"):
            kind = "update" if state == "paused" else "rollback"
            self._show("", progress)
            raise CommandFailed(f"service {kind} paused: {message}")
        if state == "rollback_started" and message and message != self._rollback_said:
            self._rollback_said = message
            self._show(f"rollback: {message}", progress)
        return bool(state == "completed" and not progress.is_converged)

    def _is_verified(self, service: Any, progress: Progress) -> bool:
        at_s = now_s()
        if not progress.is_converged:
            note = "" if self._stable_since_s is None else "verify: Detected task failure"
            self._stable_since_s = None
            if at_s >= self._deadline_s:
                raise _timed_out(progress, self._service_id)
            self._show(note, progress)
            self.rest_s = None
            return False
        if progress.is_job:
            self._show("job complete", progress)
            return True
        if self._stable_since_s is None:
            self._stable_since_s = at_s
        left_s = self._stable_since_s + _monitor_s(service) - at_s
        if left_s <= 0:
            self._show(f"verify: Service {self._service_id} converged", progress)
            self._say_rolled_back(service, progress)
            return True
        whole_s = math.ceil(left_s)
        self._show(
            f"verify: Waiting {whole_s} seconds to verify that tasks are stable...", progress
        )
        self.rest_s = min(POLL_S, left_s)
        return False

    def _say_rolled_back(self, service: Any, progress: Progress) -> None:
        status = service.get("UpdateStatus") or {}
        if status.get("State") == "rollback_completed" and status.get("Message"):
            self._show(f"rollback: {status['Message']}", progress)

    def _tasks(self) -> list[Any]:
        filters = {"service": [self._service_id], "_up-to-date": ["true"]}
        tasks: list[Any] = self._get("/tasks", filters=filters)
        return tasks

    def _down_nodes(self) -> frozenset[str]:
        return frozenset(
            node["ID"] for node in self._get("/nodes") if node["Status"]["State"] == "down"
        )

    def _get(self, path: str, **query: Any) -> Any:
        # A time limit also ends the patience with masters that are away.
        left_s = max(self._deadline_s - now_s(), RETRY_PAUSE_S)
        return get_patiently(self._client, path, min(left_s, MASTERS_AWAY_S_MAX), **query)


def learn_masters(client: Client) -> None:
    """The masters that a long command may turn to when its own is lost: over a network they are
    asked for in time, on one machine the lab's are known."""
    if client.url.startswith("unix://"):
        return
    members = get_patiently(client, "/essaim/cluster/members")
    client.add_masters(f"tcp://{one['HTTPAddr']}" for one in members if not one["Removed"])


def get_patiently(
    client: Client, path: str, patience_s: float = MASTERS_AWAY_S_MAX, **query: Any
) -> Any:
    """A read that outlasts the loss of a master and an election. Raises CommandFailed."""
    give_up_s = now_s() + patience_s
    while True:
        try:
            return client.get(path, **query)
        except CommandFailed as error:
            if not is_away(error) or now_s() >= give_up_s:
                raise
        pause(RETRY_PAUSE_S)


def is_away(error: CommandFailed) -> bool:
    """Whether no master answered, or none that knows a leader."""
    if isinstance(error, ApiError):
        return error.status == UNAVAILABLE
    return isinstance(error, MasterUnreachable)


def is_scheduled(service: Any) -> bool:
    return bool(service["Spec"].get("Schedule"))


def _monitor_s(service: Any) -> float:
    monitor_ns = (service["Spec"].get("UpdateConfig") or {}).get("Monitor") or MONITOR_DEFAULT_NS
    return float(monitor_ns / 1_000_000_000)


def _timed_out(progress: Progress, service_id: str) -> CommandFailed:
    reason = f": {progress.blockers[0]}" if progress.blockers else ""
    return CommandFailed(
        f"timed out with {progress.summary}{reason}. "
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

        lines = [progress.headline, progress.detail, *map(str, progress.bars)]
        if not progress.bars:
            lines.extend(progress.blockers)
        if note:
            lines.append(note)
        self._live.update(Text("\n".join(filter(None, lines))), refresh=True)
