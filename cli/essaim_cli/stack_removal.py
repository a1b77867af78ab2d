"""`essaim stack rm`: services first, then the networks that their tasks have left, then the end of
the tasks."""

import math
from http import HTTPStatus
from typing import Any

import click

from essaim_cli.client import Client, client_of
from essaim_cli.converge import get_patiently, learn_masters
from essaim_cli.errors import ApiError, BrokenOff, CommandFailed
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
@click.option("-d", "--detach", is_flag=True, help="Do not wait for the end of the tasks.")
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
    failures = []
    try:
        learn_masters(client)
        for name in names:
            try:
                _remove(client, name, deadline_s, detach)
            except CommandFailed as error:
                failures.append(f"failed to remove stack {name}: {error.message}")
    except KeyboardInterrupt:
        click.echo("Operation continuing in background.", err=True)
    raise_failures(failures)


def _remove(client: Client, name: str, deadline_s: float, detach: bool) -> None:
    filters = stack_filters(name, {})
    services = _names(client.get("/services", filters=filters), lambda one: one["Spec"]["Name"])
    networks = _names(client.get("/networks", filters=filters), lambda one: one["Name"])
    if not services and not networks:
        click.echo(f"Nothing found in stack: {name}", err=True)
        return
    for service in services:
        click.echo(f"Removing service {service}")
    for network in networks:
        click.echo(f"Removing network {network}")
    _delete(client, name, deadline_s)
    if not detach:
        _await_end(client, name, deadline_s)


def _names(found: list[Any], name_of: Any) -> list[str]:
    return sorted((str(name_of(one)) for one in found), key=natural_key)


def _delete(client: Client, name: str, deadline_s: float) -> None:
    """Until nothing of the stack is left: the masters answer with a conflict while tasks still
    hold on to its networks, and asking again goes on."""
    broken_off = 0
    while True:
        try:
            client.delete(stack_path(name))
        except BrokenOff:
            broken_off += 1
            if broken_off >= BROKEN_OFF_MAX or now_s() >= deadline_s:
                raise
        except ApiError as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return
            if error.status != HTTPStatus.CONFLICT or now_s() >= deadline_s:
                raise
            broken_off = 0
        else:
            return
        pause(RETRY_PAUSE_S)


def _await_end(client: Client, name: str, deadline_s: float) -> None:
    """Until no task runs any more; what a node that is down does, nobody can know."""
    filters = stack_filters(name, {})
    revision = 0
    while tasks := _unended(client, filters):
        if now_s() >= deadline_s:
            raise CommandFailed(
                f"timed out while {len(tasks)} tasks have not ended; they go on ending"
            )
        answer = get_patiently(client, "/essaim/wait", revision=str(revision), timeout="1")
        revision = int(answer["Revision"])


def _unended(client: Client, filters: dict[str, list[str]]) -> list[Any]:
    tasks = get_patiently(client, "/tasks", filters=filters)
    if not tasks:
        return []
    nodes = get_patiently(client, "/nodes")
    down = {node["ID"] for node in nodes if node["Status"]["State"] == "down"}
    return [
        task
        for task in tasks
        if task["Status"]["State"] not in ENDED and task.get("NodeID") not in down
    ]
