"""What `service` and `node` share: options of lists, filters, tasks, several names at once."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import click

from essaim_cli.client import Client, Filters
from essaim_cli.errors import ApiError, CommandFailed, usage
from essaim_cli.formatting import Row, is_table, render_list, render_template
from essaim_cli.pace import utc_now
from essaim_cli.task_view import TASK_COLUMNS, task_rows

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

ListOptions = Mapping[str, Any]
"""What `list_options` (and `task_list_options`) hand to a command, by name."""


def list_options(command: F) -> F:
    """What every list understands."""
    for option in (
        click.option(
            "-o", "--output", type=click.Choice(["table", "json"]), help="Same as --format."
        ),
        click.option("--format", "template", help="table, json, or a Go template."),
        click.option("-q", "--quiet", is_flag=True, help="IDs only."),
        click.option("-f", "--filter", "filters", multiple=True, metavar="KEY=VALUE"),
    ):
        command = option(command)
    return command


def task_list_options(command: F) -> F:
    """What every list of tasks understands."""
    for option in (
        click.option("--no-resolve", is_flag=True, help="Show IDs instead of names."),
        click.option("--no-trunc", is_flag=True, help="Do not cut IDs and errors."),
    ):
        command = option(command)
    return list_options(command)


def parse_filters(settings: Sequence[str]) -> Filters:
    filters: Filters = {}
    for setting in settings:
        key, separator, value = setting.partition("=")
        if not separator:
            raise usage(f"invalid filter {setting!r}: write KEY=VALUE")
        filters.setdefault(key.strip(), []).append(value.strip())
    return filters


def show_list(rows: Sequence[Row], columns: Mapping[str, str], options: ListOptions) -> None:
    template = options["template"] or options["output"]
    if text := render_list(rows, columns, template, options["quiet"]):
        click.echo(text)


def show_tasks(client: Client, of: str, ids: Sequence[str], options: ListOptions) -> None:
    """The tasks of these services or nodes (`of` names the filter), as `service ps` shows them."""
    filters = parse_filters(options["filters"])
    filters[of] = list(ids)
    show_found_tasks(client, client.get("/tasks", filters=filters), options)


def show_found_tasks(client: Client, tasks: Sequence[Any], options: ListOptions) -> None:
    names: dict[str, str] = {}
    nodes: dict[str, str] = {}
    if not options["no_resolve"]:
        names = {item["ID"]: item["Spec"]["Name"] for item in client.get("/services")}
        nodes = node_names(client)
    is_whole = options["no_trunc"] or options["quiet"]
    has_marks = is_table(options["template"] or options["output"])
    rows = task_rows(tasks, names, nodes, utc_now(), is_whole, has_marks)
    show_list(rows, TASK_COLUMNS, options)


def show_objects(
    found: Sequence[Any], template: str | None, pretty: Callable[[Any], str] | None
) -> None:
    """A JSON array by default, as `docker inspect` prints."""
    if pretty is not None:
        text = "\n\n".join(pretty(item) for item in found)
    elif template and template != "json":
        text = "\n".join(render_template(template, item) for item in found)
    else:
        text = json.dumps(list(found), indent=4)
    if text:
        click.echo(text)


def node_names(client: Client) -> dict[str, str]:
    return {node["ID"]: node["Description"]["Hostname"] for node in client.get("/nodes")}


def each(names: Sequence[str], work: Callable[[str], T]) -> tuple[list[T], list[str]]:
    """Do all, and gather the refusals: one bad name does not keep the others from their turn."""
    done, failures = [], []
    for name in names:
        try:
            done.append(work(name))
        except ApiError as error:
            failures.append(error.message)
    return done, failures


def raise_failures(failures: Sequence[str]) -> None:
    if failures:
        raise CommandFailed("\n".join(failures))
