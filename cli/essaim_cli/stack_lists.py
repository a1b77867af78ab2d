"""The commands that show stacks."""

from typing import Any

import click

from essaim_cli.client import client_of
from essaim_cli.errors import CommandFailed
from essaim_cli.formatting import natural_key
from essaim_cli.listing import (
    list_options,
    parse_filters,
    show_found_tasks,
    show_list,
    task_list_options,
)
from essaim_cli.service_view import SERVICE_COLUMNS, service_row
from essaim_cli.stack_names import check_stack_name, stack_filters

STACK_COLUMNS = {"Name": "NAME", "Services": "SERVICES"}


@click.command("ls")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), help="Same as --format.")
@click.option("--format", "template", help="table, json, or a Go template.")
@click.pass_context
def list_stacks(context: click.Context, /, **options: Any) -> None:
    """List stacks."""
    rows = [
        {
            "Name": str(item["Name"]),
            "Services": str(item["Services"]),
            "Networks": str(item.get("Networks", "")),
        }
        for item in client_of(context).get("/essaim/stacks")
    ]
    rows.sort(key=lambda row: natural_key(row["Name"]))
    show_list(rows, STACK_COLUMNS, {**options, "quiet": False})


@click.command()
@click.argument("name", metavar="STACK")
@task_list_options
@click.pass_context
def ps(context: click.Context, /, name: str, **options: Any) -> None:
    """List the tasks of a stack."""
    check_stack_name(name)
    client = client_of(context)
    filters = stack_filters(name, parse_filters(options["filters"]))
    tasks = client.get("/tasks", filters=filters)
    if not tasks:
        raise CommandFailed(f"nothing found in stack: {name}")
    show_found_tasks(client, tasks, options)


@click.command()
@click.argument("name", metavar="STACK")
@list_options
@click.pass_context
def services(context: click.Context, /, name: str, **options: Any) -> None:
    """List the services of a stack."""
    check_stack_name(name)
    filters = stack_filters(name, parse_filters(options["filters"]))
    found = client_of(context).get("/services", filters=filters, status="true")
    if not found:
        click.echo(f"Nothing found in stack: {name}", err=True)
        return
    rows = [service_row(item) for item in found]
    rows.sort(key=lambda row: natural_key(row["Name"]))
    show_list(rows, SERVICE_COLUMNS, options)
