"""`essaim stack rm`: services first, then secrets and configs, then the networks that their tasks
have left, then the end of the tasks."""

import math
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import click

from essaim_cli.client import Client, client_of
from essaim_cli.converge import MASTERS_AWAY_S_MAX, get_patiently, learn_masters
from essaim_cli.errors import ApiError, BrokenOff, CommandFailed, MasterUnreachable
from essaim_cli.flag_kinds import DockerCommand
from essaim_cli.formatting import natural_key
from essaim_cli.listing import raise_failures
from essaim_cli.pace import now_s, pause
from essaim_cli.stack_names import check_stack_name, stack_filters, stack_path
from essaim_cli.wait_options import seconds, timeout_option

RETRY_PAUSE_S = 0.5
BROKEN_OFF_MAX = 8
"""Requests in a row that nobody answered."""
ENDED = frozenset({"complete", "shutdown", "failed", "rejected", "remove", "orphaned"})
"""States of tasks of which nothing runs any more."""


@click.command("rm", cls=DockerCommand)
@click.argument("names", nargs=-1, required=True, metavar="STACK...")
@click.option(
    "-d",
    "--detach",
    is_flag=True,
    help="Wait until the networks are gone, not for the end of the tasks.",
)
@timeout_option
@click.pass_context
def remove(
    context: click.Context, names: tuple[str, ...], detach: bool, timeout: int | None
) -> None:
    """Remove one or more stacks."""
    for name in names:
        check_stack_name(name)
    client = client_of(context)
    limit_s = seconds(timeout)
    deadline_s = math.inf if limit_s is None else now_s() + limit_s
    failures: list[str] = []
    left = list(names)
    try:
        for name in names:
            try:
                is_there = _remove(client, name, deadline_s)
                left.remove(name)
                if is_there and not detach:
                    _await_end(client, name, deadline_s)
            except CommandFailed as error:
                failures.append(f"failed to remove stack {name}: {error.message}")
    except KeyboardInterrupt:
        _say_interrupted(left, failures)
    raise_failures(failures)


def _say_interrupted(left: Sequence[str], failures: list[str]) -> None:
    """What is removed goes on ending by itself; networks that tasks hold on to do not go."""
    if left:
        failures.append(f"interrupted: to remove what is left: essaim stack rm {' '.join(left)}")
    else:
        click.echo("Operation continuing in background.", err=True)


def _remove(client: Client, name: str, deadline_s: float) -> bool:
    """Whether there was anything of the stack."""
    filters = stack_filters(name, {})
    services = _names(client.get("/services", filters=filters), lambda one: one["Spec"]["Name"])
    networks = _names(client.get("/networks", filters=filters), lambda one: one["Name"])
    secrets, configs = (
        _names(client.get(path, filters=filters), lambda one: one["Spec"]["Name"])
        for path in ("/secrets", "/configs")
    )
    if not (services or networks or secrets or configs):
        click.echo(f"Nothing found in stack: {name}", err=True)
        return False
    for service in services:
        click.echo(f"Removing service {service}")
    for secret in secrets:
        click.echo(f"Removing secret {secret}")
    for config in configs:
        click.echo(f"Removing config {config}")
    for network in networks:
        click.echo(f"Removing network {network}")
    learn_masters(client)
    _delete(client, name, deadline_s)
    return True


def _names(found: list[Any], name_of: Any) -> list[str]:
    return sorted((str(name_of(one)) for one in found), key=natural_key)


def _delete(client: Client, name: str, deadline_s: float) -> None:
    """Until nothing of the stack is left: the masters answer with a conflict while tasks still
    hold on to its networks, and asking again goes on. A network that others use ends it."""
    broken_off, heard_s = 0, now_s()
    while True:
        try:
            client.delete(stack_path(name))
        except MasterUnreachable as error:
            if isinstance(error, BrokenOff):
                broken_off += 1
            if broken_off >= BROKEN_OFF_MAX or _is_over(error, heard_s, deadline_s):
                raise
        except ApiError as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return
            if error.status == HTTPStatus.CONFLICT:
                broken_off, heard_s = 0, now_s()
            elif error.status != HTTPStatus.SERVICE_UNAVAILABLE:
                raise
            if _is_over(error, heard_s, deadline_s):
                raise
        else:
            return
        pause(RETRY_PAUSE_S)


def _is_over(error: CommandFailed, heard_s: float, deadline_s: float) -> bool:
    """Whether the time is up, or the masters were away for too long. A request that took long and
    broke off says nothing of that."""
    is_away = not isinstance(error, BrokenOff) and now_s() >= heard_s + MASTERS_AWAY_S_MAX
    return is_away or now_s() >= deadline_s


def _await_end(client: Client, name: str, deadline_s: float) -> None:
    """Until no task runs any more; what a node that is down does, nobody can know."""
    filters = stack_filters(name, {})
    revision = 0
    while tasks := _unended(client, filters, deadline_s):
        if now_s() >= deadline_s:
            raise CommandFailed(
                f"timed out while {len(tasks)} tasks have not ended; they go on ending"
            )
        query = {"revision": str(revision), "timeout": "1"}
        answer = get_patiently(client, "/essaim/wait", _patience_s(deadline_s), **query)
        revision = int(answer["Revision"])


def _unended(client: Client, filters: dict[str, list[str]], deadline_s: float) -> list[Any]:
    tasks = get_patiently(client, "/tasks", _patience_s(deadline_s), filters=filters)
    if not tasks:
        return []
    nodes = get_patiently(client, "/nodes", _patience_s(deadline_s))
    down = {node["ID"] for node in nodes if node["Status"]["State"] == "down"}
    return [
        task
        for task in tasks
        if task["Status"]["State"] not in ENDED and task.get("NodeID") not in down
    ]


def _patience_s(deadline_s: float) -> float:
    """With masters that are away: a time limit ends it too."""
    return min(max(deadline_s - now_s(), RETRY_PAUSE_S), MASTERS_AWAY_S_MAX)
