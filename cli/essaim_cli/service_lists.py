"""The commands that show services, and the one that removes them."""

from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import click

from essaim_cli.client import Client, client_of
from essaim_cli.errors import ApiError, usage
from essaim_cli.formatting import natural_key
from essaim_cli.listing import (
    each,
    list_options,
    parse_filters,
    raise_failures,
    show_list,
    show_objects,
    show_tasks,
    task_list_options,
)
from essaim_cli.pace import utc_now
from essaim_cli.service_networks import network_names
from essaim_cli.service_pretty import pretty_service
from essaim_cli.service_view import (
    HISTORY_COLUMNS,
    RUN_COLUMNS,
    SERVICE_COLUMNS,
    history_row,
    run_row,
    service_row,
)


@click.command("ls")
@list_options
@click.pass_context
def list_services(context: click.Context, /, **options: Any) -> None:
    """List services."""
    filters = parse_filters(options["filters"])
    found = client_of(context).get("/services", filters=filters, status="true")
    rows = [service_row(item) for item in found]
    rows.sort(key=lambda row: natural_key(row["Name"]))
    show_list(rows, SERVICE_COLUMNS, options)


@click.command()
@click.argument("services", nargs=-1, required=True, metavar="SERVICE...")
@task_list_options
@click.pass_context
def ps(context: click.Context, /, services: tuple[str, ...], **options: Any) -> None:
    """List the tasks of one or more services."""
    client = client_of(context)
    found, failures = each(services, lambda name: _service(client, name))
    if found:
        show_tasks(client, "service", [item["ID"] for item in found], options)
    raise_failures(failures)


@click.command()
@click.argument("services", nargs=-1, required=True, metavar="SERVICE...")
@click.option("--pretty", is_flag=True, help="For people.")
@click.option("-f", "--format", "template", help="A Go template over each object.")
@click.pass_context
def inspect(
    context: click.Context, services: tuple[str, ...], pretty: bool, template: str | None
) -> None:
    """Show services in full."""
    client = client_of(context)
    if pretty and template:
        raise usage("--format is incompatible with human friendly format")
    found, failures = each(services, lambda name: _service(client, name))
    if pretty:
        now, names = utc_now(), network_names(client, found)
        show_objects(found, None, lambda item: pretty_service(item, now, names))
    else:
        show_objects(found, template, None)
    raise_failures(failures)


@click.command()
@click.argument("name", metavar="SERVICE")
@list_options
@click.pass_context
def history(context: click.Context, /, name: str, **options: Any) -> None:
    """List the revisions of a service that are kept, the newest first."""
    _refuse_filters(options)
    found = client_of(context).get(f"/essaim/services/{quote(name, safe='')}/history")
    now = utc_now()
    show_list(
        [history_row(revision, now) for revision in reversed(found)], HISTORY_COLUMNS, options
    )


@click.command()
@click.argument("name", metavar="SERVICE")
@list_options
@click.pass_context
def runs(context: click.Context, /, name: str, **options: Any) -> None:
    """List the runs of a job with a schedule, the newest first."""
    _refuse_filters(options)
    found = client_of(context).get(f"/essaim/services/{quote(name, safe='')}/runs")
    now = utc_now()
    show_list([run_row(run, now) for run in reversed(found)], RUN_COLUMNS, options)


@click.command("rm")
@click.argument("services", nargs=-1, required=True, metavar="SERVICE...")
@click.pass_context
def remove(context: click.Context, services: tuple[str, ...]) -> None:
    """Remove one or more services."""
    client = client_of(context)

    def remove_one(name: str) -> None:
        client.delete(f"/services/{name}")
        click.echo(name)

    _, failures = each(services, remove_one)
    raise_failures(failures)


def _service(client: Client, name: str) -> Any:
    """Raises ApiError, in docker's words where it is the client that finds nothing."""
    try:
        return client.get(f"/services/{name}")
    except ApiError as error:
        if error.status != HTTPStatus.NOT_FOUND:
            raise
        raise ApiError(error.status, f"no such service: {name}") from error


def _refuse_filters(options: dict[str, Any]) -> None:
    if options["filters"]:
        raise usage("this list has no filters: leave --filter out")
